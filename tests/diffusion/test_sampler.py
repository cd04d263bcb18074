"""Samplers on two correlated positions: the joint distribution, known codes, network calls, orders."""

import math

import pytest
import torch

from diffusion.graph import Absorbing
from diffusion.halton import halton_order
from diffusion.noise import Cosine, LogLinear
from diffusion.sampler import SAMPLERS, samplers_for
from diffusion.sampling import inpainting_projection, masked_counts
from tests.diffusion.exact import (
    ABSORBING,
    JOINT,
    UNIFORM,
    constant_network,
    noise_of,
    pair_table,
    state_of,
    total_variation,
)

FITTING = [(name, graph) for graph in (ABSORBING, UNIFORM) for name in samplers_for(graph)]
EACH = pytest.mark.parametrize(("name", "graph"), FITTING, ids=[f"{name}-{graph.name}" for name, graph in FITTING])


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
    state = state_of(graph, noise_of(graph), n=4000, steps=steps)
    SAMPLERS[name](state, **options.get(name, {}))
    # 4,000 draws from the joint itself lie about 0.015 away; independent positions would lie 0.27 away.
    assert total_variation(pair_table(state.codes), JOINT.flatten()) < (0.04 if steps > 2 else 0.03)


@EACH
def test_known_codes_never_change_no_mask_is_left_and_steps_are_told(name, graph):
    known, hidden = torch.tensor([2, 0]), torch.tensor([False, True])
    seen = []
    state = state_of(
        graph, noise_of(graph), n=40, steps=4, projection=inpainting_projection(graph, known, hidden),
        callback=lambda step, codes: seen.append((step, codes.clone())),
    )  # fmt: skip
    SAMPLERS[name](state)
    assert bool((state.codes[:, 0] == 2).all()) and int(state.codes.min()) >= 0 and int(state.codes.max()) < 3
    assert [step for step, _ in seen] == list(range(1, len(seen) + 1)) and 1 <= len(seen) <= 4
    if graph is ABSORBING:
        assert all(bool((codes[:, 0] == 2).all()) for _, codes in seen)


def test_on_the_uniform_graph_known_codes_enter_noised_to_the_steps_level():
    known, hidden = torch.full((2,), 1), torch.tensor([False, True])
    project = inpainting_projection(UNIFORM, known, hidden)
    codes = torch.zeros(8000, 2, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)

    def draw():
        return torch.rand(8000, 2, generator=generator, dtype=torch.float64)

    noised = project(codes, torch.full((8000,), 0.7).double(), draw)
    assert bool((noised[:, 1] == 0).all())
    fractions = noised[:, 0].bincount(minlength=3).double() / 8000
    wanted = UNIFORM.transition(torch.tensor([[1]]), torch.tensor([0.7]).double())[0, 0]
    torch.testing.assert_close(fractions, wanted, atol=0.02, rtol=0)
    assert bool((project(codes, torch.zeros(8000), draw)[:, 0] == 1).all())


@EACH
def test_same_streams_same_codes_in_any_batch_and_with_cached_predictions(name, graph):
    # The exact answer on the absorbing graph does not depend on the time.
    constant = constant_network(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))

    def sample(rows, time_free=False):
        network = None if graph is ABSORBING else constant
        state = state_of(graph, noise_of(graph), n=6, steps=12, network=network, rows=rows, time_free=time_free)
        SAMPLERS[name](state)
        return state

    whole = sample(slice(0, 6))
    assert torch.equal(whole.codes, torch.cat([sample(slice(i, i + 2)).codes for i in (0, 2, 4)]))
    cached = sample(slice(0, 6), time_free=True)
    assert torch.equal(whole.codes, cached.codes)
    assert bool((cached.network_calls <= whole.network_calls).all())
    assert int(cached.network_calls.min()) >= 1


def test_calls_are_counted_and_skipped_where_nothing_changed():
    asked = []
    network = constant_network(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))

    def counting(codes, sigma, rows):
        asked.append(len(codes))
        return network(codes, sigma, rows)

    state = state_of(ABSORBING, LogLinear(), n=20, steps=64, network=counting, time_free=True)
    SAMPLERS["tweedie"](state)
    assert (
        int(state.network_calls.sum()) == sum(asked) and int(state.network_calls.max()) <= 3
    )  # two codes: at most two changes
    assert max(asked) == 20 and min(asked) < 20


def test_stateing_with_the_time_asks_at_every_step():
    state = state_of(ABSORBING, LogLinear(), n=3, steps=10)
    SAMPLERS["tweedie"](state)
    assert state.network_calls.tolist() == [10, 10, 10]


@pytest.mark.parametrize("name", ["maskgit", "halton"])
def test_exactly_the_scheduled_number_is_shown_at_each_step(name):
    counts = []
    uniform = torch.ones(5, dtype=torch.float64) / 5
    state = state_of(
        Absorbing(5), Cosine(), n=3, steps=6, shape=(4, 4), network=constant_network(uniform),
        callback=lambda step, codes: counts.append((codes == 5).flatten(1).sum(1).tolist()),
    )  # fmt: skip
    wanted = [left.tolist() for left in masked_counts(state)]
    SAMPLERS[name](state)
    assert counts == wanted and wanted[-1] == [0, 0, 0]
    assert wanted[0][0] == math.floor(16 * math.cos(math.pi / 2 * (1 / 6)) * 1.0)


def test_scheduled_numbers_count_only_what_is_hidden():
    hidden = torch.zeros(4, 4, dtype=torch.bool)
    hidden[1:3] = True
    graph = Absorbing(5)
    state = state_of(
        graph, LogLinear(), shape=(4, 4), steps=4, network=constant_network(torch.ones(5).double() / 5),
        projection=inpainting_projection(graph, torch.zeros(4, 4, dtype=torch.int64), hidden),
    )  # fmt: skip
    assert [left.item() for left in masked_counts(state)] == [6, 4, 2, 0]


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
        state = state_of(ABSORBING, LogLinear(), shape=(10,), steps=10, network=constant_network(probability))
        SAMPLERS["entropy_bound"](state, bound=0.5)
        calls.append(int(state.network_calls))
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
    state = state_of(
        ABSORBING, LogLinear(), shape=(6,), steps=6, network=constant_network(row / row.sum()),
        callback=lambda step, codes: left.append(int((codes == 3).sum())),
    )  # fmt: skip
    SAMPLERS["entropy_bound"](state, bound=0.45)
    assert left == [3, 0]


def test_halton_shows_positions_in_its_order():
    shown: list[torch.Tensor] = []
    state = state_of(
        ABSORBING, LogLinear(), n=2, steps=16, shape=(4, 4), network=constant_network(torch.ones(3).double() / 3),
        callback=lambda step, codes: shown.append(codes.clone()),
    )  # fmt: skip
    SAMPLERS["halton"](state)
    order = halton_order((4, 4))
    for step, codes in enumerate(shown):
        assert torch.equal(codes != 3, (order <= step).expand(2, 4, 4))


def test_greedy_maskgit_shows_the_surest_first():
    likely = torch.tensor([0.6, 0.9, 0.7, 0.99, 0.8], dtype=torch.float64)
    probabilities = torch.stack([likely, (1 - likely) * 1e-9, (1 - likely) * (1 - 1e-9)], -1)
    first: list[torch.Tensor] = []
    state = state_of(
        ABSORBING, LogLinear(), n=200, steps=5, shape=(5,), network=rows_network(probabilities),
        callback=lambda step, codes: first.append(codes.clone()),
    )  # fmt: skip
    SAMPLERS["maskgit"](state, choice_temperature=0)
    sampled = state.codes  # code 2 has probability 1 - likely: the lower `likely`, the surer
    confidence = torch.where(sampled == 0, likely, 1 - likely)
    chosen = (first[0] != 3).int().argmax(1)
    assert (first[0] != 3).sum(1).tolist() == [1] * 200
    # At the first step every position was sampled; the shown one is at least as sure as a 0 of 0.99 would be, or that one.
    assert bool((confidence.gather(1, chosen[:, None]) >= 0.9).all()) and (chosen == 3).double().mean() > 0.9


def test_first_hitting_is_exact_and_shows_one_at_a_time():
    left = []
    state = state_of(
        ABSORBING, LogLinear(), n=3, steps=2, callback=lambda step, codes: left.append((codes == 3).sum(1).tolist())
    )
    SAMPLERS["first_hitting"](state)
    assert left == [[1, 1, 1], [0, 0, 0]]


def test_remdm_and_correctors_do_change_codes_again():
    strong: dict[str, dict] = {
        "remdm": {"mode": "rescale", "eta": 1.0}, "informed_corrector": {"redraw": 1.0}, "predictor_corrector": {"churn": 1.0},
    }  # fmt: skip
    for name, options in strong.items():
        seen = []
        state = state_of(
            ABSORBING, LogLinear(), n=50, steps=20, callback=lambda step, codes, seen=seen: seen.append(codes.clone())
        )
        SAMPLERS[name](state, **options)
        history = torch.stack(seen)  # (steps, n, 2)
        visible_before = history[:-1] < 3
        assert bool(((history[1:] != history[:-1]) & visible_before).any()), name
