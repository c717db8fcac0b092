"""Writes docs/ledger.md from the claims of configs/claim and what is recorded of them: python -m docs.ledger"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnlab.sweep.claim import Claim, read_claims
from attnlab.sweep.ledger import answers, verdict_on
from attnlab.sweep.replication import read_record

RECORDS = Path(__file__).parent / "ledger"
AUTHORS = RECORDS / "authors"  # what the authors' own model comes to: python -m tests.oracles.claims
PAGE = RECORDS.with_suffix(".md")
BEGIN = "<!-- results: written by docs/ledger.py -->"


def page(text: str, entries: Sequence[tuple[Claim, Mapping[str, Any]]]) -> str:
    """The page with its results anew: a line for each claim, and then all that is known of it."""
    verdicts = [verdict_on(claim, record) for claim, record in entries]
    counts = ", ".join(
        f"{verdicts.count(verdict)} {_of_many(verdict)}" for verdict in sorted(sorted(set(verdicts)), key=_order)
    )
    lines = [
        text.split(BEGIN)[0] + BEGIN,
        "",
        f"Of {len(entries)} claims: {counts}.",
        "",
        "| claim | source | verdict | minutes | trials |",
    ]
    lines.append("|---|---|---|---:|---:|")
    for (claim, record), verdict in zip(entries, verdicts, strict=True):
        minutes = f"{record['minutes']:g}" if "verdict" in record else f"about {claim.minutes:g}"
        trials = len(record.get("trials", [])) or ""
        lines.append(f"| [{claim.name}](#{claim.name}) | {_link(claim.source)} | {verdict} | {minutes} | {trials} |")
    sections = [_section(claim, record) for claim, record in entries]
    return "\n".join([*lines, "", *sections]).rstrip() + "\n"


def _of_many(verdict: str) -> str:
    return verdict.replace("holds", "hold").replace("does", "do")


def _order(verdict: str) -> int:
    return ("holds here", "does not hold here", "cannot tell").index(verdict) if "run" not in verdict else 3


def _link(source: str) -> str:
    number = source.removeprefix("arXiv ").partition(";")[0]
    return f"[{number}](https://arxiv.org/abs/{number})" if source.startswith("arXiv ") else source


def _section(claim: Claim, record: Mapping[str, Any]) -> str:
    lines = [f"## {claim.name}", "", f"{claim.claim} ({claim.source})", "", f"*Published:* {claim.published}", ""]
    if claim.note:
        lines += [claim.note, ""]
    if record.get("hash") == claim.hash:
        lines += _numbers(record)
    else:
        rule = "; ".join(f"`{condition.text}`" for condition in claim.rule)
        trials = f" Trials so far: {len(record['trials'])} runs." if record.get("trials") else ""
        now = " as it stands now" if "verdict" in record else ""
        lines += [f"Not run{now}. Its rule, over {claim.n_seeds} seeds: {rule}.{trials}", ""]
        lines += [_earlier(record, claim)] if "verdict" in record else []
    for earlier in record.get("earlier", []):
        lines += [_earlier(earlier, claim)]
    if theirs := read_record(AUTHORS / f"{claim.name}.json"):
        lines += _of_authors(theirs, claim, record)
    return "\n".join(lines)


def _numbers(record: Mapping[str, Any]) -> list[str]:
    lines = [f"**{record['verdict'][0].upper()}{record['verdict'][1:]}.**", "", "| condition | fulfilled by | p | |"]
    lines.append("|---|---|---:|---|")
    for condition, fulfilled, p, verdict in answers(record):
        lines.append(f"| `{condition}` | {fulfilled} | {p} | {verdict} |")
    lines += ["", "| arm | measure | of each seed |", "|---|---|---|"]
    for arm, by_seed in record["arms"].items():
        for name in record["recipe"]["measures"]:
            values = " ".join("lost" if run is None else f"{run[name]:.3f}" for run in by_seed.values())
            lines.append(f"| {arm} | {name} | {values} |")
    trials = f"; {len(record['trials'])} runs were trials of this or of another recipe" if record["trials"] else ""
    commits = ", ".join(commit[:8] for commit in record["commits"])
    lines += ["", f"Recipe {record['hash'][:12]}, run on {record['date']} by commit {commits}{trials}.", ""]
    return lines


def _of_authors(theirs: Mapping[str, Any], claim: Claim, record: Mapping[str, Any]) -> list[str]:
    """Their numbers beside ours of the recipe that they ran, today's or an earlier one; nothing if that is neither."""
    judged = [each for each in (record, *record.get("earlier", [])) if each.get("hash") == theirs["hash"]]
    if not judged:
        return []
    ours = judged[0]["arms"]
    repositories = " and ".join(each.replace("@", " at ") for each in theirs["repository"].split(", "))
    seeds = "that judge" if theirs["hash"] == claim.hash else f"of the earlier recipe {theirs['hash'][:12]}"
    lines = [
        f"With the code of authors ({repositories}; {theirs['theirs']}), on the same rows, in the same batches and by "
        f"the same schedule, the first seeds {seeds} come to:",
        "",
        "| arm | measure | theirs | ours |",
        "|---|---|---|---|",
    ]
    for arm, by_seed in theirs["arms"].items():
        for name in next(iter(by_seed.values())):
            runs = [ours.get(arm, {}).get(seed) for seed in by_seed]
            mine = " ".join("" if run is None else f"{run[name]:.3f}" for run in runs)
            lines.append(f"| {arm} | {name} | {' '.join(f'{x[name]:.3f}' for x in by_seed.values())} | {mine} |")
    return [*lines, ""]


def _earlier(record: Mapping[str, Any], claim: Claim) -> str:
    fulfilled = "; ".join(f"`{condition}` {by}" for condition, by, _, _ in answers(record))
    what = "This recipe, run before," if record["hash"] == claim.hash else f"An earlier recipe, {record['hash'][:12]},"
    return f"{what} came to *{record['verdict']}* on {record['date']}: {fulfilled}.\n"


if __name__ == "__main__":
    entries = [(claim, read_record(RECORDS / f"{claim.name}.json")) for claim in read_claims()]
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), entries), encoding="utf-8")
    print(f"wrote {PAGE}")
