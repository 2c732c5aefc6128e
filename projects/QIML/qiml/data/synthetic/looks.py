"""Colours and light of a scene. Colours are RGB, 0 to 255."""

import colorsys
from dataclasses import dataclass

import numpy as np

from qiml.data.synthetic.meshes import Material as M

# Share of the sky that a face turned upwards mirrors.
GLOSS = np.zeros(len(M))
GLOSS[[M.PAINT, M.GLASS]] = 0.12, 0.45
# Lamps and plates are as bright in the shade as in the sun.
GLOWS = np.zeros(len(M), dtype=bool)
GLOWS[[M.HEADLIGHT, M.TAILLIGHT, M.PLATE]] = True

_VEHICLES = ("Car", "Van", "Truck", "DontCare")
_SKINS = ((236, 198, 170), (204, 156, 122), (150, 104, 76), (92, 64, 48))
# White, silver, grey and black make up most cars on the road.
_GREY_CARS = (240, 225, 190, 160, 120, 85, 55, 30)


@dataclass(frozen=True)
class Light:
    """Light and weather.

    Attributes:
        sun: (3,) unit vector towards the sun, camera frame.
        ambient: brightness of faces in the shade, 0 to 1; the sun adds the rest.
        zenith, horizon: colours of the sky.
        clouds: contrast of the clouds, 0 to 1.
        haze: distance in metres at which bodies take on 63 % of the horizon's colour.
        shadow: darkness of shadows cast by the sun, 0 to 1.
    """

    sun: np.ndarray
    ambient: float
    zenith: np.ndarray
    horizon: np.ndarray
    clouds: float
    haze: float
    shadow: float


def sample_light(rng: np.random.Generator) -> Light:
    """A sunny, hazy or overcast sky."""
    overcast = rng.random() < 0.4
    azimuth, elevation = rng.uniform(-np.pi, np.pi), rng.uniform(0.35, 1.2)
    sun = np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            -np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ]
    )
    grey = rng.uniform(150, 235)
    blue = np.array([70, 120, 200]) + rng.uniform(-30, 40, 3)
    return Light(
        sun=sun,
        ambient=rng.uniform(0.68, 0.85) if overcast else rng.uniform(0.38, 0.6),
        zenith=grey * rng.uniform(0.8, 1.0) + rng.uniform(-8, 8, 3) if overcast else blue,
        horizon=grey + rng.uniform(0, 20) + rng.uniform(-8, 8, 3),
        clouds=rng.uniform(0.1, 0.5),
        haze=float(np.exp(rng.uniform(np.log(150), np.log(900)))),
        shadow=rng.uniform(0.05, 0.2) if overcast else rng.uniform(0.3, 0.6),
    )


def sample_palette(rng: np.random.Generator, kind: str, body: str) -> np.ndarray:
    """(len(Material), 3) colours of one body."""
    palette = np.zeros((len(M), 3))
    palette[M.GLASS] = rng.uniform(18, 60) + rng.uniform(-6, 10, 3)
    palette[M.TYRE], palette[M.DARK] = rng.uniform(15, 35), rng.uniform(15, 45)
    palette[M.RIM] = rng.uniform(90, 200)
    palette[M.HEADLIGHT] = (245, 242, 225)
    palette[M.TAILLIGHT] = (rng.uniform(150, 235), 20, 25)
    palette[M.PLATE] = (235, 235, 230)
    palette[M.SKIN] = _SKINS[rng.integers(len(_SKINS))]
    palette[M.HAIR] = _hue(rng, (0.02, 0.13), (0.2, 0.7), (0.08, 0.6))
    paint, trim = _paint(rng, kind, body)
    palette[M.PAINT], palette[M.TRIM] = paint, trim
    return palette


def _paint(rng: np.random.Generator, kind: str, body: str) -> tuple[np.ndarray, np.ndarray]:
    """Colours of PAINT and TRIM."""
    if kind in _VEHICLES:
        grey = _GREY_CARS[rng.integers(len(_GREY_CARS))] + rng.uniform(-10, 10, 3)
        paint = grey if rng.random() < 0.6 else _hue(rng, (0, 1), (0.4, 0.95), (0.25, 0.9))
        return paint, rng.uniform(120, 240) + rng.uniform(-15, 15, 3)
    match body:
        case "building":
            wall = _hue(rng, (0.0, 0.17), (0.05, 0.5), (0.4, 0.95))
            return wall, _hue(rng, (0.0, 0.08), (0.2, 0.7), (0.2, 0.6))
        case "tree" | "bush":
            leaf = _hue(rng, (0.16, 0.38), (0.25, 0.7), (0.2, 0.5))
            return leaf, _hue(rng, (0.05, 0.1), (0.2, 0.5), (0.15, 0.35))
        case "lamp_post":
            return np.full(3, rng.uniform(50, 170)), np.full(3, rng.uniform(150, 230))
        case _:
            return _hue(rng, (0, 1), (0, 1), (0.1, 0.95)), _hue(rng, (0, 1), (0, 0.9), (0.1, 0.9))


def _hue(rng: np.random.Generator, hue, saturation, value) -> np.ndarray:
    h, s, v = (rng.uniform(*limits) for limits in (hue, saturation, value))
    return 255 * np.array(colorsys.hsv_to_rgb(h, s, v))
