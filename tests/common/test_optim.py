import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from common.optim import all_finite, build_ema, optimizer_step


def test_average_warms_up_and_follows():
    model = nn.Linear(1, 1, bias=False)
    ema = build_ema(model, decay=0.9)
    values, wanted = [1.0, 2.0, 4.0], None
    for n, value in enumerate(values):
        model.weight.data.fill_(value)
        ema.update_parameters(model)
        decay = min(0.9, (1 + n) / (10 + n))
        wanted = value if wanted is None else decay * wanted + (1 - decay) * value
    assert ema.module.weight.item() == pytest.approx(wanted)


def test_the_average_copies_buffers():
    model = nn.BatchNorm1d(2)
    ema = build_ema(model, decay=0.9)
    model.running_mean.fill_(3)
    ema.update_parameters(model)
    assert ema.module.running_mean.tolist() == [3, 3]


@pytest.mark.parametrize(("values", "finite"), [([1.0, 0.0], True), ([1.0, math.nan], False), ([math.inf, 1.0], False)])
def test_one_value_that_is_not_finite_is_enough(values, finite):
    assert all_finite(Accelerator(cpu=True), [torch.tensor(value) for value in values]) == finite


def prepared():
    torch.manual_seed(0)
    accelerator, network = Accelerator(cpu=True), nn.Linear(3, 1, bias=False)
    network, optimizer = accelerator.prepare(network, torch.optim.SGD(network.parameters(), lr=1.0))
    return accelerator, network, optimizer


def test_a_step_follows_the_clipped_gradient():
    accelerator, network, optimizer = prepared()
    before, metrics = network.weight.detach().clone(), {}
    loss = network(torch.tensor([[3.0, 0.0, 4.0]])).sum()  # its gradient has norm 5
    assert optimizer_step(accelerator, network, optimizer, loss, metrics, grad_clip=0.5, norm_name="norm")
    assert metrics["norm"].item() == pytest.approx(5)
    torch.testing.assert_close(before - network.weight, torch.tensor([[0.3, 0.0, 0.4]]))
    assert network.weight.grad is None


@pytest.mark.parametrize("where", ["loss", "metric", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(where):
    accelerator, network, optimizer = prepared()
    before = network.weight.detach().clone()
    output = network(torch.ones(1, 3)).sum()
    loss = {"loss": output * math.nan, "metric": output, "gradient": (output - output.detach()).square().sqrt()}[where]
    metrics = {"loss_part": torch.tensor(math.nan if where == "metric" else 0.0)}
    assert not optimizer_step(accelerator, network, optimizer, loss, metrics, grad_clip=1.0)
    assert torch.equal(network.weight, before)
    assert network.weight.grad is None
