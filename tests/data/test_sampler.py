import signal
from itertools import chain, islice

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qiml.data.kitti_format import KITTIObjects
from qiml.data.loader import build_test_loader, build_train_loader
from qiml.data.sampler import SampleKey, SeededDataset, TrainingSampler
from qiml.errors import ConfigError, DatasetError


@pytest.fixture(autouse=True)
def _time_limit():
    """A data-loader process that hangs fails its test."""
    if hasattr(signal, "alarm"):  # POSIX
        signal.signal(signal.SIGALRM, lambda *_: pytest.fail("hangs"))
        signal.alarm(60)
    yield
    if hasattr(signal, "alarm"):
        signal.alarm(0)


def batches(sampler, count):
    return list(islice(sampler, count))


@given(size=st.integers(1, 30), batch=st.integers(1, 12), seed=st.integers(0, 9))
def test_every_frame_once_an_epoch(size, batch, seed):
    """Also where a batch straddles epochs or is larger than the data set."""
    keys = list(chain(*batches(TrainingSampler(size, batch, seed), 3 * size)))
    indices = [key.index for key in keys]
    for start in range(0, len(indices) - size + 1, size):
        assert sorted(indices[start : start + size]) == list(range(size))


def test_keys_say_where_they_are():
    for iteration, keys in enumerate(batches(TrainingSampler(10, 4, seed=0), 5)):
        assert [(key.iteration, key.position) for key in keys] == [(iteration, p) for p in range(4)]


@given(start=st.integers(0, 20), seed=st.integers(0, 3))
def test_a_late_start_skips_what_went_before(start, seed):
    late = TrainingSampler(7, 4, seed, start_iteration=start)
    assert batches(late, 6) == batches(TrainingSampler(7, 4, seed), start + 6)[start:]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_workers_share_the_global_batch(world_size):
    alone = batches(TrainingSampler(10, 8, seed=1), 5)
    shares = [
        batches(TrainingSampler(10, 8, seed=1, rank=rank, world_size=world_size), 5)
        for rank in range(world_size)
    ]
    for iteration, batch in enumerate(alone):
        parts = [share[iteration] for share in shares]
        assert {len(part) for part in parts} == {8 // world_size}
        assert sorted(chain(*parts), key=lambda key: key.position) == batch


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = [
        tuple(TrainingSampler(20, 4, seed).epoch_order(epoch))
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == 9


def test_each_sample_draws_from_its_own_generator():
    def dataset(seed):
        return SeededDataset([{}], lambda _, rng: rng.random(), seed)

    keys = [SampleKey(0, iteration, position) for iteration in range(4) for position in range(4)]
    draws = [dataset(seed)[key] for seed in range(2) for key in keys]
    assert len(set(draws)) == len(draws)
    assert draws == [dataset(seed)[key] for seed in range(2) for key in keys]


def loader_config(tiny_config, root, *overrides):
    name = f"('kitti_format:{root}:train',)"
    return tiny_config("DATASETS.TRAIN", name, "INPUT.AUGMENTATION.PHOTOMETRIC", 0.5, *overrides)


def test_number_of_loader_processes_changes_nothing(kitti_folder, tiny_config):
    root = kitti_folder(frames=3)
    read = {}
    for workers in (0, 2):
        cfg = loader_config(tiny_config, root, "DATALOADER.NUM_WORKERS", workers)
        read[workers] = list(islice(build_train_loader(cfg, start_iteration=1), 4))
    frames = set()
    for alone, parallel in zip(read[0], read[2], strict=True):
        assert len(alone) == 2
        for a, b in zip(alone, parallel, strict=True):
            frames.add(a["image_id"])
            assert a["image_id"] == b["image_id"]
            assert torch.equal(a["image"], b["image"])
            assert torch.equal(a["camera"], b["camera"])
            for name, value in a["instances"].get_fields().items():
                values = [getattr(v, "tensor", v) for v in (value, b["instances"].get(name))]
                assert torch.equal(*values), name
    assert len(frames) == 3


def test_loader_processes_start_after_threads_of_opencv(kitti_folder, tiny_config):
    """A fork leaves the parent's OpenCV threads behind; a worker that waits for them hangs."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(4)
    cv2.warpAffine(np.zeros((2000, 2000, 3), np.uint8), np.eye(2, 3), (2000, 2000))
    try:
        cfg = loader_config(tiny_config, kitti_folder(), "DATALOADER.NUM_WORKERS", 1)
        assert len(next(iter(build_train_loader(cfg)))) == 2
    finally:
        cv2.setNumThreads(threads)


def test_a_late_start_of_the_loader_skips_what_went_before(kitti_folder, tiny_config):
    cfg = loader_config(tiny_config, kitti_folder(frames=3))
    whole = list(islice(build_train_loader(cfg), 4))[2:]
    late = list(islice(build_train_loader(cfg, start_iteration=2), 2))
    for a, b in zip(chain(*whole), chain(*late), strict=True):
        assert a["image_id"] == b["image_id"]
        assert torch.equal(a["image"], b["image"])


def test_several_data_sets_train_together(kitti_folder, tiny_config):
    roots = [kitti_folder(frames=1), kitti_folder(frames=2)]
    names = tuple(f"kitti_format:{root}:train" for root in roots)
    loader = build_train_loader(tiny_config("DATASETS.TRAIN", names, "SOLVER.IMS_PER_BATCH", 3))
    files = [sample["file_name"] for sample in next(iter(loader))]
    assert len(set(files)) == 3
    assert sum(file.startswith(str(roots[1])) for file in files) == 2


def test_batch_that_workers_cannot_share(kitti_folder, tiny_config, monkeypatch):
    monkeypatch.setattr("qiml.data.loader.comm.get_world_size", lambda: 2)
    cfg = loader_config(tiny_config, kitti_folder(), "SOLVER.IMS_PER_BATCH", 1)
    with pytest.raises(ConfigError, match=r"SOLVER\.IMS_PER_BATCH: found 1 with 2 workers"):
        build_train_loader(cfg)


def test_nothing_to_train_on(tiny_config):
    with pytest.raises(DatasetError, match="found no frames"):
        build_train_loader(tiny_config("DATASETS.TRAIN", "()"))


def test_evaluation_reads_every_frame_once_in_order(kitti_folder, tiny_config):
    root = kitti_folder(frames=5, objects=KITTIObjects.empty())
    cfg = tiny_config("TEST.IMS_PER_BATCH", 2)
    read = list(build_test_loader(cfg, f"kitti_format:{root}:train"))
    assert [len(batch) for batch in read] == [2, 2, 1]
    ids = [frame["image_id"] for frame in chain(*read)]
    assert ids == [f"{index:06d}" for index in range(5)]
    assert np.unique([frame["image"].shape for frame in chain(*read)], axis=0).tolist() == [
        [3, 64, 96]
    ]


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True)])
def test_memory_is_pinned_for_a_gpu_that_is_used(
    kitti_folder, tiny_config, monkeypatch, device, pinned
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    name = f"kitti_format:{kitti_folder()}:train"
    cfg = tiny_config("DATASETS.TRAIN", f"('{name}',)", "MODEL.DEVICE", device)
    assert build_train_loader(cfg).pin_memory is pinned
    assert build_test_loader(cfg, name).pin_memory is pinned
