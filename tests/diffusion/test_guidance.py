import pytest
import torch

from common.errors import UserError
from diffusion.graph import Absorbing, Uniform
from diffusion.guidance import Guidance, guided_log_probability, prior_network
from diffusion.noise import Geometric, LogLinear
from diffusion.sampler import SAMPLERS, guided_jump, tweedie_jump
from tests.diffusion.exact import constant_network, walk_of


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


def test_ramps_and_interval():
    assert [Guidance(3.0).at(p) for p in (0.0, 0.5, 1.0)] == [3.0, 3.0, 3.0]
    assert [Guidance(3.0, "linear").at(p) for p in (0.0, 0.5, 1.0)] == [1.0, 2.0, 3.0]
    cosine = [Guidance(3.0, "power_cosine").at(p) for p in (0.0, 0.5, 1.0)]
    assert cosine[0] == 1.0 and 1.0 < cosine[1] < 2.0 and cosine[2] == pytest.approx(3.0)
    assert [Guidance(3.0, interval=(0.2, 0.6)).at(p) for p in (0.1, 0.4, 0.7)] == [1.0, 3.0, 1.0]
    for wrong in ({"scale": -1.0}, {"scale": float("nan")}, {"ramp": "steep"}, {"interval": (0.6, 0.2)}):
        with pytest.raises(UserError):
            Guidance(**wrong)


def test_both_network_calls_are_one_batch_with_and_without_labels():
    asked = []

    class Model(torch.nn.Module):
        def forward(self, codes, sigma, labels):
            asked.append(labels.tolist())
            return torch.nn.functional.one_hot(labels % 3, 3).float()[:, None].expand(-1, 2, -1)

    network = prior_network(Model(), Absorbing(3), torch.tensor([0, 1, 0]), no_class=2, guided=True)
    answer = network(torch.full((2, 2), 3), torch.ones(2), torch.tensor([0, 1]))
    assert asked == [[0, 1, 2, 2]] and answer.shape == (2, 2, 2, 3)
    assert answer[0].argmax(-1).tolist() == [[0, 0], [1, 1]] and answer[1].argmax(-1).tolist() == [[2, 2], [2, 2]]


def two_answers(conditional, unconditional):
    def network(codes, sigma, rows):
        return torch.cat([constant_network(p)(codes, sigma, rows) for p in (conditional, unconditional)])

    return network


CONDITIONAL = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
UNCONDITIONAL = torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64)


def test_guidance_does_not_speed_up_unmasking_and_shifts_the_codes():
    shares = []
    for scale in (1.0, 3.0):
        first = []
        walk = walk_of(
            Absorbing(3), LogLinear(), n=3000, steps=4, network=two_answers(CONDITIONAL, UNCONDITIONAL),
            guidance=Guidance(scale), on_step=lambda step, codes, first=first: first.append((codes < 3).double().mean()),
        )  # fmt: skip
        SAMPLERS["tweedie"](walk)
        assert abs(first[0] - 0.25) < 0.02
        shares.append(walk.codes.flatten().bincount(minlength=3).double() / walk.codes.numel())
    wanted = CONDITIONAL**3 / UNCONDITIONAL**2
    torch.testing.assert_close(shares[0], CONDITIONAL, atol=0.02, rtol=0)
    torch.testing.assert_close(shares[1], wanted / wanted.sum(), atol=0.02, rtol=0)


def test_on_the_uniform_graph_the_next_state_is_what_is_mixed():
    graph, sigma, low = Uniform(3), torch.tensor(1.0).double(), torch.tensor(0.5).double()
    walk = walk_of(
        graph, Geometric(1e-3, 8.0), n=4, network=two_answers(CONDITIONAL, UNCONDITIONAL), guidance=Guidance(2.5)
    )

    def jump(log_p):
        return tweedie_jump(graph, log_p, walk.codes, sigma, low)

    got = guided_jump(walk, sigma, 0.0, jump).rows(walk.codes, 3)
    parts = [jump(p.log().expand(4, 2, 3)).rows(walk.codes, 3) for p in (CONDITIONAL, UNCONDITIONAL)]
    wanted = parts[0] ** 2.5 / parts[1] ** 1.5
    torch.testing.assert_close(got, wanted / wanted.sum(-1, keepdim=True))
