"""What was measured, as tables for the terminal and for Markdown, and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tabulate import tabulate

from qiml.benchmark.records import TABLES, Record, significant

INTRODUCTION = """\
# Performance

Ratios come first: each is taken in one run on one machine, both sides in turns, the fastest of each.
Absolute times are this machine's. Rows are measured minutes apart, and a shared machine drifts by tens of per
cent meanwhile: compare within a row. Of whole steps, ratios between 0.9 and 1.15 are noise. This page is
written by the command below.

The *official style* is the same network and the same losses, run as the official code of MonoDLE and its
relatives runs them: float32 in NCHW order, every branch over the whole map (the object-depth head's too, at
inference as well), 5×5 pooling of the whole map for descriptors, images normalised and targets built on the
host object by object. It is written for this comparison (`qiml/benchmark/official.py`); tests check that its
losses are ours. It runs in the same process, where the C library keeps freed memory as in our trainer
(`qiml/engine/memory.py`). The official code does not have that: its times here are short rather than long."""
DERIVED = ("ratio", "floor", "share", "exponent")


@dataclass(frozen=True)
class Report:
    """Everything a run measured.

    Attributes:
        command: that measured it.
        machine: {what: which}, of hardware and versions.
        clock: what "seconds" are.
        records: in the order they were measured.
    """

    command: str
    machine: dict[str, str]
    clock: str
    records: Sequence[Record]

    def json(self) -> str:
        whole = {"command": self.command, "machine": self.machine, "clock": self.clock}
        whole["results"] = [
            {"kind": type(record).__name__, **asdict(record)}
            | {name: getattr(record, name) for name in DERIVED if hasattr(record, name)}
            for record in self.records
        ]
        return json.dumps(whole, indent=1) + "\n"

    def text(self) -> str:
        """For the terminal."""
        return "\n\n".join(
            f"{title}\n{_aligned(rows, 'simple')}" for title, _, rows in self._tables()
        )

    def markdown(self) -> str:
        """The page."""
        machine = "; ".join(f"{what} {which}" for what, which in self.machine.items())
        parts = [INTRODUCTION, f"```bash\n{self.command}\n```"]
        parts.append(f"Machine: {machine}. Times are {self.clock}.")
        for title, note, rows in self._tables():
            parts += [f"## {title}", note, _aligned(rows, "github")]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _tables(self) -> list[tuple[str, str, list[dict[str, str]]]]:
        """Title, note and rows of each."""
        aims = [_aim(record) for record in self.records if record.aim is not None]
        note = "What the project set itself, and whether this run reached it."
        tables = [("Aims", note, aims)]
        for kind in TABLES:
            rows = [record.cells() for record in self.records if type(record) is kind]
            tables.append((kind.title, kind.note, rows))
        return [table for table in tables if table[2]]


def _aligned(rows: list[dict[str, str]], form: str) -> str:
    left = ("left",) * len(rows[0])
    return tabulate(rows, "keys", form, colalign=left, disable_numparse=True)


def _aim(record: Record) -> dict[str, str]:
    value, unit = record.headline()
    return {
        "what": record.what,
        "aim": str(record.aim),
        "measured": f"{significant(value)} {unit}".strip(),
        "reached": "yes" if record.aim.reached(value) else "no",
    }
