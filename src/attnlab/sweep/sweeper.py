"""What `python train.py -m ...` does: from the words that were typed to the runs, whatever launches them."""

from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from attnlab.errors import AttnlabError, UsageError
from attnlab.store.status import Status
from attnlab.sweep.design import Design, Point, read_design
from attnlab.sweep.executor import by_job, execute, finish, fit_to_machine, pool_for, refuse, show, sum_up, write_plan
from attnlab.sweep.jobs import Composer, Job, Refusal
from attnlab.sweep.plan import PlannedRun, compare, estimate, runs_of
from attnlab.sweep.pool import Pool
from attnlab.sweep.reporting import baseline_of, by_experiment, check, preregister, prospects, report, settings

OF_THE_SWEEP = ("sweep", "plan", "preregister")  # keys that no job has
Split = Callable[[list[Any]], list[list[str]]]  # from parsed overrides to the words of every job


def sweep(
    loader: ConfigLoader,
    master: DictConfig,
    arguments: Sequence[str],
    *,
    split: Split,
    local: bool,
    n_jobs: int | None,
    patience: float | None,
    launch: Callable[[list[list[str]]], Sequence[JobReturn]],
) -> list[float | None]:
    """Compose, check and list all jobs, then run those that are not finished; returns the final losses, job by job.

    `local` runs them in warm workers here, `n_jobs` at once, with `patience` (see `Pool`); otherwise `launch` takes
    their words elsewhere.
    """
    design, points, typed = _design(master, loader, arguments)
    split_overrides = split(OverridesParser.create(config_loader=loader).parse_overrides(typed))
    requested = _request_jobs(design, points, split_overrides, master)
    with pool_for(n_jobs, len(requested), patience) as pool:
        if not local:
            pool.shrink(1)
        jobs, refusals = _compose(loader, master, requested)
        if refusals and design is None:
            refuse(refusals, [overrides for overrides, _ in requested])
        runs, more = runs_of(jobs, pool, begins=not master.plan)
        refusals += more
        if (refusals and design is None) or not runs:
            refuse(refusals, [overrides for overrides, _ in requested])
        check(runs)
        if not local and any(settings(members).sequential for members in by_experiment(runs).values()):
            raise UsageError("report.sequential (true) needs hydra/launcher=local, which sees each seed end")
        for members in by_experiment(runs).values():
            compare(members, baseline_of(members), pool)
        fit_to_machine(pool, runs, n_jobs)
        if master.plan:
            estimate(runs, pool)
        show(runs, refusals, pool.size, costs=bool(master.plan))
        for line in prospects(runs):
            print(line)
        if master.plan:
            return []
        if master.preregister:
            preregister(runs)
        write_plan(runs, refusals, None if design is None else design.described())
        if local:
            execute(runs, pool)
        else:
            _run_remotely(runs, pool, launch)
    sum_up(runs)
    report(runs)
    finish(runs)
    by_overrides = by_job(runs)
    return [by_overrides[job.overrides].val_loss for job in jobs]


def _design(
    master: DictConfig, loader: ConfigLoader, arguments: Sequence[str]
) -> tuple[Design | None, list[Point], list[str]]:
    """The design that sweep= names, its points, and the words that stay."""
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    for override in parsed:
        _check_sweep(override)
    keys = [override.key_or_group for override in parsed]
    typed = [word for word, key in zip(arguments, keys, strict=True) if key.split(".")[0] not in OF_THE_SWEEP]
    if "sweep" not in master:
        return None, [Point((), {}, False)], typed
    name = str(master.hydra.runtime.choices["sweep"])
    design = read_design(name, OmegaConf.to_container(master.sweep, resolve=False))
    given = {key.partition("@")[0] for key in keys}
    for axis in design.axes:
        for key in {word.partition("=")[0] for overrides in axis.levels.values() for word in overrides} & given:
            raise UsageError(f"{key} is varied by sweep={name} (axis {axis.name}); leave {key}= out, or copy its file")
    for level, overrides in design.arms.items():
        for key in {_key(word) for word in overrides} & given:
            raise UsageError(f"{key} is set by sweep={name} (arms.{level}); leave {key}= out, or copy its file")
    settings = [word for word in design.settings if _key(word) not in given]
    if "experiment_name" not in given | {_key(word) for word in settings}:
        settings.append(f"experiment_name={name}")
    if "seed" not in given | {_key(word) for word in settings}:
        settings.append(f"seed={','.join(map(str, design.seeds))}")
    return design, design.points(), [*settings, *typed]


def _check_sweep(override: Override) -> None:
    """Refuse several values of what one sweep has one of, and several values that are none at all."""
    if not override.is_sweep_override():
        return
    key = override.key_or_group
    if key.split(".")[0] in (*OF_THE_SWEEP, "report"):
        raise UsageError(f"{key} ({override.get_value_string()}) cannot be varied: it is one for the whole sweep")
    if not override.is_discrete_sweep():
        raise UsageError(f"{override.input_line} has no end of values: list some, or choose a sweeper such as optuna")
    if next(iter(override.sweep_string_iterator()), None) is None:
        raise UsageError(f"{override.input_line} stands for no value at all, so there is no job to run")


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _request_jobs(
    design: Design | None, points: Sequence[Point], split_overrides: Sequence[Sequence[str]], master: DictConfig
) -> list[tuple[list[str], Point]]:
    """The words of every job: each point of the design with each combination of what was typed."""
    requested = []
    for point in points:
        own = {_key(word) for word in point.overrides}  # of an arm: they win over what all have in common
        for overrides in split_overrides:
            requested.append(([*point.overrides, *(word for word in overrides if _key(word) not in own)], point))
    return requested


def _compose(
    loader: ConfigLoader, master: DictConfig, requested: Sequence[tuple[list[str], Point]]
) -> tuple[list[Job], list[Refusal]]:
    composer, jobs, refusals = Composer(loader, master), [], []
    for overrides, point in requested:
        try:
            jobs.append(composer.job(overrides, point.levels, point.is_baseline))
        except UsageError as error:
            refusals.append(Refusal(tuple(overrides), point.levels, str(error)))
    return jobs, refusals


def launch_here(
    loader: ConfigLoader, master: DictConfig, overrides: Sequence[Sequence[str]], pool: Pool
) -> list[JobReturn]:
    """Run jobs that another sweeper asks for, such as Optuna's, and return what each came to."""
    jobs, refusals = _compose(loader, master, [(list(own), Point((), {}, False)) for own in overrides])
    runs, more = runs_of(jobs, pool)
    write_plan(runs, [], None)
    execute(runs, pool)
    reasons = {refusal.overrides: refusal.reason for refusal in (*refusals, *more)}
    by_overrides = by_job(runs)
    return [_job_return(own, by_overrides, reasons) for own in overrides]


def _job_return(
    overrides: Sequence[str], by_overrides: dict[tuple[str, ...], PlannedRun], reasons: dict[tuple[str, ...], str]
) -> JobReturn:
    """The outcome of one job as Hydra hands it on."""
    answer = JobReturn(overrides=list(overrides))
    run = next((run for key, run in by_overrides.items() if key[: len(overrides)] == tuple(overrides)), None)
    if run is not None and run.status == Status.FINISHED:
        answer.return_value, answer.status = run.val_loss, JobStatus.COMPLETED
        return answer
    refused = next((reason for key, reason in reasons.items() if key[: len(overrides)] == tuple(overrides)), "")
    answer.return_value = AttnlabError(refused if run is None else run.reason)
    answer.status = JobStatus.FAILED
    return answer


def _run_remotely(
    runs: Sequence[PlannedRun], pool: Pool, launch: Callable[[list[list[str]]], Sequence[JobReturn]]
) -> None:
    """Hand what is not finished to a launcher that runs it elsewhere, and look into the folders for what came of it."""

    pool.kill()
    left = [run for run in runs if run.status != Status.FINISHED]
    returns: Sequence[JobReturn] = []
    try:
        returns = launch([list(run.job.overrides) for run in left]) if left else []
    finally:
        for i, run in enumerate(left):
            run.status, run.reason = Status.FAILED, "it did not come to an end; see what the launcher says"
            if i < len(returns) and returns[i].status == JobStatus.FAILED:
                run.reason = str(returns[i]._return_value)
            run.look()
            run.experiment.manifest.note(run.entry())
