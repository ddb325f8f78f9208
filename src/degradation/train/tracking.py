"""The view of a run in Weights & Biases: the one place that imports wandb. Whatever fails here never costs a run."""

import netrc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from degradation.config import Config, complete
from degradation.record import Record, load_responses


def has_key() -> bool:
    """Whether a W&B key is present, in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


class _Guarded:
    """A W&B run whose failures are told once, and end the view instead of the work."""

    def __init__(self) -> None:
        self.run: Any = None

    def attempt(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # wandb raises what it likes; the record is the truth, this is a view of it
            print(
                f"W&B logging is off for this run ({type(error).__name__}: {str(error)[:200]})",
                file=sys.stderr,
                flush=True,
            )
            self.run = None

    def start(self, results: str, project: str, **settings: Any) -> None:
        def begin() -> None:
            import wandb

            folder = Path(results).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
            quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True)
            self.run = wandb.init(dir=folder, project=project, mode=mode, settings=quiet, **settings)  # type: ignore[arg-type]

        self.attempt(begin)

    def close(self, exit_code: int = 0) -> None:
        if self.run is not None:
            run, self.run = self.run, None
            self.attempt(lambda: run.finish(exit_code=exit_code))


class Tracker(_Guarded):
    """One run's curves, config, final numbers and layer responses; does nothing under logger=none.

    Runs are grouped by study and named by network, depth and seed; every metric is plotted against `iteration`.
    """

    def __init__(self, config: Config, record: Record):
        super().__init__()
        self.record, self.finished = record, False
        if config.logger.name == "none":
            return
        network = config.network
        self.start(
            config.paths.results,
            config.logger.project,
            id=config.run_id,
            name=config.label,
            group=f"{config.study} ({config.protocol.name})",
            job_type=network.name,
            tags=[network.name, f"depth {network.depth}", config.protocol.name],
            config={**complete(config.science), "study": config.study, "machine": record.sessions()[-1]},
            resume="allow",
        )
        if self.run is not None:
            self.attempt(lambda: self.run.define_metric("*", step_metric="iteration"))

    def log(self, row: dict[str, Any]) -> None:
        if self.run is not None:
            self.attempt(lambda: self.run.log(row))

    def finish(self, final: dict[str, float]) -> None:
        """Log the final numbers and the layer responses of a finished record."""
        self.finished = True

        def add() -> None:
            import wandb

            rows = wandb.Table(dataframe=load_responses(self.record.path))
            self.run.summary.update({f"final/{key}": value for key, value in final.items()})
            self.run.log({"layer responses": wandb.plot.line(rows, "layer", "std", title="std of layer responses")})

        if self.run is not None:
            self.attempt(add)

    def close(self, exit_code: int | None = None) -> None:
        super().close(0 if self.finished else 1)


def log_report(results: str, project: str, figures: list[Path], tables: list[Path], study: str) -> None:
    """The closing job of a study: its figures and tables, as one W&B run."""
    view = _Guarded()
    view.start(results, project, name=f"report of {study}", group=study, job_type="report")

    def add() -> None:
        import pandas as pd
        import wandb

        for path in figures:
            view.run.log({f"figures/{path.parent.name}/{path.stem}": wandb.Image(str(path))})
        for path in tables:
            rows = wandb.Table(dataframe=pd.read_csv(path).astype(str))
            view.run.log({f"tables/{path.parent.name}/{path.stem}": rows})

    if view.run is not None:
        view.attempt(add)
    view.close()
