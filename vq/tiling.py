"""Pictures larger than memory allows: encoded and decoded tile by tile, each tile seeing a margin of its neighbours.

What a tile computes differs from the whole picture's only by what lies beyond the margin and by group normalisation, whose
mean and variance are then the tile's own; decoded tiles are therefore blended over their overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from common.errors import UserError

Span = tuple[int, int]


def spans(length: int, tile: int, overlap: int) -> Iterator[tuple[Span, Span]]:
    """Cut [0, length) into parts of at most `tile`: pairs of a part and what is computed for it, `overlap` wider on each side."""
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        yield (start, stop), (max(0, start - overlap), min(length, stop + overlap))


def _in_codes(downsample: int, tile: int, overlap: int) -> tuple[int, int]:
    if tile < downsample or overlap < 0:
        raise UserError(
            f"a tile of {tile} pixels with overlap {overlap} does not fit: at least {downsample} and 0, please"
        )
    return tile // downsample, -(-overlap // downsample)


def encode_tiles(
    encode: Callable[[Tensor], Tensor], images: Tensor, downsample: int, tile: int, overlap: int
) -> Tensor:
    """Codes `(B, h, w)` of images `(B, C, H, W)`, whose sides f divides; every code comes from the tile it lies in.

    Args:
        encode: images `(B, C, H', W')` to codes.
        tile, overlap: pixels, rounded to whole codes. Raises UserError where they are too small.
    """
    step, margin = _in_codes(downsample, tile, overlap)
    height, width = images.shape[-2] // downsample, images.shape[-1] // downsample
    codes = torch.empty((len(images), height, width), dtype=torch.int64, device=images.device)
    for (top, bottom), (y0, y1) in spans(height, step, margin):
        for (left, right), (x0, x1) in spans(width, step, margin):
            part = encode(images[..., y0 * downsample : y1 * downsample, x0 * downsample : x1 * downsample])
            codes[:, top:bottom, left:right] = part[:, top - y0 : bottom - y0, left - x0 : right - x0]
    return codes


def decode_tiles(decode: Callable[[Tensor], Tensor], codes: Tensor, downsample: int, tile: int, overlap: int) -> Tensor:
    """Images `(B, C, h f, w f)` of codes `(B, h, w)`; where tiles overlap they are blended, linearly from one to the other.

    Raises UserError for tiles that are too small.
    """
    step, margin = _in_codes(downsample, tile, overlap)
    height, width = codes.shape[1] * downsample, codes.shape[2] * downsample
    total: Tensor | None = None
    weights = torch.zeros((height, width), device=codes.device)
    for rows, (y0, y1) in spans(codes.shape[1], step, margin):
        for columns, (x0, x1) in spans(codes.shape[2], step, margin):
            part = decode(codes[:, y0:y1, x0:x1])
            if total is None:
                total = part.new_zeros((*part.shape[:2], height, width))
            down = _ramp((y0, y1), rows, downsample).to(codes.device)
            across = _ramp((x0, x1), columns, downsample).to(codes.device)
            weight = torch.outer(down, across)
            where = (slice(y0 * downsample, y1 * downsample), slice(x0 * downsample, x1 * downsample))
            total[..., where[0], where[1]] += weight * part
            weights[where] += weight
    assert total is not None
    return total / weights


def _ramp(computed: Span, part: Span, downsample: int) -> Tensor:
    """Weight of every pixel of a computed span: 1 inside, falling over an overlap as the neighbour's rises.

    The ramp is as wide as the overlap on both sides of the part's border, and leaves out the outermost half of the margin,
    which has seen too little of what lies beyond.
    """
    x = torch.arange(computed[0] * downsample, computed[1] * downsample) + 0.5
    weight = torch.ones(len(x))
    before, after = (part[0] - computed[0]) * downsample, (computed[1] - part[1]) * downsample
    if before:
        weight = torch.minimum(weight, ((x - part[0] * downsample) / before + 0.5).clamp(0, 1))
    if after:
        weight = torch.minimum(weight, ((part[1] * downsample - x) / after + 0.5).clamp(0, 1))
    return weight
