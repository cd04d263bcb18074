"""Where repainting works, what it hides, what it sets back."""

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from diffusion.editing import mask_to_codes
from images.feather import blend_edge
from images.mask import blank_hidden, image_mask
from images.modes import flatten_alpha, usual_mode
from images.region import Region, crop_region, extend_canvas, paste_region, region_around, whole_region


def mask_of(shape, *boxes):
    mask = np.zeros(shape, dtype=bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return mask


def test_every_code_a_hidden_pixel_lies_in_is_hidden_and_the_margin_around():
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[0, 11, 12] = True  # code (2, 3)
    assert mask_to_codes(mask, 4, 0).nonzero().tolist() == [[0, 2, 3]]
    assert mask_to_codes(mask, 4, 1).nonzero().tolist() == [[0, y, x] for y in (1, 2, 3) for x in (2, 3, 4)]
    assert int(mask_to_codes(mask, 4, 2).sum()) == 25


def test_a_small_mask_is_worked_on_in_a_window_of_the_models_size_at_the_pictures_resolution():
    region = region_around(mask_of((300, 500), (210, 100, 230, 130)), 64, 8)
    assert region.size == (64, 64) and not region.scaled
    left, top, right, bottom = region.box
    assert (right - left, bottom - top) == (64, 64) and left <= 202 and right >= 238 and top <= 92 and bottom >= 138
    corner = region_around(mask_of((300, 500), (490, 0, 500, 5)), 64, 8)
    assert corner.box == (436, 0, 500, 64)  # pushed back into the picture


def test_a_mask_too_large_for_the_window_gets_a_larger_region_in_whole_codes():
    region = region_around(mask_of((300, 500), (100, 40, 260, 60)), 64, 8)
    assert region.size == (64, 192) and region.box[2] - region.box[0] == 192 and not region.scaled
    whole = region_around(mask_of((301, 500), (0, 0, 500, 301)), 64, 8)
    assert whole.size == (304, 504) and whole.box[0] <= 0 and whole.box[3] >= 301


@pytest.mark.parametrize("shape", [(28, 28), (20, 90), (8, 8)])
def test_a_picture_narrower_than_the_model_and_fit_are_scaled(shape):
    region = region_around(mask_of(shape, (2, 2, 6, 6)), 64, 8)
    assert region.size == (64, 64) and region.scaled and region.box[3] - region.box[1] == min(shape)
    fitted = region_around(mask_of((300, 500), (100, 40, 260, 60)), 64, 8, fit=True)
    assert fitted.size == (64, 64) and fitted.box == (30, 0, 330, 300)
    long = region_around(mask_of((300, 900), (0, 0, 900, 60)), 64, 8, fit=True)
    assert long.size == (64, 192) and long.box == (0, 0, 900, 300)


def test_whole_pictures():
    assert whole_region(100, 64, 64, 8) == Region((0, 0, 104, 64), (64, 104))
    assert whole_region(56, 28, 32, 4).size == (32, 64)


@pytest.mark.parametrize(("width", "height"), [(90, 70), (64, 64), (40, 100), (30, 30), (20, 200)])
@pytest.mark.parametrize("fit", [False, True])
def test_what_is_cut_out_and_set_back_unpainted_is_the_picture_again(width, height, fit):
    rng = np.random.default_rng(width)
    smooth = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    mask = mask_of((height, width), (1, 1, min(6, width), 20))
    region = region_around(mask, 64, 8, fit)
    window, hidden = crop_region(smooth, None, region, 3)
    assert window.shape == (1, 3, *region.size) and hidden.shape == (1, *region.size) and not hidden.any()
    pixels = ((window[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    again = np.asarray(paste_region(smooth, mask, Image.fromarray(pixels), region)).astype(int)
    before = np.asarray(smooth).astype(int)
    assert np.array_equal(again[~mask], before[~mask])
    assert np.abs(again - before).max() <= (25 if region.scaled else 0)


def test_hidden_pixels_are_gone_before_anything_is_scaled():
    rng = np.random.default_rng(0)
    mask = mask_of((50, 60), (10, 10, 31, 30))
    first = rng.integers(0, 256, (50, 60, 3), np.uint8)
    second = np.where(mask[..., None], rng.integers(0, 256, first.shape, np.uint8), first)
    for fit in (False, True):
        region = region_around(mask, 32, 4, fit)
        (a, hidden), (b, _) = (crop_region(Image.fromarray(x), mask, region, 3) for x in (first, second))
        assert torch.equal(a, b) and hidden.any()


def test_blanking_takes_the_mean_of_what_is_kept():
    images = torch.tensor([[[[1.0, 0.0], [0.5, 0.9]]]])
    hidden = torch.tensor([[[False, False], [False, True]]])
    assert blank_hidden(images, hidden)[0, 0].tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert float(blank_hidden(images, torch.ones_like(hidden)).abs().max()) == 0


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_modes_are_kept_and_alpha_only_given_up_where_transparency_was_the_mask(mode):
    rng = np.random.default_rng(3)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (40, 40), np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (40, 40, 4), np.uint8), "RGBA").convert(mode)
    mask = mask_of((40, 40), (5, 6, 20, 30))
    painted = Image.new("RGB", (32, 32), (10, 200, 30))
    region = Region((0, 0, 32, 32), (32, 32))
    for opaque in (False, True):
        result = paste_region(image, mask, painted, region, opaque=opaque)
        before, after = np.asarray(image), np.asarray(result)
        assert result.mode == mode and result.size == image.size and np.array_equal(after[~mask], before[~mask])
        grey = np.asarray(painted.convert("L"))[0, 0]
        if mode == "I;16":
            assert (after[mask] == 257 * int(grey)).all()
        elif mode.endswith("A"):
            assert (after[mask][:, -1] == 255).all() if opaque else np.array_equal(after[..., -1], before[..., -1])
            assert (after[mask][:, 0] == (grey if mode == "LA" else 10)).all()
        else:
            assert (after[mask] == (grey if mode == "L" else [10, 200, 30])).all()


def test_a_feathered_edge_meets_the_kept_colours_and_reads_nothing_hidden():
    hidden = mask_of((20, 40), (10, 0, 40, 20))
    kept = np.full((20, 40), 100, np.uint8)
    drawn = np.full((20, 40), 160, np.uint8)
    result = blend_edge(drawn, kept, hidden, 8)
    assert abs(int(result[10, 10]) - 100) <= 1 and (result[:, 18:] == 160).all()  # met at the seam, untouched inside
    assert (np.diff(result[10, 10:19].astype(int)) >= 0).all()
    other = np.where(hidden, 7, kept).astype(np.uint8)
    assert np.array_equal(blend_edge(drawn, other, hidden, 8), result)
    assert np.array_equal(blend_edge(drawn, kept, np.ones_like(hidden), 8), drawn)


def test_masks_come_from_white_boxes_or_transparency():
    image = Image.new("RGBA", (20, 10), (1, 2, 3, 255))
    image.paste((0, 0, 0, 0), (15, 5, 20, 10))
    white = Image.new("L", (20, 10))
    white.paste(255, (0, 0, 2, 2))
    assert image_mask(image, white).sum() == 4
    assert image_mask(image, white, [(4, 4, 6, 6), (5, 5, 7, 7)]).sum() == 4 + 7
    assert image_mask(image).sum() == 25 and image_mask(image)[9, 19]
    for wrong, said in [
        (lambda: image_mask(image, Image.new("L", (10, 20))), "10 x 20"),
        (lambda: image_mask(image, Image.new("L", (20, 10))), "no white"),
        (lambda: image_mask(image, None, [(4, 4, 25, 6)]), "does not lie in"),
        (lambda: image_mask(image, None, [(6, 4, 6, 6)]), "does not lie in"),
        (lambda: image_mask(image.convert("RGB")), "give a mask or a box"),
        (lambda: image_mask(Image.new("RGBA", (4, 4), "red")), "no pixel"),
    ]:
        with pytest.raises(UserError, match=said):
            wrong()


def test_a_canvas_is_the_picture_with_its_edge_going_on():
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    canvas, mask = extend_canvas(Image.fromarray(pixels), 1, 0, 2, 1)
    assert np.asarray(canvas).tolist() == [[0, 0, 1, 2, 2, 2], [3, 3, 4, 5, 5, 5], [3, 3, 4, 5, 5, 5]]
    assert np.array_equal(np.asarray(canvas)[~mask], pixels.flatten()) and mask.sum() == 12
    for wrong in ((0, 0, 0, 0), (-1, 0, 4, 0)):
        with pytest.raises(UserError, match="at least one pixel"):
            extend_canvas(Image.fromarray(pixels), *wrong)


def test_scaling_cuts_nothing_off_a_mask_that_spans_a_side():
    for height in range(33, 600, 7):
        for width in (height, height + 3, 2 * height + 1):
            mask = np.ones((height, width), dtype=bool)
            left, top, right, bottom = region_around(mask, 32, 4, fit=True).box
            assert left <= 0 and top <= 0 and right >= width and bottom >= height, (height, width)


def test_sixteen_bit_grey_is_taken_at_its_range_whatever_lies_under_the_mask():
    dark = np.full((40, 40), 200, np.uint16)
    mask = mask_of((40, 40), (10, 10, 20, 20))
    bright = np.where(mask, 60000, dark).astype(np.uint16)
    region = region_around(mask, 32, 4)
    results = []
    for pixels in (dark, bright):
        window, _ = crop_region(Image.fromarray(pixels), mask, region, 1)
        assert float(window.min()) == pytest.approx(200 / 257 // 1 / 127.5 - 1, abs=0.01)
        results.append(np.asarray(paste_region(Image.fromarray(pixels), mask, Image.new("L", (32, 32), 9), region)))
    assert np.array_equal(*results) and (results[0][mask] == 9 * 257).all() and (results[0][~mask] == 200).all()


def test_other_greys_become_8_or_16_bits_or_are_refused():
    assert usual_mode(Image.fromarray(np.array([[0, 70_00]], np.int32))).mode == "I;16"
    assert np.asarray(usual_mode(Image.fromarray(np.array([[0, 200]], np.int32)))).tolist() == [[0, 200]]
    assert np.asarray(usual_mode(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)))).tolist() == [[0, 128, 255]]
    for wrong in (np.array([[-1, 5]], np.int32), np.array([[70_000]], np.int32), np.array([[np.nan]], np.float32)):
        with pytest.raises(UserError, match="8 or 16 bits"):
            usual_mode(Image.fromarray(wrong))


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_transparent_colour_stays_transparent(mode, tmp_path):
    image = Image.new("RGB", (20, 20), (10, 20, 30))
    image.paste((200, 0, 0), (0, 0, 5, 5))
    image = image.convert(mode)
    key = {"L": image.getpixel((0, 0)), "RGB": (200, 0, 0), "P": image.getpixel((0, 0))}[mode]
    image.save(tmp_path / "in.png", transparency=key)
    image = Image.open(tmp_path / "in.png")
    result = paste_region(
        image, mask_of((20, 20), (10, 10, 15, 15)), Image.new("RGB", (32, 32)), Region((0, 0, 32, 32), (32, 32))
    )
    alpha = np.asarray(result.getchannel("A"))
    assert (alpha[:5, :5] == 0).all() and (alpha == 0).sum() == 25
    assert image_mask(image).sum() == 25


def test_colours_are_those_seen_and_translucent_ones_their_own():
    image = Image.new("RGBA", (3, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 64))
    image.putpixel((2, 0), (10, 20, 30, 0))
    assert np.asarray(flatten_alpha(image)).tolist() == [[[10, 20, 30], [10, 20, 30], [255, 255, 255]]]


def test_a_mask_may_be_white_on_a_transparent_layer():
    layer = Image.new("RGBA", (20, 10))
    layer.paste("white", (0, 0, 4, 4))
    assert image_mask(Image.new("RGB", (20, 10)), layer).sum() == 16


def test_a_colour_profile_is_kept():
    image = Image.new("RGB", (20, 20))
    image.info["icc_profile"] = b"profile"
    result = paste_region(
        image, mask_of((20, 20), (1, 1, 3, 3)), Image.new("RGB", (32, 32)), Region((0, 0, 32, 32), (32, 32))
    )
    assert result.info["icc_profile"] == b"profile"


def test_absurd_numbers_are_cut_or_refused_at_once():
    with pytest.raises(UserError, match="million pixels"):
        extend_canvas(Image.new("RGB", (32, 32)), 0, 0, 2_000_000_000, 0)
    hidden = mask_of((20, 40), (10, 0, 40, 20))
    flat = np.full((20, 40), 100, np.uint8)
    assert np.array_equal(blend_edge(flat, flat, hidden, 4_000_000_000), flat)


def test_feathering_in_strips_is_feathering_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    drawn, kept = (rng.integers(0, 256, (90, 70, 3), np.uint8) for _ in range(2))
    hidden = mask_of((90, 70), (20, 5, 60, 80), (2, 40, 30, 50))
    whole = blend_edge(drawn, kept, hidden, 4)
    monkeypatch.setattr("images.feather.STRIP", 10)
    assert np.array_equal(blend_edge(drawn, kept, hidden, 4)[hidden], whole[hidden])
    assert not np.array_equal(whole[hidden], drawn[hidden])
