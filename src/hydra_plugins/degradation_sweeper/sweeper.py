"""The sweeper behind every sweep: a plan before it, a process for each run, and a table after it.

Hydra accepts sweepers from the `hydra_plugins` namespace alone, and its own writes a file before anything is checked;
what this one does is in degradation.sweep, imported late because Hydra imports every plugin at every start.
"""

from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SweeperConf:
    _target_: str = "hydra_plugins.degradation_sweeper.sweeper.DegradationSweeper"
    params: dict[str, str] | None = None
    n_jobs: Any = "${oc.env:JOBS,auto}"


ConfigStore.instance().store(group="hydra/sweeper", name="degradation", node=SweeperConf, provider="degradation")


class DegradationSweeper(BasicSweeper):
    """Runs a sweep n at once: longest first, finished runs left out, no run stopped by the end of another."""

    def __init__(self, params: dict[str, str] | None = None, n_jobs: Any = "auto"):
        super().__init__(None, params)
        self.wanted_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader, self.config = hydra_context.config_loader, config

    def sweep(self, arguments: list[str]) -> Any:
        from degradation.cli import origin
        from degradation.sweep import launch

        overrides = OverridesParser.create(self.loader).parse_overrides([*self._parse_config(), *arguments])
        (runs,) = self.split_arguments(overrides, None)
        return launch([self.loader.load_sweep_config(self.config, each) for each in runs], self.wanted_jobs, origin)
