"""The paper's claims as verdicts that follow from records: a statistic per seed, its interval, a stated threshold.

Each file in conf/experiment/ states the claims that its runs decide, as data:

    claims:
      C1:
        sentence: what the paper says
        statistic: a name in statistics.STATISTICS; `of:` holds its arguments
        above: 0.0      (or below:, or within: for "at most so far from zero", of ratios "at most this factor from 1")
                        the threshold, in the statistic's unit

Every statistic gives one number per seed, so that the interval over seeds is that of a mean.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import stats
from statsmodels.stats.power import TTestPower

from degradation.report.statistics import RATIOS, STATISTICS

CONF = Path(__file__).parents[3] / "conf"
LEVEL, POWER = 0.95, 0.8
LEAST_RATIO = 1e-30  # in place of 0, which has no logarithm


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
    def bounds(self) -> tuple[float, float]:
        """The statistic's values in between support the claim."""
        if self.within is not None:
            return (1 / self.within if self.statistic in RATIOS else -self.within, self.within)
        return (-math.inf if self.above is None else self.above, math.inf if self.below is None else self.below)

    @property
    def threshold(self) -> str:
        """In words, with the unit."""
        if self.within is not None:
            by_factor = f"within a factor of {self.within:g} of 1 {self.unit}"
            return by_factor if self.statistic in RATIOS else f"from -{self.within:g} to {self.within:g} {self.unit}"
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
    """The names of the study files, first the one whose runs others build on; a ClaimError where there are none."""
    names = sorted(path.stem for path in (conf / "experiment").glob("*.yaml"))
    if not names:
        raise ClaimError(f"{conf / 'experiment'} holds no study")
    return sorted(names, key=lambda name: name != "degradation_cifar")


def load_claims(conf: Path = CONF) -> list[Claim]:
    """The claims of every study file, in the order of their numbers.

    A ClaimError where a claim lacks a part, has an unknown one, or states no single threshold.
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
    return sorted(found, key=lambda claim: int(m[1]) if (m := re.match(r"C(\d+)", claim.id)) else len(found) + 100)


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
    scale, back = (lambda value: math.log(max(value, LEAST_RATIO)), math.exp) if ratio else (float, float)
    numbers = np.array([scale(value) for value in values.values()])
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return Verdict(claim, "undecided", values, back(mean))
    low = high = mean
    if np.ptp(numbers) > 1e-9 * abs(mean):
        interval = stats.ttest_1samp(numbers, 0.0).confidence_interval(LEVEL)
        low, high = float(interval.low), float(interval.high)
    elif len(numbers) < 3:  # two equal numbers may be coarse ones, such as iterations between log rows
        return Verdict(claim, "undecided", values, back(mean), seeds_needed=3)
    told = (back(mean), back(low), back(high))
    lower, upper = (scale(edge) if math.isfinite(edge) else edge for edge in claim.bounds)
    if lower < low and high < upper:
        return Verdict(claim, "supported", values, *told)
    if high < lower or low > upper:
        return Verdict(claim, "refuted", values, *told)
    distance = min(abs(mean - edge) for edge in (lower, upper) if math.isfinite(edge))
    return Verdict(claim, "undecided", values, *told, _seeds_needed(distance, numbers))


def _seeds_needed(distance: float, numbers: np.ndarray) -> int | None:
    spread = float(numbers.std(ddof=1))
    if not distance or not spread:
        return None
    effect = min(distance / spread, 5.0)  # the solver fails far out
    return max(len(numbers) + 1, int(np.ceil(TTestPower().solve_power(effect, power=POWER, alpha=1 - LEVEL))))


def judge(claims: list[Claim], table: pd.DataFrame) -> list[Verdict]:
    """Every claim's verdict from the runs of one protocol."""
    return [decide(claim, STATISTICS[claim.statistic](table, **claim.of)) for claim in claims]
