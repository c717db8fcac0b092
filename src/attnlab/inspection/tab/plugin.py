"""The tab's side in the TensorBoard server: it lists runs and hands out maps; drawing is done in the browser."""

import re
import shlex
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from attnlab.inspection.head_metrics import EMERGENCE_THRESHOLD, INDUCTION, PREVIOUS, SILENCED_MEAN, SILENCED_ZERO
from attnlab.inspection.records import PLUGIN, SAMPLES
from attnlab.inspection.tab.run_facts import RunFacts
from attnlab.inspection.tab.scripts import STATIC, joined
from attnlab.inspection.tab.series import (
    DamagedRecord,
    MapSeries,
    NotThere,
    Series,
    checked,
    numbers_of,
    packed,
    without_nan,
)
from attnlab.store.run_folder import RunFolder

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

SCRIPT, STYLE = "index.js", "style.css"
ALL = -1
NUMBER = re.compile("-?[0-9]{1,15}")
MOST_TOKENS = 512  # rows of a map that is sent whole: more would not have a pixel each

Handler = Callable[[RequestContext, str, wrappers.Request], tuple[Any, str]]


def answer(handler: Handler) -> "WSGIApplication":
    """Turn what a handler gives back into a response, and what it cannot give into a sentence with a code."""

    @wraps(handler)
    def respond(request: wrappers.Request) -> wrappers.Response:
        context, experiment = plugin_util.context(request.environ), plugin_util.experiment_id(request.environ)
        try:
            content, kind = handler(context, experiment, request)
        except NotThere as error:
            return http_util.Respond(request, {"error": str(error.args[0])}, "application/json", code=404)
        except (DamagedRecord, ValueError, TypeError, KeyError, ArithmeticError, RecursionError, MemoryError) as error:
            text = f"this record is damaged: {' '.join(str(error).split())[:200]}"
            return http_util.Respond(request, {"error": text}, "application/json", code=422)
        return http_util.Respond(request, content, kind)

    return wrappers.Request.application(respond)


class AttentionTab(base_plugin.TBPlugin):
    """Shows every head's attention, step by step, for all runs below a folder."""

    plugin_name = PLUGIN

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._series = Series(context.data_provider)
        self._logdir = context.logdir or ""
        self._facts = RunFacts(context.data_provider, self._logdir)
        self._samples: dict[str, int] = (context.flags.samples_per_plugin if context.flags else None) or {}

    def is_active(self) -> bool:
        """TensorBoard shows the tab where it finds data under `data_plugin_names`; nothing else needs it."""
        return False

    def data_plugin_names(self) -> tuple[str, ...]:
        return (PLUGIN,)

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        return base_plugin.FrontendMetadata(es_module_path=f"/static/{SCRIPT}", tab_name="Attention")

    def get_plugin_apps(self) -> dict[str, "WSGIApplication"]:
        return {
            "/static/*": answer(self._static),
            "/runs": answer(self._runs),
            "/steps": answer(self._steps),
            "/map": answer(self._map),
            "/numbers": answer(self._numbers),
            "/curves": answer(self._curves),
            "/pairs": answer(self._pairs),
            "/about": answer(self._about),
        }

    def _static(self, context: RequestContext, experiment: str, request: wrappers.Request) -> tuple[Any, str]:
        name = request.path.rpartition("/")[2]
        if name == SCRIPT:
            return joined(STATIC / SCRIPT).encode(), "text/javascript"
        if name == STYLE:
            return (STATIC / STYLE).read_bytes(), "text/css"
        raise NotThere(f"there is no file {name}")

    def _runs(self, context: RequestContext, experiment: str, request: wrappers.Request) -> tuple[Any, str]:
        """Every run with maps, and how many steps of a series TensorBoard was told to keep (null: about ten).

        Beside it what the names of some scalars stand for: what a silenced head changes, with the command that
        measures it for a run of ours, and which scores tell when a head emerges.
        """
        runs, foreign = self._series.runs(context, experiment)
        for run, about in runs.items():
            folder = RunFolder(Path(self._logdir, run))
            command = f"attnlab ablate_heads {shlex.quote(f'run={folder}')}"
            about["ablate"] = command if folder.config.is_file() else None
        content = {
            "runs": runs,
            "foreign": foreign,
            "samples": {"kept": self._samples.get(PLUGIN), "wanted": f"--samples_per_plugin {PLUGIN}={SAMPLES}"},
            "ablation": {"zero": SILENCED_ZERO, "mean": SILENCED_MEAN},
            "emergence": {"least": EMERGENCE_THRESHOLD, "metrics": [INDUCTION, PREVIOUS]},
        }
        return content, "application/json"

    def _steps(self, context: RequestContext, experiment: str, request: wrappers.Request) -> tuple[Any, str]:
        return {"steps": self._series.steps(context, experiment, _place(request))}, "application/json"

    def _map(self, context: RequestContext, experiment: str, request: wrappers.Request) -> tuple[Any, str]:
        most = min(MOST_TOKENS, max(1, _number(request, "most", MOST_TOKENS)))
        parts = self._series.map(context, experiment, _place(request), _number(request, "step"))
        return packed(parts, most), "application/octet-stream"

    def _numbers(self, context: RequestContext, experiment: str, request: wrappers.Request) -> tuple[Any, str]:
        """The metrics of a map, which take longer than the map itself."""
        record = checked(self._series.map(context, experiment, _place(request), _number(request, "step")))
        weights, cross = record.weights.astype(np.float32), record.keys is not None
        return without_nan(numbers_of(weights, record.kind, cross=cross)), "application/json"

    def _curves(self, context: RequestContext, experiment: str, request: wrappers.Request) -> tuple[Any, str]:
        """The curves of one layer's heads, or without a layer those of all heads."""
        layer, run = _number(request, "layer", ALL), request.args.get("run", "")
        return self._series.curves(context, experiment, run, lambda i: layer in (ALL, i)), "application/json"

    def _pairs(self, context: RequestContext, experiment: str, request: wrappers.Request) -> tuple[Any, str]:
        """For each head of a run's layer the one of another run that reads most like it, and by how much."""
        from attnlab.inspection.tab.head_pairs import overlaps, pair_heads  # imports scipy, which takes a second

        series = _place(request)
        other = series._replace(run=request.args.get("other", ""))
        steps = (_number(request, "step"), _number(request, "other_step"))
        maps = [
            self._series.map(context, experiment, one, step) for one, step in zip((series, other), steps, strict=True)
        ]
        a, b = (checked(parts) for parts in maps)
        if (a.tokens, a.keys) != (b.tokens, b.keys):
            raise NotThere(f"it has other tokens than {series.run}, so no head can be paired")
        table = overlaps(a.weights, b.weights, (a.kind, b.kind))
        pairs = pair_heads(table)
        agreed = [None if j is None else float(table[i, j]) for i, j in enumerate(pairs)]
        return {"pairs": pairs, "overlaps": agreed}, "application/json"

    def _about(self, context: RequestContext, experiment: str, request: wrappers.Request) -> tuple[Any, str]:
        """How each run stands, its loss, and what sets it apart from others of its name; asked for after the list."""
        runs, _ = self._series.runs(context, experiment)
        return self._facts.of(context, experiment, runs), "application/json"


def _place(request: wrappers.Request) -> MapSeries:
    return MapSeries(request.args.get("run", ""), request.args.get("sentence", ""), _number(request, "layer"))


def _number(request: wrappers.Request, key: str, otherwise: int | None = None) -> int:
    text = request.args.get(key, "")
    if not text and otherwise is not None:
        return otherwise
    if not NUMBER.fullmatch(text):
        raise NotThere(f"{key} ({text[:40]!r}) must be an integer")
    return int(text)
