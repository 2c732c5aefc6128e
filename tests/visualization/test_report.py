"""What a report holds, and what it says about wrong input. How it behaves: test_report_browser.py."""

import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml

from qiml.data.kitti_format import KITTIObjects, read_objects, write_objects
from qiml.visualization import report
from qiml.visualization.report import main, write_report
from qiml.visualization.report_frames import EXCUSED, FALSE_POSITIVE
from qiml.visualization.report_run import read_run, read_runs
from qiml.visualization.report_tables import settings_table


class Page(HTMLParser):
    """Attributes: `scripts` (attributes and text of each), `text` outside of them, `tags`."""

    def __init__(self, path):
        super().__init__()
        self.scripts, self.text, self.tags = [], "", []
        self._inside = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = tag
        if tag == "script":
            self.scripts.append([dict(attributes), ""])

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1][1] += data
        elif self._inside != "style":
            self.text += data

    def json(self, key, value):
        return [
            json.loads(text) for attributes, text in self.scripts if attributes.get(key) == value
        ]

    @property
    def content(self):
        return self.json("id", "content")[0]

    @property
    def pictures(self):
        return self.json("class", "pictures")[0]


@pytest.fixture
def fails(capsys):
    """Run the command, see it fail as it should, and return the message."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        assert caught.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ") and message.count("\n") == 1
        assert "; expected " in message and "To mend it: " in message
        return message

    return run


def evaluation_of(run):
    return json.loads(next(run.glob("kitti_*.json")).read_text())


def test_command_writes_what_the_evaluation_says(make_run, capsys):
    run = make_run("first")
    main([str(run)])
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    page = Page(run / "report.html")
    evaluation = evaluation_of(run)
    for metrics in (evaluation["results"], evaluation["relaxed_results"]):
        for value in metrics["Car"]["AP40"]["3d"]:
            assert f"{value:.2f}" in page.text
    assert f"{evaluation['depth_errors']['Car']['20-40 m']['mean']:.2f}" in page.text
    content = page.content
    (name,) = content["evaluations"]
    curve = content["evaluations"][name]["precision"][0]["strict"]["Car"]["bev"]["hard"]
    expected = evaluation["curves"]["precision"]["strict"]["Car"]["bev"]["hard"]
    np.testing.assert_allclose(curve, expected, atol=1e-4)
    assert content["runs"][0]["metrics"]["total_loss"][0] == [0, 20, 40, 60, 80]
    assert content["galleries"][0]["frames"]["id"] == [f"{i:06d}" for i in range(6)]
    assert len(page.pictures) == 6
    assert not list(run.glob(".tmp-*"))


def test_asks_the_network_for_nothing(make_run):
    run = make_run("first")
    page = Page(write_report([run]))
    for _, attributes in page.tags:
        for key in ("src", "href", "data", "action"):
            assert attributes.get(key, "#").startswith(("#", "data:"))
    policies = [a["content"] for _, a in page.tags if "http-equiv" in a]
    assert policies and "default-src 'none'" in policies[0] and "http" not in policies[0]


def test_outcomes_of_objects_and_detections(make_run):
    """One object found 3 m too far, one missed, one not evaluated; of the detections one is wrong."""
    run = make_run("first", frames=1)
    data = run.parent / "data" / "training" / "label_2" / "000000.txt"
    row = "{} 0 {} 0 {} 100 {} 200 1.5 1.6 3.9 {} 1.6 {} 0"
    data.write_text(
        "DontCare -1 -1 -10 0 100 90 200 -1 -1 -1 -1000 -1000 -1000 -10\n"
        + row.format("Car", 0, 100, 200, -3, 20) + "\n"
        + row.format("Van", 0, 300, 400, 0, 20) + "\n"
        + row.format("Car", 0, 500, 600, 3, 20) + "\n"
        + row.format("Car", 3, 700, 800, 6, 20) + "\n"
    )  # fmt: skip
    results = next((run / "kitti_results").glob("*/data/000000.txt"))
    results.write_text(
        row.format("Car", 0, 700, 800, 6, 20) + " 0.9\n"  # an object that is not evaluated
        + row.format("Car", 0, 900, 990, 9, 30) + " 0.8\n"  # nothing
        + row.format("Car", 0, 101, 200, -3, 23) + " 0.7\n"
        + row.format("Car", 0, 10, 80, -9, 30) + " 0.6\n"  # in the DontCare region
        + row.format("Car", 0, 300, 400, 0, 20) + " 0.5\n"  # a neighbouring class
    )  # fmt: skip
    gallery = Page(write_report([run])).content["galleries"][0]
    objects = gallery["frames"]["objects"][0]
    assert gallery["classes"] == ["Pedestrian", "Car", "Cyclist", "Van"]
    assert [(row[0], row[1]) for row in objects] == [(1, 1), (3, 0), (1, 1), (1, 0)]
    detections = gallery["runs"][0]["detections"][0]
    assert [row[1] for row in detections] == [0.9, 0.8, 0.7, 0.6, 0.5]
    assert [row[2] for row in detections] == [EXCUSED, FALSE_POSITIVE, 0, EXCUSED, EXCUSED]
    assert detections[2][6] - objects[0][4] == pytest.approx(3)
    assert objects[0][3] == pytest.approx(1.6 - 1.5 / 2)  # geometric centre
    assert objects[0][9:] == [100, 100, 200, 200]
    assert detections[2][3] == 0  # 3 m apart across a width of 1.6 m


def test_overlap_of_a_match(make_run):
    run = make_run("first", noise=0)
    gallery = Page(write_report([run])).content["galleries"][0]
    overlaps = [row[3] for own in gallery["runs"][0]["detections"] for row in own if row[2] >= 0]
    assert overlaps and min(overlaps) > 0.98


def test_same_input_same_page(make_run, tmp_path):
    run = make_run("first")
    pages = [write_report([run], tmp_path / name).read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


HOSTILE = "</script><script>window.hacked=1</script>"


def test_names_cannot_become_markup(make_run):
    """In the path, the name of the run, frame ids and metrics."""
    run = make_run(
        f"x{HOSTILE}/\"'><img onerror=hack>&amp;",
        ids=["a\"b'<i>&amp;", "plain"],
        metrics={HOSTILE: 1.0, "\u2028<!--": 2.0},
    )
    page = Page(write_report([run]))
    scripts = [attributes.get("type", "") for attributes, _ in page.scripts]
    assert scripts == ["application/json"] * 2 + ["text/plain", ""]
    assert not [tag for tag, attributes in page.tags if "onerror" in attributes or tag == "i"]
    assert page.content["galleries"][0]["frames"]["id"][0] == "a\"b'<i>&amp;"
    assert page.content["runs"][0]["name"] == "\"'><img onerror=hack>&amp;"
    assert HOSTILE in page.content["runs"][0]["metrics"]
    assert "\"'><img onerror=hack>&amp;" in page.text


def test_runs_are_compared(make_run, tmp_path):
    runs = [make_run("first", noise=0.2), make_run("second", noise=0.02)]
    path = write_report(runs, tmp_path / "compared.html")
    page = Page(path)
    assert not (runs[0] / "report.html").exists()
    assert [run["name"] for run in page.content["runs"]] == ["first", "second"]
    assert [own["run"] for own in page.content["galleries"][0]["runs"]] == [0, 1]
    means = [evaluation_of(run)["depth_errors"]["Car"]["20-40 m"]["mean"] for run in runs]
    assert means[1] < means[0]
    text = path.read_text()
    change = f"{means[1] - means[0]:+.2f}".replace("-", "−")
    assert f'<td class="best">{means[1]:.2f} <small class="better">{change}</small></td>' in text
    assert f"<td>{means[0]:.2f}</td>" in text


def test_settings_name_another_metric_loss(make_run):
    without, with_one = make_run("without"), make_run("with_one")
    for run, name in ((without, ""), (with_one, "triplet")):
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["MODEL"] = {"CONTRASTIVE": {"NAME": name}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    rows = settings_table(read_runs([without, with_one])).rows
    assert ["other metric loss", "–", "triplet"] in [[cell.text for cell in row] for row in rows]


def test_runs_of_one_name_are_told_apart(make_run):
    runs = [make_run("a/run"), make_run("b/run")]
    content = Page(write_report(runs)).content
    assert [run["name"] for run in content["runs"]] == ["a/run", "b/run"]


def test_one_run_was_evaluated_on_other_data(make_run):
    first, second = make_run("first"), make_run("second")
    for path in second.glob("kitti_*.json"):
        path.rename(second / "kitti_other.json")
    page = Page(write_report([first, second]))
    evaluations = page.content["evaluations"]
    assert [report is None for report in evaluations["other"]["precision"]] == [True, False]
    assert "No frames of other are shown" in page.text


def test_pictures_are_of_the_worst_frames(make_run):
    run = make_run("first")
    results = next((run / "kitti_results").glob("*/data"))
    detections = read_objects(results / "000004.txt", scored=True)
    detections.location[:, 2] += 20
    write_objects(results / "000004.txt", detections)
    assert list(Page(write_report([run], pictures=1)).pictures) == ["4"]
    assert Page(write_report([run], pictures=0)).pictures == {}


def test_stays_below_the_limit(make_run, monkeypatch):
    run = make_run("first")
    whole = write_report([run]).stat().st_size
    monkeypatch.setattr(report, "SIZE_LIMIT", whole - 1)
    path = write_report([run])
    assert path.stat().st_size < whole and len(Page(path).pictures) == 5


def test_a_picture_is_left_out_where_its_image_is_damaged(make_run):
    run = make_run("first")
    shown = Page(write_report([run])).pictures.keys()
    (image,) = (run.parent / "data").rglob("000004.png")
    damaged = image.read_bytes()[:-100]
    image.unlink()  # which has other names
    image.write_bytes(damaged)
    assert Page(write_report([run])).pictures.keys() == shown - {"4"}


def test_frames_are_left_out_where_the_data_is_gone(make_run):
    run = make_run("first")
    shutil.rmtree(run.parent / "data")
    page = Page(write_report([run]))
    assert page.content["galleries"] == [] and "image_2: found no such folder" in page.text
    assert f"{evaluation_of(run)['results']['Car']['AP40']['2d'][0]:.2f}" in page.text


def test_nothing_detected(make_run):
    run = make_run("first")
    for path in (run / "kitti_results").glob("*/data/*.txt"):
        write_objects(path, KITTIObjects.empty())
    gallery = Page(write_report([run])).content["galleries"][0]
    assert gallery["runs"][0]["detections"] == [[]] * 6 and gallery["runs"][0]["score"] == 0


def test_waymo_has_tables(tmp_path):
    names = [
        "OBJECT_TYPE_TYPE_VEHICLE",
        *(f"RANGE_TYPE_VEHICLE_{r}" for r in ("[0, 30)", "[30, 50)")),
    ]
    rows = {
        f"{name}_LEVEL_{level}": {"AP": 0.4321, "APH": 0.3} for name in names for level in (1, 2)
    }
    content = {
        "protocol": "official",
        "iou": {"VEHICLE": 0.7, "SIGN": 0.5},
        "frames": 20,
        "results": rows,
    }
    (tmp_path / "waymo_val_official.json").write_text(json.dumps(content))
    page = Page(write_report([tmp_path]))
    assert "Waymo 3D detection, official metric" in page.text and "43.21" in page.text
    assert page.content["galleries"] == []
    assert "No frames of Waymo's are shown" in page.text
    assert "Sign" not in page.text


def test_run_that_is_being_written(make_run):
    run = make_run("first", metrics={"odd": float("nan")})
    with open(run / "metrics.json", "a") as file:
        file.write('{"iteration": 100, "total')
    assert len(read_run(run).metrics["total_loss"][0]) == 5
    assert Page(write_report([run])).content["runs"][0]["metrics"]["odd"][1] == [None] * 5


def test_long_curves_are_thinned(make_run, monkeypatch):
    run = make_run("first")
    monkeypatch.setattr(report, "_POINTS", 3)
    metrics = Page(write_report([run])).content["runs"][0]["metrics"]
    assert metrics["lr"][0] == [0, 40, 80]


# --- Wrong input


def test_no_such_folder(fails, tmp_path):
    assert "gone: found no such folder" in fails(tmp_path / "gone")


def test_no_run(fails, tmp_path):
    assert "a folder that is no run" in fails(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_not_evaluated(fails, make_run):
    run = make_run("first")
    next(run.glob("kitti_*.json")).unlink()
    message = fails(run)
    assert "has not been evaluated" in message and "kitti_DATASET.json" in message
    assert f"--eval-only OUTPUT_DIR {run}" in message


@pytest.mark.parametrize("text", ["{", "[]", '{"frames": 3}'])
def test_malformed_evaluation(fails, make_run, text):
    run = make_run("first")
    path = next(run.glob("kitti_*.json"))
    path.write_text(text)
    assert str(path) in fails(run)


def test_malformed_metrics(fails, make_run):
    run = make_run("first")
    lines = (run / "metrics.json").read_text().splitlines()
    (run / "metrics.json").write_text("\n".join([lines[0], "what", *lines[1:]]) + "\n")
    assert "metrics.json:2: found 'what'" in fails(run)


def test_malformed_config(fails, make_run):
    run = make_run("first")
    (run / "config.yaml").write_text("a: [")
    assert "config.yaml" in fails(run)


def test_same_folder_twice(fails, make_run):
    run = make_run("first")
    assert "the same folder twice" in fails(run, f"{run}/.")


def test_negative_number_of_pictures(fails, make_run):
    assert "--pictures: found -1" in fails(make_run("first"), "--pictures", -1)


def test_runs_evaluated_at_other_levels_are_compared_where_both_have_one(make_run, tmp_path):
    runs = [make_run("first"), make_run("second")]
    (path,) = runs[1].glob("kitti_*.json")
    report = json.loads(path.read_text())
    report["order"].append("visible")
    for table in ("results", "relaxed_results"):
        for own in report[table].values():
            own["AP40"] = {metric: [*values, 12.5] for metric, values in own["AP40"].items()}
    path.write_text(json.dumps(report))
    text = write_report(runs, tmp_path / "compared.html").read_text()
    assert "<th>visible</th>" in text.replace(' scope="col"', "") and "12.50" in text
