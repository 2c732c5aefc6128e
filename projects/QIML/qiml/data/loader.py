"""Data loaders for training and evaluation."""

import io
import pickle
import signal
from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MapDataset
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from qiml.data.catalog import register_datasets
from qiml.data.mapper import MonocularMapper
from qiml.data.sampler import SeededDataset, TrainingSampler
from qiml.errors import ConfigError, DatasetError

# That a worker lives on if nobody ends it: as long as Slurm waits before it kills.
_SECONDS_AFTER_SIGTERM = 30


class Batch(list):
    """The samples of a batch; crosses from a worker process as one message.

    PyTorch would move every tensor through shared memory of its own: a dozen small tensors a sample
    cost more than the image does.
    """

    def __copy__(self) -> "Batch":
        return Batch(self)  # pinning memory copies the list; not by way of a message

    def __reduce__(self) -> tuple:
        message = io.BytesIO()
        _ArrayPickler(message).dump(list(self))
        return _read_batch, (message.getvalue(),)


class _ArrayPickler(pickle.Pickler):
    def reducer_override(self, value):
        if isinstance(value, torch.Tensor):
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


def _read_batch(message: bytes) -> Batch:
    return Batch(pickle.loads(message))


def build_train_loader(cfg, start_iteration: int = 0) -> DataLoader:
    """Endless loader of this worker's share of each global batch of SOLVER.IMS_PER_BATCH.

    Shares differ by one sample at most where the number of workers does not divide the batch.

    Args:
        cfg: DATASETS.TRAIN, INPUT, SEED, SOLVER.IMS_PER_BATCH, DATALOADER.NUM_WORKERS.
        start_iteration: the iteration the run starts or resumes at.

    Raises:
        ConfigError: some worker would have no sample.
        DatasetError: there is nothing to train on, or a frame lacks something.
    """
    world_size = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH < world_size:
        raise ConfigError(
            "SOLVER.IMS_PER_BATCH",
            found=f"{cfg.SOLVER.IMS_PER_BATCH} with {world_size} workers",
            expected="at least one image for each worker",
            mend="change the batch size or the number of workers",
        )
    frames = _labelled_frames(cfg.DATASETS.TRAIN)
    mapper = MonocularMapper(cfg, is_train=True)
    for frame in frames:
        mapper.check(frame)
    _check_objects(cfg.DATASETS.TRAIN, mapper, frames)
    sampler = TrainingSampler(
        len(frames),
        cfg.SOLVER.IMS_PER_BATCH,
        cfg.SEED,
        start_iteration,
        rank=comm.get_rank(),
        world_size=world_size,
    )
    workers = cfg.DATALOADER.NUM_WORKERS
    _use_one_thread()
    return DataLoader(
        SeededDataset(frames, mapper, cfg.SEED),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=Batch,
        worker_init_fn=_init_worker,
        persistent_workers=workers > 0,
        pin_memory=_pins_memory(cfg),
    )


def build_test_loader(cfg, dataset_name: str) -> DataLoader:
    """Finite loader over a whole data set, in order, shared among the workers."""
    register_datasets([dataset_name])
    frames = DatasetCatalog.get(dataset_name)
    mapper = MonocularMapper(cfg, is_train=False)
    return _finite_loader(cfg, MapDataset(frames, mapper), InferenceSampler(len(frames)))


def build_labelled_loader(cfg, dataset_name: str, limit: int | None = None) -> DataLoader:
    """Finite loader over images as evaluation shows them, with the labels training would get, in order.

    Every worker gets all of it.

    Args:
        cfg: INPUT.FILTER says which objects train.
        dataset_name: of data with labels.
        limit: that many frames, spread evenly over the data set; None: all.

    Raises:
        DatasetError: there are no frames.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = (dataset_name,)
    augmentation = cfg.INPUT.AUGMENTATION
    augmentation.FLIP = augmentation.CROP = augmentation.SHIFT = augmentation.PHOTOMETRIC = 0.0
    cfg.MODEL.BOX3D_HEAD.VISUAL_DEPTH = "box"  # labels are all that is asked for
    frames = _labelled_frames((dataset_name,))
    if limit is not None and limit < len(frames):
        spread = np.linspace(0, len(frames) - 1, limit).round().astype(int)
        frames = [frames[index] for index in spread]
    # What it draws decides nothing where every probability is 0.
    mapper = partial(MonocularMapper(cfg, is_train=True), rng=np.random.default_rng(0))
    return _finite_loader(cfg, MapDataset(frames, mapper))


def _labelled_frames(names: Sequence[str]) -> list[dict]:
    register_datasets(names)
    frames = [frame for name in names for frame in DatasetCatalog.get(name)]
    if not frames:
        raise DatasetError(
            str(names),
            found="no frames",
            expected="at least one",
            mend="check the split's list in ImageSets",
        )
    return frames


def _check_objects(names: Sequence[str], mapper: MonocularMapper, frames: Sequence[dict]) -> None:
    """Every loss is defined without objects: training on none at all would go on to the end, in silence."""
    if not any(mapper.trains(a) for frame in frames for a in frame.get("annotations", ())):
        raise DatasetError(
            str(names),
            found=f"{len(frames)} frames without an object to learn from",
            expected="at least one that INPUT.FILTER lets pass",
            mend="check that the labels are there (KITTI's layout: label_2), and INPUT.FILTER",
        )


def _finite_loader(cfg, dataset: Dataset, sampler: Sampler | None = None) -> DataLoader:
    _use_one_thread()
    return DataLoader(
        dataset,
        batch_size=cfg.TEST.IMS_PER_BATCH,
        sampler=sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=Batch,
        worker_init_fn=_init_worker,
        pin_memory=_pins_memory(cfg),
    )


def _pins_memory(cfg) -> bool:
    """For copies that a GPU does not wait for; a run without one leaves the machine's GPUs alone."""
    return cfg.MODEL.DEVICE.startswith("cuda")


def _init_worker(_worker: int) -> None:
    # Ctrl-C reaches every process of a terminal, and schedulers send SIGTERM to every process of a job. The
    # training finishes its step first, and needs data for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_SECONDS_AFTER_SIGTERM))
    _use_one_thread()


def _use_one_thread() -> None:
    # OpenCV's own threads would compete with the training step for the same cores. To be called before
    # the workers fork, too: a fork leaves the threads behind, and ending them there waits for ever.
    cv2.setNumThreads(1)
