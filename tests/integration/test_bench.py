"""The benchmarks, quick: whether all that they run still works and counts right. Nothing is said of speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).resolve().parents[2]
# Those that need nothing but what the tests need.
PEERS = "tandem,aiokafka-drain,whole-batches-drain,aiokafka-job,confluent-drain,confluent-job"


def bench(*arguments: str) -> str:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_generator_drain_and_latency_have_figures() -> None:
    lines = bench("bench", "--rounds", "1", "--events", "20000", "--seconds", "3").splitlines()
    generated, drained, latency = [json.loads(line) for line in lines[1:]]
    assert generated["events"] == drained["events"] == 20_000
    assert drained["events_per_second"] > 0
    assert drained["written_bytes_per_event"] > 0
    assert 0 < latency["p50_milliseconds"] <= latency["p99_milliseconds"] <= latency["p999_milliseconds"]


def test_the_processor_and_its_peers_count_alike() -> None:
    shown = bench("bench.compare", "--quick", "--only", PEERS)
    assert len([line for line in shown.splitlines() if " times" in line]) == len(PEERS.split(",")) - 1


def test_the_generator_and_its_peers_send_alike() -> None:
    shown = bench("bench.generating", "--rounds", "1", "--events", "20000")
    assert len([line for line in shown.splitlines() if " times" in line]) == 2


@pytest.mark.parametrize("curve", ["latency", "partitions", "presets", "rates", "sensors", "users"])
def test_a_curve_has_its_first_step(curve: str) -> None:
    lines = bench("bench.growth", "--quick", curve).splitlines()
    rows = [json.loads(line) for line in lines if line.startswith('{"curve"')]
    assert {row["curve"] for row in rows} == {curve}
    assert len(rows) == (2 if curve == "partitions" else 1)
    assert lines[-3].count("|") == lines[-2].count("|") == lines[-1].count("|") > 3
