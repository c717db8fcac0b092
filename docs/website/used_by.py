"""Which types of model of others have layers of a variant: found in how each type is read, not written down."""

from collections.abc import Iterator, Mapping
from functools import cache
from pydoc import locate
from typing import Any, NamedTuple

from docs.website.config_keys import CONFIGS
from tests.interchange.tiny import TYPES

from attnlab.config.compose import compose_config
from attnlab.interchange.families.registry import FAMILIES
from attnlab.options import options_of

PLAIN = "MultiHeadAttention"  # the class whose variants are told apart by their slots alone
NEUTRAL = {"Causal", "NoGate", "Scaled", "Softmax"}  # what it is made of


class Kind(NamedTuple):
    """What a layer is: its class, how many heads of keys it has, and the options in its slots that are not plain."""

    name: str
    keys: str
    slots: frozenset[str]


def kinds(node: Mapping[str, Any]) -> set[Kind]:
    """The kinds of layers that a node of attention describes."""
    if isinstance(node.get("kinds"), Mapping):
        return set().union(*(kinds(each) for each in node["kinds"].values()))
    name, heads, groups = class_of(node), node.get("n_heads"), node.get("n_kv_heads")
    keys = "one for each" if name != PLAIN or groups in (None, heads) else "one" if groups == 1 else "some"
    return {Kind(name, keys, frozenset({*slots(node), *(["conv"] if node.get("conv") else [])} - NEUTRAL))}


def class_of(node: Mapping[str, Any]) -> str:
    """The name of a node's class."""
    return str(node["_target_"]).rpartition(".")[2]


def slots(node: Mapping[str, Any]) -> Iterator[str]:
    """The classes below a layer, but for its position."""
    for key, value in node.items():
        if key != "position" and isinstance(value, Mapping):
            yield from [class_of(value)] if "_target_" in value else []
            yield from slots(value)


def changes(node: Mapping[str, Any]) -> int:
    """How many settings of a variant are not what its classes have by default."""
    declared = options_of(locate(str(node["_target_"]))) or {} if "_target_" in node else {}
    plain = [key for key, value in node.items() if not isinstance(value, Mapping) and key in declared]
    own = sum(node[key] != declared[key].default for key in plain if key != "n_heads")
    position = "position" in node and class_of(node["position"]) != "RoPE"
    return own + position + sum(changes(value) for value in node.values() if isinstance(value, Mapping))


@cache
def variants() -> dict[str, set[Kind]]:
    """The kinds of layers of every variant; of those with the same kinds, the one that changes least."""
    nodes = {
        file.stem: compose_config([f"attention={file.stem}"]).attention
        for file in (CONFIGS / "attention").glob("*.yaml")
    }
    by_kinds: dict[frozenset[Kind], str] = {}
    for name, node in sorted(nodes.items(), key=lambda item: (changes(item[1]), item[0])):
        by_kinds.setdefault(frozenset(kinds(node)), name)
    return {name: set(each) for each, name in by_kinds.items()}


@cache
def types_of(variant: str) -> list[str]:
    """The types of `attnlab import` with layers of this variant, in the settings of the tests."""
    mine = variants().get(variant, set())
    found = set()
    for model_type, config in TYPES.values():
        settings = FAMILIES[model_type].settings({"model_type": model_type, **config}, model_type)
        theirs = set().union(*(kinds(layer) for layer in settings.layers))
        if (len(mine) > 1 and parts_of(mine) == parts_of(theirs)) or (
            len(mine) == 1 and any(is_one_of(*mine, each) for each in theirs)
        ):
            found.add(model_type)
    return sorted(found)


def parts_of(all_kinds: set[Kind]) -> set[tuple[str, frozenset[str]]]:
    """The classes and options of kinds; how many heads share a key is a size."""
    return {(kind.name, kind.slots) for kind in all_kinds}


def is_one_of(variant: Kind, layer: Kind) -> bool:
    """Whether a layer is of a variant: of its class with its options; plain attention may have others besides."""
    if variant.name != PLAIN or variant == Kind(PLAIN, "one for each", frozenset()):
        return variant == layer
    return layer.name == PLAIN and variant.slots <= layer.slots and variant.keys in ("one for each", layer.keys)
