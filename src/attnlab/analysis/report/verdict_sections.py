"""The sections of a report about its verdicts: what noise is, what was found against it, and what it rests on."""

from dataclasses import replace

from attnlab.analysis.analyse import Report
from attnlab.analysis.exact_tests import share_interval
from attnlab.analysis.report import charts
from attnlab.analysis.report.document import Block, PageLink, Table, some, table
from attnlab.analysis.report.format import number, p_value, span
from attnlab.analysis.statistics import bad_runs_not_excluded


def noise(report: Report) -> list[Block]:
    blocks: list[Block] = []
    for block, floor in report.floors.items():
        baseline = report.design.baselines[block]
        name = f"{baseline.label}, {baseline.setting}" if baseline.setting else baseline.label
        if floor is None and report.rules.censored and len(baseline.finished) > 1:
            blocks.append(f"{name} has runs that never reached the threshold: how far its steps scatter has no number.")
            continue
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


def verdicts(report: Report) -> list[Block]:
    rules = report.rules
    names = "all variants of this experiment" if not rules.family else ", ".join(rules.family)
    m = sum(c.verdict != "not in the family" for c in report.comparisons) * rules.metrics
    names += f" on {rules.metrics} metrics" if rules.metrics > 1 else ""
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
    if rules.sequential:
        text = (
            "Verdicts are given after each seed, in their order, and hold whenever one stops where paired differences "
            "are symmetric about 0, as those of a variant and its equal are: bets on their signs, given their sizes, "
            f"win 1/{rules.level / max(1, m):g} with a chance of that at most (Ville; arXiv 2310.01153). Under other "
            "laws their error was simulated, and is no promise (docs/verdicts.md). The p is one over what the bets "
            f"have won at most, corrected by Holm over a family of {m} ({names}) and held against {rules.level:g}. "
            f"The interval holds at any stopping time, too. {equivalent}"
        )
    elif rules.censored:
        text = (
            "Steps are compared by their ranks, a step that was never reached being the last of all: sign flips of the "
            f"signed ranks of the pairs (Wilcoxon), corrected by Holm over a family of {m} ({names}) and held against "
            f"{rules.level:g}. {equivalent}"
        )
    text += f" {typical(report)} {report.looks}"
    blocks: list[Block] = [text, verdict_table(report)]
    if bca := [c for c in report.comparisons if c.bca is not None]:
        rows = [[c.arm.label, c.arm.setting, str(c.n), span(c.interval), span(c.bca)] for c in bca]
        caption = "From ten seeds on: the t interval beside the BCa bootstrap, which needs no normal differences"
        blocks.append(table(["variant", "setting", "n", "t interval", "BCa interval"], rows, caption))
    floors = [report.floors[c.arm.block] for c in report.comparisons]
    bands = [floor.band if floor else None for floor in floors]
    blocks += some(charts.differences(report.comparisons, report.experiment.metric, rules.alpha, bands))
    return blocks


def verdict_table(report: Report) -> Table:
    """The table that matters."""
    several = len(report.design.baselines) > 1
    percent = f"{100 * (1 - report.rules.alpha):g} %"
    columns = ["variant", *(["setting"] if several else []), "verdict", "n", "lost", "mean difference"]
    interval = f"{percent} {'interval at any stop' if report.rules.sequential else 't interval'}"
    columns += [interval, "t test p", "exact p", "smallest it can be", "exact test", "corrected p"]
    if report.rules.margin is not None:
        columns.append("equivalence p (corrected)")
    columns += ["detectable", "bad runs not excluded", "remarks"]
    rows = []
    for c in report.comparisons:
        details = c.sentence.removeprefix(c.word).strip(" ()")
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
        row += [number(c.detectable), bad, "; ".join(filter(None, [details, *c.remarks]))]
        rows.append(row)
    caption = f"{report.experiment.metric}, variant minus {report.baseline.label}"
    files = tuple(PageLink(text, f"verdicts.{kind}") for text, kind in (("CSV", "csv"), ("LaTeX", "tex")))
    return replace(table(columns, rows, caption), files=files)


def typical(report: Report) -> str:
    """What a verdict is about, and what it leaves open."""
    counts = sorted({c.n for c in report.comparisons if c.n})
    shares = ", ".join(f"{100 * bad_runs_not_excluded(n, report.rules.alpha):.0f} % (n = {n})" for n in counts[:4])
    return (
        "A verdict is about the typical run. Seeds that show no bad run do not exclude that "
        f"{shares or 'any number'} of runs are bad."
    )


def declared_and_used(report: Report) -> Table:
    rows = [[term.name, term.declared, term.where, term.used, term.change] for term in report.terms]
    caption = "What goes by something that was not declared before the first result is exploratory"
    return table(["term", "declared", "where", "used", "differs"], rows, caption)


def pairing(report: Report) -> Table:
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


def success_rate(report: Report) -> list[Block]:
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
