import math

import pytest
import torch

from common.metrics import codebook_use, frechet_distance, psnr, ssim


def test_psnr_by_hand():
    # a difference of 0.2 on a range of 2 is 0.1 of the range: 20 dB
    torch.testing.assert_close(psnr(torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.2)), torch.tensor([20.0]))


def test_ssim_of_constants_by_formula_and_one_for_equal_images():
    image = torch.rand(1, 3, 20, 20)
    torch.testing.assert_close(ssim(image, image), torch.ones(1))
    a, b = 0.25, 0.75  # in [0, 1]; without variance only the luminance term is left
    wanted = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    got = ssim(torch.full((1, 1, 16, 16), 2 * a - 1).double(), torch.full((1, 1, 16, 16), 2 * b - 1).double())
    torch.testing.assert_close(got, torch.tensor([wanted], dtype=torch.float64))


def test_codebook_use():
    use = codebook_use(torch.tensor([5, 5, 0, 0]))
    assert use["codes_used"] == 0.5
    assert math.isclose(use["perplexity"], 2.0)
    assert codebook_use(torch.tensor([5, 5]), codebook_size=4) == use


@pytest.mark.parametrize("few", [3, 50])  # fewer images than features, and more
def test_frechet_distance_against_the_general_formula(few):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(count, 4, generator=generator).double() for count in (few, 70))
    b = b * 2 + 1
    covariances = torch.cov(a.T), torch.cov(b.T)
    root = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt().sum()
    wanted = (a.mean(0) - b.mean(0)).square().sum() + covariances[0].trace() + covariances[1].trace() - 2 * root
    torch.testing.assert_close(frechet_distance(a, b), wanted.item())
    assert abs(frechet_distance(a, a)) < 1e-9


def test_frechet_distance_of_many_images_makes_no_matrix_of_pairs():
    many = torch.randn(50_000, 3, generator=torch.Generator().manual_seed(0))  # 20 GB if it did
    assert math.isclose(frechet_distance(many, many + 2), 12, rel_tol=1e-5)
