import base64
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")

from app.data_url import data_url
from app.uploads import (
    DEFAULT_LIMITS,
    MASK_COLOR,
    PNG_URL,
    Limits,
    canvas_size,
    mask_layer,
    open_image,
    read_canvas,
    read_mask,
    read_upload,
    upload_path,
)
from common.errors import UserError
from tests.app.files import BAD, ODD, box_mask, sample_image, written


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(name, tmp_path):
    data, words = BAD[name]
    path = written(tmp_path, name, data)
    began = time.perf_counter()
    with pytest.raises(UserError, match=words) as caught:
        read_upload(path, DEFAULT_LIMITS)
    assert time.perf_counter() - began < 5
    message = str(caught.value)
    assert message.startswith(name)
    assert str(tmp_path) not in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_shown(name, tmp_path):
    opened = open_image(written(tmp_path, name, ODD[name]), None, DEFAULT_LIMITS)
    assert opened.image.startswith("data:image/")
    assert opened.mask == ""
    assert "alert" not in opened.status


@pytest.mark.parametrize(
    ("size", "fits"),
    [((100, 50), True), ((101, 50), False), ((20, 80), True), ((19, 19), False), ((20, 81), False)],
)
def test_limits_are_inclusive(size, fits, tmp_path):
    limits = Limits(pixels=100 * 50, side=20, ratio=4)
    path = written(tmp_path, "image.png", sample_image(*size))
    if fits:
        assert read_upload(path, limits).size == size
    else:
        with pytest.raises(UserError, match=f"{size[0]} x {size[1]}"):
            read_upload(path, limits)


def test_an_upload_that_was_deleted_meanwhile_is_named(tmp_path):
    with pytest.raises(UserError, match=r"^gone\.png is no longer on the server"):
        read_upload(tmp_path / "gone.png", DEFAULT_LIMITS)


def test_no_file_shows_nothing():
    assert open_image(None, None, DEFAULT_LIMITS) == ("", "", "")


@pytest.mark.parametrize(
    ("mask", "words"), [(Image.new("L", (64, 64)), "no white"), (Image.new("L", (64, 60), 255), "64 x 60")]
)
def test_masks_that_do_not_fit_are_refused(mask, words, tmp_path):
    image_path, mask_path = written(tmp_path, "image.png", sample_image()), written(tmp_path, "mask.png", mask)
    with pytest.raises(UserError, match=words):
        open_image(image_path, mask_path, DEFAULT_LIMITS)
    with pytest.raises(UserError, match="image first"):
        open_image(None, mask_path, DEFAULT_LIMITS)


@pytest.mark.parametrize("file", ["a.png", 7, {}, {"path": None}, [{"path": "a.png"}]])
def test_a_file_that_gradio_does_not_describe_is_refused(file):
    assert upload_path(None) is None
    assert upload_path({"path": "/folder/a.png", "size": 3}) == "/folder/a.png"
    with pytest.raises(UserError, match="upload it again"):
        upload_path(file)


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 48), (64, 48)), ((4096, 1024), (1024, 256)), ((4096, 1), (1024, 1))]
)
def test_the_canvas_is_scaled_down_to_its_limit(size, expected):
    assert canvas_size(size) == expected


@pytest.mark.parametrize("size", [(64, 64), (31, 77), (1024, 40)])
def test_the_canvas_returns_the_painted_pixels(size):
    mask = Image.fromarray((np.random.default_rng(0).random(size[::-1]) < 0.3).astype(np.uint8) * 255)
    result = read_mask(data_url(mask_layer(mask)), None, size, DEFAULT_LIMITS)
    assert np.array_equal(result, mask)


@pytest.mark.parametrize("canvas", ["", None, data_url(Image.new("RGBA", (64, 64)))])
def test_an_empty_canvas_is_no_mask(canvas):
    assert read_canvas(canvas, (64, 64)) is None
    with pytest.raises(UserError, match="nothing is painted"):
        read_mask(canvas, None, (64, 64), DEFAULT_LIMITS)


@pytest.mark.parametrize(
    "sent",
    [
        "x", 7, {"path": "/etc/passwd"}, [PNG_URL], PNG_URL, PNG_URL + "%%%",
        PNG_URL + base64.b64encode(BAD["truncated.png"][0]).decode(),
        PNG_URL + base64.b64encode(BAD["bomb.png"][0]).decode(),
        data_url(Image.new("RGBA", (65, 64), MASK_COLOR)),
    ],
)  # fmt: skip
def test_a_canvas_that_the_page_did_not_send_is_refused(sent):
    with pytest.raises(UserError, match="paint"):
        read_canvas(sent, (64, 64))


def test_an_untouched_mask_file_is_kept_exactly_although_the_canvas_is_coarser(tmp_path):
    size = (2000, 1500)
    mask = Image.fromarray((np.random.default_rng(1).random(size[::-1]) < 0.01).astype(np.uint8) * 255)
    path = written(tmp_path, "mask.png", mask)
    layer = mask_layer(mask)
    assert np.array_equal(read_mask(data_url(layer), path, size, DEFAULT_LIMITS), mask)
    layer.paste(MASK_COLOR, (0, 0, 100, 100))  # paint on top of the file's mask
    corner = np.asarray(box_mask(size, (0, 0, 190, 190))) > 0
    painted = np.asarray(read_mask(data_url(layer), path, size, DEFAULT_LIMITS))
    assert (painted[corner] == 255).all()
