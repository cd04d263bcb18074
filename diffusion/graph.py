"""Graphs: the forward Markov chain that a clean code walks, position by position (SEDD, arXiv 2310.16834, section 3).

Shapes: codes `(B, ...)` int64, sigma `(B,)`, probabilities and scores `(B, ..., S)` with S states.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.errors import UserError


def per_position(value: Tensor, like: Tensor) -> Tensor:
    """View `value` `(B,)` so that it broadcasts against `like` `(B, ...)`."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim))


class Absorbing:
    """Every code jumps to one mask state at rate 1 and stays there: S = V + 1 states, mask state = V.

    Args:
        vocab_size: V, the number of real codes, at least 1.
    """

    def __init__(self, vocab_size: int) -> None:
        if vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, got {vocab_size}")
        self.vocab_size = vocab_size
        self.mask_state = vocab_size
        self.num_states = vocab_size + 1

    def rate(self, codes: Tensor) -> Tensor:
        """Row Q(x, .) of the rate matrix for every code: `(B, ..., S)`; rows sum to 0."""
        self._check(codes)
        row = torch.zeros(*codes.shape, self.num_states, dtype=torch.float64, device=codes.device)
        row.scatter_(-1, codes[..., None], -1.0)
        row[..., self.mask_state] += 1.0
        return row

    def transition(self, codes: Tensor, sigma: Tensor) -> Tensor:
        """Row of exp(sigma Q): probabilities `(B, ..., S)` of the noised state, given `codes`. Raises ValueError."""
        self._check(codes, sigma)
        survive = per_position(torch.exp(-sigma), codes)
        row = torch.zeros(*codes.shape, self.num_states, dtype=sigma.dtype, device=codes.device)
        row.scatter_(-1, codes[..., None], survive.expand(codes.shape)[..., None])
        row[..., self.mask_state] += 1 - survive
        return row

    def sample(self, codes: Tensor, sigma: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noised codes: each position is masked on its own with probability 1 - exp(-sigma). Raises ValueError."""
        self._check(codes, sigma)
        masked_share = per_position(-torch.expm1(-sigma), codes)
        drawn = torch.rand(codes.shape, generator=generator, device=codes.device, dtype=torch.float64)
        return torch.where(drawn < masked_share, self.mask_state, codes)

    def limit(
        self, shape: tuple[int, ...], generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Codes of `shape` from the limit of the chain: all masked. The generator is not needed; graphs share a form."""
        del generator
        return torch.full(shape, self.mask_state, dtype=torch.int64, device=device)

    def log_score(self, logits: Tensor, codes: Tensor, sigma: Tensor) -> Tensor:
        """The log-score `(B, ..., S)` of a network that predicts p(x0 | visible codes) (RADD, arXiv 2406.03736, eq. 3.2).

        s(y) = p(y) / (e^sigma - 1) at a masked position. At visible positions, and for the mask state itself, which the
        loss never reads, the value is 0.

        Args:
            logits: `(B, ..., V)` over real codes, any float type; computed in float32 or better.
            codes: noised codes `(B, ...)`.
            sigma: total noise `(B,)`, above 0.
        """
        self._check(codes, sigma)
        log_probability = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
        value = log_probability - per_position(torch.log(torch.expm1(sigma)), log_probability)
        value = torch.where((codes == self.mask_state)[..., None], value, 0.0)
        return torch.cat([value, torch.zeros_like(value[..., :1])], dim=-1)

    def _check(self, codes: Tensor, sigma: Tensor | None = None) -> None:
        if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) <= self.mask_state):
            raise ValueError(f"codes must lie in [0, {self.mask_state}], got {int(codes.min())} to {int(codes.max())}")
        if sigma is not None and bool((sigma < 0).any()):
            raise ValueError(f"sigma must not be negative, got {float(sigma.min())}")


def build_graph(name: str, vocab_size: int) -> Absorbing:
    """The graph called `name`. Raises UserError for an unknown name."""
    if name != "absorbing":
        raise UserError(f"unknown graph '{name}': prior.graph is one of absorbing")
    return Absorbing(vocab_size)
