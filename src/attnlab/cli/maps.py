"""`attnlab maps`."""

from pathlib import Path
from typing import Annotated

from attnlab.cli._arguments import Limits, RunCode, RunPackages
from attnlab.cli._foreign import AllowCode, Download, Revision, Target, check_either, check_unused, hf_folder
from attnlab.machine.environment import harmless
from attnlab.machine.limits import limited
from attnlab.options.rules import parse_integers
from attnlab.store.run_folder import find_run

HIGHEST = 9999  # number of a layer or a head that may be typed


def maps(
    *,
    run: Annotated[Path | None, "the folder of a run"] = None,
    hf: Annotated[Path | None, "or that of any model of transformers: config.json, safetensors, tokenizer"] = None,
    prompt: Annotated[str, "the text"],
    target: Target = None,
    layers: Annotated[str | None, "which layers, such as 0,2 or 1-3; left out: all"] = None,
    heads: Annotated[str | None, "which heads of them; left out: all"] = None,
    folder: Annotated[Path | None, "where the files go; left out: maps/prompt in the run's folder, maps/NAME"] = None,
    allow_targets: RunPackages = (),
    code: RunCode = "same",
    allow_code: AllowCode = False,
    download: Download = False,
    revision: Revision = None,
    limits: Limits = True,
) -> None:
    """Draw what every head of a trained model reads in a text: numbers, pictures and a page."""
    check_either("maps", run, hf)
    chosen = {
        key: None if text is None else parse_integers(key, text, most=HIGHEST, like="0,2 or 1-3")
        for key, text in (("layers", layers), ("heads", heads))
    }
    if run is not None:
        of_hf = {"target": target, "allow_code": allow_code, "download": download, "revision": revision}
        check_unused(of_hf, of="hf=")
        home = folder if folder is not None else find_run(run).prompt_maps
    from attnlab.store.files import check_writable

    with limited(limits):
        if run is not None:
            from attnlab.inspection.map_files import write_map_files
            from attnlab.runs import maps_of

            check_writable(home, key="folder")
            text_maps = maps_of(run, prompt, **chosen, allow_targets=allow_targets, code=code, limits=limits)
            written = write_map_files(home, text_maps)
        else:
            assert hf is not None
            from attnlab.interchange.foreign.loading import load_foreign, run_name

            check_unused({"allow_targets": allow_targets}, of="run=")
            source = hf_folder(hf, download=download, revision=revision)
            home = folder if folder is not None else Path("maps", run_name(source))
            check_writable(home, key="folder")
            inspection = load_foreign(source, allow_code=allow_code).inspect(prompt, target).chosen(**chosen)
            for sentence in inspection.missing:
                print(sentence)
            written = iter(inspection.save(home))
        for path in written:
            print(harmless(f"wrote {path}"))
