import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from tests.vq.test_tokenizer import make
from vq.tiling import decode_tiles, encode_tiles, spans


def test_spans_cover_everything_once():
    for length, tile, overlap in ((10, 4, 1), (4, 4, 2), (9, 4, 8), (1, 4, 0)):
        parts = list(spans(length, tile, overlap))
        assert [i for (start, stop), _ in parts for i in range(start, stop)] == list(range(length))
        for (start, stop), (low, high) in parts:
            assert low == max(0, start - overlap) and high == min(length, stop + overlap)


def local_tokenizer():
    """A tokenizer whose group norms are left out: what it computes at a place then depends on its surroundings alone."""
    tokenizer = make()
    for module in tokenizer.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return tokenizer


@pytest.mark.parametrize("size", [(96, 96), (70, 130)])
def test_without_group_norm_and_with_enough_overlap_tiles_give_the_whole_picture(size, in_float64):
    tokenizer = local_tokenizer()
    images = torch.rand(1, 1, *size) * 2 - 1
    whole = tokenizer.encode(images)
    assert torch.equal(tokenizer.encode(images, tile=32, overlap=48), whole)
    torch.testing.assert_close(tokenizer.decode(whole, size, tile=32, overlap=96), tokenizer.decode(whole, size))
    assert tokenizer.reconstruct(images, tile=32, overlap=16).shape == images.shape
    assert not torch.equal(tokenizer.encode(images, tile=32, overlap=0), whole)  # else the test shows nothing


def test_a_decoder_that_copies_is_copied_and_blending_is_smooth():
    codes = torch.randint(0, 9, (2, 7, 11))

    def copy(codes):
        return F.interpolate(codes[:, None].float(), scale_factor=4)

    torch.testing.assert_close(decode_tiles(copy, codes, 4, tile=12, overlap=8), copy(codes))
    # Two tiles that disagree by 1: without overlap a step, with it a ramp.
    calls = []

    def disagree(codes):
        calls.append(codes)
        return torch.full((1, 1, codes.shape[1] * 4, codes.shape[2] * 4), float(len(calls)))

    for overlap, steepest in ((0, 1.0), (8, 1 / 8)):
        calls.clear()
        row = decode_tiles(disagree, torch.zeros(1, 4, 8, dtype=torch.int64), 4, tile=16, overlap=overlap)[0, 0, 0]
        assert row[0] == 1 and row[-1] == 2
        assert abs(row.diff().max().item() - steepest) < 1e-6


def test_tiles_bound_what_is_computed_at_once():
    seen = []

    def encode(images):
        seen.append(images.shape[-2:])
        return images[:, 0, ::4, ::4].long()

    images = torch.arange(64 * 80.0).view(1, 1, 64, 80)
    assert torch.equal(encode_tiles(encode, images, 4, tile=16, overlap=8), images[:, 0, ::4, ::4].long())
    assert max(max(shape) for shape in seen) <= 32 and len(seen) == 20


def test_tiles_that_do_not_fit():
    with pytest.raises(UserError, match="tile of 2"):
        make().encode(torch.rand(1, 1, 16, 16), tile=2)
    with pytest.raises(UserError, match="overlap -1"):
        make().decode(torch.zeros(1, 4, 4, dtype=torch.int64), tile=16, overlap=-1)
