"""What is done to the picture behind a rejected answer: diffusion noise, blur, a crop, or nothing left of it.

The noise is SeVa's (https://github.com/Kevinz-code/SeVa, `data/step2/generate_with_aug.py`), which is that of
VCD: a forward diffusion of T = 1000 steps whose variances follow a sigmoid,

    beta_t = 0.00001 + (0.005 - 0.00001) * sigmoid(s_t),    s = 1000 equal steps from -6 to 6
    noised = sqrt(a_t) * x + sqrt(1 - a_t) * e,    a_t = (1 - beta_0) * ... * (1 - beta_t), e ~ N(0, 1)

with x the pixel values as the model reads them, normalised to about mean 0 and deviation 1 in each channel.
At step 500, SeVa's and ASPO's, sqrt(a_t) is 0.86 and sqrt(1 - a_t) 0.51; at 999 they are 0.29 and 0.96.
"""

from __future__ import annotations

import random
from enum import Enum

import numpy as np
from PIL import Image, ImageFilter

STEPS = 1000
NOISE_STEP = 500
# OpenAI's CLIP, which LLaVA looks through.
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711])
_SHORTEST = 336
_BLUR = 0.05
_CROP = 0.5


class Distortion(str, Enum):
    """How the picture is made worse."""

    NOISE = "noise"
    BLUR = "blur"
    CROP = "crop"
    BLANK = "blank"


def noise_level(step: int) -> tuple[float, float]:
    """What the values and what the noise are multiplied by at a step (0 to 999) of the module's schedule."""
    betas = 1e-5 + (0.5e-2 - 1e-5) / (1 + np.exp(-np.linspace(-6, 6, STEPS)))
    kept = float(np.prod(1 - betas[: step + 1]))
    return kept**0.5, (1 - kept) ** 0.5


def noised_picture(image: Image.Image, step: int, seed: int) -> Image.Image:
    """An RGB image with diffusion noise, for a model behind an endpoint, whose pixel values are out of reach.

    The image is first made at most 336 pixels on its shorter side, since a model's own resizing would average
    noise of a larger one away. Values are normalised as CLIP does, and cut to 8 bits afterwards.
    """
    signal, noise = noise_level(step)
    scale = _SHORTEST / min(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    values = (np.asarray(image, dtype=np.float64) / 255 - _MEAN) / _DEVIATION
    drawn = np.random.default_rng(seed).standard_normal(values.shape)
    noised = (signal * values + noise * drawn) * _DEVIATION + _MEAN
    return Image.fromarray(np.clip(np.rint(noised * 255), 0, 255).astype(np.uint8))


def distorted(image: Image.Image, kind: Distortion, seed: int) -> Image.Image:
    """An RGB image blurred, cropped or blank.

    Blur: Gaussian, 5% of the shorter side. Crop: a quarter of it, at a drawn place. Blank: grey.
    """
    width, height = image.size
    if kind is Distortion.BLUR:
        return image.filter(ImageFilter.GaussianBlur(_BLUR * min(width, height)))
    if kind is Distortion.CROP:
        draw = random.Random(seed)
        wide, high = max(1, round(width * _CROP)), max(1, round(height * _CROP))
        left, top = draw.randint(0, width - wide), draw.randint(0, height - high)
        return image.crop((left, top, left + wide, top + high))
    if kind is Distortion.BLANK:
        red, green, blue = (int(value) for value in np.rint(_MEAN * 255))
        return Image.new("RGB", image.size, (red, green, blue))
    raise ValueError(f"{kind.value} is not made on the picture itself")
