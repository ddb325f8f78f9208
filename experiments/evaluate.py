"""Test ImageNet networks as the paper does, alone and together.

Top-1 and top-5 validation errors by centre crop, ten crops, or whole images at five sizes (section 3.4), and of several
networks by the average of their softmax scores, too (Table 5). What is measured of runs on all images also lands in
results/tests/, where experiments/report.py finds it for Tables 2 to 5.
"""

import degradation.script  # isort: skip  # noqa: F401  first of all
import argparse
import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import hydra
import pandas as pd
import torch
from probe import add_told, parse_told, positive, read_data

from degradation.config import (
    ConfigError,
    DataError,
    find_conf,
    find_published,
    images_of_group,
    parse,
    run_id,
)
from degradation.data.images import load
from degradation.data.resident import ChannelNormalizer, Normalizer
from degradation.ending import Parser
from degradation.net.foreign import CheckpointError, checkpoint_file, load_network, read_config
from degradation.probe.testing import Way, error_in_top, scores
from degradation.probe.views import Views, exact_batchnorm
from degradation.record import RecordError, check_identity, check_network, name_precision, write_atomically
from degradation.report.imagenet import path_of_tests
from degradation.train import machine as machines

WAYS = get_args(Way)


def evaluate(arguments: argparse.Namespace) -> tuple[pd.DataFrame, bool]:
    """A row for each checkpoint and way, and for all together where there are several; whether it is of whole runs.

    Columns: network, networks (their names, between spaces), weights (the SHA-256 of each), way, top1, top5 (percent),
    batchnorm, images, data, precision, commit.
    """
    given = vars(arguments)
    with hydra.initialize_config_dir(str(find_conf()), version_base="1.3"):
        composed = parse(hydra.compose("train", ["protocol=imagenet_paper", *given["overrides"]]))
    machine = machines.resolve(composed.machine)
    machines.apply(machine)
    data = composed.data
    configs = [read_config(path) for path in given["checkpoints"]]
    names = [Path(path).name for path in given["checkpoints"]]
    folders = run_folders(given["checkpoints"])
    for place, folder in folders.items():
        check_network(folder)
        names[place] = run_id(check_identity(folder))
    own = [read_data(config["data"]) for config in configs if config]
    if own and not any(override.startswith("data") for override in given["overrides"]):
        data = own[0]
    # All are shown the same pixels, cropped and normalised as one says: what was trained on others is not comparable.
    for path, config in zip(given["checkpoints"], configs, strict=True):
        if (given["mean"] and config) or (config is None and own and not given["mean"]):
            raise ConfigError(f"{path}: test runs apart from other code's networks, whose are --mean and --std")
        if config and read_data(config["data"]) != own[0]:
            raise ConfigError(
                f"{path} was trained on other images, or sees them otherwise, than {names[0]}: test it alone"
            )
    if data.crop is None:
        raise CheckpointError(f"{data.name}: images of 32x32 pixels are shown whole; see experiments/probe.py")
    images = load(data, composed.paths.data, machine.device, workers=int(machine.workers))
    train, test = (part[: given["images"]] if given["images"] else part for part in images[:2])
    if given["mean"]:
        normalize: Normalizer = ChannelNormalizer(given["mean"], given["std"], machine.device)
    else:
        normalize = Normalizer(images[0].sample, data.normalization, data.scale)
    views = Views(test, normalize, machine.evaluation_batch, machine.precision, machine.channels_last)
    networks, classes = [], int(images[1].labels.max()) + 1
    for path in given["checkpoints"]:  # what is wrong with any of them is told before hours of work
        network = load_network(path, given["shortcut"], **{k: given[k] for k in ("stride_in", "pool", "pad_side")})
        if classes != network.architecture.classes:
            raise CheckpointError(f"{path} has {network.architecture.classes} classes, and {data.name} {classes}")
        networks.append(network)
    weights = [hashlib.sha256(checkpoint_file(path).read_bytes()).hexdigest() for path in given["checkpoints"]]
    rows: list[dict[str, object]] = []
    for way in given["ways"]:
        # Of whole images every one has a size of its own: to time the algorithms for each would take the time.
        torch.backends.cudnn.benchmark = way != "multi_scale"
        together = []
        for number, (name, network, config) in enumerate(zip(names, networks, configs, strict=True), 1):
            print(f"[{way}, {number}/{len(names)}] {name} ...", flush=True)
            subject = network.to(machine.device)
            if given["batchnorm"] == "exact":
                told = config["protocol"] if config else vars(composed.protocol)
                group = min(images_of_group(told["batch_size"], told["batchnorm_groups"]), len(train))
                subject = exact_batchnorm(network, replace(views.of(train), batch_size=group))
            together.append(scores(subject, views, way))
            network.cpu()  # several may not fit on a device
            of = {"network": name, "networks": name, "weights": weights[number - 1], "way": way}
            rows.append({**of, **_errors(together[-1], test.labels)})
        if len(together) > 1:
            members = sorted(zip(names, weights, strict=True))
            of = {"network": "all", "networks": " ".join(name for name, _ in members), "way": way}
            of["weights"] = " ".join(file for _, file in members)
            rows.append({**of, **_errors(torch.stack(together).mean(0), test.labels)})
    told = {"batchnorm": given["batchnorm"], "images": len(test), "data": data.name}
    described = machines.describe(machine)
    told |= {"precision": name_precision(described), "commit": described["commit"]}
    # Kept beside the records of the runs, where they are tested on what those name, all of it.
    whole = not (given["images"] or given["mean"]) and all(c and read_data(c["data"]) == data for c in configs)
    ours = [find_published().resolve() not in f.parents and "runs" in f.parts[:-1] for f in folders.values()]
    return pd.DataFrame(rows).assign(**told), whole and all(ours)


def run_folders(checkpoints: list[str]) -> dict[int, Path]:
    """Place in the list -> folder, of those that are runs."""
    files = {place: checkpoint_file(path) for place, path in enumerate(checkpoints)}
    return {place: file.parent.resolve() for place, file in files.items() if read_config(file)}


def keep(table: pd.DataFrame, checkpoints: list[str]) -> None:
    """Write what was measured of runs beside them, in place of what was there of the same network and way."""
    files = {run_id(check_identity(folder)): path_of_tests(folder) for folder in run_folders(checkpoints).values()}
    for leader, rows in table.drop(columns="network").groupby(table["networks"].str.split().str[0]):
        path = files[str(leader)]
        try:
            both = pd.concat([*([pd.read_csv(path)] if path.exists() else []), rows])
            both["networks"], both["way"], both["batchnorm"], both["precision"]
        except (LookupError, ValueError) as error:
            raise RecordError(
                f"{path} is damaged; delete it, and what is printed above can be measured again"
            ) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = both.drop_duplicates(["networks", "way", "batchnorm", "precision"], keep="last")
        write_atomically(path, kept.to_csv(index=False, float_format="%.4g"))


def _errors(found: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    return {f"top{k}": error_in_top(found, labels, k) for k in (1, 5)}


def main() -> int:
    """Exit status 2, with one line and nothing written, where the input is wrong."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("checkpoints", nargs="+", help="runs' folders, or state_dicts of other code")
    add("--ways", default=",".join(WAYS), help="default: %(default)s")
    add("--batchnorm", choices=("moving", "exact"), default="moving", help="exact: averages over the training set")
    add("--images", type=positive, help="of each set only so many, drawn at random")
    add_told(parser)
    add("--out", type=Path, help="write the table to this file, too (.csv)")
    add("--overrides", nargs="*", default=[], help="Hydra overrides of data and machine, such as data=imagenette")
    arguments = parse_told(parser)
    arguments.ways = arguments.ways.split(",")
    if unknown := [way for way in arguments.ways if way not in WAYS]:
        parser.error(f"--ways: {unknown[0] or 'nothing'} is not one of {', '.join(WAYS)}")
    if arguments.out and not arguments.out.absolute().parent.is_dir():
        parser.error(f"--out: there is no folder {arguments.out.parent}")
    try:
        table, whole = evaluate(arguments)
        # First of all: it took hours, perhaps.
        print(
            table.drop(columns=["networks", "weights", "commit"]).to_string(index=False, float_format="%.2f"),
            flush=True,
        )
        if whole:
            keep(table, arguments.checkpoints)
        if arguments.out:
            write_atomically(arguments.out, table.to_csv(index=False, float_format="%.4g"))
    except (CheckpointError, ConfigError, DataError, RecordError, hydra.errors.HydraException, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    if whole:
        print("kept in tests/ beside runs/: experiments/report.py shows Tables 2 to 5")
    return 0


if __name__ == "__main__":
    sys.exit(main())
