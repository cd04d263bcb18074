"""Sub-codes: a code as G digits in base V, each with a mask state of its own (MDM-Prime, arXiv 2505.18495)."""

from __future__ import annotations

import torch
from torch import Tensor

from common.errors import UserError


def split_codes(codes: Tensor, groups: int, vocab_size: int) -> Tensor:
    """Codes `(...)` in [0, V^G) as G digits `(..., G)` in base V, the lowest first; unchanged for G = 1."""
    if groups == 1:
        return codes
    place = vocab_size ** torch.arange(groups, device=codes.device)
    return codes[..., None] // place % vocab_size


def merge_codes(subcodes: Tensor, groups: int, vocab_size: int) -> Tensor:
    """The inverse of `split_codes`."""
    if groups == 1:
        return subcodes
    return (subcodes * vocab_size ** torch.arange(groups, device=subcodes.device)).sum(-1)


def split_masked_codes(codes: Tensor, groups: int, vocab_size: int) -> Tensor:
    """`split_codes` of codes in [0, V^G], where V^G is a masked code: all its sub-codes become the mask state V."""
    if groups == 1:
        return codes
    size = vocab_size**groups
    subcodes = split_codes(codes.clamp(max=size - 1), groups, vocab_size)
    return torch.where((codes == size)[..., None], vocab_size, subcodes)


def merge_masked_codes(subcodes: Tensor, groups: int, vocab_size: int) -> Tensor:
    """The inverse of `split_masked_codes`; a code with a masked sub-code is masked."""
    if groups == 1:
        return subcodes
    masked = (subcodes == vocab_size).any(-1)
    merged = merge_codes(subcodes.clamp(max=vocab_size - 1), groups, vocab_size)
    return torch.where(masked, vocab_size**groups, merged)


def subcode_vocab_size(codebook_size: int, groups: int) -> int:
    """V with V^G = `codebook_size`. Raises UserError where there is none."""
    base: int = round(float(codebook_size) ** (1 / groups))
    if base < 2 or base**groups != codebook_size:
        fitting = [
            g for g in range(1, codebook_size.bit_length()) if round(codebook_size ** (1 / g)) ** g == codebook_size
        ]
        raise UserError(
            f"{codebook_size} codes cannot be split into {groups} equal parts: "
            f"set prior.groups={' or '.join(map(str, fitting))}"
        )
    return base
