"""Every type of model that comes in computes what it did: logits, cached decoding, maps, gradients; and goes out."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.interchange.tiny import TYPES, VOCAB, cut, load_double, save_tiny

from attnlab.build import build_model
from attnlab.interchange.families.family import Family
from attnlab.interchange.families.model_settings import settings_of_run
from attnlab.interchange.families.registry import FAMILIES, native_form
from attnlab.interchange.foreign.parts import inspect
from attnlab.interchange.hf_import import Imported, read_model
from attnlab.model import GPT

CLOSE = 1e-6  # in float64, of the largest: their rotations and some of their norms are float32 whatever the type
# One of each structure; the others are long.
FAST = (
    *("llama", "llama, Llama 3 scaling", "mistral", "qwen3", "smollm3", "gpt2", "gpt_neox", "gemma3_text", "olmo2"),
    *("deepseek_v3", "mpt"),
)
EVERY = [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in TYPES]
TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class Pair(NamedTuple):
    """A model of transformers and ours, read from its folder."""

    folder: Path
    theirs: Any
    imported: Imported
    ours: GPT


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def make(name: str) -> Pair:
        folder = tmp_path_factory.mktemp("model")
        theirs = save_tiny(name, folder)
        imported = read_model(folder)
        ours = model_of(imported)
        return Pair(folder, theirs, imported, ours)

    return make


def model_of(imported: Imported) -> GPT:
    """The model in float64."""
    model = build_model(imported.config, imported.tokenizer.n_vocab).double().eval()
    tied = {"head.weight": imported.weights["embedding.weight"]} if imported.config.model.tie else {}
    model.load_state_dict({**imported.weights, **tied})
    return model


def tokens(n: int = 13) -> torch.Tensor:
    return torch.randint(VOCAB, (2, n), generator=torch.Generator().manual_seed(1))


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= CLOSE * theirs.abs().max()


@pytest.mark.parametrize("name", EVERY)
def test_logits(name: str, pair_of: Any) -> None:
    """The whole model."""
    pair, ids = pair_of(name), tokens()
    with torch.no_grad():
        assert_close(pair.ours(ids), pair.theirs(ids).logits)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: replace(c, model=replace(c.model, norm_eps=2e-6)),
        lambda c: replace(c, attention=c.attention | {"position": c.attention["position"] | {"base": 10100.0}}),
        lambda c: replace(c, model=replace(c.model, mlp="geglu")),
    ],
)
def test_a_slip_shows(change: Any, pair_of: Any) -> None:
    """A setting that is a little off is further off than what counts as equal."""
    pair, ids = pair_of("llama"), tokens()
    wrong = model_of(pair.imported._replace(config=change(pair.imported.config)))
    with torch.no_grad(), pytest.raises(AssertionError):
        assert_close(wrong(ids), pair.theirs(ids).logits)


@pytest.mark.parametrize("name", EVERY)
def test_decoding(name: str, pair_of: Any) -> None:
    """With caches on both sides: a prompt, a chunk, and single tokens."""
    pair, ids = pair_of(name), tokens()
    state, cache = pair.ours.init_state(2, 13), None
    with torch.no_grad():
        for part in ids.split([7, 3, 1, 1, 1], dim=1):
            answer = pair.theirs(part, cache=cache, use_cache=True)
            cache = answer.cache
            logits, state = pair.ours.step(part, state)
            assert_close(logits, answer.logits)


@pytest.mark.parametrize("name", EVERY)
def test_maps(name: str, pair_of: Any) -> None:
    """Of every layer: those that they report, or that their memories imply."""
    pair, ids = pair_of(name), tokens()
    with torch.no_grad():
        theirs = their_maps(pair.theirs, ids)
        for ours, other in zip(pair.ours.attention_maps(ids), theirs, strict=True):
            assert_close(ours.weights, other)


def their_maps(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """Of each layer (b, h, t, s)."""
    kind = model.config.model_type
    if kind in ("mamba2", "qwen3_next", "qwen3_5_text", "olmo_hybrid"):
        rows = [inspect(model, {"input_ids": row[None]}).parts.values() for row in ids]
        layers = [sorted((each for part in row for each in part.layers), key=lambda each: each.layer) for row in rows]
        maps = [torch.stack([torch.as_tensor(row.weights) for row in layer]) for layer in zip(*layers, strict=True)]
        if kind == "mamba2":  # the way of a value past the memory, which is none of its map
            skips = [layer.mixer.D[:, None, None] * torch.eye(13) for layer in model.backbone.layers]
            maps = [a - skip for a, skip in zip(maps, skips, strict=True)]
        return maps
    maps = list(model(ids, output_attentions=True).attentions)
    if kind == "diffllama":
        maps = [difference(a, layer.self_attn) for a, layer in zip(maps, model.model.layers, strict=True)]
    return maps


def difference(a: torch.Tensor, layer: Any) -> torch.Tensor:
    """Of the first half of the heads and the second, of which a share is taken."""
    lambdas = ((layer.lambda_q1, layer.lambda_k1), (layer.lambda_q2, layer.lambda_k2))
    plus, minus = ((q * k).sum().exp() for q, k in lambdas)
    first, second = a.chunk(2, dim=1)
    return first - (plus - minus + layer.lambda_init) * second


@pytest.mark.parametrize("name", EVERY)
def test_gradient(name: str, pair_of: Any) -> None:
    """Of the loss, for every parameter, by the same table as the numbers."""
    pair, ids = pair_of(name), tokens()
    pair.theirs.zero_grad()
    pair.theirs(ids, labels=ids).loss.backward()
    logits = pair.ours(ids)
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    theirs = {n: (p.detach(), p.grad) for n, p in pair.theirs.named_parameters()}
    for n in [n for n in theirs if n.endswith("linear_attn.conv1d.weight") and "olmo" in name]:
        parts = zip(*(cut(x, pair.theirs.config) for x in theirs.pop(n)), strict=True)
        theirs |= {n.replace("conv1d", f"{part}_conv1d"): each for part, each in zip("qkv", parts, strict=True)}
    own = {n: p.grad for n, p in pair.ours.named_parameters() if p.requires_grad}
    largest = max(gradient.abs().max() for _, gradient in theirs.values())
    family, stored = FAMILIES[pair.theirs.config.model_type], load_file(pair.folder / "model.safetensors")

    def gradient_of(name: str) -> torch.Tensor:
        """By its name, or, where their file has another one than their module, by its numbers."""
        name = family.name_in(name, theirs)
        return (
            theirs[name][1]
            if name in theirs
            else next(gradient for p, gradient in theirs.values() if torch.equal(p, stored[name].double()))
        )

    for link in [each for each in family.links(pair.ours) if each.ours[0] in own]:
        moved = link.transform.ours([gradient_of(name) for name in link.theirs], link.attention)
        for ours_name, gradient in zip(link.ours, moved, strict=True):
            assert (own[ours_name] - gradient).abs().max() <= CLOSE * largest, ours_name


def write(folder: Path, family: Family, imported: Imported) -> None:
    """The model again in their format."""
    settings = settings_of_run(imported.config, imported.tokenizer.n_vocab)
    config = family.config_like(settings, imported.origin["config"])
    (folder / "config.json").write_text(json.dumps(config))
    model = build_model(imported.config, imported.tokenizer.n_vocab)
    model.load_state_dict(imported.weights, strict=False)
    dtype = TORCH[imported.origin["dtype"]]
    tensors = {name: tensor.to(dtype).contiguous().clone() for name, tensor in family.tensors_of(model)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", EVERY)
def test_there_and_back(name: str, pair_of: Any, tmp_path: Path) -> None:
    """Out again, each tensor is the one that came in, bit for bit; so is the config, and transformers reads it."""
    pair = pair_of(name)
    form = native_form(pair.imported.config, VOCAB, like=pair.imported.origin["model_type"])
    assert form is not None
    family, _ = form
    assert family.model_type == pair.theirs.config.model_type
    write(tmp_path, family, pair.imported)
    (tmp_path / "tokenizer.json").write_bytes((pair.folder / "tokenizer.json").read_bytes())
    assert same(load_file(tmp_path / "model.safetensors"), load_file(pair.folder / "model.safetensors"))
    again = read_model(tmp_path)
    assert same(again.weights, pair.imported.weights)
    assert again.config.model == pair.imported.config.model and again.config.attention == pair.imported.config.attention
    theirs = load_double(tmp_path)
    with torch.no_grad():
        assert torch.equal(theirs(tokens()).logits, pair.theirs(tokens()).logits)


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors are equal bit for bit."""
    assert one.keys() == other.keys()
    return all(t.dtype == other[name].dtype and torch.equal(t, other[name]) for name, t in one.items())


def test_half_precision(tmp_path: Path) -> None:
    """What was stored in bfloat16 is float32 here, and bfloat16 again, bit for bit."""
    (first := tmp_path / "in").mkdir()
    (last := tmp_path / "out").mkdir()
    save_tiny("qwen2", first, torch.bfloat16)
    imported = read_model(first)
    assert imported.origin["dtype"] == "BF16"
    write(last, FAMILIES["qwen2"], imported)
    assert same(load_file(first / "model.safetensors"), load_file(last / "model.safetensors"))
