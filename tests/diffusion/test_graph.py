import pytest
import torch

from common.errors import UserError
from diffusion.graph import Absorbing, build_graph

GRAPH = Absorbing(vocab_size=4)
STATES = torch.arange(5)[None]  # every state, as one picture's codes


def test_transition_is_the_matrix_exponential():
    rates = GRAPH.rate(STATES)[0]
    for sigma in (0.0, 0.01, 0.7, 5.0):
        got = GRAPH.transition(STATES, torch.tensor([sigma], dtype=torch.float64))[0]
        torch.testing.assert_close(got, torch.matrix_exp(sigma * rates), rtol=0, atol=1e-14)


def test_transition_composes_and_sums_to_one():
    def row(sigma):
        return GRAPH.transition(STATES, torch.tensor([sigma], dtype=torch.float64))[0]

    torch.testing.assert_close(row(0.3) @ row(0.9), row(1.2), rtol=0, atol=1e-14)
    torch.testing.assert_close(row(0.3).sum(-1), torch.ones(5, dtype=torch.float64))


def test_sample_follows_the_transition_at_any_code_shape():
    codes = torch.randint(4, (2, 100, 50, 3), generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.1, 1.0])
    noised = GRAPH.sample(codes, sigma, torch.Generator().manual_seed(1))
    masked = noised == GRAPH.mask_state
    assert torch.equal(noised[~masked], codes[~masked])
    torch.testing.assert_close(masked.flatten(1).float().mean(1), 1 - torch.exp(-sigma), atol=0.015, rtol=0)


def test_limit_is_all_masked():
    assert bool((GRAPH.limit((2, 3, 3)) == 4).all())


def test_bad_codes_and_sigma_are_refused():
    with pytest.raises(ValueError, match="codes must lie in"):
        GRAPH.transition(torch.tensor([[5]]), torch.tensor([1.0]))
    with pytest.raises(ValueError, match="negative"):
        GRAPH.sample(torch.tensor([[0]]), torch.tensor([-1.0]))
    with pytest.raises(UserError, match="unknown graph"):
        build_graph("ring", 4)
