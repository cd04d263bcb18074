"""What the documentation says about samplers, computed exactly on small state spaces."""

import itertools
import math

import pytest
import torch

from diffusion.editing import INPAINTING_CORRECTIONS
from diffusion.noise import Cosine, LogLinear
from diffusion.sampler import NOTES, SAMPLERS, sampler_options
from diffusion.sampling import inpainting_projection, step_times
from diffusion.transitions import euler_transition, remdm_probabilities, tau_leaping_transition
from tests.diffusion.exact import (
    ABSORBING,
    JOINT,
    UNIFORM,
    all_states,
    exact_log_p0,
    noise_of,
    scalar,
    state_of,
    total_variation,
)


def remdm_mask_ratio(mode, positions, steps):
    """Mean mask ratio at t = 0.5 of `positions` codes that are equally likely, and the schedule's."""
    sigmas = LogLinear()(torch.linspace(1, 0, steps + 1, dtype=torch.float64))[0]
    masked = torch.zeros(positions + 1, dtype=torch.float64)  # distribution of the number of masked codes
    masked[-1] = 1
    for sigma, sigma_next in itertools.pairwise(sigmas[: steps // 2 + 1]):
        remask, unmask = remdm_probabilities(sigma, sigma_next, mode, 0.5)
        after = torch.zeros_like(masked)
        for before in range(positions + 1):
            visible = positions - before
            again = remask / max(1, visible) if mode == "confidence" else remask  # equal confidence, equal weights
            for gone in range(before + 1):
                for back in range(visible + 1):
                    chance = binomial(before, gone, unmask) * binomial(visible, back, again)
                    after[before - gone + back] += masked[before] * chance
        masked = after
    mean = float(masked @ torch.arange(positions + 1).double()) / positions
    return mean, float(-torch.expm1(-sigmas[steps // 2]))


def binomial(n, k, p):
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def test_remdm_confidence_does_not_keep_the_mask_ratio_and_the_other_modes_do():
    for mode in ("cap", "rescale"):
        got, wanted = remdm_mask_ratio(mode, 2, 8)
        assert got == pytest.approx(wanted, abs=1e-6)
    got, wanted = remdm_mask_ratio("confidence", 2, 8)
    assert wanted == pytest.approx(0.50, abs=0.005)
    assert got == pytest.approx(0.82, abs=0.005)
    for numbers in ("0.82", "0.50", "two codes, 8 steps"):
        assert numbers in NOTES["remdm"]
    # Finer steps do not help.
    assert remdm_mask_ratio("confidence", 2, 64)[0] > 0.9


def test_the_sampler_itself_masks_as_many_codes_as_computed():
    ratios = []
    state = state_of(
        ABSORBING, LogLinear(), n=1000, steps=8, network=lambda codes, *_: torch.full((1, *codes.shape, 3), -math.log(3)),
        callback=lambda step, codes: ratios.append((codes == 3).double().mean().item()),
    )  # fmt: skip
    SAMPLERS["remdm"](state, mode="confidence")
    assert ratios[3] == pytest.approx(remdm_mask_ratio("confidence", 2, 8)[0], abs=0.04)


def repainted(steps, known, corrections=0, churn=1.0):
    """Total variation of the second code from its distribution given the first, `known`, on the uniform graph."""
    states, noise = all_states(UNIFORM), noise_of(UNIFORM)
    sigmas = noise(step_times(steps, "uniform"))[0]
    sigmas[-1] = 0

    def noised(codes, sigma):
        return UNIFORM.transition(codes, sigma.expand(len(codes)))

    def step(second, high, low):
        """Distribution of the second code at `low`, from that at `high`; the first is noised to `high` on its own."""
        pair = torch.outer(noised(torch.tensor([[known]]), high)[0, 0], second).flatten()
        log_p0 = exact_log_p0(UNIFORM, states, high.expand(9))
        return pair @ UNIFORM.reverse_step(log_p0, states, high, low).probabilities(states, 3)[:, 1]

    second = torch.ones(3, dtype=torch.float64) / 3
    for index in range(steps):
        high, low = sigmas[index], sigmas[index + 1]
        second = step(second, high, low)
        between = low + churn * (high - low)
        for _ in range(corrections if index < steps - 1 else 0):
            forward = noised(torch.arange(3)[:, None], between - low)[:, 0]
            second = step(second @ forward, between, low)
    return total_variation(second, JOINT[known] / JOINT[known].sum())


@pytest.mark.parametrize("known", [0, 1, 2])
def test_repainting_on_the_uniform_graph_needs_corrections(known):
    assert repainted(16, known) == pytest.approx(0.19, abs=0.01)
    assert repainted(16, known, **INPAINTING_CORRECTIONS) == pytest.approx(0.03, abs=0.01)
    assert set(INPAINTING_CORRECTIONS) == set(sampler_options("predictor_corrector"))


def test_more_steps_do_not_replace_corrections():
    assert repainted(256, 0) == pytest.approx(0.17, abs=0.01)


def test_the_default_sampler_itself_repaints_as_computed():
    known, hidden = torch.tensor([1, 0]), torch.tensor([False, True])
    state = state_of(
        UNIFORM, noise_of(UNIFORM), n=300, steps=8, projection=inpainting_projection(UNIFORM, known, hidden)
    )
    SAMPLERS["predictor_corrector"](state, **INPAINTING_CORRECTIONS)
    second = state.codes[:, 1].bincount(minlength=3).double() / 300
    assert total_variation(second, JOINT[1] / JOINT[1].sum()) < 0.1  # 0.2 without corrections


def test_euler_is_tweedie_on_loglinear_noise():
    times = torch.linspace(1, 0, 9, dtype=torch.float64)
    sigmas, dsigmas = LogLinear()(times)
    codes = torch.tensor([[3, 1]])
    log_p0 = torch.tensor([0.5, 0.3, 0.2]).double().log().expand(1, 2, 3)
    for step in range(7):
        leap = float((times[step] - times[step + 1]) * dsigmas[step])
        euler = euler_transition(ABSORBING, log_p0, codes, sigmas[step], leap)
        analytic = ABSORBING.reverse_step(log_p0, codes, sigmas[step], sigmas[step + 1])
        torch.testing.assert_close(euler.exit_prob, analytic.exit_prob, atol=1e-12, rtol=0)


@pytest.mark.parametrize("make", [euler_transition, tau_leaping_transition])
@pytest.mark.parametrize("graph", [ABSORBING, UNIFORM], ids=["absorbing", "uniform"])
def test_the_first_step_on_cosine_noise_changes_nothing(make, graph):
    sigma, dsigma = Cosine()(scalar(1.0))
    codes = torch.full((1, 2), graph.num_states - 1)
    log_p0 = torch.tensor([0.5, 0.3, 0.2]).double().log().expand(1, 2, 3)
    assert float(make(graph, log_p0, codes, sigma, float(dsigma) / 4).exit_prob.max()) < 1e-9
