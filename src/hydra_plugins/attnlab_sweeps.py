"""What attnlab adds to Hydra: a launcher with warm worker processes, and a sweeper that knows designs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class LocalLauncherConf:
    """hydra/launcher=local: jobs in warm worker processes here, `n_jobs` at once; null: one for each core.

    A worker that did nothing for `patience` seconds hangs, and its run has failed; null: nobody looks.
    """

    _target_: str = "hydra_plugins.attnlab_sweeps.LocalLauncher"
    n_jobs: int | None = None
    patience: float | None = 300.0


@dataclass
class DesignSweeperConf:
    """hydra/sweeper=design: every combination that is typed, or the points of the design that sweep= names."""

    _target_: str = "hydra_plugins.attnlab_sweeps.DesignSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


class LocalLauncher(Launcher):
    """Runs jobs in worker processes that have imported torch once; whatever becomes of a job, the others go on."""

    def __init__(self, n_jobs: int | None, patience: float | None) -> None:
        self.n_jobs, self.patience = n_jobs, patience
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of a sweeper that is not ours and return what each came to."""
        from attnlab.sweep.executor import pool_for
        from attnlab.sweep.sweeper import launch_here

        assert self.config is not None and self.hydra_context is not None
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)  # sweepers put their results there
        with pool_for(self.n_jobs, len(job_overrides), self.patience) as pool:
            return launch_here(self.hydra_context.config_loader, self.config, job_overrides, pool)


class DesignSweeper(BasicSweeper):
    """Lists and checks every job before the first one starts, and runs again only what is not finished."""

    def __init__(self, max_batch_size: int | None, params: Any = None) -> None:
        super().__init__(max_batch_size=max_batch_size, params=params or {})

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep that was typed."""
        from attnlab.store.files import failures
        from attnlab.sweep.sweeper import sweep

        assert self.config is not None and self.hydra_context is not None and self.launcher is not None
        launcher = self.launcher
        local = isinstance(launcher, LocalLauncher)
        with failures():
            return sweep(
                self.hydra_context.config_loader,
                self.config,
                [*self._parse_config(), *arguments],
                split=lambda overrides: self.split_arguments(overrides, None)[0],
                local=local,
                n_jobs=launcher.n_jobs if isinstance(launcher, LocalLauncher) else None,
                patience=launcher.patience if isinstance(launcher, LocalLauncher) else None,
                launch=lambda overrides: launcher.launch(overrides, initial_job_idx=0),
            )


for group, name, node in (
    ("hydra/launcher", "local", LocalLauncherConf),
    ("hydra/sweeper", "design", DesignSweeperConf),
):
    ConfigStore.instance().store(group=group, name=name, node=node, provider="attnlab")
