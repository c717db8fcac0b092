"""`attnlab evaluate`."""

from typing import Annotated

from attnlab.cli._arguments import Limits, Run, RunCode, RunPackages
from attnlab.machine.limits import limited
from attnlab.store.run_folder import find_run


def evaluate(
    *,
    run: Run,
    lengths: Annotated[tuple[str, ...], "how many times model.context"] = ("2", "4", "8"),
    allow_targets: RunPackages = (),
    code: RunCode = "same",
    limits: Limits = True,
) -> None:
    """Judge a trained model on rows longer than those it was trained on."""
    folder = find_run(run)
    from attnlab.runs import dataset_of, load, newest_step, read_config
    from attnlab.training.extrapolation import check_lengths, extrapolate, keep, line

    factors = check_lengths([int(text) if text.isdecimal() else text for text in lengths])
    with limited(limits):
        model, tokenizer = load(folder, allow_targets=allow_targets, code=code, limits=limits)
        config = read_config(folder, allow_targets)
        context, seed = config.model.context, config.streams.eval
        dataset, reaches = dataset_of(folder, config, tokenizer), []
        print(f"beyond: after the first {context} tokens", flush=True)
        for reach in extrapolate(model, dataset, context, factors, seed=seed):
            reaches.append(reach)
            print(line(reach), flush=True)
        keep(folder, reaches, step=newest_step(folder, limits=limits))
