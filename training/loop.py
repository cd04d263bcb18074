"""The one training loop, for every stage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from common.config import TrainConfig
from common.errors import UserError
from common.model_card import write_model_card
from common.seeds import derived_seed
from training.batches import DeterministicBatchSampler
from training.checkpoint import (
    checkpoint_folder,
    load_checkpoint,
    newest_checkpoint,
    read_progress,
    save_checkpoint,
    set_aside,
)
from training.guard import NonFiniteGuard
from training.logging import MetricsLog

Item = tuple[Tensor, Tensor]  # (images or codes, labels)


class Stage(Protocol):
    """What the loop trains: `vq.stage.TokenizerStage` or `diffusion.stage.PriorStage`."""

    name: str
    model: nn.Module
    ema: AveragedModel

    def set_learning_rate(self, scale: float) -> None:
        """Set the learning rates to `scale` times the configured ones."""

    def step(self, batch: Item, step: int) -> dict[str, Tensor]:
        """One update; scalar metrics, among them `skipped`: 1 where nothing moved because something was not finite."""

    def pop_metrics(self) -> dict[str, float]:
        """Metrics gathered since the last call. All processes call this together."""

    def evaluate(self, loader: Iterable[Item]) -> dict[str, float]:
        """Scores of the averaged weights on the validation set."""

    def export(self, directory: Path, provenance: Mapping[str, object]) -> None:
        """Write the averaged weights and their configuration."""


@dataclass(frozen=True)
class Run:
    """What the loop needs to know of a run.

    Attributes:
        seed: of batches and of everything a step samples.
        workers: loader processes.
        data_key: names the training data; a checkpoint of other data is refused.
        data_source: for config.json.
        flip: whether images are flipped at random.
    """

    output_dir: Path
    seed: int
    workers: int
    data_key: str
    data_source: str
    flip: bool = False


def learning_rate_scale(step: int, train: TrainConfig) -> float:
    """Linear warm-up to 1, then half a cosine down to `min_learning_rate_ratio` at the last step."""
    if step < train.warmup_steps:
        return (step + 1) / train.warmup_steps
    progress = (step - train.warmup_steps) / max(1, train.steps - train.warmup_steps)
    floor = train.min_learning_rate_ratio
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def train_stage(
    stage: Stage,
    train: TrainConfig,
    accelerator: Accelerator,
    training_set: Dataset[Item],
    validation_set: Dataset[Item],
    run: Run,
) -> None:
    """Train `stage` to its last step, evaluate and export it. Raises UserError."""
    first = resume_or_begin(stage, train, accelerator, run)
    loader: DataLoader[Any] = DataLoader(
        training_set,
        batch_sampler=DeterministicBatchSampler(
            len(training_set),  # type: ignore[arg-type]
            train.batch_size,
            run.seed,
            first,
            train.steps,
            accelerator.process_index,
            accelerator.num_processes,
            run.flip,
        ),
        num_workers=run.workers,
    )
    log = MetricsLog(run.output_dir, stage.name, accelerator, train.trackers, continued=first > 0)
    guard = NonFiniteGuard(stage.name, run.output_dir, train.max_skipped_steps)

    def save(step: int) -> None:
        progress: dict[str, int | str] = {"step": step, "data_key": run.data_key}
        save_checkpoint(accelerator, stage.ema, run.output_dir, stage.name, progress, train.keep_checkpoints)

    stage.model.train()
    bar = tqdm(
        loader,
        desc=stage.name,
        initial=first,
        total=train.steps,
        disable=not accelerator.is_main_process,
        mininterval=1,
    )
    for step, batch in enumerate(bar, start=first):
        # The random numbers of a step depend on nothing before it, so a resumed run repeats an unbroken one.
        torch.manual_seed(derived_seed(run.seed, step, accelerator.process_index))
        stage.set_learning_rate(learning_rate_scale(step, train))
        metrics = stage.step(batch, step)
        done = step + 1
        guard.count(bool(metrics.pop("skipped")))
        if guard.too_many:
            good = done - guard.running  # no weight has moved since
            if good > guard.newest():
                save(good)
            raise UserError(guard.message(done))
        if done % train.log_every == 0 or done == train.steps:
            values = {name: float(value) for name, value in metrics.items()} | stage.pop_metrics()
            if guard.total:
                values["skipped_steps"] = guard.total
            log.log_metrics(done, values)
            bar.set_postfix({name: f"{value:.3f}" for name, value in values.items() if name.startswith("loss")})
        if done % train.checkpoint_every == 0 or done == train.steps:
            save(done)

    if accelerator.is_main_process:
        evaluation: DataLoader[Item] = DataLoader(
            validation_set, batch_size=min(100, train.batch_size), num_workers=run.workers
        )
        scores = stage.evaluate(evaluation)
        log.log_metrics(train.steps, {f"val_{name}": value for name, value in scores.items()})
        provenance = {
            "data_key": run.data_key,
            "data_source": run.data_source,
            "steps": train.steps,
            "validation": scores,
        }
        stage.export(run.output_dir / stage.name, provenance)
        write_model_card(run.output_dir)
        log.plot_curves()
        accelerator.print(f"{stage.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))
    accelerator.wait_for_everyone()
    accelerator.end_training()


def resume_or_begin(stage: Stage, train: TrainConfig, accelerator: Accelerator, run: Run) -> int:
    """Restore the checkpoint that `train.resume` names, or set old checkpoints aside; returns the first step.

    Raises:
        UserError: there is no such checkpoint, or it was made on other data or by another configuration.
    """
    checkpoint = None
    if train.resume == "auto":
        checkpoint = newest_checkpoint(run.output_dir, stage.name)
    elif train.resume != "never":
        checkpoint = Path(train.resume)
        if not checkpoint.is_dir():
            folder = checkpoint_folder(run.output_dir, stage.name)
            raise UserError(f"no checkpoint {checkpoint}: train.resume is auto, never or a folder in {folder}")
    first = 0
    if checkpoint is not None:
        progress = read_progress(checkpoint)
        if progress.get("data_key") != run.data_key:
            raise UserError(
                f"{checkpoint} was trained on other data or codes: set {stage.name}.train.resume=never to start anew"
            )
        load_checkpoint(accelerator, stage.ema, checkpoint)
        first = int(progress["step"])
        accelerator.print(f"{stage.name}: resumes from {checkpoint}")
    elif accelerator.is_main_process:
        set_aside(run.output_dir, stage.name)
    accelerator.wait_for_everyone()
    return first
