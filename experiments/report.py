"""Rebuild every figure, table and the gallery from the records in results/: python experiments/report.py --help."""

import argparse
import os
import runpy
import shutil
import sys
from pathlib import Path

from degradation.analysis import find_results, studies
from degradation.gallery import write_gallery
from degradation.record import RecordError

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def main() -> int:
    """Exit status 1, with one line, where a record is damaged or nothing can be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", default=str(find_results()), help="the folder with runs/ (default: %(default)s)")
    parser.add_argument("--wandb", action="store_true", help="log the figures and tables as one W&B run, too")
    arguments = parser.parse_args()
    results = Path(arguments.results)
    os.environ["RESULTS_DIR"] = str(results)
    os.environ.setdefault("MPLBACKEND", "agg")
    try:
        list(studies(results))  # a damaged record is told before anything is removed
        results.mkdir(parents=True, exist_ok=True)
        for made in ("figures", "tables"):
            shutil.rmtree(results / made, ignore_errors=True)
        for script in sorted(NOTEBOOKS.glob("*.py")):
            runpy.run_path(str(script), run_name="__main__")
        gallery = write_gallery(results)
    except (RecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    figures, tables = sorted(results.glob("figures/*/*.png")), sorted(results.glob("tables/*/*.csv"))
    print(f"{len(figures)} figures, {len(tables)} tables and the gallery {gallery}")
    if arguments.wandb:
        from degradation.tracking import log_report

        log_report(str(results), "degradation", figures, tables, "degradation_cifar")
    return 0


if __name__ == "__main__":
    sys.exit(main())
