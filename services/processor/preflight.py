"""Before anything is counted: are the topics there, and do they fit each other?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    for_code,
)

from services.processor.keeper import pause
from services.processor.topology import Topology
from shared import topics
from shared.connecting import Patience, connect, stop_client
from shared.errors import KafkaUnavailableError, StopServiceError
from shared.kafka import KafkaClients, Permission, refusal
from shared.logs import Logger

# A topic that was just created is not known to every broker at once.
_MISSING_BORNE_SECONDS = 5.0
_RETRY_SECONDS = 0.25


class Described(NamedTuple):
    """What Kafka says of topics.

    Attributes:
        counts: number of partitions by full name.
        configs: settings by full name; without those that we are not permitted to see.
    """

    counts: dict[str, int]
    configs: dict[str, dict[str, str]]

    def message_bytes(self, dead_letters: str) -> int:
        """Return the largest message that a topic for dead letters takes."""
        limit = self.configs.get(dead_letters, {}).get("max.message.bytes")
        return int(limit) if limit else 2 * topics.DEFAULT_MAX_MESSAGE_BYTES


@dataclass(frozen=True)
class Layout:
    """The topics of one topology as they are.

    Attributes:
        input: full name, and below its number of partitions.
        names: full name of every topic that is written, by its name without prefix; the changelog apart.
        counts: number of partitions by full name.
        dead_letter_bytes: the largest message that the dead letter topic takes.
    """

    input: str
    changelog: str
    names: dict[str, str]
    counts: dict[str, int]
    dead_letter_bytes: int

    @property
    def partitions(self) -> int:
        """The input's number of partitions when the process started."""
        return self.counts[self.input]


async def look(
    clients: KafkaClients, topology: Topology, *, patience: Patience, stopping: asyncio.Event, log: Logger
) -> Layout | None:
    """Return the layout of a topology's topics, or None if `stopping` was set first.

    Raises:
        StopServiceError: a topic is missing, has the wrong number of partitions, or a changelog that is
            not compacted.
    """
    named = clients.settings.named
    written = (*topology.results, topics.PROGRESS, topics.DEAD_LETTERS)
    names = {topic: named(topic) for topic in written}
    source, changelog = named(topology.input), named(topics.changelog_of(topology.input))
    dead_letters = names[topics.DEAD_LETTERS]
    needs = [Permission("Read", "topic", topic) for topic in (source, changelog)]
    needs += [Permission("Write", "topic", topic) for topic in (changelog, *names.values())]
    described = await describe(
        clients,
        needs=needs,
        configs_of=[changelog, dead_letters],
        doing=f"look at the topics of {topology.name}",
        patience=patience,
        stopping=stopping,
        log=log,
    )
    if described is None:
        return None
    counts, configs = described
    if counts[source] != counts[changelog]:
        raise partitions_changed(source, counts[changelog], counts[source])
    _insist_on_compaction(changelog, configs.get(changelog, {}))
    return Layout(source, changelog, names, counts, described.message_bytes(dead_letters))


async def describe(
    clients: KafkaClients,
    *,
    needs: Sequence[Permission],
    configs_of: list[str],
    doing: str,
    patience: Patience,
    stopping: asyncio.Event,
    log: Logger,
) -> Described | None:
    """Return what is known of every topic in `needs`, or None if `stopping` was set first.

    `needs` is what will be done with them, for the message of a refusal; `configs_of` are the full names of
    the topics whose settings are asked for, too; `doing` is for messages ("look at the topics of behavior").

    Raises:
        KafkaUnavailableError: to be tried again.
        StopServiceError: a topic is missing, or may not be seen.
    """
    admin = await connect(
        clients.admin, clients.settings, patience=patience, stopping=stopping, log=log, doing=doing
    )
    if admin is None:
        return None
    try:
        seconds = clients.settings.operation_deadline_seconds + _MISSING_BORNE_SECONDS
        async with asyncio.timeout(patience.a_try(seconds)):
            counts = await _counts(admin, needs, stopping)
            return Described(counts, await _configs(admin, configs_of, log))
    except (KafkaError, TimeoutError) as error:
        raise KafkaUnavailableError(f"could not {doing}: {error!r}") from error
    finally:
        await stop_client(admin, log=log)


FoundT = TypeVar("FoundT")


async def persistently(
    look: Callable[[], Awaitable[FoundT | None]], *, patience: Patience, stopping: asyncio.Event
) -> FoundT | None:
    """Return what `look` finds once Kafka answers, or None if `stopping` was set first.

    Raises:
        StopServiceError: `look` does, or Kafka stayed away for `KAFKA_UNAVAILABLE_SECONDS`.
    """
    while not stopping.is_set():
        try:
            found = await look()
        except KafkaUnavailableError as error:
            await pause(patience.failed(str(error)), stopping)
        else:
            patience.worked()
            return found
    return None


def partitions_changed(topic: str, before: int, now: int | None) -> StopServiceError:
    """Return the error for an input whose number of partitions is not what its state was made for."""
    return StopServiceError(
        f"topic {topic} has {now or 'no'} partitions and its changelog was made for {before}: keys have "
        "moved to other partitions, and their state has not. Count the input again under a new prefix, "
        "or bring back the topic as it was; nothing has been counted from the new partitions"
    )


async def _counts(
    admin: AIOKafkaAdminClient, needs: Sequence[Permission], stopping: asyncio.Event
) -> dict[str, int]:
    wanted = list(dict.fromkeys(one.name for one in needs if one.resource == "topic"))
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + _MISSING_BORNE_SECONDS
    while True:
        described = await admin.describe_topics(wanted)
        counts: dict[str, int] = {}
        for topic in described:
            error = for_code(topic["error_code"])
            if error is TopicAuthorizationFailedError:
                name = topic["topic"]
                unseen = error(name)
                raise refusal(unseen, doing=f"see topic {name}", needs=needs) or unseen
            if not topic["error_code"] and topic["partitions"]:
                counts[topic["topic"]] = len(topic["partitions"])
        missing = [topic for topic in wanted if topic not in counts]
        if not missing:
            return counts
        if loop.time() >= give_up_at or stopping.is_set():
            raise StopServiceError(
                f"missing topics: {', '.join(missing)}; create them with: tandem topics create"
            )
        await asyncio.sleep(_RETRY_SECONDS)


async def _configs(admin: AIOKafkaAdminClient, names: list[str], log: Logger) -> dict[str, dict[str, str]]:
    """Return the topics' settings; without those that we are not permitted to see."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(resources):
        for code, _message, _kind, name, entries, *_ in response.resources:
            error = for_code(code)
            if error in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
                log.info("topic_settings_not_visible", topic=name, needs="DescribeConfigs")
            elif not code:
                found[name] = {entry[0]: entry[1] for entry in entries}
    return found


def _insist_on_compaction(changelog: str, configs: dict[str, str]) -> None:
    policy = configs.get("cleanup.policy")
    if policy is not None and policy != "compact":
        raise StopServiceError(
            f"the changelog {changelog} has cleanup.policy={policy} and has to have compact: what Kafka "
            "deletes by age is missing from the state. Set it, or create the topic again"
        )
