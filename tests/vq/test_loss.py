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
def test_each_side_is_pulled_its_own_way(kind):
    discriminate, generate = losses.ADVERSARIAL[kind]
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    discriminate(real, fake).backward()
    assert bool((real.grad < 0).all()) and bool((fake.grad > 0).all())  # real answers are to rise, fake ones to fall
    fake.grad = None
    generate(fake).backward()
    assert bool((fake.grad < 0).all())


def test_adaptive_weight_is_the_ratio_of_norms_and_clamped():
    torch.testing.assert_close(
        adaptive_weight(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])), torch.tensor(5 / 2.0001)
    )
    assert adaptive_weight(torch.tensor([1e9]), torch.tensor([0.0])).item() == 1e4


def test_linear_warmup_rises_from_zero_to_one():
    assert [linear_warmup(step, 10, 4) for step in (0, 9, 10, 11, 13, 14, 99)] == [0, 0, 0.25, 0.5, 1, 1, 1]
    assert [linear_warmup(step, 10, 0) for step in (9, 10)] == [0, 1]


def test_lecam_by_hand():
    lecam = LeCam(decay=0.9)
    lecam.update(torch.tensor(1.0), torch.tensor(-1.0))
    assert (lecam.real.item(), lecam.fake.item()) == (1, -1)  # the first call sets
    lecam.update(torch.tensor(2.0), torch.tensor(0.0))
    torch.testing.assert_close(torch.stack([lecam.real, lecam.fake]), torch.tensor([1.1, -0.9]))
    # relu(0.6 + 0.9)^2 + relu(1.1 - 0.1)^2, of the means 0.6 and 0.1
    value = lecam(torch.tensor([0.2, 1.0]), torch.tensor([0.0, 0.2]))
    torch.testing.assert_close(value, torch.tensor(1.5**2 + 1.0**2))
    assert lecam(torch.tensor([-2.0]), torch.tensor([3.0])).item() == 0
    lecam.update(torch.tensor(math.nan), torch.tensor(0.0))
    torch.testing.assert_close(lecam.real, torch.tensor(1.1))


def test_r1_of_a_linear_discriminator_is_half_its_squared_weight():
    images = torch.randn(5, 1, 2, 2, requires_grad=True)
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    penalty = r1_penalty((images * weight).sum((1, 2, 3)), images)
    torch.testing.assert_close(penalty, torch.tensor(15.0))  # (1 + 4 + 9 + 16) / 2
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight.detach())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"reconstruction": "l3"}, "l1, l2"),
        ({"perceptual": "vgg"}, "efficientnet"),
        ({"adversarial": "wasserstein"}, "non_saturating"),
        ({"adversarial_weight": -1.0}, "adversarial_weight"),
        ({"lecam_decay": 1.0}, "lecam_decay"),
        ({"r1_every": 0}, "r1_every"),
    ],
)
def test_bad_configurations(keys, said):
    with pytest.raises(ValueError, match=said):
        LossConfig(**keys)
