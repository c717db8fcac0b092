"""The report of an experiment: read its runs, compare them, and write what came of it in every form.

`attnlab report runs/<experiment>` writes report.md, report.html, verdicts.csv, runs.csv and pictures/ into
runs/<experiment>/report, and the aggregates for TensorBoard into runs/<experiment>/report/tensorboard.
"""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from attnlab.ablation import preregister
from attnlab.ablation.arms import USUAL_BASELINE, Arm, BlockDesign, pair_with_baselines
from attnlab.ablation.board import write_board
from attnlab.ablation.comparison import Comparison, NoiseFloor, Rules, compare, lower_is_better, noise_floor
from attnlab.ablation.declared import Term, exploratory, family_term, first_declared, term
from attnlab.ablation.differences import unequal_conditions, unnamed_differences
from attnlab.ablation.document import Document, Picture, to_html, to_markdown
from attnlab.ablation.effects import Effects, factorial
from attnlab.ablation.groups import changing
from attnlab.ablation.looks import Looks, take_look
from attnlab.ablation.reading import Experiment, read_experiment
from attnlab.ablation.statistics import Seeds, bad_runs_not_excluded
from attnlab.ablation.tasks import Aggregate, Solved, over_tasks, solved
from attnlab.ablation.units import IN_BYTES, needs_bytes, separated
from attnlab.errors import UsageError
from attnlab.files import write_atomically, writing
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.names import METRICS, PREREGISTRATION
from attnlab.store.preregistration import Preregistration, PreregistrationCheck, read
from attnlab.store.status import Status

USUAL_METRIC, USUAL_ALPHA = "val/loss", 0.05
METRIC_OF_TASKS = "val/accuracy"  # where every run is of a task that is solved or not
IN_SUMMARY = {"val_loss": "val/loss", "val_bits_per_byte": "val/bits_per_byte", "train_loss": "train/loss"}
USUALLY_SOLVED = 0.99  # an accuracy from which a task counts as solved


class Options(NamedTuple):
    """What was typed; None leaves it to the preregistration, then to the sweep's manifest, then to the usual."""

    baseline: str | None = None
    metric: str | None = None
    margin: float | None = None
    alpha: float | None = None
    family: tuple[str, ...] = ()
    solved: float | None = None
    code: str = "same"  # any: runs that differ in nothing but seed and code are averaged


@dataclass(frozen=True)
class Report:
    """Everything that the pages tell, as numbers."""

    experiment: Experiment
    rules: Rules
    design: BlockDesign
    comparisons: list[Comparison]
    floors: dict[tuple[tuple[str, Any], ...], NoiseFloor | None]  # by block
    effects: Effects | None
    aggregates: list[Aggregate]
    solved: list[Solved]
    solved_at: float | None
    preregistration: PreregistrationCheck | None
    looks: Looks
    terms: list[Term]  # what it goes by, beside what was declared
    code: str  # any: averaged across code

    @property
    def baseline(self) -> Arm:
        """The baseline, or that of the first block."""
        return next(iter(self.design.baselines.values()))


def analyse(folder: Path | str, options: Options | None = None) -> Report:
    """Read and compare; refuses a baseline, a family or a metric that is not there."""
    options = options or Options()
    check = read(folder)
    registered = check.preregistration if check else None
    metric = options.metric or (registered.metric if registered else None)
    experiment = read_experiment(folder, metric or USUAL_METRIC)
    declared = _declared(experiment, "metric") or _usual_metric(experiment)
    if metric is None and isinstance(declared, str) and declared != USUAL_METRIC:
        experiment = read_experiment(folder, declared)
    asked = experiment.metric
    lower = lower_is_better(experiment.metric)
    if lower is None:
        raise UsageError(
            f"metric ({experiment.metric}) does not say which way is better; its name must end in loss, bits_per_byte, "
            "perplexity, error, seconds, bytes, accuracy, recall, exact_match or tokens_per_second"
        )
    if all(run.curve is None for run in experiment.runs) and any(
        run.reason.endswith(f"has no {experiment.metric}") for run in experiment.runs
    ):
        raise UsageError(f"metric ({experiment.metric}) is in none of the runs below {folder}; see their {METRICS}")
    alpha = options.alpha or (registered.alpha if registered else _positive(experiment, "alpha")) or USUAL_ALPHA
    margin = (
        options.margin
        if options.margin is not None
        else registered.margin
        if registered
        else _positive(experiment, "margin")
    )
    baseline = options.baseline or (registered.baseline if registered else None)
    design = pair_with_baselines(experiment, baseline, lower, alpha, code=options.code)
    because = ""
    if needs_bytes(experiment.metric, design.pairs()):
        experiment, margin = read_experiment(folder, IN_BYTES), None  # a margin is one of its unit
        because = "because losses of different tokenizers are no numbers of one kind"
    design = pair_with_baselines(experiment, baseline, lower, alpha, separated(experiment.metric), options.code)
    family = options.family or (tuple(registered.family) if registered else ())
    _check_family(family, design)
    looks = take_look(experiment) if _has_pairs(design) else Looks(1, 1, [])
    share = _is_share(experiment)
    rules = Rules(
        *(lower, alpha, margin, family, share, options.solved, experiment.is_planned, looks.declared, looks.number)
    )
    threshold = _threshold(experiment, options.solved)
    terms = _terms(experiment, options, registered, rules, design, asked, because)
    comparisons = [_told(c, terms) for c in compare(design, rules)]
    used = _used(experiment, rules, design, baseline)
    placed = [c for c in design.arms if c.block in design.baselines]
    whole = len(design.baselines) == 1 and all(c.finished for c in placed)
    first = next(iter(design.baselines.values()))
    return Report(
        experiment,
        rules,
        design,
        comparisons,
        {block: noise_floor(c, alpha) for block, c in design.baselines.items()},
        factorial(placed, first, alpha) if whole else None,
        over_tasks(design, lower, alpha),
        [] if threshold is None else solved(design.arms, threshold, alpha),
        threshold,
        preregister.check(folder, used, experiment.runs, _names(design, registered)),
        looks,
        terms,
        options.code,
    )


def _terms(
    experiment: Experiment,
    options: Options,
    registered: Preregistration | None,
    rules: Rules,
    design: BlockDesign,
    asked: str,
    because: str,
) -> list[Term]:
    """What the report goes by, beside what was declared before the first result."""
    declared, where = first_declared(experiment)
    if registered is not None:
        declared, where = registered._asdict(), PREREGISTRATION
    metric = IN_SUMMARY.get(str(declared.get("metric")), declared.get("metric")) or _usual_metric(experiment)
    if metric == asked:
        metric_term = term("metric", metric, where, experiment.metric, typed=False, because=because)
    else:
        metric_term = term("metric", metric, where, experiment.metric, typed=options.metric is not None)
    margin = declared.get("margin")
    lost = f"{because}, and a margin is one of its unit" if because and options.margin in (None, margin) else ""
    wanted = _baselines(experiment, declared.get("baseline"), rules)
    used = _labels(design.baselines.values())
    same = wanted is not None and {c.folder for c in wanted} == {c.folder for c in design.baselines.values()}
    named = used if same else _labels(wanted) if wanted is not None else declared.get("baseline")
    family = [c for c, _ in design.pairs() if not rules.family or {c.label, c.variant, c.folder} & {*rules.family}]
    declared_family = registered.family if registered is not None else [c.label for c, _ in design.pairs()]
    at = _threshold(experiment, None), _threshold(experiment, options.solved)
    solved = term("solved", at[0], "the task", at[1], typed=options.solved is not None)
    return [
        metric_term,
        term("baseline", named, where, used, typed=options.baseline is not None),
        term("margin", margin, where, rules.margin, typed=options.margin is not None, because=lost),
        term("alpha", declared.get("alpha") or USUAL_ALPHA, where, rules.alpha, typed=options.alpha is not None),
        family_term(declared_family, where, family, typed=bool(options.family)),
        *([solved] if _is_share(experiment) else []),
    ]


def _baselines(experiment: Experiment, name: Any, rules: Rules) -> list[Arm] | None:
    """The baselines that a name means, or that are taken without one; None if there are none."""
    try:
        design = pair_with_baselines(experiment, name, rules.lower_is_better, rules.alpha, separated(experiment.metric))
    except UsageError:
        return None
    return list(design.baselines.values())


def _labels(arms: Iterable[Arm]) -> str:
    return ", ".join(dict.fromkeys(c.label for c in arms))


def _told(comparison: Comparison, terms: Sequence[Term]) -> Comparison:
    """The comparison, with what a reader must know besides: settings and conditions in which its two sides differ, and
    what it goes by that was not declared."""
    remarks, marks = list(comparison.remarks), list(comparison.marks)
    if settings := unnamed_differences(comparison.arm, comparison.baseline):
        remarks.append(f"differs from the baseline in {', '.join(settings)}, too")
    runs = [run for c in (comparison.arm, comparison.baseline) for run in c.finished.values()]
    if runs and all(run.summary.get("computes") == USUAL_BASELINE for run in runs):
        remarks.append("computes what the baseline does at these sizes")
    if after := exploratory(terms):
        marks.append(after)
    marks += [each.in_a_line for each in terms if each.forced and each.name == "metric"]
    if conditions := unequal_conditions(comparison):
        marks.append(f"not under equal conditions: {', '.join(conditions)}")
    return replace(comparison, remarks=tuple(remarks), marks=tuple(marks))


def _declared(experiment: Experiment, key: str) -> Any:
    """What the sweep's manifest says of a setting, by itself or within its design.

    A metric may be called as in summary.json there.
    """
    inner = experiment.declared.get("design")
    value = experiment.declared.get(key, inner.get(key) if isinstance(inner, dict) else None)
    return IN_SUMMARY.get(value, value) if isinstance(value, str) else value


def _usual_metric(experiment: Experiment) -> str:
    summaries = [run.summary for run in experiment.runs if run.summary.get("status") == "finished"]
    declared = [summary.get("solved_at") for summary in summaries]
    return METRIC_OF_TASKS if declared and None not in declared else USUAL_METRIC


def _positive(experiment: Experiment, key: str) -> float | None:
    value = _declared(experiment, key)
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _is_share(experiment: Experiment) -> bool:
    return experiment.metric.endswith(("accuracy", "exact_match", "recall"))


def _has_pairs(design: BlockDesign) -> bool:
    """Whether there is anything to see: two seeds of a variant and its baseline."""
    return any(len(c.finished.keys() & baseline.finished.keys()) > 1 for c, baseline in design.pairs())


def _threshold(experiment: Experiment, typed: float | None) -> float | None:
    """From which value seeds are counted as having solved the task: typed, or declared by the task, or the usual."""
    declared = [run.summary.get("solved_at") for run in experiment.runs if run.status == Status.FINISHED]
    usual = next((float(at) for at in declared if isinstance(at, int | float)), USUALLY_SOLVED)
    return typed if typed is not None else usual if _is_share(experiment) else None


def _check_family(family: Iterable[str], design: BlockDesign) -> None:
    known = {name for c in design.arms for name in (c.label, c.variant, c.folder)}
    if wrong := [name for name in family if name not in known]:
        variants = ", ".join(dict.fromkeys(c.variant for c in design.arms))
        raise UsageError(f"family ({', '.join(wrong)}) is not in this experiment (choose from: {variants})")


def _names(design: BlockDesign, registered: Preregistration | None) -> list[str]:
    """What the arms are called: by the name that was preregistered, if one was."""
    known = {*registered.family, registered.baseline} if registered else set()
    return list(dict.fromkeys(c.folder if c.folder in known else c.variant for c in design.arms))


def _used(experiment: Experiment, rules: Rules, design: BlockDesign, baseline: str | None) -> Preregistration:
    """What the report goes by, in the form in which it would have been preregistered."""
    family = rules.family or tuple(dict.fromkeys(c.variant for c, _ in design.pairs()))
    name = baseline or next(iter(design.baselines.values())).variant
    return Preregistration("", name, experiment.metric, rules.margin, rules.alpha, [], list(family))


def home_of_report(experiment: ExperimentFolder) -> Path:
    """Where the report of an experiment goes unless something else is typed; refused if that lies somewhere else."""
    folder = experiment.report
    for place in (folder, folder / "pictures", folder / "tensorboard"):
        if not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(experiment.path)):
            raise UsageError(
                f"{place} is a link that leads out of the experiment; out=FOLDER says where the report goes"
            )
    return folder


def write(report: Report, document: Document, folder: Path, *, board: bool) -> list[Path]:
    """Write the report in all its forms into a folder; returns the files that people open."""
    pages = {
        "report.md": to_markdown(document),
        "report.html": to_html(document),
        "verdicts.csv": _csv(_VERDICT_COLUMNS, (_verdict_row(c, report) for c in report.comparisons)),
        "runs.csv": _csv(_RUN_COLUMNS, _run_rows(report)),
        "settings.csv": _csv(*_settings(report.design.arms)),
    }
    pictures = [block for section in document.sections for block in section.blocks if isinstance(block, Picture)]
    pages |= {f"pictures/{picture.name}.svg": picture.svg for picture in pictures}
    for name, text in pages.items():
        write_atomically(folder / name, text.encode(), key="out")
    if board:
        with writing(folder / "tensorboard", key="out"):
            write_board(folder / "tensorboard", report.design.arms, report.experiment.metric, report.rules.alpha)
    return [folder / name for name in pages if "/" not in name]


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(cell) for cell in row] for row in rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    """A cell; a spreadsheet would run a text that begins like a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {*"=+-@\t\r"} else "" if value is None else value


_VERDICT_COLUMNS = (
    *("variant", "setting", "folder", "baseline", "n", "seeds", "mean_difference", "sd", "low", "high", "p", "holm_p"),
    *("exact_test", "exact_p", "smallest_exact_p", "equivalence_p", "holm_equivalence_p", "bca_low", "bca_high"),
    *("correlation", "variance_removed", "detectable", "seeds_needed", "seeds_for_equivalence", "verdict", "remarks"),
    *("match", "lost", "solved", "baseline_solved", "bad_runs_not_excluded", "look"),
)


def _verdict_row(c: Comparison, report: Report) -> list[Any]:
    low, high = c.interval or (None, None)
    bca_low, bca_high = c.bca or (None, None)
    return [
        *(
            c.arm.label,
            c.arm.setting,
            c.arm.folder,
            c.baseline.folder,
            c.n,
            " ".join(map(str, c.seeds)),
        ),
        *(c.mean, c.sd, low, high, c.p, c.holm_p, c.exact_test, c.exact_p, c.smallest_exact_p, c.equivalence_p),
        *(c.holm_equivalence_p, bca_low, bca_high, c.pairing.correlation, c.pairing.variance_removed, c.detectable),
        *(_csv_seeds(c.seeds_needed), _csv_seeds(c.seeds_for_equivalence), c.word, "; ".join([*c.marks, *c.remarks])),
        *(c.arm.settings.get("match"), len(c.lost_seeds), *(c.solved[1:3] if c.solved else (None, None))),
        *(bad_runs_not_excluded(c.n, report.rules.alpha) if c.n else None, report.rules.look),
    ]


def _settings(arms: Sequence[Arm]) -> tuple[list[str], list[list[Any]]]:
    """Every setting in which two arms differ, one row each."""
    keys = sorted(key for keys in changing([c.settings for c in arms]) for key in keys)
    return ["setting", *(c.folder for c in arms)], [[key, *(c.settings.get(key) for c in arms)] for key in keys]


def _csv_seeds(seeds: Seeds | None) -> str | None:
    """The range and, between, the number for the spread as seen; nothing for more than 10,000."""
    return (
        None if seeds is None else " ".join("" if x is None else str(x) for x in (seeds.low, seeds.as_seen, seeds.high))
    )


_RUN_COLUMNS = ("folder", "variant", "seed", "status", "reason", "step", "value", "hash", "code", "compared", "match")


def _run_rows(report: Report) -> Iterable[list[Any]]:
    compared = {run.path for c in report.design.arms for run in c.finished.values()}
    for run in report.experiment.runs:
        value = run.final if run.curve is not None and run.status == Status.FINISHED else None
        summary = run.summary
        yield [
            *(run.name, run.variant, run.seed, run.status, run.reason, summary.get("step"), value, summary.get("hash")),
            summary.get("code"),
            run.path in compared,
            run.config.get("match"),
        ]
