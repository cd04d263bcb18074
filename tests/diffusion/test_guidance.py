import pytest
import torch

from diffusion.graph import Absorbing, Uniform
from diffusion.guidance import guidance_scale_at, guided_log_probability
from diffusion.noise import Geometric, LogLinear
from diffusion.sampler import SAMPLERS
from diffusion.sampling import guided_transition
from diffusion.settings import SamplingSettings
from tests.diffusion.exact import constant_network, state_of


def test_guidance_is_normalised_and_off_at_one():
    a, b = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(guided_log_probability(a, b, 1.0), a.log_softmax(-1))
    guided = guided_log_probability(a, b, 3.0)
    torch.testing.assert_close(guided.exp().sum(-1), torch.ones(5))
    ratio = a.softmax(-1) ** 3 / b.softmax(-1) ** 2
    torch.testing.assert_close(guided.exp(), ratio / ratio.sum(-1, keepdim=True))


def test_codes_that_are_ruled_out_give_no_nan():
    a, b = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.5, 0.0, 0.5]).log()
    guided = guided_log_probability(a, b, 2.0).exp()
    assert bool(guided.isfinite().all()) and float(guided[2]) == 0


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [3.0, 3.0, 3.0]),
        ({"guidance_ramp": "linear"}, [1.0, 2.0, 3.0]),
        ({"guidance_interval": (0.2, 0.6)}, [1.0, 3.0, 1.0]),
    ],
)
def test_ramps_and_interval(options, wanted):
    settings = SamplingSettings(guidance_scale=3.0, **options)
    assert [guidance_scale_at(settings, progress) for progress in (0.0, 0.5, 1.0)] == wanted


def test_the_power_cosine_ramp_grows_slowly_at_first():
    settings = SamplingSettings(guidance_scale=3.0, guidance_ramp="power_cosine")
    first, middle, last = (guidance_scale_at(settings, progress) for progress in (0.0, 0.5, 1.0))
    assert first == 1.0
    assert 1.0 < middle < 2.0
    assert last == pytest.approx(3.0)


def two_predictions(conditional, unconditional):
    def network(codes, sigma, rows):
        return torch.cat([constant_network(p)(codes, sigma, rows) for p in (conditional, unconditional)])

    return network


CONDITIONAL = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
UNCONDITIONAL = torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64)


def test_guidance_does_not_speed_up_unmasking_and_shifts_the_codes():
    fractions = []
    for scale in (1.0, 3.0):
        first = []
        state = state_of(
            Absorbing(3), LogLinear(), n=3000, steps=4, network=two_predictions(CONDITIONAL, UNCONDITIONAL),
            settings={"guidance_scale": scale},
            callback=lambda step, codes, first=first: first.append((codes < 3).double().mean()),
        )  # fmt: skip
        SAMPLERS["tweedie"](state)
        assert abs(first[0] - 0.25) < 0.02
        fractions.append(state.codes.flatten().bincount(minlength=3).double() / state.codes.numel())
    wanted = CONDITIONAL**3 / UNCONDITIONAL**2
    torch.testing.assert_close(fractions[0], CONDITIONAL, atol=0.02, rtol=0)
    torch.testing.assert_close(fractions[1], wanted / wanted.sum(), atol=0.02, rtol=0)


def test_on_the_uniform_graph_the_next_state_is_what_is_mixed():
    graph, sigma, low = Uniform(3), torch.tensor(1.0).double(), torch.tensor(0.5).double()
    state = state_of(
        graph,
        Geometric(1e-3, 8.0),
        n=4,
        network=two_predictions(CONDITIONAL, UNCONDITIONAL),
        settings={"guidance_scale": 2.5},
    )

    def reverse(log_p0):
        return graph.reverse_step(log_p0, state.codes, sigma, low)

    got = guided_transition(state, sigma, 0.0, reverse).probabilities(state.codes, 3)
    parts = [reverse(p.log().expand(4, 2, 3)).probabilities(state.codes, 3) for p in (CONDITIONAL, UNCONDITIONAL)]
    wanted = parts[0] ** 2.5 / parts[1] ** 1.5
    torch.testing.assert_close(got, wanted / wanted.sum(-1, keepdim=True))
