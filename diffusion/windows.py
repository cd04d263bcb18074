"""Grids larger than a prior was trained on: overlapping windows of the trained grid, their predictions averaged.

Shape legend: B samples, H x W cells of the large grid, h x w of a window, G codes a cell (no such axis for one), V codes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# (codes (B, h, w[, G]), sigma (B,), labels (B,)) -> logits (B, h, w[, G], V)
Model = Callable[[Tensor, Tensor, Tensor], Tensor]
ROWS = 64  # windows in one network call


def window_starts(length: int, window: int) -> list[int]:
    """Where windows of `window` cells begin, half a window apart, the last one flush with the end."""
    if length <= window:
        return [0]
    return [*range(0, length - window, max(1, window // 2)), length - window]


class SlidingWindows:
    """A prior on a grid larger than its own, cell by cell the weighted geometric mean of the predictions of overlapping windows.

    The network predicts every window of the trained grid as an image of its own. log p(x0) of a cell is the weighted mean
    over the windows that contain it; cells far from a window's edge weigh more. For scores this is the average of
    MultiDiffusion (arXiv 2302.08113, equation 5). It is called like a network, so every sampler runs on it.

    Args:
        model: the prior.
        window: (h, w), the trained grid.
        mask_state: if given, windows without a masked code are skipped (absorbing graph).
        normalise: whether the model gives logits of p(x0), and not raw scores.
    """

    def __init__(
        self, model: Model, window: tuple[int, int], mask_state: int | None = None, normalise: bool = True
    ) -> None:
        self.model, self.window, self.mask_state, self.normalise = model, window, mask_state, normalise

    def __call__(self, codes: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """Logits `(B, H, W[, G], V)`; 0 where no window was predicted."""
        height, width = (min(side, own) for side, own in zip(codes.shape[1:3], self.window, strict=True))
        places = [(y, x) for y in window_starts(codes.shape[1], height) for x in window_starts(codes.shape[2], width)]
        parts = torch.stack([codes[:, y : y + height, x : x + width] for y, x in places])  # (P, B, h, w[, G])
        needed = torch.ones(parts.shape[:2], dtype=torch.bool, device=codes.device)
        if self.mask_state is not None:
            needed = (parts == self.mask_state).flatten(2).any(2)
        which, rows = needed.nonzero(as_tuple=True)
        weight = torch.outer(tent(height), tent(width)).to(codes.device)  # (h, w)
        weight = weight[(...,) + (None,) * (codes.ndim - 2)]  # (h, w, [1,] 1)
        total: Tensor | None = None
        norm = torch.zeros((*codes.shape, 1), device=codes.device)
        for chunk in torch.split(torch.arange(len(rows)), ROWS):
            output = self.model(parts[which[chunk], rows[chunk]], sigma[rows[chunk]], labels[rows[chunk]]).float()
            if self.normalise:
                output = torch.log_softmax(output, dim=-1)
            if total is None:
                total = output.new_zeros((*codes.shape, output.shape[-1]))
            for one, place, row in zip(output, which[chunk].tolist(), rows[chunk].tolist(), strict=True):
                y, x = places[place]
                total[row, y : y + height, x : x + width] += weight * one
                norm[row, y : y + height, x : x + width] += weight
        if total is None:  # nothing is masked: one prediction, for its shape
            output = self.model(parts[0], sigma, labels)
            return output.new_zeros((*codes.shape, output.shape[-1]), dtype=torch.float32)
        return total / norm.clamp(min=1e-12)


def tent(length: int) -> Tensor:
    """Weights `(length,)` of a window's cells, rising from its edges to its middle."""
    place = torch.arange(length) + 0.5
    return torch.minimum(place, length - place) / (length / 2)
