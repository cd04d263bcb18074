"""Samplers against exact answers: on two correlated positions whole distributions are pushed through the steps."""

import itertools
import math

import pytest
import torch

from common.errors import UserError
from diffusion.graph import Absorbing, Uniform
from diffusion.noise import Cosine, Geometric, LogLinear
from diffusion.sampler import (
    NEEDS_MASK,
    SAMPLERS,
    choose_least_confident,
    euler_jump,
    extrapolated,
    get_sampler,
    halton_order,
    leap_over,
    parse_options,
    remdm_rates,
    reverse_rates,
    sampler_options,
    scheduled,
    tau_leaping_jump,
    tweedie_jump,
    unmask_probability,
)
from diffusion.walk import draw_categorical, known_codes, sharpen, step_times
from tests.diffusion.exact import (
    JOINT,
    WEAK,
    all_states,
    constant_network,
    exact_log_clean,
    marginal,
    pair_table,
    streams,
    total_variation,
    walk_of,
)

ABSORBING, UNIFORM = Absorbing(3), Uniform(3)
BOTH = pytest.mark.parametrize("graph", [ABSORBING, UNIFORM], ids=["absorbing", "uniform"])
FITTING = [
    (name, graph) for name in SAMPLERS for graph in (ABSORBING, UNIFORM) if graph is ABSORBING or name not in NEEDS_MASK
]
EACH = pytest.mark.parametrize(("name", "graph"), FITTING, ids=[f"{name}-{graph.name}" for name, graph in FITTING])


def noise_of(graph):
    return LogLinear() if graph is ABSORBING else Geometric(1e-3, 8.0)


# -- whole distributions through the steps ---------------------------------------------------------------------------


def pair_matrix(graph, jump):
    """Transition matrix `(S^2, S^2)` of two positions that jump on their own."""
    states = all_states(graph)
    rows = jump.rows(states, graph.num_states)  # (S^2, 2, S)
    return rows[:, 0, states[:, 0]] * rows[:, 1, states[:, 1]]


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def pushed(graph, make_matrix, steps, start, end, joint=JOINT):
    """p after `steps` equal steps in t from the exact marginal at `start` to `end`, and the exact one there."""
    noise, states = noise_of(graph), all_states(graph)
    times = torch.linspace(start, end, steps + 1, dtype=torch.float64)
    p = marginal(graph, noise(times[0])[0], joint)
    for t, t_next in itertools.pairwise(times):
        p = p @ make_matrix(graph, noise, states, t, t_next)
    return total_variation(p, marginal(graph, noise(times[-1])[0], joint))


def clean(graph, states, sigma):
    return exact_log_clean(graph, states, sigma.expand(len(states)))


def euler_matrix(graph, noise, states, t, t_next):
    sigma, dsigma = noise(t)
    return pair_matrix(
        graph, euler_jump(graph, clean(graph, states, sigma), states, sigma, float((t - t_next) * dsigma))
    )


def tau_matrix(graph, noise, states, t, t_next):
    sigma, dsigma = noise(t)
    return pair_matrix(
        graph, tau_leaping_jump(graph, clean(graph, states, sigma), states, sigma, float((t - t_next) * dsigma))
    )


def tweedie_matrix(graph, noise, states, t, t_next):
    sigma, sigma_next = noise(t)[0], noise(t_next)[0]
    return pair_matrix(graph, tweedie_jump(graph, clean(graph, states, sigma), states, sigma, sigma_next))


def theta_matrix(graph, noise, states, t, t_next, theta=0.4):
    def rates(level):
        sigma, dsigma = noise(level)
        log_clean = exact_log_clean(graph, states, sigma.expand(len(states)), WEAK)
        found = reverse_rates(graph, log_clean, states, sigma)
        return dsigma * found.total[..., None] * found.log_target.exp()  # (S^2, 2, V)

    first, second = rates(t), rates(t - theta * (t - t_next))
    to_middle = pair_matrix(graph, leap_over(first, float(theta * (t - t_next))))
    matrix = torch.zeros_like(to_middle)
    for before in range(len(states)):
        stayed = (states == states[before])[..., None]  # (S^2, 2, 1)
        mixed = torch.where(stayed, extrapolated(first[before].expand_as(second), second, theta), second)
        onward = pair_matrix(graph, leap_over(mixed, float((1 - theta) * (t - t_next))))
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
        log_clean = (posterior / posterior.sum(0)).T.log()[:, None]  # (S, 1, V)
        rows = tweedie_jump(graph, log_clean, states, sigma, sigma_next).rows(states, graph.num_states)[:, 0]
        torch.testing.assert_close((prior @ at_high) @ rows, prior @ at_low, atol=1e-12, rtol=0)


@pytest.mark.parametrize("level", [0.05, 1.0, 6.0])
def test_tweedie_on_the_uniform_graph_is_the_staggered_score_times_the_transition(level):
    sigma, delta = scalar(level), scalar(level * 0.7)
    states = all_states(UNIFORM)
    log_p = clean(UNIFORM, states, sigma)
    score = UNIFORM.log_score(log_p, states, sigma.expand(9)).exp()
    staggered = torch.exp(delta) * score + (1 - torch.exp(delta)) / 3 * score.sum(-1, keepdim=True)
    wanted = staggered * UNIFORM.transition(states, delta.expand(9))
    got = tweedie_jump(UNIFORM, log_p, states, sigma, sigma - delta).rows(states, 3)
    torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("mode", ["cap", "rescale"])
def test_remdm_keeps_the_marginal_of_each_position(mode):
    """From q(x_t | x0) to q(x_s | x0), for every time and strength."""
    for high, low in ((5.0, 2.0), (1.0, 0.3), (0.3, 0.0)):
        for eta in (0.0, 0.1, 1.0):
            remask, unmask = remdm_rates(scalar(high), scalar(low), mode, eta)
            visible, masked = math.exp(-high), 1 - math.exp(-high)
            assert visible * (1 - remask) + masked * unmask == pytest.approx(math.exp(-low), abs=1e-12)
            assert 0 <= remask <= 1 and 0 <= unmask <= 1
    assert remdm_rates(scalar(1.0), scalar(0.3), mode, 0.5)[0] > 0


@BOTH
def test_predictor_corrector_way_forward_and_back_keeps_one_position_exact(graph):
    prior, low, high = JOINT.sum(1), scalar(0.4), scalar(0.9)
    states = torch.arange(graph.num_states)[:, None]
    at_low = prior @ graph.transition(torch.arange(3)[:, None], low.expand(3))[:, 0]
    forward = graph.transition(states, (high - low).expand(len(states)))[:, 0]
    posterior = graph.transition(torch.arange(3)[:, None], high.expand(3))[:, 0] * prior[:, None]
    log_clean = (posterior / posterior.sum(0)).T.log()[:, None]
    back = tweedie_jump(graph, log_clean, states, high, low).rows(states, graph.num_states)[:, 0]
    torch.testing.assert_close(at_low @ forward @ back, at_low, atol=1e-12, rtol=0)


def test_informed_corrector_with_random_choice_is_a_gibbs_step():
    """One visible code of a clean pair, chosen at random, masked and drawn given the other: the joint stays."""
    p, kept = JOINT, torch.zeros_like(JOINT)
    for position in (0, 1):
        masked = p.sum(position, keepdim=True)  # the other's marginal
        conditional = JOINT / JOINT.sum(position, keepdim=True)
        kept += 0.5 * masked * conditional
    torch.testing.assert_close(kept, p)
    # and that is what the sampler does: it chooses without regard to the codes where the noise drowns confidence
    walk = walk_of(ABSORBING, LogLinear(), n=4000)
    confidence = torch.tensor([0.0, -5.0]).expand(4000, 2).double()
    visible = torch.ones(4000, 2, dtype=torch.bool)
    share = choose_least_confident(walk, confidence, visible, 1, temperature=1e6).double().mean(0)
    torch.testing.assert_close(share, torch.tensor([0.5, 0.5]).double(), atol=0.03, rtol=0)
    greedy = choose_least_confident(walk, confidence, visible, 1, temperature=0.0)
    assert bool(greedy[:, 1].all()) and not bool(greedy[:, 0].any())


# -- drawn pictures --------------------------------------------------------------------------------------------------


@EACH
def test_many_steps_give_the_joint_distribution(name, graph):
    options = {
        "maskgit": {"choice_temperature": 1e6},
        "entropy_bound": {"bound": 0.0},
        "informed_corrector": {"temperature": 1e6},
    }
    if name == "remdm":
        options["remdm"] = {"mode": "rescale", "eta": 0.05}
    steps = 2 if name in ("first_hitting", "halton", "maskgit", "entropy_bound") else 32
    walk = walk_of(graph, noise_of(graph), n=4000, steps=steps)
    SAMPLERS[name](walk, **options.get(name, {}))
    # 4,000 draws from the joint itself lie about 0.015 away; independent positions would lie 0.27 away.
    assert total_variation(pair_table(walk.codes), JOINT.flatten()) < (0.04 if steps > 2 else 0.03)


@EACH
def test_known_codes_never_change_no_mask_is_left_and_steps_are_told(name, graph):
    known, hidden = torch.tensor([2, 0]), torch.tensor([False, True])
    seen = []
    walk = walk_of(
        graph, noise_of(graph), n=40, steps=4, project=known_codes(graph, known, hidden),
        on_step=lambda step, codes: seen.append((step, codes.clone())),
    )  # fmt: skip
    SAMPLERS[name](walk)
    assert bool((walk.codes[:, 0] == 2).all()) and int(walk.codes.min()) >= 0 and int(walk.codes.max()) < 3
    assert [step for step, _ in seen] == list(range(1, len(seen) + 1)) and 1 <= len(seen) <= 4
    if graph is ABSORBING:
        assert all(bool((codes[:, 0] == 2).all()) for _, codes in seen)


def test_on_the_uniform_graph_known_codes_enter_noised_to_the_steps_level():
    known, hidden = torch.full((2,), 1), torch.tensor([False, True])
    project = known_codes(UNIFORM, known, hidden)
    codes = torch.zeros(8000, 2, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)

    def draw():
        return torch.rand(8000, 2, generator=generator, dtype=torch.float64)

    noised = project(codes, torch.full((8000,), 0.7).double(), draw)
    assert bool((noised[:, 1] == 0).all())
    share = noised[:, 0].bincount(minlength=3).double() / 8000
    wanted = UNIFORM.transition(torch.tensor([[1]]), torch.tensor([0.7]).double())[0, 0]
    torch.testing.assert_close(share, wanted, atol=0.02, rtol=0)
    assert bool((project(codes, torch.zeros(8000), draw)[:, 0] == 1).all())


@EACH
def test_same_streams_same_codes_in_any_batch_and_with_skipping(name, graph):
    def draw(rows, time_free=False):
        walk = walk_of(graph, noise_of(graph), n=6, steps=12)
        network = constant_network(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))
        if graph is ABSORBING:
            network = walk.network  # the exact answer does not depend on the time
        some = walk_of(graph, noise_of(graph), steps=12, network=network, time_free=time_free)
        some.generators = streams(6)[rows]
        some.__post_init__()
        SAMPLERS[name](some)
        return some

    whole = draw(slice(0, 6))
    assert torch.equal(whole.codes, torch.cat([draw(slice(i, i + 2)).codes for i in (0, 2, 4)]))
    skipping = draw(slice(0, 6), time_free=True)
    assert torch.equal(whole.codes, skipping.codes)
    assert bool((skipping.calls <= whole.calls).all()) and int(skipping.calls.min()) >= 1


def test_calls_are_counted_and_skipped_where_nothing_changed():
    asked = []
    network = constant_network(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))

    def counting(codes, sigma, rows):
        asked.append(len(codes))
        return network(codes, sigma, rows)

    walk = walk_of(ABSORBING, LogLinear(), n=20, steps=64, network=counting, time_free=True)
    SAMPLERS["tweedie"](walk)
    assert int(walk.calls.sum()) == sum(asked) and int(walk.calls.max()) <= 3  # two codes: at most two changes
    assert max(asked) == 20 and min(asked) < 20


def test_walking_with_the_time_asks_at_every_step():
    walk = walk_of(ABSORBING, LogLinear(), n=3, steps=10)
    SAMPLERS["tweedie"](walk)
    assert walk.calls.tolist() == [10, 10, 10]


@pytest.mark.parametrize("name", ["maskgit", "halton"])
def test_exactly_the_scheduled_number_is_shown_at_each_step(name):
    counts = []
    uniform = torch.ones(5, dtype=torch.float64) / 5
    walk = walk_of(
        Absorbing(5), Cosine(), n=3, steps=6, shape=(4, 4), network=constant_network(uniform),
        on_step=lambda step, codes: counts.append((codes == 5).flatten(1).sum(1).tolist()),
    )  # fmt: skip
    wanted = [left.tolist() for left in scheduled(walk)]
    SAMPLERS[name](walk)
    assert counts == wanted and wanted[-1] == [0, 0, 0]
    assert wanted[0][0] == math.floor(16 * math.cos(math.pi / 2 * (1 / 6)) * 1.0)


def test_scheduled_numbers_count_only_what_is_hidden():
    hidden = torch.zeros(4, 4, dtype=torch.bool)
    hidden[1:3] = True
    graph = Absorbing(5)
    walk = walk_of(
        graph, LogLinear(), shape=(4, 4), steps=4, network=constant_network(torch.ones(5).double() / 5),
        project=known_codes(graph, torch.zeros(4, 4, dtype=torch.int64), hidden),
    )  # fmt: skip
    assert [left.item() for left in scheduled(walk)] == [6, 4, 2, 0]


def test_halton_order_is_a_permutation_that_spreads():
    order = halton_order((6, 6))
    assert order.flatten().sort().values.tolist() == list(range(36))
    first = torch.nonzero(order < 6)
    assert len({(int(row) // 2, int(column) // 3) for row, column in first}) == 6  # one in each of 3 x 2 boxes
    cells = halton_order((3, 3, 2))
    assert torch.equal(cells[..., 1], cells[..., 0] + 1) and torch.equal(cells[..., 0], 2 * halton_order((3, 3)))


def test_entropy_bound_shows_sure_codes_together_and_unsure_ones_alone():
    sure = torch.tensor([0.999, 0.0005, 0.0005], dtype=torch.float64)
    unsure = torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64)
    calls = []
    for probability in (sure, unsure):
        walk = walk_of(ABSORBING, LogLinear(), shape=(10,), steps=10, network=constant_network(probability))
        SAMPLERS["entropy_bound"](walk, bound=0.5)
        calls.append(int(walk.calls))
    assert calls == [1, 10]


def rows_network(probabilities):
    """p(x0) that differs by position `(n, V)` and looks at nothing."""

    def network(codes, sigma, rows):
        del sigma, rows
        return probabilities.log().expand(1, len(codes), *probabilities.shape)

    return network


def test_entropy_bound_leaves_out_the_largest_entropy():
    # Six positions of entropy 0.199 nats: three fit under 0.45, the last of which does not count; so do the next three.
    row = torch.tensor([0.95, 0.05, 1e-9], dtype=torch.float64)
    left: list[int] = []
    walk = walk_of(
        ABSORBING, LogLinear(), shape=(6,), steps=6, network=constant_network(row / row.sum()),
        on_step=lambda step, codes: left.append(int((codes == 3).sum())),
    )  # fmt: skip
    SAMPLERS["entropy_bound"](walk, bound=0.45)
    assert left == [3, 0]


def test_halton_shows_positions_in_its_order():
    shown: list[torch.Tensor] = []
    walk = walk_of(
        ABSORBING, LogLinear(), n=2, steps=16, shape=(4, 4), network=constant_network(torch.ones(3).double() / 3),
        on_step=lambda step, codes: shown.append(codes.clone()),
    )  # fmt: skip
    SAMPLERS["halton"](walk)
    order = halton_order((4, 4))
    for step, codes in enumerate(shown):
        assert torch.equal(codes != 3, (order <= step).expand(2, 4, 4))


def test_greedy_maskgit_shows_the_surest_first():
    shares = torch.tensor([0.6, 0.9, 0.7, 0.99, 0.8], dtype=torch.float64)
    probabilities = torch.stack([shares, (1 - shares) * 1e-9, (1 - shares) * (1 - 1e-9)], -1)
    first: list[torch.Tensor] = []
    walk = walk_of(
        ABSORBING, LogLinear(), n=200, steps=5, shape=(5,), network=rows_network(probabilities),
        on_step=lambda step, codes: first.append(codes.clone()),
    )  # fmt: skip
    SAMPLERS["maskgit"](walk, choice_temperature=0)
    drawn = walk.codes  # code 2 has log-probability log(1 - share): the lower the share, the surer
    confidence = torch.where(drawn == 0, shares, 1 - shares)
    chosen = (first[0] != 3).int().argmax(1)
    assert (first[0] != 3).sum(1).tolist() == [1] * 200
    # At the first step every position was drawn; the shown one is at least as sure as 0.99 drawn as 0 would be, or that one.
    assert bool((confidence.gather(1, chosen[:, None]) >= 0.9).all()) and (chosen == 3).double().mean() > 0.9


def test_first_hitting_is_exact_and_shows_one_at_a_time():
    left = []
    walk = walk_of(
        ABSORBING, LogLinear(), n=3, steps=2, on_step=lambda step, codes: left.append((codes == 3).sum(1).tolist())
    )
    SAMPLERS["first_hitting"](walk)
    assert left == [[1, 1, 1], [0, 0, 0]]


def test_remdm_and_correctors_do_change_codes_again():
    strong: dict[str, dict] = {
        "remdm": {"mode": "rescale", "eta": 1.0}, "informed_corrector": {"redraw": 1.0}, "predictor_corrector": {"churn": 1.0},
    }  # fmt: skip
    for name, options in strong.items():
        seen = []
        walk = walk_of(
            ABSORBING, LogLinear(), n=50, steps=20, on_step=lambda step, codes, seen=seen: seen.append(codes.clone())
        )
        SAMPLERS[name](walk, **options)
        history = torch.stack(seen)  # (steps, n, 2)
        visible_before = history[:-1] < 3
        assert bool(((history[1:] != history[:-1]) & visible_before).any()), name


# -- drawing ---------------------------------------------------------------------------------------------------------


def test_rare_events_keep_their_rate_where_one_float32_race_loses_them():
    """V = 16,384 and 1,000 steps: the chance of one step to leave is drawn apart, in float64."""
    vocabulary, steps, draws = 16_384, 1_000, 2_000
    sigma, sigma_next = (-torch.log1p(-scalar(t)) for t in (1.0 - 1e-12, 1.0 - 1 / steps))
    chance = unmask_probability(sigma, sigma_next).item()
    generator = torch.Generator().manual_seed(0)
    apart = (torch.rand(draws * 100, generator=generator, dtype=torch.float64) < chance).double().mean().item()
    assert apart == pytest.approx(chance, rel=0.15)

    # One exponential race over V codes and the mask, in float32: the winner is argmax p / e, e = -log u.
    probability = torch.full((vocabulary + 1,), chance / vocabulary)
    probability[-1] = 1 - chance
    left = 0
    for _ in range(draws // 100):
        uniform = torch.rand(100, vocabulary + 1, generator=generator)
        left += int(((probability / -torch.log(uniform)).argmax(1) < vocabulary).sum())
    assert left / draws < 0.8 * chance or left / draws > 1.2 * chance


def test_categorical_draws_follow_the_probabilities_and_never_a_zero():
    probability = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0])
    uniform = torch.linspace(0, 1 - 1e-9, 1000, dtype=torch.float64)
    codes = draw_categorical(probability.log().expand(1000, 5), uniform)
    assert codes.bincount(minlength=5).tolist() == [0, 250, 0, 750, 0]


def test_temperature_and_nucleus():
    log_p = torch.tensor([0.5, 0.3, 0.2]).log()
    torch.testing.assert_close(sharpen(log_p, 0.5, 1.0).exp(), torch.tensor([0.25, 0.09, 0.04]) / 0.38)
    torch.testing.assert_close(sharpen(log_p, 1.0, 0.7).exp(), torch.tensor([0.625, 0.375, 0.0]))
    torch.testing.assert_close(sharpen(log_p, 1.0, 0.4).exp(), torch.tensor([1.0, 0.0, 0.0]))
    for setting, said in (({"temperature": 0.0}, "temperature"), ({"top_p": 0.0}, "top-p"), ({"top_p": 1.5}, "top-p")):
        with pytest.raises(UserError, match=said):
            walk_of(ABSORBING, LogLinear(), **setting)


@pytest.mark.parametrize("grid", ["uniform", "cosine", "loglinear"])
def test_step_grids_fall_from_one_to_zero(grid):
    for steps in (1, 2, 7):
        times = step_times(steps, grid)
        assert len(times) == steps + 1 and times[0] == 1 and times[-1] == 0 and bool((times.diff() < 0).all())
    gaps = -step_times(8, grid).diff()
    assert {"uniform": gaps.std() < 1e-9, "cosine": gaps[0] < gaps[-1], "loglinear": gaps[0] > gaps[-1]}[grid]


def test_mistakes_are_named():
    with pytest.raises(UserError, match="tweedie"):
        get_sampler("magic", ABSORBING)
    for name in NEEDS_MASK:
        with pytest.raises(UserError, match="needs the absorbing graph"):
            get_sampler(name, UNIFORM)
    with pytest.raises(UserError, match="steps"):
        walk_of(ABSORBING, LogLinear(), steps=0)
    with pytest.raises(UserError, match="cosine"):
        walk_of(ABSORBING, LogLinear(), grid="square")
    with pytest.raises(ValueError, match="NaN"):
        walk = walk_of(ABSORBING, LogLinear(), network=lambda c, s, r: torch.full((1, len(c), 2, 3), float("nan")))
        SAMPLERS["tweedie"](walk)
    with pytest.raises(UserError, match="no option"):
        parse_options("tweedie", {"eta": "1"})
    with pytest.raises(UserError, match="wants a number"):
        parse_options("remdm", {"eta": "much"})
    assert parse_options("remdm", {"eta": "0.5", "mode": "cap"}) == {"eta": 0.5, "mode": "cap"}
    bad = {"churn": 0.0, "theta": 0.9, "choice_temperature": -1.0, "bound": -1.0, "eta": 2.0, "redraw": 0.0}
    for name in SAMPLERS:
        for option in sampler_options(name).keys() & bad:
            with pytest.raises(UserError, match=r"wanted|must"):
                SAMPLERS[name](walk_of(ABSORBING, LogLinear()), **{option: bad[option]})
