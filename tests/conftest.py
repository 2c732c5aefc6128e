"""What every test may use."""

import logging
import os
import pickle
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.logger import setup_logger

from qiml.data.kitti_format import KITTIObjects, write_calibration, write_objects
from tests.fuzz import harness

# Tests compare bits with what was computed on a CPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

PROJECTION = np.array([[180.0, 0, 160, 9], [0, 180, 48, 0.1], [0, 0, 1, 0.003]])
TINY_CONFIG = Path(__file__).parent / "tiny.yaml"


def pytest_terminal_summary(terminalreporter) -> None:
    """How many damaged inputs were read and refused, where tests with such ran."""
    reports = [report for ended in terminalreporter.stats.values() for report in ended]
    properties = [pair for report in reports for pair in getattr(report, "user_properties", ())]
    counts = [value for name, value in properties if name == harness.PROPERTY]
    if counts:
        terminalreporter.section("fuzzing")
        terminalreporter.write_line(harness.summary(counts))


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Tensors this small do not repay the threads, least of all where other tests share the cores.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the commands that tests start
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # and for workers


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real KITTI and Waymo samples; tests that ask for it skip where it is absent."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("QIML_TEST_DATA", root / "../shared/data")).resolve()
    if not (folder / "kitti" / "ImageSets").is_dir():
        pytest.skip(f"needs real data: no {folder}/kitti; set QIML_TEST_DATA to its folder")
    return folder


@pytest.fixture
def kitti_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a small folder in KITTI's layout.

    `kitti_folder()` returns a new root; `root=` names an existing one to add a split to. The other keywords
    are those of :func:`write_kitti_folder`.
    """
    numbers = count()

    def make(root: Path | None = None, **options: object) -> Path:
        root = root or tmp_path / f"kitti{next(numbers)}"
        write_kitti_folder(root, **options)
        return root

    return make


@pytest.fixture
def runs_in_process(monkeypatch):
    """For tests that call what a command calls first, in this process, perhaps several times."""
    # Its report of the machine starts compilers.
    monkeypatch.setattr("detectron2.engine.defaults.collect_env_info", lambda: "")
    yield
    # Detectron2 remembers the streams of the first run; pytest closes them.
    setup_logger.cache_clear()
    for name in ("detectron2", "fvcore", "qiml"):
        logging.getLogger(name).handlers.clear()


@pytest.fixture
def run_script(monkeypatch, capfd) -> Callable[..., tuple[int, str, str]]:
    """Run a program as its command line does, but in this process: exit code, standard output and error."""

    def run(path: Path, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(path), run_name="__main__")
            sys.exit()
        return ended.value.code or 0, *capfd.readouterr()

    return run


@pytest.fixture
def tiny_config(tmp_path: Path) -> Callable:
    """Make the config of tests/tiny.yaml, changed by `KEY, VALUE, ...` as on a command line.

    OUTPUT_DIR is `tmp_path / "output"`.
    """

    def make(*overrides: object):
        from qiml.config import load_config

        output = ("OUTPUT_DIR", str(tmp_path / "output"))
        return load_config(str(TINY_CONFIG), [*output, *map(str, overrides)])

    return make


@pytest.fixture(scope="session")
def tiny_steerable() -> list[object]:
    """`KEY, VALUE, ...` that give tests/tiny.yaml a steerable backbone and GUPNet's head: DEVIANT."""
    options = "MODEL.BACKBONE.TIMM_OPTIONS"
    return [
        "MODEL.BOX3D_HEAD.NAME", "GUPNetHead", "MODEL.BACKBONE.NAME", "SteerableDLA",
        "MODEL.BACKBONE.TIMM_NAME", "dla34", f"{options}.stem_width", None,
        f"{options}.channels", [4, 4, 8, 8, 16, 16],
    ]  # fmt: skip


@pytest.fixture
def assert_same_checkpoint() -> Callable[[Path, Path], dict]:
    """Compare two checkpoints entry for entry, bit for bit; returns the entries by their path in the file."""

    def compare(first: Path, second: Path) -> dict:
        a, b = (_flat(torch.load(path, weights_only=True)) for path in (first, second))
        assert a.keys() == b.keys()
        for key, value in a.items():
            same = (
                torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key]
            )
            assert same, key
        return a

    return compare


def _flat(value, prefix=""):
    """Nested dicts and lists as {path: leaf}."""
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, item in items for k, v in _flat(item, f"{prefix}/{key}").items()}
    return {prefix: value}


@pytest.fixture
def spawn_workers(tmp_path: Path) -> Callable[..., list]:
    """Run `function(rank, *arguments)` as each of `size` gloo workers; their results, by rank.

    The function must be a test module's own, and its result one that can be pickled. An error in one of them
    is raised here; after `patience`, in seconds, they are taken to wait for each other.
    """

    def run(function: Callable, size: int, *arguments: object, patience: float = 120) -> list:
        # Forks of a process that has imported what takes seconds, once, and does nothing else.
        context = torch.multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "detectron2.engine", "qiml.engine.trainer"])
        deadline = time.monotonic() + patience
        workers = torch.multiprocessing.start_processes(
            _run_worker,
            (function, size, tmp_path, dict(os.environ), arguments),
            size,
            join=False,
            start_method="forkserver",
        )
        while not workers.join(timeout=max(0, deadline - time.monotonic())):
            if time.monotonic() > deadline:
                for worker in workers.processes:
                    worker.kill()
                pytest.fail(f"the workers are not done after {patience} s")
        return [pickle.loads((tmp_path / f"{rank}.pickle").read_bytes()) for rank in range(size)]

    return run


def _run_worker(rank, function, size, folder, environment, arguments):
    os.environ.update(environment)  # the server's is of the first test that needed it
    torch.distributed.init_process_group(
        "gloo", rank=rank, world_size=size, init_method=f"file://{folder}/process_group"
    )
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(function(rank, *arguments)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _street(size: tuple[int, int]) -> KITTIObjects:
    """A car, a pedestrian, a cyclist and a DontCare region."""
    from qiml.structures.boxes3d import Boxes3D
    from qiml.structures.camera import Camera

    location = torch.tensor([[1.5, 1.5, 10], [-2, 1.5, 7], [4, 1.5, 12]])
    dimensions = torch.tensor([[1.5, 1.6, 3.9], [1.75, 0.6, 0.8], [1.75, 0.6, 1.8]])
    rotation_y = torch.tensor([-1.57, 0.3, 1.2])
    boxes = Boxes3D.from_kitti(location, dimensions, rotation_y)
    camera = Camera(torch.tensor(PROJECTION, dtype=torch.float32))
    bbox = boxes.project(camera, (size[1], size[0])).numpy()
    seen = KITTIObjects.from_columns(
        ["Car", "Pedestrian", "Cyclist"],
        bbox=bbox,
        dimensions=dimensions,
        location=location,
        rotation_y=rotation_y,
        alpha=boxes.alpha,
        truncation=0,
        occlusion=0,
    )
    region = KITTIObjects.from_columns(["DontCare"], bbox=np.array([[10, 10, 40, 30]]))
    return KITTIObjects.concatenate([seen, region])


def write_kitti_folder(
    root: Path,
    frames: int = 2,
    split: str = "train",
    objects: KITTIObjects | Sequence[KITTIObjects] | None = None,
    size: tuple[int, int] = (320, 96),
    extension: str = ".png",
) -> None:
    """Labelled frames 000000, 000001 and so on in ImageSets/SPLIT.txt.

    Args:
        root: made where it is absent.
        frames: number of frames.
        split: its list; "test" makes `testing` without labels.
        objects: KITTIObjects for every frame, or a list with one a frame. By default each frame
            has a car, a pedestrian, a cyclist and a DontCare region, with 2D boxes that fit.
        size: (width, height) in pixels. Images are noise, the same in every run.
        extension: of the images.
    """
    import cv2

    objects = _street(size) if objects is None else objects
    objects = [objects] * frames if isinstance(objects, KITTIObjects) else objects
    folder = root / ("testing" if split == "test" else "training")
    noise = np.random.default_rng(0)
    ids = [f"{index:06d}" for index in range(frames)]
    (folder / "image_2").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets").mkdir(exist_ok=True)
    (root / "ImageSets" / f"{split}.txt").write_text("\n".join(ids))  # KITTI's end so, too
    for image_id, frame_objects in zip(ids, objects, strict=True):
        image = noise.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / "image_2" / f"{image_id}{extension}"), image)
        write_calibration(folder / "calib" / f"{image_id}.txt", PROJECTION)
        if split != "test":
            write_objects(folder / "label_2" / f"{image_id}.txt", frame_objects)
