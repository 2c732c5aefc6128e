"""What config values must be beyond their type, key by key."""

import math
from collections.abc import Mapping

from qiml.errors import ConfigError

_ABOVE_0 = math.ulp(0.0)
_SHARE, _WEIGHT, _POSITIVE = (0, 1), (0, 1e6), (_ABOVE_0, 1e6)
# Key -> least and most, of the value or of each of its numbers.
_RANGES = {
    "SEED": (0, math.inf),
    "DATALOADER.NUM_WORKERS": (0, math.inf),
    "INPUT.AUGMENTATION.FLIP": _SHARE,
    "INPUT.AUGMENTATION.CROP": _SHARE,
    "INPUT.AUGMENTATION.CROP_SCALE": (0, 0.9),
    "INPUT.AUGMENTATION.CROP_SHIFT": _SHARE,
    "INPUT.AUGMENTATION.SHIFT": _SHARE,
    "INPUT.AUGMENTATION.SHIFT_PIXELS": (0, 10_000),
    "INPUT.AUGMENTATION.PHOTOMETRIC": _SHARE,
    "INPUT.FILTER.MIN_DEPTH": (0, math.inf),
    "MODEL.PIXEL_STD": _POSITIVE,
    "MODEL.BOX3D_HEAD.NUM_CLASSES": (1, 1000),
    "MODEL.BOX3D_HEAD.HIDDEN_CHANNELS": (1, 8192),
    "MODEL.BOX3D_HEAD.SCORE_THRESHOLD": _SHARE,
    "MODEL.BOX3D_HEAD.TOP_K": (1, math.inf),
    "MODEL.BOX3D_HEAD.ROI_SIZE": (2, 100),
    "MODEL.BOX3D_HEAD.MEAN_SIZES": _POSITIVE,
    "MODEL.OBJECT_DEPTH.HIDDEN_CHANNELS": (1, 8192),
    "MODEL.OBJECT_DEPTH.WEIGHT": _WEIGHT,
    "MODEL.QUASI_ISOMETRIC.EPSILON": (_ABOVE_0, math.inf),
    "MODEL.QUASI_ISOMETRIC.WEIGHT": _WEIGHT,
    "MODEL.QUASI_ISOMETRIC.TEMPERATURE": _POSITIVE,
    "MODEL.CONTRASTIVE.WEIGHT": _WEIGHT,
    "SOLVER.IMS_PER_BATCH": (1, math.inf),
    "SOLVER.CHECKPOINT_PERIOD": (1, math.inf),
    "SOLVER.CHECKPOINTS_KEPT": (0, math.inf),
    "SOLVER.TASK_LEARNING.PERIOD": (0, math.inf),
    "SOLVER.TASK_LEARNING.WINDOW": (3, math.inf),
    "SOLVER.TASK_LEARNING.LENGTH": (0, math.inf),
    "SOLVER.BASE_LR": _POSITIVE,
    "SOLVER.BETAS": (0, 1 - 1e-9),
    "SOLVER.BIAS_LR_FACTOR": _WEIGHT,
    "SOLVER.WEIGHT_DECAY": _WEIGHT,
    "SOLVER.WEIGHT_DECAY_BIAS": _WEIGHT,
    "SOLVER.WEIGHT_DECAY_NORM": _WEIGHT,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": _POSITIVE,
    "SOLVER.WARMUP_START_LR": (0, 1e3),
    "SOLVER.WARMUP_ITERS": (0, math.inf),
    "SOLVER.MAX_ITER": (0, math.inf),
    "SOLVER.STEPS": (0, math.inf),
    "SOLVER.GAMMA": _WEIGHT,
    "SOLVER.CYCLIC.RISE": _SHARE,
    "SOLVER.CYCLIC.PEAK": _POSITIVE,
    "SOLVER.CYCLIC.FINAL": _WEIGHT,
    "SOLVER.CYCLIC.MOMENTUM": (0, 1 - 1e-9),
    "TEST.IMS_PER_BATCH": (1, math.inf),
    "TEST.PRECISE_BN.NUM_ITER": (1, math.inf),
    "TEST.VISIBLE_MIN_HEIGHT": (0, 1e5),
}
_CHOICES = {
    "INPUT.AUGMENTATION.CROP_DEPTH": ("ignore", "virtual", "metric"),
    "INPUT.AUGMENTATION.PHOTOMETRIC_FORM": ("jitter", "distortion"),
    "INPUT.RESIZE": ("fit", "pad"),
    "MODEL.NECK.UPSAMPLE": ("learned", "nearest"),
    "MODEL.BOX3D_HEAD.VISUAL_DEPTH": ("object", "box", "dense"),
    "MODEL.OBJECT_DEPTH.TARGET": ("object", "box"),
    "MODEL.QUASI_ISOMETRIC.FORM": ("two_sided", "official"),
    "MODEL.QUASI_ISOMETRIC.DEPTH_SPACE": ("auto", "metric", "log"),
    "MODEL.QUASI_ISOMETRIC.DESCRIPTOR": ("auto", "depth", "neck", "roi"),
    "MODEL.CONTRASTIVE.NAME": ("", "supcr", "rank_n_contrast", "triplet"),
    "SOLVER.AMP.DTYPE": ("bfloat16", "float16"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm", "full_model"),
}
_LENGTHS = {"SOLVER.BETAS": 2, "MODEL.PIXEL_MEAN": 3, "MODEL.PIXEL_STD": 3, "INPUT.SIZE": 2}
# Keys of Detectron2 that nothing here reads -> what to set instead.
_UNREAD = {
    "INPUT.CROP.ENABLED": "INPUT.AUGMENTATION.CROP",
    "INPUT.MAX_SIZE_TEST": "INPUT.SIZE",
    "INPUT.MAX_SIZE_TRAIN": "INPUT.SIZE",
    "INPUT.MIN_SIZE_TEST": "INPUT.SIZE",
    "INPUT.MIN_SIZE_TRAIN": "INPUT.SIZE",
    "INPUT.RANDOM_FLIP": "INPUT.AUGMENTATION.FLIP",
    "MODEL.ROI_HEADS.NUM_CLASSES": "MODEL.BOX3D_HEAD.NUM_CLASSES",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "MODEL.BOX3D_HEAD.SCORE_THRESHOLD",
    "SOLVER.MOMENTUM": "SOLVER.BETAS",
    "SOLVER.WARMUP_FACTOR": "SOLVER.WARMUP_START_LR",
    "SOLVER.WARMUP_METHOD": "SOLVER.WARMUP_START_LR and SOLVER.WARMUP_ITERS",
    "TEST.DETECTIONS_PER_IMAGE": "MODEL.BOX3D_HEAD.TOP_K",
}
# What keys hold whose defaults are empty.
_EXAMPLES = {
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "INPUT.FILTER.LIDAR_POINTS": (0,),
    "INPUT.FILTER.CLASSES": ("Car",),
    "DATASETS.TRAIN": ("kitti_train",),
    "DATASETS.TEST": ("kitti_val",),
}


def check_ranges(values: Mapping[str, object], defaults: Mapping[str, object]) -> None:
    """Raise ConfigError for a value that no run can use.

    Args:
        values: of every key; only those that differ from the defaults are looked at.
        defaults: of every key that has one.
    """
    for key, value in values.items():
        default = _EXAMPLES.get(key, defaults.get(key))
        if default is None or value == defaults[key]:
            continue
        if key in _UNREAD:
            raise ConfigError(
                key,
                found=f"{value!r}, which nothing here reads",
                expected=f"Detectron2's default, {defaults[key]!r}",
                mend=f"set {_UNREAD[key]}",
            )
        least, most = _RANGES.get(key, (-math.inf, math.inf))
        if not _is_alike(value, default):
            expected = f"something like {default!r}"
        elif len(value) != _LENGTHS[key] if key in _LENGTHS else False:
            expected = f"{_LENGTHS[key]} numbers"
        elif key in _CHOICES and value not in _CHOICES[key]:
            expected = f"one of {_CHOICES[key]}"
        elif not all(least <= number <= most for number in _numbers(value)):  # nan is none of them
            expected = _describe(least, most)
        else:
            continue
        raise ConfigError(key, found=repr(value), expected=expected, mend="correct the value")


def _is_alike(value: object, default: object) -> bool:
    """Whether texts, numbers and lists of them stand where they stand in the default."""
    if isinstance(default, list | tuple):
        return isinstance(value, list | tuple) and all(
            _is_alike(item, default[0]) and _same_length(item, default[0])
            for item in value
            if default
        )
    if isinstance(default, bool) or not isinstance(default, int | float):
        return isinstance(value, type(default))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same_length(item: object, default: object) -> bool:
    return not isinstance(default, list | tuple) or len(item) == len(default)


def _numbers(value: object) -> list[float]:
    if isinstance(value, list | tuple):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) else []


def _describe(least: float, most: float) -> str:
    if most == math.inf:
        return f"numbers of at least {least:g}" if least > -math.inf else "numbers, not nan"
    return f"above 0, at most {most:g}" if least == _ABOVE_0 else f"from {least:g} to {most:g}"
