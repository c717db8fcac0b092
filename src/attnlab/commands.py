"""What each command of `attnlab` does. What a command needs is imported when it is called, for torch takes seconds."""

import codecs
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from attnlab.errors import UsageError
from attnlab.limits import limited
from attnlab.rules import whole_numbers

MOST_HEADS = 9999  # the highest number of a layer or a head that may be typed


def generate(
    *,
    run: str,
    prompt: str,
    tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    allow_targets: str,
    code: str,
    limits: bool,
) -> None:
    """Write a text after a prompt, as it comes."""
    import torch

    from attnlab.generation import generate as tokens_after
    from attnlab.runs import load

    with limited(limits):
        model, tokenizer = load(run, allow_targets=_names(allow_targets), code=code, limits=limits)
        try:
            ids = torch.tensor(tokenizer.encode(prompt), dtype=torch.long)
        except UsageError as error:
            raise UsageError(f"prompt: {error}") from error
        settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        new = tokens_after(model, ids, tokens=tokens, **settings)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a character may need several tokens
        sys.stdout.write(prompt)
        for token in new:
            sys.stdout.write(decoder.decode(tokenizer.token_bytes(token)))
            sys.stdout.flush()
        sys.stdout.write(decoder.decode(b"", final=True) + "\n")


def check(*, attention: str, config_dir: str | None, allow_targets: str, laws: str, overrides: tuple[str, ...]) -> None:
    """Judge a variant by the laws; exit code 1 if one is broken."""
    from attnlab.checking import keeps_all

    settings: dict[str, Any] = {"config_dir": config_dir, "overrides": overrides}
    if not keeps_all(attention, allow_targets=_names(allow_targets), laws=_names(laws), **settings):
        sys.exit(1)


def new(*, name: str, folder: str, kind: str) -> None:
    """Write the skeleton of a variant, and say how to go on."""
    from attnlab.scaffold import next_commands, write

    for path in write(name, folder, kind):
        print(f"wrote {path}")
    print("next: judge it (causality is broken until the line marked MARKED is replaced), and train it")
    for command in next_commands(name, folder):
        print(f"  {command}")


def ablate_heads(*, run: str, tokens: int, allow_targets: str, code: str, limits: bool) -> None:
    """Silence one head after the other, and show how the loss changes, beside what the head looks at."""
    from attnlab.inspection import head_report
    from attnlab.inspection.head_ablation import Effect, ablate, headed_parts
    from attnlab.runs import find_run, load, newest_step, validation_batches
    from attnlab.training.recorders.tensorboard import TensorBoardRecorder

    folder, allowed = find_run(run), _names(allow_targets)
    with limited(limits):
        model, tokenizer = load(folder, allow_targets=allowed, code=code, limits=limits)
        batches = validation_batches(folder, tokenizer, tokens=tokens, allow_targets=allowed)
        scored = sum(int((targets >= 0).sum()) for _, targets in batches)
        if not any(headed_parts(block.attention) for block in model.layers):
            raise UsageError(f"run ({folder}) has no heads to silence")
        loss, effects = ablate(model, batches)
        print(f"val/loss {loss:.4f} on {scored:,} tokens of the validation text, with all heads", flush=True)
        found: list[Effect] = []
        print(head_report.HEADER, flush=True)
        for effect in effects:
            found.append(effect)
            print(head_report.line(effect), flush=True)
        step = newest_step(folder, limits=limits)
        for path in head_report.save(folder, found, loss=loss, tokens=scored, step=step):
            print(f"wrote {path}")
        with closing(TensorBoardRecorder(folder, resume_at=None, suffix=f".{folder.head_ablation.stem}")) as recorder:
            recorder.scalars(head_report.scalars(found), step)


def report(
    *,
    experiment: str,
    baseline: str | None,
    metric: str | None,
    margin: float | None,
    alpha: float | None,
    family: str,
    solved: float | None,
    code: str,
    tensorboard: bool,
    out: str | None,
    limits: bool,
) -> None:
    """Compare the variants of an experiment, write the report, and show its table."""
    from attnlab.ablation.publish import publish
    from attnlab.ablation.report import analyse
    from attnlab.ablation.settings import Options

    with limited(limits):
        found = analyse(experiment, Options(baseline, metric, margin, alpha, _names(family), solved, code))
        publish(found, Path(out) if out else None, tensorboard=tensorboard)


def explain(*, allow_targets: str, limits: bool, **settings: Any) -> None:
    """Show step by step what one attention layer does to a few tokens."""
    from attnlab.explaining import explain as explain_attention

    with limited(limits and settings["run"] is not None):
        explain_attention(allow_targets=_names(allow_targets), limits=limits, **settings)


def maps(
    *,
    run: str,
    prompt: str,
    layers: str | None,
    heads: str | None,
    folder: str | None,
    allow_targets: str,
    code: str,
    limits: bool,
) -> None:
    """Write the attention maps of a trained model for a text: numbers, pictures and a page."""
    from attnlab.mapping import write_maps

    typed = {"layers": layers, "heads": heads}
    which = {
        key: None if text is None else whole_numbers(key, text, most=MOST_HEADS, like="0,2 or 1-3")
        for key, text in typed.items()
    }
    with limited(limits):
        for path in write_maps(
            run, prompt, folder, **which, allow_targets=_names(allow_targets), code=code, limits=limits
        ):
            print(f"wrote {path}")


def tune(*, experiment: str, metric: str, rates: str, seeds: str, extend: int, overrides: tuple[str, ...]) -> None:
    """Choose a learning rate for each variant."""
    from attnlab.tuning import tune as tune_rates

    tune_rates(experiment, metric, rates, seeds, extend, overrides)


def card(
    *,
    attention: str,
    cells: str,
    folder: str,
    config_dir: str | None,
    allow_targets: str,
    overrides: tuple[str, ...],
) -> None:
    """Train each variant on the cells of the battery and draw what it can do; what is finished is not run again."""

    from rich.console import Console

    from attnlab.card.battery import CONTROLS, chosen_cells, results
    from attnlab.card.pages import line, save, show
    from attnlab.files import check_writable

    place, variants, chosen = Path(folder), _names(attention), chosen_cells(_names(cells))
    if not variants:
        raise UsageError("attention (nothing) must name a variant, or several: attention=multi_head,linear")
    check_writable(place, key="folder")
    if allow_targets.strip("[]"):
        overrides = (*overrides, f"allow_targets=[{','.join(_names(allow_targets))}]")
    folders = [] if config_dir is None else [config_dir]
    controls = [name for name in CONTROLS if name not in variants]
    print(
        f"{len(variants)} variants and {len(controls)} controls x {len(chosen)} cells, results in {folder}", flush=True
    )
    found = []
    for result in results([*variants, *controls], chosen, folder=place, overrides=overrides, config_dirs=folders):
        found.append(result)
        print(line(result), flush=True)
    show(found, Console())
    for path in save(found, place, f"attnlab card {' '.join(sys.argv[2:])}"):
        print(f"wrote {path}")


def evaluate(*, run: str, lengths: str, allow_targets: str, code: str, limits: bool) -> None:
    """Judge a trained model at lengths beyond that of its training."""
    from attnlab.runs import find_run, load, material_of, newest_step, read_config
    from attnlab.training.extrapolation import check_lengths, extrapolate, keep, line

    folder, allowed = find_run(run), _names(allow_targets)
    factors = check_lengths([int(word) if word.isdecimal() else word for word in _names(lengths)])
    with limited(limits):
        model, tokenizer = load(folder, allow_targets=allowed, code=code, limits=limits)
        config = read_config(folder, allowed)
        context, seed = config["model"]["context"], config["streams"]["eval"]
        material, found = material_of(folder, tokenizer, allow_targets=allowed), []
        print(f"beyond: after the first {context} tokens", flush=True)
        for reach in extrapolate(model, material, context, factors, seed=seed):
            found.append(reach)
            print(line(reach), flush=True)
        keep(folder, found, step=newest_step(folder, limits=limits))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.strip("[]").replace(",", " ").split())
