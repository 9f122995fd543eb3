"""The one image: what is in it, and what is not."""

import json
from typing import Any

import pytest

from tests.containers.stack import CommandError, Stack, run
from tests.verifier.polling import poll

# The first test of a run builds the image, and may have to pull what it is made of.
pytestmark = pytest.mark.timeout(900)

SERVICES = ("generator", "processor")
RESTRICTED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none")


def in_image(stack: Stack, *command: str) -> str:
    return run(["docker", "run", "--rm", *RESTRICTED, stack.image, *command])


def configuration(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(["docker", "image", "inspect", stack.image]))[0]["Config"]
    return found


def test_it_runs_as_a_numeric_user_that_is_not_root(stack: Stack) -> None:
    user, _, group = configuration(stack)["User"].partition(":")
    assert (int(user), int(group)) == (10001, 10001)
    assert in_image(stack, "id", "--user").strip() == "10001"


def test_it_holds_no_installer_and_no_compiler(stack: Stack) -> None:
    tools = "pip pip3 uv cc zig gcc g++ c++ clang make ld as cargo rustc go"
    assert in_image(stack, "sh", "-c", f"for tool in {tools}; do command -v $tool || true; done") == ""
    modules = ("pip", "ensurepip", "ziglang")
    lookup = f"from importlib.util import find_spec; print([m for m in {modules} if find_spec(m)])"
    for python in ("python", "/usr/local/bin/python3"):
        assert in_image(stack, python, "-c", lookup).strip() == "[]"


def test_the_compiled_part_is_in_it_and_fits_its_source(stack: Stack) -> None:
    lookup = "from services.processor.native.library import load, location; print(load(location()))"
    assert "'/opt/tandem/" in in_image(stack, "python", "-c", lookup)


def test_asserts_are_in_force_in_it(stack: Stack) -> None:
    with pytest.raises(CommandError, match="AssertionError"):
        in_image(stack, "python", "-c", "assert False")


@pytest.mark.parametrize("service", SERVICES)
def test_it_serves_the_services_with_settings_for_containers(stack: Stack, service: str) -> None:
    printed = in_image(stack, "python", "-m", f"services.{service}", "--print-config")
    settings = {one["variable"]: one["value"] for one in map(json.loads, printed.splitlines())}
    assert (settings["HTTP_HOST"], settings["LOG_FORMAT"]) == ("0.0.0.0", "json")


def test_it_serves_the_command_line(stack: Stack) -> None:
    assert "topics" in in_image(stack, "tandem", "--help")


def test_its_labels_say_which_version_is_in_it(stack: Stack) -> None:
    lookup = "from importlib.metadata import version; print(version('tandem'))"
    labels = configuration(stack)["Labels"]
    assert labels["org.opencontainers.image.version"] == in_image(stack, "python", "-c", lookup).strip()


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_alone_in_it_is_alive_without_kafka_and_stops_with_0(stack: Stack, service: str) -> None:
    command = ["docker", "run", "--detach", *RESTRICTED, stack.image, "python", "-m", f"services.{service}"]
    container = run(command).strip()
    health = ["docker", "inspect", "--format", "{{json .State.Health}}", container]
    try:
        poll(
            lambda: json.loads(run(health))["Status"] == "healthy" or None,
            30,
            lambda: f"its health is {run(health)}",
            interval_seconds=0.2,
        )
        run(["docker", "stop", "--time", "30", container])
        assert run(["docker", "inspect", "--format", "{{.State.ExitCode}}", container]).strip() == "0"
    finally:
        run(["docker", "rm", "--force", "--volumes", container])
