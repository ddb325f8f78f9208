"""Any checkpoint of a plain or residual network as a `Network`: that of a run, or a state_dict of other code.

Tensors of other code are matched by order and shape; how it named its modules does not matter. What tensors do not
tell is taken to be as in `Network`: where ReLU is, BN's epsilon, and what the caller of `match` leaves unsaid.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from operator import eq
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from degradation.config import Architecture, Family, Shortcut, complete, plan
from degradation.net.network import Network, Projection

ROLES = ("weight", "bias", "running_mean", "running_var")  # of a layer's tensors: torch's names, in torch's order
NESTED = ("state_dict", "model_state_dict", "model", "net", "network")
Layer = dict[str, str]  # role -> name of the tensor


class CheckpointError(Exception):
    """A file is no checkpoint of a network of the paper; one line says which tensor does not fit, and why."""


def _layers(tensors: Mapping[str, Tensor]) -> list[Layer]:
    # The layers of a state_dict in its order.
    names = [name for name, tensor in tensors.items() if tensor.ndim]  # num_batches_tracked has no dimension
    if names == sorted(names):  # stored by alphabet: block 10 must not come before block 2
        names.sort(key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)])
    modules: dict[str, Layer] = {}
    for name in names:
        module, _, role = name.rpartition(".")
        modules.setdefault(module, {})[role] = name
    if any(set(layer) == set(ROLES) for layer in modules.values()):
        return list(modules.values())
    layers: list[Layer] = []  # no BN by torch's names of its tensors: they are taken in torch's order
    for name in names:
        last = layers[-1] if layers else {}
        room = {1: 4, 2: 2}.get(tensors[last["weight"]].ndim, 1) if last else 0
        if tensors[name].ndim == 1 and len(last) < room:
            last[ROLES[len(last)]] = name
        else:
            layers.append({"weight": name})
    return layers


def _fill(module: nn.Module, layer: Layer, tensors: Mapping[str, Tensor]) -> None:
    # Copy a layer's tensors into a module, each of which must be there and fit.
    targets = {role: tensor for role, tensor in module.state_dict().items() if tensor.ndim}
    if set(layer) != set(targets):
        raise CheckpointError(f"{layer['weight']} is one of {', '.join(layer)}; expected {', '.join(targets)}")
    for role, target in targets.items():
        name, source, expected = layer[role], tensors[layer[role]], list(target.shape)
        if source.shape != target.shape:
            raise CheckpointError(f"{name} has shape {list(source.shape)}, expected {expected}")
        if not source.isfinite().all():
            raise CheckpointError(f"{name} {expected} holds values that are not finite")
        if role == "running_var" and (source < 0).any():
            raise CheckpointError(f"{name} {expected} has negative values, expected variances")
        target.copy_(source)


def _recognise(family: Family, kernels: list[tuple[int, ...]], shortcut: Shortcut | None) -> tuple[int, Shortcut]:
    # Depth and shortcut option, from the kernels of all convolutions.
    threes, ones = kernels.count((3, 3)), kernels.count((1, 1))
    bottlenecks = family == "imagenet" and ones >= 2 * threes
    try:
        depth = 3 * threes + 2 if bottlenecks else threes + (1 if family == "cifar" else 2)  # CIFAR's stem is 3x3, too
        table = plan(family, depth)
    except ValueError as error:
        raise CheckpointError(f"{threes} 3x3 and {ones} 1x1 convolutions: {error}") from None
    blocks = sum(table.blocks)
    changing = len(table.blocks) - (not bottlenecks)  # the first of every stage, but two 3x3 keep the shape in stage 1
    projections = len(kernels) - 1 - len(table.layers) * blocks
    options: dict[int, tuple[Shortcut, ...]] = {0: ("none", "A"), changing: ("B",), blocks: ("C",)}
    if projections not in options:
        raise CheckpointError(f"{projections} 1x1 shortcuts, expected 0, {changing} (option B) or {blocks} (option C)")
    possible = options[projections]
    if shortcut is None and len(possible) > 1:
        raise CheckpointError("no projection, so the shortcut is none or A, whose tensors are equal: say which")
    if shortcut not in (None, *possible):
        raise CheckpointError(f"shortcut={shortcut}, but {projections} 1x1 shortcuts mean {' or '.join(possible)}")
    return depth, shortcut or possible[0]


def match(tensors: Mapping[str, Tensor], shortcut: Shortcut | None = None, **told: Any) -> Network:
    """A network with these tensors, matched by order and shape; family, depth, width and classes follow from them.

    The k-th convolution belongs to the k-th BN, whichever of the two is listed first and wherever the projections are.

    Args:
        tensors: a state_dict of whatever names, with or without num_batches_tracked.
        shortcut: "none" or "A" must be said, as neither has tensors; "B" and "C" are told by their projections.
        told: other settings of `Architecture` that tensors do not tell, the paper's where not said: `pad_side` of
            option A, `stride_in` of bottlenecks, `pool` of ImageNet's stem, `alpha`. Torchvision's networks are those
            with stride_in="3x3" and pool="padded", and loaded without these give other outputs.

    Raises:
        CheckpointError: with the first tensor that is missing, left over or of another shape than expected.
        ValueError: what is told is no setting of an `Architecture`.
    """

    def describe(layer: Layer) -> str:
        name = next(iter(layer.values()))
        return f"{name} {list(tensors[name].shape)}"

    kinds: dict[int, list[Layer]] = {1: [], 2: [], 4: []}
    for layer in _layers(tensors):
        if "weight" not in layer or tensors[layer["weight"]].ndim not in kinds:
            raise CheckpointError(f"{describe(layer)} is left over: no weight of a convolution, BN or head beside it")
        kinds[tensors[layer["weight"]].ndim].append(layer)
    norms, heads, convolutions = kinds.values()
    for convolution, norm in zip(convolutions, norms, strict=False):
        if (width := tensors[convolution["weight"]].shape[0]) != tensors[norm["weight"]].shape[0]:
            raise CheckpointError(f"{describe(norm)} is the BN of {describe(convolution)} by order, expected [{width}]")
    if spare := convolutions[len(norms) :] + norms[len(convolutions) :]:
        raise CheckpointError(f"{describe(spare[0])} is left over: {len(convolutions)} convolutions, {len(norms)} BN")
    if len(heads) != 1:
        raise CheckpointError(f"expected one fully connected layer, not {' and '.join(map(describe, heads)) or 'none'}")

    shapes = [tensors[layer["weight"]].shape for layer in convolutions]
    kernels = [tuple(shape[2:]) for shape in shapes]
    family: Family = "imagenet" if (7, 7) in kernels else "cifar"
    depth, option = _recognise(family, kernels, shortcut)
    width = shapes[kernels.index((3, 3) if family == "cifar" else (7, 7))][0]
    classes = tensors[heads[0]["weight"]].shape[0]
    network = Network(Architecture.paper(depth, option, family, width=width, classes=classes, **told))

    layers, blocks = network.layers(), network.blocks()
    shortcuts = [tuple(b.shortcut) for b in blocks.values() if isinstance(b.shortcut, Projection)]
    places: list[list[Any]] = [[(layer.convolution, layer.norm) for layer in layers], shortcuts]
    # Each of the two is listed in order of depth. The projection of the first bottleneck has the shape of its last
    # layer: whether it is listed before that is as in stage 2, where shapes tell.
    example = blocks["stage2.block1"]
    if isinstance(example.shortcut, Projection):  # option B or C
        projection, last = example.shortcut[0].weight.shape, example.layers[-1][0].weight.shape
        if projection in shapes[: [*shapes, last].index(last)]:
            places.reverse()
    found: dict[nn.Module, Layer] = {}
    for shape, *pair in zip(shapes, convolutions, norms, strict=True):
        likest = max(filter(None, places), key=lambda place: sum(map(eq, place[0][0].weight.shape, shape)))
        found |= zip(likest.pop(0), pair, strict=True)
    modules = (network.stem, network.bn, layers[1].convolution)
    stem, bn, inside = (found[module]["weight"].rpartition(".")[0].rpartition(".")[0] for module in modules)
    if stem != bn == inside:  # order and shapes are those of the paper, and only names tell
        raise CheckpointError(f"{describe(found[network.bn])} is in the first block, not the stem: pre-activation")
    for module, layer in (found | {network.head: heads[0]}).items():
        _fill(module, layer, tensors)
    return network


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:  # torch.load checks no CRC, and torch.save compresses nothing
                if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                    raise ValueError("compressed, as torch.save leaves nothing")
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"{damaged} in it is damaged")
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{file} pickles an object of {found[1]}, and unpickling it could run any code; "
                "save the network's state_dict() alone"
            ) from None
        raise CheckpointError(f"{file} is not a file that torch.save wrote") from None
    except Exception as error:  # whatever torch, zipfile or the disk raise: the remedy is the same
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file} cannot be read as a checkpoint ({reason})") from None
    for _ in range(3):  # one in another, but not without end: a dict may contain itself
        if not isinstance(content, Mapping):
            break
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return {str(name): tensor for name, tensor in content.items()}
        content = next((content[key] for key in NESTED if isinstance(content.get(key), Mapping)), None)
    raise CheckpointError(f"{file} holds no state_dict, neither bare nor as {', '.join(NESTED)}")


def checkpoint_file(path: str | Path) -> Path:
    """The file of a checkpoint: itself, or network.pt of a run's folder."""
    file = Path(path) / "network.pt" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file} is not a file")
    return file


def read_config(path: str | Path) -> dict[str, Any] | None:
    """The scientific config of the run that a checkpoint is of, None where it is of other code."""
    file = checkpoint_file(path)
    described = file.with_name("config.yaml")
    if file.name != "network.pt" or not described.is_file():
        return None
    try:
        config = yaml.safe_load(described.read_text())
        return complete(config) if "run_id" in config else None
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError):
        raise CheckpointError(f"{described} is damaged") from None


def load_network(path: str | Path, shortcut: Shortcut | None = None, **told: Any) -> Network:
    """The network of a checkpoint, on the CPU: a run's folder or network.pt, or a file of other code (see `match`).

    What is None is not said. A run's config.yaml tells everything, and what is said must agree with it.
    """
    file, config = checkpoint_file(path), read_config(path)
    tensors = _read(file)
    said = {key: value for key, value in {"shortcut": shortcut, **told}.items() if value is not None}
    try:
        if config is None:
            return match(tensors, **said)
        settings = config["network"]
        for key, value in said.items():
            if value != settings.get(key):
                raise CheckpointError(f"{key}={value}, but the run was trained with {key}={settings.get(key)}")
        network = Network(Architecture(**settings))
        network.load_state_dict(tensors)
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise CheckpointError("it holds values that are not finite")
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    except (TypeError, ValueError, RuntimeError) as error:
        expected = "the network that its config.yaml describes" if config else "a network of the paper"
        reason = " ".join(str(error).partition(" [type=")[0].split())[:200]  # without pydantic's link
        raise CheckpointError(f"{file} is not {expected} ({reason})") from None
    return network
