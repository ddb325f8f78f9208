"""What happens beside training: measuring, checkpointing, and telling progress, with stopping when asked to."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from degradation.config import Config, ProtocolConfig
from degradation.ending import Stop
from degradation.record import Record, sign
from degradation.train.outcome import budget_spent, format_seconds
from degradation.train.step import DegradationModule
from degradation.train.tracking import Tracker


def signals_every(protocol: ProtocolConfig) -> int:
    """The iterations between measurements of the signals of layers: about ten in all."""
    return protocol.evaluate_every * max(1, protocol.iterations // (10 * protocol.evaluate_every))


def first_steps(protocol: ProtocolConfig) -> tuple[int, ...]:
    """The powers of two before the first of them: what explodes does so in the first steps."""
    first = min(signals_every(protocol), protocol.iterations)
    return tuple(2**n for n in range((first - 1).bit_length()))


class Measure(pl.Callback):
    """Writes rows of metrics, and of layer signals (at iteration 0, after the first steps, and about ten times more),
    to the record.
    """

    def __init__(
        self,
        record: Record,
        tracker: Tracker,
        evaluate: Callable[[], dict[str, float]],
        signals: Callable[[], list[dict[str, Any]]],
    ):
        self.record, self.tracker, self.evaluate, self.signals = record, tracker, evaluate, signals
        self.before, self.began = 0.0, time.monotonic()
        self.evaluation = 0.0  # seconds that the last one took
        self.row: dict[str, Any] = {}
        self.written: dict[str, tuple[int, str]] = {}

    @property
    def seconds(self) -> float:
        """Of training and measuring, over every process that worked on the run."""
        return self.before + time.monotonic() - self.began

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["measured"] = {"seconds": self.seconds, "row": self.row, "written": self.record.written()}

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        measured = checkpoint["measured"]
        self.before, self.row, self.written = measured["seconds"], measured["row"], measured["written"]

    def on_train_start(self, trainer: pl.Trainer, module: DegradationModule) -> None:  # type: ignore[override]
        self.every, self.first = signals_every(module.protocol), first_steps(module.protocol)
        self.record.rewind(self.written)
        self.began = time.monotonic()
        if not module.iteration:
            self._write_signals(module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: DegradationModule, *_: Any) -> None:  # type: ignore[override]
        protocol, iteration = module.protocol, module.iteration
        last = iteration == protocol.iterations
        if iteration % protocol.log_every == 0 or last:
            error, loss = module.take_running()
            row = {"iteration": iteration, "lr": module.lr_at(iteration - 1), "train_error": error, "train_loss": loss}
            if iteration % protocol.evaluate_every == 0 or last:
                began = time.monotonic()
                row |= self.evaluate()
                self.evaluation = time.monotonic() - began
            self.row = {**row, "seconds": self.seconds}
            self.record.append(self.row)
            self.tracker.log(self.row)
        if iteration % self.every == 0 or iteration in self.first or last:
            self._write_signals(module)

    def _write_signals(self, module: DegradationModule) -> None:
        rate = module.lr_at(module.iteration)  # of the step that these gradients would make
        self.record.append_gradients(module.iteration, [{**row, "lr": rate} for row in self.signals()])


class Progress(pl.Callback):
    """Tells how far the run is, and ends it when asked to, or when the budget is spent.

    What follows training is told with it: measurements as long as `closing` evaluations.
    """

    def __init__(self, config: Config, measured: Measure, closing: float, say: Callable[[str], None]):
        self.config, self.measured, self.closing, self.say = config, measured, closing, say
        self.began_at, self.stopped = time.time(), ""

    def on_train_start(self, trainer: pl.Trainer, module: DegradationModule) -> None:  # type: ignore[override]
        Stop.listen()  # again: Lightning's own handler would end the process with status 0
        self.began = self.told = time.monotonic()
        self.first, total = module.iteration, module.protocol.iterations
        self.say(f"resumed at iteration {self.first:,} of {total:,}" if self.first else f"{total:,} iterations to go")

    def on_train_batch_end(self, trainer: pl.Trainer, module: DegradationModule, *_: Any) -> None:  # type: ignore[override]
        last = module.iteration == module.protocol.iterations
        now = time.monotonic()
        if self.measured.row and (now - self.told >= self.config.machine.progress_seconds or last):
            self._tell(module, now)
        if Stop.now():
            self.stopped = "stopped"
        elif not last and budget_spent(self.config, self.began_at):
            self.stopped = "out of budget"
        if self.stopped:
            trainer.should_stop = True

    def _tell(self, module: DegradationModule, now: float) -> None:
        total, rate = module.protocol.iterations, (module.iteration - self.first) / (now - self.began)
        self.say(
            f"iteration {module.iteration:>6,} / {total:,}   train error {self.measured.row['train_error']:5.1f} %   "
            f"{rate * module.protocol.batch_size:6,.0f} images/s   "
            f"{format_seconds((total - module.iteration) / rate + self.closing * self.measured.evaluation)} left"
        )
        self.told = now


class Checkpoint(pl.Callback):
    """Saves at the stated interval, at a log row; and wherever training is about to stop. Comes last of the three."""

    def __init__(self, record: Record, every_seconds: float):
        self.record, self.every = record, every_seconds

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["run_id"] = self.record.id

    def on_train_start(self, trainer: pl.Trainer, module: DegradationModule) -> None:  # type: ignore[override]
        self.saved = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, module: DegradationModule, *_: Any) -> None:  # type: ignore[override]
        due = time.monotonic() - self.saved >= self.every and module.iteration % module.protocol.log_every == 0
        if due or trainer.should_stop:

            def save(path: Path) -> None:
                trainer.save_checkpoint(path)
                sign(path)

            self.record.write(self.record.checkpoint, save)
            self.saved = time.monotonic()
