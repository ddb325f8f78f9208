"""The benchmark measures what it names; how fast that is, is not tested."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from speed import TRAINER, USUAL, InMemoryCIFAR10, default_setting, measure_throughput, summarise
from speed_report import draw_throughput, write_bench

from degradation.config import Architecture
from degradation.data.images import load_cifar10_mini
from degradation.net.network import multiply_adds
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
    setting = default_setting(compose("protocol=paper", "data=synthetic", "logger=none", "machine=cpu"))
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
