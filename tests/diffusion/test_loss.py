import math

import torch

from diffusion.graph import Absorbing
from diffusion.loss import likelihood_bound, score_entropy, score_entropy_from_logits

GRAPH = Absorbing(vocab_size=4)
SIGMA = torch.tensor([0.3, 1.7], dtype=torch.float64)
CLEAN = torch.tensor([[0, 1, 2, 3], [3, 0, 1, 2]])
NOISED = torch.tensor([[4, 1, 4, 4], [4, 4, 4, 2]])
LOGITS = torch.randn(2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def dense_score_entropy(log_score, sigma, noised, clean):
    """sum over y != x of Q(y -> x) [s(y) - r(y) ln s(y) + K(r(y))], r from the transition probabilities, no shortcut."""
    states = torch.arange(5)
    rates = GRAPH.rate(states[None])[0]
    total = torch.zeros(clean.shape, dtype=torch.float64)
    for index in torch.cartesian_prod(torch.arange(2), torch.arange(4)).tolist():
        row = GRAPH.transition(clean[index[0], index[1]].view(1, 1), sigma[index[0]].view(1))[0, 0]
        x = int(noised[tuple(index)])
        for y in range(5):
            if y == x or rates[y, x] == 0:
                continue
            r, log_s = row[y] / row[x], log_score[tuple(index)][y]
            k = r * (math.log(r) - 1) if r > 0 else 0.0
            total[tuple(index)] += rates[y, x] * (log_s.exp() - r * log_s + k)
    return total


def test_equals_the_dense_sum_for_any_score():
    log_score = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    got = score_entropy(GRAPH, log_score, SIGMA, NOISED, CLEAN)
    torch.testing.assert_close(got, dense_score_entropy(log_score, SIGMA, NOISED, CLEAN))


def test_cross_entropy_form_is_the_score_entropy_of_the_normalised_score():
    log_score = GRAPH.log_score(LOGITS, NOISED, SIGMA)
    dense = score_entropy(GRAPH, log_score, SIGMA, NOISED, CLEAN)
    torch.testing.assert_close(score_entropy_from_logits(GRAPH, LOGITS, SIGMA, NOISED, CLEAN), dense)
    assert float(dense[0, 1]) == 0 and float(dense[1, 3]) == 0  # visible positions


def test_expected_gradient_is_zero_at_the_true_score():
    prior = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    logits = prior.log().view(1, 1, 4).requires_grad_()
    sigma = torch.tensor([0.8], dtype=torch.float64)
    expected = sum(
        prior[code] * score_entropy(
            GRAPH, GRAPH.log_score(logits, torch.tensor([[4]]), sigma), sigma, torch.tensor([[4]]), torch.tensor([[code]])
        ).sum()
        for code in range(4)
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_bound_is_exact_for_independent_codes_with_the_exact_model():
    prior = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)

    class Exact(torch.nn.Module):
        def forward(self, codes, sigma, labels):
            return prior.log().expand(*codes.shape, 4)

    codes = torch.multinomial(prior, 400 * 16, True, generator=torch.Generator().manual_seed(0)).view(400, 4, 4)
    wanted = -prior.log()[codes].mean().item()
    generator = torch.Generator().manual_seed(1)
    got, error = likelihood_bound(Exact(), GRAPH, codes, torch.zeros(400, dtype=torch.int64), generator, points=16)
    assert abs(got - wanted) < 0.03 and 0 < error < 0.03
