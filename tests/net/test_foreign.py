"""Checkpoints of other code give the same outputs as the network they are of, or one line that says what is wrong."""

import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from degradation.config import Architecture, Family, Shortcut
from degradation.net.foreign import CheckpointError, checkpoint_file, load_network, match, read_config
from degradation.net.network import Network

Tensors = dict[str, Tensor]
RECORDS = Path(__file__).parents[2] / "results" / "published" / "runs"
POPULAR = {"stride_in": "3x3", "pool": "padded"}  # where torchvision leaves the paper


@torch.no_grad()
def randomise(network: nn.Module) -> None:
    """No BN of it is that of a new network, nor equal to another."""
    draw = torch.Generator().manual_seed(5)
    for tensor in network.state_dict().values():
        if tensor.ndim == 1:
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=draw))


def make_network(shortcut: str, depth: int = 14, width: int = 4, classes: int = 10, **changes: Any) -> Network:
    """No two tensors of it are equal."""
    architecture = Architecture.paper(depth, shortcut, width=width, classes=classes, **changes)  # type: ignore[arg-type]
    network = Network(architecture, seed=3)
    randomise(network)
    return network.eval()


def said(shortcut: str) -> Shortcut | None:
    """What tensors do not tell."""
    return "none" if shortcut == "none" else "A" if shortcut == "A" else None


def torchvision_names(tensors: Tensors, shortcut: str = "downsample", head: str = "fc") -> Tensors:
    """conv1, bn1, layer1.0.conv1, ..., layer2.0.downsample.0, fc: akamaster's and torchvision's names."""
    renamed = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^stages\.(\d)\.", lambda found: f"layer{int(found[1]) + 1}.", name)
        name = name.replace(".shortcut.", f".{shortcut}.").replace("head.", f"{head}.")
        renamed[re.sub("^bn", "bn1", re.sub("^stem", "conv1", name))] = tensor
    return renamed


def hugging_face_names(tensors: Tensors) -> Tensors:
    """Projections before the block's layers; no two modules of one kind go by one name."""
    renamed = {}
    for name, tensor in reorder(torchvision_names(tensors), lambda n: (*block_of(n), not is_projection(n))).items():
        name = re.sub(r"downsample\.(\d)", lambda found: "shortcut." + PARTS[int(found[1])], name)
        name = re.sub(r"\.conv(\d)", lambda found: f".layer.{int(found[1]) - 1}.convolution", name)
        name = re.sub(r"\.bn(\d)", lambda found: f".layer.{int(found[1]) - 1}.normalization", name)
        name = re.sub(r"^layer(\d)\.", lambda found: f"encoder.stages.{int(found[1]) - 1}.layers.", name)
        name = name.replace("conv1.", "embedder.embedder.convolution.").replace(
            "bn1.", "embedder.embedder.normalization."
        )
        renamed[f"resnet.{name}".replace("resnet.fc", "classifier.1")] = tensor
    return renamed


PARTS = ("convolution", "normalization")


def reorder(tensors: Tensors, order: Callable[[str], object]) -> Tensors:
    """Stable within equal values of `order`."""
    return {name: tensors[name] for name in sorted(tensors, key=order)}  # type: ignore[arg-type,type-var]


def block_of(name: str) -> tuple[int, ...]:
    found = re.match(r"layer(\d)\.(\d+)\.", name)
    return (int(found[1]), int(found[2])) if found else (9,) if name.startswith("fc") else (0,)


def is_projection(name: str) -> bool:
    return "downsample" in name


def layer_of(name: str) -> float:
    """1, 2, 3 for the layers of a block, which Keras lists with the projection before the last, and 9 for that."""
    found = re.search(r"(?:conv|bn)(\d)", name)
    return 9 if is_projection(name) else int(found[1]) if found else 0


def is_norm(name: str) -> bool:
    return "bn" in name or "downsample.1" in name


def before_last(tensors: Tensors) -> Tensors:
    last = max(layer_of(name) for name in tensors if not is_projection(name))
    return reorder(tensors, lambda n: (*block_of(n), last - 0.5 if is_projection(n) else layer_of(n)))


VARIANTS: dict[str, Callable[[Tensors], Tensors]] = {
    "own names": lambda t: t,
    "akamaster": lambda t: torchvision_names(t, "shortcut", "linear"),
    "torchvision": torchvision_names,
    "Hugging Face": hugging_face_names,
    "data parallel": lambda t: {f"module.{name}": tensor for name, tensor in torchvision_names(t).items()},
    "head first": lambda t: reorder(torchvision_names(t, head="classifier"), lambda n: not n.startswith("classifier")),
    "no num_batches_tracked": lambda t: {name: tensor for name, tensor in t.items() if tensor.ndim},
    "BN first": lambda t: reorder(torchvision_names(t), lambda n: (*block_of(n), layer_of(n), not is_norm(n))),
    "all BN last": lambda t: reorder(torchvision_names(t), lambda n: (*block_of(n), is_norm(n), layer_of(n))),
    "projections first": lambda t: reorder(torchvision_names(t), lambda n: (*block_of(n), not is_projection(n))),
    "projections before the last layer": lambda t: before_last(torchvision_names(t)),
    "all projections at the start": lambda t: reorder(torchvision_names(t), lambda n: not is_projection(n)),
    "all projections at the end": lambda t: reorder(torchvision_names(t), is_projection),
    "parameters, then buffers": lambda t: reorder(torchvision_names(t), lambda n: "running" in n or "tracked" in n),
    "by alphabet": lambda t: reorder(torchvision_names(t), lambda n: n),
    "numbered": lambda t: {f"t{i}": tensor for i, tensor in enumerate(t.values())},
    "numbered, head first": lambda t: {
        f"t{i}": tensor for i, tensor in enumerate(reorder(t, lambda n: not n.startswith("head")).values())
    },
    "numbered, projections first": lambda t: {
        f"t{i}": tensor for i, tensor in enumerate(VARIANTS["projections first"](t).values())
    },
    "numbered with roles": lambda t: {
        f"t{i}.{name.rpartition('.')[2]}": tensor for i, (name, tensor) in enumerate(t.items())
    },
}


def same_outputs(network: Network, other: Network) -> bool:
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(network.eval()(x), other.eval()(x))


@pytest.mark.parametrize("shortcut", ["none", "B", "C"])  # A has the tensors of none
@pytest.mark.parametrize(("family", "depth"), [("cifar", 14), ("imagenet", 18), ("imagenet", 50)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_order_of_other_code_do_not_matter(
    variant: str, family: Family, depth: int, shortcut: Shortcut
) -> None:
    network = make_network(shortcut, depth, pad_side="both", family=family)
    tensors = VARIANTS[variant](network.state_dict())
    matched = match(tensors, said(shortcut), pad_side="both")
    assert matched.architecture == network.architecture
    own = network.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in matched.state_dict().items() if tensor.ndim)
    assert same_outputs(network, matched)


@pytest.mark.parametrize("shortcut", ["none", "A", "B", "C"])
@pytest.mark.parametrize("depth", [34, 101, 152])
def test_the_deeper_networks_of_table_1_are_told_apart(depth: int, shortcut: Shortcut) -> None:
    network = make_network(shortcut, depth, 2, family="imagenet", **POPULAR)
    matched = match(torchvision_names(network.state_dict()), said(shortcut), **POPULAR)
    assert matched.architecture == network.architecture
    assert same_outputs(network, matched)


@pytest.mark.parametrize("depth", [50, 152])
def test_depths_of_both_families_are_told_by_the_stem(depth: int) -> None:
    for family, layers in (("cifar", 2), ("imagenet", 3)):
        matched = match(make_network("A", depth, 2, family=family).state_dict(), "A")
        assert (matched.architecture.family, matched.architecture.depth) == (family, depth)
        assert len(matched.blocks()["stage1.block1"].layers) == layers


def torchvisions(depth: int) -> nn.Module:
    torch.manual_seed(depth)
    network = getattr(torchvision.models, f"resnet{depth}")()
    randomise(network)
    return network


def difference(tensor: Tensor, other: Tensor) -> float:
    return ((tensor - other).abs().max() / other.abs().max()).item()


@pytest.mark.parametrize(("depth", "side"), [(18, 64), (18, 224), (34, 64), (50, 64), (101, 64), (152, 64)])
def test_torchvisions_networks_give_its_outputs(depth: int, side: int) -> None:
    original = torchvisions(depth).eval()
    matched = match(original.state_dict(), **POPULAR).eval()
    assert matched.architecture == Architecture.paper(depth, "B", "imagenet", **POPULAR)
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert difference(matched(x), original(x)) < 1e-5


@pytest.mark.parametrize("depth", [18, 34, 50])  # deeper ones are of the same blocks as 50
def test_torchvisions_networks_give_its_gradients(depth: int) -> None:
    """And its moving averages, of one step in training mode; in float64, where nothing is lost to rounding."""
    original = torchvisions(depth).train()
    matched = match(original.state_dict(), **POPULAR).train()
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 48, 48, generator=draw, dtype=torch.float64)
    labels = torch.randint(1000, (2,), generator=draw)
    for network in (original, matched):
        F.cross_entropy(network.double()(x), labels).backward()
    expected = dict(original.named_parameters())
    found = torchvision_names(dict(matched.named_parameters()))
    assert set(found) == set(expected)
    for name, parameter in expected.items():
        assert parameter.grad.abs().max() > 0
        assert difference(found[name].grad, parameter.grad) < 1e-9, name
    averages = torchvision_names(dict(matched.named_buffers()))
    for name, buffer in original.named_buffers():
        torch.testing.assert_close(averages[name], buffer, rtol=1e-9, atol=0)


@torch.no_grad()
def test_torchvisions_networks_are_not_the_papers() -> None:
    """What is not said is as in the paper, and outputs show it."""
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for depth, settings in ((18, ["pool"]), (50, ["stride_in"])):
        original = torchvisions(depth).eval()
        for setting in settings:
            told = {key: value for key, value in POPULAR.items() if key != setting}
            assert difference(match(original.state_dict(), **told).eval()(x), original(x)) > 1e-2


def test_block_10_does_not_come_before_block_2() -> None:
    for family, depth, block in (("cifar", 74, "layer1.{}.bn1.weight"), ("imagenet", 101, "layer3.{}.bn1.weight")):
        network = make_network("A", depth, 2, family=family)
        tensors = reorder(torchvision_names(network.state_dict()), lambda name: name)
        assert list(tensors).index(block.format(10)) < list(tensors).index(block.format(2))
        assert same_outputs(network, match(tensors, "A"))


def test_depth_width_and_classes_follow_from_the_shapes() -> None:
    network = make_network("B", depth=8, width=10, classes=10)  # a BN as long as the head's bias
    tensors = VARIANTS["numbered, head first"](network.state_dict())
    assert same_outputs(network, match(tensors))
    other = match(make_network("none", depth=20, width=3, classes=7).state_dict(), "none")
    assert (other.architecture.depth, other.stem.out_channels, other.head.out_features) == (20, 3, 7)
    other = match(make_network("C", depth=50, width=3, classes=7, family="imagenet").state_dict())
    assert (other.architecture.depth, other.stem.out_channels, other.head.out_features) == (50, 3, 7)


def test_what_tensors_do_not_tell_is_the_callers() -> None:
    both = make_network("A", pad_side="both")
    assert not same_outputs(both, match(both.state_dict(), "A", pad_side="end"))
    assert not same_outputs(both, match(both.state_dict(), "none"))
    half = make_network("A", alpha=0.5)
    assert not same_outputs(half, match(half.state_dict(), "A"))
    assert same_outputs(half, match(half.state_dict(), "A", alpha=0.5))


@pytest.mark.parametrize("key", [None, "state_dict", "model", "net", "model_state_dict"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".ckpt"])
def test_a_file_of_other_code_loads(key: str | None, suffix: str, tmp_path: Path) -> None:
    network = make_network("A", depth=8)
    tensors = VARIANTS["data parallel"](network.state_dict())
    path = tmp_path / f"other{suffix}"
    torch.save(tensors if key is None else {"epoch": 3, key: tensors, "best_acc": 91.2, "optimizer": {}}, path)
    assert same_outputs(network, load_network(path, "A", pad_side=None, stride_in=None))
    assert read_config(path) is None


def test_a_file_of_other_code_is_loaded_as_it_is_said_to_be(tmp_path: Path) -> None:
    network = make_network("B", depth=50, family="imagenet", **POPULAR)
    torch.save(torchvision_names(network.state_dict()), tmp_path / "other.pth")
    assert same_outputs(network, load_network(tmp_path / "other.pth", **POPULAR))
    assert not same_outputs(network, load_network(tmp_path / "other.pth"))
    with pytest.raises(CheckpointError, match=r"other\.pth is not a network of the paper \(.*pool Input should be"):
        load_network(tmp_path / "other.pth", pool="mean")
    single = torchvision_names(make_network("A", depth=8).state_dict())
    single |= {"fc.weight": torch.ones(1, 16), "fc.bias": torch.ones(1)}
    torch.save(single, tmp_path / "single.pth")
    with pytest.raises(CheckpointError, match="classes Input should be greater than or equal to 2") as raised:
        load_network(tmp_path / "single.pth", "A")
    assert "\n" not in str(raised.value)


def write_run(folder: Path, network: dict[str, Any], weights: Network | None = None) -> Path:
    """A run's folder, as far as loading its network is concerned."""
    folder.mkdir()
    science = {
        "run_id": "x",
        "network": network,
        "data": {"name": "synthetic"},
        "protocol": {"name": "smoke"},
        "seed": 0,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(science))
    architecture = Architecture(**{**network, "parent_depth": None})
    torch.save((weights or Network(architecture)).state_dict(), folder / "network.pt")
    return folder


@pytest.mark.parametrize(
    "network",
    [
        make_network("none", depth=8),
        make_network("A", depth=8, pad_side="both", alpha=0.5),
        make_network("C", depth=8, norm="none"),
        make_network("B", depth=50, width=2, family="imagenet", **POPULAR),
    ],
    ids=lambda network: f"{network.architecture.family}-{network.architecture.shortcut}",
)
def test_a_run_loads_from_its_folder_and_from_its_file(network: Network, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", asdict(network.architecture), network)
    loaded = load_network(folder)
    assert loaded.architecture == network.architecture
    saved = torch.load(folder / "network.pt", weights_only=True)
    assert list(saved) == list(loaded.state_dict())
    assert all(torch.equal(saved[name], tensor) for name, tensor in loaded.state_dict().items())
    assert same_outputs(network, loaded)
    assert same_outputs(network, load_network(folder / "network.pt", network.architecture.shortcut, pad_side=None))
    assert read_config(folder)["data"]["name"] == "synthetic"  # type: ignore[index]


def test_what_a_run_was_not_trained_with_is_refused(tmp_path: Path) -> None:
    network = make_network("A", depth=8)
    folder = write_run(tmp_path / "run", asdict(network.architecture), network)
    for told, message in (
        ({"shortcut": "B"}, "shortcut=B, but the run was trained with shortcut=A"),
        ({"pad_side": "both"}, "pad_side=both, but the run was trained with pad_side=end"),
        ({"pool": "padded"}, "pool=padded, but the run was trained with pool=ceil"),
    ):
        with pytest.raises(CheckpointError, match=rf"network\.pt: {message}"):
            load_network(folder, **told)
    described = yaml.safe_load((folder / "config.yaml").read_text())
    for change, message in (
        ({"width": 3}, "is not the network that its config.yaml describes"),
        ({"depth": 9}, "is not the network that its config.yaml describes .*depth=9"),
        ({"new": 1}, "is not the network that its config.yaml describes .*new"),
    ):
        changed = {**described, "network": {**described["network"], **change}}
        (folder / "config.yaml").write_text(yaml.safe_dump(changed))
        with pytest.raises(CheckpointError, match=message) as raised:
            load_network(folder)
        assert "\n" not in str(raised.value)
    for text in ("run_id: x", "a: [", "run_id: x\nnetwork: 3\ndata: 4"):
        (folder / "config.yaml").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.yaml is damaged"):
            load_network(folder)


def test_a_run_that_diverged_is_refused(tmp_path: Path) -> None:
    network = make_network("A", depth=8)
    network.head.weight.data[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"network\.pt: .*values that are not finite"):
        load_network(write_run(tmp_path / "run", asdict(network.architecture), network))


def test_the_networks_of_committed_records_load(tmp_path: Path) -> None:
    """Each as its config.yaml names it, the younger settings unnamed."""
    configs = [yaml.safe_load(path.read_text()) for path in sorted(RECORDS.glob("*/*/config.yaml"))]
    networks = {json.dumps(config["network"], sort_keys=True): config["network"] for config in configs}
    assert len(networks) > 10
    for k, network in enumerate(networks.values()):
        loaded = load_network(write_run(tmp_path / str(k), {**network, "width": 2}))
        assert asdict(loaded.architecture).items() >= {**network, "width": 2}.items()


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
    "depth": (without("layer3."), r"5 3x3 and 0 1x1 convolutions: depth=6 is not of the form 6n\+2"),
    "no BN": (without("bn"), r"conv1\.weight \[4, 3, 3, 3\] is left over: 7 convolutions, 0 BN"),
    "no head": (without("fc"), "expected one fully connected layer, not none"),
    "no convolution": (without("conv"), r"bn1\.weight \[4\] is left over: 0 convolutions, 7 BN"),
    "no layer": (lambda tensors: {name: tensors[name] for name in ("fc.weight", "fc.bias")}, "0 3x3 and 0 1x1"),
    "no bias": (changed(fc__bias=None), r"fc\.weight is one of weight; expected weight, bias"),
    "no variance": (
        changed(layer1__0__bn2__running_var=None),
        r"layer1\.0\.bn2\.weight is one of weight, bias, running_mean; expected .*, running_mean, running_var",
    ),
    "negative variance": (
        changed(layer1__0__bn2__running_var=-torch.ones(4)),
        r"layer1\.0\.bn2\.running_var \[4\] has negative values",
    ),
    "variance that is no number": (
        changed(layer1__0__bn2__running_var=torch.tensor([1, float("nan"), 1, 1])),
        r"layer1\.0\.bn2\.running_var \[4\] holds values that are not finite",
    ),
    "infinite weight": (
        changed(fc__weight=torch.full((10, 16), float("inf"))),
        r"fc\.weight \[10, 16\] holds values that are not finite",
    ),
    "two heads": (changed(aux__weight=torch.ones(10, 16)), r"not fc\.weight \[10, 16\] and aux\.weight \[10, 16\]"),
    "biased convolution": (
        changed(layer1__0__conv1__bias=torch.ones(4)),
        r"layer1\.0\.conv1\.weight is one of weight, bias; expected weight",
    ),
    "unknown tensor": (changed(running=torch.ones(5)), r"running \[5\] is left over"),
    "wider head": (changed(fc__weight=torch.ones(10, 17)), r"fc\.weight has shape \[10, 17\], expected \[10, 16\]"),
    "other width": (
        changed(layer2__0__conv2__weight=torch.ones(8, 9, 3, 3)),
        r"layer2\.0\.conv2\.weight has shape \[8, 9, 3, 3\], expected \[8, 8, 3, 3\]",
    ),
    "stem of ImageNet": (
        changed(conv1__weight=torch.ones(4, 3, 7, 7)),
        r"6 3x3 and 0 1x1 convolutions: depth=8 is not one of 18, 34, 50, 101, 152",
    ),
    "kernel": (changed(layer1__0__conv1__weight=torch.ones(4, 4, 5, 5)), r"6 3x3 .* depth=7 is not of the form 6n\+2"),
    "one projection": (
        changed(layer2__0__shortcut__0__weight=torch.ones(8, 4, 1, 1), layer2__0__shortcut__1__weight=torch.ones(8)),
        r"1 1x1 shortcuts, expected 0, 2 \(option B\) or 3 \(option C\)",
    ),
    "pre-activation": (pre_activation, r"layer1\.0\.bn1\.weight \[4\] is in the first block, .* pre-activation"),
}
IMAGENET_REFUSED = {
    "BN left out": (without("layer2.0.bn1"), r"layer2\.0\.bn3\.weight \[32\] is the BN of layer2\.0\.conv2\.weight"),
    "wider blocks": (
        changed(layer1__0__conv1__weight=torch.ones(4, 5, 1, 1)),
        r"layer1\.0\.conv1\.weight has shape \[4, 5, 1, 1\], expected \[4, 4, 1, 1\]",
    ),
    "grouped": (
        changed(layer3__1__conv2__weight=torch.ones(16, 4, 3, 3)),
        r"layer3\.1\.conv2\.weight has shape \[16, 4, 3, 3\], expected \[16, 16, 3, 3\]",
    ),
    "projection of another width": (
        changed(layer2__0__downsample__0__weight=torch.ones(32, 7, 1, 1)),
        r"layer2\.0\.downsample\.0\.weight has shape \[32, 7, 1, 1\], expected \[32, 16, 1, 1\]",
    ),
    "one projection": (
        without("layer3.0.downsample"),
        r"3 1x1 shortcuts, expected 0, 4 \(option B\) or 16 \(option C\)",
    ),
    "stem of CIFAR": (
        changed(conv1__weight=torch.ones(4, 3, 3, 3)),
        r"17 3x3 and 36 1x1 convolutions: depth=18 is not of the form 6n\+2",
    ),
    "two stems": (
        changed(layer1__0__conv2__weight=torch.ones(4, 4, 7, 7)),
        r"15 3x3 and 36 1x1 convolutions: depth=47 is not one of 18, 34, 50, 101, 152",
    ),
    "block": (without("layer3.5."), r"15 3x3 and 34 1x1 convolutions: depth=47 is not one of 18, 34, 50, 101, 152"),
    "another block": (
        lambda t: without("layer3.5.")(t) | {n.replace("layer3.5", "layer4.3"): x for n, x in t.items() if "r3.5" in n},
        r"layer4\.0\.conv1\.weight has shape \[32, 64, 1, 1\], expected \[16, 64, 1, 1\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case: str) -> None:
    change, message = REFUSED[case]
    with pytest.raises(CheckpointError, match=message) as raised:
        match(change(torchvision_names(make_network("A", depth=8).state_dict())), "A")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("case", IMAGENET_REFUSED)
def test_what_does_not_fit_is_refused_by_name_for_bottlenecks(case: str) -> None:
    change, message = IMAGENET_REFUSED[case]
    tensors = torchvision_names(make_network("B", depth=50, family="imagenet").state_dict())
    with pytest.raises(CheckpointError, match=message) as raised:
        match(change(tensors))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["wide_resnet50_2", "resnext50_32x4d", "densenet121", "vgg11_bn", "mobilenet_v2"])
def test_other_networks_of_torchvision_are_refused(name: str) -> None:
    with torch.device("meta"):
        shapes = getattr(torchvision.models, name)().state_dict()
    with pytest.raises(CheckpointError) as raised:
        match({name: torch.zeros(tensor.shape) for name, tensor in shapes.items()}, **POPULAR)
    assert "\n" not in str(raised.value)


def test_blocks_of_two_3x3_at_a_depth_of_bottlenecks_are_refused() -> None:
    cifar = torchvision_names(make_network("none", depth=50, width=2).state_dict())
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight has shape .* expected \[2, 2, 1, 1\]"):
        match(cifar | {"conv1.weight": torch.ones(2, 3, 7, 7)}, "none")


def test_bottlenecks_behind_a_stem_of_cifar_are_refused() -> None:
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
    with pytest.raises(CheckpointError, match="12 1x1 shortcuts, expected 0, 2"):
        match(tensors, "A")


@pytest.mark.parametrize(("family", "depth"), [("cifar", 8), ("imagenet", 18), ("imagenet", 50)])
def test_the_shortcut_must_be_said_where_tensors_do_not_tell_it(family: Family, depth: int) -> None:
    plain = make_network("none", depth, 2, family=family).state_dict()
    with pytest.raises(CheckpointError, match="the shortcut is none or A, whose tensors are equal: say which"):
        match(plain)
    with pytest.raises(CheckpointError, match="shortcut=B, but 0 1x1 shortcuts mean none or A"):
        match(plain, "B")
    for option, other in (("B", "A"), ("C", "B")):
        with pytest.raises(CheckpointError, match=rf"shortcut={other}, but \d+ 1x1 shortcuts mean {option}"):
            match(make_network(option, depth, 2, family=family).state_dict(), other)  # type: ignore[arg-type]


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
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for part in source.namelist():
            packed.writestr(part, source.read(part))
    loop: dict[str, object] = {}
    loop["model"] = loop
    torch.save(loop, tmp_path / "loop.pt")
    for name, message in {
        "none.pt": r"none\.pt is not a file",
        ".": r"network\.pt is not a file",
        "module.pt": r"module\.pt pickles an object of degradation\.net\.network\.Network, .* save .*'s state_dict",
        "other.pt": r"other\.pt holds no state_dict",
        "list.pt": r"list\.pt holds no state_dict",
        "empty.pt": r"empty\.pt ",
        "text.pt": r"text\.pt is not a file that torch\.save wrote",
        "cut.pt": r"cut\.pt cannot be read as a checkpoint",
        "bomb.pt": r"bomb\.pt cannot be read as a checkpoint \(compressed",
        "loop.pt": r"loop\.pt holds no state_dict",
        "whole.pt": r"whole\.pt: no projection, so the shortcut is none or A",
    }.items():
        with pytest.raises(CheckpointError, match=message) as raised:
            load_network(tmp_path / name)
        assert "\n" not in str(raised.value)
    assert checkpoint_file(whole) == whole
