"""Quix Streams, at least once or exactly once (`BENCH_GUARANTEE`), committing every tenth of a second.

The counts are held in memory: its own state store would be slower, and each start would restore it.
"""

from __future__ import annotations

import os
import tempfile

from quixstreams import Application
from quixstreams.models import BytesDeserializer

from bench.peers.job import COMMIT_SECONDS, GROUP, SERVERS, TOPIC, Job, decode


def main() -> None:
    """Read the topic to its end."""
    job = Job()
    with tempfile.TemporaryDirectory() as folder:
        app = Application(
            broker_address=SERVERS,
            consumer_group=GROUP,
            auto_offset_reset="earliest",
            commit_interval=COMMIT_SECONDS,
            processing_guarantee=os.environ["BENCH_GUARANTEE"],
            consumer_extra_config={"queued.min.messages": 1_000_000, "fetch.queue.backoff.ms": 5},
            auto_create_topics=False,
            state_dir=folder,
            loglevel="ERROR",
        )
        frame = app.dataframe(app.topic(TOPIC, value_deserializer=BytesDeserializer()))

        def count(value: bytes) -> None:
            job.add_one(decode(value))
            if job.is_done:
                app.stop()

        frame.update(count)
        app.run()
    job.report()


if __name__ == "__main__":
    main()
