"""Test ImageNet networks as the paper does, alone and together: python experiments/evaluate.py --help.

Top-1 and top-5 validation errors by centre crop, ten crops, or whole images at five sizes (section 3.4), and of several
networks by the average of their softmax scores, too (Table 5).
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import hydra
import pandas as pd
import torch
from probe import Parser, positive, read_data, triple

from degradation.config import ConfigError, find_conf, parse
from degradation.data.images import DataError, load
from degradation.data.resident import ChannelNormalizer, Normalizer
from degradation.net.foreign import CheckpointError, load_network, read_config
from degradation.probe.testing import Way, error_in_top, scores
from degradation.probe.views import Views, exact_batchnorm
from degradation.record import write_atomically
from degradation.train import machine as machines

WAYS = get_args(Way)


def evaluate(arguments: argparse.Namespace) -> pd.DataFrame:
    """A row for each checkpoint and way, and for all together where there are several.

    Columns: network, way, batchnorm, images, top1, top5 (percent).
    """
    given = vars(arguments)
    with hydra.initialize_config_dir(str(find_conf()), version_base="1.3"):
        composed = parse(hydra.compose("train", ["protocol=imagenet_paper", *given["overrides"]]))
    machine = machines.resolve(composed.machine)
    machines.apply(machine)
    data = composed.data
    configs = [read_config(path) for path in given["checkpoints"]]
    if configs[0] and not any(override.startswith("data") for override in given["overrides"]):
        data = read_data(configs[0]["data"])
    if data.crop is None:
        raise CheckpointError(f"{data.name}: images of 32x32 pixels are shown whole; see experiments/probe.py")
    images = load(data, composed.paths.data, machine.device, workers=int(machine.workers))
    train, test = (part[: given["images"]] if given["images"] else part for part in images[:2])
    normalize = Normalizer(train.sample, data.normalization)
    if given["mean"]:
        normalize = ChannelNormalizer(given["mean"], given["std"], machine.device)
    views = Views(test, normalize, machine.evaluation_batch, machine.precision, machine.channels_last)
    rows: list[dict[str, object]] = []
    for way in given["ways"]:
        together = []
        for path, config in zip(given["checkpoints"], configs, strict=True):
            network = load_network(path, given["shortcut"], **{k: given[k] for k in ("stride_in", "pool", "pad_side")})
            if (classes := int(images[1].labels.max()) + 1) != network.architecture.classes:
                raise CheckpointError(f"{path} has {network.architecture.classes} classes, and {data.name} {classes}")
            network = network.to(machine.device)
            if given["batchnorm"] == "exact":
                told = config["protocol"] if config else vars(composed.protocol)
                group = -(-told["batch_size"] // told["batchnorm_groups"])
                network = exact_batchnorm(network, replace(views.of(train), batch_size=group))
            together.append(scores(network, views, way))
            rows.append({"network": Path(path).name, "way": way, **_errors(together[-1], test.labels)})
        if len(together) > 1:
            rows.append({"network": "all", "way": way, **_errors(torch.stack(together).mean(0), test.labels)})
    return pd.DataFrame(rows).assign(batchnorm=given["batchnorm"], images=len(test), data=data.name)


def _errors(found: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    return {f"top{k}": error_in_top(found, labels, k) for k in (1, 5)}


def main() -> int:
    """Exit status 2, with one line and nothing written, where the input is wrong."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("checkpoints", nargs="+", help="runs' folders, or state_dicts of other code")
    add("--ways", default=",".join(WAYS), help="default: %(default)s")
    add("--batchnorm", choices=("moving", "exact"), default="moving", help="exact: averages over the training set")
    add("--images", type=positive, help="of each set only so many, drawn at random")
    add("--shortcut", choices=("none", "A", "B", "C"), help="other code: none or A must be said, B and C are seen")
    add("--pad-side", choices=("end", "both"), help="other code: where option A pads zero channels (default: end)")
    add("--stride-in", choices=("1x1", "3x3"), help="other code: what strides in a bottleneck (torchvision: 3x3)")
    add("--pool", choices=("ceil", "padded"), help="other code: the stem's max pool (torchvision: padded)")
    add("--mean", type=triple, help="other code: of each channel, such as 0.485,0.456,0.406")
    add("--std", type=triple, help="with --mean, such as 0.229,0.224,0.225")
    add("--out", type=Path, help="write the table to this file, too (.csv)")
    add("--overrides", nargs="*", default=[], help="Hydra overrides of data and machine, such as data=imagenette")
    arguments = parser.parse_args()
    arguments.ways = arguments.ways.split(",")
    if unknown := [way for way in arguments.ways if way not in WAYS]:
        parser.error(f"--ways: {unknown[0] or 'nothing'} is not one of {', '.join(WAYS)}")
    if (arguments.mean is None) != (arguments.std is None):
        parser.error("--mean and --std go together")
    try:
        table = evaluate(arguments)
        if arguments.out:
            write_atomically(arguments.out, table.to_csv(index=False, float_format="%.4g"))
    except (CheckpointError, ConfigError, DataError, hydra.errors.HydraException, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(table.to_string(index=False, float_format="%.2f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
