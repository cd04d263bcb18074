import base64
import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")

from app.data_url import LOSSLESS_SIDE, data_url
from tests.app.files import sample_image


@pytest.mark.parametrize(
    ("side", "mode", "kind"),
    [(LOSSLESS_SIDE, "RGB", "png"), (LOSSLESS_SIDE + 1, "RGB", "jpeg"), (600, "L", "jpeg"), (600, "RGBA", "png")],
)
def test_small_and_transparent_images_are_lossless(side, mode, kind):
    image = sample_image(side, side).convert(mode)
    head, data = data_url(image).split(",")
    assert head == f"data:image/{kind};base64"
    read = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (read.format, read.size, read.mode) == (kind.upper(), image.size, mode)
    if kind == "png":
        assert np.array_equal(read, image)
