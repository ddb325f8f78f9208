"""The matched pair as a block diagram: the plain block and the residual block, alike but for one arrow."""

from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from degradation.report import draw

LAYERS = ("3x3 convolution", "batch normalisation", "ReLU", "3x3 convolution", "batch normalisation")
GREY = "0.35"


def _box(ax: Axes, y: float, text: str, **look: Any) -> None:
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": GREY, "linewidth": 1.2, **look}
    ax.text(0, y, text.center(24), ha="center", va="center", family="monospace", size=8, bbox=box)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], **look: Any) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": GREY, "shrinkA": 0, "shrinkB": 0, **look})


def draw_matched_pair() -> Figure:
    """The matched pair: a plain block and its residual twin

    Same layers, parameters, initial weights, batches and schedule: the one difference is the highlighted arrow.
    """
    figure, axes = draw.new_figure(7, 5.4, 2)
    for ax, network in zip(axes, draw.HUES, strict=True):
        colour, residual = draw.colour_of(network, 50), network == "residual"
        ax.set(xlim=(-2.1, 2.1), ylim=(-8.3, 1.1))
        ax.set_axis_off()
        ax.set_title(f"{network} block", color=colour, weight="bold")
        ax.text(0, 0.75, "x", ha="center", va="center", style="italic", size=12)
        places = [-0.3 - 1.1 * number for number in range(len(LAYERS))]
        _arrow(ax, (0, 0.5), (0, 0.05))
        for place, layer in zip(places, LAYERS, strict=True):
            _box(ax, place, layer)
        for above, below in pairwise(places):
            _arrow(ax, (0, above - 0.33), (0, below + 0.33))
        ax.plot([-1.4, -1.5, -1.5, -1.4], [places[0] + 0.3] * 2 + [places[-1] - 0.3] * 2, color=GREY, linewidth=1.2)
        ax.text(-1.6, places[2], "F(x)", ha="right", va="center", style="italic", size=12)
        sum_at = places[-1] - 1.0
        if residual:
            _arrow(ax, (0, places[-1] - 0.33), (0, sum_at + 0.22))
            ax.text(
                0, sum_at, "+", ha="center", va="center", size=13, bbox={"boxstyle": "circle,pad=0.1", "fc": "white"}
            )
            ax.plot([0, 1.55, 1.55], [0.38, 0.38, sum_at], color=colour, linewidth=3, solid_capstyle="butt")
            _arrow(ax, (1.55, sum_at), (0.22, sum_at), color=colour, linewidth=3)
            ax.text(1.68, places[2], "identity shortcut", color=colour, rotation=-90, va="center", weight="bold")
        _arrow(ax, (0, sum_at - 0.22 if residual else places[-1] - 0.33), (0, sum_at - 0.65))
        _box(ax, sum_at - 1.0, "ReLU")
        _arrow(ax, (0, sum_at - 1.33), (0, sum_at - 1.75))
        ax.text(0, sum_at - 2.0, "ReLU(F(x) + x)" if residual else "ReLU(F(x))", ha="center", va="center", size=11)
    told = "same layers, parameters (option A), initial weights, batches and schedule; the arrow is the only difference"
    return draw.write_caption(figure, told)
