"""Train what the claims still need, then write results/claims.md."""

import os
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import yaml

import degradation.script  # noqa: F401  first of all
from degradation.cli import EXIT_INPUT, choose_protocol, quote
from degradation.config import ConfigError, find_conf, find_published
from degradation.ending import EXIT_STOPPED, Parser, Stop
from degradation.record import RecordError
from degradation.report.table import describe_probe, find_results, load_table, probes_folder, select, weights_of
from degradation.report.verdicts import ClaimError, list_studies, load_claims
from degradation.train.outcome import BEGAN, EXIT_BUDGET, EXIT_DIVERGED

HERE = Path(__file__).parent
# Grids, trained here whatever is published: their networks are probed for some studies, which takes their weights.
# Studies of lesions have the same networks, and train what the grids have not.
GRIDS = ("degradation_cifar", "degradation_imagenet")
LESIONS = ("lesions", "path_length", "lesions_imagenet")
PROBED = (*LESIONS, "constructed_solution")
OUTDATED = ("bn_decay",)  # whose published records lack what its claim is judged by


def run(command: list[str]) -> int:
    """A child's exit status. Signals are the child's to answer, with a checkpoint; here they are handed on."""
    Stop.listen()
    child, handed_on = subprocess.Popen([sys.executable, *command]), False
    while child.poll() is None:
        if Stop.requested and not handed_on:
            child.terminate()
            handed_on = True
        time.sleep(0.1)
    return EXIT_STOPPED if Stop.requested else child.returncode


def worse(status: int, done: int) -> int:
    """Of two exit statuses the one to end with: the first that is a failure; that a run diverged is none."""
    return done or status if status in (0, EXIT_DIVERGED) else status


def networks_of(study: str) -> set[tuple[str, int]]:
    """The networks of a study's grid, arm and depth."""
    axes = yaml.safe_load((find_conf() / "experiment" / f"{study}.yaml").read_text())["hydra"]["sweeper"]["params"]
    return set(product(axes["network"].split(","), map(int, str(axes["depth"]).split(","))))


def is_measured(folder: Path) -> bool:
    """Whether the lesions and the deeper networks of a run are known, and of its present weights."""
    if not (probes_folder(folder) / "probe.json").exists():
        return False
    told = describe_probe(folder)
    known = {*told["probes"], *["constructed"] * bool(told.get("left_out"))}  # of some there are no deeper ones
    return {"lesions", "constructed"} <= known and told.get("weights") == weights_of(folder)


def probe_networks(results: Path, protocols: list[str], grids: list[str], overrides: list[str]) -> int:
    """Lesion and deepen every network of these grids that was trained here and is not measured yet."""
    data = [("--data-dir", o.removeprefix("paths.data=")) for o in overrides if o.startswith("paths.data=")]
    table, status = select(load_table(results), {}), 0
    table = table[table["protocol"].isin(protocols)]
    kinds = {kind for grid in grids for kind in networks_of(grid)}
    runs = [run for run in table.itertuples() if (run.network, run.depth) in kinds]  # whichever study trained them
    for folder in (run.folder for run in runs):
        if (folder / "network.pt").exists() and not is_measured(folder):
            print(f"\nlesions of {folder.name}, and the constructed solutions from it", flush=True)
            options = ["--probes", "lesions,constructed", "--lesion-images", "500", "--out"]
            options.append(str(probes_folder(folder)))
            options += [part for option in data for part in option]
            done = run([str(HERE / "probe.py"), str(folder), *options])
            status = worse(status, done)
            if done == EXIT_STOPPED:
                return done
    return status


def main() -> int:
    """The exit status of the first study that did not finish; 2, with one line, where the input is wrong."""
    try:
        studies, claims = list_studies(), load_claims()
    except ClaimError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT
    usual = [study for study in studies if study != "depth_1202" and not study.endswith("_imagenet")]
    parser = Parser(__doc__)
    parser.add_argument(
        "--studies",
        default=",".join(usual),
        help="in this order; default: all on CIFAR-10 but depth_1202, a large GPU's work",
    )
    parser.add_argument("--protocol", help="default: paper where torch can use a CUDA device, quick where not")
    parser.add_argument("--seeds", default="0,1,2", help="default: %(default)s")
    parser.add_argument("--results", default=str(find_results()), help="default: %(default)s")
    parser.add_argument(
        "--own", dest="with_published", action="store_false", help="leave the published runs out: train and judge all"
    )
    parser.add_argument("overrides", nargs="*", help="further Hydra overrides for every run, such as logger=none")
    arguments = parser.parse_args()
    chosen = arguments.studies.split(",")
    if unknown := [study for study in chosen if study not in studies]:
        parser.error(f"unknown study {unknown[0]}; there are {', '.join(studies)}")
    named = (arguments.protocol or "").removeprefix("imagenet_")  # each half has its own of that name
    if named != (arguments.protocol or "") and not all(study.endswith("_imagenet") for study in chosen):
        parser.error(f"--protocol: {arguments.protocol} is of studies on ImageNet; name {named}")
    protocols: dict[bool, str] = {}  # of the studies on CIFAR-10, and of those on ImageNet
    try:
        for study in chosen:
            if (imagenet := study.endswith("_imagenet")) not in protocols:
                asked = [f"experiment={study}", *[f"protocol={named}"] * bool(named)]
                asked += [o for o in arguments.overrides if o.startswith("paths.data=")]
                protocols[imagenet] = next(a for a in choose_protocol(asked) if a.startswith("protocol="))
    except ConfigError as error:
        parser.error(str(error))
    os.environ.setdefault(BEGAN, str(time.time()))  # budget_minutes is that of the whole command
    status = 0
    for number, study in enumerate(chosen, 1):
        print(f"\nstudy {number} of {len(chosen)}: {study}", flush=True)
        protocol = protocols[study.endswith("_imagenet")]
        common = [f"seed={arguments.seeds}", protocol, f"paths.results={quote(arguments.results)}"]
        spared = arguments.with_published and study not in (*GRIDS, *OUTDATED)
        common += [f"paths.published={quote(str(find_published()))}"] * spared
        done = run([str(HERE / "train.py"), "-m", f"experiment={study}", *common, *arguments.overrides])
        status = worse(status, done)
        if done in (EXIT_INPUT, EXIT_BUDGET, EXIT_STOPPED):
            return done
    try:
        judged = [claim for claim in claims if claim.study in PROBED and claim.study in chosen]
        needed = {study for claim in judged for study in (claim.study, *claim.needs)}
        if grids := sorted(needed & {*GRIDS, *LESIONS}):
            names = [protocol.removeprefix("protocol=") for protocol in protocols.values()]
            probed = probe_networks(Path(arguments.results), names, grids, arguments.overrides)
            status = worse(status, probed)
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT
    beside = ["--with-published"] * arguments.with_published
    reported = run([str(HERE / "report.py"), "--results", arguments.results, *beside])  # of what there is
    return worse(status, reported)


if __name__ == "__main__":
    sys.exit(main())
