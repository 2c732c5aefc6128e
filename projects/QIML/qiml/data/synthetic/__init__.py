"""Made-up KITTI scenes, drawn without downloads and with KITTI's statistics."""

from qiml.data.synthetic.dataset import write_dataset
from qiml.data.synthetic.scene import SyntheticFrame, render_scene

__all__ = ["SyntheticFrame", "render_scene", "write_dataset"]
