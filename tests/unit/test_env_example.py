"""`.env.example` says what the settings classes say."""

import importlib
import re
from pathlib import Path

import pytest

from scripts import env_example
from shared.settings import Group, load

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / ".env.example"
COMPOSE_FILES = [ROOT / "docker-compose.yml", ROOT / "docker-compose.cluster.yml"]


def as_if_uncommented() -> dict[str, str]:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    settings = [line[1:].partition("=") for line in lines if re.match(r"#[A-Z]", line)]
    found = {name: value for name, _, value in settings}
    assert len(found) == len(settings), "a setting stands there twice"
    return found


def every_group() -> set[type[Group]]:
    for path in [ROOT / "shared" / "settings.py", *ROOT.glob("services/*/settings.py")]:
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return {
        group for group in Group.__subclasses__() if group.__module__.startswith(("shared.", "services."))
    }


def test_the_file_is_what_the_script_prints() -> None:
    printed = env_example.render()
    assert EXAMPLE.read_text(encoding="utf-8") == printed, "run: python -m scripts.env_example > .env.example"


def test_every_settings_class_is_in_the_file() -> None:
    assert set(env_example.GROUPS) == every_group()


def test_every_setting_is_there_and_nothing_else() -> None:
    settings = {variable for group in every_group() for variable in group.variables().values()}
    assert set(as_if_uncommented()) == settings | set(env_example.COMPOSE)


@pytest.mark.parametrize("group", sorted(every_group(), key=str), ids=lambda group: group.__name__)
def test_uncommenting_every_line_changes_nothing(group: type[Group]) -> None:
    environ = {name: value for name, value in as_if_uncommented().items() if name.startswith(group.prefix())}
    assert load(group, environ=environ, dotenv=None)[group] == group()


def test_a_copy_of_the_file_sets_nothing(tmp_path: Path) -> None:
    copy = tmp_path / ".env"
    copy.write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    origins = load(*every_group(), environ={}, dotenv=copy).origins
    assert {origin.source for origin in origins} == {"default"}


def test_every_setting_has_a_meaning() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    settings = [number for number, line in enumerate(lines) if re.match(r"#[A-Z]", line)]
    assert [lines[number] for number in settings if not lines[number - 1].startswith("# ")] == []


def test_words_are_kept_for_fields_without_a_description_only() -> None:
    assert set(env_example.WORDS) == env_example.undescribed()


def test_every_variable_of_the_compose_files_is_there() -> None:
    found = set().union(*map(env_example.variables_of_compose, COMPOSE_FILES))
    assert found == set(env_example.COMPOSE)


def test_defaults_of_the_compose_files_are_those_of_the_file() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in COMPOSE_FILES)
    defaults = set(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    assert defaults == {(name, default) for name, (default, _) in env_example.COMPOSE.items()}
