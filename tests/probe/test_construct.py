"""The constructed solution: a deeper network that is exactly the trained shallower one."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from degradation.data.images import Normalizer, make_synthetic
from degradation.net.network import Network, Shortcut
from degradation.probe.construct import ConstructionError, deepen, deepen_each, largest_difference, stage_statistics
from degradation.probe.layers import evaluate
from degradation.train.run import train
from tests.conftest import Compose

TRAIN, TEST = make_synthetic(256, 64)
NORMALIZE = Normalizer(TRAIN, "pixel_mean")


def trained(shortcut: Shortcut, depth: int = 14) -> Network:
    network = Network(depth, shortcut, width=4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for start in range(0, 256, 32):
        loss = F.cross_entropy(network(NORMALIZE(TRAIN.images[start : start + 32])), TRAIN.labels[start : start + 32])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize("shortcut", ["none", "A", "B", "C"])
@pytest.mark.parametrize("depth", [20, 56])
def test_a_deepened_network_is_its_parent(shortcut: Shortcut, depth: int) -> None:
    parent, child = trained(shortcut), Network(depth, shortcut, width=4, seed=5)
    x = NORMALIZE(TEST.images)
    assert not torch.allclose(child.eval()(x), parent(x), rtol=0.1)
    deepen(parent, child, stage_statistics(parent, TRAIN, NORMALIZE))
    logits = parent(x)
    torch.testing.assert_close(child(x), logits, rtol=0, atol=1e-5 * logits.abs().max().item())
    assert largest_difference(parent, child, TEST, NORMALIZE) < 1e-5


def test_the_identity_layers_can_learn() -> None:
    parent, child = trained("none"), Network(20, "none", width=4)
    deepen(parent, child, stage_statistics(parent, TRAIN, NORMALIZE))
    loss = F.cross_entropy(child.train()(NORMALIZE(TRAIN.images)), TRAIN.labels)
    loss.backward()
    added = child.blocks()["stage2.block3"]
    assert added.conv1.weight.grad is not None
    assert added.conv1.weight.grad.abs().max() > 0


def test_a_difference_is_seen() -> None:
    parent, child = trained("none"), Network(20, "none", width=4)
    deepen(parent, child, stage_statistics(parent, TRAIN, NORMALIZE))
    child.blocks()["stage3.block3"].bn2.bias.data += 0.1  # type: ignore[operator,union-attr]
    assert largest_difference(parent, child, TEST, NORMALIZE) > 1e-2


@pytest.mark.parametrize(
    ("child", "told"),
    [
        (Network(20, "none", width=2), "differ in more than depth: width is 4 and 2"),
        (Network(20, "A", width=4), "differ in more than depth: shortcut is none and A"),
        (Network(14, "none", width=4), "not deeper"),
    ],
)
def test_what_cannot_be_built(child: Network, told: str) -> None:
    parent = trained("none")
    statistics = stage_statistics(parent, TRAIN, NORMALIZE)
    with pytest.raises(ConstructionError, match=told):
        deepen(parent, child, statistics)


def test_without_batch_normalisation_no_layer_is_an_exact_identity() -> None:
    parent, child = (Network(depth, "none", width=4, norm="none") for depth in (8, 14))
    with pytest.raises(ConstructionError, match="only with norm=batch"):
        deepen(parent, child, [])


@pytest.mark.parametrize("shortcut", ["none", "A"])
def test_every_depth_is_compared_with_the_parent(shortcut: Shortcut) -> None:
    parent = trained(shortcut, depth=8)
    rows = deepen_each(parent, [14, 110], TRAIN, TEST, NORMALIZE)
    error, _ = evaluate(parent, TEST, NORMALIZE)
    assert [row["depth"] for row in rows] == [14, 110]
    assert all(row["largest_difference"] < 1e-5 for row in rows)
    assert [(row["parent_error"], row["error"]) for row in rows] == [(error, error)] * 2


@pytest.mark.parametrize("network", ["plain", "residual"])
def test_a_run_starts_from_its_trained_parent(tiny: Compose, tmp_path: Path, network: str) -> None:
    child = tiny(f"network={network}", "depth=20", "network.parent_depth=8")
    missing = train(child)
    assert missing.status == "failed"
    assert "are not here; run the same with depth=8 network.parent_depth=null first" in missing.message
    parent = tiny(f"network={network}", "depth=8")
    assert train(parent).status == "finished"
    weights = tmp_path / "runs" / parent.run_id / "network.pt"
    weights.rename(tmp_path / "aside.pt")
    assert f"delete {weights.parent} and run the same" in train(child).message
    (tmp_path / "aside.pt").rename(weights)
    assert train(child).status == "finished"
    summary = json.loads((tmp_path / "runs" / child.run_id / "summary.json").read_text())
    initial = summary["initial"]
    assert initial["parent"] == parent.run_id
    assert initial["largest_difference"] < 1e-4
    assert initial["test_error"] == initial["parent_test_error"]
    assert initial["train_error_eval"] == initial["parent_train_error_eval"]
    assert summary["final"]["train_error"] != initial["train_error_eval"]
