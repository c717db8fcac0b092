"""What the tab reads: which runs hold maps, at which steps, and one map, through TensorBoard's own data provider.

TensorBoard has read the event files already; here nothing is opened, and of a folder with hundreds of runs only the
series of the map that is looked at is asked for.
"""

import json
import math
import re
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from tensorboard.context import RequestContext
from tensorboard.data.provider import DataProvider, RunTagFilter

from attnlab.inspection.colours import KINDS
from attnlab.inspection.figures import largest_of
from attnlab.inspection.head_metrics import head_metrics
from attnlab.inspection.records import FORMAT, HEADS, PLUGIN, Record, decode, encode
from attnlab.store.files import parse_json

TAG = re.compile(r"maps/(?P<sentence>.+)/layer_(?P<layer>[0-9]{1,9})")
HEAD_SCALAR = re.compile(r"(?P<metric>.+)/L(?P<layer>[0-9]{1,9})H(?P<head>[0-9]{1,9})")
MOST_STEPS = 1_000_000  # a number that TensorBoard wants: more than any series holds
MOST_NUMBERS = 2**26  # of one record: 128 MiB of float16; more is not a map of attention but damage
MOST_CACHED_BYTES = 2**28


class NotThere(LookupError):
    """No such run, sentence, layer or step."""


class DamagedRecord(ValueError):
    """A record that cannot be what attnlab wrote; the message says why."""


class MapSeries(NamedTuple):
    """One series of maps: of one run, one sentence and one layer."""

    run: str
    sentence: str
    layer: int

    @property
    def tag(self) -> str:
        """Where TensorBoard keeps it, as `Record.tag`."""
        return f"maps/{self.sentence}/layer_{self.layer:02d}"


class Shown(NamedTuple):
    """A map as it is sent: a record, small enough to be drawn, and what was found out before it was made small."""

    record: Record
    pooled: int  # how many tokens each row and column stands for
    tokens: int  # of the sentence


def verified(parts: list[bytes]) -> dict[str, Any]:
    """The header in the parts of a string tensor; DamagedRecord if they are not what `encode` writes."""
    if len(parts) != 2:
        raise DamagedRecord(f"it has {len(parts)} parts, not 2")
    try:
        header = parse_json(parts[0])
    except ValueError as error:
        raise DamagedRecord("its header is not JSON") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DamagedRecord(f"it is not in format {FORMAT}")
    shape, tokens = header.get("shape"), header.get("tokens")
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)):
        raise DamagedRecord(f"its shape is {shape}")
    if not isinstance(header.get("kind"), str) or header["kind"] not in KINDS:
        raise DamagedRecord(f"its kind is {header.get('kind')}")
    heads, t, s = shape
    for labels, n in ((tokens, t), (header.get("keys", tokens), s)):
        if not (isinstance(labels, list) and len(labels) == n and all(isinstance(label, str) for label in labels)):
            raise DamagedRecord("its tokens do not fit its shape")
    if not isinstance(header.get("causal", True), bool):
        raise DamagedRecord(f"whether it is causal is {header['causal']}")
    if lacking := sorted({"step", "layer", "probe", "text", "value_norm"} - header.keys()):
        raise DamagedRecord(f"its header lacks {', '.join(lacking)}")
    texts, numbers = (header["probe"], header["text"]), (header["step"], header["layer"])
    if not all(isinstance(text, str) for text in texts) or not all(type(n) is int and n >= 0 for n in numbers):
        raise DamagedRecord("its step, layer, probe or text is of another type")
    per_head = {"lower": t * (t + 1) // 2 if t == s else 0, "full": t * s}.get(str(header.get("layout")), 0)
    count = heads * (per_head + (s if header.get("value_norm") else 0))
    if not per_head or count > MOST_NUMBERS:
        raise DamagedRecord(f"its layout is {header.get('layout')} with {count} numbers")
    try:
        inflate = zlib.decompressobj()
        size = len(inflate.decompress(parts[1], 2 * count + 1))
    except zlib.error as error:
        raise DamagedRecord("its numbers are damaged") from error
    if size != 2 * count or not inflate.eof:
        raise DamagedRecord(f"it holds {size} bytes of numbers instead of {2 * count}")
    return header


def checked(parts: list[bytes]) -> Record:
    """The record in the parts of a string tensor; DamagedRecord if they are not what `encode` writes."""
    verified(parts)
    return decode(*parts)


def numbers_of(maps: Float[np.ndarray, "h t s"], kind: str, *, cross: bool = False) -> dict[str, dict[str, Any]]:
    """The metrics of a map: under `heads` for each name a number per head, under `layer` one for all heads."""
    metrics: dict[str, dict[str, Any]] = {"heads": {}, "layer": {}}
    for tag, number in head_metrics(maps, kind, 0, cross=cross).items():
        name = tag.rpartition("/")[0]
        if HEAD_SCALAR.fullmatch(tag):
            metrics["heads"].setdefault(name, []).append(number)
        else:
            metrics["layer"][name] = number
    return metrics


@cache
def metrics_of(kind: str, cross: bool) -> list[str]:
    """The names of the numbers that a head with a map of this kind has."""
    return list(numbers_of(np.ones((1, 1, 1)), kind, cross=cross)["heads"])


def shrink(record: Record, most: int) -> Shown:
    """The record with at most `most` rows and columns: of each block the weight furthest from 0 stands for it."""
    tokens, keys = len(record.tokens), record.weights.shape[2]
    n = math.ceil(max(tokens, keys) / most)
    if n > 1:
        queries, read = ([f"{first}…" for first in each[::n]] for each in (record.tokens, record.keys or []))
        norms = record.value_norm
        if norms is not None:
            norms = np.maximum.reduceat(norms, np.arange(0, keys, n), axis=1)
        record = record._replace(
            tokens=queries, weights=largest_of(record.weights, n), value_norm=norms, keys=read or None
        )
    return Shown(record, n, max(tokens, keys))


def packed(parts: list[bytes], most: int) -> bytes:
    """A map for the browser: the length of the header (4 bytes, little-endian), the header, the numbers as stored.

    One of more than `most` tokens is pooled.
    """
    header, numbers = verified(parts), parts[1]
    n_tokens, cross = max(header["shape"][1:]), "keys" in header
    extra = {"pooled": 1, "n_tokens": n_tokens, "metrics": metrics_of(header["kind"], cross)}
    if n_tokens > most:
        shown = shrink(decode(*parts), most)
        text_of_header, numbers = encode(shown.record)
        header, extra["pooled"] = json.loads(text_of_header), shown.pooled
    text = json.dumps(header | extra, ensure_ascii=False).encode()
    return struct.pack("<I", len(text)) + text + numbers


def without_nan(value: Any) -> Any:
    """JSON knows no NaN: it becomes null."""
    if isinstance(value, dict):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, list):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers_by_name(parts: list[Any]) -> dict[str, float]:
    """The finite numbers in a record of heads; DamagedRecord if it is none."""
    try:
        numbers = parse_json(parts[0])
        return {name: float(number) for name, number in numbers.items() if math.isfinite(number)}
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise DamagedRecord("its numbers of heads are no JSON by name") from error


class Series:
    """The maps that TensorBoard holds."""

    def __init__(self, provider: DataProvider) -> None:
        self._provider = provider
        self._cache: OrderedDict[tuple[str, MapSeries], tuple[Any, dict[int, list[bytes]]]] = OrderedDict()

    def runs(self, ctx: RequestContext, experiment: str) -> tuple[dict[str, dict[str, Any]], int]:
        """For each run its sentences with their layers, last step and time; and how many series are not ours."""
        entries: dict[str, dict[str, Any]] = {}
        foreign = 0
        listed = self._provider.list_tensors(ctx, experiment_id=experiment, plugin_name=PLUGIN)
        for run, tags in sorted(listed.items()):
            for tag, about in sorted(tags.items()):
                if tag.startswith(HEADS):
                    continue
                match = TAG.fullmatch(tag)
                if match is None:
                    foreign += 1
                    continue
                entry = entries.setdefault(run, {"sentences": {}, "last_step": 0, "written": 0.0})
                entry["sentences"].setdefault(match["sentence"], []).append(int(match["layer"]))
                entry["last_step"] = max(entry["last_step"], about.max_step)
                entry["written"] = max(entry["written"], about.max_wall_time)
        return entries, foreign

    def steps(self, ctx: RequestContext, experiment: str, series: MapSeries) -> list[int]:
        """The steps of a series that TensorBoard has kept."""
        return sorted(self._all(ctx, experiment, series, self._stamp(ctx, experiment, series)))

    def map(self, ctx: RequestContext, experiment: str, series: MapSeries, step: int) -> list[bytes]:
        """The parts of one map's record. The newest is read alone, as a long series of large maps takes its time."""
        stamp = self._stamp(ctx, experiment, series)
        cached = self._cache.get((experiment, series))
        newest = stamp[0] == step and (cached is None or cached[0] != stamp)
        parts = self._read(ctx, experiment, series, 1) if newest else self._all(ctx, experiment, series, stamp)
        if step not in parts:
            raise NotThere(f"TensorBoard holds no map of layer {series.layer} at step {step}")
        return parts[step]

    def curves(
        self, ctx: RequestContext, experiment: str, run: str, is_chosen: Callable[[int], bool]
    ) -> dict[str, dict[str, list[tuple[int, float]]]]:
        """The head metrics that a run has logged for the layers that are wanted, and what they are compared with.

        For each metric a curve under the name of each head, such as L00H01, and one under each other name, such as
        uniform_causal. They stand in records of their own, in the runs of earlier versions among the scalars.
        """
        curves_by_metric = self._scalar_curves(ctx, experiment, run, is_chosen)
        for metric, curves in self._recorded(ctx, experiment, run, is_chosen).items():
            earlier = curves_by_metric.setdefault(metric, {})  # of a run that goes on with a later version
            for name, points in curves.items():
                earlier[name] = sorted({**dict(earlier.get(name, [])), **dict(points)}.items())
        return curves_by_metric

    def _recorded(
        self, ctx: RequestContext, experiment: str, run: str, is_chosen: Callable[[int], bool]
    ) -> dict[str, dict[str, list[tuple[int, float]]]]:
        listed = self._provider.list_tensors(
            ctx, experiment_id=experiment, plugin_name=PLUGIN, run_tag_filter=RunTagFilter(runs=[run])
        ).get(run, {})
        tags = [tag for tag in listed if tag.startswith(HEADS)]
        read = self._provider.read_tensors(
            ctx,
            experiment_id=experiment,
            plugin_name=PLUGIN,
            downsample=MOST_STEPS,
            run_tag_filter=RunTagFilter(runs=[run], tags=tags),
        ).get(run, {})
        curves_by_metric: dict[str, dict[str, list[tuple[int, float]]]] = {}
        for tag, data in sorted(read.items()) if tags else ():
            points: dict[str, dict[int, float]] = {}
            for datum in data:
                for name, number in _numbers_by_name(datum.numpy.ravel().tolist()).items():
                    points.setdefault(name, {})[datum.step] = number
            metric = tag.removeprefix(HEADS)
            layers = {name: match["layer"] for name in points if (match := HEAD_SCALAR.fullmatch(f"{metric}/{name}"))}
            chosen = {
                name: steps for name, steps in points.items() if name not in layers or is_chosen(int(layers[name]))
            }
            if layers:
                curves_by_metric[metric] = {name: sorted(steps.items()) for name, steps in sorted(chosen.items())}
        return curves_by_metric

    def _scalar_curves(
        self, ctx: RequestContext, experiment: str, run: str, is_chosen: Callable[[int], bool]
    ) -> dict[str, dict[str, list[tuple[int, float]]]]:
        only = RunTagFilter(runs=[run])
        listed = self._provider.list_scalars(
            ctx, experiment_id=experiment, plugin_name="scalars", run_tag_filter=only
        ).get(run, {})
        matches = [match for match in map(HEAD_SCALAR.fullmatch, listed) if match]
        metrics = {match["metric"] for match in matches}
        tags = [match.string for match in matches if is_chosen(int(match["layer"]))]
        tags += [tag for tag in listed if not HEAD_SCALAR.fullmatch(tag) and tag.rpartition("/")[0] in metrics]
        curves_by_metric: dict[str, dict[str, list[tuple[int, float]]]] = {}
        if not tags:
            return curves_by_metric
        read = self._provider.read_scalars(
            ctx,
            experiment_id=experiment,
            plugin_name="scalars",
            downsample=MOST_STEPS,
            run_tag_filter=RunTagFilter(runs=[run], tags=tags),
        ).get(run, {})
        for tag, data in sorted(read.items()):
            metric, _, name = tag.rpartition("/")
            points = {datum.step: datum.value for datum in data if math.isfinite(datum.value)}
            curves_by_metric.setdefault(metric, {})[name] = sorted(points.items())
        return curves_by_metric

    def _stamp(self, ctx: RequestContext, experiment: str, series: MapSeries) -> Any:
        """What changes when a series grows."""
        only = RunTagFilter(runs=[series.run], tags=[series.tag])
        listed: Mapping[str, Any] = self._provider.list_tensors(
            ctx, experiment_id=experiment, plugin_name=PLUGIN, run_tag_filter=only
        )
        about = listed.get(series.run, {}).get(series.tag)
        if about is None:
            raise NotThere(f"run {series.run} has no maps of layer {series.layer} for the sentence {series.sentence}")
        return about.max_step, about.max_wall_time

    def _all(self, ctx: RequestContext, experiment: str, series: MapSeries, stamp: Any) -> dict[int, list[bytes]]:
        key = (experiment, series)
        if key not in self._cache or self._cache[key][0] != stamp:
            self._cache[key] = (stamp, self._read(ctx, experiment, series, MOST_STEPS))
        self._cache.move_to_end(key)
        while len(self._cache) > 1 and self._cached_bytes() > MOST_CACHED_BYTES:
            self._cache.popitem(last=False)
        return self._cache[key][1]

    def _cached_bytes(self) -> int:
        return sum(len(part) for _, series in self._cache.values() for parts in series.values() for part in parts)

    def _read(self, ctx: RequestContext, experiment: str, series: MapSeries, n: int) -> dict[int, list[bytes]]:
        """The parts of the last `n` records, by step. A resumed run may hold a step twice: the later one counts."""
        read = self._provider.read_tensors(
            ctx,
            experiment_id=experiment,
            plugin_name=PLUGIN,
            downsample=n,
            run_tag_filter=RunTagFilter(runs=[series.run], tags=[series.tag]),
        )
        return {
            datum.step: [part if isinstance(part, bytes) else b"" for part in datum.numpy.ravel().tolist()]
            for datum in read.get(series.run, {}).get(series.tag, [])
        }
