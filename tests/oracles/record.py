"""Runs the oracles and keeps their numbers; needs the extra `oracle`.

python -m tests.oracles.record            every case
python -m tests.oracles.record gqa kda    these cases
python -m tests.oracles.record table      no oracle: the table of docs/oracles.md
"""

import sys
from pathlib import Path

from tests.oracles import (
    authors_cases,
    fla_cases,
    independent_cases,
    other_cases,
    preset_cases,
    recurrent_cases,
    repository_cases,
    rwkv_cases,
    second_cases,
    softmax_cases,
)
from tests.oracles.case import Case, load

from attnlab.errors import UsageError

DOCS = Path(__file__).parents[2] / "docs" / "oracles.md"
CASES = [*softmax_cases.CASES, *preset_cases.CASES, *recurrent_cases.CASES, *fla_cases.CASES, *other_cases.CASES]
CASES += [*repository_cases.CASES, *authors_cases.CASES, *rwkv_cases.CASES, *independent_cases.CASES]
CASES += second_cases.CASES


def row(case: Case) -> str:
    """A case as a line of the table."""
    told = load(case.name)
    settings = [word for word in case.options if word.startswith(("position=", "model.residual="))]
    words = [f"`attention={case.variant}`", *(f"`{word}`" for word in settings)]
    what = ["output", *(name for name in ("map", "decoded") if name in told.outputs), "gradients"]
    return f"| {case.name} | {' '.join(words)} | {case.package}: {case.source} | {', '.join(what)} | {case.why} |"


def main(names: list[str]) -> None:
    if names == ["table"]:
        print("\n".join(map(row, CASES)))
        return
    if unknown := set(names) - {case.name for case in CASES}:
        raise UsageError(f"there is no case {', '.join(sorted(unknown))}")
    for case in CASES:
        if not names or case.name in names:
            print(case.name, flush=True)
            case.oracle().save(case.name, case.package, case.source)


if __name__ == "__main__":
    main(sys.argv[1:])
