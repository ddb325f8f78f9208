"""Rebuild every figure, table and page from the records in results/."""

import degradation.script  # isort: skip  # noqa: F401  first of all
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from filelock import FileLock

from degradation.config import ConfigError, find_published, refuse_published
from degradation.ending import Parser
from degradation.record import RecordError
from degradation.report.compare import compare_each, draw_comparison, sentence
from degradation.report.draw import CANVASES, SIZES, save
from degradation.report.figures import FIGURES, TABLES, UNFINISHED, write_figures
from degradation.report.imagenet import say_validation
from degradation.report.pages import write_claims, write_gallery
from degradation.report.table import (
    condition_folder,
    conditions,
    find_results,
    load_others,
    load_table,
    unfinished_runs,
)
from degradation.report.verdicts import ClaimError, load_claims

MADE = {*FIGURES, *TABLES, UNFINISHED, "comparison", "matched_pair"}
KINDS = {".csv", *(f".{kind}" for kind, *_ in CANVASES)}
MOST_TOLD = 12  # networks of a protocol that are compared on the screen; the gallery has all


def is_ours(path: Path) -> bool:
    """Whether this script makes files of that name and kind."""
    return path.suffix in KINDS and (path.stem in MADE or path.stem.startswith("by_"))


@contextmanager
def drawn_aside(results: Path) -> Iterator[Path]:
    """A folder to draw into, whose files then take their places, one by one; what was drawn before and is not now goes.

    Whatever ends it early leaves what there was, and files of other names or kinds stay in any case.
    """
    aside = results / ".report"
    results.mkdir(parents=True, exist_ok=True)
    with FileLock(results / ".report.lock"):  # another report of the same folder waits, and draws anew
        shutil.rmtree(aside, ignore_errors=True)
        try:
            yield aside
            for kind in ("figures", "tables"):
                made = {path.relative_to(aside) for path in (aside / kind).rglob("*") if path.is_file()}
                for path in made:
                    (results / path).parent.mkdir(parents=True, exist_ok=True)
                    (aside / path).replace(results / path)
                for path in [path for path in (results / kind).rglob("*") if path.is_file() and is_ours(path)]:
                    if path.relative_to(results) not in made:
                        path.unlink()
                        if not any(path.parent.iterdir()):
                            path.parent.rmdir()
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def report(results: Path, table: pd.DataFrame, compared: dict[str, pd.DataFrame] | None = None) -> str:
    """Draw and write everything of these runs into a results folder, all of it or nothing; says what there is."""
    with drawn_aside(results) as aside:
        write_figures(aside, table, unfinished_runs(results))
        for condition, rows in (compared or {}).items():
            runs = next(runs for name, runs in conditions(table) if name == condition)
            figure = say_validation(draw_comparison(rows, runs), runs)
            save(figure, aside / "figures" / condition_folder(condition), "comparison")
    gallery, claims = write_gallery(results, table, compared), write_claims(results, table)
    figures, tables = (len(list(results.glob(pattern))) for pattern in ("figures/*/*.png", "tables/*/*.csv"))
    return f"{figures} figures, {tables} tables, the gallery {gallery} and the verdicts {claims}"


def main() -> int:
    """Exit status 1, with one line, where a record is damaged or nothing can be written."""
    parser = Parser(__doc__)
    parser.add_argument("--results", default=str(find_results()), help="the folder with runs/ (default: %(default)s)")
    parser.add_argument(
        "--with-published", action="store_true", help="draw and judge the published runs together with those"
    )
    parser.add_argument("--size", choices=SIZES, default="page", help="lecture: larger text and lines, for slides")
    parser.add_argument(
        "--wandb", nargs="?", const="report", metavar="GROUP", help="log the figures and tables as one W&B run, too"
    )
    parser.add_argument("--wandb-project", default="degradation", metavar="NAME", help="default: %(default)s")
    arguments = parser.parse_args()
    results = Path(arguments.results)
    mpl.rcParams["savefig.dpi"] = SIZES[arguments.size]
    try:
        refuse_published(results)
        load_claims()  # what is damaged is told before anything is removed
        own, published = load_table(results), load_table(find_published())
        table = load_table(results, find_published()) if arguments.with_published else own
        compared = compare_each(table, own, published, load_others(find_published()))
        told = report(results, table, compared)
    except (RecordError, ClaimError, ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    for condition, rows in compared.items():
        print(f"\nyours beside the published, protocol {condition}:")
        for row in rows[:MOST_TOLD].to_dict("records"):
            print(f"  {sentence(row)}")
        if len(rows) > MOST_TOLD:
            print(f"  ... and {len(rows) - MOST_TOLD} more in the gallery")
    print(f"\n{told}")
    if arguments.wandb:
        from degradation.train.tracking import log_report

        figures, tables = sorted(results.glob("figures/*/*.png")), sorted(results.glob("tables/*/*.csv"))
        log_report(str(results), figures, tables, arguments.wandb_project, arguments.wandb)
    return 0


if __name__ == "__main__":
    sys.exit(main())
