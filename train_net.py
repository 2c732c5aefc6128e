#!/usr/bin/env python
"""Train or evaluate a monocular 3D detector on one machine."""

import torch
from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from qiml.config import load_config
from qiml.engine.checkpoint import DetectorCheckpointer
from qiml.engine.ema import load_average
from qiml.engine.launch import launch_workers
from qiml.engine.setup import check_batch_divides, check_crop_depth, check_device, start_run
from qiml.engine.trained import switch_off_auxiliary_losses
from qiml.engine.trainer import Trainer, write_report_of
from qiml.errors import ConfigError, exit_on_error

EXAMPLES = """
Examples:

Train the small network on synthetic scenes (make demo does this and more):
    $ python train_net.py --config-file configs/quickstart.yaml

Train MonoDLE with both losses on KITTI (in $DETECTRON2_DATASETS/kitti), on 2 GPUs:
    $ python train_net.py --config-file configs/kitti/monodle_dla34_qi_depth.yaml --num-gpus 2

Go on after an interruption of any kind (Ctrl-C finishes the step and saves first), to the same result:
    $ python train_net.py --config-file … --resume

Evaluate a checkpoint:
    $ python train_net.py --config-file … --eval-only MODEL.WEIGHTS output/model_final.pth

Your own data, in KITTI's layout, with other settings:
    $ python train_net.py --config-file … DATASETS.TRAIN "('kitti_format:/data/mine:train',)" SEED 7
"""


def setup(args):
    """Config of the command line, logged, without what an evaluation does not need, and frozen."""
    cfg = load_config(args.config_file, args.opts)
    check_device(cfg, comm.get_world_size())
    if not args.eval_only:
        check_batch_divides(cfg, comm.get_world_size())
        check_crop_depth(cfg)
    # The folder's config.yaml is that of the run, which was perhaps trained with the losses.
    start_run(cfg, args)
    if args.eval_only:
        switch_off_auxiliary_losses(cfg)
    cfg.freeze()
    return cfg


def main(args):
    """One worker's part."""
    cfg = setup(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpoint = DetectorCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        if cfg.MODEL_EMA.ENABLED:
            load_average(model, checkpoint)
        results = Trainer.test(cfg, model)
        write_report_of(cfg)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = default_argument_parser(epilog=EXAMPLES).parse_args()
    with exit_on_error():
        if args.num_gpus > max(torch.cuda.device_count(), 1):
            raise ConfigError(
                "--num-gpus",
                found=str(args.num_gpus),
                expected=f"at most the {torch.cuda.device_count()} GPUs of this machine",
                mend="leave the option out to run on one device, GPU or CPU",
            )
        launch_workers(main, args)
