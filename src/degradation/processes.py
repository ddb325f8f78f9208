"""A process for each piece of work of a sweep, forked from a server that has imported all and computed nothing.

On macOS, where what has been imported may not outlive a fork, each is started anew.
"""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from degradation.ending import SIGNALS, Stop

CONTEXT: Any = multiprocessing.get_context("spawn" if sys.platform == "darwin" else "forkserver")
CONTEXT.set_forkserver_preload(["__main__", "degradation.train.plan"])


def start(work: Callable[..., Any], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """A process that sends what a call gives, and from where: an EOFError there tells that it was killed.

    It has the environment of now, not that of the server.
    """
    receive, send = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_answer, args=(send, dict(os.environ), work, *arguments))
    resource_tracker.ensure_running()  # which would unblock them, were it started with the process
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # what is started leaves them to the sweep, until it asks
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    send.close()
    return process, receive


def ask(work: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives, in a process of its own; what it raises is raised here.

    Raises:
        MemoryError: the process was killed.
    """
    process, receive = start(_attempt, work, *arguments)
    try:
        answer = receive.recv()
    except EOFError:
        process.join()
        raise MemoryError(f"nothing was begun: the process that plans {describe_end(process.exitcode or 0)}") from None
    process.join()
    if isinstance(answer, Exception):
        raise answer
    return answer


def describe_end(status: int) -> str:
    """In words, how it ended, of a process that sent nothing."""
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return f"{how}{', as when memory runs out' if status == -signal.SIGKILL else ''}"


def _attempt(work: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return work(*arguments)
    except Exception as error:
        error.add_note(traceback.format_exc())  # which pickling would lose
        return error


def _answer(send: Connection, environment: dict[str, str], work: Callable[..., Any], *arguments: Any) -> None:
    os.environ.update(environment)
    answer = work(*arguments)
    with suppress(BrokenPipeError):  # the sweep itself was killed: nobody is to be told
        send.send(answer)


@contextmanager
def multi_process_service() -> Iterator[bool]:
    """NVIDIA's MPS for as long as it lasts, so that kernels of several processes run side by side on one GPU.

    Yields whether it serves: not where its daemon is missing, cannot start, or is not what torch then computes by (a
    client that finds none says nothing, and does without). One that the user started is left alone.
    """
    program = shutil.which("nvidia-cuda-mps-control")
    if program is None or "CUDA_MPS_PIPE_DIRECTORY" in os.environ:
        yield "CUDA_MPS_PIPE_DIRECTORY" in os.environ
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        ours = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        environment = {**os.environ, **ours}
        # The daemon would number anew those devices that it sees, and a client choose among these once more.
        everywhere = {key: value for key, value in environment.items() if key != "CUDA_VISIBLE_DEVICES"}

        def works(command: list[str], text: str = "", of: dict[str, str] = everywhere, answer: Any = None) -> bool:
            try:
                null = subprocess.DEVNULL  # no pipe: the daemon would keep it open
                options: dict[str, Any] = {"text": True, "timeout": 60, "stderr": null, "check": True}
                subprocess.run(command, env=of, input=text, stdout=answer or null, **options)
            except (OSError, subprocess.SubprocessError):
                return False
            return True

        def has_server() -> bool:
            with tempfile.TemporaryFile() as answer:
                asked = works([program], "get_server_list\n", answer=answer)
                answer.seek(0)
                return asked and any(word.isdigit() for word in answer.read().split())

        started = works([program, "-d"])
        computes = [sys.executable, "-c", "import torch; torch.zeros(1, device='cuda').sum().item()"]
        serves = started and works(computes, of=environment) and has_server()
        if serves:
            os.environ |= ours
        Stop.last = partial(works, [program], "quit -t 10\n") if started else None
        try:
            yield serves
        finally:
            Stop.last = None
            for name in ours if serves else ():
                os.environ.pop(name, None)
            if started:
                works([program], "quit -t 10\n")
