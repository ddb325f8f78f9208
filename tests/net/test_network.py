"""The networks against the paper's numbers: PAPER.md, Tables 1 and 6 and section 4.2."""

from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn

from degradation.config import TABLE_1, Architecture, Family, Shortcut
from degradation.net.network import Network, Projection, ZeroPadShortcut, multiply_adds, parameter_count

paper = Architecture.paper
COUNTS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}
TORCHVISION_COUNTS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}
RESIDUAL: list[Shortcut] = ["A", "B", "C"]
SMALL = [  # of every kind: two 3x3 and bottlenecks, with its stride in either place
    paper(14, "none", width=4),
    paper(18, "none", "imagenet", width=4, classes=10),
    paper(50, "none", "imagenet", width=4, classes=10),
    paper(50, "none", "imagenet", width=4, classes=10, stride_in="3x3", pool="padded"),
]
every_kind = pytest.mark.parametrize("plain", SMALL, ids=lambda a: f"{a.family}-{a.depth}-{a.stride_in}")


def with_shortcut(plain: Architecture, shortcut: Shortcut) -> Architecture:
    return Architecture(**{**asdict(plain), "name": "residual", "shortcut": shortcut})


@pytest.mark.parametrize(("depth", "count"), COUNTS.items())
def test_parameter_counts_are_the_papers(depth: int, count: int) -> None:
    assert parameter_count(Network(paper(depth, "none"))) == count
    assert parameter_count(Network(paper(depth, "A"))) == count
    assert parameter_count(Network(paper(depth, "B"))) == count + 2_752


def test_projections_are_what_the_arms_of_table_1_differ_by() -> None:
    basic = sum(into * out + 2 * out for into, out in ((64, 128), (128, 256), (256, 512)))
    bottleneck = sum(into * out + 2 * out for into, out in ((64, 256), (256, 512), (512, 1024), (1024, 2048)))
    for depth, projections in ((18, basic), (34, basic), (50, bottleneck)):
        plain = TORCHVISION_COUNTS[depth] - projections
        assert parameter_count(Network(paper(depth, "none", "imagenet"))) == plain
        assert parameter_count(Network(paper(depth, "A", "imagenet"))) == plain


def test_all_projections_have_one_for_every_block() -> None:
    # 1x1 convolutions and their BN: three of each stage's width, the first of stages 2 and 3 from half of it.
    projections = 3 * 16 * 16 + (16 + 2 * 32) * 32 + (32 + 2 * 64) * 64 + 2 * 3 * (16 + 32 + 64)
    assert parameter_count(Network(paper(20, "C"))) == COUNTS[20] + projections
    # Likewise of bottlenecks, whose stages have 3, 4, 6, 3 and put out 4 times their width.
    stages = [(64, 256, 3), (256, 512, 4), (512, 1024, 6), (1024, 2048, 3)]
    every = sum(into * out + (n - 1) * out * out + 2 * n * out for into, out, n in stages)
    plain = parameter_count(Network(paper(50, "none", "imagenet")))
    assert parameter_count(Network(paper(50, "C", "imagenet"))) == plain + every


def test_multiply_adds_are_the_papers_and_equal_in_both_arms() -> None:
    plain = multiply_adds(paper(20, "none"))
    # stem; 2n layers a stage at 32, 16, 8 (n=3; first of stages 2 and 3 has half the input channels); head
    stages = 6 * 16**2 * 32**2 + 5.5 * 32**2 * 16**2 + 5.5 * 64**2 * 8**2
    assert plain == 9 * (3 * 16 * 32**2 + stages) + 640
    assert round(plain / 1e6, 1) == 40.6
    assert multiply_adds(paper(20, "A")) == plain
    assert multiply_adds(paper(20, "B")) > plain


def test_multiply_adds_of_the_popular_variant_are_torchvisions() -> None:
    popular = paper(50, "B", "imagenet", stride_in="3x3", pool="padded")
    assert round(multiply_adds(popular) / 1e9, 2) == 4.09


def test_width_and_classes_are_parameters() -> None:
    network = Network(paper(8, "A", width=3, classes=7))
    assert network.stem.out_channels == 3
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    network = Network(paper(50, "A", "imagenet", width=3, classes=7))
    assert network.stages[-1][-1].conv3.out_channels == 3 * 8 * 4
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("pool", ["ceil", "padded"])
def test_stages_of_table_1_have_its_sizes(pool: str) -> None:
    network = Network(paper(50, "A", "imagenet", width=1, pool=pool)).eval()
    sides: list[int] = []
    for module in (network.stem, *network.stages):
        module.register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[-1]))
    network(torch.zeros(1, 3, 224, 224))
    assert sides == [112, 56, 28, 14, 7]


def test_the_pool_is_unpadded_as_the_authors_or_torchvisions() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)  # the largest is the last of a window: rows and columns 0-2 and 2-3
    for pool, last in (("ceil", [2, 3]), ("padded", [1, 3])):  # padded: (-1)-1 and 1-3
        pooled = Network(paper(18, "A", "imagenet", width=1, pool=pool)).pool(x)
        assert torch.equal(pooled, x[:, :, last][..., last])
    assert torch.equal(Network(paper(8, "A", width=1)).pool(x), x)


@pytest.mark.parametrize("stride_in", ["1x1", "3x3"])
def test_a_bottleneck_has_its_stride_where_it_is_said(stride_in: str) -> None:
    network = Network(paper(50, "A", "imagenet", width=2, stride_in=stride_in))
    for name, block in network.blocks().items():
        first = name.endswith("block1") and name != "stage1.block1"
        strides = {convolution.kernel_size: convolution.stride[0] for convolution, _ in block.layers[:2]}
        assert strides == {(1, 1): 1 + (first and stride_in == "1x1"), (3, 3): 1 + (first and stride_in == "3x3")}
        assert block.conv3.stride == (1, 1)


@pytest.mark.parametrize("seed", [0, 1])
@every_kind
def test_twins_start_from_equal_tensors(plain: Architecture, seed: int) -> None:
    torch.manual_seed(17)
    tensors = Network(plain, seed).state_dict()
    torch.manual_seed(18)
    for shortcut in RESIDUAL:
        twin = Network(with_shortcut(plain, shortcut), seed).state_dict()
        own = set(twin) - set(tensors)
        assert set(tensors) <= set(twin)
        assert all(".shortcut." in key for key in own)
        assert bool(own) == (shortcut != "A")
        assert all(torch.equal(tensors[key], twin[key]) for key in tensors)


@every_kind
def test_weights_are_drawn_in_order_of_depth_and_projections_last(plain: Architecture) -> None:
    """This order is what published records start from."""
    network, generator = Network(with_shortcut(plain, "C"), seed=5), torch.Generator().manual_seed(5)
    layers: list[nn.Module] = [layer.convolution for layer in network.layers()]
    projections = [block.shortcut[0] for block in network.blocks().values()]
    for layer in [*layers, network.head, *projections]:
        drawn = nn.init.kaiming_normal_(torch.empty_like(layer.weight), nonlinearity="relu", generator=generator)
        assert torch.equal(layer.weight, drawn)


def test_seeds_give_different_weights_and_zero_is_a_seed() -> None:
    stems = [Network(paper(8, "none"), seed).stem.weight for seed in (0, 0, 1, 2)]
    assert torch.equal(stems[0], stems[1])
    assert not torch.equal(stems[0], stems[2])
    assert not torch.equal(stems[2], stems[3])


def test_he_initialisation() -> None:
    for mode, channels in (("fan_in", 16), ("fan_out", 32)):
        conv = Network(paper(8, "none", fan_mode=mode)).stages[1][0].conv1
        assert conv.weight.std().item() == pytest.approx((2 / (9 * channels)) ** 0.5, rel=0.05)
    assert Network(paper(8, "none")).head.bias.abs().max() == 0


@pytest.mark.parametrize(
    ("family", "depth", "nearby"),
    [
        ("cifar", 21, "depths are 20 and 26 "),
        ("cifar", 55, "depths are 50 and 56 "),
        ("cifar", 9, "depths are 8 and 14 "),
        ("cifar", 7, "depth is 8 "),
        ("cifar", 2, "depth is 8 "),
        ("cifar", -4, "depth is 8 "),
        ("imagenet", 20, "one of 18, 34, 50, 101, 152 "),
        ("imagenet", 0, "one of 18, 34, 50, 101, 152 "),
    ],
)
def test_wrong_depth_names_the_nearest(family: Family, depth: int, nearby: str) -> None:
    with pytest.raises(ValueError, match=f"depth={depth} .* {nearby}"):
        Network(paper(depth, "A", family))


@pytest.mark.parametrize(("side", "first"), [("end", 0), ("both", 2)])
@pytest.mark.parametrize("stride", [1, 2])  # 1 where the first bottleneck widens
def test_option_a_subsamples_and_pads_with_zeros(side: str, first: int, stride: int) -> None:
    x = torch.randn(2, 4, 6, 6)
    y = ZeroPadShortcut(4, 8, stride, side)(x)  # type: ignore[arg-type]
    assert y.shape == (2, 8, 6 // stride, 6 // stride)
    assert torch.equal(y[:, first : first + 4], x[:, :, ::stride, ::stride])
    rest = [channel for channel in range(8) if not first <= channel < first + 4]
    assert torch.equal(y[:, rest], torch.zeros(2, 4, 6 // stride, 6 // stride))


@every_kind
def test_options_are_section_3_3s(plain: Architecture) -> None:
    """A and B leave a block that keeps its shape an identity; C projects everywhere."""
    for shortcut, changing, keeping in (("A", ZeroPadShortcut, nn.Identity), ("B", Projection, nn.Identity)):
        for block in Network(with_shortcut(plain, shortcut)).blocks().values():  # type: ignore[arg-type]
            assert type(block.shortcut) is (keeping if block.keeps_shape else changing)
    assert all(type(block.shortcut) is Projection for block in Network(with_shortcut(plain, "C")).blocks().values())
    assert all(block.shortcut is None for block in Network(plain).blocks().values())
    changing = [name for name, block in Network(plain).blocks().items() if not block.keeps_shape]
    stages = range(1 if len(plain.plan.layers) == 3 else 2, len(plain.plan.blocks) + 1)
    assert changing == [f"stage{s}.block1" for s in stages]


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros((), dtype=x.dtype)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shortcut", RESIDUAL)
@every_kind
def test_residual_without_its_shortcuts_is_the_plain_network(
    plain: Architecture, shortcut: Shortcut, training: bool
) -> None:
    x = torch.randn(4, 3, 64, 64)
    network = Network(plain, seed=3).train(training)
    residual = Network(with_shortcut(plain, shortcut), seed=3).train(training)
    weak = Network(Architecture(**{**asdict(residual.architecture), "alpha": 0.0}), seed=3).train(training)
    expected = network(x)
    assert not torch.allclose(expected, residual(x))
    assert torch.equal(expected, weak(x))
    for block in residual.blocks().values():
        block.shortcut = Zero()
    assert torch.equal(expected, residual(x))


@pytest.mark.parametrize("shortcut", ["A", "B"])
@every_kind
def test_a_block_adds_its_input(plain: Architecture, shortcut: Shortcut) -> None:
    """y = F(x) + x (eq. 1), then ReLU; with F zeroed, an identity on what is already rectified."""
    block = Network(with_shortcut(plain, shortcut)).blocks()["stage1.block2"]
    nn.init.zeros_(block.layers[-1][1].weight)
    x = torch.rand(2, block.conv1.in_channels, 8, 8)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    ("family", "depth"), [("cifar", 8), ("cifar", 20), ("cifar", 56), *(("imagenet", depth) for depth in TABLE_1)]
)
def test_layers_are_all_but_the_shortcuts_in_order(family: Family, depth: int) -> None:
    network = Network(paper(depth, "B", family, width=2)).eval()
    layers = network.layers()
    seen: list[nn.Module] = []
    for layer in layers:
        for module in (layer.convolution, layer.norm):
            module.register_forward_hook(lambda module, _inputs, _output: seen.append(module))
    network(torch.zeros(1, 3, 32, 32))
    assert len(layers) == depth - 1
    assert seen == [module for layer in layers for module in (layer.convolution, layer.norm)]
    assert [layer.name for layer in layers[:3]] == ["stem", "stage1.block1.conv1", "stage1.block1.conv2"]
    plan = paper(depth, "B", family).plan
    per_stage = [count * len(plan.layers) for count in plan.blocks]
    assert [layer.stage for layer in layers] == [0, *(s for s, n in enumerate(per_stage, 1) for _ in range(n))]
    for layer in layers[1:]:  # a name says the same as the structure
        assert layer.name.startswith(f"stage{layer.stage}.block")
    assert list(network.blocks()) == list(dict.fromkeys(layer.name.rpartition(".")[0] for layer in layers[1:]))


def test_depth_1202_has_its_layers() -> None:
    network = Network(paper(1202, "A"))
    weighted = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == 1202
    assert len(network.layers()) == 1201
    assert round(parameter_count(network) / 1e6, 1) == 19.4


@every_kind
def test_without_norm_every_layer_has_a_bias_instead(plain: Architecture) -> None:
    changes = {**asdict(plain), "norm": "none"}
    network, normal = Network(Architecture(**changes)), Network(plain)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert all(layer.convolution.bias.abs().max() == 0 for layer in network.layers())
    norms = sum(layer.norm.bias.numel() for layer in normal.layers())
    assert parameter_count(network) == parameter_count(normal) - norms


def test_without_norm_projections_have_none_either() -> None:
    assert not any(isinstance(module, nn.BatchNorm2d) for module in Network(paper(8, "B", norm="none")).modules())


def test_a_twin_is_measured_without_a_trace_in_the_network() -> None:
    network = Network(paper(8, "B", width=2))
    for block in network.blocks().values():
        block.recompute = True
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    twin = network.twin()
    assert not any(block.recompute for block in twin.blocks().values())
    assert all(block.recompute for block in network.blocks().values())
    twin.train()(torch.randn(4, 3, 32, 32)).sum().backward()
    nn.init.zeros_(twin.stem.weight)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
