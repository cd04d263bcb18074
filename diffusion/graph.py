"""Graphs: the forward Markov chain that a clean code walks, position by position (SEDD, arXiv 2310.16834, section 3).

Shapes: codes `(B, ...)` int64, sigma `(B,)`, probabilities and scores `(B, ..., S)` with S states, of which the first V
are real codes. Position by position means that codes may have any shape behind B.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError


def per_position(value: Tensor, like: Tensor) -> Tensor:
    """View `value` `(B,)` so that it broadcasts against `like` `(B, ...)`."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim))


def at_least_float32(value: Tensor) -> Tensor:
    """`value` in float32, or in float64 where it already is: logarithms and exponentials lose too much in half precision."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


class Absorbing:
    """Every code jumps to one mask state at rate 1 and stays there: S = V + 1 states, mask state = V.

    Args:
        vocab_size: V, the number of real codes, at least 1.
    """

    name = "absorbing"

    def __init__(self, vocab_size: int) -> None:
        if vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, got {vocab_size}")
        self.vocab_size = vocab_size
        self.mask_state = vocab_size
        self.num_states = vocab_size + 1

    def rate(self, codes: Tensor) -> Tensor:
        """Row Q(x, .) of the rate matrix for every code: `(B, ..., S)`; rows sum to 0."""
        check_codes(codes, self.num_states)
        row = torch.zeros(*codes.shape, self.num_states, dtype=torch.float64, device=codes.device)
        row.scatter_(-1, codes[..., None], -1.0)
        row[..., self.mask_state] += 1.0
        return row

    def rate_into(self, codes: Tensor) -> Tensor:
        """Column Q(., x): the rates `(B, ..., S)` at which other states jump to x, what a reverse jump from x needs."""
        check_codes(codes, self.num_states)
        masked = (codes == self.mask_state)[..., None]
        real = torch.arange(self.num_states, device=codes.device) < self.vocab_size
        own = F.one_hot(codes, self.num_states).double()
        return torch.where(masked, real.double(), -own)

    def transition(self, codes: Tensor, sigma: Tensor) -> Tensor:
        """Row of exp(sigma Q): probabilities `(B, ..., S)` of the noised state, given `codes`. Raises ValueError."""
        check_codes(codes, self.num_states)
        check_sigma(sigma)
        survive = per_position(torch.exp(-sigma), codes)
        row = torch.zeros(*codes.shape, self.num_states, dtype=sigma.dtype, device=codes.device)
        row.scatter_(-1, codes[..., None], survive.expand(codes.shape)[..., None])
        row[..., self.mask_state] += 1 - survive
        return row

    def sample(self, codes: Tensor, sigma: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noised codes: each position is masked on its own with probability 1 - exp(-sigma). Raises ValueError."""
        return self.noised(codes, sigma, torch.rand((2, *codes.shape), generator=generator, dtype=torch.float64))

    def noised(self, codes: Tensor, sigma: Tensor, uniforms: Tensor) -> Tensor:
        """`sample` with given uniforms `(2, B, ...)` in [0, 1): the first decides whether, the second is not needed here."""
        check_codes(codes, self.num_states)
        check_sigma(sigma)
        masked_share = per_position(-torch.expm1(-sigma), codes)
        return torch.where(uniforms[0].to(codes.device) < masked_share, self.mask_state, codes)

    def limit(
        self, shape: tuple[int, ...], generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Codes of `shape` from the limit of the chain: all masked. The generator is not needed; graphs share a form."""
        del generator
        return torch.full(shape, self.mask_state, dtype=torch.int64, device=device)

    def limit_from(self, uniforms: Tensor) -> Tensor:
        """`limit` with given uniforms `(B, ...)` in [0, 1)."""
        return self.limit(tuple(uniforms.shape), device=uniforms.device)

    def limit_divergence(self, sigma: Tensor) -> Tensor:
        """KL `(B,)` in nats of exp(sigma Q)(x0, .) from the limit, for each position: the bound's last term.

        The limit gives a surviving code probability 0, so it is infinite for any finite sigma: bounds for this graph are
        taken over all mask rates up to 1, where it is 0.
        """
        check_sigma(sigma)
        return torch.full_like(sigma, torch.inf)

    def posterior(self, logits: Tensor, codes: Tensor, sigma: Tensor) -> Tensor:
        """Logits of p(x0 | noised codes), of a network's: themselves, because a masked position tells nothing of its x0."""
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


class Uniform:
    """Every code jumps to each other code at rate 1 / V: S = V states, no mask (SEDD, arXiv 2310.16834, equation 15).

    Args:
        vocab_size: V, the number of codes, at least 2.
    """

    name = "uniform"
    mask_state = -1  # no code is a mask

    def __init__(self, vocab_size: int) -> None:
        if vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, got {vocab_size}")
        self.vocab_size = self.num_states = vocab_size

    def rate(self, codes: Tensor) -> Tensor:
        """Row Q(x, .) of the rate matrix for every code: `(B, ..., V)`; rows sum to 0."""
        check_codes(codes, self.num_states)
        return 1 / self.vocab_size - F.one_hot(codes, self.vocab_size).double()

    def rate_into(self, codes: Tensor) -> Tensor:
        """Column Q(., x); the rates are symmetric."""
        return self.rate(codes)

    def transition(self, codes: Tensor, sigma: Tensor) -> Tensor:
        """Row of exp(sigma Q): e^-sigma stays, the rest is spread over all V codes. `(B, ..., V)`. Raises ValueError."""
        check_codes(codes, self.num_states)
        check_sigma(sigma)
        spread = per_position(-torch.expm1(-sigma) / self.vocab_size, codes)[..., None]
        row = spread.expand(*codes.shape, self.vocab_size).clone()
        stay = per_position(torch.exp(-sigma), codes).expand(codes.shape)[..., None]
        return row.scatter_add_(-1, codes[..., None], stay.contiguous())

    def sample(self, codes: Tensor, sigma: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noised codes `(B, ...)`: each position is redrawn uniformly with probability 1 - exp(-sigma). Raises ValueError."""
        return self.noised(codes, sigma, torch.rand((2, *codes.shape), generator=generator, dtype=torch.float64))

    def noised(self, codes: Tensor, sigma: Tensor, uniforms: Tensor) -> Tensor:
        """`sample` with given uniforms `(2, B, ...)` in [0, 1): the first decides whether, the second what to."""
        check_codes(codes, self.num_states)
        check_sigma(sigma)
        whether, which = uniforms.to(codes.device)
        return torch.where(whether < per_position(-torch.expm1(-sigma), codes), self.limit_from(which), codes)

    def limit(
        self, shape: tuple[int, ...], generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Codes of `shape`, all V equally likely."""
        return torch.randint(self.vocab_size, shape, generator=generator).to(device)

    def limit_from(self, uniforms: Tensor) -> Tensor:
        """`limit` with given float64 uniforms `(B, ...)` in [0, 1)."""
        return (uniforms * self.vocab_size).long().clamp(max=self.vocab_size - 1)

    def limit_divergence(self, sigma: Tensor) -> Tensor:
        """KL `(B,)` in nats of exp(sigma Q)(x0, .) from the limit, for each position: the bound's last term."""
        check_sigma(sigma)
        move = -torch.expm1(-sigma) / self.vocab_size
        stay = torch.exp(-sigma) + move
        entropy = torch.xlogy(stay, stay) + (self.vocab_size - 1) * torch.xlogy(move, move)
        return entropy + torch.log(torch.as_tensor(float(self.vocab_size)))

    def posterior(self, logits: Tensor, codes: Tensor, sigma: Tensor) -> Tensor:
        """Logits `(B, ..., V)` of p(x0 | noised codes), of a network that says what the other positions tell of x0.

        Bayes' rule: p(x | x0), known exactly, is 1 / r times as large for x0 = x as for any other code. A network that knew
        nothing would thus already keep codes while there is little noise, rather than have to learn to copy them.

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

    def log_clean(self, log_score: Tensor, codes: Tensor, sigma: Tensor) -> Tensor:
        """The log p(x0 | noised codes) `(B, ..., V)` that has this score: `log_score` of it gives the argument back.

        Solves the linear relation above in float64. A learned score need not belong to any p; what would be negative is
        cut off, and the rest normalised.
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
        grown = torch.expm1(sigma)
        return grown / (grown + self.vocab_size)


Graph = Absorbing | Uniform
GRAPHS: dict[str, type[Absorbing] | type[Uniform]] = {"absorbing": Absorbing, "uniform": Uniform}


def check_codes(codes: Tensor, num_states: int) -> None:
    """Raises ValueError where codes lie outside [0, num_states)."""
    if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < num_states):
        raise ValueError(f"codes must lie in [0, {num_states - 1}], got {int(codes.min())} to {int(codes.max())}")


def check_sigma(sigma: Tensor) -> None:
    """Raises ValueError where sigma is negative or not a number."""
    if not bool((sigma >= 0).all()):
        raise ValueError(f"sigma must not be negative, got {float(sigma.min())}")


def build_graph(name: str, vocab_size: int) -> Graph:
    """The graph called `name`. Raises UserError for an unknown name."""
    if name not in GRAPHS:
        raise UserError(f"unknown graph '{name}': prior.graph is one of {', '.join(GRAPHS)}")
    return GRAPHS[name](vocab_size)
