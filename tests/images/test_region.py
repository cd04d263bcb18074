import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from images.region import Region, crop_region, extend_canvas, paste_region, region_around, whole_region
from tests.images.masks import mask_of

WINDOW = Region((0, 0, 32, 32), (32, 32))


def test_a_small_mask_gets_a_window_of_the_models_size_at_the_resolution_of_the_image():
    region = region_around(mask_of((300, 500), (210, 100, 230, 130)), 64, 8)
    assert region.size == (64, 64)
    assert not region.scaled
    left, top, right, bottom = region.box
    assert (right - left, bottom - top) == (64, 64)
    assert left <= 202 and right >= 238 and top <= 92 and bottom >= 138, "less than one code around the mask"


def test_a_window_at_a_corner_stays_inside_the_image():
    assert region_around(mask_of((300, 500), (490, 0, 500, 5)), 64, 8).box == (436, 0, 500, 64)


def test_a_large_mask_gets_a_larger_region_of_whole_codes():
    region = region_around(mask_of((300, 500), (100, 40, 260, 60)), 64, 8)
    assert region.size == (64, 192)
    assert region.box[2] - region.box[0] == 192
    assert not region.scaled
    whole = region_around(mask_of((301, 500), (0, 0, 500, 301)), 64, 8)
    assert whole.size == (304, 504)
    assert whole.box[0] <= 0
    assert whole.box[3] >= 301


@pytest.mark.parametrize("shape", [(28, 28), (20, 90), (8, 8)])
def test_an_image_smaller_than_the_model_is_scaled(shape):
    region = region_around(mask_of(shape, (2, 2, 6, 6)), 64, 8)
    assert region.size == (64, 64)
    assert region.scaled
    assert region.box[3] - region.box[1] == min(shape)


@pytest.mark.parametrize(
    ("shape", "box", "size", "expected"),
    [
        ((300, 500), (100, 40, 260, 60), (64, 64), (30, 0, 330, 300)),
        ((300, 900), (0, 0, 900, 60), (64, 192), (0, 0, 900, 300)),
    ],
)
def test_fit_scales_the_shorter_side_to_the_models_size(shape, box, size, expected):
    region = region_around(mask_of(shape, box), 64, 8, fit=True)
    assert (region.size, region.box) == (size, expected)


def test_scaling_cuts_nothing_off_a_mask_that_covers_a_side():
    for height in range(33, 600, 7):
        for width in (height, height + 3, 2 * height + 1):
            mask = np.ones((height, width), dtype=bool)
            left, top, right, bottom = region_around(mask, 32, 4, fit=True).box
            assert left <= 0 and top <= 0 and right >= width and bottom >= height, (height, width)


@pytest.mark.parametrize(
    ("width", "height", "size", "downsample", "expected"),
    [
        (100, 64, 64, 8, Region((0, 0, 104, 64), (64, 104))),
        (56, 28, 32, 4, Region((0, 0, 56, 28), (32, 64))),
    ],
)
def test_the_region_of_a_whole_image(width, height, size, downsample, expected):
    assert whole_region(width, height, size, downsample) == expected


def test_a_region_in_pixels_of_the_image_and_of_the_model():
    region = Region((-10, 20, 30, 60), (80, 80))  # scaled by 2
    assert region.scaled
    assert region.inside(25, 50) == (0, 20, 25, 50)
    assert region.placed(25, 50) == (20, 0, 70, 60)
    tiny = Region((0, 0, 1000, 1000), (8, 8))
    assert tiny.placed(1, 1) == (0, 0, 1, 1), "at least one pixel"


@pytest.mark.parametrize(("width", "height"), [(90, 70), (64, 64), (40, 100), (30, 30), (20, 200)])
@pytest.mark.parametrize("fit", [False, True])
def test_a_cropped_region_pasted_back_unchanged_gives_the_image(width, height, fit):
    rng = np.random.default_rng(width)
    smooth = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    smooth = smooth.resize((width, height), Image.Resampling.BICUBIC)
    mask = mask_of((height, width), (1, 1, min(6, width), 20))
    region = region_around(mask, 64, 8, fit)
    window, hidden = crop_region(smooth, None, region, 3)
    assert window.shape == (1, 3, *region.size)
    assert hidden.shape == (1, *region.size)
    assert not hidden.any()
    pixels = ((window[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    pasted = np.asarray(paste_region(smooth, mask, Image.fromarray(pixels), region)).astype(int)
    before = np.asarray(smooth).astype(int)
    assert np.array_equal(pasted[~mask], before[~mask])
    assert np.abs(pasted - before).max() <= (25 if region.scaled else 0)


@pytest.mark.parametrize("fit", [False, True])
def test_hidden_pixels_have_no_influence_on_the_window(fit):
    rng = np.random.default_rng(0)
    mask = mask_of((50, 60), (10, 10, 31, 30))
    first = rng.integers(0, 256, (50, 60, 3), np.uint8)
    second = np.where(mask[..., None], rng.integers(0, 256, first.shape, np.uint8), first)
    region = region_around(mask, 32, 4, fit)
    (a, hidden), (b, _) = (crop_region(Image.fromarray(x), mask, region, 3) for x in (first, second))
    assert torch.equal(a, b)
    assert hidden.any()


@pytest.mark.parametrize("beyond", [False, True])
def test_outside_the_image_its_edge_is_repeated_and_hidden_if_asked(beyond):
    image = Image.fromarray(np.array([[0, 255]], np.uint8))
    window, hidden = crop_region(image, None, Region((-1, 0, 3, 2), (2, 4)), 1, beyond)
    assert window[0, 0].tolist() == [[-1, -1, 1, 1]] * 2
    assert hidden[0].tolist() == [[beyond, False, False, beyond], [beyond] * 4]


@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_pasting_keeps_the_mode_and_gives_alpha_up_only_if_asked(mode, opaque):
    rng = np.random.default_rng(3)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (40, 40), np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (40, 40, 4), np.uint8), "RGBA").convert(mode)
    mask = mask_of((40, 40), (5, 6, 20, 30))
    painted = Image.new("RGB", (32, 32), (10, 200, 30))
    grey = painted.convert("L").getpixel((0, 0))
    result = paste_region(image, mask, painted, WINDOW, opaque=opaque)
    before, after = np.asarray(image), np.asarray(result)
    assert (result.mode, result.size) == (mode, image.size)
    assert np.array_equal(after[~mask], before[~mask])
    colour = {"L": grey, "LA": [grey], "RGB": [10, 200, 30], "RGBA": [10, 200, 30], "I;16": 257 * grey}[mode]
    if mode.endswith("A"):
        assert (after[mask][:, :-1] == colour).all()
        assert (after[mask][:, -1] == 255).all() if opaque else np.array_equal(after[..., -1], before[..., -1])
    else:
        assert (after[mask] == colour).all()


def test_feather_blends_the_pasted_pixels():
    image, painted = Image.new("L", (40, 40), 100), Image.new("L", (32, 32), 160)
    mask = mask_of((40, 40), (0, 0, 20, 30))
    hard, soft = (np.asarray(paste_region(image, mask, painted, WINDOW, feather)) for feather in (0, 6))
    assert (hard[mask] == 160).all()
    assert abs(int(soft[10, 19]) - 100) <= 1
    assert soft[10, 5] == 160
    assert (soft[~mask] == 100).all()


def test_16_bit_grey_is_scaled_by_its_range_and_not_by_its_values():
    dark = np.full((40, 40), 200, np.uint16)
    mask = mask_of((40, 40), (10, 10, 20, 20))
    bright = np.where(mask, 60000, dark).astype(np.uint16)
    region = region_around(mask, 32, 4)
    results = []
    for pixels in (dark, bright):
        window, _ = crop_region(Image.fromarray(pixels), mask, region, 1)
        assert float(window.min()) == pytest.approx(200 / 257 // 1 / 127.5 - 1, abs=0.01)
        results.append(np.asarray(paste_region(Image.fromarray(pixels), mask, Image.new("L", (32, 32), 9), region)))
    assert np.array_equal(*results)
    assert (results[0][mask] == 9 * 257).all()
    assert (results[0][~mask] == 200).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_transparent_colour_stays_transparent(mode, tmp_path):
    image = Image.new("RGB", (20, 20), (10, 20, 30))
    image.paste((200, 0, 0), (0, 0, 5, 5))
    image = image.convert(mode)
    image.save(tmp_path / "in.png", transparency=image.getpixel((0, 0)))
    result = paste_region(
        Image.open(tmp_path / "in.png"), mask_of((20, 20), (10, 10, 15, 15)), Image.new("RGB", (32, 32)), WINDOW
    )
    alpha = np.asarray(result.getchannel("A"))
    assert (alpha[:5, :5] == 0).all()
    assert (alpha == 0).sum() == 25


@pytest.mark.parametrize(("mode", "kept"), [("RGB", True), ("CMYK", False)])
def test_a_colour_profile_is_kept_unless_the_mode_changes(mode, kept):
    image = Image.new(mode, (20, 20))
    image.info["icc_profile"] = b"profile"
    result = paste_region(image, mask_of((20, 20), (1, 1, 3, 3)), Image.new("RGB", (32, 32)), WINDOW)
    assert result.info.get("icc_profile") == (b"profile" if kept else None)


def test_an_extended_canvas_repeats_the_edge_of_the_image():
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    canvas, mask = extend_canvas(Image.fromarray(pixels), 1, 0, 2, 1)
    assert np.asarray(canvas).tolist() == [[0, 0, 1, 2, 2, 2], [3, 3, 4, 5, 5, 5], [3, 3, 4, 5, 5, 5]]
    assert np.array_equal(np.asarray(canvas)[~mask], pixels.flatten())
    assert mask.sum() == 12


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((0, 0, 0, 0), "at least one pixel"),
        ((-1, 0, 4, 0), "at least one pixel"),
        ((0, 0, 2_000_000_000, 0), "million pixels"),
    ],
)
def test_canvases_that_cannot_be_made_are_refused(sides, message):
    with pytest.raises(UserError, match=message):
        extend_canvas(Image.new("RGB", (32, 32)), *sides)
