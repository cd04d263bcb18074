"""Training of the prior: configuration and one step. The loop around it is in train.py."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from common.config import TrainConfig
from common.model_dir import save_model
from common.optim import build_ema, optimizer_step
from common.seeds import derived_seed
from diffusion.graph import GRAPHS, Absorbing, at_least_float32, build_graph, per_position
from diffusion.loss import cross_entropy, graph_log_score, likelihood_bound, score_entropy
from diffusion.noise import NOISES, LogLinear, build_noise, stratified_times
from diffusion.subcodes import split_codes, subcode_vocab_size
from diffusion.transformer import Transformer2D

LOSSES = ("auto", "score_entropy", "lambda_dce", "maskgit", "cross_entropy")


@dataclass
class PriorConfig:
    """`prior.*` of a run's configuration."""

    graph: str = "absorbing"  # absorbing | uniform
    noise: str = "loglinear"  # loglinear | cosine | geometric | polynomial
    # auto: score_entropy on the absorbing graph, cross_entropy on the uniform one.
    # score_entropy: the likelihood bound under `noise`.
    # lambda_dce (absorbing): the same bound drawn in the mask rate.
    # maskgit (absorbing): cosine mask rates and equal weights, for sample quality rather than likelihood.
    # cross_entropy (uniform): of p(x0 | noised codes) at every position, least for the same p and of far lower variance.
    loss: str = "auto"
    parametrization: str = "x0"  # x0: the network predicts clean codes | score: SEDD's raw log-score (uniform graph)
    groups: int = 0  # parts a code is split into, each with a mask state of its own; 0: the tokenizer's sub-codes
    width: int = 192
    depth: int = 6
    heads: int = 6
    dropout: float = 0.0
    time_conditioned: bool | None = (
        None  # None: on the uniform graph; the exact absorbing answer does not need the time
    )
    label_dropout: float = 0.1  # share of pictures trained without their class: what guidance needs
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        choices: dict[str, Collection[str]] = {
            "graph": GRAPHS,
            "noise": NOISES,
            "loss": LOSSES,
            "parametrization": ("x0", "score"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'")
        if self.graph == "uniform" and self.loss in ("lambda_dce", "maskgit"):
            raise ValueError(f"loss {self.loss} needs the absorbing graph: set prior.loss=score_entropy")
        if self.loss == "cross_entropy" and (self.graph, self.parametrization) != ("uniform", "x0"):
            raise ValueError(
                "loss cross_entropy needs the uniform graph and parametrization x0: set prior.loss=score_entropy"
            )
        if self.graph == "absorbing" and self.parametrization != "x0":
            raise ValueError("parametrization score needs the uniform graph: set prior.parametrization=x0")
        if self.groups < 0:
            raise ValueError(f"groups must not be negative, got {self.groups}")
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
        vocab_size=subcode_vocab_size(config["codebook_size"], config["groups"]),
        grid=tuple(config["grid"]),
        num_classes=len(config["class_names"]),
        groups=config["groups"],
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
        groups: sub-codes of the tokenizer, which `prior.groups` of 0 takes over.
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
        groups: int = 1,
    ) -> None:
        self.accelerator, self.train, self.seed = accelerator, config.train, seed
        self.label_dropout = config.label_dropout
        uniform = config.graph == "uniform"
        config = replace(config, groups=config.groups or groups)
        if config.time_conditioned is None:
            config = replace(config, time_conditioned=uniform)
        if config.loss == "auto":
            easy = uniform and config.parametrization == "x0"
            config = replace(config, loss="cross_entropy" if easy else "score_entropy")
        architecture = {key: value for key, value in asdict(config).items() if key != "train"}
        self.model_config = architecture | {
            "codebook_size": codebook_size,
            "grid": list(grid),
            "class_names": class_names,
        }
        self.loss, self.raw_score = config.loss, config.parametrization == "score"
        model = build_prior(self.model_config)
        self.groups, self.vocab_size = config.groups, model.vocab_size
        self.graph = build_graph(config.graph, model.vocab_size)
        self.noise = build_noise("cosine" if config.loss == "maskgit" else config.noise)
        self.num_classes = model.num_classes
        self.ema = build_ema(model, config.train.ema_decay).to(accelerator.device)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.train.learning_rate,
            betas=(config.train.betas[0], config.train.betas[1]),
            weight_decay=config.train.weight_decay,
            fused=True,
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)

    def set_learning_rate(self, scale: float) -> None:
        """Set the learning rate to `scale` times the configured one."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.train.learning_rate * scale

    def step(self, batch: tuple[Tensor, Tensor], step: int) -> dict[str, Tensor]:
        """One update from (codes `(B, h, w)`, labels `(B,)`); metrics in nats a code.

        A step whose loss or gradient is not finite in any process moves nothing; `skipped` is then 1.
        """
        codes, labels = (value.to(self.accelerator.device) for value in batch)
        common = torch.Generator().manual_seed(derived_seed(self.seed, step, 0, 1))
        own = torch.Generator().manual_seed(derived_seed(self.seed, step, self.accelerator.process_index, 2))
        t = stratified_times(
            len(codes), common, rank=self.accelerator.process_index, world_size=self.accelerator.num_processes
        )
        if self.loss == "lambda_dce":  # the mask rate itself is uniform
            sigma, dsigma = LogLinear(eps=1e-6)(t.clamp(min=1e-4))
        else:
            sigma, dsigma = self.noise(t.clamp(min=1e-5))
        codes = split_codes(codes, self.groups, self.vocab_size)
        uniforms = torch.rand((2, *codes.shape), generator=own, dtype=torch.float64)
        noised = self.graph.noised(codes.cpu(), sigma, uniforms).to(codes.device)
        sigma, dsigma = sigma.to(codes.device), dsigma.to(codes.device)
        dropped = torch.rand(len(labels), generator=own).to(labels.device) < self.label_dropout
        labels = torch.where(dropped | (labels < 0), self.num_classes, labels)

        if isinstance(self.graph, Absorbing):
            masked = (noised == self.graph.mask_state).float()
            if self.loss == "maskgit":
                weights = masked / masked.sum().clamp(min=1)
            else:
                weights = masked * per_position(dsigma / torch.expm1(sigma), masked) / masked.numel()
            loss = self.model(noised, sigma, labels, codes, weights)
        else:
            output = self.model(noised, sigma, labels)
            if self.loss == "cross_entropy":  # (D3PM, arXiv 2107.03006, equation 5, its second part)
                loss = cross_entropy(self.graph.posterior(at_least_float32(output), noised, sigma), codes).mean()
            else:
                score = graph_log_score(self.graph, output, noised, sigma, self.raw_score)
                entropy = score_entropy(self.graph, score, sigma, noised, codes)
                loss = (entropy.flatten(1).mean(1) * dsigma).mean()
        metrics = {"loss": loss}
        moved = optimizer_step(self.accelerator, self.model, self.optimizer, loss, metrics, self.train.grad_clip)
        if moved:
            self.ema.update_parameters(self.accelerator.unwrap_model(self.model))
        return {name: value.detach() for name, value in metrics.items()} | {"skipped": torch.tensor(float(not moved))}

    def take_window(self) -> dict[str, float]:
        """Figures since the last call, of which this stage has none."""
        return {}

    def evaluate(self, loader: DataLoader) -> dict[str, float]:
        """Likelihood bound of held-out codes with the averaged weights, in bits a code."""
        codes, labels = (torch.cat(values).to(self.accelerator.device) for values in zip(*loader, strict=True))
        labels = torch.where(labels < 0, self.num_classes, labels)
        codes = split_codes(codes, self.groups, self.vocab_size)
        self.ema.eval()
        generator = torch.Generator().manual_seed(self.seed)
        bound = likelihood_bound(
            self.ema, self.graph, codes, labels, generator, points=4, raw_score=self.raw_score
        )  # nats for each part of a code
        bits = self.groups / math.log(2)
        return {"bits_per_code": bound.nats * bits, "standard_error": bound.standard_error * bits}

    def export(self, directory: Path, extra: dict[str, Any]) -> None:
        """Write config.json and the averaged weights for sampling."""
        save_model(directory, self.ema.module.state_dict(), self.model_config | extra)
