"""A process that ends with this one, however this one ends."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sandbox.errors import SandboxError

GUARD = Path(__file__).with_name("guard.py")
SPAWN_SECONDS = 20.0
KILL_SECONDS = 20.0
FREEZE_SECONDS = 20.0
# Stopped, or ended.
STILL = "TtZX"

# What would change the JVM behind our back, or make it write to its output.
FOREIGN_VARIABLES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH")


class GuardedProcess:
    """One command under sandbox/guard.py, which kills it when this process is gone.

    `log` gets its standard output and error, appended. `folder` is where it runs; with
    `remove_folder` naming a folder, that one is removed if this process dies without ending the
    command. Not for use from two threads at once. Blocks for the time of a fork and exec.

    Raises SandboxError when the guard cannot start the command.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, folder: Path, remove_folder: Path | None = None
    ) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
        guard = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), str(remove_folder or "")]
        with log.open("ab") as output:
            self._guard = subprocess.Popen(  # noqa: S603 - our own command, no shell
                [*guard, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=folder,
                env=environment,
                start_new_session=True,
                bufsize=0,
            )
        try:
            self.pid = self._read_pid()
        except BaseException:
            self._release()
            raise

    def _read_pid(self) -> int:
        output = self._guard.stdout
        assert output is not None
        line = b""
        deadline = time.monotonic() + SPAWN_SECONDS
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            ready, _, _ = select.select([output], [], [], max(left, 0.0))
            if not ready:
                raise SandboxError(f"no process after {SPAWN_SECONDS:.0f} s")
            data = output.read(64)
            if not data:
                raise SandboxError("the guard process ended at once")
            line += data
        return int(line)

    def _release(self) -> None:
        """Close the pipe, which makes the guard kill the command, and wait for the guard."""
        for pipe in (self._guard.stdin, self._guard.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # closing is all that is left to do with it
                pipe.close()
        try:
            self._guard.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait(KILL_SECONDS)

    @property
    def running(self) -> bool:
        """Whether the command still runs (stopped by SIGSTOP counts as running)."""
        return self._guard.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The command's exit code, 128 + signal if a signal ended it, None while it runs."""
        return self._guard.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command; does nothing when it has ended."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):  # it ended just now: nothing to signal
                os.kill(self.pid, number)

    def freeze(self) -> None:
        """SIGSTOP, and block until every thread stands still: until then others may still answer.

        Where there is no /proc it returns at once. Raises SandboxError after FREEZE_SECONDS.
        """
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + FREEZE_SECONDS
        while self.running and any(state not in STILL for state in _thread_states(self.pid)):
            if time.monotonic() > deadline:
                raise SandboxError(f"process {self.pid} does not stand still after {FREEZE_SECONDS:.0f} s")
            time.sleep(0.001)

    def wait(self, seconds: float) -> bool:
        """Block until the command has ended, at most so many seconds. Returns whether it has."""
        try:
            code = self._guard.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        if code < 0:  # something killed the guard: outside Linux the command outlives that
            self._kill_group()
        self._release()
        return True

    def kill(self) -> None:
        """SIGKILL to the command and all it started, and wait for the end of it."""
        if self.running:
            self._kill_group()
            if self.wait(KILL_SECONDS):
                return
        self._release()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # gone; macOS: gone, not reaped
            os.killpg(self.pid, signal.SIGKILL)


def _thread_states(pid: int) -> list[str]:
    """Return the letter of each thread's state.

    What stands in the file: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
    """
    states = []
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            # Behind the name, which is in parentheses and may have some of its own.
            states.append(stat.read_text().rpartition(")")[2].split()[0])
    return states
