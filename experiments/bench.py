"""Measure training speed against the usual recipe, and what grows with depth."""

import degradation.script  # isort: skip  # noqa: F401  first of all
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import hydra
from speed import (
    default_setting,
    describe_machine,
    measure_figures,
    measure_growth,
    measure_memory,
    measure_peak,
    measure_start,
    measure_throughput,
    summarise,
)
from speed_images import PROTOCOLS, as_files, find_set, limits, measure_images, summarise_images
from speed_report import draw_growth, draw_throughput, write_bench

from degradation.config import ConfigError, DataError, parse, refuse_published
from degradation.ending import Parser
from degradation.report.draw import save
from degradation.report.table import find_results
from degradation.train import machine as machines

ROOT = Path(__file__).parents[1]
PARTS = ("throughput", "images", "growth", "memory", "start", "figures")


def numbers(text: str) -> list[int]:
    """Whole numbers between commas, at least one, each at least 1."""
    found = [int(part) for part in text.split(",")]
    if min(found) < 1:
        raise ValueError
    return found


def main() -> int:
    """Write results/bench/<device>/; exit status 2 with one line where the input is wrong."""
    usual = find_results() / "bench"
    parser = Parser(__doc__)
    parser.add_argument("--depths", type=numbers, default=[20, 56, 110], help="default: 20,56,110")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds of every variant (default: 3)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each variant in each round (default: 8)")
    parser.add_argument("--jobs", type=numbers, help="runs at once to try (default: 2, and on a GPU 4 and 8 too)")
    given = (
        "Hydra overrides for the ImageNet network whose images are timed, such as depth=50 or protocol.batch_size=64"
    )
    parser.add_argument("--image-overrides", nargs="*", default=[], help=given)
    parser.add_argument("--memory-depths", type=numbers, default=[110, 1202], help="default: 110,1202")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"what to measure (default: {','.join(PARTS)})")
    parser.add_argument("--machine", default="auto", choices=("auto", "cpu", "gpu"))
    parser.add_argument("--out", type=Path, default=usual, help="default: %(default)s")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if set(parts) != set(PARTS) and arguments.out.resolve() == usual.resolve():
        parser.error(f"{usual} holds whole benchmarks; name another folder with --out for a part of one")
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds must be above 0")

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        refuse_published(arguments.out)
        with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            common = ["protocol=paper", "logger=none", f"machine={arguments.machine}"]
            config = parse(hydra.compose("train", [*common, "data=synthetic"]))
            for depth in arguments.depths + arguments.memory_depths:
                parse(hydra.compose("train", [f"depth={depth}"]))
            setting = default_setting(config)
            chosen = find_set(config.paths.data, setting.cuda)
            named = [f"protocol={PROTOCOLS[chosen]}", "depth=18", "network.width=64", *arguments.image_overrides]
            images = replace(parse(hydra.compose("train", named)), machine=setting.machine)
    except (ConfigError, DataError, hydra.errors.HydraException) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    machines.apply(setting.machine)
    jobs = tuple(arguments.jobs if arguments.jobs is not None else ([2, 4, 8] if setting.cuda else [2]))
    whole = arguments.out / setting.machine.device
    folder = arguments.out / f".{setting.machine.device}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    peak = measure_peak(setting)
    described = {**describe_machine(setting, peak), "whole": set(parts) == set(PARTS)}
    say(f"{described['hardware']}, {setting.machine.precision}: matrix products at {peak / 1e9:,.0f} GFLOP/s")
    hardware, torch_version = described["hardware"], described["versions"]["torch"]
    name = hardware.get("gpu", hardware["cpu"])
    where = f"{name}, {hardware['cores']} cores, {setting.machine.precision}, torch {torch_version}"
    if "throughput" in parts:
        measured = measure_throughput(setting, arguments.depths, arguments.rounds, arguments.seconds, jobs, say)
        measured.to_csv(folder / "rounds.csv", index=False, float_format="%.1f")
        table = summarise(measured, peak)
        table.to_csv(folder / "throughput.csv", index=False, float_format="%.4g")
        caption = f"{where}: median and range of {arguments.rounds} interleaved rounds"
        save(draw_throughput(table, caption), folder, "throughput")
    if "images" in parts:
        with as_files(chosen, images.paths.data) as files:
            measured = measure_images(images, files, arguments.rounds, arguments.seconds, (0, 1, 2), say)
        measured.to_csv(folder / "images_rounds.csv", index=False, float_format="%.1f")
        summarise_images(measured).to_csv(folder / "images.csv", index=False, float_format="%.4g")
        shown = {"set": chosen, "crop": images.data.crop, "batch": images.protocol.batch_size}
        described["images"] = {**shown, **limits(measured, int(setting.machine.threads))}
    if "growth" in parts:
        growth = measure_growth(setting, [8, 20, *arguments.depths], [32, 64, 256], arguments.seconds / 2)
        growth.to_csv(folder / "growth.csv", index=False, float_format="%.4g")
        save(draw_growth(growth, where), folder, "growth")
    if "memory" in parts:
        memory = measure_memory(setting, arguments.memory_depths, say)
        if len(memory):
            memory.to_csv(folder / "memory.csv", index=False, float_format="%.4g")
    if "start" in parts:
        described["seconds_to_first_iteration"] = round(measure_start(ROOT), 2)
    if "figures" in parts:
        described["seconds_for_figures"] = round(measure_figures(ROOT), 2)
    page = write_bench(folder, described)
    shutil.rmtree(whole, ignore_errors=True)  # one folder, one run
    folder.rename(whole)
    say(str(whole / page.name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
