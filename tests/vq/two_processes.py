"""Run by torchrun in two processes: do they keep one codebook, one entropy, and skip together?"""

import math
from pathlib import Path

import torch
from torch import distributed

from common.config import TrainConfig
from images.dataset import DataConfig
from train import build_accelerator
from vq.discriminator import DiscriminatorConfig
from vq.loss import LossConfig
from vq.quantizer import QuantizerConfig, binary_entropies
from vq.stage import TokenizerStage
from vq.tokenizer import TokenizerConfig


def same(value: torch.Tensor) -> bool:
    """Whether both processes hold the same numbers, to the bit."""
    both = [torch.empty_like(value) for _ in range(2)]
    distributed.all_gather(both, value.contiguous())
    return torch.equal(both[0], both[1])


def main() -> None:
    train = TrainConfig(steps=50, learning_rate=3e-3)
    accelerator = build_accelerator(train, Path("/nonexistent"))
    assert accelerator.num_processes == 2
    rank = accelerator.process_index
    torch.manual_seed(0)
    config = TokenizerConfig(
        width=8,
        blocks=1,
        quantizer=QuantizerConfig(codebook_size=64, codebook_dim=4, dead_code_threshold=2.0),
        discriminator=DiscriminatorConfig(width=8, layers=1),
        loss=LossConfig(perceptual="none", adversarial_start=20, lecam_weight=0.001, r1_weight=0.1, r1_every=4),
        train=train,
    )
    stage = TokenizerStage(config, DataConfig(image_size=16, channels=3), accelerator)
    stage.set_learning_rate(1.0)
    stage.model.train()
    book = accelerator.unwrap_model(stage.model).quantizer.quantize._codebook
    assert book.use_ddp and not bool(book.initted)
    torch.manual_seed(100 + rank)  # every process its own pictures
    expired = 0
    for step in range(50):
        before = book.embed.clone()
        images = torch.rand(4, 3, 1, 1) * 2 - 1 + 0.3 * torch.randn(4, 3, 16, 16)
        skipped = stage.step((images.clamp(-1, 1), torch.zeros(4)), step)["skipped"]
        assert not skipped
        expired += int(((book.embed - before).norm(dim=-1) > 0.3).sum()) if step > 5 else 0
        state = stage.model.state_dict()
        assert all(same(state[name]) for name in state), f"step {step}"
    assert expired > 0, "no code was ever replaced: the test says nothing of expiry"
    lecam = accelerator.unwrap_model(stage.discriminator).lecam
    assert lecam.real != 0 and same(lecam.real) and same(lecam.fake)
    if rank == 0:
        print(f"one codebook after 50 steps, {expired} codes replaced")

    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    images[0, 0, 0, 0] = math.nan if rank == 1 else 0.0
    assert stage.step((images, torch.zeros(4)), 50)["skipped"]
    assert all(torch.equal(value, before[name]) for name, value in stage.model.state_dict().items())
    assert not stage.step((images.nan_to_num(), torch.zeros(4)), 51)["skipped"]
    if rank == 0:
        print("skipped together")

    everything = torch.randn(64, 6, generator=torch.Generator().manual_seed(3)) * 0.02
    mine = everything[rank::2].clone().requires_grad_()
    each, mean = binary_entropies(mine, 1.0, 1, 0.01)
    (each - mean).backward()
    single = everything.clone().requires_grad_()
    world = distributed.get_world_size
    distributed.get_world_size = lambda: 1  # type: ignore[assignment]  # what one process would have computed
    whole_each, whole_mean = binary_entropies(single, 1.0, 1, 0.01)
    distributed.get_world_size = world
    (whole_each - whole_mean).backward()
    torch.testing.assert_close(mean, whole_mean)
    # averaged over processes, as gradients of weights are, every row's share halves
    torch.testing.assert_close(mine.grad / 2, single.grad[rank::2])
    if rank == 0:
        print("one entropy")
    accelerator.end_training()


main()
