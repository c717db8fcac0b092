"""`attnlab new`."""

from pathlib import Path
from typing import Annotated, Literal


def new(
    *,
    name: Annotated[str, "what the variant is called, as in attention=NAME"],
    folder: Annotated[Path, "where NAME.py and configs/attention/NAME.yaml go"] = Path("."),
    kind: Annotated[
        Literal["softmax", "recurrent", "plain", "score", "normalizer", "mask", "gate", "decay"],
        "a whole layer of a family (plain: none, all is written out), or ten lines for one slot of a layer",
    ] = "softmax",
) -> None:
    """Write the skeleton of a variant of your own: a class and its YAML."""
    from attnlab.cli._scaffold import next_commands, write
    from attnlab.cli._slot_skeletons import SLOTS

    for path in write(name, str(folder), kind):
        print(f"wrote {path}")
    broken = "causality is broken until the line marked MARKED is replaced"
    print(f"next: judge it ({'it keeps the laws: put your rule there' if kind in SLOTS else broken}), and train it")
    for line in next_commands(name, str(folder)):
        print(f"  {line}")
