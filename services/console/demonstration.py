"""The demo: the topics and both services as processes, watched until somebody ends it.

```
run
├── _bring_up    topics → processor → generator → the first events
├── _watch       a view each second, until the time is over or a signal comes
├── _wind_down   generator stopped → all counted, within a bound → summary
└── whatever still runs is ended, also after failures
```
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from services.console.accounts import Account
from services.console.children import Child, ScratchFolder
from services.console.connection import Connection
from services.console.following import GlobalFollower
from services.console.latency import RunLatency
from services.console.launching import environment_of, is_ready, last_words
from services.console.merge import GlobalView
from services.console.settings import ConsoleSettings
from services.console.topic_admin import TopicAdmin, Wishes
from shared.errors import TandemError
from shared.logs import Logger
from shared.results import LatencyMilliseconds, Progress
from shared.settings import KafkaSettings

_STOP_SECONDS = 15.0
_SETTLE_SECONDS = 0.25
_START_SECONDS = 30.0
_LINES_SHOWN = 8


class DemoFailedError(TandemError):
    """The demo could not go on. `lines` is the end of the log of what failed."""

    def __init__(self, reason: str, lines: list[str]) -> None:
        super().__init__(reason)
        self.lines = lines


@dataclass(frozen=True)
class Summary:
    """What a demo came to.

    Attributes:
        seconds: from the first events to the end.
        events_per_second: counted, over those seconds.
        latency_ms: of the whole run; None where nothing was committed.
    """

    account: Account
    seconds: float
    events_per_second: float
    latency_ms: LatencyMilliseconds | None

    @property
    def is_flawless(self) -> bool:
        """Whether all that was sent was counted, and once."""
        return not (self.account.lost or self.account.duplicated or self.account.in_flight)


@dataclass(frozen=True)
class Moment:
    """One look at a running demo. Rates are per second, since the look before."""

    seconds: float
    view: GlobalView
    sent_per_second: float
    counted_per_second: float


# Who watches: is called with each moment.
Audience = Callable[[Moment], None]


@dataclass(frozen=True)
class Plan:
    """What is to be shown.

    Attributes:
        seconds: for how long the generator runs; None: until it is stopped.
        partitions: of the input topics; None: as the settings say.
        variables: environment variables for the services.
        deletes_topics: the topics are this demo's own, and go with it.
    """

    seconds: float | None
    partitions: int | None
    variables: Mapping[str, str]
    deletes_topics: bool


class Demonstration:
    """One demo on a Kafka that is there.

    Args:
        kafka: how to reach it, with the prefix to be used.
        stopping: set when it is to end.
        say: tells people how far things are.
    """

    def __init__(
        self,
        plan: Plan,
        kafka: KafkaSettings,
        console: ConsoleSettings,
        *,
        stopping: asyncio.Event,
        say: Callable[[str], None],
        log: Logger,
    ) -> None:
        self._plan = plan
        self._kafka = kafka
        self._console = console
        self._stopping = stopping
        self._say = say
        self._log = log
        self._clock = asyncio.get_running_loop().time
        self._latency = RunLatency()
        self._counted: dict[tuple[str, int], int] = {}

    async def run(self, audience: Audience) -> Summary:
        """Show it to the end.

        Raises:
            DemoFailedError: a service ended by itself.
            TandemError: Kafka does not answer or refuses.
        """
        async with AsyncExitStack() as stack:
            folder = await stack.enter_async_context(ScratchFolder("tandem-demo-"))
            kafka = await stack.enter_async_context(
                Connection(self._kafka, self._console, log=self._log, as_a_service=True)
            )
            await self._create_topics(kafka)
            try:
                async with self._services(folder.path) as (processor, generator):
                    follower = GlobalFollower(kafka)
                    view = await self._bring_up(follower, processor, generator)
                    # The rate is of what is sent from here on; all of that gets counted.
                    began, sent_before = self._clock(), view.account.sent
                    await self._watch(follower, audience, processor, generator, view)
                    seconds = max(self._clock() - began, 0.001)
                    view = await self._wind_down(follower, processor, generator)
                    await self._end(processor)
                    rate = max(0, view.account.counted - sent_before) / seconds
                    summary = Summary(view.account, seconds, rate, self._latency.summary)
            except DemoFailedError:
                folder.keep()
                self._say(f"the logs are kept in {folder.path}")
                raise
            if self._plan.deletes_topics and summary.is_flawless:
                await self._delete_topics(kafka)
        return summary

    async def _create_topics(self, kafka: Connection) -> None:
        reports = await TopicAdmin(kafka).create(Wishes(partitions=self._plan.partitions))
        created = sum(report.state == "created" for report in reports)
        self._say(f"topics: {created} created, {len(reports) - created} there already")

    async def _delete_topics(self, kafka: Connection) -> None:
        admin = TopicAdmin(kafka)
        await admin.delete([report.name for report in await admin.describe(Wishes())])
        self._say(f"the topics with the prefix {self._kafka.topic_prefix} are deleted again")

    @asynccontextmanager
    async def _services(self, folder: Path) -> AsyncIterator[tuple[Child, Child]]:
        """Yield both services, to be started; what runs of them at the end is ended."""
        processor, generator = (
            Child(
                name,
                ["-m", f"services.{name}"],
                environment_of(self._plan.variables),
                log=folder / f"{name}.log",
            )
            for name in ("processor", "generator")
        )
        try:
            yield processor, generator
        except asyncio.CancelledError:
            for child in (generator, processor):
                child.kill()  # Whoever asks twice does not want to wait.
            raise
        finally:
            for child in (generator, processor):
                await child.stop(_STOP_SECONDS)

    async def _bring_up(self, follower: GlobalFollower, processor: Child, generator: Child) -> GlobalView:
        """Start both services and wait, within a bound, for the first events."""
        # The processor first: what waits for it would show as latency.
        await processor.start()
        deadline = self._clock() + _START_SECONDS
        while self._waits_until(deadline, processor) and not await is_ready(processor):
            await self._pause(_SETTLE_SECONDS)
        await generator.start()
        before = view = await follower.view()
        while view.account.sent == before.account.sent and self._waits_until(deadline, processor):
            if generator.exit_code is not None:
                break  # It may have had very little to do.
            await self._pause(_SETTLE_SECONDS)
            view = await follower.view()
        return view

    def _waits_until(self, deadline: float, processor: Child) -> bool:
        _still_runs(processor)
        return self._clock() < deadline and not self._stopping.is_set()

    async def _watch(
        self,
        follower: GlobalFollower,
        audience: Audience,
        processor: Child,
        generator: Child,
        before: GlobalView,
    ) -> None:
        """Show a moment each second until the time is over, a signal comes, or the generator is done."""
        began = at = self._clock()
        while True:
            _still_runs(processor)
            left = None if self._plan.seconds is None else began + self._plan.seconds - self._clock()
            if generator.exit_code is not None or self._stopping.is_set() or (left is not None and left <= 0):
                return
            await self._pause(min(self._console.refresh_seconds, left or self._console.refresh_seconds))
            view = await self._view(follower)
            now = self._clock()
            audience(_moment(before, view, seconds=now - began, since=max(now - at, 0.001)))
            before, at = view, now

    async def _wind_down(self, follower: GlobalFollower, processor: Child, generator: Child) -> GlobalView:
        """Stop the generator, and wait until all it sent is counted."""
        self._say("the generator stops, the processor counts what is left")
        await self._end(generator)
        deadline = self._clock() + self._console.drain_seconds
        while True:
            _still_runs(processor)
            view = await self._view(follower)
            if view.is_caught_up or self._clock() >= deadline:
                return view
            await asyncio.sleep(_SETTLE_SECONDS)

    async def _view(self, follower: GlobalFollower) -> GlobalView:
        view = await follower.view()
        for progress in follower.progress():
            self._take_latency(progress)
        return view

    def _take_latency(self, progress: Progress) -> None:
        place = progress.topic, progress.partition
        self._latency.add(progress.latency_ms, progress.events - self._counted.get(place, 0))
        self._counted[place] = progress.events

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return  # The usual case: nobody wants it to end.

    async def _end(self, child: Child) -> None:
        code = await child.stop(_STOP_SECONDS)
        if code != 0:
            raise _failure(child)


def _still_runs(child: Child) -> None:
    if child.exit_code is not None:
        raise _failure(child)


def _failure(child: Child) -> DemoFailedError:
    lines = child.last_lines(_LINES_SHOWN)
    code = child.exit_code
    how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
    return DemoFailedError(f"the {child.name} {how}: {last_words(lines) or 'it said nothing'}", lines)


def _moment(before: GlobalView, now: GlobalView, *, seconds: float, since: float) -> Moment:
    return Moment(
        seconds=seconds,
        view=now,
        sent_per_second=max(0.0, (now.account.sent - before.account.sent) / since),
        counted_per_second=max(0.0, (now.account.counted - before.account.counted) / since),
    )
