"""From a config to objects."""

import importlib
import re
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hydra.utils import get_object
from torch import nn

from attnlab import build
from attnlab.attention.embedding import LearnedEmbedding
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.position_bias import ALiBi
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.rotary import RoPE
from attnlab.build import SLOTS, attention_factory, build_model, check_construction, embedding_factory, instantiate
from attnlab.config.allowed_classes import check_targets
from attnlab.config.compose import compose_config
from attnlab.config.run_config import RunConfig
from attnlab.errors import UsageError
from attnlab.model import GPT
from attnlab.training.optimizer import Recipe

VOCAB = 19


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls as a user makes them: while tests run, annotations otherwise catch wrong arguments before a class does."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def composed(*overrides: str) -> RunConfig:
    """The main config with a model small enough for a test."""
    sizes = ["model.d_model=16", "model.n_heads=4", "model.n_layers=4", "model.context=8"]
    return compose_config([*sizes, *overrides])


def refused(*overrides: str) -> str:
    with pytest.raises(UsageError) as error:
        check_construction(composed(*overrides))
    message = str(error.value)
    assert "\n" not in message
    return message


def layers(model: GPT) -> Iterator[nn.Module]:
    return (block.attention for block in model.layers)


# What a config becomes


def test_a_config_becomes_a_model_of_its_sizes() -> None:
    model = build_model(composed("model.mlp=swiglu", "model.tie=false", "model.dropout=0.25"), VOCAB)
    assert model(torch.tensor([[1, 2, 3]])).shape == (1, 3, VOCAB)
    assert (model.vocab_size, model.context, len(model.layers)) == (VOCAB, 8, 4)
    assert model.drop.p == 0.25 and model.head.weight is not model.embedding.weight
    for layer in layers(model):
        assert isinstance(layer, MultiHeadAttention)
        assert (layer.n_heads, layer.dropout, layer.n_layers) == (4, 0.25, 4)


def test_init_seed() -> None:
    """The seed of the initial values is that of their stream."""
    first, second, third = (
        build_model(composed(*streams), VOCAB).embedding.weight
        for streams in (["seed=3"], ["seed=4", "streams.init=3"], ["seed=4"])
    )
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_positions() -> None:
    """A position goes to the layers or to the embeddings."""
    learned, alibi = (build_model(composed(f"position={name}"), VOCAB) for name in ("learned", "alibi"))
    assert isinstance(learned.embed, LearnedEmbedding) and learned.embed.limit == 8
    for layer in layers(alibi):
        assert isinstance(layer, MultiHeadAttention) and isinstance(layer.position, ALiBi)
    embed = embedding_factory(composed("position=learned"))(d_model=16, context=5)
    assert isinstance(embed, LearnedEmbedding) and embed.context == 5


def test_a_pattern_gives_each_layer_its_own_kind() -> None:
    model = build_model(composed("attention=hybrid", "attention.kinds.local.mask.window=3"), VOCAB)
    kept = [layer.mask.cache_size for layer in layers(model) if isinstance(layer, MultiHeadAttention)]
    assert kept == [3, 3, 3, None]


@pytest.mark.parametrize(
    "overrides",
    [
        [
            "attention=multi_head",
            "attention/normalizer=sink",
            "attention/gate=elementwise",
            "attention/score=[qk_norm]",
        ],
        ["attention=gqa", "attention/mask=window", "position=alibi"],
        ["attention=gated_delta"],
        ["attention=stacked_heads"],
        ["attention=hybrid"],
    ],
)
def test_instance_per_layer(overrides: list[str]) -> None:
    """Nested factories make one instance per layer."""
    seen: set[int] = set()
    for layer in layers(build_model(composed(*overrides), VOCAB)):
        mine = {id(module) for module in layer.modules()} | {id(p) for p in layer.parameters()}
        assert len(mine) > 3 and not mine & seen
        seen |= mine


def test_one_factory_serves_many_layers() -> None:
    factory = attention_factory(composed("attention=gated_delta"))
    first, second = (factory(16, layer=i, n_layers=2, context=8) for i in range(2))
    assert isinstance(first, RecurrentAttention) and isinstance(second, RecurrentAttention)
    assert isinstance(first.position, RoPE) and first.position is not second.position
    assert first.write is not second.write and (first.layer, second.layer) == (0, 1)


# Refusals


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("+attention.n_head=2", r"^attention\.n_head \(2\).* MultiHeadAttention .*'n_head'"),
        ("+attention.mask.windw=3", r"^attention\.mask.* Causal.*'windw'"),
        ("+position.inside.bse=5", r"\.bse \(5\).* RoPE .*'bse'"),
        ("+position.embed.width=5", r"^position\.embed\.width \(5\).* NoEmbedding .*'width'"),
    ],
)
def test_unknown_argument(override: str, where: str) -> None:
    """An argument that no class takes is refused in one line with its name."""
    assert re.search(where, refused(override))


@pytest.mark.usefixtures("unchecked")
def test_missing_argument() -> None:
    """An argument that is missing is refused in one line."""
    config = composed("attention=sliding_window")
    del config.attention["mask"]["window"]
    with pytest.raises(
        UsageError, match=r"^attention\.mask\.window is missing: Window needs an integer of at least 1$"
    ):
        check_construction(config)


def test_constructor_refusal() -> None:
    """What only a constructor knows is refused in its own words."""
    assert refused("model.n_heads=3") == "n_heads (3) must divide d_model (16); try n_heads in [1, 2, 4, 8, 16]"
    assert refused("attention=gqa", "attention.n_kv_heads=3").startswith("attention.n_kv_heads (3) must divide n_heads")
    message = refused("attention=linear", "position=alibi")
    assert message.startswith("position.inside (ALiBi) works through bias, but RecurrentAttention offers only rotate")
    assert "attention/score holds Scaled and Unscaled" in refused("attention/score=[scaled,unscaled]")
    assert "attention.causal=true" in refused("attention=simple", "attention.causal=false")
    assert refused("attention=linear", "attention/feature_map=unit").startswith("attention/output_norm=sum divides")
    assert "(7) must be even" in refused("attention.head_dim=7")


@pytest.mark.usefixtures("unchecked")
def test_group_refusal() -> None:
    """A group that is built at once is refused in its own words."""
    config = composed()
    config.tokenizer["n_vocab"] = 3
    with pytest.raises(UsageError, match=r"^tokenizer\.n_vocab \(3\) must be null or an integer"):
        instantiate(config, "tokenizer")
    config = replace(config, tokenizer={"_target_": "attnlab.data.vocabularies.BPE", "vocab": 3})
    with pytest.raises(
        UsageError, match=r"^tokenizer\.vocab \(3\) is not an option: BPE has none called 'vocab'"
    ) as error:
        instantiate(config, "tokenizer")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("slot", ["mask", "normalizer", "gate", "position"])
def test_shared_slot_is_refused(slot: str) -> None:
    """A slot that all layers would share is refused."""
    config = composed()
    config.attention[slot]["_partial_"] = False
    with pytest.raises(UsageError) as error:
        check_construction(config)
    assert str(error.value).startswith(f"attention.{slot}") and "\n" not in str(error.value)


OWN = """
from attnlab.attention.mask import Causal
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.head_wrapper import layered
ran = []
class Mine(MultiHeadAttention):
    def __init__(self, d_model, **settings):
        super().__init__(d_model, **settings)
class Named(MultiHeadAttention):
    def __init__(self, d_model, *, mask, rest=None, **settings):
        super().__init__(d_model, mask=mask, **settings)
class Late(Causal):
    pass
class Runs:
    def __init__(self, *args, **settings):
        ran.append(args)
def runs(d_model, **settings):
    ran.append(d_model)
def ours(d_model, **settings) -> MultiHeadAttention:
    return Mine(d_model, **settings)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A package `ours` of the user's, and what of it ran that should not."""
    (tmp_path / "ours.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "ours", raising=False)
    ran: list[Any] = importlib.import_module("ours").ran
    return ran


SMALL = composed()
KINDS = SLOTS | {"optimizer": Recipe}
FOREIGN = [
    *(
        (slot, target)
        for slot in ("attention.x", "attention.mask", "attention.score.scaled", "attention", "data", "tokenizer")
        for target in ("attnlab.sweep.pool.Worker", "attnlab.sweep.pool.Pool", "attnlab.store.manifest.Manifest")
    ),
    ("attention.x", "attnlab.inspection.tab.plugin.AttentionTab"),
    ("attention.x", "attnlab.attention.mask.Causal"),  # no argument of that name
    ("attention.n_heads", "attnlab.attention.mask.Causal"),
    ("attention.mask", "attnlab.attention.gate.NoGate"),
    ("attention.mask", "attnlab.attention.rotary.RoPE"),
    ("attention.mask", "attnlab.attention.heads.split_heads"),
    ("attention.mask", "ours.Runs"),
    ("attention.mask", "ours.runs"),
    ("attention.score.scaled", "ours.Late"),
    ("attention", "ours.runs"),
    ("attention", "ours.Late"),
    ("position.inside", "ours.Mine"),
    ("position.embed", "attnlab.attention.rotary.RoPE"),
    ("data", "attnlab.data.vocabularies.BPE"),
    ("tokenizer", "attnlab.data.corpus.PythonDocs"),
    ("optimizer", "ours.Runs"),
    ("data.path", "attnlab.data.corpus.Download"),
    ("optimizer.lr", "attnlab.training.optimizer.AdamW"),
    ("model.x", "attnlab.attention.mask.Causal"),
    ("trainer", "ours.Runs"),
]


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize(("slot", "target"), FOREIGN)
def test_a_slot_takes_only_what_it_is_for(own: list[Any], slot: str, target: str, partial: bool) -> None:
    """Refused in one line that names the slot, whatever the user has allowed, and before anything is constructed."""
    get_object(target)  # it is there to be refused
    config = SMALL.as_dict() | {"allow_targets": ["ours"]}
    node, *rest = slot.split(".")
    owner: Any = config
    for part in (node, *rest)[:-1]:
        owner = owner[part]
    owner[slot.rpartition(".")[2]] = {
        "_target_": target,
        "_partial_": partial,
        "url": "http://localhost:9",
        "name": "x",
    }
    group = ".".join(slot.split(".")[:2]) if node == "position" else node
    with pytest.raises(UsageError) as error:
        instantiate(RunConfig.of(config), group, KINDS[group]) if group in KINDS else check_targets(config)
    assert str(error.value).startswith(slot) and "\n" not in str(error.value)
    assert own == []


def test_a_slot_takes_a_subclass_of_the_users(own: list[Any]) -> None:
    """Below a class that hands its settings on, and below one that names some without saying what they are."""
    for target in ("ours.Mine", "ours.Named", "ours.ours"):
        config = replace(composed(), allow_targets=["ours"])
        config.attention["_target_"] = target
        config.attention["mask"]["_target_"] = "ours.Late"
        mixers = list(layers(build_model(config, VOCAB)))
        assert all(type(mixer.mask).__name__ == "Late" for mixer in mixers)
    config.attention["_target_"], config.attention["gate"]["_target_"] = "ours.Mine", "ours.Late"
    with pytest.raises(UsageError, match=r"^attention\.gate\._target_ \(ours\.Late\) must name a subclass of Gate"):
        build_model(config, VOCAB)


@pytest.mark.parametrize("word", ["_args_", "_recursive_", "_convert_", "_mode_", "_target_.x", "_call_"])
def test_keywords_of_hydra(word: str) -> None:
    """Words that make more of a config are refused."""
    config = deepcopy(SMALL)
    key, _, inner = word.partition(".")
    config.attention["mask"][key] = {inner: "attnlab.attention.mask.Causal"} if inner else ["x"]
    with pytest.raises(UsageError, match=rf"^attention\.mask\.{key}.* is not a setting"):
        check_construction(config)
    config.attention["mask"] = {"_target_": "attnlab.attention.mask.Causal", "_partial_": "yes"}
    with pytest.raises(UsageError, match=r"^attention\.mask\._partial_ \(yes\) must be true or false"):
        check_construction(config)


@pytest.mark.parametrize("target", ["attnlab.attention.nothing.Here", "attnlab.attention.multi_head.Nothing"])
def test_class_not_there(target: str) -> None:
    """A class that does not exist is refused with its group."""
    config = composed()
    config.attention["_target_"] = target
    with pytest.raises(UsageError, match=rf"^attention\._target_ \({target}\) does not exist") as error:
        check_construction(config)
    assert "\n" not in str(error.value)


def test_error_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the mathematics is not mistaken for a wrong argument."""

    def broken(*sizes: object, **more: object) -> object:
        return 1 < "four"  # type: ignore[operator]

    monkeypatch.setattr(build, "attention_factory", lambda config: broken)
    with pytest.raises(TypeError, match="not supported between"):
        build_model(composed(), VOCAB)


# Without numbers


@pytest.mark.parametrize(
    "attention", ["simple", "causal", "stacked_heads", "multi_head", "gqa", "gated_delta", "hybrid"]
)
def test_meta_device(attention: str) -> None:
    """On the meta device there are shapes and no numbers."""
    config = composed(f"attention={attention}", "position=learned")
    with torch.device("meta"):
        model = build_model(config, VOCAB)
    real = build_model(config, VOCAB)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in real.state_dict().items()}
    with torch.device("meta"):
        assert model(torch.zeros(2, 5, dtype=torch.long)).shape == (2, 5, VOCAB)


def test_check_is_cheap() -> None:
    """Checking a construction makes no numbers and reads no data."""
    config = composed("data=file", "data.path=nowhere.txt", "tokenizer=gpt2")
    stream = torch.get_rng_state()
    skeleton = check_construction(config)
    assert all(tensor.is_meta for tensor in skeleton.state_dict().values())
    assert torch.equal(torch.get_rng_state(), stream)
    assert torch.get_default_device().type == "cpu" and not torch.empty(1).is_meta


def test_default_device_is_restored() -> None:
    """The default device comes back after a refusal."""
    refused("model.n_heads=3")
    assert not torch.empty(1).is_meta
