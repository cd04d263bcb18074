import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from tests.vq.test_tokenizer import make
from vq.tiling import count_tiles, decode_tiles, encode_tiles, spans


@pytest.mark.parametrize(("length", "tile", "overlap"), [(10, 4, 1), (4, 4, 2), (9, 4, 8), (1, 4, 0)])
def test_spans_cover_each_position_once(length, tile, overlap):
    parts = list(spans(length, tile, overlap))
    assert [i for (start, stop), _ in parts for i in range(start, stop)] == list(range(length))
    for (start, stop), extended in parts:
        assert extended == (max(0, start - overlap), min(length, stop + overlap))


def local_tokenizer():
    """A tokenizer without group norm: each result then depends only on the pixels around it."""
    tokenizer = make()
    for module in tokenizer.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return tokenizer


@pytest.mark.parametrize("size", [(96, 96), (70, 130)])
def test_without_group_norm_and_with_enough_overlap_tiles_give_the_whole_image(size, in_float64):
    tokenizer = local_tokenizer()
    images = torch.rand(1, 1, *size) * 2 - 1
    whole = tokenizer.encode(images)
    assert torch.equal(tokenizer.encode(images, tile=32, overlap=48), whole)
    torch.testing.assert_close(tokenizer.decode(whole, size, tile=32, overlap=96), tokenizer.decode(whole, size))
    assert tokenizer.reconstruct(images, tile=32, overlap=16).shape == images.shape
    assert not torch.equal(tokenizer.encode(images, tile=32, overlap=0), whole), "no overlap must make a difference"


def test_tiles_of_a_local_decoder_are_exact():
    codes = torch.randint(0, 9, (2, 7, 11))

    def enlarge(codes):
        return F.interpolate(codes[:, None].float(), scale_factor=4)

    torch.testing.assert_close(decode_tiles(enlarge, codes, 4, tile=12, overlap=8), enlarge(codes))


@pytest.mark.parametrize(("overlap", "steepest"), [(0, 1.0), (8, 1 / 8)])
def test_tiles_that_disagree_are_blended_with_a_ramp_as_wide_as_the_overlap(overlap, steepest):
    calls = []

    def disagree(codes):  # the first tile is 1, the second 2
        calls.append(codes)
        return torch.full((1, 1, codes.shape[1] * 4, codes.shape[2] * 4), float(len(calls)))

    row = decode_tiles(disagree, torch.zeros(1, 4, 8, dtype=torch.int64), 4, tile=16, overlap=overlap)[0, 0, 0]
    assert (row[0], row[-1]) == (1, 2)
    assert row.diff().max().item() == pytest.approx(steepest, abs=1e-6)


def test_tiles_limit_the_size_that_is_computed_at_once():
    sizes = []

    def encode(images):
        sizes.append(images.shape[-2:])
        return images[:, 0, ::4, ::4].long()

    images = torch.arange(64 * 80.0).view(1, 1, 64, 80)
    assert torch.equal(encode_tiles(encode, images, 4, tile=16, overlap=8), images[:, 0, ::4, ::4].long())
    assert max(max(size) for size in sizes) <= 32
    assert len(sizes) == 20


def test_a_tile_smaller_than_a_code_and_a_negative_overlap_are_refused():
    with pytest.raises(UserError, match=r"tile of 2 pixels.*at least 4"):
        make().encode(torch.rand(1, 1, 16, 16), tile=2)
    with pytest.raises(UserError, match="overlap -1"):
        make().decode(torch.zeros(1, 4, 4, dtype=torch.int64), tile=16, overlap=-1)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 64), (40, 400), (5, 17)])
def test_every_tile_is_reported(height, width):
    done = []
    codes = torch.zeros(1, -(-height // 4), -(-width // 4), dtype=torch.int64)
    enlarge = torch.nn.Upsample(scale_factor=4)
    images = decode_tiles(lambda part: enlarge(part[:, None].float()), codes, 4, 19, 8, lambda: done.append(None))
    encode_tiles(lambda part: part[:, 0, ::4, ::4].long(), images, 4, 19, 8, lambda: done.append(None))
    assert len(done) == 2 * count_tiles(height, width, 4, 19)
