"""One run: its configuration, and its stages in order: tokenizer, encode, prior."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed

from common.config import TrainConfig, load_config, to_yaml
from common.errors import UserError
from common.files import write_text
from diffusion.dataset import EncodedImages, codes_key, encode_images
from diffusion.prior import PriorConfig
from diffusion.stage import PriorStage
from images.dataset import DataConfig, Images, WithFlips, load_images
from training.loop import Run, StageData, train_stage
from vq.stage import TokenizerStage
from vq.tokenizer import Tokenizer, TokenizerConfig


@dataclass
class RunConfig:
    """A whole YAML file."""

    output_dir: str = "runs/unnamed"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)

    def __post_init__(self) -> None:
        """Raise ValueError for a seed that NumPy does not accept."""
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in [0, 2^32), got {self.seed}")


def run(stage: str, path: str, overrides: Sequence[str]) -> None:
    """Run one of `STAGES` with the configuration at `path`. Raises UserError and Interrupted."""
    config = load_config(RunConfig, path, overrides)
    # One process writes: of two that rename the same temporary file, the second would not find it.
    if os.environ.get("RANK", "0") == "0":
        write_text(Path(config.output_dir) / "config.yaml", to_yaml(config))
    STAGES[stage](config)


def train_tokenizer(config: RunConfig) -> None:
    """Train the tokenizer into output_dir/tokenizer."""
    output_dir, train = Path(config.output_dir), config.tokenizer.train
    accelerator = build_accelerator(train, output_dir)
    set_seed(config.seed)
    images, validation = (load_split(config.data, split, accelerator) for split in ("train", "val"))
    stage = TokenizerStage(config.tokenizer, config.data, accelerator)
    data = StageData(
        train=images,
        val=validation,
        key=images.fingerprint[:16],
        source=config.data.source,
        workers=config.data.workers,
        flip=images.flip,
    )
    train_stage(stage, Run(train, data, accelerator, output_dir, config.seed))


def encode(config: RunConfig) -> None:
    """Encode both splits into output_dir/codes; `train_prior` does the same where codes are missing."""
    accelerator = build_accelerator(config.prior.train, Path(config.output_dir))
    encoded = encode_splits(config, accelerator)
    accelerator.print(f"encoded {len(encoded.train)} + {len(encoded.val)} images into {config.output_dir}/codes")


def train_prior(config: RunConfig) -> None:
    """Train the prior into output_dir/prior."""
    output_dir, train = Path(config.output_dir), config.prior.train
    accelerator = build_accelerator(train, output_dir)
    set_seed(config.seed)
    encoded = encode_splits(config, accelerator)
    height, width = encoded.train.codes.shape[1:3]
    stage = PriorStage(
        config.prior,
        accelerator,
        codebook_size=encoded.tokenizer.codebook_size,
        grid=(height, width),
        class_names=encoded.class_names,
        seed=config.seed,
        groups=encoded.tokenizer.groups,
    )
    data = StageData(
        train=encoded.train,
        val=encoded.val,
        key=encoded.key,
        source=config.data.source,
        workers=config.data.workers,
    )
    train_stage(stage, Run(train, data, accelerator, output_dir, config.seed))


STAGES: dict[str, Callable[[RunConfig], None]] = {"tokenizer": train_tokenizer, "encode": encode, "prior": train_prior}


class EncodedSplits(NamedTuple):
    """Codes of both splits, the tokenizer that made them, the class names, and the key of the training codes."""

    train: EncodedImages
    val: EncodedImages
    tokenizer: Tokenizer
    class_names: list[str]
    key: str


def encode_splits(config: RunConfig, accelerator: Accelerator) -> EncodedSplits:
    """The codes of both splits, encoded now unless the same tokenizer has encoded the same data before."""
    output_dir = Path(config.output_dir)
    tokenizer = Tokenizer.load(output_dir / "tokenizer").to(accelerator.device)

    def encoded(images: Images | WithFlips) -> tuple[EncodedImages, str]:
        key = codes_key(output_dir / "tokenizer" / "model.safetensors", images.fingerprint)
        folder = output_dir / "codes" / key
        return encode_images(images, tokenizer.encode, tokenizer.codebook_size, folder, accelerator), key

    images = load_split(config.data, "train", accelerator)
    train, key = encoded(WithFlips(images) if images.flip else images)
    val, _ = encoded(load_split(config.data, "val", accelerator))  # validation images are never flipped
    return EncodedSplits(train, val, tokenizer, images.class_names, key)


def load_split(config: DataConfig, split: str, accelerator: Accelerator) -> Images:
    """The images of the "train" or "val" split; prints their number, and the number of files that did not decode."""
    images = load_images(config, split)
    skipped = f", {len(images.skipped)} files skipped" if images.skipped else ""
    accelerator.print(f"{config.source} {split}: {len(images)} images{skipped}")
    return images


def build_accelerator(train: TrainConfig, output_dir: Path) -> Accelerator:
    """Devices, processes and precision; without a GPU, processes communicate over gloo.

    Raises:
        UserError: a tracker or a precision that this machine does not have.
    """
    # DDP must not overwrite buffers: the codebook is one, and the quantizer keeps it equal by sums over all processes.
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False)
    cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    try:
        return Accelerator(
            cpu=cpu,
            mixed_precision=train.mixed_precision,
            log_with=train.trackers or None,  # type: ignore[arg-type]
            project_dir=str(output_dir),
            kwargs_handlers=[parallel],
        )
    except ValueError as error:
        raise UserError(
            f"<stage>.train.trackers={train.trackers} or mixed_precision cannot be used here: {error}"
        ) from error
