"""Two correlated positions of three codes: everything about them can be summed up exactly, in float64."""

import itertools

import torch

from diffusion.walk import Walk

JOINT = torch.tensor([[0.3, 0.05, 0.05], [0.02, 0.2, 0.08], [0.05, 0.05, 0.2]], dtype=torch.float64)
CLEAN = torch.tensor(list(itertools.product(range(3), repeat=2)))  # (9, 2), in the order of JOINT.flatten()


def all_states(graph):
    """Every pair of states `(S^2, 2)`."""
    return torch.tensor(list(itertools.product(range(graph.num_states), repeat=2)))


def noised_table(graph, sigma):
    """p(x_t | x0) `(9, S^2)` for each clean pair and each noised pair."""
    rows = graph.transition(CLEAN, torch.full((9,), float(sigma), dtype=torch.float64))  # (9, 2, S)
    states = all_states(graph)
    return rows[:, 0, states[:, 0]] * rows[:, 1, states[:, 1]]


def marginal(graph, sigma):
    """p_t `(S^2,)`."""
    return JOINT.flatten() @ noised_table(graph, sigma)


def exact_log_clean(graph, codes, sigma):
    """log p(x0 at each position | both noised positions) `(B, 2, 3)`; sigma `(B,)`."""
    rows = []
    for pair, level in zip(codes, sigma.tolist(), strict=True):
        transitions = graph.transition(torch.arange(3)[None], torch.tensor([level], dtype=torch.float64))[0]  # (3, S)
        likelihood = torch.outer(transitions[:, pair[0]], transitions[:, pair[1]]) * JOINT
        posterior = likelihood / likelihood.sum()
        rows.append(torch.stack([posterior.sum(1), posterior.sum(0)]))
    return torch.stack(rows).log()


def exact_network(graph):
    def network(codes, sigma, rows):
        del rows
        return exact_log_clean(graph, codes, sigma)[None]

    return network


def constant_network(probability):
    """p(x0) that does not look at the codes, for positions of any shape."""

    def network(codes, sigma, rows):
        del sigma, rows
        return probability.log().expand(1, *codes.shape, len(probability))

    return network


def streams(n, seed=0):
    return [torch.Generator().manual_seed(seed * 100_003 + i) for i in range(n)]


def walk_of(graph, noise, n=1, steps=8, shape=(2,), network=None, seed=0, **settings):
    return Walk(network or exact_network(graph), graph, noise, shape, streams(n, seed), steps, **settings)


def pair_table(codes):
    """Shares `(9,)` of drawn pairs `(n, 2)`."""
    return (codes[:, 0] * 3 + codes[:, 1]).bincount(minlength=9).double() / len(codes)


def total_variation(a, b):
    return (a - b).abs().sum().item() / 2
