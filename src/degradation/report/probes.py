"""The figures of experiments/probe.py: one network, one figure per probe, from its tidy table. No torch."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from degradation.report.draw import new_figure, write_caption

# Dark and light, so that they stay apart in greyscale; line and marker differ, too.
DARK, LIGHT = "#111111", "#e8a33d"
KINDS = {"delete": (DARK, "-", "o", "deleted"), "swap": (LIGHT, "--", "s", "pairs swapped")}


def _stages(ax: Axes, stages: pd.Series) -> None:
    # Thin lines where a stage begins; places are counted from 1.
    numbers = stages.tolist()
    for place in range(1, len(numbers)):
        if numbers[place] != numbers[place - 1] and numbers[place - 1]:
            ax.axvline(place + 0.5, color="0.75", linewidth=0.8)
    for stage in sorted(set(numbers) - {0}):
        places = [place for place, number in enumerate(numbers, 1) if number == stage]
        middle = (places[0] + places[-1]) / 2
        ax.annotate(
            f"stage {stage}",
            (middle, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color="0.35",
        )


def _by_layer(ax: Axes, rows: pd.DataFrame, columns: dict[str, tuple[str, str, str]], ylabel: str) -> None:
    for column, (label, colour, linestyle) in columns.items():
        ax.plot(rows["layer"], rows[column], color=colour, linestyle=linestyle, marker=".", label=label)
    _stages(ax, rows["stage"])
    ax.set_xlabel("layer index (1 is the stem)")
    ax.set_ylabel(ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_responses(rows: pd.DataFrame, caption: str) -> Figure:
    """Fig. 7 of one network: std of the responses in order of depth, and BN's gamma beside it where there is one."""
    figure, (ax,) = new_figure(6.5, 3.6, 1)
    columns = {"std": ("std", DARK, "-"), "gamma_rms": ("BN gamma, root mean square", LIGHT, "--")}
    _by_layer(ax, rows, {key: columns[key] for key in columns if rows[key].notna().any()}, "std of responses")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8)
    write_caption(figure, caption)
    return figure


def draw_gradients(rows: pd.DataFrame, caption: str) -> Figure:
    """Section 4.1 of one network: norms of the backward signal by layer, at the responses and at the weights."""
    figure, axes = new_figure(9.5, 3.6, 2)
    for ax, column, of in zip(axes, ("grad_response", "grad_weight"), ("responses", "weights"), strict=True):
        _by_layer(ax, rows, {column: (column, DARK, "-")}, f"gradient norm at the {of}")
        if (rows[column] > 0).all():
            ax.set_yscale("log")  # whole decades: a change by half must not look like a collapse
            ax.set_ylim(
                10 ** math.floor(math.log10(rows[column].min())), 10 ** math.ceil(math.log10(rows[column].max()))
            )
    write_caption(figure, caption)
    return figure


def draw_lesions(rows: pd.DataFrame, caption: str) -> Figure:
    """Veit et al., Fig. 3 and 5 of one network: error with each block deleted (left), with several (right).

    Right, lines are means over draws and bands their range; both panels show the intact network dotted.
    """
    figure, (each, several) = new_figure(10.5, 3.8, 2, sharey=True)
    one = rows[rows["kind"] == "delete_one"].reset_index(drop=True)
    each.plot(one.index + 1, one["error"], color=DARK, marker="o", linestyle="none", label="one block deleted")
    _stages(each, one["blocks"].str.extract(r"stage(\d+)")[0].astype(int))
    each.set_xlabel("which block (of those that keep the shape)")
    each.set_ylabel("error (%)")
    each.set_xlim(0.4, len(one) + 0.6)
    draws = rows["draw"].max() + 1
    intact = rows.loc[rows["count"] == 0, "error"].iloc[0]
    for kind, (colour, linestyle, marker, label) in KINDS.items():
        by_count = rows[rows["kind"] == kind].groupby("count")["error"].agg(["mean", "min", "max"])
        if len(by_count) < 2:  # the intact network alone
            continue
        (line,) = several.plot(
            by_count.index, by_count["mean"], color=colour, linestyle=linestyle, label=f"{label}, {draws} draws"
        )
        line.set(marker=marker, markersize=4)
        several.fill_between(by_count.index, by_count["min"], by_count["max"], color=colour, alpha=0.2, linewidth=0)
    several.set_xlabel("blocks deleted, or pairs of blocks swapped")
    for ax in (each, several):
        ax.axhline(intact, color="0.35", linestyle=":", label="intact")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(fontsize=8)
    each.set_ylim(0, 100)  # so that figures of two networks compare
    write_caption(figure, caption)
    return figure
