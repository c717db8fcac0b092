"""What a sweep preregisters before its first run, and the report at its end: both go by the settings below `report`."""

from collections.abc import Sequence
from dataclasses import replace

from attnlab.analysis import exact_tests, sequential
from attnlab.analysis.analyse import analyse
from attnlab.analysis.arms import arm_of_runs, choose_baseline
from attnlab.analysis.groups import RATE
from attnlab.analysis.report.publish import publish
from attnlab.analysis.settings import METRIC_OF_TASKS, USUAL_METRIC, Options
from attnlab.analysis.statistics import bad_runs_not_excluded
from attnlab.config.metric_kinds import parse_metric
from attnlab.config.run_config import ReportConfig
from attnlab.errors import AttnlabError, FileFailure, UsageError
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.preregistration import Preregistration, write
from attnlab.sweep.plan import PlannedRun


def check(runs: Sequence[PlannedRun]) -> None:
    """Refuse what no report could go by."""
    for members in by_experiment(runs).values():
        settings(members)
        baseline_of(members)


def settings(runs: Sequence[PlannedRun]) -> ReportConfig:
    """What the report of a sweep goes by; it is the same for all runs."""
    report = runs[0].job.config.report
    solvable = all(run.facts["solved_at"] is not None for run in runs)
    metric = report.metric or (METRIC_OF_TASKS if solvable else USUAL_METRIC)
    parse_metric(metric, key="report.metric")
    if report.sequential and report.looks > 1:
        raise UsageError(f"report.looks ({report.looks}) must be 1 with report.sequential=true, which judges each seed")
    return replace(report, metric=metric)


def baseline_of(runs: Sequence[PlannedRun]) -> str:
    """What the others are held against: the setting that is named, or the design's, or multi_head, or the first.

    A variant by its name; where runs of one variant differ in something else, a setting by its folder.
    """
    variants = {run.identity.name: run.identity.variant for run in runs}
    arms = [arm_of_runs(variant, folder, {}, ()) for folder, variant in variants.items()]
    declared = (run.identity.name for run in runs if any(job.is_baseline for job in (run.job, *run.same_as)))
    named = runs[0].job.config.report.baseline
    return choose_baseline(arms, named, next(declared, None), arms, key="report.baseline")


def preregister(runs: Sequence[PlannedRun]) -> None:
    """Write down, for each experiment, what its report will go by."""
    for folder, members in by_experiment(runs).items():
        given, baseline = settings(members), baseline_of(members)
        if given.hypothesis is None:
            raise UsageError("preregister=true needs report.hypothesis='...': what you expect, in words")
        seeds = sorted({run.identity.seed for run in members})
        family = _family(members, baseline)
        configs = sorted(run.entry()["folder"] for run in members)
        digest = write(
            folder.path,
            Preregistration(
                given.hypothesis,
                baseline,
                given.metric or USUAL_METRIC,
                given.margin,
                given.alpha,
                seeds,
                family,
                configs,
            ),
        )
        print(
            f"preregistered in {folder}: {', '.join(family)} against {baseline} on {given.metric}, "
            f"{len(configs)} runs by their configs (SHA-256 {digest})"
        )


def _family(runs: Sequence[PlannedRun], baseline: str) -> list[str]:
    """The variants that are asked about; by their folders, where their names do not tell them apart."""
    folders = {run.identity.name: run.identity.variant for run in runs}
    if baseline not in folders:
        return [name for name in dict.fromkeys(folders.values()) if name != baseline]
    others = [name for name in folders if name != baseline]
    names = [folders[name] for name in others]
    if len({*names, folders[baseline]}) == len(folders):
        return names
    if len({run.identity.fingerprint.get(RATE) for run in runs}) > 1:
        raise UsageError(f"preregister=true: runs that differ in {RATE} must be told apart by their variants' names")
    return others


def by_experiment(runs: Sequence[PlannedRun]) -> dict[ExperimentFolder, list[PlannedRun]]:
    """The runs of each experiment, by its folder."""
    experiments: dict[ExperimentFolder, list[PlannedRun]] = {}
    for run in runs:
        experiments.setdefault(run.experiment, []).append(run)
    return experiments


def prospects(runs: Sequence[PlannedRun]) -> list[str]:
    """What verdict the planned seeds allow, for each experiment that ends in a report."""
    lines = []
    for folder, members in by_experiment(runs).items():
        given, baseline = settings(members), baseline_of(members)
        seeds: dict[str, set[int]] = {}
        for run in members:
            if baseline not in (run.identity.name, run.identity.variant):
                seeds.setdefault(run.identity.name, set()).add(run.identity.seed)
        if not seeds or not given.at_end:
            continue
        m, n = len(seeds), max(map(len, seeds.values()))
        alpha = given.alpha / given.looks / m
        fewest = sequential.fewest_seeds(alpha) if given.sequential else exact_tests.fewest_seeds(alpha)
        about = f"{folder}: {m} variant{'s' * (m > 1)} against {baseline}, {n} seed{'s' * (n > 1)}"
        if given.sequential and n >= fewest:
            lines.append(f"{about} at most: the sweep ends when all verdicts are known, from {fewest} seeds on")
            continue
        if given.sequential or exact_tests.exact_test(n, alpha) is None:
            lines.append(f"{about}: no verdict is possible; {fewest} seeds are the fewest")
        else:
            pairs = exact_tests.fewest_seeds(alpha, test=exact_tests.SIGN_FLIPS)
            bad = bad_runs_not_excluded(n, given.alpha)
            lines.append(
                f"{about}: verdicts are possible (from {fewest} seeds on, by pairs from {pairs}); if none of the runs "
                f"is bad, up to {100 * bad:.0f} % of all may be"
            )
        if (taken := len(folder.manifest.looks())) >= given.looks:
            lines.append(f"{folder}: looked at {taken} times already; added runs are explored, not judged")
    return lines


def report(runs: Sequence[PlannedRun]) -> None:
    """Compare the variants of each experiment, if they ask for it; where there is nothing to compare, say so."""
    for folder, members in by_experiment(runs).items():
        if not settings(members).at_end:
            continue
        try:
            outcome = analyse(folder.path, Options(code=members[0].job.config.code))
            if not outcome.comparisons:
                raise UsageError(
                    "; ".join([f"there is nothing to hold against {outcome.baseline.label}", *outcome.design.remarks])
                )
            if all(c.n < 2 for c in outcome.comparisons):
                raise UsageError("no variant has two seeds in common with the baseline, and one says nothing of chance")
            print()
            publish(outcome, None)
        except FileFailure:
            raise
        except AttnlabError as error:
            print(f"no report: {error} (attnlab report experiment={folder} can be asked at any time)")
