"""A stage that fits a line in milliseconds, and its data: what the tests of the loop train."""

from collections.abc import Collection

import torch
from torch import nn
from torch.utils.data import TensorDataset

from common.config import TrainConfig
from common.model_dir import save_model
from common.optim import build_ema, optimizer_step
from training.loop import Run, StageData
from training.run import build_accelerator

STEPS = 8


class LineStage:
    """y = w x + b, with noise on x so that a step depends on the random numbers that the loop has seeded.

    Args:
        interrupted_at: the step at which the user presses Ctrl-C.
        not_finite: steps whose loss is NaN.
    """

    name = "prior"

    def __init__(self, accelerator, interrupted_at: int = -1, not_finite: Collection[int] = ()) -> None:
        torch.manual_seed(1)
        model = nn.Linear(1, 1)
        self.accelerator, self.interrupted_at, self.not_finite = accelerator, interrupted_at, not_finite
        self.ema = build_ema(model, decay=0.5)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.steps, self.seen, self.scales, self.since_pop = [], [], [], 0

    def set_learning_rate(self, scale):
        self.scales.append(scale)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.1 * scale

    def step(self, batch, step):
        if step == self.interrupted_at:
            raise KeyboardInterrupt
        x, y = batch
        self.steps.append(step)
        self.seen.append(x.flatten().tolist())
        self.since_pop += 1
        loss = (self.model(x + 0.1 * torch.randn_like(x)) - y).square().mean()
        if step in self.not_finite:
            loss = loss * torch.nan
        metrics = {"loss": loss}
        stepped = optimizer_step(self.accelerator, self.model, self.optimizer, loss, metrics, grad_clip=1.0)
        if stepped:
            self.ema.update_parameters(self.model)
        return {name: value.detach() for name, value in metrics.items()} | {"skipped": torch.tensor(not stepped)}

    def pop_metrics(self):
        since, self.since_pop = self.since_pop, 0
        return {"steps_since": since}

    def evaluate(self, loader):
        errors = [(self.ema(x) - y).square() for x, y in loader]
        return {"error": torch.cat(errors).mean().item()}

    def export(self, directory, provenance):
        save_model(directory, self.ema.module.state_dict(), provenance)


def make_run(output_dir, key="lines", seed=5, **settings) -> Run:
    """A run of STEPS steps with a checkpoint every 3 and a record every 2; `settings` replace `train.*`."""
    train = TrainConfig(
        **{"steps": STEPS, "batch_size": 4, "warmup_steps": 2, "checkpoint_every": 3, "log_every": 2} | settings
    )
    x = torch.linspace(-1, 1, 10)[:, None]
    data = StageData(TensorDataset(x, 2 * x + 1), TensorDataset(x[::3], 2 * x[::3] + 1), key, "folder")
    return Run(train, data, build_accelerator(train, output_dir), output_dir, seed)
