"""What a machine of a Ray cluster is asked before it gets a worker.

Imports little, as a process is started for it: it answers in a second, where Detectron2 alone takes several.
"""

from collections.abc import Iterable
from pathlib import Path

from qiml.engine.storage import RunStorage


def find_missing(roots: Iterable[str], storage: RunStorage, probe: str) -> dict[str, str] | None:
    """What this machine lacks: {"kind": "data" or "storage", "path": …}, or None.

    Args:
        roots: absolute folders of the data sets.
        storage: of the run.
        probe: file that was just written there.
    """
    for root in roots:
        if not Path(root).is_dir():
            return {"kind": "data", "path": root}
    return None if storage.exists(probe) else {"kind": "storage", "path": storage.path()}
