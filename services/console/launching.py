"""Starts what belongs to this project as processes: the services, and the sandbox where there is one.

The console imports neither. It finds them beside itself: in a checkout all of them, in an image or an
installed package the services alone.
"""

from __future__ import annotations

import asyncio
import importlib.machinery
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

import services
from services.console.children import Child
from shared.errors import BadConfigurationError, TandemError
from shared.service import BAD_CONFIGURATION, STOPPED_AS_ASKED
from shared.settings import Origin

ROOT = Path(services.__file__).resolve().parent.parent
_CONFIG_SECONDS = 30.0
_STOP_SECONDS = 15.0
_READY_SECONDS = 2.0


class Sandbox:
    """`python -m sandbox`, a real Kafka on this machine.

    Args:
        nodes: how many brokers.
        port: of the first one; None: a free one.
        say: gets lines of progress; the first use on a machine takes a while.
    """

    def __init__(self, *, nodes: int = 1, port: int | None = None, say: Callable[[str], None]) -> None:
        self.bootstrap_servers = ""
        self._say = say
        self._last_said: list[str] = []
        self._telling: asyncio.Task[None] | None = None
        arguments = ["-m", "sandbox", "--json", "--nodes", str(nodes)]
        arguments += ["--port", str(port)] if port is not None else []
        # It ends by itself when its standard input does; SIGTERM on top lets it clean up even earlier.
        self._child = Child("sandbox", arguments, environment_of({}), at_our_death=signal.SIGTERM)

    async def start(self) -> None:
        """Start it and wait until clients can connect. Takes as long as the first-time steps take.

        Raises:
            BadConfigurationError: there is no sandbox in this installation.
            TandemError: it ended instead.
        """
        require_sandbox()
        await self._child.start()
        self._telling = asyncio.create_task(self._tell())
        assert self._child.process.stdout is not None, "it is a pipe"
        line = await self._child.process.stdout.readline()
        if not line:
            await self.wait()
            raise TandemError(
                "the sandbox did not start: " + " / ".join(self._last_said or ["it said nothing"])
            )
        self.bootstrap_servers = str(msgspec.json.decode(line)["bootstrap_servers"])

    async def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        code = await self._child.wait()
        if self._telling is not None:
            await self._telling
        return code

    async def stop(self) -> None:
        """End it."""
        if await self._child.stop(_STOP_SECONDS) is not None and self._telling is not None:
            await self._telling

    @property
    def last_said(self) -> str:
        """Its last words."""
        return self._last_said[-1] if self._last_said else "it said nothing"

    async def _tell(self) -> None:
        """Pass on what it says of its progress, until it ends."""
        assert self._child.process.stderr is not None, "it is a pipe"
        async for line in self._child.process.stderr:
            text = line.decode(errors="replace").rstrip().removeprefix("sandbox: ")
            self._last_said = [*self._last_said, text][-10:]
            self._say(text)


def require_sandbox() -> None:
    """Make sure that there is a sandbox to be started.

    Raises:
        BadConfigurationError: there is none.
    """
    require_part("sandbox", "run this in a checkout, or set KAFKA_BOOTSTRAP_SERVERS to a Kafka that is there")


def require_part(package: str, ways_out: str) -> None:
    """Make sure that a part of the project that only a checkout has is there.

    Raises:
        BadConfigurationError: it is not.
    """
    if importlib.machinery.PathFinder.find_spec(package, [str(ROOT)]) is None:
        raise BadConfigurationError([f"the {package} is not part of this installation: {ways_out}"])


def environment_of(variables: Mapping[str, str]) -> dict[str, str]:
    """Return our environment with `variables` set, for a process that finds what we find."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **variables}


async def print_config(name: str, variables: Mapping[str, str] | None = None) -> list[Origin]:
    """Return the settings in force of a service, as it prints them.

    Args:
        name: of the service.
        variables: environment variables to be set on top of ours.

    Raises:
        BadConfigurationError: they are wrong, in the service's words.
        TandemError: the service can't be asked.
    """
    code, lines, errors = await _ask_for_config(name, variables or {})
    if code == STOPPED_AS_ASKED:
        return [msgspec.json.decode(line, type=Origin) for line in lines]
    reason = last_words(lines) or (errors[-1] if errors else "it said nothing")
    if code == BAD_CONFIGURATION:
        problems = reason.splitlines()
        raise BadConfigurationError([line.strip() for line in problems[1:] or problems])
    raise TandemError(f"the {name} does not start: {reason}")


async def _ask_for_config(name: str, variables: Mapping[str, str]) -> tuple[int | None, list[str], list[str]]:
    """Return exit code, output and error output, by lines."""
    child = Child(name, ["-m", f"services.{name}", "--print-config"], environment_of(variables))
    await child.start()
    try:
        async with asyncio.timeout(_CONFIG_SECONDS):
            output, errors = await child.process.communicate()
    except TimeoutError as error:
        raise TandemError(f"the {name} did not print its settings in {_CONFIG_SECONDS:g} s") from error
    finally:
        await child.stop(_STOP_SECONDS)
    return (
        child.exit_code,
        output.decode(errors="replace").splitlines(),
        errors.decode(errors="replace").splitlines(),
    )


async def is_ready(child: Child) -> bool:
    """Ask a service that we started whether it is ready, as whoever supervises it would.

    It listens on a port of its own choice on this machine, and names it in its log.
    """
    port = _port_in(child.first_lines())
    if port is None:
        return False
    try:
        async with asyncio.timeout(_READY_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
                status = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False  # Not yet; whoever asks asks again, within a bound.
    return b" 200 " in status


def _port_in(lines: Iterable[str]) -> int | None:
    for line in lines:
        try:
            event = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue  # Half a line: it is being written.
        if isinstance(event, dict) and event.get("event") == "http_listening":
            return int(event["port"])
    return None


def last_words(lines: list[str]) -> str:
    """Return the reason that a service gave in the last line of its log, else what that line is about.

    A line that is no log line, such as the end of a traceback, is returned as it is; without any, "".
    """
    if not lines:
        return ""
    try:
        event = msgspec.json.decode(lines[-1])
    except msgspec.DecodeError:
        return lines[-1]
    if not isinstance(event, dict):
        return lines[-1]
    return str(event.get("reason") or f"its last log line is about {event.get('event')}")
