"""Swap the attention of a small GPT, keep everything else fixed, and see what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attnlab.analysis.verdicts import verdict as verdict
    from attnlab.data.tokenizers import Tokenizer
    from attnlab.interchange.foreign.parts import inspect as inspect
    from attnlab.model import GPT

    __version__: str


def __getattr__(name: str) -> Any:
    """`attnlab.verdict` and `attnlab.inspect`, imported where they are used: one needs SciPy, the other torch.

    `attnlab.__version__` is looked up in the installed package.
    """
    if name == "__version__":
        from importlib.metadata import version

        return version("attnlab")
    if name == "verdict":
        from attnlab.analysis.verdicts import verdict

        return verdict
    if name == "inspect":
        from attnlab.interchange.foreign.parts import inspect

        return inspect
    raise AttributeError(f"module 'attnlab' has no attribute {name!r}")


def train(
    overrides: Sequence[str] = (),
    *,
    callbacks: Sequence[Any] = (),
    loggers: Sequence[Any] = (),
    config_dirs: Sequence[Any] = (),
) -> dict[str, Any]:
    """Train one model and return its summary: `attnlab.train(["attention=gqa", "trainer.max_steps=200"])`.

    `overrides` are the words of the command line; `callbacks` and `loggers`, made for Lightning, come to those of the
    config. A callback counts as changing the result, so that the run is another one, unless it has an attribute
    `watches` that is True. A run that was cut off goes on, and a finished one returns at once. Raises UsageError for
    what was typed wrongly.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from attnlab.config.compose import compose_job, with_plus
    from attnlab.config.messages import explain
    from attnlab.errors import UsageError
    from attnlab.machine.environment import alone

    typed = with_plus(list(overrides))
    try:
        config, variant = compose_job(typed, config_dirs)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(explain(error, typed)) from error
    with alone(config.trainer.devices * config.trainer.nodes):
        from attnlab.training.run import run

    return run(config, variant=variant, callbacks=callbacks, loggers=loggers)


def load(
    run: Any, *, allow_targets: tuple[str, ...] = (), code: str = "same", limits: bool = True
) -> tuple[GPT, Tokenizer]:
    """The trained model and the tokenizer of a run, from its folder: `model, tokenizer = attnlab.load("runs/...")`.

    `allow_targets` names packages of yours whose classes the run's config uses; `limits` False reads a run of any size.
    A run that other code has trained is refused unless `code` is "any".
    """
    from attnlab.runs import load as load_run  # torch takes seconds to import

    return load_run(run, allow_targets=allow_targets, code=code, limits=limits)
