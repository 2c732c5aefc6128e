"""MonoCon through the trainer, with either, both and none of the two losses."""

import json

import pytest
import torch

from qiml.engine.trainer import Trainer

TERMS = {
    "heatmap", "offset_2d", "size_2d", "heading_bin", "heading_residual", "depth", "size_3d",
    "keypoints", "keypoint_heatmap", "keypoint_offset",
}  # fmt: skip


@pytest.fixture
def make_trainer(kitti_folder, tiny_config, tmp_path):
    """The recipe of configs/kitti/monocon_dla34.yaml for a tiny network and images of two sizes."""
    names = [f"kitti_format:{kitti_folder(size=size)}:train" for size in ((320, 96), (300, 90))]
    recipe = [
        "DATASETS.TRAIN", f"{tuple(names)}", "DATASETS.TEST", f"('{names[0]}',)",
        "MODEL.BOX3D_HEAD.NAME", "MonoConHead", "MODEL.BOX3D_HEAD.SCORE_THRESHOLD", 0.0,
        "MODEL.BOX3D_HEAD.TOP_K", 30, "INPUT.SIZE", "(320, 96)", "INPUT.RESIZE", "pad",
        "INPUT.AUGMENTATION.CROP", 0.0, "INPUT.AUGMENTATION.SHIFT", 0.5,
        "INPUT.AUGMENTATION.PHOTOMETRIC", 1.0, "INPUT.AUGMENTATION.PHOTOMETRIC_FORM", "distortion",
        "SOLVER.OPTIMIZER", "AdamW", "SOLVER.BETAS", "(0.95, 0.99)", "SOLVER.BASE_LR", 2.25e-4,
        "SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.WEIGHT_DECAY_NORM", 0.0,
        "SOLVER.LR_SCHEDULER_NAME", "CyclicLR", "SOLVER.CLIP_GRADIENTS.ENABLED", True,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 35.0,
        "SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 2,
    ]  # fmt: skip

    def make(folder, *changes, seed=0):
        torch.manual_seed(seed)
        return Trainer(tiny_config(*recipe, "OUTPUT_DIR", tmp_path / folder, *changes))

    return make


@pytest.mark.parametrize("metric", [False, True], ids=["", "qi"])
@pytest.mark.parametrize("object_depth", [False, True], ids=["", "depth"])
def test_train_resume_evaluate(make_trainer, tmp_path, metric, object_depth):
    losses = ["MODEL.QUASI_ISOMETRIC.ENABLED", metric, "MODEL.OBJECT_DEPTH.ENABLED", object_depth]
    whole = make_trainer("whole", *losses)
    results = whole.train()
    assert 0 <= results["bbox3d"]["Car/AP40_3d_moderate"] <= 100
    detections = (tmp_path / "whole" / "kitti_results").rglob("*.txt")
    assert [len(file.read_text().splitlines()) for file in detections] == [30, 30]
    lines = [json.loads(x) for x in (tmp_path / "whole/metrics.json").read_text().splitlines()]
    logged = {key for line in lines for key in line if key.startswith("loss_")}
    expected = TERMS | ({"metric"} if metric else set())
    expected |= {"object_depth"} if object_depth else set()
    assert logged == {f"loss_{term}" for term in expected}

    # As if killed after the checkpoint of the second iteration.
    (tmp_path / "whole" / "last_checkpoint").write_text("model_0000001.pth")
    resumed = make_trainer("whole", *losses, seed=1)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    resumed.train()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_inference_model_does_not_depend_on_the_losses(make_trainer):
    names = [
        make_trainer("run", "MODEL.QUASI_ISOMETRIC.ENABLED", on, "MODEL.OBJECT_DEPTH.ENABLED", on)
        .model.for_inference()
        .state_dict()
        .keys()
        for on in (False, True)
    ]
    assert names[0] == names[1]
    assert not any("auxiliary" in name or "object_depth" in name for name in names[0])


def test_checkpoint_of_the_inference_model_evaluates_and_goes_on(make_trainer, tmp_path):
    """Without the auxiliary parts: they start afresh."""
    trainer = make_trainer("first", "DATASETS.TEST", "()")
    trainer.train()
    slim = tmp_path / "slim.pth"
    torch.save(trainer.model.for_inference().state_dict(), slim)
    second = make_trainer("second", "MODEL.WEIGHTS", slim, seed=1)
    second.resume_or_load(resume=False)
    own, trained = second.model.state_dict(), trainer.model.state_dict()
    same = {name for name in own if torch.equal(own[name], trained[name])}
    assert same >= {name for name in own if "auxiliary" not in name and "object_depth" not in name}
    second.train()


def test_one_batch_is_learnt_by_heart(make_trainer):
    """Each term's gradient points the right way."""
    trainer = make_trainer("run", "INPUT.AUGMENTATION.SHIFT", 0.0)
    model = trainer.model.train()
    batch = next(iter(trainer.build_train_loader(trainer.cfg)))
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
        assert last[name] < 0.6 * first[name], (name, first[name], last[name])
