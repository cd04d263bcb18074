import pytest
import torch
from torch import nn

from diffusion.graph import Absorbing, Uniform
from diffusion.likelihood import likelihood_bound

BOTH = pytest.mark.parametrize("graph", [Absorbing(4), Uniform(4)], ids=["absorbing", "uniform"])


class Exact(nn.Module):
    """The exact network for codes that are independent of each other and distributed as `prior`."""

    def __init__(self, graph, prior):
        super().__init__()
        self.graph, self.prior = graph, prior

    def forward(self, codes, sigma, labels):
        return self.prior.log().expand(*codes.shape, 4)


@BOTH
def test_bound_is_exact_for_independent_codes_with_the_exact_model_and_larger_with_a_wrong_one(graph):
    prior = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    codes = torch.multinomial(prior, 400 * 16, True, generator=torch.Generator().manual_seed(0)).view(400, 4, 4)
    wanted = -prior.log()[codes].mean().item()
    labels = torch.zeros(400, dtype=torch.int64)
    got = likelihood_bound(Exact(graph, prior), graph, codes, labels, torch.Generator().manual_seed(1), points=16)
    assert abs(got.nats - wanted) < 3 * got.standard_error + 0.005 and 0 < got.standard_error < 0.03
    wrong = likelihood_bound(Exact(graph, prior.flip(0)), graph, codes, labels, torch.Generator().manual_seed(1))
    assert wrong.nats > wanted + 0.1


def test_progress_counts_every_noised_image():
    codes, labels = torch.zeros(5, 2, 2, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)
    network, seen = Exact(Absorbing(4), torch.full((4,), 0.25)), []
    likelihood_bound(network, Absorbing(4), codes, labels, torch.Generator().manual_seed(0), 3, 2, progress=seen.append)
    assert seen == [2, 2, 2, 2, 2, 2, 1, 1, 1]
