"""Made-up KITTI scenes, drawn without downloads and with KITTI's statistics."""

from qiml.data.synthetic.dataset import STYLES, write_dataset
from qiml.data.synthetic.scene import SyntheticFrame, render_scene

__all__ = ["STYLES", "SyntheticFrame", "render_scene", "write_dataset"]
