"""The launcher behind every sweep: a plan before it, a process for each run, and a table after it.

Hydra accepts launchers from the `hydra_plugins` namespace alone; what this one does is in degradation.sweep, imported
late because Hydra imports every plugin at every start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class LauncherConf:
    _target_: str = "hydra_plugins.degradation_launcher.launcher.DegradationLauncher"
    n_jobs: Any = "${oc.env:JOBS,auto}"


ConfigStore.instance().store(group="hydra/launcher", name="degradation", node=LauncherConf, provider="degradation")


class DegradationLauncher(Launcher):
    """Runs a sweep n at once: longest first, finished runs left out, no run stopped by the end of another."""

    def __init__(self, n_jobs: Any = "auto"):
        self.wanted_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.compose, self.config = hydra_context.config_loader.load_sweep_config, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from degradation.cli import origin
        from degradation.sweep import launch

        return launch([self.compose(self.config, list(each)) for each in job_overrides], self.wanted_jobs, origin)
