"""Checkpoints of other code give the same outputs as the network they are of, or one line that says what is wrong."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from degradation.net.foreign import CheckpointError, checkpoint_file, load_network, match, read_config
from degradation.net.network import Network
from tests.conftest import Compose

Tensors = dict[str, Tensor]


def make_network(shortcut: str, depth: int = 14, width: int = 4, pad_side: str = "end", classes: int = 10) -> Network:
    """No two tensors of it are equal, nor is a BN that of a new network."""
    network = Network(depth, shortcut, width, classes, pad_side, seed=3)  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(5)
    for tensor in network.state_dict().values():
        if tensor.ndim == 1:
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=draw))
    return network.eval()


def torchvision_names(tensors: Tensors, shortcut: str = "downsample", head: str = "fc") -> Tensors:
    """conv1, bn1, layer1.0.conv1, ..., layer2.0.downsample.0, fc: akamaster's and torchvision's names."""
    renamed = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^stages\.(\d)\.", lambda found: f"layer{int(found[1]) + 1}.", name)
        name = name.replace(".shortcut.", f".{shortcut}.").replace("head.", f"{head}.")
        renamed[re.sub("^bn", "bn1", re.sub("^stem", "conv1", name))] = tensor
    return renamed


def reorder(tensors: Tensors, order: Callable[[str], object]) -> Tensors:
    """Stable within equal values of `order`."""
    return {name: tensors[name] for name in sorted(tensors, key=order)}  # type: ignore[arg-type,type-var]


def block_of(name: str) -> tuple[int, ...]:
    found = re.match(r"layer(\d)\.(\d+)\.", name)
    return (int(found[1]), int(found[2])) if found else (9,) if name.startswith("fc") else (0,)


def pair_of(name: str) -> int:
    """1 or 2 for a block's 3x3 convolutions and their BN, 3 for its projection."""
    return 3 if "downsample" in name else 2 if "conv2" in name or "bn2" in name else 1


def is_norm(name: str) -> bool:
    return "bn" in name or "downsample.1" in name


VARIANTS: dict[str, Callable[[Tensors], Tensors]] = {
    "own names": lambda t: t,
    "akamaster": lambda t: torchvision_names(t, "shortcut", "linear"),
    "torchvision": torchvision_names,
    "data parallel": lambda t: {f"module.{name}": tensor for name, tensor in torchvision_names(t).items()},
    "head first": lambda t: reorder(torchvision_names(t, head="classifier"), lambda n: not n.startswith("classifier")),
    "no num_batches_tracked": lambda t: {name: tensor for name, tensor in t.items() if tensor.ndim},
    "BN first": lambda t: reorder(torchvision_names(t), lambda n: (*block_of(n), pair_of(n), not is_norm(n))),
    "all BN last": lambda t: reorder(torchvision_names(t), lambda n: (*block_of(n), is_norm(n), pair_of(n))),
    "projections first": lambda t: reorder(torchvision_names(t), lambda n: (*block_of(n), pair_of(n) != 3)),
    "parameters, then buffers": lambda t: reorder(torchvision_names(t), lambda n: "running" in n or "tracked" in n),
    "by alphabet": lambda t: reorder(torchvision_names(t), lambda n: n),
    "numbered": lambda t: {f"t{i}": tensor for i, tensor in enumerate(t.values())},
    "numbered, head first": lambda t: {
        f"t{i}": tensor for i, tensor in enumerate(reorder(t, lambda n: not n.startswith("head")).values())
    },
    "numbered with roles": lambda t: {
        f"t{i}.{name.rpartition('.')[2]}": tensor for i, (name, tensor) in enumerate(t.items())
    },
}


def same_outputs(network: Network, other: Network) -> bool:
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(network.eval()(x), other.eval()(x))


@pytest.mark.parametrize("shortcut", ["none", "A", "B", "C"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_order_of_other_code_do_not_matter(variant: str, shortcut: str) -> None:
    network = make_network(shortcut, pad_side="both")
    tensors = VARIANTS[variant](network.state_dict())
    matched = match(tensors, shortcut if shortcut in ("none", "A") else None, "both")  # type: ignore[arg-type]
    assert matched.settings["shortcut"] == shortcut
    assert matched.depth == 14
    assert same_outputs(network, matched)


def test_block_10_does_not_come_before_block_2() -> None:
    network = make_network("A", depth=74, width=2)
    tensors = reorder(torchvision_names(network.state_dict()), lambda name: name)
    assert list(tensors).index("layer1.10.bn1.weight") < list(tensors).index("layer1.2.bn1.weight")
    assert same_outputs(network, match(tensors, "A"))


def test_depth_width_and_classes_follow_from_the_shapes() -> None:
    network = make_network("B", depth=8, width=10, classes=10)  # a BN as long as the head's bias
    tensors = VARIANTS["numbered, head first"](network.state_dict())
    assert same_outputs(network, match(tensors))
    other = match(make_network("none", depth=20, width=3, classes=7).state_dict(), "none")
    assert (other.depth, other.stem.out_channels, other.head.out_features) == (20, 3, 7)


def test_the_side_of_padding_and_the_shortcut_are_the_callers() -> None:
    both = make_network("A", pad_side="both")
    assert not same_outputs(both, match(both.state_dict(), "A", "end"))
    assert not same_outputs(both, match(both.state_dict(), "none"))


@pytest.mark.parametrize("key", [None, "state_dict", "model", "net", "model_state_dict"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".ckpt"])
def test_a_file_of_other_code_loads(key: str | None, suffix: str, tmp_path: Path) -> None:
    network = make_network("A", depth=8)
    tensors = VARIANTS["data parallel"](network.state_dict())
    path = tmp_path / f"other{suffix}"
    torch.save(tensors if key is None else {"epoch": 3, key: tensors, "best_acc": 91.2, "optimizer": {}}, path)
    assert same_outputs(network, load_network(path, "A"))
    assert read_config(path) is None


@pytest.mark.parametrize("settings", [["network=plain"], ["network=residual", "network.pad_side=both"]])
def test_a_run_loads_from_its_folder_and_from_its_file(settings: list[str], tiny: Compose, tmp_path: Path) -> None:
    from degradation.train.run import train

    config = tiny(*settings)
    assert train(config).status == "finished"
    folder = tmp_path / "runs" / config.run_id
    network = load_network(folder)
    saved = torch.load(folder / "network.pt", weights_only=True)
    assert all(torch.equal(saved[name], tensor) for name, tensor in network.state_dict().items())
    assert network.settings["shortcut"] == config.network.shortcut
    assert same_outputs(network, load_network(folder / "network.pt"))
    assert read_config(folder)["data"]["name"] == "synthetic"  # type: ignore[index]
    if config.network.shortcut == "A":
        assert network.stages[1][0].shortcut.pad == (1, 1)
    with pytest.raises(CheckpointError, match=r"network\.pt: shortcut=B, but the run was trained with shortcut="):
        load_network(folder, "B")
    described = yaml.safe_load((folder / "config.yaml").read_text())
    for change, message in (
        ({"width": 3}, "is not the network that its config.yaml describes"),
        ({"depth": 9}, "is not the network that its config.yaml describes .depth=9"),
        ({"new": 1}, "is not the network that its config.yaml describes"),
    ):
        changed = {**described, "network": {**described["network"], **change}}
        (folder / "config.yaml").write_text(yaml.safe_dump(changed))
        with pytest.raises(CheckpointError, match=message):
            load_network(folder)
    for text in ("run_id: x", "a: [", "run_id: x\nnetwork: 3\ndata: 4"):
        (folder / "config.yaml").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.yaml is damaged"):
            load_network(folder)


def changed(**changes: Tensor | None) -> Callable[[Tensors], Tensors]:
    """Tensors by name (dots as double underscores) put in, or left out where None."""

    def change(tensors: Tensors) -> Tensors:
        new = {name.replace("__", "."): tensor for name, tensor in changes.items()}
        return {name: tensor for name, tensor in (tensors | new).items() if tensor is not None}  # type: ignore[operator]

    return change


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def pre_activation(tensors: Tensors) -> Tensors:
    norms = ["layer1.0.bn1", "layer1.0.bn2", "layer2.0.bn1", "layer2.0.bn2", "layer3.0.bn1", "layer3.0.bn2", "bn"]
    names = ["bn1", *norms[:-1]]  # each BN goes by the name of the one after it
    later = dict(zip(names, norms, strict=True))
    return {
        (later[module] + "." + role if (module := name.rpartition(".")[0]) in later else name): tensor
        for name, tensor in tensors.items()
        for role in [name.rpartition(".")[2]]
    }


REFUSED = {
    "BN left out": (without("layer2.0.bn1"), r"layer3\.0\.bn1\.weight \[16\] is the BN of layer2\.0\.conv2\.weight"),
    "convolution left out": (without("layer3.0.conv2"), r"layer3\.0\.bn2\.weight \[16\] is left over"),
    "depth": (without("layer3."), r"5 3x3 convolutions: depth=6 is not of the form 6n\+2"),
    "no BN": (without("bn"), "no batch normalisation"),
    "no head": (without("fc"), "no fully connected layer"),
    "no convolution": (without("conv"), "no 3x3 convolution"),
    "no bias": (changed(fc__bias=None), r"fc\.weight has no bias beside it, expected one of shape \[10\]"),
    "no variance": (
        changed(layer1__0__bn2__running_var=None),
        r"layer1\.0\.bn2\.weight has no running_var beside it, expected one of shape \[4\]",
    ),
    "negative variance": (
        changed(layer1__0__bn2__running_var=-torch.ones(4)),
        r"layer1\.0\.bn2\.running_var \[4\] has negative values",
    ),
    "two heads": (changed(aux__weight=torch.ones(10, 16)), r"aux\.weight \[10, 16\] is left over"),
    "biased convolution": (
        changed(layer1__0__conv1__bias=torch.ones(4)),
        r"layer1\.0\.conv1\.bias \[4\] is left over, expected weight",
    ),
    "unknown tensor": (changed(running=torch.ones(5)), r"running \[5\] is left over"),
    "wider head": (changed(fc__weight=torch.ones(10, 17)), r"fc\.weight has shape \[10, 17\], expected \[10, 16\]"),
    "other width": (
        changed(layer2__0__conv2__weight=torch.ones(8, 9, 3, 3)),
        r"layer2\.0\.conv2\.weight has shape \[8, 9, 3, 3\], expected \[8, 8, 3, 3\]",
    ),
    "ImageNet": (
        changed(conv1__weight=torch.ones(4, 3, 7, 7)),
        r"conv1\.weight \[4, 3, 7, 7\], expected a 3x3 kernel",
    ),
    "one projection": (
        changed(layer2__0__shortcut__0__weight=torch.ones(8, 4, 1, 1), layer2__0__shortcut__1__weight=torch.ones(8)),
        r"1 1x1 convolutions, expected 0, 2 \(option B\) or 3 \(option C\)",
    ),
    "pre-activation": (pre_activation, r"layer1\.0\.bn1\.weight \[4\] is in the first block, .* pre-activation"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case: str) -> None:
    change, message = REFUSED[case]
    with pytest.raises(CheckpointError, match=message) as raised:
        match(change(torchvision_names(make_network("A", depth=8).state_dict())), "A")
    assert "\n" not in str(raised.value)


def test_bottlenecks_are_refused() -> None:
    def bottleneck(prefix: str, width: int) -> Tensors:
        shapes = {"1": (width, width, 1, 1), "2": (width, width, 3, 3), "3": (4 * width, width, 1, 1)}
        layers = {f"{prefix}.conv{i}": nn.Conv2d(s[1], s[0], s[2:], bias=False) for i, s in shapes.items()}
        norms = {f"{prefix}.bn{i}": nn.BatchNorm2d(s[0]) for i, s in shapes.items()}
        both = {**layers, **norms}
        return {f"{name}.{role}": t for name, layer in both.items() for role, t in layer.state_dict().items()}

    tensors = torchvision_names(make_network("none", depth=8).state_dict())
    tensors = {name: tensor for name, tensor in tensors.items() if "layer" not in name}
    for block in range(6):
        tensors |= bottleneck(f"layer1.{block}", 4)
    with pytest.raises(CheckpointError, match="12 1x1 and 7 3x3 convolutions: blocks are bottlenecks"):
        match(tensors, "A")


def test_the_shortcut_must_be_said_where_tensors_do_not_tell_it() -> None:
    plain = make_network("none", depth=8).state_dict()
    with pytest.raises(CheckpointError, match="the shortcut is none or A, whose tensors are equal: say which"):
        match(plain)
    with pytest.raises(CheckpointError, match="shortcut=B, but 0 1x1 convolutions mean none or A"):
        match(plain, "B")
    for option, other in (("B", "A"), ("C", "B")):
        with pytest.raises(CheckpointError, match=rf"shortcut={other}, but \d 1x1 convolutions mean {option}"):
            match(make_network(option).state_dict(), other)  # type: ignore[arg-type]


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    network = make_network("A", depth=8)
    torch.save(network, tmp_path / "module.pt")
    torch.save({"epoch": 3, "weights": [1, 2]}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("not a checkpoint\n")
    whole = tmp_path / "whole.pt"
    torch.save(network.state_dict(), whole)
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for name, message in {
        "none.pt": r"none\.pt is not a file",
        ".": r"network\.pt is not a file",
        "module.pt": r"module\.pt pickles an object of degradation\.net\.network\.Network, .* save the network's state_dict",
        "other.pt": r"other\.pt holds no state_dict",
        "list.pt": r"list\.pt holds no state_dict",
        "empty.pt": r"empty\.pt ",
        "text.pt": r"text\.pt is not a file that torch\.save wrote",
        "cut.pt": r"cut\.pt cannot be read as a checkpoint",
        "whole.pt": r"whole\.pt: no 1x1 convolution",
    }.items():
        with pytest.raises(CheckpointError, match=message) as raised:
            load_network(tmp_path / name)
        assert "\n" not in str(raised.value)
    assert checkpoint_file(whole) == whole
