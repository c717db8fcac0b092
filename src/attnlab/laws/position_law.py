"""The law about positions: each one is obeyed or refused by name, and none is taken in silence and ignored."""

from collections.abc import Mapping
from typing import Any

import torch

from attnlab.attention.position import Position
from attnlab.build import instantiate
from attnlab.errors import UsageError
from attnlab.laws.map_law import map_
from attnlab.laws.sequence import causality, decode, stack
from attnlab.laws.subject import BATCH, SAME, SHORT, LawBroken, Skipped, Subject, gap, ids, one_line
from attnlab.model import GPT


def every_position(subject: Subject) -> Skipped | None:
    """Every position= works through this variant (causality, decode, map) or is refused by name; none is ignored."""
    if not subject.position_names:
        return Skipped("there are no positions to try")
    at = {name: subject.rebuild([f"position={name}"]) for name in sorted({*subject.position_names, "none"})}
    plain = stack(at["none"])
    for name, tried in at.items():
        inside = _inside(tried)
        try:
            model = stack(tried)
        except UsageError as error:
            names = f"position={name}", type(inside).__name__
            if "position" not in str(error) or not any(each in str(error) for each in names):
                raise LawBroken(f"position={name} is refused without being named: {one_line(error)}") from error
            continue
        # A YAML may give each kind of layer a position of its own, whatever position= says.
        its_own = bool(given := _positions(tried)) and given == _positions(at["none"]) and name != "none"
        reads = any(block.attention.traits.uses_position for block in model.layers) and not its_own
        if (reads and not inside.neutral) or not model.embed.neutral:
            _is_not_ignored(model, plain, name)
        if tried.config.position == subject.config.position:
            continue  # the laws under their own names judge it
        for law in (causality, decode, map_):
            try:
                law(tried, SHORT)  # the whole model is tried at all lengths
            except LawBroken as error:
                raise LawBroken(f"position={name}: {law.__name__.strip('_')}: {error}") from error
    return None


def _positions(subject: Subject) -> list[Any]:
    """The positions that a config gives to its kinds of layers."""
    positions, nodes = [], list[Any]([subject.config.attention])
    while nodes:
        node = nodes.pop()
        if isinstance(node, Mapping):
            positions += [value for name, value in node.items() if name == "position"]
            nodes += node.values()
    return positions


def _inside(subject: Subject) -> Position:
    """The position of a layer, of any size: what is asked is which class it is."""
    position: Position = instantiate(subject.config, "position.inside")(head_dim=2, n_heads=1, context=2)
    return position


@torch.no_grad()
def _is_not_ignored(model: GPT, plain: GPT, name: str) -> None:
    x = ids(BATCH, 7)
    if (off := gap(model(x), plain(x))) <= SAME:
        raise LawBroken(
            f"position={name} changes nothing (T=7: {off:.1e} from position=none); the class must take a `position`, "
            "and its YAML must say position: ${position.inside}"
        )
