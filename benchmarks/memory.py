"""Compute the GPU memory that one training step of a tokenizer takes; no GPU is needed.

    python benchmarks/memory.py --config configs/mnist.yaml [section.key=value ...] [--gpus 8]

The step of vq/stage.py (generator, perceptual loss, discriminator, both AdamW updates) runs on fake tensors, which have a
shape and a type but no values, and MemTracker of torch.distributed sorts the storages that are alive at the peak by kind.
The fake tensors are on the CPU, because the backward pass needs a device that the machine has; types follow CUDA's autocast.
Not counted: cuDNN workspaces, memory that the allocator loses to fragmentation, and the CUDA context.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn.modules.module import register_module_forward_pre_hook

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fake_tensors import Answers, fake_copy, make_fake
from common.config import load_config
from common.errors import ArgumentParser, UserError, run_cli
from images.dataset import DataConfig
from training.run import RunConfig
from vq.discriminator import BlurPool
from vq.perceptual import EfficientNetDistance, LPIPSDistance, ResNetLogitDistance
from vq.stage import TokenizerStage
from vq.tokenizer import TokenizerConfig

GIB, MIB = 2**30, 2**20
TOTAL, BUCKETS = "Total", "Buckets"
KINDS = {  # the names that MemTracker gives, and BUCKETS
    "Parameter": "parameters: generator, its EMA, discriminator",
    "Buffer": "buffers: codebook, frozen parameters of the perceptual network",
    "Optstate": "optimizer state: two moments of AdamW",
    BUCKETS: "gradient buckets of DistributedDataParallel",
    "Gradient": "gradients of parameters",
    "Activation": "activations: made by forward passes",
    "Temp": "temporary: made by backward passes",
    "Other": "images and counts of codes",
    TOTAL: "peak of a training step",
}


def make_stage_fake(stage: TokenizerStage) -> None:
    """Replace all tensors of a new stage by fake ones, in place. Call it in a FakeTensorMode."""
    for module in modules_of(stage):
        make_fake(module)
    for optimizer, module in zip(stage.optimizers, (stage.model, stage.discriminator), strict=True):
        optimizer.param_groups[0]["params"] = list(module.parameters())
    stage.counts = fake_copy(stage.counts)


def modules_of(stage: TokenizerStage) -> list[nn.Module]:
    """All modules that take memory throughout the training."""
    return [stage.model, stage.discriminator, stage.ema, *([] if stage.perceptual is None else [stage.perceptual])]


def random_perceptual(name: str) -> nn.Module | None:
    """The perceptual network without downloaded weights; `auto` is counted as lpips, its first choice."""
    if name == "none":
        return None
    if name == "efficientnet":
        return EfficientNetDistance()
    return ResNetLogitDistance(pretrained=False) if name == "resnet50" else LPIPSDistance(pretrained=False)


def build_stage(config: TokenizerConfig, data: DataConfig) -> TokenizerStage:
    """The stage with random parameters, ready for a step.

    Left out, because their shapes depend on values: k-means, which runs once, and the replacement of dead codes, which
    takes no more than the codebook. float16 is replaced by bfloat16, which has the same size and runs on the CPU.
    """
    quantizer = replace(config.quantizer, kmeans_init=False, dead_code_threshold=0.0)
    runnable = replace(config, quantizer=quantizer, loss=replace(config.loss, perceptual="none"))
    precision = "no" if config.train.mixed_precision == "no" else "bf16"
    stage = TokenizerStage(runnable, data, Accelerator(cpu=True, mixed_precision=precision))
    stage.perceptual = random_perceptual(config.loss.perceptual)
    stage.model.train()
    stage.set_learning_rate(1.0)
    return stage


def follow_cuda(network: nn.Module) -> None:
    """Give operations the types that they have under CUDA's autocast, where the CPU's autocast gives others."""
    for module in network.modules():
        if isinstance(module, (nn.GroupNorm, nn.Upsample)):  # float32
            module.register_forward_pre_hook(lambda _, inputs: inputs[0].float())
        if isinstance(module, BlurPool):  # its padding stays in the type of its input
            module.forward = torch.autocast("cpu", enabled=False)(module.forward)  # type: ignore[method-assign]


def peak_memory(stage: TokenizerStage, images: Tensor) -> dict[str, int]:
    """Bytes of each of KINDS at the peak of one training step on `images` (B, C, H, W), which may be real or fake.

    All losses are on, the gradient penalty among them where it has a weight.
    """
    start = stage.loss.adversarial_start + stage.loss.adversarial_warmup
    step = start + -start % stage.loss.r1_every
    batch = (images, torch.zeros(len(images)))
    stage.step(batch, step)  # makes the optimizer state
    tracker = MemTracker()

    def before_forward(module: nn.Module, inputs: tuple[object, ...]) -> tuple[object, ...]:
        if module is stage.discriminator:  # MemTracker refuses a second call of an outermost module
            tracker.memory_tracking.pop(module, None)  # type: ignore[no-untyped-call]
        # The hooks of MemTracker fail in autograd.grad on a leaf that is the input of a module; a view is not a leaf.
        return tuple(x.view_as(x) if isinstance(x, Tensor) and x.requires_grad and x.is_leaf else x for x in inputs)

    tracker.track_external(*modules_of(stage), *stage.optimizers, stage.counts, images)
    # Registered before the hooks of MemTracker, so it runs before them.
    handle = register_module_forward_pre_hook(before_forward)  # type: ignore[arg-type]
    try:
        with tracker:
            stage.step(batch, step)
    finally:
        handle.remove()
    snapshot = tracker.get_tracker_snapshot("peak")[images.device]
    return dict.fromkeys(KINDS, 0) | {str(getattr(kind, "value", kind)): size for kind, size in snapshot.items()}


def training_memory(config: TokenizerConfig, data: DataConfig, batch: int, gpus: int) -> dict[str, int]:
    """`peak_memory` on each of `gpus` GPUs with `batch` images each, with the gradient buckets that several need."""
    stage = build_stage(config, data)
    for module in (stage.model, stage.discriminator):
        follow_cuda(module)
    with FakeTensorMode(), Answers():
        make_stage_fake(stage)
        memory = peak_memory(stage, torch.empty(batch, data.channels, data.image_size, data.image_size))
    if gpus > 1:
        memory[BUCKETS] = sum(p.nbytes for p in (*stage.model.parameters(), *stage.discriminator.parameters()))
        memory[TOTAL] += memory[BUCKETS]
    return memory


def main(argv: Sequence[str]) -> None:
    parser = ArgumentParser(prog="memory.py", description="Memory of one training step of a tokenizer, computed.")
    parser.add_argument("--config", required=True, help="a YAML file, such as configs/mnist.yaml")
    parser.add_argument("--gpus", type=int, default=1, help="processes that split batch_size (default 1)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values to replace")
    args = parser.parse_intermixed_args(argv)
    config = load_config(RunConfig, args.config, args.overrides)
    train, data = config.tokenizer.train, config.data
    if args.gpus < 1 or train.batch_size % args.gpus:
        raise UserError(f"--gpus {args.gpus} does not divide tokenizer.train.batch_size {train.batch_size}: change one")
    warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")  # lpips calls it in an old way
    batch = train.batch_size // args.gpus
    memory, twice = (training_memory(config.tokenizer, data, size, args.gpus) for size in (batch, 2 * batch))
    size = f"{data.image_size} x {data.image_size}"
    print(
        f"{args.config}: {batch} images of {size} a GPU, {args.gpus} in all, mixed_precision {train.mixed_precision}\n"
    )
    for kind, text in KINDS.items():
        print(f"{text:<70} {memory[kind] / GIB:9.3f} GiB")
    print(f"{'one more image a GPU':<70} {(twice[TOTAL] - memory[TOTAL]) / batch / MIB:9.1f} MiB")


if __name__ == "__main__":
    sys.exit(run_cli(main))
