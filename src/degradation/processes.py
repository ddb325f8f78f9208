"""A process for each piece of work of a sweep, forked from a server that has imported all and computed nothing."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from degradation.ending import SIGNALS

CONTEXT = multiprocessing.get_context("forkserver")


def start(work: Callable[..., Any], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """A process that sends what a call gives, and from where: an EOFError there tells that it was killed.

    It has the environment of now, not that of the server.
    """
    CONTEXT.set_forkserver_preload(["__main__", "degradation.sweep"])
    receive, send = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_answer, args=(send, dict(os.environ), work, *arguments))
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # what is started leaves them to the sweep, until it asks
    process.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    send.close()
    return process, receive


def _answer(send: Connection, environment: dict[str, str], work: Callable[..., Any], *arguments: Any) -> None:
    os.environ.update(environment)
    answer = work(*arguments)
    with suppress(BrokenPipeError):  # the sweep itself was killed: nobody is to be told
        send.send(answer)
