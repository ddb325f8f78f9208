"""Kill -9 at random moments of a sweep, over and over, let it finish, and compare with an uninterrupted one.

    python tests/faults/kills.py --kills 100 [--checkout OTHER] [--seed 0]

Run by hand, for half an hour. A sweep of eight runs of unequal length, two at once with as many threads as the machine
gives them, is killed at random moments since a run began to train: all of its processes, its parent alone (whose
workers must then end), or one worker alone (which must cost its own run, and no other). The same command continues it,
and is killed again; after some 25 kills it is left to finish. Those that hit a run in training are counted. They held
where every record is that of the uninterrupted sweep, to the last digit, but for the seconds it took.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

GRID = ["-m", "network=plain,residual", "depth=8", "length=1,5", "seed=0,1"]
SETTINGS = ["protocol=smoke", "data=synthetic"]
SETTINGS += ["network.width=4", "logger=none", "machine=cpu", "machine.checkpoint_seconds=0"]
A_ROUND = 25  # kills, before the sweep is left to finish
PATIENCE = 3600  # seconds in which a sweep must end, on a machine that others use, too
WORDS = ("final", "outcome", "iteration", "run_id")


def start(checkout: Path, results: Path, grid: list[str], told: Path) -> subprocess.Popen[bytes]:
    """The sweep, in a process group of its own; what it prints goes to a file."""
    command = [sys.executable, str(checkout / "experiments" / "train.py"), *grid, *SETTINGS, f"paths.results={results}"]
    environment = {**os.environ, "JOBS": "2", "PYTHONPATH": str(checkout / "src")}
    with open(told, "w") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file, process_group=0)


def group(leader: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found


def training(results: Path) -> dict[int, str]:
    """The processes that train below a results folder, those with a record's lock open: of each, the run."""
    found = {}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = Path(os.readlink(link))
        except OSError:
            continue
        if target.name == ".lock" and target.is_relative_to(results):
            found[int(link.parts[2])] = target.parent.name
    return found


def end(leader: int) -> None:
    """Kill whatever is left of a group."""
    for pid in group(leader):
        os.kill(pid, signal.SIGKILL)


def failed(told: Path) -> list[str]:
    """The lines of the closing table that tell of a failure."""
    _, _, table = told.read_text().rpartition("\nrun ")
    return [line for line in table.splitlines() if " failed " in line]


def differences(results: Path, expected: Path) -> list[str]:
    """What is not as in the uninterrupted sweep."""
    found = []
    for folder in sorted((expected / "runs").iterdir()):
        ours = results / "runs" / folder.name
        if not (ours / "summary.json").exists():
            found.append(f"{folder.name}: not finished")
            continue
        for name in ("metrics.csv", "gradients.csv", "responses.csv", "wrong.csv"):
            last = -1 if name == "metrics.csv" else None  # the seconds
            texts = [[line.split(",")[:last] for line in (f / name).read_text().splitlines()] for f in (ours, folder)]
            if texts[0] != texts[1]:
                found.append(f"{folder.name}: {name}")
        summaries = [json.loads((f / "summary.json").read_text()) for f in (ours, folder)]
        found += [f"{folder.name}: {word}" for word in WORDS if summaries[0][word] != summaries[1][word]]
        weights = [torch.load(f / "network.pt", weights_only=True) for f in (ours, folder)]
        if not all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1]):
            found.append(f"{folder.name}: network.pt")
    return found


def interrupt(
    process: subprocess.Popen[bytes], results: Path, kinds: list[str], within: float
) -> tuple[list[str], list[str]]:
    """Kill parts of a sweep at random moments until all of it is gone, or it ended by itself.

    Returns:
        The kinds of the kills that hit a run in training, and the runs whose workers were killed alone.
    """
    hits: list[str] = []
    alone: list[str] = []
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        if not training(results):
            time.sleep(0.5)
            continue
        time.sleep(random.uniform(0, within))
        if not (found := training(results)):
            continue
        hits.append(random.choice(kinds))
        if hits[-1] == "worker":
            pid, run = random.choice(list(found.items()))
            os.kill(pid, signal.SIGKILL)
            alone.append(run)
            while pid in group(process.pid):
                time.sleep(0.01)
        else:
            (process.kill if hits[-1] == "parent" else lambda: os.killpg(process.pid, signal.SIGKILL))()
            break
    return hits, alone


def attempt(arguments: argparse.Namespace, results: Path, expected: Path, most: int) -> tuple[list[str], list[str]]:
    """A sweep that is killed until it is done, or so often; the kinds of the kills, and what did not hold."""
    hits: list[str] = []
    wrong: list[str] = []
    told = results.with_suffix(".txt")
    while True:
        process = start(arguments.checkout, results, GRID, told)
        left = max(0, most - len(hits))
        try:
            kinds = arguments.kinds.split(",")
            new, alone = interrupt(process, results, kinds, arguments.within) if left else ([], [])
            if new[-1:] == ["parent"]:
                deadline = time.monotonic() + 120
                while group(process.pid) and time.monotonic() < deadline:
                    time.sleep(0.1)
                if found := training(results):
                    wrong.append(f"{len(found)} workers train without their parent")
            hits += new
            print(f"  {', '.join(new) or 'none'} killed, {len(hits)} in all", flush=True)
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return hits, [*wrong, "hangs"]
        finally:
            end(process.pid)
        if "Traceback" in told.read_text():
            wrong.append(f"a traceback: {told.read_text().splitlines()[-1]}")
        if status >= 0:  # it came to its end, with some workers killed or none
            lines = failed(told)
            if len(lines) != len(alone) or not all("SIGKILL" in line for line in lines):
                wrong.append(f"{len(alone)} workers killed, told as {lines}")
            if status != bool(alone):
                wrong.append(f"{len(alone)} workers killed, status {status}")
            if not alone:
                return hits, wrong + differences(results, expected)


def main() -> int:
    """Exit status 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="that hit a run in training (default: %(default)s)")
    kinds = "all,parent" + 6 * ",worker"  # a start, which is what takes time, has several kills then
    parser.add_argument("--kinds", default=kinds, help="chosen from at random (default: %(default)s)")
    parser.add_argument("--within", type=float, default=4.0, help="seconds after a run began (default: %(default)s)")
    parser.add_argument("--checkout", type=Path, default=Path(__file__).parents[2], help="default: this one")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--expected", type=Path, help="the results of the uninterrupted sweep; made where not there")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    expected = arguments.expected or folder / "expected"
    began = time.monotonic()
    if not expected.exists():
        start(arguments.checkout, expected, GRID, folder / "expected.txt").wait()
        if len(list((expected / "runs").glob("*/summary.json"))) != 8:
            raise SystemExit((folder / "expected.txt").read_text())
    print(f"uninterrupted: {time.monotonic() - began:.0f} s", flush=True)
    tried: collections.Counter[str] = collections.Counter()
    held: collections.Counter[str] = collections.Counter()
    number = 0
    while tried.total() < arguments.kills:
        number += 1
        results = folder / f"round-{number}"
        hits, wrong = attempt(arguments, results, expected, min(A_ROUND, arguments.kills - tried.total()))
        tried.update(hits)
        held.update(hits if not wrong else ())
        took = f"{time.monotonic() - began:.0f} s"
        print(f"round {number}: {len(hits)} kills ({took} in all): {'; '.join(wrong) or 'held'}", flush=True)
        if not wrong:
            shutil.rmtree(results)
    for kind in tried:
        print(f"kill -9 of {kind:<8} tried {tried[kind]:>3}   held {held[kind]:>3}")
    print(f"kill -9, all        tried {tried.total():>3}   held {held.total():>3}")
    if tried == held:
        shutil.rmtree(folder)
    return int(tried != held)


if __name__ == "__main__":
    sys.exit(main())
