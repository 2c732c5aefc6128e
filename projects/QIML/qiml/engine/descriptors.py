"""Descriptors of labelled objects, collected from a trained detector."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.evaluation import inference_context
from tqdm import tqdm

from qiml.data.loader import build_labelled_loader
from qiml.modeling.detector import MonocularDetector3D


@dataclass(frozen=True)
class ObjectDescriptors:
    """N objects of a data set.

    Attributes:
        descriptors: (N, C) float32.
        depth: (N,) float32 metres, as the metric loss takes it.
        image_index: (N,) int64, among the frames that were looked at.
        classes: (N,) int64, in the data set's order.
    """

    descriptors: np.ndarray
    depth: np.ndarray
    image_index: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.depth)


@torch.no_grad()
def collect_descriptors(
    cfg,
    model: MonocularDetector3D,
    dataset_name: str,
    limit: int | None = None,
    kinds: Sequence[str] | None = None,
) -> dict[str, ObjectDescriptors]:
    """Descriptors of all objects that would train by INPUT.FILTER, of images without augmentation.

    The model works as in evaluation, and is left as it was. It need not have a metric loss.

    Args:
        cfg: INPUT, TEST.IMS_PER_BATCH, DATALOADER.NUM_WORKERS.
        model: not its distributed wrapper.
        dataset_name: of data with labels.
        limit: that many frames, spread evenly over the data set; None: all.
        kinds: some of :attr:`MonocularDetector3D.descriptor_kinds`, all from one pass over the frames; None:
            the one of MODEL.QUASI_ISOMETRIC.DESCRIPTOR.

    Returns:
        By kind, the same objects.

    Raises:
        ConfigError: the model's head does not have the descriptors of its configuration.
        DatasetError: there are no frames, or malformed ones.
    """
    descriptors, objects, frames = defaultdict(list), [], 0
    with inference_context(model):
        for batch in tqdm(
            build_labelled_loader(cfg, dataset_name, limit), "descriptors", disable=None
        ):
            found, targets = model.describe(batch, kinds)
            columns = (targets.apparent_depth, targets.image_index + frames, targets.classes)
            objects.append([column[targets.supervised].cpu().numpy() for column in columns])
            for kind, values in found.items():
                descriptors[kind].append(values.cpu().numpy())
            frames += len(batch)
    columns = [np.concatenate(column) for column in zip(*objects, strict=True)]
    return {k: ObjectDescriptors(np.concatenate(v), *columns) for k, v in descriptors.items()}
