"""What a run on a cluster is compared with; apart from the tests, whose imports take workers seconds."""

import argparse

import torch

import train_net


def train_without_ray(rank, config, output):
    """One worker's part of a training by train_net.py, on the CPU."""
    torch.set_num_threads(1)
    options = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output)]
    settings = {"config_file": str(config), "opts": options, "eval_only": False, "resume": False}
    train_net.main(argparse.Namespace(**settings))
