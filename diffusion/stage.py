"""Training of the prior: configuration and one step. The loop around it is in train.py."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from common.checkpoint import save_model, warm_ema
from common.config import TrainConfig
from diffusion.graph import build_graph
from diffusion.loss import likelihood_bound, score_entropy_from_logits
from diffusion.noise import NOISES, build_noise, stratified_times
from diffusion.transformer import Transformer2D


@dataclass
class PriorConfig:
    """`prior.*` of a run's configuration."""

    graph: str = "absorbing"
    noise: str = "loglinear"  # loglinear | cosine
    loss: str = "score_entropy"
    width: int = 192
    depth: int = 6
    heads: int = 6
    dropout: float = 0.0
    time_conditioned: bool = False  # the exact absorbing score does not need the time
    label_dropout: float = 0.1  # share of pictures trained without their class: what guidance needs
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.graph != "absorbing":
            raise ValueError(f"graph must be absorbing, got '{self.graph}'")
        if self.noise not in NOISES:
            raise ValueError(f"noise must be one of {', '.join(NOISES)}, got '{self.noise}'")
        if self.loss != "score_entropy":
            raise ValueError(f"loss must be score_entropy, got '{self.loss}'")
        for name in ("width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % (4 * self.heads):
            raise ValueError(f"width must be a multiple of 4 x heads = {4 * self.heads}, got {self.width}")
        for name in ("dropout", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")


def build_prior(config: dict[str, Any]) -> Transformer2D:
    """The network that DIR/prior/config.json describes."""
    return Transformer2D(
        vocab_size=config["codebook_size"],
        grid=tuple(config["grid"]),
        num_classes=len(config["class_names"]),
        width=config["width"],
        depth=config["depth"],
        heads=config["heads"],
        dropout=config["dropout"],
        time_conditioned=config["time_conditioned"],
    )


class PriorStage:
    """Score-entropy training of the prior on codes `(B, h, w)` and labels `(B,)` (-1 where there are no classes).

    Args:
        codebook_size, grid, class_names: of the encoded data.
        seed: of the run; the noise of step s depends only on (seed, s, rank), so resuming repeats nothing.
    """

    name = "prior"

    def __init__(
        self,
        config: PriorConfig,
        accelerator: Accelerator,
        codebook_size: int,
        grid: tuple[int, int],
        class_names: list[str],
        seed: int,
    ) -> None:
        self.accelerator, self.train, self.seed = accelerator, config.train, seed
        self.label_dropout = config.label_dropout
        architecture = {key: value for key, value in asdict(config).items() if key != "train"}
        self.model_config = architecture | {
            "codebook_size": codebook_size,
            "grid": list(grid),
            "class_names": class_names,
        }
        self.graph = build_graph(config.graph, codebook_size)
        self.noise = build_noise(config.noise)
        model = build_prior(self.model_config)
        self.num_classes = model.num_classes
        self.ema = warm_ema(model, config.train.ema_decay).to(accelerator.device)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.train.learning_rate,
            betas=(config.train.betas[0], config.train.betas[1]),
            weight_decay=config.train.weight_decay,
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)

    def set_learning_rate(self, scale: float) -> None:
        """Set the learning rate to `scale` times the configured one."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.train.learning_rate * scale

    def step(self, batch: tuple[Tensor, Tensor], step: int) -> dict[str, Tensor]:
        """One update from (codes `(B, h, w)`, labels `(B,)`); metrics in nats a code."""
        codes, labels = (value.to(self.accelerator.device) for value in batch)
        common = torch.Generator().manual_seed(hash((self.seed, step)) % 2**63)
        own = torch.Generator().manual_seed(hash((self.seed, step, self.accelerator.process_index)) % 2**63)
        t = stratified_times(
            len(codes), common, rank=self.accelerator.process_index, world_size=self.accelerator.num_processes
        )
        sigma, dsigma = (value.to(codes.device) for value in self.noise(t.clamp(min=1e-5)))
        noised = self.graph.sample(codes.cpu(), sigma.cpu(), own).to(codes.device)
        dropped = torch.rand(len(labels), generator=own).to(labels.device) < self.label_dropout
        labels = torch.where(dropped | (labels < 0), self.num_classes, labels)

        logits = self.model(noised, sigma, labels)
        per_code = score_entropy_from_logits(self.graph, logits, sigma, noised, codes)
        loss = (per_code.flatten(1).mean(1) * dsigma).mean()
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.train.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update_parameters(self.accelerator.unwrap_model(self.model))
        return {"loss": loss.detach(), "grad_norm": norm.detach()}

    def evaluate(self, loader: DataLoader) -> dict[str, float]:
        """Likelihood bound of held-out codes with the averaged weights, in bits a code."""
        codes, labels = (torch.cat(values).to(self.accelerator.device) for values in zip(*loader, strict=True))
        labels = torch.where(labels < 0, self.num_classes, labels)
        self.ema.eval()
        generator = torch.Generator().manual_seed(self.seed)
        nats, error = likelihood_bound(self.ema, self.graph, codes, labels, generator, points=4)
        return {"bits_per_code": nats / 0.6931471805599453, "standard_error": error / 0.6931471805599453}

    def export(self, directory: Path, extra: dict[str, Any]) -> None:
        """Write config.json and the averaged weights for sampling."""
        save_model(directory, self.ema.module.state_dict(), self.model_config | extra)
