"""Sliding windows: a mean over windows that is known by hand, and the law of independent codes."""

import torch

from diffusion.graph import Absorbing
from diffusion.noise import LogLinear
from diffusion.sampler import tweedie
from diffusion.sampling import SamplerState
from diffusion.settings import SamplingSettings
from diffusion.windows import SlidingWindows, tent, window_starts

MASK = 3


def test_windows_cover_everything_half_a_window_apart():
    assert window_starts(8, 8) == [0]
    assert window_starts(5, 8) == [0]
    assert window_starts(12, 8) == [0, 4]
    assert window_starts(13, 8) == [0, 4, 5]
    assert window_starts(17, 8) == [0, 4, 8, 9]
    assert window_starts(4, 1) == [0, 1, 2, 3]


def test_weights_fall_towards_the_edges():
    assert torch.equal(tent(4), torch.tensor([0.25, 0.75, 0.75, 0.25]))
    assert torch.allclose(tent(3), torch.tensor([1 / 3, 1.0, 1 / 3]))


def test_one_window_is_the_model_itself():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 6, 3)
    windows = SlidingWindows(lambda codes, sigma, labels: logits, (4, 6))
    answer = windows(torch.full((2, 4, 6), MASK), torch.ones(2), torch.zeros(2))
    torch.testing.assert_close(answer, torch.log_softmax(logits, -1))


def test_overlapping_windows_give_the_weighted_geometric_mean():
    """A row of three cells under two windows of two: the model knows a window by the label codes that lie in it."""
    probabilities = {0: torch.tensor([0.7, 0.2, 0.1]), 1: torch.tensor([0.2, 0.2, 0.6])}

    def model(codes, sigma, labels):
        first = (codes[:, 0, 0] != 0).long()  # 0 where the window begins with the visible code 0
        return torch.stack([probabilities[int(i)].log() for i in first])[:, None, None].expand(*codes.shape, 3) + 5.0

    answer = SlidingWindows(model, (1, 2))(torch.tensor([[[0, MASK, MASK]]]), torch.ones(1), torch.zeros(1))[0, 0]
    torch.testing.assert_close(answer[0], probabilities[0].log())
    torch.testing.assert_close(answer[1], (probabilities[0].log() + probabilities[1].log()) / 2)
    torch.testing.assert_close(answer[2], probabilities[1].log())

    # of three cells a window: weights 1/3, 1, 1/3, so the second of four cells leans three to one to its middle
    def by_start(codes, sigma, labels):
        first = (codes[:, 0, 0] != 0).long()
        return torch.stack([probabilities[int(i)].log() for i in first])[:, None, None].expand(*codes.shape, 3)

    answer = SlidingWindows(by_start, (1, 3))(torch.tensor([[[0, MASK, MASK, MASK]]]), torch.ones(1), torch.zeros(1))[
        0, 0
    ]
    torch.testing.assert_close(answer[1], 0.75 * probabilities[0].log() + 0.25 * probabilities[1].log())


def test_windows_without_a_masked_code_are_not_predicted_and_rows_keep_their_own_label():
    predicted = []

    def model(codes, sigma, labels):
        predicted.append((codes.clone(), labels.clone()))
        return labels[:, None, None, None] * torch.tensor([1.0, 0.0, 0.0]).expand(*codes.shape, 3)

    codes = torch.zeros(2, 4, 12, dtype=torch.int64)
    codes[0, :, 10] = MASK  # in the last of the windows at 0, 2, 4, 6 and 8 alone
    codes[1, :, 5] = MASK  # in those at 2 and 4
    answer = SlidingWindows(model, (4, 4), MASK)(codes, torch.ones(2), torch.tensor([1.0, 2.0]))
    assert sum(len(part) for part, _ in predicted) == 1 + 2
    assert all(bool((part == MASK).flatten(1).any(1).all()) for part, _ in predicted)
    for row, column, label in ((0, 10, 1.0), (1, 5, 2.0)):
        wanted = torch.log_softmax(torch.tensor([label, 0.0, 0.0]), -1)
        torch.testing.assert_close(answer[row, 0, column], wanted)


def test_a_grid_without_masked_codes_gives_finite_logits():
    def model(codes, sigma, labels):
        return torch.full((*codes.shape, 3), torch.nan)  # only its shape is used

    codes = torch.zeros(2, 4, 12, dtype=torch.int64)
    logits = SlidingWindows(model, (4, 4), MASK)(codes, torch.ones(2), torch.ones(2))
    assert logits.shape == (2, 4, 12, 3)
    assert bool(torch.isfinite(logits).all())


def test_a_large_grid_of_independent_codes_has_their_law():
    law = torch.tensor([0.6, 0.3, 0.1])
    model = SlidingWindows(lambda codes, sigma, labels: law.log().expand(*codes.shape, 3), (2, 2), MASK)
    state = SamplerState(
        lambda codes, sigma, rows: model(codes, sigma, rows)[None], Absorbing(3), LogLinear(), (7, 5),
        [torch.Generator().manual_seed(i) for i in range(400)], SamplingSettings(num_inference_steps=4),
    )  # fmt: skip
    tweedie(state)
    fraction = state.codes.flatten().bincount(minlength=3).double() / state.codes.numel()
    torch.testing.assert_close(fraction, law.double(), atol=0.015, rtol=0)
