"""What the metrics of both services say after real work."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.integration.scraped import Scraped
from tests.unit import operations_text
from tests.verifier import Service
from tests.verifier.polling import poll

RECORDS = 2_000
READY_SECONDS = 60
WORK_SECONDS = 60


def scrape_at_work(service: Service, name: str) -> Scraped:
    """Return the metrics as soon as there is enough of one of them."""

    def enough() -> Scraped | None:
        scraped = Scraped(service)
        # It begins to be there with the first stream, which may be later than the first answer.
        # A metric is named and explained before it has a first sample.
        has_samples = re.search(rf"^{name}", scraped.text, re.MULTILINE)
        return scraped if has_samples and scraped.total(name) >= RECORDS else None

    return poll(enough, WORK_SECONDS, lambda: f"too little {name}:\n{Scraped(service).text}")


def test_operators_see_bytes_queues_durations_and_the_process_itself(
    prefix: str, make_topics: Callable[..., None], start_processor: Callable[..., Service]
) -> None:
    make_topics(prefix)
    processor = start_processor()
    processor.wait_until_ready(READY_SECONDS)
    generator = start_processor(
        argv="services.generator", GENERATOR_RATE=1_000, GENERATOR_SENSOR_RATE=1_000, GENERATOR_SEED=3
    )

    made = scrape_at_work(generator, "tandem_generator_records_acknowledged_total")
    assert made.total("tandem_generator_acknowledged_bytes_total") > 50 * RECORDS
    assert made.total("tandem_generator_buffer_limit_bytes") == 32 * 2**20
    assert made.total("tandem_generator_buffered_bytes") <= 32 * 2**20
    assert made.total("tandem_generator_kafka_answers") == 1

    counted = scrape_at_work(processor, "tandem_processor_records_total")
    assert counted.total("tandem_processor_read_bytes_total") > 50 * RECORDS
    assert counted.total("tandem_processor_written_bytes_total") > 0
    # A restart of the generator would begin anew; until then nothing of its streams goes one by one.
    assert counted.total("tandem_processor_columnar_events_total") == counted.total(
        "tandem_processor_events_total"
    )
    assert counted.total("tandem_processor_topic_partitions") == 2 * 4
    assert counted.total("tandem_processor_assigned_partitions") == 2 * 4
    assert counted.total("tandem_processor_kafka_answers") == 2
    assert counted.total("tandem_processor_restore_duration_seconds_count") >= 2 * 4
    rebalances = counted.total("tandem_processor_rebalances_total")
    assert counted.total("tandem_processor_rebalance_duration_seconds_count") == rebalances >= 2
    assert counted.total("tandem_processor_rebalance_running_seconds") == 0
    assert counted.total("tandem_processor_state_bounded_keys") > 0
    assert counted.total("tandem_processor_pending_limit_bytes") == 16 * 2**20
    counted.total("tandem_processor_task_rebuilds_total")  # shown before the first of them

    documented = {name: kind for name, (kind, _) in operations_text.documented().items()}
    for scraped in made, counted:
        assert scraped.total("tandem_live") == 1
        assert scraped.total("tandem_ready") == 1
        assert scraped.total("tandem_event_loop_delay_seconds_count") > 0
        assert scraped.total("tandem_memory_limit_bytes") > 2**24
        assert scraped.types.items() <= documented.items()
    assert generator.terminate() == 0
    assert processor.terminate() == 0
