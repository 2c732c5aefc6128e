#!/usr/bin/env python
"""Turn a checkpoint of an official code base into one that train_net.py loads."""

import argparse
import os
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from detectron2.modeling import build_model
from torch import Tensor

import qiml.modeling  # noqa: F401  registers the detector
from qiml.config import load_config
from qiml.engine.checkpoint import TRAINING_ONLY, save_tensors
from qiml.errors import CheckpointError, exit_on_error
from qiml.modeling.official_weights import (
    convert_deviant,
    convert_did_m3d,
    convert_gupnet,
    convert_monocon,
    convert_monodle,
)
from qiml.modeling.steerable_dla import steer_state

ROOT = Path(__file__).resolve().parents[1]
LISTED = 10  # names a report lists of each kind

EXAMPLES = """\
What is read: a file of torch.save that holds a state dict, as such or under model_state, state_dict or model,
with or without "module." before every name. It is read as data: no code in it runs. A file with other
objects than tensors and plain values is refused, but for what the official code bases leave there.

What is checked: every name, and every shape against the model of the baseline's config in configs/kitti.
Exit code 2, and no file written, where something is missing, unknown or of another shape.

Examples:

The checkpoint in MonoDLE's README (or one of DDML-M3DOD, with its object-depth head):
    $ python tools/convert_checkpoint.py --from monodle checkpoint_epoch_140.pth weights/monodle.pth

One of GUPNet, in its README (the mean sizes of its classes come along):
    $ python tools/convert_checkpoint.py --from gupnet checkpoint_epoch_140.pth weights/gupnet.pth

One of DID-M3D, in its README, in the same way:
    $ python tools/convert_checkpoint.py --from did_m3d checkpoint_epoch_150.pth weights/did_m3d.pth

One of MonoCon, from 2gunsu/monocon-pytorch or Xianpeng919/MonoCon (classes and sizes change their order):
    $ python tools/convert_checkpoint.py --from monocon epoch_200.pth weights/monocon.pth

One of DEVIANT, in its README (the steerable bases come along, too; of its Waymo model the classes change
their order, and its config is configs/waymo/deviant_dla34.yaml):
    $ python tools/convert_checkpoint.py --from deviant checkpoint_epoch_140 weights/deviant.pth

A steerable backbone, as DEVIANT's, in place of an ordinary one, to train on from; here of a checkpoint of
ours with GUPNet's head, though official ones will do as well:
    $ python tools/convert_checkpoint.py --from gupnet --steerable model_final.pth weights/steerable.pth

Then evaluate it:
    $ python train_net.py --config-file configs/kitti/monocon_dla34.yaml --eval-only \\
          MODEL.WEIGHTS weights/monocon.pth
"""


@dataclass(frozen=True)
class Baseline:
    """An official model: our config of it, and the function that renames its weights.

    The function raises KeyError for a name that is not the model's, and leaves out what we do not have.
    """

    config: str
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


OUR_NAMES = ("backbone.body.", "neck.stages.", "box3d_head.", *TRAINING_ONLY)
STEERABLE = ("MODEL.BACKBONE.NAME", "SteerableDLA")
BASELINES = {
    "monodle": Baseline("configs/kitti/monodle_dla34.yaml", convert_monodle),
    "gupnet": Baseline("configs/kitti/gupnet_dla34.yaml", convert_gupnet),
    "did_m3d": Baseline("configs/kitti/did_m3d_dla34.yaml", convert_did_m3d),
    "monocon": Baseline("configs/kitti/monocon_dla34.yaml", convert_monocon),
    "deviant": Baseline("configs/kitti/deviant_dla34.yaml", convert_deviant),
}


# --- Reading without running code


class Inert:
    """Stands for an object that is not needed: takes whatever a pickle does to it, and does nothing.

    A subclass in the name of the object's class or function is what the unpickler finds instead of it.
    """

    def __new__(cls, *_args):
        return super().__new__(cls)

    def __init__(self, *_args):
        pass

    def __setstate__(self, _state):
        pass

    @classmethod
    def named(cls, path: str) -> type:
        """Subclass that goes by the full name of a class or function."""
        module, _, name = path.rpartition(".")
        return type(name, (cls,), {"__module__": module})


# What official checkpoints hold besides weights: numbers of NumPy, and objects of monocon-pytorch itself.
_INERT_MODULES = ("numpy", "_codecs", "datetime", "dataset", "transforms", "utils")
_NUMPY_NAMES = (
    "_codecs.encode",
    "numpy.dtype",
    "numpy.ndarray",
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint, read as data.

    Raises:
        CheckpointError: no such file, not a checkpoint, other objects in it, or no state dict.
    """
    if not path.is_file():
        raise CheckpointError(
            path, found="no such file", expected="an official checkpoint", mend="check the path"
        )
    names = {*_NUMPY_NAMES, *_inert_names(path)}
    try:
        with torch.serialization.safe_globals([Inert.named(name) for name in names]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if (name := re.search(r"GLOBAL ([\w.]+)", str(error))) is None:
            raise _unreadable(path, error) from error
        raise _refused(path, name[1]) from error
    except Exception as error:
        raise _unreadable(path, error) from error
    return _state_dict(path, loaded)


def _inert_names(path: Path) -> list[str]:
    """Names of foreign objects in the file that may be left out; the others make it refused."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an older format or no checkpoint at all: reading it will tell
        return []
    foreign = [name for name in names if name.partition(".")[0] not in _INERT_MODULES]
    if foreign:
        raise _refused(path, foreign[0])
    return names


def _refused(path: Path, name: str) -> CheckpointError:
    return CheckpointError(
        path,
        found=f"pickled code or objects in it ({name}); none of it was run",
        expected="tensors and plain values",
        mend="if you trust the file, load it with its own code and save the weights alone: "
        "torch.save(model.state_dict(), …)",
    )


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        path,
        found=f"a file that cannot be read as tensors ({type(error).__name__})",
        expected="a checkpoint written by torch.save",
        mend="the file may be torn, or not the checkpoint itself: fetch it again",
    )


def _state_dict(path: Path, loaded: object) -> dict[str, Tensor]:
    """Weights by name, from under the keys that wrap them."""
    wrapped = loaded
    while isinstance(wrapped, Mapping) and not _is_state_dict(wrapped):
        keys = [key for key in ("model_state", "state_dict", "model") if key in wrapped]
        wrapped = wrapped[keys[0]] if keys else None
    if not isinstance(wrapped, Mapping):
        inside = sorted(map(str, loaded)) if isinstance(loaded, Mapping) else type(loaded).__name__
        raise CheckpointError(
            path,
            found=f"no weights by name (but {inside})",
            expected="a state dict, as such or under model_state, state_dict or model",
            mend="save the weights with torch.save(model.state_dict(), …)",
        )
    return {name.removeprefix("module."): value for name, value in wrapped.items()}


def _is_state_dict(value: Mapping) -> bool:
    return bool(value) and all(isinstance(item, Tensor) for item in value.values())


# --- Comparing with a baseline


@dataclass
class Match:
    """Official weights as those of a baseline: what does not fit, and the converted rest.

    Attributes:
        unknown: official names that are not the baseline's.
        missing: our names that have no weights.
        shapes: our names whose weights have another shape, with both.
        unused: number of official entries that our model does not have.
        weights: converted, by our names.
    """

    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    unused: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def kinds(self) -> dict[str, list[str]]:
        kinds = {"unknown": self.unknown, "missing": self.missing, "of another shape": self.shapes}
        return {kind: names for kind, names in kinds.items() if names}

    @property
    def problems(self) -> int:
        return sum(map(len, self.kinds.values()))


def match(baseline: Baseline, official: Mapping[str, Tensor], steerable: bool = False) -> Match:
    """Convert official weights and compare them with the model of the baseline's config.

    With a steerable backbone in place of its ordinary one, weights of ours will do as well.
    """
    result, known = Match(), {}
    for name, value in official.items():
        if steerable and name.startswith(OUR_NAMES):
            result.weights[name] = value
            continue
        try:
            converted = baseline.convert({name: value})
        except KeyError:
            result.unknown.append(name)
        else:
            known[name] = value
            result.unused += not converted and name.partition(".")[0] == "backbone"
    result.weights |= baseline.convert(known)
    # Names and shapes are all that is asked of the model, but for kernels that are to be steered.
    device = "cpu" if steerable else "meta"
    overrides = ["MODEL.BACKBONE.PRETRAINED", "False", "MODEL.DEVICE", device]
    overrides += ["MODEL.OBJECT_DEPTH.ENABLED", "True", *(STEERABLE if steerable else ())]
    with torch.device(device):
        model = build_model(load_config(str(ROOT / baseline.config), overrides))
    if steerable:
        backbone = {n: v for n, v in result.weights.items() if n.startswith("backbone.")}
        result.weights |= steer_state(backbone, model)
    own = model.state_dict()
    for name, value in own.items():
        if name not in result.weights:
            if not name.startswith(TRAINING_ONLY):
                result.missing.append(name)
        elif result.weights[name].shape != value.shape:
            shape, expected = (tuple(v.shape) for v in (result.weights[name], value))
            result.shapes.append(f"{name} {shape}, not {expected}")
    left_over = sorted(result.weights.keys() - own.keys())
    result.unknown += [name for name in left_over if not name.startswith(TRAINING_ONLY)]
    return result


def closest_baseline(official: Mapping[str, Tensor], besides: str) -> str | None:
    """Another baseline that nearly all of the weights fit."""
    others = {name: match(b, official) for name, b in BASELINES.items() if name != besides}
    name = min(others, key=lambda n: others[n].problems, default=None)
    return name if name and others[name].problems < 0.1 * len(official) else None


def convert(source: Path, target: Path, name: str, steerable: bool = False) -> None:
    """Read, check, write; the report goes to standard output.

    Raises:
        CheckpointError: the file cannot be read, is another model's, or is to be overwritten.
    """
    official = read_weights(source)
    if target.exists() and os.path.samefile(source, target):
        raise CheckpointError(
            target,
            found="the input file",
            expected="another file: inputs are never changed",
            mend="give OUT another name",
        )
    baseline = BASELINES[name]
    result = match(baseline, official, steerable)
    for kind, names in result.kinds.items():
        print(f"{len(names)} {kind}:")
        print("".join(f"    {entry}\n" for entry in names[:LISTED]), end="")
        if len(names) > LISTED:
            print(f"    … and {len(names) - LISTED} more")
    if result.kinds:
        other = closest_baseline(official, besides=name)
        raise CheckpointError(
            source,
            found=", ".join(f"{len(names)} weights {kind}" for kind, names in result.kinds.items())
            + (f"; it looks like a checkpoint of {other}" if other else ""),
            expected=f"the weights of {name} as {baseline.config} builds it",
            mend=f"use --from {other}" if other else f"give one of {', '.join(BASELINES)}",
        )
    save_tensors(target, {"model": result.weights})
    numbers = sum(value.numel() for value in result.weights.values())
    print(
        f"Wrote {target}: {len(result.weights)} entries, {numbers / 1e6:.2f} M numbers; left out "
        f"{result.unused} that the official code creates and never uses."
    )
    use = " ".join(STEERABLE) if steerable else "--eval-only"
    print(f"Next: python train_net.py --config-file {baseline.config} {use} MODEL.WEIGHTS {target}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--from", dest="name", required=True, choices=BASELINES, help="whose checkpoint it is"
    )
    parser.add_argument(
        "--steerable",
        action="store_true",
        help="replace its ordinary DLA-34 by a steerable one, as MODEL.BACKBONE.NAME SteerableDLA builds it",
    )
    parser.add_argument("source", type=Path, metavar="OFFICIAL.pth", help="never changed")
    parser.add_argument("target", type=Path, metavar="OUT.pth", help="written whole or not at all")
    arguments = parser.parse_args()
    with exit_on_error():
        convert(arguments.source, arguments.target, arguments.name, arguments.steerable)


if __name__ == "__main__":
    main()
