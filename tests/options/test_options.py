"""Options written once: what a class declares, what its constructor refuses, and what is read of it without torch."""

import inspect
import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from attnlab.attention.mask import Window, WindowSinks
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.self_attention import SelfAttention
from attnlab.config.compose import compose_config, config_dir
from attnlab.config.keys import nodes
from attnlab.errors import UsageError
from attnlab.options import Configurable, Count, OptionError, checked, option, options_of, part
from attnlab.options.skeleton import Skeletons, shipped

NAMES = sorted(file.stem for file in (config_dir() / "attention").glob("*.yaml"))
PLAIN = """
from torch import nn
from attnlab.attention.multi_head import MultiHeadAttention
class Tiny(nn.Module):
    def __init__(self, d_model, n_heads=4, *, sharpness: float = 1.0): ...
class Sharper(MultiHeadAttention):
    def __init__(self, d_model: int, sharpness: float = 2.0, **options):
        super().__init__(d_model, **options)
class Anything(nn.Module):
    def __init__(self, **options): super().__init__()
"""


def refusal(make: Any, *sizes: int, **options: Any) -> str:
    with pytest.raises(UsageError) as error:
        make(*sizes, **options)
    return str(error.value)


def test_inherited() -> None:
    """All options of the bases, in one constructor, but for those that the class settles."""
    names = set(options_of(SelfAttention) or {})
    assert {"d_model", "causal", "dropout", "position"} <= names and not {"n_heads", "mask", "head_dim"} & names
    assert list(inspect.signature(WindowSinks).parameters) == ["window", "sinks"]
    layer = MultiHeadAttention(8, n_heads=2, mask=part(Window, window=3), conv=2)
    assert (layer.n_kv_heads, layer.head_dim, layer.conv, layer.mask.cache_size) == (2, 4, 2, 3)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (MultiHeadAttention, {"n_heads": 0}, "n_heads (0) must be an integer of at least 1"),
        (MultiHeadAttention, {"n_heads": 2, "dropout": 1.0}, "dropout (1.0) must be a number of at least 0, below 1"),
        (MultiHeadAttention, {"n_heads": 2, "qkv_bias": "no"}, "qkv_bias (no) must be true or false"),
        (MultiHeadAttention, {}, "n_heads is missing: MultiHeadAttention needs an integer of at least 1"),
        (
            MultiHeadAttention,
            {"n_heads": 2, "n_kv_haeds": 1},
            "n_kv_haeds (1) is not an option: MultiHeadAttention has none called 'n_kv_haeds'; "
            "did you mean 'n_kv_heads'?",
        ),
        (
            MultiHeadAttention,
            {"n_heads": 2, "mask": part(Window, window=0)},
            "mask.window (0) must be an integer of at least 1",
        ),
        (
            MultiHeadAttention,
            {"n_heads": 2, "gate": 3},
            "gate (3) must hold settings with a _target_, so that each layer gets one of its own",
        ),
        (SelfAttention, {"n_heads": 2}, "n_heads (2) is not an option: SelfAttention has none called 'n_heads'"),
    ],
)
def test_refused(make: Any, options: dict[str, Any], words: str) -> None:
    """In Python as from a config, in one line that begins with the key."""
    assert refusal(make, 8, **options) == words


def test_help() -> None:
    """Each option with what it may hold, its default and a sentence."""
    text = inspect.getdoc(MultiHeadAttention.__init__) or ""
    assert (
        "head_dim: null or an integer of at least 1, default null (d_model / n_heads). "
        "Width of a query and of a key in each head." in text
    )
    assert "mask: a class, default Causal. Which keys a query may read." in text
    for kind in (MultiHeadAttention, RecurrentAttention, WindowSinks):
        assert all(o.doc for o in (options_of(kind) or {}).values())


def test_copies() -> None:
    """A layer is copied and pickled without the factories it was built of."""
    layer = RecurrentAttention(8, n_heads=2)
    copies = deepcopy(layer), pickle.loads(pickle.dumps(layer))
    x = torch.randn(1, 3, 8)
    assert all(torch.equal(copy(x), layer(x)) for copy in copies) and "_slots" not in vars(layer)


def test_plain_subclass() -> None:
    """A subclass may write a plain constructor, which then states its arguments itself."""

    class Plain(MultiHeadAttention):
        def __init__(self, d_model: int, sharpness: float = 2.0, **options: Any) -> None:
            super().__init__(d_model, **options)
            self.scale *= sharpness

    assert Plain(8, n_heads=2, sharpness=4.0).scale == 4 * MultiHeadAttention(8, n_heads=2).scale
    assert {"sharpness", "conv"} <= set(options_of(Plain) or {})
    with pytest.raises(TypeError, match="declares options, but Plain writes its constructor itself"):

        class Below(Plain):
            more: int = option(default=1)


def test_withdrawn() -> None:
    """What is withdrawn must be inherited, and may be declared anew."""
    with pytest.raises(TypeError, match="withdraws nope, which it does not inherit"):

        class Wrong(Window):
            withdrawn = {"nope"}

    class Base(Configurable):
        size: Count = option(default=1)

    class Without(Base):
        withdrawn = {"size"}

    class Again(Without):
        size: Count = option(default=5)

    assert not options_of(Without) and Without().size == 1 and Again(size=2).size == 2


def test_checked() -> None:
    """A plain constructor may be judged by its annotations."""

    class Plain:
        @checked
        def __init__(self, size: Count, kind: Literal["a", "b"] = "a") -> None:
            self.size = size

    assert Plain(2).size == 2
    assert refusal(Plain, 0) == "size (0) must be an integer of at least 1"
    assert refusal(Plain, 1, kind="c") == "kind (c) must be a | b"


def test_skeleton_equals_class() -> None:
    """Every class that a shipped config names has, read without torch, the options that it has in earnest."""
    from attnlab.build import _find_target

    targets = {
        value
        for name in NAMES
        for path, value, _ in nodes(compose_config([f"attention={name}"]).as_dict())
        if path.endswith("_target_")
    }
    for group in ("attention/mask", "attention/score", "attention/normalizer", "attention/gate", "position"):
        for file in (config_dir() / group).glob("*.yaml"):
            lines = (line.strip() for line in file.read_text().splitlines())
            targets |= {line.split()[1] for line in lines if line.startswith("_target_: attnlab")}
    for target in targets:
        ours, theirs = options_of(shipped().find(target)), options_of(_find_target(target, "x", ("attnlab",)))
        assert ours is not None and theirs is not None, target
        assert {name: (str(o), o.rules) for name, o in ours.items()} == {
            name: (str(o), o.rules) for name, o in theirs.items()
        }, target
    assert not shipped().failed


def test_skeleton_of_a_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain class with a plain constructor is read, too, and what tells nothing takes anything."""
    (tmp_path / "strangers_module.py").write_text(PLAIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    reader = Skeletons("strangers_module")
    options = {name: options_of(reader.find(f"strangers_module.{name}")) for name in ("Tiny", "Sharper", "Anything")}
    assert set(options["Tiny"] or {}) == {"d_model", "n_heads", "sharpness"}
    assert {"sharpness", "conv", "mask"} <= set(options["Sharper"] or {}) and options["Anything"] is None
    assert options_of(reader.find("strangers_module.Nope")) is options_of(reader.find("nowhere.Nope")) is None


def test_below() -> None:
    """An error is put at its place by whoever knows it."""
    error = OptionError("window", 0, "must be larger").below("mask").below("attention")
    assert str(error) == "attention.mask.window (0) must be larger" and isinstance(error, UsageError | TypeError)
