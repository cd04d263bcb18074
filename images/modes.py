"""Colour modes: what an image is turned into to be worked on, and what it is written back as."""

from __future__ import annotations

import numpy as np
from PIL import Image

from common.errors import UserError


def usual_mode(image: Image.Image) -> Image.Image:
    """`image` itself, but integers and floats of other kinds as 8-bit ("L") or 16-bit grey ("I;16").

    Integers up to 255 and floats in [0, 255] count as 8 bits, floats in [0, 1] as fractions of white.

    Raises:
        UserError: values are out of range.
    """
    if image.mode not in ("I", "F") and not (image.mode.startswith("I;16") and image.mode != "I;16"):
        return image
    values = np.asarray(image)
    if values.dtype.kind == "f":
        values = values * (255.0 if values.min() >= 0 and values.max() <= 1 else 1.0)
    if not (values.min() >= 0 and values.max() <= (255 if values.dtype.kind == "f" else 65535)):  # also false for NaN
        raise UserError(f"the image's values run from {values.min():g} to {values.max():g}: save it with 8 or 16 bits")
    if image.mode.startswith("I;16") or values.max() > 255:
        return Image.fromarray(values.astype(np.uint16))
    return Image.fromarray(values.round().astype(np.uint8))


def to_model_mode(image: Image.Image, channels: int, under: str = "white") -> Image.Image:
    """The image as "L" (1 channel) or "RGB" (3): transparency over the colour `under`, 16 bits scaled down to 8."""
    image = usual_mode(image)
    if image.mode == "I;16":
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, under), image)
    return image.convert("L" if channels == 1 else "RGB")


def writable_mode(image: Image.Image) -> Image.Image:
    """`image` itself if its mode is kept on writing, otherwise as grey or RGB, with alpha where it is transparent."""
    image = usual_mode(image)
    if image.mode in ("LA", "RGBA") or (image.mode in ("L", "RGB", "I;16") and "transparency" not in image.info):
        return image
    if image.mode == "I;16":  # one of its values is transparent
        alpha = np.asarray(image) != image.info["transparency"]
        return Image.merge("LA", (to_model_mode(image, 1), Image.fromarray(alpha.astype(np.uint8) * 255)))
    if image.has_transparency_data:
        return image.convert("LA" if image.mode in ("L", "1") else "RGBA")
    return to_model_mode(image, 1 if image.mode == "1" else 3)


def flatten_alpha(image: Image.Image) -> Image.Image:
    """The colours of an image without its alpha, white where it is fully transparent: nobody sees those colours.

    Alpha is kept elsewhere, so the model works on a translucent pixel's own colour: over white it would be mixed twice.
    """
    image = writable_mode(image)
    if image.mode not in ("LA", "RGBA"):
        return image
    visible = image.getchannel("A").point(lambda alpha: 255 if alpha else 0)
    mode = image.mode.removesuffix("A")
    plain = Image.merge(mode, image.split()[:-1])
    return Image.composite(plain, Image.new(mode, image.size, "white"), visible)
