"""cluster/train.py on a real Ray cluster of several nodes on this machine: submitted, killed, resumed."""

import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import torch

from qiml.engine.ray_worker import RAYS_LIST
from tests.cluster.without_ray import train_without_ray

ROOT = Path(__file__).parents[2]
ITERATIONS, PERIOD = 156, 12
CHANGES = (
    *("SOLVER.MAX_ITER", ITERATIONS, "SOLVER.CHECKPOINT_PERIOD", PERIOD),
    *("INPUT.AUGMENTATION.PHOTOMETRIC", 0.5, "MODEL_EMA.ENABLED", True),
)


class Cluster:
    """A head without CPUs, as on real clusters, with a job server; nodes are added by the tests.

    All are processes of their own, started as a user starts them. Token authentication is on.

    Attributes:
        folder: of the cluster's files, which its processes' command lines name.
        environment: of whoever talks to it.
        url: of the job server.
    """

    def __init__(self, folder):
        self.folder = folder
        self.environment = {
            **os.environ,
            **{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)},
            **{"GLOO_SOCKET_IFNAME": "lo", "RAY_health_check_period_ms": "1000"},
        }
        port, dashboard = free_port(), free_port()
        self.address, self.url = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
        options = ["--num-cpus=0", f"--port={port}", f"--dashboard-port={dashboard}"]
        self.start("--head", *options, f"--temp-dir={folder}")

    def start(self, *arguments):
        # By default all agents of a machine ask for one port, whatever cluster they belong to.
        agent = f"--dashboard-agent-listen-port={free_port()}"
        command = [str(Path(sys.executable).parent / "ray"), "start", *arguments, agent]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)

    def add_node(self):
        """Start a node with one CPU; its raylet's process."""
        before = set(self.processes("raylet/raylet"))
        self.start(f"--address={self.address}", "--num-cpus=1")
        (raylet,) = set(self.processes("raylet/raylet")) - before
        return raylet

    def processes(self, name=""):
        """Of this cluster's own."""
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if str(self.folder) in line and name in line:
                yield process

    def shutdown(self):
        own = list(self.processes())
        # Agents name themselves anew.
        for process in [*own, *(child for p in own for child in p.children(recursive=True))]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def cluster():
    # Not pytest's folder: a socket's path may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(folder)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def submit(cluster, kitti_folder, tmp_path):
    """Function that submits a job; its data set has five frames, its storage is `tmp_path`."""
    root = kitti_folder(frames=5)
    data = f"('kitti_format:{root}:train',)"

    def run(name, *arguments, changes=()):
        command = [Path(sys.executable).parent / "ray", "job", "submit", "--address", cluster.url]
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
            list(map(str, command)),
            env=cluster.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


def succeeded(job):
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0 and "succeeded" in output, output
    return output


def wait_for(condition, job, what):
    deadline = time.monotonic() + 400  # on a machine that is busy with other tests
    while not condition():
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def last_saved(run):
    """Iterations of the newest checkpoint that Ray would go on from."""
    snapshot = run / RAYS_LIST
    if not snapshot.exists():
        return 0
    for _ in range(100):
        # Ray writes it in place: for a moment it is empty.
        with contextlib.suppress(json.JSONDecodeError):
            results = json.loads(snapshot.read_text())["checkpoint_results"]
            return max((result["metrics"]["iteration"] for result in results), default=0)
        time.sleep(0.05)
    raise AssertionError(f"{snapshot} is no JSON")


def workers_of(raylet):
    """Processes of training workers on a node."""
    children = raylet.children(recursive=True)
    return [p for p in children if "RayTrainWorker" in " ".join(p.cmdline())]


def final(run):
    """The last checkpoint and the last metrics, but for what is about time."""
    checkpoint = torch.load(run / "output/model_final.pth", weights_only=True)
    lines = [json.loads(line) for line in (run / "output/metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == sorted({line["iteration"] for line in lines})
    times = re.compile("time|eta|images_per_second|data_wait")
    return checkpoint, {k: v for k, v in lines[-1].items() if not times.search(k)}


def test_ends_as_if_nothing_was_lost(cluster, submit, spawn_workers, tmp_path):
    """Neither its driver nor a worker nor a node: as two workers without Ray whom nothing happened to."""
    nodes = [cluster.add_node() for _ in range(2)]
    first = submit("broken", "--num-workers", 2)
    run = tmp_path / "storage/broken"
    wait_for(lambda: last_saved(run) >= PERIOD, first, "a checkpoint")
    reached = [last_saved(run)]
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "cluster/train.py" in words and "broken" in words and "submit" not in words:
            process.kill()
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 1 and "failed" in output, output

    again = submit("broken", "--num-workers", 2, "--max-failures", 5)
    for lose, what in (
        (lambda: workers_of(nodes[0])[0].kill(), "the driver"),
        (lambda: nodes[1].kill(), "a worker"),
    ):
        goal = reached[-1] + 2 * PERIOD
        wait_for(lambda goal=goal: last_saved(run) >= goal, again, f"progress after {what}'s loss")
        reached.append(last_saved(run))
        lose()
    cluster.add_node()
    output = succeeded(again)

    begun = starts(output)
    assert len(begun) == 3 and all(i % PERIOD == 0 for i in begun), output
    assert all(x <= y < ITERATIONS for x, y in zip(reached, begun, strict=True)), output
    whole = tmp_path / "whole"
    spawn_workers(train_without_ray, 2, run / "config.yaml", whole / "output", patience=300)
    assert_same_end(run, whole)


def starts(output):
    """Iterations that workers started at. Nodes on one machine repeat each other's lines."""
    pattern = r"\[(\S+ \S+) d2.engine.train_loop\]: Starting training from iteration (\d+)"
    return [int(iteration) for _, iteration in dict.fromkeys(re.findall(pattern, output))]


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
    cluster.add_node()
    changes = ("DATASETS.TRAIN", "('kitti_format:/nowhere:train',)")
    job = submit("absent", changes=changes)
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 1
    assert re.search(r"error: /nowhere on [\d.]+: found no such folder", output), output
    assert "RayTrainWorker" not in output and "Traceback" not in output
