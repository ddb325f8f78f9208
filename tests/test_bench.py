"""The benchmark measures what it names; how fast that is, is not tested."""

import json
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import bench
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from speed import (
    TRAINER,
    USUAL,
    InMemoryCIFAR10,
    concurrent,
    default_setting,
    measure_throughput,
    our_trainer,
    summarise,
)
from speed_images import OURS, REFERENCE, STEP, as_files, find_set, limits, measure_images, summarise_images
from speed_report import draw_throughput, write_bench

from degradation.config import Architecture, Config, ProtocolConfig, find_published
from degradation.data.folders import find_images, read_image
from degradation.data.images import load_cifar10_mini
from degradation.net.network import multiply_adds
from degradation.train import machine as machines
from degradation.train.callbacks import first_steps, signals_every
from degradation.train.outcome import Outcome
from degradation.train.run import train
from tests.conftest import Compose

BARE = "bare loop, channels_last, bf16"


def test_ratios_are_taken_within_rounds_and_their_median_told() -> None:
    # The machine is half as fast in the second round; our ratio is 3 in every round.
    rates = {USUAL[0]: (80, 40, 80), USUAL[1]: (100, 50, 100), BARE: (250, 125, 250), TRAINER: (300, 150, 300)}
    measured = pd.DataFrame(
        {"depth": 20, "variant": variant, "round": number, "images_per_second": float(rate)}
        for variant, rounds in rates.items()
        for number, rate in enumerate(rounds, 1)
    )
    table = summarise(measured, peak=1e12).set_index("variant")
    assert table.loc[TRAINER, "ratio_to_usual"] == 3
    assert table.loc[TRAINER, "ratio_to_bare"] == pytest.approx(1.2)
    assert table.loc[USUAL[0], "ratio_to_usual"] == pytest.approx(0.8)
    assert table.loc[TRAINER, "images_per_second"] == 300
    assert (table.loc[TRAINER, "lowest"], table.loc[TRAINER, "highest"]) == (150, 300)
    flops = 3 * 2 * multiply_adds(Architecture.paper(20, "A")) * 300
    assert table.loc[TRAINER, "gflops"] == pytest.approx(flops / 1e9)
    assert table.loc[TRAINER, "fraction_of_matrix_peak"] == pytest.approx(flops / 1e12)


def test_the_usual_recipe_reads_images_as_torchvision_does() -> None:
    train, _ = load_cifar10_mini()
    image, label = InMemoryCIFAR10(train, lambda picture: picture)[7]
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size, label) == ("RGB", (32, 32), train.labels[7])
    assert image.getpixel((3, 5)) == tuple(train.images[7, :, 5, 3].tolist())


def test_every_variant_runs_and_is_shown(compose: Compose, tmp_path: Path) -> None:
    small = ["data=synthetic", "protocol.batch_size=16", "logger=none", "machine=cpu"]
    setting = default_setting(compose("protocol=paper", *small))
    setting = replace(setting, executions=("eager",))  # to compile takes its time; test_step.py does
    measured = measure_throughput(setting, [8], 1, 0.0, (), lambda text: None)
    assert (measured["images_per_second"] > 0).all()
    table = summarise(measured, peak=1e12)
    assert {*USUAL, TRAINER} < set(table["variant"])
    bars = draw_throughput(table, "here").axes[0].patches
    assert [bar.get_width() for bar in bars] == table["images_per_second"].tolist()[::-1]
    table.to_csv(tmp_path / "throughput.csv", index=False)
    described = {"date": "", "commit": "", "device": "cpu", "precision": "fp32", "matrix_peak_gflops": 1.0}
    page = write_bench(tmp_path, {**described, "hardware": {}, "versions": {}}).read_text()
    assert all(variant in page for variant in table["variant"])
    assert json.loads((tmp_path / "bench.json").read_text())["device"] == "cpu"


def test_runs_at_once_are_timed_together_or_left_out(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = default_setting(compose("protocol=paper", "logger=none", "machine=cpu", "machine.threads=1"))
    assert concurrent(setting, 8, 2)(0.0) > 0
    failing = concurrent(replace(setting, train=setting.train[:100]), 8, 2)
    with pytest.raises(RuntimeError, match="batch_size=128 is larger than the training set of 100 images"):
        failing(0.0)
    monkeypatch.setattr("speed.variants", lambda *_: {"one": lambda _: 1.0, "two at once": failing})
    told: list[str] = []
    measured = measure_throughput(setting, [8], 2, 0.0, (2,), told.append)
    assert measured["variant"].tolist() == ["one", "one"]
    assert [line for line in told if "left out: batch_size=128 is larger" in line] == told[2:3]


def test_images_are_timed_against_the_step_and_the_reference(compose: Compose, tmp_path: Path) -> None:
    small = ["network.width=64", "data.crop=32", "data.shorter_side=[37,69]", "protocol.batch_size=2", "depth=18"]
    config = compose("protocol=imagenet_quick", *small, "machine=cpu", "machine.threads=1")
    config = replace(config, machine=machines.resolve(config.machine))
    draw = np.random.default_rng(0)
    for split, label, number in product(("train", "val"), range(10), range(2)):
        (place := tmp_path / "imagenette2-160" / split / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(place / f"{number}.jpg")
    assert find_set(str(tmp_path), cuda=False) == "imagenette2-160"
    with as_files("imagenette2-160", str(tmp_path)) as folder:
        measured = measure_images(config, folder, 1, 0.0, (0, 1), lambda text: None)
    assert (measured["images_per_second"] > 0).all()
    assert len(measured.drop_duplicates(["part", "recipe", "workers"])) == 10
    measured.loc[measured["recipe"] == OURS, "images_per_second"] = 30.0
    measured.loc[measured["recipe"] == REFERENCE, "images_per_second"] = 10.0
    table = summarise_images(measured)
    assert table["ratio_to_reference"].tolist() == [3 if recipe == OURS else 1 for recipe in table["recipe"]]
    measured.loc[measured["part"] == STEP, "images_per_second"] = 20.0
    told = limits(measured, threads=2)
    assert told == {"decoded_per_core": 30, "trained_per_core": 10, "decoding_percent": 25, "decoding_cores": 0.667}
    table.to_csv(tmp_path / "images.csv", index=False)
    described = {"date": "", "commit": "", "device": "cpu", "precision": "fp32", "matrix_peak_gflops": 1.0}
    described |= {"images": {"set": "tiny", "crop": 32, "batch": 2, **told}, "hardware": {}, "versions": {}}
    assert "decoding takes 25.0 % of the time" in write_bench(tmp_path, described).read_text()


def test_the_embedded_images_are_timed_as_files() -> None:
    assert find_set("nowhere", cuda=True) == "imagenette_mini"
    with as_files("imagenette_mini", "nowhere") as folder:
        (train, labels), (val, _) = find_images("images", folder)
        assert (len(train), len(val), max(labels)) == (500, 250, 9)
        assert min(read_image(train[0]).size) == 96
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--parts", "images", "--out", "results/bench"], "results/bench holds whole benchmarks; name another folder"),
        (["--parts", "images", "--out", "{published}/bench"], "is read-only evidence"),
        (["--image-overrides", "depht=50"], "depht"),
        (["--jobs", "0"], "argument --jobs: invalid numbers value: '0'"),
        (["--memory-depths", ""], "argument --memory-depths: invalid numbers value: ''"),
        (["--depths", "21"], "depth=21 is not of the form 6n+2"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RESULTS_DIR", raising=False)
    given = [argument.format(published=find_published()) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["bench.py", *given])
    try:
        status = bench.main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    error = capsys.readouterr().err
    assert (status, error.count("\n")) == (2, 1)
    assert told in error
    assert not any((tmp_path / "results").iterdir())


def test_the_trainer_is_timed_where_nothing_else_is_measured(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["data=synthetic", "protocol.batch_size=16", "logger=none", "machine=cpu"]
    setting = default_setting(compose("protocol=paper", *small))
    protocols: list[ProtocolConfig] = []

    def watch(config: Config) -> Outcome:
        protocols.append(config.protocol)
        return train(config)

    monkeypatch.setattr("speed.train", watch)
    assert our_trainer(setting, 8, 128 * 9 * 3.0)(1.0) > 0
    (protocol,) = protocols
    row = protocol.log_every
    assert (row, protocol.iterations, protocol.evaluate_every) == (4, 64, 64)
    assert not [n for n in first_steps(protocol) if 9 * row <= n < 15 * row]
    assert signals_every(protocol) >= 16 * row
