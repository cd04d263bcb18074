import json
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from images.convert import to_8_bits, to_tensor
from images.io import read_image
from vq.autoencoder import ARCHITECTURES, CONV_OUT_PADDINGS, Encoder
from vq.quantizer import QuantizerConfig
from vq.tokenizer import Tokenizer, TokenizerConfig


def make(channels=1, **keys):
    torch.manual_seed(0)
    keys = {"width": 8, "blocks": 1, "quantizer": QuantizerConfig(codebook_size=16, kmeans_init=False)} | keys
    config = TokenizerConfig(**keys)
    return Tokenizer(config, image_size=32, channels=channels).eval()


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_ranges_of_codes_and_images(channels):
    tokenizer = make(channels)
    images = torch.rand(2, channels, 16, 24) * 2 - 1
    codes = tokenizer.encode(images)
    assert codes.shape == (2, 4, 6)
    assert codes.dtype == torch.int64
    assert 0 <= codes.min() <= codes.max() < 16
    decoded = tokenizer.decode(codes)
    assert decoded.shape == images.shape
    assert decoded.abs().max() <= 1
    torch.testing.assert_close(tokenizer(images).reconstruction.clamp(-1, 1), decoded)


@pytest.mark.parametrize("latent_channels", [0, 12])
def test_codes_are_decoded_through_projections(latent_channels):
    tokenizer = make(architecture="taming", width=32, latent_channels=latent_channels)
    output = tokenizer(torch.rand(2, 1, 16, 24) * 2 - 1)
    assert tokenizer.encoder.conv_out.out_channels == (latent_channels or 8)
    torch.testing.assert_close(output.reconstruction.clamp(-1, 1), tokenizer.decode(output.codes))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("downsample", [2, 8, 32])
def test_every_architecture_encodes_and_decodes_at_every_f(architecture, downsample):
    multipliers = [1] * downsample.bit_length()
    tokenizer = make(architecture=architecture, width=32, downsample=downsample, multipliers=multipliers)
    codes = tokenizer.encode(torch.rand(1, 1, 64, 32 + downsample))
    assert codes.shape == (1, 64 // downsample, 32 // downsample + 1)
    assert tokenizer.decode(codes).shape == (1, 1, 64, 32 + downsample)


def test_sides_that_are_no_multiples_of_f_are_extended_by_their_last_pixels_and_cropped():
    tokenizer = make()
    images = torch.rand(1, 1, 17, 30) * 2 - 1
    codes = tokenizer.encode(images)
    assert codes.shape == (1, 5, 8)
    extended = torch.cat([images, images[..., -1:, :].expand(-1, -1, 3, -1)], 2)
    extended = torch.cat([extended, extended[..., -1:].expand(-1, -1, -1, 2)], 3)
    assert torch.equal(codes, tokenizer.encode(extended))
    assert torch.equal(tokenizer.reconstruct(images), tokenizer.decode(codes)[..., :17, :30])


def test_gradient_checkpointing_gives_the_same_step_and_updates_the_codebook_once():
    images = torch.rand(2, 1, 16, 16)
    results = []
    for recompute in (False, True):
        tokenizer = make(gradient_checkpointing=recompute).train()
        output = tokenizer(images)
        (output.reconstruction.square().sum() + sum(output.quantizer_losses.values())).backward()
        gradients = torch.cat([p.grad.flatten() for p in tokenizer.parameters()])
        results.append((gradients, tokenizer.quantizer.quantize._codebook.cluster_size.clone()))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def bytes_saved_for_backward(recompute):
    tokenizer, sizes = make(gradient_checkpointing=recompute).train(), {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = tokenizer(torch.rand(2, 1, 32, 32)).reconstruction
    del output
    return sum(sizes.values())


def test_gradient_checkpointing_halves_the_memory_for_the_backward_pass():
    assert bytes_saved_for_backward(True) < 0.5 * bytes_saved_for_backward(False)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loaded_tokenizer_gives_the_same_codes_and_images(tmp_path, architecture):
    tokenizer = make(architecture=architecture, width=32)
    tokenizer.save(tmp_path / "tokenizer", {"perceptual": "none"})
    images = torch.rand(2, 1, 16, 16)
    for loaded in (Tokenizer.load(tmp_path / "tokenizer"), Tokenizer.from_pretrained(tmp_path)):
        assert not loaded.training
        assert torch.equal(tokenizer.encode(images), loaded.encode(images))
        assert torch.equal(tokenizer.reconstruct(images), loaded.reconstruct(images))


@pytest.mark.parametrize("padding", CONV_OUT_PADDINGS)
def test_the_padding_of_the_last_convolution_is_stored(tmp_path, padding):
    tokenizer = make(conv_out_padding=padding)
    tokenizer.save(tmp_path / "tokenizer", {})
    loaded = Tokenizer.load(tmp_path / "tokenizer")
    assert loaded.config.conv_out_padding == padding
    codes = torch.arange(16).view(1, 4, 4)
    assert torch.equal(tokenizer.decode(codes), loaded.decode(codes))


def test_a_model_without_a_stored_padding_was_trained_with_zeros(tmp_path):
    tokenizer = make(conv_out_padding="zeros")
    tokenizer.save(tmp_path / "tokenizer", {})
    config = tmp_path / "tokenizer/config.json"
    stored = json.loads(config.read_text())
    del stored["conv_out_padding"]
    config.write_text(json.dumps(stored))
    loaded = Tokenizer.load(tmp_path / "tokenizer")
    assert loaded.config.conv_out_padding == "zeros"
    codes = torch.arange(16).view(1, 4, 4)
    assert torch.equal(tokenizer.decode(codes), loaded.decode(codes))
    assert TokenizerConfig().conv_out_padding == "replicate"  # the default of new models


@pytest.mark.parametrize("name", ["emoji.png", "emoji-other.png"])
def test_the_model_of_this_repository_reconstructs_white_corners_as_white(name):
    images = to_tensor(read_image(Path("docs/images") / name), 3)[None]
    restored = Tokenizer.from_pretrained("models/emoji64").reconstruct(images)
    for pixels in (images, restored):
        corners = to_8_bits(pixels)[..., [0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.min() >= 254


def test_the_folder_of_the_tokenizer_itself_is_accepted(tmp_path):
    make().save(tmp_path / "tokenizer", {})
    assert Tokenizer.from_pretrained(tmp_path / "tokenizer").codebook_size == 16


def test_provenance_is_stored_beside_the_configuration(tmp_path):
    make().save(tmp_path / "tokenizer", {"perceptual": "none", "steps": 3})
    stored = json.loads((tmp_path / "tokenizer/config.json").read_text())
    assert (stored["perceptual"], stored["steps"], stored["width"], stored["image_size"]) == ("none", 3, 8, 32)


def test_a_repository_of_the_hub_is_downloaded_without_pickles_and_checkpoints(tmp_path, monkeypatch):
    make().save(tmp_path / "tokenizer", {})
    asked = {}

    def download(repository, allow_patterns):
        asked.update(repository=repository, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert Tokenizer.from_pretrained("hf:owner/name").codebook_size == 16
    assert asked["repository"] == "owner/name"
    names = ("config.json", "model.safetensors", "generation.json")
    assert set(asked["patterns"]) == {f"{folder}{name}" for folder in ("", "tokenizer/") for name in names}


def test_missing_directories_are_refused(tmp_path):
    with pytest.raises(UserError, match="missing"):
        Tokenizer.load(tmp_path / "tokenizer")
    with pytest.raises(UserError, match="no model directory"):
        Tokenizer.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("stored", "changed", "message"),
    [('"width": 8', '"width": 12', "shape"), ('"vqgan+"', '"unet"', "architecture"), ('"width": 8,', "", "width")],
)
def test_a_configuration_that_does_not_fit_the_weights_is_refused(tmp_path, stored, changed, message):
    make().save(tmp_path / "tokenizer", {})
    config = tmp_path / "tokenizer" / "config.json"
    text = config.read_text()
    assert stored in text
    config.write_text(text.replace(stored, changed, 1))
    with pytest.raises(UserError, match=message):
        Tokenizer.load(tmp_path / "tokenizer")


@pytest.mark.parametrize(
    ("key", "value"),
    [("image_size", value) for value in (0, -64, 10**9, 18, "32", True)]
    + [("channels", value) for value in (0, 2, 10**9, None)]
    + [("blocks", value) for value in (1, 3, 100, 10**5)]
    + [("width", value) for value in (16, 10**9, 8.0)]
    + [("downsample", 2**40), ("multipliers", [1, 2]), ("multipliers", [1, 2, 10**9]), ("latent_channels", -1)],
)
def test_a_stored_value_that_does_not_fit_is_one_line_before_a_network_is_built(tmp_path, monkeypatch, key, value):
    make(blocks=2).save(tmp_path / "tokenizer", {})
    config = tmp_path / "tokenizer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))

    def build_on_meta(*args, **kwargs):
        assert torch.get_default_device().type == "meta", "a network was built before its shapes were compared"
        return encoder(*args, **kwargs)

    encoder = Encoder
    monkeypatch.setattr("vq.tokenizer.Encoder", build_on_meta)
    with pytest.raises(UserError):
        Tokenizer.load(tmp_path / "tokenizer")


@pytest.mark.parametrize("kind", ["simvq", "fsq", "lfq", "bsq"])
def test_every_quantizer_is_compared_and_loaded(tmp_path, kind):
    keys = {"kind": kind, "codebook_size": 16} | ({"levels": [4, 4]} if kind == "fsq" else {})
    tokenizer = make(quantizer=QuantizerConfig(**keys))
    tokenizer.save(tmp_path / "tokenizer", {})
    loaded = Tokenizer.load(tmp_path / "tokenizer")
    images = torch.rand(2, 1, 16, 16)
    assert torch.equal(tokenizer.reconstruct(images), loaded.reconstruct(images))
    assert all(torch.equal(a, b) for a, b in zip(tokenizer.buffers(), loaded.buffers(), strict=True))


@pytest.mark.parametrize(
    ("part", "message"), [("encoder", "latents are not finite"), ("decoder", "images are not finite")]
)
def test_weights_that_explode_are_one_line_where_they_are_used(part, message):
    tokenizer = make()
    with torch.no_grad():
        for parameter in getattr(tokenizer, part).parameters():
            parameter.fill_(1e30)
    with pytest.raises(UserError, match=message):
        tokenizer.reconstruct(torch.rand(1, 1, 16, 16))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(1, 1, 16, 16), r"got \(1, 1, 16, 16\): convert them to 3 channels"),
        (torch.rand(3, 16, 16), r"got \(3, 16, 16\)"),
        (torch.rand(1, 3, 3, 16), "16 x 3 pixels is smaller"),
        (torch.zeros((1, 3, 16, 16), dtype=torch.uint8), "floats in"),
        (torch.full((1, 3, 16, 16), float("nan")), "not finite"),
        (torch.full((1, 3, 16, 16), float("inf")), "not finite"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_one_line(images, message):
    with pytest.raises(UserError, match=message) as caught:
        make(channels=3).encode(images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "codes",
    [torch.full((1, 4, 4), 16), torch.full((1, 4, 4), -1), torch.zeros(4, 4).long(), torch.zeros(1, 4, 4)],
    ids=["above the codebook", "negative", "two dimensions", "floats"],
)
def test_codes_that_do_not_fit_are_refused(codes):
    with pytest.raises(UserError, match="codes must be integers"):
        make().decode(codes)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"downsample": 3}, "downsample"),
        ({"downsample": 8}, "multipliers needs 4"),
        ({"architecture": "unet"}, "vqgan"),
        ({"architecture": "taming", "width": 48}, "multiple of 32"),
        ({"latent_channels": 8}, "set tokenizer.latent_channels=0"),
        ({"conv_out_padding": "mirror"}, "replicate or zeros, got 'mirror'"),
        ({"blocks": 0}, "between 1 and"),
    ],
)
def test_bad_configurations(keys, message):
    with pytest.raises(ValueError, match=message):
        TokenizerConfig(**keys)


def test_training_images_whose_side_is_no_multiple_of_f_are_refused():
    with pytest.raises(UserError, match=r"set data.image_size=32$"):
        Tokenizer(TokenizerConfig(), image_size=30, channels=1)
