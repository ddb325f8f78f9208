"""A sweep of runs: the plan printed first, the runs longest first, the closing table and the exit status."""

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from degradation import processes
from degradation.config import Architecture, Config, ConfigError, DataConfig, find_records, parse
from degradation.ending import SIGNALS, Stop
from degradation.record import RecordError, read_summary, read_varied
from degradation.train import machine as machines
from degradation.train.callbacks import BEGAN, format_seconds
from degradation.train.run import Outcome, calibrate, exit_status, final_errors, load_images, train
from degradation.train.tracking import find_mode

EVALUATION = 1 / 3  # of an image's time in training: forward alone, of forward and backward
Origin = Callable[[Config], dict[str, Any]]
Sizes = dict[DataConfig, list[int]]


def is_finished(config: Config) -> bool:
    try:
        return read_summary(config.folder)["outcome"] == "finished"
    except RecordError:  # which the run itself will tell
        return False


def find_published(configs: list[Config], precision: str) -> tuple[dict[str, Outcome], str]:
    """The runs, by id, that `paths.published` holds in this precision (another makes no pair), and words for it."""
    done, others = {}, set()
    for config in configs:
        there = find_records(config.paths.published, config.run_id) if config.paths.published else ()
        summaries = {folder: read_summary(folder) for folder in there if (folder / "summary.json").exists()}
        for folder, summary in summaries.items():
            if summary["precision"] == precision:
                final = final_errors(folder, config.protocol) if summary["final"] else None
                told = {"label": config.label(read_varied(summary)), "message": summary.get("message", "")}
                done[config.run_id] = Outcome(config.run_id, "published", final=final, folder="published", **told)
        if config.run_id not in done:
            others |= {summary["precision"] for summary in summaries.values()}
    line = f"{len(done)} published already; " if done else ""
    if others:
        line += f"those published in {' and '.join(sorted(others))} make no pairs with {precision}, and do not count; "
    return done, line


def count_jobs(wanted: Any, runs: int, device: str) -> int:
    """How many runs at once: as asked; else one on a GPU, and on a CPU as many as there are cores and runs."""
    if wanted in (None, "", "auto"):
        return 1 if device == "cuda" else max(1, min(machines.available_cores(), runs))
    if not str(wanted).isdecimal() or int(wanted) < 1:
        raise ConfigError(f"JOBS={wanted} must be auto or at least 1")
    return min(int(wanted), max(1, runs))


def describe_grid(configs: list[Config], jobs: int) -> str:
    """What will be trained, on what: the first thing printed."""
    first = configs[0]
    machine = machines.resolve(first.machine, jobs)

    def values(of: Callable[[Config], Any]) -> str:
        return ", ".join(str(value) for value in sorted({of(config) for config in configs}))

    threads = "" if machine.device == "cuda" else f", {machine.threads} thread(s) each"
    where = f"{machine.device}, {machine.precision}, {machine.execution}{threads}"
    return (
        f"protocol {values(lambda c: c.protocol.name)}: {len(configs)} run(s): {values(lambda c: c.network.name)}; "
        f"depth {values(lambda c: c.network.depth)}; seed {values(lambda c: c.seed)}\n"
        f"{first.protocol.iterations:,} iterations of {first.protocol.batch_size} images of {first.data.name}, "
        f"{jobs} run(s) at once on {where}; records in {first.paths.results}/runs"
    )


def check(todo: list[Config]) -> Sizes:
    """The number of training, test and held-out images of each data config, before anything is made or begun.

    The images are loaded here, so that they fail, or are downloaded, once and before any run.

    Raises:
        ConfigError, DataError: what the runs ask for is not what this machine, its disk, or the images can give.
    """
    for config in todo:
        machines.resolve(config.machine)
        results = Path(config.paths.results).absolute()
        place = next(path for path in (results, *results.parents) if path.exists())
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(f"cannot write to {place}; name another folder with RESULTS_DIR= or paths.results=")
    needs = {(c.data, c.protocol.batch_size, c.network.classes): c for c in todo}
    return {data: [len(part or ()) for part in load_images(config)] for (data, *_), config in needs.items()}


def estimate_seconds(todo: list[Config], sizes: Sizes, jobs: int) -> dict[str, float]:
    """Of each run, by id, from a short timing of this machine; of none that this machine has not the memory for."""
    timings: dict[Any, Callable[[Architecture], float]] = {}
    seconds = {}
    for config in todo:
        key = (config.protocol.batch_size, config.network.family, config.network.width, config.data.crop)
        with suppress(RuntimeError, MemoryError):
            timings[key] = timings.get(key) or calibrate(config, jobs)
            protocol, (training, test, held_out) = config.protocol, sizes[config.data]
            evaluated = protocol.iterations // protocol.evaluate_every * (test + held_out) + 2 * training + 7 * test
            steps = protocol.iterations + EVALUATION * evaluated / protocol.batch_size
            seconds[config.run_id] = steps * timings[key](config.network)
    return seconds


def describe_time(todo: list[Config], estimate: dict[str, float], finished: int, jobs: int) -> str:
    """How long the sweep should take, the longest runs started first."""
    lanes = [0.0] * jobs
    for seconds in sorted(estimate.values(), reverse=True):
        lanes[lanes.index(min(lanes))] += seconds
    told = [f"{finished} finished already"] if finished else []
    if unknown := len(todo) - len(estimate):
        told.append(f"{unknown} run(s) could not be timed, as where memory does not suffice")
    if estimate:
        told.append(f"about {format_seconds(max(lanes))}, from a timing of this machine just now")
    return "; ".join(told) or "nothing to train"


def closing_table(outcomes: list[Outcome]) -> str:
    """One line per run: how it ended, and its errors."""
    width = max(len(outcome.label or outcome.run_id) for outcome in outcomes)
    lines = [f"{'run':<{width}}  {'outcome':<13}  {'train error':>11}  {'test error':>10}  record"]
    for o in outcomes:
        errors = f"{o.final['train_error']:>9.2f} %  {o.final['test_error']:>8.2f} %  {o.folder}" if o.final else ""
        lines.append(f"{o.label or o.run_id:<{width}}  {o.status:<13}  {errors or '  ' + o.message}")
    return "\n".join(lines)


def _train(asked: Any, *arguments: Any) -> Outcome:
    Stop.sweep = asked
    Stop.listen()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return train(*arguments)


def _run_each(configs: list[Config], jobs: int, origin: Origin) -> Iterator[Outcome]:
    """Each run in a process of its own, so many at once: one that is killed costs itself alone, and is told, too."""
    asked, waiting = processes.CONTEXT.RawValue("b", 0), list(enumerate(configs, 1))
    running: dict[Any, Any] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            number, config = waiting.pop(0)
            told = origin(config)
            process, receive = processes.start(_train, asked, config, jobs, f"{number}/{len(configs)}", told)
            running[process.sentinel] = (process, receive, config, config.label(told.get("varied", {})))
        for sentinel in wait(list(running), timeout=0.5):
            process, receive, config, label = running.pop(sentinel)
            process.join()
            try:
                yield receive.recv()
            except EOFError:
                ended = "stopped" if Stop.requested else "failed"
                yield Outcome(config.run_id, ended, _describe_end(process.exitcode or 0), label=label)
        asked.value = Stop.requested


def _describe_end(status: int) -> str:
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    why = ", as when memory runs out" if status == -signal.SIGKILL else ""
    return f"its process {how}{why}; the same command continues it"


def _estimate(todo: list[Config], sizes: Sizes, jobs: int) -> dict[str, float]:
    # Elsewhere: a run that is too large for this machine must not end the sweep, not even where it is timed. On a CPU
    # so many at once as will run, as they share caches and the two threads of a core; the slowest tells.
    beside = jobs if machines.resolve(todo[0].machine).device == "cpu" else 1
    estimates: list[dict[str, float]] = []
    for process, receive in [processes.start(estimate_seconds, todo, sizes, jobs) for _ in range(beside)]:
        with suppress(EOFError):
            estimates.append(receive.recv())
        process.join()
    shared = set.intersection(*map(set, estimates)) if len(estimates) == beside else set()
    return {run_id: max(estimate[run_id] for estimate in estimates) for run_id in shared}


def launch(composed: list[DictConfig], wanted_jobs: Any, origin: Origin) -> Sequence[JobReturn]:
    """Plan, run and report the runs of a Hydra sweep; `origin` tells where their settings come from (cli.origin).

    Raises:
        ConfigError, DataError: before anything starts.
        SystemExit: with a distinct status where a run failed, diverged, was stopped or ran out of budget.
    """
    by_id: dict[str, Config] = {}
    for each in composed:
        HydraConfig.instance().set_config(each)
        # Hydra repeats a job where the command line narrows an axis of the study; the identity tells.
        config = parse(each)
        by_id[config.run_id] = config
    configs = list(by_id.values())
    machine = machines.resolve(configs[0].machine)
    outcomes, told = find_published(configs, machine.precision)
    todo = [config for config in configs if config.run_id not in outcomes and not is_finished(config)]
    jobs = count_jobs(wanted_jobs, len(todo) or 1, machine.device)
    sizes = check(todo)
    print(describe_grid(configs, jobs), flush=True)
    estimate = _estimate(todo, sizes, jobs) if todo else {}
    print(told + describe_time(todo, estimate, len(configs) - len(outcomes) - len(todo), jobs), flush=True)
    # Longest first: the cores are then busy to the end.
    todo.sort(key=lambda config: -estimate.get(config.run_id, math.inf))
    others = [config for config in configs if config.run_id not in outcomes and config not in todo]
    outcomes |= {config.run_id: train(config, origin=origin(config)) for config in others}  # says that it is skipped
    if configs[0].logger.name != "none":
        find_mode()  # once, and not in every run
    Stop.listen()
    os.environ.setdefault(BEGAN, str(time.time()))
    share = machines.multi_process_service() if machine.device == "cuda" and jobs > 1 else nullcontext(False)
    try:
        with share as shared:
            if shared:
                print("the runs share the GPU through CUDA MPS", flush=True)
            for outcome in _run_each(todo, jobs, origin):
                outcomes[outcome.run_id] = outcome
    finally:
        os.environ.pop(BEGAN, None)
    ended = [outcomes[run_id] for run_id in by_id]
    print("\n" + closing_table(ended), flush=True)
    if status := exit_status(ended):
        sys.exit(status)
    return [JobReturn(status=JobStatus.COMPLETED, _return_value=outcome) for outcome in ended]
