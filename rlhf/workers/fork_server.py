"""The process that workers are forked from: it has imported what they need, for which each would take seconds.

Its standard input is a socket, over which the program asks for workers (`forked_worker`) and with whose end it ends. A
fork becomes the worker, and shares the libraries' memory with the others.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Final

from annotation.environment import keep_private
from rlhf.jobs.job_spec import kinds
from rlhf.workers import worker
from rlhf.workers.forked_worker import ENDED_WITH, FORKED, LONGEST

# A thread of pyarrow's allocator, which starts it again in a fork; no other thread would be there.
STARTED_AGAIN: Final = "jemalloc_bg_thd"


def main() -> int:
    """Serve; a fork comes out of it as a worker, which ends as others end."""
    connection = socket.socket(fileno=os.dup(0))
    keep_private()
    worker.prepare_process()
    return worker.begin(worker.build_parser().parse_args(serve(connection)))


def serve(connection: socket.socket) -> list[str]:
    """Import what workers need, and fork one for each request; returns a worker's arguments, in the forks alone."""
    woken, waking = socket.socketpair()
    waking.setblocking(False)
    signal.set_wakeup_fd(waking.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # systemd tells all; this one has the workers' ends to tell
    forked: dict[int, socket.socket] = {}
    to_import = [spec.runner() for spec in kinds().values()]
    while True:
        say_who_ended(forked)
        ready = select.select([connection, woken], [], [], 0 if to_import else None)[0]
        if woken in ready:
            woken.recv(LONGEST)
        elif connection in ready:
            asked, streams, _, _ = socket.recv_fds(connection, LONGEST, 3, socket.MSG_CMSG_CLOEXEC)
            if not asked:
                sys.exit()  # whoever could ask is gone
            request, (stdin, output, saying) = json.loads(asked), streams
            import_module(kinds()[request["kind"]].runner())
            require_forkable()
            gc.freeze()  # collecting garbage would copy the memory that forks share
            server, number = os.getpid(), os.fork()
            told = socket.socket(fileno=saying)
            if number == 0:
                become_worker(server, stdin, output, told, [connection, woken, waking, *forked.values()])
                arguments: list[str] = request["arguments"]
                return arguments
            forked[number] = told
            os.close(stdin)
            os.close(output)
        else:
            import_module(to_import.pop(0))


def say_who_ended(forked: dict[int, socket.socket]) -> None:
    """Tell whoever asked for the workers that have ended with which codes they did."""
    for number, told in [*forked.items()]:
        # Told before the number may be another process's.
        ended = os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            continue
        code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        with told, suppress(OSError):  # nobody may want to know any more
            told.send(f"{ENDED_WITH}{code}".encode(), socket.MSG_NOSIGNAL)
        os.waitpid(number, 0)
        del forked[number]


def require_forkable() -> None:
    """End this process where a fork would lack a thread that something counts on, or the use of a GPU."""
    import torch  # once the environment is prepared

    empty = os.fork()  # OpenBLAS ends its threads at a fork, and starts them again when they are needed
    if empty == 0:
        os._exit(0)
    os.waitpid(empty, 0)
    names = [path.read_text("utf-8").strip() for path in Path("/proc/self/task").glob("*/comm")]
    if sum(name != STARTED_AGAIN for name in names) > 1 or torch.cuda.is_available():
        sys.exit(1)


def become_worker(server: int, stdin: int, output: int, told: socket.socket, others: Sequence[socket.socket]) -> None:
    """In a fork: leave what is the server's, and take these streams. Whoever asked hears of its end by `told`."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for signalled in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(signalled, signal.SIG_DFL)
    for other in others:
        other.close()
    for number, stream in enumerate((stdin, output, output)):
        os.dup2(stream, number)
    os.close(stdin)
    os.close(output)
    told.send(f"{FORKED}{os.getpid()}".encode(), socket.MSG_NOSIGNAL)  # not the server, which may be killed first
    if os.getppid() != server:  # the program ends, and may not have heard of this one
        told.send(f"{ENDED_WITH}0".encode(), socket.MSG_NOSIGNAL)
        sys.exit()
    told.detach()  # open until this process has ended


if __name__ == "__main__":
    sys.exit(main())
