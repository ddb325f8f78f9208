"""train(config): seed, build, fit, evaluate, write the record."""

import json
import logging
import os
import pickle
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from degradation.config import Config, ConfigError
from degradation.data.images import (
    BatchStream,
    DataError,
    ImageSet,
    Normalizer,
    load_cifar10,
    load_cifar10_mini,
    make_synthetic,
)
from degradation.net.network import Network, multiply_adds, parameter_count


from degradation.record import Record, RecordError, write_atomically
from degradation.train import machine as machines
from degradation.train.step import Chunks, DegradationModule, DivergedError, make_autocast
from degradation.train.tracking import Tracker

EXIT_FAILED, EXIT_BUDGET, EXIT_STOPPED = 1, 75, 130
SIGNAL_IMAGES, SIGNAL_IMAGES_DEEP = 128, 16  # of the batch on which gradients are measured; deeper than 110 layers
BEGAN = "DEGRADATION_BEGAN"  # when the sweep began (seconds since the epoch): the budget is the whole command's
STOP_FILE = "DEGRADATION_STOP_FILE"  # a sweep's parent process asks its workers to stop by creating this file


@dataclass(frozen=True)
class Outcome:
    """How one run ended: finished, skipped (already finished), diverged, stopped, out of budget, or failed."""

    run_id: str
    status: str
    message: str = ""
    final: dict[str, float] | None = None
    seconds: float = 0.0

    @property
    def exit_status(self) -> int:
        if self.status in ("finished", "skipped"):
            return 0
        return {"out of budget": EXIT_BUDGET, "stopped": EXIT_STOPPED}.get(self.status, EXIT_FAILED)


class _Stop:
    """Whether this process was asked to stop, by SIGINT, SIGTERM or the sweep's stop file."""

    requested = False

    @classmethod
    def listen(cls) -> None:
        def handle(signum: int, _frame: object) -> None:
            if cls.requested:  # asked twice: at once
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            cls.requested = True

        signal.signal(signal.SIGINT, handle)
        signal.signal(signal.SIGTERM, handle)

    @classmethod
    def now(cls) -> bool:
        stop_file = os.environ.get(STOP_FILE)
        return cls.requested or (stop_file is not None and os.path.exists(stop_file))


def _budget_spent(config: Config, began: float) -> bool:
    # Of the whole sweep where this is a run of one, else from the run's own beginning; seconds since the epoch.
    if config.budget_minutes is None:
        return False
    return time.time() - float(os.environ.get(BEGAN, began)) >= 60 * config.budget_minutes


def load_data(config: Config) -> tuple[ImageSet, ImageSet, ImageSet | None]:
    """Training, test and (where images are held out) validation set, on the CPU.

    Raises:
        DataError, ConfigError: see degradation.data; more images held out than there are.
    """
    if config.data.name == "cifar10":
        train, test = load_cifar10(config.paths.data)
    elif config.data.name == "cifar10_mini":
        train, test = load_cifar10_mini()
    else:
        train, test = make_synthetic(512, 256)
    held_out = config.data.validation_images
    if held_out >= len(train):
        raise ConfigError(f"data.validation_images={held_out} leaves none of {len(train)} images to train on")
    if not held_out:
        return train, test, None
    return train[:-held_out], test, train[-held_out:]


class RecordWriter(pl.Callback):
    """Measures and records at the stated cadence, checkpoints, tells progress, and stops when asked to."""

    def __init__(
        self,
        record: Record,
        config: Config,
        tracker: Tracker,
        measure: Callable[[], dict[str, float]],
        signals: Callable[[], list[dict[str, Any]]],
        say: Callable[[str], None],
    ):
        self.record, self.config, self.tracker, self.say = record, config, tracker, say
        self.measure, self.signals = measure, signals
        protocol = config.protocol
        self.signals_every = protocol.evaluate_every * max(1, protocol.iterations // (10 * protocol.evaluate_every))
        self.seconds = 0.0  # of training and measuring, over every process that worked on the run
        self.budget_from = time.time()
        self.stopped = ""
        self.row: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.elapsed(), "row": self.row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.row = state_dict["seconds"], state_dict["row"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["run_id"] = self.record.id

    def elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.began

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DegradationModule)
        _Stop.listen()  # again: Lightning's own handler would end the process with status 0
        self.record.rewind(pl_module.iteration)
        self.began = self.told = self.saved = time.monotonic()
        self.first = pl_module.iteration
        total = pl_module.protocol.iterations
        resumed = f"resumed at iteration {self.first:,} of {total:,}" if self.first else f"{total:,} iterations to go"
        self.say(resumed)
        if not self.first:
            self.record.append_gradients(0, self.signals())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, DegradationModule)
        protocol, iteration = pl_module.protocol, pl_module.iteration
        last = iteration == protocol.iterations
        if iteration % protocol.log_every == 0 or last:
            error, loss = pl_module.take_running()
            self.row = {
                "iteration": iteration,
                "lr": pl_module.lr_at(iteration - 1),
                "train_error": error,
                "train_loss": loss,
            }
            if iteration % protocol.evaluate_every == 0 or last:
                self.row |= self.measure()
            self.row["seconds"] = self.elapsed()
            self.record.append(self.row)
            self.tracker.log(self.row)
        if iteration % self.signals_every == 0 or last:
            self.record.append_gradients(iteration, self.signals())
        now = time.monotonic()
        if self.row and (now - self.told >= self.config.machine.progress_seconds or last):
            self._tell(iteration, protocol.iterations, protocol.batch_size, now)
        if _Stop.now():
            self.stopped = "stopped"
        elif not last and _budget_spent(self.config, self.budget_from):
            self.stopped = "out of budget"
        if self.stopped or (
            now - self.saved >= self.config.machine.checkpoint_seconds and iteration % protocol.log_every == 0
        ):
            self.save(trainer)
        if self.stopped:
            trainer.should_stop = True

    def save(self, trainer: pl.Trainer) -> None:
        temporary = self.record.checkpoint.with_name(".checkpoint.partial")
        try:
            trainer.save_checkpoint(temporary)
            os.replace(temporary, self.record.checkpoint)
        finally:
            temporary.unlink(missing_ok=True)
        self.saved = time.monotonic()

    def _tell(self, iteration: int, total: int, batch_size: int, now: float) -> None:
        rate = (iteration - self.first) / (now - self.began)
        left = (total - iteration) / rate
        self.say(
            f"iteration {iteration:>6,} / {total:,}   train error {self.row['train_error']:5.1f} %   "
            f"{rate * batch_size:6,.0f} images/s   {format_seconds(left)} left"
        )
        self.told = now


def format_seconds(seconds: float) -> str:
    """Such as 45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def train(config: Config, jobs: int = 1, label: str = "", variant: dict[str, Any] | None = None) -> Outcome:
    """Run one network to the end of its protocol, continue or skip it; a failure is an Outcome, not an exception.

    Args:
        jobs: runs at once on this machine, among which its cores are divided.
        label: where the sweep stands, such as "3/4", for the progress lines.
        variant: scientific settings that differ from the named protocol's own, for the record.
    """
    run_id = config.run_id

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {f'[{label}] ' if label else ''}{name:<22} {text}", flush=True)

    name = f"{config.network.name}-{config.network.depth} seed {config.seed}"
    began = time.monotonic()
    _Stop.listen()
    if _Stop.now():
        return Outcome(run_id, "stopped", "not started")
    if BEGAN in os.environ and _budget_spent(config, 0):
        return Outcome(run_id, "out of budget", "not started")
    try:
        outcome = _train(config, jobs, say, variant or {})
    except (ConfigError, DataError, RecordError, ConstructionError, ValueError) as error:
        outcome = Outcome(run_id, "failed", str(error))
    except OSError as error:
        where = f"{config.paths.results}/runs/{run_id}"
        text = f"{error.strerror or error}, writing {where}; mend that, and the same command resumes"
        outcome = Outcome(run_id, "failed", text)
    except RuntimeError as error:  # torch: out of memory, or a file that cannot be written
        outcome = Outcome(run_id, "failed", str(error).splitlines()[0])
    say(f"{outcome.status}{': ' + outcome.message if outcome.message else ''}")
    return Outcome(run_id, outcome.status, outcome.message, outcome.final, time.monotonic() - began)


def make_network(config: Config) -> Network:
    """The freshly initialised network of a run, on the CPU."""
    n = config.network
    return Network(
        n.depth,
        n.shortcut,  # type: ignore[arg-type]
        n.width,
        n.classes,
        n.pad_side,  # type: ignore[arg-type]
        n.fan_mode,  # type: ignore[arg-type]
        config.seed,
        n.alpha,
        n.norm,  # type: ignore[arg-type]
    )


def _train(config: Config, jobs: int, say: Callable[[str], None], variant: dict[str, Any]) -> Outcome:
    machine = machines.resolve(config.machine, jobs)
    network = make_network(config)
    record = Record(config)
    try:
        if summary := record.summary:
            if summary["outcome"] == "diverged":
                return Outcome(
                    config.run_id, "diverged", f"{summary['message']} (recorded; delete {record.path} to run again)"
                )
            return Outcome(config.run_id, "skipped", f"already in {record.path}", summary["final"])
        return _fit(config, machine, network, record, say, variant)
    finally:
        record.close()


def _fit(
    config: Config,
    machine: machines.Machine,
    network: Network,
    record: Record,
    say: Callable[[str], None],
    variant: dict[str, Any],
) -> Outcome:
    machines.apply(machine)
    protocol = config.protocol
    train_set, test, validation = (data and data.to(machine.device) for data in load_data(config))
    assert train_set is not None and test is not None  # noqa: PT018
    normalize = Normalizer(train_set, config.data.normalization)  # type: ignore[arg-type]
    stream = BatchStream(
        train_set,
        normalize,
        protocol.batch_size,
        config.seed,
        config.data.augmentation,  # type: ignore[arg-type]
        config.data.last_batch,  # type: ignore[arg-type]
        machine.channels_last,
    )
    layout = torch.channels_last if machine.channels_last else torch.contiguous_format
    network = network.to(machine.device, memory_format=layout)  # type: ignore[call-overload]
    module = make_module(network, stream, config, machine)
    if config.network.parent_depth is not None and not record.checkpoint.exists():
        say(_construct(config, network, record, train_set, test, normalize))
    views: dict[str, Any] = {
        "batch_size": config.machine.evaluation_batch,
        "autocast": partial(make_autocast, machine.device, machine.precision),
        "channels_last": machine.channels_last,
    }

    def at_test(exact: bool = protocol.batchnorm == "exact") -> Any:
        if not exact:
            return nullcontext()
        return exact_batchnorm(network, train_set, normalize, **(views | {"batch_size": protocol.batch_size}))

    def measure() -> dict[str, float]:
        row = {}
        with at_test():
            row["test_error"], row["test_loss"] = evaluate(network, test, normalize, **views)
            if validation is not None:
                row["val_error"], row["val_loss"] = evaluate(network, validation, normalize, **views)
        return row

    shown = SIGNAL_IMAGES if config.network.depth <= 110 else SIGNAL_IMAGES_DEEP  # float32, nothing recomputed
    x, y = (tensor[:shown].clone() for tensor in stream.batch(0))  # the same in both arms, and all along
    session = {"from": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **machines.describe(machine)}
    record.start_session(session)
    tracker = Tracker(config, record)
    try:
        writer = RecordWriter(record, config, tracker, measure, lambda: layer_gradients(network, x, y), say)
        trainer = _trainer(machine, writer)
        lengths: tuple[int, ...] = (protocol.log_every, protocol.evaluate_every)
        if module.warmup_lr is not None:
            lengths = (*lengths, protocol.warmup.window)
        chunks = Chunks(module, machine.iterations_per_step, lengths)
        resume = _check_checkpoint(record) if record.checkpoint.exists() else None
        try:
            trainer.fit(module, train_dataloaders=chunks, ckpt_path=resume, weights_only=True)
        except DivergedError as error:
            summary = _summary("diverged", config, record, writer, module, variant)
            record.finish({**summary, "message": str(error), "final": None})
            return Outcome(config.run_id, "diverged", f"{error}; recorded as an outcome")
        finally:
            module.step = None  # with a captured graph, and the device memory that it holds
        network.to(machine.device)  # Lightning leaves it on the CPU
        if writer.stopped:
            return Outcome(
                config.run_id,
                writer.stopped,
                f"checkpoint at iteration {module.iteration:,}; the same command continues",
            )
        summary = _summary("finished", config, record, writer, module, variant)
        with at_test():
            eval_error, eval_loss = evaluate(network, train_set, normalize, **views)
            responses = layer_responses(network, test, normalize, **views)
        final = {key: value for key, value in writer.row.items() if key not in ("iteration", "lr", "seconds")}
        final |= {"train_error_eval": eval_error, "train_loss_eval": eval_loss}
        record.write_table("responses.csv", responses)
        temporary = record.network.with_name(".network.partial")
        torch.save(network.state_dict(), temporary)
        os.replace(temporary, record.network)
        record.finish({**summary, "final": final})
        tracker.finish(final)
        errors = f"train error {final['train_error']:.2f} %, test error {final['test_error']:.2f} %"
        return Outcome(config.run_id, "finished", f"{errors} in {format_seconds(summary['seconds'])}", final)
    finally:
        tracker.close()


def _construct(
    config: Config, network: Network, record: Record, train_set: ImageSet, test: ImageSet, normalize: Normalizer
) -> str:
    # Deepens the finished run that differs in depth alone, and records how equal the two are before training.
    depth = config.network.parent_depth
    assert depth is not None
    parent_config = replace(config, network=replace(config.network, depth=depth, parent_depth=None))
    folder = Path(config.paths.results) / "runs" / parent_config.run_id
    try:
        weights = torch.load(folder / "network.pt", map_location=test.labels.device, weights_only=True)
    except OSError:
        raise RecordError(
            f"the weights of the trained parent, {folder / 'network.pt'}, are not here; "
            + (f"delete {folder} and " if (folder / "summary.json").exists() else "")
            + f"run the same with depth={depth} network.parent_depth=null first"
        ) from None
    parent = make_network(parent_config).to(test.labels.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    parent.load_state_dict(weights)
    deepen(parent, network, stage_statistics(parent, train_set, normalize))
    initial = {
        "parent": parent_config.run_id,
        "largest_difference": largest_difference(parent, network, test, normalize),
        "parent_test_error": evaluate(parent, test, normalize)[0],
        "test_error": evaluate(network, test, normalize)[0],
        "parent_train_error_eval": evaluate(parent, train_set, normalize)[0],
        "train_error_eval": evaluate(network, train_set, normalize)[0],
    }
    write_atomically(record.initial, json.dumps(initial, indent=2) + "\n")
    return (
        f"built from {parent_config.run_id}: logits differ by {initial['largest_difference']:.1e} of the largest at "
        f"most, test error {initial['test_error']:.2f} % against {initial['parent_test_error']:.2f} %"
    )


def make_module(network: Network, stream: BatchStream, config: Config, machine: machines.Machine) -> DegradationModule:
    """The module of one run: its network run as the machine asks."""
    if machine.execution == "compiled":
        network.run_block = compile_block()
    elif machine.activation_checkpointing:
        network.run_block = recompute_block
    return DegradationModule(network, stream, config.protocol, config.warmup_lr, machine.precision, machine.execution)


def _check_checkpoint(record: Record) -> Path:
    # A name it must hold, and plain tensors alone: whatever else lies there is not loaded.
    try:
        ours = torch.load(record.checkpoint, map_location="cpu", weights_only=True)["run_id"] == record.id
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError):
        ours = False
    if not ours:
        raise RecordError(f"{record.checkpoint} is damaged or of another run; delete it to start the run again")
    return record.checkpoint


def _trainer(machine: machines.Machine, writer: RecordWriter) -> pl.Trainer:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    return pl.Trainer(
        accelerator="gpu" if machine.device == "cuda" else "cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        callbacks=[writer],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _summary(
    outcome: str,
    config: Config,
    record: Record,
    writer: RecordWriter,
    module: DegradationModule,
    variant: dict[str, Any],
) -> dict[str, Any]:
    network = config.network
    return {
        "outcome": outcome,
        "run_id": config.run_id,
        "study": config.study,
        "length": config.length,
        "variant": ", ".join(f"{key}={value}" for key, value in sorted(variant.items())),
        "iteration": module.iteration,
        "warmup_ended_at": module.warmup_ended_at,
        "seconds": round(writer.elapsed(), 1),
        "parameters": parameter_count(module.network),
        "multiply_adds": multiply_adds(network.depth, network.shortcut, network.width, network.classes),  # type: ignore[arg-type]
        **({"initial": json.loads(record.initial.read_text())} if record.initial.exists() else {}),
        **record.sessions()[-1],
    }


def calibrate(config: Config, jobs: int) -> Callable[[int], float]:
    """Seconds of one iteration as a function of depth, from a few timed iterations at depths 8 and 20."""
    machine = machines.resolve(config.machine, jobs)
    machines.apply(machine)
    images, _ = make_synthetic(max(512, config.protocol.batch_size), 1)
    images = images.to(machine.device)
    layout = torch.channels_last if machine.channels_last else torch.contiguous_format
    seconds = []
    for depth in (8, 20):
        network = Network(depth, "A", config.network.width).to(machine.device, memory_format=layout)  # type: ignore[call-overload]
        normalize, size = Normalizer(images, "pixel_mean"), config.protocol.batch_size
        stream = BatchStream(images, normalize, size, 0, channels_last=machine.channels_last)
        module = make_module(network, stream, config, machine).to(machine.device)
        module.step = module.make_step(module.configure_optimizers())
        iteration = 0
        for timed in (False, True):
            began, first = time.monotonic(), iteration
            while iteration - first < (2 if machine.device == "cpu" else 10) or (
                timed and time.monotonic() - began < 0.5
            ):
                module.run(iteration)
                iteration += 1
            if machine.device == "cuda":
                torch.cuda.synchronize()
        seconds.append((time.monotonic() - began) / (iteration - first))
        module.step = None
    slope = max(0.0, (seconds[1] - seconds[0]) / 12)
    return lambda depth: max(seconds[1] + slope * (depth - 20), seconds[0])


def exit_status(outcomes: list[Outcome]) -> int:
    """Of a whole sweep: 0 only where every run is finished or already was.

    That the same command would continue comes first: whoever repeats it until it is done learns of failures then.
    """
    statuses = {outcome.exit_status for outcome in outcomes}
    for status in (EXIT_STOPPED, EXIT_BUDGET, EXIT_FAILED):
        if status in statuses:
            return status
    return 0
