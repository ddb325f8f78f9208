"""Every figure by name: a condition's table in, a figure or, where its data lack, None out. To add one, add it here.

A figure's docstring is its title (first line) and what is seen in it (the rest), on the pages as in the code.
"""

import inspect
import io
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from degradation.config import find_published
from degradation.record import write_atomically
from degradation.report import draw, forest, imagenet, studies
from degradation.report.diagram import draw_matched_pair
from degradation.report.table import (
    STUDIED,
    by_name,
    condition_folder,
    conditions,
    error_by_depth,
    find_results,
    load_table,
    own_settings,
    paired_differences,
    table6,
)

FIGURES: dict[str, Callable[[pd.DataFrame], Figure | None]] = {
    "fig1": draw.draw_figure1,
    "fig4": imagenet.draw_figure4,
    "fig6": draw.draw_figure6,
    "error_by_depth": draw.draw_error_by_depth,
    "matched_pairs": studies.draw_matched_pairs,
    "loss": draw.draw_loss,
    "gap": studies.draw_gap,
    "fig7": draw.draw_figure7,
    "convergence": studies.draw_convergence,
    "constructed": studies.draw_constructed,
    "gradients": studies.draw_initial_signals,
    "gradients_in_training": studies.draw_gradients_in_training,
    "signals_in_training": studies.draw_signals_in_training,
    "response_parts": studies.draw_response_parts,
    "learning_rate": studies.draw_learning_rates,
    "longer_training": studies.draw_longer,
    "warmup": studies.draw_warmup,
    "shortcut_options": studies.draw_shortcut_options,
    "shortcut_strength": studies.draw_shortcut_strength,
    "without_bn": studies.draw_without_bn,
    "lesions": studies.draw_lesion_study,
    "lesions_by_block": studies.draw_lesions_by_block,
    "first_steps": studies.draw_first_steps,
    "weight_norms": studies.draw_weight_norms,
    "information": studies.draw_information,
    "fig7_statistics": studies.draw_response_statistics,
    "constructed_controls": studies.draw_constructed_controls,
    "lesions_recalibrated": studies.draw_recalibrated,
    "first_steps_cures": studies.draw_cures,
    "without_shortcuts": studies.draw_without_shortcuts,
    "deviations": forest.draw_deviations,
    "verdicts": forest.draw_verdicts,
}
UNFINISHED = "unfinished"
TABLES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "table6": table6,
    "error_by_depth": error_by_depth,
    "paired_differences": paired_differences,
    **imagenet.TABLES,
}


def draw_figure(name: str, table: pd.DataFrame) -> Figure | None:
    """The figure of this name of a condition's runs, in the words of their data; None where its data lack."""
    figure = FIGURES[name](table)
    return figure and imagenet.say_validation(figure, table)


def title_of(name: str) -> str:
    return (inspect.getdoc(FIGURES[name]) or name).split("\n")[0]


def caption_of(name: str) -> str:
    return " ".join((inspect.getdoc(FIGURES[name]) or "").split("\n")[1:]).strip()


def write_figures(results: Path, table: pd.DataFrame, unfinished: pd.DataFrame | None = None) -> None:
    """Every figure of these runs into results/figures/<condition>/, every table with rows into results/tables/<...>/.

    And the block diagram of the matched pair, which needs no runs, into results/figures/; of runs that are
    `unfinished` (of table.unfinished_runs) their curves so far, each protocol's beside its figures.

    A RecordError or ClaimError where a record or a study's claims are damaged.
    """
    draw.save(draw_matched_pair(), results / "figures", "matched_pair")
    for condition, runs in conditions(table):
        folder = condition_folder(condition)
        for name in FIGURES:
            if (figure := draw_figure(name, runs)) is not None:
                draw.save(figure, results / "figures" / folder, name)
        for settings in own_settings(runs):
            if settings not in STUDIED and (figure := studies.draw_by_settings(runs, settings)) is not None:
                figure = imagenet.say_validation(figure, runs)
                draw.save(figure, results / "figures" / folder, by_name(settings))
        (results / "tables" / folder).mkdir(parents=True, exist_ok=True)
        for name, make in TABLES.items():
            if len(made := make(runs)):
                text = made.to_csv(index=False, float_format="%.2f")
                write_atomically(results / "tables" / folder / f"{name}.csv", text)
    for protocol, runs in unfinished.groupby("protocol") if unfinished is not None and len(unfinished) else ():
        figure = imagenet.say_validation(draw.draw_unfinished(runs), runs)
        draw.save(figure, results / "figures" / str(protocol), UNFINISHED)


def show(*names: str) -> None:
    """In a notebook: these figures and tables of every condition, and their captions; nothing is written.

    Of the runs in results/, or of the published ones where there are none.
    """
    from IPython.display import Image, Markdown, display

    own = load_table(find_results())
    for condition, table in conditions(own if len(own) else load_table(find_published())):
        for name in names:
            if name in TABLES:
                display(Markdown(f"**{condition}: {name}**"), TABLES[name](table))
            if name in FIGURES and (figure := draw_figure(name, table)) is not None:
                picture = io.BytesIO()
                figure.set_dpi(draw.SIZES["page"])
                FigureCanvasAgg(figure).print_png(picture)
                display(Markdown(f"**{condition}: {title_of(name)}.** {caption_of(name)}"), Image(picture.getvalue()))
