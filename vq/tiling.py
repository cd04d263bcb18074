"""Encoding and decoding of large images tile by tile. Each tile is computed with a margin of its neighbours.

A tile differs from the same part of the whole image for two reasons: it does not see past its margin, and group
normalisation uses the mean and variance of the tile. Decoded tiles are therefore blended where they overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from common.errors import UserError

Span = tuple[int, int]


def spans(length: int, tile: int, overlap: int) -> Iterator[tuple[Span, Span]]:
    """Cut [0, length) into parts of at most `tile`: pairs of a part, and the part extended by `overlap` on each side.

    The extended part ends at 0 and `length`.
    """
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        yield (start, stop), (max(0, start - overlap), min(length, stop + overlap))


def count_tiles(height: int, width: int, downsample: int, tile: int) -> int:
    """The number of tiles of an image of this size in `encode_tiles`, and in `decode_tiles`. Raises UserError likewise."""
    step, _ = _in_codes(downsample, tile, 0)
    return -(-height // (step * downsample)) * -(-width // (step * downsample))


def encode_tiles(
    encode: Callable[[Tensor], Tensor],
    images: Tensor,
    downsample: int,
    tile: int,
    overlap: int,
    on_tile: Callable[[], object] | None = None,
) -> Tensor:
    """Codes `(B, H / f, W / f)` int64 of images `(B, C, H, W)`. Each code comes from the tile that contains it.

    Args:
        encode: images `(B, C, H', W')` to codes `(B, H' / f, W' / f)`.
        downsample: f; H and W are multiples of it.
        tile: side of a tile in pixels, rounded down to a multiple of f.
        overlap: margin of a tile in pixels, rounded up to a multiple of f.
        on_tile: called after each tile.

    Raises:
        UserError: `tile` is smaller than f, or `overlap` is negative.
    """
    step, margin = _in_codes(downsample, tile, overlap)
    height, width = images.shape[-2] // downsample, images.shape[-1] // downsample
    codes = torch.empty((len(images), height, width), dtype=torch.int64, device=images.device)
    for (top, bottom), (y0, y1) in spans(height, step, margin):
        for (left, right), (x0, x1) in spans(width, step, margin):
            part = encode(images[..., y0 * downsample : y1 * downsample, x0 * downsample : x1 * downsample])
            codes[:, top:bottom, left:right] = part[:, top - y0 : bottom - y0, left - x0 : right - x0]
            if on_tile is not None:
                on_tile()
    return codes


def decode_tiles(
    decode: Callable[[Tensor], Tensor],
    codes: Tensor,
    downsample: int,
    tile: int,
    overlap: int,
    on_tile: Callable[[], object] | None = None,
) -> Tensor:
    """Images `(B, C, h f, w f)` of codes `(B, h, w)`. Overlapping tiles are blended linearly.

    Args:
        decode: codes `(B, h', w')` to images `(B, C, h' f, w' f)`.
        downsample: f.
        tile, overlap, on_tile: as in `encode_tiles`.

    Raises:
        UserError: `tile` is smaller than f, or `overlap` is negative.
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
            down = _blend_weights((y0, y1), rows, downsample).to(codes.device)
            across = _blend_weights((x0, x1), columns, downsample).to(codes.device)
            weight = torch.outer(down, across)
            where = (slice(y0 * downsample, y1 * downsample), slice(x0 * downsample, x1 * downsample))
            total[..., where[0], where[1]] += weight * part
            weights[where] += weight
            if on_tile is not None:
                on_tile()
    assert total is not None
    return total / weights


def _in_codes(downsample: int, tile: int, overlap: int) -> tuple[int, int]:
    """The side of a tile and its margin in codes."""
    if tile < downsample or overlap < 0:
        raise UserError(
            f"a tile of {tile} pixels with overlap {overlap} does not fit: give a tile of at least {downsample} and an "
            "overlap of at least 0"
        )
    return tile // downsample, -(-overlap // downsample)


def _blend_weights(extended: Span, part: Span, downsample: int) -> Tensor:
    """Weight in [0, 1] of each pixel along one side of a tile.

    The weight is 1 inside. At a border between two tiles it is a linear ramp, as wide as the overlap and centred on the
    border, while the neighbour's weight is the opposite ramp. The outer half of the margin has weight 0: it is computed
    without the pixels outside the tile.
    """
    x = torch.arange(extended[0] * downsample, extended[1] * downsample) + 0.5
    weight = torch.ones(len(x))
    before, after = (part[0] - extended[0]) * downsample, (extended[1] - part[1]) * downsample
    if before:
        weight = torch.minimum(weight, ((x - part[0] * downsample) / before + 0.5).clamp(0, 1))
    if after:
        weight = torch.minimum(weight, ((part[1] * downsample - x) / after + 0.5).clamp(0, 1))
    return weight
