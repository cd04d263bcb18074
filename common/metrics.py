"""Scores of images, of codes, and of sets of features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB `(B,)` of images `(B, C, H, W)` in [-1, 1]; infinite where they are equal."""
    mean_square = ((first - second) / 2).square().flatten(1).mean(1)
    return -10 * torch.log10(mean_square)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity `(B,)` of images `(B, C, H, W)` in [-1, 1], at least 11 pixels a side.

    11 x 11 Gaussian window of 1.5 pixels, K1 = 0.01, K2 = 0.03 (Wang et al. 2004, equation 13), borders left out.
    """
    channels = first.shape[1]
    distance = torch.arange(11, dtype=first.dtype, device=first.device) - 5
    bell = torch.exp(-distance.square() / (2 * 1.5**2))
    window = (torch.outer(bell, bell) / bell.sum() ** 2).expand(channels, 1, 11, 11)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=channels)

    a, b = (first + 1) / 2, (second + 1) / 2
    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    value = value / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))
    return value.flatten(1).mean(1)


def codebook_use(counts: Tensor, codebook_size: int | None = None) -> dict[str, float]:
    """Fraction of codes that occur (`codes_used`), and the perplexity exp(entropy) of their distribution.

    Args:
        counts: how often each code occurs, `(V,)`; with `codebook_size` V, codes that do not occur may be left out.
    """
    fraction = counts.double() / counts.sum()
    entropy = -(fraction * fraction.clamp(min=1e-300).log()).sum().item()
    used = (counts > 0).sum().item() / (codebook_size or len(counts))
    return {"codes_used": used, "perplexity": math.exp(entropy)}


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Frechet distance between Gaussians fitted to features `(N, D)` and `(M, D)` (Heusel et al., arXiv 1706.08500, eq. 6).

    Computed in float64. tr sqrt(A B) is the nuclear norm of X Y^T for A = X^T X, B = Y^T Y; that needs no matrix square root.
    """

    def fit(features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean `(D,)`, and X `(min(N, D), D)` with X^T X the covariance."""
        features = features.double()
        mean = features.mean(0)
        x = (features - mean) / math.sqrt(len(features) - 1)
        # X = Q R has the same X^T X = R^T R; without it 50,000 images make a 50,000 x 50,000 matrix.
        return mean, torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x

    (mean_first, x), (mean_second, y) = fit(first), fit(second)
    cross = torch.linalg.svdvals(x @ y.T).sum()
    mean_gap = (mean_first - mean_second).square().sum()
    return float(mean_gap + x.square().sum() + y.square().sum() - 2 * cross)
