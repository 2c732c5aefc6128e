import pytest
import torch

from qiml.data.loader import build_train_loader
from qiml.engine.trainer import Trainer
from qiml.errors import ConfigError
from qiml.losses import OrdinalTripletLoss, QuasiIsometricLoss, RankNContrastLoss
from qiml.modeling.metric_loss import build_metric_loss

CONTRASTIVE = {
    "supcr": RankNContrastLoss,
    "rank_n_contrast": RankNContrastLoss,
    "triplet": OrdinalTripletLoss,
}


def instead(name, *overrides):
    """Overrides that put a contrastive loss in the place of the quasi-isometric one."""
    return ("MODEL.QUASI_ISOMETRIC.ENABLED", False, "MODEL.CONTRASTIVE.NAME", name, *overrides)


@pytest.mark.parametrize(
    ("form", "head", "place", "space"),
    [
        ("two_sided", "MonoDLEHead", "depth", "log"),
        ("two_sided", "MonoConHead", "neck", "log"),
        ("two_sided", "GUPNetHead", "neck", "log"),
        ("two_sided", "DIDM3DHead", "neck", "log"),
        ("official", "MonoDLEHead", "neck", "metric"),
        ("official", "MonoConHead", "neck", "metric"),
    ],
)
def test_by_default_the_official_form_is_as_released(tiny_config, form, head, place, space):
    overrides = ("MODEL.QUASI_ISOMETRIC.FORM", form, "MODEL.BOX3D_HEAD.NAME", head)
    model = Trainer.build_model(tiny_config(*overrides))
    assert (model.descriptor, model.metric_loss.depth_space) == (place, space)
    fixed = ("MODEL.QUASI_ISOMETRIC.DESCRIPTOR", "neck", "MODEL.QUASI_ISOMETRIC.DEPTH_SPACE", "log")
    model = Trainer.build_model(tiny_config(*overrides, *fixed))
    assert (model.descriptor, model.metric_loss.depth_space) == ("neck", "log")


def test_built_by_config(tiny_config):
    assert isinstance(build_metric_loss(tiny_config()), QuasiIsometricLoss)
    assert build_metric_loss(tiny_config("MODEL.QUASI_ISOMETRIC.ENABLED", False)) is None
    values = {"WEIGHT": 0.25, "TEMPERATURE": 3.0, "MARGIN": 4.0, "GAP": 5.0}
    overrides = [x for key, value in values.items() for x in (f"MODEL.CONTRASTIVE.{key}", value)]
    overrides += ["MODEL.QUASI_ISOMETRIC.GATHER", False]
    for name, kind in CONTRASTIVE.items():
        loss = build_metric_loss(tiny_config(*instead(name, *overrides)))
        assert type(loss) is kind and loss.weight == 0.25 and loss.gather is False
        if name == "triplet":
            assert (loss.margin, loss.gap) == (4.0, 5.0)
        else:
            assert loss.temperature == 3.0


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_detector_takes_a_step_with_each(tiny_config, kitti_folder, name):
    """Its gradient reaches the neck and of the head its descriptors alone; the whole network trains on."""
    data = ("DATASETS.TRAIN", f"('kitti_format:{kitti_folder()}:train',)")
    cfg = tiny_config(*instead(name), *data, "INPUT.AUGMENTATION.CROP", 0.0)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).train()
    batch = next(iter(build_train_loader(cfg)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = model(batch)
    assert losses["loss_metric"] > 0
    losses["loss_metric"].backward(retain_graph=True)
    assert any(p.grad is not None and p.grad.any() for p in model.neck.parameters())
    reached = {name for name, p in model.box3d_head.named_parameters() if p.grad is not None}
    assert reached == {"depth.0.weight", "depth.0.bias"}
    sum(losses.values()).backward()
    optimizer.step()
    assert all(loss.isfinite() for loss in model(batch).values())
    assert model.for_inference().metric_loss is None


def test_regions_need_a_head_that_has_them(tiny_config):
    roi = instead("triplet", "MODEL.QUASI_ISOMETRIC.DESCRIPTOR", "roi")
    with pytest.raises(ConfigError, match=r"DESCRIPTOR: found 'roi' with .*MonoDLEHead"):
        Trainer.build_model(tiny_config(*roi))
