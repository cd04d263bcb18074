"""Colour modes of PIL images: the mode that the model works with, and the mode that the result is written with.

"L" is 8-bit grey, "I;16" 16-bit grey, "RGB" colour; "LA" and "RGBA" have an alpha channel: 0 is transparent, 255 opaque.

Colour and alpha: where the result has no alpha channel (training data, evaluation, previews, strips, morphs), the model gets
the image composited over white, `to_model_mode`. Where the result keeps it (inpaint, outpaint, vary, reconstruct), the model
gets the colours without it, `flatten_alpha`: composited ones would be mixed with the background twice, in the result and
where that is shown.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from common.errors import UserError


def usual_mode(image: Image.Image) -> Image.Image:
    """The image itself, but as "L" or "I;16" if it is in another grey mode of more than 8 bits.

    16 bits in another byte order become "I;16". Integers of 32 bits ("I") become "I;16" if one of them is above 255, else
    "L". Floats ("F") become "L": if all of them are in [0, 1], 1 becomes white, otherwise 255.

    Raises:
        UserError: integers outside [0, 65535], or floats outside [0, 255] or not finite.
    """
    if image.mode not in ("I", "F") and not (image.mode.startswith("I;16") and image.mode != "I;16"):
        return image
    values = np.asarray(image)
    if values.dtype.kind == "f":
        values = values * (255.0 if values.min() >= 0 and values.max() <= 1 else 1.0)
    if not (values.min() >= 0 and values.max() <= (255 if values.dtype.kind == "f" else 65535)):  # False for NaN
        raise UserError(f"the image's values run from {values.min():g} to {values.max():g}: save it with 8 or 16 bits")
    if image.mode.startswith("I;16") or values.max() > 255:
        return Image.fromarray(values.astype(np.uint16))
    return Image.fromarray(values.round().astype(np.uint8))


def to_model_mode(image: Image.Image, channels: int, under: str = "white") -> Image.Image:
    """The image as "L" (`channels` = 1) or "RGB" (3). 16 bits are scaled to 8.

    Args:
        under: colour of the background that transparent pixels are composited over.
    """
    image = usual_mode(image)
    if image.mode == "I;16":
        image = _with_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, under), image)
    return image.convert("L" if channels == 1 else "RGB")


def writable_mode(image: Image.Image) -> Image.Image:
    """The image itself if its mode is "L", "LA", "RGB", "RGBA" or "I;16", else converted to one of these modes.

    Black and white ("1") becomes grey, all other modes become RGB. An image with a transparent colour gets an alpha
    channel; "I;16" then becomes "LA", because there is no mode with 16 bits and alpha.
    """
    image = usual_mode(image)
    if image.mode in ("LA", "RGBA") or (image.mode in ("L", "RGB", "I;16") and "transparency" not in image.info):
        return image
    if image.mode == "I;16":
        return _with_8_bits(image)
    if image.has_transparency_data:
        return image.convert("LA" if image.mode in ("L", "1") else "RGBA")
    return to_model_mode(image, 1 if image.mode == "1" else 3)


def _with_8_bits(image: Image.Image) -> Image.Image:
    """The "L" image of an "I;16" one, or "LA" where one of its values is transparent."""
    values = np.asarray(image)
    grey = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if "transparency" not in image.info:
        return grey
    alpha = (values != image.info["transparency"]).astype(np.uint8) * 255
    return Image.merge("LA", (grey, Image.fromarray(alpha)))


def flatten_alpha(image: Image.Image) -> Image.Image:
    """The image without its alpha channel, as "L", "RGB" or "I;16". Fully transparent pixels become white.

    A translucent pixel keeps its own colour and is not mixed with a background: the caller keeps the alpha channel, so
    the colour will be mixed when the result is shown.
    """
    image = writable_mode(image)
    if image.mode not in ("LA", "RGBA"):
        return image
    visible = image.getchannel("A").point(lambda alpha: 255 if alpha else 0)
    mode = image.mode.removesuffix("A")
    opaque = Image.merge(mode, image.split()[:-1])
    return Image.composite(opaque, Image.new(mode, image.size, "white"), visible)
