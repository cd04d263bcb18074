"""Conversion of published tokenizers. The reference here computes straight from their own keys, with plain functions."""

import json
import os
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from common.errors import UserError, run_cli
from vq.pretrained import LAYOUTS, convert, convert_file, detect_layout, main
from vq.tokenizer import Tokenizer

# A layout's own names: levels of the encoder (block, attention, resampling), of the decoder, the middle, the shortcut, the
# last norm. Decoders of the first two number their levels from full size, against the order of computing.
NAMES = {
    "taming": (
        ("down.{}.block.{}", "down.{}.attn.{}", "down.{}.downsample.conv"),
        ("up.{}.block.{}", "up.{}.attn.{}", "up.{}.upsample.conv"),
        ("mid.block_1", "mid.attn_1", "mid.block_2"), "nin_shortcut", "norm_out",
    ),
    "maskgit": (
        ("down.{}.block.{}", "", ""), ("up.{}.block.{}", "", "up.{}.upsample_conv"),
        (), "nin_shortcut", "norm_out",
    ),
    "llamagen": (
        ("conv_blocks.{}.res.{}", "conv_blocks.{}.attn.{}", "conv_blocks.{}.downsample.conv"),
        ("conv_blocks.{}.res.{}", "conv_blocks.{}.attn.{}", "conv_blocks.{}.upsample.conv"),
        ("mid.0", "mid.1", "mid.2"), "nin_shortcut", "norm_out",
    ),
    "amused": (
        ("down_blocks.{}.resnets.{}", "", "down_blocks.{}.downsamplers.0.conv"),
        ("up_blocks.{}.resnets.{}", "", "up_blocks.{}.upsamplers.0.conv"),
        ("mid_block.resnets.0", "mid_block.resnets.1"), "conv_shortcut", "conv_norm_out",
    ),
}  # fmt: skip


def names_of(layout, blocks):
    """As in NAMES; MaskGIT's middle has as many blocks as a level."""
    down, up, middle, shortcut, last = NAMES[layout]
    return down, up, middle or tuple(f"mid.{j}" for j in range(blocks)), shortcut, last


# ch, ch_mult, num_res_blocks, z_channels, embed_dim, n_embed of the published files; parameters, codebook included.
PUBLISHED = {
    "taming f16 1024": ("taming", 128, (1, 1, 2, 2, 4), 2, 256, 256, 1024, 72_141_699),
    "taming f16 16384": ("taming", 128, (1, 1, 2, 2, 4), 2, 256, 256, 16384, 76_073_859),
    "latent-diffusion f8": ("taming", 128, (1, 2, 2, 4), 2, 4, 4, 16384, 67_717_295),
    "llamagen 16": ("llamagen", 128, (1, 1, 2, 2, 4), 2, 256, 8, 16384, 71_883_403),  # the paper says 72 M
    "llamagen 8": ("llamagen", 128, (1, 2, 2, 4), 2, 256, 8, 16384, 70_109_835),  # 70 M
    "maskgit": ("maskgit", 128, (1, 1, 2, 2, 4), 2, 256, 256, 1024, 54_515_587),  # 54 M
    "amused": ("amused", 128, (1, 2, 2, 4, 6), 2, 64, 64, 8192, 146_244_675),  # 146 M
}


def shapes(layout, ch, mult, blocks, z, dim, codes):
    """Every key of a published checkpoint of these sizes, with its shape."""
    (block, attention, down), (up_block, up_attention, up), middle, shortcut, last = names_of(layout, blocks)
    found, bias, current = {}, layout != "maskgit", ch

    def conv(key, channels_in, channels_out, kernel=3, bias=True):
        found[f"{key}.weight"] = (channels_out, channels_in, kernel, kernel)
        if bias:
            found[f"{key}.bias"] = (channels_out,)

    def norm(key, channels):
        found[f"{key}.weight"] = found[f"{key}.bias"] = (channels,)

    def residual(key, channels_in, channels_out=None):
        channels_out = channels_out or channels_in
        norm(f"{key}.norm1", channels_in)
        conv(f"{key}.conv1", channels_in, channels_out, 3, bias)
        norm(f"{key}.norm2", channels_out)
        conv(f"{key}.conv2", channels_out, channels_out, 3, bias)
        if channels_in != channels_out:
            conv(f"{key}.{shortcut}", channels_in if bias else channels_out, channels_out, 1, bias)

    def attend(key, channels):
        norm(f"{key}.norm", channels)
        for name in ("q", "k", "v", "proj_out"):
            conv(f"{key}.{name}", channels, channels, 1)

    def centre(side, channels):
        for name in middle:
            (attend if name in ("mid.attn_1", "mid.1") and len(middle) == 3 else residual)(f"{side}.{name}", channels)

    conv("encoder.conv_in", 3, ch, 3, bias)
    for i, times in enumerate(mult):
        for j in range(blocks):
            residual("encoder." + block.format(i, j), current, ch * times)
            current = ch * times
            if attention and i == len(mult) - 1:
                attend("encoder." + attention.format(i, j), current)
        if down and i < len(mult) - 1:
            conv("encoder." + down.format(i), current, current)
    centre("encoder", current)
    norm(f"encoder.{last}", current)
    conv("encoder.conv_out", current, z, 3 if bias else 1)
    conv("decoder.conv_in", z, current)
    centre("decoder", current)
    for i, times in enumerate(reversed(mult)):
        number = i if layout in ("llamagen", "amused") else len(mult) - 1 - i
        for j in range(blocks + bias):
            residual("decoder." + up_block.format(number, j), current, ch * times)
            current = ch * times
            if up_attention and i == 0:
                attend("decoder." + up_attention.format(number, j), current)
        if i < len(mult) - 1:
            conv("decoder." + up.format(number), current, current)
    norm(f"decoder.{last}", current)
    conv("decoder.conv_out", current, 3)
    if bias:
        conv("quant_conv", z, dim, 1)
        conv("post_quant_conv", dim, z, 1)
    found["quantize.embedding.weight"] = (codes, dim)
    return found


class Reference:
    """What a checkpoint computes, from its own keys. Pictures in [-1, 1]."""

    def __init__(self, layout, state, levels, blocks):
        self.layout, self.state, self.levels, self.blocks = layout, state, levels, blocks
        self.down, self.up, self.middle, self.shortcut, self.last = names_of(layout, blocks)
        self.codebook = state["quantize.embedding.weight"]
        if layout == "llamagen":
            self.codebook = self.codebook / self.codebook.norm(dim=1, keepdim=True)

    def conv(self, x, key, **how):
        return F.conv2d(x, self.state[f"{key}.weight"], self.state.get(f"{key}.bias"), **how)

    def norm(self, x, key):
        return F.group_norm(x, 32, self.state[f"{key}.weight"], self.state[f"{key}.bias"], 1e-6)

    def residual(self, x, key):
        h = self.conv(F.silu(self.norm(x, f"{key}.norm1")), f"{key}.conv1", padding=1)
        h = self.conv(F.silu(self.norm(h, f"{key}.norm2")), f"{key}.conv2", padding=1)
        if f"{key}.{self.shortcut}.weight" in self.state:
            x = self.conv(h if self.layout == "maskgit" else x, f"{key}.{self.shortcut}")
        return x + h

    def attend(self, x, key):
        h = self.norm(x, f"{key}.norm")
        q, k, v = (self.conv(h, f"{key}.{name}").flatten(2) for name in "qkv")
        weights = torch.einsum("bcq,bck->bqk", q, k).div(q.shape[1] ** 0.5).softmax(-1)
        return x + self.conv(torch.einsum("bqk,bck->bcq", weights, v).view_as(x), f"{key}.proj_out")

    def layer(self, x, key):
        return self.attend(x, key) if f"{key}.q.weight" in self.state else self.residual(x, key)

    def level(self, x, side, names, number, blocks):
        for j in range(blocks):
            x = self.residual(x, f"{side}.{names[0].format(number, j)}")
            attention = f"{side}.{names[1].format(number, j)}"
            if f"{attention}.q.weight" in self.state:
                x = self.attend(x, attention)
        return x

    def encode(self, images):
        x = self.conv(
            images / 2 + 0.5 if self.layout in ("maskgit", "amused") else images, "encoder.conv_in", padding=1
        )
        for i in range(self.levels):
            x = self.level(x, "encoder", self.down, i, self.blocks)
            if i < self.levels - 1:
                if self.layout == "maskgit":
                    x = F.avg_pool2d(x, 2)
                else:
                    x = self.conv(F.pad(x, (0, 1, 0, 1)), "encoder." + self.down[2].format(i), stride=2)
        for name in self.middle:
            x = self.layer(x, f"encoder.{name}")
        x = F.silu(self.norm(x, f"encoder.{self.last}"))
        if self.layout == "maskgit":
            latents = self.conv(x, "encoder.conv_out")
        else:
            latents = self.conv(self.conv(x, "encoder.conv_out", padding=1), "quant_conv")
        points = latents.movedim(1, -1)
        if self.layout == "llamagen":
            points = points / points.norm(dim=-1, keepdim=True)
        distances = (points[..., None, :] - self.codebook).square().sum(-1)
        return latents, distances.argmin(-1)

    def decode(self, codes):
        x = self.codebook[codes].movedim(-1, 1)
        if self.layout != "maskgit":
            x = self.conv(x, "post_quant_conv")
        x = self.conv(x, "decoder.conv_in", padding=1)
        for name in self.middle:
            x = self.layer(x, f"decoder.{name}")
        for i in range(self.levels):
            number = i if self.layout in ("llamagen", "amused") else self.levels - 1 - i
            x = self.level(x, "decoder", self.up, number, self.blocks + (self.layout != "maskgit"))
            if i < self.levels - 1:
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                x = self.conv(x, "decoder." + self.up[2].format(number), padding=1)
        x = self.conv(F.silu(self.norm(x, f"decoder.{self.last}")), "decoder.conv_out", padding=1)
        return (x * 2 - 1 if self.layout in ("maskgit", "amused") else x).clamp(-1, 1)


def fill(found, seed=0):
    """Random float32 weights of these shapes, of sizes that keep signals alive."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for key, shape in found.items():
        value = torch.randn(shape, generator=generator, dtype=torch.float32)
        if len(shape) == 4:
            value = value / (shape[1] * shape[2] * shape[3]) ** 0.5
        elif len(shape) == 1:
            value = value / 5 + key.endswith("weight")
        state[key] = value
    return state


SMALL = {"ch": 32, "mult": (1, 2, 2), "blocks": 2, "z": 12, "dim": 6, "codes": 48}


def small(layout, **sizes):
    sizes = SMALL | ({"dim": 12} if layout == "maskgit" else {}) | sizes
    return fill(shapes(layout, *sizes.values()))


def write(path, state):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def published_file(folder, layout, state):
    """`state` in the kind of file that the project publishes, with what else lies in there."""
    more = {"model_ema.encoderconv_inweight": torch.zeros(1), "discriminator.0.bias": torch.zeros(1)}
    if layout == "taming":
        others = {"loss.discriminator.main.0.weight": torch.ones(2), "loss.perceptual_loss.lin0.weight": torch.ones(2)}
        return write(folder / "last.ckpt", {"epoch": 3, "state_dict": state | others | more})
    if layout == "llamagen":
        state = state | {"quantize.codebook_used": torch.zeros(65536)}
        worse = {key: torch.zeros_like(value) for key, value in state.items()}
        return write(folder / "vq_ds16_c2i.pt", {"model": worse, "ema": state, "steps": 5})
    return write(folder / {"maskgit": "vqgan.bin", "amused": "diffusion_pytorch_model.safetensors"}[layout], state)


@pytest.fixture(autouse=True)
def one_thread(threads):
    torch.set_num_threads(1)  # layers this small are faster without a second one


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("mult", "blocks"), [((1, 2, 2), 2), ((1, 1, 3, 2), 1)])
def test_codes_and_pictures_are_those_of_the_reference(layout, mult, blocks, tmp_path, in_float64):
    state = small(layout, mult=mult, blocks=blocks)
    done = convert_file(published_file(tmp_path, layout, state), tmp_path / "out", image_size=64)
    assert done.layout.name == layout
    tokenizer = Tokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.downsample, tokenizer.image_size, tokenizer.channels) == (2 ** (len(mult) - 1), 64, 3)
    reference = Reference(layout, {key: value.double() for key, value in state.items()}, len(mult), blocks)
    images = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents, codes = reference.encode(images)
    with torch.no_grad():
        torch.testing.assert_close(tokenizer.encoder(images), latents)
    assert len(codes.unique()) > 10  # the comparison says something
    assert torch.equal(tokenizer.encode(images), codes)
    # a codebook that the conversion normalises is rounded to float32
    torch.testing.assert_close(tokenizer.decode(codes), reference.decode(codes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_map_one_to_one(name):
    layout, ch, mult, blocks, z, dim, codes, parameters = PUBLISHED[name]
    found = shapes(layout, ch, mult, blocks, z, dim, codes)
    state = {key: torch.empty(shape, device="meta") for key, shape in found.items()}
    assert sum(value.numel() for value in state.values()) == parameters
    assert detect_layout(state) is LAYOUTS[layout]
    config, converted = convert(state, LAYOUTS[layout])
    assert (config.width, tuple(config.multipliers), config.blocks) == (ch, mult, blocks)
    assert config.downsample == 2 ** (len(mult) - 1)
    quantizer = config.quantizer
    assert (quantizer.kind, quantizer.codebook_size, quantizer.codebook_dim) == ("vq", codes, dim)
    assert quantizer.cosine == (layout == "llamagen")
    with torch.device("meta"):
        own = Tokenizer(config, 256, 3).state_dict()
    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in converted.items()}
    assert len(converted) == len(state) + 3  # beside embed: embed_avg, cluster_size, initted


def test_agrees_with_diffusers_own_class(tmp_path, in_float64):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.VQModel(
        block_out_channels=(32, 64, 64), layers_per_block=1, latent_channels=12, num_vq_embeddings=48, vq_embed_dim=6,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False, lookup_from_codebook=True,
    ).eval()  # fmt: skip
    theirs.load_state_dict(fill({key: value.shape for key, value in theirs.state_dict().items()}))
    theirs.save_pretrained(tmp_path / "theirs")
    convert_file(tmp_path / "theirs" / "diffusion_pytorch_model.safetensors", tmp_path / "out", "amused", 32)
    ours = Tokenizer.from_pretrained(tmp_path / "out")
    unit = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        latents = theirs.encode(unit).latents
        codes = theirs.quantize(latents)[2][2].view(2, 8, 12)
        pictures = theirs.decode(codes, force_not_quantize=True, shape=(2, 8, 12, 6)).sample
    assert len(codes.unique()) > 10 and torch.equal(ours.encode(unit * 2 - 1), codes)
    torch.testing.assert_close(ours.decode(codes), (pictures * 2 - 1).clamp(-1, 1))


def test_agrees_with_tamings_own_classes(tmp_path, in_float64):
    model = pytest.importorskip("taming.modules.diffusionmodules.model")
    sizes = {
        "ch": 32, "out_ch": 3, "ch_mult": (1, 2, 2), "num_res_blocks": 2, "attn_resolutions": [16], "in_channels": 3,
        "resolution": 64, "z_channels": 12, "double_z": False,
    }  # fmt: skip
    theirs = torch.nn.ModuleDict({"encoder": model.Encoder(**sizes), "decoder": model.Decoder(**sizes)}).eval()
    theirs["quant_conv"], theirs["post_quant_conv"] = torch.nn.Conv2d(12, 6, 1), torch.nn.Conv2d(6, 12, 1)
    theirs.load_state_dict(fill({key: value.shape for key, value in theirs.state_dict().items()}))
    codebook = torch.randn(48, 6).to(torch.float32).double()
    write(tmp_path / "last.ckpt", {"state_dict": theirs.state_dict() | {"quantize.embedding.weight": codebook}})
    convert_file(tmp_path / "last.ckpt", tmp_path / "out")
    ours = Tokenizer.from_pretrained(tmp_path / "out")
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        latents = theirs["quant_conv"](theirs["encoder"](images))
        codes = torch.cdist(latents.movedim(1, -1).flatten(0, 2), codebook).argmin(-1).view(2, 16, 16)
        pictures = theirs["decoder"](theirs["post_quant_conv"](codebook[codes].movedim(-1, 1)))
    assert len(codes.unique()) > 10 and torch.equal(ours.encode(images), codes)
    torch.testing.assert_close(ours.decode(codes), pictures.clamp(-1, 1))


@pytest.mark.parametrize("layout", ["taming", "llamagen"])
def test_training_goes_on_from_the_codebook_as_it_is(layout, tmp_path):
    convert_file(published_file(tmp_path, layout, small(layout, codes=512)), tmp_path / "out")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "out")
    before = tokenizer.quantizer.quantize.codebook.clone()
    output = tokenizer.train()(torch.rand(1, 3, 32, 32) * 2 - 1)
    assert output.reconstruction.isfinite().all()
    after = tokenizer.quantizer.quantize.codebook
    used = torch.isin(torch.arange(512), output.codes)
    assert 5 < used.sum() < 100
    torch.testing.assert_close(after[~used], before[~used], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after[used], before[used], rtol=1e-4, atol=1e-4)


def test_command_line(tmp_path, capsys):
    path, out = published_file(tmp_path, "taming", small("taming")), tmp_path / "new" / "model"
    command = [sys.executable, "-m", "vq.pretrained", str(path), "--out", str(out), "--image-size", "128"]
    done = subprocess.run([*command, "--layout", "taming"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for start, number in (("loss.", 2), ("model_ema.", 1), ("discriminator.", 1)):
        assert f"left out {number} tensors {start}*" in done.stdout
    assert "layout taming, f = 4, 48 codes of 6 numbers" in done.stdout
    config = json.loads((out / "tokenizer/config.json").read_text())
    assert config["converted_from"] == {"layout": "taming", "file": "last.ckpt"} and config["image_size"] == 128
    # a second tokenizer does not replace the first by chance
    other = write(tmp_path / "other.safetensors", small("amused"))
    arguments = [str(other), "--out", str(out)]
    assert (
        "--force" in refused(capsys, arguments, out)
        and json.loads((out / "tokenizer/config.json").read_text()) == config
    )
    assert run_cli(main, [*arguments, "--force"]) == 0
    assert json.loads((out / "tokenizer/config.json").read_text())["converted_from"]["layout"] == "amused"


def refused(capsys, arguments, out):
    """The one line of a refusal, which leaves nothing behind."""
    held = sorted(out.rglob("*")) if out.exists() else []
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be a second line
        try:
            code = run_cli(main, arguments)
        except SystemExit as stopped:  # argparse
            code = stopped.code
    captured = capsys.readouterr()
    assert code == 2 and captured.out == "" and captured.err.endswith("\n") and captured.err.count("\n") == 1
    assert (sorted(out.rglob("*")) if out.exists() else []) == held
    return captured.err


class RunsCode:
    """A pickle of this makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_pickles_are_never_executed(protocol, tmp_path, capsys):
    trap, path = tmp_path / "trap", tmp_path / "last.ckpt"
    content = {"state_dict": small("taming"), "callbacks": RunsCode(trap)}
    if protocol is None:
        torch.save(content, path)
    else:  # a bare pickle; from protocol 4 on the reader gives up before it knows what is asked for
        path.write_bytes(pickle.dumps(content | {"state_dict": {}}, protocol))
    line = refused(capsys, [str(path), "--out", str(tmp_path / "out")], tmp_path / "out")
    assert "unpickling" in line and ".safetensors" in line and not trap.exists()
    assert "more than tensors (posix.mkdir)" in line or protocol == 4
    torch.load(path, weights_only=False) if protocol is None else pickle.loads(path.read_bytes())
    assert trap.exists()  # it would have run


def test_layouts_that_do_not_fit_are_named(tmp_path, capsys):
    def line(state, *more):
        path = write(tmp_path / "file.safetensors", state)
        return refused(capsys, [str(path), "--out", str(tmp_path / "out"), *more], tmp_path / "out")

    known = "taming, llamagen, maskgit, amused"
    found = line(small("llamagen"), "--layout", "taming")
    assert "is llamagen and not taming" in found and known in found
    gumbel = {key: value for key, value in small("taming").items() if not key.startswith("quantize.")}
    kl = line(gumbel)
    assert "KL autoencoder" in kl and known in kl
    gumbel |= {"quantize.proj.weight": torch.ones(48, 12, 1, 1), "quantize.embed.weight": torch.ones(48, 6)}
    found = line(gumbel)
    assert "Gumbel" in found and "quantize.proj" in found and known in found
    found = line({f"first_stage_model.{key}": value for key, value in small("taming").items()})
    assert "latent diffusion" in found and known in found
    found = line({"transformer.h.0.weight": torch.ones(1)})
    assert "transformer.h" in found and known in found
    convert_file(write(tmp_path / "a.safetensors", small("amused")), tmp_path / "ours")
    assert "ours already" in line(load_file(tmp_path / "ours/tokenizer/model.safetensors"))
    with pytest.raises(UserError, match=known):
        convert_file(tmp_path / "a.safetensors", tmp_path / "out", layout="vqvae")


BROKEN = {
    "missing": (lambda s: s.pop("decoder.up.0.block.1.conv2.bias"), "'decoder.up.0.block.1.conv2.bias' is missing"),
    "left over": (lambda s: s.update(a=torch.ones(1)), "'a' has no place in layout taming"),
    "attention elsewhere": (
        lambda s: s.update({"encoder.down.1.attn.0.q.weight": torch.ones(1)}),
        "'encoder.down.1.attn.0.q.weight' has no place",
    ),
    "remapped codes": (lambda s: s.update({"quantize.used": torch.ones(9)}), "'quantize.used' has no place"),
    "shape": (
        lambda s: s.update({"decoder.conv_in.weight": torch.ones(64, 11, 3, 3)}),
        "'decoder.conv_in.weight' has shape [64, 11, 3, 3], wanted [64, 12, 3, 3]",
    ),
    "dimensions": (lambda s: s.update({"quantize.embedding.weight": torch.ones(9)}), "'quantize.embedding.weight' has"),
    "no first block": (lambda s: s.pop("encoder.down.0.block.0.conv2.weight"), "'encoder.down.0.block.0.conv2.weight'"),
    "integers": (
        lambda s: s.update({"quant_conv.bias": torch.ones(6, dtype=torch.int8)}),
        "'quant_conv.bias' holds torch.int8",
    ),
    "not finite": (
        lambda s: s["decoder.up.0.block.1.conv2.bias"].fill_(torch.inf),
        "'decoder.up.0.block.1.conv2.bias' holds values that are not finite",
    ),
    "not finite codebook": (
        lambda s: s["quantize.embedding.weight"][3].fill_(torch.nan),
        "'quantize.embedding.weight'",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_weights_are_named(name, tmp_path, capsys):
    change, expected = BROKEN[name]
    state = small("taming")
    change(state)
    path = write(tmp_path / "file.safetensors", state)
    assert expected in refused(capsys, [str(path), "--out", str(tmp_path / "out")], tmp_path / "out")


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"ch": 48}, "multiple of 32"),
        ({"mult": (1,)}, "downsample"),
        ({"mult": (2, 3)}, "multiples of the first"),
        ({"codes": 1}, "codebook_size"),
    ],
)
def test_sizes_that_do_not_fit(sizes, words, tmp_path, capsys):
    path = write(tmp_path / "file.safetensors", small("taming", **sizes))
    assert words in refused(capsys, [str(path), "--out", str(tmp_path / "out")], tmp_path / "out")


def test_files_and_arguments_that_cannot_be_used(tmp_path, capsys):
    out, good = tmp_path / "out", write(tmp_path / "good.pt", small("taming"))

    def line(name, content=None, *more):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        return refused(capsys, [str(path), "--out", str(out), *more], out)

    assert "not there" in line("none.pt") and "folder" in line(".")
    assert ".safetensors" in line("weights.h5", b"x") and ".ckpt" in line("weights.h5", b"x")
    whole = good.read_bytes()
    for name in ("a.pt", "b.ckpt", "c.bin", "d.pth", "e.safetensors"):
        for content in (b"", b"<html>not found</html>", whole[: len(whole) // 2], bytes(range(256)) * 9):
            assert "damaged" in line(name, content)
    assert "no state dict but list" in line("list.pt", [torch.ones(1)])
    assert "no state dict" in line("empty.pt", {"state_dict": {}})
    assert "'step', which is not a named tensor" in line("number.pt", small("taming") | {"step": 3})
    assert "not finite" in line("meta.pt", {key: value.to("meta") for key, value in small("taming").items()})
    assert "sparse" in line("sparse.pt", small("taming") | {"quant_conv.bias": torch.ones(6).to_sparse()})
    assert "f = 4, got 30" in line("good.pt", None, "--image-size", "30")
    assert "got 0" in line("good.pt", None, "--image-size", "0")
    assert "invalid int" in line("good.pt", None, "--image-size", "big")
    assert "invalid choice: 'dalle'" in line("good.pt", None, "--layout", "dalle")
    out.write_text("a file in the way")
    assert "cannot write" in line("good.pt")


def test_nothing_is_half_written(tmp_path, capsys, monkeypatch):
    out, path = tmp_path / "out", write(tmp_path / "file.safetensors", small("amused"))
    convert_file(path, out)
    before = (out / "tokenizer/model.safetensors").read_bytes()

    def full(state, where):
        where.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.model_dir.save_file", full)
    assert "No space left" in refused(capsys, [str(path), "--out", str(out), "--force"], out)
    assert (out / "tokenizer/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_precision_becomes_float32(dtype, tmp_path):
    state = {key: value.to(dtype) for key, value in small("maskgit").items()}
    state["encoder.norm_out.bias"] = state["encoder.norm_out.weight"]  # one tensor under two keys
    convert_file(write(tmp_path / "file.pt", state), tmp_path / "out")
    written = load_file(tmp_path / "out/tokenizer/model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.float32, torch.bool}
    assert torch.equal(written["encoder.norm_out.bias"], state["encoder.norm_out.bias"].float())
