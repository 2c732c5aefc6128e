"""cluster/train.py on a real Ray cluster of several nodes on this machine: submitted, killed, resumed."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

ROOT = Path(__file__).parents[2]
ITERATIONS, PERIOD = 200, 20
CHANGES = (
    *("SOLVER.MAX_ITER", ITERATIONS, "SOLVER.CHECKPOINT_PERIOD", PERIOD),
    *("INPUT.AUGMENTATION.PHOTOMETRIC", 0.5, "MODEL_EMA.ENABLED", True),
)


@pytest.fixture(scope="module")
def cluster():
    """A head without CPUs, as on real clusters, and a job server; token authentication is on.

    Nodes with one CPU each are added by the tests.
    """
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "RAY_health_check_period_ms": "1000"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": 0}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture
def submit(cluster, kitti_folder, tmp_path):
    """Function that submits a job; its data set has five frames, its storage is `tmp_path`."""
    root = kitti_folder(frames=5)
    data = f"('kitti_format:{root}:train',)"
    url = f"http://{cluster.head_node.webui_url}"

    def run(name, *arguments, changes=()):
        command = [Path(sys.executable).parent / "ray", "job", "submit", "--address", url]
        command += ["--working-dir", ROOT, "--runtime-env", ROOT / "cluster/runtime-env.yaml", "--"]
        command += [
            sys.executable,
            "cluster/train.py",
            "--config-file",
            tmp_path / "tiny.yaml",
            "--cpu",
        ]
        command += ["--storage-path", tmp_path / "storage", "--name", name, *arguments]
        command += ["DATASETS.TRAIN", data, "DATASETS.TEST", data, *CHANGES, *changes]
        (tmp_path / "tiny.yaml").write_text((ROOT / "tests/tiny.yaml").read_text())
        return subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return run


def succeeded(job):
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0 and "succeeded" in output, output
    return output


def wait_for(condition, job, what):
    deadline = time.monotonic() + 180
    while not condition():
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def last_saved(run):
    """Iterations of the newest checkpoint that Ray would go on from."""
    snapshot = run / "checkpoint_manager_snapshot.json"
    if not snapshot.exists():
        return 0
    results = json.loads(snapshot.read_text())["checkpoint_results"]
    return max((result["metrics"]["iteration"] for result in results), default=0)


def workers_of(node_process):
    """Processes of training workers on the node of a raylet."""
    children = psutil.Process(node_process.pid).children(recursive=True)
    return [p for p in children if "RayTrainWorker" in " ".join(p.cmdline())]


def final(run):
    """The last checkpoint and the last metrics, but for what is about time."""
    checkpoint = torch.load(run / "output/model_final.pth", weights_only=True)
    lines = [json.loads(line) for line in (run / "output/metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == sorted({line["iteration"] for line in lines})
    times = re.compile("time|eta|images_per_second|data_wait")
    return checkpoint, {k: v for k, v in lines[-1].items() if not times.search(k)}


def raylet(node):
    return node.all_processes["raylet"][0].process


def test_loses_a_worker_and_a_node(cluster, submit, tmp_path):
    """And ends with the weights, optimiser and metrics of a run that lost neither."""
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    succeeded(submit("whole", "--num-workers", 2))

    job = submit("broken", "--num-workers", 2, "--max-failures", 5)
    run = tmp_path / "storage/broken"
    wait_for(lambda: last_saved(run) >= PERIOD, job, "a checkpoint")
    reached = last_saved(run)
    (worker,) = workers_of(raylet(nodes[0]))
    worker.send_signal(signal.SIGKILL)
    wait_for(lambda: last_saved(run) >= reached + 2 * PERIOD, job, "progress after a worker's loss")
    reached_later = last_saved(run)
    cluster.remove_node(nodes[1], allow_graceful=False)
    cluster.add_node(num_cpus=1)
    output = succeeded(job)

    starts = [int(n) for n in re.findall(r"Starting training from iteration (\d+)", output)]
    assert len(starts) == 3 and starts[0] == 0, output
    assert starts[1] >= reached and starts[2] >= reached_later and starts[2] < ITERATIONS
    assert all(start % PERIOD == 0 for start in starts)
    assert_same_end(run, run.parent / "whole")


def test_driver_dies(cluster, submit, tmp_path):
    """And is submitted again under the same name: ends as a run of train_net.py that nothing happened to."""
    cluster.add_node(num_cpus=1)
    first = submit("driver", "--num-workers", 1)
    run = tmp_path / "storage/driver"
    wait_for(lambda: last_saved(run) >= PERIOD, first, "a checkpoint")
    reached = last_saved(run)
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "cluster/train.py" in words and "driver" in words and "submit" not in words:
            process.kill()
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 1 and "failed" in output, output

    again = succeeded(submit("driver", "--num-workers", 1))
    (start,) = (int(n) for n in re.findall(r"Starting training from iteration (\d+)", again))
    assert reached <= start < ITERATIONS
    command = [sys.executable, ROOT / "train_net.py", "--config-file", run / "config.yaml"]
    whole = tmp_path / "whole" / "output"
    command += ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", whole]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(list(map(str, command)), check=True, capture_output=True, env=environment)
    assert_same_end(run, whole.parent)


def assert_same_end(run, expected_run):
    """Last checkpoint and metrics, bit for bit."""
    (checkpoint, metrics), (expected, expected_metrics) = final(run), final(expected_run)
    assert metrics == expected_metrics
    assert flat(checkpoint).keys() == flat(expected).keys()
    for key, value in flat(expected).items():
        other = flat(checkpoint)[key]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, key


def flat(value, prefix=""):
    """Nested dicts and lists as {path: leaf}."""
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, item in items for k, v in flat(item, f"{prefix}/{key}").items()}
    return {prefix: value}


def test_data_that_a_machine_lacks(submit, cluster):
    """Is found before a worker starts."""
    cluster.add_node(num_cpus=1)
    changes = ("DATASETS.TRAIN", "('kitti_format:/nowhere:train',)")
    job = submit("absent", changes=changes)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 1
    assert re.search(r"error: /nowhere on [\d.]+: found no such folder", output), output
    assert "RayTrainWorker" not in output and "Traceback" not in output
