"""The installer, on a small stand-in for Detectron2's source archive; no network."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tools import install_detectron2 as installer

MODEL_ZOO = """\
import os
import pkg_resources


def get_config_file(config_path):
    cfg_file = pkg_resources.resource_filename(
        "detectron2.model_zoo", os.path.join("configs", config_path)
    )
    return cfg_file
"""


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An unpacked stand-in: every text that gets mended, and what the build takes along."""
    tree = tmp_path / "pb1-detectron2-0.6"
    packages = {Path(name).parent for name in installer.NUMPY_ALIASES}
    packages |= {Path(name) for name in (".", "data", "data/transforms", "model_zoo", "projects")}
    write(tree / "detectron2", {f"{package}/__init__.py": "" for package in packages})
    write(
        tree / "detectron2",
        {
            **{
                file: "x = y.astype(np.float)\n" * count + "z = np.float32\n"
                for file, count in installer.NUMPY_ALIASES.items()
            },
            "__init__.py": '__version__ = "0.6"\n',
            "data/transforms/transform.py": "interp = Image.LINEAR\nImage.LINEAR_LIGHT\n",
            "model_zoo/model_zoo.py": MODEL_ZOO,
            "model_zoo/configs/COCO/base.yaml": "VERSION: 2\n",
            "model_zoo/configs/common/optim.py": "",
        },
    )
    write(tree / "projects", {f"{name}/__init__.py": "" for name in installer.PROJECTS})
    write(tree, {"setup.py": "raise SystemExit('this would compile')", "setup.cfg": ""})
    return tree


@pytest.fixture
def fake_detectron2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A detectron2 9.9 of empty modules that shadows whatever is installed."""
    package = tmp_path / "site" / "detectron2"
    modules = [name.removeprefix("detectron2.").replace(".", "/") for name in installer.MODULES]
    write(package, {f"{module}/__init__.py": "" for module in modules})
    write(package, {"__init__.py": "__version__ = '9.9'", "utils/__init__.py": ""})
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.syspath_prepend(package.parent)
    return package


@pytest.fixture
def no_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if anything is installed or downloaded."""
    monkeypatch.setattr(installer, "pip", lambda *arguments: pytest.fail(f"pip {arguments}"))


@pytest.fixture
def no_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "detectron2" else find_spec(name)
    )


@pytest.mark.usefixtures("fake_detectron2", "no_installation")
def test_importable_detectron2_is_left_alone(capsys: pytest.CaptureFixture):
    assert installer.main([]) == 0
    assert "Detectron2 9.9" in capsys.readouterr().out


@pytest.mark.usefixtures("no_installation")
def test_broken_detectron2_is_reported_and_left_alone(
    fake_detectron2: Path, capsys: pytest.CaptureFixture
):
    (fake_detectron2 / "engine/__init__.py").write_text("import no_such_module")
    assert installer.main([]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "No module named 'no_such_module'" in error
    assert "pip uninstall" in error


def test_missing_torch_is_named():
    command = [sys.executable, "-I", "-S", installer.__file__]  # -S: without site-packages
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "has no torch" in result.stderr


@pytest.mark.usefixtures("no_detectron2", "no_installation")
def test_wrong_hash_installs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture):
    sdist = tmp_path / "pb1-detectron2-0.6.tar.gz"
    sdist.write_bytes(b"something else")
    assert installer.main(["--sdist", str(sdist)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {sdist}")
    assert installer.SHA256 in error
    assert hashlib.sha256(b"something else").hexdigest() in error


@pytest.mark.usefixtures("no_detectron2", "no_installation")
def test_missing_sdist_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert installer.main(["--sdist", str(tmp_path / "absent.tar.gz")]) == 2
    assert "absent.tar.gz: No such file" in capsys.readouterr().err


def test_fixes_replace_removed_names_only(source: Path):
    installer.apply_fixes(source)
    package = source / "detectron2"
    assert (package / "data/transforms/transform.py").read_text() == (
        "interp = Image.BILINEAR\nImage.LINEAR_LIGHT\n"
    )
    for file, count in installer.NUMPY_ALIASES.items():
        assert (package / file).read_text() == (
            "x = y.astype(float)\n" * count + "z = np.float32\n"
        )
    assert "pkg_resources" not in (package / "model_zoo/model_zoo.py").read_text()


@pytest.mark.parametrize("fix", installer.FIXES, ids=lambda fix: f"{fix.file}:{fix.pattern[:20]}")
@pytest.mark.parametrize("change", ["emptied", "doubled", "removed"])
def test_unexpected_source_is_refused(source: Path, fix: installer.Fix, change: str):
    file = source / "detectron2" / fix.file
    if change == "removed":
        file.unlink()
    else:
        file.write_text(file.read_text() * 2 if change == "doubled" else "")
    with pytest.raises(installer.InstallError, match=fix.file):
        installer.apply_fixes(source)


def test_installed_package_is_complete(source: Path, tmp_path: Path, monkeypatch):
    """Archive to import: configs and small projects come along, `_C` explains itself."""
    sdist, target = tmp_path / "sdist.tar.gz", tmp_path / "target"
    with tarfile.open(sdist, "w:gz") as archive:
        archive.add(source, source.name)
    monkeypatch.setattr(installer, "SHA256", hashlib.sha256(sdist.read_bytes()).hexdigest())
    monkeypatch.setenv("PIP_TARGET", str(target))  # pip's own way to install elsewhere
    installer.install(sdist)

    code = """
import os, detectron2.projects.point_rend, detectron2.projects.panoptic_deeplab
from detectron2 import _C
from detectron2.model_zoo.model_zoo import get_config_file
assert os.path.isfile(get_config_file("COCO/base.yaml"))
assert os.path.isfile(get_config_file("common/optim.py"))
assert "pure" in _C.get_compiler_version() and not _C.has_cuda()
assert not hasattr(_C, "__wrapped__")  # introspection must not see an operator
_C.box_iou_rotated(1, 2)
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("RuntimeError: detectron2._C.box_iou_rotated is a compiled operator")
    assert (target / "detectron2-0.6+pure.dist-info").is_dir()
    assert not list(target.glob("**/direct_url.json"))  # it would name a temporary folder
