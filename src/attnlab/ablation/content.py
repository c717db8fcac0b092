"""The words of a report: what is told of it, in which order, and in which tables."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from attnlab.ablation import charts, mean_maps
from attnlab.ablation.arms import Arm
from attnlab.ablation.costs import costs, measuring
from attnlab.ablation.declared import exploratory
from attnlab.ablation.differences import beside_the_variants, settings_that_differ
from attnlab.ablation.document import Block, Document, Lines, Section, Table, table
from attnlab.ablation.fairness import fairness, held_equal, limits
from attnlab.ablation.format import MOST_LISTED, number, p_value, sentence, span
from attnlab.ablation.report import Report
from attnlab.ablation.reproducibility import reproducibility
from attnlab.ablation.statistics import bad_runs_not_excluded, share_interval
from attnlab.store.status import Status


def document(report: Report) -> Document:
    """The whole report."""
    sections = [
        Section("Noise floor: the baseline against itself", noise(report)),
        Section("Verdicts", _verdicts(report)),
        Section("Declared and used", [_declared(report)]),
        Section("Matched budgets", held_equal(report)),
        Section("Settings that differ", settings_that_differ(report.design.arms)),
        Section("Runs", _runs(report)),
        *([Section("Preregistration", _preregistration(report))] if report.preregistration else []),
        Section("Variance removed by pairing", [_pairing(report)]),
        Section(
            "Learning curves",
            _some(charts.learning_curves(_pictured(report), report.experiment.metric, report.rules.alpha)),
        ),
        Section("Learning rates", _rates(report)),
        Section("Main effects and interactions", _effects(report)),
        Section("Aggregate over tasks", _tasks(report)),
        Section("Success rate", _solved(report)),
        Section("Cost", _cost(report)),
        Section("Mean attention maps", _maps(report)),
        Section("Limits", [limits(report)]),
        Section("Reproducibility", reproducibility(report)),
    ]
    mode = fairness(report).mode
    return Document(
        f"{report.experiment.name}: {report.experiment.metric} against {report.baseline.label}",
        _summary(report),
        [_with_mode(section, mode) for section in sections if section.blocks],
    )


def _with_mode(section: Section, mode: str) -> Section:
    """The section, with the matching mode in the caption of every table: no number travels without it."""
    blocks = [
        _captioned(block, f"matched by {mode}") if isinstance(block, Table) else block for block in section.blocks
    ]
    return replace(section, blocks=blocks)


def _captioned(shown: Table, words: str) -> Table:
    return replace(shown, caption="; ".join(filter(None, (shown.caption.rstrip("."), words))))


def _some(picture: Block | None) -> list[Block]:
    return [] if picture is None else [picture]


def _summary(report: Report) -> str:
    counts = Counter(c.verdict for c in report.comparisons)
    words = ", ".join(f"{n} {verdict}" for verdict, n in counts.items()) or "nothing to compare"
    way = "lower" if report.rules.lower_is_better else "higher"
    words += f" ({after})" if (after := exploratory(report.terms)) else ""
    return f"{words}, on {report.experiment.metric} ({way} is better), matched by {fairness(report).mode}."


def verdict_table(report: Report) -> Table:
    """The table that matters."""
    several = len(report.design.baselines) > 1
    percent = f"{100 * (1 - report.rules.alpha):g} %"
    columns = ["variant", *(["setting"] if several else []), "verdict", "n", "lost", "mean difference"]
    columns += [f"{percent} t interval", "t test p", "exact p", "smallest it can be", "exact test", "corrected p"]
    if report.rules.margin is not None:
        columns.append("equivalence p (corrected)")
    columns += ["detectable", "bad runs not excluded", "remarks"]
    rows = []
    for c in report.comparisons:
        told = sentence(c).removeprefix(c.word).strip(" ()")
        lost = str(len(c.lost_seeds)) if c.lost_seeds else ""
        row = [
            c.arm.label,
            *([c.arm.setting] if several else []),
            "; ".join([c.word, *c.marks]),
            str(c.n),
            lost,
        ]
        row += [number(c.mean, signed=True), span(c.interval), p_value(c.p), p_value(c.exact_p)]
        row += [p_value(c.smallest_exact_p), c.exact_test or "", p_value(c.holm_p)]
        if report.rules.margin is not None:
            row.append(p_value(c.holm_equivalence_p))
        bad = f"{100 * bad_runs_not_excluded(c.n, report.rules.alpha):.0f} %" if c.n else ""
        row += [number(c.detectable), bad, "; ".join(filter(None, [told, *c.remarks]))]
        rows.append(row)
    caption = f"{report.experiment.metric}, variant minus {report.baseline.label}"
    return table(columns, rows, caption)


def typical(report: Report) -> str:
    """What a verdict is about, and what it leaves open."""
    counts = sorted({c.n for c in report.comparisons if c.n})
    shares = ", ".join(f"{100 * bad_runs_not_excluded(n, report.rules.alpha):.0f} % (n = {n})" for n in counts[:4])
    return (
        "A verdict is about the typical run. Seeds that show no bad run do not exclude that "
        f"{shares or 'any number'} of runs are bad."
    )


def notes(report: Report) -> list[str]:
    together = [keys for keys in beside_the_variants(report.design.arms) if len(keys) > 1]
    settings = [f"{keys[0]} changes together with {', '.join(keys[1:])}" for keys in together]
    uncounted = [report.looks.problem] if report.looks.problem else []
    return [*uncounted, *report.experiment.problems, *report.design.remarks, *fairness(report).problems, *settings]


def noise(report: Report) -> list[Block]:
    blocks: list[Block] = []
    for block, floor in report.floors.items():
        baseline = report.design.baselines[block]
        name = f"{baseline.label}, {baseline.setting}" if baseline.setting else baseline.label
        if floor is None:
            blocks.append(
                f"{name} has {len(baseline.finished)} finished run{'s' * (len(baseline.finished) != 1)}: its noise "
                "cannot be measured, and nothing can be told."
            )
            continue
        blocks.append(
            f"{name}: {floor.n} runs that differ in nothing but their seed come to {number(floor.mean)} in mean, "
            f"with a standard deviation of {number(floor.sd)}; two of them lie up to {number(floor.largest)} apart. "
            f"Two groups of {floor.n} such runs differ in mean by up to {number(floor.band)} in "
            f"{100 * (1 - report.rules.alpha):g} % of cases, though there is nothing to find. A smaller difference "
            "than this can only be seen by pairing seeds."
        )
    return blocks


def _verdicts(report: Report) -> list[Block]:
    rules = report.rules
    names = "all variants of this experiment" if not rules.family else ", ".join(rules.family)
    m = sum(c.verdict != "not in the family" for c in report.comparisons)
    shares = any(c.solved is not None for c in report.comparisons)
    equivalent = (
        "No margin was fixed, so that nothing can be called equivalent (margin=... fixes one)."
        if rules.margin is None
        else f"Equivalent means: within {rules.margin:g}, by the same tests put to both ends of the margin. As at most "
        "one of the two questions about a variant can have no for an answer, no p is multiplied by more than the "
        "number of variants (Shaffer)."
    )
    text = (
        "The paired t test and an exact test have to agree. The larger p of the two is corrected by Holm over a "
        f"family of {m} ({names}) and held against {rules.level:g}; intervals and plain p are not corrected. The exact "
        "test was chosen by the number of seeds: sign flips of the pairs where they can reach "
        f"{rules.level:g}/{max(1, m)}, else permutations of the two arms, whose smallest p stands beside them. "
        "Detectable is the smallest true difference that the t test finds 4 times in 5 with these seeds; close to the "
        f"fewest seeds the exact test needs more. {equivalent}"
    )
    if shares:
        text += (
            " This task is solved or not: Fisher's exact test on the seeds that solved it decides, and means are shown "
            "beside it."
            + ("" if rules.margin is None else " The margin is one of shares: an exact interval has to lie inside it.")
        )
    text += f" {typical(report)} {report.looks}"
    blocks: list[Block] = [text, verdict_table(report)]
    if bca := [c for c in report.comparisons if c.bca is not None]:
        rows = [[c.arm.label, c.arm.setting, str(c.n), span(c.interval), span(c.bca)] for c in bca]
        caption = "From ten seeds on: the t interval beside the BCa bootstrap, which needs no normal differences"
        blocks.append(table(["variant", "setting", "n", "t interval", "BCa interval"], rows, caption))
    floors = [report.floors[c.arm.block] for c in report.comparisons]
    bands = [floor.band if floor else None for floor in floors]
    blocks += _some(charts.differences(report.comparisons, report.experiment.metric, rules.alpha, bands))
    return blocks


def _declared(report: Report) -> Table:
    rows = [[term.name, term.declared, term.where, term.used, term.change] for term in report.terms]
    caption = "What goes by something that was not declared before the first result is exploratory"
    return table(["", "declared", "where", "used", "differs"], rows, caption)


def _runs(report: Report) -> list[Block]:
    runs = report.experiment.runs
    counts = Counter(run.status for run in runs)
    told = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
    blocks: list[Block] = [f"{len(runs)} runs: {told}."]
    lost = [run for run in runs if run.status != Status.FINISHED]
    if lost:
        rows = [[run.name, run.status, run.reason or "no reason known"] for run in lost[:MOST_LISTED]]
        more = f" (the first {MOST_LISTED} of {len(lost)}; all are in runs.csv)" if len(lost) > MOST_LISTED else ""
        blocks.append(table(["run", "status", "reason"], rows, f"Without a result{more}"))
    if found := notes(report):
        blocks.append(Lines("\n".join(found)))
    return blocks


def _preregistration(report: Report) -> list[Block]:
    assert report.preregistration is not None
    registered, digest, created, deviations = report.preregistration
    outcome = "Deviations:" if deviations else "No deviations."
    binds = (
        "It was written before preregistrations named the configs of runs, and binds none of them."
        if registered.runs is None
        else f"It binds the configs of {len(registered.runs)} runs, by their hashes."
    )
    text = (
        f"Written {created}, SHA-256 {digest}: “{registered.hypothesis}” Metric {registered.metric}, baseline "
        f"{registered.baseline}, margin {registered.margin if registered.margin is not None else 'none'}, alpha "
        f"{registered.alpha:g}, {len(registered.seeds)} seeds, family {', '.join(registered.family)}. {binds} {outcome}"
    )
    return [text, *([Lines("\n".join(deviations))] if deviations else [])]


def _pairing(report: Report) -> Table:
    rows = []
    for c in report.comparisons:
        r, removed = c.pairing
        share = "" if removed is None else f"{100 * removed:.1f} %"
        rows.append([c.arm.label, c.arm.setting, str(c.n), "" if r is None else f"{r:+.3f}", share])
    caption = (
        "For one seed both sides see the same batches and start from the same values where they share them. Near 0, "
        "pairing bought nothing; negative, it cost something."
    )
    return table(["variant", "setting", "n", "correlation of paired runs", "variance removed"], rows, caption)


def _pictured(report: Report) -> list[tuple[Arm, Arm]]:
    return [(b, b) for b in report.design.baselines.values()] + report.design.pairs()


def _rates(report: Report) -> list[Block]:
    tuned = [(c, c.lr_curve) for c in report.design.arms if c.lr_curve is not None]
    if not tuned:
        return []
    rows = []
    for c, r in tuned:
        rows.append(
            [
                *(c.label, c.setting, str(len(r.points)), f"{r.best:g}", "" if r.fitted is None else f"{r.fitted:.3g}"),
                *(f"{r.chosen:g}", number(r.sensitivity), r.source, _seeds(r.tuning_seeds), _seeds(r.final_seeds)),
                "; ".join(r.remarks),
            ]
        )
    columns = ["variant", "setting", "rates tried", "best", "parabola", "compared at", "sensitivity"]
    columns += ["tuned in", "tuning seeds"]
    caption = (
        "A learning rate per variant, chosen on the tuning seeds, compared on the final seeds. Sensitivity is the "
        "mean over the grid of min(loss, loss before training) less the best"
    )
    picture = charts.lr_curves([(c.label, r) for c, r in tuned], report.experiment.metric)
    return [table([*columns, "final seeds", "remarks"], rows, caption), *_some(picture)]


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds[:12])) + (", ..." if len(seeds) > 12 else "") if seeds else "none"


def _effects(report: Report) -> list[Block]:
    effects = report.effects
    if effects is None:
        return []
    percent = f"{100 * (1 - report.rules.alpha):g} %"
    rows = [
        [e.name, e.kind, number(e.mean, signed=True), span(e.interval), p_value(e.p), p_value(e.holm_p)]
        for e in effects.effects
    ]
    names = {factor: " with ".join([factor, *effects.together.get(factor, [])]) for factor in effects.levels}
    factors = "; ".join(f"{names[factor]}: {', '.join(levels)}" for factor, levels in effects.levels.items())
    text = (
        f"Factors: {factors}. A main effect is what a choice does on the average over the others; an interaction is "
        "by how much the effect of one choice changes where the other is made, too. Fitted for each of "
        f"{len(effects.seeds)} seeds; p by the t test alone, Holm over this table."
    )
    blocks: list[Block] = [text, table(["effect", "kind", "mean", f"{percent} t interval", "p", "Holm p"], rows)]
    if effects.aliased:
        blocks.append(
            "This design cannot tell these from the effects above, which hold only as far as these are nil: "
            + "; ".join(effects.aliased)
            + "."
        )
    return blocks


def _tasks(report: Report) -> list[Block]:
    if not report.aggregates:
        return []
    rows = [
        [
            *(a.label, str(a.tasks), str(a.runs), number(a.iqm), span(a.iqm_interval, signed=False)),
            *(number(a.improvement), span(a.improvement_interval, signed=False)),
        ]
        for a in report.aggregates
    ]
    columns = ["variant", "tasks", "runs", "IQM", "interval", "probability of improvement", "interval"]
    caption = (
        f"Scores are {report.experiment.metric} over the baseline's mean on the same task "
        f"({'below' if report.rules.lower_is_better else 'above'} 1 is better). IQM: the mean of the middle half. "
        "Intervals: stratified percentile bootstrap, too narrow for few seeds"
    )
    return [table(columns, rows, caption)]


def _solved(report: Report) -> list[Block]:
    if not report.solved or report.solved_at is None:
        return []
    differences = {
        id(c.arm): span(share_interval(c.solved.ours, c.solved.theirs, c.solved.n, report.rules.alpha))
        for c in report.comparisons
        if c.solved is not None and not c.lost_seeds
    }
    rows = [
        [
            *(s.arm.label, s.arm.setting, f"{s.solved} of {s.n}", span(s.share, signed=False)),
            "not reached by half" if s.median_steps is None else f"{s.median_steps:.0f}",
            differences.get(id(s.arm), ""),
        ]
        for s in report.solved
    ]
    caption = (
        f"Seeds that end at {report.solved_at:g} or above, with a Wilson interval of their share, and the step by "
        "which half had got there (a run that never did counts as later than its last step). The interval of the "
        "difference of shares, variant minus baseline, is exact"
    )
    columns = ["variant", "setting", "solved", "share", "median steps", "difference of shares"]
    return [table(columns, rows, caption)]


def _cost(report: Report) -> list[Block]:
    shown = costs(report)
    if not shown:
        return []
    columns = ["variant", "setting", report.experiment.metric, *shown[0].columns]
    rows = [[c.label, c.setting, number(c.mean), *c.cells] for c in shown]
    picture = charts.against_cost([(c.label, c.verdict, c.axes, c.mean) for c in shown], report.experiment.metric)
    return [measuring(report), table(columns, rows, "Means over seeds"), *_some(picture)]


def _maps(report: Report) -> list[Block]:
    picture, problems = mean_maps.picture([c for c in report.design.arms if c.finished])
    return [*_some(picture), *([Lines("\n".join(problems[:MOST_LISTED]))] if problems else [])]
