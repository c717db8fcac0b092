"""Where a token stands: what turning, biasing and adding do, compared with the published formulas."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from attnlab.attention.embedding import LearnedEmbedding, NoEmbedding, SinusoidalEmbedding
from attnlab.attention.position import NoPE
from attnlab.attention.position_bias import ALiBi, alibi_slopes
from attnlab.attention.rotary import RoPE
from attnlab.errors import UsageError

WIDTH = 6
SAME = {"rtol": 1e-14, "atol": 1e-14}  # the same sum in float64; the last of a vector's lanes may round otherwise


def rope(**options: Any) -> RoPE:
    return RoPE(**{"head_dim": WIDTH, "n_heads": 2, "context": 5, **options})


def heads(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 3, n, WIDTH, dtype=dtype, generator=torch.Generator().manual_seed(0))


def turned(x: Tensor, place: int, base: float = 10000.0) -> list[float]:
    """One vector turned as RoFormer's equation 34 says, in plain numbers."""
    out = []
    for i in range(len(x) // 2):
        angle = place * base ** (-2 * i / len(x))
        a, b = float(x[2 * i]), float(x[2 * i + 1])
        out += [a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)]
    return out


# None


def test_no_position_changes_nothing() -> None:
    position, x = NoPE(head_dim=WIDTH, n_heads=2, context=5), heads(4)
    assert position.rotate(x, 3) is x
    assert position.bias(torch.arange(4), torch.arange(4)) is None
    assert position.hooks == frozenset()
    y = torch.rand(1, 9, 4)
    assert NoEmbedding(d_model=4, context=5)(y, 3) is y and NoEmbedding(d_model=4, context=5).limit is None


# RoPE


@pytest.mark.parametrize("base", [10000.0, 7.5])
def test_rope(base: float) -> None:
    """RoPE is the published rotation of neighbouring pairs."""
    x = heads(4)
    y = rope(base=base).rotate(x, 2)
    for place in range(4):
        expected = torch.tensor(turned(x[1, 2, place], 2 + place, base), dtype=torch.float64)
        torch.testing.assert_close(y[1, 2, place], expected, rtol=1e-12, atol=1e-12)


def test_scores_are_relative() -> None:
    """Scores see only how far apart two tokens stand."""
    position, q, k = rope(), heads(1), heads(2)[:, :, 1:]

    def score(q_place: int, k_place: int) -> Tensor:
        return (position.rotate(q, q_place) * position.rotate(k, k_place)).sum(dim=-1)

    for distance in (0, 1, 7):
        for start in (1, 13, 400):
            # Angles of up to 400 radians are known to 1e-13.
            torch.testing.assert_close(score(start + distance, start), score(distance, 0), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(score(3, 0), score(4, 0))
    assert not torch.allclose(score(3, 0), score(0, 3))


def test_rotation_keeps_lengths() -> None:
    """Turning keeps lengths and position 0 stays."""
    x = heads(9)
    y = rope().rotate(x)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1), rtol=1e-12, atol=0)
    assert torch.equal(y[:, :, 0], x[:, :, 0])
    assert not torch.isclose(y[:, :, 1:], x[:, :, 1:]).all(dim=-1).any()


@pytest.mark.parametrize("start", [0, 1, 4, 9])
def test_a_start_continues_what_was_turned_before(start: int) -> None:
    x = heads(10)
    torch.testing.assert_close(rope().rotate(x[:, :, start:], start), rope().rotate(x)[:, :, start:], **SAME)


def test_table_grows() -> None:
    """The table grows when a longer text comes and serves shorter one's after."""
    position, x = rope(context=5), heads(40)
    short = position.rotate(x[:, :, :3])
    long = position.rotate(x)
    torch.testing.assert_close(long[:, :, :3], short, **SAME)
    torch.testing.assert_close(position.rotate(x[:, :, :3]), short, **SAME)
    torch.testing.assert_close(position.rotate(x[:, :, 30:], 30), long[:, :, 30:], **SAME)


@pytest.mark.parametrize("place", [1_000, 100_003])
def test_far_positions_are_as_exact_as_near_ones(place: int) -> None:
    x = heads(1, torch.float32)
    expected = torch.tensor(turned(x[0, 0, 0], place))
    # An angle computed in float32 would be off by 100,003 * 6e-8 = 0.006 here.
    torch.testing.assert_close(rope().rotate(x, place)[0, 0, 0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("start", [0, 4])
def test_product_for_compilers(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The product that a compiler sees is the same."""
    x = heads(7)
    y = rope().rotate(x, start)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rope().rotate(x, start), y, **SAME)
    assert rope().rotate(x.bfloat16(), start).dtype == torch.float32


@pytest.mark.parametrize(("width", "first"), [(5, 0), (6, 1), (5, 1)])
def test_odd_strides(width: int, first: int) -> None:
    """A part of an odd width or from an odd place on is rotated alike."""
    rope, whole = RoPE(head_dim=4, n_heads=1, context=9), torch.randn(2, 3, 7, width, dtype=torch.float64)
    part = whole[..., first : first + 4]
    assert torch.equal(rope.rotate(part, 2), rope.rotate(part.contiguous(), 2))


def test_half_precision_rotates_in_float32() -> None:
    """Half precision is turned and left in float32."""
    x = heads(7, torch.bfloat16)
    y = rope().rotate(x)
    assert y.dtype == torch.float32 and torch.equal(y, rope().rotate(x.float()))
    assert rope().rotate(heads(7)).dtype == torch.float64


def test_precisions_do_not_share_a_table() -> None:
    position, x = rope(), heads(7)
    position.rotate(x.float())
    assert torch.equal(position.rotate(x), rope().rotate(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_dim": 7}, "position=rope rotates pairs, so the width of a head (7) must be even"),
        ({"base": 0.0}, "base (0.0) must be a number above 0"),
        ({"base": -3.0}, "base (-3.0) must be a number above 0"),
    ],
)
def test_a_rotation_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        rope(**options)
    assert str(error.value) == message


# ALiBi


@pytest.mark.parametrize(
    ("n_heads", "exponents"),  # slope = 2 ** -exponent
    [
        (1, [8]),
        (2, [4, 8]),
        (4, [2, 4, 6, 8]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (16, [0.5 * i for i in range(1, 17)]),
        # Counts that are no power of two, as the authors' code gives them (ofirpress/attention_with_linear_biases).
        (3, [4, 8, 2]),
        (6, [2, 4, 6, 8, 1, 3]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
    ],
)
def test_alibi_slopes_are_the_published_ones(n_heads: int, exponents: list[float]) -> None:
    assert alibi_slopes(n_heads) == pytest.approx([2**-e for e in exponents], rel=1e-12)


@pytest.mark.parametrize("n_heads", range(1, 40))
def test_every_head_has_a_slope_of_its_own(n_heads: int) -> None:
    slopes = alibi_slopes(n_heads)
    assert len(set(slopes)) == n_heads and all(0 < slope < 1 for slope in slopes)


def test_alibi_takes_slope_times_distance() -> None:
    q_pos, k_pos = torch.tensor([3, 70_001]), torch.tensor([0, 2, 3])
    bias = ALiBi(head_dim=WIDTH, n_heads=2, context=5).bias(q_pos, k_pos)
    expected = [[[-(2**-e) * (q - k) for k in k_pos.tolist()] for q in q_pos.tolist()] for e in (4, 8)]
    assert bias is not None and torch.equal(bias, torch.tensor(expected))


# Learned


def test_learned_positions_add_one_row_each() -> None:
    embed, x = LearnedEmbedding(d_model=4, context=7), torch.rand(2, 3, 4)
    assert embed.limit == 7
    torch.testing.assert_close(embed(x, 4) - x, embed.table.weight[4:7].expand(2, 3, 4))
    assert torch.equal(embed(torch.zeros(1, 7, 4))[0], embed.table.weight)


def test_learned_offset() -> None:
    """The first position has the row after those that are not used, and the last of the context still has one."""
    embed = LearnedEmbedding(d_model=4, context=7, offset=2)
    assert embed.table.weight.shape == (9, 4) and embed.limit == 7
    assert torch.equal(embed(torch.zeros(1, 7, 4))[0], embed.table.weight[2:])
    assert torch.equal(embed(torch.zeros(1, 2, 4), 5)[0], embed.table.weight[7:])


@pytest.mark.parametrize(("n", "start", "end"), [(8, 0, 8), (1, 7, 8), (3, 6, 9)])
def test_learned_positions_end_at_the_context(n: int, start: int, end: int) -> None:
    with pytest.raises(UsageError) as error:
        LearnedEmbedding(d_model=4, context=7)(torch.rand(1, n, 4), start)
    assert str(error.value) == (
        f"position=learned knows 7 positions (model.context), not {end}; use position=rope for longer texts"
    )


def test_learned_positions_beyond_the_context() -> None:
    """With zero nothing is added there, however the row is cut; with interpolate it is stretched over the table."""
    x, last = torch.zeros(1, 9, 4), 5
    embed = LearnedEmbedding(d_model=4, context=last, offset=1, extend="zero")
    table, added = embed.table.weight[1:], embed(x)[0]
    assert embed.limit is None and torch.equal(added[:last], table) and not added[last:].any()
    assert torch.equal(torch.cat([embed(x[:, :6]), embed(x[:, :3], 6)], dim=1)[0], added)
    embed = LearnedEmbedding(d_model=4, context=last, extend="interpolate")
    table, added = embed.table.weight, embed(x)[0]
    assert torch.equal(added[::2], table) and torch.equal(embed(x[:, :last])[0], table)
    torch.testing.assert_close(added[1::2], (table[1:] + table[:-1]) / 2)
    with pytest.raises(UsageError, match=r"position\.embed\.extend=interpolate stretches whole rows over 5 positions"):
        embed(x[:, :1], 8)


# Sinusoidal


@pytest.mark.parametrize("start", [0, 3, 50_000])
def test_sinusoidal_positions(start: int) -> None:
    """Sinusoidal positions are the published waves."""
    embed, x = SinusoidalEmbedding(d_model=6, context=4), torch.rand(1, 5, 6, dtype=torch.float64)
    added = embed(x, start) - x
    for n in range(5):
        for i in range(3):
            angle = (start + n) / 10000 ** (2 * i / 6)
            assert float(added[0, n, 2 * i]) == pytest.approx(math.sin(angle), abs=1e-9)
            assert float(added[0, n, 2 * i + 1]) == pytest.approx(math.cos(angle), abs=1e-9)


def test_sinusoidal() -> None:
    """Sinusoidal positions keep the type and know no last place."""
    embed = SinusoidalEmbedding(d_model=6, context=4)
    assert embed.limit is None and not list(embed.parameters())
    for dtype in (torch.bfloat16, torch.float32):
        assert embed(torch.zeros(1, 9, 6, dtype=dtype)).dtype == dtype
    whole = embed(torch.zeros(1, 9, 6))
    assert torch.equal(embed(torch.zeros(1, 4, 6), 5), whole[:, 5:])


def test_sinusoidal_positions_need_pairs() -> None:
    with pytest.raises(UsageError) as error:
        SinusoidalEmbedding(d_model=5, context=4)
    assert str(error.value) == "position=sinusoidal pairs coordinates, so model.d_model (5) must be even"
