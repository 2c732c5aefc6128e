"""Results as JSON lines: kept at once, torn at worst in their last line."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from qiml.errors import DatasetError
from qiml.studies.records import append_record, finished, read_records
from qiml.studies.study import Cell, SyntheticData


def test_records_come_back_in_order(tmp_path):
    path = tmp_path / "new" / "study.jsonl"
    assert read_records(path) == []
    for seed in range(3):
        append_record(path, {"identity": "ab12", "seed": seed})
    assert [record["seed"] for record in read_records(path)] == [0, 1, 2]


def test_studies_that_write_to_one_file_lose_nothing(tmp_path):
    def write(seed):
        for number in range(50):
            append_record(tmp_path / "study.jsonl", {"identity": f"{number}", "seed": seed})

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(4)))
    assert len(read_records(tmp_path / "study.jsonl")) == 200


def test_a_run_that_another_study_has_is_finished(tmp_path):
    data = SyntheticData("96x64", 8, 4, 3)
    cells = [Cell("mine", "g", "v", seed, "c.yaml", (), data, 0, "ab12") for seed in (1, 2)]
    append_record(tmp_path / "other.jsonl", {"identity": "ab12", "seed": 2, "variant": "w"})
    append_record(tmp_path / "other.jsonl", {"identity": "cd34", "seed": 1, "variant": "v"})
    assert [cell.seed for cell in finished(cells, tmp_path)] == [2]


@pytest.mark.parametrize("kept", [1, 2, 7, 11, 20, 36])
def test_a_line_torn_by_a_crash_is_forgotten_and_written_over(tmp_path, kept):
    path = tmp_path / "study.jsonl"
    one, three = ({"identity": "ab12", "seed": seed} for seed in (1, 3))
    append_record(path, one)
    whole = path.read_bytes()
    path.write_bytes(whole + json.dumps({"seed": 20, "identity": "é"}).encode()[:kept])
    assert read_records(path) == [one]
    append_record(path, three)
    assert read_records(path) == [one, three]


@pytest.mark.parametrize("damaged", ['{"seed"', "[1]", "3", '{"seed": 2}', ""])
@pytest.mark.parametrize("behind", ["", '{"identity": "cd34", "seed": 3}\n'])
def test_a_damaged_line_is_named(tmp_path, damaged, behind):
    path = tmp_path / "study.jsonl"
    path.write_text(f'{{"identity": "ab12", "seed": 1}}\n{damaged}\n{behind}')
    with pytest.raises(DatasetError, match=r"study\.jsonl:2"):
        read_records(path)
