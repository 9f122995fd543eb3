"""A Kafka cluster for the length of a block, a test run or a terminal session."""

import fcntl
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from sandbox.broker import START_SECONDS, Broker, PortTakenError, new_cluster_id
from sandbox.errors import SandboxError
from sandbox.java import HEAP_MEBIBYTES, JavaRuntime, java_runtime, with_aot_cache
from sandbox.ports import HOST, free_ports, is_free
from sandbox.properties import NodePorts, bootstrap_servers, node_properties

PORT_TRIES = 5
CLUSTER_ID_FILE = "cluster.id"
LOCK_FILE = "sandbox.lock"


def say_on_stderr(line: str) -> None:
    """Where progress goes unless the caller has a better place."""
    sys.stderr.write(f"sandbox: {line}\n")
    sys.stderr.flush()


class Sandbox:
    """Apache Kafka in KRaft mode on 127.0.0.1, one JVM a node.

    Nothing of it outlives this process, whichever way this process ends. All methods block (from a
    coroutine: `asyncio.to_thread`); none is for use from two threads at once.

    `nodes`: how many. `port`: of the first node's clients, the others' follow it; free ones are
    found without. `data`: a folder that is kept, and used again if it holds a cluster; without, a
    temporary one that goes at close(). `properties`: settings of Kafka that win over the sandbox's.
    `security_protocol`: of the listener for clients; unless it is PLAINTEXT there is a second
    listener, `internal_servers`, that asks for nothing. `more_listeners`: security protocols by the
    name of a further listener for clients; `servers_of` has its addresses. `advertised`: the ports
    that clients of a listener are told in place of those the nodes listen on, node by node: those of
    proxies. `full_jit`: for benchmarks. `say`: gets lines of progress (fetching, the first time).
    """

    def __init__(
        self,
        *,
        nodes: int = 1,
        port: int | None = None,
        data: Path | None = None,
        properties: Mapping[str, str] | None = None,
        security_protocol: str = "PLAINTEXT",
        more_listeners: Mapping[str, str] | None = None,
        advertised: Mapping[str, Sequence[int]] | None = None,
        full_jit: bool = False,
        heap_mebibytes: int = HEAP_MEBIBYTES,
        say: Callable[[str], None] = say_on_stderr,
    ) -> None:
        """Take note of what is wanted; nothing is written, fetched or started."""
        if nodes < 1:
            raise SandboxError("a cluster has at least one node")
        self.nodes: list[Broker] = []
        self._node_ids = range(1, nodes + 1)
        self._port = port
        self._kept = data.absolute() if data is not None else None
        self._properties = dict(properties or {})
        self._security_protocol = security_protocol
        self._more_listeners = dict(more_listeners or {})
        self._advertised = dict(advertised or {})
        self._full_jit = full_jit
        self._heap_mebibytes = heap_mebibytes
        self._say = say
        self._folder_lock: TextIO | None = None
        self._removal: weakref.finalize[..., Sandbox] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """The clients' address list, `127.0.0.1:PORT` of each node. Raises SandboxError before start()."""
        return ",".join(node.bootstrap_servers for node in self._started_nodes())

    @property
    def internal_servers(self) -> str:
        """An address list without security, for administrators. Raises SandboxError before start()."""
        ports = [node.ports for node in self._started_nodes()]
        return bootstrap_servers([at.internal or at.client for at in ports if at is not None])

    def servers_of(self, listener: str) -> str:
        """The address list of one of `more_listeners`. Raises SandboxError before start()."""
        ports = [node.ports for node in self._started_nodes()]
        return bootstrap_servers([at.more[listener] for at in ports if at is not None])

    @property
    def pids(self) -> list[int]:
        """The process ids of the JVMs that are alive."""
        return [pid for node in self.nodes if (pid := node.pid) is not None]

    @property
    def log_path(self) -> Path:
        """The first node's log; `nodes[i].log_path` for the others. Raises SandboxError before start()."""
        return self._started_nodes()[0].log_path

    @property
    def data(self) -> Path:
        """The folder with everything in it. Raises SandboxError before start()."""
        return self._started_nodes()[0].folder

    def _started_nodes(self) -> list[Broker]:
        if not self.nodes:
            raise SandboxError("the sandbox has not been started")
        return self.nodes

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start what is not running and block until every node is ready.

        The first call chooses ports and formats the data; later ones (after stop() or kill()) use
        the same again. At the first use on a machine Kafka is fetched and a training run made, which
        is not counted in `seconds`. Raises SandboxError, and leaves nothing running, when a node is
        not ready in time.
        """
        if self.nodes:
            self._bring_up(seconds)
            return
        java = java_runtime(full_jit=self._full_jit, heap_mebibytes=self._heap_mebibytes, say=self._say)
        java = with_aot_cache(java, train, self._say)
        folder = self._make_folder()
        nodes = [Broker(i, java, folder, remove_folder=self._kept is None) for i in self._node_ids]
        try:
            self._first_start(nodes, seconds)
        except OSError as error:
            self.close()
            raise SandboxError(f"cannot write to {folder}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def _first_start(self, nodes: list[Broker], seconds: float) -> None:
        """Choose ports and start, with other ports when somebody was quicker to take one."""
        cluster_id = read_or_make_cluster_id(nodes[0].folder)
        for left in reversed(range(PORT_TRIES)):
            cluster = self._choose_ports()
            for node in nodes:
                node.configure(
                    cluster[node.node_id],
                    node_properties(
                        node.node_id,
                        cluster,
                        node.data,
                        security_protocol=self._security_protocol,
                        more_listeners=self._more_listeners,
                        advertised={name: at[node.node_id - 1] for name, at in self._advertised.items()},
                        overrides=self._properties,
                    ),
                )
            self.nodes = nodes
            for node in nodes:
                node.format(cluster_id)
            try:
                self._launch_and_wait(seconds)
            except PortTakenError:
                self.kill()
                if not left:
                    raise
            else:
                return

    def _bring_up(self, seconds: float) -> None:
        """Start what is down on the ports it had; waits while another program holds one of them."""
        deadline = time.monotonic() + seconds
        try:
            while True:
                try:
                    self._launch_and_wait(max(deadline - time.monotonic(), 1.0))
                except PortTakenError:
                    if time.monotonic() > deadline:
                        raise
                else:
                    return
        except BaseException:
            self.kill()
            raise

    def _launch_and_wait(self, seconds: float) -> None:
        """All at once: no node of a quorum becomes ready alone."""
        deadline = time.monotonic() + seconds
        down = [node for node in self.nodes if not node.running]
        for node in down:
            node.launch()
        for node in down:
            node.wait_until_ready(max(deadline - time.monotonic(), 1.0))

    def _choose_ports(self) -> dict[int, NodePorts]:
        count = len(self._node_ids)
        client = list(range(self._port, self._port + count)) if self._port is not None else free_ports(count)
        for port in client:
            if not is_free(port):
                raise SandboxError(f"port {port} on {HOST} is taken")
        rest = iter(free_ports((2 + len(self._more_listeners)) * count, frozenset(client)))
        secured = self._security_protocol != "PLAINTEXT"
        return {
            node_id: NodePorts(
                client[i],
                controller=next(rest),
                internal=next(rest) if secured else None,
                more={name: next(rest) for name in self._more_listeners},
            )
            for i, node_id in enumerate(self._node_ids)
        }

    def _make_folder(self) -> Path:
        try:
            if self._kept is None:
                folder = Path(tempfile.mkdtemp(prefix="tandem-sandbox-"))
                self._removal = weakref.finalize(self, shutil.rmtree, str(folder), ignore_errors=True)
                return folder
            self._kept.mkdir(parents=True, exist_ok=True)
            self._folder_lock = (self._kept / LOCK_FILE).open("w", encoding="ascii")
            fcntl.flock(self._folder_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise SandboxError(f"another sandbox uses {self._kept}") from error
        except OSError as error:
            self.close()
            raise SandboxError(f"no place for the data: {error}") from error
        return self._kept

    def stop(self, *, graceful: bool = True) -> None:
        """End every JVM: with SIGTERM and, where the grace period is over, SIGKILL. The data stays.

        start() goes on from there. Does nothing when nothing runs.
        """
        if graceful:
            for node in self.nodes:
                node.terminate()
        for node in self.nodes:
            node.stop(graceful=graceful)

    def kill(self) -> None:
        """SIGKILL to every JVM, and wait for the end of them. The data stays; start() goes on from it."""
        for node in self.nodes:
            node.kill()

    def restart(self, *, graceful: bool = True, seconds: float = START_SECONDS) -> None:
        """Stop, and start again on the same ports and data. Raises SandboxError as start() does."""
        self.stop(graceful=graceful)
        self.start(seconds)

    def pause(self) -> None:
        """SIGSTOP to every JVM: connections stay, nothing answers. Raises SandboxError if one is down."""
        for node in self._started_nodes():
            node.pause()

    def resume(self) -> None:
        """SIGCONT to every JVM: the end of a pause. Raises SandboxError if one is down."""
        for node in self._started_nodes():
            node.resume()

    def close(self) -> None:
        """End everything: gracefully where the data is kept; else at once, and the data goes too."""
        try:
            self.stop(graceful=self._kept is not None)
        finally:
            self.kill()
            self.nodes = []
            if self._removal is not None:
                self._removal()
            if self._folder_lock is not None:
                self._folder_lock.close()
                self._folder_lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def train(java: JavaRuntime, cache: Path) -> None:
    """Run a throw-away node beside `cache` that leaves the AOT cache there. Raises SandboxError."""
    broker = Broker(1, java, cache.parent, remove_folder=True)
    for left in reversed(range(PORT_TRIES)):
        client, controller = free_ports(2)
        cluster = {1: NodePorts(client, controller)}
        broker.configure(cluster[1], node_properties(1, cluster, broker.data))
        try:
            broker.format(new_cluster_id())
            broker.train(cache)
        except PortTakenError:
            if not left:
                raise
        else:
            return
        finally:
            broker.kill()


def read_or_make_cluster_id(folder: Path) -> str:
    """The id that the folder's nodes share; a new one where there is none yet."""
    path = folder / CLUSTER_ID_FILE
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        path.write_text(cluster_id := new_cluster_id(), encoding="ascii")
        return cluster_id
