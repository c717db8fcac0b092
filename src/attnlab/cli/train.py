"""`attnlab train`, which `python train.py` and `python -m attnlab.cli.train` are, too."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

from attnlab.errors import AttnlabError, Stopped, UsageError
from attnlab.machine.signals import end_at_signals  # with the errors all that is imported before a signal is heeded

if TYPE_CHECKING:
    from omegaconf import DictConfig

WIDTH = 100  # of the help


def main() -> None:
    """What the three commands do with what was typed."""
    end_at_signals()  # before anything takes time
    from attnlab.cli._exits import one_line_errors
    from attnlab.machine.environment import limit_openmp_spinning, write_line_by_line

    write_line_by_line()
    limit_openmp_spinning()
    argv = sys.argv[1:]
    with one_line_errors(argv):
        train(*argv)


def train(*overrides: Annotated[str, "any setting, or a flag of Hydra"]) -> None:
    """Train one variant, or sweep over many with -m; the same as python train.py."""
    from attnlab.config.keys import config_dirs, searching

    with searching(config_dirs(overrides)):
        if {"-h", "--help"} & {*overrides}:
            print(usage())
            return
        from attnlab.config.compose import for_each_job, with_plus  # only now: Hydra takes long to import

        _hand_to_hydra(for_each_job(with_plus(overrides)))


def usage() -> str:
    """What can be typed: every group with its options."""
    from attnlab.config.keys import groups, options

    lines = [
        "usage: python train.py [FLAGS] GROUP=NAME ... KEY=VALUE ...   (or: attnlab train ...)",
        "",
        "FLAGS    -m  a run for every combination of values, such as attention=multi_head,gqa seed='range(3)'",
        "         --config-dir FOLDER  a folder with YAML files of yours",
        "         --cfg job  show every key with its value, and stop",
        "         --hydra-help  what else Hydra takes",
        "GROUPS   one name each, a folder of YAML files",
    ]
    for group in groups():
        line = f"  {group}="
        for name in options(group):
            if len(line) + len(name) > WIDTH:
                lines.append(line.rstrip())
                line = " " * 6
            line += f"{name} | "
        lines.append(line.removesuffix(" | "))
    return "\n".join([*lines, "KEYS     any key that --cfg job shows, such as trainer.max_steps=100 or seed=1"])


def _hand_to_hydra(argv: Sequence[str]) -> None:
    """Compose the config, check it, and hand it to `attnlab.training.run`."""
    import hydra

    from attnlab.config.compose import check_job, variant_name
    from attnlab.config.keys import config_dir
    from attnlab.machine.environment import alone

    @hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")
    def job(cfg: "DictConfig") -> float | None:
        with _job_errors(argv):
            config = check_job(cfg)
            with alone(config.trainer.devices * config.trainer.nodes):
                from attnlab.training.run import run  # only now: torch takes seconds to import

            return run(config, variant=variant_name(config)).get("val_loss")

    with _explained(argv):
        sys.argv[1:] = argv  # hydra.main takes no arguments: it reads them here
        job()


@contextlib.contextmanager
def _job_errors(argv: Sequence[str]) -> Iterator[None]:
    """Run one job: what goes wrong in a single one ends the command, and in one of a sweep it is an AttnlabError.

    A request to stop is no error, and ends the command at once.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from attnlab.cli._exits import end

    single = HydraConfig.get().mode == RunMode.RUN
    try:
        with _as_attnlab_errors(argv):
            yield
    except AttnlabError as error:
        if single or isinstance(error, Stopped):
            end(str(error), error.exit_code)  # Hydra would print a line of its own for an error that it sees
        raise


@contextlib.contextmanager
def _as_attnlab_errors(argv: Sequence[str]) -> Iterator[None]:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from attnlab.cli._exits import end_unheard
    from attnlab.config.messages import explain
    from attnlab.store.files import file_failure

    try:
        yield
    except BrokenPipeError:
        end_unheard()
    except AttnlabError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(explain(error, argv)) from error
    except OSError as error:
        raise file_failure(error) from error
    except Exception as error:
        traceback.print_exc()  # a fault of the code, not of what was typed
        raise AttnlabError(f"{type(error).__name__}: {error} (where, is told above)") from error


@contextlib.contextmanager
def _explained(argv: Sequence[str]) -> Iterator[None]:
    """Run Hydra on what was typed: whatever it refuses becomes a UsageError; faults of jobs do not come as far."""
    from hydra.errors import HydraException

    from attnlab.config.guard import guarded
    from attnlab.config.messages import explain, refuse_flags, refuse_repetitions, refuse_slips

    refuse_repetitions(argv)
    refuse_flags(argv)
    full = os.environ.get("HYDRA_FULL_ERROR", "0")
    if full != "1":  # who asks for it sees where Hydra itself stumbles
        refuse_slips(argv)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing its own page
    try:
        with guarded():
            yield
    except (AttnlabError, BrokenPipeError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and not isinstance(error, HydraException):
            raise  # standard output
        if full == "1":
            traceback.print_exc()
        raise UsageError(explain(error, argv)) from error
    finally:
        os.environ["HYDRA_FULL_ERROR"] = full


if __name__ == "__main__":
    main()
