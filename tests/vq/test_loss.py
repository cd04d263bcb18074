import math

import pytest
import torch

from vq import loss as losses
from vq.loss import LeCam, LossConfig, adaptive_weight, linear_warmup, r1_penalty


def test_hinge_by_hand():
    # relu(1 - 2) = 0, relu(1 - 0) = 1; relu(1 - 3) = 0, relu(1 + 1) = 2: half of (0.5 + 1)
    assert losses.hinge_discriminator_loss(torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])).item() == 0.75
    assert losses.hinge_generator_loss(torch.tensor([-3.0, 1.0])).item() == 1.0


def test_non_saturating_by_hand():
    # D = sigmoid of these: 0.75 and 0.5 for real, 0.2 for fake
    real, fake = torch.tensor([math.log(3), 0.0]), torch.tensor([-math.log(4)])
    wanted = 0.5 * (-(math.log(0.75) + math.log(0.5)) / 2 - math.log(0.8))
    assert math.isclose(losses.non_saturating_discriminator_loss(real, fake).item(), wanted, rel_tol=1e-6)
    assert math.isclose(losses.non_saturating_generator_loss(fake).item(), -math.log(0.2), rel_tol=1e-6)


@pytest.mark.parametrize("kind", losses.ADVERSARIAL)
def test_discriminator_and_generator_move_logits_in_opposite_directions(kind):
    discriminator_loss, generator_loss = losses.ADVERSARIAL[kind]
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    discriminator_loss(real, fake).backward()
    assert bool((real.grad < 0).all()), "a step down the gradient must raise the logits of real images"
    assert bool((fake.grad > 0).all()), "and lower those of reconstructions"
    fake.grad = None
    generator_loss(fake).backward()
    assert bool((fake.grad < 0).all()), "the generator must raise the logits of reconstructions"


def test_adaptive_weight_is_the_ratio_of_norms_and_clamped():
    torch.testing.assert_close(
        adaptive_weight(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])), torch.tensor(5 / 2.0001)
    )
    assert adaptive_weight(torch.tensor([1e9]), torch.tensor([0.0])).item() == 1e4


@pytest.mark.parametrize(
    ("step", "warmup", "factor"),
    [(0, 4, 0), (9, 4, 0), (10, 4, 0.25), (11, 4, 0.5), (13, 4, 1), (14, 4, 1), (99, 4, 1), (9, 0, 0), (10, 0, 1)],
)
def test_linear_warmup_rises_from_0_to_1(step, warmup, factor):
    assert linear_warmup(step, start=10, warmup=warmup) == factor


def test_lecam_by_hand():
    lecam = LeCam(decay=0.9)
    lecam.update(torch.tensor(1.0), torch.tensor(-1.0))
    assert (lecam.real.item(), lecam.fake.item()) == (1, -1), "the first update sets the averages"
    lecam.update(torch.tensor(2.0), torch.tensor(0.0))
    torch.testing.assert_close(torch.stack([lecam.real, lecam.fake]), torch.tensor([1.1, -0.9]))
    # relu(0.6 + 0.9)^2 + relu(1.1 - 0.1)^2, of the means 0.6 and 0.1
    value = lecam(torch.tensor([0.2, 1.0]), torch.tensor([0.0, 0.2]))
    torch.testing.assert_close(value, torch.tensor(1.5**2 + 1.0**2))
    assert lecam(torch.tensor([-2.0]), torch.tensor([3.0])).item() == 0


def test_lecam_skips_logits_that_are_not_finite():
    lecam = LeCam(decay=0.9)
    lecam.update(torch.tensor(1.0), torch.tensor(-1.0))
    lecam.update(torch.tensor(math.nan), torch.tensor(0.0))
    assert (lecam.real.item(), lecam.fake.item()) == (1, -1)


def test_r1_of_a_linear_discriminator_is_half_its_squared_weight():
    images = torch.randn(5, 1, 2, 2, requires_grad=True)
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    penalty = r1_penalty((images * weight).sum((1, 2, 3)), images)
    torch.testing.assert_close(penalty, torch.tensor(15.0))  # (1 + 4 + 9 + 16) / 2
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight.detach())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"reconstruction": "l3"}, "l1, l2"),
        ({"perceptual": "vgg"}, "efficientnet"),
        ({"adversarial": "wasserstein"}, "non_saturating"),
        ({"adversarial_weight": -1.0}, "adversarial_weight"),
        ({"lecam_decay": 1.0}, "lecam_decay"),
        ({"r1_every": 0}, "r1_every"),
    ],
)
def test_bad_configurations(keys, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**keys)
