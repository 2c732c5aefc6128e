"""Checkpoints: safe to read, checked against the model, written whole or not at all."""

import contextlib
import re
import shutil
import zipfile
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _IncompatibleKeys

from qiml.errors import CheckpointError
from qiml.io import atomic_path, atomic_write_text

TRAINING_ONLY = ("object_depth_head.", "box3d_head.auxiliary.", "metric_loss.")
"""Prefixes of the weights that a checkpoint may have or lack whatever the model's configuration."""


class _Unreadable(CheckpointError):
    """Torn, damaged or with pickled code in it: an earlier checkpoint may do."""


# What loading a state of another kind may raise.
_NO_STATE = (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError)


class DetectorCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with tensors-only loading and a model that must fit.

    Weights of auxiliary parts may be missing (they then start afresh) or left over (evaluation
    does not need them); any other difference is an error. A file that was damaged on the disk is found
    by its checksums, and resuming then takes the one before it.

    Args:
        model: the detector, or its distributed wrapper.
        save_dir: where checkpoints are written and looked for.
        keep: how many of the numbered checkpoints stay; 0: all.
        checkpointables: whatever else is saved and restored, by name.
    """

    def __init__(self, model, save_dir: str = "", *, keep: int = 0, **checkpointables):
        super().__init__(model, save_dir, **checkpointables)
        self.keep = keep

    def save(self, name: str, **kwargs) -> None:
        """Write OUTPUT_DIR/`name`.pth and make it the last checkpoint."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **kwargs}
        for key, item in self.checkpointables.items():
            data[key] = item.state_dict()
        file_name = f"{name}.pth"
        save_tensors(Path(self.save_dir) / file_name, data)
        self.logger.info("Saved checkpoint %s", Path(self.save_dir) / file_name)
        self.tag_last_checkpoint(file_name)
        self.delete_old_checkpoints()

    def _last_checkpoint(self) -> Path:
        """What the file last_checkpoint names; it may be damaged, too."""
        try:
            return Path(self.get_checkpoint_file())
        except ValueError:  # no text
            return Path(self.save_dir) / "last_checkpoint"

    def last_is(self, name: str) -> bool:
        """Whether the last checkpoint has this name."""
        return self._last_checkpoint().stem == name

    def copy_last(self, name: str) -> None:
        """Write the last checkpoint once more, under another name, and make that the last one."""
        file_name = f"{name}.pth"
        with atomic_path(Path(self.save_dir) / file_name, durable=True) as temporary:
            shutil.copyfile(self.get_checkpoint_file(), temporary)
        self.tag_last_checkpoint(file_name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the checkpoint that `--resume` takes."""
        path = Path(self.save_dir) / "last_checkpoint"
        atomic_write_text(path, last_filename_basename, durable=True)

    def delete_old_checkpoints(self) -> None:
        """Delete all numbered checkpoints but the last `keep`."""
        for path in self._numbered_checkpoints()[self.keep :] if self.keep else ():
            path.unlink(missing_ok=True)

    def _numbered_checkpoints(self) -> list[Path]:
        """model_0000999.pth and its like, last written first (an earlier run's may have higher numbers)."""
        files = Path(self.save_dir).glob("model_*.pth")
        numbered = [f for f in files if re.fullmatch(r"model_\d+\.pth", f.name)]
        return sorted(numbered, key=lambda f: (f.stat().st_mtime_ns, f.name), reverse=True)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """Go on from the newest intact checkpoint of `save_dir`; without any, or not to resume, load `path`.

        Raises:
            CheckpointError: there are checkpoints, but none is intact; or as for :meth:`load`.
        """
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        last = self._last_checkpoint()
        candidates = [last, *(f for f in self._numbered_checkpoints() if f != last)]
        for candidate in candidates:
            with contextlib.suppress(_Unreadable, OSError):
                if candidate.is_file():
                    return self.load(str(candidate))
            self.logger.warning(
                "%s is missing or damaged: going on from the checkpoint before it", candidate
            )
        raise CheckpointError(
            self.save_dir,
            found=f"no intact checkpoint among {', '.join(f.name for f in candidates)}",
            expected="at least one",
            mend="delete the file last_checkpoint there to start from the beginning",
        )

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict:
        """Load a local file into the model and, when resuming, the trainer.

        Raises:
            CheckpointError: no such file, not a file of tensors, another model's, or without the state of
                all `checkpointables`.
        """
        if not path:
            return super().load(path, checkpointables)
        if not Path(path).is_file():
            raise CheckpointError(
                path, found="no such file", expected="a checkpoint", mend="check MODEL.WEIGHTS"
            )
        self._path = path
        wanted = list(self.checkpointables) if checkpointables is None else checkpointables
        extra = super().load(path, [])
        try:
            for name in wanted:
                self.checkpointables[name].load_state_dict(extra.pop(name))
        except _NO_STATE as error:
            raise CheckpointError(
                path,
                found=f"weights, but no training to go on with ({type(error).__name__}: {error})",
                expected=f"{', '.join(wanted)}: what a run with this config saves",
                mend="use the config the checkpoint was trained with, or start anew from its weights: "
                "leave out --resume and set MODEL.WEIGHTS",
            ) from error
        return extra

    def _load_file(self, filename: str) -> dict:
        try:
            if zipfile.is_zipfile(filename) and not is_intact(filename):
                raise zipfile.BadZipFile("wrong checksum")  # PyTorch does not look at them
            loaded = torch.load(filename, map_location="cpu", weights_only=True)
        except Exception as error:
            raise _Unreadable(
                filename,
                found=f"a file that cannot be read as tensors ({type(error).__name__})",
                expected="a checkpoint of this project, without pickled code",
                mend="the file may be torn (take an earlier one) or from an untrusted source (do not use it)",
            ) from error
        weights = loaded.get("model", loaded) if isinstance(loaded, dict) else None
        if not isinstance(weights, dict) or not all(
            isinstance(name, str) and torch.is_tensor(value) for name, value in weights.items()
        ):
            raise CheckpointError(
                filename,
                found="something else than weights by name",
                expected="a checkpoint of this project, or a model's state_dict",
                mend="save the weights with torch.save(model.state_dict(), …)",
            )
        return loaded if "model" in loaded else {"model": loaded}

    def _load_model(self, checkpoint: dict) -> _IncompatibleKeys:
        state = {
            key.removeprefix("module."): value for key, value in checkpoint.pop("model").items()
        }
        model = getattr(self.model, "module", self.model)
        own = model.state_dict()
        missing = sorted(own.keys() - state.keys())
        unexpected = sorted(state.keys() - own.keys())
        shapes = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
        problems = [
            f"{len(keys)} {kind} (such as {keys[0]})"
            for kind, keys in (
                ("missing weights", [k for k in missing if not k.startswith(TRAINING_ONLY)]),
                ("unknown weights", [k for k in unexpected if not k.startswith(TRAINING_ONLY)]),
                ("weights of another shape", shapes),
            )
            if keys
        ]
        if problems:
            raise CheckpointError(
                self._path,
                found=", ".join(problems),
                expected="the weights of this config's model",
                mend="use the config the checkpoint was trained with",
            )
        model.load_state_dict(state, strict=False)
        return _IncompatibleKeys(missing, [], [])


def save_tensors(path: str | Path, data: dict) -> None:
    """`torch.save`, whole or not at all, and on the disk when this returns.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path, durable=True) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(data, file)
        except RuntimeError as error:
            # PyTorch stumbles over what it could not write, and tells of that instead.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def is_intact(path: str | Path) -> bool:
    """Whether every part of a file written by torch.save has the checksum it was written with."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    # Its own error is one of a dozen: a damaged entry may claim to be encrypted, or compressed in some way.
    except Exception:
        return False
