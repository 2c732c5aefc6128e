"""Training on a Ray cluster: what is checked before any worker starts, and the run itself."""

import json
import logging
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Before Ray is imported: whoever reaches a Ray port can run programs there.
os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray
import ray.train
from detectron2.data import MetadataCatalog
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from qiml.config import flat_config, load_config_text
from qiml.data.catalog import datasets_root, register_datasets
from qiml.engine.ray_node import find_missing
from qiml.engine.ray_worker import DAMAGED_LIST, RAYS_LIST, Job, train_worker
from qiml.engine.setup import check_batch_divides, check_crop_depth
from qiml.engine.storage import RunStorage
from qiml.errors import ConfigError, DatasetError, QIMLError

CONFIG_FILE = "config.yaml"
# May differ when a run is resumed: where and with what it runs, not what it computes.
PLACE_KEYS = {"OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workers:
    """How many workers, and what each of them needs.

    Attributes:
        least, most: their number; equal unless it may follow the cluster's size.
        gpu: a GPU each.
        cpus: CPUs each; None: one, or all of a machine that is no cluster.
    """

    least: int
    most: int
    gpu: bool
    cpus: int | None = None

    @classmethod
    def parse(cls, text: str, gpu: bool, cpus: int | None) -> "Workers":
        """From "N" or "MIN:MAX".

        Raises:
            ConfigError: neither, or out of range.
        """
        try:
            least, most = (int(part) for part in (text.split(":") * 2)[:2])
        except ValueError:
            least = most = 0
        if text.count(":") > 1 or not 1 <= least <= most:
            raise ConfigError(
                "--num-workers",
                found=repr(text),
                expected="a number, or MIN:MAX with 1 <= MIN <= MAX",
                mend="write 4 or 2:8, for example",
            )
        return cls(least, most, gpu, cpus)


def train_on_ray(cfg, workers: Workers, storage: RunStorage, max_failures: int) -> dict:
    """Train on a Ray cluster, or without one on this machine, from where the run of this name stopped.

    Args:
        cfg: SOLVER.IMS_PER_BATCH is the global batch, whatever the number of workers.
        workers: see there.
        storage: of the run.
        max_failures: how often workers may be lost before the run fails; -1: any number of times.

    Returns:
        Results of the last evaluation.

    Raises:
        ConfigError, DatasetError: something cannot work; found before any worker starts, but for what only a
            worker can see.
    """
    check_config(cfg, workers)
    job = Job(cfg.dump(), str(datasets_root().absolute()), storage)
    check_same_run(storage, job.config)
    cpus = connect(workers)
    check_nodes(storage, cfg, workers)
    storage.write_text(CONFIG_FILE, job.config)
    set_damaged_list_aside(storage)
    resources = {"CPU": cpus, **({"GPU": 1} if workers.gpu else {})}
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend=None if workers.gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.most
            if workers.least == workers.most
            else (workers.least, workers.most),
            use_gpu=workers.gpu,
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            name=storage.name,
            storage_path=storage.parent,
            storage_filesystem=storage.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=cfg.SOLVER.CHECKPOINTS_KEPT or None
            ),
        ),
    )
    try:
        return trainer.fit().return_value
    except ray.train.WorkerGroupError as failure:
        for error in failure.worker_failures.values():
            raise_mendable(error)
        raise


def check_config(cfg, workers: Workers) -> None:
    """Refuse what no worker could train with.

    Raises:
        ConfigError: the batch does not suit the number of workers, crops do not suit the head, or an unknown
            data set.
    """
    check_crop_depth(cfg)
    register_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    if workers.least == workers.most:
        check_batch_divides(cfg, workers.most)
    elif cfg.SOLVER.IMS_PER_BATCH < workers.most:
        raise ConfigError(
            "SOLVER.IMS_PER_BATCH",
            found=f"{cfg.SOLVER.IMS_PER_BATCH} with up to {workers.most} workers",
            expected="at least one image for each",
            mend="change the batch size, or MAX in --num-workers MIN:MAX",
        )
    # Of a number that changes Detectron2 would scale batch and schedule anew at each change.
    fixed = (workers.most,) if workers.least == workers.most else ()
    if cfg.SOLVER.REFERENCE_WORLD_SIZE not in (0, *fixed):
        raise ConfigError(
            "SOLVER.REFERENCE_WORLD_SIZE",
            found=str(cfg.SOLVER.REFERENCE_WORLD_SIZE),
            expected="0: batch and learning rate are the run's, not a worker's",
            mend="set it to 0 and give the values for the whole run",
        )


def check_same_run(storage: RunStorage, config: str) -> None:
    """Refuse to go on with a run of this name that was started with another config.

    Raises:
        ConfigError: some key differs.
    """
    if not storage.exists(CONFIG_FILE):
        return
    before, now = (
        flat_config(load_config_text(text)) for text in (storage.read_text(CONFIG_FILE), config)
    )
    changed = [
        key
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in PLACE_KEYS
    ]
    if changed:
        first = changed[0]
        raise ConfigError(
            f"--name {storage.name}",
            found=f"a run with another config there: {len(changed)} keys differ, such as {first}, "
            f"{before.get(first)!r} then and {now.get(first)!r} now",
            expected="the same config, to resume that run",
            mend="choose another --name for a new run",
        )


def set_damaged_list_aside(storage: RunStorage) -> None:
    """Let a run go on whose list of checkpoints is damaged: Ray refuses such a run, workers need no list.

    Ray writes the list in place: it is cut short where the driver was killed or the disk full just then.
    """
    if not storage.exists(RAYS_LIST):
        return
    try:
        json.loads(storage.read_text(RAYS_LIST))
    except ValueError:
        storage.filesystem.move(storage.path(RAYS_LIST), storage.path(DAMAGED_LIST))
        logger.warning(
            "Ray's list of this run's checkpoints is damaged, it is now %s", DAMAGED_LIST
        )


def connect(workers: Workers) -> int:
    """Connect to the cluster that RAY_ADDRESS names or that runs on this machine, or start one for this run.

    Returns:
        CPUs of each worker.

    Raises:
        ConfigError: there is no cluster at RAY_ADDRESS, it does not accept this user's token, or this machine
            is too small for the workers.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _see_that_it_answers(address)
    try:
        ray.init(address=address or "auto", log_to_driver=True)
        return workers.cpus or 1
    except ray.exceptions.AuthenticationError as error:
        raise ConfigError(
            "RAY_AUTH_TOKEN, or ~/.ray/auth_token",
            found=f"a token that the cluster at {address or 'this machine'} does not accept, or none",
            expected="the token that the cluster was started with",
            mend="copy it here (cluster/README.md, The token)",
        ) from error
    except ConnectionError as error:
        if address:
            raise _unreachable(address, error) from error
    cpus = workers.cpus or max((os.cpu_count() or 1) // workers.least, 1)
    # For this run alone. Ray listens on every interface of the machine; whoever has no token is refused.
    ray.init(address="local", include_dashboard=False, log_to_driver=True)
    available = ray.cluster_resources()
    for resource, needed in (("CPU", cpus), ("GPU", int(workers.gpu))):
        here = int(available.get(resource, 0))
        if here < needed * workers.least:
            raise ConfigError(
                "--num-workers",
                found=f"{workers.least} workers with {needed} {resource} each",
                expected=f"at most the {here} of this machine: no cluster runs here, RAY_ADDRESS names none",
                mend="ask for less, train with --cpu, or start a cluster (cluster/README.md)",
            )
    return cpus


def _see_that_it_answers(address: str) -> None:
    """Ray itself would wait for a minute."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if address == "auto" or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        "RAY_ADDRESS",
        found=f"{address}, where no Ray cluster answers ({' '.join(str(error).split())})",
        expected="the address of a running cluster, host:port",
        mend="start it (cluster/README.md), correct the address, or unset it to use this machine alone",
    )


def check_nodes(storage: RunStorage, cfg, workers: Workers) -> None:
    """See on each machine that may get a worker that data and storage are there.

    Raises:
        DatasetError: a data set's folder is absent on a machine.
        ConfigError: a machine does not see the storage.
    """
    probe = f".probe-{os.urandom(6).hex()}"
    storage.write_text(probe, "")
    need = "GPU" if workers.gpu else "CPU"
    ask = ray.remote(num_cpus=0, max_retries=1)(find_missing)
    roots = data_roots((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    answers = {
        node["NodeManagerAddress"]: ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(roots, storage, probe)
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get(need, 0) > 0
    }
    try:
        for address, answer in answers.items():
            missing = ray.get(answer)
            if missing and missing["kind"] == "data":
                raise DatasetError(
                    f"{missing['path']} on {address}",
                    found="no such folder",
                    expected="the data set, at the same place on every machine",
                    mend="copy or mount it there, or set DETECTRON2_DATASETS to where all machines have it",
                )
            if missing:
                raise ConfigError(
                    f"--storage-path on {address}",
                    found="another folder than on the machine of this command",
                    expected="storage that all machines share",
                    mend="give a shared folder, or a URI such as s3://BUCKET/FOLDER",
                )
    finally:
        storage.filesystem.delete_file(storage.path(probe))


def data_roots(names: Iterable[str]) -> list[str]:
    """Absolute folders of registered data sets, which every machine must have."""
    roots = (MetadataCatalog.get(name).get("root") for name in names)
    return list(dict.fromkeys(str(Path(root).absolute()) for root in roots if root))


def raise_mendable(error: BaseException | None) -> None:
    """Raise the error a user can mend among an error and its causes, if there is one."""
    while error is not None:
        if isinstance(error, QIMLError):
            raise error
        error = getattr(error, "_base_exc", None) or error.__cause__
