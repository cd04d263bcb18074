"""The entropy loss of binary quantizers, computed without a sum over all codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, distributed


def binary_entropies(latents: Tensor, scale: float, groups: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Entropies in nats of the soft assignment p(c | z) = softmax(2 <z, c> / temperature) over c in {-scale, scale} ** d.

    Args:
        latents: z `(N, d)`.
        scale: absolute value of each dimension of a code.
        groups: number of groups of d / groups bits. The entropy of the mean is the sum of the entropies of the groups
            (arXiv 2406.07548, section 3.2).
        temperature: of the softmax, above 0.

    Returns:
        two scalars: the mean over latents of the entropy of p(c | z), and the entropy of the mean of p(c | z) over the
        latents of all processes. The gradient of the second is that of this process's latents; the average of the
        gradients over processes is the gradient for all latents.
    """
    logits = 4 * scale * latents / temperature  # of bit = 1: the softmax over codes is a product over bits
    p = torch.sigmoid(logits)
    # H(p) = softplus(l) - p l, written without a difference of large numbers
    each = (F.softplus(-logits.abs()) + torch.sigmoid(-logits.abs()) * logits.abs()).sum(1).mean()
    total = latents.new_zeros(())
    for bits in p.chunk(groups, dim=1):
        joint = torch.ones_like(bits[:, :1])  # (N, 1); each bit doubles the second dimension
        for bit in torch.split(bits, 1, dim=1):
            joint = torch.cat([joint * (1 - bit), joint * bit], dim=1)
        mean = joint.mean(0)
        if _processes() > 1:
            global_sum = mean.detach().clone()
            distributed.all_reduce(global_sum)
            mean = mean + (global_sum / _processes() - mean).detach()  # global value, local gradient
        total = total - torch.special.xlogy(mean, mean.clamp(min=1e-30)).sum()
    return each, total


def _processes() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1
