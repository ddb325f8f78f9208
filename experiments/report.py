"""Rebuild every figure, table and the gallery from the records in results/: python experiments/report.py --help."""

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from degradation.record import RecordError
from degradation.report.figures import FIGURES, write_figures
from degradation.report.pages import write_claims, write_gallery
from degradation.report.table import TABLES, find_results, load_table
from degradation.report.verdicts import ClaimError, load_claims


@contextmanager
def replaced(folders: list[Path]) -> Iterator[None]:
    """Figures and tables that were in the folders go when the new are there, and come back when none could be made."""
    aside = {folder: folder.with_name(f".{folder.name}.before") for folder in folders}
    for folder, old in aside.items():
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
    try:
        yield
    except BaseException:
        for folder, old in aside.items():
            shutil.rmtree(folder, ignore_errors=True)
            if old.exists():
                old.rename(folder)
        raise
    for folder, old in aside.items():
        for path in [path for path in old.rglob("*") if path.is_file() and path.stem not in {*FIGURES, *TABLES}]:
            kept = folder / path.relative_to(old)  # not ours
            kept.parent.mkdir(parents=True, exist_ok=True)
            path.rename(kept)
        shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    """Exit status 1, with one line, where a record is damaged or nothing can be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", default=str(find_results()), help="the folder with runs/ (default: %(default)s)")
    parser.add_argument("--wandb", action="store_true", help="log the figures and tables as one W&B run, too")
    arguments = parser.parse_args()
    results = Path(arguments.results)
    try:
        load_table(results), load_claims()  # what is damaged is told before anything is removed
        results.mkdir(parents=True, exist_ok=True)
        with replaced([results / "figures", results / "tables"]):
            write_figures(results)
        gallery, claims = write_gallery(results), write_claims(results)
    except (RecordError, ClaimError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    figures, tables = sorted(results.glob("figures/*/*.png")), sorted(results.glob("tables/*/*.csv"))
    print(f"{len(figures)} figures, {len(tables)} tables, the gallery {gallery} and the verdicts {claims}")
    if arguments.wandb:
        from degradation.train.tracking import log_report

        log_report(str(results), figures, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
