"""`attnlab explain`: composes what is to be explained, and writes it where it was asked for."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from attnlab.build import Factory
from attnlab.checking import composed
from attnlab.errors import UsageError
from attnlab.files import check_writable, write_atomically
from attnlab.inspection.explain import chapter
from attnlab.inspection.explain.compare import Pairing
from attnlab.inspection.explain.example import explained, explained_run
from attnlab.inspection.explain.page import page
from attnlab.inspection.explain.pictures import draw_step
from attnlab.inspection.explain.steps import Explanation
from attnlab.inspection.explain.terminal import show
from attnlab.inspection.figures import to_png
from attnlab.inspection.records import image_summary
from attnlab.keys import sentence
from attnlab.runs import find_run, load

COMMAND = "attnlab explain"


def tour() -> list[Explanation]:
    """The chapter from its first example to several heads: each of its variants, in its order."""
    return [replace(variant(name), heading=stop.heading) for name, stop in chapter.STOPS.items()]


def variant(
    name: str,
    *,
    token: str | None = None,
    layer: int | None = None,
    seed: int | None = None,
    init: str | None = None,
    config_dir: str | None = None,
    allow_targets: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Explanation:
    """The worked example of a variant on the chapter's sentence, as the command makes it."""
    settings: dict[str, Any] = {"layer": layer, "seed": seed, "init": init, "config_dir": config_dir}
    return _variants([name], token=token, allow_targets=allow_targets, overrides=overrides, **settings)[0]


def compared(name: str, against: str, **settings: Any) -> Pairing:
    """A variant and another one in the same sizes, with the same numbers in every matrix that both have."""
    one, other = _variants([name, against], **settings)
    return Pairing(one, other)


def _variants(
    names: Sequence[str],
    *,
    token: str | None = None,
    layer: int | None = None,
    seed: int | None = None,
    init: str | None = None,
    config_dir: str | None = None,
    allow_targets: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> list[Explanation]:
    words = [] if any(word.startswith("position=") for word in overrides) else [chapter.POSITION]
    subjects = [composed(name, config_dir, allow_targets, [*words, *overrides], COMMAND) for name in names]
    factories = [subject.factory for subject in subjects]
    if not all(isinstance(factory, Factory) for factory in factories):
        raise UsageError(f"attention ({names[0]}) must say _partial_: true")
    typed = frozenset(word.partition("=")[0].lstrip("+") for word in overrides)
    stops = [chapter.STOPS[name] for name in names if name in chapter.STOPS]
    made = chapter.build(
        factories,  # type: ignore[arg-type]
        n_layers=min(subject.depth for subject in subjects),
        layer=layer,
        stops=stops if len(stops) == len(names) else [],
        seed=seed,
        init=init,
        typed=typed,
    )
    found = [explained(name, built, token=token) for name, built in zip(names, made, strict=True)]
    said = [sentence("attention", name, config_dir) for name in names]
    return [replace(each, about=[*filter(None, [text]), *each.about]) for each, text in zip(found, said, strict=True)]


def explain(
    *,
    attention: str | None,
    run: str | None,
    prompt: str | None,
    against: str | None,
    token: str | None,
    layer: int | None,
    seed: int | None,
    init: str | None,
    folder: str,
    tensorboard: str | None,
    config_dir: str | None,
    allow_targets: Sequence[str],
    code: str,
    limits: bool,
    overrides: Sequence[str],
) -> None:
    """Explain what was asked for: print it, write the page and the pictures, and say where they are."""
    _refuse(attention, run, prompt, against, seed, init, overrides)
    check_writable(Path(folder), key="folder")
    if tensorboard is not None:
        check_writable(Path(tensorboard), key="tensorboard")
    began, pairing = time.perf_counter(), None
    settings: dict[str, Any] = {"token": token, "layer": layer, "seed": seed, "init": init, "config_dir": config_dir}
    settings |= {"allow_targets": allow_targets, "overrides": overrides}
    if run is not None and prompt is not None:
        trained = find_run(run)
        model, tokenizer = load(trained, allow_targets=tuple(allow_targets), code=code, limits=limits)
        name = trained.name.replace("/", "-")
        found = [explained_run(name, model, tokenizer, prompt, layer=layer, token=token)]
    elif attention is None:
        name, found = "chapter", tour()
    elif against is None:
        name, found = attention, [variant(attention, **settings)]
    else:
        pairing = compared(attention, against, **settings)
        name, found = f"{attention}-against-{against}", [pairing.one]
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    for explanation in found:
        show(explanation, console, pairing)
    home = Path(folder) / name.replace("/", "-")
    text = page(f"attention: {name}", found, pairing)
    write_atomically(home / "index.html", text.encode(errors="replace"), key="folder")
    for number, explanation in enumerate(found):
        for place, step in enumerate(explanation.steps):
            first = f"{number}_{explanation.name}_" if len(found) > 1 else ""
            file = f"{first}{place:02d}_{step.key.replace('.', '_').replace('@', '_')}.png"
            picture = draw_step(step, explanation.tokens, explanation.heading)
            write_atomically(home / file, to_png(picture), key="folder")
    if tensorboard is not None:
        _log(Path(tensorboard), found)
    console.print(f"wrote {home / 'index.html'} and a picture per step beside it ({time.perf_counter() - began:.1f} s)")
    if tensorboard is not None:
        console.print(f"wrote the pictures for TensorBoard, too: tensorboard --logdir {tensorboard}")


def _refuse(
    attention: str | None,
    run: str | None,
    prompt: str | None,
    against: str | None,
    seed: int | None,
    init: str | None,
    overrides: Sequence[str],
) -> None:
    if (run is None) != (prompt is None):
        given, needed = ("prompt", "run") if run is None else ("run", "prompt")
        raise UsageError(f"{given} needs {needed}=...: a text is explained with the layer of a trained run")
    for key, value in (("attention", attention), ("against", against), ("seed", seed), ("init", init)):
        if run is not None and value is not None:
            raise UsageError(f"{key} ({value}) must be left out with run: its model is trained already")
    if run is not None and overrides:
        raise UsageError(f"{overrides[0]} must be left out with run: its settings are in its folder")
    if attention is None and run is None and (against is not None or overrides):
        word = f"against={against}" if against is not None else overrides[0]
        raise UsageError(f"{word} needs attention=...: without it the whole chapter is explained")


def _log(folder: Path, found: Sequence[Explanation]) -> None:
    """The pictures as images of TensorBoard: explain/VARIANT/00_inputs and so on."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    for explanation in found:
        for place, step in enumerate(explanation.steps):
            picture = draw_step(step, explanation.tokens, explanation.heading)
            summary = image_summary(f"explain/{explanation.name}/{place:02d}_{step.key}", to_png(picture))
            writer.add_event(Event(wall_time=time.time(), step=0, summary=summary))
    writer.close()
