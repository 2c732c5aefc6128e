import pytest
import torch
from detectron2.structures import Instances

from qiml.data.kitti_format import KITTIObjects, read_objects
from qiml.data.loader import build_train_loader
from qiml.data.mapper import MonocularMapper
from qiml.engine.checkpoint import TRAINING_ONLY, DetectorCheckpointer
from qiml.engine.trainer import Trainer
from qiml.errors import ConfigError
from qiml.modeling.targets import flatten_objects

BOTH_OFF = ["MODEL.OBJECT_DEPTH.ENABLED", False, "MODEL.QUASI_ISOMETRIC.ENABLED", False]
HEAD_LOSSES = {
    "loss_heatmap", "loss_offset_2d", "loss_size_2d", "loss_heading", "loss_offset_3d",
    "loss_depth", "loss_size_3d",
}  # fmt: skip


DETECTORS = ["MonoDLEHead", "GUPNetHead", "DIDM3DHead", "DEVIANT"]


@pytest.fixture(params=DETECTORS)
def make_detector(tiny_config, tiny_steerable, request):
    """With any of these heads, whose losses have the same names, and on a steerable backbone."""

    def make(*overrides):
        torch.manual_seed(0)
        kind = ("MODEL.BOX3D_HEAD.NAME", request.param)
        kind = tiny_steerable if request.param == "DEVIANT" else kind
        return Trainer.build_model(tiny_config(*kind, *overrides))

    return make


@pytest.fixture
def make_batch(kitti_folder, tiny_config):
    """Training samples of a street with three objects, or of others."""

    def make(*overrides, size=2, **folder):
        root = kitti_folder(frames=size, **folder)
        name = f"('kitti_format:{root}:train',)"
        overrides = ("DATASETS.TRAIN", name, "SOLVER.IMS_PER_BATCH", size, *overrides)
        return next(iter(build_train_loader(tiny_config(*overrides))))

    return make


def evaluation_batch(tiny_config, batch):
    cfg = tiny_config()
    mapper = MonocularMapper(cfg, is_train=False)
    keys = ("file_name", "image_id", "height", "width")
    camera = [[180, 0, 160, 9], [0, 180, 48, 0.1], [0, 0, 1, 0.003]]
    return [mapper({**{key: x[key] for key in keys}, "camera": camera}) for x in batch]


def detect(model, batch):
    with torch.no_grad():
        return [output["instances"] for output in model.eval()(batch)]


def assert_same(detections, expected):
    """Bit for bit."""
    assert sum(map(len, expected)) > 10
    for image, expected_image in zip(detections, expected, strict=True):
        assert image.get_fields().keys() == expected_image.get_fields().keys()
        for name, value in image.get_fields().items():
            pair = [getattr(v, "tensor", v) for v in (value, expected_image.get(name))]
            assert torch.equal(*pair), name


@pytest.mark.parametrize("make_detector", [*DETECTORS, "MonoConHead"], indirect=True)
def test_eval_model_is_the_same_with_and_without_the_losses(
    make_detector, make_batch, tiny_config, tmp_path
):
    """Issue 2: parameters and outputs, after training steps with both losses."""
    options = ("MODEL.BOX3D_HEAD.SCORE_THRESHOLD", 0.0)
    trained = make_detector(*options)
    batch = make_batch("INPUT.AUGMENTATION.CROP", 0.0)
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3)
    for _ in range(2):
        sum(trained.train()(batch).values()).backward()
        optimizer.step()

    images = evaluation_batch(tiny_config, batch)
    expected = detect(trained, images)
    inference = trained.for_inference()
    assert_same(detect(inference, images), expected)

    DetectorCheckpointer(trained, tmp_path).save("trained")
    plain = make_detector(*options, *BOTH_OFF)
    torch.nn.init.normal_(next(plain.parameters()))  # whatever it starts from
    DetectorCheckpointer(plain).load(str(tmp_path / "trained.pth"))
    assert_same(detect(plain, images), expected)

    states = [model.state_dict() for model in (plain.for_inference(), inference)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    extra = trained.state_dict().keys() - states[0].keys()
    assert extra and all(key.startswith(TRAINING_ONLY) for key in extra)


def test_inference_model_shares_weights_and_leaves_the_trained_one_alone(make_detector):
    trained = make_detector().train()
    inference = trained.for_inference()
    assert trained.training and trained.object_depth_head is not None
    own = dict(trained.named_parameters())
    assert all(own[name] is parameter for name, parameter in inference.named_parameters())
    assert not any("object_depth" in name for name, _ in inference.named_parameters())
    assert inference.metric_loss is None
    assert torch.equal(inference.pixel_mean, trained.pixel_mean)


@pytest.mark.parametrize("object_depth", [True, False])
@pytest.mark.parametrize("metric", [True, False])
def test_loss_terms_by_config(make_detector, make_batch, object_depth, metric):
    model = make_detector(
        "MODEL.OBJECT_DEPTH.ENABLED", object_depth, "MODEL.QUASI_ISOMETRIC.ENABLED", metric
    )
    expected = set(HEAD_LOSSES)
    expected |= {"loss_object_depth"} if object_depth else set()
    expected |= {"loss_metric"} if metric else set()
    assert model.train()(make_batch()).keys() == expected


def one_object(folder):
    objects = read_objects(folder / "training/label_2/000000.txt", scored=False)
    return objects[:1]


@pytest.mark.parametrize("kind", ["ordinary", "empty", "one object", "cropped"])
def test_losses_and_gradients_are_finite(
    make_detector, make_batch, kitti_folder, monkeypatch, kind
):
    """Of every parameter: several workers would wait for ever for a gradient that never comes."""
    crop = ["INPUT.AUGMENTATION.CROP", 1.0 if kind == "cropped" else 0.0]
    folder = {}
    if kind == "empty":
        folder["objects"] = KITTIObjects.empty()
        # A whole data set of such frames is refused.
        monkeypatch.setattr("qiml.data.loader._check_objects", lambda *_: None)
    elif kind == "one object":
        folder["objects"] = [one_object(kitti_folder()), KITTIObjects.empty()]
    batch = make_batch(*crop, **folder)
    objects = Instances.cat([sample["instances"] for sample in batch])
    assert len(objects) == {"empty": 0, "one object": 1}.get(kind, 6)
    assert objects.gt_has_3d.any() == (kind in ("ordinary", "one object"))

    model = make_detector().train()
    losses = model(batch)
    assert all(loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    for name, value in model.named_buffers():  # running statistics
        assert value.isfinite().all(), name

    depends_on_depth = {"loss_depth", "loss_offset_3d", "loss_size_3d", "loss_object_depth"}
    for name in depends_on_depth:
        assert (losses[name] != 0) == (kind in ("ordinary", "one object")), name
    if kind == "cropped":
        assert losses["loss_metric"] == 0
        assert losses["loss_heading"] > 0 and losses["loss_size_2d"] > 0
    elif kind == "ordinary":
        for name in ("object_depth_head", "box3d_head.size_3d", "neck", *depth_branches(model)):
            parameters = model.get_submodule(name).parameters()
            assert all(p.grad.any() for p in parameters), name


def depth_branches(model):
    return [f"box3d_head.{n}" for n, _ in model.box3d_head.named_children() if "depth" in n]


def test_metric_loss_alone_reaches_the_neck_and_no_head(make_detector, make_batch):
    model = make_detector(
        "MODEL.QUASI_ISOMETRIC.B", 0.0, "MODEL.QUASI_ISOMETRIC.DESCRIPTOR", "neck"
    ).train()
    losses = model(make_batch("INPUT.AUGMENTATION.CROP", 0.0))
    assert losses["loss_metric"] > 0
    losses["loss_metric"].backward()
    assert all(p.grad is None for p in model.box3d_head.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.neck.parameters())


def test_cropped_objects_stay_out_of_both_losses(make_detector, make_batch):
    """Their depth is not what the image shows; whole images of the same batch go on."""
    model = make_detector().train()
    batch = make_batch("INPUT.AUGMENTATION.CROP", 0.0)
    seen = []
    model.metric_loss.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    model(batch)
    batch[0]["instances"].gt_has_3d[:] = False
    losses = model(batch)
    assert [len(depth) for _, depth in seen] == [6, 3]
    torch.testing.assert_close(seen[1][1], batch[1]["instances"].gt_depth)
    painted = model.object_depth_head.paint([x["instances"] for x in batch], 4, (16, 24))
    assert not painted[0].any() and painted[1].any()
    assert losses["loss_object_depth"].isfinite()


def test_crops_that_keep_metric_depth_show_the_losses_the_depth_that_they_show(
    make_detector, make_batch
):
    """A neck cannot see that what looks 10 m away was 8 m away before the crop."""
    model = make_detector().train()
    batch = make_batch("INPUT.AUGMENTATION.CROP", 1.0, "INPUT.AUGMENTATION.CROP_DEPTH", "metric")
    seen = []
    model.metric_loss.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    assert all(loss.isfinite() for loss in model(batch).values())
    objects = Instances.cat([x["instances"] for x in batch])
    assert objects.gt_has_3d.all()
    assert torch.equal(objects.gt_depth, objects.gt_boxes3d.depth)
    assert (objects.gt_apparent_depth - objects.gt_depth).abs().min() > 0.1
    assert len(seen[0]) and set(seen[0].tolist()) <= set(objects.gt_apparent_depth.tolist())
    painted = model.object_depth_head.paint([x["instances"] for x in batch], 4, (16, 24))
    assert set(painted.unique().tolist()) <= {0, *objects.gt_apparent_depth.tolist()}


@pytest.mark.parametrize("head", ["GUPNetHead", "DIDM3DHead"])
def test_descriptors_of_regions(tiny_config, make_batch, head):
    """By one key, with a head that has them; their gradient reaches the neck, and no head."""
    roi = ["MODEL.QUASI_ISOMETRIC.DESCRIPTOR", "roi"]
    with pytest.raises(ConfigError, match=r"DESCRIPTOR: found 'roi' with .*MonoDLEHead"):
        Trainer.build_model(tiny_config(*roi))
    model = Trainer.build_model(
        tiny_config(*roi, "MODEL.BOX3D_HEAD.NAME", head, "MODEL.QUASI_ISOMETRIC.B", 0.0)
    )
    descriptors = []
    model.metric_loss.register_forward_pre_hook(lambda _, inputs: descriptors.append(inputs[0]))
    losses = model.train()(make_batch("INPUT.AUGMENTATION.CROP", 0.0))
    assert descriptors[0].shape == (6, model.neck.out_channels)
    losses["loss_metric"].backward()
    assert all(p.grad is None for p in model.box3d_head.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.neck.parameters())
    assert model.for_inference().metric_loss is None


def test_metric_loss_within_images_is_the_mean_over_them(tiny_config, make_batch):
    qi = "MODEL.QUASI_ISOMETRIC"
    model = Trainer.build_model(
        tiny_config(f"{qi}.ACROSS_IMAGES", False, f"{qi}.B", 0.0, f"{qi}.DESCRIPTOR", "neck")
    ).train()
    assert not model.metric_loss.gather
    batch = make_batch("INPUT.AUGMENTATION.CROP", 0.0)
    features = model.extract_features(batch)
    targets = flatten_objects([x["instances"] for x in batch], 4, features.shape[-2:])
    loss = model.descriptor_loss(features, None, targets)
    model.across_images = True
    assert model.descriptor_loss(features, None, targets) != loss
    single = [
        model.descriptor_loss(
            features[i : i + 1], None, flatten_objects([x["instances"]], 4, features.shape[-2:])
        )
        for i, x in enumerate(batch)
    ]
    torch.testing.assert_close(loss, torch.stack(single).mean())
    assert loss > 0


def test_descriptors_of_the_depth_branch(tiny_config, make_batch):
    """Its hidden layer, which the metric loss then trains; no other branch."""
    depth = ["MODEL.QUASI_ISOMETRIC.DESCRIPTOR", "depth", "MODEL.QUASI_ISOMETRIC.LEARN_SCALE", True]
    model = Trainer.build_model(tiny_config(*depth, "SOLVER.AMP.ENABLED", False))
    batch = make_batch("INPUT.AUGMENTATION.CROP", 0.0)
    found, targets = model.describe(batch)
    hidden = model.box3d_head.depth[:2](model.extract_features(batch))
    x, y = targets.cells[targets.has_3d].T
    expected = hidden[targets.image_index[targets.has_3d], :, y, x]
    torch.testing.assert_close(found, {"depth": expected})
    model.train()(batch)["loss_metric"].backward()
    trained = {name for name, p in model.box3d_head.named_parameters() if p.grad is not None}
    assert trained == {"depth.0.weight", "depth.0.bias"}
    assert model.metric_loss.log_scale.grad != 0


def test_depth_is_painted_where_the_2d_boxes_are(make_detector, make_batch):
    model = make_detector()
    instances = [x["instances"] for x in make_batch("INPUT.AUGMENTATION.CROP", 0.0)]
    painted = model.object_depth_head.paint(instances, 4, (16, 24))
    for image, objects in zip(painted, instances, strict=True):
        assert set(image.unique().tolist()) == {0, *objects.gt_depth.tolist()}
        for box, depth in zip(objects.gt_boxes.tensor / 4, objects.gt_depth, strict=True):
            column, row = ((box[:2] + box[2:]) / 2).long().tolist()
            assert image[row, column] <= depth


def test_surfaces_are_painted_by_one_key(make_detector, make_batch):
    """In the same 2D boxes, nearer than the centres; those of objects in front hide others."""
    batch = make_batch("INPUT.AUGMENTATION.CROP", 0.0)
    instances = [x["instances"] for x in batch]
    centres, surfaces = (
        make_detector("MODEL.OBJECT_DEPTH.TARGET", target).object_depth_head.paint(
            instances, 4, (16, 24)
        )
        for target in ("object", "box")
    )
    painted = surfaces > 0
    assert painted.any() and (centres[painted] > 0).all()
    farthest = max(objects.gt_boxes3d.dimensions.amax() for objects in instances)
    difference = (surfaces - centres)[painted]
    assert difference.abs().max() < farthest and difference.median() < 0
    losses = make_detector("MODEL.OBJECT_DEPTH.TARGET", "box").train()(batch)
    assert losses["loss_object_depth"].isfinite()


def test_object_depth_of_an_object_whose_centre_is_off_the_map(make_detector, make_batch):
    """Its visible part is painted, although the box head does not train on it."""
    model = make_detector()
    (sample,) = make_batch("INPUT.AUGMENTATION.CROP", 0.0, size=1)
    objects = sample["instances"][:1]
    objects.gt_projected_centres[:] = -100
    assert model.object_depth_head.paint([objects], 4, (16, 24)).any()


def test_bfloat16_on_the_cpu(make_detector, make_batch, tiny_config, monkeypatch):
    monkeypatch.setattr("qiml.modeling.precision.computes_in", lambda *_: True)
    amp = ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16"]
    batch = make_batch("INPUT.AUGMENTATION.CROP", 0.0)
    models = [make_detector(*amp).train(), make_detector().train()]
    neck, metric = [], []
    models[0].neck.register_forward_hook(lambda *args: neck.append(args[-1].dtype))
    models[0].metric_loss.register_forward_hook(
        lambda _, inputs, output: metric.extend(x.dtype for x in (*inputs, output))
    )
    half, full = (model(batch) for model in models)
    assert neck == [torch.bfloat16]
    assert metric == [torch.float32] * 3
    for name, loss in half.items():
        assert loss.dtype == torch.float32, name
        assert loss.item() == pytest.approx(full[name].item(), rel=0.1, abs=0.1), name
    sum(half.values()).backward()
    assert all(p.dtype == torch.float32 and p.grad.isfinite().all() for p in models[0].parameters())
    detections = detect(models[0], evaluation_batch(tiny_config, batch))
    assert all(d.pred_boxes3d.tensor.dtype == torch.float32 for d in detections)


def test_one_batch_is_learnt_by_heart(make_detector, make_batch):
    """Each term's gradient points the right way."""
    model = make_detector().train()
    batch = make_batch("INPUT.AUGMENTATION.CROP", 0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    history = []
    for _ in range(60):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    first, last = history[0], history[-1]
    for name in first.keys() - {"loss_metric"}:
        assert last[name] < 0.5 * first[name], (name, first[name], last[name])
