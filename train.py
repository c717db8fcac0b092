"""Train one variant, or sweep over many with -m. Start with: python train.py --help"""

import hydra
from omegaconf import DictConfig

from attnlab.config import Failures, check, one_line_errors, overrides_of_this_run, variant_name

failures, jobs = Failures(), 0


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> None:
    global jobs
    jobs += 1
    with failures.caught():
        config = check(cfg, overrides_of_this_run())
        from attnlab.training.run import run  # only now: torch takes seconds to import

        run(config, variant=variant_name())


if __name__ == "__main__":
    with one_line_errors():
        main()
        failures.end(jobs)
