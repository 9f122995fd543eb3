"""Services as real processes: start, wait, kill, pause, stop. Every wait has a deadline."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar

from tests.verifier.polling import poll

Found = TypeVar("Found")

ROOT: Final = Path(__file__).resolve().parents[2]
KEPT_VARIABLES: Final = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
SHOWN_LINES: Final = 50
REQUEST_TIMEOUT_SECONDS: Final = 5
HTTP_EVENT: Final = re.compile("http", re.IGNORECASE)


class ServiceError(AssertionError):
    """A service did not do what was waited for; the text ends with its last log lines."""


def environment(**variables: object) -> dict[str, str]:
    """Return an environment made from scratch: what any program needs, and these variables.

    Nothing else is taken over, so no `KAFKA_…` of the caller's reaches the service.
    """
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    fixed = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return kept | fixed | {name: str(value) for name, value in variables.items()}


class Service:
    """One process, from entering the context to leaving it; what still runs then is killed, by its pid.

    It runs in the folder of its log, so that no `.env` of the checkout reaches it.

    Args:
        what: a module to be run with this Python (`services.processor`), or a whole command.
        variables: its environment, all of it (see `environment`).
        log: the file that takes its stdout and stderr; appended to, so that a restart goes on in it.
    """

    def __init__(self, what: str | Sequence[str], variables: Mapping[str, str], log: Path) -> None:
        self.command = [sys.executable, "-m", what] if isinstance(what, str) else list(what)
        self.log = log
        self._variables = dict(variables)
        self._process: subprocess.Popen[bytes] | None = None
        self._begun_at_byte = 0
        self._port: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def start(self) -> None:
        """Start the process; after it has ended, start it again."""
        if self.is_running:
            self._fail("is already running")
        self._begun_at_byte = self.mark()
        self._port = None
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                env=self._variables,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def end(self) -> None:
        """Kill what still runs, and take its exit status."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        if self._process is not None:
            self._process.wait(REQUEST_TIMEOUT_SECONDS)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._started().pid

    @property
    def is_running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it with SIGKILL; raise ServiceError if it had ended before, for then nothing was tested."""
        self._signal(signal.SIGKILL)
        code = self.wait(REQUEST_TIMEOUT_SECONDS)
        if code != -signal.SIGKILL:
            self._fail(f"ended with {code} before it could be killed")

    def terminate(self, timeout_seconds: float = 30) -> int:
        """Ask it to stop with SIGTERM, wait for it, and return its exit code."""
        self._signal(signal.SIGTERM)
        return self.wait(timeout_seconds)

    def terminate_soon(self) -> None:
        """Ask it to stop with SIGTERM, and wait for nothing."""
        self._signal(signal.SIGTERM)

    def pause(self) -> None:
        """Freeze it with SIGSTOP; when this returns, it stands still."""
        self._signal(signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self._fail("ended before it could be frozen")

    def resume(self) -> None:
        """Let it go on with SIGCONT."""
        self._signal(signal.SIGCONT)

    def wait(self, timeout_seconds: float = 30) -> int:
        """Wait until it ends by itself, and return its exit code, negative for a signal."""
        try:
            return self._started().wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._fail(f"still runs after {timeout_seconds:g} s")

    def mark(self) -> int:
        """Return where the log ends now, for `wait_for_line(since=…)`."""
        return self.log.stat().st_size if self.log.exists() else 0

    def lines(self, since: int | None = None) -> list[str]:
        """Return the whole lines of the log from a mark on, without one those of this start."""
        if not self.log.exists():
            return []
        with self.log.open("rb") as file:
            file.seek(self._begun_at_byte if since is None else since)
            content = file.read().decode("utf-8", "replace")
        return content.split("\n")[:-1]

    def wait_for_line(self, pattern: str, timeout_seconds: float = 30, since: int | None = None) -> str:
        """Wait for a log line in which the regular expression is found, and return it."""
        wanted = re.compile(pattern)
        return self._await(
            lambda: next((line for line in self.lines(since) if wanted.search(line)), None),
            timeout_seconds,
            f"no line with {pattern!r}",
        )

    def port(self, timeout_seconds: float = 30) -> int:
        """Return the port of its HTTP server, as it logs it."""
        if self._port is None:
            self._port = self._await(
                lambda: next((port for line in self.lines() if (port := port_in(line))), None),
                timeout_seconds,
                "no line with the port of its HTTP server",
            )
        return self._port

    def get(self, path: str, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS) -> tuple[int, str]:
        """Return status and body of `GET path`; raise OSError where nobody answers."""
        address = f"http://127.0.0.1:{self.port()}{path}"
        try:
            with urllib.request.urlopen(address, timeout=timeout_seconds) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def stats(self) -> Any:
        """Return what `GET /stats` says."""
        return json.loads(self.get("/stats")[1])

    def wait_until_answers(self, path: str, status: int = 200, timeout_seconds: float = 30) -> str:
        """Wait until `GET path` has this status, and return the body."""
        last = "no answer"

        def look() -> str | None:
            nonlocal last
            try:
                found, body = self.get(path)
            except OSError as error:
                last = str(error)
                return None
            last = f"{found} {body}"
            return body if found == status else None

        return self._await(look, timeout_seconds, f"{path} is not {status}", lambda: last)

    def wait_until_ready(self, timeout_seconds: float = 30) -> None:
        """Wait until `GET /readyz` is 200."""
        self.wait_until_answers("/readyz", 200, timeout_seconds)

    def _await(
        self,
        look: Callable[[], Found | None],
        timeout_seconds: float,
        failure: str,
        detail: Callable[[], str] = str,
    ) -> Found:
        def look_while_running() -> Found | None:
            was_running = self.is_running
            found = look()
            if found is None and not was_running:
                self._fail(f"ended with {self._started().returncode}: {failure}")
            return found

        try:
            return poll(look_while_running, timeout_seconds, lambda: f"{failure} {detail()}")
        except TimeoutError as error:
            self._fail(str(error))

    def _signal(self, number: signal.Signals) -> None:
        if not self.is_running:
            self._fail(f"ended with {self._started().returncode} before {number.name}")
        self._started().send_signal(number)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._fail("was never started")
        return self._process

    def _fail(self, reason: str) -> NoReturn:
        tail = "\n".join(self.lines(since=0)[-SHOWN_LINES:])
        raise ServiceError(f"{' '.join(self.command)} {reason}\n{tail}")


def port_in(line: str) -> int | None:
    """Return the port that a JSON log line names for an HTTP server, None where it names none."""
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, dict) or not HTTP_EVENT.search(str(fields.get("event", ""))):
        return None
    port = fields.get("port")
    return port if isinstance(port, int) else None
