"""What `cost` counts, against formulas written by hand. 2 FLOPs per multiply-add, forward only, batch of one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from tests.laws.cases import shipped

from attnlab.attention.base import Attention
from attnlab.attention.cost import Cost, tensor_bytes
from attnlab.attention.feature_map import UnitLength
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.write import DeltaWrite
from attnlab.laws.costs import bytes_held
from attnlab.laws.subject import D_MODEL as C

H, D, FP32 = 4, 6, 4  # heads, width of a head, bytes of a number
WINDOW, CHUNK, WIDTH = 32, 64, 4  # as in the YAMLs: the window, tokens in a chunk, taps of the short convolution
LENGTHS = (1, 5, 31, 32, 33, 64, 65, 131)


class ByHand(NamedTuple):
    """A cost as a formula of the sequence length."""

    params: int
    forward: Callable[[int], int]
    decode: Callable[[int], int]
    state: Callable[[int], int]
    pairs: Callable[[int], int | None]


def triangle(t: int) -> int:
    return t * (t + 1) // 2


def no_pairs(t: int) -> None:
    return None


def attention(*, projections: int, width: int = H * D, kept: int, pairs: Callable[[int], int] = triangle) -> ByHand:
    """Softmax attention: the projections on each token, and two products of t x t x width (scores, weighted sum).

    All t x t pairs are counted whatever the mask hides, as the kernel computes them. `kept`: numbers kept per token.
    """
    return ByHand(
        params=projections,
        forward=lambda t: 2 * projections * t + 4 * t * t * width,
        decode=lambda t: 2 * projections + 4 * (t + 1) * width,
        state=lambda t: kept * t * FP32,
        pairs=pairs,
    )


def windowed(t: int) -> int:
    return sum(min(i + 1, WINDOW) for i in range(t))


def banded(t: int) -> int:
    """Pairs computed: all, or from four windows on, in blocks of 32 queries, 32 + 31 keys for each."""
    return t * t if t <= 4 * WINDOW else -(-t // 32) * 32 * 63


def chunks(t: int) -> tuple[int, int]:
    """How many chunks a text makes, and how long each is; the last one is filled up."""
    size = min(CHUNK, t)
    return -(-t // size), size


def linear_forward(t: int) -> int:
    """Per chunk of n and head: q k^T and its product with v, then reading and writing the d x w memory."""
    (m, n), w = chunks(t), D + 1  # the sum of weights is one more value
    return 2 * 4 * C * C * t + H * m * (2 * n * n * D + 2 * n * n * w + 4 * n * D * w)


CONV = 3 * C * WIDTH
GATED = 5 * C * C + 2 * C * H  # q, k, v, gate and output; write strength and decay


def gated_delta_forward(t: int) -> int:
    """As linear, and per chunk: k k^T, the inverse of a triangle of n x n, times the values, and what is erased."""
    m, n = chunks(t)
    chunk = 2 * n * n * D + 2 * n * n * D + 4 * n * D * D
    erase = 2 * n * n * D + n**3 + 2 * n * n * D + 2 * n * D * D
    once = 2 * D * D + 2 * D * D  # a single token: the loop erases and reads
    return 2 * (GATED + CONV) * t + H * (m * (chunk + erase) if t > 1 else once)


EVEN = 4 * C * C
BY_HAND: dict[str, ByHand] = {
    "simple": attention(projections=0, width=C, kept=2 * C),
    "self": attention(projections=3 * C * C, width=C, kept=2 * C),
    "causal": attention(projections=3 * C * C, width=C, kept=2 * C),
    "stacked_heads": attention(projections=3 * C * C, kept=2 * C),
    "multi_head": attention(projections=EVEN, kept=2 * H * D),
    "gqa": attention(projections=2 * C * C + 2 * C * 2 * D, kept=2 * 2 * D),
    "mqa": attention(projections=2 * C * C + 2 * C * D, kept=2 * D),
    "sliding_window": ByHand(
        params=EVEN,
        forward=lambda t: 2 * EVEN * t + 4 * banded(t) * C,
        decode=lambda t: 2 * EVEN + 4 * (WINDOW + 1) * C,  # the ring and the token itself
        state=lambda t: 2 * C * WINDOW * FP32,
        pairs=windowed,
    ),
    "linear": ByHand(
        params=EVEN,
        forward=lambda t: linear_forward(t) if t > 1 else 2 * EVEN + H * 2 * D * (D + 1),
        decode=lambda t: 2 * EVEN + H * 2 * D * (D + 1),  # reading; the outer product that writes is element-wise
        state=lambda t: H * D * (D + 2) * FP32,  # values, their sum, and a log-scale for each row
        pairs=no_pairs,
    ),
    "gated_delta": ByHand(
        # the convolution; per head a decay rate and its bias; one gain of the output norm for all heads
        params=GATED + CONV + 2 * H + D,
        forward=gated_delta_forward,
        decode=lambda t: 2 * GATED + 2 * CONV + H * 4 * D * D,
        state=lambda t: (H * D * D + (WIDTH - 1) * 3 * C) * FP32,
        pairs=no_pairs,
    ),
}


@pytest.mark.parametrize("t", LENGTHS)
@pytest.mark.parametrize("name", BY_HAND)
def test_what_is_counted_is_what_the_formula_says(name: str, t: int) -> None:
    expected = BY_HAND[name]
    assert shipped(name).layer(0).cost(t) == Cost(
        params=expected.params,
        forward_flops=expected.forward(t),
        decode_flops=expected.decode(t),
        state_bytes=expected.state(t),
        pairs=expected.pairs(t),
    )


@pytest.mark.parametrize("t", [5, 131])
def test_cost_of_mixed_layers(t: int) -> None:
    """Layers that differ cost what their kinds cost."""
    model = shipped("hybrid").gpt(4)
    local, whole = (shipped(name).layer(0).cost(t) for name in ("sliding_window", "multi_head"))
    assert model.cost(t) == local + local + local + whole
    assert model.cost(t).pairs == 3 * windowed(t) + triangle(t)


@pytest.mark.parametrize(
    ("overrides", "params"),
    [
        (["attention.qkv_bias=true"], EVEN + 3 * C),
        (["attention.out_bias=true"], EVEN + C),
        (["attention.head_dim=10"], 4 * C * H * 10),
        (["attention/gate=headwise"], EVEN + C * H),
        (["attention/gate=elementwise"], EVEN + C * H * D),
        (["attention/gate=swish"], EVEN + C * H * D),
        (["attention/score=[qk_norm]"], EVEN + 2 * D),
        (["attention/normalizer=sink"], EVEN + H),
        (["attention.conv=3"], EVEN + 3 * C * 3),
    ],
)
def test_an_option_adds_the_parameters_it_says(overrides: list[str], params: int) -> None:
    assert shipped("multi_head", *overrides).layer(0).cost(5).params == params


def test_frozen_parameters() -> None:
    """What is frozen is not counted as trainable."""
    layer = shipped("multi_head").layer(0)
    layer.get_parameter("to_out.weight").requires_grad_(False)
    assert layer.cost(5).params == 3 * C * C


@pytest.mark.parametrize("name", ["multi_head", "gqa", "gated_delta"])
def test_measuring_changes_nothing(name: str) -> None:
    """Measuring changes nothing and needs no numbers."""
    layer = shipped(name).layer(0)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    cost = layer.train().cost(7)
    assert layer.training and all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    assert layer.to("meta").cost(7) == cost


@pytest.mark.parametrize(("dtype", "bytes_each"), [(torch.float64, 8), (torch.float32, 4), (torch.bfloat16, 2)])
def test_bytes_of_state(dtype: torch.dtype, bytes_each: int) -> None:
    """A cache costs what its type costs and a memory float32 at least."""
    assert shipped("multi_head").layer(0).to(dtype).cost(5).state_bytes == 5 * 2 * C * bytes_each
    assert shipped("linear").layer(0).to(dtype).cost(5).state_bytes == H * D * (D + 2) * max(4, bytes_each)


def test_triangular_solve_is_counted() -> None:
    """torch's own counter says 0: an n x n triangle against m columns takes n^2 m / 2 multiply-adds."""
    adds, erases = (
        RecurrentAttention(C, n_heads=H, feature_map=UnitLength, **options).cost(CHUNK).forward_flops
        for options in ({}, {"write": DeltaWrite})
    )
    n = CHUNK
    to_beta, overlap, solve, erased = 2 * C * H * n, 2 * n * n * D, n**3 + 2 * n * n * D, 2 * n * D * D
    assert erases - adds == to_beta + H * (overlap + solve + erased)


@pytest.mark.parametrize("name", ["multi_head", "sliding_window", "linear", "gated_delta"])
def test_bytes_by_shape_and_storage(name: str) -> None:
    """Bytes are counted alike by shape and by storage."""
    layer: Attention = shipped(name).layer(0)
    _, state = layer.step(torch.zeros(1, 7, C), layer.init_state(1, 7))
    assert tensor_bytes(state) == bytes_held(state) == layer.cost(7).state_bytes


def test_bytes_of_a_view() -> None:
    """A view of something large counts as all it keeps alive."""
    large = torch.zeros(100, 3)
    assert bytes_held((large[:1], large[1:2], 5)) == 100 * 3 * FP32


def test_pairs() -> None:
    """Pairs are what the map of a head can show."""
    for name in ("multi_head", "sliding_window", "stacked_heads"):
        layer: Any = shipped(name).layer(0).double().eval()
        a = layer.weights(0.1 * torch.randn(1, 41, C, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        assert int((a[0, 0] != 0).sum()) == layer.pairs(41)
