"""docker-compose.yml, run for real by whatever engine `docker compose` finds.

Each test brings the stack into the state that it needs, and leaves it running for the next one. What is in
Kafka is read through the published port, with another client than the services'. The last test compares all
of it with what should be there, after everything that the tests before have done.
"""

import json
import urllib.request
from functools import partial
from itertools import chain
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from tests.containers.conftest import SETTINGS
from tests.containers.stack import CommandError, Stack, run, services_without_settings
from tests.containers.watching import (
    GRACE_SECONDS,
    NAMES,
    PARTITIONS,
    WAIT_SECONDS,
    committed,
    states,
    wait_for,
    wait_until_counting_goes_on,
)
from tests.verifier import verify, wait_until_caught_up
from tests.verifier.broker import Broker, open_transactions
from tests.verifier.contract import TOPOLOGIES, Topology
from tests.verifier.verify import output_topics

# The first test of a run builds the image, and may have to pull what it is made of.
pytestmark = pytest.mark.timeout(900)

KILLED = 137


def shares(stack: Stack, topology: Topology) -> list[list[int]]:
    """Return the partitions that each member of a group has."""
    admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers, "log_level": 2})
    group = NAMES.groups[topology]
    described = admin.describe_consumer_groups([group], request_timeout=10)[group].result()
    return [[place.partition for place in one.assignment.topic_partitions] for one in described.members]


def wait_until_shared(stack: Stack, members: int) -> None:
    """Wait until so many members have some partitions each, and together every one of them once."""

    def shared(topology: Topology) -> bool:
        found = shares(stack, topology)
        return len(found) == members and all(found) and sorted(chain(*found)) == PARTITIONS

    for topology in TOPOLOGIES:
        wait_for(f"{topology} shared by {members}", partial(shared, topology))


def print_config(stack: Stack, service: str) -> dict[str, str]:
    command = ("exec", "-T", service, "python", "-m", f"services.{service}", "--print-config")
    return {one["variable"]: one["value"] for one in map(json.loads, stack.compose(*command).splitlines())}


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


# ---- as it stands there ------------------------------------------------------------------------------


def test_up_generates_and_counts(stack: Stack, broker: Broker) -> None:
    stack.up()
    assert states(stack, "topics") == [("exited", 0)]
    wait_until_counting_goes_on(broker)


def test_the_console_shows_counts_that_grow(stack: Stack, broker: Broker) -> None:
    stack.up()
    (before,) = stack.console("stats", "--json")
    wait_until_counting_goes_on(broker)
    (after,) = stack.console("stats", "--json")
    assert after["behavior"]["total_events"] > before["behavior"]["total_events"]
    assert after["account"]["counted"] > before["account"]["counted"]
    assert (after["account"]["lost"], after["account"]["duplicated"]) == (0, 0)
    assert stack.left_by_run() == []


@pytest.mark.parametrize("service", ["topics", "generator", "processor"])
def test_every_container_of_ours_is_locked_down(stack: Stack, service: str) -> None:
    stack.up()
    (container,) = stack.containers(service)
    host = container["HostConfig"]
    assert container["Config"]["User"] == "10001:10001"
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert list(host["Tmpfs"]) == ["/tmp"]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    assert container["Mounts"] == []


@pytest.mark.parametrize("service", ["generator", "processor"])
def test_a_service_can_write_to_tmp_only(stack: Stack, service: str) -> None:
    stack.up()
    attempts = (
        "for place in / /app /etc /opt/tandem /tmp /usr /var/tmp; do touch $place/x && echo $place; done"
    )
    assert stack.compose("exec", "-T", service, "sh", "-c", f"{attempts}; true").split() == ["/tmp"]


def test_ports_are_published_on_the_loopback_address_only_and_none_of_the_processor(stack: Stack) -> None:
    stack.up()
    published = {
        service: [
            (binding["HostIp"], int(binding["HostPort"]))
            for container in stack.containers(service)
            for bindings in container["NetworkSettings"]["Ports"].values()
            for binding in bindings or []
        ]
        for service in ("kafka", "topics", "generator", "processor")
    }
    assert published == {
        "kafka": [("127.0.0.1", stack.kafka_ports["kafka"])],
        "topics": [],
        "generator": [("127.0.0.1", stack.generator_port)],
        "processor": [],
    }


@pytest.mark.usefixtures("engine")
def test_ports_are_below_those_that_connections_take_where_none_are_chosen() -> None:
    services = services_without_settings()
    published = [int(port["published"]) for one in services.values() for port in one.get("ports", [])]
    assert published
    assert max(published) < 32_768


def test_only_the_volume_that_is_named_holds_data(stack: Stack) -> None:
    stack.up()
    (kafka,) = stack.containers("kafka")
    mounts = [(mount["Type"], mount["Name"], mount["Destination"]) for mount in kafka["Mounts"]]
    assert mounts == [("volume", f"{stack.project}_kafka-data", "/var/lib/kafka/data")]


def test_settings_come_from_the_env_file_but_for_what_containers_need(stack: Stack) -> None:
    stack.up()
    generator, processor = print_config(stack, "generator"), print_config(stack, "processor")
    for settings, port in ((generator, "8081"), (processor, "8082")):
        assert settings["KAFKA_CLIENT_ID"] == SETTINGS["KAFKA_CLIENT_ID"]
        assert settings["KAFKA_BOOTSTRAP_SERVERS"] == "kafka:9092"
        assert (settings["HTTP_HOST"], settings["HTTP_PORT"]) == ("0.0.0.0", port)
    assert float(generator["GENERATOR_RATE"]) == SETTINGS["GENERATOR_RATE"]


def test_the_generator_shows_its_figures_on_its_port(stack: Stack) -> None:
    stack.up()
    assert get_json(f"http://127.0.0.1:{stack.generator_port}/stats")["streams"].keys() == {
        "behavior",
        "sensors",
    }


# ---- scale, stop, kill -------------------------------------------------------------------------------


def test_three_processors_share_all_partitions_and_go_on(stack: Stack, broker: Broker) -> None:
    stack.up(processors=3)
    wait_until_shared(stack, 3)
    wait_until_counting_goes_on(broker)


def test_processors_that_are_stopped_drain_and_exit_with_0(stack: Stack, broker: Broker) -> None:
    stack.up(processors=3)
    wait_until_shared(stack, 3)
    # All are stopped at once; had one not been done in its grace period, it would be killed and say 137.
    stack.compose("stop", "processor", timeout_seconds=GRACE_SECONDS + 20)
    assert states(stack, "processor") == [("exited", 0)] * 3
    assert open_transactions(broker, output_topics(NAMES, TOPOLOGIES)) == {}
    assert [shares(stack, topology) for topology in TOPOLOGIES] == [[], []]
    stack.up(processors=3)
    wait_until_counting_goes_on(broker)


@pytest.mark.usefixtures("engine")
def test_a_grace_period_is_above_the_sum_of_a_drain() -> None:
    services = services_without_settings()
    assert [services[one]["stop_grace_period"] for one in ("generator", "processor")] == [
        f"{GRACE_SECONDS}s"
    ] * 2


def test_a_generator_that_is_stopped_drains_and_exits_with_0(stack: Stack) -> None:
    stack.up()
    stack.compose("stop", "generator", timeout_seconds=GRACE_SECONDS + 20)
    assert states(stack, "generator") == [("exited", 0)]
    last = stack.logs("generator")[-1]
    assert (last["event"], last["exit_code"]) == ("stopped", 0)


def test_the_others_take_over_from_a_killed_container(stack: Stack, broker: Broker) -> None:
    stack.up(processors=3)
    wait_until_shared(stack, 3)
    killed = stack.containers("processor")[1]["Id"]
    run(["docker", "kill", "--signal", "KILL", killed])
    wait_for("the end of it", lambda: ("exited", KILLED) in states(stack, "processor"))
    wait_until_shared(stack, 2)
    wait_until_counting_goes_on(broker)


def test_processes_that_are_killed_are_started_again(stack: Stack, broker: Broker) -> None:
    stack.up()
    # Of the processes, not of the containers: what the engine itself kills it does not start again.
    kill = (
        "import os; [os.kill(int(pid), 9) for pid in os.listdir('/proc') if pid.isdigit() and int(pid) > 1]"
    )
    killed = {}
    for service in ("processor", "generator"):
        (killed[service],) = stack.containers(service)
        with pytest.raises(CommandError):
            stack.compose("exec", "-T", service, "python", "-c", kill)

    def restarted(service: str) -> bool:
        (now,) = stack.containers(service)
        assert now["Id"] == killed[service]["Id"]
        return bool(now["RestartCount"] == killed[service]["RestartCount"] + 1)

    for service in killed:
        wait_for(f"a restart of the {service}", partial(restarted, service))
    stack.up()
    wait_until_counting_goes_on(broker)


# ---- down and up again -------------------------------------------------------------------------------


def test_counts_go_on_after_down_and_up(stack: Stack, broker: Broker) -> None:
    stack.up()
    wait_until_counting_goes_on(broker)
    before = committed(broker, "behavior")
    stack.compose("down", timeout_seconds=3 * GRACE_SECONDS)
    assert stack.containers("kafka") == []
    stack.up()
    broker = Broker(stack.bootstrap_servers)  # The one from before would wait a while between its attempts.
    wait_until_counting_goes_on(broker)
    # What was counted is counted no second time: so much is committed, and so much is in the statistics.
    (view,) = stack.console("stats", "--json")
    after = committed(broker, "behavior")
    assert sum(before.values()) < view["behavior"]["total_events"] <= sum(after.values())


# ---- and at the end ----------------------------------------------------------------------------------


def test_after_all_of_this_everything_is_equal(stack: Stack) -> None:
    stack.up(processors=3)
    stack.compose("stop", "generator", timeout_seconds=GRACE_SECONDS + 20)
    wait_until_caught_up(stack.bootstrap_servers)
    report = verify(stack.bootstrap_servers)
    assert report.ok, report.text
    summary = stack.console("verify", "--json", timeout_seconds=2 * WAIT_SECONDS)[-1]
    assert (summary["type"], summary["equal"], summary["differences"]) == ("summary", True, 0)
    account = summary["account"]
    assert (account["lost"], account["duplicated"], account["in_flight"]) == (0, 0, 0)
    assert account["counted"] == report.counts["input records"] > 0
