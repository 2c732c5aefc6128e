"""Names of the official models' weights, mapped to ours."""

import re
from collections.abc import Mapping

from torch import Tensor

Rules = tuple[tuple[str, str | None], ...]
"""Patterns of official names and ours. First match wins; None drops an entry that our model does not have."""

BACKBONE_RULES: Rules = (
    # Outer projections of two-level trees and the classifier: created by the official DLA, never used.
    (r"backbone\.fc\..*", None),
    (r"backbone\.level[34]\.project\..*", None),
    (r"backbone\.(.*)", r"backbone.body.\1"),
)
MONODLE_RULES: Rules = (
    *BACKBONE_RULES,
    (r"neck\.ida_(\d)\.(proj|node|up)_(\d)\.(.*)", "neck"),
    (r"obj_depth\.(.*)", r"object_depth_head.branch.\1"),
    (r"((?:heatmap|offset_2d|size_2d|offset_3d|depth|size_3d|heading)\..*)", r"box3d_head.\1"),
)
GUPNET_RULES: Rules = (
    *BACKBONE_RULES,
    (r"feat_up\.ida_(\d)\.(proj|node|up)_(\d)\.(.*)", "neck"),
    (r"mean_size", "box3d_head.mean_sizes"),
    (r"((?:heatmap|offset_2d|size_2d|offset_3d|depth|size_3d|heading)\..*)", r"box3d_head.\1"),
)

_NECK_PARTS = {"proj": "projections", "node": "nodes", "up": "upsamples"}
_NECK_LAYERS = {"conv.": "0.", "bn.": "1."}


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
    return _convert(state, MONODLE_RULES)


def convert_gupnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official state dict, with the class mean sizes in it, to ours."""
    return _convert(state, GUPNET_RULES)


def _convert(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    renamed = {_rename(name, rules): value for name, value in state.items()}
    renamed.pop(None, None)
    return renamed
