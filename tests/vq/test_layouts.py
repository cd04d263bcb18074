import subprocess
import sys

import pytest
import torch

from common.errors import UserError
from tests.vq.published import shapes, small_sizes
from vq.layouts import CODEBOOK, LAYOUTS, OUR_CODEBOOK, checkpoint_key, detect_layout, is_ignored
from vq.quantizer import QuantizerConfig
from vq.tokenizer import Tokenizer, TokenizerConfig

KNOWN = "taming, llamagen, maskgit, amused"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keys_show_their_layout(layout):
    keys = shapes(layout, small_sizes(layout)).keys()
    assert detect_layout(keys) is LAYOUTS[layout]
    assert detect_layout([*keys, "loss.discriminator.weight"]) is LAYOUTS[layout]


def without_codebook():
    return [key for key in shapes("taming", small_sizes("taming")) if not key.startswith("quantize.")]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (without_codebook(), "'KL autoencoder': it has no codebook"),
        ([*without_codebook(), "quantize.proj.weight", "quantize.embed.weight"], r"Gumbel.*\(quantize.proj\)"),
        ([f"first_stage_model.{key}" for key in without_codebook()], "'latent diffusion': save the tensors"),
        ([f"{OUR_CODEBOOK}.embed"], "'smalti': it needs no conversion"),
        (["transformer.h.0.weight", "transformer.h.1.weight"], "the keys begin with transformer.h; "),
        ([f"part.{i}.weight" for i in range(6)], r"begin with part.0, part.1, part.2, part.3 \.\.\.; "),
        ([], "the keys begin with nothing"),
    ],
)
def test_other_checkpoints_are_refused_with_the_reason_and_the_known_layouts(keys, message):
    with pytest.raises(UserError, match=f"{message}.*{KNOWN}"):
        detect_layout(keys)


@pytest.mark.parametrize(
    ("layout", "name", "key"),
    [
        ("taming", "encoder.conv_in.weight", "encoder.conv_in.weight"),
        ("taming", "encoder.levels.0.blocks.1.skip.bias", "encoder.down.0.block.1.nin_shortcut.bias"),
        ("taming", "encoder.middle.1.query.weight", "encoder.mid.attn_1.q.weight"),
        ("taming", "decoder.levels.0.attentions.2.out.weight", "decoder.up.3.attn.2.proj_out.weight"),
        ("taming", "decoder.levels.1.resample.1.weight", "decoder.up.2.upsample.conv.weight"),
        ("taming", "decoder.project.bias", "post_quant_conv.bias"),
        ("llamagen", "decoder.levels.0.blocks.2.conv1.weight", "decoder.conv_blocks.0.res.2.conv1.weight"),
        ("maskgit", "decoder.levels.3.blocks.0.norm1.bias", "decoder.up.0.block.0.norm1.bias"),
        ("amused", "encoder.norm_out.weight", "encoder.conv_norm_out.weight"),
        ("amused", "decoder.levels.1.blocks.0.skip.weight", "decoder.up_blocks.1.resnets.0.conv_shortcut.weight"),
    ],
)
def test_keys_of_a_model_with_four_levels(layout, name, key):
    assert checkpoint_key(name, LAYOUTS[layout], levels=4) == key


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_keys_of_our_tensors_are_those_of_the_checkpoint(layout):
    sizes = small_sizes(layout)
    config = TokenizerConfig(
        architecture=LAYOUTS[layout].architecture,
        multipliers=list(sizes.multipliers),
        blocks=sizes.blocks,
        latent_channels=0 if layout == "maskgit" else sizes.latent_channels,
        quantizer=QuantizerConfig(codebook_size=sizes.codes, codebook_dim=sizes.dim),
    )
    with torch.device("meta"):
        names = Tokenizer(config, 64, 3).state_dict()
    keys = [checkpoint_key(name, LAYOUTS[layout], 3) for name in names if not name.startswith(OUR_CODEBOOK)]
    assert sorted([*keys, CODEBOOK]) == sorted(shapes(layout, sizes))


def test_a_name_that_no_layout_has_is_an_error():
    with pytest.raises(AssertionError, match=r"'encoder\.window\.weight'"):
        checkpoint_key("encoder.window.weight", LAYOUTS["taming"], levels=4)


@pytest.mark.parametrize(
    ("key", "ignored"),
    [
        ("loss.perceptual_loss.lin0.weight", True),
        ("discriminator.0.bias", True),
        ("model_ema.decay", True),
        ("quantize.codebook_used", True),
        ("quantize.embedding.weight", False),
        ("encoder.loss.weight", False),
    ],
)
def test_keys_that_are_left_out(key, ignored):
    assert is_ignored(key) is ignored


def test_layouts_are_read_without_torch():
    command = [sys.executable, "-c", "import sys, vq.layouts; sys.exit('torch' in sys.modules)"]
    assert subprocess.run(command, check=False).returncode == 0
