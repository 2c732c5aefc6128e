"""Names of the official models' weights, mapped to ours."""

import re
from collections.abc import Mapping

from torch import Tensor

# First match wins; None drops an entry that our model does not have.
MONODLE_RULES: tuple[tuple[str, str | None], ...] = (
    # Outer projections of two-level trees and the classifier: created by the official DLA, never used.
    (r"backbone\.fc\..*", None),
    (r"backbone\.level[34]\.project\..*", None),
    (r"backbone\.(.*)", r"backbone.body.\1"),
    (r"neck\.ida_(\d)\.(proj|node|up)_(\d)\.(.*)", "neck"),
    (r"obj_depth\.(.*)", r"object_depth_head.branch.\1"),
    (r"((?:heatmap|offset_2d|size_2d|offset_3d|depth|size_3d|heading)\..*)", r"box3d_head.\1"),
)

_NECK_PARTS = {"proj": "projections", "node": "nodes", "up": "upsamples"}
_NECK_LAYERS = {"conv.": "0.", "bn.": "1."}


def rename_monodle(name: str) -> str | None:
    """Our name of an entry of MonoDLE's or DDML-M3DOD's state dict; None for one that is not used.

    Raises:
        KeyError: the name is not MonoDLE's.
    """
    for pattern, replacement in MONODLE_RULES:
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
    renamed = {rename_monodle(name): value for name, value in state.items()}
    renamed.pop(None, None)
    return renamed
