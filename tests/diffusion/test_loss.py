import itertools
import math

import pytest
import torch

from diffusion.graph import Absorbing, Uniform
from diffusion.loss import score_entropy, score_entropy_from_logits
from tests.diffusion.exact import CLEAN as PAIRS
from tests.diffusion.exact import JOINT, all_states, exact_log_p0, noised_table

ABSORBING, UNIFORM = Absorbing(vocab_size=4), Uniform(vocab_size=4)
BOTH = pytest.mark.parametrize("graph", [ABSORBING, UNIFORM], ids=["absorbing", "uniform"])
SIGMA = torch.tensor([0.3, 1.7], dtype=torch.float64)
CLEAN = torch.tensor([[0, 1, 2, 3], [3, 0, 1, 2]])
LOGITS = torch.randn(2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def noised_codes(graph):
    if isinstance(graph, Absorbing):
        return torch.tensor([[4, 1, 4, 4], [4, 4, 4, 2]])
    return torch.tensor([[2, 1, 2, 0], [3, 3, 3, 2]])


def dense_score_entropy(graph, log_score, sigma, noised, clean):
    """sum over y != x of Q(y -> x) [s(y) - r(y) ln s(y) + K(r(y))], r from the transition probabilities, no shortcut."""
    states = torch.arange(graph.num_states)
    rates = graph.rate(states[None])[0]
    total = torch.zeros(clean.shape, dtype=torch.float64)
    for index in torch.cartesian_prod(torch.arange(2), torch.arange(4)).tolist():
        row = graph.transition(clean[index[0], index[1]].view(1, 1), sigma[index[0]].view(1))[0, 0]
        x = int(noised[tuple(index)])
        for y in range(graph.num_states):
            if y == x or rates[y, x] == 0:
                continue
            r, log_s = row[y] / row[x], log_score[tuple(index)][y]
            k = r * (math.log(r) - 1) if r > 0 else 0.0
            total[tuple(index)] += rates[y, x] * (log_s.exp() - r * log_s + k)
    return total


@BOTH
def test_equals_the_dense_sum_for_any_score(graph):
    log_score = torch.randn(2, 4, graph.num_states, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    noised = noised_codes(graph)
    got = score_entropy(graph, log_score, SIGMA, noised, CLEAN)
    torch.testing.assert_close(got, dense_score_entropy(graph, log_score, SIGMA, noised, CLEAN))
    assert score_entropy(graph, log_score.bfloat16(), SIGMA.float(), noised, CLEAN).dtype == torch.float32


@BOTH
def test_form_for_logits_is_the_score_entropy_of_their_score(graph):
    noised = noised_codes(graph)
    dense = score_entropy(graph, graph.log_score(LOGITS, noised, SIGMA), SIGMA, noised, CLEAN)
    torch.testing.assert_close(score_entropy_from_logits(graph, LOGITS, SIGMA, noised, CLEAN), dense)
    if graph is ABSORBING:
        assert float(dense[0, 1]) == 0 and float(dense[1, 3]) == 0  # visible positions


@pytest.mark.parametrize("graph", [Absorbing(3), Uniform(3)], ids=["absorbing", "uniform"])
def test_expected_gradient_is_zero_at_the_true_score_and_nowhere_near(graph):
    level = 0.8
    states = all_states(graph)
    sigma = torch.full((len(states),), level, dtype=torch.float64)
    logits = exact_log_p0(graph, states, sigma).clamp(min=-50)
    for shift in (0.0, 0.3):
        moved = (logits + shift * torch.arange(3)).requires_grad_()
        log_score = graph.log_score(moved, states, sigma)
        table = noised_table(graph, level)  # p(x_t | x0)
        expected = sum(
            p * (row * score_entropy(graph, log_score, sigma, states, pair.expand(len(states), 2)).sum(1)).sum()
            for p, row, pair in zip(JOINT.flatten(), table, PAIRS, strict=True)
        )
        (gradient,) = torch.autograd.grad(expected, moved)
        assert (gradient.abs().max() < 1e-10) == (shift == 0.0)


@pytest.mark.parametrize("graph", [Absorbing(3), Uniform(3)], ids=["absorbing", "uniform"])
def test_with_the_exact_score_the_bound_is_the_negative_log_probability_of_each_clean_pair(graph):
    """Integrated by Gauss-Legendre over u = 1 - e^-sigma on pieces, expectations over noised pairs summed exactly."""
    states = all_states(graph)
    top = 1 - 1e-9 if isinstance(graph, Absorbing) else 1 - math.exp(-14.0)
    nodes, weights = gauss_legendre(12)
    edges = [0.0, *[10.0**-k for k in range(8, 1, -1)], 0.1, 0.5, 0.9, 0.99, 0.999, top]
    bound = torch.zeros(9, dtype=torch.float64)
    for low, high in itertools.pairwise(edges):
        for node, weight in zip(nodes, weights, strict=True):
            u = (low + high) / 2 + (high - low) / 2 * node
            level = -math.log1p(-u)
            sigma = torch.full((len(states),), level, dtype=torch.float64)
            logits = exact_log_p0(graph, states, sigma)
            table = noised_table(graph, level)
            for i, pair in enumerate(PAIRS):
                reached = table[i] > 0  # what cannot occur does not count
                entropy = score_entropy_from_logits(
                    graph, logits[reached], sigma[reached], states[reached], pair.expand(int(reached.sum()), 2)
                ).sum(1)
                bound[i] += (high - low) / 2 * weight * (table[i][reached] * entropy).sum() / (1 - u)
    if not graph.is_masked:
        bound += 2 * graph.limit_divergence(torch.tensor([14.0], dtype=torch.float64))
    torch.testing.assert_close(bound, -JOINT.flatten().log(), atol=1e-4, rtol=0)


def gauss_legendre(n):
    """Nodes and weights on [-1, 1] (Golub and Welsch)."""
    k = torch.arange(1, n, dtype=torch.float64)
    beta = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
    return values.tolist(), (2 * vectors[0] ** 2).tolist()


def test_bad_sigma_and_codes():
    with pytest.raises(ValueError, match="sigma"):
        score_entropy(ABSORBING, torch.zeros(2, 4, 5), -SIGMA, noised_codes(ABSORBING), CLEAN)
    with pytest.raises(ValueError, match="codes"):
        score_entropy(UNIFORM, torch.zeros(2, 4, 4), SIGMA, noised_codes(UNIFORM), CLEAN + 1)
