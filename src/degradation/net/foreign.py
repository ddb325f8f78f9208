"""Any checkpoint of a plain or residual CIFAR network as a `Network`: that of a run, or a state_dict of other code.

Tensors of other code are matched by order and shape; how it named its modules does not matter. What tensors do not
tell is taken to be as in `Network`: strides, where ReLU is, BN's epsilon, and for options none and A the shortcut.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from degradation.config import LATER
from degradation.net.network import Network, PadSide, Shortcut, blocks_per_stage

ROLES = ("weight", "bias", "running_mean", "running_var")  # of a layer's tensors: torch's names, in torch's order
NESTED = ("state_dict", "model_state_dict", "model", "net", "network")
Layer = dict[str, str]  # role -> name of the tensor


class CheckpointError(Exception):
    """A file is no checkpoint of a network of this family; one line says which tensor does not fit, and why."""


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
    for role, target in targets.items():
        expected = list(target.shape)
        if role not in layer:
            raise CheckpointError(f"{layer['weight']} has no {role} beside it, expected one of shape {expected}")
        source = tensors[layer[role]]
        if source.shape != target.shape:
            raise CheckpointError(f"{layer[role]} has shape {list(source.shape)}, expected {expected}")
        if role == "running_var" and (source < 0).any():
            raise CheckpointError(f"{layer[role]} {expected} has negative values, expected variances")
        target.copy_(source)
    if extra := [name for role, name in layer.items() if role not in targets]:
        raise CheckpointError(f"{extra[0]} {list(tensors[extra[0]].shape)} is left over, expected {', '.join(targets)}")


def _option(projections: int, n: int, shortcut: Shortcut | None) -> Shortcut:
    if projections not in (0, 2, 3 * n):
        raise CheckpointError(f"{projections} 1x1 convolutions, expected 0, 2 (option B) or {3 * n} (option C)")
    if not projections and shortcut is None:
        raise CheckpointError("no 1x1 convolution, so the shortcut is none or A, whose tensors are equal: say which")
    possible = ("B",) if projections == 2 else ("C",) if projections else ("none", "A")
    if shortcut is not None and shortcut not in possible:
        raise CheckpointError(f"shortcut={shortcut}, but {projections} 1x1 convolutions mean {' or '.join(possible)}")
    return shortcut or possible[0]  # type: ignore[return-value]


def match(tensors: Mapping[str, Tensor], shortcut: Shortcut | None = None, pad_side: PadSide = "end") -> Network:
    """A network with these tensors, matched by order and shape; depth, width and classes follow from them.

    The k-th convolution belongs to the k-th BN, whichever of the two is listed first and wherever the projections are.

    Args:
        tensors: a state_dict of whatever names, with or without num_batches_tracked.
        shortcut: "none" or "A" must be said, as neither has tensors; "B" and "C" are told by their 1x1 convolutions.
        pad_side: where option A puts the zero channels.

    Raises:
        CheckpointError: with the first tensor that is missing, left over or of another shape than expected.
    """

    def told(layer: Layer) -> str:
        name = next(iter(layer.values()))
        return f"{name} {list(tensors[name].shape)}"

    kinds: dict[int, list[Layer]] = {1: [], 2: [], 4: []}
    for layer in _layers(tensors):
        if "weight" not in layer or tensors[layer["weight"]].ndim not in kinds:
            raise CheckpointError(f"{told(layer)} is left over: no weight of a convolution, BN or head beside it")
        kinds[tensors[layer["weight"]].ndim].append(layer)
    norms, heads, convolutions = kinds.values()

    kernels = [tuple(tensors[layer["weight"]].shape[2:]) for layer in convolutions]
    if strange := [layer for layer, size in zip(convolutions, kernels, strict=True) if size not in ((3, 3), (1, 1))]:
        raise CheckpointError(f"{told(strange[0])}, expected a 3x3 kernel, or 1x1 in a shortcut: not a CIFAR network")
    threes = [layer for layer, size in zip(convolutions, kernels, strict=True) if size == (3, 3)]
    if not threes:
        raise CheckpointError("no 3x3 convolution, expected 6n+1")
    if not norms:
        raise CheckpointError("no batch normalisation, expected one for every convolution")
    projections = len(convolutions) - len(threes)
    if projections >= len(threes):
        raise CheckpointError(f"{projections} 1x1 and {len(threes)} 3x3 convolutions: blocks are bottlenecks")
    for convolution, norm in zip(convolutions, norms, strict=False):
        if (width := tensors[convolution["weight"]].shape[0]) != tensors[norm["weight"]].shape[0]:
            raise CheckpointError(f"{told(norm)} is the BN of {told(convolution)} by order, expected [{width}]")
    if spare := convolutions[len(norms) :] + norms[len(convolutions) :]:
        raise CheckpointError(f"{told(spare[0])} is left over: {len(convolutions)} convolutions, {len(norms)} BN")
    if len(heads) != 1:
        raise CheckpointError(f"{told(heads[1])} is left over" if heads else "no fully connected layer, expected one")
    try:
        n = blocks_per_stage(len(threes) + 1)
    except ValueError as error:
        raise CheckpointError(f"{len(threes)} 3x3 convolutions: {error}") from None
    parents = [layer["weight"].rpartition(".")[0].rpartition(".")[0] for layer in (*threes[:2], norms[0])]
    if parents[0] != parents[1] == parents[2]:  # order and shapes are those of this family, and only names tell
        raise CheckpointError(f"{told(norms[0])} is in the first block, not the stem: a pre-activation network")

    width, classes = tensors[threes[0]["weight"]].shape[0], tensors[heads[0]["weight"]].shape[0]
    network = Network(6 * n + 2, _option(projections, n, shortcut), width, classes, pad_side)
    blocks = network.blocks().values()
    places = {
        3: iter([(network.stem, network.bn), *(p for b in blocks for p in ((b.conv1, b.bn1), (b.conv2, b.bn2)))]),
        1: iter([tuple(b.shortcut) for b in blocks if isinstance(b.shortcut, nn.Sequential)]),
    }
    for size, *layers in zip(kernels, convolutions, norms, strict=True):
        for module, layer in zip(next(places[size[0]]), layers, strict=True):
            _fill(module, layer, tensors)
    _fill(network.head, heads[0], tensors)
    return network


def _read(file: Path) -> dict[str, Tensor]:
    try:
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
    while isinstance(content, Mapping):
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return {str(name): tensor for name, tensor in content.items()}
        content = next((content[key] for key in NESTED if isinstance(content.get(key), Mapping)), None)
    raise CheckpointError(f"{file} holds no state_dict, neither bare nor as {', '.join(NESTED)}")


def checkpoint_file(path: str | Path) -> Path:
    """The file of a checkpoint: itself, or network.pt of a run's folder.

    Raises:
        CheckpointError: there is none.
    """
    file = Path(path) / "network.pt" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file} is not a file")
    return file


def read_config(path: str | Path) -> dict[str, Any] | None:
    """The scientific config of the run that a checkpoint is of, None where it is of other code.

    Raises:
        CheckpointError: there is no such file, or its config.yaml is damaged.
    """
    file = checkpoint_file(path)
    described = file.with_name("config.yaml")
    if file.name != "network.pt" or not described.is_file():
        return None
    try:
        config = yaml.safe_load(described.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        raise CheckpointError(f"{described} is damaged") from None
    if not isinstance(config, dict) or "run_id" not in config:
        return None
    if not all(isinstance(config.get(group), dict) for group in ("network", "data")):
        raise CheckpointError(f"{described} is damaged")
    return config


def load_network(path: str | Path, shortcut: Shortcut | None = None, pad_side: PadSide | None = None) -> Network:
    """The network of a checkpoint, on the CPU: a run's folder or network.pt, or a file of other code (see `match`).

    Raises:
        CheckpointError: see the class; the message begins with the file.
    """
    file, config = checkpoint_file(path), read_config(path)
    tensors = _read(file)
    try:
        if config is None:
            return match(tensors, shortcut, pad_side or "end")
        settings = {**LATER["network"], **config["network"]}
        for key, given in (("shortcut", shortcut), ("pad_side", pad_side)):
            if given not in (None, settings[key]):
                raise CheckpointError(f"{key}={given}, but the run was trained with {key}={settings[key]}")
        network = Network(**{key: settings[key] for key in settings if key not in ("name", "parent_depth")})
        network.load_state_dict(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file} is not the network that its config.yaml describes ({reason})") from None
    return network
