"""A sweep of runs: the plan printed first, the runs longest first, the closing table and the exit status."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus

from degradation.config import Architecture, Config, ConfigError, parse
from degradation.data.images import load
from degradation.record import RecordError, read_summary, read_varied
from degradation.train import machine as machines
from degradation.train.callbacks import BEGAN, STOP_FILE, format_seconds
from degradation.train.run import Outcome, calibrate, exit_status

EVALUATION = 1 / 3  # of an image's time in training: forward alone, of forward and backward
JOBS_ENV, TOTAL_ENV = "DEGRADATION_JOBS", "DEGRADATION_RUNS"


def is_finished(config: Config) -> bool:
    try:
        return read_summary(config.folder)["outcome"] == "finished"
    except RecordError:  # which the run itself will tell
        return False


def find_published(configs: list[Config], precision: str) -> tuple[dict[str, Outcome], str]:
    """The runs, by id, that `paths.published` holds in this precision (another makes no pair), and words for it."""
    done, others = {}, set()
    for config in configs:
        folder = Path(config.paths.published or "") / "runs" / config.run_id
        if config.paths.published and (folder / "summary.json").exists():
            summary = read_summary(folder)
            if summary["precision"] != precision:
                others.add(summary["precision"])
                continue
            label, told = config.label(read_varied(summary)), summary.get("message", "")
            done[config.run_id] = Outcome(config.run_id, "published", told, summary["final"], label=label)
    line = f"{len(done)} published already; " if done else ""
    if others:
        line += f"those published in {' and '.join(sorted(others))} make no pairs with {precision}, and do not count; "
    return done, line


def count_jobs(wanted: Any, runs: int, device: str) -> int:
    """How many runs at once: as asked; else one on a GPU, and on a CPU as many as there are cores and runs."""
    if wanted in (None, "", "auto"):
        return 1 if device == "cuda" else max(1, min(machines.available_cores(), runs))
    if not str(wanted).isdigit() or int(wanted) < 1:
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


def estimate_seconds(todo: list[Config], jobs: int) -> dict[str, float]:
    """Of each run, by id, from a short timing of this machine; a DataError where images are missing."""
    # The images are loaded here, so that they fail, or are downloaded, once and before any run.
    sizes = {data: [len(part or ()) for part in load(data, todo[0].paths.data)] for data in {c.data for c in todo}}
    timings: dict[Any, Callable[[Architecture], float]] = {}
    seconds = {}
    for config in todo:
        key = (config.protocol.batch_size, config.network.family, config.network.width)
        timings[key] = timings.get(key) or calibrate(config, jobs)
        protocol, (training, test, held_out) = config.protocol, sizes[config.data]
        evaluated = protocol.iterations // protocol.evaluate_every * (test + held_out) + training + 2 * test
        steps = protocol.iterations + EVALUATION * evaluated / protocol.batch_size
        seconds[config.run_id] = steps * timings[key](config.network)
    return seconds


def describe_time(estimate: dict[str, float], finished: int, jobs: int) -> str:
    """How long the sweep should take, the longest runs started first."""
    lanes = [0.0] * jobs
    for seconds in sorted(estimate.values(), reverse=True):
        lanes[lanes.index(min(lanes))] += seconds
    done = f"{finished} finished already; " if finished else ""
    return f"{done}about {format_seconds(max(lanes))}, from a timing of this machine just now"


def closing_table(outcomes: list[Outcome]) -> str:
    """One line per run: how it ended, and its errors."""
    width = max(len(outcome.label or outcome.run_id) for outcome in outcomes)
    lines = [f"{'run':<{width}}  {'outcome':<13}  {'train error':>11}  {'test error':>10}  record"]
    for o in outcomes:
        errors = f"{o.final['train_error']:>9.2f} %  {o.final['test_error']:>8.2f} %  {o.run_id}" if o.final else ""
        lines.append(f"{o.label or o.run_id:<{width}}  {o.status:<13}  {errors or '  ' + o.message}")
    return "\n".join(lines)


def launch(
    launcher: Any, run: Callable[..., Sequence[JobReturn]], overrides: Sequence[Sequence[str]], first_index: int
) -> Sequence[JobReturn]:
    """Plan, run and report the jobs of a Hydra sweep through `run`, the joblib launcher's own method.

    Raises:
        ConfigError, DataError: before anything starts.
        SystemExit: with a distinct status where a run failed, was stopped or ran out of budget.
    """
    jobs_by_id: dict[str, tuple[Config, Sequence[str]]] = {}
    for override in overrides:
        composed = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(override))
        HydraConfig.instance().set_config(composed)
        config = parse(composed)
        # Hydra repeats a job where the command line narrows an axis of the study; the identity tells.
        jobs_by_id[config.run_id] = (config, override)
    configs = [config for config, _ in jobs_by_id.values()]
    machine = machines.resolve(configs[0].machine)
    done, told = find_published(configs, machine.precision)
    todo = [config for config in configs if config.run_id not in done and not is_finished(config)]
    device = machine.device
    jobs = count_jobs(launcher.wanted_jobs, len(todo) or 1, device)
    print(describe_grid(configs, jobs), flush=True)
    estimate = estimate_seconds(todo, jobs)
    print(told + describe_time(estimate, len(configs) - len(done) - len(todo), jobs), flush=True)
    # Longest first: the cores are then busy to the end.
    order = sorted((run_id for run_id in jobs_by_id if run_id not in done), key=lambda id: -estimate.get(id, 0.0))
    launcher.joblib["n_jobs"] = jobs
    with tempfile.TemporaryDirectory() as folder:
        stop_file = Path(folder) / "stop"
        os.environ |= {
            BEGAN: os.environ.get(BEGAN, str(time.time())),
            STOP_FILE: str(stop_file),
            JOBS_ENV: str(jobs),
            TOTAL_ENV: str(len(order)),
        }
        handler: Any = lambda *_: stop_file.touch()  # noqa: E731  workers checkpoint, and later jobs do not start
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        share = machines.multi_process_service() if device == "cuda" and jobs > 1 else nullcontext(False)
        try:
            with share as shared:
                if shared:
                    print("the runs share the GPU through CUDA MPS", flush=True)
                returns = run([jobs_by_id[run_id][1] for run_id in order], first_index) if order else []
        finally:
            for number, old in before.items():
                signal.signal(number, old)
            for name in (BEGAN, STOP_FILE, JOBS_ENV, TOTAL_ENV):
                os.environ.pop(name, None)
    outcomes = [
        r.return_value if r.status == JobStatus.COMPLETED else Outcome(run_id, "failed", repr(r._return_value))
        for run_id, r in zip(order, returns, strict=True)
    ]
    by_id = {outcome.run_id: outcome for outcome in outcomes} | done
    print("\n" + closing_table([by_id[run_id] for run_id in jobs_by_id]), flush=True)
    if status := exit_status(outcomes):
        sys.exit(status)
    return returns
