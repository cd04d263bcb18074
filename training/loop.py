"""The one training loop, for every stage: steps, learning-rate schedule, metrics, checkpoints, validation, export."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from common.config import TrainConfig
from common.errors import Interrupted, UserError
from common.model_card import write_model_card
from common.seeds import derived_seed
from training.batches import DeterministicBatchSampler
from training.checkpoint import (
    Progress,
    checkpoint_to_resume,
    load_checkpoint,
    newest_checkpoint,
    read_progress,
    save_checkpoint,
    set_aside,
    step_of,
)
from training.guard import NonFiniteGuard
from training.logging import MetricsLog, plot_curves

Item = tuple[Tensor, Tensor]  # (image or codes, label); in a batch (B, ...) and (B,)


class Stage(Protocol):
    """What the loop trains: `vq.stage.TokenizerStage` or `diffusion.stage.PriorStage`.

    Attributes:
        name: "tokenizer" or "prior"; names the exported folder, the checkpoints and the log.
        model: the network, as `Accelerator.prepare` returns it.
        ema: moving average of the network's weights; this is what is scored and exported.
    """

    name: str
    model: nn.Module
    ema: AveragedModel

    def set_learning_rate(self, scale: float) -> None:
        """Set every learning rate to `scale`, in [0, 1], times the configured one."""

    def step(self, batch: Item, step: int) -> dict[str, Tensor]:
        """Update the weights once.

        Returns:
            Scalar metrics by name. One of them is `skipped`: 1 where a loss or gradient was not finite, so that the
            weights did not change, else 0.
        """

    def pop_metrics(self) -> dict[str, float]:
        """Metrics gathered over the steps since the last call. All processes call this together."""

    def evaluate(self, loader: Iterable[Item]) -> dict[str, float]:
        """Scores of the EMA weights on the validation set, by name. Only the main process calls this."""

    def export(self, directory: Path, provenance: Mapping[str, object]) -> None:
        """Write the EMA weights to `directory`, and their configuration together with `provenance`."""


@dataclass(frozen=True)
class StageData:
    """What a stage is trained and scored on.

    Attributes:
        train, val: the data sets of both splits.
        key: names the training data; a checkpoint of other data is refused.
        source, class_names: `data.source` and the classes of the training images, recorded with the model.
        workers: loader processes.
        flip: whether half of the training items are flipped; their keys are then (index, flipped).
    """

    train: Dataset[Item]
    val: Dataset[Item]
    key: str
    source: str
    class_names: Sequence[str] = ()
    workers: int = 0
    flip: bool = False


@dataclass(frozen=True)
class Run:
    """How, on what and where a stage is trained.

    Attributes:
        seed: of the batches and of every random number in a step.
    """

    train: TrainConfig
    data: StageData
    accelerator: Accelerator
    output_dir: Path
    seed: int


def learning_rate_scale(step: int, train: TrainConfig) -> float:
    """Linear warm-up to 1, then half a cosine down to `min_learning_rate_ratio` at the last step."""
    if step < train.warmup_steps:
        return (step + 1) / train.warmup_steps
    progress = (step - train.warmup_steps) / max(1, train.steps - train.warmup_steps)
    floor = train.min_learning_rate_ratio
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def train_stage(stage: Stage, run: Run) -> None:
    """Train `stage` from its checkpoint or from scratch to its last step, score it, export it.

    All processes call this together.

    Raises:
        UserError: the checkpoint does not fit, or too many steps in a row were not finite.
        Interrupted: Ctrl-C after a checkpoint was written.
    """
    first = resume_or_start(stage, run)
    log = MetricsLog(run.output_dir, stage.name, run.accelerator, run.train.trackers, keep=first > 0)
    try:
        take_steps(stage, run, log, first)
        if run.accelerator.is_main_process:
            evaluate_and_export(stage, run, log)
    except KeyboardInterrupt:
        checkpoint = newest_checkpoint(run.output_dir, stage.name)
        if checkpoint is None:
            raise
        # With any other value, the same command starts from scratch or from an older checkpoint.
        command = "the same command" if run.train.resume == "auto" else f"{stage.name}.train.resume=auto"
        raise Interrupted(f"{command} resumes from {checkpoint}") from None
    run.accelerator.wait_for_everyone()
    run.accelerator.end_training()


def resume_or_start(stage: Stage, run: Run) -> int:
    """Restore the checkpoint that `train.resume` selects, or rename old ones for a new run; returns the first step.

    Raises:
        UserError: there is no such checkpoint, or it was made on other data or by another configuration.
    """
    checkpoint = checkpoint_to_resume(run.output_dir, stage.name, run.train.resume)
    first = 0
    if checkpoint is not None:
        progress = read_progress(checkpoint)
        if progress.data_key != run.data.key:
            raise UserError(
                f"{checkpoint} was trained on other data, codes or classes: "
                f"set {stage.name}.train.resume=never to start from scratch"
            )
        load_checkpoint(run.accelerator, stage.ema, checkpoint, stage.name)
        first = progress.step
        run.accelerator.print(f"{stage.name}: resumes from {checkpoint}")
    elif run.accelerator.is_main_process:
        set_aside(run.output_dir, stage.name)
    run.accelerator.wait_for_everyone()  # no process writes before the old checkpoints are renamed
    return first


def take_steps(stage: Stage, run: Run, log: MetricsLog, first: int) -> None:
    """Take steps `first` to `train.steps` - 1; log metrics and write checkpoints. Raises UserError."""
    train, accelerator = run.train, run.accelerator
    loader = training_loader(run, first)
    guard = NonFiniteGuard(train.max_skipped_steps)
    hidden = not accelerator.is_main_process
    bar = tqdm(loader, desc=stage.name, initial=first, total=train.steps, disable=hidden, mininterval=1)
    stage.model.train()
    for step, batch in enumerate(bar, start=first):
        # Each step has its own seed, so that a resumed run uses the random numbers of an uninterrupted one.
        torch.manual_seed(derived_seed(run.seed, step, accelerator.process_index))
        stage.set_learning_rate(learning_rate_scale(step, train))
        metrics = stage.step(batch, step)

        done = step + 1
        guard.count(bool(metrics.pop("skipped")))
        if guard.limit_reached:
            keep_weights(stage, run, done - guard.in_a_row)  # the skipped steps did not change them
            raise UserError(guard.message(stage.name, done, newest_checkpoint(run.output_dir, stage.name)))
        if done % train.log_every == 0 or done == train.steps:
            values = {name: float(value) for name, value in metrics.items()} | stage.pop_metrics()
            if guard.total:
                values["skipped_steps"] = guard.total
            log.log_metrics(done, values)
            bar.set_postfix({name: f"{value:.3f}" for name, value in values.items() if name.startswith("loss")})
        if done % train.checkpoint_every == 0 or done == train.steps:
            save(stage, run, done)


def training_loader(run: Run, first: int) -> DataLoader[Item]:
    """The batches of one process, from step `first` on. Raises UserError for a batch size that does not divide."""
    sampler = DeterministicBatchSampler(
        len(cast(Sized, run.data.train)),
        run.train.batch_size,
        run.seed,
        start_step=first,
        stop_step=run.train.steps,
        rank=run.accelerator.process_index,
        world_size=run.accelerator.num_processes,
        flip=run.data.flip,
    )
    # Not given to Accelerator.prepare: the sampler already divides the batch among the processes.
    return DataLoader(run.data.train, batch_sampler=sampler, num_workers=run.data.workers)


def save(stage: Stage, run: Run, step: int) -> None:
    """Write the checkpoint of the weights after `step` steps. All processes call this together."""
    progress = Progress(step, run.data.key)
    save_checkpoint(run.accelerator, stage.ema, run.output_dir, stage.name, progress, run.train.keep_checkpoints)


def keep_weights(stage: Stage, run: Run, step: int) -> None:
    """Write the checkpoint of the weights after `step` steps, unless one as new exists. All processes call this together."""
    newest = newest_checkpoint(run.output_dir, stage.name)
    if step > (step_of(newest) if newest else 0):
        save(stage, run, step)


def evaluate_and_export(stage: Stage, run: Run, log: MetricsLog) -> None:
    """Score the EMA weights on the validation set and write the model directory. Only the main process calls this."""
    loader = DataLoader(run.data.val, batch_size=min(100, run.train.batch_size), num_workers=run.data.workers)
    scores = stage.evaluate(loader)
    log.log_metrics(run.train.steps, {f"val_{name}": value for name, value in scores.items()})
    provenance: dict[str, object] = {
        "data_key": run.data.key,
        "data_source": run.data.source,
        "class_names": list(run.data.class_names),
        "steps": run.train.steps,
        "validation": scores,
    }
    stage.export(run.output_dir / stage.name, provenance)
    write_model_card(run.output_dir)
    plot_curves(run.output_dir / "logs", run.output_dir / "curves.png")
    run.accelerator.print(f"{stage.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))
