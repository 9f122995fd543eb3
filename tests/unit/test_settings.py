"""Configuration from the environment: what is read, what is refused and how that is said; no secret shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from services.generator.settings import GeneratorSettings
from services.processor.alerts import Thresholds
from services.processor.settings import ProcessorSettings
from shared.errors import BadConfigurationError
from shared.presets import PRESETS, Preset
from shared.settings import Group, HttpSettings, KafkaSettings, LogSettings, Settings, load

ALL = (KafkaSettings, ProcessorSettings, HttpSettings, LogSettings)
SECRET = "correct horse battery staple"
LOGIN = {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SASL_USERNAME": "tandem"}


def read(environ: dict[str, str], dotenv: Path | None = None) -> Settings:
    return load(*ALL, environ=environ, dotenv=dotenv)


def refused(environ: dict[str, str], dotenv: Path | None = None) -> list[str]:
    with pytest.raises(BadConfigurationError) as caught:
        read(environ, dotenv)
    return caught.value.problems


def origin(settings: Settings, variable: str) -> tuple[str, str]:
    (found,) = [one for one in settings.origins if one.variable == variable]
    return found.value, found.source


def file(folder: Path, text: str, name: str = "secret") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_environment_is_all_defaults() -> None:
    settings = read({})
    assert settings[KafkaSettings].bootstrap_servers == ("127.0.0.1:9092",)
    assert settings[HttpSettings].port is None
    assert settings[ProcessorSettings].topologies == ("behavior", "sensors")
    assert {one.source for one in settings.origins} == {"default"}


def test_the_environment_is_read_by_name() -> None:
    settings = read({"KAFKA_BOOTSTRAP_SERVERS": "a:1, b:2", "HTTP_PORT": "0", "LOG_LEVEL": "WARNING"})
    assert settings[KafkaSettings].bootstrap_servers == ("a:1", "b:2")
    assert settings[HttpSettings].port == 0
    assert settings[LogSettings].level == "warning"
    assert origin(settings, "KAFKA_BOOTSTRAP_SERVERS") == ("a:1,b:2", "environment")


def test_every_setting_has_an_origin() -> None:
    wanted = {variable for group in ALL for variable in group.variables().values()}
    assert {one.variable for one in read({}).origins} == wanted


def test_settings_are_frozen() -> None:
    settings = read({})[KafkaSettings]
    with pytest.raises(ValidationError, match="frozen"):
        settings.client_id = "other"


def test_what_is_not_ours_is_left_alone() -> None:
    read({"PATH": "/bin", "KAFKAESQUE": "1", "PYTHONUNBUFFERED": "1", "MY_KAFKA_TOPIC": "x"})


def test_an_empty_variable_is_as_if_it_were_not_set() -> None:
    assert read({"KAFKA_CLIENT_ID": ""})[KafkaSettings].client_id == "tandem"
    assert origin(read({"KAFKA_CLIENT_ID": ""}), "KAFKA_CLIENT_ID") == ("tandem", "default")


def test_an_empty_variable_does_not_push_out_the_dotenv_file(tmp_path: Path) -> None:
    dotenv = file(tmp_path, "KAFKA_CLIENT_ID=from-file\n", ".env")
    assert read({"KAFKA_CLIENT_ID": ""}, dotenv)[KafkaSettings].client_id == "from-file"


@pytest.mark.parametrize(
    ("misspelt", "right"),
    [
        ("KAFKA_BOOTSTRAP_SERVER", "KAFKA_BOOTSTRAP_SERVERS"),
        ("KAFKA_TOPICS_PREFIX", "KAFKA_TOPIC_PREFIX"),
        ("PROCESSOR_COMMIT_EVERY_EVENT", "PROCESSOR_COMMIT_EVERY_EVENTS"),
        ("PROCESSOR_WINDOWSIZE", "PROCESSOR_WINDOW_SIZE"),
        ("LOG_LEVL", "LOG_LEVEL"),
        ("KAFKA_SASL_PASWORD_FILE", "KAFKA_SASL_PASSWORD"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_right_name(misspelt: str, right: str) -> None:
    (problem,) = refused({misspelt: "x"})
    assert problem == f"{misspelt}: there is no such setting; did you mean {right}?"


def test_a_variable_that_is_near_nothing_gets_the_list_of_what_there_is() -> None:
    (problem,) = refused({"PROCESSOR_XYZZY": "1"})
    assert "PROCESSOR_WINDOW_SIZE" in problem


def test_a_misspelt_variable_in_the_dotenv_file_is_refused_too(tmp_path: Path) -> None:
    dotenv = file(tmp_path, "LOG_LEVL=debug\n", ".env")
    assert refused({}, dotenv) == ["LOG_LEVL: there is no such setting; did you mean LOG_LEVEL?"]


def test_variables_of_a_service_that_is_not_this_one_are_not_looked_at() -> None:
    load(KafkaSettings, environ={"PROCESSOR_WINDOW_SIZE": "10", "GENERATOR_RATE": "max"}, dotenv=None)


@pytest.mark.parametrize(
    "variable",
    [
        "KAFKA_SERVICE_HOST",
        "KAFKA_SERVICE_PORT",
        "KAFKA_SERVICE_PORT_CLIENT",
        "KAFKA_PORT",
        "KAFKA_PORT_9092_TCP",
        "KAFKA_PORT_9092_TCP_ADDR",
        "KAFKA_PORT_9092_TCP_PROTO",
        "KAFKA_BOOTSTRAP_SERVICE_HOST",
        "KAFKA_0_SERVICE_HOST",
        "KAFKA_0_PORT_9092_TCP_PORT",
        "PROCESSOR_SERVICE_PORT_HTTP",
        "HTTP_PROXY",
        "KAFKA_HEAP_OPTS",
        "KAFKA_JMX_PORT",
    ],
)
def test_what_kubernetes_and_kafkas_own_tools_put_there_is_tolerated(variable: str) -> None:
    read({variable: "tcp://10.0.0.7:9092"})


def test_all_problems_come_in_one_message() -> None:
    problems = refused(
        {
            "KAFKA_BOOTSTRAP_SERVERS": "http://kafka:9092,b",
            "KAFKA_TOPIC_PARTITIONS": "0",
            "KAFKA_TOPC_PREFIX": "x",
            "PROCESSOR_WINDOW_SIZE": "ten",
            "PROCESSOR_COMMIT_EVERY_EVENTS": "0",
            "PROCESSOR_COMMIT_EVERY_MILLISECONDS": "0",
            "PROCESSOR_COMMIT_WHEN_CAUGHT_UP": "false",
            "HTTP_PORT": "70000",
            "LOG_FORMAT": "xml",
        }
    )
    beginnings = sorted(problem.split(":")[0] for problem in problems)
    assert beginnings == [
        "HTTP_PORT",
        "KAFKA_BOOTSTRAP_SERVERS",
        "KAFKA_TOPC_PREFIX",
        "KAFKA_TOPIC_PARTITIONS",
        "LOG_FORMAT",
        "PROCESSOR_WINDOW_SIZE",
        "nothing would ever be committed",
    ]


def test_the_message_has_a_line_for_each_problem() -> None:
    with pytest.raises(BadConfigurationError) as caught:
        read({"HTTP_PORT": "x", "LOG_LEVEL": "loud"})
    assert str(caught.value).splitlines()[0] == "2 problems in the configuration:"
    assert len(str(caught.value).splitlines()) == 3


def test_a_bad_value_is_shown() -> None:
    (problem,) = refused({"PROCESSOR_WINDOW_SIZE": "ten"})
    assert "'ten'" in problem


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KAFKA_BOOTSTRAP_SERVERS", ","),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka:0"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka:65536"),
        ("KAFKA_TOPIC_PREFIX", "with space"),
        ("KAFKA_UNAVAILABLE_SECONDS", "nan"),
        ("KAFKA_UNAVAILABLE_SECONDS", "inf"),
        ("KAFKA_UNAVAILABLE_SECONDS", "0"),
        ("KAFKA_REQUEST_TIMEOUT_SECONDS", "-1"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("KAFKA_SSL_CAFILE", "/no/such/file.pem"),
        ("PROCESSOR_TOPOLOGIES", ","),
        ("PROCESSOR_TOPOLOGIES", "behavior,behavior"),
        ("PROCESSOR_GUARANTEE", "at_most_once"),
        ("PROCESSOR_ALERT_HYSTERESIS", "nan"),
        ("PROCESSOR_ALERT_HYSTERESIS", "-0.1"),
        ("PROCESSOR_SESSION_TIMEOUT_SECONDS", "nan"),
        ("PROCESSOR_STATE_MAX_KEYS", "0"),
        ("PROCESSOR_INSTANCE_ID", "a b"),
        ("PROCESSOR_COMMIT_EVERY_EVENTS", "-1"),
        ("PROCESSOR_COMMIT_WHEN_CAUGHT_UP", "perhaps"),
    ],
)
def test_a_value_outside_its_domain_is_refused_by_the_name_of_its_variable(variable: str, value: str) -> None:
    (problem,) = refused({variable: value})
    assert problem.startswith(f"{variable}: ")


# Secrets


def test_a_secret_may_come_from_a_file_with_its_line_end_cut_off(tmp_path: Path) -> None:
    path = file(tmp_path, f"{SECRET}\r\n")
    settings = read(LOGIN | {"KAFKA_SASL_PASSWORD_FILE": str(path)})
    password = settings[KafkaSettings].sasl_password
    assert password is not None
    assert password.get_secret_value() == SECRET
    assert origin(settings, "KAFKA_SASL_PASSWORD") == ("********", f"file {path}")


def test_any_setting_may_come_from_a_file(tmp_path: Path) -> None:
    path = file(tmp_path, "7\n")
    assert read({"PROCESSOR_WINDOW_SIZE_FILE": str(path)})[ProcessorSettings].window_size == 7


def test_a_file_that_can_not_be_read_is_a_problem_among_the_others(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    problems = refused(
        {
            "KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "nowhere"),
            "KAFKA_SASL_USERNAME_FILE": str(tmp_path / "binary"),
            "HTTP_PORT": "x",
        }
    )
    assert (
        f"KAFKA_SASL_PASSWORD_FILE: {tmp_path}/nowhere can't be read: No such file or directory" in problems
    )
    assert f"KAFKA_SASL_USERNAME_FILE: {tmp_path}/binary can't be read: it is not UTF-8 text" in problems
    assert len(problems) == 3


@pytest.mark.parametrize("names", [("", "_FILE"), ("_FILE", "")])
def test_a_value_and_a_file_for_the_same_setting_are_one_too_many(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    values = {"": SECRET, "_FILE": str(file(tmp_path, SECRET))}
    environ = {f"KAFKA_SASL_PASSWORD{name}": values[name] for name in names}
    assert refused(environ) == [
        "KAFKA_SASL_PASSWORD: set twice, also by KAFKA_SASL_PASSWORD_FILE; keep one of them"
    ]


def test_a_value_in_the_environment_pushes_a_file_out_of_dotenv(tmp_path: Path) -> None:
    dotenv = file(tmp_path, f"KAFKA_SASL_PASSWORD_FILE={tmp_path}/nowhere\n", ".env")
    settings = read(LOGIN | {"KAFKA_SASL_PASSWORD": SECRET}, dotenv)
    assert origin(settings, "KAFKA_SASL_PASSWORD") == ("********", "environment")


def test_a_file_in_the_environment_pushes_a_value_out_of_dotenv(tmp_path: Path) -> None:
    dotenv = file(tmp_path, "KAFKA_SASL_PASSWORD=other\n", ".env")
    path = file(tmp_path, SECRET)
    settings = read(LOGIN | {"KAFKA_SASL_PASSWORD_FILE": str(path)}, dotenv)
    assert origin(settings, "KAFKA_SASL_PASSWORD") == ("********", f"file {path}")


def test_no_secret_is_shown_by_anything_that_holds_it() -> None:
    settings = read(LOGIN | {"KAFKA_SASL_PASSWORD": SECRET, "KAFKA_SSL_KEY_PASSWORD": SECRET})
    shown = [settings[KafkaSettings], settings.origins, settings, settings[KafkaSettings].model_dump()]
    assert all(SECRET not in f"{one!r} {one}" for one in shown)


@pytest.mark.parametrize(
    "wrong",
    [
        {"KAFKA_SECURITY_PROTOCOL": "SASL"},
        {"KAFKA_SASL_USERNAME": ""},
        {"KAFKA_SASL_MECHANISM": SECRET},
        {"KAFKA_SSL_KEYFILE": __file__},
        {"KAFKA_CLIENT_ID": "x" * 201},
        {"KAFKA_SASL_PASWORD": SECRET},
        {"KAFKA_SASL_USERNAME": SECRET, "KAFKA_SASL_MECHANISM": "x"},
    ],
    ids=repr,
)
def test_no_message_holds_a_secret_whatever_else_is_wrong(wrong: dict[str, str]) -> None:
    with pytest.raises(BadConfigurationError) as caught:
        read(LOGIN | {"KAFKA_SASL_PASSWORD": SECRET} | wrong)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__


def test_a_group_that_is_made_by_hand_does_not_tell_a_bad_value_either() -> None:
    with pytest.raises(ValidationError) as caught:
        KafkaSettings.model_validate({"sasl_password": [SECRET]})
    assert SECRET not in str(caught.value)


def test_a_login_needs_its_name_and_its_password() -> None:
    (problem,) = refused(LOGIN)
    assert "KAFKA_SASL_PASSWORD_FILE" in problem


def test_a_key_needs_its_certificate() -> None:
    assert refused({"KAFKA_SSL_KEYFILE": __file__}) == ["KAFKA_SSL_KEYFILE needs KAFKA_SSL_CERTFILE"]


# Presets


def everything(environ: dict[str, str]) -> Settings:
    groups = (KafkaSettings, GeneratorSettings, ProcessorSettings)
    return load(*groups, environ=environ, dotenv=None)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_what_there_is_and_says_so(name: Preset) -> None:
    plain, preset = everything({}), everything({"KAFKA_PRESET": name})
    for variable, value in PRESETS[name].items():
        shown, source = origin(preset, variable)
        assert (shown.removesuffix(".0").lower(), source) == (value, f"preset {name}")
        assert origin(plain, variable) != origin(preset, variable)
        assert origin(plain, variable)[0] != value, "it says something else than the default"
    others = {one.variable for one in preset.origins if one.source == "default"}
    assert not others & PRESETS[name].keys()


def test_what_is_set_pushes_out_what_a_preset_says(tmp_path: Path) -> None:
    validation = file(tmp_path, "counted", "validation")
    found = everything(
        {
            "KAFKA_PRESET": "durable",
            "KAFKA_TOPIC_REPLICATION": "1",
            "PROCESSOR_VALIDATION_FILE": str(validation),
        }
    )
    assert origin(found, "KAFKA_TOPIC_REPLICATION") == ("1", "environment")
    assert origin(found, "PROCESSOR_VALIDATION") == ("counted", f"file {validation}")
    assert origin(found, "KAFKA_UNAVAILABLE_SECONDS") == ("3600.0", "preset durable")


def test_a_preset_may_stand_in_a_file(tmp_path: Path) -> None:
    found = everything({"KAFKA_PRESET_FILE": str(file(tmp_path, "durable", "preset"))})
    assert origin(found, "PROCESSOR_VALIDATION") == ("full", "preset durable")


def test_a_preset_that_is_none_is_refused_with_those_there_are() -> None:
    (problem,) = refused({"KAFKA_PRESET": "fast"})
    assert problem.startswith("KAFKA_PRESET: ")
    assert all(name in problem for name in PRESETS)


def test_a_preset_and_a_setting_that_do_not_go_together_name_the_settings() -> None:
    with pytest.raises(BadConfigurationError, match="GENERATOR_BUFFER_BYTES has to be 4 times"):
        everything({"KAFKA_PRESET": "throughput", "GENERATOR_BUFFER_BYTES": "1048576"})


# The .env file


def test_a_dotenv_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    dotenv = file(tmp_path, "# development\nKAFKA_CLIENT_ID=from-file\nHTTP_PORT=1\nOTHER=x\n", ".env")
    settings = read({"HTTP_PORT": "2"}, dotenv)
    assert origin(settings, "KAFKA_CLIENT_ID") == ("from-file", ".env")
    assert origin(settings, "HTTP_PORT") == ("2", "environment")


def test_a_dotenv_file_that_is_not_there_is_no_problem(tmp_path: Path) -> None:
    assert read({}, tmp_path / ".env")[KafkaSettings].client_id == "tandem"


def test_a_group_never_looks_into_the_environment_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "debug")
    assert LogSettings().level == "info"


def test_without_an_environment_handed_in_the_processes_own_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "debug")
    assert load(LogSettings, dotenv=None)[LogSettings].level == "debug"


@given(st.dictionaries(st.sampled_from(sorted(HttpSettings.variables().values())), st.text(max_size=5)))
def test_any_text_is_either_a_setting_or_a_problem_with_its_name(environ: dict[str, str]) -> None:
    try:
        load(HttpSettings, environ=environ, dotenv=None)
    except BadConfigurationError as error:
        problems = error.problems
    else:
        problems = []
    assert all(problem.startswith(tuple(environ)) for problem in problems)


def test_a_group_of_ones_own_is_read_like_those_of_the_services() -> None:
    class Own(Group):
        model_config = SettingsConfigDict(env_prefix="OWN_")
        token: SecretStr = SecretStr("")

    settings = load(Own, environ={"OWN_TOKEN": SECRET}, dotenv=None)
    assert settings[Own].token.get_secret_value() == SECRET
    assert origin(settings, "OWN_TOKEN") == ("********", "environment")


# The processor's


def thresholds(text: str) -> dict[str, Thresholds]:
    return read({"PROCESSOR_THRESHOLDS": text})[ProcessorSettings].thresholds


def test_the_bounds_of_the_reference_system_are_the_defaults() -> None:
    assert read({})[ProcessorSettings].thresholds == {
        "temperature": Thresholds(10.0, 80.0),
        "cpu_usage": Thresholds(None, 90.0),
        "memory_usage": Thresholds(None, 85.0),
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("temperature:10:80", {"temperature": Thresholds(10.0, 80.0)}),
        ("cpu::90", {"cpu": Thresholds(None, 90.0)}),
        ("cpu:5:", {"cpu": Thresholds(5.0, None)}),
        ("cpu::", {"cpu": Thresholds(None, None)}),
        ("a:-1.5:1e3, b:0:0 ,", {"a": Thresholds(-1.5, 1_000.0), "b": Thresholds(0.0, 0.0)}),
        ("rack:7:max:1:2", {"rack:7:max": Thresholds(1.0, 2.0)}),
        (",", {}),
    ],
)
def test_thresholds_are_written_sensor_min_max(text: str, expected: dict[str, Thresholds]) -> None:
    assert thresholds(text) == expected


@pytest.mark.parametrize("entry", ["temperature", "temperature:10", ":10:80", "::"])
def test_an_entry_of_another_shape_is_refused_with_the_shape_it_should_have(entry: str) -> None:
    (problem,) = refused({"PROCESSOR_THRESHOLDS": f"cpu::90,{entry}"})
    assert problem.startswith(f"PROCESSOR_THRESHOLDS: '{entry}' is not sensor:min:max")


@pytest.mark.parametrize("bounds", ["low:high", "80:10", "nan:", ":nan", "nan:nan", "-inf:", ":inf", "1:inf"])
def test_bounds_that_are_no_ordered_numbers_are_refused(bounds: str) -> None:
    (problem,) = refused({"PROCESSOR_THRESHOLDS": f"cpu:{bounds}"})
    assert problem.startswith("PROCESSOR_THRESHOLDS: the bounds of cpu have to be numbers")


TABLES = """
# Of the server room.
[temperature]
min = 10
max = 80.5

[cpu_usage]
max = 90

["rack 7, left"]
"""


def test_thresholds_may_be_tables_of_toml_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "thresholds.toml"
    file.write_text(TABLES)
    assert read({"PROCESSOR_THRESHOLDS_FILE": str(file)})[ProcessorSettings].thresholds == {
        "temperature": Thresholds(10.0, 80.5),
        "cpu_usage": Thresholds(None, 90.0),
        "rack 7, left": Thresholds(None, None),
    }


@pytest.mark.parametrize("text", ["cpu = {max = 90}", "cpu.max = 90", "[cpu]\nmax = 90"])
def test_however_toml_writes_a_table(text: str) -> None:
    assert thresholds(text) == {"cpu": Thresholds(None, 90.0)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[cpu]\nmax = ", "it is no TOML: "),
        ("[cpu]\nmax = 90\n[cpu]\nmin = 1", "it is no TOML: "),
        ("cpu = 90", "cpu has to be a table with min, max or both"),
        ("[cpu]\nmaximum = 90", "[cpu] has maximum: a sensor has min, max or both"),
        ('[cpu]\nmax = "90"', "max of [cpu] has to be a number"),
        ("[cpu]\nmax = true", "max of [cpu] has to be a number"),
        ("[cpu]\nmin = 90\nmax = 10", "the bounds of cpu have to be numbers, min not above max"),
        ("[cpu]\nmax = nan", "the bounds of cpu have to be numbers, min not above max"),
        (f"[cpu]\nmax = {'9' * 400}", "the bounds of cpu are too large"),
        ("cpu::90,cpu::80", "cpu is named twice"),
    ],
)
def test_thresholds_that_are_wrong_name_the_sensor_and_what_is_wrong(text: str, said: str) -> None:
    (problem,) = refused({"PROCESSOR_THRESHOLDS": text})
    assert problem.startswith(f"PROCESSOR_THRESHOLDS: {said}")


@pytest.mark.parametrize(
    ("events", "milliseconds", "caught_up"),
    [("10", "0", "false"), ("0", "100", "false"), ("0", "0", "true")],
)
def test_one_way_to_commit_is_enough(events: str, milliseconds: str, caught_up: str) -> None:
    read(
        {
            "PROCESSOR_COMMIT_EVERY_EVENTS": events,
            "PROCESSOR_COMMIT_EVERY_MILLISECONDS": milliseconds,
            "PROCESSOR_COMMIT_WHEN_CAUGHT_UP": caught_up,
        }
    )


def test_settings_by_which_nothing_is_ever_committed_are_refused() -> None:
    (problem,) = refused(
        {
            "PROCESSOR_COMMIT_EVERY_EVENTS": "0",
            "PROCESSOR_COMMIT_EVERY_MILLISECONDS": "0",
            "PROCESSOR_COMMIT_WHEN_CAUGHT_UP": "no",
        }
    )
    assert problem.startswith("nothing would ever be committed")


def processor(**changes: Any) -> ProcessorSettings:
    return ProcessorSettings(**changes)


@pytest.mark.parametrize(
    ("partitions", "kibibytes"), [(0, 1024), (1, 1024), (16, 1024), (32, 512), (48, 341), (1_000, 64)]
)
def test_many_partitions_share_what_fetches_may_bring(partitions: int, kibibytes: int) -> None:
    assert processor().fetch_bytes(partitions) // 1024 == kibibytes


def test_a_fetch_brings_no_more_than_is_set_for_one_partition() -> None:
    settings = processor(fetch_max_partition_bytes=10_000)
    assert [settings.fetch_bytes(count) for count in (1, 1_000)] == [10_000, 10_000]
