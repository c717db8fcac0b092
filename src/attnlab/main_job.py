"""What `attnlab train`, `python -m attnlab.main_job` and `python train.py` do: train one variant, or sweep with -m."""

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from attnlab.signals import end_at_signals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig


def main() -> None:
    """Compose the config from the command line, check it, and hand it to `attnlab.training.run`."""
    end_at_signals()  # before anything takes time
    import hydra

    from attnlab.complaints import hydra_explained, job_errors, one_line_errors
    from attnlab.config import check_job, for_each_job, variant_name, with_plus
    from attnlab.keys import config_dir
    from attnlab.machine import wait_politely

    @hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")
    def job(cfg: "DictConfig") -> float | None:
        with job_errors():
            config = check_job(cfg)
            with _ranks(config):
                from attnlab.training.run import run  # only now: torch takes seconds to import

            return run(config, variant=variant_name()).get("val_loss")

    wait_politely()
    sys.argv[1:] = for_each_job(with_plus(sys.argv[1:]))
    with one_line_errors(), hydra_explained(sys.argv[1:]):
        job()


def train_one(
    overrides: "Sequence[str]",
    *,
    callbacks: "Sequence[Any]",
    loggers: "Sequence[Any]",
    config_dirs: "Sequence[Any]",
) -> dict[str, Any]:
    """What `attnlab.train` does: one run within this process. Raises UsageError for what was typed wrongly."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from attnlab.complaints import explain
    from attnlab.config import compose_job, with_plus
    from attnlab.errors import UsageError

    words = with_plus(list(overrides))
    try:
        config, variant = compose_job(words, config_dirs)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(explain(error, words)) from error
    with _ranks(config):
        from attnlab.training.run import run

    return run(config, variant=variant, callbacks=callbacks, loggers=loggers)


def _ranks(config: dict[str, Any]) -> "contextlib.AbstractContextManager[None]":
    """What Lightning may see of a launcher while it is imported: nothing, where one device is one process."""
    from attnlab.machine import alone

    return alone() if config["trainer"]["devices"] == 1 else contextlib.nullcontext()


if __name__ == "__main__":
    main()
