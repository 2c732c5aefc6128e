"""Data loaders for training and evaluation."""

import io
import pickle
import signal

import cv2
import torch
from detectron2.data import DatasetCatalog, MapDataset
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader

from qiml.data.catalog import register_datasets
from qiml.data.mapper import MonocularMapper
from qiml.data.sampler import SeededDataset, TrainingSampler
from qiml.errors import ConfigError, DatasetError


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
        DatasetError: there is nothing to train on.
    """
    world_size = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH < world_size:
        raise ConfigError(
            "SOLVER.IMS_PER_BATCH",
            found=f"{cfg.SOLVER.IMS_PER_BATCH} with {world_size} workers",
            expected="at least one image for each worker",
            mend="change the batch size or the number of workers",
        )
    register_datasets(cfg.DATASETS.TRAIN)
    frames = [frame for name in cfg.DATASETS.TRAIN for frame in DatasetCatalog.get(name)]
    if not frames:
        raise DatasetError(
            str(cfg.DATASETS.TRAIN),
            found="no frames",
            expected="at least one",
            mend="check the split's list in ImageSets",
        )
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
        SeededDataset(frames, MonocularMapper(cfg, is_train=True), cfg.SEED),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=Batch,
        worker_init_fn=_init_worker,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def build_test_loader(cfg, dataset_name: str) -> DataLoader:
    """Finite loader over a whole data set, in order, shared among the workers."""
    register_datasets([dataset_name])
    frames = DatasetCatalog.get(dataset_name)
    _use_one_thread()
    return DataLoader(
        MapDataset(frames, MonocularMapper(cfg, is_train=False)),
        batch_size=cfg.TEST.IMS_PER_BATCH,
        sampler=InferenceSampler(len(frames)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=Batch,
        worker_init_fn=_init_worker,
    )


def _init_worker(_worker: int) -> None:
    # Ctrl-C reaches every process of a terminal. The training finishes its step first, and needs data for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _use_one_thread()


def _use_one_thread() -> None:
    # OpenCV's own threads would compete with the training step for the same cores. To be called before
    # the workers fork, too: a fork leaves the threads behind, and ending them there waits for ever.
    cv2.setNumThreads(1)
