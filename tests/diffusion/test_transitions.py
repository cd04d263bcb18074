"""Steps against exact answers: on two correlated positions whole distributions are pushed through them."""

import itertools
import math

import pytest
import torch

from diffusion.noise import LogLinear
from diffusion.transitions import (
    euler_transition,
    extrapolated_rates,
    held_rates_transition,
    remdm_probabilities,
    tau_leaping_transition,
)
from diffusion.unmasking import least_confident
from tests.diffusion.exact import (
    ABSORBING,
    JOINT,
    UNIFORM,
    WEAK,
    all_states,
    exact_log_p0,
    marginal,
    noise_of,
    scalar,
    state_of,
    total_variation,
)

BOTH = pytest.mark.parametrize("graph", [ABSORBING, UNIFORM], ids=["absorbing", "uniform"])


def pair_matrix(graph, transition):
    """Transition matrix `(S^2, S^2)` of two positions that transition on their own."""
    states = all_states(graph)
    rows = transition.probabilities(states, graph.num_states)  # (S^2, 2, S)
    return rows[:, 0, states[:, 0]] * rows[:, 1, states[:, 1]]


def pushed(graph, make_matrix, steps, start, end, joint=JOINT):
    """p after `steps` equal steps in t from the exact marginal at `start` to `end`, and the exact one there."""
    noise, states = noise_of(graph), all_states(graph)
    times = torch.linspace(start, end, steps + 1, dtype=torch.float64)
    p = marginal(graph, noise(times[0])[0], joint)
    for t, t_next in itertools.pairwise(times):
        p = p @ make_matrix(graph, noise, states, t, t_next)
    return total_variation(p, marginal(graph, noise(times[-1])[0], joint))


def clean(graph, states, sigma):
    return exact_log_p0(graph, states, sigma.expand(len(states)))


def euler_matrix(graph, noise, states, t, t_next):
    sigma, dsigma = noise(t)
    return pair_matrix(
        graph, euler_transition(graph, clean(graph, states, sigma), states, sigma, float((t - t_next) * dsigma))
    )


def tau_matrix(graph, noise, states, t, t_next):
    sigma, dsigma = noise(t)
    return pair_matrix(
        graph, tau_leaping_transition(graph, clean(graph, states, sigma), states, sigma, float((t - t_next) * dsigma))
    )


def tweedie_matrix(graph, noise, states, t, t_next):
    sigma, sigma_next = noise(t)[0], noise(t_next)[0]
    return pair_matrix(graph, graph.reverse_step(clean(graph, states, sigma), states, sigma, sigma_next))


def theta_matrix(graph, noise, states, t, t_next, theta=0.4):
    def rates(level):
        sigma, dsigma = noise(level)
        log_p0 = exact_log_p0(graph, states, sigma.expand(len(states)), WEAK)
        found = graph.reverse_rates(log_p0, states, sigma)
        return dsigma * found.exit_rate[..., None] * found.log_next.exp()  # (S^2, 2, V)

    first, second = rates(t), rates(t - theta * (t - t_next))
    to_middle = pair_matrix(graph, held_rates_transition(first, float(theta * (t - t_next))))
    matrix = torch.zeros_like(to_middle)
    for before in range(len(states)):
        stayed = (states == states[before])[..., None]  # (S^2, 2, 1)
        mixed = torch.where(stayed, extrapolated_rates(first[before].expand_as(second), second, theta), second)
        onward = pair_matrix(graph, held_rates_transition(mixed, float((1 - theta) * (t - t_next))))
        matrix[before] = to_middle[before] @ onward
    return matrix


@BOTH
@pytest.mark.parametrize("make", [euler_matrix, tau_matrix, tweedie_matrix], ids=["euler", "tau_leaping", "tweedie"])
def test_first_order_samplers_halve_their_error_as_steps_double(graph, make):
    errors = [pushed(graph, make, steps, 0.9, 0.3) for steps in (32, 64, 128)]
    assert errors[0] > 1e-5
    for coarse, fine in itertools.pairwise(errors):
        assert 1.8 < coarse / fine < 2.2


def test_theta_trapezoidal_quarters_it():
    errors = [pushed(ABSORBING, theta_matrix, steps, 0.9, 0.3, WEAK) for steps in (16, 32, 64)]
    assert errors[0] > 1e-6
    for coarse, fine in itertools.pairwise(errors):
        assert 3.5 < coarse / fine < 4.5


@BOTH
def test_tweedie_is_exact_for_one_position_over_any_step(graph):
    prior = JOINT.sum(1)
    states = torch.arange(graph.num_states)[:, None]
    for high, low in ((3.0, 0.4), (0.4, 1e-3), (8.0, 0.0)):
        sigma, sigma_next = scalar(high), scalar(low)
        at_high = graph.transition(torch.arange(3)[:, None], sigma.expand(3))[:, 0]  # (3, S)
        at_low = graph.transition(torch.arange(3)[:, None], sigma_next.expand(3))[:, 0]
        posterior = at_high * prior[:, None]
        log_p0 = (posterior / posterior.sum(0)).T.log()[:, None]  # (S, 1, V)
        rows = graph.reverse_step(log_p0, states, sigma, sigma_next).probabilities(states, graph.num_states)[:, 0]
        torch.testing.assert_close((prior @ at_high) @ rows, prior @ at_low, atol=1e-12, rtol=0)


@pytest.mark.parametrize("level", [0.05, 1.0, 6.0])
def test_tweedie_on_the_uniform_graph_is_the_staggered_score_times_the_transition(level):
    sigma, delta = scalar(level), scalar(level * 0.7)
    states = all_states(UNIFORM)
    log_p = clean(UNIFORM, states, sigma)
    score = UNIFORM.log_score(log_p, states, sigma.expand(9)).exp()
    staggered = torch.exp(delta) * score + (1 - torch.exp(delta)) / 3 * score.sum(-1, keepdim=True)
    wanted = staggered * UNIFORM.transition(states, delta.expand(9))
    got = UNIFORM.reverse_step(log_p, states, sigma, sigma - delta).probabilities(states, 3)
    torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("mode", ["cap", "rescale"])
def test_remdm_keeps_the_marginal_of_each_position(mode):
    """From q(x_t | x0) to q(x_s | x0), for every time and strength."""
    for high, low in ((5.0, 2.0), (1.0, 0.3), (0.3, 0.0)):
        for eta in (0.0, 0.1, 1.0):
            remask, unmask = remdm_probabilities(scalar(high), scalar(low), mode, eta)
            visible, masked = math.exp(-high), 1 - math.exp(-high)
            assert visible * (1 - remask) + masked * unmask == pytest.approx(math.exp(-low), abs=1e-12)
            assert 0 <= remask <= 1 and 0 <= unmask <= 1
    assert remdm_probabilities(scalar(1.0), scalar(0.3), mode, 0.5)[0] > 0


@BOTH
def test_predictor_corrector_way_forward_and_back_keeps_one_position_exact(graph):
    prior, low, high = JOINT.sum(1), scalar(0.4), scalar(0.9)
    states = torch.arange(graph.num_states)[:, None]
    at_low = prior @ graph.transition(torch.arange(3)[:, None], low.expand(3))[:, 0]
    forward = graph.transition(states, (high - low).expand(len(states)))[:, 0]
    posterior = graph.transition(torch.arange(3)[:, None], high.expand(3))[:, 0] * prior[:, None]
    log_p0 = (posterior / posterior.sum(0)).T.log()[:, None]
    back = graph.reverse_step(log_p0, states, high, low).probabilities(states, graph.num_states)[:, 0]
    torch.testing.assert_close(at_low @ forward @ back, at_low, atol=1e-12, rtol=0)


def test_informed_corrector_with_random_choice_is_a_gibbs_step():
    """One visible code of a clean pair, chosen at random, masked and sampled given the other: the joint stays."""
    p, kept = JOINT, torch.zeros_like(JOINT)
    for position in (0, 1):
        masked = p.sum(position, keepdim=True)  # the other's marginal
        conditional = JOINT / JOINT.sum(position, keepdim=True)
        kept += 0.5 * masked * conditional
    torch.testing.assert_close(kept, p)
    # and that is what the sampler does: it chooses without regard to the codes where the noise drowns confidence
    state = state_of(ABSORBING, LogLinear(), n=4000)
    confidence = torch.tensor([0.0, -5.0]).expand(4000, 2).double()
    visible = torch.ones(4000, 2, dtype=torch.bool)
    fraction = least_confident(state, confidence, visible, 1, temperature=1e6).double().mean(0)
    torch.testing.assert_close(fraction, torch.tensor([0.5, 0.5]).double(), atol=0.03, rtol=0)
    greedy = least_confident(state, confidence, visible, 1, temperature=0.0)
    assert bool(greedy[:, 1].all()) and not bool(greedy[:, 0].any())
