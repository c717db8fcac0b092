"""Maps as data: a record in TensorBoard's event file for every step, and one file for the last and the best.

A record is a summary with a string tensor of two elements, under the plugin name "attention":

    [0]  a header, JSON in UTF-8: {"format": 1, "layer", "step", "kind", "probe", "text", "tokens": [label, ...],
         "shape": [heads, queries, keys], "layout": "lower" | "full", "value_norm": true | false}
    [1]  zlib-compressed little-endian float16 numbers, without gaps: the weights, then (if "value_norm") the norms

Weights run head by head and row by row. In the layout "lower" row i holds the keys 0 .. i only, because the map is
square and all later keys have weight 0: heads * t * (t + 1) / 2 numbers. In the layout "full" every row holds all keys.
A header may hold two entries more: "causal": false, of a map whose tokens may read later ones, too, and "keys": [label,
...], of one that reads other tokens than its own, as cross-attention does.
Norms are the L2 norms of each token's value: heads * keys numbers, head by head. float16 has 11 significant bits;
weights beyond +-65504 are stored as that, NaN stays NaN.

The numbers of heads stand beside the maps, under the same plugin name, so that they fill no charts: a record for every
metric and step, heads/<metric>, with one element, JSON: {"L00H01": number, ...}.
"""

import io
import json
import shlex
import shutil
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float16
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load, save
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING

from attnlab.errors import UsageError
from attnlab.inspection.colours import KINDS
from attnlab.store.files import parse_json, read_file, write_atomically

PLUGIN = "attention"
HEADS = "heads/"  # how the tags of the numbers of heads begin
FORMAT = 1
SAMPLES = 1000  # per tag: more than any run writes, since TensorBoard thins out what is above the number it is given
MOST_MAPS_BYTES = 2**28  # of a file of maps
LARGEST = float(np.finfo(np.float16).max)


class Record(NamedTuple):
    """The map of one layer for one sentence at one step, in float16."""

    step: int
    layer: int
    kind: str
    probe: str
    text: str
    tokens: list[str]
    weights: Float16[np.ndarray, "h t s"]
    value_norm: Float16[np.ndarray, "h s"] | None
    keys: list[str] | None = None  # the tokens that are read, if they are not the tokens themselves
    causal: bool = True  # whether no token may read a later one

    @property
    def tag(self) -> str:
        """Where TensorBoard keeps it."""
        return f"maps/{self.probe}/layer_{self.layer:02d}"


class LayerMap(NamedTuple):
    """The map of every head of one layer for one sentence, in float32; None where a layer has no map."""

    layer: int
    kind: str
    weights: Float[np.ndarray, "h t s"] | None
    value_norm: Float[np.ndarray, "h s"] | None


class Sentence(NamedTuple):
    """The maps of all layers for one sentence, and the labels of its tokens."""

    name: str
    text: str
    tokens: list[str]
    layers: list[LayerMap]


class Maps(NamedTuple):
    """What a maps file holds."""

    run: str
    step: int
    sentences: list[Sentence]


def half(numbers: Float[np.ndarray, "*shape"]) -> Float16[np.ndarray, "*shape"]:
    """The numbers in float16, those beyond its range at the end of it."""
    return numbers.clip(-LARGEST, LARGEST).astype(np.float16)


def encode(record: Record) -> tuple[bytes, bytes]:
    """Header and compressed numbers of a record, as described at the top of this file."""
    weights = record.weights
    heads, t, s = weights.shape
    lower = record.causal and t == s and not np.triu(weights != 0, 1).any()
    numbers = weights[:, *np.tril_indices(t)] if lower else weights
    parts = [numbers] if record.value_norm is None else [numbers, record.value_norm]
    header = {
        "format": FORMAT,
        "layer": record.layer,
        "step": record.step,
        "kind": record.kind,
        "probe": record.probe,
        "text": record.text,
        "tokens": record.tokens,
        "shape": [heads, t, s],
        "layout": "lower" if lower else "full",
        "value_norm": record.value_norm is not None,
    }
    header |= {} if record.causal else {"causal": False}
    header |= {} if record.keys is None else {"keys": record.keys}
    raw = b"".join(np.ascontiguousarray(part, dtype="<f2").tobytes() for part in parts)
    return json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode(), zlib.compress(raw, 6)


def decode(header: bytes, numbers: bytes) -> Record:
    """The record that `encode` was given, number for number."""
    meta = json.loads(header)
    if meta["format"] != FORMAT:
        raise UsageError(f"a map record has format {meta['format']}, but this attnlab reads format {FORMAT}")
    flat = np.frombuffer(zlib.decompress(numbers), dtype="<f2").astype(np.float16)
    heads, t, s = meta["shape"]
    if meta["layout"] == "lower":
        count = heads * t * (t + 1) // 2
        weights = np.zeros((heads, t, s), dtype=np.float16)
        weights[:, *np.tril_indices(t)] = flat[:count].reshape(heads, -1)
    else:
        count = heads * t * s
        weights = flat[:count].reshape(heads, t, s)
    norms = flat[count:].reshape(heads, s) if meta["value_norm"] else None
    about = {key: meta[key] for key in ("step", "layer", "kind", "probe", "text", "tokens")}
    about |= {"keys": meta.get("keys"), "causal": meta.get("causal", True)}
    return Record(**about, weights=weights, value_norm=norms)


def record_summary(record: Record) -> Summary:
    """The record as TensorBoard stores it."""
    return Summary(value=[_value(record.tag, encode(record))])


def heads_summary(metrics: Mapping[str, Mapping[str, float]]) -> Summary:
    """The numbers of heads at a step, by metric and by name, as TensorBoard stores them."""
    return Summary(
        value=[_value(HEADS + metric, [json.dumps(numbers).encode()]) for metric, numbers in metrics.items()]
    )


def _value(tag: str, parts: Sequence[bytes]) -> Summary.Value:
    tensor = TensorProto(dtype=DT_STRING, string_val=parts)
    tensor.tensor_shape.CopyFrom(TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(parts))]))
    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN, content=json.dumps({"format": FORMAT}).encode()),
        data_class=DATA_CLASS_TENSOR,
    )
    return Summary.Value(tag=tag, tensor=tensor, metadata=metadata)


def image_summary(tag: str, png: bytes) -> Summary:
    """A picture, the bytes of a PNG file, as TensorBoard stores it."""
    width, height = Image.open(io.BytesIO(png)).size
    picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=picture)])


def save_maps(path: Path | str, sentences: Sequence[Sentence], *, step: int, run: str) -> None:
    """Write the maps of a model into one safetensors file, whole or not at all.

    Tensors `probe0/layer_00` (float32, heads x queries x keys) and `probe0/layer_00/value_norm` (heads x keys); the
    metadata holds `format`, `run`, `step`, and as JSON `probes` (name, text), `tokens` (labels) and `kinds`, one
    entry per sentence. A layer without a map has a kind and no tensor.
    """
    tensors: dict[str, np.ndarray] = {}
    for i, sentence in enumerate(sentences):
        for layer in sentence.layers:
            name = f"probe{i}/layer_{layer.layer:02d}"
            for key, array in ((name, layer.weights), (f"{name}/value_norm", layer.value_norm)):
                if array is not None:
                    tensors[key] = np.ascontiguousarray(array, dtype=np.float32)
    metadata = {
        "format": f"attnlab maps {FORMAT}",
        "run": run,
        "step": str(step),
        "probes": json.dumps([{"name": s.name, "text": s.text} for s in sentences], ensure_ascii=False),
        "tokens": json.dumps([s.tokens for s in sentences], ensure_ascii=False),
        "kinds": json.dumps([[layer.kind for layer in s.layers] for s in sentences]),
    }
    write_atomically(Path(path), save(tensors, metadata), key="paths.runs")


def read_tensors(path: Path | str) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The metadata and the arrays of a safetensors file; refuses one that is damaged."""
    try:
        data = read_file(path, MOST_MAPS_BYTES)
        tensors = load(data)
        about = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return about.get("__metadata__", {}), tensors
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, AttributeError, RecursionError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({' '.join(str(error).split())[:200]})") from error


def load_maps(path: Path | str) -> Maps:
    """Read what `save_maps` wrote."""
    if not Path(path).is_file():
        raise UsageError(f"{path} does not exist: a run writes its maps at the best and at the last step")
    metadata, tensors = read_tensors(path)
    if metadata.get("format") != f"attnlab maps {FORMAT}":
        raise UsageError(f"{path} is not a file of maps (its format is {metadata.get('format')!r})")
    try:
        probes, tokens, kinds = (parse_json(metadata[key]) for key in ("probes", "tokens", "kinds"))
        sentences = []
        for i, (probe, labels) in enumerate(zip(probes, tokens, strict=True)):
            layers = []
            for j, kind in enumerate(kinds[i]):
                name = f"probe{i}/layer_{j:02d}"
                layers.append(LayerMap(j, kind, tensors.get(name), tensors.get(f"{name}/value_norm")))
                _check_layer(layers[-1], labels)
            sentences.append(Sentence(str(probe["name"]), str(probe["text"]), labels, layers))
        return Maps(metadata["run"], int(metadata["step"]), sentences)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UsageError(f"{path} is damaged ({reason})") from error


def _check_layer(layer: LayerMap, labels: list[str]) -> None:
    """A ValueError for a layer that does not fit the tokens of its sentence."""
    if layer.kind not in KINDS and layer.weights is not None:
        raise ValueError(f"a map of the kind {layer.kind!r}")
    n = len(labels)
    if not all(isinstance(label, str) for label in labels):
        raise ValueError("a label that is no text")
    for array, shape in ((layer.weights, (n, n)), (layer.value_norm, (n,))):
        if array is not None and (
            array.ndim != 1 + len(shape) or array.shape[1:] != shape or array.dtype != np.float32
        ):
            raise ValueError(f"an array of shape {array.shape} for {n} tokens")


def tensorboard_command(folder: Path | str) -> str:
    """The command that shows every step of the runs below a folder, to be typed where this program was started.

    Without --samples_per_plugin TensorBoard shows about ten pictures of a tag, and not the first.
    """
    script = Path(sys.executable).parent / "tensorboard"
    in_path = shutil.which("tensorboard")
    if in_path is not None and Path(in_path).resolve() == script.resolve():
        program = "tensorboard"
    elif script.is_file():
        program = shlex.quote(_from_here(script))
    else:
        program = f"{shlex.quote(_from_here(Path(sys.executable)))} -m tensorboard.main"
    samples = f"images={SAMPLES},{PLUGIN}={SAMPLES}"
    return f"{program} --logdir {shlex.quote(_from_here(Path(folder)))} --samples_per_plugin {samples}"


def _from_here(path: Path) -> str:
    """A path as one types it: relative if it is below the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else str(path)
