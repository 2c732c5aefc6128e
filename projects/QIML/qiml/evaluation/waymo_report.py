"""What an evaluation by one of Waymo's protocols says, as text and as JSON. One protocol, one report."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qiml.evaluation.text_table import text_table
from qiml.evaluation.waymo_metric import Rows
from qiml.evaluation.waymo_rules import LEVELS, RANGES, TYPES
from qiml.io import atomic_write_text

TITLES = {
    "official": "Waymo 3D detection, official metric",
    "let": "Waymo 3D detection, longitudinal-error tolerant (LET-3D), official metric",
    "mono_front_legacy": "Protocol mono_front_legacy: boxes of the camera frame in a metric whose "
    "vertical is z, as in DEVIANT's code. Compares with papers of that protocol only",
}


@dataclass(frozen=True, eq=False)
class WaymoReport:
    """One protocol's rows with what explains them.

    Attributes:
        protocol: a key of `TITLES`.
        thresholds: type number → least IoU.
        rows: as from :func:`qiml.evaluation.waymo_metric.evaluate`.
        frames: how many were evaluated.
        skipped: objects left out of the ground truth, by reason.
        types: numbers of the types to print.
    """

    protocol: str
    thresholds: Mapping[int, float]
    rows: Rows
    frames: int
    skipped: Mapping[str, int] = field(default_factory=dict)
    types: tuple[int, ...] = tuple(TYPES)

    def to_dict(self) -> dict:
        """All numbers, 0 to 1, ready for JSON."""
        return {
            "protocol": self.protocol,
            "iou": {TYPES[number]: value for number, value in self.thresholds.items()},
            "frames": self.frames,
            "skipped": dict(self.skipped),
            "results": self.rows,
        }

    def write_json(self, path: str | Path) -> None:
        """Write :meth:`to_dict`, whole or not at all."""
        atomic_write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")

    def to_text(self) -> str:
        """The table to print, in per cent."""
        measures = ("AP", "APH", "APL") if self.protocol == "let" else ("AP", "APH")
        header = ["type", "level", "IoU ≥"]
        header += [f"{m} {part}" for m in measures for part in ("all", *RANGES)]
        lines = [
            [TYPES[kind], level, self.thresholds[kind], *self._values(kind, level, measures)]
            for kind in self.types
            for level in LEVELS
        ]
        parts = [f"{TITLES[self.protocol]}\n{self.frames} frames; in %, ranges in metres"]
        parts.append(text_table(header, lines))
        if self.skipped:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.skipped.items())
            parts.append(f"Objects left out, as the rules have it: {reasons}")
        return "\n".join(parts)

    def _values(self, kind: int, level: int, measures: tuple[str, ...]) -> list[float]:
        name = TYPES[kind]
        rows = [f"OBJECT_TYPE_TYPE_{name}", *(f"RANGE_TYPE_{name}_{part}" for part in RANGES)]
        return [
            100 * self.rows[f"{row}_LEVEL_{level}"][measure] for measure in measures for row in rows
        ]
