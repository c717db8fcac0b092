"""`attnlab look`."""

from typing import Annotated

from attnlab.cli._arguments import Limits, Range, Run, RunCode, RunPackages
from attnlab.machine.limits import limited
from attnlab.store.run_folder import find_run


def look(
    *,
    run: Run,
    port: Annotated[int, Range(least=0, most=65535), "where the page is served on this machine; 0: any free port"] = 0,
    allow_targets: RunPackages = (),
    code: RunCode = "same",
    limits: Limits = True,
) -> None:
    """Open a page on which a text is typed and a trained model reads it: maps, scores, and what comes next."""
    folder = find_run(run)
    from attnlab.explain.look.reader import TextReader
    from attnlab.explain.look.server import serve
    from attnlab.runs import load, newest_step

    with limited(limits):  # reading the run; what is typed afterwards is bounded by its length
        model, tokenizer = load(folder, allow_targets=allow_targets, code=code, limits=limits)
        reader = TextReader(folder.title, newest_step(folder, limits=limits), model, tokenizer)
    serve(reader, port)
