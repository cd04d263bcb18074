"""Conversion of a published checkpoint to a tokenizer of ours. Sizes are read from the shapes of the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from common.errors import UserError
from vq.autoencoder import ARCHITECTURES
from vq.checkpoint_reader import read_checkpoint
from vq.layouts import CODEBOOK, IGNORED, LAYOUTS, OUR_CODEBOOK, Layout, checkpoint_key, detect_layout, is_ignored
from vq.quantizer import QuantizerConfig
from vq.tokenizer import Tokenizer, TokenizerConfig


class Converted(NamedTuple):
    """The result of `convert_file`.

    Attributes:
        layout: layout of the checkpoint.
        config: configuration of the tokenizer.
        parameters: number of its parameters.
        ignored: number of tensors left out, by prefix of their keys.
    """

    layout: Layout
    config: TokenizerConfig
    parameters: int
    ignored: dict[str, int]


def convert_file(
    path: Path, out_dir: Path, layout: str | None = None, image_size: int = 256, force: bool = False
) -> Converted:
    """Convert the checkpoint `path` to the tokenizer `out_dir`/tokenizer, which is written completely or not at all.

    Args:
        layout: name of the layout that the checkpoint must have; None accepts every layout.
        image_size: side in pixels of the images that the tokenizer is meant for, a multiple of f.
        force: whether an existing tokenizer is replaced.

    Raises:
        UserError: `read_checkpoint`, `detect_layout` or `convert` refuses the file, its weights are not finite, it has
            another layout than `layout`, `image_size` is not a multiple of f, or there is a tokenizer already.
    """
    target = out_dir / "tokenizer"
    if target.exists() and not force:
        raise UserError(f"{target} already exists: choose another --out, or replace it with --force")
    state = read_checkpoint(path)
    try:
        found = detect_layout(state.keys())
        if layout not in (None, found.name):
            raise UserError(
                f"the checkpoint has layout {found.name} and not {layout}: leave out --layout "
                f"(known layouts: {', '.join(LAYOUTS)})"
            )
        config, converted = convert(state, found)
        if image_size < 1 or image_size % config.downsample:
            raise UserError(f"--image-size must be a multiple of the model's f = {config.downsample}, got {image_size}")
        _check_finite(converted, found, config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    tokenizer = _meta_tokenizer(config, image_size, converted["encoder.conv_in.weight"].shape[1])
    tokenizer.load_state_dict(converted, assign=True)
    try:
        tokenizer.save(target, {"converted_from": {"layout": found.name, "file": path.name}})
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {target} ({error}): choose another --out, or free some space") from error
    ignored = {prefix: sum(key.startswith(prefix) for key in state) for prefix in IGNORED}
    parameters = sum(parameter.numel() for parameter in tokenizer.parameters())
    return Converted(found, config, parameters, {prefix: number for prefix, number in ignored.items() if number})


def convert(state: Mapping[str, Tensor], layout: Layout) -> tuple[TokenizerConfig, dict[str, Tensor]]:
    """Configuration and state dict of our tokenizer for the checkpoint `state`, in float32. All tensors are copies.

    Tensors on the meta device are converted too; then only names and shapes are checked.

    Raises:
        UserError: a key is missing, is not known or has a wrong shape or type, or no architecture has these sizes. Names
            the first such key.
    """
    config = _read_config(state, layout)
    ours = _meta_tokenizer(config, config.downsample, _shape(state, "encoder.conv_in.weight", 4)[1]).state_dict()
    levels, converted, used = len(config.multipliers), {}, {CODEBOOK}
    for name, empty in ours.items():
        if name.startswith(OUR_CODEBOOK):
            continue
        key = checkpoint_key(name, layout, levels)
        shape = _shape(state, key, empty.ndim)
        if shape != empty.shape:
            raise UserError(f"'{key}' has shape {list(shape)}, wanted {list(empty.shape)} in layout {layout.name}")
        converted[name] = _to_float32(state[key], key)
        used.add(key)
    unknown = next((key for key in state if key not in used and not is_ignored(key)), None)
    if unknown is not None:
        raise UserError(f"layout {layout.name} has no tensor '{unknown}': this is another network")
    codebook = _to_float32(state[CODEBOOK], CODEBOOK)[None]  # (1, K, D)
    if layout.cosine:
        codebook = F.normalize(codebook, dim=-1)
    converted |= {
        f"{OUR_CODEBOOK}.embed": codebook,
        # As if each code had been used once: further training then starts from the published codes.
        f"{OUR_CODEBOOK}.embed_avg": codebook.clone(),
        f"{OUR_CODEBOOK}.cluster_size": codebook.new_ones(codebook.shape[:2]),
        f"{OUR_CODEBOOK}.initted": codebook.new_ones((), dtype=torch.bool),
    }
    return config, {name: converted[name] for name in ours}


def _read_config(state: Mapping[str, Tensor], layout: Layout) -> TokenizerConfig:
    """The configuration that the shapes of the tensors show."""

    def block(i: int, j: int = 0) -> str:
        return checkpoint_key(f"encoder.levels.{i}.blocks.{j}.conv2.weight", layout, 0)

    levels = next(i for i in count() if block(i) not in state)
    widths = [_shape(state, block(i), 4)[0] for i in range(max(levels, 1))]
    codebook_size, codebook_dim = _shape(state, CODEBOOK, 2)
    latent_channels = _shape(state, "encoder.conv_out.weight", 4)[0]
    if min(widths) < 1 or any(width % widths[0] for width in widths):
        raise UserError(f"the channels of its levels, {widths}, are not multiples of the first")
    try:
        return TokenizerConfig(
            architecture=layout.architecture,
            downsample=2 ** (levels - 1),
            width=widths[0],
            multipliers=[width // widths[0] for width in widths],
            blocks=next(j for j in count(1) if block(0, j) not in state),
            latent_channels=latent_channels if ARCHITECTURES[layout.architecture].projections else 0,
            conv_out_padding="zeros",  # as in all published networks
            quantizer=QuantizerConfig(
                codebook_size=codebook_size,
                codebook_dim=codebook_dim,
                cosine=layout.cosine,
                kmeans_init=False,  # the codebook is given
                # A batch has fewer latents than these codebooks have codes. Replacing the unused codes in further
                # training would destroy most of the codebook.
                dead_code_threshold=0,
            ),
        )
    except ValueError as error:
        raise UserError(f"no tokenizer here has these sizes ({error})") from error


def _meta_tokenizer(config: TokenizerConfig, image_size: int, channels: int) -> Tokenizer:
    """Our tokenizer in eval mode, on the meta device: without memory for its weights."""
    try:
        with torch.device("meta"):
            return Tokenizer(config, image_size, channels).eval()
    except ValueError as error:
        raise UserError(f"no tokenizer here has these sizes ({error})") from error


def _shape(state: Mapping[str, Tensor], key: str, dimensions: int) -> torch.Size:
    if key not in state:
        raise UserError(f"'{key}' is missing: the file is damaged, or this is another network")
    if state[key].ndim != dimensions:
        raise UserError(f"'{key}' has shape {list(state[key].shape)}, wanted {dimensions} dimensions")
    return state[key].shape


def _to_float32(value: Tensor, key: str) -> Tensor:
    if not value.is_floating_point() or value.layout != torch.strided:
        raise UserError(f"'{key}' contains {value.dtype} ({value.layout}), wanted dense floating-point weights")
    return value.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _check_finite(converted: Mapping[str, Tensor], layout: Layout, config: TokenizerConfig) -> None:
    for name, value in converted.items():
        if value.is_meta or not bool(torch.isfinite(value).all()):
            our_codebook = name.startswith(OUR_CODEBOOK)
            key = CODEBOOK if our_codebook else checkpoint_key(name, layout, len(config.multipliers))
            raise UserError(f"'{key}' contains values that are not finite: the file is damaged, get it again")
