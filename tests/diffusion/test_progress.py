"""Planned network calls, and reports of them."""

import pytest
import torch

from diffusion.progress import CallProgress, part_of
from diffusion.sampler import SAMPLERS, planned_calls, samplers_for
from diffusion.settings import SamplingSettings
from tests.diffusion.exact import ABSORBING, UNIFORM, constant_network, noise_of, state_of

OPTIONS = {"predictor_corrector": {"corrections": 3}, "entropy_bound": {"bound": 0.0}}
ADAPTIVE = ("first_hitting", "maskgit", "halton", "entropy_bound")  # no call where there is nothing to unmask


@pytest.mark.parametrize(
    ("name", "graph"), [(name, graph) for graph in (ABSORBING, UNIFORM) for name in samplers_for(graph)]
)
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_samplers_call_the_network_as_often_as_planned(name, graph, steps):
    calls = []
    network = constant_network(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))
    state = state_of(
        graph, noise_of(graph), n=2, steps=steps, shape=(8,), network=network, on_call=lambda: calls.append(1)
    )
    options = OPTIONS.get(name, {})
    SAMPLERS[name](state, **options)
    planned = planned_calls(SamplingSettings(num_inference_steps=steps, sampler=name, sampler_options=options))
    assert len(calls) == min(planned, 8) if name in ADAPTIVE else len(calls) == planned


def test_a_cached_prediction_counts_too():
    calls = []
    network = constant_network(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))
    state = state_of(
        ABSORBING, noise_of(ABSORBING), steps=50, network=network, time_free=True, on_call=lambda: calls.append(1)
    )
    SAMPLERS["tweedie"](state)
    assert len(calls) == 50
    assert int(state.network_calls.max()) <= 3


def test_reports_of_batches():
    seen = []
    progress = CallProgress(lambda done, total: seen.append((done, total)), 3)
    progress.begin_batch(2)
    for _ in range(3):
        progress.count_call()
    progress.end_batch()
    progress.begin_batch(1)
    progress.count_call()
    progress.begin_batch(2)  # the memory was too small: the rest in two batches
    progress.count_call()
    progress.end_batch()
    progress.begin_batch(1)
    progress.end_batch()
    assert seen == [(0, 6), (1, 6), (2, 6), (3, 6), (3, 6), (4, 6), (3, 9), (4, 9), (6, 9), (6, 9), (9, 9)]


def test_nobody_needs_to_listen():
    progress = CallProgress(None, 2)
    progress.begin_batch(1)
    progress.count_call()
    progress.end_batch()
    assert part_of(None, 3, 9) is None


def test_a_part_reports_to_the_whole():
    seen = []
    part = part_of(lambda done, total: seen.append((done, total)), 4, 10)
    part(2, 3)
    assert seen == [(6, 10)]
