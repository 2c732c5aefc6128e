"""A study: a YAML file that names data, groups, variants and seeds, and the grid of runs it stands for."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from qiml.config import flat_config, load_config
from qiml.data.catalog import datasets_root
from qiml.data.documents import read_document
from qiml.data.synthetic.dataset import VERSION
from qiml.errors import ConfigError, DatasetError
from qiml.modeling.box3d import head_class
from qiml.modeling.metric_loss import choose_depth_space, choose_descriptor

PROJECT_ROOT = Path(__file__).resolve().parents[4]
"""Where train_net.py is, and the configs that groups name."""

_STUDY = {
    "expected": "title, data, groups, variants, baseline and seeds",
    "mend": "compare it with the studies in configs/studies/",
}
# What a run's result does not depend on, or what the study's `data` says already.
_NOT_IDENTITY = ("OUTPUT_DIR", "DATASETS.TRAIN", "DATASETS.TEST", "MODEL.DEVICE", "SEED")
FIRST_DEFAULTS: dict[str, object] = {}
"""Of keys whose default has changed since there are studies: the one that finished runs were named by."""


@dataclass(frozen=True)
class SyntheticData:
    """Scenes to draw where they are absent.

    Args:
        size: WIDTHxHEIGHT of the images.
        train, val: frames.
        seed: of the scenes.
        dense_depth: with true depth maps; the rest is the same with and without.
    """

    size: str
    train: int
    val: int
    seed: int
    dense_depth: bool = False

    @property
    def root(self) -> Path:
        suffix = "-dense" if self.dense_depth else ""
        return datasets_root() / "studies" / f"scenes-{self.size}-seed{self.seed}{suffix}"

    @property
    def identity(self) -> dict:
        """What a run's result depends on: not on maps, unless its config asks for them."""
        facts = {name: value for name, value in vars(self).items() if name != "dense_depth"}
        return facts if VERSION == 1 else {**facts, "version": VERSION}


@dataclass(frozen=True)
class FolderData:
    """A folder in KITTI's layout, under DETECTRON2_DATASETS, with its splits."""

    folder: str
    train_split: str = "train"
    val_split: str = "val"

    @property
    def root(self) -> Path:
        return datasets_root() / self.folder

    @property
    def identity(self) -> dict:
        """What a run's result depends on."""
        return vars(self)


@dataclass(frozen=True)
class Group:
    """Runs that are compared with each other: rows of one table.

    Args:
        config: what is trained, a file relative to the project's root.
        train_frames: how many of the training split's first frames; 0: all.
        overrides: config keys of all its runs.
    """

    config: str
    train_frames: int = 0
    overrides: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        study, group, variant, seed: its place in the grid.
        config, overrides: what train_net.py gets, without data, seed and output.
        data, train_frames: what it trains and is evaluated on.
        identity: hash of all that its result depends on; another study file, another identity.
    """

    study: str
    group: str
    variant: str
    seed: int
    config: str
    overrides: tuple[str, ...]
    data: SyntheticData | FolderData
    train_frames: int
    identity: str

    @property
    def name(self) -> str:
        return f"{self.group}/{self.variant}/seed{self.seed}"

    def folder(self, root: Path) -> Path:
        """Where its run is, under `root`."""
        return root / self.study / self.group / f"{self.variant}-seed{self.seed}-{self.identity}"


@dataclass(frozen=True)
class Study:
    """See :func:`load_study`."""

    name: str
    title: str
    about: str
    data: SyntheticData | FolderData
    groups: dict[str, Group]
    variants: dict[str, dict]
    baseline: str
    seeds: tuple[int, ...]

    def part(
        self,
        groups: list[str] | None = None,
        variants: list[str] | None = None,
        seeds: list[int] | None = None,
    ) -> "Study":
        """Only some groups and variants, and other seeds; None: all of the study's.

        Raises:
            ConfigError: a name is not in the study, or a seed is given twice.
        """
        if seeds:
            _check_seeds("seeds", seeds)
        return replace(
            self,
            groups=_chosen(self.groups, groups, f"groups of {self.name}"),
            variants=_chosen(self.variants, variants, f"variants of {self.name}"),
            seeds=tuple(seeds) if seeds else self.seeds,
        )

    def against(self, variant: str) -> "Study":
        """The same runs, compared to another variant.

        Raises:
            ConfigError: the study has no such variant.
        """
        (baseline,) = _chosen(self.variants, [variant], f"variants of {self.name}")
        return replace(self, baseline=baseline)

    @property
    def size(self) -> int:
        """How many runs the grid has."""
        return len(self.groups) * len(self.variants) * len(self.seeds)

    def cells(self) -> list[Cell]:
        """The grid, seed by seed, so that an unfinished study has whole pairs.

        Raises:
            ConfigError: a config is missing, or a key or value is wrong.
        """
        cells = []
        for group_name, group in self.groups.items():
            for variant, keys in self.variants.items():
                overrides = _as_overrides({**group.overrides, **keys})
                identity = self._identity(group, overrides)
                cells += [
                    Cell(
                        self.name,
                        group_name,
                        variant,
                        seed,
                        group.config,
                        overrides,
                        self.data,
                        group.train_frames,
                        identity,
                    )
                    for seed in self.seeds
                ]
        return sorted(cells, key=lambda cell: self.seeds.index(cell.seed))

    def _identity(self, group: Group, overrides: tuple[str, ...]) -> str:
        """Of what differs from the first defaults: keys that are added later leave finished runs finished."""
        values = _without_auto(load_config(str(PROJECT_ROOT / group.config), overrides))
        defaults = flat_config(load_config("")) | FIRST_DEFAULTS
        changed = {
            key: value
            for key, value in values.items()
            if key not in _NOT_IDENTITY and value != defaults.get(key)
        }
        facts = {"config": changed, "data": self.data.identity, "frames": group.train_frames}
        text = json.dumps(facts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def _without_auto(cfg) -> dict[str, object]:
    """All values; where a metric loss is on, what "auto" stands for now in its place."""
    values, qi = flat_config(cfg), cfg.MODEL.QUASI_ISOMETRIC
    if qi.ENABLED:
        values["MODEL.QUASI_ISOMETRIC.DEPTH_SPACE"] = choose_depth_space(cfg)
    if qi.ENABLED or cfg.MODEL.CONTRASTIVE.NAME:
        values["MODEL.QUASI_ISOMETRIC.DESCRIPTOR"] = choose_descriptor(cfg, head_class(cfg))
    return values


def load_study(path: str | Path) -> Study:
    """Read a study.

    The file has `title`, `about`, `data` (`synthetic: {size, train, val, seed, dense_depth}` or `folder`, and
    its splits), `groups` (name → `config`, `train_frames`, `overrides`), `variants` (name → config
    keys), `baseline` (one of them) and `seeds`.

    Raises:
        ConfigError: the file is missing or not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            path, found="no such file", expected="a study", mend="see the folder configs/studies/"
        )
    try:
        study = _parse(path.stem, read_document(path, **_STUDY))
    except DatasetError as error:
        raise ConfigError(str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(path, found=f"{type(error).__name__}: {error}", **_STUDY) from error
    _check(study, path)
    return study


def _parse(name: str, text: dict) -> Study:
    """Raises KeyError, TypeError, ValueError or AttributeError where something is not as it should be."""
    data = dict(text["data"])
    synthetic = data.pop("synthetic", None)
    study = Study(
        name=name,
        title=text["title"],
        about=text.get("about", ""),
        data=SyntheticData(**synthetic, **data) if synthetic else FolderData(**data),
        # YAML takes some names for numbers or for true and false.
        groups={str(name): Group(**group) for name, group in text["groups"].items()},
        variants={str(name): dict(keys or {}) for name, keys in text["variants"].items()},
        baseline=str(text["baseline"]),
        seeds=tuple(text["seeds"]),
    )
    if not study.groups:
        raise ValueError("no groups")
    for item in (study, study.data, *study.groups.values()):
        _check_types(item)
    if wrong := [seed for seed in study.seeds if type(seed) is not int]:
        raise TypeError(f"a seed is {wrong[0]!r}, no whole number")
    if synthetic and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", study.data.size):
        raise ValueError(f"size is {study.data.size!r}, not WIDTHxHEIGHT")
    if least := [n for n, group in study.groups.items() if group.train_frames < 0]:
        raise ValueError(f"train_frames of {least[0]} is negative")
    return study


def _check_types(item: Study | SyntheticData | FolderData | Group) -> None:
    for each in fields(item):
        value = getattr(item, each.name)
        if each.type in (str, int, bool, dict) and type(value) is not each.type:
            raise TypeError(f"{each.name} is {value!r}, no {each.type.__name__}")


def _check(study: Study, path: Path) -> None:
    for name in (*study.groups, *study.variants):
        if not re.fullmatch(r"[\w+-][\w.+-]*", name):
            raise ConfigError(
                path,
                found=f"the name {name!r}",
                expected="letters, digits and . + - _, no . in front: it names folders",
                mend="rename it",
            )
    if study.baseline not in study.variants:
        raise ConfigError(
            path,
            found=f"baseline {study.baseline!r}",
            expected=f"one of the variants {', '.join(study.variants)}",
            mend="correct the name",
        )
    _check_seeds(f"{path}, seeds", study.seeds)


def _check_seeds(where: str, seeds: Sequence[int]) -> None:
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(
            where,
            found=str(list(seeds)),
            expected="different numbers",
            mend="list each of them once",
        )


def _chosen(entries: dict, names: list[str] | None, where: str) -> dict:
    unknown = [name for name in names or () if name not in entries]
    if unknown:
        raise ConfigError(
            where,
            found=", ".join(unknown),
            expected=f"some of {', '.join(entries)}",
            mend="correct the name",
        )
    return {name: entry for name, entry in entries.items() if names is None or name in names}


def _as_overrides(keys: dict) -> tuple[str, ...]:
    """KEY VALUE KEY VALUE … as on the command line."""
    return tuple(str(word) for item in keys.items() for word in item)
