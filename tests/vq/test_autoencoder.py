import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vq.autoencoder import (
    ARCHITECTURES,
    CONV_OUT_PADDINGS,
    Architecture,
    Decoder,
    Encoder,
    downsample,
    group_norm,
    upsample,
)


def make(name, multipliers=(1, 2), width=32, channels=3, blocks=1, dim=5):
    """Encoder and decoder; with projections there are more channels before the projection than after it."""
    torch.manual_seed(0)
    architecture = ARCHITECTURES[name]
    widths = [width * multiplier for multiplier in multipliers]
    latent_channels = 7 if architecture.projections else dim
    return tuple(part(channels, widths, blocks, latent_channels, dim, architecture) for part in (Encoder, Decoder))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_latents_are_smaller_by_f_and_images_have_the_size_of_before(name, levels, channels):
    encoder, decoder = make(name, (1, 2, 1, 2)[:levels], channels=channels)
    f = 2 ** (levels - 1)
    latents = encoder(torch.rand(2, channels, 16, 24))
    assert latents.shape == (2, 5, 16 // f, 24 // f)
    assert decoder(latents).shape == (2, channels, 16, 24)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_blocks_and_attention_of_the_levels(name):
    encoder, decoder = make(name, (1, 1, 1), blocks=2)
    extra = ARCHITECTURES[name].decoder_extra_blocks
    assert [len(level.blocks) for level in encoder.levels] == [2, 2, 2]
    assert [len(level.blocks) for level in decoder.levels] == [2 + extra] * 3
    lowest = name == "taming"  # the only one with attention, after each block of the lowest resolution
    assert [len(level.attentions) for level in encoder.levels] == [0, 0, 2 * lowest]
    assert [len(level.attentions) for level in decoder.levels] == [(2 + extra) * lowest, 0, 0]


def decoders_by_padding(architecture):
    """Decoders with the same weights, by their `conv_out_padding`."""
    decoders = {
        padding: Decoder(3, [32, 64], 1, 5, 5, architecture, conv_out_padding=padding) for padding in CONV_OUT_PADDINGS
    }
    first, *others = decoders.values()
    for other in others:
        other.load_state_dict(first.state_dict())
    return decoders


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_padding_of_the_last_convolution_changes_the_outermost_pixels_alone(name):
    latents = torch.randn(2, 5, 4, 6)
    decoders = decoders_by_padding(ARCHITECTURES[name])
    zeros, replicate = decoders["zeros"](latents), decoders["replicate"](latents)
    torch.testing.assert_close(zeros[..., 1:-1, 1:-1], replicate[..., 1:-1, 1:-1])
    differs = ~torch.isclose(zeros, replicate, atol=1e-5).all(0).all(0)
    assert differs[[0, 0, -1, -1], [0, -1, 0, -1]].all()


@pytest.mark.parametrize("size", [(1, 1), (2, 5)])
def test_replicate_makes_a_constant_image_of_constant_features_and_zeros_change_its_corners(size):
    decoders = decoders_by_padding(Architecture())
    constant = torch.randn(1, 32, 1, 1).expand(1, 32, *size)
    replicated = decoders["replicate"].conv_out(constant)
    torch.testing.assert_close(replicated, replicated[..., :1, :1].expand_as(replicated))
    assert not torch.allclose(decoders["zeros"].conv_out(constant)[..., 0, 0], replicated[..., 0, 0], atol=1e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("width", [31, 48])
def test_widths_that_do_not_divide_into_the_groups_are_refused(name, width):
    if ARCHITECTURES[name].norm_groups:
        with pytest.raises(ValueError, match=f"{width} channels do not divide into 32 groups.*a multiple of 32"):
            make(name, width=width)
    else:
        encoder, _ = make(name, width=width)
        assert encoder(torch.rand(1, 3, 8, 8)).shape == (1, 5, 4, 4)


@pytest.mark.parametrize(
    ("channels", "groups", "chosen"),
    [(128, 0, 32), (64, 0, 16), (8, 0, 2), (6, 0, 1), (2, 0, 1), (31, 0, 1), (96, 32, 32)],
)
def test_the_number_of_groups(channels, groups, chosen):
    assert group_norm(channels, groups).num_groups == chosen


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradient_checkpointing_gives_the_same_gradients(name):
    images = torch.rand(2, 3, 8, 8)
    gradients = []
    for recompute in (False, True):
        encoder, decoder = make(name)
        encoder.recompute = decoder.recompute = recompute
        decoder(encoder(images)).square().sum().backward()
        gradients.append([parameter.grad for part in (encoder, decoder) for parameter in part.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


@pytest.mark.parametrize("part", [0, 1])
def test_gradient_checkpointing_computes_layers_twice_in_train_mode_alone(part):
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    network, inputs = make("vqgan+")[part], (torch.rand(1, 3, 8, 8), torch.rand(1, 5, 4, 4))[part]
    network.levels[0].register_forward_pre_hook(count)
    for recompute, training, expected in ((False, True, 1), (True, True, 2), (True, False, 1)):
        calls, network.recompute = 0, recompute
        network.train(training)(inputs).sum().backward()
        assert calls == expected, f"recompute={recompute}, training={training}"


@pytest.mark.parametrize("name", ["amused", "maskgit"])
def test_unit_range_converts_images_on_both_sides(name):
    encoder, decoder = make(name)
    images = torch.rand(1, 3, 8, 8) * 2 - 1
    latents = encoder(images)
    inside = decoder(latents)
    encoder.unit_range = decoder.unit_range = False
    torch.testing.assert_close(encoder((images + 1) / 2), latents)
    torch.testing.assert_close(decoder(latents) * 2 - 1, inside)


@pytest.mark.parametrize("kind", ["conv", "padded_conv", "pool"])
def test_resampling_halves_and_doubles(kind):
    x = torch.rand(1, 4, 6, 10)
    assert downsample(4, kind)(x).shape == (1, 4, 3, 5)
    assert upsample(4)(x).shape == (1, 4, 12, 20)


def test_pooling_is_the_mean_of_four_pixels_and_padded_convolution_pads_right_and_below():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert downsample(1, "pool")(x).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    padded = downsample(1, "padded_conv")
    nn.init.ones_(padded.weight)
    nn.init.zeros_(padded.bias)
    # sums of 3 x 3 pixels from (0, 0), (0, 2), (2, 0) and (2, 2)
    assert padded(x).flatten().tolist() == [45, 39, 66, 50]


@pytest.mark.parametrize("on_branch", [False, True])
def test_the_shortcut_reads_the_input_or_the_branch(on_branch):
    architecture = dataclasses.replace(Architecture(), shortcut_on_branch=on_branch)
    encoder = Encoder(1, [8, 16], 1, 4, 4, architecture)
    block = encoder.levels[1].blocks[0]
    for parameter in block.conv2.parameters():
        nn.init.zeros_(parameter)  # the branch gives zeros
    nn.init.zeros_(block.skip.bias)
    x = torch.rand(1, 8, 4, 4)
    assert block.skip.in_channels == (16 if on_branch else 8)
    expected = torch.zeros(1, 16, 4, 4) if on_branch else F.conv2d(x, block.skip.weight)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_group_norm_agrees_with_torch_in_both_precisions_and_keeps_channels_last(dtype):
    norm = group_norm(8)
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 8, 6, 5).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        ours, theirs = norm(x), F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(y.float().square().sum(), x)[0] for y in (ours, theirs)]
    # In half precision, terms as large as the largest gradient are rounded before they cancel.
    rtol, atol = (1.3e-6, 1e-5) if dtype == torch.float32 else (2**-6, 2**-6 * gradients[1].abs().max().item())
    torch.testing.assert_close(*gradients, rtol=rtol, atol=atol)
