import torch
from torch import nn

from diffusion.head import head_cross_entropy
from diffusion.loss import cross_entropy


def test_head_in_chunks_is_the_plain_weighted_cross_entropy_with_its_gradients():
    torch.manual_seed(0)
    head = nn.Linear(8, 11)
    features = torch.randn(2, 3, 5, 8, requires_grad=True)
    targets, weights = torch.randint(11, (2, 3, 5)), torch.rand(2, 3, 5) * (torch.rand(2, 3, 5) < 0.6)
    assert 0 < int((weights > 0).sum()) < weights.numel()
    plain = (weights * cross_entropy(head(features), targets)).sum()
    wanted = torch.autograd.grad(3 * plain, [features, head.weight, head.bias])
    for chunk_elements in (11, 44, 1 << 20):
        got = head_cross_entropy(features, head, targets, weights, chunk_elements)
        torch.testing.assert_close(got, plain)
        for a, b in zip(torch.autograd.grad(3 * got, [features, head.weight, head.bias]), wanted, strict=True):
            torch.testing.assert_close(a, b)
