"""Train a tokenizer, encode a data set, train a prior: one loop for every stage.

python train.py tokenizer --config configs/mnist.yaml [section.key=value ...]
python train.py encode    --config configs/mnist.yaml [section.key=value ...]
python train.py prior     --config configs/mnist.yaml [section.key=value ...]
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ArgumentParser, UserError, run_cli

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.utils.data import DataLoader, Dataset

    from common.config import TrainConfig
    from images.dataset import DataConfig, Images


def run_schema() -> type:
    """The dataclass of a whole run's configuration; made here, where both packages meet, so that --help is quick."""
    from diffusion.prior import PriorConfig
    from images.dataset import DataConfig
    from vq.tokenizer import TokenizerConfig

    @dataclass
    class RunConfig:
        output_dir: str = "runs/unnamed"
        seed: int = 0
        data: DataConfig = field(default_factory=DataConfig)
        tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
        prior: PriorConfig = field(default_factory=PriorConfig)

    RunConfig.__annotations__ |= {
        "output_dir": str, "seed": int, "data": DataConfig, "tokenizer": TokenizerConfig, "prior": PriorConfig
    }  # fmt: skip
    return RunConfig


def learning_rate_scale(step: int, train: TrainConfig) -> float:
    """Linear warm-up to 1, then half a cosine down to `min_learning_rate_ratio` at the last step."""
    if step < train.warmup_steps:
        return (step + 1) / train.warmup_steps
    progress = (step - train.warmup_steps) / max(1, train.steps - train.warmup_steps)
    floor = train.min_learning_rate_ratio
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def build_accelerator(train: TrainConfig, output_dir: Path) -> Accelerator:
    """Devices, processes and precision; on a machine without an accelerator, processes talk over gloo."""
    import torch
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # Buffers are kept equal by their owners: a codebook is moved by sums over all processes.
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False)
    cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    try:
        return Accelerator(
            cpu=cpu,
            mixed_precision=train.mixed_precision,
            log_with=train.trackers or None,
            project_dir=str(output_dir),
            kwargs_handlers=[parallel],
        )
    except ValueError as error:
        raise UserError(f"train.trackers={train.trackers} or mixed_precision cannot be used here: {error}") from error


def start_step(train: TrainConfig, output_dir: Path, stage: str) -> tuple[int, Path | None]:
    """Where to begin and from which checkpoint, as `train.resume` says."""
    from training.checkpoint import checkpoint_folder, newest_checkpoint, read_progress

    if train.resume == "never":
        return 0, None
    checkpoint = newest_checkpoint(output_dir, stage) if train.resume == "auto" else Path(train.resume)
    if checkpoint is None:
        return 0, None
    if not checkpoint.is_dir():
        raise UserError(
            f"no checkpoint {checkpoint}: train.resume is auto, never or a folder in {checkpoint_folder(output_dir, stage)}"
        )
    return int(read_progress(checkpoint)["step"]), checkpoint


def run_stage(
    stage: Any,
    train: TrainConfig,
    accelerator: Accelerator,
    training_set: Dataset,
    held_out: Dataset,
    output_dir: Path,
    extra: dict[str, Any],
    seed: int,
    workers: int,
) -> None:
    """The one training loop: steps, learning rate, bookkeeping, checkpoints; ends with the exported weights.

    `extra["data_key"]` names what the stage is trained on; a checkpoint made on other data is refused.
    """
    import torch
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    from common.model_card import write_model_card
    from common.seeds import derived_seed
    from training.batches import DeterministicBatchSampler
    from training.checkpoint import load_checkpoint, read_progress, save_checkpoint, set_aside
    from training.curves import draw_curves
    from training.guard import NonFiniteGuard

    first, checkpoint = start_step(train, output_dir, stage.name)
    if checkpoint is not None:
        if read_progress(checkpoint).get("data_key") != extra["data_key"]:
            raise UserError(
                f"{checkpoint} was trained on other data or codes: set {stage.name}.train.resume=never to start anew"
            )
        load_checkpoint(accelerator, stage.ema, checkpoint)
        accelerator.print(f"{stage.name}: goes on from {checkpoint}")
    elif accelerator.is_main_process:
        set_aside(output_dir, stage.name)
    accelerator.wait_for_everyone()

    sampler = DeterministicBatchSampler(
        len(training_set),  # type: ignore[arg-type]
        train.batch_size,
        seed,
        first,
        train.steps,
        accelerator.process_index,
        accelerator.num_processes,
        getattr(training_set, "flip", False),
    )
    loader: DataLoader = DataLoader(training_set, batch_sampler=sampler, num_workers=workers)
    evaluation: DataLoader = DataLoader(held_out, batch_size=min(100, train.batch_size), num_workers=workers)
    log_path = output_dir / "logs" / f"{stage.name}.jsonl"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    if train.trackers:
        accelerator.init_trackers(f"smalti-{stage.name}")

    def note(step: int, metrics: dict[str, float]) -> None:
        accelerator.log(metrics, step=step)
        if accelerator.is_main_process:
            with log_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step} | metrics) + "\n")

    def save(step: int) -> None:
        progress = {"step": step, "data_key": extra["data_key"]}
        save_checkpoint(accelerator, stage.ema, output_dir, stage.name, progress, train.keep_checkpoints)

    if first == 0 and accelerator.is_main_process:
        log_path.unlink(missing_ok=True)
    stage.model.train()
    skips = NonFiniteGuard(stage.name, output_dir, train.max_skipped_steps)
    bar = tqdm(
        loader,
        desc=stage.name,
        initial=first,
        total=train.steps,
        disable=not accelerator.is_main_process,
        mininterval=1,
    )
    for step, batch in enumerate(bar, start=first):
        # What a step draws depends on nothing before it, so a resumed run draws what an unbroken one would have.
        torch.manual_seed(derived_seed(seed, step, accelerator.process_index))
        stage.set_learning_rate(learning_rate_scale(step, train))
        metrics = stage.step(batch, step)
        done = step + 1
        skips.count(bool(metrics.pop("skipped")))
        if skips.too_many:
            good = done - skips.running  # no weight has moved since
            if good > skips.newest():
                save(good)
            raise UserError(skips.message(done))
        if done % train.log_every == 0 or done == train.steps:
            values = {name: float(value) for name, value in metrics.items()} | stage.pop_metrics()
            if skips.total:
                values["skipped_steps"] = skips.total
            note(done, values)
            bar.set_postfix({name: f"{value:.3f}" for name, value in values.items() if name.startswith("loss")})
        if done % train.checkpoint_every == 0 or done == train.steps:
            save(done)
    if accelerator.is_main_process:
        scores = stage.evaluate(evaluation)
        note(train.steps, {f"held_out_{name}": value for name, value in scores.items()})
        stage.export(output_dir / stage.name, extra | {"validation": scores})
        write_model_card(output_dir)
        draw_curves(output_dir / "logs", output_dir / "curves.png")
        accelerator.print(f"{stage.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))
    accelerator.wait_for_everyone()
    accelerator.end_training()


def load_split(config: DataConfig, split: str, accelerator: Accelerator) -> Images:
    """One split of the pictures; says how many there are, and how many files did not decode."""
    from images.dataset import load_images

    images = load_images(config, split)
    skipped = f", {len(images.skipped)} files skipped" if images.skipped else ""
    accelerator.print(f"{config.source} {split}: {len(images)} pictures{skipped}")
    return images


def train_tokenizer(config: Any) -> None:
    """Train the tokenizer that `config` describes into output_dir/tokenizer."""
    from accelerate.utils import set_seed

    from vq.stage import TokenizerStage

    output_dir = Path(config.output_dir)
    train = config.tokenizer.train
    accelerator = build_accelerator(train, output_dir)
    set_seed(config.seed)
    training_set, held_out = (load_split(config.data, split, accelerator) for split in ("train", "val"))
    stage = TokenizerStage(config.tokenizer, config.data, accelerator)
    extra = {"data_key": training_set.fingerprint[:16], "data_source": config.data.source, "steps": train.steps}
    run_stage(stage, train, accelerator, training_set, held_out, output_dir, extra, config.seed, config.data.workers)


def encode_splits(config: Any, accelerator: Accelerator) -> tuple[Any, Any, Any, list[str], str]:
    """Codes of both splits, made where they are missing; also the tokenizer, class names and the codes' key."""
    from diffusion.dataset import codes_key, encode_images
    from images.dataset import WithFlips
    from vq.tokenizer import Tokenizer

    directory = Path(config.output_dir) / "tokenizer"
    tokenizer = Tokenizer.load(directory).to(accelerator.device)
    encoded, names, key = {}, [], ""
    for split in ("train", "val"):
        images = load_split(config.data, split, accelerator)
        pictures = WithFlips(images) if images.flip else images  # training alone mirrors
        split_key = codes_key(directory / "model.safetensors", pictures.fingerprint)
        folder = Path(config.output_dir) / "codes" / split_key
        encoded[split] = encode_images(pictures, tokenizer.encode, tokenizer.codebook_size, folder, accelerator)
        if split == "train":
            names, key = images.class_names, split_key
    return encoded["train"], encoded["val"], tokenizer, names, key


def encode(config: Any) -> None:
    """Write the encoded data set; the prior does the same by itself where it is missing."""
    accelerator = build_accelerator(config.prior.train, Path(config.output_dir))
    training_set, held_out, *_ = encode_splits(config, accelerator)
    accelerator.print(f"encoded {len(training_set)} + {len(held_out)} pictures into {config.output_dir}/codes")


def train_prior(config: Any) -> None:
    """Train the prior that `config` describes into output_dir/prior."""
    from accelerate.utils import set_seed

    from diffusion.stage import PriorStage

    output_dir = Path(config.output_dir)
    train = config.prior.train
    accelerator = build_accelerator(train, output_dir)
    set_seed(config.seed)
    training_set, held_out, tokenizer, names, key = encode_splits(config, accelerator)
    height, width = training_set.codes.shape[1:3]
    stage = PriorStage(
        config.prior, accelerator, tokenizer.codebook_size, (height, width), names, config.seed, tokenizer.groups
    )
    extra = {"data_key": key, "data_source": config.data.source, "steps": train.steps}
    run_stage(stage, train, accelerator, training_set, held_out, output_dir, extra, config.seed, config.data.workers)


STAGES = {"tokenizer": train_tokenizer, "encode": encode, "prior": train_prior}


def main(argv: Sequence[str]) -> None:
    """Parse the command line and run one stage."""
    parser = ArgumentParser(prog="train.py", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("stage", choices=STAGES, help="what to train, or encode to write the codes of the data set")
    parser.add_argument("--config", required=True, help="a YAML file, such as configs/mnist.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values to replace")
    args = parser.parse_intermixed_args(argv)

    from common.config import load_config, to_yaml
    from common.files import write_text

    config: Any = load_config(run_schema(), args.config, args.overrides)
    if os.environ.get("RANK", "0") == "0":  # one process writes: two would rename the same file away from each other
        write_text(Path(config.output_dir) / "config.yaml", to_yaml(config))
    STAGES[args.stage](config)


if __name__ == "__main__":
    sys.exit(run_cli(main))
