"""The networks against the paper's numbers: PAPER.md, Table 6 and section 4.2."""

import pytest
import torch
from torch import Tensor, nn

from degradation.net.network import Network, ZeroPadShortcut, multiply_adds, parameter_count

COUNTS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


@pytest.mark.parametrize(("depth", "count"), COUNTS.items())
def test_parameter_counts_are_the_papers(depth: int, count: int) -> None:
    assert parameter_count(Network(depth, "none")) == count
    assert parameter_count(Network(depth, "A")) == count
    assert parameter_count(Network(depth, "B")) == count + 2_752


def test_all_projections_have_one_for_every_block() -> None:
    # 1x1 convolutions and their BN: three of each stage's width, the first of stages 2 and 3 from half of it.
    projections = 3 * 16 * 16 + (16 + 2 * 32) * 32 + (32 + 2 * 64) * 64 + 2 * 3 * (16 + 32 + 64)
    assert parameter_count(Network(20, "C")) == COUNTS[20] + projections


def test_multiply_adds_are_the_papers_and_equal_in_both_arms() -> None:
    plain = multiply_adds(20, "none")
    # stem; 2n layers a stage at 32, 16, 8 (n=3; first of stages 2 and 3 has half the input channels); head
    stages = 6 * 16**2 * 32**2 + 5.5 * 32**2 * 16**2 + 5.5 * 64**2 * 8**2
    assert plain == 9 * (3 * 16 * 32**2 + stages) + 640
    assert round(plain / 1e6, 1) == 40.6
    assert multiply_adds(20, "A") == plain
    assert multiply_adds(20, "B") > plain


def test_width_and_classes_are_parameters() -> None:
    network = Network(8, "A", width=3, classes=7)
    assert network.stem.out_channels == 3
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("seed", [0, 1])
def test_twins_start_from_equal_tensors(seed: int) -> None:
    torch.manual_seed(17)
    plain = Network(20, "none", seed=seed).state_dict()
    torch.manual_seed(18)
    for shortcut in ("A", "B", "C"):
        twin = Network(20, shortcut, seed=seed).state_dict()
        own = set(twin) - set(plain)
        assert set(plain) <= set(twin)
        assert all(".shortcut." in key for key in own)
        assert bool(own) == (shortcut != "A")
        assert all(torch.equal(plain[key], twin[key]) for key in plain)


def test_seeds_give_different_weights_and_zero_is_a_seed() -> None:
    stems = [Network(8, "none", seed=seed).stem.weight for seed in (0, 0, 1, 2)]
    assert torch.equal(stems[0], stems[1])
    assert not torch.equal(stems[0], stems[2])
    assert not torch.equal(stems[2], stems[3])


def test_he_initialisation() -> None:
    for mode, channels in (("fan_in", 16), ("fan_out", 32)):
        conv = Network(8, "none", fan_mode=mode).stages[1][0].conv1
        assert conv.weight.std().item() == pytest.approx((2 / (9 * channels)) ** 0.5, rel=0.05)
    assert Network(8, "none").head.bias.abs().max() == 0


@pytest.mark.parametrize(
    ("depth", "nearby"),
    [
        (21, "depths are 20 and 26 "),
        (55, "depths are 50 and 56 "),
        (9, "depths are 8 and 14 "),
        (7, "depth is 8 "),
        (2, "depth is 8 "),
        (-4, "depth is 8 "),
    ],
)
def test_wrong_depth_names_the_nearest(depth: int, nearby: str) -> None:
    with pytest.raises(ValueError, match=f"depth={depth} .* {nearby}"):
        Network(depth, "A")


@pytest.mark.parametrize("arguments", [{"width": 0}, {"classes": 0}, {"pad_side": "start"}, {"fan_mode": "fan"}])
def test_wrong_arguments_are_named(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Network(8, "A", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("side", "first"), [("end", 0), ("both", 2)])
def test_option_a_subsamples_and_pads_with_zeros(side: str, first: int) -> None:
    x = torch.randn(2, 4, 6, 6)
    y = ZeroPadShortcut(4, 8, 2, side)(x)  # type: ignore[arg-type]
    assert y.shape == (2, 8, 3, 3)
    assert torch.equal(y[:, first : first + 4], x[:, :, ::2, ::2])
    rest = [channel for channel in range(8) if not first <= channel < first + 4]
    assert torch.equal(y[:, rest], torch.zeros(2, 4, 3, 3))


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros((), dtype=x.dtype)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_residual_without_its_shortcuts_is_the_plain_network(shortcut: str, training: bool) -> None:
    x = torch.randn(4, 3, 32, 32)
    plain = Network(14, "none", width=4, seed=3).train(training)
    residual = Network(14, shortcut, width=4, seed=3).train(training)  # type: ignore[arg-type]
    assert not torch.allclose(plain(x), residual(x))
    for stage in residual.stages:
        for block in stage:
            block.shortcut = Zero()
    assert torch.equal(plain(x), residual(x))


def test_a_block_adds_its_input() -> None:
    """y = F(x) + x (eq. 1), then ReLU; with F zeroed, an identity on what is already rectified."""
    block = Network(8, "A", width=4).stages[0][0]
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 4, 8, 8)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_responses_are_the_3x3_layers_in_order(depth: int) -> None:
    network = Network(depth, "B", width=2).eval()
    responses = network.responses()
    seen: list[nn.Module] = []
    for layer in responses.values():
        layer.register_forward_hook(lambda module, _inputs, _output: seen.append(module))
    network(torch.zeros(1, 3, 32, 32))
    assert len(responses) == depth - 1
    assert seen == list(responses.values())
    assert list(responses)[:3] == ["stem", "stage1.block1.conv1", "stage1.block1.conv2"]


def test_depth_1202_has_its_layers() -> None:
    network = Network(1202, "A")
    weighted = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == 1202
    assert len(network.responses()) == 1201
    assert round(parameter_count(network) / 1e6, 1) == 19.4
