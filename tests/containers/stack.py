"""A compose file as a user runs it, under a project name, an image name and ports of its own.

Every command has a deadline. Nothing is left behind: leaving the context removes containers, volume, network
and image, and where this process is killed first, a small shell that waits for its end does the same.
"""

import json
import os
import random
import secrets
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parents[2]
COMPOSE_FILE: Final = ROOT / "docker-compose.yml"
CLUSTER_FILE: Final = ROOT / "docker-compose.cluster.yml"
# The brokers of each file, and the variables that say where they are published.
BROKERS: Final = {
    COMPOSE_FILE: {"kafka": "TANDEM_KAFKA_PORT"},
    CLUSTER_FILE: {
        "kafka-1": "TANDEM_KAFKA_PORT",
        "kafka-2": "TANDEM_KAFKA_PORT_2",
        "kafka-3": "TANDEM_KAFKA_PORT_3",
    },
}
# Below the ports that Linux hands out to connections by itself.
PORTS: Final = range(20_000, 32_000)
BUILD_SECONDS: Final = 600
UP_SECONDS: Final = 180
COMMAND_SECONDS: Final = 60
SHOWN_CHARACTERS: Final = 6_000
SHOWN_LOG_LINES: Final = 15
# Removes an image and a project (the image, then the compose command) unless a line comes first; twice,
# because a command of the process that died may still be at work.
GUARD: Final = """
read -r line && exit
image=$1; shift
for pause in 0 10; do
    sleep "$pause"
    "$@" --profile console down --volumes --timeout 0
    docker image rm --force "$image"
done
"""


class CommandError(AssertionError):
    """A command failed or was not done in time; the text ends with what it printed."""


def run(
    command: Sequence[str],
    timeout_seconds: float = COMMAND_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command and return its standard output.

    Raises:
        CommandError: it did not end with 0, or not in time.
    """
    shown = " ".join(command)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        # Here they are bytes, whatever was asked for.
        printed = ((error.stdout or b"") + (error.stderr or b""))[-SHOWN_CHARACTERS:].decode(errors="replace")
        raise CommandError(f"{shown}: not done in {timeout_seconds:g} s\n{printed}") from error
    if done.returncode:
        printed = f"{done.stdout}{done.stderr}"[-SHOWN_CHARACTERS:]
        raise CommandError(f"{shown}: exit code {done.returncode}\n{printed}")
    return done.stdout


def engine_answers() -> bool:
    """Whether a container engine can be reached, and compose with it."""
    try:
        run(["docker", "compose", "version"])
        return bool(run(["docker", "info", "--format", "{{.ServerVersion}}"]).strip())
    except (OSError, CommandError):
        return False


def services_without_settings(compose_file: Path = COMPOSE_FILE) -> dict[str, Any]:
    """Return the services as a compose file defines them where no variable is set."""
    command = [
        "docker",
        "compose",
        "--env-file",
        os.devnull,
        "--file",
        str(compose_file),
        "--profile",
        "console",
    ]
    found: dict[str, Any] = json.loads(
        run([*command, "config", "--format", "json"], environment=plain_environment())
    )
    services: dict[str, Any] = found["services"]
    return services


def plain_environment() -> dict[str, str]:
    """Return this process's environment without what compose and docker-compose.yml read of it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "TANDEM_"))}


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nothing listens on now."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports in {PORTS}")


class Stack:
    """One compose project.

    Args:
        folder: an empty one, for the `.env` file.
        settings: what stands in that file.
        compose_file: one of those in BROKERS.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, object], compose_file: Path = COMPOSE_FILE
    ) -> None:
        self.project = f"tandem-test-{secrets.token_hex(4)}"
        self.image = f"{self.project}:test"
        variables = BROKERS[compose_file]
        self.generator_port, *ports = free_ports(1 + len(variables))
        self.kafka_ports = dict(zip(variables, ports, strict=True))
        self.env_file = folder / ".env"
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self._environment = plain_environment() | {
            "TANDEM_IMAGE": self.image,
            "TANDEM_ENV_FILE": str(self.env_file),
            **{variables[broker]: str(port) for broker, port in self.kafka_ports.items()},
            "TANDEM_GENERATOR_PORT": str(self.generator_port),
        }
        # --env-file: what the checkout's own .env says about ports and names stays out.
        self._command = [
            *("docker", "compose", "--project-name", self.project, "--env-file", str(self.env_file)),
            *("--file", str(compose_file), "--project-directory", str(ROOT)),
        ]
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Kafka as this machine reaches it."""
        return ",".join(f"127.0.0.1:{port}" for port in self.kafka_ports.values())

    def __enter__(self) -> Self:
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, "guard", self.image, *self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.compose("--profile", "console", "down", "--volumes", "--remove-orphans", "--timeout", "0")
            if self.image_is_there():
                run(["docker", "image", "rm", "--force", self.image])
        finally:
            assert self._guard is not None
            # After a failure the guard finds its pipe closed and tries once more.
            self._guard.communicate(b"" if self.remains() else b"done\n", timeout=COMMAND_SECONDS)

    def remains(self) -> list[str]:
        """Return the ids and names of what is still there of this project: none after leaving the context."""
        mine = ["--filter", f"label=com.docker.compose.project={self.project}", "--quiet"]
        listings = [["ps", "--all"], ["volume", "ls"], ["network", "ls"]]
        return [name for listing in listings for name in run(["docker", *listing, *mine]).split()]

    def compose(self, *arguments: str, timeout_seconds: float = COMMAND_SECONDS) -> str:
        """Run `docker compose` and return what it printed to standard output.

        Raises:
            CommandError: it did not end with 0, or not in time; with the last log lines of all services.
        """
        try:
            return run([*self._command, *arguments], timeout_seconds, self._environment)
        except CommandError as error:
            told = self.last_log_lines("topics", "generator", "processor")
            raise CommandError(f"{error}\n{told}") from error

    def last_log_lines(self, *services: str, count: int = SHOWN_LOG_LINES) -> str:
        """Return the end of the logs of services, for a failure."""
        command = [*self._command, "logs", "--no-color", "--tail", str(count)]
        try:
            return run([*command, *services], environment=self._environment)
        except CommandError as error:
            return f"and no logs: {error}"

    def build(self) -> None:
        """Build the image."""
        self.compose("build", timeout_seconds=BUILD_SECONDS)

    def up(self, *, processors: int = 1) -> None:
        """Bring everything up, so many processors of it, and wait until it is healthy."""
        if self._is_up(processors):
            return
        self.compose(
            "up", "--detach", "--wait", "--scale", f"processor={processors}", timeout_seconds=UP_SECONDS
        )

    def _is_up(self, processors: int) -> bool:
        """Whether `up` would find nothing to do: it takes seconds to find that out."""
        listed = self.compose("ps", "--all", "--format", "{{.Service}} {{.State}} {{.Health}}").splitlines()
        wanted = [*self.kafka_ports, "generator", *["processor"] * processors]
        return sorted(listed) == sorted([*(f"{one} running healthy" for one in wanted), "topics exited "])

    def console(self, *arguments: str, timeout_seconds: float = COMMAND_SECONDS) -> list[dict[str, Any]]:
        """Run `tandem` in the console container and return the JSON objects that it printed, one a line."""
        printed = self.compose("run", "--rm", "-T", "console", *arguments, timeout_seconds=timeout_seconds)
        return [json.loads(line) for line in printed.splitlines()]

    def containers(self, service: str) -> list[dict[str, Any]]:
        """Return what the engine knows of a service's containers, those that have ended included."""
        ids = self.compose("ps", "--all", "--quiet", service).split()
        found: list[dict[str, Any]] = json.loads(run(["docker", "inspect", *ids])) if ids else []
        return sorted(found, key=lambda container: str(container["Name"]))

    def left_by_run(self) -> list[str]:
        """Return the ids of containers that `compose run` made and did not remove."""
        labels = (f"project={self.project}", "oneoff=True")
        filters = [part for label in labels for part in ("--filter", f"label=com.docker.compose.{label}")]
        return run(["docker", "ps", "--all", "--quiet", *filters]).split()

    def logs(self, service: str) -> list[dict[str, Any]]:
        """Return a service's log records, in the order of time within each container."""
        printed = self.compose("logs", "--no-color", "--no-log-prefix", service)
        return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]

    def image_is_there(self) -> bool:
        """Whether the image was built."""
        return bool(run(["docker", "image", "ls", "--quiet", self.image]).strip())
