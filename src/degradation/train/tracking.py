"""The view of a run in Weights & Biases: the one place that imports wandb. Whatever fails here never costs a run."""

import hashlib
import http.client
import json
import netrc
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from degradation.config import Config, complete
from degradation.record import Record, load_responses

PATIENCE = 5  # seconds


def has_key() -> bool:
    """Whether a W&B key is present, in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _answers() -> bool:
    try:
        urllib.request.urlopen(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"), timeout=PATIENCE).close()
    except urllib.error.HTTPError as error:  # an answer, too
        error.close()
    except (OSError, ValueError, http.client.HTTPException):  # the second of an address that is none
        return False
    return True


def find_mode() -> str:
    """online where a key is present and W&B answers within seconds, else offline, in processes started later, too."""
    mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
    if mode == "online" and not _answers():
        print("W&B does not answer: logging offline, for wandb sync to upload later", file=sys.stderr, flush=True)
        mode = os.environ["WANDB_MODE"] = "offline"
    return mode


class View:
    """A W&B run whose failures are told once, and end the view instead of the work; nothing where none was started."""

    run: Any = None

    def start(self, results: str, project: str, **settings: Any) -> None:
        folder = Path(results).absolute()
        mode = find_mode()
        try:
            import wandb

            quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=20)
            folder.mkdir(parents=True, exist_ok=True)
            self.run = wandb.init(dir=folder, project=project, mode=mode, settings=quiet, **settings)  # type: ignore[arg-type]
        except Exception as error:
            self._give_up(error)

    def attempt(self, action: Callable[[Any], Any]) -> None:
        """Do something with the run, if there is one."""
        try:
            if self.run is not None:
                action(self.run)
        except Exception as error:  # wandb raises what it likes; the record is the truth, this is a view of it
            self._give_up(error)

    def close(self, exit_code: int = 0) -> None:
        self.attempt(lambda run: run.finish(exit_code=exit_code))
        self.run = None

    def _give_up(self, error: Exception) -> None:
        told = f"W&B logging is off for this run ({type(error).__name__}: {str(error)[:200]})"
        print(told, file=sys.stderr, flush=True)
        self.run = None


class Tracker(View):
    """One run's curves, config, final numbers and layer responses; does nothing under logger=none.

    Runs are grouped by study and named by network, depth, what they vary and seed; metrics are plotted against
    `iteration`.
    """

    def __init__(self, config: Config, record: Record, label: str):
        self.record, self.finished = record, False
        if config.logger.name == "none":
            return
        network = config.network
        self.start(
            config.paths.results,
            config.logger.project,
            id=f"{config.run_id}-{_mark(record)}",
            name=label,
            group=f"{config.study} ({config.protocol.name})",
            job_type=network.name,
            tags=[network.name, f"depth {network.depth}", config.protocol.name],
            config={**complete(config.science), "study": config.study, "machine": record.sessions()[-1]},
            resume="allow",
        )
        self.attempt(lambda run: run.define_metric("*", step_metric="iteration"))

    def log(self, row: dict[str, Any]) -> None:
        self.attempt(lambda run: run.log(row))

    def finish(self, final: dict[str, float]) -> None:
        """Log the final numbers and the layer responses of a finished record."""
        self.finished = True

        def add(run: Any) -> None:
            import wandb

            rows = wandb.Table(dataframe=load_responses(self.record.path))
            run.summary.update({f"final/{key}": value for key, value in final.items()})
            run.log({"layer responses": wandb.plot.line(rows, "layer", "std", title="std of layer responses")})

        self.attempt(add)


def _mark(record: Record) -> str:
    # In another precision or begun anew another; the same wherever the record goes on, whoever goes on with it.
    begun = record.sessions()[0]
    return hashlib.sha256(json.dumps(begun, sort_keys=True).encode()).hexdigest()[:8]


def log_report(results: str, figures: list[Path], tables: list[Path], project: str, group: str) -> None:
    """The closing job: figures and tables, as one W&B run."""
    view = View()
    view.start(results, project, name="report", group=group, job_type="report")

    def add(run: Any) -> None:
        import pandas as pd
        import wandb

        for path in figures:
            run.log({f"figures/{path.parent.name}/{path.stem}": wandb.Image(str(path))})
        for path in tables:
            rows = wandb.Table(dataframe=pd.read_csv(path).astype(str))
            run.log({f"tables/{path.parent.name}/{path.stem}": rows})

    view.attempt(add)
    view.close()
