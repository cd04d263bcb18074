"""One run: its configuration, and its stages in order: tokenizer, encode, prior."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from torch import Tensor

from common.config import TrainConfig, load_config, to_yaml
from common.errors import UserError, print_note, printable
from common.files import expand_user, write_text
from common.model_dir import WEIGHTS_FILE
from diffusion.dataset import EncodedImages, codes_key, encode_images
from diffusion.prior import PriorConfig
from diffusion.stage import PriorStage
from images.dataset import DataConfig, Images, WithFlips
from images.sources import Source, open_source
from images.summary import decoded_lines
from training.fit import check_classes, check_images, differing_settings
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
        """Expand ~ in output_dir. Raise ValueError for a seed that NumPy does not accept."""
        self.output_dir = expand_user(self.output_dir, "output_dir")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in [0, 2^32), got {self.seed}")


def run(stage: str, path: str, overrides: Sequence[str]) -> None:
    """Run one of `STAGES` with the configuration at `path`. Raises UserError and Interrupted."""
    config = load_config(RunConfig, path, overrides, required="" if stage == "encode" else stage)
    # One process writes: of two that rename the same temporary file, the second would not find it.
    if os.environ.get("RANK", "0") == "0":
        write_text(Path(config.output_dir) / "config.yaml", to_yaml(config))
    STAGES[stage](config)


def train_tokenizer(config: RunConfig) -> None:
    """Train the tokenizer into output_dir/tokenizer."""
    output_dir, train = Path(config.output_dir), config.tokenizer.train
    accelerator = build_accelerator(train, output_dir)
    set_seed(config.seed)
    images, validation = load_splits(show_source(config.data, accelerator), accelerator)
    stage = TokenizerStage(config.tokenizer, config.data, accelerator)
    quantizer = config.tokenizer.quantizer
    if quantizer.kind == "fsq":  # the levels may have been chosen, and the codebook size with them
        accelerator.print(f"tokenizer: fsq with levels {quantizer.levels}, {quantizer.codebook_size} codes")
    data = StageData(
        train=images,
        val=validation,
        key=images.fingerprint[:16],
        source=config.data.source,
        class_names=images.class_names,
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
        class_names=encoded.class_names,
        workers=config.data.workers,
    )
    train_stage(stage, Run(train, data, accelerator, output_dir, config.seed))


STAGES: dict[str, Callable[[RunConfig], None]] = {"tokenizer": train_tokenizer, "encode": encode, "prior": train_prior}


class EncodedSplits(NamedTuple):
    """Codes of both splits, the tokenizer that made them, the class names, and a key of the training codes and labels."""

    train: EncodedImages
    val: EncodedImages
    tokenizer: Tokenizer
    class_names: list[str]
    key: str


def encode_splits(config: RunConfig, accelerator: Accelerator) -> EncodedSplits:
    """The codes of both splits, encoded now unless the same tokenizer has encoded the same images before.

    Raises:
        UserError: there is no tokenizer, or it does not fit the data, see `training.fit`.
    """
    folder, output_dir = Path(config.output_dir) / "tokenizer", Path(config.output_dir)
    tokenizer = Tokenizer.load(folder).to(accelerator.device)
    check_images(tokenizer, config.data, folder)
    differing = differing_settings(tokenizer.config, config.tokenizer)
    if differing:
        accelerator.on_main_process(print_note)(
            f"the values of {folder} are used, not those of the configuration: {differing}"
        )
    source = show_source(config.data, accelerator)
    check_classes(folder, source.class_names, config.data)

    def encoded(images: Images | WithFlips) -> tuple[EncodedImages, str]:
        key = codes_key(folder / WEIGHTS_FILE, images.fingerprint)
        codes = output_dir / "codes" / key
        return encode_images(images, tokenizer.encode, tokenizer.codebook_size, codes, accelerator), key

    images, validation = load_splits(source, accelerator)
    train, key = encoded(WithFlips(images) if images.flip else images)
    val, _ = encoded(validation)  # validation images are never flipped
    return EncodedSplits(train, val, tokenizer, source.class_names, labelled_key(key, source.class_names, train.labels))


def labelled_key(key: str, class_names: Sequence[str], labels: Tensor) -> str:
    """16 hexadecimal digits that change with `key`, with the names of the classes, and with the labels `(N,)`."""
    digest = hashlib.sha256(json.dumps([key, list(class_names)]).encode())
    digest.update(labels.numpy().tobytes())
    return digest.hexdigest()[:16]


def show_source(config: DataConfig, accelerator: Accelerator) -> Source:
    """The source of the images; prints what it holds, and notes on stderr."""
    source = open_source(config)
    accelerator.print("\n  ".join(printable(line) for line in source.summary()))
    for note in source.notes:
        accelerator.on_main_process(print_note)(note)
    return source


def load_splits(source: Source, accelerator: Accelerator) -> tuple[Images, Images]:
    """The images for training and for validation; prints what decoding has shown."""
    train, val = source.load("train"), source.load("val")
    for line in decoded_lines(train, val):
        accelerator.print(f"  {printable(line)}")
    return train, val


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
