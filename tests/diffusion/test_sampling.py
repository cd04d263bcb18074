"""Random codes, temperature, time steps, and the errors of a run's settings."""

import pytest
import torch

from common.errors import UserError
from diffusion.noise import LogLinear
from diffusion.nucleus import apply_temperature_top_p
from diffusion.sampler import NEEDS_MASK, SAMPLERS, get_sampler, parse_options, sampler_options
from diffusion.sampling import sample_categorical, step_times
from diffusion.transitions import unmask_probability
from tests.diffusion.exact import ABSORBING, UNIFORM, scalar, state_of


def test_rare_events_keep_their_rate_where_one_float32_race_loses_them():
    """V = 16,384 and 1,000 steps: whether a code leaves in one step is decided apart, in float64."""
    vocabulary, steps, samples = 16_384, 1_000, 2_000
    sigma, sigma_next = (-torch.log1p(-scalar(t)) for t in (1.0 - 1e-12, 1.0 - 1 / steps))
    chance = unmask_probability(sigma, sigma_next).item()
    generator = torch.Generator().manual_seed(0)
    apart = (torch.rand(samples * 100, generator=generator, dtype=torch.float64) < chance).double().mean().item()
    assert apart == pytest.approx(chance, rel=0.15)

    # One exponential race over V codes and the mask, in float32: the winner is argmax p / e, e = -log u.
    probability = torch.full((vocabulary + 1,), chance / vocabulary)
    probability[-1] = 1 - chance
    left = 0
    for _ in range(samples // 100):
        uniform = torch.rand(100, vocabulary + 1, generator=generator)
        left += int(((probability / -torch.log(uniform)).argmax(1) < vocabulary).sum())
    assert left / samples < 0.8 * chance or left / samples > 1.2 * chance


def test_categorical_draws_follow_the_probabilities_and_never_a_zero():
    probability = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0])
    uniform = torch.linspace(0, 1 - 1e-9, 1000, dtype=torch.float64)
    codes = sample_categorical(probability.log().expand(1000, 5), uniform)
    assert codes.bincount(minlength=5).tolist() == [0, 250, 0, 750, 0]


def test_temperature_and_nucleus():
    log_p = torch.tensor([0.5, 0.3, 0.2]).log()
    torch.testing.assert_close(apply_temperature_top_p(log_p, 0.5, 1.0).exp(), torch.tensor([0.25, 0.09, 0.04]) / 0.38)
    torch.testing.assert_close(apply_temperature_top_p(log_p, 1.0, 0.7).exp(), torch.tensor([0.625, 0.375, 0.0]))
    torch.testing.assert_close(apply_temperature_top_p(log_p, 1.0, 0.4).exp(), torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("spacing", ["uniform", "cosine", "loglinear"])
def test_step_times_fall_from_one_to_zero(spacing):
    for steps in (1, 2, 7):
        times = step_times(steps, spacing)
        assert len(times) == steps + 1 and times[0] == 1 and times[-1] == 0 and bool((times.diff() < 0).all())
    gaps = -step_times(8, spacing).diff()
    assert {"uniform": gaps.std() < 1e-9, "cosine": gaps[0] < gaps[-1], "loglinear": gaps[0] > gaps[-1]}[spacing]


@pytest.mark.parametrize(
    ("name", "options", "graph", "message"),
    [
        ("magic", {}, ABSORBING, "known are tweedie"),
        *((name, {}, UNIFORM, "needs the absorbing graph") for name in NEEDS_MASK),
        ("tweedie", {"eta": "1"}, ABSORBING, "no option"),
        *(
            ("remdm", {"eta": no}, ABSORBING, "must be a decimal number")
            for no in ("much", "nan", "1_0", "12:30", True)
        ),
        *(("predictor_corrector", {"corrections": no}, ABSORBING, "must be a whole") for no in (1.5, "0x2", False)),
    ],
)
def test_samplers_that_cannot_be_had_are_refused(name, options, graph, message):
    with pytest.raises(UserError, match=message):
        get_sampler(name, options, graph)


def test_options_take_the_type_of_their_defaults():
    assert parse_options("remdm", {"eta": "0.5", "mode": "cap"}) == {"eta": 0.5, "mode": "cap"}
    assert parse_options("predictor_corrector", {"corrections": 2.0, "churn": 1e-5}) == {
        "corrections": 2,
        "churn": 1e-5,
    }


OUT_OF_RANGE = {"churn": 0.0, "theta": 0.9, "choice_temperature": -1.0, "bound": -1.0, "eta": 2.0, "redraw": 0.0}


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name in SAMPLERS for option in sampler_options(name) if option in OUT_OF_RANGE],
)
def test_options_out_of_range_are_refused(name, option):
    with pytest.raises(UserError, match=r"wanted|must"):
        SAMPLERS[name](state_of(ABSORBING, LogLinear()), **{option: OUT_OF_RANGE[option]})


def test_a_network_that_gives_nan_is_an_error():
    state = state_of(ABSORBING, LogLinear(), network=lambda c, s, r: torch.full((1, len(c), 2, 3), float("nan")))
    with pytest.raises(ValueError, match="NaN"):
        SAMPLERS["tweedie"](state)


@pytest.mark.parametrize("begin", [0.0, 1.5])
def test_sampling_begins_at_a_time_above_0_and_up_to_1(begin):
    with pytest.raises(UserError, match="begins"):
        state_of(ABSORBING, LogLinear(), begin=begin)
