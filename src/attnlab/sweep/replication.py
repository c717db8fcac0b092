"""Published claims put to the test: the recipe is trained by a sweep, on seeds that follow from its hash, and judged.

Runs go to FOLDER/NAME, as those of any experiment, and the record to RECORDS/NAME.json. What ran there under another
hash or with seeds of trials is counted in it, and what an earlier recipe came to stays in it.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from attnlab.analysis.claim_rules import OF_SUMMARY, judge
from attnlab.analysis.metric_curves import curve_of, outcome
from attnlab.config.compose import compose_config
from attnlab.config.keys import CLAIMS
from attnlab.config.messages import explain, import_beside
from attnlab.config.metric_kinds import check_logged, parse_metric
from attnlab.errors import AttnlabError, UsageError
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.files import check_writable, parse_json, read_file, write_json
from attnlab.store.manifest import Entry
from attnlab.store.run_folder import RunFolder
from attnlab.store.status import ENDED, Status
from attnlab.sweep.claim import FIRST_FROZEN_SEED, Claim
from attnlab.sweep.command import train_design

OF_A_TASK = ("floor/", "ceiling/")
STAYS = ("hash", "date", "verdict", "recipe", "answers", "arms")  # of what an earlier recipe came to
BEGUN = (*ENDED, Status.FAILED, Status.DAMAGED)
Numbers = dict[str, list[dict[str, float] | None]]  # by arm: the measures of each seed; None: a lost run


def replicate(
    claim: Claim,
    folder: Path,
    records: Path,
    *,
    trial: Sequence[int],
    n_jobs: int,
    config_dir: Path | None,
    packages: Sequence[str] = (),
) -> dict[str, Any]:
    """Train what is not there yet, judge it and write the record, which is returned; a trial is counted, not judged.

    `packages` are those of the user's whose classes the recipe names. What can be refused, `check` refuses.
    """
    seeds = list(trial) or claim.seeds
    experiment = ExperimentFolder(folder / claim.name)
    record_file = records / f"{claim.name}.json"
    typed = allowing(packages)
    train_design(experiment.path, claim.name, claim.sweep(seeds), typed, n_jobs=n_jobs, config_dir=config_dir)
    entries = experiment.manifest.read()["runs"]
    runs = {arm: [_run(claim, experiment, entries, arm, seed) for seed in seeds] for arm in claim.arms}
    read = {arm: [(run, run.read_summary()) for run in of_arm] for arm, of_arm in runs.items()}
    numbers = {arm: [_measured(claim, run, summary) for run, summary in of_arm] for arm, of_arm in read.items()}
    earlier = read_record(record_file)
    trials = sorted({*_trials(entries, () if trial else runs.values()), *earlier.get("trials", [])})
    if trial:
        write_json(record_file, {"name": claim.name, **earlier, "trials": trials})
        return {"name": claim.name, "trial": seeds, "arms": _table(numbers, seeds)}
    summaries = [summary for of_arm in read.values() for _, summary in of_arm if summary]
    record = _record(claim, summaries, numbers, trials, earlier)
    write_json(record_file, record)
    return record


def read_record(path: Path) -> dict[str, Any]:
    """What is recorded of a claim; empty if nothing is, or nothing that can be read."""
    try:
        content = parse_json(read_file(path))
    except (OSError, ValueError):
        return {}
    return content if _is_record(content) else {}


def _is_record(content: Any) -> bool:
    if not isinstance(content, dict) or ("verdict" in content and not content.keys() >= {*STAYS}):
        return False
    lists = [content.get(key, []) for key in ("trials", "earlier")]
    return all(isinstance(each, list) for each in lists) and all(isinstance(run, str) for run in lists[0])


def check(
    claims: Sequence[Claim],
    folder: Path,
    records: Path,
    *,
    trial: Sequence[int],
    config_dir: Path | None,
    packages: Sequence[str] = (),
) -> None:
    """Refuse what cannot be run, judged or written down, of any of the claims, before the first of them is trained."""
    if any(seed >= FIRST_FROZEN_SEED for seed in trial):
        raise UsageError(f"trial ({max(trial)}) must be seeds below {FIRST_FROZEN_SEED}: those above judge")
    check_writable(folder, key="folder")
    check_writable(records, key="records")
    import_beside(config_dir, packages)
    for claim in claims:
        record_file = records / f"{claim.name}.json"
        if os.path.lexists(record_file) and not read_record(record_file):
            raise UsageError(f"{record_file} is no record of a claim, and is not written over: move it away")
        check_metrics(claim, config_dir, packages)


def allowing(packages: Sequence[str]) -> tuple[str, ...]:
    """What is typed so that a recipe may name classes of these packages."""
    return (f"allow_targets=[{','.join(packages)}]",) if packages else ()


def check_metrics(claim: Claim, config_dir: Path | None, packages: Sequence[str] = ()) -> None:
    """Refuse a recipe that cannot be composed or built, or that logs none of what its measures are made of."""
    from attnlab.training.logged_metrics import metrics_of_config

    for arm in claim.arms:
        key, settings = f"{CLAIMS} {claim.name}, {arm}", [*claim.settings(arm), *allowing(packages)]
        try:
            config = compose_config(settings, [] if config_dir is None else [config_dir])
            logged = metrics_of_config(config)
        except UsageError as error:
            raise UsageError(f"{key}: {error}") from error
        except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
            raise UsageError(f"{key}: {explain(error, settings, 'an arm has one')}") from error
        for metric in claim.metrics:
            if metric.startswith(OF_A_TASK) and "val/bayes_loss" not in logged:
                raise UsageError(f"{key}: {metric} is a number of a task, and its data is a text")
            if metric not in OF_SUMMARY and not config.callbacks:  # callbacks may log what they like
                check_logged(metric, logged, key, any_way=True)


def _run(claim: Claim, experiment: ExperimentFolder, entries: Sequence[Entry], arm: str, seed: int) -> RunFolder:
    """The run of an arm with a seed: the last that ended, by whatever code; one that other code has left is none."""
    asked = {"levels": {claim.axis: arm}, "seed": seed}
    of_both = [entry for entry in entries if entry.get("folder") and {key: entry.get(key) for key in asked} == asked]
    if not of_both:
        raise AttnlabError(f"{experiment} has no run of {arm} with seed {seed}")
    last = ([entry for entry in of_both if entry.get("status") in BEGUN] or of_both)[-1]
    return RunFolder(experiment.path / last["folder"])


def _measured(claim: Claim, run: RunFolder, summary: Mapping[str, Any]) -> dict[str, float] | None:
    """The measures of a run; None if it is lost. Raises UsageError for one that was not logged."""
    if summary.get("status") != Status.FINISHED:
        return None
    run.check(summary)
    rows, numbers = run.read_metrics(), {}
    for name in claim.metrics:
        if name in OF_SUMMARY:
            numbers[name] = _of_summary(summary, OF_SUMMARY[name])
            continue
        metric = parse_metric(name, any_way=True)
        curve = curve_of(metric, rows)
        if curve is None:
            raise UsageError(f"claim {claim.name}: {name} was not logged by {run}")
        numbers[name] = outcome(metric, curve)
    return {name: measure.value(numbers) for name, measure in claim.measures.items()}


def _of_summary(summary: Any, keys: Sequence[str]) -> float:
    for key in keys:
        summary = summary[key]
    return float(summary)


def _table(numbers: Numbers, seeds: Sequence[int]) -> dict[str, dict[str, dict[str, float] | None]]:
    return {arm: dict(zip(map(str, seeds), each, strict=True)) for arm, each in numbers.items()}


def _trials(entries: Iterable[Entry], judging: Iterable[Sequence[RunFolder]]) -> Iterator[str]:
    """Every run that began and does not judge: of another recipe, or with a seed for trials."""
    names = {run.name for each in judging for run in each}

    def has_begun(entry: Entry) -> bool:
        trial = names or (entry.get("seed") or 0) < FIRST_FROZEN_SEED
        return bool(entry.get("folder") and trial) and entry.get("status") in BEGUN and entry["folder"] not in names

    yield from (entry["folder"] for entry in entries if has_begun(entry))


def _record(
    claim: Claim,
    summaries: Sequence[Mapping[str, Any]],
    numbers: Numbers,
    trials: list[str],
    earlier: Mapping[str, Any],
) -> dict[str, Any]:
    verdict, answers = judge(claim.rule, numbers)
    stays, arms = list(earlier.get("earlier", [])), _table(numbers, claim.seeds)
    # Of another recipe, or of other code: as texts, for two results that are no number are not equal.
    if "verdict" in earlier and json.dumps([earlier["hash"], earlier["arms"]]) != json.dumps([claim.hash, arms]):
        stays.append({key: earlier[key] for key in STAYS})
    return {
        "name": claim.name,
        "verdict": verdict,
        "hash": claim.hash,
        "recipe": claim.recipe,
        "date": datetime.now(UTC).date().isoformat(),
        "commits": sorted({str(s.get("git_commit")) for s in summaries}),
        "versions": summaries[0].get("versions", {}) if summaries else {},
        "device": summaries[0].get("device") if summaries else None,
        "minutes": round(sum(float(s.get("seconds", 0)) for s in summaries) / 60, 1),
        "answers": [answer._asdict() for answer in answers],
        "arms": arms,
        "trials": trials,
        "earlier": stays,
    }
