"""The maps that a trained model makes of a text: which heads, and how they are kept in a file."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float
from safetensors.numpy import save

from attnlab.errors import UsageError
from attnlab.inspection.records import LayerMap, read_tensors
from attnlab.store.files import parse_json, write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

    from attnlab.inspection.notebook import MapDrawing

FORMAT = "attnlab prompt maps 1"


class ChosenHeads(NamedTuple):
    """The chosen heads of one layer: their numbers, their maps, and how long their values are."""

    layer: int
    kind: str
    heads: list[int]
    weights: Float[np.ndarray, "h t s"]
    value_norm: Float[np.ndarray, "h s"] | None

    def only(self, heads: Sequence[int] | None) -> "ChosenHeads":
        """Those of these numbers, or all."""
        rows = [i for i, head in enumerate(self.heads) if heads is None or head in heads]
        norms = None if self.value_norm is None else self.value_norm[rows]
        return self._replace(heads=[self.heads[i] for i in rows], weights=self.weights[rows], value_norm=norms)


def every_head(layers: Iterable[LayerMap]) -> list[ChosenHeads]:
    """All heads of each layer that has a map."""
    return [
        ChosenHeads(m.layer, m.kind, [*range(len(m.weights))], m.weights, m.value_norm)
        for m in layers
        if m.weights is not None
    ]


class PromptMaps(NamedTuple):
    """The maps of one text: where they come from, its tokens, and the chosen heads layer by layer.

    In a notebook they draw themselves, all heads of each layer; `head` is one of them alone, `columns` draws lines
    between two columns of tokens.
    """

    run: str
    step: int
    text: str
    tokens: list[str]
    layers: list[ChosenHeads]
    keys: list[str] | None = None  # the tokens that are read, if they are not the tokens themselves
    causal: bool = True  # whether no token may read a later one

    def picture(self, layer: ChosenHeads) -> "Image":
        """The heads of a layer, drawn side by side."""
        from attnlab.inspection.figures import draw_layer  # Pillow is needed for pictures alone

        title = f"{self.run}, step {self.step}, layer {layer.layer}"
        return draw_layer(
            layer.weights, layer.kind, self.tokens, title, heads=layer.heads, keys=self.keys, causal=self.causal
        )

    def head(self, layer: int, head: int) -> "MapDrawing":
        """One head alone. Raises UsageError for a head that is not among these."""
        from attnlab.inspection.notebook import MapDrawing, shown_picture

        one = self._only(layer, [head])
        return MapDrawing(shown_picture(self.picture(one), f"The map of head {head} of layer {layer}"))

    def columns(self, layer: int, heads: Sequence[int] | None = None) -> "MapDrawing":
        """Who reads what, as lines between two columns of tokens: of these heads of a layer over each other, or all.

        Raises UsageError for a head that is not among these.
        """
        from attnlab.inspection.notebook import MapDrawing, token_columns

        one = self._only(layer, heads)
        title = f"What the tokens read in layer {layer}"
        return MapDrawing(token_columns(one.weights, one.heads, self.tokens, self.keys or self.tokens, title))

    def _repr_html_(self) -> str:
        from attnlab.inspection.notebook import shown_picture

        return "".join(
            shown_picture(self.picture(layer), f"The maps of layer {layer.layer} of {self.run}")
            for layer in self.layers
        )

    def _only(self, layer: int, heads: Sequence[int] | None) -> ChosenHeads:
        """These heads of a layer, or all of it."""
        chosen = {each.layer: each for each in self.layers}
        if layer not in chosen:
            raise UsageError(f"layer ({layer}) must be one of those with a map here ({', '.join(map(str, chosen))})")
        for head in heads or ():
            if head not in (numbers := chosen[layer].heads):
                raise UsageError(
                    f"head ({head}) must be one of those of layer {layer} ({', '.join(map(str, numbers))})"
                )
        return chosen[layer].only(heads)


def choose_heads(
    maps: Sequence[LayerMap], layers: Sequence[int] | None, heads: Sequence[int] | None
) -> list[ChosenHeads]:
    """The maps of these layers and heads, or of all; refuses numbers that the model does not have."""
    for number in layers or ():
        if number >= len(maps):
            raise UsageError(f"layers ({number}) must be below the number of layers of the run ({len(maps)})")
    with_map = every_head(m for m in maps if layers is None or m.layer in layers)
    if not with_map:
        raise UsageError(
            "layers: none of these has an attention map (their output is not a weighted sum of values); "
            "attnlab explain shows what they compute"
        )
    most = max(len(layer.heads) for layer in with_map)
    for number in heads or ():
        if number >= most:
            raise UsageError(f"heads ({number}) must be below the number of heads of these layers ({most})")
    return [chosen for layer in with_map if (chosen := layer.only(heads)).heads]


def save_prompt_maps(path: Path, maps: PromptMaps) -> None:
    """Write the maps into one safetensors file, whole or not at all.

    A tensor `layer_00.head_03` (float32, queries x keys) for each head, and `layer_00.head_03.value_norm` (keys) with
    the length of each token's value. The metadata holds `format`, `run`, `step`, `text`, and as JSON `tokens` (a label
    for each), `kinds` ({layer: probability, sub_probability, nonnegative or signed}), `causal`, and `keys` (a label
    for each token that is read, null where these are the tokens themselves).
    """
    tensors: dict[str, np.ndarray] = {}
    for layer in maps.layers:
        for i, head in enumerate(layer.heads):
            name = f"layer_{layer.layer:02d}.head_{head:02d}"
            tensors[name] = np.ascontiguousarray(layer.weights[i], dtype=np.float32)
            if layer.value_norm is not None:
                tensors[f"{name}.value_norm"] = np.ascontiguousarray(layer.value_norm[i], dtype=np.float32)
    metadata = {
        "format": FORMAT,
        "run": maps.run,
        "step": str(maps.step),
        "text": maps.text,
        "tokens": json.dumps(maps.tokens, ensure_ascii=False),
        "kinds": json.dumps({layer.layer: layer.kind for layer in maps.layers}),
        "keys": json.dumps(maps.keys, ensure_ascii=False),
        "causal": json.dumps(maps.causal),
    }
    write_atomically(path, save(tensors, metadata), key="folder")


def load_prompt_maps(path: Path | str) -> PromptMaps:
    """Read what `save_prompt_maps` wrote."""
    if not Path(path).is_file():
        raise UsageError(f"{path} does not exist: attnlab maps writes maps.safetensors")
    metadata, tensors = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise UsageError(f"{path} is not a file of attnlab maps (its format is {metadata.get('format')!r})")
    layers = []
    try:
        for number, kind in sorted((int(n), kind) for n, kind in parse_json(metadata["kinds"]).items()):
            before = f"layer_{number:02d}.head_"
            names = sorted(name for name in tensors if name.startswith(before) and not name.endswith(".value_norm"))
            norms = [tensors[f"{name}.value_norm"] for name in names if f"{name}.value_norm" in tensors]
            heads, weights = [int(name.removeprefix(before)) for name in names], np.stack([tensors[n] for n in names])
            layers.append(ChosenHeads(number, kind, heads, weights, np.stack(norms) if norms else None))
        tokens, keys = parse_json(metadata["tokens"]), parse_json(metadata.get("keys", "null"))
        causal = parse_json(metadata.get("causal", "true"))
        return PromptMaps(metadata["run"], int(metadata["step"]), metadata["text"], tokens, layers, keys, causal)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged ({type(error).__name__}: {' '.join(str(error).split())[:200]})") from error
