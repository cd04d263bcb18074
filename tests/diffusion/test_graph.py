import pytest
import torch

from common.errors import UserError
from diffusion.graph import GRAPHS, Absorbing, Uniform, build_graph

ABSORBING, UNIFORM = Absorbing(vocab_size=4), Uniform(vocab_size=4)
BOTH = pytest.mark.parametrize("graph", [ABSORBING, UNIFORM], ids=["absorbing", "uniform"])


def states(graph):
    return torch.arange(graph.num_states)[None]  # every state, as one picture's codes


def rows(graph, sigma):
    return graph.transition(states(graph), torch.tensor([sigma], dtype=torch.float64))[0]


@BOTH
def test_transition_is_the_matrix_exponential(graph):
    rates = graph.rate(states(graph))[0]
    torch.testing.assert_close(rates.sum(-1), torch.zeros(graph.num_states, dtype=torch.float64), rtol=0, atol=1e-15)
    assert torch.equal(graph.rate_into(states(graph))[0], rates.T)
    for sigma in (0.0, 0.01, 0.7, 5.0):
        torch.testing.assert_close(rows(graph, sigma), torch.matrix_exp(sigma * rates), rtol=0, atol=1e-14)


@BOTH
def test_transition_composes_and_sums_to_one(graph):
    torch.testing.assert_close(rows(graph, 0.3) @ rows(graph, 0.9), rows(graph, 1.2), rtol=0, atol=1e-14)
    torch.testing.assert_close(rows(graph, 0.3).sum(-1), torch.ones(graph.num_states, dtype=torch.float64))


@BOTH
def test_sample_follows_the_transition_at_any_code_shape(graph):
    sigma = torch.tensor([0.1, 1.0], dtype=torch.float64)
    codes = torch.full((2, 100, 50, 3), 2)
    noised = graph.sample(codes, sigma, torch.Generator().manual_seed(1))
    for picture in range(2):
        share = noised[picture].flatten().bincount(minlength=graph.num_states) / noised[picture].numel()
        wanted = graph.transition(torch.tensor([[2]]), sigma[picture : picture + 1])[0, 0]
        torch.testing.assert_close(share.double(), wanted, atol=0.015, rtol=0)


@BOTH
def test_limit_is_where_the_chain_ends(graph):
    drawn = graph.limit((20_000,), torch.Generator().manual_seed(0))
    share = drawn.bincount(minlength=graph.num_states).double() / len(drawn)
    torch.testing.assert_close(share, rows(graph, 50.0)[0], atol=0.015, rtol=0)
    edge = graph.limit_from(torch.tensor([[0.0, 1 - 2**-53]], dtype=torch.float64))
    assert edge.shape == (1, 2) and int(edge.max()) < graph.num_states


def test_divergence_from_the_limit_is_the_dense_sum():
    row = rows(UNIFORM, 0.6)[1]
    wanted = (row * (row / 0.25).log()).sum()
    torch.testing.assert_close(UNIFORM.limit_divergence(torch.tensor([0.6], dtype=torch.float64))[0], wanted)


def test_uniform_score_of_clean_predictions_is_the_dense_sum_and_can_be_inverted():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)
    codes = torch.randint(4, (2, 6), generator=generator)
    for level in (1e-3, 0.5, 8.0):
        sigma = torch.tensor([level, level * 1.3], dtype=torch.float64)
        log_score = UNIFORM.log_score(logits, codes, sigma)
        for b, i in torch.cartesian_prod(torch.arange(2), torch.arange(6)).tolist():
            table, x = rows(UNIFORM, float(sigma[b])), codes[b, i]  # table[x0, y]
            wanted = (logits[b, i].softmax(0)[:, None] * table / table[:, x : x + 1]).sum(0)
            torch.testing.assert_close(log_score[b, i].exp(), wanted)
        clean = UNIFORM.log_p0_of_score(log_score, codes, sigma)
        torch.testing.assert_close(clean.exp(), logits.softmax(-1), atol=1e-6, rtol=1e-5)


def test_posterior_is_bayes_rule():
    prior = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    codes, sigma = torch.tensor([[2]]), torch.tensor([0.7], dtype=torch.float64)
    wanted = prior * rows(UNIFORM, 0.7)[:, 2]
    got = UNIFORM.posterior(prior.log().expand(1, 1, 4), codes, sigma).softmax(-1)[0, 0]
    torch.testing.assert_close(got, wanted / wanted.sum())
    assert torch.equal(ABSORBING.posterior(prior[None, None], codes, sigma), prior[None, None])


def test_raw_score_is_one_at_the_present_code():
    codes = torch.tensor([[1, 3]])
    raw = UNIFORM.raw_log_score(torch.ones(1, 2, 4), codes)
    assert torch.equal(raw[0], torch.tensor([[1.0, 0, 1, 1], [1, 1, 1, 0]]))


@BOTH
def test_bad_codes_and_sigma_are_refused(graph):
    for bad in (graph.num_states, -1):
        with pytest.raises(ValueError, match="codes must lie in"):
            graph.transition(torch.tensor([[bad]]), torch.tensor([1.0]))
    for level in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="negative"):
            graph.sample(torch.tensor([[0]]), torch.tensor([level]))


def test_names():
    assert all(build_graph(name, 4).name == name for name in GRAPHS)
    with pytest.raises(UserError, match="absorbing, uniform"):
        build_graph("ring", 4)
    for graph, least in ((Absorbing, 0), (Uniform, 1)):
        with pytest.raises(ValueError, match="vocab_size"):
            graph(least)
