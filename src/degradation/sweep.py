"""A sweep of runs: the plan printed first, the runs longest first, the closing table and the exit status.

Whatever needs torch is done in processes of its own (processes.py): this one waits, and stays small.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from degradation import processes
from degradation.config import Config, ConfigError, MachineConfig, Sizes, find_records, parse
from degradation.ending import SIGNALS, Stop
from degradation.record import RecordError, name_precision, read_summary, read_varied
from degradation.train.outcome import BEGAN, Outcome, exit_status, final_errors, format_seconds
from degradation.train.tracking import find_mode

Origin = Callable[[Config], dict[str, Any]]


def is_finished(config: Config) -> bool:
    try:
        return read_summary(config.folder)["outcome"] == "finished"
    except RecordError:  # which the run itself will tell
        return False


def find_published(configs: list[Config], machine: MachineConfig) -> tuple[dict[str, Outcome], str]:
    """The runs, by id, that `paths.published` holds of such a device and precision (others make no pairs), and words.

    Of the machine nothing is `auto` any more.
    """
    done, others, precision = {}, set(), name_precision(asdict(machine))
    for config in configs:
        there = find_records(config.paths.published, config.run_id) if config.paths.published else ()
        summaries = {folder: read_summary(folder) for folder in there if (folder / "summary.json").exists()}
        for folder, summary in summaries.items():
            if name_precision(summary) == precision:
                final = final_errors(folder, config) if summary["final"] else None
                told = {"label": config.label(read_varied(summary)), "message": summary.get("message", "")}
                done[config.run_id] = Outcome(config.run_id, "published", final=final, folder="published", **told)
        if config.run_id not in done:
            others |= set(map(name_precision, summaries.values()))
    line = f"{len(done)} published already; " if done else ""
    if others:
        line += f"those published in {' and '.join(sorted(others))} make no pairs with {precision}, and do not count; "
    return done, line


def describe_time(
    todo: list[Config], estimate: dict[str, float], finished: int, jobs: int, one_gpu: bool = False
) -> str:
    """How long the sweep should take, the longest runs started first; on one GPU, at most as if one after another."""
    lanes = [0.0] * (1 if one_gpu else jobs)
    for seconds in sorted(estimate.values(), reverse=True):
        lanes[lanes.index(min(lanes))] += seconds
    told = [f"{finished} finished already"] if finished else []
    if unknown := len(todo) - len(estimate):
        told.append(f"{unknown} run(s) could not be timed, as where memory does not suffice")
    if estimate:
        about = "at most about" if one_gpu and jobs > 1 else "about"
        told.append(f"{about} {format_seconds(max(lanes))}, from a timing of this machine just now")
    return "; ".join(told) or "nothing to train"


def closing_table(outcomes: list[Outcome]) -> str:
    """One line per run: how it ended, and its errors."""
    width = max(len(outcome.label) for outcome in outcomes)
    lines = [f"{'run':<{width}}  {'outcome':<13}  {'train error':>11}  {'test error':>10}  record"]
    for o in outcomes:
        errors = f"{o.final['train_error']:>9.2f} %  {o.final['test_error']:>8.2f} %  {o.folder}" if o.final else ""
        lines.append(f"{o.label:<{width}}  {o.status:<13}  {errors or '  ' + o.message}")
    return "\n".join(lines)


def _train(asked: Any, device: str, config: Config, *arguments: Any) -> Outcome:
    from degradation.train.machine import cuda_trouble
    from degradation.train.run import train

    if device == "cuda" and (trouble := cuda_trouble()):  # since it was planned: on the CPU it would take days
        return Outcome(config.run_id, "failed", f"{trouble}; the same command continues", label=config.label({}))
    Stop.sweep = asked
    Stop.listen()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return train(config, *arguments)


def _run_each(configs: list[Config], device: str, jobs: int, origin: Origin) -> Iterator[Outcome]:
    """Each run in a process of its own, so many at once: one that is killed costs itself alone, and is told, too."""
    asked, waiting = processes.CONTEXT.RawValue("b", 0), list(enumerate(configs, 1))
    running: dict[Any, Any] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            number, config = waiting.pop(0)
            told = origin(config)
            process, receive = processes.start(_train, asked, device, config, jobs, f"{number}/{len(configs)}", told)
            running[process.sentinel] = (process, receive, config, config.label(told.get("varied", {})))
        for sentinel in wait(list(running), timeout=0.5):
            process, receive, config, label = running.pop(sentinel)
            process.join()
            try:
                yield receive.recv()
            except EOFError:
                ended = "stopped" if Stop.requested else "failed"
                how = processes.describe_end(process.exitcode or 0)
                message = f"its process {how}; the same command continues it"
                yield Outcome(config.run_id, ended, message, label=label)
        asked.value = Stop.requested


class Plan(NamedTuple):
    """What a sweep has to do, and on what."""

    published: dict[str, Outcome]  # by run id
    todo: list[Config]
    sizes: Sizes
    jobs: int
    device: str
    grid: str  # the words for it
    told: str


def _plan(configs: list[Config], wanted_jobs: Any) -> Plan:
    from degradation.train.machine import resolve
    from degradation.train.plan import check, count_jobs, describe_grid

    machine = resolve(configs[0].machine)
    published, told = find_published(configs, machine)
    todo = [config for config in configs if config.run_id not in published and not is_finished(config)]
    jobs = count_jobs(wanted_jobs, len(todo) or 1, machine.device)
    sizes = check(todo)
    return Plan(published, todo, sizes, jobs, machine.device, describe_grid(configs, jobs), told)


def _time(plan: Plan) -> dict[str, float]:
    from degradation.train.plan import estimate_seconds

    return estimate_seconds(plan.todo, plan.sizes, plan.jobs)


def _estimate(plan: Plan) -> dict[str, float]:
    # A run that is too large for this machine must not end the sweep, not even where it is timed. On a CPU so many at
    # once as will run, as they share caches and the two threads of a core; the slowest tells.
    beside = plan.jobs if plan.device == "cpu" else 1
    estimates: list[dict[str, float]] = []
    for process, receive in [processes.start(_time, plan) for _ in range(beside if plan.todo else 0)]:
        with suppress(EOFError):
            estimates.append(receive.recv())
        process.join()
    shared = set.intersection(*map(set, estimates)) if estimates and len(estimates) == beside else set()
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
        if by_id.setdefault(config.run_id, config).machine != config.machine:
            raise ConfigError(
                f"{config.run_id} is one run on whatever machine: give each machine= or machine.* its own command, "
                "with its own paths.results="
            )
    configs = list(by_id.values())
    plan = processes.ask(_plan, configs, wanted_jobs)
    print(plan.grid, flush=True)
    estimate = _estimate(plan)
    todo, outcomes = {config.run_id for config in plan.todo}, dict(plan.published)
    others = [config for config in configs if config.run_id not in outcomes and config.run_id not in todo]
    one_gpu = plan.device == "cuda"
    print(plan.told + describe_time(plan.todo, estimate, len(others), plan.jobs, one_gpu), flush=True)
    if configs[0].logger.name != "none":
        find_mode()  # once, and not in every run
    Stop.listen()
    os.environ.setdefault(BEGAN, str(time.time()))
    try:
        with processes.multi_process_service() if one_gpu and plan.jobs > 1 else nullcontext(None) as shared:
            if shared is not None:
                how = "share the GPU through" if shared else "take turns on the GPU, as there is no working"
                print(f"the runs {how} CUDA MPS", flush=True)
            # Those that are finished say that they are skipped; then longest first: the cores are then busy to the end.
            longest = sorted(plan.todo, key=lambda config: -estimate.get(config.run_id, math.inf))
            for outcome in _run_each(others + longest, plan.device, plan.jobs, origin):
                outcomes[outcome.run_id] = outcome
    finally:
        os.environ.pop(BEGAN, None)
    ended = [outcomes[run_id] for run_id in by_id]
    print("\n" + closing_table(ended), flush=True)
    if status := exit_status(ended):
        sys.exit(status)
    return [JobReturn(status=JobStatus.COMPLETED, _return_value=outcome) for outcome in ended]
