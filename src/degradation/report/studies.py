"""One function per study beyond the paper's own figures; tables in, matplotlib figures out. No torch."""

import math
import textwrap
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from degradation.record import load_gradients, load_metrics, load_responses
from degradation.report.draw import NETWORK_STYLES, PROTOCOL_NOTES, colour_of, new_figure, write_caption
from degradation.report.statistics import (
    RATIOS,
    Filter,
    Verdict,
    first_below,
    growth_per_layer,
    load_probe,
    probed_images,
    select,
)
from degradation.report.table import ARMS

VERDICT_STYLES = {"supported": ("#1f5f99", "o"), "refuted": ("#b5243c", "X"), "undecided": ("0.45", "D")}
DASHES: dict[str, Any] = {"plain": (0, (3, 1.5)), "residual": "-"}


def caption(figure: Figure, table: pd.DataFrame, what: str = "") -> None:
    """The line on every figure: protocol, data, n."""
    run = table.iloc[0]
    counts = table.groupby(["network", "depth", table["variant"].fillna("")])["seed"].nunique()
    seeds = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    note = PROTOCOL_NOTES.get(run["protocol.name"], "")
    parts = [
        f"protocol {run['protocol.name']} on {run['data.name']}",
        f"n = {seeds} seed{'s' if counts.max() > 1 else ''} each",
        what,
    ]
    write_caption(figure, ", ".join(part for part in parts if part) + (f" ({note})" if note else ""))


def _errors_by(ax: Axes, rows: pd.DataFrame, setting: str, places: dict[Any, float], column: str, label: str) -> None:
    # Every seed a point, their mean a line.
    network = rows["network"].iloc[0]
    colour, marker = NETWORK_STYLES[network]
    filled = colour if column == "train_error" else "white"
    x = rows[setting].map(places)
    ax.scatter(x, rows[column], s=26, marker=marker, facecolor=filled, edgecolor=colour, zorder=3)
    means = rows.groupby(x)[column].mean()
    ax.plot(
        means.index, means, color=colour, linestyle="--" if column == "train_error" else "-", linewidth=1, label=label
    )


def draw_by_setting(
    table: pd.DataFrame,
    where: Filter,
    setting: str,
    label: str,
    title: str,
    references: dict[str, Filter] | None = None,
    names: dict[Any, str] | None = None,
) -> Figure:
    """Final training and test error against one setting, the protocol's others; references as horizontal lines.

    Values that have `names` are shown by them, evenly spaced.
    """
    rows = select(table, where, (setting,))
    figure, (ax,) = new_figure(6.4, 3.8, 1)
    values = sorted(rows[setting].unique())
    numeric = not names and all(isinstance(value, int | float | np.number) for value in values)
    places = {value: float(value) if numeric else float(n) for n, value in enumerate(values)}
    for network, part in rows.groupby("network"):
        for column, what in (("train_error", "training"), ("test_error", "test")):
            _errors_by(ax, part, setting, places, column, f"{network}, {what}")
    for style, (name, reference) in zip((":", "-."), (references or {}).items(), strict=False):
        level = select(table, reference)["train_error"].mean()
        if math.isnan(level):
            continue
        ax.axhline(level, color="0.2", linestyle=style, linewidth=1.2, label=f"{name}, training")
    labels = [f"{value:g}" if numeric else (names or {}).get(value, str(value)) for value in values]
    ax.set_xticks(list(places.values()), labels)
    if not numeric:
        ax.set_xlim(-0.5, len(values) - 0.5)
    ax.set_xlabel(label)
    ax.set_ylabel("final error (%)")
    ax.margins(y=0.1)
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8, loc="lower left")
    ax.set_title(title)
    caption(figure, rows)
    return figure


def draw_curves_by_setting(table: pd.DataFrame, depth: int, setting: str, names: dict[Any, str]) -> Figure:
    """Running training error along training at one depth, a panel per arm, a line per seed and value of a setting."""
    figure, axes = new_figure(10, 3.8, 2, sharey=True)
    rows = select(table, {"depth": depth}, (setting,))
    styles = zip(names, ("#111111", "#e8a33d", "#3b82c4"), ("-", (0, (5, 1.5)), ":"), strict=False)
    for value, colour, dashes in styles:
        for ax, network in zip(axes, ARMS, strict=True):
            runs = rows[(rows["network"] == network) & (rows[setting] == value)]
            for number, run in enumerate(runs.to_dict("records")):
                curve = load_metrics(run["folder"])
                ended = " (diverged)" if run["outcome"] != "finished" else ""
                label = None if number else f"{names[value]}{ended}, test error {runs['test_error'].mean():.1f} %"
                x = curve["iteration"] / 1000
                ax.plot(x, curve["train_error"], color=colour, linestyle=dashes, linewidth=1.2, label=label)
    for ax, network in zip(axes, ARMS, strict=True):
        ax.set_title(f"{network}-{depth}")
        ax.set_xlabel("iterations (thousands)")
        ax.set_xlim(left=0)
        if (rows["network"] == network).any():
            ax.legend(fontsize=8, loc="lower left")
        else:
            _say_not_run(ax)
    axes[0].set_ylabel("training error, running (%)")
    axes[0].set_ylim(0, 100)
    caption(figure, rows, "lines: seeds")
    return figure


def draw_constructed(table: pd.DataFrame, shallow: int, deep: int) -> Figure:
    """Training error in eval mode and test error along training: from scratch, and from the constructed solution."""
    networks = [n for n in ARMS if len(select(table, {"network": n, "depth": deep, "network.parent_depth": shallow}))]
    figure, axes = new_figure(1.5 + 4.2 * len(networks), 4.0, len(networks), sharey=True)
    drawn = []
    for ax, network in zip(axes, networks, strict=True):
        kinds: dict[str, tuple[Filter, str, Any]] = {
            f"{network}-{deep} from scratch": ({"depth": deep}, "#b5243c", "-"),
            f"{network}-{deep} built from {network}-{shallow}": (
                {"depth": deep, "network.parent_depth": shallow},
                "#1f5f99",
                (0, (5, 1.5)),
            ),
            f"{network}-{shallow}, the parent": ({"depth": shallow}, "#e8a33d", "-"),
        }
        for name, (where, colour, dashes) in kinds.items():
            rows = select(table, {"network": network, **where})
            drawn.append(rows)
            for number, run in enumerate(rows.to_dict("records")):
                curve = load_metrics(run["folder"])[["iteration", "test_error"]].dropna()
                start = run.get("initial.test_error")
                if start is not None and not math.isnan(start):
                    first = pd.DataFrame({"iteration": [0], "test_error": [start]})
                    curve = pd.concat([first, curve])
                label = name if number == 0 else None
                ax.plot(
                    curve["iteration"] / 1000, curve["test_error"], color=colour, linestyle=dashes, lw=1.3, label=label
                )
                end = curve["iteration"].max() / 1000
                ax.plot([end], [run["train_error_eval"]], marker="_", markersize=14, markeredgewidth=2, color=colour)
        ax.set_xlabel("iterations (thousands)")
        ax.set_xlim(left=0)
        ax.set_title(f"{network} networks")
        ax.legend(fontsize=8)
    axes[0].set_ylabel("error (%)")
    axes[0].set_ylim(0, 100)
    caption(figure, pd.concat(drawn), "lines: test error; bars at the end: training error in eval mode")
    return figure


def draw_signals(table: pd.DataFrame) -> Figure:
    """At initialisation: std of responses (top) and gradient norms (bottom) by layer, with and without BN."""
    figure, panels = new_figure(11, 6.4, 2, sharey="row", rows=2)
    axes = np.array(panels).reshape(2, 2)
    rows = select(table, {"study": "gradients"})
    depths = sorted(rows["depth"].unique())
    for column, norm in enumerate(("batch", "none")):
        for (depth, network), part in rows[rows["network.norm"] == norm].groupby(["depth", "network"]):
            signals = pd.concat([load_gradients(folder) for folder in part["folder"]])
            signals = (
                signals[signals["iteration"] == 0].groupby(["layer", "stage"]).mean(numeric_only=True).reset_index()
            )
            factor = growth_per_layer(signals)
            label = f"{network}-{depth}: x{factor:.2f}"
            style: dict[str, Any] = {"color": colour_of(depth, depths), "linestyle": DASHES[network], "linewidth": 1.3}
            axes[0, column].plot(signals["layer"], signals["std"], **style)
            axes[1, column].plot(signals["layer"], signals["grad_response"], label=label, **style)
        axes[0, column].set_title("with batch normalisation" if norm == "batch" else "without")
        axes[1, column].set_xlabel("layer index")
        if (rows["network.norm"] == norm).any():
            axes[1, column].legend(fontsize=7, ncols=2, title="gradient growth per layer backward", title_fontsize=7)
    for ax, text in zip(axes[:, 0], ("std of responses", "gradient norm of responses"), strict=True):
        ax.set_ylabel(text)
        ax.set_yscale("log")
    caption(figure, rows, "at initialisation, one batch of 128")
    return figure


def draw_signals_in_training(table: pd.DataFrame, column: str, ylabel: str) -> Figure:
    """A column of gradients.csv by layer, at four moments of training: a row per depth, a column per arm and norm."""
    kinds = signals_in_training(table)
    depths = sorted({depth for depth, _, _ in kinds})
    columns = [(network, norm) for norm in ("batch", "none") for network in ARMS]
    columns = [arm for arm in columns if any(key[1:] == arm for key in kinds)]
    figure, axes = new_figure(1.5 + 3.4 * len(columns), 1 + 2.6 * len(depths), len(columns), "all", len(depths))
    for ax, (depth, (network, norm)) in zip(axes, product(depths, columns), strict=True):
        ax.set_title(f"{network}-{depth}" + (", no BN" if norm == "none" else ""), fontsize=10)
        if (depth, network, norm) not in kinds:
            _say_not_run(ax)
            continue
        rows = kinds[depth, network, norm]
        if (rows["outcome"] == "diverged").any():
            ax.set_title(f"{ax.get_title()}, diverged", fontsize=10)
        signals = pd.concat([load_gradients(folder) for folder in rows["folder"]])
        moments = sorted(signals["iteration"].unique())
        chosen = [moments[round(fraction * (len(moments) - 1))] for fraction in (0, 0.1, 0.5, 1)]
        for moment, shade in dict(zip(chosen, (0.75, 0.55, 0.3, 0.0), strict=True)).items():
            line = signals[signals["iteration"] == moment].groupby("layer")[column].mean()
            label = f"iteration {moment:,}" + (
                " (diverged)" if moment and (rows["outcome"] == "diverged").any() else ""
            )
            ax.plot(line.index, line, color=str(shade), linewidth=1.4, label=label)
        ax.set_yscale("log")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(fontsize=7)
    for ax in axes[:: len(columns)]:
        ax.set_ylabel(ylabel)
    for ax in axes[-len(columns) :]:
        ax.set_xlabel("layer index")
    caption(figure, pd.concat(kinds.values()), "one fixed batch, training mode, mean over seeds")
    return figure


def signals_in_training(table: pd.DataFrame) -> dict[tuple[int, str, str], pd.DataFrame]:
    """(depth, network, norm) -> the runs of the protocol's settings that recorded gradients as they trained."""
    rows = select(table, {}, ("network.norm",))
    rows = rows[[(folder / "gradients.csv").exists() for folder in rows["folder"]]]
    return {(int(key[0]), key[1], key[2]): part for key, part in rows.groupby(["depth", "network", "network.norm"])}


def draw_learning_rates(table: pd.DataFrame) -> Figure:
    """Final training error by learning rate and depth, a heat map per arm; the best rate of each depth framed."""
    rows = select(table, {}, ("protocol.lr",))
    rows = rows[rows["depth"].isin(rows.loc[rows["varied"].map(bool), "depth"])]
    rates, depths = sorted(rows["protocol.lr"].unique()), sorted(rows["depth"].unique())
    figure, axes = new_figure(10, 1.8 + 0.7 * len(depths), 2)
    for ax, network in zip(axes, ARMS, strict=True):
        part = rows[rows["network"] == network]
        grid = part.pivot_table(index="depth", columns="protocol.lr", values="train_error").reindex(
            depths, columns=rates
        )
        image = ax.imshow(grid, cmap="cividis", vmin=0, vmax=90, aspect="auto")
        counts = part.groupby(["depth", "protocol.lr"]).size()
        for i, depth in enumerate(depths):
            for j, rate in enumerate(rates):
                value = grid.iloc[i, j]
                if math.isnan(value):
                    ax.text(j, i, "not run", ha="center", va="center", fontsize=8, color="0.5")
                    continue
                text = f"{value:.1f}\nn = {counts[(depth, rate)]}"
                ax.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if value < 45 else "black")
            if grid.iloc[i].notna().sum() > 1:
                best = int(np.nanargmin(grid.iloc[i]))
                ax.add_patch(
                    Rectangle((best - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor="white", linewidth=2.5)
                )
        ax.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        ax.set_yticks(range(len(depths)), [str(depth) for depth in depths])
        ax.grid(False)
        ax.set_xlabel("learning rate")
        ax.set_ylabel("depth")
        ax.set_title(f"{network}: final training error (%)")
    figure.colorbar(image, ax=axes, label="%")
    caption(figure, rows, "framed: the best rate of each depth")
    return figure


def draw_convergence(table: pd.DataFrame, depths: list[int]) -> Figure:
    """Iterations until the running training error is first under a level, both arms; every seed a point (Fig. 4)."""
    levels = list(range(80, 0, -10))
    lowest = levels[0]
    figure, axes = new_figure(1.5 + 4 * len(depths), 3.8, len(depths), sharey=True)
    drawn = []
    for ax, depth in zip(axes, depths, strict=True):
        for network in ARMS:
            rows = select(table, {"network": network, "depth": depth})
            rows = rows[rows["outcome"] == "finished"]
            drawn.append(rows)
            metrics = [load_metrics(folder) for folder in rows["folder"]]
            reached = pd.DataFrame({level: [first_below(m, level) for m in metrics] for level in levels}, dtype=float)
            colour, marker = NETWORK_STYLES[network]
            for _, seed in reached.iterrows():
                ax.plot(seed.index, seed, color=colour, marker=marker, markersize=4, linestyle="none", alpha=0.5)
            lowest = min([lowest, *reached.columns[reached.notna().any()]])
            everywhere = reached.mean(skipna=False)  # a mean of those seeds alone that got there would flatter
            style = {"color": colour, "marker": marker, "markersize": 4, "linestyle": DASHES[network]}
            ax.plot(everywhere.index, everywhere, label=f"{network}-{depth}", **style)
        ax.set_xlabel("training error (%), running, falls to")
        ax.set_title(f"{depth} layers")
        ax.legend(fontsize=8, loc="lower right")
    for ax in axes:
        ax.set_xlim(85, lowest - 5)
    axes[0].set_ylabel("iterations until then")
    axes[0].set_ylim(bottom=0)
    caption(figure, pd.concat(drawn), "a level that a network never reached has no point")
    return figure


def draw_longer(table: pd.DataFrame, length: int) -> Figure:
    """Final errors of plain networks by depth, after the protocol's iterations and after `length` times as many."""
    figure, axes = new_figure(9, 3.8, 2, sharey=True)
    long = select(table, {"network": "plain", "length": length})  # the caller knows that there are some
    depths = sorted(long["depth"].unique())
    usual = select(table, {"network": "plain", "length": 1})
    usual = usual[usual["depth"].isin(depths)]
    places = {depth: float(place) for place, depth in enumerate(depths)}
    for ax, rows, times in zip(axes, (usual, long), (1, length), strict=True):
        for column, what in (("train_error", "training"), ("test_error", "test")):
            if len(rows):
                _errors_by(ax, rows, "depth", places, column, what)
        ax.set_xticks(list(places.values()), [str(depth) for depth in depths])
        ax.set_xlim(-0.5, len(depths) - 0.5)
        ax.set_xlabel("depth of the plain network")
        ax.set_title(f"{int(long['protocol.iterations'].iloc[0]) // length * times:,} iterations")
        ax.legend(fontsize=8)
    axes[0].set_ylabel("final error (%)")
    axes[0].set_ylim(bottom=0)
    caption(figure, pd.concat([usual, long]))
    return figure


def draw_response_parts(table: pd.DataFrame, depths: list[int]) -> Figure:
    """What the responses of Fig. 7 are made of: std beside BN's gamma and beta, with and without weight decay on them.

    A row per depth. Mean over seeds with its range as a band. In training mode the variance of a response is that of
    beta over channels plus the mean square of gamma.
    """
    columns = [(network, decayed) for network in ARMS for decayed in (True, False)]
    figure, axes = new_figure(13.5, 0.8 + 2.9 * len(depths), len(columns), "all", len(depths))
    parts = {"std": ("0.05", "-"), "gamma_rms": ("#e8a33d", "-"), "beta_rms": ("#3b82c4", (0, (3, 1.5)))}
    names = {"std": "std of the response", "gamma_rms": "gamma, root mean square", "beta_rms": "beta, root mean square"}
    drawn = []
    for ax, (depth, (network, decayed)) in zip(axes, product(depths, columns), strict=True):
        ax.set_title(f"{network}-{depth}" + ("" if decayed else ", no weight decay on BN"), fontsize=10)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        rows = select(table, {"network": network, "depth": depth, "protocol.decay_batchnorm": decayed})
        rows = rows[rows["outcome"] == "finished"]
        if rows.empty:
            _say_not_run(ax)
            continue
        drawn.append(rows)
        layers = pd.concat([load_responses(folder) for folder in rows["folder"]])
        for column, (colour, dashes) in parts.items():
            if column not in layers or layers[column].isna().all():
                continue
            line = layers.groupby("layer")[column].agg(["mean", "min", "max"])
            ax.plot(line.index, line["mean"], color=colour, linestyle=dashes, linewidth=1.4, label=names[column])
            ax.fill_between(line.index, line["min"], line["max"], color=colour, alpha=0.15, linewidth=0)
    for ax in axes[:: len(columns)]:
        ax.set_ylabel("test set, eval mode")
    for ax in axes[-len(columns) :]:
        ax.set_xlabel("layer index")
    axes[0].set_yscale("log")
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes), key=lambda found: len(found[0]))
    figure.legend(handles, labels, fontsize=8, ncols=3, loc="outside upper center")
    caption(figure, pd.concat(drawn))
    return figure


def _say_not_run(ax: Axes) -> None:
    ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", color="0.5")
    ax.set_xticks([])


def draw_verdicts(verdicts: list[Verdict], protocol: str) -> Figure:
    """Every claim with its interval over seeds, every seed a point, the threshold as a line; a scale for each."""
    shown = [v for v in verdicts if v.effects]
    columns = 2
    lines = math.ceil(len(shown) / columns)
    figure, axes = new_figure(12, 0.6 + 1.15 * lines, columns, rows=lines)
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    for ax, verdict in zip(axes, shown, strict=False):
        colour, marker = VERDICT_STYLES[verdict.verdict]
        claim = verdict.claim
        edges = [edge for edge in (claim.above, claim.below, claim.within) if edge is not None]
        if claim.within is not None:
            edges.append(1 / claim.within if claim.statistic in RATIOS else -claim.within)
        for edge in edges:
            ax.axvline(edge, color="0.2", linestyle=":", linewidth=1.4)
        if not math.isnan(verdict.low):
            ax.plot([verdict.low, verdict.high], [0, 0], color=colour, linewidth=3, solid_capstyle="butt", alpha=0.6)
        points = list(verdict.effects.values())
        ax.scatter(points, [0] * len(points), color="0.1", s=12, marker="|", zorder=3)
        ax.scatter([verdict.mean], [0], color=colour, marker=marker, s=55, zorder=4)
        spread = [*edges, *points, *(x for x in (verdict.low, verdict.high) if not math.isnan(x))]
        if claim.statistic in RATIOS and 0 < 10 * min(spread) < max(spread):
            ax.set_xscale("log")
            ax.set_xlim(min(spread) / 2, max(spread) * 2)
        else:
            room = 0.12 * (max(spread) - min(spread)) or 0.1
            ax.set_xlim(min(spread) - room, max(spread) + room)
        ax.set_ylim(-1, 1)
        ax.spines["left"].set_visible(False)
        ax.set_yticks([])
        ax.tick_params(labelsize=8)
        ax.set_xlabel(claim.unit, fontsize=7, labelpad=1)
        title = textwrap.shorten(f"{claim.id}: {claim.sentence}", 102, placeholder=" ...")
        ax.set_title(f"{title}\n{verdict.verdict}, n = {len(points)}", fontsize=8, loc="left", color=colour)
    note = PROTOCOL_NOTES.get(protocol, "")
    write_caption(
        figure,
        f"protocol {protocol}: mean and 95 % interval over seeds, dotted: the stated threshold"
        + (f" ({note})" if note else ""),
    )
    return figure


def draw_lesion_study(table: pd.DataFrame, depths: list[int]) -> Figure:
    """Test error against the number of blocks deleted (top) and of pairs swapped (bottom), plain beside residual.

    Means over seeds and draws, bands their range; Veit et al. 2016, Fig. 5.
    """
    figure, axes = new_figure(3 + 4 * len(depths), 6.6, len(depths), sharey=True, rows=2)
    panels = np.array(axes).reshape(2, len(depths))
    drawn = []
    for column, depth in enumerate(depths):
        for network in ARMS:
            rows = select(table, {"network": network, "depth": depth})
            rows = rows[[has_probe(folder, "lesions") for folder in rows["folder"]]]
            if rows.empty:
                continue
            drawn.append(rows)
            lesions = pd.concat([load_probe(folder, "lesions") for folder in rows["folder"]])
            colour, marker = NETWORK_STYLES[network]
            for ax, kind in zip(panels[:, column], ("delete", "swap"), strict=True):
                line = lesions[lesions["kind"] == kind].groupby("count")["error"].agg(["mean", "min", "max"])
                style = {"color": colour, "marker": marker, "markersize": 4, "linestyle": DASHES[network]}
                ax.plot(line.index, line["mean"], label=f"{network}-{depth}", **style)
                ax.fill_between(line.index, line["min"], line["max"], color=colour, alpha=0.15, linewidth=0)
        for ax, what in zip(panels[:, column], ("blocks deleted", "pairs of blocks swapped"), strict=True):
            ax.set_xlabel(what)
            ax.set_ylim(0, 100)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.legend(fontsize=8)
        panels[0, column].set_title(f"{depth} layers")
    for ax in panels[:, 0]:
        ax.set_ylabel("test error (%)")
    together = pd.concat(drawn)
    counts = sorted({probed_images(folder, "lesions") for folder in together["folder"]})
    images = " or ".join(f"{count:,}" for count in counts)
    caption(figure, together, f"{images} test images, blocks that keep the shape")
    return figure


def has_probe(run_folder: Path, probe: str) -> bool:
    """Whether experiments/probe.py measured that of a run."""
    return len(load_probe(run_folder, probe)) > 0


def has_finished(table: pd.DataFrame, depth: int) -> bool:
    """Whether both arms have a finished run of that depth."""
    finished = table[table["outcome"] == "finished"]
    return all(len(select(finished, {"network": network, "depth": depth})) > 0 for network in ARMS)
