"""`attnlab explain`."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from attnlab.cli._arguments import ConfigDir, Limits, Range, RunCode, VariantPackages
from attnlab.errors import UsageError, nearest
from attnlab.explain.step_parts import PARTS
from attnlab.machine.environment import harmless
from attnlab.machine.limits import limited
from attnlab.store.files import check_writable, write_atomically
from attnlab.store.run_folder import find_run

if TYPE_CHECKING:
    from attnlab.explain.compare import Pairing
    from attnlab.explain.flow.chapter_figures import Figure
    from attnlab.explain.steps import Explanation


def explain(
    *overrides: Annotated[
        str, "any setting of train.py, such as attention.window=2, position=rope or attention/mask=window"
    ],
    attention: Annotated[str | None, "the variant; left out: the whole chapter, from simple to many heads"] = None,
    path: Annotated[bool, "true: from the chapter to layers of today, one change at a time"] = False,
    run: Annotated[Path | None, "the folder of a run, to explain a layer that was trained"] = None,
    prompt: Annotated[str | None, "the text to read; left out: the chapter's sentence"] = None,
    figure: Annotated[str | None, "a figure of the chapter, such as 3.9, drawn with the numbers of the code"] = None,
    against: Annotated[str | None, "another variant, to see what this one changes"] = None,
    token: Annotated[str | None, "the token to follow, by its text or number; left out: journey, or the last"] = None,
    only: Annotated[bool, "true: print the numbers of that token alone"] = False,
    steps: Annotated[
        tuple[str, ...], f"what to print, such as scores,weights; left out: all ({', '.join(PARTS)})"
    ] = (),
    layer: Annotated[int | None, Range(least=1), "which layer of the model, counted from 1"] = None,
    seed: Annotated[int | None, Range(least=0), "draws the weights; left out: the chapter's"] = None,
    init: Annotated[Literal["linear", "uniform"] | None, "how they are drawn; left out: as the chapter"] = None,
    folder: Annotated[Path, "where the page and the pictures go"] = Path("explained"),
    tensorboard: Annotated[Path | None, "a folder of logs that gets the pictures, too"] = None,
    config_dir: ConfigDir = None,
    allow_targets: VariantPackages = (),
    code: RunCode = "same",
    limits: Limits = True,
) -> None:
    """Show step by step what an attention layer does: numbers, pictures and a page."""
    if path:
        alone = {} if run is not None else {"prompt": prompt, "layer": layer}
        _refuse_beside_path(
            attention=attention,
            against=against,
            token=token,
            only=only,
            steps=steps,
            seed=seed,
            init=init,
            figure=figure,
            **alone,
        )
        _refuse_beside_path(**dict(word.partition("=")[::2] for word in overrides))
    else:
        _refuse(attention, run, prompt, against, seed, init, overrides)
    for part in steps:
        if part not in PARTS:
            raise UsageError(f"steps ({part}) must be among: {', '.join(PARTS)}{nearest(part, PARTS)}")
    drawn = (
        None if figure is None else _figure(figure, attention=attention, run=run, prompt=prompt, seed=seed, init=init)
    )
    attention = attention if drawn is None else drawn.name
    check_writable(folder, key="folder")
    if tensorboard is not None:
        check_writable(tensorboard, key="tensorboard")
    started, pairing = time.perf_counter(), None
    if path:
        _walk(run, prompt, layer, allow_targets, code, limits)
        return
    with limited(limits and run is not None):
        if run is not None and prompt is not None:
            examples = [_of_run(run, prompt, layer, token, allow_targets, code, limits)]
            name = examples[0].name
        elif attention is None:
            from attnlab.explain.explanations import all_examples

            name, examples = "chapter", all_examples()
        else:
            from attnlab.config.messages import compose_for_chapter

            names = [attention] if against is None else [attention, against]
            variants = [compose_for_chapter(each, config_dir, allow_targets, overrides) for each in names]
            from attnlab.explain.compare import Pairing
            from attnlab.explain.explanations import explanations  # only now: torch takes seconds to import

            examples = explanations(
                variants, token=token, layer=layer, seed=seed, init=init, overrides=overrides, prompt=prompt
            )
            name = f"figure_{figure}" if drawn is not None else "-against-".join(names)
            pairing = Pairing(*examples) if against is not None else None
        shown = examples[:1] if pairing else examples
        _write(name, shown, pairing, folder, tensorboard, started, only=only, parts=steps, figure=drawn)
    if attention is None and run is None:
        print("next: attnlab explain path=true goes on, one change at a time, to layers of today")


def _of_run(
    run: Path,
    prompt: str,
    layer: int | None,
    token: str | None,
    allow_targets: tuple[str, ...],
    code: Literal["same", "any"],
    limits: bool,
) -> "Explanation":
    """The worked example of a layer of a finished run."""
    trained = find_run(run)
    from attnlab.explain.example import explained_run
    from attnlab.runs import load

    model, tokenizer = load(trained, allow_targets=allow_targets, code=code, limits=limits)
    return explained_run(trained.title.replace("/", "-"), model, tokenizer, prompt, layer=layer, token=token)


def _walk(
    run: Path | None,
    prompt: str | None,
    layer: int | None,
    allow_targets: tuple[str, ...],
    code: Literal["same", "any"],
    limits: bool,
) -> None:
    """Print the path, which ends at a layer of a run if one is given."""
    from rich.console import Console

    from attnlab.explain.chapter import TOKENS
    from attnlab.explain.stations import all_examples, relative_of
    from attnlab.explain.terminal import show_path, show_trained

    console = Console(file=sys.stdout, highlight=False)
    with limited(limits and run is not None):
        text = " ".join(TOKENS) if prompt is None else prompt
        trained = None if run is None else _of_run(run, text, layer, None, allow_targets, code, limits)
        examples = list(all_examples())
        show_path(examples, console)
        if trained is None:
            print("next: attnlab explain path=true run=RUN ends the path at the layer that you trained")
        else:
            command = f'attnlab explain run={run} prompt="{text}" layer={layer or 1}'
            show_trained(relative_of(trained, examples), command, console)


def _write(
    name: str,
    examples: "Sequence[Explanation]",
    pairing: "Pairing | None",
    folder: Path,
    tensorboard: Path | None,
    started: float,
    *,
    only: bool,
    parts: Sequence[str],
    figure: "Figure | None",
) -> None:
    """Print the examples, write the page and the pictures, and say where they are."""
    from rich.console import Console

    from attnlab.explain.html import page
    from attnlab.explain.pictures import draw_step
    from attnlab.explain.terminal import show
    from attnlab.inspection.figures import to_png

    console = Console(file=sys.stdout, highlight=False)
    for example in examples:
        show(example, console, pairing, only=only, parts=parts)
        console.print()
    home = folder / name.replace("/", "-")
    title = f"Figure {figure.number}: {figure.title}" if figure is not None else f"attention: {name}"
    text = page(title, examples, pairing, figure)
    write_atomically(home / "index.html", text.encode(errors="replace"), key="folder")
    for number, example in enumerate(examples):
        for index, step in enumerate(example.steps):
            first = f"{number}_{example.name}_" if len(examples) > 1 else ""
            file = f"{first}{index:02d}_{step.key.replace('.', '_').replace('@', '_')}.png"
            picture = draw_step(step, example.tokens, example.heading)
            write_atomically(home / file, to_png(picture), key="folder")
    if tensorboard is not None:
        _log(tensorboard, examples)
    seconds = time.perf_counter() - started
    print(harmless(f"wrote {home / 'index.html'} and a picture per step beside it ({seconds:.1f} s)"))
    if tensorboard is not None:
        print(f"wrote the pictures for TensorBoard, too: tensorboard --logdir {tensorboard}")


def _refuse_beside_path(**settings: object) -> None:
    for key, value in settings.items():
        if value:
            shown = ",".join(value) if isinstance(value, tuple) else value
            raise UsageError(
                f"{key} ({shown}) must be left out with path=true, whose stations are settled but for a run at its end"
            )


def _refuse(
    attention: str | None,
    run: Path | None,
    prompt: str | None,
    against: str | None,
    seed: int | None,
    init: str | None,
    overrides: Sequence[str],
) -> None:
    if run is not None and prompt is None:
        raise UsageError("run needs prompt=...: a layer is explained on a text that it reads")
    if prompt is not None and run is None and attention is None:
        raise UsageError("prompt needs attention=... or run=...: a text is read by one layer")
    for key, value in (("attention", attention), ("against", against), ("seed", seed), ("init", init)):
        if run is not None and value is not None:
            raise UsageError(f"{key} ({value}) must be left out with run: its model is trained already")
    if run is not None and overrides:
        raise UsageError(f"{overrides[0]} must be left out with run: its settings are in its folder")
    if attention is None and run is None and (against is not None or overrides):
        word = f"against={against}" if against is not None else overrides[0]
        close = nearest(word.partition("=")[0], ("attention", "against", "run", "prompt", "token"))
        raise UsageError(f"{word} needs attention=...{close}: without it the whole chapter is explained")


def _figure(number: str, **beside: object) -> "Figure":
    """The figure of the chapter, which settles all that could be typed beside it."""
    from attnlab.explain.flow.chapter_figures import chapter_figure

    for key, value in beside.items():
        if value is not None:
            raise UsageError(f"{key} ({value}) must be left out with figure: the chapter's figures have its numbers")
    return chapter_figure(number)


def _log(folder: Path, examples: "Sequence[Explanation]") -> None:
    """The pictures as images of TensorBoard: explain/VARIANT/00_inputs and so on."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    from attnlab.explain.pictures import draw_step
    from attnlab.inspection.figures import to_png
    from attnlab.inspection.records import image_summary

    writer = EventFileWriter(str(folder))
    for example in examples:
        for index, step in enumerate(example.steps):
            picture = draw_step(step, example.tokens, example.heading)
            summary = image_summary(f"explain/{example.name}/{index:02d}_{step.key}", to_png(picture))
            writer.add_event(Event(wall_time=time.time(), step=0, summary=summary))
    writer.close()
