"""Forest plots: a line for each thing, its mean and interval on one axis; the claims, and the deviation ledger."""

import math
import re
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from degradation.report import draw
from degradation.report.draw import describe, write_caption
from degradation.report.statistics import RATIOS
from degradation.report.table import select
from degradation.report.verdicts import LEVEL, Verdict, judge, load_claims

# What the paper leaves open (docs/choices.md), and training without augmentation, as a yardstick.
DEVIATIONS = {
    *("protocol.decay_batchnorm", "protocol.batchnorm", "protocol.batchnorm_groups"),
    *("network.pad_side", "network.fan_mode"),
    *("data.last_batch", "data.normalization", "data.augmentation", "data.scale", "data.padding"),
    *("data.validation_images", "protocol.warmup.window"),
    *("network.bn_eps", "network.bn_momentum", "network.head", "protocol.momentum_rate"),
}
# Where the paper makes the claim of a number; what has none is beyond it.
SECTIONS = {
    "Degradation (sections 1 and 4.2)": (1, 11, 12),
    "The constructed solution (section 1)": (4,),
    "Gradients do not vanish (section 4.1)": (5,),
    "Residual networks (sections 4.1 and 4.2)": (2, 3, 9, 10, 13),
    "Shortcut options (Table 3)": (8,),
    "Layer responses (Fig. 7)": (6, 7),
    "ImageNet (section 4.1)": (14,),
    "Beyond the paper": (),
}
# Told apart without colour, too; no arm's colours.
LOOKS: dict[str, dict[str, Any]] = {
    "supported": {"marker": "o", "color": "#2f6b4f"},
    "refuted": {"marker": "X", "color": "0.0"},
    "undecided": {"marker": "D", "color": "0.42", "markerfacecolor": "white"},
    "not testable": {"marker": "s", "color": "0.6", "markerfacecolor": "white"},
    "one seed, which decides nothing (its side)": {"marker": ">", "color": "0.42", "markerfacecolor": "white"},
}
FAR = 10.0  # half widths: what lies farther stands at the edge


def section_of(claim: str) -> str:
    """The section of the paper whose claim it is, by its number: C4 (kept) is claim 4."""
    number = re.match(r"C(\d+)", claim)
    found = [name for name, numbers in SECTIONS.items() if number and int(number[1]) in numbers]
    return found[0] if found else "Beyond the paper"


def by_section(verdicts: list[Verdict]) -> dict[str, list[Verdict]]:
    """The verdicts of each section, in the order of SECTIONS."""
    found = {name: [v for v in verdicts if section_of(v.claim.id) == name] for name in SECTIONS}
    return {name: part for name, part in found.items() if part}


def standardise(verdict: Verdict) -> np.ndarray:
    """How far inside the claimed side the worse end of the interval, the mean and the better end lie.

    In widths of the interval on the side of the threshold. Negative on the other side; of ratios, on their logarithms;
    between two bounds, to the nearer. Where the mean is above 1 the whole interval is on the claimed side, below -1 on
    the other. Without an interval (one seed) infinite.
    """
    scale: Callable[[float], float] = math.log if verdict.claim.statistic in RATIOS else float
    sides = zip(verdict.claim.bounds, (1, -1), strict=True)
    edges = [(scale(edge), side) for edge, side in sides if math.isfinite(edge)]

    def inside(value: float) -> float:
        return min(side * (value - edge) for edge, side in edges)

    if math.isinf(verdict.low):
        return np.array([-math.inf, 0.0, math.inf])
    alone = math.isnan(verdict.low)
    low, mean, high = (scale(verdict.mean if alone else value) for value in (verdict.low, verdict.mean, verdict.high))
    near = min((edge for edge, _ in edges), key=lambda edge: abs(mean - edge))
    middle = float(np.clip(np.mean([edge for edge, _ in edges]), low, high))  # between two bounds the farthest inside
    ends = [inside(low), inside(high), inside(middle)]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.array([min(ends), inside(mean), max(ends)]) / abs((low if mean > near else high) - mean)
    return np.nan_to_num(found, nan=0.0, posinf=math.inf, neginf=-math.inf)


def draw_verdicts(table: pd.DataFrame) -> Figure | None:
    """Every claim: how far its mean lies from the threshold

    Each row is a claim: its marker is the mean over seeds, its bar the 95 % interval, and the line at 0 the threshold.
    The unit is the distance from the mean to the end of the interval that faces the threshold. A bar to the right of
    the line lies on the claimed side, a bar to the left of it on the other; what is farther than ten units stands at
    the edge. The shape and colour of the marker give the verdict. It may be undecided or not testable where the bar is
    off the line, too, because a verdict takes into account the correction for many claims, and what a protocol can
    show. Beside each row stand the mean, the interval and n.
    """
    judged = judge(load_claims(), table)
    if all(len(verdict.effects) < 2 for verdict in judged):
        return None
    verdicts = by_section([verdict for verdict in judged if verdict.effects])
    lines = sum(len(part) + 1 for part in verdicts.values())
    figure, (ax,) = draw.new_figure(11, 1.4 + 0.33 * lines, 1)
    place, shown = 0, set[str]()
    text: dict[str, Any] = {"va": "center", "transform": ax.get_yaxis_transform(), "fontsize": 8}
    for section, part in verdicts.items():
        ax.text(-0.02, place, section, ha="right", weight="bold", **text)
        for verdict in part:
            place += 1
            (worst, distance, best), n = standardise(verdict), len(verdict.effects)
            look = verdict.verdict if n > 1 or verdict.verdict == "not testable" else list(LOOKS)[-1]
            shown.add(look)
            style = {"markersize": 7, **LOOKS[look]}
            at = float(np.clip(distance, -FAR, FAR))
            if n == 1:  # its side alone
                at, style["marker"] = 0.0, ">" if distance > 0 else "<" if distance < 0 else "o"
            elif not math.isnan(verdict.low):
                ax.plot(np.clip([worst, best], -FAR, FAR), [place] * 2, color=style["color"], linewidth=2, alpha=0.5)
            ax.plot(at, place, linestyle="none", **style)
            told = textwrap.fill(f"{verdict.claim.id}: {verdict.claim.sentence}", 70)
            ax.text(-0.02, place, told, ha="right", linespacing=0.95, **{**text, "fontsize": 7})
            ax.text(1.02, place, f"{value_of(verdict)}, n = {n}", **{**text, "fontsize": 7})
        place += 1
    ax.axvline(0, color="0.3", linewidth=1, zorder=0)
    ax.set(ylim=(place - 0.2, -0.8), yticks=[], xlim=(-FAR - 0.7, FAR + 0.7))
    ax.set_xticks([-10, -5, 0, 5, 10], ["≤ -10", "-5", "threshold", "5", "≥ 10"])
    ax.set_xlabel(
        "← the other side     the claimed side →\n"
        "(mean minus threshold) / (mean minus the near end of its 95 % interval, the bar); the marker is the verdict's"
    )
    ax.spines["left"].set_visible(False)
    handles = [Line2D([], [], linestyle="none", label=name, **look) for name, look in LOOKS.items() if name in shown]
    draw.one_legend(figure, handles)
    own = select(table, {})  # what else is in the table no claim may be about, such as an earlier warm-up
    return write_caption(figure, describe(own if len(own) else table, n="n beside each claim"))


def value_of(verdict: Verdict) -> str:
    """Mean, 95 % interval and unit."""
    interval = "" if math.isnan(verdict.low) else f" [{verdict.low:.3g}, {verdict.high:.3g}]"
    interval = " [unbounded]" if math.isinf(verdict.low) else interval
    mean = "no share" if math.isnan(verdict.mean) else f"{verdict.mean:.3g}{interval}"
    return f"{mean} {verdict.claim.unit}"


def deviations(table: pd.DataFrame) -> pd.DataFrame:
    """The change of the final errors (points) when one open choice is made the other way, a row for each run and kind.

    At equal seed and precision: `change`; `noise`, the half width of a 95 % prediction interval of the difference of
    two runs that differ in their seeds alone (missing where there are fewer than two).
    """
    flips = table[[len(varied) == 1 and set(varied) <= DEVIATIONS for varied in table["varied"]]]
    twins = draw.melt_errors(select(table, {}))
    values = twins.groupby(["label", "kind"])["value"].agg(["std", "count"])
    noise = (stats.t.ppf((1 + LEVEL) / 2, values["count"] - 1) * math.sqrt(2) * values["std"]).rename("noise")
    usual = twins.rename(columns={"value": "usual"})[["label", "kind", "pair", "usual"]]
    pairs = draw.melt_errors(flips).merge(usual, on=["label", "kind", "pair"]).join(noise, on=["label", "kind"])
    return pairs.assign(change=pairs["value"] - pairs["usual"])


def draw_deviations(table: pd.DataFrame) -> Figure | None:
    """The deviation ledger: what the choices that the paper leaves open change

    Change of the final error when one choice is made the other way, at equal seed. Every run is a point; where there
    are several, their mean is drawn with its 95 % interval. The grey bar is seed noise: 95 % of differences between two
    runs that differ in nothing but the seed lie in it, as estimated from the spread over the seeds that there are (few
    seeds make wide bars). Training without augmentation, which the paper does not leave open, is a yardstick. The side
    on which shortcuts pad changes nothing in plain networks; the BN statistics that are used at test change nothing in
    training.
    """
    rows = deviations(table)
    if rows.empty:
        return None
    rows["last"] = rows["variation"].str.startswith("data.augmentation")
    order = ["last", "variation", "depth", "network"]
    rows["place"] = rows.groupby(order).ngroup()
    lines = rows.drop_duplicates(order).sort_values("place")
    figure, axes = draw.new_figure(10, 1.2 + 0.24 * len(lines), 2, sharey=True)
    for ax, (kind, part) in zip(axes, rows.groupby("kind", sort=False), strict=True):
        for place, found in part.groupby("place"):
            noise, changes = found["noise"].iloc[0], found["change"]
            look = draw.style_of(found["network"].iloc[0], found["depth"].iloc[0])
            ax.barh(place, 2 * noise, 0.7, -noise, color="0.88", zorder=0)
            if len(changes) > 1:
                half = stats.t.ppf((1 + LEVEL) / 2, len(changes) - 1) * changes.sem()
                ax.errorbar(changes.mean(), place, xerr=half, color=look["color"], capsize=3)
            look |= {"linestyle": "none", "markerfacecolor": look["color"] if kind == "training" else "white"}
            ax.plot(changes, [place] * len(changes), **look)
        ax.axvline(0, color="0.3", linewidth=1, zorder=0)
        reach = 1.05 * max(map(abs, (*ax.dataLim.intervalx, 0.1)))
        ax.set_xlim(-reach, reach)
        ax.set(title=f"{kind} error", xlabel="change of the final error (points)", ylim=(len(lines) - 0.5, -0.5))
        ax.grid(axis="y", visible=False)
        firsts = lines.drop_duplicates("variation")
        ax.set_yticks(firsts["place"], firsts["variation"])
        for first in firsts["place"][1:]:
            ax.axhline(first - 0.5, color="0.85", linewidth=0.8)
    arms = lines.drop_duplicates("label").sort_values(["depth", "network"])
    arms = [
        Line2D([], [], linestyle="none", label=arm.label, **draw.style_of(arm.network, arm.depth))
        for arm in arms.itertuples()
    ]
    known = rows["noise"].notna().any()
    noise = [Line2D([], [], color="0.85", linewidth=8, label="seed noise")] if known else []
    draw.one_legend(figure, [*arms, *noise])
    return write_caption(figure, describe(rows, "" if known else "what seeds alone change is not known"))
