import pytest
import torch

from common.errors import UserError
from diffusion.subcodes import merge_codes, merge_masked_codes, split_codes, split_masked_codes, subcode_vocab_size


def test_masked_codes_are_masked_in_every_part_and_come_back():
    codes = torch.tensor([[[0, 5], [15, 16]]])
    subcodes = split_masked_codes(codes, 2, 4)
    assert subcodes.tolist() == [[[[0, 0], [1, 1]], [[3, 3], [4, 4]]]]
    assert torch.equal(merge_masked_codes(subcodes, 2, 4), codes)


def test_one_masked_part_masks_the_code():
    subcodes = torch.tensor([[0, 0], [1, 4]])
    assert merge_masked_codes(subcodes, 2, 4).tolist() == [0, 16]


@pytest.mark.parametrize(("size", "groups"), [(16, 1), (16, 2), (64, 3), (2**18, 2)])
def test_splitting_and_merging_are_inverse(size, groups):
    vocab_size = subcode_vocab_size(size, groups)
    codes = torch.randint(size, (3, 4, 4), generator=torch.Generator().manual_seed(0))
    subcodes = split_codes(codes, groups, vocab_size)
    assert int(subcodes.max()) < vocab_size
    assert torch.equal(merge_codes(subcodes, groups, vocab_size), codes)


@pytest.mark.parametrize(
    ("size", "groups", "fitting"), [(10, 2, "1"), (16, 3, "1 or 2 or 4"), (128, 2, "1 or 7"), (1000, 2, "1 or 3")]
)
def test_codebooks_that_do_not_split_are_refused(size, groups, fitting):
    with pytest.raises(UserError, match=f"set prior.groups={fitting}$"):
        subcode_vocab_size(size, groups)
