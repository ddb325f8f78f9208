"""Kill -9 at random moments of a sweep, continue it, and compare with an uninterrupted one: tried and held, by kind.

    python tests/faults/kills.py --rounds 30 [--checkout OTHER] [--seed 0]

Run by hand: a round takes half a minute. A sweep of four runs of unequal length, two at once with as many threads as
the machine gives them, is killed: all of its processes, its parent alone (whose workers must then end), or one worker
alone (which must cost its own run, and no other). Then the same command continues it. It held where every record is
that of the uninterrupted sweep, to the last digit, but for the seconds it took.
"""

import argparse
import collections
import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

GRID = ["-m", "network=plain,residual", "depth=8", "length=1,5"]
SETTINGS = ["protocol=smoke", "data=synthetic"]
SETTINGS += ["network.width=4", "logger=none", "machine=cpu", "machine.checkpoint_seconds=0"]
PATIENCE = 300  # seconds in which a sweep must end
WORDS = ("final", "outcome", "iteration", "run_id")


def start(checkout: Path, results: Path) -> subprocess.Popen[str]:
    """The sweep, in a process group of its own."""
    command = [sys.executable, str(checkout / "experiments" / "train.py"), *GRID, *SETTINGS, f"paths.results={results}"]
    environment = {**os.environ, "JOBS": "2", "PYTHONPATH": str(checkout / "src")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload]


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


def training(results: Path) -> list[int]:
    """The processes that train, below a results folder: those with a record's lock open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith(f"{results}/") and target.endswith("/.lock"):
            found.add(int(link.parts[2]))
    return sorted(found)


def differences(results: Path, expected: Path) -> list[str]:
    """What is not as in the uninterrupted sweep."""
    found = []
    for folder in sorted((expected / "runs").iterdir()):
        ours = results / "runs" / folder.name
        if not (ours / "summary.json").exists():
            found.append(f"{folder.name}: not finished")
            continue
        for name in ("metrics.csv", "gradients.csv", "responses.csv"):
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


def attempt(checkout: Path, results: Path, expected: Path, kind: str, moment: float) -> list[str]:
    """One sweep, killed at a moment (s since its first run began) and continued; what did not hold."""
    wrong = []
    process = start(checkout, results)
    try:
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and not training(results) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(moment)
        if kind == "worker":
            if victims := training(results):
                os.kill(random.choice(victims), signal.SIGKILL)
            told, _ = process.communicate(timeout=PATIENCE)
            finished = len(list((results / "runs").glob("*/summary.json")))
            if finished < 3:
                wrong.append(f"one worker killed, {finished} of 4 runs finished")
            if finished < 4 and "\nrun " not in told:
                wrong.append("no table")
        elif kind == "parent":
            process.kill()
            end = time.monotonic() + 15
            while group(process.pid) and time.monotonic() < end:
                time.sleep(0.1)
            if left := training(results):
                wrong.append(f"{len(left)} workers train without their parent")
        else:
            os.killpg(process.pid, signal.SIGKILL)
    except subprocess.TimeoutExpired:
        wrong.append("hangs")
    finally:
        for pid in group(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()
    again = start(checkout, results)
    try:
        told, _ = again.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(again.pid, signal.SIGKILL)
        return [*wrong, "hangs when continued"]
    if again.returncode:
        wrong.append(f"continued: status {again.returncode}, {told.splitlines()[-1:]}")
    return wrong + differences(results, expected)


def attempt_here(results: Path, expected: Path, moments: list[float]) -> tuple[int, list[str]]:
    """The runs of the sweep, started from here as a sweep does, which saves the imports: killed at each moment in turn.

    Killed are both workers or one of them; what was killed is to be told, and nothing else is to be lost. Returns how
    many were killed, and what did not hold.
    """
    import hydra

    from degradation.config import parse
    from degradation.sweep import _run_each

    wrong, configs, killed = [], [], 0
    with hydra.initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
        for network in ("plain", "residual"):
            for length in (5, 1):
                named = [f"network={network}", "depth=8", f"length={length}", f"paths.results={results}"]
                configs.append(parse(hydra.compose("train", [*SETTINGS, *named])))
    for moment in [*moments, None]:
        victims: list[int] = []

        def kill(victims: list[int] = victims) -> None:
            found = training(results)
            victims += random.sample(found, min(len(found), random.choice((1, 2))))
            for victim in victims:
                os.kill(victim, signal.SIGKILL)

        timer = threading.Timer(moment or 0, kill)
        if moment is not None:
            timer.start()
        ended = collections.Counter(outcome.status for outcome in _run_each(configs, 2, lambda _: {}))
        timer.cancel()
        killed += len(victims)
        if ended["failed"] > len(victims) or ended["failed"] + ended["finished"] + ended["skipped"] != len(configs):
            wrong.append(f"{len(victims)} killed: {dict(ended)}")
    return killed, wrong + differences(results, expected)


def main() -> int:
    """Exit status 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--kinds", default="all,parent,worker", help="or here: three kills of workers, and no imports")
    parser.add_argument("--within", type=float, default=4.0, help="seconds after the first run began (%(default)s)")
    parser.add_argument("--checkout", type=Path, default=Path(__file__).parents[2], help="default: this one")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--expected", type=Path, help="the results of the uninterrupted sweep; made where not there")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    expected = arguments.expected or folder / "expected"
    began = time.monotonic()
    if not expected.exists():
        told, _ = start(arguments.checkout, expected).communicate()
        if len(list((expected / "runs").glob("*/summary.json"))) != 4:
            raise SystemExit(told)
    print(f"uninterrupted: {time.monotonic() - began:.0f} s", flush=True)
    tried: collections.Counter[str] = collections.Counter()
    held: collections.Counter[str] = collections.Counter()
    kinds = arguments.kinds.split(",")
    for number in range(arguments.rounds):
        kind, moment = kinds[number % len(kinds)], random.uniform(0, arguments.within)
        results = folder / f"round-{number}"
        if kind == "here":
            with contextlib.redirect_stdout(io.StringIO()):
                moments = [random.uniform(0, arguments.within) for _ in range(3)]
                killed, wrong = attempt_here(results, expected, moments)
            told = f"{killed} workers"
        else:
            wrong, told = attempt(arguments.checkout, results, expected, kind, moment), f"{kind} after {moment:.2f} s"
        tried[kind] += 1
        held[kind] += not wrong
        print(f"round {number + 1}: {told} killed: {'; '.join(wrong) or 'held'}", flush=True)
        shutil.rmtree(results)
    for kind in tried:
        print(f"kill -9 of {kind:<8} tried {tried[kind]:>3}   held {held[kind]:>3}")
    shutil.rmtree(folder, ignore_errors=True)
    return int(tried != held)


if __name__ == "__main__":
    sys.exit(main())
