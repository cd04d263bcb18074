"""Images as URLs that hold their bytes, so that the page shows them without another request."""

from __future__ import annotations

import base64
import io

from PIL import Image

LOSSLESS_SIDE = 256  # pixels; larger images without transparency are sent as JPEG, which is smaller


def data_url(image: Image.Image) -> str:
    """The URL of an image: a PNG, or a JPEG of high quality where it is large and opaque."""
    lossless = image.mode == "RGBA" or max(image.size) <= LOSSLESS_SIDE
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=92, subsampling=0)
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
