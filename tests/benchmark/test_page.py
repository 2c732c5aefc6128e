import json

import pytest

from qiml.benchmark.page import Report
from qiml.benchmark.records import (
    Aim,
    Arithmetic,
    Comparison,
    Detection,
    Growth,
    Measure,
    Phases,
    Term,
    duration,
)

RECORDS = (
    Comparison("step", "official style", 9.0, 2.0, aim=Aim(5)),
    Comparison("small step", "official style", 9.0, 1.0),
    Phases("ours", {"data": 0.5, "forward": 1.5}),
    Arithmetic("ours", 6e11, 4.0, 2e11),
    Term("metric loss", 0.001, 2.0, aim=Aim(1, at_most=True)),
    Detection("ours", 8, 1_410_070, 4.0, 3 * 2**20),
    Measure("loading", 61.26, "images/s", aim=Aim(60)),
    Growth("losses", "objects", (10, 20, 40), (1.0, 4.0, 16.0)),
)
REPORT = Report("python x.py", {"processor": "Z"}, "on the clock", RECORDS)


def rows_of(title):
    """Cells of the table of a section."""
    section = REPORT.markdown().split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_aims_say_whether_they_were_reached():
    assert rows_of("Aims") == [
        ["step", "≥ 5", "4.5 × official style", "no"],
        ["metric loss", "≤ 1", "0.05 % of a step", "yes"],
        ["loading", "≥ 60", "61.3 images/s", "yes"],
    ]


@pytest.mark.parametrize(
    ("title", "first"),
    [
        ("Ratios", ["step", "4.50×", "2 s", "official style", "9 s"]),
        ("Where a step's time goes", ["ours", "500 ms", "1.5 s", "2 s"]),
        ("What still costs", ["ours", "600 G", "4 s", "150 G/s", "200 G/s", "3 s"]),
        ("Losses and targets", ["metric loss", "1 ms", "0.05%"]),
        ("Inference", ["ours", "8", "1,410,070", "4 s", "2", "3 MiB"]),
        ("Others", ["loading", "61.3 images/s"]),
        ("As work grows", ["losses", "objects", "10: 1 s, 20: 4 s, 40: 16 s", "2.00"]),
    ],
)
def test_tables_of_the_page(title, first):
    assert rows_of(title)[0] == first


def test_page_names_command_machine_and_clock():
    page = REPORT.markdown()
    assert "python x.py" in page and "processor Z" in page and "on the clock" in page


def test_terminal_shows_all_records():
    text = REPORT.text()
    assert all(record.what in text for record in RECORDS)


def test_json_holds_numbers_and_what_follows_from_them():
    results = json.loads(REPORT.json())["results"]
    assert [r["kind"] for r in results] == [type(r).__name__ for r in RECORDS]
    assert results[0]["ratio"] == 4.5 and results[0]["aim"] == {"value": 5, "at_most": False}
    assert results[4]["share"] == 0.0005
    assert results[-1]["exponent"] == pytest.approx(2)


def test_tables_without_rows_are_left_out():
    assert "Inference" not in Report("x", {}, "x", RECORDS[:1]).markdown()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1234.5, "1234 s"),
        (61.26, "61.3 s"),
        (1.0, "1 s"),
        (0.0123, "12.3 ms"),
        (9.87e-5, "98.7 µs"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
