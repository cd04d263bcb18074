"""Published tokenizer checkpoints, converted into ours by configuration: `python -m vq.pretrained FILE --out DIR`.

A layout says in a few lines of data how a family of checkpoints names its tensors. Sizes (width, levels, blocks, latent
channels, codebook) are read off the tensors, so a model of another size in the same layout converts too. No foreign
pickle is ever executed. docs/pretrained.md says where the files come from and what was checked.
"""

from __future__ import annotations

import argparse
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.errors import ArgumentParser, UserError, run_cli
from vq.autoencoder import ARCHITECTURES
from vq.quantizer import QuantizerConfig
from vq.tokenizer import Tokenizer, TokenizerConfig

CODEBOOK = "quantize.embedding.weight"  # (K, D), the same name in all layouts
CODEBOOK_HERE = "quantizer.quantize._codebook"


@dataclass(frozen=True)
class Layout:
    """How a family of published checkpoints names its tensors.

    Attributes:
        marks: beginnings of keys; a checkpoint that has all of them, and of no earlier layout, is of this one.
        architecture: the entry of `vq.autoencoder.ARCHITECTURES` that computes the same.
        modules: our module -> theirs. {side} is encoder or decoder, {i} counts levels in the order they are passed
            through, {r} the other way round, {j} counts blocks.
        leaves: what a layer inside such a module is called there, where that differs.
        cosine: codes are compared by direction; the codebook is normalised.
    """

    name: str
    marks: tuple[str, ...]
    architecture: str
    modules: Mapping[str, str]
    leaves: Mapping[str, str] = field(default_factory=dict)
    cosine: bool = False


ENDS = {
    "{side}.conv_in": "{side}.conv_in",
    "{side}.norm_out": "{side}.norm_out",
    "{side}.conv_out": "{side}.conv_out",
}
PROJECTIONS = {"encoder.project": "quant_conv", "decoder.project": "post_quant_conv"}
LEAVES = {"skip": "nin_shortcut", "query": "q", "key": "k", "value": "v", "out": "proj_out"}

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(  # CompVis/taming-transformers and the VQ models of CompVis/latent-diffusion
            "taming",
            ("encoder.down.0.block.", "encoder.mid.block_1.", "quantize.embedding."),
            "taming",
            ENDS
            | PROJECTIONS
            | {
                "{side}.middle.0": "{side}.mid.block_1",
                "{side}.middle.1": "{side}.mid.attn_1",
                "{side}.middle.2": "{side}.mid.block_2",
                "encoder.levels.{i}.blocks.{j}": "encoder.down.{i}.block.{j}",
                "encoder.levels.{i}.attentions.{j}": "encoder.down.{i}.attn.{j}",
                "encoder.levels.{i}.resample": "encoder.down.{i}.downsample.conv",
                "decoder.levels.{i}.blocks.{j}": "decoder.up.{r}.block.{j}",
                "decoder.levels.{i}.attentions.{j}": "decoder.up.{r}.attn.{j}",
                "decoder.levels.{i}.resample.1": "decoder.up.{r}.upsample.conv",
            },
            LEAVES,
        ),
        Layout(  # FoundationVision/LlamaGen
            "llamagen",
            ("encoder.conv_blocks.0.res.", "encoder.mid.0.", "quantize.embedding."),
            "taming",
            ENDS
            | PROJECTIONS
            | {
                "{side}.middle.{j}": "{side}.mid.{j}",
                "{side}.levels.{i}.blocks.{j}": "{side}.conv_blocks.{i}.res.{j}",
                "{side}.levels.{i}.attentions.{j}": "{side}.conv_blocks.{i}.attn.{j}",
                "encoder.levels.{i}.resample": "encoder.conv_blocks.{i}.downsample.conv",
                "decoder.levels.{i}.resample.1": "decoder.conv_blocks.{i}.upsample.conv",
            },
            LEAVES,
            cosine=True,
        ),
        Layout(  # MaskGIT's, as bytedance/1d-tokenizer and huggingface/open-muse ship it
            "maskgit",
            ("encoder.down.0.block.", "encoder.mid.0.", "quantize.embedding."),
            "maskgit",
            ENDS
            | {
                "{side}.middle.{j}": "{side}.mid.{j}",
                "encoder.levels.{i}.blocks.{j}": "encoder.down.{i}.block.{j}",
                "decoder.levels.{i}.blocks.{j}": "decoder.up.{r}.block.{j}",
                "decoder.levels.{i}.resample.1": "decoder.up.{r}.upsample_conv",
            },
            LEAVES,
        ),
        Layout(  # aMUSEd's vqvae: diffusers' VQModel without attention
            "amused",
            ("encoder.down_blocks.0.resnets.", "encoder.mid_block.resnets.", "quantize.embedding."),
            "amused",
            ENDS
            | PROJECTIONS
            | {
                "{side}.norm_out": "{side}.conv_norm_out",
                "{side}.middle.{j}": "{side}.mid_block.resnets.{j}",
                "encoder.levels.{i}.blocks.{j}": "encoder.down_blocks.{i}.resnets.{j}",
                "encoder.levels.{i}.resample": "encoder.down_blocks.{i}.downsamplers.0.conv",
                "decoder.levels.{i}.blocks.{j}": "decoder.up_blocks.{i}.resnets.{j}",
                "decoder.levels.{i}.resample.1": "decoder.up_blocks.{i}.upsamplers.0.conv",
            },
            {"skip": "conv_shortcut"},
        ),
    )
}

# Layouts that are known and cannot be converted: name -> (marks as above, why).
REFUSED = {
    "taming's Gumbel VQGAN": (
        ("quantize.proj.", "quantize.embed."),
        "its codes are the largest of K outputs of a convolution (quantize.proj), not the nearest of K vectors",
    ),
    "latent diffusion": (("first_stage_model.",), "save what stands under first_stage_model as a file of its own"),
    "smalti": ((CODEBOOK_HERE + ".",), "it is one of ours already"),
    "KL autoencoder": (("encoder.conv_in.", "quant_conv."), "it has no codebook"),
}

# Keys that a tokenizer at work does not need: how they begin, and what they are.
IGNORED = {
    "loss.": "training losses, with the discriminator and the perceptual network",
    "discriminator.": "discriminator",
    "model_ema.": "second copy of the weights, averaged under names without dots",
    "quantize.codebook_used": "counter of codes used in training",
}

WRAPPERS = ("state_dict", "ema", "model")  # LlamaGen reads its own files in this order: averages before weights
PICKLED = (".ckpt", ".pt", ".pth", ".bin")


class Converted(NamedTuple):
    """What `convert_file` did: `ignored` counts the keys left out by how they begin."""

    layout: Layout
    config: TokenizerConfig
    parameters: int
    ignored: dict[str, int]


def detect_layout(state: Mapping[str, Any]) -> Layout:
    """The layout of a state dict, judged by its keys. Raises UserError for none, or one that cannot be converted."""

    def has(marks: Sequence[str]) -> bool:
        return all(any(key.startswith(mark) for key in state) for mark in marks)

    for layout in LAYOUTS.values():
        if has(layout.marks):
            return layout
    for name, (marks, why) in REFUSED.items():
        if has(marks):
            raise UserError(f"the layout, judged by its keys, is {name}: {why}; known layouts: {', '.join(LAYOUTS)}")
    starts = list(dict.fromkeys(".".join(key.split(".")[:2]) for key in state))
    raise UserError(
        f"the layout is unknown, its keys begin with {', '.join(starts[:4]) or 'nothing'}{' ...' if starts[4:] else ''}; "
        f"known layouts: {', '.join(LAYOUTS)}"
    )


def convert(state: Mapping[str, Tensor], layout: Layout) -> tuple[TokenizerConfig, dict[str, Tensor]]:
    """Configuration and our state dict, in float32, of a checkpoint's `state`; tensors are copied, also on meta.

    Raises:
        UserError: naming the first key that is missing, left over, of a wrong shape or type, or sizes that do not fit.
    """
    config = _read_config(state, layout)
    wanted = _on_meta(config, config.downsample, _shape(state, "encoder.conv_in.weight", 4)[1]).state_dict()
    levels, converted, used = len(config.multipliers), {}, {CODEBOOK}
    for name, empty in wanted.items():
        if name.startswith(CODEBOOK_HERE):
            continue
        key = _their_key(name, layout, levels)
        found = _shape(state, key, empty.ndim)
        if found != empty.shape:
            raise UserError(f"'{key}' has shape {list(found)}, wanted {list(empty.shape)} in layout {layout.name}")
        converted[name] = _float32(state[key], key)
        used.add(key)
    left_over = next((key for key in state if key not in used and not _ignored(key)), None)
    if left_over is not None:
        raise UserError(f"'{left_over}' has no place in layout {layout.name}: this is another network")
    codebook = _float32(state[CODEBOOK], CODEBOOK)[None]  # (1, K, D)
    if layout.cosine:
        codebook = F.normalize(codebook, dim=-1)
    converted |= {
        f"{CODEBOOK_HERE}.embed": codebook,
        # As if every code had just been used once, so that training on moves each from where it stands.
        f"{CODEBOOK_HERE}.embed_avg": codebook.clone(),
        f"{CODEBOOK_HERE}.cluster_size": codebook.new_ones(codebook.shape[:2]),
        f"{CODEBOOK_HERE}.initted": codebook.new_ones((), dtype=torch.bool),
    }
    return config, {name: converted[name] for name in wanted}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict of a file, unwrapped. Pickles are only read as tensors and plain containers, never executed.

    Raises:
        UserError: no such file, another kind of file, damaged, or holding more than tensors.
    """
    if not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'not there'}: name a checkpoint file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{path} is damaged or not safetensors, and cannot be read ({error}): get it again"
            ) from error
    if path.suffix not in PICKLED:
        raise UserError(f"{path} is of an unknown kind: give .safetensors, {', '.join(PICKLED)}")
    content = _read_tensors(path)
    while isinstance(content, dict):
        inner = next((name for name in WRAPPERS if isinstance(content.get(name), dict)), None)
        if inner is None:
            break
        content = content[inner]
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{path} holds no state dict but {type(content).__name__}: save one with torch.save or safetensors"
        )
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"{path} holds '{key}', which is not a named tensor: save the state dict alone")
    return content


def convert_file(
    path: Path, out_dir: Path, layout: str | None = None, image_size: int = 256, force: bool = False
) -> Converted:
    """Write the tokenizer in the checkpoint `path` to `out_dir`/tokenizer, whole or not at all.

    Args:
        layout: the layout to insist on; None takes the one that the keys show.
        image_size: side in pixels of the pictures it is meant for; a multiple of f.
        force: replace a tokenizer that is there already.

    Raises:
        UserError: for whatever `read_checkpoint`, `detect_layout` and `convert` refuse, weights that are not finite,
            another layout than asked for, an image size that does not fit, a tokenizer that is there already.
    """
    target = out_dir / "tokenizer"
    if target.exists() and not force:
        raise UserError(f"{target} is there already: choose another --out, or replace it with --force")
    state = read_checkpoint(path)
    try:
        found = detect_layout(state)
        if layout not in (None, found.name):
            raise UserError(
                f"the layout, judged by its keys, is {found.name} and not {layout}: leave out --layout "
                f"(known layouts: {', '.join(LAYOUTS)})"
            )
        config, converted = convert(state, found)
        if image_size < 1 or image_size % config.downsample:
            raise UserError(f"--image-size must be a multiple of its f = {config.downsample}, got {image_size}")
        bad = next((name for name, value in converted.items() if not _finite(value)), None)
        if bad is not None:
            key = CODEBOOK if bad.startswith(CODEBOOK_HERE) else _their_key(bad, found, len(config.multipliers))
            raise UserError(f"'{key}' holds values that are not finite: the file is damaged, get it again")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    tokenizer = _on_meta(config, image_size, converted["encoder.conv_in.weight"].shape[1])
    tokenizer.load_state_dict(converted, assign=True)
    try:
        tokenizer.save(target, {"converted_from": {"layout": found.name, "file": path.name}})
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {target} ({error}): choose another --out, or make room") from error
    ignored = {start: sum(key.startswith(start) for key in state) for start in IGNORED}
    parameters = sum(parameter.numel() for parameter in tokenizer.parameters())
    return Converted(found, config, parameters, {start: number for start, number in ignored.items() if number})


def main(argv: Sequence[str]) -> None:
    """The command line."""
    parser = ArgumentParser(
        prog="python -m vq.pretrained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help=".safetensors, or .ckpt, .pt, .pth, .bin that hold tensors alone")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="model directory; writes DIR/tokenizer")
    parser.add_argument(
        "--layout", choices=LAYOUTS, help="refuse a file of another layout; the keys tell by themselves"
    )
    parser.add_argument(
        "--image-size", type=int, default=256, help="pixels, side of the pictures it is meant for [256]"
    )
    parser.add_argument("--force", action="store_true", help="replace a tokenizer that is there already")
    arguments = parser.parse_args(argv)
    done = convert_file(arguments.file, arguments.out, arguments.layout, arguments.image_size, arguments.force)
    quantizer = done.config.quantizer
    for start, number in done.ignored.items():
        print(f"left out {number} tensors {start}*: {IGNORED[start]}")
    print(
        f"{arguments.out / 'tokenizer'}: layout {done.layout.name}, f = {done.config.downsample}, "
        f"{quantizer.codebook_size} codes of {quantizer.codebook_dim} numbers, {done.parameters:,} parameters"
    )


def _their_key(name: str, layout: Layout, levels: int) -> str:
    """What `layout` calls our tensor `name`."""
    for ours, theirs in layout.modules.items():
        pattern = re.sub(r"\\{([ijr])\\}", r"(?P<\1>\\d+)", re.escape(ours))
        pattern = pattern.replace(r"\{side\}", "(?P<side>encoder|decoder)")
        match = re.fullmatch(pattern + r"\.(?P<rest>.+)", name)
        if match:
            parts = match.groupdict()
            layer, dot, kind = parts.pop("rest").rpartition(".")
            if "i" in parts:
                parts["r"] = str(levels - 1 - int(parts["i"]))
            return f"{theirs.format(**parts)}.{layout.leaves.get(layer, layer)}{dot}{kind}"
    raise AssertionError(f"layout {layout.name} names no '{name}'")


def _read_config(state: Mapping[str, Tensor], layout: Layout) -> TokenizerConfig:
    """Sizes, read off the shapes."""

    def level(i: int, j: int = 0) -> str:
        return _their_key(f"encoder.levels.{i}.blocks.{j}.conv2.weight", layout, 0)

    levels = next(i for i in count() if level(i) not in state)
    widths = [_shape(state, level(i), 4)[0] for i in range(max(levels, 1))]
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
            blocks=next(j for j in count(1) if level(0, j) not in state),
            latent_channels=latent_channels if ARCHITECTURES[layout.architecture].projections else 0,
            quantizer=QuantizerConfig(
                codebook_size=codebook_size,
                codebook_dim=codebook_dim,
                cosine=layout.cosine,
                kmeans_init=False,  # the codebook is there
                # A batch holds fewer latents than such codebooks codes: replacing the rest would destroy most of it.
                dead_code_threshold=0,
            ),
        )
    except ValueError as error:
        raise UserError(f"sizes that no tokenizer here has ({error})") from error


def _on_meta(config: TokenizerConfig, image_size: int, channels: int) -> Tokenizer:
    """Our tokenizer without memory for its weights."""
    try:
        with torch.device("meta"):
            return Tokenizer(config, image_size, channels).eval()
    except ValueError as error:
        raise UserError(f"sizes that no tokenizer here has ({error})") from error


def _shape(state: Mapping[str, Tensor], key: str, dimensions: int) -> torch.Size:
    if key not in state:
        raise UserError(f"'{key}' is missing: the file is damaged, or this is another network")
    if state[key].ndim != dimensions:
        raise UserError(f"'{key}' has shape {list(state[key].shape)}, wanted {dimensions} dimensions")
    return state[key].shape


def _float32(value: Tensor, key: str) -> Tensor:
    if not value.is_floating_point() or value.layout != torch.strided:
        raise UserError(f"'{key}' holds {value.dtype} ({value.layout}), wanted plain floating-point weights")
    return value.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _finite(value: Tensor) -> bool:
    return not value.is_meta and bool(torch.isfinite(value).all())


def _ignored(key: str) -> bool:
    return any(key.startswith(start) for start in IGNORED)


def _read_tensors(path: Path) -> Any:
    """What a file of torch.save holds, as long as that is tensors, numbers, texts and containers of them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = (
            f"holds more than tensors ({culprit[1]})"
            if culprit
            else "is damaged, no checkpoint, or holds more than tensors"
        )
        raise UserError(
            f"{path} {what}: to read it takes unpickling, which runs code from the file and is never done here; "
            "let someone who trusts it load it and save its state_dict as .safetensors"
        ) from error
    except Exception as error:  # bytes that are no pickle make the reader fail in any way
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path} is damaged or no checkpoint, and cannot be read ({reason}): get it again") from error


if __name__ == "__main__":
    sys.exit(run_cli(main))
