"""What a service's metrics say."""

from __future__ import annotations

import re

from tests.verifier import Service


class Scraped:
    """The metrics of a service as they were at one moment."""

    def __init__(self, service: Service) -> None:
        status, self.text = service.get("/metrics")
        assert status == 200
        self.types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", self.text, re.MULTILINE))

    def total(self, name: str) -> float:
        """The sum over a metric's children."""
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.text, re.MULTILINE)
        assert found, f"no {name}"
        return sum(map(float, found))
