"""How what is started here ends that cannot go on: one sentence and a status, never a traceback."""

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

EXIT_FAILED, EXIT_STOPPED = 1, 130
RESUMES = ("train.py", "claims.py")  # the scripts that go on where they were stopped
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Whether this process was asked to stop: by a signal, by the sweep whose run it is, or by that sweep's death."""

    requested, since = False, 0.0
    last: Any = None  # what is called where the process ends at once, and would leave something running
    sweep: Any = None  # a number in memory that the sweep shares with its runs, not 0 when they are to stop

    @classmethod
    def listen(cls) -> None:
        """From here on signals are remembered, for who asks `now`; SIGHUP stays ignored under nohup."""
        _handle(cls.remember)

    @classmethod
    def remember(cls, *_: Any) -> None:
        # One request may come by two ways, to the process and to its group; who asks again later means: at once.
        if cls.requested and time.monotonic() - cls.since > 1:
            leave()
        if not cls.requested:
            cls.requested, cls.since = True, time.monotonic()

    @classmethod
    def now(cls) -> bool:
        parent = multiprocessing.parent_process()
        orphaned = parent is not None and not parent.is_alive()
        return cls.requested or orphaned or bool(cls.sweep is not None and cls.sweep.value)


class Parser(argparse.ArgumentParser):
    """Of a script's options: one line on stderr for whatever is wrong with them, and no usage before it."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _handle(handler: Any) -> None:
    for number in SIGNALS:
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def leave() -> None:
    """End this process at once; whoever started it tells so, unless it did itself."""
    if multiprocessing.parent_process() is None:
        resumes = Path(sys.argv[0]).name in RESUMES
        print(f"stopped; the same command {'continues' if resumes else 'starts again'}", file=sys.stderr)
    for child in multiprocessing.active_children():  # which may be loading or timing, and heed no signal
        child.kill()
    if Stop.last is not None:
        Stop.last()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_STOPPED)


def explain(error: BaseException) -> str:
    """An error that nobody foresaw, in one line, which says where its full trace was written."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
    try:
        with tempfile.NamedTemporaryFile("w", prefix="degradation-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
        where = f"the full trace is in {file.name}"
    except OSError as full:
        where = f"its trace could not be written: {full.strerror}"
    return f"{type(error).__name__}: {reason[:300]} ({where})"


def prepare_script() -> None:
    """From here on this process ends so, whatever interrupts it or goes wrong in it; what it must clean up, it does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        first = not Stop.requested
        Stop.remember()
        if first:
            raise KeyboardInterrupt

    def end(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        if Stop.requested or isinstance(error, KeyboardInterrupt):
            leave()
        print(f"error: {explain(error)}", file=sys.stderr)

    def end_unraisable(unraisable: Any) -> None:
        if Stop.requested:  # where an exception goes nowhere, such as in a callback from C
            leave()
        usual(unraisable)

    usual = sys.unraisablehook
    sys.excepthook, sys.unraisablehook = end, end_unraisable
    _handle(interrupt)
