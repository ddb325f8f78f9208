"""The figures of the studies beyond the paper's own, and those of experiments/probe.py; encoded as draw.py says."""

import math
import textwrap
from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from degradation.record import load_gradients, load_metrics, load_responses
from degradation.report.draw import (
    DASHED,
    NEUTRAL,
    colour_of,
    describe,
    draw_band,
    draw_points,
    from_zero,
    left_out,
    mark_stages,
    new_figure,
    style_of,
    time_axis,
    two_depths,
    whole_numbers,
    with_n,
    write_caption,
)
from degradation.report.statistics import RATIOS, first_below, growth_per_layer
from degradation.report.table import ARMS, Filter, finished, gather, load_probe, probed_images, select
from degradation.report.verdicts import judge, load_claims

VERDICTS = {"supported": ("#2f6b4f", "o"), "refuted": ("0.0", "X"), "undecided": ("0.42", "D")}  # no arm's colours


def _grid(keys: Iterable[tuple[Any, Any]], width: float, height: float) -> tuple[Figure, dict[tuple[Any, Any], Axes]]:
    # A panel for every (row, column) that has data, in its place; sizes in inches, of a panel.
    keys = list(keys)
    rows, columns = (list(dict.fromkeys(key[place] for key in keys)) for place in (0, 1))
    size = (1.5 + width * len(columns), 1 + height * len(rows))
    figure, axes = new_figure(*size, len(columns), "all", len(rows))
    panels = dict(zip(product(rows, columns), axes, strict=True))
    for key in set(panels) - set(keys):
        panels.pop(key).remove()
    return figure, panels


def _one_legend(figure: Figure, axes: Iterable[Axes]) -> None:
    found = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), ncols=4, loc="outside upper center")


def _draw_by_setting(
    table: pd.DataFrame, setting: str, where: Filter, title: str, names: dict[Any, str]
) -> Figure | None:
    # Final errors against one setting, the protocol's others, a panel per depth at which it was varied.
    rows = select(table, where, (setting,))
    rows = rows[rows.groupby("depth")[setting].transform("nunique") > 1]
    depths = sorted(rows["depth"].unique())
    if not depths:
        return None
    figure, axes = new_figure(2.4 + 4 * len(depths), 3.8, len(depths), sharey=True)
    for ax, depth in zip(axes, depths, strict=True):
        part = rows[rows["depth"] == depth]
        shown = {value: name for value, name in names.items() if (part[setting] == value).any()}
        for network, runs in part.groupby("network"):
            for column, what in (("train_error", "training"), ("test_error", "test")):
                draw_points(ax, runs, setting, column, f"{network}-{depth}, {what}", shown)
        plain = select(table, {"network": "plain", "depth": depth})["train_error"]
        if "network" in where and len(plain):
            ax.axhline(plain.mean(), color=colour_of("plain"), linestyle=DASHED, label=f"plain-{depth}, training")
            ax.axhspan(plain.min(), plain.max(), color=colour_of("plain"), alpha=0.15, linewidth=0)
        ax.set_xlabel("" if names else setting.split(".")[-1])
        ax.set_title(f"{title}, {depth} layers")
        ax.legend()
    from_zero(axes, "final error (%)")
    write_caption(figure, describe(rows))
    return figure


def draw_shortcut_options(table: pd.DataFrame) -> Figure | None:
    """Shortcut options (Table 3): final error with A, B and C

    Differences small against the distance to the plain network (its training error is the horizontal line) mean that
    projections are not essential. Every run a point, filled and dashed training error, open and solid test error.
    """
    names = {"A": "A (zeros)", "B": "B (some projections)", "C": "C (all)"}
    return _draw_by_setting(table, "network.shortcut", {"network": "residual"}, "shortcut options", names)


def draw_without_bn(table: pd.DataFrame) -> Figure | None:
    """Final error with and without batch normalisation (section 4.1)

    Section 4.1 gives BN the credit for healthy signals. Points are runs; filled and dashed training error, open and
    solid test error.
    """
    return _draw_by_setting(table, "network.norm", {}, "batch normalisation", {"batch": "with", "none": "without"})


def draw_shortcut_strength(table: pd.DataFrame) -> Figure | None:
    """From plain to residual: final error against alpha in alpha x + F(x)

    Beyond the paper: how much shortcut it takes for degradation to vanish. The horizontal line is the plain network's
    training error.
    """
    return _draw_by_setting(table, "network.alpha", {"network": "residual"}, "alpha x + F(x)", {})


def draw_warmup(table: pd.DataFrame) -> Figure | None:
    """With and without warm-up: running training error (section 4.2)

    The paper warms residual-110 up at 0.01, and finds that 0.1 from the start only begins later. A line per run.
    """
    rows = select(table, {}, ("protocol.warmup.min_depth",))
    rows = rows.assign(warm=rows["depth"] >= rows["protocol.warmup.min_depth"])
    rows = rows[rows.groupby("depth")["warm"].transform("nunique") > 1]
    if rows.empty:
        return None
    arms = sorted({*rows[["network", "depth"]].itertuples(index=False, name=None)}, key=lambda arm: arm[::-1])
    figure, axes = new_figure(1 + 4.5 * len(arms), 3.8, len(arms), sharey=True)
    for ax, (network, depth) in zip(axes, arms, strict=True):
        part = rows[(rows["network"] == network) & (rows["depth"] == depth)]
        for warm, style in ((True, NEUTRAL[0]), (False, NEUTRAL[1])):
            runs = part[part["warm"] == warm]
            ended = " (diverged)" if (runs["outcome"] != "finished").any() else ""
            said = f"{'with' if warm else 'without'} warm-up{ended}: test error {runs['test_error'].mean():.1f} %"
            for number, folder in enumerate(runs["folder"]):
                curve = load_metrics(folder)
                told = {**style, "linestyle": DASHED, "markevery": max(1, len(curve) // 10), "markersize": 4}
                label = None if number else said
                ax.plot(curve["iteration"] / 1000, curve["train_error"], linewidth=1.2, label=label, **told)
        ax.set_title(f"{network}-{depth}")
        time_axis(ax)
        ax.legend(loc="lower left")
    axes[0].set_ylabel("training error, running (%)")
    axes[0].set_ylim(0, 100)
    write_caption(figure, describe(rows, "a line per seed"))
    return figure


def draw_constructed(table: pd.DataFrame) -> Figure | None:
    """The constructed solution (section 1): test error from scratch and from identity layers

    A trained shallow network deepened by identity layers starts as good as its parent: does training keep the solution
    that it does not find from scratch? A line per seed; the bars at the end are training error in eval mode.
    """
    rows = select(table, {}, ("network.parent_depth",))
    scratch, built = rows[rows["network.parent_depth"].isna()], rows[rows["network.parent_depth"].notna()]
    kinds = built.groupby(["network", "depth", "network.parent_depth"])
    if built.empty:
        return None
    figure, axes = new_figure(1.5 + 4.2 * len(kinds), 4.0, len(kinds), sharey=True)
    drawn = []
    for ax, ((network, deep, parent), children) in zip(axes, kinds, strict=True):
        shallow, ours = int(parent), scratch[scratch["network"] == network]
        for label, runs, style in (
            (f"{network}-{deep} from scratch", ours[ours["depth"] == deep], style_of(network, deep)),
            (f"{network}-{deep} built from {network}-{shallow}", children, NEUTRAL[1]),
            (f"{network}-{shallow}, the parent", ours[ours["depth"] == shallow], style_of(network, shallow)),
        ):
            drawn.append(runs)
            line = {**style, "linestyle": "-", "linewidth": 1.3, "markersize": 4, "markevery": 4}
            end = {"marker": "_", "markersize": 14, "markeredgewidth": 2, "color": style["color"]}
            for number, run in enumerate(runs.to_dict("records")):
                curve = load_metrics(run["folder"])[["iteration", "test_error"]].dropna()
                if not math.isnan(run.get("initial.test_error", math.nan)):
                    first = pd.DataFrame({"iteration": [0], "test_error": [run["initial.test_error"]]})
                    curve = pd.concat([first, curve])
                ax.plot(curve["iteration"] / 1000, curve["test_error"], label=None if number else label, **line)
                ax.plot([curve["iteration"].max() / 1000], [run["train_error_eval"]], **end)
        time_axis(ax)
        ax.set_title(f"{network} networks")
        ax.legend()
    axes[0].set_ylabel("error (%)")
    axes[0].set_ylim(0, 100)
    write_caption(figure, describe(pd.concat(drawn), "lines: test error; bars at the end: training error in eval mode"))
    return figure


def draw_initial_signals(table: pd.DataFrame) -> Figure | None:
    """Signals at initialisation, with and without batch normalisation (section 4.1)

    Top, the std of each layer's response on one batch; bottom, the norm of the gradient there. In the legends the
    factor by which gradients grow from layer to layer backward: below 1 they vanish, above they explode.
    """
    rows = select(table, {"study": "gradients"})
    norms = [norm for norm in ("batch", "none") if (rows["network.norm"] == norm).any()]
    if not norms:
        return None
    figure, panels = new_figure(1 + 5 * len(norms), 6.4, len(norms), sharey="row", rows=2)
    axes = np.array(panels).reshape(2, len(norms))
    for (above, below), norm in zip(axes.T, norms, strict=True):
        for (depth, network), part in rows[rows["network.norm"] == norm].groupby(["depth", "network"]):
            signals = gather(part, load_gradients)
            signals = signals[signals["iteration"] == 0]
            mean = signals.groupby(["layer", "stage"]).mean(numeric_only=True).reset_index()
            style = {**style_of(network, depth, len(mean)), "linewidth": 1.3}
            draw_band(above, signals, "layer", "std", **style)
            label = f"{network}-{depth}: x{growth_per_layer(mean):.2f}"
            draw_band(below, signals, "layer", "grad_response", label=label, **style)
        above.set_title("with batch normalisation" if norm == "batch" else "without")
        whole_numbers(below, "layer index")
        below.legend(fontsize=7, ncols=2, title="gradient growth per layer backward", title_fontsize=7)
    for ax, text in zip(axes[:, 0], ("std of responses", "gradient norm of responses"), strict=True):
        ax.set_ylabel(text)
        ax.set_yscale("log")
    write_caption(figure, describe(rows, "at initialisation, mean and range over seeds"))
    return figure


def draw_gradients_in_training(table: pd.DataFrame) -> Figure | None:
    """Weight gradients along training (section 4.1)

    The norm of the gradient of each layer's weights, at four moments: vanishing gradients would fall to the left.
    """
    return _signals_in_training(table, "grad_weight", "gradient norm of weights")


def draw_signals_in_training(table: pd.DataFrame) -> Figure | None:
    """Responses along training (section 4.1)

    The std of each layer's response at four moments: forward signals that die out would fall to the right.
    """
    return _signals_in_training(table, "std", "std of responses")


def _signals_in_training(table: pd.DataFrame, column: str, ylabel: str) -> Figure | None:
    # A column of gradients.csv by layer: a row per depth, a column per arm and norm; moments are told apart by grey.
    rows = select(table, {}, ("network.norm",))
    rows = rows[[(folder / "gradients.csv").exists() for folder in rows["folder"]]]
    if rows.empty:
        return None
    arms = [(network, norm) for norm in ("batch", "none") for network in ARMS]
    kinds = dict(list(rows.groupby(["depth", "network", "network.norm"])))
    keys = [(depth, arm) for depth in sorted(rows["depth"].unique()) for arm in arms if (depth, *arm) in kinds]
    figure, panels = _grid(sorted(keys, key=lambda key: (key[0], arms.index(key[1]))), 3.4, 2.6)
    for (depth, (network, norm)), ax in panels.items():
        part = kinds[depth, network, norm]
        diverged = ", diverged" if (part["outcome"] == "diverged").any() else ""
        ax.set_title(f"{network}-{depth}{', no BN' if norm == 'none' else ''}{diverged}", fontsize=10)
        signals = gather(part, load_gradients)
        moments = sorted(signals["iteration"].unique())
        chosen = [moments[round(share * (len(moments) - 1))] for share in (0, 0.1, 0.5, 1)]
        for moment, grey in dict(zip(chosen, ("0.58", "0.42", "0.25", "0.0"), strict=True)).items():
            at = signals[signals["iteration"] == moment]
            draw_band(ax, at, "layer", column, color=grey, linewidth=1.4, label=f"iteration {moment:,}")
        ax.set_yscale("log")
        whole_numbers(ax, "layer index")
    figure.supylabel(ylabel, fontsize=10)
    _one_legend(figure, panels.values())
    write_caption(figure, describe(rows, "one fixed batch, training mode, mean and range over seeds"))
    return figure


def draw_learning_rates(table: pd.DataFrame) -> Figure | None:
    """Is it only the learning rate? Final training error by rate and depth

    At its best rate (framed) each network is judged on the training set; a white cell was not run.
    """
    rows = select(table, {}, ("protocol.lr",))
    rows = rows[rows.groupby("depth")["protocol.lr"].transform("nunique") > 1]
    if rows.empty:
        return None
    rates, depths = sorted(rows["protocol.lr"].unique()), sorted(rows["depth"].unique())
    figure, axes = new_figure(10, 1.8 + 0.7 * len(depths), 2)
    for ax, network in zip(axes, ARMS, strict=True):
        cells = rows[rows["network"] == network].groupby(["depth", "protocol.lr"])["train_error"]
        grid = cells.mean().unstack().reindex(index=depths, columns=rates).astype(float)
        image = ax.imshow(grid, cmap="cividis", vmin=0, vmax=rows["guessing"].max(), aspect="auto")
        for (i, depth), (j, rate) in product(enumerate(depths), enumerate(rates)):
            if (value := grid.loc[depth, rate]) == value:
                errors = cells.get_group((depth, rate))
                spread = f" ± {errors.std():.1f}" if len(errors) > 1 else ""
                style = {
                    "fontsize": 8,
                    "color": "white" if value < rows["guessing"].max() / 2 else "black",
                    "ha": "center",
                    "va": "center",
                }
                ax.text(j, i, f"{value:.1f}{spread}\nn = {len(errors)}", **style)
        for i, row in enumerate(grid.to_numpy()):
            if np.isfinite(row).sum() > 1:
                corner = (int(np.nanargmin(row)) - 0.46, i - 0.46)
                ax.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor="white", linewidth=2.5))
        ax.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        ax.set_yticks(range(len(depths)), [str(depth) for depth in depths])
        ax.grid(False)
        ax.set_xlabel("learning rate")
        ax.set_ylabel("depth")
        ax.set_title(f"{network}: final training error (%)")
    figure.colorbar(image, ax=axes, label="%")
    write_caption(figure, describe(rows, "framed: the best rate of each depth"))
    return figure


def draw_convergence(table: pd.DataFrame) -> Figure | None:
    """Early convergence (section 4.1, Fig. 4): iterations until the training error falls to a level

    Every seed a point, lines are means; a level that a network never reached has no point.
    """
    levels = range(80, 0, -10)
    runs = finished(table)
    depths = two_depths(runs)
    runs = runs[runs["depth"].isin(depths)]
    if runs.empty:
        return None
    lowest, names = levels[0], with_n(runs)
    figure, axes = new_figure(1.5 + 4 * len(depths), 3.8, len(depths), sharey=True)
    for (ax, depth), network in product(zip(axes, depths, strict=True), ARMS):
        folders = runs.loc[(runs["network"] == network) & (runs["depth"] == depth), "folder"]
        metrics = [load_metrics(folder) for folder in folders]
        reached = pd.DataFrame({level: [first_below(m, level) for m in metrics] for level in levels}, dtype=float)
        style = style_of(network, depth)
        for _, seed in reached.iterrows():
            ax.plot(seed.index, seed, linestyle="none", alpha=0.5, **style)
        lowest = min([lowest, *reached.columns[reached.notna().any()]])
        everywhere = reached.mean(skipna=False)  # a mean of those seeds alone that got there would flatter
        ax.plot(everywhere.index, everywhere, linestyle=DASHED, label=names[network, depth], **style)
        ax.set_xlabel("training error (%), running, falls to")
        ax.set_title(f"{depth} layers")
        ax.legend(loc="lower right")
    for ax in axes:
        ax.set_xlim(85, lowest - 5)
    from_zero(axes, "iterations until then")
    write_caption(figure, describe(runs, left_out(table)))
    return figure


def draw_longer(table: pd.DataFrame) -> Figure | None:
    """Longer training (section 4.1, footnote): plain networks after the protocol's iterations and after more

    If degradation were slow convergence, the right-hand panels would not rise with depth. Points are runs; filled and
    dashed training error, open and solid test error.
    """
    lengths = sorted(table.loc[table["network"] == "plain", "length"].unique())
    parts = [select(table, {"network": "plain", "length": length}) for length in lengths]
    parts = [part for part in parts if len(part)]
    if len(parts) < 2:
        return None
    depths = {depth: str(depth) for depth in sorted(pd.concat(parts[1:])["depth"].unique())}
    parts = [part[part["depth"].isin(depths)] for part in parts]
    figure, axes = new_figure(1 + 4 * len(parts), 3.8, len(parts), sharey=True)
    for ax, rows in zip(axes, parts, strict=True):
        for column, what in (("train_error", "training"), ("test_error", "test")):
            draw_points(ax, rows, "depth", column, what, depths)
        ax.set_xlabel("depth of the plain network")
        ax.set_title(f"{rows['iterations'].iloc[0]:,} iterations")
        ax.legend()
    from_zero(axes, "final error (%)")
    write_caption(figure, describe(pd.concat(parts)))
    return figure


def draw_response_parts(table: pd.DataFrame) -> Figure | None:
    """What the responses of Fig. 7 are made of: BN's gamma and beta, with and without weight decay on them

    In training mode the variance of a response is that of beta over channels plus the mean square of gamma, so decay on
    gamma may shape Fig. 7. Test set, eval mode; mean over seeds, bands their range.
    """
    rows = select(table, {}, ("protocol.decay_batchnorm",))
    rows = rows[(rows["outcome"] == "finished") & rows["depth"].isin(two_depths(finished(table)))]
    if rows.empty:
        return None
    kinds = dict(list(rows.groupby(["depth", "network", "protocol.decay_batchnorm"])))
    arms = [(network, decayed) for network in ARMS for decayed in (True, False)]
    keys = [(depth, arm) for depth in sorted(rows["depth"].unique()) for arm in arms if (depth, *arm) in kinds]
    figure, panels = _grid(keys, 3, 2.6)
    names = {"std": "std of the response", "gamma_rms": "gamma, root mean square", "beta_rms": "beta, root mean square"}
    for (depth, (network, decayed)), ax in panels.items():
        ax.set_title(f"{network}-{depth}" + ("" if decayed else ", no weight decay on BN"), fontsize=10)
        layers = gather(kinds[depth, network, decayed], load_responses)
        for (column, name), style in zip(names.items(), NEUTRAL, strict=True):
            if column in layers:
                draw_band(ax, layers, "layer", column, label=name, **{**style, "marker": None}, linewidth=1.5)
        ax.set_yscale("log")
        whole_numbers(ax, "layer index")
    figure.supylabel("test set, eval mode", fontsize=10)
    _one_legend(figure, panels.values())
    write_caption(figure, describe(rows))
    return figure


def draw_gradients(rows: pd.DataFrame, caption: str) -> Figure:
    """Section 4.1 of one network: norms of the backward signal by layer, at the responses and at the weights."""
    figure, axes = new_figure(9.5, 3.6, 2)
    for ax, column, of in zip(axes, ("grad_response", "grad_weight"), ("responses", "weights"), strict=True):
        draw_band(ax, rows, "layer", column, color="0.1", marker=".")
        mark_stages(ax, rows["stage"])
        whole_numbers(ax, "layer index (1 is the stem)")
        ax.set_ylabel(f"gradient norm at the {of}")
        if (rows[column] > 0).all():
            ax.set_yscale("log")  # whole decades: a change by half must not look like a collapse
            ends = np.log10(rows[column].agg(["min", "max"]))
            ax.set_ylim(10 ** math.floor(ends["min"]), 10 ** math.ceil(ends["max"]))
    write_caption(figure, caption)
    return figure


def draw_lesions(rows: pd.DataFrame, caption: str) -> Figure:
    """Veit et al., Fig. 3 and 5 of one network: error with each block deleted (left), with several (right).

    Right, lines are means over draws and bands their range; both panels show the intact network dotted.
    """
    figure, (each, several) = new_figure(10.5, 3.8, 2, sharey=True)
    one = rows[rows["kind"] == "delete_one"].reset_index(drop=True)
    each.plot(one.index + 1, one["error"], color="0.0", marker="o", linestyle="none", label="one block deleted")
    mark_stages(each, stages_of(one))
    whole_numbers(each, "which block (of those that keep the shape)")
    each.set_ylabel("error (%)")
    each.set_xlim(0.4, len(one) + 0.6)
    for kind, label, style in (("delete", "deleted", NEUTRAL[0]), ("swap", "pairs swapped", NEUTRAL[1])):
        by_count = rows[rows["kind"] == kind]
        if by_count["count"].nunique() > 1:  # not the intact network alone
            label = f"{label}, {rows['draw'].max() + 1} draws"
            draw_band(several, by_count, "count", "error", label=label, markersize=4, **style)
    whole_numbers(several, "blocks deleted, or pairs of blocks swapped")
    for ax in (each, several):
        ax.axhline(rows.loc[rows["count"] == 0, "error"].iloc[0], color="0.35", linestyle=":", label="intact")
        ax.legend()
    each.set_ylim(0, 100)  # so that figures of two networks compare
    write_caption(figure, caption)
    return figure


def stages_of(lesions: pd.DataFrame) -> pd.Series:
    """The stage of each block; tables of earlier versions tell it in the block's name alone."""
    if "stage" in lesions:
        return lesions["stage"]
    return lesions["blocks"].str.extract(r"^stage(\d+)")[0].fillna(0).astype(int)


def draw_lesion_study(table: pd.DataFrame) -> Figure | None:
    """Lesions (beyond the paper): test error against blocks deleted and pairs swapped

    After Veit et al. 2016, Fig. 5: residual networks lose little with a few blocks, plain ones nearly all. Means over
    seeds and draws, bands their range; blocks that keep the shape.
    """
    runs = finished(table)
    runs = runs[[len(load_probe(folder, "lesions")) > 0 for folder in runs["folder"]]]
    if runs.empty:
        return None
    lesions = gather(runs, lambda folder: load_probe(folder, "lesions"))
    figure, panels = _grid(product(("delete", "swap"), sorted(runs["depth"].unique())), 4, 2.8)
    for ((kind, depth), ax), network in product(panels.items(), ARMS):
        part = lesions[(lesions["depth"] == depth) & (lesions["network"] == network) & (lesions["kind"] == kind)]
        if draw_band(ax, part, "count", "error", label=network, **style_of(network, depth)) is not None:
            ax.legend()
        whole_numbers(ax, "blocks deleted" if kind == "delete" else "pairs of blocks swapped")
        ax.set_title(f"{depth} layers" if kind == "delete" else "")
        ax.set_ylim(0, 100)
    figure.supylabel("test error (%)", fontsize=10)
    images = " or ".join(f"{n:,}" for n in sorted({probed_images(folder, "lesions") for folder in runs["folder"]}))
    write_caption(figure, describe(runs, f"{images} test images"))
    return figure


def draw_verdicts(table: pd.DataFrame) -> Figure | None:
    """Every claim with its interval over seeds and its threshold

    A claim is supported where the whole interval lies on the claimed side of the dotted line. Strokes are seeds, the
    marker their mean; each axis has its own scale.
    """
    verdicts = [verdict for verdict in judge(load_claims(), table) if verdict.effects]
    if not verdicts:
        return None
    lines = math.ceil(len(verdicts) / 2)
    figure, axes = new_figure(12, 0.6 + 1.15 * lines, 2, rows=lines)
    for ax in axes[len(verdicts) :]:
        ax.set_axis_off()
    for ax, verdict in zip(axes, verdicts, strict=False):
        colour, marker = VERDICTS[verdict.verdict]
        claim, points = verdict.claim, list(verdict.effects.values())
        edges = [edge for edge in claim.bounds if math.isfinite(edge)]
        ends = [end for end in (verdict.low, verdict.high) if not math.isnan(end)]
        for edge in edges:
            ax.axvline(edge, color="0.2", linestyle=":", linewidth=1.4)
        ax.plot(ends, [0] * len(ends), color=colour, linewidth=3, solid_capstyle="butt", alpha=0.6)
        ax.scatter(points, [0] * len(points), color="0.1", s=12, marker="|", zorder=3)
        ax.scatter([verdict.mean], [0], color=colour, marker=marker, s=55, zorder=4)
        low, high = min([*edges, *points, *ends]), max([*edges, *points, *ends])
        if claim.statistic in RATIOS and 0 < 10 * low < high:
            ax.set_xscale("log")
            ax.set_xlim(low / 2, high * 2)
        else:
            room = 0.12 * (high - low) or 0.1
            ax.set_xlim(low - room, high + room)
        ax.set_ylim(-1, 1)
        ax.spines["left"].set_visible(False)
        ax.set_yticks([])
        ax.tick_params(labelsize=8)
        ax.set_xlabel(claim.unit, fontsize=7, labelpad=1)
        title = textwrap.shorten(f"{claim.id}: {claim.sentence}", 102, placeholder=" ...")
        ax.set_title(f"{title}\n{verdict.verdict}, n = {len(points)}", fontsize=8, loc="left", color=colour)
    write_caption(figure, describe(table, "mean and 95 % interval over seeds, dotted: the stated threshold"))
    return figure
