"""confluent-kafka, reading and looking at nothing. No group, no commits."""

from __future__ import annotations

from bench.peers.confluent import MOST_RECORDS, assign_all, consumer
from bench.peers.job import Job


def main() -> None:
    """Read the topic to its end."""
    job = Job()
    source = consumer()
    assign_all(source)
    while not job.is_done:
        messages = source.consume(MOST_RECORDS, 0.2)
        if messages:
            job.read(sum(message.error() is None for message in messages))
    source.close()
    job.report()


if __name__ == "__main__":
    main()
