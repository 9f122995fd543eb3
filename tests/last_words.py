"""What is shown beside a failure: the ends of the logs of what the test used, which is gone by then."""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch
from pathlib import Path

from sandbox import Sandbox

# Of each service.
LOG_LINES = 60


@singledispatch
def last_words(fixture: object) -> Iterable[tuple[str, str]]:  # noqa: ARG001 — of most there are none
    """Return the title and the end of each log that belongs to the value of a fixture."""
    return ()


@last_words.register
def _(fixture: Sandbox) -> Iterable[tuple[str, str]]:
    return _ends_of(node.log_path for node in fixture.nodes)


@last_words.register
def _(fixture: Path) -> Iterable[tuple[str, str]]:
    return _ends_of(sorted(fixture.glob("*.log")))


def _ends_of(logs: Iterable[Path]) -> list[tuple[str, str]]:
    return [
        (f"the end of {log.name}", "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:]))
        for log in logs
        if log.exists()
    ]
