"""One cluster of three brokers for the run; scenarios that change a broker's settings have their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.cluster import Cluster, cluster


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    with cluster() as running:
        yield running
