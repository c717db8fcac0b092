"""What a model mixes: its own weights, or those that a memory implies, each proved, in any architecture."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.interchange.foreign.models import CONFIGS, inputs, tiny
from torch import Tensor, nn

from attnlab.interchange.foreign.memories import WeightedSum, relative_error
from attnlab.interchange.foreign.mixing import TOLERANCE, Watch, watch
from attnlab.interchange.foreign.parts import call

pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[hf]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers' own making

# How many layers of each kind a model has: softmax, memory.
LAYERS = {
    **dict.fromkeys(("gpt2", "llama", "gemma2", "bloom", "deepseek_v3", "gpt_oss", "bert", "vit"), (2, 0)),
    **{"albert": (3, 0), "qwen3_next": (1, 3), "olmo_hybrid": (1, 3), "kimi_linear": (1, 1), "minimax": (1, 1)},
    **{"mamba2": (0, 2), "mamba": (0, 2), "falcon_h1": (2, 2), "bamba": (1, 1), "rwkv": (0, 2), "lfm2": (1, 0)},
    **{"t5": (6, 0), "marian": (6, 0), "whisper": (6, 0), "led": (4, 0), "swin": (1, 0)},
}
ATTENTIONS = ("encoder_attentions", "decoder_attentions", "cross_attentions", "attentions")
SLOW = ("led", "gemma2", "bloom", "olmo_hybrid", "bamba", "marian", "lfm2")  # others of their kind are fast


def watched(model: nn.Module, given: dict[str, Tensor]) -> Watch:
    return watch(model, lambda: call(model, given))[0]


def own_weights(model: Any, given: dict[str, Tensor]) -> list[np.ndarray]:
    with torch.no_grad():
        out = model(**given, output_attentions=True)
    tensors = [a for key in ATTENTIONS for a in getattr(out, key, None) or () if a is not None]
    return [tensor[0].numpy() for tensor in tensors]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in CONFIGS])
def test_every_layer(name: str) -> None:
    """Softmax layers have the weights that the model itself gives out; memories reproduce what they computed."""
    model, given = tiny(name), inputs(name)
    result = watched(model, given)
    memories = [mixing for mixing in result.mixings if mixing.is_memory]
    softmaxes = [mixing for mixing in result.mixings if not mixing.is_memory]
    assert (len(softmaxes), len(memories)) == LAYERS[name]
    assert max(mixing.error for mixing in result.mixings) < 1e-6
    if softmaxes and name not in ("swin", "lfm2", "led"):
        own = own_weights(model, given)
        assert len(own) >= len(softmaxes)  # minimax gives out the states of its memories, too
        for mixing in softmaxes:
            assert any(w.shape == mixing.weights.shape and np.abs(w - mixing.weights).max() < 1e-6 for w in own)
    for mixing in memories:
        assert not np.triu(mixing.weights, 1).any() and np.abs(mixing.weights).max() > 1e-4
    assert bool(result.missing) == (name == "swin")


def test_sinks_stay() -> None:
    """Rows of gpt_oss do not sum to one: what its sinks take is nobody's."""
    sums = watched(tiny("gpt_oss"), inputs("gpt_oss")).mixings[0].weights.sum(-1)
    assert (sums < 0.999).all() and (sums > 0).all()


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("qwen3_next", "torch_chunk_gated_delta_rule"),
        ("kimi_linear", "chunk_kimi_delta_attention"),
        ("mamba2", "mamba2_chunk_scan"),
        ("mamba", "mamba_selective_scan"),
        ("rwkv", "rwkv_linear_attention_cpu"),
    ],
)
def test_broken_memory(name: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory that is not linear in its values has no map, and is named with how far off one would be."""
    model = tiny(name)
    home = sys.modules[next(type(m).__module__ for m in model.modules() if ".models." in type(m).__module__)]
    straight = getattr(home, kernel)

    def bent(*args: Any, signature: Any = None, **kwargs: Any) -> Any:
        result = straight(*args, **kwargs)
        bend = lambda o: o + 1e-3 * o.abs().max() * (o / o.abs().max()) ** 2  # noqa: E731
        return (bend(result[0]), *result[1:]) if isinstance(result, tuple) else bend(result)

    bent.__signature__ = __import__("inspect").signature(straight)  # type: ignore[attr-defined]
    bent.__module__ = home.__name__
    monkeypatch.setattr(home, kernel, bent)
    result = watched(model, inputs(name))
    assert not any(mixing.is_memory for mixing in result.mixings)
    assert len(result.missing) == LAYERS[name][1]
    assert all("differs from what it computed by" in reason for reason in result.missing.values())


def test_broken_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is run again and gives something else has no map."""
    model = tiny("minimax")
    layer = model.model.layers[0].self_attn
    usual, calls = layer.act_fn.forward, [0]

    def drifting(x: Tensor) -> Tensor:
        calls[0] += 1
        return usual(x) * (1 + 1e-3 * (calls[0] > 2))

    monkeypatch.setattr(layer.act_fn, "forward", drifting)
    result = watched(model, inputs("minimax", tokens=40))
    assert [mixing.owner.layer for mixing in result.mixings] == [1] and [o.layer for o in result.missing] == [0]


def test_error_sees() -> None:
    """A weight that is off by more than the tolerance is seen, and so is a number that is none."""
    draw = torch.Generator().manual_seed(0)
    a, v = torch.rand(2, 5, 5, generator=draw).tril(), torch.randn(2, 5, 3, generator=draw)
    assert relative_error(WeightedSum(a, v, a @ v)) < 1e-6
    off = a.clone()
    off[1, 3, 2] += 1e-3
    assert relative_error(WeightedSum(off, v, a @ v)) > TOLERANCE
    off[0, 0, 0] = float("nan")
    assert relative_error(WeightedSum(off, v, a @ v)) == float("inf")


def test_nothing_stays() -> None:
    """Watching changes nothing: outputs, modes, functions of the model's modules and hooks are as before."""
    model, given = tiny("qwen3_next"), inputs("qwen3_next")
    home = vars(sys.modules[type(model).__module__])
    before, functions = model(**given).logits, dict(home)
    model.model.layers[1].train()
    _, out = watch(model, lambda: model(**given))
    assert model.model.layers[1].training and not model.training
    assert functions == dict(home) and not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks and not out.logits.requires_grad
    torch.testing.assert_close(out.logits, before, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="input_ids"):
        watch(model, lambda: model(nothing=1))
    assert functions == dict(home) and not torch.nn.modules.module._global_forward_hooks


# Modules of one's own


class Written(nn.Module):
    """Attention as books write it."""

    def forward(self, x: Tensor) -> Tensor:
        scores = (x @ x.transpose(1, 2)).masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), -torch.inf)
        return F.dropout(torch.softmax(scores, dim=-1), 0.1, self.training) @ x


class Fused(nn.Module):
    """The same by torch's kernel."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (2, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, is_causal=True).transpose(1, 2).flatten(-2)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Over (batch, heads, positions, width)."""
    return (q @ k.transpose(-1, -2)).tril() @ v


class Linear(nn.Module):
    """A memory of one's own, behind a function that takes q, k and v."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (2, -1)).transpose(1, 2)
        return linear_attention(heads, heads, heads).transpose(1, 2).flatten(-2)


class Einsum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (2, -1))
        weights = torch.einsum("bthd,bshd->bhts", heads, heads).softmax(-1)
        return torch.einsum("bhts,bshd->bthd", weights, heads).flatten(-2)


class Own(nn.Module):
    def __init__(self, mixer: nn.Module, name: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({name: mixer}) for _ in range(2)])
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            x = x + layer[self.name](x)
        return x


@pytest.mark.parametrize(
    ("mixer", "heads", "is_memory"),
    [(Written(), 1, False), (Fused(), 2, False), (Einsum(), 2, False), (Linear(), 2, True)],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_own_module(mixer: nn.Module, heads: int, is_memory: bool) -> None:
    """A module of one's own is seen however its attention is written."""
    x = torch.randn(1, 7, 8, generator=torch.Generator().manual_seed(0))
    result = watch(mixer, lambda: mixer(x))[0]
    (mixing,) = result.mixings
    assert mixing.weights.shape == (heads, 7, 7) and mixing.is_memory == is_memory and mixing.error < TOLERANCE


def test_torch_encoder() -> None:
    """torch's own encoder layers, which compute in one fused step otherwise."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 20, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(1, 6, 16)
    result = watch(model, lambda: model(x))[0]
    assert [mixing.owner.layer for mixing in result.mixings] == [0, 1]
    with torch.no_grad():
        _, own = model.layers[0].self_attn(x, x, x, average_attn_weights=False)
    np.testing.assert_allclose(result.mixings[0].weights, own[0].numpy(), atol=1e-6)


@pytest.mark.parametrize("change", [lambda o: o.zero_(), lambda o: o.mul_(2)])
def test_change(change: Callable[[Tensor], Any]) -> None:
    """What a layer has mixed can be changed on the way; then no maps are taken."""
    model, given = tiny("gpt2"), inputs("gpt2")
    whole = model(**given).logits
    result, out = watch(model, lambda: model(**given), change=lambda number, o: change(o) if number == 1 else None)
    assert [owner.layer for owner in result.owners] == [0, 1] and not result.mixings
    assert (out.logits - whole).abs().max() > 1e-3
