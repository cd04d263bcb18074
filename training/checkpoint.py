"""Training checkpoints: <output_dir>/checkpoints/<stage>/step-N, what resuming needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

from common.errors import UserError
from common.files import empty_temporary_directory, install_directory, temporary_path
from common.model_dir import load_weights

Progress = Mapping[str, int | str]  # what the loop records with a checkpoint: `step` and `data_key`


def checkpoint_folder(output_dir: Path, stage: str) -> Path:
    """Where a stage keeps its checkpoints: one folder `step-N` each."""
    return output_dir / "checkpoints" / stage


def step_of(checkpoint: Path) -> int:
    """The N of a folder `step-N`."""
    return int(checkpoint.name.removeprefix("step-"))


def newest_checkpoint(output_dir: Path, stage: str) -> Path | None:
    """The complete checkpoint with the highest step; half-written ones have temporary names and are not seen."""
    found = [path for path in checkpoint_folder(output_dir, stage).glob("step-*") if (path / "progress.json").is_file()]
    return max(found, key=step_of, default=None)


def save_checkpoint(
    accelerator: Accelerator, ema: AveragedModel, output_dir: Path, stage: str, progress: Progress, keep: int
) -> None:
    """Write `step-N` with every process's random state; keep the newest `keep`. All processes call this together."""
    folder = checkpoint_folder(output_dir, stage)
    target = folder / f"step-{progress['step']}"
    if accelerator.is_main_process:
        empty_temporary_directory(target)
    accelerator.wait_for_everyone()
    part = temporary_path(target)
    accelerator.save_state(str(part))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        save_file({name: value.contiguous() for name, value in ema.state_dict().items()}, part / "ema.safetensors")
        (part / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
        install_directory(target)
        for old in sorted(folder.glob("step-*"), key=step_of)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def set_aside(output_dir: Path, stage: str) -> None:
    """Rename the stage's checkpoints to `<stage>-replaced-N`, so that a new run begins without them and loses none."""
    folder = checkpoint_folder(output_dir, stage)
    if not folder.exists():
        return
    number = 1
    while (kept := folder.with_name(f"{folder.name}-replaced-{number}")).exists():
        number += 1
    folder.rename(kept)


def read_progress(checkpoint: Path) -> dict[str, int | str]:
    """What the loop recorded with a checkpoint: at least its `step`. Raises UserError for a folder that is none."""
    try:
        return dict(json.loads((checkpoint / "progress.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{checkpoint} is not a checkpoint (no readable progress.json): name a step-N folder"
        ) from error


def load_checkpoint(accelerator: Accelerator, ema: AveragedModel, checkpoint: Path) -> None:
    """Restore models, optimizers, random states and the moving average. Raises UserError for one of another shape."""
    try:
        accelerator.load_state(str(checkpoint))
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"checkpoint {checkpoint} does not fit this configuration ({reason}): "
            "set output_dir to another folder, or train.resume=never to start anew"
        ) from error
    load_weights(ema, load_file(checkpoint / "ema.safetensors"), checkpoint / "ema.safetensors")
