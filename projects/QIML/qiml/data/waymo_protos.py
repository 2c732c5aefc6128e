"""Waymo's official protocol buffers, an optional extra that needs no TensorFlow (`make setup-waymo`)."""

from types import ModuleType

from qiml.errors import ConfigError

PACKAGE = "waymo-open-dataset-tf-2-12-0"


def dataset_protos() -> ModuleType:
    """`dataset_pb2`: `Frame`, `CameraName`. Raises ConfigError where the package is missing."""
    return _load("dataset_pb2", "waymo_open_dataset")


def label_protos() -> ModuleType:
    """`label_pb2`: `Label`. Raises ConfigError where the package is missing."""
    return _load("label_pb2", "waymo_open_dataset")


def metrics_protos() -> ModuleType:
    """`metrics_pb2`: `Objects`. Raises ConfigError where the package is missing."""
    return _load("metrics_pb2", "waymo_open_dataset.protos")


def submission_protos() -> ModuleType:
    """`submission_pb2`: `Submission`. Raises ConfigError where the package is missing."""
    return _load("submission_pb2", "waymo_open_dataset.protos")


def _load(name: str, package: str) -> ModuleType:
    try:
        return getattr(__import__(package, fromlist=[name]), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            "Waymo's protocol buffers",
            found=f"they do not load ({error})",
            expected=f"the package {PACKAGE}, installed without its dependencies",
            mend="run make setup-waymo (pip install --no-deps -r requirements-waymo.txt)",
        ) from error
