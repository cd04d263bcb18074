"""Perceptual distances between images, computed from the features of pretrained networks, in float32.

Each distance maps two batches of images (B, C, H, W) in [-1, 1] to distances (B,).
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.features import EfficientNetFeatures, WeightsMissing, weights_at

log = logging.getLogger(__name__)

# Positions whose features are all zero would have a NaN gradient without it.
NORM_EPS = 1e-3


class EfficientNetDistance(nn.Module):
    """Mean squared distance of channel-normalised EfficientNet-lite0 features, similar to LPIPS (arXiv 1801.03924).

    Raises:
        UserError: the extra `perceptual` is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = EfficientNetFeatures()

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Distances `(B,)` of images `(B, C, H, W)` in [-1, 1]; the gradient passes through `images` alone."""
        total = images.new_zeros(len(images), dtype=torch.float32)
        with torch.no_grad():
            target_features = self.features.stages(targets)
        for a, b in zip(self.features.stages(images), target_features, strict=True):
            difference = F.normalize(a, dim=1, eps=NORM_EPS) - F.normalize(b, dim=1, eps=NORM_EPS)
            total = total + difference.square().sum(1).flatten(1).mean(1)
        return total


class LPIPSDistance(nn.Module):
    """LPIPS with a VGG-16 backbone (arXiv 1801.03924).

    It uses the networks of the package `lpips`, but not the package's forward pass: that one has a NaN gradient at
    positions whose features are all zero.

    Args:
        pretrained: False builds the network with random weights and downloads nothing.
    """

    def __init__(self, pretrained: bool = True) -> None:
        import lpips  # noqa: PLC0415 - with torchvision it takes half a second, and few commands need it

        super().__init__()
        random_weights = {} if pretrained else {"pretrained": False, "pnet_rand": True}
        self.network = lpips.LPIPS(net="vgg", verbose=False, **random_weights).eval().requires_grad_(False)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Distances `(B,)` of images `(B, C, H, W)` in [-1, 1], C = 1 or 3, H and W at least 16."""
        with torch.autocast(images.device.type, enabled=False):
            a, b = (self.network.scaling_layer(x.float().expand(-1, 3, -1, -1)) for x in (images, targets))
            total: Tensor = a.new_zeros(len(a))
            for x, y, head in zip(self.network.net(a), self.network.net(b), self.network.lins, strict=True):
                difference = F.normalize(x, dim=1, eps=NORM_EPS) - F.normalize(y, dim=1, eps=NORM_EPS)
                total = total + head(difference.square()).mean((1, 2, 3))
            return total


class ResNetLogitDistance(nn.Module):
    """Squared distance of ResNet-50's ImageNet logits: the perceptual loss of VQGAN+ (arXiv 2409.16211, section 3).

    Args:
        pretrained: False builds the network with random weights and downloads nothing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pretrained: bool = True) -> None:
        from torchvision import models  # noqa: PLC0415 - see LPIPSDistance

        super().__init__()
        weights = models.ResNet50_Weights.IMAGENET1K_V1 if pretrained else None
        self.network = models.resnet50(weights=weights).eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> ResNetLogitDistance:
        """Stay in eval mode, so that the running statistics of batch norm do not change."""
        return super().train(False)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Distances `(B,)` of images `(B, C, H, W)` in [-1, 1], C = 1 or 3; the gradient passes through `images` alone."""
        with torch.autocast(images.device.type, enabled=False):
            with torch.no_grad():
                target_logits = self.logits(targets)
            return (self.logits(images) - target_logits).square().mean(1)

    def logits(self, images: Tensor) -> Tensor:
        """ImageNet logits `(B, 1000)` of images `(B, C, H, W)` in [-1, 1], resized to 224 x 224."""
        images = ((images.float() + 1) / 2).expand(-1, 3, -1, -1)
        images = F.interpolate(images, size=(224, 224), mode="bilinear", antialias=True, align_corners=False)
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


# Distances whose weights are downloaded by torchvision: name -> (class, torchvision's name of the weights).
DOWNLOADED = {"lpips": (LPIPSDistance, "VGG16_Weights"), "resnet50": (ResNetLogitDistance, "ResNet50_Weights")}


def downloaded_weights(name: str) -> tuple[Path, str]:
    """The file in which the weights of a distance of DOWNLOADED are looked for, and the address it is downloaded from.

    As all of torchvision's, the file's name ends in the first 8 digits of its SHA-256.
    """
    from torchvision import models  # noqa: PLC0415 - see LPIPSDistance

    url = getattr(models, DOWNLOADED[name][1]).IMAGENET1K_V1.url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1], url


def load_downloaded(name: str, download: bool = True) -> nn.Module:
    """The distance of DOWNLOADED called `name`, with pretrained weights.

    Raises:
        WeightsMissing: the weights are not on this machine, and `download` is False or the download fails.
    """
    with weights_at(*downloaded_weights(name), download):
        return DOWNLOADED[name][0]()


def build_perceptual(name: str) -> tuple[nn.Module | None, str]:
    """The distance that the configuration `name` asks for, and its own name: "auto" takes the first one available.

    Args:
        name: one of `vq.loss.PERCEPTUAL`.

    Raises:
        UserError: weights or packages of the distance are missing, and `name` is not "auto".
    """
    if name == "none":
        return None, "none"
    wanted = "lpips" if name == "auto" else name
    if wanted in DOWNLOADED:
        try:
            return load_downloaded(wanted), wanted
        except WeightsMissing as missing:
            if name != "auto":
                raise UserError(f"{name}: {missing}; or set tokenizer.loss.perceptual=efficientnet") from missing
    try:
        return EfficientNetDistance(), "efficientnet"
    except UserError:
        if name == "efficientnet":
            raise
    log.warning("training without a perceptual loss: no weights for lpips, and the extra 'perceptual' is not installed")
    return None, "none"
