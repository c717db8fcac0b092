"""Drives the runs of a sweep: each ends as one row (finished, failed, diverged), and a failure stops no other."""

import os
import shlex
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from attnlab.analysis.declared import FIRST, IN_ORDER, KEYS
from attnlab.errors import AttnlabError, Stopped, UsageError, shown
from attnlab.machine.command_line import typed
from attnlab.machine.environment import cores
from attnlab.store.names import MANIFEST
from attnlab.store.status import ENDED, Status
from attnlab.sweep.early_stopping import EarlyStopping
from attnlab.sweep.jobs import ONE_THREAD, Refusal
from attnlab.sweep.plan import PlannedRun, refused_entry
from attnlab.sweep.pool import PATIENCE, Event, Pool, how_it_died
from attnlab.sweep.progress import Screen, screen_for
from attnlab.sweep.reporting import baseline_of, by_experiment, settings
from attnlab.training.notes import data_size, duration
from attnlab.training.stop import StopRequest, stop_request

TICK = 0.2  # seconds between two looks at what there is
SESSION = f"{os.getpid()}-{time.time_ns()}"  # runs of one command are measured side by side
RETRY = 1.0  # seconds before a run that another command is at is tried again
SHOWN = 30  # refused or failed runs that are listed one by one


@contextmanager
def pool_for(n_jobs: int | None, n_runs: int, patience: float | None) -> Iterator[Pool]:
    """Workers that are warming up, as many as there are cores unless a number is given; killed at the end."""
    if n_jobs is not None and n_jobs < 1:
        raise UsageError(f"hydra.launcher.n_jobs ({n_jobs}) must be null or an integer of at least 1")
    if patience is not None and patience <= 0:
        raise UsageError(f"hydra.launcher.patience ({patience:g}) must be null or a number of seconds above 0")
    pool = Pool(n_jobs or cores(), patience=patience)
    try:
        pool.warm(n_runs)
        yield pool
    finally:
        pool.kill()


def fit_to_machine(pool: Pool, runs: Sequence[PlannedRun], n_jobs: int | None) -> None:
    """Run no more at once than there are cores for their threads, and one on each GPU."""
    threads = max((run.job.config.trainer.threads or 1 for run in runs), default=1)
    if n_jobs is None:
        pool.shrink(max(1, cores() // threads))
    if gpus := max((run.facts["n_gpus"] for run in runs), default=0):
        named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        pool.kill()  # what a worker sees of GPUs is decided when it starts
        pool.shrink(gpus)
        pool.environments = [{"CUDA_VISIBLE_DEVICES": name} for name in named or map(str, range(gpus))]


def show(runs: Sequence[PlannedRun], refusals: Sequence[Refusal], at_once: int, *, costs: bool) -> None:
    """List every combination: how many runs it has and how they stand; with `costs`, what it takes."""
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(run.identity.name, []).append(run)
    places = ", ".join(sorted({str(run.experiment) for run in runs}))
    print(f"{len(runs)} runs of {len(groups)} settings, {at_once} at a time, in {places}")
    width = max((len(group[0].label) for group in groups.values()), default=0)
    for group in groups.values():
        first, done = group[0], sum(run.status == Status.FINISHED for run in group)
        parts = [f"  {first.label:{width}}  {len(group)} runs" + (f", {done} finished" if done else "")]
        if costs:
            parts.append(f"{first.facts['parameters']:,} parameters")
            parts.append(f"{first.facts['forward_flops']:.3g} FLOPs a sequence, {first.facts['train_flops']:.3g} a run")
            if first.estimate is not None:
                parts.append(f"about {duration(first.estimate)} a run{'' if first.tried else ' by its FLOPs'}")
            parts.append(f"{data_size(first.facts['disk_bytes'])} a run")
        print("; ".join(parts))
    for folder in dict.fromkeys(run.job.config.init_from for run in runs if run.job.config.init_from):
        print(f"  starting with the weights of {folder}; streams.init changes nothing")
    merged = Counter(_apart(other.overrides, run.job.overrides) for run in runs for other in run.same_as)
    for (left_out, instead), count in merged.items():
        print(f"  merged: {left_out} is the same run as {instead}{f' ({count} seeds)' if count > 1 else ''}")
    for relation in dict.fromkeys(run.same for run in runs if run.same):
        labels = dict.fromkeys(run.label for run in runs if run.same == relation)
        print(f"  the same: {', '.join(labels)} {'each ' * (len(labels) > 1)}{relation}")
    for what, count in Counter(run.anew for run in runs if run.anew).items():
        print(f"  trained anew: {count} runs, of which each {what}; code=any takes what is there")
    refused = Counter((refusal.setting_overrides, refusal.reason) for refusal in refusals)
    for (overrides, reason), count in list(refused.items())[:SHOWN]:
        print(f"  refused: {' '.join(overrides)}{f' ({count} seeds)' if count > 1 else ''}: {reason}")
    if len(refused) > SHOWN:
        print(f"  refused: {len(refused) - SHOWN} more, listed in {MANIFEST}")
    if costs:
        _show_sums([run for run in runs if run.status != Status.FINISHED], at_once)


def _apart(overrides: Sequence[str], others: Sequence[str]) -> tuple[str, str]:
    """Of two runs, what only one of them was asked for, or all if that is nothing."""
    pairs = ((overrides, others), (others, overrides))
    one, two = ([override for override in these if override not in those] for these, those in pairs)
    return " ".join(one or overrides), " ".join(two or others)


def _show_sums(left: Sequence[PlannedRun], at_once: int) -> None:
    seconds = sum(run.estimate or 0.0 for run in left) / max(1, min(at_once, len(left)))
    disk = sum(run.facts["disk_bytes"] for run in left)
    flops = sum(run.facts["train_flops"] for run in left)
    print(
        f"{len(left)} runs are left: about {duration(seconds)}, {flops:.3g} FLOPs (matrix products, forward and "
        f"backward), {data_size(disk)}; plan=true starts none of them"
    )


def write_plan(runs: Sequence[PlannedRun], refusals: Sequence[Refusal], design: Mapping[str, Any] | None) -> None:
    """Put everything that is planned into the manifest of its experiment, before anything starts."""
    for experiment, members in by_experiment(runs).items():
        entries = [*(run.entry() for run in members), *(refused_entry(refusal) for refusal in refusals)]
        about = {**asdict(settings(members)), "baseline": baseline_of(members), "design": design}
        about["seeds"] = len({run.identity.seed for run in members})
        manifest = experiment.manifest
        content, command = manifest.read(), typed()
        earlier = content["commands"] if isinstance(content.get("commands"), list) else []
        about[FIRST] = _first(content, members, about)
        if bool(about[FIRST].get("sequential")) != about["sequential"]:
            raise UsageError(
                f"report.sequential ({shown(about['sequential'])}) was declared otherwise before the first result in "
                f"{experiment}: use another experiment_name"
            )
        about["commands"] = [*(other for other in earlier if other != command), command]
        manifest.plan(entries, {"experiment": experiment.path.name, "command": shlex.join(sys.argv), **about})


def _first(manifest: Mapping[str, Any], runs: Sequence[PlannedRun], about: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was declared before the experiment's first result: this, as long as there is none."""
    statuses = {*(entry.get("status") for entry in manifest["runs"]), *(run.status for run in runs)}
    earlier = manifest.get(FIRST, manifest if "baseline" in manifest else None)
    declared = earlier if isinstance(earlier, Mapping) and statuses.intersection(ENDED) else about
    in_order = IN_ORDER if declared.get("sequential") else ()
    return {key: declared.get(key) for key in (*KEYS, *in_order)}


def execute(runs: Sequence[PlannedRun], pool: Pool) -> None:
    """Run what is not finished, seed by seed, so that what is cut off still compares like with like.

    Each run ends as finished, failed or diverged, in its attributes and in the manifest. Raises Stopped after Ctrl-C
    or SIGTERM, when every run at work has saved its state.
    """
    order = sorted(range(len(runs)), key=lambda number: (runs[number].identity.seed, number))
    waiting = deque(number for number in order if runs[number].status != Status.FINISHED)
    stopping = EarlyStopping(runs)
    with stop_request() as stop, screen_for(runs, pool.size) as screen:
        deadline: float | None = None
        while pool.busy or (waiting and deadline is None):
            if stop.signal is not None and deadline is None:
                deadline = time.monotonic() + PATIENCE
                pool.stop()
                screen.print_line(f"stopping: {pool.busy} runs save their state (Ctrl-C again: without that)")
            if deadline is None:
                for run in stopping.unneeded():
                    waiting.remove(runs.index(run))
                    _note(run)
                _start(runs, waiting, pool, screen)
            for event in pool.events(TICK):
                _on_event(runs[event.task], event, waiting, screen, stopping=deadline is not None)
            screen.refresh()
            if deadline is not None and time.monotonic() > deadline:
                pool.kill()
    if deadline is not None:
        _stopped(runs, stop)


def _start(runs: Sequence[PlannedRun], waiting: deque[int], pool: Pool, screen: Screen) -> None:
    """Give the free workers something to do."""
    for number in list(waiting):
        run = runs[number]
        if not pool.free:
            return
        if time.monotonic() < run.not_before:
            continue
        waiting.remove(number)
        if run.not_before:
            run.look()  # another command may have finished it
            if run.status == Status.FINISHED:
                screen.ended(run)
                continue
        content = {"config": run.job.config, "variant": run.job.variant, "log": str(run.log), "title": run.title}
        content["modules"] = run.facts["code"].modules
        content["beside"] = {"session": SESSION, "workers": pool.size}
        pool.give(number, "train", content)
        run.status, run.reason, run.began, run.step, run.last_step = Status.RUNNING, "", time.monotonic(), 0, 0
        if not run.not_before:
            _note(run)


def _on_event(run: PlannedRun, event: Event, waiting: deque[int], screen: Screen, *, stopping: bool) -> None:
    """Take down what a run has to say."""
    if event.kind == "progress":
        run.step, run.last_step, run.val_loss = event.content
        return
    run.seconds, run.began = run.elapsed, None
    if event.kind == "done":
        run.status, run.val_loss = Status.FINISHED, event.content.get("val_loss")
    elif event.kind == "stopped" or (stopping and event.kind == "died"):
        run.status, run.reason = Status.PLANNED, str(event.content) if event.kind == "stopped" else "stopped"
        run.look()  # the request may have come when all was done
    elif event.kind == "locked":
        if not run.not_before:
            screen.print_line(f"{run.title} is being run by another command: {event.content}")
        run.status, run.not_before = Status.PLANNED, time.monotonic() + RETRY
        waiting.append(event.task)
        return
    else:
        run.status = Status.DIVERGED if event.kind == "diverged" else Status.FAILED
        run.reason = how_it_died(event.content) if event.kind == "died" else str(event.content)
        if event.kind == "died":
            run.look()  # it may have come to its end before
    _note(run)
    if run.status != Status.PLANNED:
        screen.ended(run)


def _note(run: PlannedRun) -> None:
    run.experiment.manifest.note(run.entry())


def _stopped(runs: Sequence[PlannedRun], stop: StopRequest) -> None:
    for run in runs:
        if run.status == Status.RUNNING:  # its worker did not come to the end of a step in time
            run.status, run.reason, run.began = Status.PLANNED, "killed", None
            _note(run)
    count = Counter(run.status for run in runs)
    left = count[Status.PLANNED]
    raise Stopped(
        f"stopped: {count[Status.FINISHED]} of {len(runs)} runs finished, {left} left; the same command goes on",
        stop.exit_code,
    )


def sum_up(runs: Sequence[PlannedRun]) -> None:
    """Say what came of a sweep, each run that failed with its reason."""
    print(f"{sum(run.status == 'finished' for run in runs)} of {len(runs)} runs finished; listed in:")
    for experiment in sorted({run.experiment for run in runs}):
        print(f"  {experiment.manifest.path}")
    if reasons := Counter(run.reason for run in runs if run.status == Status.UNNEEDED):
        print("; ".join(f"{count} runs were not needed: {reason}" for reason, count in reasons.items()))
    for run in _bad(runs)[:SHOWN]:
        print(f"  {run.status} {run.title}: {run.reason} (log: {run.log})")


def finish(runs: Sequence[PlannedRun]) -> None:
    """Raise AttnlabError if a run failed."""
    if bad := _bad(runs):
        names = ", ".join(run.title for run in bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise AttnlabError(f"{len(bad)} of {len(runs)} jobs failed ({names}); the same command runs them again")


def _bad(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    return [run for run in runs if run.status in (Status.FAILED, Status.DIVERGED)]


def refuse(refusals: Sequence[Refusal], jobs: Sequence[Sequence[str]]) -> None:
    """Raise for combinations of a plain sweep that cannot work: nothing has been started."""
    first = refusals[0]
    common = set(jobs[0]).intersection(*jobs)
    apart = " ".join(word for word in first.overrides if word not in {*common, ONE_THREAD})
    count = "" if len(jobs) == 1 else f"; {len(refusals)} of {len(jobs)} jobs cannot work, and none was started"
    raise UsageError(f"{apart}: {first.reason}{count}".removeprefix(": "))


def by_job(runs: Sequence[PlannedRun]) -> dict[tuple[str, ...], PlannedRun]:
    """The run that each job comes to, by its words."""
    return {job.overrides: run for run in runs for job in (run.job, *run.same_as)}
