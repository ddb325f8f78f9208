"""The paper's claims as verdicts that follow from records: a statistic per seed, its interval, a stated threshold.

Each file in conf/experiment/ states the claims that its runs decide, as data:

    claims:
      C1:
        sentence: what the paper says
        statistic: a name in STATISTICS below; `of:` holds its arguments
        above: 0.0      (or below:, or within: for "at most so far from zero") the threshold, in the statistic's unit

Every statistic gives one number per seed, so that the interval over seeds is that of a mean. No torch here.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import stats
from statsmodels.stats.power import TTestPower

from degradation.analysis import PROTOCOLS
from degradation.config import LATER
from degradation.record import load_gradients, load_metrics, load_responses, load_runs

CONF = Path(__file__).parents[2] / "conf"
LEVEL, POWER = 0.95, 0.8
CHANCE = 90.0  # percent
SHORT_NAMES = {"network.name": "network", "network.depth": "depth"}
LENGTH_SETTINGS = {"protocol.iterations", "protocol.milestones"}
Filter = dict[str, Any]


class ClaimError(Exception):
    """A study's claims are not well-formed; the message names the file and the claim."""


@dataclass(frozen=True)
class Claim:
    """One claim, its statistic and the threshold that decides it."""

    id: str
    sentence: str
    statistic: str
    unit: str
    study: str
    above: float | None = None
    below: float | None = None
    within: float | None = None
    of: dict[str, Any] = field(default_factory=dict)
    figure: str = ""

    @property
    def threshold(self) -> str:
        """In words, with the unit."""
        if self.within is not None:
            return f"within {self.within:g} {self.unit} of zero"
        word, value = ("above", self.above) if self.above is not None else ("below", self.below)
        return f"{word} {value:g} {self.unit}"


@dataclass(frozen=True)
class Verdict:
    """What the records say of a claim; `effects` holds the statistic of every seed (and precision)."""

    claim: Claim
    verdict: str
    effects: dict[str, float]
    mean: float = np.nan
    low: float = np.nan
    high: float = np.nan
    seeds_needed: int | None = None


def list_studies(conf: Path = CONF) -> list[str]:
    """The names of the study files; first the one whose runs others build on.

    Raises:
        ClaimError: there are none.
    """
    names = sorted(path.stem for path in (conf / "experiment").glob("*.yaml"))
    if not names:
        raise ClaimError(f"{conf / 'experiment'} holds no study")
    return sorted(names, key=lambda name: name != "degradation_cifar")


def study_settings(study: str, conf: Path = CONF) -> set[str]:
    """The scientific settings that a study's file makes or sweeps over, such as protocol.iterations."""
    file = yaml.safe_load((conf / "experiment" / f"{study}.yaml").read_text())
    groups = [(group, key) for group in ("network", "data", "protocol") for key in file.get(group) or {}]
    return {f"{group}.{key}" for group, key in groups} | set(file["hydra"]["sweeper"]["params"])


def load_claims(conf: Path = CONF) -> list[Claim]:
    """The claims of every study file, in the order of their numbers.

    Raises:
        ClaimError: a claim lacks a part, has an unknown one, or states no single threshold.
    """
    found = []
    for path in (conf / "experiment" / f"{name}.yaml" for name in list_studies(conf)):
        for name, entry in (yaml.safe_load(path.read_text()).get("claims") or {}).items():
            try:
                claim = Claim(id=name, study=path.stem, **entry)
            except TypeError as error:
                raise ClaimError(f"{path}, claim {name}: {error}") from None
            if claim.statistic not in STATISTICS:
                raise ClaimError(f"{path}, claim {name}: {claim.statistic} is not one of {', '.join(STATISTICS)}")
            if sum(value is not None for value in (claim.above, claim.below, claim.within)) != 1:
                raise ClaimError(f"{path}, claim {name}: state one of above, below and within")
            found.append(claim)
    number = {claim.id: re.match(r"C(\d+)", claim.id) for claim in found}
    return sorted(found, key=lambda claim: int(match[1]) if (match := number[claim.id]) else len(found) + 100)


def load_tables(results: str | Path) -> dict[str, pd.DataFrame]:
    """Protocol -> every finished run of it and of its variants: flattened config, `final.` numbers without prefix.

    `varied` holds the settings in which a run differs from the protocol and network as named. `pair` holds seed and
    precision: only runs that share both are compared. Runs that diverged count with the error of guessing.
    """
    runs = load_runs(results)
    if runs.empty:
        return {}
    runs = runs.reindex(columns=list(dict.fromkeys([*runs, "study", "variant", "length", "precision"])))
    for group, settings in LATER.items():
        for key, default in settings.items():
            column = f"{group}.{key}"
            if default is not None:
                runs[column] = runs[column].fillna(default) if column in runs else default
    runs["length"] = runs["length"].fillna(1)
    runs["varied"] = [
        frozenset(part.split("=")[0] for part in text.split(", ") if "=" in part) for text in runs["variant"].fillna("")
    ]
    runs["pair"] = runs["seed"].astype(str) + " " + runs["precision"].fillna("").astype(str)
    for column in ("train_error", "train_error_eval", "test_error"):
        # A diverged network guesses: leaving it out would hide exactly the runs that failed.
        runs[f"final.{column}"] = runs[f"final.{column}"].astype(float).where(runs["outcome"] == "finished", CHANCE)
    runs["mean_response"] = [
        load_responses(run.folder)["std"].mean() if run.outcome == "finished" else np.nan for run in runs.itertuples()
    ]
    final = {column: column.removeprefix("final.") for column in runs if column.startswith("final.")}
    runs = runs.rename(columns={**SHORT_NAMES, **final})
    names = sorted(runs["protocol.name"].unique(), key=lambda name: (PROTOCOLS.get(name, 9), name))
    return {name: runs[runs["protocol.name"] == name] for name in names}


def select(table: pd.DataFrame, where: Filter, over: tuple[str, ...] = ()) -> pd.DataFrame:
    """The runs with the given settings, and the protocol's in all others but those named in `over`.

    Naming the `study` takes its runs with the settings that its file makes.
    """
    named = set(where) | set(over)
    if where.get("length", 1) != 1:
        named |= LENGTH_SETTINGS
    if "study" in where:
        named |= study_settings(where["study"])
    chosen = table[pd.Series([varied <= named for varied in table["varied"]], index=table.index, dtype=bool)]
    for key, value in where.items():
        if key not in chosen:
            return chosen.iloc[:0]
        chosen = chosen[chosen[key] == value]
    return chosen


def _by_pair(rows: pd.DataFrame, column: str) -> pd.Series:
    # Where several runs of a seed qualify (a setting swept over), the best of them.
    return rows.groupby("pair")[column].min().astype(float) if column in rows else pd.Series(dtype=float)


def contrast(
    table: pd.DataFrame, first: Filter, second: Filter, column: str = "train_error", over: str | None = None
) -> pd.Series:
    """The first kind of run minus the second at equal seed; with `over`, each at its best value of that setting.

    There, a seed counts where both kinds were run at the same values, two or more.
    """
    kinds = [select(table, where, (over,) if over else ()) for where in (first, second)]
    if over:
        ours, theirs = (rows.groupby("pair")[over].agg(frozenset) for rows in kinds)
        fair = [
            pair for pair in ours.index.intersection(theirs.index) if ours[pair] == theirs[pair] and len(ours[pair]) > 1
        ]
        kinds = [rows[rows["pair"].isin(fair)] for rows in kinds]
    return _by_pair(kinds[0], column) - _by_pair(kinds[1], column)


def level(table: pd.DataFrame, where: Filter, column: str = "train_error") -> pd.Series:
    """A final number."""
    return _by_pair(select(table, where), column)


def slope_in_depth(table: pd.DataFrame, network: str, column: str = "train_error", up_to: int = 110) -> pd.Series:
    """Least-squares slope of a final number in depth, per 10 layers.

    Over the depths that all seeds with more than one depth have, so that every seed's slope is of the same networks.
    """
    rows = select(table, {"network": network})
    wide = rows[rows["depth"] <= up_to].pivot_table(index="pair", columns="depth", values=column)
    wide = wide[wide.notna().sum(axis=1) > 1].dropna(axis=1)
    if wide.shape[1] < 2:
        return pd.Series(dtype=float)
    depths = wide.columns.to_numpy(dtype=float)
    return wide.apply(lambda errors: 10 * stats.linregress(depths, errors.to_numpy(dtype=float)).slope, axis=1)


def _finished(table: pd.DataFrame, where: Filter) -> dict[str, Path]:
    # Pair -> folder, of runs that have probe tables.
    rows = select(table, where)
    return dict(rows.loc[rows["outcome"] == "finished", ["pair", "folder"]].itertuples(index=False, name=None))


def iterations_to_error(table: pd.DataFrame, depth: int, error: float) -> pd.Series:
    """Plain over residual: the ratio of the iterations at which the running training error first is under `error`.

    A network that never gets there counts with all its iterations: the ratio is then a bound on the careful side.
    """

    def first(network: str) -> tuple[pd.Series, pd.Series]:
        reached, at = {}, {}
        for pair, folder in _finished(table, {"network": network, "depth": depth}).items():
            metrics = load_metrics(folder)
            found = first_below(metrics, error)
            reached[pair], at[pair] = found is not None, found or metrics["iteration"].iloc[-1]
        return pd.Series(reached, dtype=bool), pd.Series(at, dtype=float)

    (plain_there, plain), (residual_there, residual) = first("plain"), first("residual")
    pairs = [pair for pair in plain.index.intersection(residual.index) if plain_there[pair] or residual_there[pair]]
    return plain[pairs] / residual[pairs]


def first_below(metrics: pd.DataFrame, error: float) -> int | None:
    """The first iteration at which the running training error is under `error` percent; None if it never is."""
    under = metrics.loc[metrics["train_error"] < error, "iteration"]
    return int(under.iloc[0]) if len(under) else None


def _responses(table: pd.DataFrame, where: Filter) -> dict[str, pd.DataFrame]:
    return {pair: load_responses(folder) for pair, folder in _finished(table, where).items()}


def response_ratio(table: pd.DataFrame, depth: int) -> pd.Series:
    """Median over layers of the std of a residual network's response over its plain twin's (Fig. 7)."""
    plain, residual = (_responses(table, {"network": n, "depth": depth}) for n in ("plain", "residual"))
    return pd.Series(
        {pair: (residual[pair]["std"] / plain[pair]["std"]).median() for pair in plain.keys() & residual.keys()},
        dtype=float,
    )


def response_change(table: pd.DataFrame, shallow: int, deep: int, network: str = "residual") -> pd.Series:
    """Mean std of the layer responses of a deep network over that of a shallow one (Fig. 7)."""
    ours, theirs = (_responses(table, {"network": network, "depth": depth}) for depth in (deep, shallow))
    return pd.Series(
        {pair: ours[pair]["std"].mean() / theirs[pair]["std"].mean() for pair in ours.keys() & theirs.keys()},
        dtype=float,
    )


def _gradients(table: pd.DataFrame, where: Filter, iteration: str) -> dict[str, pd.DataFrame]:
    found = {}
    for pair, folder in _finished(table, where).items():
        rows = load_gradients(folder)
        at = 0 if iteration == "first" else rows["iteration"].max()
        if (rows["iteration"] == at).any():
            found[pair] = rows[rows["iteration"] == at]
    return found


def gradient_growth(table: pd.DataFrame, where: Filter, iteration: str = "first") -> pd.Series:
    """The factor by which the gradient norm of responses grows per layer backward, by a log-linear fit."""
    return pd.Series(
        {pair: growth_per_layer(rows) for pair, rows in _gradients(table, where, iteration).items()}, dtype=float
    )


def growth_per_layer(rows: pd.DataFrame, column: str = "grad_response") -> float:
    """Of the rows of one network at one iteration; each stage has a level of its own, the factor is common."""
    staged = rows[rows["stage"] > 0]
    centred = staged.assign(log=np.log(staged[column]))[["stage", "layer", "log"]]
    centred = centred - centred.groupby("stage").transform("mean").assign(stage=0)
    return float(np.exp(-stats.linregress(centred["layer"], centred["log"]).slope))


def gradient_ratio(table: pd.DataFrame, where: Filter, iteration: str = "first") -> pd.Series:
    """The norm of the first layer's weight gradient over the last 3x3 layer's: far below 1 where gradients vanish."""
    return pd.Series(
        {
            pair: rows["grad_weight"].iloc[0] / rows["grad_weight"].iloc[-1]
            for pair, rows in _gradients(table, where, iteration).items()
        },
        dtype=float,
    )


def load_probe(run_folder: Path, probe: str) -> pd.DataFrame:
    """The table that experiments/probe.py wrote of a run, such as its lesions; empty if none."""
    path = probes_folder(run_folder) / f"{probe}.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def probes_folder(run_folder: Path) -> Path:
    """results/probes/<run id>, beside results/runs/<run id>."""
    return run_folder.parents[1] / "probes" / run_folder.name


def constructed_difference(table: pd.DataFrame, network: str, shallow: int, deep: int) -> pd.Series:
    """The largest logit difference between a trained network and the deeper one built from it, before any training."""
    found = {}
    for pair, folder in _finished(table, {"network": network, "depth": shallow}).items():
        rows = load_probe(folder, "constructed")
        if len(rows) and (rows["depth"] == deep).any():
            found[pair] = rows.loc[rows["depth"] == deep, "largest_difference"].iloc[0]
    return pd.Series(found, dtype=float)


def lesion_difference(table: pd.DataFrame, depth: int) -> pd.Series:
    """Rise in test error when one block is deleted, mean over blocks: plain minus residual."""

    def rise(network: str) -> pd.Series:
        found = {}
        for pair, folder in _finished(table, {"network": network, "depth": depth}).items():
            rows = load_probe(folder, "lesions")
            if len(rows):
                intact = rows.loc[rows["count"] == 0, "error"].iloc[0]
                found[pair] = rows.loc[rows["kind"] == "delete_one", "error"].mean() - intact
        return pd.Series(found, dtype=float)

    return rise("plain") - rise("residual")


STATISTICS: dict[str, Callable[..., pd.Series]] = {
    statistic.__name__: statistic
    for statistic in (
        contrast,
        level,
        slope_in_depth,
        iterations_to_error,
        response_ratio,
        response_change,
        gradient_growth,
        gradient_ratio,
        constructed_difference,
        lesion_difference,
    )
}

# Ratios spread by factors, not by differences: their means and intervals are those of their logarithms.
RATIOS = {"iterations_to_error", "response_ratio", "response_change", "gradient_growth", "gradient_ratio"}
LEAST_RATIO = 1e-30  # in place of 0, which has no logarithm


def decide(claim: Claim, effects: pd.Series) -> Verdict:
    """The verdict from one number per seed; those that are not finite say nothing.

    Supported where the whole interval over seeds is on the claimed side of the threshold, refuted where all of it is on
    the other, else undecided, with the seeds at which a t-test of power 0.8 would decide (statsmodels). The mean of
    ratios is geometric, and their interval is of factors.
    """
    ratio = claim.statistic in RATIOS
    values = {str(pair): float(value) for pair, value in effects.sort_index().items() if np.isfinite(value)}
    if not values:
        return Verdict(claim, "not run", values)
    scale = _log if ratio else float
    back = math.exp if ratio else float
    numbers = np.array([scale(value) for value in values.values()])
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return Verdict(claim, "undecided", values, back(mean))
    low = high = mean
    if np.ptp(numbers) > 1e-9 * abs(mean):
        interval = stats.ttest_1samp(numbers, 0.0).confidence_interval(LEVEL)
        low, high = float(interval.low), float(interval.high)
    told = (back(mean), back(low), back(high))
    bounds = {"above": (claim.above, np.inf), "below": (-np.inf, claim.below)}
    within = (-claim.within, claim.within) if claim.within is not None else None
    lower, upper = within or bounds["above" if claim.above is not None else "below"]
    assert lower is not None and upper is not None  # noqa: PT018
    lower, upper = (scale(edge) if np.isfinite(edge) else edge for edge in (lower, upper))
    if lower < low and high < upper:
        return Verdict(claim, "supported", values, *told)
    if high < lower or low > upper:
        return Verdict(claim, "refuted", values, *told)
    distance = min(abs(mean - edge) for edge in (lower, upper) if np.isfinite(edge))
    return Verdict(claim, "undecided", values, *told, _seeds_needed(distance, numbers))


def _log(ratio: float) -> float:
    return math.log(max(ratio, LEAST_RATIO))


def _seeds_needed(distance: float, numbers: np.ndarray) -> int | None:
    spread = float(numbers.std(ddof=1))
    if not distance or not spread:
        return None
    effect = min(distance / spread, 5.0)  # the solver fails far out
    return max(len(numbers) + 1, int(np.ceil(TTestPower().solve_power(effect, power=POWER, alpha=1 - LEVEL))))


def judge(claims: list[Claim], table: pd.DataFrame) -> list[Verdict]:
    """Every claim's verdict from the runs of one protocol."""
    return [decide(claim, STATISTICS[claim.statistic](table, **claim.of)) for claim in claims]
