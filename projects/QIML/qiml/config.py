"""Every configuration key QIML adds to Detectron2's, with its default."""

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from qiml.config_ranges import check_ranges
from qiml.errors import ConfigError


def add_qiml_config(cfg: CN) -> None:
    """Add QIML's keys to a Detectron2 config, in place.

    The defaults are MonoDLE's on KITTI, without the two losses.
    """
    # Of the weights, and of the order and augmentation of the data: a run is a function of config and seed.
    cfg.SEED = 444
    _add_input(cfg)
    _add_network(cfg)
    _add_box3d_head(cfg)
    _add_auxiliary_losses(cfg)
    _add_solver(cfg)
    _add_test(cfg)


def _add_input(cfg: CN) -> None:
    # Width and height of the network's input.
    cfg.INPUT.SIZE = (1280, 384)
    # "fit": images are scaled so that their width fills the input, keeping their aspect ratio; "pad": they
    # keep their pixels, in the input's upper left corner, the rest filled with MODEL.PIXEL_MEAN.
    cfg.INPUT.RESIZE = "fit"

    cfg.INPUT.AUGMENTATION = CN()
    # Probability of mirroring image, boxes and camera.
    cfg.INPUT.AUGMENTATION.FLIP = 0.5
    # Probability of a random crop: scale 1 + N(0, 1) · CROP_SCALE, clipped at one CROP_SCALE, and a shift of
    # N(0, 1) · CROP_SHIFT, clipped at two, in image sizes.
    cfg.INPUT.AUGMENTATION.CROP = 0.5
    cfg.INPUT.AUGMENTATION.CROP_SCALE = 0.4
    cfg.INPUT.AUGMENTATION.CROP_SHIFT = 0.1
    # What a crop does to 3D supervision. "ignore": cropped images train heat map, 2D box and heading
    # only (the official MonoDLE); "virtual": depth is divided by the magnification, as if the object
    # were seen by the uncropped camera; "metric": depth stays as it is, for heads that undo the crop
    # themselves (GUPNet, DID-M3D). The two losses on neck features then take the virtual depth.
    cfg.INPUT.AUGMENTATION.CROP_DEPTH = "ignore"
    # Probability of a random shift, and its largest size to either side in whole pixels; what leaves the
    # image is cut off, 2D boxes with it.
    cfg.INPUT.AUGMENTATION.SHIFT = 0.0
    cfg.INPUT.AUGMENTATION.SHIFT_PIXELS = 32
    # Probability of random colours.
    cfg.INPUT.AUGMENTATION.PHOTOMETRIC = 0.0
    # "jitter": brightness, contrast and saturation together; "distortion": SSD's, as MonoCon, each of these
    # and of hue and a permutation of the channels half of the time.
    cfg.INPUT.AUGMENTATION.PHOTOMETRIC_FORM = "jitter"

    # Which labelled objects train: 2D height in pixels of the original image (y2 − y1 + 1, as the official
    # code counts), KITTI's truncation and occlusion, depth in metres.
    cfg.INPUT.FILTER = CN()
    cfg.INPUT.FILTER.MIN_HEIGHT = 25.0
    cfg.INPUT.FILTER.MAX_TRUNCATION = 0.5
    cfg.INPUT.FILTER.MAX_OCCLUSION = 2
    cfg.INPUT.FILTER.MIN_DEPTH = 2.0
    cfg.INPUT.FILTER.MAX_DEPTH = 65.0
    # For each of the data set's classes, LiDAR points that must be exceeded for depth, size and offset of an
    # object to train; with fewer it trains heat map, 2D box and heading. () for no such filter; only Waymo's
    # data count them.
    cfg.INPUT.FILTER.LIDAR_POINTS = ()
    # Names of the classes that train; () for all of the data set's.
    cfg.INPUT.FILTER.CLASSES = ()


def _add_network(cfg: CN) -> None:
    cfg.MODEL.META_ARCHITECTURE = "MonocularDetector3D"
    # Of RGB images in [0, 255]: ImageNet's.
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]

    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    # A timm model with features_only support: dla34, resnet18, …
    cfg.MODEL.BACKBONE.TIMM_NAME = "dla34"
    # Download timm's ImageNet weights.
    cfg.MODEL.BACKBONE.PRETRAINED = True
    # A local file with the backbone's weights instead; "" for none.
    cfg.MODEL.BACKBONE.WEIGHTS = ""
    # Further arguments of the timm model, such as `channels` and `stem_width` of a thin ResNet; null takes
    # one of a base config away.
    cfg.MODEL.BACKBONE.TIMM_OPTIONS = CN(new_allowed=True)
    # "SteerableDLA" (DEVIANT) as MODEL.BACKBONE.NAME: a timm DLA with scale-equivariant convolutions.
    cfg.MODEL.BACKBONE.STEERABLE = CN()
    # Widths in pixels of the Gaussians under its kernels, smallest first.
    cfg.MODEL.BACKBONE.STEERABLE.SCALES = (0.83, 0.9, 1.0)
    # Kernels and the conversion of ordinary weights as in DEVIANT's code: docs/configs.md tells the
    # difference, and what it was chosen by. Checkpoints are not concerned: they bring their own kernels.
    cfg.MODEL.BACKBONE.STEERABLE.OFFICIAL = False

    cfg.MODEL.NECK = CN()
    # "learned": depthwise transposed convolutions that start bilinear (the official models);
    # "nearest": without weights, several times faster on a CPU.
    cfg.MODEL.NECK.UPSAMPLE = "learned"


def _add_box3d_head(cfg: CN) -> None:
    cfg.MODEL.BOX3D_HEAD = CN()
    # A name in BOX3D_HEAD_REGISTRY.
    cfg.MODEL.BOX3D_HEAD.NAME = "MonoDLEHead"
    cfg.MODEL.BOX3D_HEAD.NUM_CLASSES = 3
    # Width of each branch's hidden layer.
    cfg.MODEL.BOX3D_HEAD.HIDDEN_CHANNELS = 256
    # Heat-map peaks decoded per image.
    cfg.MODEL.BOX3D_HEAD.TOP_K = 50
    # Least score of a detection: MonoDLE's and DID-M3D's of the heat map alone, GUPNet's and MonoCon's times
    # the depth confidence.
    cfg.MODEL.BOX3D_HEAD.SCORE_THRESHOLD = 0.2
    # Heads with a second stage (GUPNet, DID-M3D): mean height, width and length in metres of each class, to
    # which their sizes are residuals; here of KITTI's Pedestrian, Car, Cyclist, as in the official code. A
    # checkpoint brings its own.
    cfg.MODEL.BOX3D_HEAD.MEAN_SIZES = [
        [1.76255119, 0.66068622, 0.84422524],
        [1.52563191462, 1.62856739989, 3.88311640418],
        [1.73698127, 0.59706367, 1.76282397],
    ]
    # Side of the squares that the second stage pools from 2D boxes.
    cfg.MODEL.BOX3D_HEAD.ROI_SIZE = 7
    # DID-M3D: what its visual depth learns from. "box": the surfaces of the labels' 3D boxes; "object": the
    # object-wise depth, of their centres; "dense": depth maps of the training images, as its official code
    # (docs/datasets.md).
    cfg.MODEL.BOX3D_HEAD.VISUAL_DEPTH = "box"


def _add_auxiliary_losses(cfg: CN) -> None:
    # The auxiliary object-wise depth-map head; gone at inference.
    cfg.MODEL.OBJECT_DEPTH = CN()
    cfg.MODEL.OBJECT_DEPTH.ENABLED = False
    cfg.MODEL.OBJECT_DEPTH.WEIGHT = 1.0
    cfg.MODEL.OBJECT_DEPTH.HIDDEN_CHANNELS = 256
    # What its map shows in an object's 2D box. "object": the depth of the 3D box's centre, as in the paper;
    # "box": of the 3D box's surface.
    cfg.MODEL.OBJECT_DEPTH.TARGET = "object"

    # The quasi-isometric metric loss on object descriptors.
    cfg.MODEL.QUASI_ISOMETRIC = CN()
    cfg.MODEL.QUASI_ISOMETRIC.ENABLED = False
    # "two_sided": both bounds pull the right way (ours); "official": as released. What "auto" below stands
    # for was tried with the former (docs/results.md), and is as released with the latter.
    cfg.MODEL.QUASI_ISOMETRIC.FORM = "two_sided"
    # Bounds Δz/K − B ≤ D ≤ K·Δz + B for pairs with Δz ≤ EPSILON.
    cfg.MODEL.QUASI_ISOMETRIC.K = 1.5
    cfg.MODEL.QUASI_ISOMETRIC.B = 0.5
    cfg.MODEL.QUASI_ISOMETRIC.EPSILON = 10.0
    cfg.MODEL.QUASI_ISOMETRIC.WEIGHT = 0.5
    # Temperature of the official form.
    cfg.MODEL.QUASI_ISOMETRIC.TEMPERATURE = 10.0
    # "metric" (metres, as released), "log" (25·ln z) or "auto": the latter with "two_sided".
    cfg.MODEL.QUASI_ISOMETRIC.DEPTH_SPACE = "auto"
    # Learn a factor on feature distances, so that K and B do not depend on the features' scale.
    cfg.MODEL.QUASI_ISOMETRIC.LEARN_SCALE = False
    # Compare objects of different images, too; else the loss is the mean over images.
    cfg.MODEL.QUASI_ISOMETRIC.ACROSS_IMAGES = True
    # Compare the objects of all workers, too.
    cfg.MODEL.QUASI_ISOMETRIC.GATHER = True
    # An object's descriptor. "depth": the hidden layer of the depth branch, where that is read; with a second
    # stage (GUPNet, DID-M3D) its mean over the region. Or a mean of neck features: "neck", in a window around
    # the projected centre, as released; "roi", in the 2D box, as a second stage pools them. "auto": "neck",
    # but "depth" with "two_sided" and MonoDLE.
    cfg.MODEL.QUASI_ISOMETRIC.DESCRIPTOR = "auto"
    # Side of that window, in cells.
    cfg.MODEL.QUASI_ISOMETRIC.DESCRIPTOR_SIZE = 5

    # A metric loss in its place, to compare it with; QUASI_ISOMETRIC's DESCRIPTOR, DESCRIPTOR_SIZE,
    # ACROSS_IMAGES and GATHER hold for it too.
    cfg.MODEL.CONTRASTIVE = CN()
    # "supcr" or "rank_n_contrast": two names of one loss; "triplet": ordinal triplets; "": none.
    cfg.MODEL.CONTRASTIVE.NAME = ""
    cfg.MODEL.CONTRASTIVE.WEIGHT = 0.5
    # Temperature of Rank-N-Contrast.
    cfg.MODEL.CONTRASTIVE.TEMPERATURE = 2.0
    # Of triplets: what is farther off in depth by more than GAP metres is to be so in descriptor by MARGIN.
    cfg.MODEL.CONTRASTIVE.MARGIN = 1.0
    cfg.MODEL.CONTRASTIVE.GAP = 1.0


def _add_solver(cfg: CN) -> None:
    # "Adam" or "AdamW".
    cfg.SOLVER.OPTIMIZER = "Adam"
    # Decay of its running means of the gradient and of its square. The second is a memory of 1 / (1 − β₂)
    # steps: in a short run the huge gradients of the first steps would hold the step size down.
    cfg.SOLVER.BETAS = (0.9, 0.999)
    cfg.SOLVER.BASE_LR = 1.25e-3
    cfg.SOLVER.WEIGHT_DECAY = 1e-5
    cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.0
    cfg.SOLVER.IMS_PER_BATCH = 16
    # Weight decay of normalisation layers, whatever the parameter; None: as of other weights and biases.
    cfg.SOLVER.WEIGHT_DECAY_NORM = None
    # Detectron2's "value" and "norm" (of each parameter's gradient), or "full_model" (norm of all together).
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"
    # Learning rate the warm-up starts from; it rises along half a cosine for SOLVER.WARMUP_ITERS
    # iterations. Then SOLVER.LR_SCHEDULER_NAME decides: "WarmupMultiStepLR" (SOLVER.STEPS,
    # SOLVER.GAMMA), "WarmupCosineLR" (down to 0) or "CyclicLR" (SOLVER.CYCLIC, without warm-up).
    cfg.SOLVER.WARMUP_START_LR = 1e-5
    # Hierarchical task learning (GUPNet): a loss counts the more, the less those it builds on still fall.
    cfg.SOLVER.TASK_LEARNING = CN()
    cfg.SOLVER.TASK_LEARNING.ENABLED = False
    # Iterations over which losses are averaged and weights stay; 0: an epoch.
    cfg.SOLVER.TASK_LEARNING.PERIOD = 0
    # Periods over which a loss's fall is measured. Before the first so many, what builds on others weighs 0.
    cfg.SOLVER.TASK_LEARNING.WINDOW = 5
    # Periods after which every loss counts fully; 0: those of the run.
    cfg.SOLVER.TASK_LEARNING.LENGTH = 0
    # "CyclicLR" along half cosines: over the first RISE of the run the learning rate rises from BASE_LR to
    # PEAK times it and β₁ falls to MOMENTUM; then the rate falls to FINAL times BASE_LR and β₁ comes back.
    cfg.SOLVER.CYCLIC = CN()
    cfg.SOLVER.CYCLIC.RISE = 0.4
    cfg.SOLVER.CYCLIC.PEAK = 10.0
    cfg.SOLVER.CYCLIC.FINAL = 1e-4
    cfg.SOLVER.CYCLIC.MOMENTUM = 0.85
    # Mixed precision: "bfloat16" (CPU and GPU) or "float16" (GPU only). A device that is slow in it
    # computes in float32: CPUs without AVX-512 or its like, GPUs before Ampere in bfloat16.
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    # How many of the checkpoints written every SOLVER.CHECKPOINT_PERIOD iterations stay; 0: all.
    cfg.SOLVER.CHECKPOINTS_KEPT = 2

    # An exponential moving average of the weights, evaluated in place of the last ones.
    cfg.MODEL_EMA = CN()
    cfg.MODEL_EMA.ENABLED = False
    # What a step keeps of the average; rises to this from 0 in the first steps.
    cfg.MODEL_EMA.DECAY = 0.999


def _add_test(cfg: CN) -> None:
    # Also report the level "visible" with this least 2D height in pixels: KITTI's Hard for images of
    # another size, where its 25 px must be scaled. 0: do not.
    cfg.TEST.VISIBLE_MIN_HEIGHT = 0.0
    # Write OUTPUT_DIR/report.html when a run is over, for the browser: some seconds, mostly 5 to 28 MB.
    cfg.TEST.REPORT = True
    # Images a batch holds in evaluation.
    cfg.TEST.IMS_PER_BATCH = 8


def load_config(config_file: str, overrides: Sequence[str] = ()) -> CN:
    """Detectron2's and QIML's defaults, then a file, then `KEY VALUE` overrides; not frozen.

    Without a GPU, MODEL.DEVICE "cuda" becomes "cpu".

    Args:
        config_file: YAML file, or "" for the defaults.
        overrides: KEY VALUE KEY VALUE …

    Raises:
        ConfigError: the file is missing or malformed, a key is unknown, a value has the wrong type or
            is out of range.
    """
    cfg = get_cfg()
    add_qiml_config(cfg)
    defaults = flat_config(cfg)
    if config_file:
        if not Path(config_file).is_file():
            raise ConfigError(
                config_file,
                found="no such file",
                expected="a YAML config",
                mend="see the folder configs/",
            )
        with _mendable(cfg, config_file):
            cfg.merge_from_file(config_file, allow_unsafe=False)  # data alone, no code
    if len(overrides) % 2:
        raise ConfigError(
            "command line",
            found=f"an odd number of words after the options: {' '.join(overrides)}",
            expected="KEY VALUE pairs",
            mend="give every key a value, and quote values with spaces",
        )
    with _mendable(cfg, "command line"):
        cfg.merge_from_list(list(overrides))
    check_ranges(flat_config(cfg), defaults)
    _check_values(cfg)
    with _mendable(cfg, "MODEL.DEVICE"):
        torch.device(cfg.MODEL.DEVICE)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def load_config_text(text: str) -> CN:
    """The config that `cfg.dump()` wrote as `text`; not frozen."""
    cfg = get_cfg()
    add_qiml_config(cfg)
    cfg.merge_from_other_cfg(CN.load_cfg(text))
    return cfg


@contextlib.contextmanager
def _mendable(cfg: CN, where: str) -> Iterator[None]:
    """Turn yacs' and YAML's exceptions into a ConfigError that says how to mend it."""
    try:
        yield
    except (KeyError, AttributeError, AssertionError) as error:
        text = str(error).strip("'\"")
        key = text.rpartition(" ")[2].strip(".")[:100]
        similar = difflib.get_close_matches(key, flat_config(cfg), n=1)
        raise ConfigError(
            f"{where}: {key}",
            found=f"an unknown config key ({text})",
            expected="a key of qiml/config.py or Detectron2",
            mend=f"did you mean {similar[0]}?"
            if similar
            else "see projects/QIML/README.md for the keys",
        ) from error
    # YAML's and Python's parsers and the merge of _BASE_ files have many ways to fail.
    except Exception as error:
        _, named, key = str(error).rpartition(" for config key: ")
        found, expected = (
            f"{type(error).__name__}: {error}",
            "YAML, with values of the defaults' types",
        )
        if named and any(name.startswith(f"{key}.") for name in flat_config(cfg)):
            # Theirs shows all its keys.
            found, expected = "a value for a section", f"values for its keys, such as {key}.KEY"
        raise ConfigError(
            f"{where}: {key}" if named else where,
            found=found,
            expected=expected,
            mend="see projects/QIML/qiml/config.py",
        ) from error


def flat_config(node: CN, prefix: str = "") -> dict[str, object]:
    """{"SECTION.KEY": value} of all keys."""
    flat = {}
    for name, value in node.items():
        if isinstance(value, CN):
            flat |= flat_config(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _check_values(cfg: CN) -> None:
    """Values that are in their ranges and still cannot work, by themselves or together."""
    qi = cfg.MODEL.QUASI_ISOMETRIC
    if qi.DESCRIPTOR_SIZE < 1 or qi.DESCRIPTOR_SIZE % 2 == 0:
        raise ConfigError(
            "MODEL.QUASI_ISOMETRIC.DESCRIPTOR_SIZE",
            found=str(qi.DESCRIPTOR_SIZE),
            expected="an odd number of cells, so that the window has a middle",
            mend="correct the value; the paper's is 5",
        )
    if not 0 <= cfg.MODEL_EMA.DECAY < 1:
        raise ConfigError(
            "MODEL_EMA.DECAY",
            found=str(cfg.MODEL_EMA.DECAY),
            expected="at least 0 and below 1",
            mend="correct the value; 0.999 remembers about a thousand steps",
        )
    size = tuple(cfg.INPUT.SIZE)
    if len(size) != 2 or not all(isinstance(s, int) and s > 0 and s % 32 == 0 for s in size):
        raise ConfigError(
            "INPUT.SIZE",
            found=str(size),
            expected="(width, height), both multiples of 32",
            mend="take the nearest multiples, such as (1280, 384) or (416, 128)",
        )
    if list(cfg.SOLVER.STEPS) != sorted(cfg.SOLVER.STEPS):
        raise ConfigError(
            "SOLVER.STEPS",
            found=str(cfg.SOLVER.STEPS),
            expected="iterations in rising order",
            mend="sort them",
        )
    if qi.K < 1 or qi.B < 0:
        raise ConfigError(
            "MODEL.QUASI_ISOMETRIC",
            found=f"K {qi.K}, B {qi.B}",
            expected="K >= 1 and B >= 0, or the two bounds contradict each other",
            mend="correct the values; the paper's are 1.5 and 0.5",
        )
    _check_contrastive(cfg)


def _check_contrastive(cfg: CN) -> None:
    """MODEL.CONTRASTIVE by itself, and against the quasi-isometric loss."""
    contrastive, key = cfg.MODEL.CONTRASTIVE, "MODEL.CONTRASTIVE"
    if contrastive.NAME and cfg.MODEL.QUASI_ISOMETRIC.ENABLED:
        raise ConfigError(
            f"{key}.NAME",
            found=f"{contrastive.NAME!r} with MODEL.QUASI_ISOMETRIC.ENABLED True",
            expected="one metric loss at most",
            mend="set MODEL.QUASI_ISOMETRIC.ENABLED False, or this to ''",
        )
    values = (contrastive.TEMPERATURE, contrastive.MARGIN, contrastive.GAP)
    if contrastive.TEMPERATURE <= 0 or min(values) < 0:
        raise ConfigError(
            key,
            found="TEMPERATURE {}, MARGIN {}, GAP {}".format(*values),
            expected="TEMPERATURE > 0, MARGIN >= 0 and GAP >= 0",
            mend="correct the values; Rank-N-Contrast's temperature is 2",
        )
