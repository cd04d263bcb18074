import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from vq.autoencoder import ARCHITECTURES, group_norm
from vq.quantizer import QuantizerConfig
from vq.tokenizer import Tokenizer, TokenizerConfig


def make(channels=1, **keys):
    torch.manual_seed(0)
    keys = {"width": 8, "blocks": 1} | keys
    config = TokenizerConfig(quantizer=QuantizerConfig(codebook_size=16, kmeans_init=False), **keys)
    return Tokenizer(config, image_size=32, channels=channels).eval()


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_ranges_and_round_trip(channels):
    tokenizer = make(channels)
    images = torch.rand(2, channels, 16, 24) * 2 - 1
    codes = tokenizer.encode(images)
    assert codes.shape == (2, 4, 6) and codes.dtype == torch.int64 and 0 <= codes.min() <= codes.max() < 16
    assert tokenizer.decode(codes).shape == images.shape and tokenizer.decode(codes).abs().max() <= 1
    torch.testing.assert_close(tokenizer(images).reconstruction.clamp(-1, 1), tokenizer.decode(codes))


@pytest.mark.parametrize("latent_channels", [0, 12])
def test_codes_lead_back_through_projections_where_the_librarys_own_would_fail(latent_channels):
    tokenizer = make(architecture="taming", width=32, latent_channels=latent_channels)
    images = torch.rand(2, 1, 16, 24) * 2 - 1
    output = tokenizer(images)
    assert tokenizer.encoder.conv_out.out_channels == (latent_channels or 8)
    torch.testing.assert_close(output.reconstruction.clamp(-1, 1), tokenizer.decode(output.codes))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("downsample", [2, 4, 8, 16, 32])
def test_every_architecture_at_every_downsampling(architecture, downsample):
    levels = downsample.bit_length()
    tokenizer = make(architecture=architecture, width=32, downsample=downsample, multipliers=[1] * levels)
    codes = tokenizer.encode(torch.rand(1, 1, 64, 32 + downsample))
    assert codes.shape == (1, 64 // downsample, 32 // downsample + 1)
    assert tokenizer.decode(codes).shape == (1, 1, 64, 32 + downsample)
    blocks = [len(level.blocks) for level in tokenizer.decoder.levels]
    assert blocks == [1 + (architecture in ("taming", "amused"))] * levels
    attentions = [len(level.attentions) for level in (*tokenizer.encoder.levels, *tokenizer.decoder.levels)]
    lowest = [0] * (levels - 1) + [1, 2] + [0] * (levels - 1)
    assert attentions == (lowest if architecture == "taming" else [0] * 2 * levels)


def test_sides_that_do_not_divide_are_extended_and_cropped():
    tokenizer = make()
    images = torch.rand(1, 1, 17, 30) * 2 - 1
    codes = tokenizer.encode(images)
    assert codes.shape == (1, 5, 8) and tokenizer.reconstruct(images).shape == images.shape
    by_hand = torch.cat([images, images[..., -1:, :].expand(-1, -1, 3, -1)], 2)
    by_hand = torch.cat([by_hand, by_hand[..., -1:].expand(-1, -1, -1, 2)], 3)
    assert torch.equal(codes, tokenizer.encode(by_hand))
    assert torch.equal(tokenizer.reconstruct(images), tokenizer.decode(codes)[..., :17, :30])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_group_norm_is_torchs_in_both_precisions_and_keeps_channels_last(dtype):
    norm = group_norm(8)
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 8, 6, 5).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        ours, theirs = norm(x), F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    assert ours.is_contiguous(memory_format=torch.channels_last) and ours.dtype == dtype
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(y.float().square().sum(), x)[0] for y in (ours, theirs)]
    # In half precision, terms as large as the largest gradient are rounded before they cancel.
    rtol, atol = (1.3e-6, 1e-5) if dtype == torch.float32 else (2**-6, 2**-6 * gradients[1].abs().max().item())
    torch.testing.assert_close(*gradients, rtol=rtol, atol=atol)


def test_gradient_checkpointing_gives_the_same_step_and_moves_the_codebook_once():
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


def test_gradient_checkpointing_keeps_less(monkeypatch):
    def kept(recompute):
        tokenizer, sizes = make(gradient_checkpointing=recompute).train(), {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = tokenizer(torch.rand(2, 1, 32, 32)).reconstruction
        del output
        return sum(sizes.values())

    assert kept(True) < 0.5 * kept(False)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_and_loaded_gives_the_same(tmp_path, architecture):
    tokenizer = make(architecture=architecture, width=32)
    tokenizer.save(tmp_path / "tokenizer", {"perceptual": "none"})
    images = torch.rand(2, 1, 16, 16)
    for again in (Tokenizer.load(tmp_path / "tokenizer"), Tokenizer.from_pretrained(tmp_path)):
        assert not again.training
        assert torch.equal(tokenizer.encode(images), again.encode(images))
        assert torch.equal(tokenizer.reconstruct(images), again.reconstruct(images))
    assert Tokenizer.from_pretrained(tmp_path / "tokenizer").codebook_size == 16


def test_a_repository_of_the_hub_is_read_without_pickle(tmp_path, monkeypatch):
    make().save(tmp_path / "tokenizer", {})
    asked = {}

    def download(repository, allow_patterns):
        asked.update(repository=repository, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert Tokenizer.from_pretrained("hf:owner/name").codebook_size == 16
    assert asked["repository"] == "owner/name"
    wanted = {
        f"{part}{name}"
        for part in ("", "tokenizer/")
        for name in ("config.json", "model.safetensors", "generation.json")
    }
    assert set(asked["patterns"]) == wanted  # neither the prior nor checkpoints


def test_directories_that_do_not_fit(tmp_path):
    with pytest.raises(UserError, match="missing"):
        Tokenizer.load(tmp_path / "tokenizer")
    with pytest.raises(UserError, match="no model directory"):
        Tokenizer.from_pretrained(tmp_path / "nowhere")
    make().save(tmp_path / "tokenizer", {})
    config = tmp_path / "tokenizer" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"width": 8', '"width": 12', 1))
    with pytest.raises(UserError, match="shape"):
        Tokenizer.load(tmp_path / "tokenizer")
    config.write_text(text.replace('"vqgan+"', '"unet"'))
    with pytest.raises(UserError, match="architecture"):
        Tokenizer.load(tmp_path / "tokenizer")


def test_pictures_that_do_not_fit():
    tokenizer = make(channels=3)
    for images, said in (
        (torch.rand(1, 1, 16, 16), "got .1, 1, 16, 16.: convert"),
        (torch.rand(3, 16, 16), "got .3, 16, 16."),
        (torch.rand(1, 3, 3, 16), "16 x 3 pixels is smaller"),
        (torch.full((1, 3, 16, 16), float("nan")), "not finite"),
        (torch.zeros((1, 3, 16, 16), dtype=torch.uint8), "floats in"),
        (torch.full((1, 3, 16, 16), float("inf")), "not finite"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            tokenizer.encode(images)
        assert "\n" not in str(caught.value)
    for codes in (torch.full((1, 4, 4), 16), torch.full((1, 4, 4), -1), torch.zeros(4, 4).long(), torch.zeros(1, 4, 4)):
        with pytest.raises(UserError, match="codes must be integers"):
            tokenizer.decode(codes)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"downsample": 3}, "downsample"),
        ({"downsample": 8}, "multipliers needs 4"),
        ({"architecture": "unet"}, "vqgan"),
        ({"architecture": "taming", "width": 48}, "multiple of 32"),
        ({"latent_channels": 8}, "leave it out"),
        ({"blocks": 0}, "at least 1"),
    ],
)
def test_bad_configurations(keys, said):
    with pytest.raises(ValueError, match=said):
        TokenizerConfig(**keys)


def test_image_sizes_that_do_not_divide_are_refused_for_training():
    with pytest.raises(UserError, match=r"set data.image_size=32$"):
        Tokenizer(TokenizerConfig(), image_size=30, channels=1)
