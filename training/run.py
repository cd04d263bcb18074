"""One run: its configuration, and the stages in order: tokenizer, codes, prior."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
from training.loop import Run, train_stage
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


def run(stage: str, path: str, overrides: Sequence[str]) -> None:
    """Run one stage of the configuration at `path`. Raises UserError."""
    config = load_config(RunConfig, path, overrides)
    if os.environ.get("RANK", "0") == "0":  # one process writes: two would rename the same file away from each other
        write_text(Path(config.output_dir) / "config.yaml", to_yaml(config))
    {"tokenizer": train_tokenizer, "encode": encode, "prior": train_prior}[stage](config)


def train_tokenizer(config: RunConfig) -> None:
    """Train the tokenizer that `config` describes into output_dir/tokenizer."""
    output_dir, train = Path(config.output_dir), config.tokenizer.train
    accelerator = build_accelerator(train, output_dir)
    set_seed(config.seed)
    training_set, validation_set = (load_split(config.data, split, accelerator) for split in ("train", "val"))
    stage = TokenizerStage(config.tokenizer, config.data, accelerator)
    key = training_set.fingerprint[:16]
    settings = Run(output_dir, config.seed, config.data.workers, key, config.data.source, training_set.flip)
    train_stage(stage, train, accelerator, training_set, validation_set, settings)


def encode(config: RunConfig) -> None:
    """Write the encoded data set; the prior does the same by itself where it is missing."""
    accelerator = build_accelerator(config.prior.train, Path(config.output_dir))
    encoded = encode_splits(config, accelerator)
    accelerator.print(f"encoded {len(encoded.train)} + {len(encoded.val)} images into {config.output_dir}/codes")


def train_prior(config: RunConfig) -> None:
    """Train the prior that `config` describes into output_dir/prior."""
    output_dir, train = Path(config.output_dir), config.prior.train
    accelerator = build_accelerator(train, output_dir)
    set_seed(config.seed)
    encoded = encode_splits(config, accelerator)
    height, width = encoded.train.codes.shape[1:3]
    tokenizer = encoded.tokenizer
    stage = PriorStage(
        config.prior,
        accelerator,
        tokenizer.codebook_size,
        (height, width),
        encoded.class_names,
        config.seed,
        tokenizer.groups,
    )
    settings = Run(output_dir, config.seed, config.data.workers, encoded.key, config.data.source)
    train_stage(stage, train, accelerator, encoded.train, encoded.val, settings)


class EncodedSplits(NamedTuple):
    """Codes of both splits, the tokenizer that made them, the class names, and the key of the training codes."""

    train: EncodedImages
    val: EncodedImages
    tokenizer: Tokenizer
    class_names: list[str]
    key: str


def encode_splits(config: RunConfig, accelerator: Accelerator) -> EncodedSplits:
    """Encode both splits, unless that was done before with the same tokenizer and data."""
    directory = Path(config.output_dir) / "tokenizer"
    tokenizer = Tokenizer.load(directory).to(accelerator.device)
    encoded: dict[str, EncodedImages] = {}
    keys: dict[str, str] = {}
    class_names: list[str] = []
    for split in ("train", "val"):
        images = load_split(config.data, split, accelerator)
        both = WithFlips(images) if images.flip else images  # only the training split is flipped
        keys[split] = codes_key(directory / "model.safetensors", both.fingerprint)
        folder = Path(config.output_dir) / "codes" / keys[split]
        encoded[split] = encode_images(both, tokenizer.encode, tokenizer.codebook_size, folder, accelerator)
        if split == "train":
            class_names = images.class_names
    return EncodedSplits(encoded["train"], encoded["val"], tokenizer, class_names, keys["train"])


def load_split(config: DataConfig, split: str, accelerator: Accelerator) -> Images:
    """One split of the images; prints how many there are, and how many files did not decode."""
    images = load_images(config, split)
    skipped = f", {len(images.skipped)} files skipped" if images.skipped else ""
    accelerator.print(f"{config.source} {split}: {len(images)} images{skipped}")
    return images


def build_accelerator(train: TrainConfig, output_dir: Path) -> Accelerator:
    """Devices, processes and precision; without a GPU, processes communicate over gloo."""
    # Buffers are kept equal by their owners: a codebook moves by sums over all processes.
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
        raise UserError(f"train.trackers={train.trackers} or mixed_precision cannot be used here: {error}") from error
