"""What is said of runs beside their names: how each stands, its loss, and what sets it apart from its namesakes."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboard.context import RequestContext
from tensorboard.data.provider import DataProvider, RunTagFilter

from attnlab.errors import UsageError
from attnlab.store.leaves import leaves
from attnlab.store.names import SEED
from attnlab.store.run_folder import RunFolder
from attnlab.store.status import ENDED, Status

LOSS = "val/loss"
MOST_SETTINGS = 3  # that a name tells
MOST_POINTS = 1000  # of a curve of losses
# What sets apart nothing that a name should tell.
LEFT_OUT = ("paths.", "seed", "streams.", "experiment_name", "variant")


class RunFacts:
    """How the runs below a folder stand; what does not change is read once."""

    def __init__(self, provider: DataProvider, logdir: str) -> None:
        self._provider = provider
        self._logdir = Path(logdir)
        self._ended: dict[str, tuple[int, Status]] = {}  # with the time at which the summary was written
        self._settings: dict[Path, dict[str, str]] = {}

    def of(self, ctx: RequestContext, experiment: str, runs: Iterable[str]) -> dict[str, dict[str, Any]]:
        """For each run its `status` (None: not a run of ours), `loss` and `settings` (None: its name says enough)."""
        names = list(runs)
        losses = self._losses(ctx, experiment, names)
        folders = {run: RunFolder(self._logdir / run) for run in names}
        ours = {run: folder for run, folder in folders.items() if folder.config.is_file()}
        settings = self._differences(ours)
        return {
            run: {
                "status": self._status(run, ours[run]) if run in ours else None,
                "loss": losses.get(run),
                "settings": settings.get(run),
            }
            for run in names
        }

    def _losses(self, ctx: RequestContext, experiment: str, runs: list[str]) -> dict[str, float]:
        """The lowest validation loss of each run that has one."""
        chosen = RunTagFilter(runs=runs, tags=[LOSS])
        read = self._provider.read_scalars(
            ctx, experiment_id=experiment, plugin_name="scalars", downsample=MOST_POINTS, run_tag_filter=chosen
        )
        curves = {run: [datum.value for datum in tags.get(LOSS, [])] for run, tags in read.items()}
        finite = {run: [value for value in curve if math.isfinite(value)] for run, curve in curves.items()}
        return {run: min(curve) for run, curve in finite.items() if curve}

    def _status(self, run: str, folder: RunFolder) -> Status:
        try:
            written = folder.summary.stat().st_mtime_ns
        except OSError:
            written = 0
        if run in self._ended and self._ended[run][0] == written:
            return self._ended[run][1]
        status = folder.read_summary().get("status")
        if status in ENDED:
            self._ended[run] = written, Status(status)
            return Status(status)
        return Status.RUNNING if folder.is_locked() else Status.UNFINISHED

    def _differences(self, folders: Mapping[str, RunFolder]) -> dict[str, str]:
        """For runs whose variants have one name: the settings in which these differ, in a few words."""
        namesakes: defaultdict[Path, dict[Path, list[str]]] = defaultdict(dict)
        for run, folder in folders.items():
            variant = folder.path.parent if folder.path.name.startswith(SEED) else folder.path
            name = variant.name.rpartition("-")[0] or variant.name  # a folder may have been renamed
            namesakes[variant.parent / name].setdefault(variant, []).append(run)
        texts: dict[str, str] = {}
        for variants in namesakes.values():
            if len(variants) < 2:
                continue
            settings = {variant: self._flat(variant, folders[runs[0]]) for variant, runs in variants.items()}
            keys = sorted({key for each in settings.values() for key in each if not key.startswith(LEFT_OUT)})
            keys = [key for key in keys if len({each.get(key) for each in settings.values()}) > 1]
            for variant, runs in variants.items():
                parts = [f"{key.rpartition('.')[2]}={settings[variant].get(key, '-')}" for key in keys[:MOST_SETTINGS]]
                text = ", ".join(parts) + (", …" if len(keys) > MOST_SETTINGS else "")
                texts |= dict.fromkeys(runs, text or f"code {variant.name.rpartition('.')[2]}")
        return texts

    def _flat(self, variant: Path, folder: RunFolder) -> dict[str, str]:
        if variant not in self._settings:
            try:
                self._settings[variant] = {key: str(value) for key, value in leaves(folder.read_config())}
            except UsageError:
                self._settings[variant] = {}
        return self._settings[variant]
