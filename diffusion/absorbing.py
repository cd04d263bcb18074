"""The absorbing graph: noise masks codes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.forward_process import (
    Graph,
    Rates,
    Transition,
    at_least_float32,
    check_codes,
    check_sigma,
    per_position,
)
from diffusion.guidance import Adjustment
from diffusion.transitions import unmask_probability


class Absorbing(Graph):
    """Every code jumps to one mask state at rate 1 and stays there: S = V + 1 states, mask state = V.

    Args:
        vocab_size: V, the number of real codes, at least 1.
    """

    name = "absorbing"
    is_masked = True

    def __init__(self, vocab_size: int) -> None:
        if vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, got {vocab_size}")
        self.vocab_size = vocab_size
        self.mask_state = vocab_size
        self.num_states = vocab_size + 1

    def rate(self, codes: Tensor) -> Tensor:
        """1 towards the mask state, -1 on the diagonal, 0 for the mask state itself."""
        check_codes(codes, self.num_states)
        row = torch.zeros(*codes.shape, self.num_states, dtype=torch.float64, device=codes.device)
        row.scatter_(-1, codes[..., None], -1.0)
        row[..., self.mask_state] += 1.0
        return row

    def rate_into(self, codes: Tensor) -> Tensor:
        """1 from every code into the mask state; nothing jumps into a code."""
        check_codes(codes, self.num_states)
        masked = (codes == self.mask_state)[..., None]
        real = torch.arange(self.num_states, device=codes.device) < self.vocab_size
        own = F.one_hot(codes, self.num_states).double()
        return torch.where(masked, real.double(), -own)

    def transition(self, codes: Tensor, sigma: Tensor) -> Tensor:
        """exp(-sigma) for the code itself, the rest for the mask state."""
        check_codes(codes, self.num_states)
        check_sigma(sigma)
        survive = per_position(torch.exp(-sigma), codes)
        row = torch.zeros(*codes.shape, self.num_states, dtype=sigma.dtype, device=codes.device)
        row.scatter_(-1, codes[..., None], survive.expand(codes.shape)[..., None])
        row[..., self.mask_state] += 1 - survive
        return row

    def noised(self, codes: Tensor, sigma: Tensor, uniforms: Tensor) -> Tensor:
        """Each position is masked where the first uniform is below 1 - exp(-sigma); the second is not needed."""
        check_codes(codes, self.num_states)
        check_sigma(sigma)
        mask_probability = per_position(-torch.expm1(-sigma), codes)
        return torch.where(uniforms[0].to(codes.device) < mask_probability, self.mask_state, codes)

    def limit(
        self, shape: tuple[int, ...], generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """All masked; the generator is not needed."""
        del generator
        return torch.full(shape, self.mask_state, dtype=torch.int64, device=device)

    def limit_from(self, uniforms: Tensor) -> Tensor:
        """All masked."""
        return self.limit(tuple(uniforms.shape), device=uniforms.device)

    def limit_divergence(self, sigma: Tensor) -> Tensor:
        """Infinite for every finite sigma: the limit gives a surviving code probability 0.

        Bounds for this graph are therefore taken over all mask ratios up to 1, where the divergence is 0.
        """
        check_sigma(sigma)
        return torch.full_like(sigma, torch.inf)

    def posterior(self, logits: Tensor, codes: Tensor, sigma: Tensor) -> Tensor:
        """The logits themselves: a masked position says nothing about its own x0."""
        del codes, sigma
        return logits

    def log_score(self, logits: Tensor, codes: Tensor, sigma: Tensor) -> Tensor:
        """The log-score `(B, ..., S)` of a network that predicts p(x0 | visible codes) (RADD, arXiv 2406.03736, eq. 3.2).

        s(y) = p(y) / (e^sigma - 1) at a masked position. At visible positions, and for the mask state itself, which the
        loss never reads, the value is 0.

        Args:
            logits: `(B, ..., V)` over real codes, any float type; computed in float32 or better.
            codes: noised codes `(B, ...)`.
            sigma: total noise `(B,)`, above 0.
        """
        check_codes(codes, self.num_states)
        check_sigma(sigma)
        log_probability = torch.log_softmax(at_least_float32(logits), dim=-1)
        value = log_probability - per_position(torch.log(torch.expm1(sigma)), log_probability)
        value = torch.where((codes == self.mask_state)[..., None], value, 0.0)
        return torch.cat([value, torch.zeros_like(value[..., :1])], dim=-1)

    def log_p0(self, output: Tensor, codes: Tensor, sigma: Tensor, raw_score: bool = False) -> Tensor:
        """The normalised output: the network predicts p(x0 | visible codes), whatever the noise."""
        del codes, sigma, raw_score
        return torch.log_softmax(output, dim=-1)

    def network_log_score(self, output: Tensor, codes: Tensor, sigma: Tensor, raw_score: bool = False) -> Tensor:
        """`log_score` of the output."""
        del raw_score
        return self.log_score(at_least_float32(output), codes, sigma)

    def reverse_step(self, log_p0: Tensor, codes: Tensor, sigma: Tensor, sigma_next: Tensor) -> Transition:
        """A masked position is unmasked with `unmask_probability`, and then shows a code of p(x0)."""
        unmask = 1.0 if sigma_next == 0 else unmask_probability(sigma.double(), sigma_next.double()).item()
        return Transition((codes == self.mask_state).double() * unmask, log_p0)

    def reverse_rates(self, log_p0: Tensor, codes: Tensor, sigma: Tensor) -> Rates:
        """1 / (e^sigma - 1) at masked positions, spread over the codes by p(x0)."""
        return Rates((codes == self.mask_state).double() / torch.expm1(sigma.double()).item(), log_p0)

    def guide(
        self,
        predictions: Tensor,
        codes: Tensor,
        adjustment: Adjustment,
        step: Callable[[Tensor], Transition],
    ) -> Transition:
        """Guidance mixes p(x0), normalised again, so that it does not change how fast positions are unmasked."""
        del codes
        return step(adjustment.log_p0(predictions))
