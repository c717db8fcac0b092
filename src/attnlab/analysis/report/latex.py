"""The table of verdicts for a paper: LaTeX with booktabs."""

import re
from collections.abc import Sequence

from attnlab.analysis.analyse import Report
from attnlab.analysis.report.format import number, p_value, span
from attnlab.machine.environment import harmless

SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"},
}


def verdicts_in_latex(report: Report, note: str) -> str:
    """A whole table environment; `note` says how budgets were matched."""
    several, alpha = len(report.design.baselines) > 1, f"{100 * (1 - report.rules.alpha):g}"
    interval = f"{alpha} % {'interval at any stop' if report.rules.sequential else 't interval'}"
    columns = ["variant", *(["setting"] if several else []), "n", "difference", interval, "p (Holm)", "verdict"]
    rows = []
    for c in report.comparisons:
        figures = (number(c.mean, signed=True), span(c.interval), p_value(c.holm_p))
        rows.append(
            [
                *(_escaped(text) for text in (c.arm.label, *([c.arm.setting] if several else []), str(c.n))),
                *(f"${_powers(text)}$" if text else "" for text in figures),
                _escaped("; ".join([c.word, *c.marks])),
            ]
        )
    baseline = report.baseline.label
    caption = (
        f"{report.experiment.metric}, variant minus {baseline} (paired by seed; "
        f"{'lower' if report.rules.lower_is_better else 'higher'} is better), {note}. A verdict needs the larger p "
        f"of a paired t test and an exact test, corrected by Holm, below {report.rules.level:g}."
    )
    kinds = "l" * (len(columns) - 5) + "rrrrl"
    head = _line([_escaped(column) for column in columns])
    body = "\n".join(_line(row) for row in rows)
    name = re.sub(r"[^\w-]+", "-", report.experiment.name)
    return (
        "% needs \\usepackage{booktabs}\n\\begin{table}\n\\centering\n"
        f"\\caption{{{_escaped(caption)}}}\n\\label{{tab:{name}}}\n\\begin{{tabular}}{{{kinds}}}\n\\toprule\n"
        f"{head}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _powers(text: str) -> str:
    """1e-05 as a power of ten."""
    return re.sub(r"e([+-])0*(\d+)", lambda power: rf"\times 10^{{{power[1].strip('+')}{power[2]}}}", text)


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(sign, sign) for sign in " ".join(harmless(text).split()))
