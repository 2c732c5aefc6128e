"""Runs the cells of a study that are not finished, side by side: in processes or as Ray tasks."""

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import cycle, islice
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
from tqdm import tqdm

from qiml.data.catalog import datasets_root
from qiml.errors import ConfigError, QIMLError
from qiml.studies.cell import CellFailed, draw_scenes, run_cell
from qiml.studies.records import append_record, finished
from qiml.studies.study import Cell, Study

logger = logging.getLogger(__name__)

Ended = tuple[Cell, dict | QIMLError]


def run_study(
    study: Study, records_path: Path, run_all: Callable[[list[Cell]], Iterator[Ended]]
) -> list[QIMLError]:
    """Run what is not finished, keeping each result as soon as it is there.

    Args:
        study: the grid.
        records_path: JSON lines of finished runs; added to. What another study of its folder has run already
            is not run again.
        run_all: cells → (cell, record or error) in the order they end: :func:`in_processes`, :func:`on_ray`.

    Returns:
        The errors of the runs that failed.
    """
    cells = study.cells()
    done = finished(cells, records_path.parent)
    waiting = [cell for cell in cells if cell not in done]
    errors = []
    with tqdm(total=len(cells), initial=len(done), unit="run", desc=study.name) as progress:
        for cell, result in run_all(waiting):
            if isinstance(result, QIMLError):
                errors.append(result)
                progress.write(f"{cell.name}: failed")
            else:
                append_record(records_path, result)
                progress.write(f"{cell.name}: {_summary(result['measures'])}")
            progress.update()
    return errors


def _summary(measures: dict[str, float | None]) -> str:
    error = measures["depth_mae"]  # None where nothing was detected
    found = "no detection" if error is None else f"mean absolute depth error {error:.3f} m"
    return f"AP3D(.5) {measures['ap3d_0.5']:.2f}, {found}"


def in_processes(cells: list[Cell], output_root: Path, jobs: int, threads: int) -> Iterator[Ended]:
    """Run on this machine, `jobs` at once, each with `threads` threads and a GPU, where there are any."""
    # Before the runs, which would wait for each other's scenes.
    for data in {cell.data for cell in cells}:
        draw_scenes(data, workers=jobs * threads)
    # Started afresh, not forked: a forked PyTorch with threads may hang.
    context = multiprocessing.get_context("spawn")
    places = context.SimpleQueue()
    for gpu in islice(cycle(visible_gpus()), jobs):
        places.put(gpu)
    with ProcessPoolExecutor(jobs, context, _take_gpu, (places,)) as pool:
        waiting = {
            pool.submit(_run_in_pool, cell, str(output_root), threads): cell for cell in cells
        }
        try:
            for future in as_completed(waiting):
                try:
                    yield waiting[future], future.result()
                except QIMLError as error:
                    yield waiting[future], error
                except BrokenProcessPool:
                    yield waiting[future], _killed(waiting[future])
        finally:
            pool.shutdown(cancel_futures=True)


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name, one by one; none where there is no GPU."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def _take_gpu(places: SimpleQueue) -> None:
    """A process of the pool keeps to one GPU, before it uses any, and so do the trainings it starts."""
    if not places.empty():
        os.environ["CUDA_VISIBLE_DEVICES"] = places.get()


def _killed(cell: Cell) -> CellFailed:
    return CellFailed(
        cell.name,
        found="a process that was killed, its own or one beside it",
        expected="a finished run",
        mend="see whether the memory was full; start the study again, perhaps with fewer --jobs",
    )


def _run_in_pool(cell: Cell, output_root: str, threads: int) -> dict:
    """Not for a study that was killed: the pool's processes live on and would take the next run."""
    if not multiprocessing.parent_process().is_alive():
        os._exit(1)
    return run_cell(cell, output_root, threads)


def on_ray(cells: list[Cell], output_root: Path, address: str, threads: int) -> Iterator[Ended]:
    """Run as tasks of a Ray cluster, as many at once as it has CPUs for, each with `threads` of them.

    Where the cluster has GPUs, each run takes one.

    At the address "local" a cluster of this machine is started for the study alone. The nodes need this
    project at the same place; with `output_root` on a shared file system a run that loses its node goes on
    where it was, otherwise it starts anew.

    Raises:
        ConfigError: no cluster answers at `address`.
    """
    # Before Ray is imported: whoever reaches a Ray port can run programs there.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    try:
        own = {"include_dashboard": False} if address == "local" else {}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        raise ConfigError(
            "--ray",
            found=f"no cluster at {address!r} that takes this user's token ({error})",
            expected="the address of a running Ray cluster, and its token",
            mend="start one (cluster/README.md), or leave --ray out to run on this machine",
        ) from error
    # A cluster's processes have the folder and the environment of whoever started them.
    here = {"env_vars": {"DETECTRON2_DATASETS": str(datasets_root().absolute())}}
    gpus = min(1, ray.cluster_resources().get("GPU", 0))
    task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=-1, runtime_env=here)(run_cell)
    output = str(output_root.absolute())
    waiting = {task.remote(cell, output, threads): cell for cell in cells}
    try:
        while waiting:
            (reference,), _ = ray.wait(list(waiting), num_returns=1)
            cell = waiting.pop(reference)
            try:
                yield cell, ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                if not isinstance(error.cause, QIMLError):
                    raise
                yield cell, error.cause
    finally:
        ray.shutdown()
