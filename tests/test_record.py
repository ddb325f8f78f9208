"""The files of a run: locked, checked, rewound, finished at once or not at all."""

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from degradation.config import Config
from degradation.record import (
    COLUMNS,
    Record,
    RecordError,
    check_network,
    is_signed,
    load_gradients,
    load_metrics,
    load_responses,
    load_runs,
    read_summary,
    read_varied,
    sign,
)

SUMMARY = {"outcome": "finished", "iteration": 24, "final": {"train_error": 12.5, "test_error": 25.0}}
HEADER = ",".join(COLUMNS) + "\n"


@pytest.fixture
def config(tiny: Callable[..., Config]) -> Config:
    return tiny()


@pytest.fixture
def record(config: Config) -> Iterator[Record]:
    record = Record(config)
    yield record
    record.close()


def rows(*iterations: int) -> list[dict[str, float]]:
    return [{"iteration": i, "lr": 0.1, "train_error": i / 3, "train_loss": 1.0, "seconds": 0.5} for i in iterations]


def without_seal(summary: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in summary.items() if key != "seal"}


def test_two_processes_cannot_write_one_run(config: Config, record: Record) -> None:
    with pytest.raises(RecordError, match=f"another process is writing {record.path}"):
        Record(config)
    record.close()
    Record(config).close()


def test_other_runs_are_not_locked(record: Record, tiny: Callable[..., Config]) -> None:
    Record(tiny("seed=1")).close()


def test_the_record_holds_the_whole_scientific_config(config: Config, record: Record) -> None:
    assert record.path.name == config.run_id
    assert yaml.safe_load((record.path / "config.yaml").read_text()) == {"run_id": config.run_id, **config.science}


def test_a_folder_that_cannot_be_made_is_named(compose: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match=rf"cannot write results to {tmp_path}/file/runs/.*paths.results="):
        Record(compose("protocol=smoke", f"paths.results={tmp_path}/file"))


@pytest.mark.parametrize("text", ["", '{"outcome": "fini', "{}", "[]", "null", '"outcome"'])
def test_a_damaged_summary_is_no_finished_run(config: Config, record: Record, text: str) -> None:
    with pytest.raises(RecordError, match="is not the record of a finished run"):
        read_summary(record.path)
    record.finish(SUMMARY)
    assert without_seal(read_summary(record.path)) == SUMMARY
    (record.path / "summary.json").write_text(text)
    for read in (lambda: read_summary(record.path), lambda: load_runs(config.paths.results)):
        with pytest.raises(RecordError, match=r"summary.json (is damaged|has no seal)"):
            read()


def test_a_config_changed_under_its_record_is_refused(config: Config, record: Record) -> None:
    record.finish(SUMMARY)
    record.close()
    path = record.path / "config.yaml"
    original = path.read_text()
    path.write_text(original.replace("iterations: 24", "iterations: 25"))
    assert path.read_text() != original
    for read in (lambda: Record(config), lambda: load_runs(config.paths.results)):
        with pytest.raises(RecordError, match=rf"{path} was changed under its record"):
            read()
    path.write_text(original)
    Record(config).close()
    assert len(load_runs(config.paths.results)) == 1


@pytest.mark.parametrize("text", ["", "network: [", "just words", "seed: 0\n"])
def test_a_damaged_config_is_refused(config: Config, record: Record, text: str) -> None:
    record.close()
    (record.path / "config.yaml").write_text(text)
    with pytest.raises(RecordError, match=rf"config.yaml is damaged; restore it, or delete {record.path} to run again"):
        Record(config)


def test_a_record_without_its_config_is_refused(config: Config, record: Record) -> None:
    record.append(rows(4)[0])
    record.close()
    (record.path / "config.yaml").unlink()
    with pytest.raises(RecordError, match=r"config.yaml is missing beside a record"):
        Record(config)


def test_a_refused_record_is_not_left_locked(config: Config, record: Record) -> None:
    record.close()
    (record.path / "config.yaml").write_text("")
    for _ in range(2):
        with pytest.raises(RecordError, match="damaged"):
            Record(config)


def test_metrics_are_what_was_appended(record: Record) -> None:
    for row in rows(4, 8):
        record.append(row)
    record.append({**rows(12)[0], "test_error": 100 / 3, "test_loss": None})
    lines = (record.path / "metrics.csv").read_text().splitlines()
    assert lines == [
        ",".join(COLUMNS),
        "4,0.1,1.33333,1,,,,,0.5",
        "8,0.1,2.66667,1,,,,,0.5",
        "12,0.1,4,1,33.3333,,,,0.5",
    ]
    assert load_metrics(record.path)["test_error"].dropna().tolist() == [33.3333]


@pytest.mark.parametrize("torn", ["", "1", "12,0.1", "8,0.1,2", "12,0.1,4,1,,,,,0."])
def test_rewind_drops_later_rows_and_a_torn_line(record: Record, torn: str) -> None:
    path = record.path / "metrics.csv"
    for row in rows(4, 8):
        record.append(row)
    written, before = record.written(), path.read_text()
    record.append(rows(12)[0])
    whole = path.read_text()
    path.write_text(whole + torn)
    record.rewind(written)
    assert path.read_text() == before
    record.append(rows(12)[0])
    assert path.read_text() == whole
    record.rewind({})
    assert not path.exists()


def test_rewind_drops_a_table_that_was_begun_since(record: Record) -> None:
    record.append_gradients(0, [{"layer": 1, "grad_weight": 1.0}])
    written = record.written()
    for iteration in (8, 16):
        record.append({"iteration": iteration, "lr": 0.1, "train_error": 50.0, "train_loss": 1.0})
    record.rewind(written)
    assert not (record.path / "metrics.csv").exists()
    assert len(load_gradients(record.path)) == 1


def test_a_run_that_diverged_before_its_first_row_has_a_record_that_loads(record: Record) -> None:
    record.finish({"outcome": "diverged", "iteration": 3, "final": None, "message": "not finite"})
    assert load_metrics(record.path).empty
    assert read_summary(record.path)["outcome"] == "diverged"


def test_rewind_without_what_was_written(record: Record) -> None:
    record.rewind({})
    record.append(rows(4)[0])
    written = record.written()
    (record.path / "metrics.csv").unlink()
    with pytest.raises(RecordError, match=r"metrics.csv is not as it was when the checkpoint was saved; restore it"):
        record.rewind(written)


@pytest.mark.parametrize(
    "text",
    ["", "iteration,lr\n4,0.1\n", HEADER + "8,,,,,,,,\n4,,,,,,,,\n", HEADER + ",0.1,,,,,,,\n", HEADER + '4,"0.1\n'],
)
def test_damaged_metrics_are_not_drawn(record: Record, text: str) -> None:
    (record.path / "metrics.csv").write_text(text)
    with pytest.raises(RecordError, match=r"metrics.csv is damaged"):
        load_metrics(record.path)


@pytest.mark.parametrize(("name", "load"), [("gradients.csv", load_gradients), ("responses.csv", load_responses)])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'layer\n"1'])
def test_damaged_tables_are_told(record: Record, name: str, load: Callable[[Path], object], content: bytes) -> None:
    (record.path / name).write_bytes(content)
    with pytest.raises(RecordError, match=f"{name} is damaged"):
        load(record.path)


def test_metrics_of_other_versions_load_and_keep_their_columns(record: Record) -> None:
    path = record.path / "metrics.csv"
    path.write_text("iteration,train_error,test_error,top5_error\n4,50,60,10\n")
    metrics = load_metrics(record.path)
    assert list(metrics) == [*COLUMNS, "top5_error"]
    assert metrics["test_error"].tolist() == [60]
    assert metrics["val_error"].isna().all()
    record.append(rows(8)[0])
    assert path.read_text().splitlines()[-1] == "8,2.66667,,"


@pytest.mark.parametrize(
    ("told", "varied"),
    [
        ({}, {}),
        ({"variant": ""}, {}),
        ({"variant": "network.norm=none"}, {"network.norm": "none"}),
        (
            {"variant": "protocol.decay_batchnorm=False, protocol.lr=0.005, protocol.milestones=[3750, 5625]"},
            {"protocol.decay_batchnorm": False, "protocol.lr": 0.005, "protocol.milestones": [3750, 5625]},
        ),
        (
            {"variant": "protocol.log_every=1, protocol.milestones=[]"},
            {"protocol.log_every": 1, "protocol.milestones": []},
        ),
        ({"varied": {"protocol.lr": 0.5}}, {"protocol.lr": 0.5}),
    ],
)
def test_what_a_run_varied_is_read_from_either_form(told: dict[str, object], varied: dict[str, object]) -> None:
    assert read_varied(told) == varied


def test_what_varied_and_what_the_study_made_stay_whole(config: Config, record: Record) -> None:
    record.finish({**SUMMARY, "varied": {"protocol.lr": 0.5, "network.norm": "none"}, "made_by_study": ["protocol.lr"]})
    runs = load_runs(config.paths.results)
    assert runs["varied"].tolist() == [{"protocol.lr": 0.5, "network.norm": "none"}]
    assert runs["made_by_study"].tolist() == [["protocol.lr"]]
    assert not [column for column in runs if column.startswith("varied.")]


def test_a_full_disk_leaves_no_summary(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    record.checkpoint.touch()
    before = sorted(record.path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            record.finish(SUMMARY)
    assert not (record.path / "summary.json").exists()
    assert sorted(record.path.iterdir()) == before  # the checkpoint is still there, half a summary is not


def test_finish_replaces_the_checkpoint_by_the_summary_in_one_move(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves, replace = [], os.replace

    def watch(source: Path, target: Path) -> None:
        moves.append(
            (without_seal(json.loads(Path(source).read_text())), Path(target).exists(), record.checkpoint.exists())
        )
        replace(source, target)

    record.checkpoint.touch()
    monkeypatch.setattr(os, "replace", watch)
    record.finish(SUMMARY)
    assert moves == [(SUMMARY, False, True)]
    assert not record.checkpoint.exists()


def test_what_is_not_finite_is_null(record: Record) -> None:
    record.finish({"outcome": "diverged", "final": {"loss": float("nan"), "error": float("inf"), "n": 1.5}})
    assert without_seal(read_summary(record.path)) == {
        "outcome": "diverged",
        "final": {"loss": None, "error": None, "n": 1.5},
    }


# Seals


TABLES = {"metrics.csv": rows(*range(4, 25, 4)), "gradients.csv": [{"layer": 1, "std": 1.0}]}


@pytest.fixture
def finished(record: Record) -> Path:
    """A finished record of every kind of file."""
    record.start_session({"precision": "fp32"})
    for row in TABLES["metrics.csv"]:
        record.append(row)
    record.append_gradients(0, TABLES["gradients.csv"])
    record.write_table("responses.csv", [{"layer": 1, "std": 0.5}])
    record.write_table("wrong.csv", [], ["image"])
    record.write(record.initial, lambda path: path.write_text("{}"))
    record.write(record.network, lambda path: path.write_bytes(bytes(range(256))))
    record.finish({"run_id": record.id, **SUMMARY})
    record.close()
    return record.path


FILES = ("config.yaml", "sessions.jsonl", "metrics.csv", "gradients.csv", "responses.csv", "initial.json", "wrong.csv")


@pytest.mark.parametrize("name", [*FILES, "summary.json"])
@pytest.mark.parametrize("change", ["flipped", "cut", "emptied", "longer", "removed"])
def test_a_finished_record_is_as_it_was_sealed(finished: Path, name: str, change: str) -> None:
    path = finished / name
    content = path.read_bytes()
    half = len(content) // 2
    flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
    changed = {"flipped": flipped, "cut": content[:half], "emptied": b"", "longer": content + b"1\n"}
    path.unlink() if change == "removed" else path.write_bytes(changed[change])
    if (name, change) == ("summary.json", "removed"):
        assert load_runs(finished.parents[1]).empty
        return
    with pytest.raises(RecordError, match=str(finished)) as told:
        load_runs(finished.parents[1])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("changes", [{}, {"final": {"test_error": 1.0}}])
def test_a_record_without_its_seal_is_damaged(finished: Path, changes: dict[str, object]) -> None:
    path = finished / "summary.json"
    path.write_text(json.dumps({**without_seal(json.loads(path.read_text())), **changes}))
    with pytest.raises(RecordError, match=r"summary.json has no seal"):
        load_runs(finished.parents[1])


def test_the_weights_are_those_of_the_record(finished: Path) -> None:
    check_network(finished)
    weights = finished / "network.pt"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\0")
    with pytest.raises(RecordError, match=r"network.pt is not as the seal of its record says"):
        check_network(finished)
    weights.write_bytes(whole)
    (finished / "summary.json").unlink()
    with pytest.raises(RecordError, match=r"is not the record of a finished run"):
        check_network(finished)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_not_called_damaged(finished: Path) -> None:
    for name in ("summary.json", "config.yaml", "metrics.csv"):
        (finished / name).chmod(0)
        with pytest.raises(RecordError, match=rf"cannot read {finished / name} \(Permission denied\)$"):
            read_summary(finished)
        (finished / name).chmod(0o644)


def test_a_signature_is_of_all_that_is_before_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    assert not is_signed(path.read_bytes())
    sign(path)
    content = path.read_bytes()
    assert is_signed(content)
    assert not any(is_signed(content[:place] + b"x" + content[place + 1 :]) for place in range(0, 1064, 50))


def test_a_folder_that_was_replaced_is_not_written(config: Config, record: Record) -> None:
    record.append(rows(4)[0])
    shutil.rmtree(record.path)
    other = Record(config)
    other.append(rows(4)[0])
    before = {path.name: path.read_bytes() for path in other.path.iterdir()}
    for write in (
        lambda: record.append(rows(8)[0]),
        lambda: record.append_gradients(0, [{"layer": 1}]),
        lambda: record.start_session({}),
        lambda: record.rewind({}),
        lambda: record.write_table("responses.csv", [{"layer": 1}]),
        lambda: record.finish(SUMMARY),
    ):
        with pytest.raises(RecordError, match="was removed or replaced while this process was writing it"):
            write()
    assert {path.name: path.read_bytes() for path in other.path.iterdir()} == before
    other.append(rows(8)[0])
    other.close()


def test_what_the_last_digits_depend_on_is_kept_or_refused(record: Record) -> None:
    machine = {"device": "cpu", "precision": "bf16", "execution": "eager", "channels_last": True}
    session = {**machine, "evaluation_batch": 500, "hardware": {"cpu": "a", "threads": 2}, "versions": {"torch": "1"}}
    assert record.start_session(session) == ""
    assert record.as_begun == {"device": "cpu", "precision": "bf16", "execution": "eager", "threads": 2}
    for changed in ({"device": "cuda"}, {"channels_last": False}, {"evaluation_batch": 100}, {"execution": "compiled"}):
        (setting,) = changed
        with pytest.raises(RecordError, match=f"was begun with {setting}=.* resume with machine.{setting}="):
            record.start_session({**session, **changed})
    with pytest.raises(RecordError, match="was begun with threads=2, not 1"):
        record.start_session({**session, "hardware": {"threads": 1}})
    elsewhere = {**session, "hardware": {"cpu": "b", "threads": 2}, "versions": {"torch": "2"}}
    assert record.start_session(elsewhere) == "cpu b after a, torch 2 after 1"
    assert len(record.sessions()) == 2


def test_load_runs_gives_finished_runs_alone(config: Config, tiny: Callable[..., Config]) -> None:
    assert load_runs(config.paths.results).empty
    for seed, end in ((0, True), (1, False), (2, True)):
        record = Record(tiny(f"seed={seed}"))
        record.append(rows(4)[0])
        record.checkpoint.touch()
        if end:
            record.finish({**SUMMARY, "run_id": record.id, "final": {"train_error": float(seed)}})
        record.close()
    runs = load_runs(config.paths.results)
    assert runs["seed"].tolist() == [0, 2]
    assert runs["final.train_error"].tolist() == [0.0, 2.0]
    assert runs["network.depth"].tolist() == [8, 8]
    assert runs["protocol.warmup.window"].tolist() == [6, 6]
    assert [folder.name for folder in runs["folder"]] == runs["run_id"].tolist()


def test_what_is_on_its_way_into_its_place_is_no_record(config: Config, record: Record) -> None:
    record.finish(SUMMARY)
    shutil.copytree(record.path, record.path.with_name(f".{record.path.name}.partial"))
    assert len(load_runs(config.paths.results)) == 1


def test_half_a_line_is_taken_back(record: Record) -> None:
    record.start_session({"precision": "fp32"})
    length = (record.path / "sessions.jsonl").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length + 5, before[1]))  # as a disk that is full after five more bytes
    try:
        with pytest.raises(OSError, match="too large"):
            record.start_session({"precision": "fp32"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert record.sessions() == [{"precision": "fp32"}]


def test_a_record_under_another_name_is_refused(config: Config, record: Record) -> None:
    record.finish(SUMMARY)
    shutil.copytree(record.path, record.path.with_name("plain-20-paper-s0-00000000"))
    with pytest.raises(RecordError, match="was changed under its record"):
        load_runs(config.paths.results)


def test_a_run_keeps_its_precision(record: Record) -> None:
    record.start_session({"precision": "fp32", "commit": "a"})
    record.start_session({"precision": "fp32", "commit": "b"})
    with pytest.raises(RecordError, match=r"begun with precision=fp32, not bf16; .*machine.precision=fp32"):
        record.start_session({"precision": "bf16"})
    assert [session["commit"] for session in record.sessions()] == ["a", "b"]


def test_tables_read_back(record: Record) -> None:
    record.write_table("responses.csv", [{"layer": 1, "name": "stem", "stage": 0, "std": 0.5, "gamma_rms": 1.0}])
    assert load_responses(record.path).to_dict("records") == [
        {"layer": 1, "name": "stem", "stage": 0, "std": 0.5, "gamma_rms": 1.0}
    ]
