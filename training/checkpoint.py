"""Training checkpoints: <output_dir>/checkpoints/<stage>/step-N holds everything that resuming needs."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from common.errors import UserError, shorten
from common.files import empty_temporary_directory, install_directory, temporary_path
from common.weights import first_misfit, read_header, read_tensors

EMA_FILE = "ema.safetensors"


@dataclass(frozen=True)
class Progress:
    """The content of a checkpoint's progress.json.

    Attributes:
        step: number of steps taken.
        data_key: names the training data; it changes with the data.
    """

    step: int
    data_key: str


def checkpoint_folder(output_dir: Path, stage: str) -> Path:
    """The folder of a stage's checkpoints; each checkpoint is a folder `step-N` in it."""
    return output_dir / "checkpoints" / stage


def step_of(checkpoint: Path) -> int:
    """The N of a folder `step-N`."""
    return int(checkpoint.name.removeprefix("step-"))


def list_checkpoints(output_dir: Path, stage: str) -> list[Path]:
    """The complete checkpoints, the oldest first.

    A checkpoint that is being written has a temporary name and is left out, so is a folder that a user has renamed.
    """
    found = [
        path
        for path in checkpoint_folder(output_dir, stage).glob("step-*")
        if path.name.removeprefix("step-").isdecimal() and (path / "progress.json").is_file()
    ]
    return sorted(found, key=step_of)


def newest_checkpoint(output_dir: Path, stage: str) -> Path | None:
    """The complete checkpoint with the highest step, or None."""
    return next(reversed(list_checkpoints(output_dir, stage)), None)


def checkpoint_to_resume(output_dir: Path, stage: str, resume: str) -> Path | None:
    """The checkpoint that `<stage>.train.resume` selects: "auto" the newest, "never" none, else the folder of that name.

    Raises:
        UserError: there is no such folder.
    """
    if resume == "never":
        return None
    if resume == "auto":
        return newest_checkpoint(output_dir, stage)
    checkpoint = Path(os.path.expanduser(resume))
    if not checkpoint.is_dir():
        folder = checkpoint_folder(output_dir, stage)
        raise UserError(f"no checkpoint {checkpoint}: {stage}.train.resume is auto, never or a folder in {folder}")
    return checkpoint


def save_checkpoint(
    accelerator: Accelerator, ema: AveragedModel, output_dir: Path, stage: str, progress: Progress, keep: int
) -> None:
    """Write `step-N` with the random state of every process, then delete all but the newest `keep` checkpoints.

    All processes call this together. An interruption leaves the older checkpoints complete.
    """
    target = checkpoint_folder(output_dir, stage) / f"step-{progress.step}"
    if accelerator.is_main_process:
        empty_temporary_directory(target)
    accelerator.wait_for_everyone()
    part = temporary_path(target)
    accelerator.save_state(str(part))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        save_file({name: value.contiguous() for name, value in ema.state_dict().items()}, part / EMA_FILE)
        (part / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
        install_directory(target)
        for old in list_checkpoints(output_dir, stage)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def set_aside(output_dir: Path, stage: str) -> None:
    """Rename the folder of checkpoints to `<stage>-replaced-N`, so that a new run starts without them and none is lost."""
    folder = checkpoint_folder(output_dir, stage)
    if not folder.exists():
        return
    number = 1
    while (kept := folder.with_name(f"{folder.name}-replaced-{number}")).exists():
        number += 1
    folder.rename(kept)


def read_progress(checkpoint: Path) -> Progress:
    """The progress of a checkpoint. Raises UserError for a folder that is not a checkpoint."""
    try:
        stored = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
        return Progress(int(stored["step"]), str(stored["data_key"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{checkpoint} is not a checkpoint (no readable progress.json): name a step-N folder"
        ) from error


def load_checkpoint(accelerator: Accelerator, ema: AveragedModel, checkpoint: Path, stage: str) -> None:
    """Restore models, optimizers, random states and the EMA weights of `stage`.

    Raises:
        UserError: the checkpoint is damaged, or belongs to another configuration; names the first tensor that differs.
    """
    try:
        # The EMA weights have the names and shapes of the network: they show what differs before anything is restored.
        what = first_misfit(ema, read_header(checkpoint / EMA_FILE))
        if what:
            raise ValueError(what)
        accelerator.load_state(str(checkpoint))
        ema.load_state_dict(read_tensors(checkpoint / EMA_FILE))
    except (
        RuntimeError,
        ValueError,
        KeyError,
        OSError,
        EOFError,
        UnpicklingError,
        SafetensorError,
        UserError,
    ) as error:
        raise UserError(
            f"checkpoint {checkpoint} is damaged or does not fit this configuration ({first_reason(error)}): "
            f"set output_dir to another folder, or {stage}.train.resume=never to start from scratch"
        ) from error


def first_reason(error: Exception) -> str:
    """The message of an error in one line; of PyTorch's list of all tensors that do not fit, the first one."""
    heading, *reasons = str(error).strip().splitlines() or [""]
    text = reasons[0] if reasons and heading.startswith("Error(s) in loading state_dict") else str(error)
    return shorten(text) or type(error).__name__
