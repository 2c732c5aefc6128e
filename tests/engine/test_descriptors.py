import numpy as np
import pytest
import torch

from qiml.data.loader import build_test_loader, build_train_loader
from qiml.data.synthetic import write_dataset
from qiml.engine.descriptors import collect_descriptors
from qiml.engine.trainer import Trainer
from qiml.errors import ConfigError, DatasetError

HEADS = ["MonoDLEHead", "GUPNetHead", "DIDM3DHead", "MonoConHead"]
NO_AUGMENTATION = ["INPUT.AUGMENTATION.FLIP", 0.0, "INPUT.AUGMENTATION.CROP", 0.0]


def collect(*args, **kwargs):
    """The objects, of the one kind of descriptors that the config asks for."""
    (objects,) = collect_descriptors(*args, **kwargs).values()
    return objects


@pytest.fixture
def make(kitti_folder, tiny_config):
    """Config, model and the name of a data set of so many streets, each with three objects that train."""

    def make(*overrides, frames=3, **folder):
        torch.manual_seed(0)
        name = (
            f"kitti_format:{kitti_folder(frames=frames, **folder)}:{folder.get('split', 'train')}"
        )
        cfg = tiny_config("TEST.IMS_PER_BATCH", 2, *overrides)
        return cfg, Trainer.build_model(cfg), name

    return make


@pytest.mark.parametrize("metric", [False, True], ids=["", "qi"])
@pytest.mark.parametrize(
    ("head", "descriptor"),
    [
        *((head, "neck") for head in HEADS),
        ("GUPNetHead", "roi"),
        ("DIDM3DHead", "roi"),
        *((head, "depth") for head in HEADS),
    ],
)
def test_every_head(make, head, descriptor, metric):
    cfg, model, name = make(
        *("MODEL.BOX3D_HEAD.NAME", head, "MODEL.QUASI_ISOMETRIC.DESCRIPTOR", descriptor),
        *("MODEL.QUASI_ISOMETRIC.ENABLED", metric),
    )
    found = collect(cfg, model, name)
    hidden = cfg.MODEL.BOX3D_HEAD.HIDDEN_CHANNELS
    channels = hidden if descriptor == "depth" else model.neck.out_channels
    assert found.descriptors.shape == (9, channels)
    assert found.descriptors.dtype == np.float32 and np.ptp(found.descriptors, axis=0).any()
    assert found.depth.reshape(3, 3) == pytest.approx(np.tile([10, 7, 12], (3, 1)), abs=0.01)
    assert found.image_index.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found.classes.reshape(3, 3).tolist() == [[1, 0, 2]] * 3
    same = collect(cfg, model.for_inference(), name)
    assert np.array_equal(same.descriptors, found.descriptors)


@pytest.mark.parametrize("descriptor", ["neck", "roi", "depth"])
def test_what_the_metric_loss_compares(make, tiny_config, descriptor, monkeypatch):
    """The same as a training step without augmentation, but for batch normalisation."""
    options = ["MODEL.BOX3D_HEAD.NAME", "GUPNetHead"]
    options += ["MODEL.QUASI_ISOMETRIC.DESCRIPTOR", descriptor]
    cfg, model, name = make(*options, frames=2)
    model.eval()
    seen = []
    monkeypatch.setattr(model.metric_loss, "forward", lambda *x: seen.extend(x) or torch.tensor(0))
    cfg.DATASETS.TRAIN = (name,)
    cfg.merge_from_list(NO_AUGMENTATION)
    batch = sorted(next(iter(build_train_loader(cfg))), key=lambda frame: frame["image_id"])
    with torch.no_grad():
        features = model.extract_features(batch)
        model.losses(features, model.box3d_head(features), [x["instances"] for x in batch])
    found = collect(cfg, model, name)
    np.testing.assert_array_equal(found.descriptors, seen[0])
    np.testing.assert_array_equal(found.depth, seen[1])


def test_several_kinds_in_one_pass(make):
    cfg, model, name = make("MODEL.BOX3D_HEAD.NAME", "GUPNetHead")
    assert model.descriptor_kinds == ["neck", "roi", "depth"]
    found = collect_descriptors(cfg, model, name, kinds=model.descriptor_kinds)
    for kind, objects in found.items():
        model.descriptor = kind
        assert np.array_equal(objects.descriptors, collect(cfg, model, name).descriptors)
        assert np.array_equal(objects.depth, found["neck"].depth)


def test_images_are_those_of_evaluation(make, monkeypatch):
    """Whatever augmentation the training has; objects that do not train are left out."""
    cfg, model, name = make(
        *("INPUT.AUGMENTATION.FLIP", 1.0, "INPUT.AUGMENTATION.CROP", 1.0),
        *("INPUT.AUGMENTATION.SHIFT", 1.0, "INPUT.AUGMENTATION.PHOTOMETRIC", 1.0),
        *("INPUT.FILTER.MAX_DEPTH", 11.0),
    )
    images = []
    describe = model.describe
    monkeypatch.setattr(
        model,
        "describe",
        lambda batch, kinds: images.extend(x["image"] for x in batch) or describe(batch, kinds),
    )
    before = cfg.dump()
    found = collect(cfg, model, name)
    assert cfg.dump() == before
    expected = [x["image"] for batch in build_test_loader(cfg, name) for x in batch]
    assert all(torch.equal(*pair) for pair in zip(images, expected, strict=True))
    assert found.depth == pytest.approx(np.tile([10, 7], 3), abs=0.01)


def test_model_is_left_as_it_was(make):
    cfg, model, name = make()
    state = {key: value.clone() for key, value in model.train().state_dict().items()}
    collect(cfg, model, name)
    assert model.training and model.neck.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_limit_spreads_over_the_data(make):
    cfg, model, name = make(frames=7)
    whole, some = collect(cfg, model, name), collect(cfg, model, name, 3)
    assert some.image_index.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    chosen = np.isin(whole.image_index, [0, 3, 6])
    np.testing.assert_allclose(some.descriptors, whole.descriptors[chosen], rtol=1e-4, atol=1e-5)
    assert len(collect(cfg, model, name, 99)) == 21


def test_waymo(tmp_path, tiny_config):
    write_dataset(tmp_path / "waymo", 4, 1, (192, 128), workers=1, style="waymo")
    cfg = tiny_config("INPUT.FILTER.MIN_HEIGHT", 5.0, "INPUT.FILTER.LIDAR_POINTS", "(0, 0, 0)")
    model = Trainer.build_model(cfg)
    found = collect(cfg, model, f"waymo_format:{tmp_path / 'waymo'}:train:FRONT")
    assert len(found) > 4 and set(found.image_index) <= set(range(4))
    assert found.descriptors.shape == (len(found), model.neck.out_channels)
    assert ((found.depth >= 2) & (found.depth <= 65)).all()


def test_without_labels_there_are_no_objects(make):
    cfg, model, name = make(split="test")
    found = collect(cfg, model, name)
    assert found.descriptors.shape == (0, model.neck.out_channels) and len(found) == 0


def test_wrong_input(make, kitti_folder):
    cfg, model, name = make(
        "MODEL.QUASI_ISOMETRIC.ENABLED", False, "MODEL.QUASI_ISOMETRIC.DESCRIPTOR", "roi"
    )
    with pytest.raises(ConfigError, match="MonoDLEHead"):
        collect(cfg, model, name)
    root = kitti_folder()
    (root / "ImageSets" / "train.txt").write_text("")
    with pytest.raises(DatasetError, match="no frames"):
        collect(cfg, model, f"kitti_format:{root}:train")
