import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qiml.data.augmentation import (
    PHOTOMETRIC,
    Warp,
    centred_affine,
    evaluation_warp,
    pad_image,
    photometric_distortion,
    photometric_jitter,
    random_warp,
    warp_image,
)

DRAWS = 3000


def blob(size, centre, sigma):
    """Image of a Gaussian around a pixel of the continuous plane, on which pixel i covers [i, i + 1]."""
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    profile = np.exp(-((x - centre[0]) ** 2 + (y[:, None] - centre[1]) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(255 * profile)[..., None], 3, axis=2).astype(np.uint8)


def centroid(image):
    weight = image[..., 0].astype(float)
    y, x = np.indices(weight.shape) + 0.5
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


def apply(warp, point, width):
    """What a warp is documented to do to a pixel of the original."""
    x, y = point
    return warp.affine @ np.array([width - x if warp.flip else x, y, 1])


@given(
    x=st.floats(-30, 30),
    y=st.floats(-20, 20),
    scale=st.floats(0.5, 6),
    shift=st.tuples(st.floats(-15, 15), st.floats(-15, 15)),
    flip=st.booleans(),
)
@example(x=0.0, y=0.0, scale=1.0, shift=(0.0, 0.0), flip=False)  # nothing changes
@example(x=3.3, y=-2.1, scale=5.5, shift=(1.0, 2.0), flip=True)  # in two steps
@settings(deadline=None, max_examples=40)
def test_pixels_go_where_the_affine_says(x, y, scale, shift, flip):
    """To a thirtieth of an output pixel, whatever the reduction."""
    image_size, input_size = (403, 301), (200, 152)
    centre = np.array(image_size) / 2
    zoom = input_size[0] / (image_size[0] * scale)
    warp = Warp(centred_affine(image_size, input_size, centre + shift, scale), flip)
    point = centre + np.array([x, y])
    image = warp_image(blob(image_size, point, sigma=max(2 / zoom, 4)), warp, input_size)
    assert image.shape == (152, 200, 3) and image.dtype == np.uint8
    np.testing.assert_allclose(centroid(image), apply(warp, point, 403), rtol=0, atol=0.035)


def test_identity_and_flip_are_exact():
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp_image(image, Warp(np.eye(2, 3)), (64, 32)), image)
    mirrored = warp_image(image, Warp(np.eye(2, 3), flip=True), (64, 32))
    np.testing.assert_array_equal(mirrored, image[:, ::-1])


def test_outside_the_image_is_black():
    image = np.full((32, 64, 3), 200, dtype=np.uint8)
    warped = warp_image(image, evaluation_warp((64, 32), (64, 64)), (64, 64))
    assert (warped[:16] == 0).all() and (warped[48:] == 0).all()
    assert (warped[16:48] == 200).all()


@pytest.mark.parametrize("factor", [3, 4.7, 8])
def test_strong_reductions_average_every_pixel(factor):
    """Of white noise an average of f × f pixels leaves 1/f; bilinear sampling alone at least 1/2."""
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    input_size = (int(640 / factor), int(480 / factor))
    reduced = warp_image(noise, evaluation_warp((640, 480), input_size), input_size)
    inner = reduced[2:-2, 2:-2].astype(float)
    assert inner.std() < 1.3 / int(factor) * noise.std()
    assert inner.mean() == pytest.approx(noise.mean(), abs=1.5)


@pytest.mark.parametrize("image_size", [(1242, 375), (1224, 370), (640, 480)])
def test_evaluation_shows_the_whole_width_centred(image_size):
    input_size = (1280, 384)
    warp = evaluation_warp(image_size, input_size)
    width, height = image_size
    assert warp.affine[0, 0] == warp.affine[1, 1] == pytest.approx(1280 / width)  # aspect ratio
    assert warp.affine[0, 1] == warp.affine[1, 0] == 0
    np.testing.assert_allclose(warp.affine @ [0, height / 2, 1], [0, 192], atol=1e-9)
    np.testing.assert_allclose(warp.affine @ [width, height / 2, 1], [1280, 192], atol=1e-9)
    assert (warp.flip, warp.magnification, warp.cropped) == (False, 1, False)


def draw(seed=0, flip=0.5, crop=0.5, crop_scale=0.4, crop_shift=0.1, size=(1242, 375)):
    return random_warp(
        np.random.default_rng(seed),
        size,
        (1280, 384),
        flip=flip,
        crop=crop,
        crop_scale=crop_scale,
        crop_shift=crop_shift,
    )


def test_a_warp_is_a_function_of_the_generator():
    for seed in range(20):
        first, again = draw(seed), draw(seed)
        np.testing.assert_array_equal(first.affine, again.affine)
        assert (first.flip, first.cropped) == (again.flip, again.cropped)
    assert len({draw(seed).affine.tobytes() for seed in range(20) if draw(seed).cropped}) > 5


def test_without_flip_and_crop_it_is_the_warp_of_evaluation():
    expected = evaluation_warp((1242, 375), (1280, 384))
    for seed in range(5):
        warp = draw(seed, flip=0, crop=0)
        np.testing.assert_array_equal(warp.affine, expected.affine)
        assert (warp.flip, warp.cropped, warp.magnification) == (False, False, 1)


def test_how_often_flips_and_crops_are_drawn():
    """Independent of each other; bounds are four standard deviations."""
    warps = [draw(seed, flip=0.3, crop=0.6) for seed in range(DRAWS)]
    tolerance = 4 * 0.5 / DRAWS**0.5
    assert np.mean([w.flip for w in warps]) == pytest.approx(0.3, abs=tolerance)
    assert np.mean([w.cropped for w in warps]) == pytest.approx(0.6, abs=tolerance)
    assert np.mean([w.flip and w.cropped for w in warps]) == pytest.approx(0.18, abs=tolerance)


def test_how_crops_are_distributed():
    image_size = np.array([1242, 375])
    warps = [draw(seed, crop=1) for seed in range(DRAWS)]
    zoom = np.array([w.affine[0, 0] for w in warps])
    whole = evaluation_warp((1242, 375), (1280, 384)).affine[0, 0]
    np.testing.assert_allclose([w.magnification for w in warps], zoom / whole)

    scale = whole / zoom
    assert scale.min() == pytest.approx(0.6) and scale.max() == pytest.approx(1.4)
    tolerance = 4 * 0.5 / DRAWS**0.5
    # Normal within one deviation, which 31.7 % of the draws exceed.
    assert np.mean(np.isclose(scale, 0.6) | np.isclose(scale, 1.4)) == pytest.approx(
        0.317, abs=tolerance
    )
    assert scale.mean() == pytest.approx(1, abs=4 * 0.3 / DRAWS**0.5)

    middle = np.array([[640, 192]])
    offsets = np.array([w.affine[:, 2] for w in warps])
    shift = ((middle - offsets) / zoom[:, None] - image_size / 2) / image_size
    assert np.abs(shift).max() == pytest.approx(0.2)
    np.testing.assert_allclose(shift.mean(axis=0), 0, atol=4 * 0.1 / DRAWS**0.5)
    np.testing.assert_allclose(shift.std(axis=0), 0.0959, rtol=0.06)  # normal, clipped at two
    assert abs(np.corrcoef(shift.T)[0, 1]) < 4 / DRAWS**0.5


def test_photometric_jitter():
    image = np.random.default_rng(0).integers(60, 190, (20, 30, 3), dtype=np.uint8)
    jittered = photometric_jitter(np.random.default_rng(5), image)
    assert jittered.shape == image.shape and jittered.dtype == np.uint8
    np.testing.assert_array_equal(jittered, photometric_jitter(np.random.default_rng(5), image))
    assert np.abs(jittered.astype(int) - image).max() > 3
    grey = image[..., :1].repeat(3, axis=2)  # stays grey: the hue does not change
    assert np.ptp(photometric_jitter(np.random.default_rng(5), grey).astype(int), axis=2).max() <= 1
    # Contrast and brightness move the mean, within the documented ranges.
    means = [photometric_jitter(np.random.default_rng(s), image).mean() for s in range(200)]
    assert 0.5 * image.mean() - 33 < min(means) < 0.8 * image.mean()
    assert 1.2 * image.mean() < max(means) < 1.5 * image.mean() + 33


@pytest.mark.parametrize("flip", [False, True])
def test_an_image_of_the_inputs_size_keeps_its_pixels(flip):
    """The short cut gives what the warp gives."""
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    warp = evaluation_warp((96, 64), (96, 64))
    warp = Warp(warp.affine, flip)
    nearly = Warp(warp.affine + 1e-9, flip)  # takes the long way
    result = warp_image(image, warp, (96, 64))
    np.testing.assert_array_equal(result, image[:, ::-1] if flip else image)
    difference = result.astype(int) - warp_image(image, nearly, (96, 64))
    assert np.abs(difference).max() <= 1


NO_CROP = {"flip": 0.5, "crop": 0.5, "crop_scale": 0.4, "crop_shift": 0.1}


def test_shift_is_uniform_over_whole_pixels_and_comes_last():
    """Draws without it stay what they are."""
    shifts = []
    for seed in range(DRAWS):
        plain = random_warp(np.random.default_rng(seed), (320, 96), (320, 96), **NO_CROP)
        warp = random_warp(
            np.random.default_rng(seed), (320, 96), (320, 96), **NO_CROP, shift=0.5, shift_pixels=5
        )
        assert (warp.flip, warp.cropped, plain.shifted) == (plain.flip, plain.cropped, False)
        moved = warp.affine[:, 2] - plain.affine[:, 2]
        np.testing.assert_array_equal(warp.affine[:, :2], plain.affine[:, :2])
        np.testing.assert_allclose(moved, np.rint(moved), atol=1e-9)
        assert warp.shifted or not moved.any()
        if warp.shifted:
            shifts.append(np.rint(moved))
    assert len(shifts) == pytest.approx(DRAWS / 2, rel=0.1)
    # Nor does the generator go further without it: what is drawn next stays, too.
    rng, by_hand = np.random.default_rng(1), np.random.default_rng(1)
    random_warp(rng, (320, 96), (320, 96), **{**NO_CROP, "crop": 1.0})
    by_hand.random(2), by_hand.standard_normal(3)
    assert rng.random() == by_hand.random()
    for axis in np.array(shifts).T:
        values, counts = np.unique(axis, return_counts=True)
        assert values.tolist() == list(range(-5, 6))
        assert counts.min() > 0.7 * len(shifts) / 11


@pytest.mark.parametrize("flip", [False, True])
def test_a_shift_moves_pixels_exactly_and_leaves_black(flip):
    image = np.random.default_rng(0).integers(1, 256, (40, 60, 3), dtype=np.uint8)
    affine = np.array([[1.0, 0, 7], [0, 1, -3]])
    shifted = warp_image(image, Warp(affine, flip, shifted=True), (60, 40))
    np.testing.assert_array_equal(shifted[:37, 7:], (image[:, ::-1] if flip else image)[3:, :53])
    assert not shifted[37:].any() and not shifted[:, :7].any()


def test_padding():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    padded = pad_image(image, (64, 32), (1, 2, 3))
    assert padded.shape == (32, 64, 3)
    np.testing.assert_array_equal(padded[:20, :30], image)
    assert (padded[20:] == (1, 2, 3)).all() and (padded[:, 30:] == (1, 2, 3)).all()


def test_photometric_distortion():
    """Every part happens half of the time, within its range."""
    grey, red = (np.full((4, 4, 3), colour, np.uint8) for colour in ((100,) * 3, (120, 60, 60)))
    assert PHOTOMETRIC["distortion"] is photometric_distortion
    distorted = [
        [photometric_distortion(np.random.default_rng(s), image)[0, 0].astype(int) for s in seeds]
        for image, seeds in ((grey, range(1000)), (red, range(1000)))
    ]
    again = photometric_distortion(np.random.default_rng(3), red)
    np.testing.assert_array_equal(again[0, 0], distorted[1][3])
    means, colours = (np.array(values) for values in distorted)
    assert np.ptp(means, axis=1).max() <= 1  # grey stays grey
    # Neither brightness nor contrast: a quarter, and what rounds to the same.
    assert (means[:, 0] == 100).mean() == pytest.approx(0.25, abs=0.05)
    assert 0.5 * 68 - 1 <= means.min() < 45 and 175 < means.max() <= 1.5 * 132
    # Half of the permutations happen, and of these a third keep the first channel in its place.
    strongest = colours.argmax(axis=1)
    assert (strongest == 0).mean() == pytest.approx(2 / 3, abs=0.05)
    # Hue: red tilts towards green or blue by at most 18 degrees.
    high, middle, low = np.sort(colours, axis=1).T[::-1]
    hue = 60 * (middle - low) / np.maximum(high - low, 1)
    assert (hue < 3).mean() == pytest.approx(0.57, abs=0.06)
    assert np.quantile(hue, 0.99) < 21 and hue.max() > 15
