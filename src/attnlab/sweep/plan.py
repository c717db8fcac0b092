"""From jobs to runs: which folder each one has, what it costs, which are the same, and which cannot work."""

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from attnlab.config.run_config import RunConfig
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.manifest import Entry
from attnlab.store.run_folder import RunFolder, lacks_lengths
from attnlab.store.status import Status
from attnlab.sweep.jobs import Job, Refusal
from attnlab.sweep.pool import Pool, how_it_died
from attnlab.training.identity import SEEDS, Identity, earlier

PROBE_SECONDS, PROBES_SECONDS = 1.5, 4.0  # of training that is tried for an estimate: of one kind of run, of all
MOST_AT_ONCE = 100  # configs that a worker is asked about together
MARGIN = 1.5  # how much longer than its bare steps a run takes, for maps, samples and checkpoints


@dataclass(eq=False)
class PlannedRun:
    """One run of a sweep, and how it stands."""

    job: Job
    identity: Identity
    facts: Mapping[str, Any]  # parameters, FLOPs, bytes: what `attnlab.sweep.worker_tasks.plan` found
    label: str = ""
    status: Status = Status.PLANNED
    reason: str = ""
    step: int = 0
    last_step: int = 0
    val_loss: float | None = None
    began: float | None = None  # by time.monotonic(), if it is running
    seconds: float = 0.0  # that it took, of this command
    estimate: float | None = None  # seconds
    tried: bool = False  # whether that was measured by a few of its steps, or follows from its FLOPs
    not_before: float = 0.0  # another command is at it
    same_as: list[Job] = field(default_factory=list)  # further jobs that come to this run
    same: str = ""  # in words, that its attention is another than the baseline's but computes the same
    anew: str = ""  # what changed since other code made it, if it is trained anew

    @property
    def experiment(self) -> ExperimentFolder:
        """The folder of the experiment."""
        return ExperimentFolder(Path(self.job.config.paths.runs) / self.job.config.experiment_name)

    @property
    def folder(self) -> RunFolder:
        """The folder of the run."""
        return self.experiment.run(self.identity.name, self.identity.seed)

    @property
    def log(self) -> Path:
        """Where all that the run prints goes."""
        return self.experiment.log(self.identity.name, self.identity.seed)

    @property
    def title(self) -> str:
        """How the run is called in a line."""
        return f"{self.label} seed {self.identity.seed}"

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return 0.0 if self.began is None else time.monotonic() - self.began

    def look(self) -> None:
        """Find out from its folder whether the run is finished, and judged at all lengths that are asked for.

        With code=any the run may be one that other code has made.
        """
        config = self.job.config
        if there := earlier(self.identity, self.facts["code"], config.paths.runs, config.experiment_name):
            if config.code == "any":
                self.identity = there.identity
            else:
                self.anew = str(there)
        done = self.folder.read_summary()
        if done.get("status") == Status.FINISHED and not lacks_lengths(done, config.evaluation.lengths):
            self.status, self.reason, self.val_loss = Status.FINISHED, "", done.get("val_loss")

    def entry(self) -> Entry:
        """Its line in the manifest."""
        return {
            "folder": self.folder.name,
            "variant": self.identity.variant,
            "label": self.label,
            "overrides": list(self.job.overrides),
            "levels": self.job.levels,
            "seed": self.identity.seed,
            "status": self.status,
            "reason": self.reason,
            "log": self.log.relative_to(self.experiment.path).as_posix(),
        }


def refused_entry(refusal: Refusal, variant: str = "") -> Entry:
    """The line in the manifest of a combination that makes no sense."""
    return {
        "folder": None,
        "variant": variant,
        "label": " ".join(refusal.overrides),
        "overrides": list(refusal.overrides),
        "levels": refusal.levels,
        "seed": None,
        "status": Status.REFUSED,
        "reason": refusal.reason,
        "log": None,
    }


def runs_of(jobs: Sequence[Job], pool: Pool, *, begins: bool = True) -> tuple[list[PlannedRun], list[Refusal]]:
    """What the jobs come to, each run once, and the jobs that a class, a file or the machine refuses.

    Jobs that differ in nothing but seeds are looked at once, in a worker, where torch is. Where no run `begins`, what
    settings that are `auto` come to is written nowhere.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(_without_seeds(job.config), []).append(job)
    refusals: list[Refusal] = []
    facts: dict[str, Any] = {}
    firsts = [(key, group[0]) for key, group in groups.items()]
    for number, kind, content in ask_all(pool, "plan", [job for _, job in firsts], {"begins": begins}):
        key = firsts[number][0]
        if kind == "done":
            facts[key] = content
        else:
            reason = how_it_died(content) if kind == "died" else str(content)
            refusals += [Refusal(job.overrides, job.levels, reason) for job in groups[key]]
    by_folder: dict[Path, PlannedRun] = {}
    for key, group in groups.items():
        for job in group if key in facts else []:
            run = PlannedRun(job, _identity(job, facts[key]["fingerprint"], facts[key]["code"].hash), facts[key])
            same = run.experiment.path / run.identity.hash8 / str(run.identity.seed)  # however the words call it
            if same in by_folder:
                by_folder[same].same_as.append(job)
            else:
                by_folder[same] = run
    order = {job.overrides: i for i, job in enumerate(jobs)}
    runs = sorted(by_folder.values(), key=lambda run: order[run.job.overrides])
    _label(runs)
    for run in runs:
        if not run.job.config.overwrite:
            run.look()
    return runs, sorted(refusals, key=lambda refusal: order[refusal.overrides])


def ask_all(
    pool: Pool, kind: str, jobs: Sequence[Job], more: Mapping[str, Any] | None = None
) -> Iterator[tuple[int, str, Any]]:
    """Have the workers answer a question about each job; gives (number of the job, word, answer) as they come.

    A worker is asked about many at once, of which it finds out only once what they have in common. If it dies of them,
    each is asked about alone.
    """
    size = max(1, min(MOST_AT_ONCE, -(-len(jobs) // pool.size)))
    waiting = [range(at, min(at + size, len(jobs))) for at in range(0, len(jobs), size)][::-1]
    asked, given = 0, list[range]()
    while asked < len(jobs):
        while waiting and pool.free:
            given.append(waiting.pop())
            contents = [_content(jobs[number], more) for number in given[-1]]
            pool.give(len(given) - 1, kind, contents)
        for event in pool.events(1.0):
            numbers = given[event.task]
            if event.kind == "done":
                asked += len(numbers)
                yield from ((number, *answer) for number, answer in zip(numbers, event.content, strict=True))
            elif event.kind != "progress" and len(numbers) > 1:
                waiting += [range(number, number + 1) for number in reversed(numbers)]
            elif event.kind != "progress":
                asked += 1
                yield numbers[0], event.kind, event.content


def _content(job: Job, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"config": job.config, "variant": job.variant, **(more or {})}


def compare(runs: Sequence[PlannedRun], baseline: str, pool: Pool) -> None:
    """Find out whose attention computes what the baseline's does, at the same sizes and positions."""
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(_setting(run, "model", "position"), []).append(run)
    for members in groups.values():
        bases = [run for run in members if baseline in (run.identity.name, run.identity.variant)]
        others: dict[str, list[PlannedRun]] = {}
        for run in members:
            if bases and run.job.config.attention != bases[0].job.config.attention:
                others.setdefault(_setting(run, "attention"), []).append(run)
        asked = list(others.values())
        more = {"base": bases[0].job.config, "baseline": baseline} if bases else {}
        for number, kind, content in ask_all(pool, "same", [alike[0].job for alike in asked], more):
            for run in asked[number] if kind == "done" else ():
                run.same = content


def _setting(run: PlannedRun, *keys: str) -> str:
    return json.dumps([value for key, value in run.job.config.as_dict().items() if key in keys], sort_keys=True)


def estimate(runs: Sequence[PlannedRun], pool: Pool) -> None:
    """Tell how long the runs that are left will take, those that do the same work once.

    Of as many kinds as a few seconds allow some steps are tried, of each variant first; the others are taken to train
    at the FLOP/s of their own variant, or of what was tried, whichever is slower.
    """
    alike: dict[tuple[Any, ...], list[PlannedRun]] = {}
    for run in runs:
        if run.status != Status.FINISHED:
            alike.setdefault(_work(run), []).append(run)
    kinds = sorted(alike.values(), key=lambda members: members[0].facts["train_flops"])
    firsts = list({members[0].identity.variant: members for members in reversed(kinds)}.values())[::-1]
    order = [*firsts, *(members for members in kinds if not any(members is first for first in firsts))]
    seconds = min(PROBE_SECONDS, PROBES_SECONDS * pool.size / max(1, len(order)))
    waiting, end = deque(range(len(order))), time.monotonic() + PROBES_SECONDS
    tried: dict[str, list[float]] = {}  # FLOP/s by variant
    while pool.busy or (waiting and (time.monotonic() < end or not tried)):
        while waiting and pool.free and (time.monotonic() < end or not (tried or pool.busy)):
            number = waiting.popleft()
            pool.give(number, "probe", {**_content(order[number][0].job), "seconds": seconds})
        for event in pool.events(1.0):
            if event.kind == "done":
                first, took = order[event.task][0], event.content["seconds"]
                tried.setdefault(first.identity.variant, []).append(first.facts["train_flops"] / took)
                for run in order[event.task]:
                    run.estimate, run.tried = took * MARGIN, True
    slowest = min((min(rates) for rates in tried.values()), default=None)
    for run in (run for members in order for run in members if run.estimate is None):
        if rate := min(tried.get(run.identity.variant, []), default=slowest):
            run.estimate = run.facts["train_flops"] / rate * MARGIN


def _work(run: PlannedRun) -> tuple[Any, ...]:
    """What decides how long a run takes: the variant and its sizes, but not its rates or seeds."""
    counted = ("parameters", "forward_flops", "train_flops")
    config = run.job.config
    batches = (config.batch_size, config.model.context, config.trainer.threads)
    return (run.identity.variant, *(run.facts[key] for key in counted), *batches, config.trainer.precision)


def _without_seeds(config: RunConfig) -> str:
    return json.dumps(
        {key: value for key, value in config.as_dict().items() if key not in ("seed", "streams")}, sort_keys=True
    )


def _identity(job: Job, fingerprint: Mapping[str, Any], code: str) -> Identity:
    """Which run a job is, from the fingerprint of one that differs in seeds alone."""
    own = {key: attrgetter(key)(job.config) for key in SEEDS}
    return Identity(job.variant, job.config.seed, {**fingerprint, **own}, code)


def _label(runs: Sequence[PlannedRun]) -> None:
    """Call each run by the words that set it apart from others of the sweep."""
    if not runs:
        return
    common = set(runs[0].job.setting_overrides).intersection(*(run.job.setting_overrides for run in runs))
    for run in runs:
        apart = [word.lstrip("+").rpartition("/")[2] for word in run.job.setting_overrides if word not in common]
        run.label = " ".join(apart) or run.identity.variant
