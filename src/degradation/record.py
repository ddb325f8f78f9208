"""A run's identity and its files: write, skip, resume, load. Imports no torch, so that records read anywhere.

results/runs/<run id>/
    config.yaml     the scientific config: network, data, protocol, seed
    sessions.jsonl  one line per process that worked on the run: hardware, versions, commit, first iteration
    metrics.csv     one row per `log_every` iterations, evaluated errors where there are any
    gradients.csv   one row per layer at iteration 0 and about ten times more: forward std and gradient norms
    initial.json    of a network deepened from a trained one alone: its parent, and how equal they are
    responses.csv   one row per layer (Fig. 7)
    summary.json    final numbers; written last and atomically: its presence marks a finished run
beside these, for this machine only: checkpoint.ckpt while running, network.pt (final weights), .lock
"""

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import yaml

from degradation.config import Config, complete, run_id

MEASURED = ["train_error", "train_loss", "test_error", "test_loss", "val_error", "val_loss"]
COLUMNS = ["iteration", "lr", *MEASURED, "seconds"]
NEEDED = {"iteration", "train_error", "test_error"}  # records of other versions may lack or add the others


class RecordError(Exception):
    """A record cannot be written, or is not what it claims to be; the message names the file and the remedy."""


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """All of what `write` writes to a path, or nothing: to a file beside it, flushed to disk, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    replace_file(path, lambda temporary: temporary.write_text(text))


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _csv(rows: list[dict[str, Any]], columns: list[str]) -> str:
    return "".join(",".join(_cell(row.get(column)) for column in columns) + "\n" for row in rows)


def _append(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    with open(path, "a+") as file:
        file.seek(0)
        # A file keeps the columns that it was begun with, whatever later versions record.
        begun = file.readline().strip()
        file.write(_csv(rows, begun.split(",")) if begun else ",".join(columns) + "\n" + _csv(rows, columns))


def _damaged(path: Path, how: str = "is damaged") -> RecordError:
    return RecordError(f"{path} {how}; delete {path.parent} to run again")


class Record:
    """The folder of one run, which one process at a time may write.

    A RecordError where the folder cannot be written, another process is writing it, or it was edited since.
    """

    def __init__(self, config: Config):
        self.id = config.run_id
        self.path = Path(config.paths.results) / "runs" / self.id
        self.checkpoint, self.network = self.path / "checkpoint.ckpt", self.path / "network.pt"
        self._metrics, self._summary = self.path / "metrics.csv", self.path / "summary.json"
        self._gradients, self.initial = self.path / "gradients.csv", self.path / "initial.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(self.path / ".lock", timeout=0)
            self._lock.acquire()
        except filelock.Timeout:
            raise RecordError(f"another process is writing {self.path}; wait for it, or stop it") from None
        except OSError as error:
            raise RecordError(
                f"cannot write results to {self.path} ({error.strerror}); name another folder with paths.results="
            ) from error
        described = self.path / "config.yaml"
        try:
            if described.exists():
                check_identity(self.path)
            elif self._summary.exists() or self._metrics.exists():
                raise _damaged(described, "is missing beside a record")
            else:
                write_atomically(described, yaml.safe_dump({"run_id": self.id, **config.science}, sort_keys=False))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._lock.release()

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, None of an unfinished one."""
        return read_summary(self.path) if self._summary.exists() else None

    def start_session(self, session: dict[str, Any]) -> None:
        """Append what this process runs on; a run whose precision would change midway is refused."""
        earlier = self.sessions()
        for setting in ("precision", "channels_last") if earlier else ():
            if (was := earlier[-1].get(setting)) != session.get(setting):
                raise RecordError(
                    f"{self.path} was begun with {setting}={was}, not {session.get(setting)}; "
                    f"resume with machine.{setting}={was}, or delete the folder to run again"
                )
        with open(self.path / "sessions.jsonl", "a") as file:
            file.write(json.dumps(session) + "\n")

    def sessions(self) -> list[dict[str, Any]]:
        path = self.path / "sessions.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []

    def append(self, row: dict[str, Any]) -> None:
        """Add one row of metrics."""
        _append(self._metrics, [row], COLUMNS)

    def append_gradients(self, iteration: int, rows: list[dict[str, Any]]) -> None:
        """Add one row per layer, as probe.layers.layer_gradients gives them, at an iteration."""
        _append(self._gradients, [{"iteration": iteration, **row} for row in rows], ["iteration", *rows[0]])

    def rewind(self, iteration: int) -> None:
        """Drop the rows after an iteration (and a line cut short by a crash): a resumed run writes them again."""
        if iteration and not self._metrics.exists():
            raise _damaged(self._metrics, "is missing beside a checkpoint")
        for path in filter(Path.exists, (self._metrics, self._gradients)):
            if not iteration:  # begun, and stopped before its first checkpoint
                path.unlink()
                continue
            header, *lines = path.read_text().splitlines() or [""]
            whole = [line for line in lines if line.count(",") == header.count(",") and line.split(",")[0].isdigit()]
            kept = [line for line in whole if int(line.split(",")[0]) <= iteration]
            write_atomically(path, "\n".join([header, *kept]) + "\n")

    def write_table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """A probe's table, such as responses.csv."""
        columns = list(rows[0])
        write_atomically(self.path / name, ",".join(columns) + "\n" + _csv(rows, columns))

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run as finished. Nothing is written after this."""
        write_atomically(self._summary, json.dumps(_finite(summary), indent=2) + "\n")
        self.checkpoint.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    # JSON has no NaN: a diverged run's numbers are null.
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_summary(folder: Path) -> dict[str, Any]:
    """Raises RecordError where the file is cut short or holds no outcome."""
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text())
        summary["outcome"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(path) from error
    return summary


def check_identity(folder: Path) -> dict[str, Any]:
    """The config of a record; a RecordError where it is damaged, or its hash is not that of the folder's name."""
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text())
        expected = run_id(config)
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise _damaged(path, "is missing or damaged") from error
    if folder.name != expected:
        raise RecordError(
            f"{path} was changed under its record (it now describes {expected}); restore it or delete the folder"
        )
    return config


def read_varied(summary: dict[str, Any]) -> dict[str, Any]:
    """Setting -> value, of those in which a run differs from its named protocol and network.

    Earlier records hold them as text, `variant: "protocol.lr=0.01, protocol.milestones=[1, 2]"`.
    """
    if "varied" in summary:
        return summary["varied"]
    found = re.findall(r"([\w.]+)=(\[.*?\]|[^,]*)", summary.get("variant") or "")
    return {key: yaml.safe_load(text) for key, text in found}


def load_runs(results: str | Path) -> pd.DataFrame:
    """The finished runs under results/runs, one row each: flattened config, summary, and `folder`.

    Columns such as network.name, network.depth, protocol.name, seed, outcome, final.train_error, final.test_error;
    `varied` holds read_varied, `made_by_study` the keys that the run's study sets (all that vary in earlier records).
    A RecordError where a record is damaged or was edited: figures must not be drawn from it.
    """
    folders = sorted(path.parent for path in (Path(results) / "runs").glob("*/summary.json"))
    configs, summaries = [check_identity(folder) for folder in folders], [read_summary(folder) for folder in folders]
    both = zip(configs, summaries, strict=True)
    runs = pd.json_normalize([{**config, **complete(config), **summary, "varied": None} for config, summary in both])
    varied = [read_varied(summary) for summary in summaries]
    made = [summary.get("made_by_study", list(keys)) for summary, keys in zip(summaries, varied, strict=True)]
    return runs.assign(varied=varied, made_by_study=made, folder=folders)


def load_metrics(folder: Path) -> pd.DataFrame:
    """The curves of one run: COLUMNS, empty where the record has none, and others; a RecordError where damaged."""
    path = folder / "metrics.csv"
    try:
        metrics = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise _damaged(path) from error
    if not set(metrics) >= NEEDED or not metrics["iteration"].is_monotonic_increasing:  # which NaN is not
        raise _damaged(path)
    return metrics.reindex(columns=list(dict.fromkeys([*COLUMNS, *metrics])))


def load_responses(folder: Path) -> pd.DataFrame:
    """The layer responses of one run: layer (from 1), name, stage, std, gamma_rms."""
    return pd.read_csv(folder / "responses.csv")


def load_gradients(folder: Path) -> pd.DataFrame:
    """The signals of one run: iteration, layer (from 1), name, stage, std, grad_response, grad_weight; none if old."""
    path = folder / "gradients.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["iteration", "layer", "stage"])
