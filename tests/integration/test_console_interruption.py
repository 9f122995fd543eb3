"""Ctrl-C while a command waits for a Kafka that says nothing: it ends soon, says so, and leaves nothing."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.commands import start_tandem

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that accepts connections and answers nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(40)
        yield server


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (["check"], 1),
        (["topics", "create"], 1),
        (["send", "user_behavior", "{}", "--raw"], 1),
        (["tail", "user_behavior"], 1),
        (["tail", "user_behavior", "--follow"], 0),
        (["tail", "purchases", "--group", "g"], 1),
        (["partition", "k"], 1),
        (["stats"], 1),
        (["lag"], 1),
        (["dlq", "list"], 1),
        (["dlq", "retry", "--all"], 1),
        (["reset-offsets", "user_behavior", "--execute"], 1),
        (["verify"], 1),
        (["verify", "--watch"], 0),
    ],
    ids=str,
)
def test_ctrl_c_ends_what_waits_for_kafka(
    arguments: list[str], exit_code: int, silent: socket.socket, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{silent.getsockname()[1]}"
    process = start_tandem(
        *arguments,
        folder=tmp_path,
        variables={"KAFKA_BOOTSTRAP_SERVERS": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        connection, _ = silent.accept()  # It waits for an answer now.
        with connection:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == exit_code, err
    assert ("tandem: interrupted" in err) == (exit_code == 1), err
    assert "Traceback" not in err
