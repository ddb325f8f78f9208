"""A script in a process forked from the server of a sweep's own: six seconds of imports are paid once for all tests."""

import os
import runpy
import signal
import sys
from pathlib import Path

from degradation import processes


class Forked:
    """`python script arguments`, as subprocess.Popen has it; its output goes to files in the folder it runs in."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]):
        number = len(list(folder.glob("*.stdout")))
        self.files = folder / f"{number}.stdout", folder / f"{number}.stderr"
        self.process = processes.CONTEXT.Process(target=_script, args=(command, folder, environment, self.files))
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> None:
        self.process.join()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.process.join(timeout)
        out, err = self.files
        return out.read_text(), err.read_text()


def heed_signals() -> None:
    """In a child, whatever the parent ignores: under nohup, and in the background of a script, these are."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _script(command: list[str], folder: Path, environment: dict[str, str], files: tuple[Path, Path]) -> None:
    for stream, path in zip((1, 2), files, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the server may have been started by a sweep, which blocks them
    heed_signals()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
