import pytest
import torch

from diffusion.graph import Absorbing, Uniform
from diffusion.guidance import guidance_scale_at, guided_log_probability
from diffusion.noise import Geometric, LogLinear
from diffusion.nucleus import apply_temperature_top_p
from diffusion.sampler import SAMPLERS, samplers_for
from diffusion.sampling import guided_transition
from diffusion.settings import SamplingSettings
from tests.diffusion.exact import constant_network, noise_of, state_of


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


# conditional^1.5 / unconditional^0.5 is proportional to [0.435, 0.320, 0.226, 0.019]: three codes hold 0.9 of it.
CUT_BY_ONE_SIDE = [torch.tensor(p, dtype=torch.float64) for p in ([0.5, 0.3, 0.15, 0.05], [0.5, 0.2, 0.05, 0.25])]
CUT = {"guidance_scale": 1.5, "top_p": 0.9}
GRAPHS = pytest.mark.parametrize("graph", [Absorbing(4), Uniform(4)], ids=["absorbing", "uniform"])


def guided_p0(settings):
    """Guidance, then temperature, then top-p, of p(x0)."""
    conditional, unconditional = CUT_BY_ONE_SIDE
    p = conditional**settings.guidance_scale / unconditional ** (settings.guidance_scale - 1)
    p = (p / p.sum()) ** (1 / settings.temperature)
    p = p / p.sum()
    order = p.argsort(descending=True)
    before = p[order].cumsum(0) - p[order]
    p[order[before >= settings.top_p]] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    "options", [CUT, {**CUT, "temperature": 0.6}, {**CUT, "guidance_scale": 0.5}, {**CUT, "guidance_scale": 8.0}]
)
@GRAPHS
def test_a_final_step_is_guidance_then_temperature_then_top_p(graph, options):
    sigma, end = torch.tensor(1.0).double(), torch.tensor(0.0).double()
    state = state_of(graph, Geometric(1e-3, 8.0), n=4, network=two_predictions(*CUT_BY_ONE_SIDE), settings=options)

    def reverse(log_p0):
        return graph.reverse_step(log_p0, state.codes, sigma, end)

    got = guided_transition(state, sigma, 0.0, reverse).probabilities(state.codes, graph.num_states)[..., :4]
    wanted = guided_p0(state.settings)
    torch.testing.assert_close(got, wanted.expand_as(got))
    torch.testing.assert_close(state.log_p0(sigma, 0.0).exp(), wanted.expand_as(got))
    if options == CUT:
        torch.testing.assert_close(wanted, torch.tensor([0.444, 0.326, 0.230, 0.0]).double(), atol=5e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "graph"), [(name, graph) for graph in (Absorbing(4), Uniform(4)) for name in samplers_for(graph)]
)
def test_every_sampler_keeps_the_order(name, graph):
    state = state_of(
        graph, noise_of(graph), n=2000, steps=1, network=two_predictions(*CUT_BY_ONE_SIDE), settings=CUT
    )  # fmt: skip
    options = {"maskgit": {"choice_temperature": 1e6}, "entropy_bound": {"bound": 100.0}}
    SAMPLERS[name](state, **options.get(name, {}))
    fractions = state.codes.flatten().bincount(minlength=4).double() / state.codes.numel()
    torch.testing.assert_close(fractions, guided_p0(state.settings), atol=0.03, rtol=0)


def test_between_steps_the_uniform_graph_mixes_next_states_of_predictions_with_one_nucleus():
    graph, sigma, low = Uniform(4), torch.tensor(1.0).double(), torch.tensor(0.5).double()
    state = state_of(graph, Geometric(1e-3, 8.0), n=4, network=two_predictions(*CUT_BY_ONE_SIDE), settings=CUT)

    def reverse(log_p0):
        return graph.reverse_step(log_p0, state.codes, sigma, low)

    got = guided_transition(state, sigma, 0.0, reverse).probabilities(state.codes, 4)
    kept = guided_p0(state.settings) > 0
    parts = [
        reverse((p * kept / (p * kept).sum()).log().expand(4, 2, 4)).probabilities(state.codes, 4)
        for p in CUT_BY_ONE_SIDE
    ]
    wanted = parts[0] ** 1.5 / parts[1] ** 0.5
    torch.testing.assert_close(got, wanted / wanted.sum(-1, keepdim=True))


@pytest.mark.parametrize("options", [{"temperature": 0.7, "top_p": 0.9}, {"temperature": 2.0}, {"top_p": 0.6}])
@GRAPHS
def test_at_scale_1_the_step_is_that_of_the_adjusted_prediction(graph, options):
    sigma, low = torch.tensor(1.0).double(), torch.tensor(0.5).double()
    settings = {**options, "guidance_scale": 3.0, "guidance_interval": (0.5, 1.0)}  # scale 1 at the beginning
    state = state_of(graph, Geometric(1e-3, 8.0), n=4, network=two_predictions(*CUT_BY_ONE_SIDE), settings=settings)

    def reverse(log_p0):
        return graph.reverse_step(log_p0, state.codes, sigma, low)

    adjusted = apply_temperature_top_p(
        CUT_BY_ONE_SIDE[0].log(), options.get("temperature", 1.0), options.get("top_p", 1.0)
    )
    got = guided_transition(state, sigma, 0.0, reverse).probabilities(state.codes, graph.num_states)
    wanted = reverse(adjusted.expand(4, 2, 4)).probabilities(state.codes, graph.num_states)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5, 4.0, 1e30, 1e300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_code_that_one_side_excludes_is_excluded_or_gets_no_bonus(scale, dtype):
    conditional = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=dtype)
    unconditional = torch.tensor([0.5, 0.0, 0.1, 0.4], dtype=dtype)
    guided = guided_log_probability(conditional.log(), unconditional.log(), scale).exp()
    assert bool(guided.isfinite().all())
    torch.testing.assert_close(guided.sum(), torch.ones((), dtype=dtype))
    if scale == 0:
        torch.testing.assert_close(guided, unconditional)
        return
    assert float(guided[3]) == 0  # the condition excludes it
    if scale in (1.5, 4.0):  # the second code keeps its conditional weight, as if both sides agreed on it
        wanted = torch.stack([conditional[0], conditional[1], conditional[2] * 2 ** (scale - 1), conditional[3]])
        torch.testing.assert_close(guided, wanted / wanted.sum())


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e300])
def test_extreme_temperatures_are_greedy_or_uniform(temperature):
    p = apply_temperature_top_p(torch.tensor([0.5, 0.3, 0.2, 0.0]).log(), temperature, 0.99).exp()
    wanted = [1.0, 0.0, 0.0, 0.0] if temperature < 1 else [1 / 3, 1 / 3, 1 / 3, 0.0]
    torch.testing.assert_close(p, torch.tensor(wanted))
