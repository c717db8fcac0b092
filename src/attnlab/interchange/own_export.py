"""A folder that `attnlab export` wrote with code, since no type of theirs can say its settings: read without it."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from attnlab.config.allowed_classes import check_targets
from attnlab.config.compose import check_values, compose_config
from attnlab.config.run_config import Node, RunConfig
from attnlab.errors import UsageError
from attnlab.interchange.families.family import Family, Link
from attnlab.interchange.families.keys_of_config import NOPE
from attnlab.interchange.families.transforms import SAME
from attnlab.options.rules import COUNT, refusal

MODEL_TYPE = "attnlab"


def own_config(stored: Mapping[str, Any], file: str, vocabulary: Node) -> tuple[RunConfig, int]:
    """The config of a run with the settings that such a config.json holds, and how many ids it has.

    Classes are looked for in attnlab alone, whatever the file says. Raises UsageError for what no run has.
    """
    nodes = {key: stored.get(key) for key in ("model", "attention", "embed")}
    if not all(isinstance(node, Mapping) and node for node in nodes.values()):
        raise UsageError(f"{file} must hold settings by name at model, attention and embed")
    n_vocab: Any = stored.get("vocab_size")
    if not COUNT.accepts(n_vocab):
        raise UsageError(f"{file}: {refusal('vocab_size', n_vocab, COUNT)}")
    position = {"embed": nodes["embed"], "inside": _position(nodes["attention"]) or NOPE}
    groups = {"model": nodes["model"], "attention": nodes["attention"], "position": position}
    check_targets(groups)
    try:
        check_values(groups)
        usual = {**compose_config().as_dict(), "experiment_name": MODEL_TYPE, "tokenizer": vocabulary}
        return RunConfig.of({**usual, **groups}), n_vocab
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def _position(node: Any) -> Node | None:
    """The first position in the settings of an attention."""
    if not isinstance(node, Mapping):
        return None
    if isinstance(own := node.get("position"), Mapping):
        return dict(own)
    return next((inner for child in node.values() if (inner := _position(child)) is not None), None)


def is_own(content: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a folder that attnlab wrote for a variant of its own."""
    return content.get("model_type") == MODEL_TYPE


def own_family(model: nn.Module) -> Family:
    """The layout of such a folder: our names, and constants that a model makes itself."""
    constants = tuple(re.escape(f"model.{name}") for name, _ in model.named_buffers())
    return Family(MODEL_TYPE, "", {}, {}, (), {"head": "model.head"}, unused=constants)


def own_links(model: nn.Module) -> list[Link]:
    """Each of our tensors under its own name."""
    return [Link((name,), (f"model.{name}",), SAME, None) for name, _ in model.named_parameters()]
