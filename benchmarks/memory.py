"""What training a tokenizer takes of a GPU's memory, computed from its configuration; no GPU is needed.

    python benchmarks/memory.py --config configs/mnist.yaml [section.key=value ...] [--gpus 8]

The networks run forwards on tensors without contents (PyTorch's fake tensors: shape, type, layout and the name of a device).
What autograd keeps is counted by torch.autograd.graph.saved_tensors_hooks, each storage once; what lives only for a while is
counted by following every storage from its creation to its end. Backward passes do not run: autograd wants a real device.

Left out: cuDNN's workspaces, what the allocator loses to fragments, CUDA's own half gigabyte, and gradients of activations
on their way back, for which the gradients of weights stand: they count in full at every moment, though they appear while
activations go. On a processor a real step came within a few percent of the sum (tests/test_benchmarks.py); where levels are
computed again, the sum is the larger by up to a fifth, because it takes the largest level to come while all else is kept.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.config import load_config
from common.errors import ArgumentParser, UserError, run_cli
from train import run_schema
from vq.discriminator import build_discriminator
from vq.loss import r1_penalty
from vq.perceptual import EfficientNetDistance, LPIPSDistance, ResNetLogitDistance
from vq.quantizer import QuantizerConfig, build_quantizer
from vq.tokenizer import Tokenizer, TokenizerConfig

GIB, MIB = 2**30, 2**20
FLOAT = 4  # bytes
HALF = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
QUANTIZER = "quantizer"


class Storages(TorchDispatchMode):
    """Follows storages that appear while it is active, and answers every question about a fake tensor's value with 1.

    The answers are for the quantizer, which asks whether latents are finite and whether its codebook has been started.

    Attributes:
        live: bytes now.
        peak: most bytes so far; may be set back to `live`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            kind = args[0].dtype
            return True if kind == torch.bool else 1.0 if kind.is_floating_point else 1
        kwargs = kwargs or {}
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = function(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in before:  # a view is nothing new
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def gone(_: weakref.ref) -> None:
            del self._seen[key]
            self.live -= size

        self._seen[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


class Kept:
    """What autograd keeps for the backward pass of what runs in `with Kept(...)`, each storage once.

    Args:
        elsewhere: tensors that are not counted, such as weights.

    Attributes:
        part: name under which storages are counted at the moment.
    """

    def __init__(self, elsewhere: Iterable[Tensor]) -> None:
        self.part = ""
        self._elsewhere = {tensor.untyped_storage()._cdata for tensor in elsewhere}
        self._storages: dict[int, tuple[weakref.ref, int, str]] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        known = self._storages.get(storage._cdata)
        if storage._cdata not in self._elsewhere and (known is None or known[0]() is None):
            self._storages[storage._cdata] = (weakref.ref(storage), storage.nbytes(), self.part)
        return tensor.detach()  # with its history, an output that its own node keeps would hold itself for ever

    def __enter__(self) -> Kept:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def bytes_by_part(self) -> dict[str, int]:
        """Bytes that are still held; a graph that was thrown away, such as that of distances to codes, holds none."""
        total: dict[str, int] = {}
        for storage, size, part in self._storages.values():
            if storage() is not None:
                total[part] = total.get(part, 0) + size
        return total


@contextmanager
def autocast(device: str, dtype: torch.dtype | None) -> Iterator[None]:
    """What torch.autocast does, but also for "cuda" on a machine without, where that turns itself off.

    The lists of operations are thus the device's own. CUDA's hold group normalisation in float32, so that with bfloat16 the
    norm's input and SiLU's are kept in four bytes and only the convolution's in two; a processor's leave it in bfloat16.
    """
    if dtype is None:
        yield
        return
    torch.set_autocast_dtype(device, dtype)
    torch.set_autocast_enabled(device, True)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, False)


def without_contents(module: nn.Module, device: str) -> nn.Module:
    """Replace weights and buffers by fake tensors of the same shape, type and layout. To be called in a FakeTensorMode."""

    def empty(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)

    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(empty(weight), weight.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = empty(buffer)
    return module


def build_generator(config: TokenizerConfig, image_size: int, channels: int) -> Tokenizer:
    """The tokenizer with weights on the meta device; its quantizer is real, since fsq asks for values while it is built.

    k-means, which runs once, and the replacement of dead codes, which moves no more than the codebook, are off.
    """
    quantizer = build_quantizer(replace(config.quantizer, kmeans_init=False, dead_code_threshold=0.0))
    with torch.device("meta"):
        placeholder = QuantizerConfig(codebook_dim=quantizer.dim)
        tokenizer = Tokenizer(replace(config, quantizer=placeholder), image_size, channels)
    tokenizer.quantizer = quantizer
    return tokenizer.train()


def build_distance(name: str) -> tuple[nn.Module | None, str]:
    """The perceptual distance without its weights, so that nothing is downloaded. `auto` counts as lpips, its first choice."""
    if name == "none":
        return None, name
    if name == "efficientnet":
        return EfficientNetDistance(), name
    with torch.device("meta"):
        if name == "resnet50":
            from torchvision.models import resnet50

            distance: nn.Module = ResNetLogitDistance.__new__(ResNetLogitDistance)
            nn.Module.__init__(distance)
            distance.network = resnet50(weights=None).eval().requires_grad_(False)
            for buffer in ("mean", "std"):
                distance.register_buffer(buffer, torch.zeros(1, 3, 1, 1))
            return distance, name
        import lpips

        distance = LPIPSDistance.__new__(LPIPSDistance)
        nn.Module.__init__(distance)
        with warnings.catch_warnings():  # it calls torchvision as one did years ago
            warnings.simplefilter("ignore", UserWarning)
            distance.network = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
        return distance.eval().requires_grad_(False), "lpips"


@dataclass
class GeneratorMemory:
    """Bytes of one forward pass of encoder, quantizer and decoder; weights and pictures are not among them.

    Attributes:
        kept: what autograd keeps, with the copies of weights that autocast makes.
        quantizer: the quantizer's share of `kept`.
        largest_level: the largest share of one level, which is what recomputing it takes.
        quantizer_peak: most that lives beside the quantizer's input while it runs, its share of `kept` included.
        peak: most that lives at any moment.
    """

    kept: int
    quantizer: int
    largest_level: int
    quantizer_peak: int
    peak: int


def generator_memory(tokenizer: Tokenizer, images: Tensor, half: torch.dtype | None) -> GeneratorMemory:
    """Run `tokenizer` forwards on images `(B, C, S, S)`; both may be real as well as fake."""
    storages, kept = Storages(), Kept([*tokenizer.parameters(), *tokenizer.buffers()])
    quantizer = tokenizer.quantizer
    levels = [
        part for side in (tokenizer.encoder, tokenizer.decoder) for part in (side.conv_in, *side.levels, side.middle)
    ]
    names: dict[nn.Module, str] = {level: f"level {index}" for index, level in enumerate(levels)}
    names[quantizer] = QUANTIZER
    before_quantizer, peaks = 0, []

    def enter(module: nn.Module, _: Any) -> None:
        nonlocal before_quantizer
        kept.part = names[module]
        if module is quantizer:
            before_quantizer = storages.live
            peaks.append(storages.peak)
            storages.peak = storages.live

    def leave(module: nn.Module, *_: Any) -> None:
        kept.part = ""
        if module is quantizer:
            peaks.append(storages.peak)

    hooks = [
        hook for part in names for hook in (part.register_forward_pre_hook(enter), part.register_forward_hook(leave))
    ]
    try:
        with storages, kept, autocast(images.device.type, half):
            output = tokenizer(images)
        parts = kept.bytes_by_part()
        del output  # held the graph until it was counted
    finally:
        for hook in hooks:
            hook.remove()
    return GeneratorMemory(
        kept=sum(parts.values()),
        quantizer=parts.get(QUANTIZER, 0),
        largest_level=max(parts.get(names[level], 0) for level in levels),
        quantizer_peak=peaks[1] - before_quantizer,
        peak=max(*peaks, storages.peak),
    )


def peak_of(run: Callable[[], object]) -> int:
    """Most bytes that live at any moment of `run`, beside what there was before."""
    with Storages() as storages:
        result = run()
        del result
    return storages.peak


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of all elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass
class Memory:
    """Bytes of training on one GPU.

    Attributes:
        always: parts that are there all the time.
        activations: what the generator keeps from its forward to its backward pass.
        picture: the share of one picture in `activations`.
        batch_free: the share that does not grow with the batch: weights that autocast copies.
        quantizer: the quantizer's share of `activations`.
        quantizer_peak: most that lives while the quantizer runs, its share included; the forward pass holds it.
        moments: what comes and goes on top of `always`; where it comes on top of `activations`, it includes them.
    """

    always: dict[str, int]
    activations: int
    picture: int
    batch_free: int
    quantizer: int
    quantizer_peak: int
    moments: dict[str, int]

    def total(self) -> int:
        """Bytes at the largest moment."""
        return sum(self.always.values()) + max(self.moments.values())


def training_memory(config: TokenizerConfig, image_size: int, channels: int, gpus: int, device: str) -> Memory:
    """What `TokenizerStage` takes on each of `gpus` devices. Raises UserError where the batch does not divide among them."""
    train, loss = config.train, config.loss
    if train.batch_size % gpus:
        raise UserError(
            f"tokenizer.train.batch_size {train.batch_size} does not divide among {gpus} GPUs: set "
            f"tokenizer.train.batch_size={-(-train.batch_size // gpus) * gpus}"
        )
    batch, half = train.batch_size // gpus, HALF[train.mixed_precision]
    generator = build_generator(config, image_size, channels)
    with torch.device("meta"):
        discriminator = build_discriminator(config.discriminator, channels)
    distance, distance_name = build_distance(loss.perceptual)

    weights, buffers = size_of(generator.parameters()), size_of(generator.buffers())
    judge = size_of(discriminator.parameters())
    always = {
        f"generator: {weights // FLOAT:,} weights": weights,
        "generator: gradients": weights,
        "generator: two moments of AdamW": 2 * weights,
        "generator: averaged copy": weights,
        "codebook and other buffers, twice": 2 * buffers,
        f"discriminator: {judge // FLOAT:,} weights, gradients, two moments": 4 * judge,
    }
    if gpus > 1:
        always["buckets in which gradients travel"] = weights + judge
    if distance is not None:
        always[f"perceptual network ({distance_name})"] = size_of([*distance.parameters(), *distance.buffers()])

    with FakeTensorMode():
        without_contents(generator, device)
        without_contents(discriminator, device)

        def pictures(count: int, on: str = device) -> Tensor:
            return torch.empty(count, channels, image_size, image_size, device=on)

        memory = generator_memory(generator, pictures(batch), half)
        twice = generator_memory(generator, pictures(2 * batch), half)
        moments = {"forward pass": memory.peak}
        if config.gradient_checkpointing:
            generator.encoder.recompute = generator.decoder.recompute = False
            level = generator_memory(generator, pictures(batch), half).largest_level
            moments["backward pass, a level computed again"] = memory.kept + level
        if distance is not None:
            without_contents(distance, device)
            peak = peak_of(lambda: distance(pictures(batch).requires_grad_(), pictures(batch)))
            moments["perceptual loss"] = memory.kept + peak
        if loss.adversarial_weight:

            def judged(count: int) -> Tensor:
                with autocast(device, half):
                    return discriminator(pictures(count).requires_grad_())

            moments["adversarial loss"] = memory.kept + peak_of(lambda: judged(batch))
            moments["discriminator's step"] = peak_of(lambda: judged(2 * batch))
            if loss.r1_weight:
                without_contents(discriminator, "cpu")
                moments["discriminator's step"] = peak_of(lambda: penalised(discriminator, pictures(batch, "cpu")))
    return Memory(
        always=always,
        activations=memory.kept,
        picture=(twice.kept - memory.kept) // batch,
        batch_free=2 * memory.kept - twice.kept,
        quantizer=memory.quantizer,
        quantizer_peak=memory.quantizer_peak,
        moments=moments,
    )


def penalised(discriminator: nn.Module, images: Tensor) -> Tensor:
    """Answers and gradient penalty, whose own graph is kept too.

    On the processor, the one device on which autograd goes backwards without contents; and in float32, the most it takes.
    """
    images = images.requires_grad_()
    real, fake = discriminator(torch.cat([images, images.detach()])).chunk(2)
    return real.mean() + fake.mean() + r1_penalty(real, images)


def report(memory: Memory, title: str) -> str:
    """One line a part, in GiB."""
    largest = max(memory.moments, key=memory.moments.__getitem__)
    fixed = sum(memory.always.values())
    rows = [
        *memory.always.items(),
        ("all the time", fixed),
        ("", 0),
        (f"activations kept, {memory.picture / MIB:.1f} MiB a picture", memory.activations),
        ("  of these weights that autocast copied", memory.batch_free),
        ("  of these the quantizer's", memory.quantizer),
        ("quantizer while it runs: matrices of positions x codes", memory.quantizer_peak),
        ("", 0),
        *(
            (f"{name}: {'the largest moment' if name == largest else 'at its most'}", size)
            for name, size in memory.moments.items()
        ),
        ("", 0),
        ("total: all the time and the largest moment", memory.total()),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join([title, "", *(f"{name:<{width}}  {size / GIB:9.3f} GiB" if name else "" for name, size in rows)])


def main(argv: Sequence[str]) -> None:
    """Print the parts and the total."""
    parser = ArgumentParser(prog="memory.py", description="Memory that training a tokenizer takes, computed.")
    parser.add_argument("--config", required=True, help="a YAML file, such as configs/mnist.yaml")
    parser.add_argument("--gpus", type=int, default=1, help="processes that share batch_size (default 1)")
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="whose rules to follow (default cuda)"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values to replace")
    args = parser.parse_intermixed_args(argv)
    if args.gpus < 1:
        raise UserError(f"--gpus must be at least 1, got {args.gpus}")
    config: Any = load_config(run_schema(), args.config, args.overrides)
    data, train = config.data, config.tokenizer.train
    memory = training_memory(config.tokenizer, data.image_size, data.channels, args.gpus, args.device)
    print(report(
        memory,
        f"{args.config}: {train.batch_size // args.gpus} pictures of {data.image_size} x {data.image_size} a device, "
        f"{args.gpus} of them, mixed_precision {train.mixed_precision}, rules of {args.device}",
    ))  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_cli(main))
