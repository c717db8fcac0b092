"""The GPT around the attention: shapes, refusals, initial values, maps and decoding."""

import itertools
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple, get_args

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from tests.laws.cases import sampled
from torch import Tensor, nn

from attnlab.attention.base import Attention, AttentionFactory, Shared
from attnlab.attention.cost import Cost
from attnlab.attention.decay import FixedDecay, ScalarDecay
from attnlab.attention.embedding import Embedding, LearnedEmbedding, NoEmbedding, SinusoidalEmbedding
from attnlab.attention.feature_map import EluPlusOne, UnitLength
from attnlab.attention.gate import Elementwise, Headwise, Swish
from attnlab.attention.head_wrapper import HeadWrapper, layered
from attnlab.attention.heads import Heads
from attnlab.attention.mask import Window
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.norm import LayerNorm, RMSNorm
from attnlab.attention.normalizer import Sink
from attnlab.attention.output_norm import RMSOutputNorm, SumNorm
from attnlab.attention.position_bias import ALiBi
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.rotary import RoPE
from attnlab.attention.score import QKNorm
from attnlab.attention.self_attention import SelfAttention
from attnlab.attention.simple import SimpleAttention
from attnlab.attention.write import DeltaWrite
from attnlab.errors import UsageError
from attnlab.model import GPT, MLP, generator_for, relu_squared
from attnlab.options.model_config import GATED, MLPKind, ModelConfig

VOCAB, CONTEXT, LAYERS, WIDTH = 13, 11, 3, 12

multi_head = partial(MultiHeadAttention, n_heads=2)
delta = partial(
    RecurrentAttention,
    n_heads=2,
    conv=3,
    feature_map=UnitLength,
    decay=ScalarDecay,
    write=DeltaWrite,
    output_norm=RMSOutputNorm,
    gate=Swish,
)
ATTENTIONS: dict[str, AttentionFactory] = {
    "simple": SimpleAttention,
    "self": SelfAttention,
    "multi_head": partial(multi_head, position=RoPE),
    "gqa": partial(MultiHeadAttention, n_heads=6, n_kv_heads=2, conv=2, gate=Headwise, position=ALiBi),
    "window": partial(multi_head, mask=partial(Window, window=4), normalizer=Sink, score={"qk_norm": QKNorm}),
    "linear": partial(RecurrentAttention, n_heads=3, feature_map=EluPlusOne, decay=FixedDecay, output_norm=SumNorm),
    "delta": delta,
    "stacked": partial(HeadWrapper, n_heads=2, pattern="head", kinds={"head": SelfAttention}),
    "hybrid": partial(layered, pattern="a a b", kinds={"a": delta, "b": partial(multi_head, position=RoPE)}),
}
EMBEDS = {"nothing": NoEmbedding, "learned": LearnedEmbedding, "sinusoidal": SinusoidalEmbedding}


def gpt(
    attention: AttentionFactory = multi_head,
    vocab_size: int = VOCAB,
    embed: Callable[..., Embedding] = NoEmbedding,
    seed: int = 0,
    **sizes: Any,
) -> GPT:
    config = ModelConfig(**{"context": CONTEXT, "n_layers": LAYERS, "d_model": WIDTH, **sizes})
    return GPT(config, vocab_size=vocab_size, attention=attention, embed=embed, seed=seed)


def perturbed(model: GPT) -> GPT:
    """In float64, no parameter at a special value such as zero or one, so that nothing hides."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.double().parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=draw, dtype=p.dtype))
    return model


def token_ids(batch: int = 2, n: int = CONTEXT) -> Tensor:
    return torch.randint(VOCAB, (batch, n), generator=torch.Generator().manual_seed(2))


# Shapes


@pytest.mark.parametrize("attention", ATTENTIONS.values(), ids=ATTENTIONS)
@pytest.mark.parametrize("embed", EMBEDS.values(), ids=EMBEDS)
def test_there_is_one_row_of_logits_for_every_token(attention: AttentionFactory, embed: type[Embedding]) -> None:
    model = gpt(attention, embed=embed)
    assert model(token_ids(2, 7)).shape == (2, 7, VOCAB)
    assert model(token_ids(1, 1)).shape == (1, 1, VOCAB)
    assert [block.attention.layer for block in model.layers] == [0, 1, 2]
    assert all(block.attention.n_layers == LAYERS for block in model.layers)


def test_factories() -> None:
    """The factories are told what they need and called once per layer."""
    calls: list[tuple[int, dict[str, int]]] = []

    def attention(d_model: int, **told: int) -> Attention:
        calls.append((d_model, told))
        return multi_head(d_model, **told)

    gpt(attention)
    assert calls == [(WIDTH, {"layer": i, "n_layers": LAYERS, "context": CONTEXT}) for i in range(LAYERS)]


def test_no_logit_depends_on_a_later_token() -> None:
    model, x = perturbed(gpt(ATTENTIONS["hybrid"], embed=LearnedEmbedding)), token_ids()
    y = x.clone()
    y[:, 6:] = (y[:, 6:] + 1) % VOCAB
    before, after = model(x), model(y)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.isclose(before[:, 6:], after[:, 6:]).all(dim=-1).any()


# Refusals


@pytest.mark.parametrize("name", ["vocab_size", "context", "n_layers", "d_model"])
@pytest.mark.parametrize("size", [0, -3])
def test_a_model_without_size_is_refused(name: str, size: int) -> None:
    most = ", at most 10000" if name == "n_layers" else ""  # beyond, building it would never end
    with pytest.raises(UsageError, match=rf"^{name} \({size}\) must be an integer of at least 1{most}$"):
        gpt(**{name: size})


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5, float("nan")])
def test_dropout_refused(dropout: float) -> None:
    """Dropout that drops everything or less than nothing is refused."""
    with pytest.raises(UsageError, match=rf"^dropout \({dropout}\) must be a number of at least 0, below 1$"):
        gpt(dropout=dropout)


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan")])
def test_an_mlp_without_width_is_refused(ratio: float) -> None:
    with pytest.raises(UsageError, match=rf"^mlp_ratio \({ratio}\) must be a number above 0$"):
        gpt(mlp_ratio=ratio)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("norm", "batch", ["rms", "layer"]),
        ("mlp", "tanh", [*get_args(MLPKind), "none"]),
        ("init", "xavier", ["gpt2", "fan_in", "torch"]),
    ],
)
def test_unknown_kind(key: str, value: str, allowed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown kind is refused with those there are."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # else annotations catch it before the model
    with pytest.raises(UsageError) as error:
        gpt(**{key: value})
    assert str(error.value) == f"{key} ({value}) must be {' | '.join(allowed)}"


@pytest.mark.parametrize(
    "attention",
    [
        partial(SimpleAttention, causal=False),
        partial(SelfAttention, causal=False),
        partial(
            HeadWrapper, n_heads=2, pattern="a b", kinds={"a": SelfAttention, "b": partial(SelfAttention, causal=False)}
        ),
    ],
)
def test_a_layer_that_reads_later_tokens_is_refused(attention: AttentionFactory) -> None:
    with pytest.raises(
        UsageError, match=r"^attention of layer 0 \(\w+\) reads later tokens, .*; set attention\.causal=true$"
    ):
        gpt(attention)


def test_not_causal() -> None:
    """A later layer that reads later tokens is refused by its number."""
    kinds = {"fine": SelfAttention, "leaks": partial(SelfAttention, causal=False)}
    with pytest.raises(UsageError, match=r"^attention of layer 2 \(SelfAttention\) reads later tokens"):
        gpt(partial(layered, pattern="fine fine leaks", kinds=kinds))


def test_a_layer_of_another_width_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^attention of layer 0 gives width 8, not model\.d_model \(12\)$"):
        gpt(partial(multi_head, d_out=8))


def test_reading_what_nobody_published_is_refused() -> None:
    shared = Shared()
    shared.publish(Times(2))
    assert shared.read(Times) == Times(2) and shared.get(OwnValues) is None
    with pytest.raises(UsageError) as error:
        shared.read(OwnValues)
    assert str(error.value) == "a layer reads OwnValues, which no earlier layer published (published: Times)"


def test_shared_copy() -> None:
    """What is published to a copy, or to a part of it, stays there."""
    shared = Shared()
    shared.publish(Times(1))
    shared.part(0).publish(Times(2))
    copy = shared.copy()
    assert copy.read(Times).n == 1 and copy.part(0).read(Times).n == 2
    copy.publish(Times(3))
    copy.part(0).publish(Times(4))
    assert shared.read(Times).n == 1 and shared.part(0).read(Times).n == 2 and shared.part(1).get(Times) is None


# Initial values


@pytest.mark.parametrize("attention", ATTENTIONS.values(), ids=ATTENTIONS)
def test_same_seed(attention: AttentionFactory) -> None:
    """The same seed gives the same bits whatever was drawn before."""
    first = gpt(attention, embed=LearnedEmbedding, seed=5).state_dict()
    torch.rand(17)
    second = gpt(attention, embed=LearnedEmbedding, seed=5).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed() -> None:
    """Another seed gives other numbers in every random tensor."""
    first, second = gpt(delta, seed=0, tie=False), gpt(delta, seed=1, tie=False)
    drawn = {name for name, p in first.named_parameters() if p.unique().numel() > p.size(0)}
    assert len(drawn) == 2 + LAYERS * 10  # embedding, head; q, k, v, conv, decay, beta, gate, out, up, down
    others = dict(second.named_parameters())
    assert all(not (first.get_parameter(name) == others[name]).any() for name in drawn)


def test_no_two_tensors_of_a_model_start_alike() -> None:
    matrices = [p for p in gpt(tie=False).parameters() if p.dim() == 2]
    for a, b in itertools.combinations(matrices, 2):
        assert a.shape != b.shape or not torch.equal(a, b)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(ATTENTIONS, 2)))
def test_shared_tensors_start_equal(one: str, other: str) -> None:
    """A tensor that two variants share starts equal."""
    first, second = (dict(gpt(ATTENTIONS[name]).named_parameters()) for name in (one, other))
    shared = [name for name in first.keys() & second.keys() if first[name].shape == second[name].shape]
    assert {"embedding.weight", "blocks.2.mlp.up.weight", "blocks.2.mlp.down.weight"} <= set(shared)
    assert all(torch.equal(first[name], second[name]) for name in shared)


def test_shared_start_values() -> None:
    """Variants with projections share more than the MLP."""
    first, second = (dict(gpt(ATTENTIONS[name]).named_parameters()) for name in ("multi_head", "delta"))
    for name in ("qkv.to_q", "qkv.to_k", "qkv.to_v", "to_out"):
        name = f"blocks.1.attention.{name}.weight"
        assert torch.equal(first[name], second[name])


@pytest.mark.parametrize(
    ("extra", "added"),
    [
        ({"attention": partial(multi_head, gate=Elementwise)}, {"attention.gate.to_gate.weight"}),
        ({"attention": partial(multi_head, conv=3)}, {"attention.qkv.conv.weight"}),
        ({"attention": partial(multi_head, normalizer=Sink)}, {"attention.normalizer.logit"}),
        ({"attention": partial(multi_head, out_bias=True)}, {"attention.to_out.bias"}),
        ({"embed": LearnedEmbedding}, {"embed.table.weight"}),
        ({"tie": False}, {"head.weight"}),
        ({"mlp": "swiglu", "mlp_ratio": 6.0}, {"mlp.gate.weight"}),
    ],
)
def test_adding_a_parameter_changes_no_other(extra: dict[str, Any], added: set[str]) -> None:
    before, after = dict(gpt(seed=3).named_parameters()), dict(gpt(seed=3, **extra).named_parameters())
    new = after.keys() - before.keys()
    assert {name.split(".", 2)[-1] if name.startswith("blocks") else name for name in new} == added
    assert before.keys() <= after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_initial_values_are_spread_as_documented() -> None:
    wide = {"vocab_size": 500, "d_model": 256, "n_layers": 2, "tie": False, "embed": LearnedEmbedding, "context": 100}
    residual = (2 * 2) ** -0.5  # what writes into the residual stream, in two layers
    for kind, std_256, std_1024 in (("gpt2", 0.02, 0.02), ("fan_in", 256**-0.5, 1024**-0.5)):
        expected = {
            "embedding": 0.02,
            "embed.table": 0.02,
            "head": 0.02,
            "blocks.1.attention.qkv.to_q": std_256,
            "blocks.1.attention.qkv.to_v": std_256,
            "blocks.1.attention.gate.to_gate": std_256,
            "blocks.1.attention.to_out": std_256 * residual,
            "blocks.1.mlp.up": std_256,
            "blocks.1.mlp.down": std_1024 * residual,
        }
        model = gpt(partial(multi_head, gate=Elementwise), init=kind, **wide)
        for name, std in expected.items():
            weight = model.get_parameter(f"{name}.weight").detach()
            # The spread of a sample of n normal numbers is off by 1 / sqrt(2 n); four of these are never seen.
            assert float(weight.std()) == pytest.approx(std, rel=4 / (2 * weight.numel()) ** 0.5), name
            assert abs(float(weight.mean())) < 4 * std / weight.numel() ** 0.5, name


def test_start_of_torch() -> None:
    """As torch.nn draws them: matrices and biases uniform by their inputs, embeddings of unit spread."""
    model = gpt(partial(multi_head, qkv_bias=True), init="torch", vocab_size=500, d_model=256, bias=True, tie=False)
    for name, inputs in (("attention.qkv.to_q", 256), ("attention.to_out", 256), ("mlp.up", 256), ("mlp.down", 1024)):
        module = model.get_submodule(f"blocks.1.{name}")
        assert isinstance(module, nn.Linear)
        for tensor in (module.weight, module.bias):
            if tensor is not None:
                assert tensor.abs().max() <= inputs**-0.5
                # The spread of a uniform sample is off by less than that of a normal one.
                assert float(tensor.detach().std()) == pytest.approx(
                    (3 * inputs) ** -0.5, rel=4 / (2 * tensor.numel()) ** 0.5
                )
    assert float(model.embedding.weight.detach().std()) == pytest.approx(1.0, rel=4 / (2 * 500 * 256) ** 0.5)
    assert float(model.head.weight.detach().std()) == pytest.approx((3 * 256) ** -0.5, rel=4 / (2 * 500 * 256) ** 0.5)


def test_start_values() -> None:
    """Biases start at zero convolutions in their bounds and the rest where its module put it."""
    attention = partial(multi_head, qkv_bias=True, out_bias=True, conv=4, normalizer=Sink, score={"qk_norm": QKNorm})
    model = gpt(attention, bias=True, norm="rms")
    linears = [m for m in model.modules() if isinstance(m, nn.Linear) and m.bias is not None]
    assert len(linears) == LAYERS * 6 and all(not m.bias.any() for m in linears)
    conv = model.get_parameter("blocks.0.attention.qkv.conv.weight")
    assert conv.abs().max() <= 0.5 and conv.min() < -0.4 and conv.max() > 0.4  # 1 / sqrt(4)
    norms = [m for m in model.modules() if isinstance(m, nn.RMSNorm)]
    assert len(norms) == LAYERS * 4 + 1 and all((m.weight == 1).all() for m in norms)
    assert not model.get_parameter("blocks.0.attention.normalizer.logit").any()
    decay = gpt(delta).get_submodule("blocks.0.attention.decay")
    fresh = ScalarDecay(d_model=WIDTH, n_heads=2, head_dim=WIDTH // 2)
    assert isinstance(decay, ScalarDecay)
    assert torch.equal(decay.log_rate, fresh.log_rate) and torch.equal(decay.bias, fresh.bias)


def test_a_stream_belongs_to_a_seed_and_a_name() -> None:
    def draw(seed: int, name: str) -> Tensor:
        return torch.rand(4, generator=generator_for(seed, name))

    assert torch.equal(draw(0, "a"), draw(0, "a"))
    assert not torch.equal(draw(0, "a"), draw(0, "b"))
    assert not torch.equal(draw(0, "a"), draw(1, "a"))
    assert not torch.equal(draw(1, "1/a"), draw(11, "/a"))


# Parts


def test_a_tied_head_is_the_embedding_and_stays_it() -> None:
    tied, untied = gpt(tie=True), gpt(tie=False)
    assert tied.head.weight is tied.embedding.weight
    count = [sum(p.numel() for p in model.parameters()) for model in (tied, untied)]
    assert count[1] - count[0] == VOCAB * WIDTH
    other = gpt(tie=True, seed=1)
    other.load_state_dict(tied.state_dict())
    assert other.head.weight is other.embedding.weight
    assert torch.equal(other.embedding.weight, tied.embedding.weight)
    tied(token_ids()).sum().backward()
    assert tied.embedding.weight.grad is not None


@pytest.mark.parametrize("kind", GATED)
@pytest.mark.parametrize(("d_model", "ratio", "width"), [(12, 4.0, 32), (7, 4.0, 19), (128, 4.0, 341), (1, 0.1, 1)])
def test_a_gated_mlp_is_narrower_by_a_third(kind: MLPKind, d_model: int, ratio: float, width: int) -> None:
    mlp = gpt(n_layers=1, d_model=2 * d_model, mlp=kind, mlp_ratio=ratio / 2).layers[0].mlp
    assert mlp is not None and mlp.gate is not None
    shapes = [tuple(p.weight.shape) for p in (mlp.up, mlp.gate, mlp.down)]
    assert shapes == [(width, 2 * d_model)] * 2 + [(2 * d_model, width)]


def test_mlp_parameters() -> None:
    """Every MLP has as many parameters where the third comes out even."""
    mlps = [gpt(n_layers=1, mlp=kind).layers[0].mlp for kind in get_args(MLPKind)]
    matrices = [[p for p in mlp.parameters() if p.dim() == 2] for mlp in mlps if mlp is not None]
    assert {sum(p.numel() for p in each) for each in matrices} == {2 * 12 * 48}
    assert len(matrices) == 10


def test_mlp_width() -> None:
    """The width that is set is the width there is, gated or not."""
    for kind in ("relu", "geglu"):
        mlp = gpt(n_layers=1, mlp=kind, mlp_width=5).layers[0].mlp
        assert mlp is not None and mlp.up.out_features == mlp.down.in_features == 5


def plain_gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def plain_tanh_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": plain_gelu,
    "gelu_tanh": plain_tanh_gelu,
    "relu": lambda x: x.clamp(min=0),
    "relu2": lambda x: x.clamp(min=0) ** 2,
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "xielu": lambda x: torch.where(x > 0, 0.8 * x**2, 0.8 * (x.exp() - 1 - x)) + 0.5 * x,
    "swiglu": lambda x: x / (1 + torch.exp(-x)),
    "geglu": plain_gelu,
    "geglu_tanh": plain_tanh_gelu,
    "reglu": lambda x: x.clamp(min=0),
}


@pytest.mark.parametrize("kind", get_args(MLPKind))
def test_an_mlp_computes_what_its_name_says(kind: MLPKind) -> None:
    mlp = MLP(6, kind=kind, width=18, bias=True).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    up = x @ mlp.up.weight.T + mlp.up.bias
    if kind in GATED:
        assert mlp.gate is not None
        inner = FORMULAS[kind](x @ mlp.gate.weight.T + mlp.gate.bias) * up
    else:
        inner = FORMULAS[kind](up)
    close = 1e-6 if kind == "xielu" else 1e-12  # whose alphas start in float32, and whose bend is at its eps
    torch.testing.assert_close(mlp(x), inner @ mlp.down.weight.T + mlp.down.bias, rtol=close, atol=close)


def test_norms_do_what_their_names_say() -> None:
    x = 3 + 5 * torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rms, layer = RMSNorm(9).double()(x), LayerNorm(9).double()(x)
    # LayerNorm adds 1e-5 to a variance of about 25.
    torch.testing.assert_close(rms, x / x.square().mean(dim=-1, keepdim=True).sqrt(), rtol=1e-6, atol=0)
    centred = x - x.mean(dim=-1, keepdim=True)
    torch.testing.assert_close(layer, centred / centred.square().mean(dim=-1, keepdim=True).sqrt(), rtol=1e-5, atol=0)
    for norm, kind in (("rms", nn.RMSNorm), ("layer", nn.LayerNorm)):
        model = gpt(norm=norm, bias=False)
        assert sum(isinstance(m, kind) for m in model.modules()) == 2 * LAYERS + 1
        assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]


def test_a_block_is_the_residual_formula() -> None:
    model = perturbed(gpt(n_layers=1, mlp="gelu"))
    block, x = model.layers[0], model.embedding(token_ids())
    y = x + block.attention(F.layer_norm(x, (WIDTH,), block.norm_attention.weight))
    y = y + block.mlp(F.layer_norm(y, (WIDTH,), block.norm_mlp.weight))
    logits = F.layer_norm(y, (WIDTH,), model.norm.weight) @ model.embedding.weight.T
    torch.testing.assert_close(model(token_ids()), logits, rtol=1e-12, atol=1e-12)


def test_dropout() -> None:
    """Dropout acts in training only and follows the stream."""
    model, x = gpt(dropout=0.5), token_ids()
    torch.manual_seed(0)
    first = model(x)
    assert not torch.equal(first, model(x))
    torch.manual_seed(0)
    assert torch.equal(first, model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


# Maps


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_maps(name: str) -> None:
    """Every layer gives its map its kind and the lengths of its values."""
    model, x = gpt(ATTENTIONS[name]), token_ids(2, 7)
    maps = model.attention_maps(x)
    assert len(maps) == LAYERS
    for made, block in zip(maps, model.layers, strict=True):
        assert made.kind == block.attention.traits.map_kind
        assert made.weights is not None and made.value_norm is not None
        assert made.weights.shape[0] == 2 and made.weights.shape[2:] == (7, 7)
        assert made.value_norm.shape == (*made.weights.shape[:2], 7)
        assert not made.weights.triu(1).any() and not made.weights.requires_grad


def test_maps_change_nothing() -> None:
    """Looking at maps leaves mode and numbers alone."""
    model, x = gpt(partial(multi_head, dropout=0.5), dropout=0.5), token_ids()
    model.train()
    model.blocks[1].eval()  # a mode that no single flag could put back
    modes = [m.training for m in model.modules()]
    stream, numbers = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    maps = model.attention_maps(x)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(v, numbers[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    for a, b in zip(maps, model.eval().attention_maps(x), strict=True):
        assert a.weights is not None and b.weights is not None
        assert torch.equal(a.weights, b.weights)
        torch.testing.assert_close(a.weights.sum(dim=-1), torch.ones(2, 2, CONTEXT))  # no weight was dropped


def test_the_mode_comes_back_even_if_a_map_fails() -> None:
    model = gpt(embed=LearnedEmbedding)
    with pytest.raises(UsageError, match="knows 11 positions"):
        model.attention_maps(token_ids(1, CONTEXT + 1))
    assert all(m.training for m in model.modules())


class OwnValues(NamedTuple):
    """A record of a variant's own."""

    v: Tensor


class Times(NamedTuple):
    """How often the first layer published its values."""

    n: int


class SharedValues(MultiHeadAttention):
    """The first layer publishes its values, and how often it did; every later one adds them to its own."""

    def share(self, heads: Heads, shared: Shared) -> Heads:
        if self.layer == 0:
            shared.publish(OwnValues(heads.v))
            shared.publish(Times(1 + (shared.get(Times) or Times(0)).n))
            return heads
        assert shared.read(Times).n == 1
        return heads._replace(v=heads.v + shared.read(OwnValues).v)


def test_layers_share() -> None:
    """Layers share through the record in forward maps and decoding."""
    model, x = perturbed(gpt(partial(SharedValues, n_heads=2))).eval(), token_ids()
    assert not torch.allclose(model(x), perturbed(gpt()).eval()(x))
    shown = model.attention_maps(x)
    first = model.layers[0]
    hidden = first.norm_attention(model.embedding(x))
    assert shown[0].weights is not None
    torch.testing.assert_close(shown[0].weights, first.attention.weights(hidden))
    torch.testing.assert_close(stepped(model, x, [4, 1, 6]), model(x), rtol=1e-10, atol=1e-10)


def test_a_reader_without_a_publisher_is_refused() -> None:
    alone = SharedValues(WIDTH, n_heads=2, layer=1, n_layers=2)
    alone_reads = partial(alone.share, alone.project(torch.rand(1, 2, WIDTH)))
    with pytest.raises(
        UsageError, match=r"a layer reads Times, which no earlier layer published \(published: nothing\)"
    ):
        alone_reads(Shared())


# Decoding


def stepped(model: GPT, ids: Tensor, cuts: list[int]) -> Tensor:
    state, out = model.init_state(ids.size(0), ids.size(1)), []
    for part in ids.split(cuts, dim=1):
        logits, state = model.step(part, state)
        out.append(logits)
    assert state.length == ids.size(1)
    return torch.cat(out, dim=1)


@pytest.mark.parametrize(("attention", "embed"), sampled(product(ATTENTIONS, EMBEDS), 4, [("hybrid", "learned")]))
def test_steps_give_forward(attention: str, embed: str) -> None:
    """Cutting a text into steps changes no logit."""
    model, x = perturbed(gpt(ATTENTIONS[attention], embed=EMBEDS[embed])).eval(), token_ids()
    expected = model(x)
    for cuts in ([CONTEXT], [1] * CONTEXT, [3, 1, 5, 2]):
        # float64 sums in another order.
        torch.testing.assert_close(stepped(model, x, cuts), expected, rtol=1e-9, atol=1e-9)


def test_a_text_longer_than_the_state_is_refused() -> None:
    model = gpt()
    _, state = model.step(token_ids(1, 4), model.init_state(1, 5))
    with pytest.raises(UsageError, match=r"^the decode state has room for max_len=5 tokens, not 6$"):
        model.step(token_ids(1, 2), state)


# Cost


def test_cost_is_that_of_layers() -> None:
    """The cost of a model is that of its layers."""
    model = gpt(ATTENTIONS["hybrid"])
    parts = [block.attention.cost(9) for block in model.layers]
    assert model.cost(9) == parts[0] + parts[1] + parts[2]
    assert [part.pairs for part in parts] == [None, None, 45]
    assert model.cost(9).pairs == 45
    assert model.cost(9).params == sum(p.numel() for block in model.layers for p in block.attention.parameters())


def test_costs_add() -> None:
    """Costs add and nothing plus nothing stays nothing."""
    one, none = Cost(1, 2, 3, 4, 5), Cost(10, 20, 30, 40, None)
    assert one + one == Cost(2, 4, 6, 8, 10)
    assert one + none == none + one == Cost(11, 22, 33, 44, 5)
    assert (none + none).pairs is None


def test_order_of_parameters() -> None:
    """A checkpoint holds what an optimizer keeps of each parameter by its number: the order is that of all runs."""
    config = ModelConfig(n_layers=1, n_heads=2, d_model=8, context=4)
    model = GPT(config, vocab_size=5, attention=partial(MultiHeadAttention, n_heads=2))
    names = [name.removeprefix("blocks.0.") for name, _ in model.named_parameters()]
    qkv = [f"attention.qkv.to_{name}.weight" for name in "qkv"]
    inside = ["norm_attention.weight", "norm_mlp.weight", *qkv, "attention.to_out.weight"]
    assert names == ["embedding.weight", *inside, "mlp.up.weight", "mlp.down.weight", "norm.weight"]


def test_relu_squared() -> None:
    """Its own way back: the gradient of the product, bit for bit, in a batch of models, too; no way back twice."""
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = F.relu(x)
    product = torch.autograd.grad((y * y).sin().sum(), x)[0]
    own = torch.autograd.grad(relu_squared(x).sin().sum(), x, create_graph=True)[0]
    assert torch.equal(own, product)
    each = torch.func.vmap(torch.func.grad(lambda row: relu_squared(row).sin().sum()))(x.detach())
    assert torch.equal(each, product)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        own.sum().backward()
