"""Every scenario once, with a fixed seed. `make soak` draws them at random, again and again."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster, cluster
from tests.faults.scenario import Outcome, Scenario, all_scenarios, run

pytestmark = pytest.mark.timeout(400)
SEED = 20_261_123


def seed_of(one: Scenario) -> int:
    return SEED + zlib.crc32(one.name.encode()) % 1_000_000


def played(one: Scenario, shared: Cluster, folder: Path, mutant: str = "") -> Outcome:
    if not one.broker_properties:
        return run(one, shared, seed=seed_of(one), folder=folder, mutant=mutant)
    with cluster(dict(one.broker_properties)) as own:
        return run(one, own, seed=seed_of(one), folder=folder, mutant=mutant)


@pytest.mark.parametrize("one", all_scenarios().values(), ids=lambda one: one.name)
def test_nothing_is_lost_and_nothing_is_doubled(
    one: Scenario, shared_cluster: Cluster, tmp_path: Path
) -> None:
    outcome = played(one, shared_cluster, tmp_path / "evidence")
    assert outcome.ok, outcome.text


MUTANTS = [(one, mutant) for one in all_scenarios().values() for mutant in one.catches]


@pytest.mark.parametrize(("one", "mutant"), MUTANTS, ids=lambda x: x if isinstance(x, str) else x.name)
def test_a_weakened_guarantee_is_caught(
    one: Scenario, mutant: str, shared_cluster: Cluster, tmp_path: Path
) -> None:
    outcome = played(one, shared_cluster, tmp_path / "evidence", mutant)
    caught = bool(outcome.harm) or (one.caught_by and one.caught_by in outcome.error)
    assert caught, f"{one.name} does not notice {mutant}: {outcome.text}"
