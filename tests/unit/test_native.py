"""The compiled part: that it is there, what is said where it is not, and what makes it."""

from __future__ import annotations

import ctypes
import shlex
import sys
from pathlib import Path

import pytest

from services.processor.native import compile as compiling
from services.processor.native import library
from services.processor.native.compile import main
from services.processor.native.library import UnusableError, installed, load

MAKES_IT = "python -m services.processor.native.compile"


def script(text: str) -> str:
    """A compiler that is a shell script; it is handed the arguments of a real one."""
    return shlex.join(["sh", "-c", text, "compiler"])


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where to compile to: a folder with nothing else in it."""
    folder = tmp_path / "packages"
    folder.mkdir()
    return folder / library.NAME


def complaint(capsys: pytest.CaptureFixture[str], target: Path, compiler: str) -> str:
    """What is said where this compiler does not do; nothing is left of it."""
    before = {one: one.read_bytes() for one in target.parent.iterdir()}
    assert main(["--compiler", compiler, "--into", str(target)]) == 1
    assert {one: one.read_bytes() for one in target.parent.iterdir()} == before
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"{compiler}: ")
    return printed.err


def test_set_up_made_it_for_this_interpreter() -> None:
    found = installed()
    assert isinstance(found, ctypes.CDLL), f"{found}; .venv/setup.log may say why"


def test_a_part_that_is_not_there_is_named_with_what_makes_it(target: Path) -> None:
    with pytest.raises(UnusableError) as told:
        load(target)
    assert f"{target} is not there" in str(told.value)
    assert MAKES_IT in str(told.value)


@pytest.mark.parametrize("content", [b"", b"no library at all\n" * 100])
def test_a_part_that_is_no_library_is_named_with_what_makes_it(target: Path, content: bytes) -> None:
    target.write_bytes(content)
    with pytest.raises(UnusableError) as told:
        load(target)
    assert f"{target} can't be loaded" in str(told.value)
    assert MAKES_IT in str(told.value)


def test_a_part_made_of_another_source_is_named_with_what_makes_it(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = target.with_name("columns.c")
    other.write_text(f"{library.SOURCE.read_text()}\n/* One line more. */\n")
    with monkeypatch.context() as patch:
        patch.setattr(library, "SOURCE", other)
        patch.setattr(compiling, "SOURCE", other)
        assert main(["--into", str(target)]) == 0
    with pytest.raises(UnusableError) as told:
        load(target)
    assert f"{target} was made of another version of columns.c" in str(told.value)
    assert MAKES_IT in str(told.value)


def test_without_its_source_no_part_is_used(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--into", str(target)]) == 0
    monkeypatch.setattr(library, "SOURCE", target.with_name("columns.c"))
    with pytest.raises(UnusableError, match=r"columns\.c"):
        load(target)


def test_it_is_compiled_to_where_it_is_told_and_says_by_what(
    capsys: pytest.CaptureFixture[str], target: Path
) -> None:
    target.write_text("an older one")
    assert main(["--into", str(target)]) == 0
    assert capsys.readouterr().out.startswith(f"{target}: made by ")
    assert isinstance(load(target), ctypes.CDLL)
    assert list(target.parent.iterdir()) == [target]


def test_a_compiler_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str], target: Path) -> None:
    target.write_text("an older one")
    assert "No such file or directory" in complaint(capsys, target, "/nonexistent/cc")


@pytest.mark.parametrize(
    ("compiler", "told"),
    [
        (script("echo unknown option >&2; exit 3"), "unknown option (exit code 3)"),
        (script("echo not to standard error; exit 1"), "not to standard error (exit code 1)"),
        (script("kill -9 $$"), "not a word (exit code -9)"),
        (script("exit 0"), "made nothing"),
        (script('for last in "$@"; do :; done; echo nonsense >"$last"'), "can't be loaded"),
        ("cc '", "No closing quotation"),
    ],
    ids=["says why", "says why elsewhere", "is killed", "makes nothing", "makes nonsense", "is misspelt"],
)
def test_what_a_compiler_said_that_fails_is_shown(
    capsys: pytest.CaptureFixture[str], target: Path, compiler: str, told: str
) -> None:
    assert told in complaint(capsys, target, compiler)


def test_a_compiler_that_hangs_is_ended_with_what_it_started(
    capsys: pytest.CaptureFixture[str], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That the inner one is gone too is what every test is held to.
    monkeypatch.setattr(compiling, "DEADLINE_SECONDS", 0.3)
    assert "not done in 0.3 s" in complaint(capsys, target, script("sleep 600; exit 1"))


def test_a_folder_that_is_not_there_is_a_failure_with_a_message(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--compiler", "cc", "--into", str(tmp_path / "none" / library.NAME)]) == 1
    assert "No such file or directory" in capsys.readouterr().err


def test_a_compiler_of_ones_own_choice_goes_first_and_each_that_fails_has_its_line(
    capsys: pytest.CaptureFixture[str], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = target.parent / "ziglang"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(target.parent)
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    monkeypatch.setenv("CC", "/nonexistent/cc -m64")
    assert main(["--into", str(target)]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("/nonexistent/cc -m64: ")
    # Without the last word it would be made for this very processor.
    assert second.startswith("/nonexistent/python -m ziglang cc -mcpu=baseline: ")
