"""train(config): seed, build, fit, measure, write the record."""

import io
import json
import logging
import math
import os
import pickle
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment

from degradation.config import Config, ConfigError, DataError, MachineConfig, find_published, find_records
from degradation.data.images import Images, ImageSet, Pictures, load
from degradation.data.resident import BatchStream, Normalizer
from degradation.data.streamed import StreamedBatches
from degradation.ending import Stop, explain
from degradation.net.foreign import CheckpointError, load_network
from degradation.net.network import Network, multiply_adds, parameter_count
from degradation.probe.construct import ConstructionError, deepen, largest_difference, stage_statistics
from degradation.probe.information import information
from degradation.probe.layers import layer_gradients, layer_responses
from degradation.probe.views import Views, evaluate, exact_batchnorm, find_wrong, layout
from degradation.record import (
    Record,
    RecordError,
    check_network,
    copy_unfinished,
    find_begun,
    is_signed,
    name_precision,
    read_summary,
)
from degradation.train import machine as machines
from degradation.train.callbacks import Checkpoint, Measure, Progress, first_steps
from degradation.train.outcome import BEGAN, Outcome, budget_spent, final_errors, finished_before, format_seconds
from degradation.train.step import Chunks, DegradationModule, DivergedError
from degradation.train.tracking import Tracker

SIGNAL_IMAGES, SIGNAL_IMAGES_DEEP = 128, 16  # of the batch on which gradients are measured; deeper than 110 layers
Say = Callable[[str], None]


def train(config: Config, jobs: int = 1, place: str = "", origin: dict[str, Any] | None = None) -> Outcome:
    """Run one network to the end of its protocol, continue or skip it; a failure is an Outcome, not an exception.

    Args:
        jobs: runs at once on this machine, among which its cores are divided.
        place: where the sweep stands, such as "3/4", for the progress lines.
        origin: what the record says of where its settings come from: `varied` and `made_by_study` (see cli.origin).
    """

    origin = origin or {}
    label = config.label(origin.get("varied", {}))

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {f'[{place}] ' if place else ''}{label:<22} {text}", flush=True)

    Stop.listen()
    if Stop.now():
        return Outcome(config.run_id, "stopped", "not started", label=label)
    if BEGAN in os.environ and budget_spent(config, 0):
        return Outcome(config.run_id, "out of budget", "not started", label=label)
    try:
        machine = machines.resolve(config.machine, jobs)  # refused, if so, before there is a folder
        hindered = config.machine.device == "auto" and machines.cuda_trouble() not in (None, machines.NO_CUDA)
        if hindered and not place:  # a sweep has said so
            say(f"on the CPU, as {machines.cuda_trouble()}")
        if (outcome := finished_before(config)) is None:
            begun = find_begun(config, machine.device, machine.precision)
            if begun is not None and begun != config.folder:
                say(f"goes on from {begun}")
                try:
                    copy_unfinished(begun, config.folder.with_name(begun.name))
                except OSError:
                    if not config.folder.exists():  # else another process was faster, which the record tells
                        raise
            record = Record(config, origin.get("varied"))
            try:  # it may have been finished while another process had the folder
                outcome = finished_before(config) or _train(config, jobs, record, say, origin)
            finally:
                record.close()
    except OSError as error:
        told = f"{error.strerror or error}, writing {config.folder}; mend that, and the same command resumes"
        outcome = Outcome(config.run_id, "failed", told)
    # RuntimeError is torch's: out of memory, or a file that cannot be written.
    except (CheckpointError, ConstructionError, DataError, MemoryError, RecordError, RuntimeError, ValueError) as error:
        outcome = Outcome(config.run_id, "failed", str(error).partition("\n")[0] or "out of memory")
    except Exception as error:
        outcome = Outcome(config.run_id, "failed", explain(error))
    say(f"{outcome.status}{': ' + outcome.message if outcome.message else ''}")
    return replace(outcome, label=label, folder=config.folder.name)


def load_images(config: Config, device: str = "cpu", workers: int = 0) -> tuple[Images, Images, Images | None]:
    """The image sets of a config, see `load`; a ConfigError, too, where it asks for other images than these."""
    train_set, test, validation = load(config.data, config.paths.data, device, workers=workers)
    name = config.data.name
    if (classes := int(train_set.labels.max()) + 1) != config.network.classes:
        raise ConfigError(f"network.classes={config.network.classes}, but {name} has {classes} classes")
    if (size := config.protocol.batch_size) > len(train_set):
        raise ConfigError(f"protocol.batch_size={size} is more than the {len(train_set)} training images of {name}")
    return train_set, test, validation


def _train(config: Config, jobs: int, record: Record, say: Say, origin: dict[str, Any]) -> Outcome:
    # What the machine would choose stays as it was chosen first: with other threads, say, sums have other last digits.
    kept = {key: value for key, value in record.as_begun.items() if getattr(config.machine, key) == "auto"}
    machine = machines.resolve(replace(config.machine, **kept), jobs)
    machines.apply(machine)
    # Seed and build. Everything drawn is a function of the seed: weights, batch order, augmentation.
    protocol = config.protocol
    network = Network(config.network, config.seed).to(machine.device, memory_format=layout(machine.channels_last))  # type: ignore[call-overload]
    train_set, test, validation = load_images(config, str(machine.device), int(machine.workers))
    normalize = Normalizer(train_set.sample, config.data.normalization, config.data.scale)
    stream = open_stream(config, train_set, normalize, machine.channels_last)
    views = Views(train_set, normalize, config.machine.evaluation_batch, machine.precision, machine.channels_last)
    module = DegradationModule(network, stream, protocol, machine, config.warmup_lr)
    if config.network.parent_depth is not None and not record.checkpoint.exists():
        say(_construct(config, network, record, views, views.of(test)))

    def at_test() -> Network:
        if protocol.batchnorm == "moving":
            return network.twin()
        return exact_batchnorm(network, replace(views, batch_size=protocol.group))

    def measure() -> dict[str, float]:
        subject, row = at_test(), {}
        for name, images in (("test", test), ("val", validation)):
            if images is not None:
                row[f"{name}_error"], row[f"{name}_loss"] = evaluate(subject, views.of(images))
        return row

    # In float32, nothing recomputed: no more than one of the parts of a batch whose statistics BN takes in training.
    shown = min(SIGNAL_IMAGES if config.network.depth <= 110 else SIGNAL_IMAGES_DEEP, protocol.group)
    x, y = (tensor[:shown].clone() for tensor in stream.batch(0))  # the same in both arms, and all along
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    images: dict[str, Any] = {"training": len(train_set), "test": len(test)}
    images |= {"names": train_set.fingerprint} if isinstance(train_set, Pictures) else {}
    session = {"from": began, "study": config.study, **machines.describe(machine), "images": images}
    if other := record.start_session(session):
        say(f"continues on {other}: its last digits may be others than those of an uninterrupted run")
    tracker = Tracker(config, record, config.label(origin.get("varied", {})))
    try:
        # Fit.
        measured = Measure(record, tracker, measure, lambda: layer_gradients(network, x, y))
        # Afterwards the training images are shown twice (errors, exact BN statistics); responses and what they tell of
        # images cost about as much as seven evaluations of the test images (measured at 56 layers); wrong.csv is one.
        closing = (2 * len(train_set) + 8 * len(test)) / (len(test) + len(validation or ()))
        progress = Progress(config, measured, closing, say)
        callbacks = [measured, progress, Checkpoint(record, config.machine.checkpoint_seconds)]
        trainer = _trainer(machine, callbacks, record.path)
        cadences = (protocol.log_every, *[protocol.warmup.window] * (module.warmup_lr is not None))
        chunks = Chunks(module, int(machine.iterations_per_step), cadences, first_steps(protocol))
        resume = _check_checkpoint(record) if record.checkpoint.exists() else None
        diverged = ""
        try:
            trainer.fit(module, train_dataloaders=chunks, ckpt_path=resume, weights_only=True)
        except DivergedError as error:
            diverged = str(error)
        finally:
            module.step = None  # with a captured graph, and the device memory that it holds
            if isinstance(stream, StreamedBatches):
                stream.close()
        network.to(machine.device)  # Lightning leaves it on the CPU
        if progress.stopped:
            message = f"checkpoint at iteration {module.iteration:,}; the same command continues"
            return Outcome(record.id, progress.stopped, message)
        summary = {
            "outcome": "finished",
            "run_id": record.id,
            "study": config.study,
            "length": config.length,
            "rate": config.rate,
            **origin,
            "iteration": module.iteration,
            "warmup_ended_at": module.warmup_ended_at,
            "seconds": round(measured.seconds, 1),
            "parameters": parameter_count(network),
            "multiply_adds": multiply_adds(config.network, stream.size),
            **({"initial": json.loads(record.initial.read_text())} if record.initial.exists() else {}),
            **record.sessions()[-1],
        }
        # Measure, and write.
        if not diverged:
            total = len(train_set) + len(test)
            say(f"trained; measuring training error in eval mode, and responses, on {total:,} images")
            subject = at_test()
            eval_error, eval_loss = evaluate(subject, views)
            if not math.isfinite(eval_loss):  # which no iteration told whose weights went with the last step
                diverged = f"the training loss in eval mode is not finite at iteration {module.iteration}"
        if diverged:
            record.finish({**summary, "outcome": "diverged", "message": diverged, "final": None})
            return Outcome(record.id, "diverged", f"{diverged}; recorded as an outcome")
        record.write_table("responses.csv", _describe_layers(subject, network, protocol.group, views, views.of(test)))
        wrong = [{"image": number} for number in find_wrong(subject, views.of(test))]
        record.write_table("wrong.csv", wrong, ["image"])
        final = {key: value for key, value in measured.row.items() if key not in ("iteration", "lr", "seconds")}
        final |= {"train_error_eval": eval_error, "train_loss_eval": eval_loss}
        record.write(record.network, partial(torch.save, network.cpu().state_dict()))  # for any machine
        record.finish({**summary, "final": final})
        tracker.finish(final)
        told = final_errors(record.path, config)
        errors = f"train error {told['train_error']:.2f} %, test error {told['test_error']:.2f} %"
        return Outcome(record.id, "finished", f"{errors} in {format_seconds(summary['seconds'])}", told)
    finally:
        tracker.close(0 if tracker.finished else 1)


def open_stream(
    config: Config, train: Images, normalize: Normalizer, channels_last: bool
) -> BatchStream | StreamedBatches:
    """The training batches of a config."""
    data, batch_size = config.data, config.protocol.batch_size
    rest = (normalize, batch_size, config.seed, data.augmentation, data.last_batch, channels_last)
    return BatchStream(train, *rest, data.padding) if isinstance(train, ImageSet) else StreamedBatches(train, *rest)


def _describe_layers(
    subject: Network, network: Network, group: int, train: Views, views: Views
) -> list[dict[str, Any]]:
    # The responses as the network is evaluated; beside them, as moving averages lag and half precision is coarse, those
    # with BN statistics averaged over the training set, in float32, and what these tell of the images.
    train, exact_views = (replace(part, precision="fp32") for part in (train, views))
    exact = exact_batchnorm(network, replace(train, batch_size=group))
    told, rows = information(exact, train, exact_views), layer_responses(exact, exact_views)
    return [
        {**row, "std_exact": other["std"], **told.get(str(row["name"]), dict.fromkeys(told["stem"]))}
        for row, other in zip(layer_responses(subject, views), rows, strict=True)
    ]


def _precision(folder: Path) -> str:
    # In which, and on what kind of device, a run was trained, where it is finished.
    return name_precision(read_summary(folder)) if (folder / "summary.json").exists() else ""


def _construct(config: Config, network: Network, record: Record, train_views: Views, views: Views) -> str:
    # Deepens the finished run that differs in depth alone, and records how equal the two are before training.
    parent_config, device = config.parent, views.images.labels.device
    assert parent_config is not None
    precision = name_precision({"device": device.type, "precision": train_views.precision})
    depth, published = parent_config.network.depth, find_records(find_published(), parent_config.run_id)
    trained = [parent_config.folder, *(each for each in published if each.parent.name == precision)]
    weights = [each for each in trained if (each / "network.pt").exists()]
    folder = next((each for each in weights if _precision(each) == precision), (weights or trained)[0])
    if not (folder / "network.pt").exists():
        remedy = f"delete {folder} and run" if (folder / "summary.json").exists() else "run"
        raise RecordError(
            f"the weights of the trained parent, {folder / 'network.pt'}, are not here; "
            f"{remedy} the same with depth={depth} network.parent_depth=null first"
        )
    check_network(folder)
    if (other := _precision(folder)) != precision:
        raise RecordError(
            f"the trained parent {folder} is in {other}, not in {precision}; name another folder with paths.results="
        )
    parent = load_network(folder).to(device, memory_format=layout(views.channels_last))  # type: ignore[call-overload]
    # In float32, whatever the training's precision: the difference is to be that of the networks.
    train_views, views = (replace(v, precision="fp32") for v in (train_views, views))
    deepen(parent, network, stage_statistics(parent, train_views))
    initial = {
        "parent": parent_config.run_id,
        "largest_difference": largest_difference(parent, network, views),
        "parent_test_error": evaluate(parent, views)[0],
        "test_error": evaluate(network, views)[0],
        "parent_train_error_eval": evaluate(parent, train_views)[0],
        "train_error_eval": evaluate(network, train_views)[0],
    }
    record.write(record.initial, lambda path: path.write_text(json.dumps(initial, indent=2) + "\n"))
    return (
        f"built from {parent_config.run_id}: logits differ by {initial['largest_difference']:.1e} of the largest at "
        f"most, test error {initial['test_error']:.2f} % against {initial['parent_test_error']:.2f} %"
    )


def _check_checkpoint(record: Record) -> Path:
    # A name it must hold, and plain tensors alone: whatever else lies there is not loaded.
    content = record.checkpoint.read_bytes()
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        ours = loaded["run_id"] == record.id and is_signed(content)
    except (OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError, pickle.UnpicklingError):
        ours = False
    if not ours:
        told = "is damaged, or of another run or an earlier version; delete it to start the run again"
        raise RecordError(f"{record.checkpoint} {told}")
    return record.checkpoint


def _trainer(machine: MachineConfig, callbacks: list[pl.Callback], folder: Path) -> pl.Trainer:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    return pl.Trainer(
        accelerator="gpu" if machine.device == "cuda" else "cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        # A run is one process, whatever started it: left to itself, Lightning would heed SLURM's number of tasks,
        # requeue jobs, and load what it saved for that in the present folder, whichever run it was of.
        plugins=[LightningEnvironment()],
        default_root_dir=folder,
    )
