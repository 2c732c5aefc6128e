"""Results as JSON lines: kept at once, torn at worst in their last line."""

import json

import pytest

from qiml.errors import DatasetError
from qiml.studies.records import append_record, read_records


def test_records_come_back_in_order(tmp_path):
    path = tmp_path / "new" / "study.jsonl"
    assert read_records(path) == []
    for seed in range(3):
        append_record(path, {"seed": seed})
    assert [record["seed"] for record in read_records(path)] == [0, 1, 2]


@pytest.mark.parametrize("kept", range(1, 12))
def test_a_line_torn_by_a_crash_is_forgotten_and_written_over(tmp_path, kept):
    path = tmp_path / "study.jsonl"
    append_record(path, {"seed": 1})
    whole = path.read_bytes()
    path.write_bytes(whole + json.dumps({"seed": 20}).encode()[:kept])
    assert read_records(path)[0] == {"seed": 1}
    append_record(path, {"seed": 3})
    assert read_records(path) == [{"seed": 1}, {"seed": 3}]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "study.jsonl"
    path.write_text('{"seed": 1}\n{"seed"\n{"seed": 3}\n')
    with pytest.raises(DatasetError, match=r"study\.jsonl:2"):
        read_records(path)
