"""One Kafka node: a JVM, its files, and what can be done to it."""

import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from signal import SIGABRT, SIGBUS, SIGCONT, SIGSEGV, SIGTERM

from sandbox.errors import SandboxError
from sandbox.java import JavaRuntime
from sandbox.ports import accepts
from sandbox.process import GuardedProcess
from sandbox.properties import NodePorts, bootstrap_servers, render

START_SECONDS = 60.0
STOP_SECONDS = 20.0
FORMAT_SECONDS = 30.0
POLL_SECONDS = 0.01
LOG_TAIL_LINES = 25
LOG_LIMIT_BYTES = 32 * 1024 * 1024  # looked at before each start; the one before it is kept

STARTED = b"] Kafka Server started"
AOT_REFUSED = b"[error][aot]"
CRASHED = (128 + SIGABRT, 128 + SIGBUS, 128 + SIGSEGV)
PORT_TAKEN = b"Address already in use"


class PortTakenError(SandboxError):
    """Somebody else listens at one of the node's ports: choose others, or wait for it to go."""


class Broker:
    """One node, broker and controller in one JVM, that dies with this process.

    Made by Sandbox, which gives it its ports and settings; useful to tests as `sandbox.nodes[i]`.
    Files under `folder`: `node-ID/` (the data), `node-ID.properties`, `node-ID.log`, `node-ID.tmp/`.
    All methods block; none is for use from two threads at once.
    """

    def __init__(self, node_id: int, java: JavaRuntime, folder: Path, *, remove_folder: bool = False) -> None:
        """Take note of the files' places; nothing is written or started.

        With `remove_folder` the folder is removed if this process dies without stopping the node.
        """
        self.node_id = node_id
        self.java = java
        self.folder = folder
        self.data = folder / f"node-{node_id}"
        self.log_path = folder / f"node-{node_id}.log"
        self.ports: NodePorts | None = None
        self._remove_folder = folder if remove_folder else None
        self._settings_path = folder / f"node-{node_id}.properties"
        self._temporary = folder / f"node-{node_id}.tmp"
        self._process: GuardedProcess | None = None
        self._log_start_bytes = 0

    @property
    def bootstrap_servers(self) -> str:
        """This node's own address for clients, as `host:port`. Raises SandboxError before its first start."""
        if self.ports is None:
            raise SandboxError(f"node {self.node_id} has not been started yet")
        return bootstrap_servers([self.ports.client])

    @property
    def pid(self) -> int | None:
        """The JVM's process id, None when there is none."""
        return self._process.pid if self._process is not None and self._process.running else None

    @property
    def running(self) -> bool:
        """Whether the JVM is alive (paused counts)."""
        return self.pid is not None

    def configure(self, ports: NodePorts, settings: Mapping[str, str]) -> None:
        """Write the node's settings; they count from its next start."""
        self.ports = ports
        self._temporary.mkdir(parents=True, exist_ok=True)
        self._settings_path.write_text(render(settings), encoding="ascii")

    def format(self, cluster_id: str) -> None:
        """Make the data folder a node's; does nothing when it is one already (0.4 s else).

        Raises SandboxError when Kafka refuses.
        """
        if (self.data / "meta.properties").exists():
            return
        command = self.java.command(
            "kafka.tools.StorageTool",
            *("format", "--ignore-formatted", "-t", cluster_id, "-c", str(self._settings_path)),
            temporary=self._temporary,
        )
        self._spawn(command)
        assert self._process is not None
        finished = self._process.wait(FORMAT_SECONDS)
        code = self._process.exit_code
        self.kill()
        self._drop_bad_cache(crashed=code in CRASHED)
        if not finished:
            raise self._error(f"formatting took longer than {FORMAT_SECONDS:.0f} s")
        if code != 0:
            raise self._error(f"formatting failed with exit code {code}")

    def launch(self, *java_arguments: str) -> None:
        """Start the JVM and return at once; wait_until_ready() is the other half."""
        if self.running:
            raise SandboxError(f"node {self.node_id} runs already")
        self._spawn(
            self.java.command(
                "kafka.Kafka", str(self._settings_path), temporary=self._temporary, extra=java_arguments
            )
        )

    def _spawn(self, command: list[str]) -> None:
        self._log_start_bytes = self.log_path.stat().st_size if self.log_path.exists() else 0
        if self._log_start_bytes > LOG_LIMIT_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
            self._log_start_bytes = 0
        self._process = GuardedProcess(
            command, log=self.log_path, folder=self.folder, remove_folder=self._remove_folder
        )

    def wait_until_ready(self, seconds: float = START_SECONDS) -> None:
        """Block until the node says that it has started and accepts connections.

        Raises PortTakenError or SandboxError, with the end of the log in the message, when the JVM
        ends or the time is over; the JVM is gone then.
        """
        assert self.ports is not None
        deadline = time.monotonic() + seconds
        while not (STARTED in self._log() and accepts(self.ports.client)):
            if not self.running:
                code = self._process.exit_code if self._process else None
                self.kill()
                self._drop_bad_cache(crashed=code in CRASHED)
                taken = PORT_TAKEN in self._log()
                raise self._error(f"ended with exit code {code} while starting", port_taken=taken)
            if time.monotonic() > deadline:
                self.kill()
                raise self._error(f"not ready after {seconds:.0f} s")
            time.sleep(POLL_SECONDS)
        self._drop_bad_cache(crashed=False)

    def _drop_bad_cache(self, *, crashed: bool) -> None:
        """Remove an AOT cache that Java refused (it starts without) or died of; the next start makes one."""
        if self.java.aot_cache is not None and (crashed or AOT_REFUSED in self._log()):
            self.java.aot_cache.unlink(missing_ok=True)
            self.java = replace(self.java, aot_cache=None)

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start the node on its port and data, and block until it is ready.

        While its port is taken (another program was quicker while the node was down) it tries
        again. Raises SandboxError when it is not ready after so many seconds.
        """
        deadline = time.monotonic() + seconds
        while True:
            self.launch()
            try:
                self.wait_until_ready(max(deadline - time.monotonic(), 1.0))
            except PortTakenError:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def stop(self, *, graceful: bool = True) -> None:
        """End the JVM: SIGTERM and STOP_SECONDS of grace, then, or else at once, SIGKILL.

        Does nothing when it is not running. The data stays. A paused node is resumed to end.
        """
        if self._process is not None and graceful:
            self.terminate()
            self._process.wait(STOP_SECONDS)
        self.kill()

    def terminate(self) -> None:
        """Ask the JVM to end and return at once; stop() waits for it."""
        if self._process is not None:
            self._process.signal(SIGTERM)
            self._process.signal(SIGCONT)

    def kill(self) -> None:
        """SIGKILL to the JVM, and wait for the end of it. Does nothing when it is not running."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def check(self) -> None:
        """Raise SandboxError, with the end of the log, when the JVM was started and has ended by itself."""
        if self._process is not None and not self._process.running:
            raise self._error(f"ended by itself with exit code {self._process.exit_code}")

    def restart(self, *, graceful: bool = True, seconds: float = START_SECONDS) -> None:
        """Stop the node and start it on the same port and data. Raises SandboxError as start() does."""
        self.stop(graceful=graceful)
        self.start(seconds)

    def pause(self) -> None:
        """SIGSTOP: the node keeps its connections, and answers nothing from when this returns.

        Raises SandboxError if it's down.
        """
        self._running_process().freeze()

    def resume(self) -> None:
        """SIGCONT: the end of a pause. Raises SandboxError when the node is down."""
        self._running_process().signal(SIGCONT)

    def _running_process(self) -> GuardedProcess:
        if self._process is None or not self._process.running:
            raise SandboxError(f"node {self.node_id} is not running")
        return self._process

    def train(self, cache: Path, seconds: float = START_SECONDS) -> None:
        """Run the formatted node once from start to stop and leave the JVM's AOT cache in the file.

        Raises SandboxError when no cache comes of it.
        """
        self.launch(f"-XX:AOTCacheOutput={cache}")
        self.wait_until_ready(seconds)
        assert self._process is not None
        self._process.signal(SIGTERM)
        self._process.wait(seconds)
        self.kill()
        if not cache.exists():
            raise self._error("Java made no AOT cache")

    def _log(self) -> bytes:
        """What the log has since the last start."""
        with self.log_path.open("rb") as file:
            file.seek(self._log_start_bytes)
            return file.read()

    def _error(self, what: str, *, port_taken: bool = False) -> SandboxError:
        tail = self._log().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        message = "\n".join([f"Kafka node {self.node_id}: {what}; its log ends:", *(f"  {x}" for x in tail)])
        return PortTakenError(message) if port_taken else SandboxError(message)


def new_cluster_id() -> str:
    """A random id in the form that Kafka wants: 16 bytes, base64 for URLs, no padding."""
    while (text := urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")).startswith("-"):
        pass  # the command line would read it as an option
    return text
