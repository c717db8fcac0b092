"""Every class is reached by a YAML, every YAML explains itself, and imports point one way."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_class, get_method
from tests.laws.cases import NAMES, shipped

import attnlab
from attnlab.attention.base import Attention
from attnlab.attention.decay import Decay
from attnlab.attention.embedding import Embedding
from attnlab.attention.feature_map import FeatureMap
from attnlab.attention.gate import Gate
from attnlab.attention.mask import Causal, Full, Mask
from attnlab.attention.normalizer import Normalizer
from attnlab.attention.output_norm import OutputNorm
from attnlab.attention.position import Position
from attnlab.attention.score import Score
from attnlab.attention.self_attention import SelfAttention
from attnlab.attention.simple import SimpleAttention
from attnlab.attention.traits import rule_of
from attnlab.attention.write import Write
from attnlab.config.compose import config_dir
from attnlab.errors import UsageError
from attnlab.laws import documentation, subject_of
from attnlab.options import Configurable, is_abstract, options_of
from attnlab.store.leaves import leaves

SOURCE = Path(attnlab.__file__).parent
FAMILIES = (Attention, Mask, Score, Normalizer, Gate, Decay, FeatureMap, Write, OutputNorm, Position, Embedding)
YAMLS = sorted(p for group in ("attention", "position") for p in (config_dir() / group).rglob("*.yaml"))


def modules(package: str) -> list[str]:
    """A module and everything below it."""
    found = importlib.import_module(package)
    below = pkgutil.walk_packages(found.__path__, f"{package}.") if hasattr(found, "__path__") else ()
    return [package, *(info.name for info in below)]


def concrete(family: type) -> set[type]:
    """Every class of a family, in attnlab.attention, that can be built."""
    found = {
        cls
        for name in modules("attnlab.attention")
        for cls in vars(importlib.import_module(name)).values()
        if inspect.isclass(cls) and issubclass(cls, family) and cls.__module__.startswith("attnlab.")
    }
    return {cls for cls in found if not is_abstract(cls)}


def targets() -> set[Any]:
    """Everything a YAML under attention/ or position/ names as its `_target_`, through the composed configs."""
    named = set()
    for text in (file.read_text(encoding="utf-8") for file in YAMLS):
        named |= set(re.findall(r"_target_: (\S+)", text))
    return {get_method(name) if name.split(".")[-1].islower() else get_class(name) for name in named}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_every_class_is_reached_by_a_yaml(family: type) -> None:
    assert concrete(family) - targets() - {Full} == set()


def test_bidirectional_only_by_switch() -> None:
    """A mask that shows later tokens is reached by the switch of the chapter only."""
    for name, cls in (("self", SelfAttention), ("simple", SimpleAttention)):
        layer = subject_of(name, ["attention.causal=false"]).layer(0)
        assert type(layer) is cls and type(layer.mask) is Full and not layer.traits.causal
        assert type(shipped(name).layer(0).mask) is Causal  # type: ignore[union-attr]
        with pytest.raises(UsageError, match=r"reads later tokens.*set attention\.causal=true"):
            subject_of(name, ["attention.causal=false"]).gpt(2)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_families_are_abstract(family: type[Configurable]) -> None:
    """A base is no option; the option that changes nothing, of which a slot has one at most, is a class of its own."""
    with pytest.raises(TypeError, match="abstract"):
        family(**dict.fromkeys(options_of(family) or {}, 2))
    assert sum(cls.neutral for cls in concrete(family)) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_variants_are_their_yamls(name: str) -> None:
    """Every variant is built of what its YAML names."""
    named = {str(value) for path, value in leaves(shipped(name).config.attention) if path.endswith("_target_")}
    built = {type(module) for block in shipped(name).gpt(8).blocks for module in block.modules()}
    classes = {get_class(target) for target in named if not target.split(".")[-1].islower()}
    assert classes <= built


@pytest.mark.parametrize("file", YAMLS, ids=lambda file: file.relative_to(config_dir()).as_posix())
def test_every_yaml_opens_with_a_sentence(file: Path) -> None:
    assert re.match(r"# \S.*\.\n", file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("cls", sorted({c for f in FAMILIES for c in (f, *concrete(f))}, key=lambda c: c.__name__))
def test_every_class_says_what_it_does(cls: type) -> None:
    text = vars(cls).get("__doc__") or ""
    assert re.match(r"[A-Z].+?[.:;]", " ".join(text.split())), cls


CLASSES = sorted((c for f in FAMILIES for c in concrete(f) if not c.neutral), key=lambda c: c.__name__)


@pytest.mark.parametrize("cls", CLASSES)
def test_rule(cls: type) -> None:
    """The docstring of a class that a YAML may name has its formula in a sentence, `Rule: ...`."""
    assert re.search(r"\S = \S", rule_of(cls)), f"{cls.__name__}: the docstring has no sentence `Rule: y = ....`"


@pytest.mark.parametrize("cls", CLASSES)
def test_source(cls: type) -> None:
    """It names the paper."""
    assert documentation.SOURCE.search(cls.__doc__ or ""), f"{cls.__name__}: the docstring names no arXiv number"


def test_missing_rule_and_source() -> None:
    """Formulas and numbers elsewhere are neither; a rule ends with its sentence."""

    class Forgetful(Causal):
        """Reads every second key: j = 2 k, as in equation 4.5 of 2004."""

    class Complete(Causal):
        """Reads in steps. Rule: score = q_i . H_i ... H_j k_j, j = 0 .. i. H is a matrix. Source: arXiv 2004.05150."""

    with pytest.raises(AssertionError, match="Forgetful"):
        test_rule(Forgetful)
    with pytest.raises(AssertionError, match="Forgetful"):
        test_source(Forgetful)
    test_source(Complete)
    assert rule_of(Complete) == "score = q_i . H_i ... H_j k_j, j = 0 .. i"


# What each part may import of attnlab beside itself, or what it may not.
ALLOWED = {
    "errors": set(),
    "machine": {"errors"},
    "options": {"errors"},
    "attention": {"errors", "options"},
    "model": {"attention", "errors", "options"},
    "store": {"errors", "machine"},
    "data": {"errors", "machine", "options", "store"},
    "config": {"errors", "options", "store"},
    "inspection": {"attention", "errors", "model", "options", "store"},
    "analysis": {"config", "errors", "inspection", "machine", "options", "store"},
}
FORBIDDEN = {
    "laws": {"data", "inspection", "training", "runs", "cli"},
    "build": {"inspection", "training", "laws"},
    "generation": {"training", "inspection", "laws", "config", "build"},
    "training": {"laws", "cli", "sweep", "card"},
}
FOREIGN = {
    "attention": {"hydra", "omegaconf", "lightning", "tensorboard", "PIL"},
    "model": {"hydra", "omegaconf", "lightning", "tensorboard", "PIL"},
    "inspection": {"hydra", "omegaconf", "lightning"},
    "options": {"torch", "hydra", "omegaconf", "lightning", "tensorboard"},
    "machine": {"torch", "hydra", "omegaconf", "lightning", "tensorboard"},
    "config": {"torch", "lightning", "tensorboard"},
    "analysis": {"torch", "hydra", "omegaconf", "lightning"},
    "store": {"torch", "hydra", "omegaconf", "lightning", "tensorboard"},
    "laws": {"pytest", "lightning", "tensorboard"},
}


def imported(part: str) -> Iterator[tuple[str, str]]:
    """(file, module) for each import of a part, those inside functions too."""
    single = SOURCE / f"{part}.py"
    files = [single] if single.exists() else sorted((SOURCE / part).rglob("*.py"))
    assert files, f"{part} is no part of attnlab"
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file.name, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module, f"{file}: a relative import"
                yield from ((file.name, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("part", [*ALLOWED, *FORBIDDEN])
def test_imports_point_one_way(part: str) -> None:
    own = {name.split(".")[1]: file for file, name in imported(part) if name.startswith("attnlab.")}
    wrong = set(own) & FORBIDDEN[part] if part in FORBIDDEN else set(own) - ALLOWED[part] - {part}
    assert {(own[name], name) for name in wrong} == set()


@pytest.mark.parametrize("part", FOREIGN)
def test_imports_one_way(part: str) -> None:
    """Mathematics knows no framework and checking a config needs no torch."""
    wrong = {(file, name) for file, name in imported(part) if name.split(".")[0] in FOREIGN[part]}
    wrong |= {(file, name) for file, name in imported(part) if name.startswith("torch.utils.tensorboard")}
    assert wrong == set()
