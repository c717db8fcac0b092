"""`attnlab new`."""

from pathlib import Path
from typing import Annotated, Literal


def new(
    *,
    name: Annotated[str, "what the variant is called, as in attention=NAME"],
    folder: Annotated[Path, "where NAME.py and configs/attention/NAME.yaml go"] = Path("."),
    kind: Annotated[
        Literal["softmax", "recurrent", "plain"], "the family it builds on; plain: none, all is written out"
    ] = "softmax",
) -> None:
    """Write the skeleton of a variant of your own: a class and its YAML."""
    from attnlab.cli._scaffold import next_commands, write

    for path in write(name, str(folder), kind):
        print(f"wrote {path}")
    print("next: judge it (causality is broken until the line marked MARKED is replaced), and train it")
    for line in next_commands(name, str(folder)):
        print(f"  {line}")
