"""The sections of a report about its experiment: runs, learning rates, effects, tasks and maps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from attnlab.analysis.analyse import Report
from attnlab.analysis.groups import RATE
from attnlab.analysis.reading import Run
from attnlab.analysis.report import charts, mean_maps
from attnlab.analysis.report.document import Block, Lines, some, table
from attnlab.analysis.report.format import MOST_LISTED, number, p_value, span
from attnlab.analysis.tuned_variants import spelled
from attnlab.store.status import Status


def runs(report: Report) -> list[Block]:
    runs = report.experiment.runs
    counts = Counter(run.status for run in runs)
    by_status = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
    blocks: list[Block] = [f"{len(runs)} runs: {by_status}."]
    lost = [run for run in runs if run.status != Status.FINISHED]
    if lost:
        rows = [[run.name, run.status, run.reason or "no reason known"] for run in lost[:MOST_LISTED]]
        more = f" (the first {MOST_LISTED} of {len(lost)}; all are in runs.csv)" if len(lost) > MOST_LISTED else ""
        blocks.append(table(["run", "status", "reason"], rows, f"Without a result{more}"))
    return blocks


def preregistration(report: Report) -> list[Block]:
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


def learning_rates(report: Report) -> list[Block]:
    tuned = [(c, c.lr_curve) for c in report.design.arms if c.lr_curve is not None]
    if not tuned:
        return []
    rows = []
    for c, r in tuned:
        tried = str(len(r.points)) if r.search is None else str(r.search.tried)
        others = {k: v for k, v in (r.search.settings if r.search is not None else {}).items() if k != RATE}
        rows.append(
            [
                *(c.label, c.setting, tried, f"{r.best:g}", "" if r.fitted is None else f"{r.fitted:.3g}"),
                *(f"{r.chosen:g}", spelled(others), number(r.sensitivity), "" if r.search is None else r.search.holds),
                *(r.source, _seeds(r.tuning_seeds), _seeds(r.final_seeds), "; ".join(r.remarks)),
            ]
        )
    columns = ["variant", "setting", "settings tried", "best rate", "parabola", "compared at", "with", "sensitivity"]
    columns += ["at two budgets", "tuned in", "tuning seeds"]
    caption = (
        "Settings per variant, chosen on the tuning seeds, compared on the final seeds; how many were tried, and "
        "whether the same one wins at two budgets of steps. Sensitivity is the mean over the rates of min(loss, loss "
        "before training) less the best"
    )
    picture = charts.lr_curves([(c.label, r) for c, r in tuned], report.experiment.metric)
    return [table([*columns, "final seeds", "remarks"], rows, caption), *some(picture)]


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds[:12])) + (", ..." if len(seeds) > 12 else "") if seeds else "none"


def effects(report: Report) -> list[Block]:
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
        f"{len(effects.seeds)} seeds; p is the larger of the t test's and of that of sign flips, Holm over this table."
    )
    blocks: list[Block] = [text, table(["effect", "kind", "mean", f"{percent} t interval", "p", "Holm p"], rows)]
    if effects.aliased:
        blocks.append(
            "This design cannot tell these from the effects above, which hold only as far as these are nil: "
            + "; ".join(effects.aliased)
            + "."
        )
    return blocks


def starts(report: Report) -> list[Block]:
    """How the attention of each variant started, and what held it back: differences of which nobody spoke."""
    rows = []
    for arm in report.design.arms:
        run = next(iter(arm.finished.values()), None)
        for layer in _whole_records(run.summary.get("starts") if run else None):
            drawn, constant, undecayed = list[str](), list[str](), list[str]()
            for name, p in layer["parameters"].items():
                short = name.removesuffix(".weight")
                (drawn if p["std"] else constant).append(f"{short} {number(p['std'] or p['mean'])}")
                undecayed += [] if p["decayed"] else [short]
            dropout = "drops none" if layer["dropout"] is None else f"{layer['dropout']:g}"
            parts = [f"{name} {part}" for name, part in layer["parts"].items()]
            layers = ", ".join(map(str, layer["layers"]))
            lists = (", ".join(each) for each in (drawn, constant, _published(layer, run), undecayed, parts))
            rows.append([arm.label, arm.setting, layers, *lists, dropout])
    if not rows:
        return []
    columns = ["variant", "setting", "layers", "drawn", "constant", "in the source"]
    columns += ["no weight decay", "parts", "dropout of weights"]
    caption = (
        "Parameters of attention before the first step: the standard deviation of what was drawn, else the "
        "value. In the source: what it starts with there, which model.start=published takes; matrices are as "
        "model.init says unless they are named"
    )
    return [table(columns, rows, caption)]


def _published(layer: Mapping[str, Any], run: Run | None) -> list[str]:
    """What the source of a layer says of how its parameters start; in a run that starts so, that they do."""
    stated = layer.get("published") or {}  # of runs from before texts stood there, mean and spread
    own = {str(name).removesuffix(".weight"): text for name, text in stated.items() if isinstance(text, str)}
    apart = ("as here", "not said")
    rest = [f"{text}: {' '.join(n for n, t in own.items() if t == text)}" for text in apart if text in own.values()]
    otherwise = [f"{name} {text}" for name, text in own.items() if text not in apart]
    if run is not None and (run.config.get("model") or {}).get("start") == "published":
        otherwise = [f"so: {' '.join(n for n, t in own.items() if t not in apart)}"] if otherwise else []
    return [*otherwise, *rest] or ([] if stated else ["matrices alone"])


def _whole_records(value: Any) -> list[Mapping[str, Any]]:
    """The records of a summary that are whole: it may come from anywhere, or from before there were any."""
    return [record for record in (value if isinstance(value, list) else []) if _is_whole(record)]


def _is_whole(record: Any) -> bool:
    kinds = {"layers": list, "parts": Mapping, "parameters": Mapping, "dropout": int | float | None}
    if not isinstance(record, Mapping) or not all(isinstance(record.get(k, ""), kind) for k, kind in kinds.items()):
        return False
    numbers = ("std", "mean", "decayed")
    return all(
        isinstance(p, Mapping) and all(isinstance(p.get(name), int | float) for name in numbers)
        for p in record["parameters"].values()
    )


def aggregate(report: Report) -> list[Block]:
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


def maps(report: Report) -> list[Block]:
    picture, problems = mean_maps.picture([c for c in report.design.arms if c.finished])
    return [*some(picture), *([Lines("\n".join(problems[:MOST_LISTED]))] if problems else [])]
