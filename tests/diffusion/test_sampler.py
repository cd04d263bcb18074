import pytest
import torch

from common.errors import UserError
from diffusion.graph import Absorbing
from diffusion.guidance import guided_log_probability
from diffusion.noise import Cosine, LogLinear
from diffusion.sampler import draw_categorical, get_sampler, known_codes, tweedie, unmask_probability

GRAPH = Absorbing(vocab_size=3)
JOINT = torch.tensor([[0.3, 0.05, 0.05], [0.02, 0.2, 0.08], [0.05, 0.05, 0.2]], dtype=torch.float64)


def streams(n, seed=0):
    return [torch.Generator().manual_seed(seed * 100_003 + i) for i in range(n)]


def exact_predictor(codes, sigma):
    """p(x0 | visible codes) of two correlated positions, from the joint table."""
    rows = []
    for pair in codes.tolist():
        first = JOINT.sum(1) if pair[1] == 3 else JOINT[:, pair[1]] / JOINT[:, pair[1]].sum()
        second = JOINT.sum(0) if pair[0] == 3 else JOINT[pair[0]] / JOINT[pair[0]].sum()
        rows.append(torch.stack([first, second]))
    return torch.stack(rows).log()


def test_one_position_is_exact_at_any_number_of_steps():
    wanted = torch.tensor([0.6, 0.3, 0.1])
    for steps in (1, 2, 7):
        got = tweedie(lambda c, s: wanted.log().expand(len(c), 1, 3), GRAPH, LogLinear(), (1,), streams(4000), steps)
        torch.testing.assert_close(got.flatten().bincount(minlength=3) / 4000, wanted, atol=0.03, rtol=0)


def test_two_positions_come_closer_with_more_steps():
    def distance(steps):
        codes = tweedie(exact_predictor, GRAPH, LogLinear(), (2,), streams(6000), steps)
        table = (codes[:, 0] * 3 + codes[:, 1]).bincount(minlength=9) / 6000
        return (table.double() - JOINT.flatten()).abs().sum().item() / 2

    assert distance(1) > 0.25 > 0.06 > distance(32)


def test_unmask_probability_keeps_the_marginal():
    noise = Cosine()
    sigma, _ = noise(torch.tensor([0.9, 0.4], dtype=torch.float64))
    masked = 1 - torch.exp(-sigma)
    torch.testing.assert_close(masked[0] * (1 - unmask_probability(sigma[0], sigma[1])), masked[1])


def test_categorical_draws_follow_the_probabilities_and_never_a_zero():
    probability = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0])
    uniform = torch.linspace(0, 1 - 1e-9, 1000, dtype=torch.float64)
    codes = draw_categorical(probability.log().expand(1000, 5), uniform)
    assert codes.bincount(minlength=5).tolist() == [0, 250, 0, 750, 0]


def test_same_streams_same_codes_in_any_batch():
    whole = tweedie(exact_predictor, GRAPH, LogLinear(), (2,), streams(6), 5)
    parts = [tweedie(exact_predictor, GRAPH, LogLinear(), (2,), streams(6)[i : i + 2], 5) for i in (0, 2, 4)]
    assert torch.equal(whole, torch.cat(parts))


def test_known_codes_never_change_and_no_mask_is_left():
    known, hidden = torch.tensor([2, 0]), torch.tensor([False, True])
    seen = []
    codes = tweedie(
        exact_predictor, GRAPH, LogLinear(), (2,), streams(50), 4,
        project=known_codes(known, hidden), on_step=lambda step, c: seen.append(c.clone()),
    )  # fmt: skip
    assert len(seen) == 4 and all(bool((c[:, 0] == 2).all()) for c in seen)
    assert int(codes.max()) < 3


def test_guidance_is_normalised_and_off_at_one():
    a, b = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(guided_log_probability(a, b, 1.0), a.log_softmax(-1))
    guided = guided_log_probability(a, b, 3.0)
    torch.testing.assert_close(guided.exp().sum(-1), torch.ones(5))
    ratio = a.softmax(-1) ** 3 / b.softmax(-1) ** 2
    torch.testing.assert_close(guided.exp(), ratio / ratio.sum(-1, keepdim=True))


def test_mistakes_are_named():
    with pytest.raises(UserError, match="tweedie"):
        get_sampler("magic")
    with pytest.raises(ValueError, match="steps"):
        tweedie(exact_predictor, GRAPH, LogLinear(), (2,), streams(1), 0)
    with pytest.raises(ValueError, match="NaN"):
        tweedie(lambda c, s: torch.full((1, 2, 3), float("nan")), GRAPH, LogLinear(), (2,), streams(1), 2)
