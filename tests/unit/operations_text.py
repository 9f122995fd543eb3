"""What docs/operations.md and the registry say of metrics, for the tests that compare."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from shared.metrics import DeliveryMetrics, GeneratorMetrics, ProcessorMetrics, RuntimeMetrics, new_registry

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def everything() -> tuple[CollectorRegistry, list[Any]]:
    """Return a registry with the metrics of both services, and the metrics."""
    registry = new_registry("test")
    groups = (
        RuntimeMetrics(registry),
        GeneratorMetrics(registry),
        ProcessorMetrics(registry),
        DeliveryMetrics(registry),
    )
    return registry, [metric for group in groups for metric in vars(group).values()]


def types(registry: CollectorRegistry) -> dict[str, str]:
    """Return type by name, as Prometheus is told."""
    text = generate_latest(registry).decode()
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))


def anchor(heading: str) -> str:
    """Return where a link to a heading leads."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def sections() -> dict[str, str]:
    """Return the text below each heading of the operations page, up to the next one, by its anchor."""
    parts = re.split(r"^#{2,3} (.+)\n", OPERATIONS, flags=re.MULTILINE)
    return {anchor(heading): text for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return type and labels by name, from the tables of the section on metrics."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\| .+ \|$", sections()["metrics"], re.MULTILINE)
    found = {
        name: (kind, tuple(label.strip() for label in labels.split(",") if label.strip()))
        for name, kind, labels in rows
    }
    assert len(found) == len(rows), "a metric stands there twice"
    return found
