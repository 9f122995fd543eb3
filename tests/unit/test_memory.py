"""The C library's allocator and Python's collector, as services set them; each in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

IS_GLIBC = platform.libc_ver()[0] == "glibc"
# Answers of a broker, one after the other: how many pages were faulted in for them.
FAULTS = """
import resource
from shared.memory import keep_freed_memory
{call}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(200):
    answer = bytearray(2**20)
    copy = bytes(answer)
    del answer, copy
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(code: str, **variables: str) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout.strip()


@pytest.mark.skipif(not IS_GLIBC, reason="only glibc has these parameters")
def test_what_was_freed_is_used_again_instead_of_being_faulted_in_again() -> None:
    given_back = int(run(FAULTS.format(call="")))
    kept = int(run(FAULTS.format(call="assert keep_freed_memory()")))
    assert kept * 10 < given_back


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_an_allocator_that_the_environment_sets_is_left_alone(name: str) -> None:
    value = {"MALLOC_TRIM_THRESHOLD_": "1000000"}.get(name, "")
    assert run("from shared.memory import *; print(keep_freed_memory())", **{name: value}) == "False"


def test_the_collector_looks_rarely_and_not_at_what_exists() -> None:
    code = "import gc; from shared.memory import *; calm_garbage_collector(); "
    assert run(code + "print(gc.get_threshold()[0] > 10_000, gc.get_freeze_count() > 1_000)") == "True True"
