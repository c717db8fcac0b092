"""Train one variant, or sweep over many with -m. Start with: python train.py --help"""

import contextlib
import sys

from attnlab.signals import end_at_signals

if __name__ == "__main__":
    end_at_signals()  # before anything takes time

import hydra
from omegaconf import DictConfig

from attnlab.complaints import hydra_explained, job_errors, one_line_errors
from attnlab.config import check_job, variant_name, with_plus
from attnlab.machine import alone, wait_politely


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> float | None:
    with job_errors():
        config = check_job(cfg)
        with alone() if config["trainer"]["devices"] == 1 else contextlib.nullcontext():
            from attnlab.training.run import run  # only now: torch takes seconds to import

        return run(config, variant=variant_name()).get("val_loss")


if __name__ == "__main__":
    wait_politely()
    sys.argv[1:] = with_plus(sys.argv[1:])
    with one_line_errors(), hydra_explained(sys.argv[1:]):
        main()
