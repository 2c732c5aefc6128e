import sys

import cv2
import numpy as np
import pytest

from tools import measure_equivariance


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the tool's own code in this process; what it printed."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["measure_equivariance.py", *map(str, words)])
        measure_equivariance.main()
        return capsys.readouterr().out

    return run


def test_ours_are_steered_and_fitted_better_than_official_ones(tmp_path, run):
    noise = np.random.default_rng(0).normal(size=(40, 60, 3))
    picture = cv2.resize(noise, (240, 160), interpolation=cv2.INTER_CUBIC)
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), np.clip(110 + 60 * picture, 0, 255).astype(np.uint8))
    rows = [row.rsplit(maxsplit=3) for row in run(path).splitlines()[1:]]
    assert [name.strip() for name, *_ in rows] == [
        "3×3, ours", "3×3, official", "7×7, ours", "7×7, official",
    ]  # fmt: skip
    errors = [[float(word) for word in words] for _, *words in rows]
    for (shift, unsteered, fit), (official_shift, _, official_fit) in (errors[:2], errors[2:]):
        assert shift < 0.7 * unsteered and shift < 0.7 * official_shift
        assert fit < 0.9 * official_fit


@pytest.mark.parametrize(
    ("contents", "found"),
    [
        (None, "no such file"),
        (b"no image", "an image that does not decode"),
        (cv2.imencode(".png", np.zeros((50, 200, 3)))[1].tobytes(), "200×50 pixels"),
    ],
)
def test_wrong_input(tmp_path, run, capsys, contents, found):
    path = tmp_path / "a.png"
    if contents:
        path.write_bytes(contents)
    with pytest.raises(SystemExit) as caught:
        run(path)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: found {found}")
