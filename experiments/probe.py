"""What a trained network looks like inside, of a run or of other code.

Tables and figures of errors, layer responses (Fig. 7), what layers tell of images and gradients by layer (section 4.1),
lesions (arXiv 1605.06431), and the deeper networks that identity layers make of this one (the constructed solution,
section 1).
"""

import degradation.script  # isort: skip  # noqa: F401  first of all
import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from pydantic import TypeAdapter, ValidationError

from degradation.config import (
    SMALL,
    TABLE_1,
    Architecture,
    ConfigError,
    DataConfig,
    DataError,
    MachineConfig,
    Shortcut,
    find_published,
    images_of_group,
    plan,
)
from degradation.data.images import load
from degradation.data.resident import ChannelNormalizer, Normalizer
from degradation.ending import Parser
from degradation.net.foreign import CheckpointError, checkpoint_file, load_network, read_config
from degradation.net.network import Network, parameter_count
from degradation.probe.construct import ConstructionError, check, deepen_each
from degradation.probe.information import information, spaced_images
from degradation.probe.layers import layer_gradients, layer_responses
from degradation.probe.lesions import deletable, delete_each, lesion_random, swappable
from degradation.probe.views import Views, evaluate, exact_batchnorm
from degradation.record import RecordError, check_network, write_atomically
from degradation.report.draw import draw_responses, save
from degradation.report.studies import draw_gradients, draw_layer_information, draw_lesions
from degradation.train import machine as machines

DRAWINGS = {
    "responses": draw_responses,
    "information": draw_layer_information,
    "gradients": draw_gradients,
    "lesions": draw_lesions,
}
GRADIENT_BATCH = 128  # section 4.2
DEEPER = {"cifar": (20, 32, 44, 56, 110), "imagenet": tuple(TABLE_1)}  # up to which identity layers are added
MOST_COUNTS = 10  # of blocks deleted or pairs swapped at once, between 1 and all
OTHERS = DataConfig("cifar10", 0, "pixel_mean", augmentation="none", last_batch="keep")  # what other code trained on
TOLD = ("shortcut", "pad_side", "stride_in", "pool")  # of a network, by option


def triple(text: str) -> list[float]:
    """Three numbers between commas, one per channel, of images in [0, 1]."""
    numbers = [float(part) for part in text.split(",")]
    if len(numbers) != 3 or not all(0 <= number <= 1 for number in numbers):
        raise ValueError
    return numbers


def positive(text: str) -> int:
    """A whole number, at least 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def divisors(text: str) -> list[float]:
    """Three such numbers of which none is 0."""
    if not all(numbers := triple(text)):
        raise argparse.ArgumentTypeError("0 divides nothing")
    return numbers


def add_told(parser: Parser) -> None:
    """Add the options that tell what the tensors of other code do not."""
    add = parser.add_argument
    add("--shortcut", choices=get_args(Shortcut), help="other code: none or A must be said, B and C are seen")
    add("--pad-side", choices=("end", "both"), help="other code: where option A pads zero channels (default: end)")
    add("--stride-in", choices=("1x1", "3x3"), help="other code: what strides in a bottleneck (1x1; torchvision: 3x3)")
    add("--pool", choices=("ceil", "padded"), help="other code: the stem's max pool (ceil; torchvision: padded)")
    add("--mean", type=triple, help="other code: mean of each channel, such as 0.485,0.456,0.406")
    add("--std", type=divisors, help="with --mean, such as 0.229,0.224,0.225")


def parse_told(parser: Parser) -> argparse.Namespace:
    """What was given, of which --mean and --std go together."""
    arguments = parser.parse_args()
    if (arguments.mean is None) != (arguments.std is None):
        parser.error("--mean and --std go together")
    return arguments


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, help="a run's folder or network.pt, or a state_dict of other code (.pt, .pth, ...)")
    add_told(parser)
    add("--data", choices=("cifar10", "cifar10_mini", "synthetic"), help="default: the run's, else cifar10")
    folder = os.environ.get("DATA_DIR", "data")
    add("--data-dir", default=folder, help="holds cifar-10-batches-py (default: %(default)s)")
    add("--probes", default=",".join(PROBES), help="default: %(default)s (constructed: where it applies)")
    images = "test images for each lesion, and each deeper network (default: %(default)s)"
    add("--lesion-images", type=positive, default=2000, help=images)
    add("--draws", type=positive, default=3, help="random lesions of each size (default: %(default)s)")
    add("--out", type=Path, help="folder of tables and figures (default: inspect/<name of the checkpoint>)")
    arguments = parse_told(parser)
    arguments.probes = arguments.probes.split(",")
    if unknown := [probe for probe in arguments.probes if probe not in PROBES]:
        parser.error(f"--probes: {unknown[0] or 'nothing'} is not one of {', '.join(PROBES)}")
    return arguments


def read_data(settings: dict[str, Any]) -> DataConfig:
    """The data of a run, from its record."""
    return TypeAdapter(DataConfig).validate_json(json.dumps(settings))  # in which a list is a tuple


def spaced(most: int) -> list[int]:
    """0 and at most MOST_COUNTS whole numbers from 1 to `most`."""
    return [0, *sorted(set(np.linspace(1, most, min(most, MOST_COUNTS)).round().astype(int).tolist()))]


def deeper(architecture: Architecture) -> list[int]:
    """The paper's depths that identity layers can give a network; a ConstructionError says why there is none."""
    family, depth, layers = architecture.family, architecture.depth, architecture.plan.layers
    depths = [deep for deep in DEEPER[family] if deep > depth and plan(family, deep).layers == layers]
    if not depths:
        raise ConstructionError(f"the paper has no network deeper than {depth} layers with the same blocks")
    check(architecture, replace(architecture, depth=depths[0]))
    return depths


Told = tuple[pd.DataFrame, str]  # of a probe: its table, and in words what there is in it


def probe_error(network: Network, train: Views, test: Views, _: argparse.Namespace) -> Told:
    sets = {"train": train, "test": test}
    rows = [(name, len(views.images), *evaluate(network, views)) for name, views in sets.items()]
    said = "   ".join(f"{name} {error:.2f} %" for name, _, error, _ in rows)
    table = pd.DataFrame(rows, columns=["set", "images", "error", "loss"])
    return table, f"{said}   (eval mode, un-augmented images, moving BN averages)"


def exact(network: Network, train: Views, arguments: argparse.Namespace) -> Network:
    """A twin whose BN statistics are averages over the training images, in batches as it was trained; made once."""
    if "exact" not in arguments:
        arguments.exact = exact_batchnorm(network, replace(train, batch_size=min(arguments.batch, len(train.images))))
    return arguments.exact


def probe_responses(network: Network, train: Views, test: Views, arguments: argparse.Namespace) -> Told:
    table = pd.DataFrame(layer_responses(network, test))
    table["std_exact"] = [row["std"] for row in layer_responses(exact(network, train, arguments), test)]
    low, high = (table.loc[place] for place in (table["std"].idxmin(), table["std"].idxmax()))
    ends = f"from {low['std']:.3g} ({low['name']}) to {high['std']:.3g} ({high['name']})"
    medians = (
        f"median {table['std'].median():.3g} (BN averages over the training set: {table['std_exact'].median():.3g})"
    )
    return table, f"std {ends}, {medians}, on {len(test.images):,} test images"


def probe_information(network: Network, train: Views, test: Views, arguments: argparse.Namespace) -> Told:
    told = information(exact(network, train, arguments), train, test)
    layers = enumerate(network.layers(), 1)
    table = pd.DataFrame(
        [{"layer": n, "name": name, "stage": stage, **told[name]} for n, (name, stage, *_) in layers if name in told]
    )
    first, last = table.iloc[0], table.iloc[-1]
    texts = {"cosine": "mean cosine", "rank": "effective rank", "probe_error": "error of a linear probe"}
    said = ", ".join(f"{text} {first[key]:.3g} to {last[key]:.3g}" for key, text in texts.items())
    return table, f"stem to last block: {said} %, BN averages over the training set"


def probe_gradients(network: Network, _train: Views, batch: Views, _: argparse.Namespace) -> Told:
    table = pd.DataFrame(layer_gradients(network, *next(iter(batch))))
    first, last = table.iloc[0], table.iloc[-1]
    of = {key: f"{first[key]:.3g} (stem) to {last[key]:.3g} (last layer)" for key in ("grad_response", "grad_weight")}
    said = f"norms at the responses {of['grad_response']}, at the weights {of['grad_weight']}"
    return table, f"{said}, on {len(batch.images)} training images"


def recalibration(train: Views, arguments: argparse.Namespace) -> Views:
    """What BN statistics are averaged over after a lesion: about as many training images, in batches as trained."""
    few = train.images[:: max(1, len(train.images) // arguments.lesion_images)]  # spaced: sets may be sorted by class
    size = min(arguments.batch, len(few))
    return replace(train.of(few[: len(few) - len(few) % size]), batch_size=size)


def probe_lesions(network: Network, train: Views, test: Views, arguments: argparse.Namespace) -> Told:
    again = recalibration(train, arguments)
    one = delete_each(network, test, again)
    blocks, pairs = len(deletable(network)), len(swappable(network))
    deletions, swaps = spaced(blocks), spaced(min(blocks, pairs))
    several = lesion_random("delete", network, test, deletions, arguments.draws)
    swapped = lesion_random("swap", network, test, swaps, arguments.draws)
    table = pd.DataFrame([*one, *several, *swapped]).astype({"stage": "Int64"})  # of single deletions alone
    # Of the whole network, too: like is compared with like.
    table.loc[table["count"] == 0, "error_recalibrated"] = evaluate(exact_batchnorm(network, again), test)[0]
    error = table.groupby(["kind", "count"])["error"].mean()
    worst = max(one, key=lambda row: row["error"])
    error_recalibrated = table.groupby("kind")["error_recalibrated"].mean()
    said = (
        f"intact {error['delete', 0]:.2f} %; one block deleted {error['delete_one', 1]:.2f} % on average and "
        f"{worst['error']:.2f} % at worst ({worst['blocks']})"
    )
    said += (
        f", {error_recalibrated['delete_one']:.2f} % with BN recalibrated (intact {error_recalibrated['delete']:.2f} %)"
    )
    for kind, most, what in (("delete", deletions[-1], "blocks deleted"), ("swap", swaps[-1], "pairs swapped")):
        if most > 1:
            said += f"; {most} {what} {error[kind, most]:.2f} %"
    return table, f"{said}, on {len(test.images):,} test images"


def probe_constructed(network: Network, train: Views, test: Views, _: argparse.Namespace) -> Told:
    table = pd.DataFrame(deepen_each(network, deeper(network.architecture), train, test))
    said = "   ".join(f"{row.depth} layers {row.largest_difference:.1e}" for row in table.itertuples())
    return table, f"largest difference of a logit, of the largest: {said}, on {len(test.images):,} test images"


PROBES = {
    "error": probe_error,
    "responses": probe_responses,
    "information": probe_information,
    "gradients": probe_gradients,
    "lesions": probe_lesions,
    "constructed": probe_constructed,
}
MADE = {f"{probe}.{kind}" for probe in PROBES for kind in ("csv", "png", "svg", "pdf")} | {"probe.json"}


def run(arguments: argparse.Namespace) -> None:
    """Probe a checkpoint; whatever is raised, nothing is written."""
    if (arguments.checkpoint / "config.yaml").exists() and not (arguments.checkpoint / "network.pt").exists():
        kept = sorted(path.parent for path in find_published().rglob("network.pt"))
        named = ", ".join(os.path.relpath(folder) for folder in kept)
        raise CheckpointError(f"{arguments.checkpoint} has no network.pt: train it here, or name one of {named}")
    file, config = checkpoint_file(arguments.checkpoint), read_config(arguments.checkpoint)
    name = file.parent.resolve().name if config else file.stem
    out = arguments.out or Path("inspect") / name
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= MADE):
        raise CheckpointError(f"{out} holds other things than figures of this script; name another with --out")
    if config:
        check_network(file.parent.resolve())
    told = config["protocol"] if config else {"batch_size": GRADIENT_BATCH}
    arguments.batch = images_of_group(told["batch_size"], told.get("batchnorm_groups", 1))
    network = load_network(file, **{key: getattr(arguments, key) for key in TOLD})
    architecture, data = network.architecture, read_data(config["data"]) if config else OTHERS
    if arguments.data not in (None, data.name):
        data = replace(data, name=arguments.data, validation_images=0)
    if architecture.classes != 10 and data.name in SMALL:
        shown = f"{data.name} has 10, of 32x32 pixels"
        raise CheckpointError(f"{file}: the network has {architecture.classes} classes, and {shown}")
    try:
        deeper(architecture)
        left_out = ""
    except ConstructionError as error:
        left_out = f"constructed does not apply: {error}" if "constructed" in arguments.probes else ""
        arguments.probes = [probe for probe in arguments.probes if probe != "constructed"]
        if not arguments.probes:
            raise CheckpointError(f"{file}: {left_out}") from None
    device: Literal["cuda", "cpu"] = "cpu" if machines.cuda_trouble() else "cuda"
    # Nothing is downloaded: who mistypes a folder does not want 170 MB in it.
    network, (train, test, _) = network.to(device), load(data, arguments.data_dir, device, download=False)
    machine = MachineConfig(device, "fp32", True, torch.get_num_threads(), 1, "eager", False, 500, 0.0, 0.0)
    machines.apply(machine)
    normalization = "given mean and std" if arguments.mean else data.normalization
    if arguments.mean:
        normalize: Normalizer = ChannelNormalizer(arguments.mean, arguments.std, device)
    else:
        normalize = Normalizer(train.sample, data.normalization, data.scale)
    described = f"{name}: depth {architecture.depth}, shortcut {architecture.shortcut}"
    print(f"{described}, width {architecture.width}, {parameter_count(network):,} parameters")
    trouble = machines.cuda_trouble()
    why = f", as {trouble}" if trouble not in (None, machines.NO_CUDA) else ""
    print(f"on {data.name}, {normalization}, float32 on {device}{why}")
    if left_out:
        print(left_out)
    few = test[: arguments.lesion_images]
    images = {"responses": test, "information": spaced_images(test), "gradients": train[:GRADIENT_BATCH]}
    images |= {"lesions": few, "constructed": few}
    provenance = {
        "checkpoint": name,
        "weights": hashlib.sha256(file.read_bytes()).hexdigest(),
        "date": time.strftime("%Y-%m-%d"),
        "network": asdict(architecture),
        "data": data.name,
        "normalization": normalization,
        "probes": {probe: len(images[probe]) for probe in arguments.probes if probe in images},
        "left_out": left_out,
        "draws": arguments.draws,
        **machines.describe(machine),
    }
    if "lesions" in arguments.probes:
        again = recalibration(Views(train, normalize), arguments)
        provenance |= {"recalibrated_on": len(again.images)}  # training images
    above = out.parent.exists()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=out.parent) as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            chosen = [probe for probe in PROBES if probe in arguments.probes]
            for number, probe in enumerate(chosen, 1):
                print(f"[{number}/{len(chosen)}] measuring {probe} ...", flush=True)
                views = Views(images.get(probe, test), normalize)
                table, said = PROBES[probe](network, views.of(train), views, arguments)
                table.to_csv(made / f"{probe}.csv", index=False, float_format="%.6g")
                if probe in DRAWINGS:
                    caption = f"{described}; {len(views.images):,} images of {data.name}"
                    save(DRAWINGS[probe](table, caption), made, probe)
                print(f"{probe:<10} {said}", flush=True)
            write_atomically(made / "probe.json", json.dumps(provenance, indent=2) + "\n")
            for path in out.iterdir() if out.exists() else ():
                path.unlink()
            made.rename(out)  # over an empty folder, or none: all of it or nothing
    except OSError as error:
        raise CheckpointError(f"cannot write {out} ({error.strerror}); name another folder with --out") from error
    finally:
        if not above:
            with suppress(OSError):  # of what is in it, or was never made
                out.parent.rmdir()
    print(f"tables and figures in {out}")


def main() -> int:
    """Exit status 2, with one line and nothing written, where the input is wrong."""
    try:
        run(parse())
    except (CheckpointError, ConfigError, DataError, RecordError, OSError, ValidationError) as error:
        print("error:", " ".join(str(error).partition(" [type=")[0].split()), file=sys.stderr)  # pydantic has several
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
