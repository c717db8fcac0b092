"""`attnlab replicate`."""

from pathlib import Path
from typing import Annotated

from attnlab.cli._arguments import ConfigDir, Range, VariantPackages


def replicate(
    *,
    claim: Annotated[tuple[str, ...], "which of configs/claim, such as conv_shift,copying; left out: all"] = (),
    list: Annotated[bool, "true: say which there are and what is recorded of them, and stop"] = False,
    trial: Annotated[str, "seeds below 1000, such as 0-2: run these to try a recipe, and judge nothing"] = "",
    folder: Annotated[Path, "where the runs go, each claim in a folder of its own"] = Path("runs/ledger"),
    records: Annotated[Path | None, "where NAME.json goes, what a claim came to; left out: that folder"] = None,
    n_jobs: Annotated[int, Range(least=1), "runs at once, each on one core"] = 1,
    config_dir: ConfigDir = None,
    allow_targets: VariantPackages = (),
) -> None:
    """Train the recipes of published claims, and say which of them hold here."""
    from attnlab.config.keys import searching
    from attnlab.options.rules import parse_integers
    from attnlab.sweep.claim import read_claims

    with searching([] if config_dir is None else [config_dir]):
        claims = read_claims(claim)
    from rich.console import Console

    from attnlab.sweep.ledger import show, show_list
    from attnlab.sweep.replication import check, read_record, replicate

    console, home = Console(), records or folder
    if list:
        show_list([(each, read_record(home / f"{each.name}.json")) for each in claims], console)
        return
    seeds = parse_integers("trial", trial, most=10**18, like="0-2 or 0,7") if trial else ()
    check(claims, folder, home, trial=seeds, config_dir=config_dir, packages=allow_targets)
    for each in claims:
        print(f"{each.name}: {each.claim} ({each.source}; about {each.minutes:g} minutes on one core)", flush=True)
        record = replicate(
            each, folder, home, trial=seeds, n_jobs=n_jobs, config_dir=config_dir, packages=allow_targets
        )
        show(each, record, console)
