"""What is refused before a training starts."""

import pytest

from qiml.engine.setup import check_crop_depth
from qiml.errors import ConfigError


@pytest.mark.parametrize(
    ("head", "suitable", "wrong"),
    [("MonoDLEHead", "virtual", "metric"), ("GUPNetHead", "metric", "virtual")],
)
def test_crops_that_would_teach_wrong_depths(tiny_config, head, suitable, wrong):
    crop, own = "INPUT.AUGMENTATION.CROP", ["MODEL.BOX3D_HEAD.NAME", head]
    own += ["INPUT.AUGMENTATION.CROP_DEPTH"]
    with pytest.raises(ConfigError, match=f"CROP_DEPTH: found '{wrong}' with .*{head}"):
        check_crop_depth(tiny_config(*own, wrong))
    for right in ([*own, suitable], [*own, "ignore"], [*own, wrong, crop, 0.0]):
        check_crop_depth(tiny_config(*right))
