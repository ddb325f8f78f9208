"""Train what the claims still need, then write results/claims.md: python experiments/claims.py --help."""

import argparse
import subprocess
import sys
from pathlib import Path

from degradation.analysis import ARMS, find_results
from degradation.claims import ClaimError, lesions_folder, list_studies, load_tables, select

STOPPED = (75, 130, -2)  # out of budget, or by a signal: nothing more is begun
HERE = Path(__file__).parent


def probe_lesions(results: Path) -> int:
    """Measure the lesions of every network of the default grid that was trained here and is not yet measured."""
    status = 0
    for table in load_tables(results).values():
        for where in ({"network": network, "depth": depth} for network in ARMS for depth in (20, 56)):
            for folder in select(table, where)["folder"]:
                out = lesions_folder(folder)
                if (folder / "network.pt").exists() and not out.exists():
                    print(f"\nlesions of {folder.name}", flush=True)
                    command = [sys.executable, str(HERE / "probe.py"), str(folder), "--probes", "lesions"]
                    images = ["--lesion-images", "500", "--out", str(out)]
                    status = subprocess.run([*command, *images], check=False).returncode or status
    return status


def main() -> int:
    """Exit status of the first study that did not finish, 2 with one line where the input is wrong."""
    try:
        studies = list_studies()
    except ClaimError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", default=",".join(studies), help="in this order (default: all: %(default)s)")
    parser.add_argument("--protocol", help="default: paper where a CUDA device is present, quick where not")
    parser.add_argument("--seeds", default="0,1,2", help="default: %(default)s")
    parser.add_argument("--results", default=str(find_results()), help="default: %(default)s")
    parser.add_argument("overrides", nargs="*", help="further Hydra overrides for every run, such as logger=none")
    arguments = parser.parse_args()
    chosen = arguments.studies.split(",")
    if unknown := [study for study in chosen if study not in studies]:
        parser.error(f"unknown study {unknown[0]}; there are {', '.join(studies)}")
    protocol = [f"protocol={arguments.protocol}"] if arguments.protocol else []
    status = 0
    for number, study in enumerate(chosen, 1):
        print(f"\nstudy {number} of {len(chosen)}: {study}", flush=True)
        command = [sys.executable, str(HERE / "train.py"), f"experiment={study}", f"seed={arguments.seeds}"]
        paths = [f"paths.results={arguments.results}"]
        done = subprocess.run([*command, *protocol, *paths, *arguments.overrides], check=False).returncode
        status = status or done
        if done in STOPPED:
            break
    if status not in STOPPED and "lesions" in chosen:
        status = probe_lesions(Path(arguments.results)) or status
    report = [sys.executable, str(HERE / "report.py"), "--results", arguments.results]
    return status or subprocess.run(report, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
