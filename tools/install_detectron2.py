"""Install Detectron2 0.6 as a pure-Python package: no compiler, seconds instead of minutes.

Upstream publishes no wheel, and its documented install compiles C++ against the torch at hand.
Nothing in this project calls those compiled operators, so this script takes the Python tree of
release 0.6 (a source archive on PyPI, pinned by its SHA-256, whose Python files equal upstream's
tag v0.6), mends what newer NumPy, Pillow and setuptools have broken, and installs the result.

A Detectron2 that is already there is never touched.
"""

import argparse
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

REQUIREMENT = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"

# What gets installed. The local version says that this is not a plain 0.6.
NAME, VERSION = "detectron2", "0.6+pure"

# What the project uses; `detectron2.export` (Caffe2) is not among it and does not import.
MODULES = (
    "detectron2.config",
    "detectron2.data",
    "detectron2.engine",
    "detectron2.modeling",
    "detectron2.evaluation",
    "detectron2.checkpoint",
    "detectron2.solver",
    "detectron2.structures",
    "detectron2.model_zoo",
    "detectron2.utils.visualizer",
)

# Small projects that upstream's own setup.py installs under detectron2.projects.
PROJECTS = ("PointRend/point_rend", "DeepLab/deeplab", "Panoptic-DeepLab/panoptic_deeplab")

# Replaces upstream's setup.py, which insists on compiling C++.
PYPROJECT = f"""\
[build-system]
requires = ["setuptools>=62.3"]
build-backend = "setuptools.build_meta"

[project]
name = "{NAME}"
version = "{VERSION}"
description = "Detectron2 0.6 without compiled operators"

[tool.setuptools.packages.find]
include = ["detectron2*"]
namespaces = false

[tool.setuptools.package-data]
"detectron2.model_zoo" = ["configs/**/*.yaml", "configs/**/*.py"]
"""

STUB = '''\
"""Stands in for the compiled extension: importing it works, calling an operator does not."""

has_cuda = lambda: False
get_compiler_version = get_cuda_version = lambda: "none (pure-Python build)"


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def unavailable(*args, **kwargs):
        raise RuntimeError(
            f"detectron2._C.{name} is a compiled operator, and this Detectron2 is pure Python. "
            "To mend it: build Detectron2 from source, "
            "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
        )

    return unavailable
'''


class InstallError(Exception):
    """The installation cannot go on; the message says why and how to mend it."""


@dataclass(frozen=True)
class Fix:
    """One substitution in one file below `detectron2/`, which must hit exactly `count` times."""

    file: str
    pattern: str
    replacement: str
    count: int = 1


# NumPy 1.24 removed its aliases of Python's own types.
NUMPY_ALIASES = {
    "data/build.py": 2,
    "data/datasets/pascal_voc.py": 1,
    "evaluation/pascal_voc_evaluation.py": 2,
    "evaluation/sem_seg_evaluation.py": 7,
    "structures/masks.py": 3,
    "utils/video_visualizer.py": 1,
    "utils/visualizer.py": 3,
}

FIXES = (
    # Pillow 10 removed the alias.
    Fix("data/transforms/transform.py", r"\bImage\.LINEAR\b", "Image.BILINEAR"),
    *(
        Fix(file, r"\bnp\.(bool|int|float|str)\b", r"\1", count)
        for file, count in NUMPY_ALIASES.items()
    ),
    # setuptools 82 removed pkg_resources.
    Fix("model_zoo/model_zoo.py", r"^import pkg_resources$", "import importlib.resources"),
    Fix(
        "model_zoo/model_zoo.py",
        r'pkg_resources\.resource_filename\(\s*"detectron2\.model_zoo", '
        r'os\.path\.join\("configs", config_path\)\s*\)',
        'str(importlib.resources.files("detectron2.model_zoo").joinpath("configs", config_path))',
    ),
)


def verify_hash(sdist: Path) -> None:
    """Check that a source archive is the pinned one, byte for byte.

    Raises:
        InstallError: the file cannot be read, or its SHA-256 is another.
    """
    try:
        found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    except OSError as error:
        raise InstallError(f"cannot read {sdist}: {error.strerror}") from error
    if found != SHA256:
        raise InstallError(
            f"{sdist} is not the pinned archive of {REQUIREMENT}: found sha256 {found}, "
            f"expected {SHA256}. Nothing was installed. To mend it: download the file again"
        )


def apply_fixes(tree: Path) -> None:
    """Make an unpacked Detectron2 0.6 run on newer NumPy, Pillow, setuptools, and uncompiled.

    Args:
        tree: the folder that contains `detectron2/` and `projects/`; changed in place.

    Raises:
        InstallError: a text that should be replaced is not there as often as expected.
    """
    package = tree / "detectron2"
    for fix in FIXES:
        file = package / fix.file
        source = file.read_text(encoding="utf-8") if file.is_file() else ""
        mended, count = re.subn(fix.pattern, fix.replacement, source, flags=re.MULTILINE)
        if count != fix.count:
            raise InstallError(
                f"detectron2/{fix.file}: found {count} matches of {fix.pattern!r}, expected "
                f"{fix.count}: this is not the source of Detectron2 0.6. Nothing was installed"
            )
        file.write_text(mended, encoding="utf-8")
    (package / "_C.py").write_text(STUB, encoding="utf-8")


def prepare_build(tree: Path) -> None:
    """Replace upstream's compiling build by a pure-Python one of the same packages and configs."""
    for project in PROJECTS:
        source = tree / "projects" / project
        shutil.copytree(source, tree / "detectron2" / "projects" / source.name)
    for name in ("setup.py", "setup.cfg"):
        (tree / name).unlink()
    (tree / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")


def pip(*arguments: str | Path) -> None:
    """Run pip for the running interpreter; its own messages go to the terminal."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    if subprocess.run(command).returncode != 0:
        raise InstallError(f"`pip {arguments[0]}` failed; its message is above")


def download(folder: Path) -> Path:
    """Fetch the source archive with pip, from wherever pip is configured to look."""
    # pip runs an sdist's setup.py to read its metadata. Given the hash, it refuses a wrong file
    # before that.
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n", encoding="utf-8")
    options = ("--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--require-hashes")
    pip("download", "--quiet", *options, "--dest", folder, "--requirement", requirements)
    return next(folder.glob("*.tar.gz"))


def install(sdist: Path | None) -> None:
    """Download (or take `sdist`), verify, unpack, mend and install; no other package changes."""
    with tempfile.TemporaryDirectory(prefix="detectron2-") as temporary:
        folder = Path(temporary)
        if sdist is None:
            print(f"Downloading {REQUIREMENT} ...", flush=True)
            sdist = download(folder)
        verify_hash(sdist)
        with tarfile.open(sdist) as archive:
            archive.extractall(folder / "source", filter="data")
        (tree,) = (folder / "source").iterdir()
        apply_fixes(tree)
        prepare_build(tree)
        print("Building and installing a pure-Python Detectron2 0.6 ...", flush=True)
        wheels = folder / "wheels"
        pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, tree)
        # By name, not by file: `pip freeze` would otherwise name a temporary folder for ever.
        options = ("--no-deps", "--no-index", "--find-links", wheels)
        pip("install", "--quiet", *options, f"{NAME}=={VERSION}")


def check_prerequisites() -> None:
    """Raise InstallError where this interpreter lacks what the installation needs."""
    if not hasattr(tarfile, "data_filter"):
        raise InstallError("this Python is too old. To mend it: use 3.11.4 or newer")
    for module in ("torch", "pip", "setuptools"):
        if importlib.util.find_spec(module) is None:
            raise InstallError(
                f"{sys.executable} has no {module}, which Detectron2 needs first. To mend it: run "
                "`make setup`, or install requirements.txt there and run this script again"
            )


def verify_import() -> str:
    """Import every module of `MODULES` in a fresh interpreter.

    Returns:
        version and folder of the Detectron2 that was found.

    Raises:
        InstallError: a module does not import; the message ends with Python's own.
    """
    code = f"import {', '.join(MODULES)}; print(detectron2.__version__, 'at', *detectron2.__path__)"
    # -P: a folder named detectron2 in the current directory is not an installation.
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip() or f"exit code {result.returncode}").splitlines()[-1]
        raise InstallError(
            f"detectron2 is installed but does not import: {reason}. "
            "To mend it: install what is named there, or remove it with "
            f"`{sys.executable} -m pip uninstall detectron2` and run this script again"
        )
    return result.stdout.strip().splitlines()[-1]


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="Example: .venv/bin/python tools/install_detectron2.py",
    )
    parser.add_argument(
        "--sdist",
        type=Path,
        metavar="FILE",
        help="use this copy of pb1-detectron2-0.6.tar.gz instead of downloading it",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        check_prerequisites()
        if importlib.util.find_spec("detectron2") is not None:
            print(f"Detectron2 {verify_import()} is already installed and left as it is.")
            return 0
        install(options.sdist)
        print(f"Installed Detectron2 {verify_import()}.")
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
