"""The alert rules hold together: with the metrics, with the page on operations, and with their own tests.

Whether they fire when they should is for promtool: `make test TIERS=rules`.
"""

from __future__ import annotations

import re

import pytest

from tests.unit import operations_text
from tests.unit.operations_text import ROOT

FOLDER = ROOT / "deploy" / "prometheus"
RULES = (FOLDER / "alerts.yml").read_text(encoding="utf-8")
TESTS = (FOLDER / "alerts.test.yml").read_text(encoding="utf-8")
EXAMPLE = (FOLDER / "prometheus.yml").read_text(encoding="utf-8")

OF_PROMETHEUS = {"up"}
OPERATORS = {"and", "or", "unless"}
LABELS_OF_PROMETHEUS = {"job", "instance", "le"}
FIELDS = ("expr", "severity", "summary", "description", "runbook_url")


def read_rules() -> dict[str, dict[str, str]]:
    """Return the fields of each alert. The file keeps to one line for each; promtool reads it as YAML."""
    found: dict[str, dict[str, str]] = {}
    for block in re.split(r"^ +- alert: ", RULES, flags=re.MULTILINE)[1:]:
        name, _, rest = block.partition("\n")
        assert name not in found, f"{name} stands there twice"
        found[name] = dict(re.findall(r"^ +(\w+): +(\S.*)$", rest, re.MULTILINE))
    return found


ALERTS = read_rules()
each_alert = pytest.mark.parametrize("name", ALERTS)


def metrics_of(expression: str) -> set[str]:
    """Return the names of the metrics in a PromQL expression: what is no word of the language."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\boffset\s+\w+", "", bare)
    words = re.findall(r"[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)
    return set(words) - OPERATORS


def labels_of(expression: str) -> set[str]:
    lists = re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", expression)
    matchers = re.findall(r"\{([^}]*)\}", expression)
    named = [label.strip() for one in lists for label in one.split(",") if label.strip()]
    return {*named, *(label for one in matchers for label in re.findall(r"(\w+)\s*[=!]~?", one))}


def samples() -> set[str]:
    registry, _ = operations_text.everything()
    names = set(OF_PROMETHEUS) | {name for name in operations_text.documented() if name[:8] == "process_"}
    for name, kind in operations_text.types(registry).items():
        ends = ("_bucket", "_count", "_sum") if kind == "histogram" else ("",)
        names |= {name + end for end in ends}
    return names


def test_names_of_metrics_are_found_in_an_expression() -> None:
    expression = (
        'sum by (job, le) (rate(a_total{x="b_total"}[5m])) > on (job) group_left () (0.9 * c) unless d '
        "offset 10m or absent(up)"
    )
    assert metrics_of(expression) == {"a_total", "c", "d", "up"}
    assert labels_of(expression) == {"job", "le", "x"}


def test_there_are_rules() -> None:
    assert len(ALERTS) == RULES.count("alert:") > 20


@each_alert
def test_an_alert_says_what_is_wrong_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert re.fullmatch(r"Tandem[A-Z][A-Za-z]+", name)
    assert not [field for field in FIELDS if not rule.get(field, "").strip('"')]
    assert rule["severity"] in {"critical", "warning"}
    assert len(rule["description"]) > len(rule["summary"]) > 20


@each_alert
def test_an_alert_asks_for_metrics_that_exist(name: str) -> None:
    asked = metrics_of(ALERTS[name]["expr"])
    assert asked, "it asks for nothing"
    assert asked <= samples()


@each_alert
def test_an_alert_uses_labels_that_exist(name: str) -> None:
    rule = ALERTS[name]
    known = set(LABELS_OF_PROMETHEUS)
    for metric in metrics_of(rule["expr"]):
        _, labels = operations_text.documented().get(re.sub(r"_(bucket|count|sum)$", "", metric), ("", ()))
        known |= set(labels)
    shown = set(re.findall(r"\$labels\.(\w+)", rule["summary"] + rule["description"]))
    assert labels_of(rule["expr"]) | shown <= known


@each_alert
def test_an_alert_leads_to_the_section_that_names_it(name: str) -> None:
    page, _, anchor = ALERTS[name]["runbook_url"].partition("#")
    assert (ROOT / page).is_file()
    assert page == "docs/operations.md"
    assert f"`{name}`" in operations_text.sections()[anchor]


def test_the_page_names_no_alert_that_does_not_exist() -> None:
    assert set(re.findall(r"`(Tandem\w+)`", operations_text.OPERATIONS)) == set(ALERTS)


@each_alert
def test_an_alert_is_tested_firing_and_not_firing(name: str) -> None:
    cases = re.findall(rf'alertname="{name}", alertstate="firing".*\n.*\n +exp_samples:(.*)', TESTS)
    assert any(case.strip() == "[]" for case in cases), "no case in which it does not fire"
    assert any(not case.strip() for case in cases), "no case in which it fires"


def test_the_tests_name_no_alert_that_does_not_exist() -> None:
    assert set(re.findall(r'alertname="(\w+)"', TESTS)) == set(ALERTS)


def test_the_example_has_the_jobs_that_the_rules_ask_for() -> None:
    jobs = set(re.findall(r"job_name: (\S+)", EXAMPLE))
    assert jobs == {"tandem-generator", "tandem-processor"}
    for pattern in re.findall(r'job=~?"([^"]+)"', RULES):
        assert any(re.fullmatch(pattern, job) for job in jobs), pattern
