"""Ten crops, whole images and their scores, against naive computations; and the command, on runs and other code."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from evaluate import main
from PIL import Image
from torchvision.models import resnet18

from degradation.config import Architecture
from degradation.data.folders import read_image
from degradation.data.images import Pictures, load
from degradation.data.resident import Normalizer
from degradation.net.foreign import load_network
from degradation.net.network import Network
from degradation.probe.testing import Way, error_in_top, scores
from degradation.probe.views import Views, evaluate, exact_batchnorm
from degradation.report.imagenet import load_tests
from degradation.report.table import load_table
from degradation.train.run import train
from tests.conftest import Compose
from tests.data.test_folders import CONFIG, write_tree

NETWORK = Architecture.paper(18, "A", "imagenet", width=4, classes=3)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def pictures(tree: Path) -> Views:
    train = load(replace(CONFIG, normalization="pixel_mean"), tree)[0]
    return Views(train, Normalizer(train.sample, "pixel_mean"), batch_size=20)


def resized(image: Image.Image, side: int) -> torch.Tensor:
    """uint8 [3, H, W], the shorter of H and W being `side`."""
    scale = side / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return torch.from_numpy(np.array(image.resize(size, Image.Resampling.BILINEAR))).permute(2, 0, 1)


def naive_scores(network: Network, views: Views, way: str) -> torch.Tensor:
    """Image by image, view by view."""
    assert isinstance(views.images, Pictures)
    found = []
    for source in views.images.sources:
        image = read_image(source)
        shown = []
        if way == "ten_crop":
            whole = resized(image, 24)
            down, across = whole.shape[1] - 20, whole.shape[2] - 20
            places = ((0, 0), (0, across), (down, 0), (down, across), (round(down / 2), round(across / 2)))
            for view in (whole, whole.flip(2)):  # whose centre is the other of two where the room is odd
                shown += [view[:, top : top + 20, left : left + 20] for top, left in places]
        elif way == "multi_scale":
            for side in (20, 23, 34, 43, 57):  # 224, 256, 384, 480, 640 where crops are of 224
                shown += [resized(image, side), resized(image, side).flip(2)]
        with torch.no_grad():
            softmax = [network(views.normalize(pixels[None])).softmax(1)[0] for pixels in shown]
        found.append(torch.stack(softmax).mean(0))
    return torch.stack(found)


@pytest.mark.parametrize("way", ["ten_crop", "multi_scale"])
@pytest.mark.parametrize("workers", [0, 2])
def test_scores_are_those_of_every_view_by_itself(way: Way, workers: int, pictures: Views) -> None:
    network = Network(NETWORK, seed=1)
    with torch.no_grad():
        network(pictures.normalize(next(pictures.images.batches(15)).images))  # statistics of its own
    network.eval()
    assert isinstance(pictures.images, Pictures)
    ours = scores(network, pictures.of(replace(pictures.images, workers=workers)), way)
    torch.testing.assert_close(ours, naive_scores(network, pictures, way), rtol=1e-4, atol=1e-5)
    assert ours.shape == (15, 3)


def test_the_centre_crop_is_what_training_evaluates(pictures: Views) -> None:
    network = Network(NETWORK, seed=1)
    found = scores(network, pictures, "centre")
    assert error_in_top(found, pictures.images.labels, 1) == pytest.approx(evaluate(network, pictures)[0])


def test_a_whole_image_at_one_size_is_a_fully_convolutional_pass(pictures: Views) -> None:
    network = Network(NETWORK, seed=1).eval()
    assert isinstance(pictures.images, Pictures)
    image = resized(read_image(pictures.images.sources[0]), 57)
    maps = []
    network.stages[-1].register_forward_hook(lambda *args: maps.append(args[2]))
    with torch.no_grad():
        logits = network(pictures.normalize(image[None]))
        places = torch.einsum("nchw,kc->nkhw", maps[0], network.head.weight) + network.head.bias[:, None, None]
    assert places.shape[2] * places.shape[3] > 1
    torch.testing.assert_close(logits, places.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_the_class_must_be_among_the_k_best() -> None:
    found = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    labels = torch.tensor([2, 3])
    assert [error_in_top(found, labels, k) for k in (1, 2, 3, 4, 5)] == [100, 50, 50, 0, 0]


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """arguments -> exit status, stdout and stderr of experiments/evaluate.py."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
        capsys.readouterr()
        try:
            status = main()
        except SystemExit as ended:  # argparse's
            status = int(ended.code or 0)
        return status, *capsys.readouterr()

    return run


def test_the_command_tests_runs_and_other_code_alone_and_together(
    tree: Path, tmp_path: Path, compose: Compose, run_command: Run
) -> None:
    small = ["data=imagenet", "data.name=tiny", "data.crop=20", "data.shorter_side=[24,40]", f"paths.data={tree}"]
    network = ["network.width=4", "depth=18", "protocol.batch_size=8", "protocol.iterations=4"]
    usual = [
        "protocol.batchnorm_groups=2",
        "protocol=imagenet_smoke",
        *small,
        *network,
        "logger=none",
        "machine=cpu",
        "machine.threads=1",
        f"paths.results={tmp_path}",
    ]
    configs = [compose(*usual, f"seed={seed}") for seed in (0, 1)]
    for config in configs:
        assert train(config).status == "finished"
    folders = [str(config.folder) for config in configs]
    out, cpu, where = tmp_path / "table.csv", ["machine=cpu", "machine.threads=1"], f"paths.data={tree}"
    status, _, told = run_command(*folders, "--out", str(out), "--overrides", where, *cpu)
    assert (status, told) == (0, "")
    table = pd.read_csv(out)
    assert table["network"].tolist() == [*(Path(folder).name for folder in folders), "all"] * 3
    assert table["way"].tolist() == [way for way in ("centre", "ten_crop", "multi_scale") for _ in range(3)]
    assert (table["images"] == 15).all()
    assert (table["top5"] == 0).all()  # of three classes
    kept = load_tests(load_table(tmp_path))  # and for the tables of the pages, as they are of these weights
    assert len(kept) == 9
    assert table["weights"].str.fullmatch("[0-9a-f]{64}( [0-9a-f]{64})?").all()
    by_networks = kept[kept["way"] == "ten_crop"].set_index("networks")["top1"].to_dict()
    shown = table[table["way"] == "ten_crop"].set_index("network")["top1"].to_dict()
    names = [Path(folder).name for folder in folders]
    assert by_networks == {**{name: shown[name] for name in names}, " ".join(sorted(names)): shown["all"]}
    # What they are together, and by exact averages, from the networks themselves.
    train_set, test, _ = load(configs[0].data, tree)
    views = Views(test, Normalizer(train_set.sample, "pixel_mean"), batch_size=20)
    networks = [load_network(folder) for folder in folders]
    softmax = torch.stack([scores(network, views, "ten_crop") for network in networks]).mean(0)
    assert shown["all"] == pytest.approx(error_in_top(softmax, test.labels, 1), rel=1e-3)
    exact = exact_batchnorm(networks[0], replace(views.of(train_set), batch_size=4))  # half a batch
    expected = error_in_top(scores(exact, views, "centre"), test.labels, 1)
    by_exact = ("--ways=centre", "--batchnorm=exact", f"--out={out}", "--overrides", *cpu, where)
    assert run_command(folders[0], *by_exact)[0] == 0
    assert pd.read_csv(out)["top1"].tolist() == [pytest.approx(expected, rel=1e-3)]
    again = (*folders[:1], "--ways", "ten_crop", "--overrides", f"paths.data={tree}", *cpu)
    assert run_command(*again)[0] == 0
    assert len(load_tests(load_table(tmp_path))) == 10  # in place of what was there
    assert run_command(*again, "--images", "4")[0] == 0
    assert len(load_tests(load_table(tmp_path))) == 10  # of some images alone: not to be shown
    foreign = tmp_path / "theirs.pt"
    torch.save(resnet18(num_classes=3).state_dict(), foreign)
    options = ["--stride-in", "3x3", "--pool", "padded", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    status, said, _ = run_command(
        str(foreign), *options, "--ways", "centre", "--batchnorm", "exact", "--overrides", *small, *cpu
    )
    assert status == 0
    assert "centre" in said
    other = compose(*usual, "data.shorter_side=[25,40]", "protocol.iterations=1", "protocol.log_every=1", "seed=2")
    other = replace(other, protocol=replace(other.protocol, evaluate_every=1))
    assert train(other).status == "finished"
    for arguments, told in (
        ([folders[0], str(other.folder)], "trained on other images, or sees them otherwise, than residual-18"),
        ([folders[0], str(foreign)], "theirs.pt: test runs apart from other code's networks"),
        ([str(foreign), "--ways", "nine"], "--ways: nine is not one of centre, ten_crop, multi_scale"),
        ([str(tmp_path / "none.pt")], "none.pt is not a file"),
        ([str(foreign), "--overrides", "data=imagenette_mini"], "theirs.pt has 3 classes, and imagenette_mini 10"),
        ([folders[0], "--overrides", "paths.data=nowhere"], "tiny is not in nowhere"),
        ([folders[0], "--out", f"{tmp_path}/none/x.csv"], f"--out: there is no folder {tmp_path}/none"),
    ):
        status, _, error = run_command(*arguments)
        assert status == 2
        assert told in error
        assert error.count("\n") == 1


def test_a_thousand_classes_go_through_the_papers_protocol(tmp_path: Path, compose: Compose, run_command: Run) -> None:
    write_tree(tmp_path / "imagenet", 1, [f"n{number:08d}" for number in range(1000)])
    small = ["depth=18", "network.width=2", "data.crop=32", "data.shorter_side=[37,69]", "protocol.iterations=3"]
    small += ["protocol.batch_size=16", "logger=none", "machine.threads=1", "machine=cpu", f"paths.data={tmp_path}"]
    config = compose("protocol=imagenet_paper", *small, f"paths.results={tmp_path}")
    outcome = train(config)
    assert outcome.status == "finished", outcome.message
    assert outcome.final is not None
    out = tmp_path / "table.csv"
    said = run_command(str(config.folder), "--images", "20", "--out", str(out), "--overrides", *small[-3:])
    assert said[0] == 0, said
    assert pd.read_csv(out)["way"].tolist() == ["centre", "ten_crop", "multi_scale"]
