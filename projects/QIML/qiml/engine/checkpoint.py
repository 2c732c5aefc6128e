"""Checkpoints: safe to read, checked against the model, written whole or not at all."""

from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _IncompatibleKeys

from qiml.errors import CheckpointError
from qiml.io import atomic_path, atomic_write_text

TRAINING_ONLY = ("object_depth_head.", "box3d_head.auxiliary.")
"""Prefixes of the weights that a checkpoint may have or lack whatever the model's configuration."""


class DetectorCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with tensors-only loading and a model that must fit.

    Weights of auxiliary parts may be missing (they then start afresh) or left over (evaluation
    does not need them); any other difference is an error.
    """

    def save(self, name: str, **kwargs) -> None:
        """Write OUTPUT_DIR/`name`.pth and make it the last checkpoint."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **kwargs}
        for key, item in self.checkpointables.items():
            data[key] = item.state_dict()
        file_name = f"{name}.pth"
        with atomic_path(Path(self.save_dir) / file_name) as temporary:
            torch.save(data, temporary)
        self.logger.info("Saved checkpoint %s", Path(self.save_dir) / file_name)
        self.tag_last_checkpoint(file_name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the checkpoint that `--resume` takes."""
        atomic_write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def load(self, path: str, *args, **kwargs) -> dict:
        """Load a local file into the model and, when resuming, the trainer.

        Raises:
            CheckpointError: no such file, not a file of tensors, or another model's.
        """
        if path and not Path(path).is_file():
            raise CheckpointError(
                path, found="no such file", expected="a checkpoint", mend="check MODEL.WEIGHTS"
            )
        self._path = path
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict:
        try:
            loaded = torch.load(filename, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(
                filename,
                found=f"a file that cannot be read as tensors ({type(error).__name__})",
                expected="a checkpoint of this project, without pickled code",
                mend="the file may be torn (take an earlier one) or from an untrusted source (do not use it)",
            ) from error
        weights = loaded.get("model", loaded) if isinstance(loaded, dict) else None
        if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
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
