"""The paper's claims as verdicts that follow from records: a statistic per seed, its interval, a stated threshold.

Each file in conf/experiment/ states the claims that its runs decide, as data:

    claims:
      C1:
        sentence: what the paper says
        statistic: a name in statistics.STATISTICS; `of:` holds its arguments
        above: 0.0      (or below:, or within: for "at most so far from zero", of ratios "at most this factor from 1")
                        the threshold, in the statistic's unit
        primary: true   one of the few that the study was made for; all others are corrected for being many (Holm)
        seen: {quick: [0, 1]}  seeds that were known when the claim was written: exploratory until others confirm it
        needs: [warmup]   the studies whose runs it takes besides those of its own
        testable:       what a protocol must reach before its runs say anything of the claim: a list of
          - {sentence: what must be so, statistic: ..., of: ..., above: (or below:) ...}
                        judged on the mean over seeds

Every statistic gives one number per seed, so that the interval over seeds is that of a mean; shares give two, a part
and a whole, and their interval is Fieller's.
"""

import inspect
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import stats
from scipy.optimize import brentq
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from degradation.config import IMAGES
from degradation.record import load_wrong
from degradation.report.statistics import RATIOS, STATISTICS

CONF = Path(__file__).parents[3] / "conf"
LEVEL, POWER = 0.95, 0.8
LEAST_RATIO = 1e-30  # in place of 0, which has no logarithm
LEAST_LOG = math.log(1e-30)  # of a p value
CONFIRMED = "confirmed on new seeds"


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
    primary: bool = False
    seen: dict[str, list[int]] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)
    testable: tuple["Claim", ...] = ()

    @property
    def bounds(self) -> tuple[float, float]:
        """The statistic's values in between support the claim."""
        if self.within is not None:
            return (1 / self.within if self.statistic in RATIOS else -self.within, self.within)
        return (-math.inf if self.above is None else self.above, math.inf if self.below is None else self.below)

    @property
    def family(self) -> str:
        """Of the networks that it is about."""
        return "imagenet" if self.study.endswith("_imagenet") else "cifar"

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
    """What the records say of a claim: not run, supported, refuted, undecided or not testable.

    `effects` holds the statistic of every seed (and precision), `p` the two-sided p value at the threshold,
    `seeds_needed` a range, and `notes` what else is to be known of the verdict, in words.
    """

    claim: Claim
    verdict: str
    effects: dict[str, float]
    mean: float = np.nan
    low: float = np.nan
    high: float = np.nan
    seeds_needed: tuple[int, int] | None = None
    p: float = np.nan
    notes: tuple[str, ...] = ()


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where there is libyaml


def list_studies(conf: Path = CONF) -> list[str]:
    """The names of the study files, first the one whose runs others build on; a ClaimError where there are none."""
    names = sorted(path.stem for path in (conf / "experiment").glob("*.yaml"))
    if not names:
        raise ClaimError(f"{conf / 'experiment'} holds no study")
    return sorted(names, key=lambda name: name != "degradation_cifar")


def _read_claim(parts: dict[str, Any], where: str, name: str, study: str, studies: list[str]) -> Claim:
    try:
        claim = Claim(id=name, study=study, **parts)
    except TypeError as error:
        raise ClaimError(f"{where}: {error}") from None
    if claim.statistic not in STATISTICS:
        raise ClaimError(f"{where}: {claim.statistic} is not one of {', '.join(STATISTICS)}")
    if sum(value is not None for value in (claim.above, claim.below, claim.within)) != 1:
        raise ClaimError(f"{where}: state one of above, below and within")
    if unknown := [need for need in claim.needs if need not in studies]:
        raise ClaimError(f"{where}: {unknown[0]} is not one of {', '.join(studies)}")
    return claim


def load_claims(conf: Path = CONF) -> list[Claim]:
    """The claims of every study file, in the order of their numbers.

    A ClaimError where a claim lacks a part, has an unknown one, or states no single threshold.
    """
    found, studies = [], list_studies(conf)
    for path in (conf / "experiment" / f"{name}.yaml" for name in studies):
        for name, entry in (yaml.load(path.read_text(), LOADER).get("claims") or {}).items():
            where = f"{path}, claim {name}"
            of = (where, name, path.stem, studies)
            needed = [_read_claim({"unit": "", **part}, *of) for part in entry.get("testable", ())]
            found.append(_read_claim({**entry, "testable": tuple(needed)}, *of))
    return sorted(found, key=lambda claim: int(m[1]) if (m := re.match(r"C(\d+)", claim.id)) else len(found) + 100)


def decide(claim: Claim, effects: pd.Series | pd.DataFrame, shared: np.ndarray | float = 0.0) -> Verdict:
    """The verdict from one number per seed, or a part and a whole; those that are not finite say nothing.

    Supported where the whole 95 % interval over seeds is on the claimed side of the threshold, refuted where all of it
    is on the other, else undecided, with the seeds at which a t-test of power 0.8 would decide (statsmodels): as few
    and as many as the spread's own 80 % interval allows. Student's interval, of ratios on a logarithmic scale; of
    shares Fieller's, where what they are shares of is above 0. Seeds that agree to the last digit have no spread to
    make an interval of.

    Args:
        shared: variance of the mean that more seeds do not lessen (see shared_images); of shares, covariance [2, 2].
    """
    ratio, share = claim.statistic in RATIOS, isinstance(effects, pd.DataFrame)
    rows = pd.DataFrame(effects).sort_index().replace([np.inf, -np.inf], np.nan).dropna()
    each = rows["part"] / rows["whole"].replace(0, np.nan) if isinstance(effects, pd.DataFrame) else rows.iloc[:, 0]
    values = {str(pair): float(value) for pair, value in each.items()}
    if not values:
        return Verdict(claim, "not run", values)
    scale, back = (lambda value: math.log(max(value, LEAST_RATIO)), math.exp) if ratio else (float, float)
    numbers = rows.to_numpy(dtype=float) if share else np.array([[scale(value)] for value in values.values()])
    middle = numbers.mean(0)
    mean = float(middle[0] if not share else middle[0] / middle[1] if middle[1] else math.nan)
    spread = np.atleast_2d(np.cov(numbers, rowvar=False)) if len(numbers) > 1 else np.zeros((1, 1))
    lower, upper = (scale(edge) if math.isfinite(edge) else edge for edge in claim.bounds)
    edges = [edge for edge in (lower, upper) if math.isfinite(edge)]
    if share and middle[1] <= 0:
        note = (f"what it is a share of is {middle[1]:.3g}, not above 0",)
        return Verdict(claim, "undecided", values, math.nan, -math.inf, math.inf, notes=note)
    singles = [each.to_numpy(), *(numbers @ [1.0, -edge] for edge in edges)] if share else [numbers[:, 0]]
    if len(numbers) < 2 or any(np.ptp(single) <= 1e-9 * abs(numbers.mean(0)).max() for single in singles):
        alike = ("no spread over seeds, so no interval",) if len(numbers) > 1 else ()
        return Verdict(claim, "undecided", values, back(mean), notes=alike)
    own, shared = spread / len(numbers), np.zeros_like(spread) + shared

    def margin(p: float) -> np.ndarray:  # squared: Student's of the seeds, and the normal one of the images
        return stats.t.isf(p / 2, len(numbers) - 1) ** 2 * own + stats.norm.isf(p / 2) ** 2 * shared

    def p_of(edge: float) -> float:  # two-sided, of the mean being there
        along = np.array([1.0, -edge]) if share else np.ones(1)
        distance = abs(along @ middle - (0 if share else edge))
        if not shared.any():
            return float(2 * stats.t.sf(distance / math.sqrt(along @ own @ along), len(numbers) - 1))

        def beyond(logarithm: float) -> float:
            return math.sqrt(along @ margin(math.exp(logarithm)) @ along) - distance

        return math.exp(brentq(beyond, LEAST_LOG, 0)) if beyond(LEAST_LOG) > 0 else 0.0

    reach = math.sqrt(margin(1 - LEVEL)[0, 0])
    low, high = _fieller(middle, margin(1 - LEVEL)) if share else (mean - reach, mean + reach)
    inside = lower < mean < upper
    p = max(map(p_of, edges)) if inside else p_of(lower if mean <= lower else upper)
    told = (back(mean), back(low), back(high))
    if p < 1 - LEVEL and math.isfinite(low):
        return Verdict(claim, "supported" if inside else "refuted", values, *told, p=p)
    near = min(edges, key=lambda edge: abs(mean - edge))
    single, along = (numbers @ [1.0, -near], np.array([1.0, -near])) if share else (numbers[:, 0] - near, np.ones(1))
    if single.mean() ** 2 < stats.norm.isf((1 - LEVEL) / 2) ** 2 * (along @ shared @ along):
        return Verdict(claim, "undecided", values, *told, p=p, notes=("too few test images for any number of seeds",))
    needed = [_seeds_needed(numbers_of) for numbers_of in ([single, numbers[:, 1]] if share else [single])]
    most = tuple(map(max, zip(*needed, strict=True))) if None not in needed else None
    return Verdict(claim, "undecided", values, *told, most, p)


def _fieller(middle: np.ndarray, margin: np.ndarray) -> tuple[float, float]:
    # The shares r at which the mean of part - r whole is not significantly off zero (Fieller 1954): between the roots
    # of a r^2 - 2 b r + c. Unbounded where the whole itself is not.
    c, b, _, a = (np.outer(middle, middle) - margin).ravel()
    root = b * b - a * c
    return ((b - math.sqrt(root)) / a, (b + math.sqrt(root)) / a) if a > 0 and root >= 0 else (-math.inf, math.inf)


def _seeds_needed(numbers: np.ndarray) -> tuple[int, int] | None:
    freedom, distance = len(numbers) - 1, abs(float(numbers.mean()))
    if not distance:
        return None
    spreads = numbers.std(ddof=1) * np.sqrt(freedom / stats.chi2.isf([0.1, 0.9], freedom))
    counts = []
    for spread in spreads:
        effect = min(max(distance / spread, 0.01), 5.0)  # the solver fails far out
        needed = int(np.ceil(TTestPower().solve_power(effect, power=POWER, alpha=1 - LEVEL)))
        counts.append(max(len(numbers) + 1, needed))
    return counts[0], counts[1]


def _column(claim: Claim) -> str | None:
    # The final number that a statistic is of, if it is of one.
    known = inspect.signature(STATISTICS[claim.statistic]).parameters
    return claim.of.get("column", known["column"].default if "column" in known else None)


def _named(of: Any, key: str) -> list[Any]:
    # All values of a key in a claim's filters.
    if not isinstance(of, dict):
        return []
    return [found for name, value in of.items() for found in ([value] if name == key else _named(value, key))]


def shared_images(claim: Claim, table: pd.DataFrame) -> np.ndarray | float:
    """The variance that a mean over seeds owes to the choice of the N test images, which all seeds share.

    That of the mean over images of what all seeds make of each: sum_k g_k e_k, in points squared, e_k being the error
    (percent) of a kind of run on an image and g_k the derivative of the statistic by its mean. Estimated by covariances
    of different seeds, as what a seed alone errs on is in the spread of seeds. Where a record does not hold which
    images are wrong, sum_k g_k^2 p_k (100 - p_k) / N, p_k being a kind's test error: as if kinds erred on images of
    their own, which bounds that of a difference of two that err alike. The half-width of an interval is the root of
    t^2 s^2 / n + z^2 of this, t being Student's for the n seeds and z the normal quantile. 0 where the statistic is of
    no test error.
    """
    if _column(claim) != "test_error" or table.empty:
        return 0.0
    step, statistic = 0.01, STATISTICS[claim.statistic]
    base = np.atleast_1d(statistic(table, **claim.of).mean())
    bound, kinds = np.zeros((len(base), len(base))), []
    used = table
    for key in ("network", "depth"):
        used = used[used[key].isin(_named(claim.of, key) or used[key])]
    for _, runs in used.groupby(["network", "depth", "variation"]):
        moved = table.assign(test_error=table["test_error"] + step * table.index.isin(runs.index))
        slope = (np.atleast_1d(statistic(moved, **claim.of).mean()) - base) / step
        if slope.any():
            p = runs["test_error"].mean()
            counted = runs["images.test"].max() if "images.test" in runs else np.nan  # older records do not tell
            images = counted if counted > 0 else IMAGES.get(runs["data"].iloc[0], (0, np.nan))[1]
            bound = bound + np.outer(slope, slope) * p * (100 - p) / images
            kinds.append((runs, slope, images))
    each = _combined(kinds)
    if each is None:
        return bound
    n, images = each.shape[:2]
    centred = each - each.mean(1, keepdims=True)
    total = centred.sum(0).T @ centred.sum(0)
    if n > 1:
        total = (total - np.einsum("sid,sie->de", centred, centred)) / (n * (n - 1))
    values, vectors = np.linalg.eigh(total / (images - 1) / images)
    return (vectors * values.clip(0)) @ vectors.T  # an estimate may fall below 0, a variance not


def _combined(kinds: list[tuple[pd.DataFrame, np.ndarray, float]]) -> np.ndarray | None:
    # Of every seed that all kinds were run at, image and number of the statistic, the sum of slope times error
    # (percent); None where a record does not say which of the same number of images are wrong.
    if len(sizes := {images for *_, images in kinds}) != 1 or not all("folder" in runs for runs, *_ in kinds):
        return None
    (images,) = sizes
    pairs = set.intersection(*(set(runs["pair"]) for runs, *_ in kinds))
    each = np.zeros((len(pairs), int(images) if images > 0 else 0, len(kinds[0][1])))
    for runs, slope, _ in kinds:
        folders = runs.set_index("pair")["folder"]
        for sums, pair in zip(each, sorted(pairs), strict=True):
            wrong = load_wrong(folders[pair])
            if wrong is None or (len(wrong) and wrong.max() >= len(sums)):
                return None
            sums[wrong] += 100 * slope
    return each if each.size else None


def _judge(claim: Claim, table: pd.DataFrame) -> Verdict:
    effects, shared = STATISTICS[claim.statistic](table, **claim.of), shared_images(claim, table)
    found = decide(claim, effects, shared)
    if not found.effects:
        return found
    unmet = [need for need in claim.testable if not _is_met(need, table)]
    if unmet:
        return replace(found, verdict="not testable", notes=tuple(need.sentence for need in unmet), seeds_needed=None)
    notes = [*found.notes, *effects.attrs.get("notes", ())]
    if _column(claim) == "train_error":
        beside = decide(claim, STATISTICS[claim.statistic](table, **{**claim.of, "column": "train_error_eval"}))
        sides = [claim.bounds[0] < verdict.mean < claim.bounds[1] for verdict in (found, beside)]
        if beside.verdict != found.verdict:
            notes.append(f"by eval-mode training error {beside.verdict} ({beside.mean:.3g})")
        elif beside.effects and sides[0] != sides[1]:  # one seed has no more than a side
            notes.append(
                f"by eval-mode training error on the {'claimed' if sides[1] else 'other'} side ({beside.mean:.3g})"
            )
    if seen := claim.seen.get(table["protocol"].iloc[0]):
        new = effects[[int(str(pair).split(" ")[0]) not in seen for pair in effects.index]]
        confirmed = decide(claim, new, shared).verdict == found.verdict != "undecided"
        notes.append(CONFIRMED if confirmed else "exploratory: written after these seeds were seen")
    return replace(found, notes=tuple(notes))


def _is_met(need: Claim, table: pd.DataFrame) -> bool:
    # On the mean over seeds; what was not run is not shown to be met.
    mean = STATISTICS[need.statistic](table, **need.of).mean()
    return need.bounds[0] < mean < need.bounds[1]


def judge(claims: list[Claim], table: pd.DataFrame) -> list[Verdict]:
    """The verdict of every claim about the networks that were run, at one protocol.

    All but the primary ones are corrected by Holm's method; one that is decided alone but not among so many is
    undecided, and says so.
    """
    families = set(table.get("network.family", ["cifar"]))
    verdicts = [_judge(claim, table) for claim in claims if claim.family in families]
    many = [n for n, found in enumerate(verdicts) if found.p == found.p and not found.claim.primary]
    many = [n for n in many if verdicts[n].verdict != "not testable"]
    corrected = multipletests([verdicts[n].p for n in many], method="holm")[1] if many else ()
    for n, p in zip(many, corrected, strict=True):
        found = verdicts[n]
        if found.verdict != "undecided" and p >= 1 - LEVEL:
            note = f"{found.verdict} alone, not as one of {len(many)} (Holm: p = {p:.2g})"
            rest = [told for told in found.notes if told != CONFIRMED]
            verdicts[n] = replace(found, verdict="undecided", notes=(note, *rest))
    return verdicts
