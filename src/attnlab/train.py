"""What `attnlab train`, `python -m attnlab.train` and `python train.py` do: train one variant, or sweep with -m."""

import contextlib
import sys
from typing import TYPE_CHECKING

from attnlab.signals import end_at_signals

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """Compose the config from the command line, check it, and hand it to `attnlab.training.run`."""
    end_at_signals()  # before anything takes time
    import hydra

    from attnlab.complaints import hydra_explained, job_errors, one_line_errors
    from attnlab.config import check_job, for_each_job, variant_name, with_plus
    from attnlab.keys import config_dir
    from attnlab.machine import alone, wait_politely

    @hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")
    def job(cfg: "DictConfig") -> float | None:
        with job_errors():
            config = check_job(cfg)
            with alone() if config["trainer"]["devices"] == 1 else contextlib.nullcontext():
                from attnlab.training.run import run  # only now: torch takes seconds to import

            return run(config, variant=variant_name()).get("val_loss")

    wait_politely()
    sys.argv[1:] = for_each_job(with_plus(sys.argv[1:]))
    with one_line_errors(), hydra_explained(sys.argv[1:]):
        job()


if __name__ == "__main__":
    main()
