"""The settings of a model that came later than its first ones: each as its formula says, in training and decoding."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from tests.laws.cases import sampled
from tests.test_model import ATTENTIONS, CONTEXT, LAYERS, WIDTH, gpt, perturbed, stepped, token_ids
from torch import Tensor

from attnlab.attention.base import Shared
from attnlab.attention.embedding import LearnedEmbedding
from attnlab.config.compose import compose_config
from attnlab.config.keys import LATER, settings_of, shipped_settings
from attnlab.config.run_config import RunConfig
from attnlab.errors import UsageError
from attnlab.model import GPT, Block
from attnlab.options.model_config import FIRST, ModelConfig

SETTINGS: dict[str, dict[str, Any]] = {
    "norm_eps": {"norm_eps": 0.1},
    "norm_eps rms": {"norm": "rms", "norm_eps": 0.1},
    "norm_gain": {"norm_gain": False},
    "norm_gain rms": {"norm": "rms", "norm_gain": False},
    "norm_unit_offset": {"norm": "rms", "norm_unit_offset": True},
    "norm_unit_offset layer": {"norm_unit_offset": True, "norm_bias": True},
    "norm_bias": {"norm_bias": True},
    "post": {"norm_place": "post"},
    "sandwich": {"norm_place": "sandwich", "norm": "rms"},
    "of each layer": {"norm_place": "post sandwich"},
    "parallel": {"parallel": True},
    "norm_shared": {"parallel": True, "norm_shared": True},
    "residual_scale": {"residual_scale": 0.3},
    "residual_scale parallel": {"residual_scale": 0.3, "parallel": True},
    "no mlp": {"mlp": "none"},
    "no mlp, post": {"mlp": "none", "norm_place": "post"},
    "xielu": {"mlp": "xielu"},
    "mlp_width": {"mlp": "geglu_tanh", "mlp_width": 7},
    "embed_scale": {"embed_scale": 3.5},
    "embed_norm": {"embed_norm": True, "embed_scale": 3.5, "norm_bias": True},
    "head_bias": {"head_bias": True},
    "logit_scale": {"logit_scale": 0.25, "tie": False, "head_bias": True},
    "canon": {"canon": "acd"},
    "canon gated": {"canon": "dc", "mlp": "swiglu", "parallel": True, "norm_shared": True},
    "canon, no mlp": {"canon": "a", "mlp": "none"},
    "smear": {"smear": True, "embed_norm": True},
    "over depth": {"residual": "attention", "residual_scale": 0.3, "norm_place": "sandwich"},
    "over depth, no mlp": {"residual": "attention", "mlp": "none"},
    "over depth, canon": {"residual": "attention", "canon": "acd", "smear": True},
    "final_softcap": {"final_softcap": 0.7, "logit_scale": 2.0},
}

# Those that neither a shape nor a missing module shows.
NUMBERS = {"norm_eps", "norm_unit_offset", "norm_bias", "residual_scale", "embed_scale", "logit_scale", "final_softcap"}


def config_of(**settings: Any) -> ModelConfig:
    return ModelConfig(**{"context": CONTEXT, "n_layers": LAYERS, "d_model": WIDTH, **settings})


def normed(c: ModelConfig, norm: Any, x: Tensor) -> Tensor:
    y = x - x.mean(dim=-1, keepdim=True) if c.norm == "layer" else x
    eps = c.norm_eps or (1e-5 if c.norm == "layer" else 2**-23)
    y = y / (y.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    if c.norm_gain:
        y = y * (norm.weight + (1 if c.norm_unit_offset else 0))
    return y + norm.bias if c.norm_bias else y


def canon(letters: str, name: str, layer: Any, x: Tensor) -> Tensor:
    """x_t + sum_i w_i x_{t-i}, where the block has this Canon layer."""
    if name not in letters:
        return x
    earlier = [F.pad(x, (0, 0, i, 0))[:, : x.size(1)] for i in range(4)]
    return x + sum(w * shifted for w, shifted in zip(layer.weight.T.flip(0), earlier, strict=True))


def over_depth(mix: Any, outputs: list[Tensor]) -> Tensor:
    """A softmax over depth of w . rms(h)."""
    scores = [(mix.query * h / (h.square().mean(-1, keepdim=True) + 2**-23).sqrt()).sum(-1) for h in outputs]
    weights = torch.stack(scores).softmax(0)
    return sum((w[..., None] * h for w, h in zip(weights, outputs, strict=True)), torch.zeros(()))


def second_half(c: ModelConfig, mlp: Any, z: Tensor) -> Tensor:
    """The MLP, with a Canon layer over its gate and its width side by side."""
    wide = mlp.up(z) if mlp.gate is None else torch.cat([mlp.gate(z), mlp.up(z)], -1)
    wide = canon(c.canon or "", "d", mlp.canon, wide)
    if mlp.gate is None:
        return mlp.down(mlp.activation(wide))
    gate, up = wide.chunk(2, -1)
    return mlp.down(mlp.activation(gate) * up)


def written_out(model: GPT, c: ModelConfig, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The logits, and what each layer's attention is given."""
    x, entrances = model.embed(model.embedding.weight[ids] * c.embed_scale), []
    if c.embed_norm:
        x = normed(c, model.embed_norm, x)
    if model.smear is not None:
        share = model.smear.strength * model.smear.to_gate(x[..., :24]).sigmoid()
        x = torch.cat([x[:, :1], x[:, 1:] + share[:, 1:] * x[:, :-1]], dim=1)
    places, shared, letters, outputs = c.norm_place.split(), Shared(), c.canon or "", [x]
    for i, block in enumerate(model.layers):
        before, behind = (places[i % len(places)] in (place, "sandwich") for place in ("pre", "post"))
        x = over_depth(block.depth_attention, outputs) if c.residual == "attention" and i else x
        y = normed(c, block.norm_attention, x) if before else x
        y = canon(letters, "a", block.canon_attention, y)
        entrances.append(y)
        mixed = block.attention(y, shared)
        mixed = c.residual_scale * (normed(c, block.norm_attention_out, mixed) if behind else mixed)
        outputs.append(mixed)
        if block.mlp is None:
            x = x + mixed
            continue
        z = x if c.parallel else x + mixed
        z = over_depth(block.depth_mlp, outputs) if c.residual == "attention" else z
        z = y if c.norm_shared else normed(c, block.norm_mlp, z) if before else z
        out = second_half(c, block.mlp, canon(letters, "c", block.canon_mlp, z))
        out = c.residual_scale * (normed(c, block.norm_mlp_out, out) if behind else out)
        outputs.append(out)
        x = x + mixed + out
    x = over_depth(model.depth, outputs) if c.residual == "attention" else x
    logits = F.linear(normed(c, model.norm, x), model.head.weight, model.head.bias) * c.logit_scale
    return (c.final_softcap * (logits / c.final_softcap).tanh() if c.final_softcap else logits), entrances


def model_of(settings: dict[str, Any], attention: str = "hybrid") -> tuple[GPT, ModelConfig]:
    model = perturbed(gpt(ATTENTIONS[attention], embed=LearnedEmbedding, **settings)).eval()
    return model, config_of(**settings)


@pytest.mark.parametrize("name", sampled([(name,) for name in SETTINGS], 2))
def test_formula(name: str) -> None:
    """Logits, maps and decoding are those of the formula written out; every setting of the case counts in it."""
    settings, ids = SETTINGS[name], token_ids()
    model, config = model_of(settings)
    with torch.no_grad():
        logits, entrances = written_out(model, config, ids)
        torch.testing.assert_close(model(ids), logits, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(stepped(model, ids, [3, 1, 5, 2]), logits, rtol=1e-9, atol=1e-9)
        for shown, block, x in zip(model.attention_maps(ids), model.layers, entrances, strict=True):
            torch.testing.assert_close(shown.weights, block.attention.weights(x), rtol=1e-9, atol=1e-9)
        for key in settings.keys() & NUMBERS:
            change: dict[str, Any] = {key: LATER[f"model.{key}"]}
            other = replace(config, **change)
            assert not torch.allclose(written_out(model, other, ids)[0], logits, rtol=1e-6, atol=1e-6), key


@pytest.mark.parametrize("name", sampled([(name,) for name in SETTINGS], 4))
def test_gradients(name: str) -> None:
    """Every parameter gets one."""
    model, _ = model_of(SETTINGS[name])
    model(token_ids()).square().mean().backward()
    trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert not [n for n, grad in trained.items() if grad is None or not grad.any()]


def plain_step(block: Block, x: Tensor, state: Any, shared: Shared) -> tuple[Tensor, Any]:
    mixed, state = block.attention.step(block.norm_attention(x), state, shared)
    x = x + mixed
    return x if block.mlp is None else x + block.mlp(block.norm_mlp(x)), state


@pytest.mark.parametrize("name", ["post", "sandwich", "parallel", "residual_scale"])
def test_formula_bites(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that knows nothing of the setting is noticed."""
    monkeypatch.setattr(Block, "step", plain_step)
    with pytest.raises(AssertionError, match="not close"):
        test_formula(name)


@pytest.mark.parametrize(
    ("method", "without", "name"),
    [
        ("entrance", lambda model, ids, start=0: model.embed(model.embedding(ids), start), "embed_scale"),
        ("entrance", lambda model, ids, start=0: model.embed(3.5 * model.embedding(ids), start), "embed_norm"),
        ("logits", lambda model, x: model.head(model.norm(x)), "logit_scale"),
        ("logits", lambda model, x: 2 * model.head(model.norm(x)), "final_softcap"),
    ],
)
def test_ends_bite(method: str, without: Callable[..., Tensor], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entrance or an exit that knows nothing of the setting is noticed."""
    monkeypatch.setattr(GPT, method, without)
    with pytest.raises(AssertionError, match="not close"):
        test_formula(name)


def test_start() -> None:
    """A norm that multiplies by 1 + gain starts as one whose gain is 1, and shifts and biases start at 0."""
    for norm in ("rms", "layer"):
        settings: dict[str, Any] = {"norm": norm, "norm_bias": norm == "layer", "head_bias": True}
        offset, plain = gpt(norm_unit_offset=True, **settings), gpt(**settings)
        assert torch.equal(offset(token_ids()), plain(token_ids()))
        assert not offset.norm.weight.any() and (plain.norm.weight == 1).all()
        assert not [n for n, p in offset.named_parameters() if n.endswith("bias") and p.any()]


def test_parameters() -> None:
    """Norms and biases that are not there have no parameters, and a shared one is one."""
    names = {name: {n for n, _ in gpt(**settings).named_parameters()} for name, settings in SETTINGS.items()}
    per_layer = {name: len([n for n in names[name] if n.startswith("blocks.0.norm")]) for name in names}
    assert [per_layer[n] for n in ("norm_gain", "post", "sandwich", "norm_shared", "no mlp", "norm_bias")] == [
        *(0, 2, 4, 1, 1, 4)
    ]
    assert "head.bias" in names["head_bias"] and "head.weight" not in names["head_bias"]
    assert not [n for n in names["norm_gain"] if "norm" in n]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"norm": "rms", "norm_bias": True}, "norm_bias (true) needs model.norm=layer, which is rms"),
        ({"norm_bias": True, "norm_gain": False}, "norm_bias (true) needs model.norm_gain=true, which is false"),
        (
            {"norm_unit_offset": True, "norm_gain": False},
            "norm_unit_offset (true) needs model.norm_gain=true, which is false",
        ),
        ({"norm_shared": True}, "norm_shared (true) needs model.parallel=true, which is false"),
        ({"parallel": True, "norm_place": "post"}, "parallel (true) needs model.norm_place=pre, which is post"),
        ({"parallel": True, "mlp": "none"}, "parallel (true) needs an MLP, and model.mlp is none"),
        ({"mlp_width": 8, "mlp": "none"}, "mlp_width (8) needs an MLP, and model.mlp is none"),
        ({"bias": True, "mlp": "none"}, "bias (true) needs an MLP, and model.mlp is none"),
        ({"norm_eps": 0.0}, "norm_eps (0.0) must be null or a number above 0"),
        ({"final_softcap": -1.0}, "final_softcap (-1.0) must be null or a number above 0"),
        ({"norm_place": "behind"}, "norm_place (behind) must be pre | post | sandwich, or several, one for each layer"),
        (
            {"norm_place": "pre past"},
            "norm_place (pre past) must be pre | post | sandwich, or several, one for each layer",
        ),
    ],
)
def test_refused(settings: dict[str, Any], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not go together is refused in one line."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # else annotations catch it before the model
    with pytest.raises(UsageError) as refused:
        config_of(**settings)
    assert str(refused.value) == line


def test_refused_when_typed() -> None:
    """The line names the whole key."""
    with pytest.raises(UsageError, match=r"^model\.norm_shared \(true\) needs model\.parallel=true, which is false$"):
        compose_config(["model.norm_shared=true"])


def test_later() -> None:
    """What came later is no part of an identity where it is as before, and the YAML says the same default."""
    later = {f.name: f.default for f in fields(ModelConfig) if f.name not in FIRST}
    assert {name: shipped_settings()["model"][name] for name in later} == later
    content = compose_config().as_dict()
    usual = settings_of(content, besides=())
    assert {key for key in usual if key.startswith("model.")} == {f"model.{name}" for name in FIRST}
    for settings in SETTINGS.values():
        ours = settings_of(content | {"model": content["model"] | settings}, besides=())
        assert ours == usual | {f"model.{name}": value for name, value in settings.items()}


def test_older_file() -> None:
    """A file from before these settings says the same model."""
    content = compose_config(["model.norm=rms"]).as_dict()
    older = content | {"model": {key: value for key, value in content["model"].items() if key in FIRST}}
    assert RunConfig.of(older) == RunConfig.of(content)
