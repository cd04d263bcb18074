"""Prior: the distribution of code grids. Network, graph, noise and classes in one object, as Tokenizer is for images."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from common.config import TrainConfig
from common.errors import UserError, shorten
from common.model_dir import (
    CONFIG_FILE,
    GENERATION_FILE,
    load_model,
    model_directory,
    read_config,
    read_json,
    save_model,
)
from common.ranges import check_range
from common.stored_config import stored_config
from diffusion.graph import GRAPHS, at_least_float32, build_graph, per_position
from diffusion.likelihood import Bound, likelihood_bound
from diffusion.loss import cross_entropy, score_entropy
from diffusion.noise import NOISES, LogLinear, build_noise
from diffusion.sampler import NEEDS_MASK, get_sampler, planned_calls
from diffusion.sampling import Predictor
from diffusion.settings import SamplingSettings
from diffusion.subcodes import split_codes, subcode_vocab_size
from diffusion.transformer import Transformer2D
from diffusion.windows import SlidingWindows

MAX_CALLS = 1_000_000  # network calls of one sample
MAX_WIDTH, MAX_DEPTH, MAX_GROUPS = 65_536, 1000, 24
MAX_CODEBOOK = 2**24
MAX_GRID = 4096  # codes a side
LOSSES = ("auto", "score_entropy", "lambda_dce", "maskgit", "cross_entropy")


@dataclass
class PriorConfig:
    """`prior.*` of a run's configuration."""

    graph: str = "absorbing"  # absorbing | uniform
    noise: str = "loglinear"  # loglinear | cosine | geometric | polynomial
    # auto: score_entropy on the absorbing graph, cross_entropy on the uniform one.
    # score_entropy: the likelihood bound under `noise`.
    # lambda_dce (absorbing): the same bound, with the mask ratio itself uniform.
    # maskgit (absorbing): cosine mask ratios and equal weights, for sample quality rather than likelihood.
    # cross_entropy (uniform): of p(x0 | noised codes) at every position; least for the same p, of far lower variance.
    loss: str = "auto"
    parametrization: str = "x0"  # x0: the network predicts clean codes | score: SEDD's raw log-score (uniform graph)
    groups: int = 0  # sub-codes that a code is split into, each with its own mask state; 0: the tokenizer's
    width: int = 192
    depth: int = 6
    heads: int = 6
    dropout: float = 0.0
    # None: on the uniform graph only; on the absorbing graph the exact answer does not depend on the time
    time_conditioned: bool | None = None
    label_dropout: float = 0.1  # fraction of images trained without their class; guidance needs it
    train: TrainConfig = field(default_factory=TrainConfig)
    generation: SamplingSettings = field(default_factory=SamplingSettings)  # the model's generation defaults

    def __post_init__(self) -> None:
        """Raise ValueError for values that are out of range or do not fit each other."""
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
        check_range("groups", self.groups, 0, MAX_GROUPS)
        check_range("depth", self.depth, 1, MAX_DEPTH)
        for name in ("width", "heads"):
            check_range(name, getattr(self, name), 1, MAX_WIDTH)
        unit = 4 * self.heads
        if self.width % unit:
            raise ValueError(
                f"width must be a multiple of 4 x heads = {unit}, got {self.width}: "
                f"set prior.width={-(-self.width // unit) * unit} or other heads"
            )
        for name in ("dropout", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")

    def is_guided(self, class_names: Collection[str]) -> bool:
        """Whether guidance can be had: there are classes, and some images are trained without theirs."""
        return bool(class_names) and self.label_dropout > 0

    def resolved(self, groups: int = 1) -> PriorConfig:
        """The same with every "auto", None and 0 decided; `groups` are the tokenizer's sub-codes."""
        uniform = self.graph == "uniform"
        loss = self.loss
        if loss == "auto":
            loss = "cross_entropy" if uniform and self.parametrization == "x0" else "score_entropy"
        timed = uniform if self.time_conditioned is None else self.time_conditioned
        return replace(self, groups=self.groups or groups, time_conditioned=timed, loss=loss)


# What config.json holds of a PriorConfig.
ARCHITECTURE_KEYS = tuple(f.name for f in dataclasses.fields(PriorConfig) if f.name not in ("train", "generation"))


@dataclass
class CodeShape:
    """What a prior knows of the encoded data: number of codes, (h, w) of a code grid, names of the classes."""

    codebook_size: int
    grid: list[int]
    class_names: list[str]

    def __post_init__(self) -> None:
        """Raise ValueError for values that no encoded data has."""
        check_range("codebook_size", self.codebook_size, 2, MAX_CODEBOOK)
        if len(self.grid) != 2:
            raise ValueError(f"grid must be two numbers, got {self.grid}")
        for side in self.grid:
            check_range("each of grid", side, 1, MAX_GRID)


class Prior(nn.Module):
    """Score-entropy discrete diffusion over code grids.

    Codes here are the graph's: `(B, h, w)`, with sub-codes `(B, h, w, G)`; V of them, the mask state is V. `loss` and
    `likelihood` take whole codes `(B, h, w)` in [0, K), K = V^G, and split them.

    Args:
        config: architecture and training objective; "auto" values are decided here.
        codebook_size: K, the number of the tokenizer's codes.
        grid: (h, w) of the training grids.
        class_names: sorted; empty without classes.

    Attributes:
        no_class: the label that stands for "no class".
        guided: whether guidance can be had, see `PriorConfig.is_guided`.
        time_free: whether predictions depend on the codes alone.
        generation: the model's generation defaults.

    Raises:
        UserError: codes cannot be split into so many sub-codes, or the generation defaults do not fit the model.
    """

    def __init__(self, config: PriorConfig, codebook_size: int, grid: tuple[int, int], class_names: list[str]) -> None:
        super().__init__()
        self.config = config = config.resolved()
        self.codebook_size, self.grid, self.class_names = codebook_size, grid, list(class_names)
        self.groups, self.vocab_size = config.groups, subcode_vocab_size(codebook_size, config.groups)
        self.graph, self.noise = build_graph(config.graph, self.vocab_size), build_noise(config.noise)
        self.no_class = len(class_names)
        self.guided = config.is_guided(class_names)
        self.time_free = not config.time_conditioned
        self.raw_score = config.parametrization == "score"
        try:
            self.generation = self.checked_settings(config.generation)
        except UserError as error:
            raise UserError(f"generation defaults: {error}") from error
        self.network = Transformer2D(
            vocab_size=self.vocab_size,
            grid=grid,
            num_classes=len(class_names),
            groups=config.groups,
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            dropout=config.dropout,
            time_conditioned=bool(config.time_conditioned),
        )

    def checked_settings(self, settings: SamplingSettings) -> SamplingSettings:
        """`settings` with the sampler's options in their types. Raises UserError where this prior cannot sample so."""
        if settings.guidance_scale != 1 and not self.guided:
            raise UserError("this model has no classes or was trained without label dropout: leave guidance at 1")
        sampler = get_sampler(settings.sampler, settings.sampler_options, self.graph)
        calls = planned_calls(settings)
        if calls > MAX_CALLS:
            raise UserError(f"{calls} network calls are more than {MAX_CALLS}: ask for fewer steps or corrections")
        # Options of the command line are texts. Typed, they read the same in metadata as those of other origins.
        return settings.updated({"sampler_options": sampler.keywords})

    def log_p0(self, codes: Tensor, sigma: Tensor, labels: Tensor, large_grids: str = "sliding") -> Tensor:
        """Log p(x0 | noised codes) `(B, h, w[, G], V)` in float32 or better.

        Args:
            codes: noised codes `(B, h, w[, G])`; sigma: their noise `(B,)`; labels: `(B,)` in [0, C], C is no class.
            large_grids: grids larger than the trained one: "sliding" or "rotary", see `SamplingSettings`.
        """
        network: nn.Module | SlidingWindows = self.network
        if large_grids == "sliding" and (codes.shape[1] > self.grid[0] or codes.shape[2] > self.grid[1]):
            mask_state = self.graph.mask_state if self.graph.is_masked else None
            network = SlidingWindows(self.network, self.grid, mask_state, normalise=not self.raw_score)
        output: Tensor = network(codes, sigma.float(), labels).float()
        if not output.sum().isfinite():  # finite weights can be so large that the activations are not
            raise UserError("the prior's output is not finite: its weights are damaged, or --dtype needs to be float32")
        return self.graph.log_p0(output, codes, sigma, self.raw_score)

    def predictor(self, labels: Tensor, guided: bool, large_grids: str = "sliding") -> Predictor:
        """The `Predictor` of a batch with `labels` `(B,)`: with them and, if `guided`, also without, in one network call."""

        def predict(codes: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
            wanted = labels[rows]
            if not guided:
                return self.log_p0(codes, sigma, wanted, large_grids)[None]
            both = torch.cat([wanted, torch.full_like(wanted, self.no_class)])
            log_p0 = self.log_p0(torch.cat([codes, codes]), torch.cat([sigma, sigma]), both, large_grids)
            return torch.unflatten(log_p0, 0, (2, -1))

        return predict

    def forward(self, codes: Tensor, labels: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """`loss`; wrappers for several processes synchronise gradients of what forward computes."""
        return self.loss(codes, labels, t, generator)

    def loss(self, codes: Tensor, labels: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """The training loss in nats a code, a scalar; which one `prior.loss` says.

        Args:
            codes: `(B, h, w)` in [0, K); labels: `(B,)` in [0, C), -1 for no class.
            t: times `(B,)` in [0, 1), on the CPU.
            generator: a CPU generator: noise, and which images lose their label.
        """
        kind = self.config.loss
        if kind == "lambda_dce":  # the mask ratio itself is uniform
            sigma, dsigma = LogLinear(eps=1e-6)(t.clamp(min=1e-4))
        else:
            sigma, dsigma = (build_noise("cosine") if kind == "maskgit" else self.noise)(t.clamp(min=1e-5))
        codes = split_codes(codes, self.groups, self.vocab_size)
        uniforms = torch.rand((2, *codes.shape), generator=generator, dtype=torch.float64)
        noised = self.graph.noised(codes.cpu(), sigma, uniforms).to(codes.device)
        sigma, dsigma = sigma.to(codes.device), dsigma.to(codes.device)
        dropped = torch.rand(len(labels), generator=generator).to(labels.device) < self.config.label_dropout
        labels = torch.where(dropped | (labels < 0), self.no_class, labels)

        loss: Tensor
        if self.graph.is_masked:
            masked = (noised == self.graph.mask_state).float()
            if kind == "maskgit":
                weights = masked / masked.sum().clamp(min=1)
            else:
                weights = masked * per_position(dsigma / torch.expm1(sigma), masked) / masked.numel()
            loss = self.network(noised, sigma, labels, codes, weights)
            return loss
        output = self.network(noised, sigma, labels)
        if kind == "cross_entropy":  # (D3PM, arXiv 2107.03006, equation 5, its second part)
            return cross_entropy(self.graph.posterior(at_least_float32(output), noised, sigma), codes).mean()
        score = self.graph.network_log_score(output, noised, sigma, self.raw_score)
        entropy = score_entropy(self.graph, score, sigma, noised, codes)
        return (entropy.flatten(1).mean(1) * dsigma).mean()

    def likelihood(
        self,
        codes: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        points: int = 16,
        batch_size: int = 100,
        progress: Callable[[int], object] | None = None,
    ) -> Bound:
        """Upper bound on -ln p(codes | label), in nats a code (SEDD, arXiv 2310.16834, theorem 3.6).

        Args:
            codes: clean codes `(N, h, w)` in [0, K); labels: `(N,)` in [0, C], C and -1 are no class.
            generator: a CPU generator.
            points: strata of the noise level; every image is used once in each.
            progress: called after each network call with its number of noised images; N times `points` in all.
        """
        labels = torch.where(labels < 0, self.no_class, labels)
        codes = split_codes(codes, self.groups, self.vocab_size)
        bound = likelihood_bound(
            self.network, self.graph, codes, labels, generator, points, batch_size, self.raw_score, progress=progress
        )  # in nats a sub-code
        return Bound(bound.nats * self.groups, bound.standard_error * self.groups)

    def save(self, directory: Path, provenance: Mapping[str, object]) -> None:
        """Write config.json (with `provenance`), model.safetensors and generation.json."""
        architecture = {key: getattr(self.config, key) for key in ARCHITECTURE_KEYS}
        shape = {"codebook_size": self.codebook_size, "grid": list(self.grid), "class_names": self.class_names}
        generation = json.dumps(dataclasses.asdict(self.generation), indent=2) + "\n"
        config = {**architecture, **shape, **provenance}
        save_model(directory, self.network.state_dict(), config, {GENERATION_FILE: generation})

    @classmethod
    def load(cls, directory: Path) -> Prior:
        """Read what `save` wrote, in eval mode. Raises UserError where it is missing, damaged or does not fit."""
        stored, source = read_config(directory), directory / CONFIG_FILE
        config = stored_config(PriorConfig, stored, ARCHITECTURE_KEYS, source)
        shape = stored_config(CodeShape, stored, ("codebook_size", "grid", "class_names"), source)
        config.generation = read_generation(directory)
        return load_model(
            directory,
            lambda: cls(config, shape.codebook_size, (shape.grid[0], shape.grid[1]), shape.class_names),
            {"depth": ("blocks", config.depth)},
            lambda prior: prior.network,
        )

    @classmethod
    def from_pretrained(cls, model: str | Path, device: str | torch.device = "cpu") -> Prior:
        """The prior of a model directory, or of "hf:owner/name" on the Hugging Face Hub, in eval mode. Raises UserError."""
        return cls.load(model_directory(model, parts=["prior"]) / "prior").to(device)


def fitted_generation(config: PriorConfig, class_names: Collection[str]) -> SamplingSettings:
    """The generation defaults of a new model: those of `config`, as far as its graph and classes have them.

    A sampler that needs a mask state gives way to the default sampler on a graph without one, and guidance to 1 for a model
    that cannot be guided. So one configuration serves both graphs.
    """
    generation, default = config.generation, SamplingSettings()
    if generation.sampler in NEEDS_MASK and not GRAPHS[config.graph].is_masked:
        generation = generation.updated({"sampler": default.sampler})
    if not config.is_guided(class_names):
        generation = generation.updated({"guidance_scale": default.guidance_scale})
    return generation


def read_generation(directory: Path) -> SamplingSettings:
    """The generation defaults in `directory`/generation.json, `SamplingSettings()` without that file. Raises UserError."""
    file = directory / GENERATION_FILE
    if not os.path.lexists(file):  # a folder or a broken link is a fault
        return SamplingSettings()
    stored = read_json(file)
    try:
        return SamplingSettings().updated(stored)
    except UserError as error:
        raise UserError(f"{file}: {shorten(str(error))}") from error
