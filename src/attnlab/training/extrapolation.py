"""Trained on rows of one length, judged on longer ones: how far a variant carries what it has learnt."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from attnlab.attention.documents import Documents
from attnlab.attention.evaluating import evaluating
from attnlab.data.dataset import IGNORED, Batch, Dataset
from attnlab.data.predictors import Rows
from attnlab.data.task import Task
from attnlab.errors import UsageError
from attnlab.model import GPT
from attnlab.store.damage import Damaged
from attnlab.store.digests import digests_in
from attnlab.store.run_folder import RunFolder
from attnlab.training.recorders.metrics import MetricsRecorder
from attnlab.training.recorders.recorder import Recorders
from attnlab.training.recorders.tensorboard import TensorBoardRecorder
from attnlab.training.scoring import by_row, error_of, score_answers, segments, tally

MOST_TOKENS = 65_536  # that are read for one length
AT_ONCE = 8192  # tokens in a batch
OF_BAYES = ("bayes_loss", "bayes_loss_beyond")
SCORES = ("loss", "accuracy", "accuracy_error", "loss_beyond", "accuracy_beyond", "accuracy_beyond_error", *OF_BAYES)
BY_SEGMENT = ("segment_loss", "bayes_segment_loss")


class Reach(NamedTuple):
    """The score on rows `factor` times as long as those of training, in all and on what lies beyond their length.

    What lies beyond is the claim: the beginning of a long row is like a short one. `cannot` says why there is no score.
    """

    factor: int
    length: int
    loss: float | None = None
    accuracy: float | None = None
    accuracy_error: float | None = None  # half of the 95 % interval
    loss_beyond: float | None = None
    accuracy_beyond: float | None = None
    accuracy_beyond_error: float | None = None
    segment_loss: tuple[float | None, ...] = ()  # of each part of the row as long as those of training
    bayes_loss: float | None = None  # of an exact solver of the task, on the same rows
    bayes_loss_beyond: float | None = None
    bayes_segment_loss: tuple[float | None, ...] = ()
    cannot: str = ""


def check_lengths(lengths: Any) -> tuple[int, ...]:
    """The factors of evaluation.lengths, in order; refused if they are not integers of at least 2."""
    sound = isinstance(lengths, list | tuple) and all(type(factor) is int and factor >= 2 for factor in lengths)
    if not sound:
        raise UsageError(
            f"evaluation.lengths ({lengths}) must be a list of integers of at least 2, such as [2,4,8]: "
            "how many times model.context"
        )
    return tuple(sorted(set(lengths)))


def extrapolate(model: GPT, dataset: Dataset, context: int, factors: Sequence[int], *, seed: int) -> Iterator[Reach]:
    """Score a model at 1 and at each factor times its context; what it refuses to read is said and not raised.

    The rows of a task are the validation rows of `seed`.
    """
    for factor in (1, *factors):
        length = factor * context
        try:
            dataset.check_context(length)
            sums = _score(model, dataset, context, length, seed)
        except UsageError as refused:
            yield Reach(factor, length, cannot=str(refused))
            continue
        if factor > 1 and not sums.beyond[0]:
            yield Reach(factor, length, cannot=f"nothing is asked beyond the first {context} tokens")
            continue
        yield Reach(factor, length, *_rates(sums.whole), *_rates(sums.beyond), _losses(sums.parts), *_bayes(sums.bayes))


def _rates(sums: Float64[Tensor, " 7"]) -> tuple[float | None, float | None, float | None]:
    count, right, nats = sums[:3].tolist()
    return (nats / count, right / count, error_of(right / count, count, sums[3:])) if count else (None, None, None)


def _losses(parts: Float64[Tensor, "n 3"]) -> tuple[float | None, ...]:
    return tuple(nats / count if count else None for count, _, nats in parts.tolist())


def _bayes(
    parts: Float64[Tensor, "n 3"] | None,
) -> tuple[float | None, float | None, tuple[float | None, ...]]:
    """The exact loss of the whole row, of what lies beyond the trained length, and of each part."""
    if parts is None:
        return None, None, ()
    whole, beyond = parts.sum(dim=0, keepdim=True), parts[1:].sum(dim=0, keepdim=True)
    return _losses(whole)[0], _losses(beyond)[0], _losses(parts)


class Sums(NamedTuple):
    """Count, hits and loss of all answers, and sums by row (see `by_row`); the same of those beyond the trained length;
    count, hits and loss of each part of the row, and those of an exact solver."""

    whole: Float64[Tensor, " 7"]
    beyond: Float64[Tensor, " 7"]
    parts: Float64[Tensor, "n 3"]
    bayes: Float64[Tensor, "n 3"] | None


@torch.no_grad()
def _score(model: GPT, dataset: Dataset, context: int, length: int, seed: int) -> Sums:
    """Score the first rows of a length, as many as `MOST_TOKENS` hold."""
    rows = np.arange(min(dataset.n_val_rows(length), max(1, MOST_TOKENS // length)))
    at_once, device = max(1, AT_ONCE // length), next(model.parameters()).device
    beyond = torch.arange(length, device=device) >= context
    sums, n = torch.zeros(2, 7, dtype=torch.float64), length // context
    by_part = torch.zeros(n, 3, dtype=torch.float64)
    exact = torch.zeros(n, 3, dtype=torch.float64) if isinstance(dataset, Task) else None
    with evaluating(model):
        for first in range(0, len(rows), at_once):
            batch = dataset.val_batch(rows[first : first + at_once], context=length, seed=seed).to(device)
            if batch.documents is not None:
                beyond = Documents(batch.documents).positions >= context
            targets, logits = batch.targets, model(batch.ids, batch.documents)
            scored, parts = score_answers(logits, targets), segments(targets, context)
            sums[0, :3] += tally(scored, torch.zeros_like(targets), 1)[0]
            sums[1, :3] += tally(scored, beyond.long().expand_as(targets), 2)[1]
            by_part += tally(scored, parts, n)
            for part, part_targets in zip(sums, (targets, targets.where(beyond, IGNORED)), strict=True):
                part[3:] += by_row(logits, part_targets)
            if exact is not None and isinstance(dataset, Task):
                exact += _exact(dataset, batch, parts, n)
    return Sums(sums[0], sums[1], by_part, exact)


def _exact(task: Task, batch: Batch, parts: Int64[Tensor, "b t"], n: int) -> Float64[Tensor, "n 3"]:
    """What an exact solver comes to in each part of these rows: count, nothing for its hits, and loss."""
    assert batch.slices is not None
    rows = Rows(*(part.cpu().numpy() for part in (batch.ids, batch.targets, batch.slices)))
    asked, nats = torch.from_numpy(rows.asked), torch.from_numpy(task.exact_nats(rows))
    sums = [
        torch.bincount(parts.cpu()[asked], weights=each, minlength=n) for each in (asked[asked].double(), nats[asked])
    ]
    return torch.stack([sums[0], torch.zeros_like(sums[0]), sums[1]], dim=1)


def as_scalars(reaches: Sequence[Reach]) -> dict[str, float]:
    """The scores as scalars, such as extrapolation_loss/x2."""
    scalars = {}
    for reach in reaches:
        for name in SCORES:
            value = getattr(reach, name)
            if value is not None:
                scalars[f"extrapolation_{name}/x{reach.factor}"] = value
        for name in BY_SEGMENT if reach.factor > 1 else ():
            for number, value in enumerate(getattr(reach, name), start=1):
                if value is not None:
                    scalars[f"extrapolation_{name}/x{reach.factor}/{number}"] = value
    return scalars


def as_summary(reaches: Sequence[Reach]) -> dict[str, Any]:
    """The scores as summary.json keeps them, by factor; those of parts and of an exact solver are in metrics.csv."""
    return {
        str(reach.factor): {name: x for name, x in reach._asdict().items() if name not in (*BY_SEGMENT, *OF_BAYES)}
        for reach in reaches
    }


def keep(folder: RunFolder, reaches: Sequence[Reach], *, step: int) -> dict[str, Any]:
    """Add the scores of a finished run to its summary.json, its metrics.csv and TensorBoard; returns the summary."""
    return add_scores(folder, "extrapolation", as_summary(reaches), as_scalars(reaches), step=step)


def add_scores(
    folder: RunFolder, name: str, scores: Mapping[str, Any], scalars: Mapping[str, float], *, step: int
) -> dict[str, Any]:
    """Add scores to what summary.json holds under a name, and their scalars to metrics.csv and TensorBoard.

    They count once the summary is written: what an attempt that was killed has left behind is dropped first.
    """
    summary, table = folder.read_summary(), MetricsRecorder(folder)
    digests = digests_in(summary)
    try:
        folder.check(summary)
    except Damaged as damage:
        raise UsageError(f"{damage}, so nothing is added to it; overwrite=true trains it again") from damage
    if digests:
        folder.trim_events(digests)
    table.resume_at(step, digests=digests)
    rows = {row.metric: row.value for row in folder.read_metrics() if row.step == step}
    new = {metric: value for metric, value in scalars.items() if rows.get(metric) != value}
    events = [TensorBoardRecorder(folder, resume_at=step)] if folder.event_files() else []
    with closing(Recorders([table, *events])) as recorders:
        recorders.scalars(new, step)
        recorders.save()
    earlier = summary.get(name)
    summary[name] = {**(earlier if isinstance(earlier, dict) else {}), **scores}
    folder.write_summary(summary, {**digests, **recorders.digests()})
    return summary


def line(reach: Reach) -> str:
    """One length, for the terminal."""
    head = f"  x{reach.factor:<3d} {reach.length:7,d} tokens   "
    if reach.cannot:
        return f"{head}cannot: {reach.cannot}"
    beyond = (
        "-"
        if reach.loss_beyond is None
        else f"{reach.loss_beyond:8.4f}   {reach.accuracy_beyond:7.1%} +- {reach.accuracy_beyond_error:.1%}"
    )
    return (
        f"{head}loss {reach.loss:8.4f}   accuracy {reach.accuracy:7.1%} +- {reach.accuracy_error:.1%}   beyond {beyond}"
    )
