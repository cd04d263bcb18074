"""Two correlated positions of three codes: everything about them can be summed up exactly, in float64."""

import itertools

import torch

from diffusion.graph import Absorbing, Uniform
from diffusion.noise import Geometric, LogLinear
from diffusion.sampling import SamplerState
from diffusion.settings import SamplingSettings

ABSORBING, UNIFORM = Absorbing(3), Uniform(3)
JOINT = torch.tensor([[0.3, 0.05, 0.05], [0.02, 0.2, 0.08], [0.05, 0.05, 0.2]], dtype=torch.float64)
# Less dependent, so that the rates of theta_trapezoidal stay above 0, which its order asks for.
WEAK = 0.3 * JOINT + 0.7 * torch.outer(JOINT.sum(1), JOINT.sum(0))
CLEAN = torch.tensor(list(itertools.product(range(3), repeat=2)))  # (9, 2), in the order of JOINT.flatten()


def noise_of(graph):
    return LogLinear() if graph is ABSORBING else Geometric(1e-3, 8.0)


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def all_states(graph):
    """Every pair of states `(S^2, 2)`."""
    return torch.tensor(list(itertools.product(range(graph.num_states), repeat=2)))


def noised_table(graph, sigma):
    """p(x_t | x0) `(9, S^2)` for each clean pair and each noised pair."""
    rows = graph.transition(CLEAN, torch.full((9,), float(sigma), dtype=torch.float64))  # (9, 2, S)
    states = all_states(graph)
    return rows[:, 0, states[:, 0]] * rows[:, 1, states[:, 1]]


def marginal(graph, sigma, joint=JOINT):
    """p_t `(S^2,)`."""
    return joint.flatten() @ noised_table(graph, sigma)


def exact_log_p0(graph, codes, sigma, joint=JOINT):
    """log p(x0 at each position | both noised positions) `(B, 2, 3)`; sigma `(B,)`."""
    levels, which = sigma.unique(return_inverse=True)
    tables = []
    for level in levels.double():
        rows = graph.transition(torch.arange(3)[None], level[None])[0]  # (3, S)
        together = joint[:, :, None, None] * rows[:, None, :, None] * rows[None, :, None, :]  # x0, y0, x, y
        posterior = together / together.sum((0, 1))
        tables.append(torch.stack([posterior.sum(1), posterior.sum(0)]).permute(2, 3, 0, 1))  # (S, S, 2, 3)
    return torch.stack(tables)[which, codes[:, 0], codes[:, 1]].log()


def exact_network(graph):
    def network(codes, sigma, rows):
        del rows
        return exact_log_p0(graph, codes, sigma)[None]

    return network


def constant_network(probability):
    """p(x0) that does not look at the codes, for positions of any shape."""

    def network(codes, sigma, rows):
        del sigma, rows
        return probability.log().expand(1, *codes.shape, len(probability))

    return network


def streams(n, seed=0):
    return [torch.Generator().manual_seed(seed * 100_003 + i) for i in range(n)]


def state_of(graph, noise, n=1, steps=8, shape=(2,), network=None, seed=0, rows=None, settings=None, **more):
    """The state of a run over `n` samples; `rows` chooses some of them, `settings` are sampling options."""
    chosen = SamplingSettings(num_inference_steps=steps, **(settings or {}))
    generators = streams(n, seed)[rows or slice(None)]
    return SamplerState(network or exact_network(graph), graph, noise, shape, generators, chosen, **more)


def pair_table(codes):
    """Fractions `(9,)` of sampled pairs `(n, 2)`."""
    return (codes[:, 0] * 3 + codes[:, 1]).bincount(minlength=9).double() / len(codes)


def total_variation(a, b):
    return (a - b).abs().sum().item() / 2
