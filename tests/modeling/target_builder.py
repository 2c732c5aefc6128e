"""Targets of which a test gives only what matters to it."""

import torch

from qiml.modeling.targets import ObjectTargets
from qiml.structures.camera import Camera


def make_targets(image_index, map_size, num_images=2, **given):
    """Objects of these images; every attribute that is not given is 0, but all have 3D supervision."""
    count = len(image_index)
    zeros, whole = torch.zeros(count), torch.zeros(count, dtype=torch.int64)
    attributes = {
        "classes": whole,
        "cells": torch.zeros(count, 2, dtype=torch.int64),
        "projected_centres": torch.zeros(count, 2),
        "boxes2d": torch.zeros(count, 4),
        **dict.fromkeys(("depth", "apparent_depth", "yaw", "alpha"), zeros),
        "dimensions": torch.zeros(count, 3),
        "has_3d": torch.ones(count, dtype=torch.bool),
        "cameras": Camera(torch.zeros(count, 3, 4)),
        "affines": torch.zeros(count, 2, 3),
    }
    return ObjectTargets(
        image_index=torch.tensor(image_index, dtype=torch.int64),
        num_images=num_images,
        map_size=map_size,
        **{**attributes, **given},
    )
