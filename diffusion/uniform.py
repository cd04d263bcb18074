"""The uniform graph: noise replaces codes by random ones."""

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
from diffusion.guidance import Adjustment, guided_log_probability
from diffusion.transitions import split_rates


def uniform_ratio(sigma: Tensor, vocab_size: int) -> Tensor:
    """r = (e^sigma - 1) / (e^sigma - 1 + V): the probability of one other code over that of staying."""
    grown = torch.expm1(sigma)
    return grown / (grown + vocab_size)


class Uniform(Graph):
    """Every code jumps to each other code at rate 1 / V: S = V states, no mask (SEDD, arXiv 2310.16834, equation 15).

    Args:
        vocab_size: V, the number of codes, at least 2.
    """

    name = "uniform"
    is_masked = False
    mask_state = -1  # no code is a mask

    def __init__(self, vocab_size: int) -> None:
        if vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, got {vocab_size}")
        self.vocab_size = self.num_states = vocab_size

    def rate(self, codes: Tensor) -> Tensor:
        """1 / V towards every other code."""
        check_codes(codes, self.num_states)
        return 1 / self.vocab_size - F.one_hot(codes, self.vocab_size).double()

    def rate_into(self, codes: Tensor) -> Tensor:
        """As `rate`: the rates are symmetric."""
        return self.rate(codes)

    def transition(self, codes: Tensor, sigma: Tensor) -> Tensor:
        """e^-sigma for the code itself, the rest spread over all V codes."""
        check_codes(codes, self.num_states)
        check_sigma(sigma)
        spread = per_position(-torch.expm1(-sigma) / self.vocab_size, codes)[..., None]
        row = spread.expand(*codes.shape, self.vocab_size).clone()
        stay = per_position(torch.exp(-sigma), codes).expand(codes.shape)[..., None]
        return row.scatter_add_(-1, codes[..., None], stay.contiguous())

    def noised(self, codes: Tensor, sigma: Tensor, uniforms: Tensor) -> Tensor:
        """Each position is replaced by a uniform code with probability 1 - exp(-sigma)."""
        check_codes(codes, self.num_states)
        check_sigma(sigma)
        whether, which = uniforms.to(codes.device)
        return torch.where(whether < per_position(-torch.expm1(-sigma), codes), self.limit_from(which), codes)

    def limit(
        self, shape: tuple[int, ...], generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """All V codes are equally likely."""
        return torch.randint(self.vocab_size, shape, generator=generator).to(device)

    def limit_from(self, uniforms: Tensor) -> Tensor:
        """All V codes are equally likely."""
        return (uniforms * self.vocab_size).long().clamp(max=self.vocab_size - 1)

    def limit_divergence(self, sigma: Tensor) -> Tensor:
        """log V minus the entropy of a row of exp(sigma Q)."""
        check_sigma(sigma)
        move = -torch.expm1(-sigma) / self.vocab_size
        stay = torch.exp(-sigma) + move
        entropy = torch.xlogy(stay, stay) + (self.vocab_size - 1) * torch.xlogy(move, move)
        return entropy + torch.log(torch.as_tensor(float(self.vocab_size)))

    def posterior(self, logits: Tensor, codes: Tensor, sigma: Tensor) -> Tensor:
        """Logits of p(x0 | noised codes), of a network that predicts x0 from the other positions.

        Bayes' rule: p(x | x0), known exactly, is 1 / r times as large for x0 = x as for any other code. So an untrained
        network already keeps codes while there is little noise, and need not learn to copy them.

        Args:
            logits: `(B, ..., V)`; codes: noised codes x `(B, ...)`; sigma: `(B,)`, above 0.
        """
        check_codes(codes, self.num_states)
        check_sigma(sigma)
        bonus = per_position(-torch.log(self.ratio(sigma)), codes).to(logits.dtype).expand(codes.shape)[..., None]
        return logits.scatter_add(-1, codes[..., None], bonus)

    def log_score(self, logits: Tensor, codes: Tensor, sigma: Tensor) -> Tensor:
        """The log-score `(B, ..., V)` of a network that predicts p(x0 | noised codes), a valid score for any p.

        With r = move / stay probability, s(y) = (1 - p(x) - p(y)) + p(x) r + p(y) / r for y != x, and s(x) = 1.

        Args:
            logits: `(B, ..., V)`, any float type; computed in float32 or better.
            codes: noised codes x `(B, ...)`.
            sigma: total noise `(B,)`, above 0.
        """
        check_codes(codes, self.num_states)
        check_sigma(sigma)
        p = torch.softmax(at_least_float32(logits), dim=-1)
        r = per_position(self.ratio(sigma), p)
        at_x = p.gather(-1, codes[..., None])
        score = (1 - at_x - p).clamp(min=0) + at_x * r + p / r
        return torch.log(score).scatter(-1, codes[..., None], 0.0)

    def raw_log_score(self, output: Tensor, codes: Tensor) -> Tensor:
        """The log-score of a network that gives it directly (SEDD): `output` `(B, ..., V)`, its entry at x set to 0."""
        check_codes(codes, self.num_states)
        return at_least_float32(output).scatter(-1, codes[..., None], 0.0)

    def log_p0_of_score(self, log_score: Tensor, codes: Tensor, sigma: Tensor) -> Tensor:
        """The log p(x0 | noised codes) `(B, ..., V)` that has this score: `log_score` of it gives the argument back.

        Solves the linear relation above in float64. A learned score need not belong to any p: negative values are cut off,
        and the rest is normalised.
        """
        check_codes(codes, self.num_states)
        check_sigma(sigma)
        score = log_score.double().exp()
        r = per_position(self.ratio(sigma.double()), score)
        index = codes[..., None]
        above = (score - 1).scatter(-1, index, 0.0)  # s(y) - 1 for y != x
        # sum over y != x of s(y) - 1 = (V - 1) p(x) (r - 1) + (1 - p(x)) (1 / r - 1)
        at_x = (above.sum(-1, keepdim=True) - (1 / r - 1)) / ((self.vocab_size - 1) * (r - 1) - (1 / r - 1))
        p = ((above - at_x * (r - 1)) / (1 / r - 1)).scatter(-1, index, at_x).clamp(min=0)
        return torch.log(p / p.sum(-1, keepdim=True))

    def ratio(self, sigma: Tensor) -> Tensor:
        """r = (e^sigma - 1) / (e^sigma - 1 + V), the probability of one other code over that of staying."""
        return uniform_ratio(sigma, self.vocab_size)

    def log_p0(self, output: Tensor, codes: Tensor, sigma: Tensor, raw_score: bool = False) -> Tensor:
        """The normalised `posterior` of the output, or the p(x0) that has the output as its score."""
        if raw_score:
            return torch.log_softmax(self.log_p0_of_score(self.raw_log_score(output, codes), codes, sigma), dim=-1)
        return torch.log_softmax(self.posterior(output, codes, sigma.to(output.dtype)), dim=-1)

    def network_log_score(self, output: Tensor, codes: Tensor, sigma: Tensor, raw_score: bool = False) -> Tensor:
        """The output itself, or the score of its `posterior`."""
        if raw_score:
            return self.raw_log_score(output, codes)
        return self.log_score(self.posterior(at_least_float32(output), codes, sigma), codes, sigma)

    def reverse_step(self, log_p0: Tensor, codes: Tensor, sigma: Tensor, sigma_next: Tensor) -> Transition:
        """Staggered score times transition, written as Bayes' rule, which has no differences of large numbers.

        With w(x0) = p(x0) / T_sigma(x0 -> x) and delta = sigma - sigma_next, the next state is y with probability
        T_delta(y -> x) [e^-sigma_next w(y) + (1 - e^-sigma_next) / V sum w].
        """
        sigma, sigma_next = (value.double().expand(len(codes)).to(codes.device) for value in (sigma, sigma_next))
        weight = log_p0.double().exp() / self.transition(codes, sigma)  # the transition is symmetric
        survive = per_position(torch.exp(-sigma_next), weight)
        spread = per_position(-torch.expm1(-sigma_next), weight) / self.vocab_size
        row = self.transition(codes, sigma - sigma_next) * (survive * weight + spread * weight.sum(-1, keepdim=True))
        rates = split_rates(row.scatter(-1, codes[..., None], 0.0))
        return Transition(rates.exit_rate.clamp(max=1), rates.log_next)

    def reverse_rates(self, log_p0: Tensor, codes: Tensor, sigma: Tensor) -> Rates:
        """s(y) / V for every y != x."""
        score = self.log_score(log_p0.double(), codes, sigma.double().expand(len(codes)).to(codes.device)).exp()
        return split_rates(score.scatter(-1, codes[..., None], 0.0) / self.vocab_size)

    def guide(
        self,
        predictions: Tensor,
        codes: Tensor,
        adjustment: Adjustment,
        step: Callable[[Tensor], Transition],
    ) -> Transition:
        """Guidance mixes the distributions of the next state (UDLM, arXiv 2412.10193, equation 9).

        Temperature and top-p act on p(x0) of both sides, before the step, see `Adjustment.sides`. At scale 1 this is the
        step of the conditional p(x0) at temperature, cut to its nucleus; a step to sigma = 0 gives `Adjustment.log_p0`.
        """
        parts = [step(side) for side in adjustment.sides(predictions)]
        if len(parts) == 1:
            return parts[0]
        rows = [part.probabilities(codes, self.num_states).log() for part in parts]
        mixed = guided_log_probability(rows[0], rows[1], adjustment.scale).exp()
        rates = split_rates(mixed.scatter(-1, codes[..., None], 0.0))
        return Transition(rates.exit_rate.clamp(max=1), rates.log_next)
