"""Records -> one table, a row per finished run, which figures, statistics and pages share; and the tables they show."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from degradation.record import (
    epoch_of,
    load_metrics,
    load_responses,
    load_runs,
    load_unfinished,
    name_precision,
    settled_error,
)

# Table 6, test error (%) of residual networks (option A); 110 layers: the best of five, mean 6.61 +- 0.16.
PAPER_RESIDUAL = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.43, 1202: 7.93}
# In the order in which they are shown; those of a user's making stand before the smoke tests.
PROTOCOLS = {
    "paper": "the paper's protocol",
    "imagenet_paper": "the paper's protocol",
    "short": "the paper's schedule shrunk eightfold: not the paper's protocol; deep plain networks are not yet trained"
    " at this length (at full length, one author's plain-56 is 3.4 points of test error behind plain-20)",
    "imagenet_short": "ten classes at 96 pixels, half the width: not the paper's protocol",
    "quick": "5,000 embedded images: not the paper's protocol",
    "imagenet_quick": "2,000 embedded images of ten classes, half the width: not the paper's protocol",
    "smoke": "a smoke test: its errors mean nothing",
    "imagenet_smoke": "a smoke test: its errors mean nothing",
}
ARMS = ("plain", "residual")
ERRORS = ("train_error", "train_error_eval", "test_error")
OWN = (
    "single",
    "degradation_cifar",
    "degradation_imagenet",
)  # what these vary is of the user's making, and has figures of its own
LENGTH_SETTINGS = {"protocol.iterations", "protocol.milestones"}
_SHORT = {name: f"{name}.name" for name in ("network", "protocol", "data")}
_SHORT |= {"depth": "network.depth", "iterations": "protocol.iterations"}
_ALWAYS = (
    "study",
    "length",
    "rate",
    "warmup_ended_at",
    "precision",
    "device",
    "seconds",
    "parameters",
    "commit",
    "outcome",
    "folder",
    *ERRORS,
)
Filter = dict[str, Any]


def load_table(*results: str | Path) -> pd.DataFrame:
    """Every finished run below the runs/ of one or several results folders, a row each.

    Of runs with the same config, precision and device, the one of the first folder.

    Columns: network, depth, seed, protocol, data, iterations; every setting under its dotted name (protocol.lr);
    study, the file in conf/experiment that made the run;
    varied, the settings in which it differs from its protocol and network as named (setting -> value), variation, the
    same as text, and made_by_study, those of the settings that are its study's;
    label, such as plain-56; precision, which tells of the device, too (record.name_precision); pair, the seed and this
    (only runs that share both are compared);
    guessing, the error of it, and the final errors, in percent: of a run that diverged those of guessing, as to leave
    it out would hide exactly the runs that failed. train_error is the running one, over the last epoch, or
    `evaluate_every` iterations where those are more: of fewer images their choice shows. `epoch` is in iterations, of
    whole rows of metrics.csv. A RecordError where a record is damaged.
    """
    parts = [part for part in map(load_runs, results) if len(part)]
    if not parts:
        return pd.DataFrame(columns=[*_SHORT, *_ALWAYS, "varied", "made_by_study", "variation", "label", "pair"])
    table = pd.concat(parts, ignore_index=True)
    table.columns = table.columns.str.removeprefix("final.")
    table = table.reindex(columns=list(dict.fromkeys([*table, *_SHORT.values(), *_ALWAYS, "seed", "network.classes"])))
    table = _add_names(table).drop_duplicates(["run_id", "precision"], ignore_index=True)
    _tell_apart(table)
    table[["length", "rate"]] = table[["length", "rate"]].fillna(1)
    table["variation"] = [", ".join(f"{k}={v}" for k, v in sorted(run.items())) for run in table["varied"]]
    table["guessing"] = 100 * (1 - 1 / table["network.classes"])
    finished = table["outcome"] == "finished"
    folders, windows = table.loc[finished, "folder"], table.loc[finished, "window"]
    settled = [settled_error(load_metrics(folder), window) for folder, window in zip(folders, windows, strict=True)]
    table.loc[finished, "train_error"] = settled
    for column in ERRORS:
        table[column] = table[column].astype(float).where(finished, table["guessing"])
    read = table.loc[finished, "folder"].map(load_responses)
    table["mean_response"] = read.map(lambda layers: layers["std"].mean())
    table["mean_response_exact"] = read.map(
        lambda layers: layers["std_exact"].mean() if "std_exact" in layers else None
    )
    # Copied: in one block per type, of which parts are taken many times as fast.
    return table.sort_values(["network", "depth", "seed"], ignore_index=True, kind="stable").copy()


def _tell_apart(table: pd.DataFrame) -> None:
    # Records say what a run varies against its protocol as that was when it was trained, or against itself where its
    # protocol has no file, so runs of one protocol's name may have other settings. What most have of the runs that do
    # not vary a setting is the protocol's (where as many have something else, nothing is). Others vary it, too, so that
    # none counts for another, be it of another seed.
    for name, told in settings_of(table).items():
        keys = ["protocol", "network", "depth"] if str(name).startswith("network.") else ["protocol"]
        free = told[[name not in varied for varied in table["varied"]]].dropna()
        usual = free.groupby([table.loc[free.index, key] for key in keys]).transform(_most_common)
        for place in free.index[free != usual]:
            table.at[place, "varied"] = {**table.at[place, "varied"], name: table.at[place, name]}


def _most_common(values: pd.Series) -> str | None:
    (first, n), *others = Counter(values).most_common(2)
    return None if others and others[0][1] == n else first


def word_of(value: Any) -> str:
    """A setting's value as text; what is not set is None, or NaN beside numbers, and one word."""
    return "none" if value is None or value != value else str(value)


def settings_of(table: pd.DataFrame) -> pd.DataFrame:
    """The scientific settings of runs, each as text; none where it is idle, the rate of a warm-up that there is not."""
    names = [name for name in table if str(name).startswith(("network.", "data.", "protocol."))]
    told = pd.DataFrame({name: table[name].map(word_of) for name in names}, index=table.index)
    if "protocol.warmup.lr" in told:
        warm = table["depth"] >= table["protocol.warmup.min_depth"]
        told["protocol.warmup.lr"] = told["protocol.warmup.lr"].where(warm)
    return told


def _add_names(runs: pd.DataFrame) -> pd.DataFrame:
    # Short names of settings, what a run is called, its pair; its epoch, and the window of its errors, in iterations.
    table = runs.assign(**{short: runs[name] for short, name in _SHORT.items()})
    table["label"] = table["network"] + "-" + table["depth"].astype(str)
    table["precision"] = [name_precision(run) for run in table[["device", "precision"]].to_dict("records")]
    table["pair"] = table["seed"].astype(str) + " " + table["precision"]
    sizes = ["data.name", "data.validation_images", "protocol.batch_size", "protocol.log_every"]
    shown = table.reindex(columns=[*sizes, "images.training"]).itertuples(index=False, name=None)
    table["epoch"] = [epoch_of(*row) for row in shown]
    return table.assign(window=table[["epoch", "protocol.evaluate_every"]].max(axis=1))


def unfinished_runs(results: str | Path) -> pd.DataFrame:
    """Every unfinished run below the runs/ of a results folder, a row each: no evidence, but shown on its way.

    Columns as of `load_table`, as far as they exist: `iteration` says how far it is, `told` what it varies, in words;
    errors are those so far, test_error at the last evaluation (none before the first).
    """
    if not len(runs := load_unfinished(results)):
        return runs
    table = _add_names(runs)
    read = [load_metrics(folder) for folder in table["folder"]]
    table["train_error"] = [settled_error(metrics, w) for metrics, w in zip(read, table["window"], strict=True)]
    table["test_error"] = [next(iter(metrics["test_error"].dropna()[::-1]), None) for metrics in read]
    named = zip(table["folder"], table["run_id"], strict=True)  # by config.name_folder
    told = [folder.name.removeprefix(run.rsplit("-s", 1)[0]).rsplit("-s", 1)[0] for folder, run in named]
    table["told"] = [words.strip("-") for words in told]
    return table.sort_values(["protocol", "network", "depth", "seed"], ignore_index=True, kind="stable")


def conditions(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each protocol with all of its runs, the paper's first; after it each grid of the user's making alone.

    Runs in several precisions make no pairs: that with the most has the protocol's name, others are `quick (fp32)` and
    the like. A grid has both arms at two depths or more. In its table nothing is varied: what all of its runs share is
    its `condition`, and names its figures.
    """
    order = {name: place for place, name in enumerate(PROTOCOLS)}
    for protocol in sorted(table["protocol"].unique(), key=lambda name: (order.get(name, order["smoke"] - 0.5), name)):
        of_protocol = table[table["protocol"] == protocol]
        for place, precision in enumerate(of_protocol["precision"].value_counts().index):
            runs, told = of_protocol[of_protocol["precision"] == precision], [precision] if place else []
            yield (name := _name(protocol, told)), runs.assign(condition=name)
            for variation, part in runs[runs["study"].isin(OWN) & (runs["variation"] != "")].groupby("variation"):
                if (part.groupby("network")["depth"].nunique().reindex(ARMS) > 1).all():
                    name = _name(protocol, [*told, variation])
                    yield name, part.assign(condition=name, varied=[{}] * len(part))


def _name(protocol: str, besides: list[str]) -> str:
    return f"{protocol} ({', '.join(besides)})" if besides else protocol


def own_settings(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """The settings, alone or several at once, that runs of the user's making vary."""
    return sorted({tuple(sorted(varied)) for varied in table.loc[table["study"].isin(OWN), "varied"] if varied})


# Settings whose values a study's figure compares.
STUDIED: dict[tuple[str, ...], str] = {
    ("protocol.lr",): "learning_rate",
    ("network.alpha",): "shortcut_strength",
    ("network.shortcut",): "shortcut_options",
}


def by_name(settings: tuple[str, ...]) -> str:
    """Of the figure and the table that compare their values."""
    return STUDIED.get(settings) or "by_" + "_".join(setting.split(".", 1)[-1] for setting in settings)


def condition_folder(condition: str) -> str:
    """A condition's name as a folder name: letters, digits and ._=- with + between."""
    return re.sub(r"[^\w.=-]+", "+", condition).strip("+")


def select(table: pd.DataFrame, where: Filter, over: tuple[str, ...] = ()) -> pd.DataFrame:
    """The runs with the given settings, and the protocol's in all others but those named in `over`.

    Naming the `study` takes its runs with the settings that its file makes.
    """
    named = set(where) | set(over)
    if where.get("length", 1) != 1:
        named |= LENGTH_SETTINGS
    if where.get("rate", 1) != 1:
        named |= {"protocol.lr"}
    made = table["made_by_study"] if "study" in where else [()] * len(table)
    usual = [set(varied) - set(by_study) <= named for varied, by_study in zip(table["varied"], made, strict=True)]
    chosen = np.array(usual, dtype=bool)
    for key, value in where.items():
        chosen &= table[key].to_numpy() == value if key in table else False  # on arrays: this is done a thousand times
    return table[chosen]


def finished(table: pd.DataFrame) -> pd.DataFrame:
    """The runs with the protocol's own settings that did not diverge: those of the paper's figures."""
    rows = select(table, {})
    return rows[rows["outcome"] == "finished"]


def gather(runs: pd.DataFrame, load: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    """What `load` reads from the folder of each run, as one table, each row with the columns of its run.

    Columns of both keep what was read; the run's own have `_of_run` behind their names.
    """
    parts = [load(folder).assign(folder=folder) for folder in runs["folder"]]
    read = pd.concat([part for part in parts if len(part)] or [pd.DataFrame(columns=["folder"])])
    return read.merge(runs, on="folder", suffixes=("", "_of_run"))


def error_by_depth(table: pd.DataFrame) -> pd.DataFrame:
    """Per network and depth: n seeds, mean and sample std (empty for n = 1) of the final errors, in percent.

    Those that diverged, of whom it says how many, count with the error of guessing, as in claims.
    """
    runs = select(table, {})
    groups = runs.groupby(["network", "depth"])
    found = groups[list(ERRORS)].agg(["mean", "std"])
    found.columns = [f"{column}_{kind}" for column, kind in found.columns]
    found.insert(0, "n", groups.size())
    diverged = runs[runs["outcome"] != "finished"].groupby(["network", "depth"]).size()
    found["diverged"] = diverged.reindex(found.index).fillna(0).astype(int)
    return found.reset_index()


TABLE6 = {
    "network": "network",
    "parameters": "parameters",
    "n": "n",
    "train_error": "training error, running (%)",
    "train_error_eval": "training error, eval mode (%)",
    "test_error": "test error (%)",
    "test_error_std": "std over seeds",
    "paper_test_error": "the paper's test error (%)",
}


def table6(table: pd.DataFrame) -> pd.DataFrame:
    """Table 6 of the paper beside ours; TABLE6 says what its columns are. Networks of ImageNet are not in it."""
    table = table[table["network.family"] == "cifar"]
    found = error_by_depth(table).rename(columns=lambda column: column.removesuffix("_mean"))
    groups = select(table, {}).groupby(["network", "depth"])
    paper = found["depth"].map(PAPER_RESIDUAL).where(found["network"] == "residual")
    found = found.assign(parameters=groups["parameters"].first().to_numpy(dtype=int), paper_test_error=paper)
    found["network"] += "-" + found["depth"].astype(str)
    return found[[*TABLE6]]


def paired_differences(table: pd.DataFrame) -> pd.DataFrame:
    """Training error of plain minus residual at equal depth and seed (equal batches make them pairs), in points.

    Pairs computed in different precisions do not count: nothing but the shortcut may differ.
    """
    wide = select(table, {}).pivot_table("train_error", ["depth", "seed", "precision"], "network").reindex(columns=ARMS)
    difference = (wide["plain"] - wide["residual"]).dropna().rename("difference").reset_index()
    return difference[["depth", "seed", "difference"]]


def load_others(results: Path) -> pd.DataFrame:
    """Test error (%) of networks that others trained: a row per network such as plain-56, a column per author."""
    errors: dict[str, dict[str, float]] = {}
    for path in sorted(results.glob("reproductions/*/error.csv")):
        author, network, depth = path.parent.name.rsplit("-", 2)
        error = pd.read_csv(path).set_index("set")["error"]["test"]
        errors.setdefault(author, {})[f"{network}-{depth}"] = error
    return pd.DataFrame(errors)


def load_others_claims(results: Path) -> dict[str, tuple[int, int]]:
    """What claims come to on networks that others trained: of how many authors' it agrees, and of how many in all."""
    path = results / "reproductions" / "claims.csv"
    if not path.exists():
        return {}
    agrees = pd.read_csv(path).set_index("claim")["verdict"] == "agrees"
    return {str(claim): (int(each.sum()), len(each)) for claim, each in agrees.groupby(level=0)}


def find_results() -> Path:
    """RESULTS_DIR, else results/ of this folder or of the one above (where a notebook runs)."""
    here, above = Path("results"), Path("../results")
    return Path(os.environ.get("RESULTS_DIR") or (above if above.is_dir() and not here.is_dir() else here))


def beside(run_folder: Path, kind: str) -> Path:
    """results/<kind>/<run>, beside results/runs/<run>."""
    runs = next(above for above in run_folder.parents if above.name == "runs")
    return runs.with_name(kind) / run_folder.relative_to(runs)


def probes_folder(run_folder: Path) -> Path:
    """results/probes/<run>: what experiments/probe.py measured of it."""
    return beside(run_folder, "probes")


def weights_of(run_folder: Path) -> str | None:
    """The SHA-256 of a run's final weights, by the seal of its record; None where it diverged."""
    return json.loads((run_folder / "summary.json").read_text())["seal"].get("network.pt")


def load_probe(run_folder: Path, probe: str) -> pd.DataFrame:
    """The table that experiments/probe.py wrote of a run, such as its lesions.

    Empty if there is none, or if it says that it is of other weights: of the run before it was run again.
    """
    path = probes_folder(run_folder) / f"{probe}.csv"
    if not path.exists():
        return pd.DataFrame()
    ours, theirs = weights_of(run_folder), describe_probe(run_folder).get("weights")
    return pd.DataFrame() if ours and theirs and ours != theirs else pd.read_csv(path)


def describe_probe(run_folder: Path) -> dict[str, Any]:
    """Of those tables: `probes`, how many images each is of; `recalibrated_on`, training images, where recorded."""
    return json.loads((probes_folder(run_folder) / "probe.json").read_text())
