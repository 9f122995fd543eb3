"""The proxy does to connections what it says, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.ports import HOST
from tests.faults.proxy import Api, Cut, Network, Way, Weather
from tests.verifier.polling import poll

pytestmark = pytest.mark.timeout(60)
WAIT_SECONDS = 20.0


class Echo:
    """Answers each frame with its correlation id, and remembers which kinds of requests came."""

    def __init__(self) -> None:
        self.kinds: list[int] = []
        self._listening = socket.create_server((HOST, 0))
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(WAIT_SECONDS)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as stream:
            while size := stream.read(4):
                frame = stream.read(int.from_bytes(size))
                self.kinds.append(int.from_bytes(frame[:2]))
                connection.sendall(struct.pack(">i", len(frame) - 4) + frame[4:])


class Client:
    """Sends frames like Kafka's, one connection."""

    def __init__(self, network: Network) -> None:
        self.socket = socket.create_connection((HOST, network.ports[0]), timeout=WAIT_SECONDS)
        self.socket.settimeout(WAIT_SECONDS)
        self._sent = 0

    def send(self, api: Api, size: int = 0) -> None:
        self._sent += 1
        frame = struct.pack(">hhi", api.value, 0, self._sent) + bytes(size)
        self.socket.sendall(struct.pack(">i", len(frame)) + frame)

    def answer(self) -> int | None:
        """Return the correlation id of the next answer, None at the connection's end."""
        try:
            head = self.socket.recv(8, socket.MSG_WAITALL)
            left = int.from_bytes(head[:4]) - 4
            while left > 0:
                left -= len(self.socket.recv(left))
        except ConnectionResetError:
            return None
        return int.from_bytes(head[4:]) if head else None

    def asks(self, api: Api, size: int = 0) -> int | None:
        self.send(api, size)
        return self.answer()


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.close()


@pytest.fixture
def network(echo: Echo) -> Iterator[Network]:
    with Network(1) as running:
        running.lead_to([echo.port])
        yield running


@pytest.fixture
def client(network: Network) -> Iterator[Client]:
    made = Client(network)
    yield made
    made.socket.close()


def came(echo: Echo, *kinds: Api) -> None:
    wanted = [one.value for one in kinds]
    poll(lambda: True if echo.kinds == wanted else None, WAIT_SECONDS, lambda: f"{echo.kinds}")


def test_frames_pass_both_ways(client: Client, echo: Echo) -> None:
    assert [client.asks(Api.PRODUCE, size) for size in (0, 300_000, 10)] == [1, 2, 3]
    came(echo, Api.PRODUCE, Api.PRODUCE, Api.PRODUCE)


def test_a_cut_after_a_request_loses_its_answer_alone(network: Network, client: Client, echo: Echo) -> None:
    cut = network.cut(Cut(Api.END_TXN, arrives=True, skip=1))
    assert [client.asks(api) for api in (Api.END_TXN, Api.PRODUCE, Api.END_TXN)] == [1, 2, None]
    poll(lambda: cut.handled or None, WAIT_SECONDS, lambda: "was not handled")
    came(echo, Api.END_TXN, Api.PRODUCE, Api.END_TXN)


def test_a_cut_before_a_request_loses_it(network: Network, client: Client, echo: Echo) -> None:
    cut = network.cut(Cut(Api.END_TXN, arrives=False))
    assert [client.asks(Api.PRODUCE), client.asks(Api.END_TXN)] == [1, None]
    poll(lambda: None if network.live() else True, WAIT_SECONDS, lambda: "the connection stays")
    assert cut.done
    assert not cut.handled
    came(echo, Api.PRODUCE)


def test_a_late_request_arrives_after_its_connection_has_ended(
    network: Network, client: Client, echo: Echo
) -> None:
    cut = network.cut(Cut(Api.END_TXN, arrives=True, late_seconds=1.0))
    assert client.asks(Api.END_TXN) is None
    other = Client(network)
    assert other.asks(Api.PRODUCE) == 1
    other.socket.close()
    came(echo, Api.PRODUCE, Api.END_TXN)
    poll(lambda: cut.handled or None, WAIT_SECONDS, lambda: "was not handled")


@pytest.mark.parametrize("way", list(Way))
def test_one_way_is_lost_in_silence(network: Network, client: Client, echo: Echo, way: Way) -> None:
    assert client.asks(Api.PRODUCE) == 1
    assert network.drop(way, 1.0) == 1
    client.send(Api.END_TXN)
    poll(lambda: network.lost or None, WAIT_SECONDS, lambda: "nothing was lost")
    client.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.answer()
    came(echo, *([Api.PRODUCE] if way is Way.REQUESTS else [Api.PRODUCE, Api.END_TXN]))


@pytest.mark.parametrize("late", [True, False])
def test_in_the_dark_nothing_passes_and_then_it_comes_late_or_never(
    network: Network, client: Client, echo: Echo, *, late: bool
) -> None:
    assert client.asks(Api.PRODUCE) == 1
    network.darken([1])
    client.send(Api.END_TXN)
    poll(lambda: network.held or None, WAIT_SECONDS, lambda: "nothing was held back")
    came(echo, Api.PRODUCE)
    network.heal(late=late)
    assert client.answer() == (2 if late else None)
    came(echo, *([Api.PRODUCE, Api.END_TXN] if late else [Api.PRODUCE]))


def test_delay_and_drip_take_their_time(network: Network, client: Client) -> None:
    for weather in (Weather(delay_seconds=(0.1, 0.2)), Weather(bytes_per_second=25_000)):
        network.weather = weather
        began = time.monotonic()
        assert client.asks(Api.PRODUCE, 5_000) is not None
        assert time.monotonic() - began >= 0.2
    assert network.delayed == 2
    assert network.dripped > 0


def test_a_reset_breaks_the_connection(network: Network, client: Client) -> None:
    assert client.asks(Api.PRODUCE) == 1
    assert network.reset(1.0) == 1
    assert client.answer() is None


def test_no_thread_and_no_socket_is_left(echo: Echo) -> None:
    threads, files = set(threading.enumerate()), open_files()
    with Network(2) as network:
        network.lead_to([echo.port, echo.port])
        client = Client(network)
        assert client.asks(Api.PRODUCE) == 1
        assert len(open_files()) > len(files)
        network.darken([1])
        client.send(Api.END_TXN)
    client.socket.close()
    assert {one for one in threading.enumerate() if one.name == "network"} <= threads
    poll(lambda: True if len(open_files()) <= len(files) else None, WAIT_SECONDS, lambda: "files stay open")


def open_files() -> list[str]:
    return [one.name for one in Path("/proc/self/fd").iterdir()]
