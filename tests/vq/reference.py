"""What published checkpoints compute, written as plain functions of their own keys."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.vq.published import names_of


class Reference:
    """Encoder, quantizer and decoder of a checkpoint `state` in `layout`. Images are in [-1, 1]."""

    def __init__(self, layout: str, state: dict[str, Tensor], levels: int, blocks: int) -> None:
        self.layout, self.state, self.levels, self.blocks = layout, state, levels, blocks
        self.names = names_of(layout, blocks)
        self.codebook = state["quantize.embedding.weight"]
        if layout == "llamagen":
            self.codebook = self.codebook / self.codebook.norm(dim=1, keepdim=True)

    def conv(self, x: Tensor, key: str, **options: int) -> Tensor:
        return F.conv2d(x, self.state[f"{key}.weight"], self.state.get(f"{key}.bias"), **options)

    def norm(self, x: Tensor, key: str) -> Tensor:
        return F.group_norm(x, 32, self.state[f"{key}.weight"], self.state[f"{key}.bias"], 1e-6)

    def block(self, x: Tensor, key: str) -> Tensor:
        h = self.conv(F.silu(self.norm(x, f"{key}.norm1")), f"{key}.conv1", padding=1)
        h = self.conv(F.silu(self.norm(h, f"{key}.norm2")), f"{key}.conv2", padding=1)
        if f"{key}.{self.names.shortcut}.weight" in self.state:
            x = self.conv(h if self.layout == "maskgit" else x, f"{key}.{self.names.shortcut}")
        return x + h

    def attention(self, x: Tensor, key: str) -> Tensor:
        h = self.norm(x, f"{key}.norm")
        q, k, v = (self.conv(h, f"{key}.{name}").flatten(2) for name in "qkv")
        weights = torch.einsum("bcq,bck->bqk", q, k).div(q.shape[1] ** 0.5).softmax(-1)
        return x + self.conv(torch.einsum("bqk,bck->bcq", weights, v).view_as(x), f"{key}.proj_out")

    def middle(self, x: Tensor, side: str) -> Tensor:
        for name in self.names.middle:
            key = f"{side}.{name}"
            x = self.attention(x, key) if f"{key}.q.weight" in self.state else self.block(x, key)
        return x

    def level(self, x: Tensor, side: str, names: tuple[str, str, str], number: int, blocks: int) -> Tensor:
        for j in range(blocks):
            x = self.block(x, f"{side}.{names[0].format(number, j)}")
            attention = f"{side}.{names[1].format(number, j)}"
            if f"{attention}.q.weight" in self.state:
                x = self.attention(x, attention)
        return x

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Latents `(B, D, h, w)` before quantization, and codes `(B, h, w)`."""
        unit_range = self.layout in ("maskgit", "amused")
        x = self.conv(images / 2 + 0.5 if unit_range else images, "encoder.conv_in", padding=1)
        for i in range(self.levels):
            x = self.level(x, "encoder", self.names.encoder, i, self.blocks)
            if i < self.levels - 1:
                if self.layout == "maskgit":
                    x = F.avg_pool2d(x, 2)
                else:
                    x = self.conv(F.pad(x, (0, 1, 0, 1)), "encoder." + self.names.encoder[2].format(i), stride=2)
        x = F.silu(self.norm(self.middle(x, "encoder"), f"encoder.{self.names.last_norm}"))
        if self.layout == "maskgit":
            latents = self.conv(x, "encoder.conv_out")
        else:
            latents = self.conv(self.conv(x, "encoder.conv_out", padding=1), "quant_conv")
        points = latents.movedim(1, -1)
        if self.layout == "llamagen":
            points = points / points.norm(dim=-1, keepdim=True)
        distances = (points[..., None, :] - self.codebook).square().sum(-1)
        return latents, distances.argmin(-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Images `(B, 3, h f, w f)` of codes `(B, h, w)`, clamped to [-1, 1]."""
        x = self.codebook[codes].movedim(-1, 1)
        if self.layout != "maskgit":
            x = self.conv(x, "post_quant_conv")
        x = self.middle(self.conv(x, "decoder.conv_in", padding=1), "decoder")
        for i in range(self.levels):
            number = self.levels - 1 - i if self.names.reversed_decoder else i
            x = self.level(x, "decoder", self.names.decoder, number, self.blocks + (self.layout != "maskgit"))
            if i < self.levels - 1:
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                x = self.conv(x, "decoder." + self.names.decoder[2].format(number), padding=1)
        x = self.conv(F.silu(self.norm(x, f"decoder.{self.names.last_norm}")), "decoder.conv_out", padding=1)
        return (x * 2 - 1 if self.layout in ("maskgit", "amused") else x).clamp(-1, 1)
