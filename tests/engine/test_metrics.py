import json

import pytest
from detectron2.engine import TrainerBase
from detectron2.utils.events import get_event_storage

from qiml.engine.metrics import ResumableMetrics, Throughput, forget_metrics_from


class Loop(TrainerBase):
    """A step logs its number as the loss, and how long it and its data took."""

    def __init__(self, *hooks, time=0.5, data_time=0.1):
        super().__init__()
        self.values = {"loss": None, "time": time, "data_time": data_time}
        self.register_hooks(list(hooks))

    def run_step(self):
        get_event_storage().put_scalars(**{**self.values, "loss": self.iter})


def lines(path):
    return [json.loads(line)["iteration"] for line in path.read_text().splitlines()]


def test_lines_that_come_again_are_forgotten(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(
        "".join(json.dumps({"iteration": i, "loss": 1.0}) + "\n" for i in (0, 19, 39, 59))
    )
    forget_metrics_from(str(tmp_path), 39)
    assert lines(path) == [0, 19]


@pytest.mark.parametrize("torn", ['{"iteration": 7, "lo', '{"iteration": 7}', "\0\0\0"])
def test_a_torn_last_line_is_forgotten(tmp_path, torn):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 3}\n' + torn)
    forget_metrics_from(str(tmp_path), 10)
    assert lines(path) == [3]


def test_no_metrics_yet(tmp_path):
    forget_metrics_from(str(tmp_path), 10)
    assert not list(tmp_path.iterdir())


def test_smoothing_goes_on_after_a_resume():
    first, second = ResumableMetrics(), ResumableMetrics()
    interrupted = Loop(first)
    interrupted.train(0, 30)
    second.load_state_dict(first.state_dict())
    loop = Loop(second)
    loop.train(30, 32)
    assert loop.storage.history("loss").values() == [(float(i), float(i)) for i in range(10, 32)]
    # Times differ from run to run; in a checkpoint they would make two equal runs look different.
    assert first.state_dict().keys() == {"loss"}


def test_throughput(caplog):
    caplog.set_level("INFO", logger="qiml.engine.metrics")
    loop = Loop(Throughput(batch_size=8, period=5), time=0.5, data_time=0.1)
    loop.train(0, 10)
    assert loop.storage.history("images_per_second_per_worker").latest() == pytest.approx(16)
    assert loop.storage.history("data_wait").latest() == pytest.approx(0.2)
    # Detectron2's loop logs too, at a level that depends on the tests before this one.
    records = [r for r in caplog.records if r.name == "qiml.engine.metrics"]
    assert [r.getMessage() for r in records] == [
        "16.0 images/s per worker; 20 % of the time waiting for data"
    ] * 2
