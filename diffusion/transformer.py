"""2D transformer over a grid of codes.

Shape legend: B images, h x w cells, N = h w positions, G codes a cell, D width, H heads, d = D / H, V codes, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.head import head_cross_entropy
from diffusion.loss import cross_entropy


def axial_rotary_angles(height: int, width: int, head_dim: int, base: float = 100.0) -> Tensor:
    """Rotation angles `(N, d / 2)`: the first half turns with the row, the second with the column.

    Rotary positions (RoFormer, arXiv 2104.09864) on two axes. The base is small because grids are tens of codes wide,
    not thousands of words long.
    """
    quarter = head_dim // 4
    frequency = base ** (-torch.arange(quarter, dtype=torch.float32) / quarter)
    rows = torch.arange(height, dtype=torch.float32)[:, None, None] * frequency  # (h, 1, d/4)
    columns = torch.arange(width, dtype=torch.float32)[None, :, None] * frequency  # (1, w, d/4)
    angles = torch.cat([rows.expand(-1, width, -1), columns.expand(height, -1, -1)], dim=-1)
    return angles.flatten(0, 1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of features of x `(B, H, N, d)` by its angle; cos and sin are `(N, d / 2)`."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Modulation(NamedTuple):
    """Shift, scale and gate of one branch of a block, each `(B, 1, D)`."""

    shift: Tensor
    scale: Tensor
    gate: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Scaled and shifted x `(B, N, D)`."""
        return x * (1 + self.scale) + self.shift


class Attention(nn.Module):
    """Self-attention over all positions, with normalised queries and keys (arXiv 2302.05442) and axial rotations."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm = nn.RMSNorm(width // heads)
        self.key_norm = nn.RMSNorm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`(B, N, D) -> (B, N, D)`; cos and sin are `(N, d / 2)`."""
        batch, positions, width = x.shape
        qkv = self.qkv(x).view(batch, positions, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, N, d)
        query = rotate(self.query_norm(query), cos, sin).to(value.dtype)
        key = rotate(self.key_norm(key), cos, sin).to(value.dtype)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)  # (B, H, N, d)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, positions, width))
        return out


class Block(nn.Module):
    """Attention and MLP, each modulated by the condition, the gates starting at zero (DiT, arXiv 2212.09748)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width, elementwise_affine=False)
        # SiLU rather than GELU: as good here, and three to five times as fast forward and backward on a CPU.
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`(B, N, D) -> (B, N, D)`; the condition is `(B, D)`."""
        chunks = self.modulation(condition)[:, None].chunk(6, dim=-1)  # six of (B, 1, D)
        attention, mlp = Modulation(*chunks[:3]), Modulation(*chunks[3:])
        x = x + attention.gate * self.dropout(self.attention(attention.apply(self.attention_norm(x)), cos, sin))
        x = x + mlp.gate * self.dropout(self.mlp(mlp.apply(self.mlp_norm(x))))
        return x


class SigmaEmbedding(nn.Module):
    """Sinusoids of log(1 + sigma), then two layers: `(B,) -> (B, D)`."""

    frequency: Tensor

    def __init__(self, width: int, frequencies: int = 64) -> None:
        super().__init__()
        self.register_buffer("frequency", torch.logspace(-1, 2, frequencies), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma: Tensor) -> Tensor:
        """`(B,) -> (B, D)`."""
        angle = torch.log1p(sigma)[:, None] * self.frequency  # (B, F)
        embedding: Tensor = self.layers(torch.cat([angle.sin(), angle.cos()], dim=-1))
        return embedding


class Transformer2D(nn.Module):
    """Logits over real codes for every position of a grid, given the visible codes and a class.

    Args:
        vocab_size: V; inputs may also hold the mask state V.
        grid: (h, w) of the training grids; other sizes run too: rotations go on, position vectors are stretched.
        groups: G codes a cell, each with V values and a mask state of its own; their embeddings are summed, and each has a
            head (MaskBit, arXiv 2409.16211; MDM-Prime, arXiv 2505.18495). With 1, codes have no last axis.
        num_classes: C; 0 for a model without classes. Label C is "no class" (for guidance).
        time_conditioned: whether sigma enters. Off by default: for absorbing diffusion the exact answer does not depend
            on time (RADD, arXiv 2406.03736), and sigma is then ignored.

    Raises:
        ValueError: width not a multiple of 4 heads.
    """

    def __init__(
        self,
        vocab_size: int,
        grid: tuple[int, int],
        num_classes: int = 0,
        groups: int = 1,
        width: int = 192,
        depth: int = 6,
        heads: int = 6,
        dropout: float = 0.0,
        time_conditioned: bool = False,
    ) -> None:
        super().__init__()
        if width % (4 * heads):
            raise ValueError(f"width must be a multiple of 4 x heads = {4 * heads}, got {width}")
        self.vocab_size, self.num_classes, self.grid, self.groups = vocab_size, num_classes, grid, groups
        self.head_dim = width // heads
        self.code_embedding = nn.Embedding(groups * (vocab_size + 1), width)  # the G tables one after the other
        # Rotations distinguish positions only by the codes there: on an all-masked grid, where sampling begins, every
        # position would get the same prediction. So each position also has a learned vector.
        self.position = nn.Parameter(torch.empty(width, *grid))  # (D, h, w)
        self.label_embedding = nn.Embedding(num_classes + 1, width)
        self.sigma_embedding = SigmaEmbedding(width) if time_conditioned else None
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.final_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.final_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, groups * vocab_size)
        self._set_angles(*grid)
        self._initialise()

    cos: Tensor
    sin: Tensor

    def _set_angles(self, height: int, width: int) -> None:
        angles = axial_rotary_angles(height, width, self.head_dim)
        device = self.head.weight.device
        self.register_buffer("cos", angles.cos().to(device), persistent=False)
        self.register_buffer("sin", angles.sin().to(device), persistent=False)
        self.angles_grid = (height, width)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.normal_(self.position, std=0.02)
        # Zero: every block starts as the identity, and the first prediction is uniform.
        modulations = [block.modulation for block in self.blocks if isinstance(block, Block)]
        for layer in [*modulations, self.final_modulation, self.head]:
            nn.init.zeros_(layer.weight)

    def forward(
        self,
        codes: Tensor,
        sigma: Tensor | None = None,
        labels: Tensor | None = None,
        targets: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Logits, or with `targets` the sum of weighted cross entropies, for which not all logits are made.

        Args:
            codes: `(B, h, w)`, with groups `(B, h, w, G)`, in [0, V].
            sigma: `(B,)`; labels: `(B,)` in [0, C], None for no class.
            targets, weights: as `codes`; positions of weight 0 are not computed.

        Returns:
            Logits `(B, h, w, V)`, with groups `(B, h, w, G, V)`; or a scalar.
        """
        features = self.features(codes, sigma, labels)  # (B, h, w, D)
        if targets is None or weights is None:
            return self.logits(features)
        if self.groups == 1:
            return head_cross_entropy(features, self.head, targets, weights)
        return (weights * cross_entropy(self.logits(features), targets)).sum()

    def logits(self, features: Tensor) -> Tensor:
        """Logits `(B, h, w, V)` or `(B, h, w, G, V)` of features `(B, h, w, D)`."""
        logits: Tensor = self.head(features)
        return logits if self.groups == 1 else torch.unflatten(logits, -1, (self.groups, self.vocab_size))

    def features(self, codes: Tensor, sigma: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """What the head reads: `(B, h, w, D)`. Arguments are those of `forward`. Raises ValueError where sigma is missing."""
        batch, height, width = codes.shape[:3]
        if (height, width) != self.angles_grid:
            self._set_angles(height, width)
        if labels is None:
            labels = torch.full((batch,), self.num_classes, device=codes.device)
        condition = self.label_embedding(labels)  # (B, D)
        if self.sigma_embedding is not None:
            if sigma is None:
                raise ValueError("this model is conditioned on time: pass sigma")
            condition = condition + self.sigma_embedding(sigma)
        condition = F.silu(condition)

        position: Tensor = self.position
        if (height, width) != self.grid:
            position = F.interpolate(position[None], (height, width), mode="bicubic")[0]
        if self.groups == 1:
            x = self.code_embedding(codes.flatten(1))  # (B, N, D)
        else:
            table = torch.arange(self.groups, device=codes.device) * (self.vocab_size + 1)
            x = self.code_embedding((codes + table).flatten(1, 2)).sum(2)  # (B, N, D)
        x = x + position.flatten(1).T
        for block in self.blocks:
            x = block(x, condition, self.cos, self.sin)
        shift, scale = self.final_modulation(condition)[:, None].chunk(2, dim=-1)
        x = self.final_norm(x) * (1 + scale) + shift
        return torch.unflatten(x, 1, (height, width))
