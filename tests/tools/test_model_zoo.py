"""The page is what tools/model_zoo.py would write; to measure every config anew takes it a minute."""

import json

import pytest

from tools import model_zoo
from tools.model_zoo import Cost, configs, measure, our_result, render


@pytest.fixture(scope="module")
def printed():
    """{config: Cost} of the committed page."""
    rows = [line for line in model_zoo.PAGE.read_text().splitlines() if line.startswith("| [`")]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    return {name.split("`")[1]: Cost(*costs[:3]) for name, *costs in cells}


def test_every_config_has_its_row(printed):
    """After a new config: python tools/model_zoo.py."""
    assert list(printed) == [path.stem for path in configs()]


def test_all_but_the_measurements_is_up_to_date(printed):
    assert model_zoo.PAGE.read_text() == render(printed)


@pytest.mark.parametrize("name", ["monocon_dla34_qi_depth"])
def test_measurements_are_up_to_date(printed, name):
    assert measure(model_zoo.CONFIGS / f"{name}.yaml") == printed[name]


def test_the_losses_cost_nothing_at_inference(printed):
    plain = {name: cost for name, cost in printed.items() if name.endswith("dla34")}
    assert len(plain) >= 2
    for name, cost in printed.items():
        assert cost == plain[name.partition("dla34")[0] + "dla34"]


def test_smaller_inputs_cost_less(tmp_path):
    costs = []
    for size in ("(96, 64)", "(192, 64)"):
        path = tmp_path / "tiny.yaml"
        text = (model_zoo.ROOT / "tests" / "tiny.yaml").read_text().replace("(96, 64)", size)
        path.write_text(
            text.replace("channels: [16, 16, 32, 32]", "channels: [128, 128, 256, 256]")
        )
        costs.append(measure(path))
    assert costs[0].parameters == costs[1].parameters
    assert 0 < float(costs[0].multiply_adds[:-2]) < float(costs[1].multiply_adds[:-2])


def test_results_of_ours(printed, tmp_path, monkeypatch):
    monkeypatch.setattr(model_zoo, "RESULTS", tmp_path)
    assert our_result("monocon_dla34") is None
    results = {"results": {"Car": {"AP40": {"3d": [30.125, 20.5, 10.0]}}}}
    (tmp_path / "monocon_dla34.json").write_text(json.dumps(results))
    (row,) = [r for r in render(printed).splitlines() if "[`monocon_dla34`]" in r]
    assert row.endswith("| 30.12 / 20.50 / 10.00 |")
