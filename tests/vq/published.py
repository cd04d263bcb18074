"""Checkpoints of published tokenizers with random weights: their keys and shapes, written as their projects write them.

The key lists are built here from the projects' code, independently of vq/layouts.py.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor


class Names(NamedTuple):
    """The names of modules in a layout. {} stands for the numbers of level and block; "" means that there is none.

    Attributes:
        encoder, decoder: (block, attention, resampling) of a level.
        middle: the modules between them.
        shortcut: the 1 x 1 convolution of a block.
        last_norm: the group norm before the last convolution.
        reversed_decoder: whether level 0 of the decoder is the level at full resolution, which is computed last.
    """

    encoder: tuple[str, str, str]
    decoder: tuple[str, str, str]
    middle: tuple[str, ...]
    shortcut: str
    last_norm: str
    reversed_decoder: bool


def names_of(layout: str, blocks: int) -> Names:
    """The names of a layout. The middle of MaskGIT has as many blocks as a level."""
    return {
        "taming": Names(
            ("down.{}.block.{}", "down.{}.attn.{}", "down.{}.downsample.conv"),
            ("up.{}.block.{}", "up.{}.attn.{}", "up.{}.upsample.conv"),
            ("mid.block_1", "mid.attn_1", "mid.block_2"),
            "nin_shortcut",
            "norm_out",
            True,
        ),
        "maskgit": Names(
            ("down.{}.block.{}", "", ""),
            ("up.{}.block.{}", "", "up.{}.upsample_conv"),
            tuple(f"mid.{j}" for j in range(blocks)),
            "nin_shortcut",
            "norm_out",
            True,
        ),
        "llamagen": Names(
            ("conv_blocks.{}.res.{}", "conv_blocks.{}.attn.{}", "conv_blocks.{}.downsample.conv"),
            ("conv_blocks.{}.res.{}", "conv_blocks.{}.attn.{}", "conv_blocks.{}.upsample.conv"),
            ("mid.0", "mid.1", "mid.2"),
            "nin_shortcut",
            "norm_out",
            False,
        ),
        "amused": Names(
            ("down_blocks.{}.resnets.{}", "", "down_blocks.{}.downsamplers.0.conv"),
            ("up_blocks.{}.resnets.{}", "", "up_blocks.{}.upsamplers.0.conv"),
            ("mid_block.resnets.0", "mid_block.resnets.1"),
            "conv_shortcut",
            "conv_norm_out",
            False,
        ),
    }[layout]


class Sizes(NamedTuple):
    """Sizes of a model, with the names of taming's configuration in comments."""

    width: int = 32  # ch
    multipliers: tuple[int, ...] = (1, 2, 2)  # ch_mult
    blocks: int = 2  # num_res_blocks
    latent_channels: int = 12  # z_channels
    dim: int = 6  # embed_dim
    codes: int = 48  # n_embed


class _Shapes:
    """Collects the shapes of a checkpoint by key."""

    def __init__(self, layout: str, names: Names) -> None:
        self.names, self.bias = names, layout != "maskgit"
        self.found: dict[str, tuple[int, ...]] = {}

    def conv(self, key: str, channels_in: int, channels_out: int, kernel: int = 3, bias: bool = True) -> None:
        self.found[f"{key}.weight"] = (channels_out, channels_in, kernel, kernel)
        if bias:
            self.found[f"{key}.bias"] = (channels_out,)

    def norm(self, key: str, channels: int) -> None:
        self.found[f"{key}.weight"] = self.found[f"{key}.bias"] = (channels,)

    def block(self, key: str, channels_in: int, channels_out: int) -> None:
        self.norm(f"{key}.norm1", channels_in)
        self.conv(f"{key}.conv1", channels_in, channels_out, 3, self.bias)
        self.norm(f"{key}.norm2", channels_out)
        self.conv(f"{key}.conv2", channels_out, channels_out, 3, self.bias)
        if channels_in != channels_out:
            shortcut_in = channels_in if self.bias else channels_out
            self.conv(f"{key}.{self.names.shortcut}", shortcut_in, channels_out, 1, self.bias)

    def attention(self, key: str, channels: int) -> None:
        self.norm(f"{key}.norm", channels)
        for name in ("q", "k", "v", "proj_out"):
            self.conv(f"{key}.{name}", channels, channels, 1)

    def middle(self, side: str, channels: int) -> None:
        for name in self.names.middle:
            if name in ("mid.attn_1", "mid.1") and len(self.names.middle) == 3:
                self.attention(f"{side}.{name}", channels)
            else:
                self.block(f"{side}.{name}", channels, channels)


def shapes(layout: str, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a published checkpoint of these sizes, by key."""
    names = names_of(layout, sizes.blocks)
    collect = _Shapes(layout, names)
    levels, current = len(sizes.multipliers), sizes.width
    collect.conv("encoder.conv_in", 3, current, 3, collect.bias)
    block, attention, down = names.encoder
    for i, multiplier in enumerate(sizes.multipliers):
        for j in range(sizes.blocks):
            collect.block("encoder." + block.format(i, j), current, sizes.width * multiplier)
            current = sizes.width * multiplier
            if attention and i == levels - 1:
                collect.attention("encoder." + attention.format(i, j), current)
        if down and i < levels - 1:
            collect.conv("encoder." + down.format(i), current, current)
    collect.middle("encoder", current)
    collect.norm(f"encoder.{names.last_norm}", current)
    collect.conv("encoder.conv_out", current, sizes.latent_channels, 1 if layout == "maskgit" else 3)

    collect.conv("decoder.conv_in", sizes.latent_channels, current)
    collect.middle("decoder", current)
    block, attention, up = names.decoder
    for i, multiplier in enumerate(reversed(sizes.multipliers)):
        number = levels - 1 - i if names.reversed_decoder else i
        for j in range(sizes.blocks if layout == "maskgit" else sizes.blocks + 1):
            collect.block("decoder." + block.format(number, j), current, sizes.width * multiplier)
            current = sizes.width * multiplier
            if attention and i == 0:
                collect.attention("decoder." + attention.format(number, j), current)
        if i < levels - 1:
            collect.conv("decoder." + up.format(number), current, current)
    collect.norm(f"decoder.{names.last_norm}", current)
    collect.conv("decoder.conv_out", current, 3)
    if layout != "maskgit":
        collect.conv("quant_conv", sizes.latent_channels, sizes.dim, 1)
        collect.conv("post_quant_conv", sizes.dim, sizes.latent_channels, 1)
    return collect.found | {"quantize.embedding.weight": (sizes.codes, sizes.dim)}


def random_state(wanted: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Random float32 weights of these shapes, scaled so that activations neither vanish nor grow."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for key, shape in wanted.items():
        value = torch.randn(shape, generator=generator, dtype=torch.float32)
        if len(shape) == 4:
            value = value / (shape[1] * shape[2] * shape[3]) ** 0.5
        elif len(shape) == 1:
            value = value / 5 + key.endswith("weight")
        state[key] = value
    return state


def small_sizes(layout: str, **sizes: object) -> Sizes:
    """Sizes of a small model. MaskGIT has no projections: its codes have the dimension of the latents."""
    return Sizes()._replace(**({"dim": 12} if layout == "maskgit" else {}) | sizes)


def small_state(layout: str, **sizes: object) -> dict[str, Tensor]:
    """The state dict of a small model with random weights."""
    return random_state(shapes(layout, small_sizes(layout, **sizes)))


def write(path: Path, content: object) -> Path:
    """Write a checkpoint file, as .safetensors or with torch.save."""
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def write_published(folder: Path, layout: str, state: dict[str, Tensor]) -> Path:
    """Write `state` as the project publishes it: in its kind of file, with the other tensors that such a file contains."""
    if layout == "taming":
        others = ("loss.discriminator.main.0.weight", "loss.perceptual_loss.lin0.weight", "discriminator.0.bias")
        others = (*others, "model_ema.encoderconv_inweight")
        content = {"epoch": 3, "state_dict": state | {key: torch.ones(2) for key in others}}
        return write(folder / "last.ckpt", content)
    if layout == "llamagen":
        state = state | {"quantize.codebook_used": torch.zeros(65536)}
        not_averaged = {key: torch.zeros_like(value) for key, value in state.items()}
        return write(folder / "vq_ds16_c2i.pt", {"model": not_averaged, "ema": state, "steps": 5})
    return write(folder / {"maskgit": "vqgan.bin", "amused": "diffusion_pytorch_model.safetensors"}[layout], state)
