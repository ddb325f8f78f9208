"""What a trained network looks like inside, of a run or of other code: python experiments/probe.py --help.

Tables and figures of errors, layer responses (Fig. 7), gradients by layer (section 4.1), lesions (arXiv 1605.06431),
and the deeper networks that identity layers make of this one (the constructed solution, section 1).
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import torch

from degradation.data.images import DataError, ImageSet, Normalizer, load_cifar10, load_cifar10_mini, make_synthetic
from degradation.net.foreign import CheckpointError, checkpoint_file, load_network, read_config
from degradation.net.network import Network, parameter_count
from degradation.probe.construct import deepen_each
from degradation.probe.layers import evaluate, layer_gradients, layer_responses
from degradation.probe.lesions import deletable, delete_each, delete_random, swap_random, swappable
from degradation.record import write_atomically
from degradation.report.draw import draw_responses, save
from degradation.report.studies import draw_gradients, draw_lesions
from degradation.train import machine as machines

PROBES = ("error", "responses", "gradients", "lesions", "constructed")
MADE = {f"{probe}.{kind}" for probe in PROBES for kind in ("csv", "png", "svg")} | {"probe.json"}
GRADIENT_BATCH = 128  # section 4.2
DEEPER = (20, 32, 44, 56, 110)  # the depths of section 4.2 up to which identity layers are added
MOST_COUNTS = 10  # of blocks deleted or pairs swapped at once, between 1 and all
DRAWINGS = {"responses": draw_responses, "gradients": draw_gradients, "lesions": draw_lesions}


class Parser(argparse.ArgumentParser):
    """One line on stderr for whatever is wrong with the input, and no usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


class ChannelNormalizer(Normalizer):
    """Constants that other code normalised each channel with, in place of the training set's own."""

    def __init__(self, mean: list[float], std: list[float]):
        self.mean, self.std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)


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


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        help="a run's folder or network.pt, or a state_dict of other code (.pt, .pth, ...)",
    )
    add("--shortcut", choices=("none", "A", "B", "C"), help="other code: none or A must be said, B and C are seen")
    add("--pad-side", choices=("end", "both"), help="other code: where option A pads zero channels (default: end)")
    add("--data", choices=("cifar10", "cifar10_mini", "synthetic"), help="default: the run's, else cifar10")
    add(
        "--data-dir",
        default=os.environ.get("DATA_DIR", "data"),
        help="holds cifar-10-batches-py (default: %(default)s)",
    )
    add("--normalization", choices=("pixel_mean", "channel"), help="default: the run's, else pixel_mean")
    add("--mean", type=triple, help="of each channel, in place of --normalization, such as 0.485,0.456,0.406")
    add("--std", type=triple, help="with --mean, such as 0.229,0.224,0.225")
    add("--probes", default=",".join(PROBES), help="default: %(default)s (constructed: where it applies)")
    add(
        "--lesion-images",
        type=positive,
        default=2000,
        help="test images for each lesion, and each deeper network (default: %(default)s)",
    )
    add("--draws", type=positive, default=3, help="random lesions of each size (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the random lesions (default: %(default)s)")
    add("--out", type=Path, help="folder of tables and figures (default: inspect/<name of the checkpoint>)")
    arguments = parser.parse_args()
    arguments.probes = arguments.probes.split(",")
    if unknown := [probe for probe in arguments.probes if probe not in PROBES]:
        parser.error(f"--probes: {unknown[0] or 'nothing'} is not one of {', '.join(PROBES)}")
    if (arguments.mean is None) != (arguments.std is None) or (arguments.mean and arguments.normalization):
        parser.error("--mean and --std go together, and without --normalization")
    if arguments.std and not all(arguments.std):
        parser.error("--std: 0 divides nothing")
    if arguments.seed < 0:
        parser.error("--seed must be at least 0")
    return arguments


def load_images(name: str, data_dir: str) -> tuple[ImageSet, ImageSet]:
    if name == "cifar10":
        return load_cifar10(data_dir, download=False)  # who mistypes a folder does not want 170 MB in it
    return load_cifar10_mini() if name == "cifar10_mini" else make_synthetic(512, 256)


def spaced(most: int) -> list[int]:
    """0 and at most MOST_COUNTS whole numbers from 1 to `most`."""
    return [0, *sorted(set(np.linspace(1, most, min(most, MOST_COUNTS)).round().astype(int).tolist()))]


def probe_error(network: Network, train: ImageSet, test: ImageSet, normalize: Normalizer) -> tuple[pd.DataFrame, str]:
    rows = []
    for name, images in (("train", train), ("test", test)):
        error, loss = evaluate(network, images, normalize)
        rows.append({"set": name, "images": len(images), "error": error, "loss": loss})
    said = "   ".join(f"{row['set']} {row['error']:.2f} %" for row in rows)
    return pd.DataFrame(rows), f"{said}   (eval mode, un-augmented images, moving BN averages)"


def probe_responses(network: Network, images: ImageSet, normalize: Normalizer) -> tuple[pd.DataFrame, str]:
    table = pd.DataFrame(layer_responses(network, images, normalize))
    low, high = (table.loc[place] for place in (table["std"].idxmin(), table["std"].idxmax()))
    ends = f"from {low['std']:.3g} ({low['name']}) to {high['std']:.3g} ({high['name']})"
    return table, f"std {ends}, median {table['std'].median():.3g}, on {len(images):,} test images"


def probe_gradients(network: Network, batch: ImageSet, normalize: Normalizer) -> tuple[pd.DataFrame, str]:
    table = pd.DataFrame(layer_gradients(network, normalize(batch.images), batch.labels))
    first, last = table.iloc[0], table.iloc[-1]
    of = {key: f"{first[key]:.3g} (stem) to {last[key]:.3g} (last layer)" for key in ("grad_response", "grad_weight")}
    said = f"norms at the responses {of['grad_response']}, at the weights {of['grad_weight']}"
    return table, f"{said}, on {len(batch)} training images"


def probe_lesions(
    network: Network, images: ImageSet, normalize: Normalizer, draws: int, seed: int
) -> tuple[pd.DataFrame, str]:
    one = delete_each(network, images, normalize)
    blocks, pairs = len(deletable(network)), len(swappable(network))
    deletions, swaps = spaced(blocks), spaced(min(blocks, pairs))
    several = delete_random(network, images, normalize, deletions, draws, seed)
    swapped = swap_random(network, images, normalize, swaps, draws, seed)
    table = pd.DataFrame([*one, *several, *swapped])
    error = table.groupby(["kind", "count"])["error"].mean()
    worst = max(one, key=lambda row: row["error"])
    said = (
        f"intact {error['delete', 0]:.2f} %; one block deleted {error['delete_one', 1]:.2f} % on average and "
        f"{worst['error']:.2f} % at worst ({worst['blocks']})"
    )
    for kind, most, what in (("delete", deletions[-1], "blocks deleted"), ("swap", swaps[-1], "pairs swapped")):
        if most > 1:
            said += f"; {most} {what} {error[kind, most]:.2f} %"
    return table, f"{said}, on {len(images):,} test images"


def probe_constructed(
    network: Network, depths: list[int], train: ImageSet, images: ImageSet, normalize: Normalizer
) -> tuple[pd.DataFrame, str]:
    table = pd.DataFrame(deepen_each(network, depths, train, images, normalize))
    said = "   ".join(f"{row.depth} layers {row.largest_difference:.1e}" for row in table.itertuples())
    return table, f"largest difference of a logit, of the largest: {said}, on {len(images):,} test images"


def main() -> int:
    """Exit status 2, with one line and nothing written, where the input is wrong."""
    arguments = parse()
    try:
        file, config = checkpoint_file(arguments.checkpoint), read_config(arguments.checkpoint)
        name = file.parent.resolve().name if config else file.stem
        out = arguments.out or Path("inspect") / name
        if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= MADE):
            raise CheckpointError(f"{out} holds other things than figures of this script; name another with --out")
        network = load_network(file, arguments.shortcut, pad_side=arguments.pad_side)
        trained_on = config["data"] if config else {"name": "cifar10", "normalization": "pixel_mean"}
        data = arguments.data or trained_on["name"]
        train, test = load_images(data, arguments.data_dir)
        if data == trained_on["name"]:
            train = train[: len(train) - trained_on.get("validation_images", 0)]
        if (classes := network.head.out_features) != 10:
            raise CheckpointError(f"{file}: the network has {classes} classes, and {data} has 10")
        deeper = [depth for depth in DEEPER if depth > network.depth]
        if not deeper or network.settings["norm"] != "batch" or network.settings["alpha"] != 1:
            if arguments.probes == ["constructed"]:
                raise CheckpointError(f"{file}: constructed needs BN, alpha 1 and a depth below {DEEPER[-1]}")
            arguments.probes = [probe for probe in arguments.probes if probe != "constructed"]
    except (CheckpointError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    normalization = arguments.normalization or trained_on["normalization"]
    normalize: Normalizer = Normalizer(train, normalization)
    if arguments.mean:
        normalization, normalize = "given mean and std", ChannelNormalizer(arguments.mean, arguments.std)
    normalize.mean, normalize.std = normalize.mean.to(device), normalize.std.to(device)
    network, train, test = network.to(device), train.to(device), test.to(device)

    described = f"{name}: depth {network.depth}, shortcut {network.settings['shortcut']}"
    print(f"{described}, width {network.stem.out_channels}, {parameter_count(network):,} parameters")
    print(f"on {data}, {normalization}, float32 on {device.type}")
    images = {
        "responses": test,
        "gradients": train[:GRADIENT_BATCH],
        "lesions": test[: arguments.lesion_images],
        "constructed": test[: arguments.lesion_images],
    }
    machine = machines.Machine(device.type, "fp32", True, torch.get_num_threads(), 1, "eager", False)
    machines.apply(machine)
    provenance = {
        "checkpoint": name,
        "date": time.strftime("%Y-%m-%d"),
        "data": data,
        "normalization": normalization,
        "probes": {probe: len(images[probe]) for probe in arguments.probes if probe in images},
        "draws": arguments.draws,
        "seed": arguments.seed,
        **machines.describe(machine),
    }
    probes = {
        "error": lambda: probe_error(network, train, test, normalize),
        "responses": lambda: probe_responses(network, images["responses"], normalize),
        "gradients": lambda: probe_gradients(network, images["gradients"], normalize),
        "lesions": lambda: probe_lesions(network, images["lesions"], normalize, arguments.draws, arguments.seed),
        "constructed": lambda: probe_constructed(network, deeper, train, images["constructed"], normalize),
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=out.parent) as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            for probe in (probe for probe in PROBES if probe in arguments.probes):
                table, said = probes[probe]()
                table.to_csv(made / f"{probe}.csv", index=False, float_format="%.6g")
                if probe in DRAWINGS:
                    caption = f"{described}; {len(images[probe]):,} images of {data}"
                    save(DRAWINGS[probe](table, caption), made, probe)
                print(f"{probe:<10} {said}", flush=True)
            write_atomically(made / "probe.json", json.dumps(provenance, indent=2) + "\n")
            for path in out.iterdir() if out.exists() else ():
                path.unlink()
            made.rename(out)  # over an empty folder, or none: all of it or nothing
    except OSError as error:
        print(f"error: cannot write {out} ({error.strerror}); name another folder with --out", file=sys.stderr)
        return 2
    print(f"tables and figures in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
