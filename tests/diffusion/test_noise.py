import pytest
import torch

from common.errors import UserError
from diffusion.noise import NOISES, build_noise, stratified_times


@pytest.mark.parametrize("name", NOISES)
def test_dsigma_is_the_derivative_of_sigma(name):
    t = torch.linspace(0.001, 1, 50, dtype=torch.float64, requires_grad=True)
    sigma, dsigma = NOISES[name]()(t)
    (derivative,) = torch.autograd.grad(sigma.sum(), t)
    torch.testing.assert_close(dsigma, derivative)
    assert bool((sigma.diff() > 0).all()) and bool(torch.isfinite(sigma).all())


def test_survival_shares():
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    linear = torch.exp(-NOISES["loglinear"](eps=1e-3)(t)[0])
    cosine = torch.exp(-NOISES["cosine"](eps=1e-3)(t)[0])
    torch.testing.assert_close(linear, torch.tensor([1.0, 0.5005, 0.001], dtype=torch.float64))
    middle = 0.001 + 0.999 * (1 - 0.5**0.5)
    torch.testing.assert_close(cosine, torch.tensor([1.0, middle, 0.001], dtype=torch.float64))


def test_geometric_ends_and_polynomial_middle():
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    geometric = NOISES["geometric"](sigma_min=0.01, sigma_max=4.0)(t)[0]
    torch.testing.assert_close(geometric, torch.tensor([0.01, 0.2, 4.0], dtype=torch.float64))
    polynomial = torch.exp(-NOISES["polynomial"](power=3.0, eps=1e-3)(t)[0])
    torch.testing.assert_close(polynomial, torch.tensor([1.0, 1 - 0.999 / 8, 0.001], dtype=torch.float64))


def test_settings_out_of_range():
    for name, options in (
        ("loglinear", {"eps": 0.0}), ("cosine", {"eps": 1.0}), ("polynomial", {"power": 0.5}), ("geometric", {"sigma_min": 30.0})
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"wanted|must lie"):
            NOISES[name](**options)


def test_stratified_times_fill_one_stratum_each_over_processes():
    def draw(rank):
        return stratified_times(8, torch.Generator().manual_seed(5), rank=rank, world_size=2)

    times = torch.cat([draw(0), draw(1)]).sort().values
    assert torch.equal((times * 16).floor(), torch.arange(16.0))


def test_unknown_noise():
    with pytest.raises(UserError, match="loglinear"):
        build_noise("linear")
