"""How a script ends that fails where nobody foresaw it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from degradation.ending import EXIT_FAILED, EXIT_STOPPED, explain


@pytest.mark.parametrize("writable", [True, False])
def test_an_error_that_nobody_foresaw_is_one_line_and_a_file(tmp_path: Path, writable: bool) -> None:
    folder = tmp_path if writable else tmp_path / "none"
    code = "import degradation.script; {}['lost']"
    environment = {**os.environ, "TMPDIR": str(folder)}
    if not writable:  # nor any other place that tempfile knows
        code = "import degradation.script, tempfile; tempfile.tempdir = '/nowhere'; {}['lost']"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (EXIT_FAILED, "", 1)
    assert done.stderr.startswith("error: KeyError: 'lost' (")
    traces = list(tmp_path.glob("degradation-*.txt"))
    if writable:
        assert f"the full trace is in {traces[0]}" in done.stderr
        assert "Traceback" in traces[0].read_text()
    else:
        assert "its trace could not be written: No such file or directory" in done.stderr
        assert not traces


def test_a_reason_is_one_line(tmp_path: Path) -> None:
    told = explain(RuntimeError("\nfirst\nsecond"))
    assert told.startswith("RuntimeError: first (the full trace is in ")
    Path(told.rpartition(" ")[2].rstrip(")")).unlink()


def test_a_script_that_keeps_nothing_starts_again() -> None:
    code = "import degradation.script, signal; signal.raise_signal(signal.SIGTERM)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (EXIT_STOPPED, "stopped; the same command starts again\n")
