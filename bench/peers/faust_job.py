"""Faust (faust-streaming): at least once, committing every tenth of a second."""

from __future__ import annotations

import os
import signal

import faust

from bench.peers.job import COMMIT_SECONDS, GROUP, SERVERS, TOPIC, Job, decode

job = Job()
app = faust.App(
    GROUP,
    broker=f"aiokafka://{SERVERS}",
    value_serializer="raw",
    broker_commit_interval=COMMIT_SECONDS,
    consumer_auto_offset_reset="earliest",
    topic_disable_leader=True,
    web_enabled=False,
)
source = app.topic(TOPIC, value_serializer="raw")


@app.agent(source)  # type: ignore[untyped-decorator]  # its packages are elsewhere
async def count(stream: faust.StreamT[bytes]) -> None:
    """Count the records one by one: this is what its streams hand out."""
    async for value in stream:
        job.add_one(decode(value))
        if job.is_done:
            os.kill(os.getpid(), signal.SIGTERM)  # As its worker is stopped: it commits and ends.


if __name__ == "__main__":
    try:
        faust.Worker(app, loglevel="ERROR").execute_from_commandline()
    finally:
        job.report()
