import pytest
import torch
from vector_quantize_pytorch import LFQ

from vq.entropy import binary_entropies


@pytest.mark.parametrize("scale", [1.0, 0.5])  # lfq, and bsq with 4 bits: 1 / sqrt(4)
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_entropies_agree_with_the_sum_over_all_codes(scale, temperature):
    latents = (torch.randn(50, 4) * 0.2).double()
    bits = torch.tensor([[(code >> b) & 1 for b in (3, 2, 1, 0)] for code in range(16)], dtype=torch.float64)
    p = torch.softmax(2 * latents @ ((2 * bits - 1) * scale).T / temperature, dim=1)
    each, mean = binary_entropies(latents, scale, 1, temperature)
    torch.testing.assert_close(each, -(p * p.log()).sum(1).mean())
    torch.testing.assert_close(mean, -(p.mean(0) * p.mean(0).log()).sum())
    # with two groups: the entropy of the mean of each half of the bits
    halves = [p.view(50, 4, 4).sum(2).mean(0), p.view(50, 4, 4).sum(1).mean(0)]
    expected = sum(-(half * half.log()).sum() for half in halves)
    torch.testing.assert_close(binary_entropies(latents, scale, 2, temperature)[1], expected)


def test_entropies_agree_with_the_library_in_one_process():
    latents = torch.randn(2, 6, 8, 8) * 0.02
    library = LFQ(codebook_size=64, entropy_loss_weight=1.0).train()
    _, parts = library(latents, inv_temperature=100.0, return_loss_breakdown=True)
    each, mean = binary_entropies(latents.movedim(1, -1).flatten(0, -2), 1.0, 1, 0.01)
    # the library clamps probabilities at 1e-5
    torch.testing.assert_close(each, parts.per_sample_entropy, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(mean, parts.batch_entropy, rtol=1e-3, atol=1e-3)


def test_gradients_are_finite_far_from_zero():
    latents = torch.tensor([[30.0, -30.0], [0.0, 1e-3]], requires_grad=True)
    each, mean = binary_entropies(latents, 1.0, 1, 0.01)
    (each - mean).backward()
    assert bool(latents.grad.isfinite().all())
    assert each >= 0
    assert mean >= 0
