"""What several workers' main process does with their errors and with signals."""

import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch

from qiml.engine.hooks import StopOnSignal
from qiml.engine.launch import pass_signals_on, worker_errors
from qiml.errors import ConfigError, QIMLError

ROOT = Path(__file__).parents[2]


def raise_as_a_worker(error):
    """What PyTorch raises in the main process."""
    text = "".join(traceback.format_exception(error))
    text = f"\n\n-- Process 1 terminated with the following error:\n{text}"
    raise torch.multiprocessing.ProcessRaisedException(text, 1, 1)


def test_what_a_user_can_mend_is_one_line_and_a_bug_keeps_its_traceback():
    mistake = ConfigError("A.KEY", found="1", expected="2", mend="set it to 2")
    with pytest.raises(QIMLError, match=r"^A\.KEY: found 1; expected 2\. To mend it: set it to 2$"):
        with worker_errors():
            raise_as_a_worker(mistake)
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="ValueError: a bug"):
        with worker_errors():
            raise_as_a_worker(ValueError("a bug"))


def save_when_told(rank, folder):
    """A training's part: in the middle of a long step when the signal comes."""
    stop = StopOnSignal(checkpointer=None)
    stop.before_train()
    (folder / f"started{rank}").touch()
    while stop._received is None:
        time.sleep(0.01)
    time.sleep(0.5)
    (folder / f"saved{rank}").touch()


def train_two(folder):
    with pass_signals_on():
        torch.multiprocessing.spawn(save_when_told, (Path(folder),), nprocs=2)


@pytest.mark.parametrize(
    "send", [os.killpg, os.kill], ids=["to all, as schedulers", "to the main process"]
)
def test_workers_save_before_a_signal_ends_them(tmp_path, send):
    command = f"from tests.engine.test_launch import train_two; train_two({str(tmp_path)!r})"
    path = os.pathsep.join([str(ROOT), str(ROOT / "projects" / "QIML")])
    process = subprocess.Popen(
        [sys.executable, "-c", command],
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(list(tmp_path.glob("started*"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    send(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert len(list(tmp_path.glob("saved*"))) == 2
