"""The launcher behind every sweep: Hydra's joblib launcher, with a plan before it and a table after it.

Hydra accepts launchers from the `hydra_plugins` namespace alone; what this one does is in degradation.sweep, imported
late because Hydra imports every plugin at every start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher


@dataclass
class LauncherConf:
    _target_: str = "hydra_plugins.degradation_launcher.launcher.DegradationLauncher"
    n_jobs: Any = "${oc.env:JOBS,auto}"


ConfigStore.instance().store(group="hydra/launcher", name="degradation", node=LauncherConf, provider="degradation")


class DegradationLauncher(JoblibLauncher):
    """Runs a sweep n at once: longest first, finished runs left out, one failure not stopping the others."""

    def __init__(self, n_jobs: Any = "auto", **kwargs: Any):
        super().__init__(n_jobs=1, pre_dispatch="n_jobs", batch_size=1, **kwargs)
        self.wanted_jobs = n_jobs

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from degradation.sweep import launch

        return launch(self, super().launch, job_overrides, initial_job_idx)
