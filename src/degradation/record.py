"""A run's identity and its files: write, skip, resume, load. Imports no torch, so that records read anywhere.

results/runs/<run id, and in words what it varies>/      (published: runs/<precision>/..., see name_precision)
    config.yaml     the scientific config: network, data, protocol, seed
    sessions.jsonl  one line per process that worked on the run: hardware, versions, commit, first iteration
    metrics.csv     one row per `log_every` iterations, evaluated errors where there are any
    gradients.csv   one row per layer at iteration 0, after the first steps, and about ten times more
    initial.json    of a network deepened from a trained one alone: its parent, and how equal they are
    responses.csv   one row per layer (Fig. 7)
    wrong.csv       which test images the final network classifies wrongly, counted from 0
    summary.json    final numbers; written last and atomically: its presence marks a finished run, and its seal, the
                    SHA-256 of every file above, of network.pt and of its own other parts, holds the record to it
beside these, on the machine that trained (of six published runs, too): network.pt, the final weights; while running
checkpoint.ckpt (of published runs that are not finished yet, too), .lock
"""

import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import yaml

from degradation.config import IMAGES, Config, complete, find_records, is_named, name_folder, run_id

MEASURED = ["train_error", "train_loss", "test_error", "test_loss", "val_error", "val_loss"]
COLUMNS = ["iteration", "lr", *MEASURED, "seconds"]
NEEDED = {"iteration", "train_error", "test_error"}  # records of other versions may lack or add the others
KEPT = ("config.yaml", "sessions.jsonl", "metrics.csv", "gradients.csv", "initial.json", "responses.csv", "wrong.csv")
KEEPS = ("device", "precision", "execution", "threads")  # of a run, to its end, where the machine's setting is auto
SAME = (*KEEPS, "channels_last", "evaluation_batch")  # other such: other last digits of the same run


def name_precision(told: Mapping[str, Any]) -> str:
    """What runs share that are compared: `bf16`, or `bf16-cuda` where the `device` told of is not a CPU.

    Another device sums in another order: the arms of a pair would differ in more than the shortcut.
    """
    device = told.get("device", "cpu")
    return str(told["precision"]) if device == "cpu" else f"{told['precision']}-{device}"


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
    except OSError as error:  # a full disk names no file
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    replace_file(path, lambda temporary: temporary.write_text(text))


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _csv(rows: list[dict[str, Any]], columns: list[str]) -> str:
    return "".join(",".join(_cell(row.get(column)) for column in columns) + "\n" for row in rows)


def _damaged(path: Path, how: str = "is damaged") -> RecordError:
    # Without its summary a run begins anew; its config is what names the folder.
    summary = path.with_name("summary.json")
    what = summary if summary.exists() and path.name != "config.yaml" else path.parent
    return RecordError(f"{path} {how}; restore it, or delete {what} to run again")


def _content(path: Path) -> bytes:
    # Only what is wrong inside a file is damage: one that cannot be read now may be whole.
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise _damaged(path, "is missing beside a record") from None
    except OSError as error:
        raise RecordError(f"cannot read {path} ({error.strerror})") from error


def _text(path: Path) -> str:
    try:
        return _content(path).decode()
    except UnicodeDecodeError:
        raise _damaged(path) from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sign(path: Path) -> None:
    """Append its SHA-256 to a file; torch.load reads over it."""
    with open(path, "r+b") as file:
        file.write(_sha256(file.read()).encode())


def is_signed(content: bytes) -> bool:
    """Whether the content of a file ends with the SHA-256 of the rest."""
    return content[-64:] == _sha256(content[:-64]).encode()


class Record:
    """The folder of one run, which one process at a time may write.

    A RecordError where the folder cannot be written, another process is writing it, or it was edited since.
    """

    def __init__(self, config: Config, varied: dict[str, Any] | None = None):
        self.id, self.path = config.run_id, config.folder
        if not self.path.exists():
            self.path = self.path.with_name(name_folder(self.id, varied or {}))
        self.checkpoint, self.network = self.path / "checkpoint.ckpt", self.path / "network.pt"
        self._metrics, self._summary = self.path / "metrics.csv", self.path / "summary.json"
        self._gradients, self.initial = self.path / "gradients.csv", self.path / "initial.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(self.path / ".lock", timeout=0)
            self._lock.acquire()
            self._owned = os.stat(self.path / ".lock")
        except filelock.Timeout:
            raise RecordError(f"another process is writing {self.path}; wait for it, or stop it") from None
        except OSError as error:
            raise RecordError(
                f"cannot write results to {self.path} ({error.strerror}); name another folder with paths.results="
            ) from error
        described = self.path / "config.yaml"
        try:
            if described.exists() or self._summary.exists() or self._metrics.exists():
                check_identity(self.path)
            else:
                write_atomically(described, yaml.safe_dump({"run_id": self.id, **config.science}, sort_keys=False))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._lock.release()

    def write(self, path: Path, write: Callable[[Path], Any]) -> None:
        """All of what `write` writes to a path of this folder, or nothing; as everything here, only while it is ours.

        Who removes a folder in use, and begins the run anew, has two processes that write it; this one then ends.
        """
        self._check_owner()
        replace_file(path, write)

    def _check_owner(self) -> None:
        try:
            ours = os.path.samestat(os.stat(self.path / ".lock"), self._owned)
        except OSError:
            ours = False
        if not ours:
            raise RecordError(f"{self.path} was removed or replaced while this process was writing it")

    def start_session(self, session: dict[str, Any]) -> str:
        """Append what this process runs on; a run that would change midway what its last digits depend on is refused.

        Returns:
            What is not as it was and cannot be kept, such as another CPU, in words; empty where all is.
        """
        other = ""
        if earlier := self.sessions():
            was, now = _flat(earlier[-1]), _flat(session)
            for setting in SAME:
                if setting in was and was[setting] != now.get(setting):
                    raise RecordError(
                        f"{self.path} was begun with {setting}={was[setting]}, not {now.get(setting)}; "
                        f"resume with machine.{setting}={was[setting]}, or delete the folder to run again"
                    )
            begun, there = was.get("images"), now.get("images")
            if begun and there and begun != there:
                told = (
                    "{training:,} for training, {names}".format_map({"names": "", **each}) for each in (begun, there)
                )
                raise RecordError(
                    "{} was begun with other images ({}) than there are now ({}): put back those, or delete the folder "
                    "to run again".format(self.path, *told)
                )
            moved = [key for key in ("cpu", "gpu", "torch") if was.get(key) != now.get(key)]
            other = ", ".join(f"{key} {now.get(key)} after {was.get(key)}" for key in moved)
        self._append("sessions.jsonl", json.dumps(session) + "\n")
        return other

    def sessions(self) -> list[dict[str, Any]]:
        return read_sessions(self.path)

    @property
    def as_begun(self) -> dict[str, Any]:
        """The settings of KEEPS that the run began with, if it did."""
        begun = _flat(sessions[-1]) if (sessions := self.sessions()) else {}
        return {setting: begun[setting] for setting in KEEPS if setting in begun}

    def _append(self, name: str, text: str) -> None:
        self._check_owner()
        path = self.path / name
        length = path.stat().st_size if path.exists() else 0
        try:
            with open(path, "a") as file:
                file.write(text)
        except OSError:  # a full disk, say: half a line would be damage
            with suppress(OSError):
                os.truncate(path, length)
            raise

    def _append_rows(self, path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
        # A file keeps the columns that it was begun with, whatever later versions record.
        begun = path.read_text().partition("\n")[0] if path.exists() else ""
        head = "" if begun else ",".join(columns) + "\n"
        self._append(path.name, head + _csv(rows, begun.split(",") if begun else columns))

    def append(self, row: dict[str, Any]) -> None:
        """Add one row of metrics."""
        self._append_rows(self._metrics, [row], COLUMNS)

    def append_gradients(self, iteration: int, rows: list[dict[str, Any]]) -> None:
        """Add one row per layer, as probe.layers.layer_gradients gives them, at an iteration."""
        self._append_rows(self._gradients, [{"iteration": iteration, **row} for row in rows], ["iteration", *rows[0]])

    def written(self) -> dict[str, tuple[int, str]]:
        """Of every table so far its length in bytes and SHA-256, for a checkpoint; it is on the disk then."""
        found = {}
        for path in filter(Path.exists, (self._metrics, self._gradients, self.initial)):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                content = file.read()
            found[path.name] = (len(content), _sha256(content))
        return found

    def rewind(self, written: dict[str, tuple[int, str]]) -> None:
        """Drop what came after a checkpoint, which remembers what was `written`: a resumed run writes it again.

        Nothing was, where a run was stopped before its first. A RecordError where it is not what is there: emptied,
        cut, reordered or edited since.
        """
        self._check_owner()
        for path in (self._metrics, self._gradients):
            if path.name not in written:
                path.unlink(missing_ok=True)
        for name, (length, sha256) in written.items():
            path = self.path / name
            if not path.exists() or _sha256(path.read_bytes()[:length]) != sha256:
                remedy = f"restore it, or delete {self.checkpoint} to run again"
                raise RecordError(f"{path} is not as it was when the checkpoint was saved; {remedy}")
            os.truncate(path, length)

    def write_table(self, name: str, rows: list[dict[str, Any]], columns: Sequence[str] = ()) -> None:
        """A probe's table, such as responses.csv; of no rows, its columns."""
        columns = list(columns or rows[0])
        text = ",".join(columns) + "\n" + _csv(rows, columns)
        self.write(self.path / name, lambda path: path.write_text(text))

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run as finished, and seal its record. Nothing is written after this."""
        self._check_owner()
        if summary.get("final") is None and not self._metrics.exists():  # it diverged before its first row
            self._append_rows(self._metrics, [], COLUMNS)
        for path in filter(Path.exists, (self.path / name for name in KEPT)):  # what the seal speaks of
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        write_summary(self.path, _finite(summary))
        self.checkpoint.unlink(missing_ok=True)


def _flat(session: dict[str, Any]) -> dict[str, Any]:
    return {**session, **session.get("hardware", {}), **session.get("versions", {})}


def _finite(value: Any) -> Any:
    # JSON has no NaN: a diverged run's numbers are null.
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _seal(folder: Path, summary: dict[str, Any]) -> dict[str, str]:
    # Of all that is read with a record; that of network.pt, which is large, is compared where it is loaded.
    rest = json.dumps({key: value for key, value in summary.items() if key != "seal"}, sort_keys=True)
    files = {name: _sha256(_content(folder / name)) for name in KEPT if (folder / name).exists()}
    return {**files, "summary.json": _sha256(rest.encode())}


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write the summary of a record, with a seal of the whole as it is."""
    weights = folder / "network.pt"
    network = {weights.name: _sha256(_content(weights))} if weights.exists() and summary.get("final") else {}
    sealed = {**summary, "seal": {**_seal(folder, summary), **network}}
    write_atomically(folder / "summary.json", json.dumps(sealed, indent=2) + "\n")


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished run; a RecordError, see `read_record`, where the record is not what it claims to be."""
    return read_record(folder)[1]


def read_record(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config and the summary of a finished run; a RecordError where the record is not as its seal says."""
    path, config = folder / "summary.json", check_identity(folder)
    if not path.exists():
        raise RecordError(f"{folder} is not the record of a finished run")
    try:
        summary = json.loads(_text(path))
        if "seal" not in summary:
            raise _damaged(path, "has no seal: it was edited, or written before records were sealed")
        seal, found = summary["seal"], _seal(folder, summary)
        if broken := [name for name in (*KEPT, path.name) if seal.get(name) != found.get(name)]:
            raise _damaged(folder / broken[0], "is not as the seal of its record says")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path) from error
    return config, summary


def check_network(folder: Path) -> None:
    """A RecordError unless the run in a folder is finished, and its network.pt that of its seal."""
    summary, file = read_summary(folder), folder / "network.pt"
    if summary["outcome"] != "finished":
        raise RecordError(f"{file} is not of a finished run")
    if summary["seal"].get(file.name) != _sha256(_content(file)):
        raise _damaged(file, "is not as the seal of its record says")


def check_identity(folder: Path) -> dict[str, Any]:
    """The config of a record; a RecordError where it is damaged, or its run is not that of the folder's name."""
    path = folder / "config.yaml"
    try:
        config = yaml.load(_text(path), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        expected = run_id(config)
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path) from error
    if not is_named(folder.name, expected):
        raise _damaged(path, f"was changed under its record (it now describes {expected})")
    return config


def read_varied(summary: dict[str, Any]) -> dict[str, Any]:
    """Setting -> value, of those in which a run differs from its named protocol and network.

    Earlier records hold them as text, `variant: "protocol.lr=0.01, protocol.milestones=[1, 2]"`.
    """
    if "varied" in summary:
        return summary["varied"]
    found = re.findall(r"([\w.]+)=(\[.*?\]|[^,]*)", summary.get("variant") or "")
    return {key: yaml.safe_load(text) for key, text in found}


def count_done(folder: Path) -> int:
    """The iterations of a run so far, by the last whole row of its metrics; 0 where there is none that can be read."""
    try:
        return int(load_metrics(folder)["iteration"].iloc[-1])
    except (RecordError, LookupError):
        return 0


def find_begun(config: Config, device: str, precision: str) -> Path | None:
    """What a run would go on from: its own folder, else one of `paths.published` that was begun on such a device.

    None where there is neither: another device or precision makes no pair, and could not be changed midway.
    """
    if config.folder.exists():
        return config.folder
    for folder in find_records(config.paths.published, config.run_id) if config.paths.published else ():
        with suppress(RecordError):
            if can_go_on(folder) and {"device": device, "precision": precision}.items() <= last_session(folder).items():
                return folder
    return None


def last_session(folder: Path) -> dict[str, Any]:
    """What a run was last worked on with; a RecordError where that is not recorded."""
    if not (sessions := read_sessions(folder)):
        raise _damaged(folder / "sessions.jsonl")
    return sessions[-1]


def read_sessions(folder: Path) -> list[dict[str, Any]]:
    """What each process that worked on a run said of itself, from the first; a RecordError where that is damaged."""
    path = folder / "sessions.jsonl"
    try:
        lines = _text(path).splitlines() if path.exists() else []
        return [dict(json.loads(line)) for line in lines if line.strip()]
    except (ValueError, TypeError) as error:
        raise _damaged(path) from error


def can_go_on(folder: Path) -> bool:
    """Whether a folder holds a run that is not finished, and where it stands."""
    return (folder / "checkpoint.ckpt").exists() and not (folder / "summary.json").exists()


def copy_unfinished(folder: Path, target: Path) -> None:
    """All of an unfinished run or nothing, also while it is being trained. A RecordError where it is damaged.

    The checkpoint is read first: so the tables hold all that it knows of; what is beyond is dropped where they go on.
    """
    contents = {name: _content(folder / name) for name in ("checkpoint.ckpt", *KEPT) if (folder / name).exists()}
    check_identity(folder)
    if not is_signed(contents.get("checkpoint.ckpt", b"")):
        raise _damaged(folder / "checkpoint.ckpt")
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        for name, content in contents.items():
            (partial / name).write_bytes(content)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_unfinished(results: str | Path) -> pd.DataFrame:
    """The unfinished runs below results/runs (or its folders) that have rows of metrics, one row each, as `load_runs`.

    Their `outcome` is "unfinished", `iteration` how far each is. What cannot be read is left out: its run will tell.
    """
    every = {path.parent for where in ("*", "*/*") for path in Path(results).glob(f"runs/{where}/metrics.csv")}
    rows = []
    begun = (folder for folder in every if not (folder / "summary.json").exists() and not _is_partial(folder))
    for folder in sorted(begun):
        with suppress(RecordError, OSError, ValueError):
            config, session = check_identity(folder), last_session(folder)
            told = {"run_id": run_id(config), "outcome": "unfinished", "iteration": count_done(folder)}
            rows.append({**config, **complete(config), **session, **told, "folder": folder})
    return pd.json_normalize([row for row in rows if row["iteration"]])


def _is_partial(folder: Path) -> bool:
    # On its way into its place, or out of it.
    return folder.name.startswith(".")


def load_runs(results: str | Path) -> pd.DataFrame:
    """The finished runs under results/runs (or its folders), one row each: flattened config, summary, and `folder`.

    Columns such as network.name, network.depth, protocol.name, seed, outcome, final.train_error, final.test_error;
    `varied` holds read_varied, `made_by_study` the keys that the run's study sets (all that vary in earlier records).
    A RecordError where a record is damaged or was edited: figures must not be drawn from it.
    """
    written = (path for where in ("*", "*/*") for path in sorted(Path(results).glob(f"runs/{where}/summary.json")))
    folders = [path.parent for path in written if not _is_partial(path.parent)]
    both = [read_record(folder) for folder in folders]
    summaries, replaced = [summary for _, summary in both], {"varied": None, "seal": None}
    runs = pd.json_normalize([{**config, **complete(config), **summary, **replaced} for config, summary in both])
    varied = [read_varied(summary) for summary in summaries]
    for (config, _), found in zip(both, varied, strict=True):
        protocol, warmup = config["protocol"], config["protocol"]["warmup"]
        # Quick's warm-up was at half its rate before it was at a tenth: such a run is not of the protocol any more.
        if (protocol["name"], warmup["lr"]) == ("quick", 0.01) and config["network"]["depth"] >= warmup["min_depth"]:
            found.setdefault("protocol.warmup.lr", 0.01)
    made = [summary.get("made_by_study", list(keys)) for summary, keys in zip(summaries, varied, strict=True)]
    return runs.drop(columns="seal", errors="ignore").assign(varied=varied, made_by_study=made, folder=folders)


def _table(path: Path, text: str | None = None) -> pd.DataFrame:
    try:
        return pd.read_csv(io.StringIO(_text(path) if text is None else text))
    except ValueError as error:
        raise _damaged(path) from error


def load_metrics(folder: Path) -> pd.DataFrame:
    """The curves of one run: COLUMNS, empty where the record has none, and others; a RecordError where damaged.

    Of a run that is being trained the last row may be half written: it is left out.
    """
    path = folder / "metrics.csv"
    metrics = _table(path, _text(path).rpartition("\n")[0] + "\n")
    if not set(metrics) >= NEEDED or not metrics["iteration"].is_monotonic_increasing:  # which NaN is not
        raise _damaged(path)
    return metrics.reindex(columns=list(dict.fromkeys([*COLUMNS, *metrics])))


def epoch_of(data: str, held_out: int, batch_size: int, log_every: int, training: float | None = None) -> int:
    """Iterations in which all training images are shown, in whole rows of metrics.csv.

    Of a set of the user's own, whose size no config tells, of as many as a record says; else a row's.
    """
    images = IMAGES[data][0] - held_out if data in IMAGES else training if training and training > 0 else 0
    return max(1, math.ceil(images / batch_size / log_every)) * log_every


def settled_error(metrics: pd.DataFrame, window: int) -> float:
    """The running training error (percent) over the last so many iterations."""
    last = metrics["iteration"] > metrics["iteration"].iloc[-1] - window
    return float(np.average(metrics.loc[last, "train_error"], weights=_row_lengths(metrics)[last]))


def running_error(metrics: pd.DataFrame, window: int) -> pd.Series:
    """At every row the running training error (percent) over so many iterations, or those that there were."""
    at = pd.to_timedelta(metrics["iteration"], unit="s")  # of which pandas has windows
    weights = _row_lengths(metrics)
    parts = pd.DataFrame({"wrong": metrics["train_error"] * weights, "of": weights}).set_index(at)
    sums = parts.rolling(pd.Timedelta(window, unit="s")).sum()
    return (sums["wrong"] / sums["of"]).set_axis(metrics.index)


def _row_lengths(metrics: pd.DataFrame) -> pd.Series:
    # The iterations that each row is of: the last one's may be fewer.
    return metrics["iteration"].diff().fillna(metrics["iteration"]).clip(lower=1)


def load_responses(folder: Path) -> pd.DataFrame:
    """The layer responses of one run: layer (from 1), name, stage, std, gamma_rms.

    Since they are recorded, std_exact (BN statistics averaged over the training set, float32) and, of what leaves the
    stem and every block, cosine, rank and probe_error (see probe.information), too.
    """
    return _table(folder / "responses.csv")


def load_wrong(folder: Path) -> np.ndarray | None:
    """The test images that one run classifies wrongly, counted from 0; None if old, or it diverged."""
    path = folder / "wrong.csv"
    return _table(path)["image"].to_numpy(dtype=int) if path.exists() else None


def load_gradients(folder: Path) -> pd.DataFrame:
    """The signals of one run: iteration, layer (from 1), name, stage, std, grad_response, grad_weight; none if old.

    Since they are recorded, weight_norm and lr (of the step that follows), too.
    """
    path = folder / "gradients.csv"
    return _table(path) if path.exists() else pd.DataFrame(columns=["iteration", "layer", "stage"])
