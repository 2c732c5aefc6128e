"""Several workers on one machine, a process each: their errors and this process's signals get through."""

import argparse
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator

from detectron2.engine import launch
from torch.multiprocessing import ProcessRaisedException

from qiml.errors import QIMLError


def launch_workers(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Run `main(args)` in a process a GPU, or in this one where there is one worker: Detectron2's launch.

    Args:
        main: one worker's part.
        args: of Detectron2's parser.

    Raises:
        QIMLError: what a worker raised that a user can mend.
    """
    several = args.num_gpus * args.num_machines > 1
    with worker_errors(), pass_signals_on() if several else contextlib.nullcontext():
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )


@contextlib.contextmanager
def worker_errors() -> Iterator[None]:
    """Raise a worker's error as one line where a user can mend it.

    Workers hand over a traceback as text, whose last line is the error. Others keep it.
    """
    try:
        yield
    except ProcessRaisedException as error:
        name, _, message = str(error).strip().splitlines()[-1].partition(": ")
        if not name.startswith("qiml."):
            raise
        raise QIMLError(message) from error


@contextlib.contextmanager
def pass_signals_on() -> Iterator[None]:
    """On SIGTERM or Ctrl-C within, wait for the workers, which finish a step and save, and do not die first.

    The signal may have come to this process alone or to all of them. It is passed on as the other of the
    two: of each a worker lets the first wait for the end of the step, and dies of the second.
    """
    other = {signal.SIGTERM: signal.SIGINT, signal.SIGINT: signal.SIGTERM}
    previous = {number: signal.getsignal(number) for number in other}

    def pass_on(number: int, _frame) -> None:
        signal.signal(number, previous[number])
        for worker in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, other[number])

    for number in other:
        signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
