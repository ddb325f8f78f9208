"""A sweep of four of which one run needs more memory than there is: tried and held, with the table that it prints.

    python tests/faults/memory.py [--limit 5.3] [--checkout OTHER]

Run by hand, for some minutes; needs 6 GiB. In the first trial memory ends as under `ulimit -v`, and the allocation
fails; in the second the process with the most memory is killed, as the kernel does. It held where that run is told in
one line, the other three finish, the table has all four, the status is 1, and the same command, with the memory,
finishes the fourth.
"""

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kills import end, failed, group

GRID = ["-m", "network=residual", "network.width=4", "depth=8,14,20,200", "protocol.batch_size=512"]
SETTINGS = ["protocol=smoke", "protocol.iterations=2", "data=synthetic", "logger=none", "machine=cpu"]
SETTINGS += ["machine.threads=1"]
MUCH = 2 * 2**30  # bytes, which the large run alone has


def sweep(checkout: Path, results: Path, told: Path, limit: int | None = None, kill: bool = False) -> int:
    """The exit status of the sweep, with so many bytes of virtual memory, or with the largest process killed."""

    def restrict() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    command = [sys.executable, str(checkout / "experiments" / "train.py"), *GRID, *SETTINGS, f"paths.results={results}"]
    environment = {**os.environ, "JOBS": "2", "PYTHONPATH": str(checkout / "src")}
    with open(told, "w") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, process_group=0, preexec_fn=restrict
        )
    try:
        while kill and process.poll() is None:
            size, pid = max([(resident(pid), pid) for pid in group(process.pid)], default=(0, 0))
            if size > MUCH:
                os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.1)
        return process.wait(1200)
    finally:
        end(process.pid)


def resident(pid: int) -> int:
    """Bytes of memory that a process has; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def main() -> int:
    """Exit status 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=5.3, help="GiB of virtual memory (default: %(default)s)")
    parser.add_argument("--checkout", type=Path, default=Path(__file__).parents[2], help="default: this one")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="memory-"))
    trials = {"ulimit -v": {"limit": int(arguments.limit * 2**30)}, "killed": {"kill": True}}
    held = 0
    for name, trial in trials.items():
        results, told = folder / name, folder / f"{name}.txt"
        status = sweep(arguments.checkout, results, told, **trial)
        print(f"{name}: status {status}\n{told.read_text()}", flush=True)
        lines, ended = failed(told), len(list(results.glob("runs/*/summary.json")))
        wrong = [] if status == 1 else [f"status {status}"]
        wrong += [] if len(lines) == 1 and "residual-200" in lines[0] else [f"told as {lines}"]
        wrong += [] if ended == 3 else [f"{ended} others finished"]
        wrong += ["a traceback"] if "Traceback" in told.read_text() else []
        status = sweep(arguments.checkout, results, told)
        print(f"{name}, continued: status {status}\n{told.read_text()}", flush=True)
        if status or len(list(results.glob("runs/*/summary.json"))) != 4:
            wrong.append("continued: does not finish")
        held += not wrong
        print(f"{name}: {'; '.join(wrong) or 'held'}\n", flush=True)
    shutil.rmtree(folder)
    print(f"memory that does not suffice: tried {len(trials)}, held {held}")
    return int(held != len(trials))


if __name__ == "__main__":
    sys.exit(main())
