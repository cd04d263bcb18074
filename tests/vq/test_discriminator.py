import pytest
import torch
from torch import nn

from vq.discriminator import KINDS, BlurPool, DiscriminatorConfig, build_discriminator


def make(kind, layers=2, channels=3):
    torch.manual_seed(0)
    return build_discriminator(DiscriminatorConfig(kind=kind, width=8, layers=layers), channels).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_layer_halves_the_grid_of_logits(kind, layers, channels):
    discriminator = make(kind, layers, channels)
    logits = discriminator(torch.rand(2, channels, 32, 24))
    assert logits.shape == (2, 1, 32 // 2**layers, 24 // 2**layers)


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_no_batch_norm_which_processes_would_have_to_synchronise(kind):
    assert not any(isinstance(module, nn.BatchNorm2d) for module in make(kind).modules())


def receptive_field(kind, layers):
    """How many pixels along a side have an influence on one logit, when group norm, which sees all pixels, is left out."""
    discriminator = make(kind, layers, channels=1)
    for name, module in list(discriminator.layers.named_children()):
        if isinstance(module, nn.GroupNorm):
            discriminator.layers[int(name)] = nn.Identity()
    images = torch.rand(1, 1, 96, 96, requires_grad=True)
    logits = discriminator(images)
    (gradient,) = torch.autograd.grad(logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2], images)
    return [int((gradient[0, 0].abs().sum(1 - axis) > 0).sum()) for axis in (0, 1)]


@pytest.mark.parametrize(
    ("kind", "layers", "pixels"),
    # patchgan: layer i sees 3 * 2 ** (i - 1) more pixels, the two last convolutions 2 * 2 ** layers each.
    # blurpool: 4 for the first convolution, 5 * 2 ** (i - 1) for layer i, 4 * 2 ** layers for the last convolution.
    [("patchgan", 1, 12), ("patchgan", 2, 26), ("patchgan", 3, 54), ("blurpool", 1, 18), ("blurpool", 2, 36)],
)
def test_a_logit_sees_a_patch(kind, layers, pixels):
    assert receptive_field(kind, layers) == [pixels, pixels]


def test_blur_pooling_keeps_constants_and_ramps_and_removes_the_finest_stripes():
    pool = BlurPool(2)
    torch.testing.assert_close(pool(torch.full((1, 2, 8, 8), 3.0)), torch.full((1, 2, 4, 4), 3.0))
    ramp = torch.arange(8.0).expand(1, 2, 8, 8)
    torch.testing.assert_close(pool(ramp)[..., 1:-1, 1:-1], torch.tensor([2.5, 4.5]).expand(1, 2, 2, 2))
    stripes = torch.tensor([1.0, -1.0] * 4).expand(1, 2, 8, 8)
    assert pool(stripes)[..., 1:-1].abs().max() < 1e-6


def test_blur_pooling_is_stable_under_a_shift_by_one_pixel():
    image = torch.rand(1, 1, 33, 33)

    def change(pool):
        return (pool(image[..., :-1, 1:]) - pool(image[..., :-1, :-1]))[..., 1:-1, 1:-1].abs().mean().item()

    assert change(BlurPool(1)) < 0.5 * change(lambda x: x[..., ::2, ::2])


def test_blur_pooling_halves_in_the_precision_of_its_input():
    pooled = BlurPool(4)(torch.rand(2, 4, 6, 10, dtype=torch.bfloat16))
    assert pooled.shape == (2, 4, 3, 5)
    assert pooled.dtype == torch.bfloat16


def test_the_kernel_of_blur_pooling_is_not_stored_in_checkpoints():
    assert not any("kernel" in name for name in make("blurpool").state_dict())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "stylegan"}, "patchgan, blurpool, got 'stylegan'"),
        ({"layers": 0}, "at least 1"),
        ({"width": 0}, "at least 1"),
        ({"learning_rate_ratio": 0.0}, "learning_rate_ratio above 0"),
        ({"learning_rate_ratio": float("nan")}, "learning_rate_ratio above 0"),
    ],
)
def test_bad_configurations(keys, message):
    with pytest.raises(ValueError, match=message):
        DiscriminatorConfig(**keys)
