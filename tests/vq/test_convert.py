import pytest
import torch
from safetensors.torch import load_file

from common.errors import UserError
from tests.vq.published import Sizes, random_state, shapes, small_state, write, write_published
from tests.vq.reference import Reference
from vq.convert import convert, convert_file
from vq.layouts import LAYOUTS, detect_layout
from vq.tokenizer import Tokenizer

# Published files: layout, sizes, number of parameters including the codebook.
PUBLISHED = {
    "taming f16 1024": ("taming", Sizes(128, (1, 1, 2, 2, 4), 2, 256, 256, 1024), 72_141_699),
    "taming f16 16384": ("taming", Sizes(128, (1, 1, 2, 2, 4), 2, 256, 256, 16384), 76_073_859),
    "latent-diffusion f8": ("taming", Sizes(128, (1, 2, 2, 4), 2, 4, 4, 16384), 67_717_295),
    "llamagen 16": ("llamagen", Sizes(128, (1, 1, 2, 2, 4), 2, 256, 8, 16384), 71_883_403),  # the paper states 72 M
    "llamagen 8": ("llamagen", Sizes(128, (1, 2, 2, 4), 2, 256, 8, 16384), 70_109_835),  # 70 M
    "maskgit": ("maskgit", Sizes(128, (1, 1, 2, 2, 4), 2, 256, 256, 1024), 54_515_587),  # 54 M
    "amused": ("amused", Sizes(128, (1, 2, 2, 4, 6), 2, 64, 64, 8192), 146_244_675),  # 146 M
}


@pytest.fixture(autouse=True)
def one_thread(threads):
    torch.set_num_threads(1)  # layers this small are faster without a second thread


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("multipliers", "blocks"), [((1, 2, 2), 2), ((1, 1, 3, 2), 1)])
def test_codes_and_images_are_those_of_the_reference(layout, multipliers, blocks, tmp_path, in_float64):
    state = small_state(layout, multipliers=multipliers, blocks=blocks)
    done = convert_file(write_published(tmp_path, layout, state), tmp_path / "out", image_size=64)
    assert done.layout.name == layout
    tokenizer = Tokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.downsample, tokenizer.image_size, tokenizer.channels) == (2 ** (len(multipliers) - 1), 64, 3)
    reference = Reference(layout, {key: value.double() for key, value in state.items()}, len(multipliers), blocks)
    images = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents, codes = reference.encode(images)
    assert len(codes.unique()) > 10, "too few codes are used: the comparison shows little"
    with torch.no_grad():
        torch.testing.assert_close(tokenizer.encoder(images), latents)
    assert torch.equal(tokenizer.encode(images), codes)
    # a codebook that the conversion normalises is rounded to float32
    torch.testing.assert_close(tokenizer.decode(codes), reference.decode(codes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_map_one_to_one(name):
    layout, sizes, parameters = PUBLISHED[name]
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes(layout, sizes).items()}
    assert sum(value.numel() for value in state.values()) == parameters
    assert detect_layout(state.keys()) is LAYOUTS[layout]
    config, converted = convert(state, LAYOUTS[layout])
    assert (config.width, tuple(config.multipliers), config.blocks) == (sizes.width, sizes.multipliers, sizes.blocks)
    assert config.downsample == 2 ** (len(sizes.multipliers) - 1)
    quantizer = config.quantizer
    assert (quantizer.kind, quantizer.codebook_size, quantizer.codebook_dim) == ("vq", sizes.codes, sizes.dim)
    assert quantizer.cosine == (layout == "llamagen")
    with torch.device("meta"):
        ours = Tokenizer(config, 256, 3).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in converted.items()}
    assert len(converted) == len(state) + 3, "one tensor for each key, and embed_avg, cluster_size and initted"


def test_agrees_with_the_class_of_diffusers(tmp_path, in_float64):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.VQModel(
        block_out_channels=(32, 64, 64), layers_per_block=1, latent_channels=12, num_vq_embeddings=48, vq_embed_dim=6,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False, lookup_from_codebook=True,
    ).eval()  # fmt: skip
    theirs.load_state_dict(random_state({key: value.shape for key, value in theirs.state_dict().items()}))
    theirs.save_pretrained(tmp_path / "theirs")
    convert_file(tmp_path / "theirs" / "diffusion_pytorch_model.safetensors", tmp_path / "out", "amused", 32)
    ours = Tokenizer.from_pretrained(tmp_path / "out")
    unit_images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        latents = theirs.encode(unit_images).latents
        codes = theirs.quantize(latents)[2][2].view(2, 8, 12)
        images = theirs.decode(codes, force_not_quantize=True, shape=(2, 8, 12, 6)).sample
    assert len(codes.unique()) > 10, "too few codes are used: the comparison shows little"
    assert torch.equal(ours.encode(unit_images * 2 - 1), codes)
    torch.testing.assert_close(ours.decode(codes), (images * 2 - 1).clamp(-1, 1))


def test_agrees_with_the_classes_of_taming_transformers(tmp_path, in_float64):
    model = pytest.importorskip("taming.modules.diffusionmodules.model")
    sizes = {
        "ch": 32, "out_ch": 3, "ch_mult": (1, 2, 2), "num_res_blocks": 2, "attn_resolutions": [16], "in_channels": 3,
        "resolution": 64, "z_channels": 12, "double_z": False,
    }  # fmt: skip
    theirs = torch.nn.ModuleDict({"encoder": model.Encoder(**sizes), "decoder": model.Decoder(**sizes)}).eval()
    theirs["quant_conv"], theirs["post_quant_conv"] = torch.nn.Conv2d(12, 6, 1), torch.nn.Conv2d(6, 12, 1)
    theirs.load_state_dict(random_state({key: value.shape for key, value in theirs.state_dict().items()}))
    codebook = torch.randn(48, 6).to(torch.float32).double()
    write(tmp_path / "last.ckpt", {"state_dict": theirs.state_dict() | {"quantize.embedding.weight": codebook}})
    convert_file(tmp_path / "last.ckpt", tmp_path / "out")
    ours = Tokenizer.from_pretrained(tmp_path / "out")
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        latents = theirs["quant_conv"](theirs["encoder"](images))
        codes = torch.cdist(latents.movedim(1, -1).flatten(0, 2), codebook).argmin(-1).view(2, 16, 16)
        decoded = theirs["decoder"](theirs["post_quant_conv"](codebook[codes].movedim(-1, 1)))
    assert len(codes.unique()) > 10, "too few codes are used: the comparison shows little"
    assert torch.equal(ours.encode(images), codes)
    torch.testing.assert_close(ours.decode(codes), decoded.clamp(-1, 1))


@pytest.mark.parametrize("layout", ["taming", "llamagen"])
def test_further_training_starts_from_the_codebook_and_keeps_unused_codes(layout, tmp_path):
    convert_file(write_published(tmp_path, layout, small_state(layout, codes=512)), tmp_path / "out")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "out")
    before = tokenizer.quantizer.quantize.codebook.clone()
    output = tokenizer.train()(torch.rand(1, 3, 32, 32) * 2 - 1)
    assert output.reconstruction.isfinite().all()
    after = tokenizer.quantizer.quantize.codebook
    used = torch.isin(torch.arange(512), output.codes)
    assert 5 < used.sum() < 100
    torch.testing.assert_close(after[~used], before[~used], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after[used], before[used], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_precision_becomes_float32(dtype, tmp_path):
    state = {key: value.to(dtype) for key, value in small_state("maskgit").items()}
    state["encoder.norm_out.bias"] = state["encoder.norm_out.weight"]  # one tensor under two keys
    convert_file(write(tmp_path / "file.pt", state), tmp_path / "out")
    written = load_file(tmp_path / "out/tokenizer/model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.float32, torch.bool}
    assert torch.equal(written["encoder.norm_out.bias"], state["encoder.norm_out.bias"].float())


def test_tensors_left_out_are_counted(tmp_path):
    done = convert_file(write_published(tmp_path, "taming", small_state("taming")), tmp_path / "out")
    assert done.ignored == {"loss.": 2, "discriminator.": 1, "model_ema.": 1}
    loaded = Tokenizer.from_pretrained(tmp_path / "out")
    assert done.parameters == sum(parameter.numel() for parameter in loaded.parameters())


def refusal(path, out, **options):
    """The message of the UserError; asserts that nothing was written."""
    before = sorted(out.rglob("*"))
    with pytest.raises(UserError) as caught:
        convert_file(path, out, **options)
    assert sorted(out.rglob("*")) == before, "a refused conversion left files"
    return str(caught.value)


BROKEN = {
    "missing": (lambda s: s.pop("decoder.up.0.block.1.conv2.bias"), "'decoder.up.0.block.1.conv2.bias' is missing"),
    "unknown": (lambda s: s.update(a=torch.ones(1)), "layout taming has no tensor 'a'"),
    "attention at another level": (
        lambda s: s.update({"encoder.down.1.attn.0.q.weight": torch.ones(1)}),
        "no tensor 'encoder.down.1.attn.0.q.weight'",
    ),
    "remapped codes": (lambda s: s.update({"quantize.used": torch.ones(9)}), "no tensor 'quantize.used'"),
    "shape": (
        lambda s: s.update({"decoder.conv_in.weight": torch.ones(64, 11, 3, 3)}),
        "'decoder.conv_in.weight' has shape [64, 11, 3, 3], wanted [64, 12, 3, 3]",
    ),
    "dimensions": (lambda s: s.update({"quantize.embedding.weight": torch.ones(9)}), "'quantize.embedding.weight' has"),
    "no first block": (lambda s: s.pop("encoder.down.0.block.0.conv2.weight"), "'encoder.down.0.block.0.conv2.weight'"),
    "integers": (
        lambda s: s.update({"quant_conv.bias": torch.ones(6, dtype=torch.int8)}),
        "'quant_conv.bias' contains torch.int8",
    ),
    "sparse": (lambda s: s.update({"quant_conv.bias": torch.ones(6).to_sparse()}), "torch.sparse"),
    "not finite": (
        lambda s: s["decoder.up.0.block.1.conv2.bias"].fill_(torch.inf),
        "'decoder.up.0.block.1.conv2.bias' contains values that are not finite",
    ),
    "codebook not finite": (
        lambda s: s["quantize.embedding.weight"][3].fill_(torch.nan),
        "'quantize.embedding.weight' contains values that are not finite",
    ),
    "no values": (lambda s: s.update({k: v.to("meta") for k, v in s.items()}), "values that are not finite"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_weights_are_named(name, tmp_path):
    change, message = BROKEN[name]
    state = small_state("taming")
    change(state)
    path = write(tmp_path / "file.pt", state)
    assert message in (found := refusal(path, tmp_path / "out")), found


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"width": 48}, "multiple of 32"),
        ({"multipliers": (1,)}, "downsample"),
        ({"multipliers": (2, 3)}, "multiples of the first"),
        ({"codes": 1}, "codebook_size"),
    ],
)
def test_sizes_that_no_architecture_has_are_refused(sizes, words, tmp_path):
    path = write(tmp_path / "file.safetensors", small_state("taming", **sizes))
    assert words in (found := refusal(path, tmp_path / "out")), found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layout": "taming"}, "layout llamagen and not taming"),
        ({"layout": "vqvae"}, "known layouts: taming, llamagen, maskgit, amused"),
        ({"image_size": 30}, "f = 4, got 30"),
        ({"image_size": 0}, "f = 4, got 0"),
    ],
)
def test_options_that_do_not_fit_the_checkpoint_are_refused(options, words, tmp_path):
    path = write(tmp_path / "file.safetensors", small_state("llamagen"))
    assert words in (found := refusal(path, tmp_path / "out", **options)), found


def test_a_tokenizer_of_ours_is_refused(tmp_path):
    convert_file(write(tmp_path / "a.safetensors", small_state("amused")), tmp_path / "ours")
    found = refusal(tmp_path / "ours/tokenizer/model.safetensors", tmp_path / "out")
    assert "needs no conversion" in found, found


def test_a_tokenizer_that_exists_is_replaced_only_with_force(tmp_path):
    out = tmp_path / "out"
    convert_file(write(tmp_path / "a.safetensors", small_state("amused")), out)
    other = write(tmp_path / "b.safetensors", small_state("taming"))
    assert "--force" in (found := refusal(other, out)), found
    assert Tokenizer.from_pretrained(out).config.architecture == "amused"
    convert_file(other, out, force=True)
    assert Tokenizer.from_pretrained(out).config.architecture == "taming"


def test_a_failed_write_leaves_the_old_tokenizer(tmp_path, monkeypatch):
    out, path = tmp_path / "out", write(tmp_path / "file.safetensors", small_state("amused"))
    convert_file(path, out)
    before = (out / "tokenizer/model.safetensors").read_bytes()

    def disk_full(state, where):
        where.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.model_dir.save_file", disk_full)
    assert "No space left" in (found := refusal(path, out, force=True)), found
    assert (out / "tokenizer/model.safetensors").read_bytes() == before
