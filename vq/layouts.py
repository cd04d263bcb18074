"""How families of published checkpoints name their tensors, as data. This module does not import torch.

A Layout translates the tensor names of our `vq.tokenizer.Tokenizer` to the names in a checkpoint. To support another
family of checkpoints with one of our architectures, add an entry to LAYOUTS.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from common.errors import UserError

CODEBOOK = "quantize.embedding.weight"  # (K, D), the same name in all layouts
OUR_CODEBOOK = "quantizer.quantize._codebook"


@dataclass(frozen=True)
class Layout:
    """How one family of published checkpoints names its tensors.

    Attributes:
        name: what the command line and messages call the layout.
        prefixes: a checkpoint has this layout if, for each prefix, one of its keys begins with it. The first layout of
            LAYOUTS that fits is taken.
        architecture: the entry of `vq.autoencoder.ARCHITECTURES` that computes the same function.
        modules: name of a module in our tokenizer -> its name in the checkpoint. {side} is encoder or decoder, {i} is a
            level in the order of computation, {r} is the same level counted from the other end, {j} is a block.
        layers: name of a layer inside such a module -> its name in the checkpoint, where the two differ.
        cosine: whether codes are compared by direction. The codebook is then normalised in the conversion.
    """

    name: str
    prefixes: tuple[str, ...]
    architecture: str
    modules: Mapping[str, str]
    layers: Mapping[str, str] = field(default_factory=dict)
    cosine: bool = False


class Unsupported(NamedTuple):
    """A known kind of checkpoint that cannot be converted; `prefixes` as in `Layout`."""

    prefixes: tuple[str, ...]
    reason: str


ENDS = {
    "{side}.conv_in": "{side}.conv_in",
    "{side}.norm_out": "{side}.norm_out",
    "{side}.conv_out": "{side}.conv_out",
}
PROJECTIONS = {"encoder.project": "quant_conv", "decoder.project": "post_quant_conv"}
LAYERS = {"skip": "nin_shortcut", "query": "q", "key": "k", "value": "v", "out": "proj_out"}

TAMING = Layout(  # CompVis/taming-transformers and the VQ models of CompVis/latent-diffusion
    name="taming",
    prefixes=("encoder.down.0.block.", "encoder.mid.block_1.", "quantize.embedding."),
    architecture="taming",
    modules=ENDS
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
    layers=LAYERS,
)
LLAMAGEN = Layout(  # FoundationVision/LlamaGen
    name="llamagen",
    prefixes=("encoder.conv_blocks.0.res.", "encoder.mid.0.", "quantize.embedding."),
    architecture="taming",
    modules=ENDS
    | PROJECTIONS
    | {
        "{side}.middle.{j}": "{side}.mid.{j}",
        "{side}.levels.{i}.blocks.{j}": "{side}.conv_blocks.{i}.res.{j}",
        "{side}.levels.{i}.attentions.{j}": "{side}.conv_blocks.{i}.attn.{j}",
        "encoder.levels.{i}.resample": "encoder.conv_blocks.{i}.downsample.conv",
        "decoder.levels.{i}.resample.1": "decoder.conv_blocks.{i}.upsample.conv",
    },
    layers=LAYERS,
    cosine=True,
)
MASKGIT = Layout(  # MaskGIT's VQGAN as published by bytedance/1d-tokenizer and huggingface/open-muse
    name="maskgit",
    prefixes=("encoder.down.0.block.", "encoder.mid.0.", "quantize.embedding."),
    architecture="maskgit",
    modules=ENDS
    | {
        "{side}.middle.{j}": "{side}.mid.{j}",
        "encoder.levels.{i}.blocks.{j}": "encoder.down.{i}.block.{j}",
        "decoder.levels.{i}.blocks.{j}": "decoder.up.{r}.block.{j}",
        "decoder.levels.{i}.resample.1": "decoder.up.{r}.upsample_conv",
    },
    layers=LAYERS,
)
AMUSED = Layout(  # the VQModel of aMUSEd, that is diffusers' VQModel without attention
    name="amused",
    prefixes=("encoder.down_blocks.0.resnets.", "encoder.mid_block.resnets.", "quantize.embedding."),
    architecture="amused",
    modules=ENDS
    | PROJECTIONS
    | {
        "{side}.norm_out": "{side}.conv_norm_out",
        "{side}.middle.{j}": "{side}.mid_block.resnets.{j}",
        "encoder.levels.{i}.blocks.{j}": "encoder.down_blocks.{i}.resnets.{j}",
        "encoder.levels.{i}.resample": "encoder.down_blocks.{i}.downsamplers.0.conv",
        "decoder.levels.{i}.blocks.{j}": "decoder.up_blocks.{i}.resnets.{j}",
        "decoder.levels.{i}.resample.1": "decoder.up_blocks.{i}.upsamplers.0.conv",
    },
    layers={"skip": "conv_shortcut"},
)
LAYOUTS = {layout.name: layout for layout in (TAMING, LLAMAGEN, MASKGIT, AMUSED)}

# Kinds of checkpoints that are recognised and refused, by name.
UNSUPPORTED = {
    "taming's Gumbel VQGAN": Unsupported(
        ("quantize.proj.", "quantize.embed."),
        "its codes are the largest of K outputs of a convolution (quantize.proj), not the nearest of K vectors",
    ),
    "latent diffusion": Unsupported(
        ("first_stage_model.",), "save the tensors under first_stage_model as a file of their own"
    ),
    "smalti": Unsupported((OUR_CODEBOOK + ".",), "it needs no conversion"),
    "KL autoencoder": Unsupported(("encoder.conv_in.", "quant_conv."), "it has no codebook"),
}

# Prefixes of keys that encoding and decoding do not need -> their content.
IGNORED = {
    "loss.": "training losses with the discriminator and the perceptual network",
    "discriminator.": "the discriminator",
    "model_ema.": "a second copy of the weights, averaged, with other names",
    "quantize.codebook_used": "a counter of codes used in training",
}


def detect_layout(keys: Collection[str]) -> Layout:
    """The layout of a checkpoint with these keys.

    Raises:
        UserError: no layout fits, or the checkpoint is of a kind that cannot be converted.
    """

    def has_all(prefixes: Sequence[str]) -> bool:
        return all(any(key.startswith(prefix) for key in keys) for prefix in prefixes)

    for layout in LAYOUTS.values():
        if has_all(layout.prefixes):
            return layout
    known = f"layouts that can be converted: {', '.join(LAYOUTS)}"
    for name, (prefixes, reason) in UNSUPPORTED.items():
        if has_all(prefixes):
            raise UserError(f"cannot convert a checkpoint of kind '{name}': {reason}; {known}")
    starts = list(dict.fromkeys(".".join(key.split(".")[:2]) for key in keys))
    raise UserError(
        f"unknown layout, the keys begin with {', '.join(starts[:4]) or 'nothing'}{' ...' if starts[4:] else ''}; {known}"
    )


def checkpoint_key(name: str, layout: Layout, levels: int) -> str:
    """The key in a checkpoint of our tensor `name`, such as "encoder.conv_in.weight".

    Args:
        levels: number of levels of the model.
    """
    for ours, theirs in layout.modules.items():
        pattern = re.sub(r"\\{([ijr])\\}", r"(?P<\1>\\d+)", re.escape(ours))
        pattern = pattern.replace(r"\{side\}", "(?P<side>encoder|decoder)")
        match = re.fullmatch(pattern + r"\.(?P<rest>.+)", name)
        if match:
            parts = match.groupdict()
            layer, dot, kind = parts.pop("rest").rpartition(".")
            if "i" in parts:
                parts["r"] = str(levels - 1 - int(parts["i"]))
            return f"{theirs.format(**parts)}.{layout.layers.get(layer, layer)}{dot}{kind}"
    raise AssertionError(f"layout {layout.name} names no '{name}'")


def is_ignored(key: str) -> bool:
    """Whether encoding and decoding do not need the tensor `key`."""
    return any(key.startswith(prefix) for prefix in IGNORED)
