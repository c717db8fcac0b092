"""The maps of a model that is not ours, as our files, pages and records hold them."""

import inspect as signatures
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.errors import UsageError
from attnlab.inspection.map_files import write_map_files
from attnlab.inspection.maps import collect
from attnlab.inspection.prompt_maps import ChosenHeads, PromptMaps, every_head
from attnlab.inspection.records import Record, half
from attnlab.interchange.foreign.mixing import Mixing, Watch, watch

CROSS = re.compile("cross|enc.*attn|encdec", re.IGNORECASE)  # what the attention to the encoder is called in a decoder
LISTS = ("layers", "layer", "blocks", "block", "h")  # names of a list of layers that say nothing about it
NEARLY = 1e-3  # how far rows of float16 weights may be from their sum


class Inspection(NamedTuple):
    """What a model mixes: the maps of each part of it, and a sentence for each layer that has none.

    Most models are one part, called "". An encoder with a decoder is three. Where a layer mixes in two ways side by
    side, each way is a part. Parts are called as in the model, such as "decoder.encoder_attn".
    """

    parts: dict[str, PromptMaps]
    missing: list[str]

    def chosen(self, layers: Sequence[int] | None, heads: Sequence[int] | None) -> "Inspection":
        """These layers and heads alone, or all of them; refuses numbers that no part has."""
        every = [layer for maps in self.parts.values() for layer in maps.layers]
        numbers, most = sorted({layer.layer for layer in every}), max(len(layer.heads) for layer in every)
        for number in layers or ():
            if number not in numbers:
                some = ", ".join(map(str, numbers))
                raise UsageError(f"layers ({number}) must be a number of the layers that have a map ({some})")
        for number in heads or ():
            if number >= most:
                raise UsageError(f"heads ({number}) must be below the number of heads of these layers ({most})")
        parts = {}
        for part, maps in self.parts.items():
            of_layers = [m.only(heads) for m in maps.layers if layers is None or m.layer in layers]
            if some_heads := [m for m in of_layers if m.heads]:
                parts[part] = maps._replace(layers=some_heads)
        return Inspection(parts, self.missing)

    def save(self, folder: Path | str) -> list[Path]:
        """Write what `attnlab maps` writes, of several parts each into a folder of its own; gives all files."""
        home, many = Path(folder), len(self.parts) > 1
        return [
            file for part, maps in self.parts.items() for file in write_map_files(home / part if many else home, maps)
        ]

    def _repr_html_(self) -> str:
        """What a notebook shows: the maps of each part, and what has none."""
        drawn = (f"<h4>{escape(part)}</h4>" * bool(part) + maps._repr_html_() for part, maps in self.parts.items())
        return "".join([*drawn, *(f"<p>{escape(line)}</p>" for line in self.missing)])

    def records(self, sentence: str) -> Iterator[Record]:
        """The maps as the Attention tab reads them, under the name of a sentence."""
        for part, maps in self.parts.items():
            for layer in maps.layers:
                yield Record(
                    step=maps.step,
                    layer=layer.layer,
                    kind=layer.kind,
                    probe=f"{sentence} · {part}" if part else sentence,
                    text=maps.text,
                    tokens=maps.tokens,
                    weights=half(layer.weights),
                    value_norm=None if layer.value_norm is None else half(layer.value_norm),
                    keys=maps.keys,
                    causal=maps.causal,
                )


def inspect(
    model: nn.Module,
    inputs: Any,
    *,
    labels: Sequence[str] | None = None,
    target_labels: Sequence[str] | None = None,
    name: str = "",
    text: str = "",
    step: int = 0,
) -> Inspection:
    """The attention of any torch module for one example: `attnlab.inspect(model, {"input_ids": ids}).save("maps")`.

    `inputs` are what the model takes, a mapping of arguments, a tuple or one tensor, for a batch of 1. `labels` name
    the tokens (of a picture its patches), `target_labels` those of a decoder beside an encoder; without them tokens are
    called by their ids, and all else by its place. `name`, `text` and `step` are written beside the maps. The model
    computes in evaluation mode, and is the same afterwards. Raises UsageError where nothing can be shown.
    """
    if (ours := _ours(model, inputs)) is not None:
        return _of_ours(*ours, labels, PromptMaps(name, step, text, [], []))
    watching, _ = watch(model, lambda: call(model, inputs))
    sources = labels if labels is not None else _ids(inputs, "input_ids")
    targets = target_labels if target_labels is not None else _ids(inputs, "decoder_input_ids")
    missing = _missing(watching)
    if not watching.mixings:
        raise UsageError("; ".join(["this model has no attention that can be shown", *missing[:4]]))
    parts = {}
    for part, mixings in _groups(watching.mixings).items():
        layers = [_heads(mixing) for mixing in mixings]
        t, s = layers[0].weights.shape[1:]
        owner = mixings[0].owner
        of_decoder = targets is not None and "decoder" in owner.layers
        crosses = of_decoder and CROSS.search(owner.part) is not None
        tokens = _named(targets if of_decoder else sources, t)
        keys = _named(targets if of_decoder and not crosses else sources, s)
        causal = t == s and not crosses and not any(np.triu(layer.weights, 1).any() for layer in layers)
        same = t == s and not crosses
        parts[part] = PromptMaps(name, step, text, tokens, layers, None if same else keys, causal)
    _check_labels(parts, labels, target_labels)
    return Inspection(parts, missing)


def _ours(model: nn.Module, inputs: Any) -> tuple[Any, list[int]] | None:
    """Our own network, bare or in an exported model, which gives every map itself; and the ids it is given."""
    ids = _ids(inputs, "input_ids")
    networks = [m for m in model.modules() if type(m).__name__ == "GPT" and hasattr(m, "attention_maps")]
    return (networks[0], [int(i) for i in ids]) if networks and ids is not None else None


def _of_ours(network: Any, ids: list[int], labels: Sequence[str] | None, maps: PromptMaps) -> Inspection:
    collected = collect(network, ids)
    layers, without = every_head(collected), [layer.layer for layer in collected if layer.weights is None]
    missing = [f"layer {number} has no map: its output is no weighted sum of its values" for number in without]
    if not layers:
        raise UsageError("; ".join(["this model has no attention that can be shown", *missing[:4]]))
    parts = {"": maps._replace(tokens=list(labels) if labels is not None else [str(i) for i in ids], layers=layers)}
    _check_labels(parts, labels)
    return Inspection(parts, missing)


def call(model: nn.Module, inputs: Any) -> Any:
    """What a model gives for its inputs, without a cache."""
    arguments = [*inputs] if isinstance(inputs, tuple) else [] if isinstance(inputs, Mapping) else [inputs]
    keywords = dict(inputs) if isinstance(inputs, Mapping) else {}
    first = next((each for each in (*arguments, *keywords.values()) if isinstance(each, Tensor)), None)
    if first is not None and first.ndim > 1 and len(first) != 1:
        raise UsageError(f"inputs hold a batch of {len(first)}, but maps are taken of one example: a batch of 1")
    if "use_cache" in signatures.signature(model.forward).parameters:
        keywords.setdefault("use_cache", False)
    return model(*arguments, **keywords)


def _groups(mixings: Sequence[Mixing]) -> dict[str, list[Mixing]]:
    """The mixings of each part, by its name; the layers of a part that share a number are counted anew."""
    lists = list(dict.fromkeys(mixing.owner.layers for mixing in mixings))
    short = {each: _short(each) for each in lists} if len(lists) > 1 else dict.fromkeys(lists, "")
    names = {each: label if [*short.values()].count(label) == 1 else each for each, label in short.items()}
    per_layer: dict[tuple[str, int], set[str]] = {}
    for layers, layer, part in (mixing.owner for mixing in mixings):
        per_layer.setdefault((layers, layer), set()).add(part)
    side_by_side = {layers for (layers, _), parts in per_layer.items() if len(parts) > 1}
    shapes: dict[str, set[tuple[int, ...]]] = {}
    groups: dict[tuple[str, tuple[int, ...]], list[Mixing]] = {}
    for mixing in mixings:
        layers, _, part = mixing.owner
        label = ".".join(filter(None, (names[layers], part if layers in side_by_side else "")))
        shape = mixing.weights.shape[1:]
        shapes.setdefault(label, set()).add(shape)
        group = groups.setdefault((label, shape), [])
        # Some layers compute the same weights again for another half of the values.
        if not (group and group[-1].owner == mixing.owner and np.array_equal(group[-1].weights, mixing.weights)):
            group.append(mixing)
    return {
        label if len(shapes[label]) == 1 else f"{label} {'x'.join(map(str, shape))}".strip(): _numbered_anew(group)
        for (label, shape), group in groups.items()
    }


def _numbered_anew(group: list[Mixing]) -> list[Mixing]:
    numbers = [mixing.owner.layer for mixing in group]
    if len({*numbers}) == len(numbers):
        return group
    return [mixing._replace(owner=mixing.owner._replace(layer=i)) for i, mixing in enumerate(group)]


def _short(layers: str) -> str:
    """The name of a list of layers, such as "encoder" for model.encoder.layers."""
    names = layers.split(".")
    return ([name for name in names if name not in LISTS] or names)[-1]


def _heads(mixing: Mixing) -> ChosenHeads:
    weights = mixing.weights
    kind = "signed" if mixing.is_memory else _kind(weights)
    return ChosenHeads(mixing.owner.layer, kind, [*range(len(weights))], weights, mixing.value_norm)


def _kind(weights: Float[np.ndarray, "h t s"]) -> str:
    """The kind of a map, by its numbers."""
    sums = weights.sum(axis=-1)
    if (weights < 0).any():
        return "signed"
    if (np.abs(sums - 1) < NEARLY).all():
        return "probability"
    return "sub_probability" if (sums < 1 + NEARLY).all() else "nonnegative"


def _missing(watching: Watch) -> list[str]:
    """A sentence for each layer, or part of one, that has no map, in lists in which some have or could have one."""
    shown = {mixing.owner for mixing in watching.mixings}
    reasons = {owner: reason for owner, reason in watching.missing.items() if owner not in shown}
    some = {owner.layers for owner in (*shown, *reasons)}
    mixed = {owner._replace(part="") for owner in (*shown, *reasons)}
    for owner, layer in watching.computed.items():
        if owner not in mixed and (owner.layers in some or any(map(_is_attention, layer.modules()))):
            reasons[owner] = f"{type(layer).__name__} computes no weighted sum of values that could be shown"
    some = {owner.layers for owner in (*shown, *reasons)}
    return [
        f"layer {owner.layer}{f' of {owner.layers}' if len(some) > 1 else ''}{f', {owner.part}' if owner.part else ''} "
        f"has no map: {reason}"
        for owner, reason in sorted(reasons.items())
    ]


def _is_attention(module: nn.Module) -> bool:
    return "attention" in type(module).__name__.lower()


def _ids(inputs: Any, key: str) -> list[str] | None:
    ids = inputs.get(key) if isinstance(inputs, Mapping) else inputs if key == "input_ids" else None
    if isinstance(ids, tuple):
        ids = ids[0]
    whole = isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point() and ids.dtype != torch.bool
    return [str(i) for i in ids[0].tolist()] if whole and isinstance(ids, Tensor) else None


def _named(labels: Sequence[str] | None, n: int) -> list[str]:
    """The labels where they fit, otherwise places."""
    return list(labels) if labels is not None and len(labels) == n else [str(i) for i in range(n)]


def _check_labels(parts: Mapping[str, PromptMaps], *given: Sequence[str] | None) -> None:
    """Refuse labels that name nothing."""
    lengths = sorted({n for maps in parts.values() for layer in maps.layers for n in layer.weights.shape[1:]})
    for labels in given:
        if labels is not None and len(labels) not in lengths:
            raise UsageError(f"labels ({len(labels)}) must be as many as tokens ({' or '.join(map(str, lengths))})")
