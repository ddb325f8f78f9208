"""The constructed solution: a deeper network that is exactly the trained shallower one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from degradation.config import Architecture
from degradation.data.images import make_synthetic
from degradation.data.resident import Normalizer
from degradation.net.network import Network
from degradation.probe.construct import ConstructionError, deepen, deepen_each, largest_difference, stage_statistics
from degradation.probe.views import Views, evaluate
from degradation.train.outcome import Outcome
from degradation.train.run import train
from tests.conftest import TINY, Compose
from tests.probe.conftest import assert_unchanged, imagenet, named, tensors_of

IMAGES, TEST_IMAGES = make_synthetic(256, 64)
TRAIN = Views(IMAGES, Normalizer(IMAGES, "pixel_mean"))
TEST = TRAIN.of(TEST_IMAGES)


def cifar(depth: int, shortcut: str, **changes: object) -> Architecture:
    return Architecture.paper(depth, shortcut, width=4, **changes)  # type: ignore[arg-type]


def trained(architecture: Architecture) -> Network:
    network = Network(architecture)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for x, y in replace(TRAIN, batch_size=32):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize(
    ("architecture", "depth"),
    [
        *((cifar(14, shortcut), depth) for shortcut in ("none", "A", "B", "C") for depth in (20, 56)),
        *((imagenet(18, shortcut), 34) for shortcut in ("none", "A", "B", "C")),
        *((imagenet(50, shortcut), 101) for shortcut in ("A", "B", "C")),
    ],
    ids=named,
)
def test_a_deepened_network_is_its_parent(architecture: Architecture, depth: int) -> None:
    parent, child = trained(architecture), Network(replace(architecture, depth=depth), seed=5)
    before, x = tensors_of(parent), TEST.normalize(TEST_IMAGES.images)
    assert not torch.allclose(child.eval()(x), parent(x), rtol=0.1)
    deepen(parent, child, stage_statistics(parent, TRAIN))
    logits = parent(x)
    torch.testing.assert_close(child(x), logits, rtol=0, atol=1e-5 * logits.abs().max().item())
    assert largest_difference(parent, child, TEST) < 1e-5
    assert_unchanged(parent, before)


def test_the_identity_layers_can_learn() -> None:
    parent, child = trained(cifar(14, "none")), Network(cifar(20, "none"))
    deepen(parent, child, stage_statistics(parent, TRAIN))
    loss = F.cross_entropy(child.train()(TRAIN.normalize(IMAGES.images)), IMAGES.labels)
    loss.backward()
    added = child.blocks()["stage2.block3"]
    assert added.conv1.weight.grad is not None
    assert added.conv1.weight.grad.abs().max() > 0


def test_a_difference_is_seen() -> None:
    parent, child = trained(cifar(14, "none")), Network(cifar(20, "none"))
    deepen(parent, child, stage_statistics(parent, TRAIN))
    child.blocks()["stage3.block3"].bn2.bias.data += 0.1  # type: ignore[operator,union-attr]
    assert largest_difference(parent, child, TEST) > 1e-2


@pytest.mark.parametrize(
    ("parent", "child", "told"),
    [
        (cifar(14, "none"), replace(cifar(20, "none"), width=2), "differ in more than depth: width is 4 and 2"),
        (cifar(14, "none"), cifar(20, "A"), "differ in more than depth: shortcut is none and A"),
        (cifar(14, "none"), imagenet(18, "none"), "differ in more than depth: family is cifar and imagenet"),
        (cifar(14, "none"), cifar(8, "none"), "depth 8 is less than depth 14"),
        (cifar(8, "none", norm="none"), cifar(14, "none", norm="none"), "only with norm=batch"),
        (cifar(8, "A", alpha=0.5), cifar(14, "A", alpha=0.5), "and alpha=1"),
        (imagenet(34, "A"), imagenet(50, "A"), "depth 50 is made of other blocks than depth 34"),
        (imagenet(50, "none"), imagenet(101, "none"), "no plain bottleneck is an identity: its first 1x1"),
    ],
)
def test_what_cannot_be_built_is_said_and_nothing_is_changed(
    parent: Architecture, child: Architecture, told: str
) -> None:
    network = Network(child)
    before = tensors_of(network)
    with pytest.raises(ConstructionError, match=told):
        deepen(Network(parent), network, [])
    assert_unchanged(network, before)


@pytest.mark.parametrize(
    ("architecture", "depths"), [(cifar(8, "none"), [14, 110]), (cifar(8, "A"), [14, 110]), (imagenet(18, "B"), [34])]
)
def test_every_depth_is_compared_with_the_parent(architecture: Architecture, depths: list[int]) -> None:
    parent = trained(architecture)
    rows = deepen_each(parent, depths, TRAIN, TEST)
    error, _ = evaluate(parent, TEST)
    assert [row["depth"] for row in rows] == depths
    assert all(row["largest_difference"] < 1e-5 for row in rows)
    assert [(row["parent_error"], row["error"]) for row in rows] == [(error, error)] * len(depths)


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
    whole = (tmp_path / "aside.pt").read_bytes()
    weights.write_bytes(whole[:-1])
    assert f"{weights} is not as the seal of its record says" in train(child).message
    weights.write_bytes(whole)
    assert train(child).status == "finished"
    summary = json.loads((tmp_path / "runs" / child.run_id / "summary.json").read_text())
    initial = summary["initial"]
    assert initial["parent"] == parent.run_id
    assert initial["largest_difference"] < 1e-4
    assert initial["test_error"] == initial["parent_test_error"]
    assert initial["train_error_eval"] == initial["parent_train_error_eval"]
    assert summary["final"]["train_error"] != initial["train_error_eval"]
    controls = (["depth=8"], ["depth=20", "rate=0.01"], ["depth=8", "rate=0.01"])  # all have the same parent
    for control in controls if network == "plain" else ():
        again = tiny(f"network={network}", "network.parent_depth=8", *control)
        assert train(again).status == "finished"
        initial = json.loads((tmp_path / "runs" / again.run_id / "summary.json").read_text())["initial"]
        assert initial["parent"] == parent.run_id
        assert initial["largest_difference"] < 1e-4


def test_a_parent_is_of_the_same_precision_on_the_same_kind_of_device(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(results: str, precision: str, *overrides: str) -> Outcome:
        place = [f"paths.results={tmp_path / results}", f"machine.precision={precision}"]
        return train(compose(*TINY, "network=plain", *place, *overrides))

    child = ("depth=14", "network.parent_depth=8")
    assert run("own", "fp32").status == "finished"
    assert "is in fp32, not in bf16; name another folder" in run("own", "bf16", *child).message
    monkeypatch.setattr("degradation.train.run.find_published", lambda: tmp_path / "published")
    for folder, status in (("bf16", "failed"), ("fp32-cuda", "failed"), ("fp32", "finished")):
        shutil.copytree(tmp_path / "own" / "runs", tmp_path / "published" / "runs" / folder)
        outcome = run("other", "fp32", *child)
        assert (outcome.status, "are not here" in outcome.message) == (status, status == "failed")
