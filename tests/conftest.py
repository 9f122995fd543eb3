"""What every tier shares: the event loop the services run on, and a real Kafka for the whole run."""

from __future__ import annotations

import gc
import os
import secrets
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pytest
import uvloop
from confluent_kafka.admin import AdminClient, NewTopic
from hypothesis import settings

from sandbox import Sandbox
from shared import topics
from tests import leftovers
from tests.last_words import last_words
from tests.verifier.polling import poll

# A machine under load is no finding.
settings.register_profile("tandem", deadline=None)
settings.load_profile("tandem")


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], Any]]:  # noqa: ARG001
    return {"uvloop": uvloop.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show beside a failure what was said by what the test used."""
    if call.excinfo is not None:
        # A report parses the source. What the collector finds meanwhile may log a traceback, which parses as
        # well: to Python 3.11 an error (https://github.com/python/cpython/issues/106905) that ends the run.
        gc.collect()
        gc.disable()
    try:
        report = yield
    finally:
        gc.enable()
    if report.failed and call.when == "call" and isinstance(item, pytest.Function):
        for fixture in item.funcargs.values():
            report.sections += last_words(fixture)
    return report


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_in_the_end() -> Iterator[None]:
    """What tests share is closed too: sessions' brokers, clients and their connections."""
    leftovers.adopt_orphans()
    before, sockets = leftovers.now(), leftovers.open_sockets()
    yield
    after = leftovers.open_sockets()
    left = leftovers.left_since(before)
    assert not left and after <= sockets, f"left behind: {left}, {after - sockets} sockets"  # noqa: PT018


@pytest.fixture(autouse=True)
def nothing_is_left_behind(nothing_is_left_in_the_end: None) -> Iterator[None]:  # noqa: ARG001
    """No test leaves a process, a thread or a listening socket behind."""
    before = leftovers.now()
    yield
    left = leftovers.left_since(before)
    assert not left, f"left behind: {left}"


@dataclass
class Kafka:
    """The cluster under the tests."""

    bootstrap_servers: str

    @cached_property  # It has to outlive the futures it returns.
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap_servers})


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """One broker for the run; `KAFKA_BOOTSTRAP_SERVERS` set: that cluster instead."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield Kafka(given)
        return
    with Sandbox() as sandbox:
        yield Kafka(sandbox.bootstrap_servers)


@pytest.fixture
def prefix() -> str:
    return f"t{secrets.token_hex(4)}."


def create_topics(admin: AdminClient, prefix: str, partitions: int = 4) -> None:
    wanted = topics.definitions(partitions=partitions, retention_hours=168)
    new = [NewTopic(prefix + one.name, one.partitions, 1, config=one.configs) for one in wanted]
    create(admin, new)


def create(admin: AdminClient, new: list[NewTopic]) -> None:
    """Create topics and wait until the broker tells others of them: its answer comes a little earlier."""
    for created in admin.create_topics(new).values():
        created.result(30)
    for topic in new:
        poll(partial(is_there, admin, topic.topic), 30, partial("{} is not there".format, topic.topic))


def is_there(admin: AdminClient, topic: str) -> bool | None:
    return admin.list_topics(topic, timeout=10).topics[topic].error is None or None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show what tests measured: their `record_property("measured", …)`."""
    lines = [
        text
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, text in report.user_properties
        if name == "measured"
    ]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(str(line))
