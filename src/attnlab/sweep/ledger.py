"""What claims came to, for the terminal."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console

from attnlab.analysis.report.document import table
from attnlab.analysis.report.format import p_value
from attnlab.analysis.report.tables import draw
from attnlab.sweep.claim import Claim

NOT_RUN = "not run"


def show(claim: Claim, record: Mapping[str, Any], console: Console) -> None:
    """The numbers of each arm, the answer to each condition, and the verdict; of a trial, the numbers alone."""
    draw(table(["arm", *claim.measures, "lost"], medians(claim, record)), console)
    if "verdict" in record:
        draw(table(["condition", "fulfilled by", "p", "answer"], answers(record)), console)
        print(f"published: {claim.published}")
        earlier = f"; {len(record['trials'])} runs before it were trials" if record["trials"] else ""
        print(f"{claim.name}: {record['verdict']} ({record['minutes']:g} minutes{earlier})")


def show_list(claims: Sequence[tuple[Claim, Mapping[str, Any]]], console: Console) -> None:
    """Every claim with what is recorded of it."""
    rows = [[claim.name, claim.source, f"{claim.minutes:g}", verdict_on(claim, record)] for claim, record in claims]
    draw(table(["claim", "source", "minutes", "verdict"], rows), console)


def verdict_on(claim: Claim, record: Mapping[str, Any]) -> str:
    """The recorded verdict, if it is one on the recipe and rule of today."""
    if not isinstance(record.get("verdict"), str):
        return NOT_RUN
    return str(record["verdict"]) if record.get("hash") == claim.hash else f"{NOT_RUN} as it stands now"


def medians(claim: Claim, record: Mapping[str, Any]) -> list[list[str]]:
    """The median of each measure over the seeds of each arm, with the least and the largest."""
    rows = []
    for arm, by_seed in record["arms"].items():
        runs = [run for run in by_seed.values() if run is not None]
        cells = [_spread([run[name] for run in runs]) for name in claim.measures]
        rows.append([arm, *cells, str(len(by_seed) - len(runs))])
    return rows


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else ""


def answers(record: Mapping[str, Any]) -> list[list[str]]:
    """Each condition, how many seeds fulfil it, and what follows."""
    rows = []
    for answer in record["answers"]:
        shares = answer["condition"].startswith("share(")
        right = f" against {round(answer['right'] * answer['seeds'])}" if shares else ""
        fulfilled = f"{answer['fulfilled']} of {answer['seeds']}{right}"
        p = min(answer["p_holds"], answer["p_fails"])
        rows.append([answer["condition"], fulfilled, p_value(p), answer["verdict"]])
    return rows
