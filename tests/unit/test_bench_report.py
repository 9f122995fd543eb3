"""What a comparison says: medians, ranges, and ratios taken within a round."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from bench.entries import ENTRIES, OURS
from bench.report import Run, markdown, rows, svg


def run(entry: str, number: int, seconds: float, *, peak: float = 50.0) -> Run:
    return Run(entry, number, 1_000, seconds, 0.002, peak)


RUNS = [
    *(run(OURS, number, seconds) for number, seconds in enumerate((1.0, 2.0, 4.0))),
    *(run("quix", number, seconds, peak=50.0 + number) for number, seconds in enumerate((4.0, 4.0, 40.0))),
]


def test_a_row_has_the_median_the_range_and_ratios_of_the_same_round() -> None:
    ours, quix = rows(RUNS)
    assert (ours.entry, ours.rate, ours.rates) == (OURS, 500.0, [250.0, 500.0, 1_000.0])
    assert (quix.rate, quix.peak_mebibytes, quix.cpu_per_million) == (250.0, 52.0, 2.0)
    # 1000 to 250, 500 to 250, 250 to 25: not the medians' ratio.
    assert quix.ratios == [2.0, 4.0, 10.0]


def test_the_table_has_the_fastest_first_and_ours_stands_out() -> None:
    lines = markdown(rows(RUNS), "a machine").splitlines()
    assert lines[0] == "a machine"
    assert lines[4].startswith("| **Tandem processor")
    assert "| 500 (250 to 1,000) | 2.00 | 50 |  |" in lines[4]
    assert lines[5].endswith("| 250 (25 to 250) | 2.00 | 52 | 4.00 times (2.00 to 10.00) |")


def test_without_ours_there_are_no_ratios() -> None:
    (quix,) = rows(RUNS[3:])
    assert quix.ratios == []
    assert markdown([quix], "").endswith("| 52 |  |")


def test_the_picture_is_xml_with_a_bar_for_each() -> None:
    picture = ET.fromstring(svg(rows(RUNS), "2 cores <&>"))
    space = "{http://www.w3.org/2000/svg}"
    texts = [one.text for one in picture.iter(f"{space}text")]
    assert ENTRIES["quix"].title in texts
    assert "500" in texts
    widths = [float(one.attrib["width"]) for one in picture.iter(f"{space}rect")][1:]
    assert widths == [widths[0], widths[0] / 2]


def test_every_entry_says_what_it_makes_durable() -> None:
    assert all(entry.title and entry.durability for entry in ENTRIES.values())
    assert not ENTRIES["aiokafka-drain"].counts
