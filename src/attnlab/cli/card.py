"""`attnlab card`."""

import shlex
from pathlib import Path
from typing import Annotated

from attnlab.cli._arguments import ConfigDir, VariantPackages
from attnlab.errors import UsageError


def card(
    *overrides: Annotated[str, "any setting of train.py for all cells, such as position=none or trainer.max_steps=100"],
    attention: Annotated[tuple[str, ...], "the variants, such as multi_head,linear,delta_net"],
    cells: Annotated[tuple[str, ...], "which cells of configs/card, such as text,mqar; left out: all"] = (),
    folder: Annotated[Path, "where the runs, card.png and card.html go"] = Path("card"),
    config_dir: ConfigDir = None,
    allow_targets: VariantPackages = (),
) -> None:
    """Train variants on small tasks and a text, and draw what each of them can do."""
    from attnlab.card.battery import CONTROLS, chosen_cells, results
    from attnlab.store.files import check_writable

    chosen = chosen_cells(cells)
    if not attention:
        raise UsageError("attention (nothing) must name a variant, or several: attention=multi_head,linear")
    check_writable(folder, key="folder")
    settings = list(overrides)
    if allow_targets:
        settings.append(f"allow_targets=[{','.join(allow_targets)}]")
    folders = [] if config_dir is None else [config_dir]
    controls = [name for name in CONTROLS if name not in attention]
    counts = f"{len(attention)} variants and {len(controls)} controls x {len(chosen)} cells"
    print(f"{counts}, results in {folder}", flush=True)
    rows = []
    for result in results([*attention, *controls], chosen, folder=folder, overrides=settings, config_dirs=folders):
        from attnlab.card.pages import line  # here, for a mistyped word has ended by now

        rows.append(result)
        print(line(result), flush=True)
    from rich.console import Console

    from attnlab.card.pages import save, show

    show(rows, Console())
    argv = [f"attention={','.join(attention)}", *([f"cells={','.join(cells)}"] if cells else []), *settings]
    for path in save(rows, folder, f"attnlab card {shlex.join(argv)}"):
        print(f"wrote {path}")
