"""Creates the topics and says how they are."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import InvalidReplicationFactorError, TopicAlreadyExistsError, for_code
from aiokafka.protocol.metadata import MetadataRequest

from services.console.connection import Connection, TopicFacts
from services.console.topic_plan import Discrepancy, Existing, configs_of, discrepancies, replication_for
from shared.errors import KafkaUnavailableError, TandemError
from shared.kafka import Permission, refusal
from shared.topics import INPUTS, TopicDefinition, definitions

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Report:
    """What became of one topic. `name` is the full one."""

    name: str
    partitions: int
    replication: int
    state: Literal["created", "exists", "differs", "missing"]
    discrepancies: list[Discrepancy] = field(default_factory=list)


@dataclass(frozen=True)
class Wishes:
    """What was asked for on the command line; None: as the settings say. `only` are names without prefix."""

    partitions: int | None = None
    replication: int | None = None
    only: tuple[str, ...] = ()


class TopicAdmin:
    """Looks after the topics of the pair."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._kafka = connection.kafka

    async def create(self, wishes: Wishes) -> list[Report]:
        """Create what is missing, and report on every topic asked for.

        Returns when every broker knows the new ones.

        Raises:
            TandemError: Kafka does not answer, refuses, or does not show a new topic in time.
        """
        existing = await self._connection.topics()
        brokers = await self._brokers()
        replication = replication_for(len(brokers), wishes.replication or self._kafka.topic_replication)
        wanted = self._definitions(existing, wishes)
        missing = [one for one in wanted if self._kafka.named(one.name) not in existing]
        await self._create(missing, replication)
        await self._wait_until_known({self._kafka.named(one.name) for one in missing}, brokers)
        reports = {
            one.name: Report(self._kafka.named(one.name), one.partitions, replication, "created")
            for one in missing
        }
        present = [one for one in wanted if one.name not in reports]
        for report in await self._compare(present, existing, replication, wishes):
            reports[report.name.removeprefix(self._kafka.topic_prefix)] = report
        return [reports[one.name] for one in wanted]

    async def describe(self, wishes: Wishes) -> list[Report]:
        """Report on every topic asked for, and change nothing.

        Raises:
            TandemError: Kafka does not answer, or refuses.
        """
        existing = await self._connection.topics()
        replication = replication_for(
            len(await self._brokers()), wishes.replication or self._kafka.topic_replication
        )
        wanted = self._definitions(existing, wishes)
        present = [one for one in wanted if self._kafka.named(one.name) in existing]
        reports = await self._compare(present, existing, replication, wishes)
        reports += [
            Report(self._kafka.named(one.name), one.partitions, replication, "missing")
            for one in wanted
            if one not in present
        ]
        return reports

    async def delete(self, names: Collection[str]) -> None:
        """Delete topics by their full names; one that is not there is as good as deleted.

        Raises:
            TandemError: Kafka does not answer, or refuses.
        """
        admin = await self._connection.admin()
        there = sorted(set(names) & set(await self._connection.topics()))
        if there:
            await self._connection.ask(lambda: admin.delete_topics(there), doing="delete the topics")

    def _definitions(self, existing: dict[str, TopicFacts], wishes: Wishes) -> list[TopicDefinition]:
        actual = {
            name: existing[self._kafka.named(name)].partitions
            for name in INPUTS
            if self._kafka.named(name) in existing
        }
        every = definitions(
            partitions=wishes.partitions or self._kafka.topic_partitions,
            retention_hours=self._kafka.topic_retention_hours,
            input_partitions=actual,
        )
        return [one for one in every if not wishes.only or one.name in wishes.only]

    async def _create(self, missing: Iterable[TopicDefinition], replication: int) -> None:
        new = [
            NewTopic(
                self._kafka.named(one.name),
                one.partitions,
                replication,
                topic_configs=configs_of(one, replication),
            )
            for one in missing
        ]
        if not new:
            return
        admin = await self._connection.admin()
        answer = await self._connection.ask(lambda: admin.create_topics(new), doing="create topics")
        for name, code, *message in answer.topic_errors:
            error_type = for_code(code)
            # Somebody was quicker, or our own first try came through and its answer did not.
            if not code or error_type is TopicAlreadyExistsError:
                continue
            needs = [Permission("Create", "topic", name)]
            too_many = error_type is InvalidReplicationFactorError
            advice = "; see KAFKA_TOPIC_REPLICATION, or --replication" if too_many else ""
            raise refusal(error_type(name), doing=f"create topic {name}", needs=needs) or TandemError(
                f"topic {name} could not be created: {error_type.__name__}: "
                f"{', '.join(map(str, message))}{advice}"
            )

    async def _compare(
        self,
        present: list[TopicDefinition],
        existing: dict[str, TopicFacts],
        replication: int,
        wishes: Wishes,
    ) -> list[Report]:
        configs = await self._configs([self._kafka.named(one.name) for one in present])
        reports = []
        for one in present:
            name = self._kafka.named(one.name)
            facts = existing[name]
            found = discrepancies(
                one,
                Existing(facts.partitions, facts.replication, configs.get(name, {})),
                full_name=name,
                replication=replication,
                partitions_asked=wishes.partitions,
            )
            state: Literal["differs", "exists"] = "differs" if found else "exists"
            reports.append(Report(name, facts.partitions, facts.replication, state, found))
        return reports

    async def _configs(self, names: list[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        admin = await self._connection.admin()
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        answers = await self._connection.ask(
            lambda: admin.describe_configs(resources), doing="look up the topics' settings"
        )
        configs: dict[str, dict[str, str]] = {}
        for answer in answers:
            for code, message, _type, name, entries in answer.resources:
                if code:
                    error_type = for_code(code)
                    doing = f"look up the settings of topic {name}"
                    needs = [Permission("DescribeConfigs", "topic", name)]
                    raise refusal(error_type(name), doing=doing, needs=needs) or TandemError(
                        f"the settings of topic {name} can't be looked up: {error_type.__name__}: {message}"
                    )
                configs[name] = {entry[0]: entry[1] for entry in entries}
        return configs

    async def _brokers(self) -> list[int]:
        admin = await self._connection.admin()
        cluster = await self._connection.ask(admin.describe_cluster, doing="look up the brokers")
        return [broker["node_id"] for broker in cluster["brokers"]]

    async def _wait_until_known(self, names: set[str], brokers: list[int]) -> None:
        """Wait until every broker knows the topics, with leaders: clients may ask any of them."""
        if not names:
            return
        admin = await self._connection.admin()
        request = MetadataRequest(sorted(names), allow_auto_topic_creation=False)
        unknown: dict[int, list[str]] = {}
        try:
            async with asyncio.timeout(self._kafka.operation_deadline_seconds):
                for broker in brokers:
                    while True:
                        # The client has no public way to ask one broker.
                        ask_broker = partial(admin._send_request_to_node, broker, request)  # noqa: SLF001
                        answer = await self._connection.ask(ask_broker, doing="look up the new topics")
                        unknown = {broker: _not_ready(answer.to_object()["topics"], names)}
                        if not unknown[broker]:
                            break
                        await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            raise KafkaUnavailableError(
                f"the topics are created, and not every broker shows them yet: {unknown}; try again"
            ) from error


def _not_ready(described: list[dict[str, object]], names: set[str]) -> list[str]:
    ready = {
        topic["topic"]
        for topic in described
        if not topic["error_code"] and all(one["leader"] >= 0 for one in topic["partitions"])  # type: ignore[attr-defined]
    }
    return sorted(names - ready)
