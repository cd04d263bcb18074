"""The interface of a graph: the forward Markov chain of a code, position by position (SEDD, arXiv 2310.16834, section 3).

Shapes: codes `(B, ...)` int64, sigma `(B,)`, probabilities and scores `(B, ..., S)` with S states, of which the first V
are real codes. Position by position means that codes may have any shape behind B. A graph knows everything that differs
between graphs: what noise does, what the network's output means, what a reverse step is, where guidance acts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.guidance import Adjustment


def per_position(value: Tensor, like: Tensor) -> Tensor:
    """View `value` `(B,)` so that it broadcasts against `like` `(B, ...)`."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim))


def at_least_float32(value: Tensor) -> Tensor:
    """`value` in float32, or in float64 where it already is: logarithms and exponentials lose too much in half precision."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


class Transition(NamedTuple):
    """One step of each position.

    exit_prob: probability `(B, ...)` of leaving the present state.
    log_next: log-probabilities `(B, ..., V)` of the code that it then shows.
    """

    exit_prob: Tensor
    log_next: Tensor

    def probabilities(self, codes: Tensor, num_states: int) -> Tensor:
        """The same as rows `(B, ..., S)` of a transition matrix, for the present `codes` `(B, ...)`."""
        row = F.one_hot(codes, num_states) * (1 - self.exit_prob)[..., None]
        row[..., : self.log_next.shape[-1]] += self.exit_prob[..., None] * self.log_next.exp()
        return row


class Rates(NamedTuple):
    """Reverse rates of each position per unit of sigma: their sum `(B, ...)`, and where to, as log-probabilities."""

    exit_rate: Tensor
    log_next: Tensor


class Graph(ABC):
    """What every graph has.

    Attributes:
        name: in configurations.
        is_masked: whether there is a mask state, which noise leads to and from which a code is unmasked once.
        vocab_size: V, the number of real codes.
        num_states: S, with the mask state.
        mask_state: its number; -1 without one.
    """

    name: str
    is_masked: bool
    vocab_size: int
    num_states: int
    mask_state: int

    @abstractmethod
    def rate(self, codes: Tensor) -> Tensor:
        """Row Q(x, .) of the rate matrix for every code x: `(B, ..., S)`; rows sum to 0."""

    @abstractmethod
    def rate_into(self, codes: Tensor) -> Tensor:
        """Column Q(., x) for every code x: the rates `(B, ..., S)` at which other states jump to x."""

    @abstractmethod
    def transition(self, codes: Tensor, sigma: Tensor) -> Tensor:
        """Row of exp(sigma Q): probabilities `(B, ..., S)` of the noised state, given `codes`. Raises ValueError."""

    def sample(self, codes: Tensor, sigma: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noised codes `(B, ...)`: noise hits each position on its own with probability 1 - exp(-sigma). Raises ValueError."""
        return self.noised(codes, sigma, torch.rand((2, *codes.shape), generator=generator, dtype=torch.float64))

    @abstractmethod
    def noised(self, codes: Tensor, sigma: Tensor, uniforms: Tensor) -> Tensor:
        """`sample` with given uniforms `(2, B, ...)` in [0, 1): the first decides whether noise hits, the second its result."""

    @abstractmethod
    def limit(
        self, shape: tuple[int, ...], generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Codes of `shape` from the limit of the chain, where sampling begins."""

    @abstractmethod
    def limit_from(self, uniforms: Tensor) -> Tensor:
        """`limit` with given float64 uniforms `(B, ...)` in [0, 1)."""

    @abstractmethod
    def limit_divergence(self, sigma: Tensor) -> Tensor:
        """KL `(B,)` in nats of exp(sigma Q)(x0, .) from the limit, for each position: the last term of the bound."""

    @abstractmethod
    def posterior(self, logits: Tensor, codes: Tensor, sigma: Tensor) -> Tensor:
        """Logits `(B, ..., V)` of p(x0 | noised codes), from a network's."""

    @abstractmethod
    def log_score(self, logits: Tensor, codes: Tensor, sigma: Tensor) -> Tensor:
        """The log-score `(B, ..., S)` that logits `(B, ..., V)` of p(x0 | noised codes) stand for."""

    @abstractmethod
    def log_p0(self, output: Tensor, codes: Tensor, sigma: Tensor, raw_score: bool = False) -> Tensor:
        """log p(x0 | noised codes) `(B, ..., V)` of a network's output `(B, ..., V)`.

        Args:
            raw_score: whether the output is a log-score (SEDD's parametrization) rather than logits.
        """

    @abstractmethod
    def network_log_score(self, output: Tensor, codes: Tensor, sigma: Tensor, raw_score: bool = False) -> Tensor:
        """The log-score `(B, ..., S)` of a network's output `(B, ..., V)`; arguments as in `log_p0`."""

    @abstractmethod
    def reverse_step(self, log_p0: Tensor, codes: Tensor, sigma: Tensor, sigma_next: Tensor) -> Transition:
        """The analytic reverse step from noise `sigma` to `sigma_next`, both scalars (SEDD, theorem 4.2).

        Exact for one position, whatever the step.

        Args:
            log_p0: log p(x0 | noised codes) `(B, ..., V)`.
            codes: the state `(B, ...)` at `sigma`.
        """

    @abstractmethod
    def reverse_rates(self, log_p0: Tensor, codes: Tensor, sigma: Tensor) -> Rates:
        """Reverse rates Q(y, x) s(y) over y != x at noise `sigma`, a scalar (SEDD, equation 3)."""

    @abstractmethod
    def guide(
        self,
        predictions: Tensor,
        codes: Tensor,
        adjustment: Adjustment,
        step: Callable[[Tensor], Transition],
    ) -> Transition:
        """`step` of the predictions with guidance, temperature and top-p; guidance acts where this graph takes it.

        Args:
            predictions: log p(x0) `(K, B, ..., V)`: with the labels and, for K = 2, without.
            adjustment: guidance scale, temperature and top-p.
            step: log p(x0) `(B, ..., V)` -> the transition.
        """


def check_codes(codes: Tensor, num_states: int) -> None:
    """Raises ValueError where codes lie outside [0, num_states)."""
    if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < num_states):
        raise ValueError(f"codes must lie in [0, {num_states - 1}], got {int(codes.min())} to {int(codes.max())}")


def check_sigma(sigma: Tensor) -> None:
    """Raises ValueError where sigma is negative or not a number."""
    if not bool((sigma >= 0).all()):
        raise ValueError(f"sigma must not be negative, got {float(sigma.min())}")
