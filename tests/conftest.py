"""What every tier shares: the event loop the services run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import uvloop


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], Any]]:  # noqa: ARG001
    return {"uvloop": uvloop.new_event_loop}
