"""`python -m sandbox`: a Kafka for as long as the command runs."""

import argparse
import json
import os
import select
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from sandbox.cluster import Sandbox
from sandbox.errors import SandboxError
from sandbox.java import HEAP_MEBIBYTES

POLL_SECONDS = 0.5


class StopRequested(Exception):  # noqa: N818 - a request, not an error
    """SIGINT or SIGTERM came."""


def request_stop(_number: int, _frame: FrameType | None) -> None:
    """Signal handler: unwinds whatever the main thread does, a start included."""
    raise StopRequested


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m sandbox",
        description="Apache Kafka on 127.0.0.1 without Docker, until Ctrl-C, SIGTERM or its parent's end.",
    )
    parser.add_argument("--nodes", type=int, default=1, choices=(1, 3), help="how many nodes (default 1)")
    parser.add_argument("--port", type=int, help="where clients connect (default: a free port)")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="keep the data here (default: it goes at the end)"
    )
    parser.add_argument(
        "--full-jit", action="store_true", help="full optimisation, for benchmarks; slower start"
    )
    parser.add_argument(
        "--heap",
        type=int,
        default=HEAP_MEBIBYTES,
        metavar="MIB",
        help="each JVM's heap (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line on standard output")
    options = parser.parse_args(arguments)
    if options.port is not None and not 1 <= options.port <= 65535 - options.nodes:
        parser.error(f"--port {options.port}: not a port")
    return options


def announce(sandbox: Sandbox, *, as_json: bool) -> None:
    """Say where Kafka listens: one line on standard output, flushed."""
    if as_json:
        line = json.dumps(
            {
                "bootstrap_servers": sandbox.bootstrap_servers,
                "pid": sandbox.pids[0],
                "pids": sandbox.pids,
                "log": str(sandbox.log_path),
                "data": str(sandbox.data),
            }
        )
    else:
        line = f"Kafka listens on {sandbox.bootstrap_servers} (log: {sandbox.log_path}); Ctrl-C ends it"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def wait_for_the_end(sandbox: Sandbox, parent_pid: int) -> None:
    """Block until the parent is gone, or standard input ends where it is a pipe.

    Raises SandboxError when a node ends by itself.
    """
    watched = [0] if sys.stdin is not None and is_pipe(0) else []
    while os.getppid() == parent_pid:
        readable, _, _ = select.select(watched, [], [], POLL_SECONDS)
        if readable and not os.read(0, 4096):
            return
        for node in sandbox.nodes:
            node.check()


def is_pipe(descriptor: int) -> bool:
    """Whether somebody holds the other end of this file descriptor."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code: 0, or 1 when Kafka cannot be had or ended by itself."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    parent_pid = os.getppid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request_stop)
    try:
        with Sandbox(
            nodes=options.nodes,
            port=options.port,
            data=options.data,
            full_jit=options.full_jit,
            heap_mebibytes=options.heap,
        ) as sandbox:
            announce(sandbox, as_json=options.json)
            wait_for_the_end(sandbox, parent_pid)
    except StopRequested:
        return 0
    except BrokenPipeError:  # who asked for the address has gone
        return 1
    except SandboxError as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
