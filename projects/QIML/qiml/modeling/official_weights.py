"""Names of the official models' weights, mapped to ours."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Rules = tuple[tuple[str, str | None], ...]
"""Patterns of official names and ours. First match wins; None drops an entry that our model does not have."""

BACKBONE_RULES: Rules = (
    # Outer projections of two-level trees and the classifier: created by the official DLA, never used.
    (r"backbone\.fc\..*", None),
    (r"backbone\.level[34]\.project\..*", None),
    (r"backbone\.(.*)", r"backbone.body.\1"),
)
BRANCH_RULES: Rules = (
    (r"((?:heatmap|offset_2d|size_2d|offset_3d|depth|size_3d|heading)\..*)", r"box3d_head.\1"),
)
MONODLE_RULES: Rules = (
    *BACKBONE_RULES,
    (r"neck\.ida_(\d)\.(proj|node|up)_(\d)\.(.*)", "neck"),
    (r"obj_depth\.(.*)", r"object_depth_head.branch.\1"),
    *BRANCH_RULES,
)
GUPNET_RULES: Rules = (
    *BACKBONE_RULES,
    (r"feat_up\.ida_(\d)\.(proj|node|up)_(\d)\.(.*)", "neck"),
    (r"mean_size", "box3d_head.mean_sizes"),
    *BRANCH_RULES,
)
DID_M3D_RULES: Rules = (
    (r"vis_depth\.(.*)", r"box3d_head.visual_depth.\1"),
    (r"att_depth\.(.*)", r"box3d_head.attribute_depth.\1"),
    (r"vis_depth_uncer\.(.*)", r"box3d_head.visual_log_variance.\1"),
    (r"att_depth_uncer\.(.*)", r"box3d_head.attribute_log_variance.\1"),
    *GUPNET_RULES,
)

_NECK_PARTS = {"proj": "projections", "node": "nodes", "up": "upsamples"}
_NECK_LAYERS = {"conv.": "0.", "bn.": "1.", "bn1.": "1."}


def rename_monodle(name: str) -> str | None:
    """Our name of an entry of MonoDLE's or DDML-M3DOD's state dict; None for one that is not used.

    Raises:
        KeyError: the name is not MonoDLE's.
    """
    return _rename(name, MONODLE_RULES)


def rename_gupnet(name: str) -> str | None:
    """Our name of an entry of GUPNet's state dict; None for one that is not used.

    Raises:
        KeyError: the name is not GUPNet's.
    """
    return _rename(name, GUPNET_RULES)


def rename_did_m3d(name: str) -> str | None:
    """Our name of an entry of DID-M3D's state dict; None for one that is not used.

    Raises:
        KeyError: the name is not DID-M3D's.
    """
    return _rename(name, DID_M3D_RULES)


def _rename(name: str, rules: Rules) -> str | None:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match is None:
            continue
        if replacement == "neck":
            stage, part, level, rest = match.groups()
            for official, ours in _NECK_LAYERS.items():
                rest = rest.replace(official, ours)
            return f"neck.stages.{stage}.{_NECK_PARTS[part]}.{int(level) - 1}.{rest}"
        return match.expand(replacement) if replacement else None
    raise KeyError(name)


def convert_monodle(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official state dict (MonoDLE, or DDML-M3DOD with its object-depth head) to ours."""
    return _renamed(state, rename_monodle)


def convert_gupnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official state dict, with the class mean sizes in it, to ours."""
    return _renamed(state, rename_gupnet)


def convert_did_m3d(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official state dict, with the class mean sizes in it, to ours."""
    return _renamed(state, rename_did_m3d)


def _renamed(state: Mapping[str, Tensor], rename: Callable[[str], str | None]) -> dict[str, Tensor]:
    """`state` under our names, without what is not used."""
    renamed = {rename(name): value for name, value in state.items()}
    renamed.pop(None, None)
    return renamed


# --- DEVIANT


def rename_deviant(name: str) -> str | None:
    """Our name of an entry of DEVIANT's state dict, with GUPNet's heads; None for one that is not used.

    Raises:
        KeyError: the name is not DEVIANT's.
    """
    # Its wrappers around whatever has scales.
    return rename_gupnet(re.sub(r"\.extra\d", "", name))


_WAYMO_CLASSES = (1, 0, 2)
"""Where DEVIANT's Waymo model has ours: Pedestrian, Car, Cyclist there, and Sign, which it never detects."""


def convert_deviant(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official state dict, of KITTI or Waymo, with class mean sizes and steerable bases in it, to ours."""
    renamed = _renamed(state, rename_deviant)
    # Those within trees have a dimension for interscale weights, of which there is one.
    convolution = re.compile(r"backbone\..*\.conv[12]\.weight")
    renamed = {k: v.flatten(2) if convolution.fullmatch(k) else v for k, v in renamed.items()}
    of_waymo = len(renamed.get("box3d_head.mean_sizes", ())) == 4
    return _in_waymo_order(renamed) if of_waymo else renamed


def _in_waymo_order(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of class maps, in and out, and of mean sizes."""
    reordered = {}
    for name, value in state.items():
        if name == "box3d_head.mean_sizes" or name.startswith("box3d_head.heatmap.2."):
            value = value[list(_WAYMO_CLASSES)]
        elif re.fullmatch(r"box3d_head\.(depth|offset_3d|size_3d|heading)\.0\.weight", name):
            *others, classes = value.split([value.shape[1] - 4, 4], dim=1)
            value = torch.cat([*others, classes[:, list(_WAYMO_CLASSES)]], dim=1)
        reordered[name] = value
    return reordered


# --- MonoCon

_MONOCON_BRANCHES = {
    "heatmap_head": "heatmap",
    "wh_head": "size_2d",
    "offset_head": "offset_2d",
    "center2kpt_offset_head": "offset_3d",
    "kpt_heatmap_head": "auxiliary.keypoint_heatmap",
    "kpt_heatmap_offset_head": "auxiliary.keypoint_offset",
    "dim_head": "size_3d",
    "depth_head": "depth",
    "dir_feat": "heading",
}
MONOCON_RULES: Rules = (
    *BACKBONE_RULES,
    (r"neck\.ida_(\d)\.(proj|node|up)_(\d)\.(.*)", "neck"),
    *(
        (rf"(?:bbox_)?head\.{official}\.(.*)", rf"box3d_head.{ours}.\1")
        for official, ours in _MONOCON_BRANCHES.items()
    ),
    (r"(?:bbox_)?head\.dir_(cls|reg)\.0\.(.*)", r"box3d_head.heading.3.\1.\2"),
)
_ATTENTIVE_NORM_PARTS = {
    "weight_": "scales",
    "bias_": "shifts",
    "attn_weights.attention.0.": "attention.",
    "attn_weights.attention.1.": "attention_norm.",
}
# Rows of our last layers in the official ones. Classes are Pedestrian, Cyclist, Car there; sizes l, h, w;
# corners in MMDetection3D's order.
_MONOCON_CORNERS = (6, 7, 3, 2, 5, 4, 0, 1)
_MONOCON_ROWS = {
    "box3d_head.heatmap.3": (0, 2, 1),
    "box3d_head.size_3d.3": (1, 2, 0),
    "box3d_head.auxiliary.keypoint_heatmap.3": (*_MONOCON_CORNERS, 8),
}


def rename_monocon(name: str) -> str | None:
    """Our name of an entry of a MonoCon state dict (of either code); None for one that is not used.

    Raises:
        KeyError: the name is not MonoCon's.
    """
    renamed = _rename(name, MONOCON_RULES)
    for official, ours in _ATTENTIVE_NORM_PARTS.items():
        renamed = renamed and renamed.replace(official, ours)
    return renamed


def convert_monocon(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official state dict to ours: renamed, and the rows of last layers in our order."""
    renamed = _renamed(state, rename_monocon)
    converted = {}
    for name, value in renamed.items():
        layer, _, kind = name.rpartition(".")
        if layer in _MONOCON_ROWS and len(value) == len(_MONOCON_ROWS[layer]):
            converted[name] = value[list(_MONOCON_ROWS[layer])]
        elif layer == "box3d_head.offset_3d.3":
            # The projected 3D centre is the last of nine key points.
            points = value.unflatten(0, (-1, 2))
            corners = points[list(_MONOCON_CORNERS)].flatten(0, 1)
            converted |= {name: points[-1], f"box3d_head.auxiliary.corners.{kind}": corners}
        elif layer == "box3d_head.heading.3.cls":
            parts = [value, renamed.get(f"box3d_head.heading.3.reg.{kind}", value[:0])]
            converted[f"box3d_head.heading.3.{kind}"] = torch.cat(parts)
        elif layer.endswith(".attention"):
            converted[name] = value.flatten(1)  # a 1×1 convolution
        elif layer != "box3d_head.heading.3.reg":
            converted[name] = value
    return converted
