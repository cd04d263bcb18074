"""Model directories and training checkpoints: written beside and renamed, safetensors and JSON, no foreign pickle."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from common.errors import ArgumentParser, UserError, run_cli


def write_text(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either its old content or all of the new. Parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def replace_directory(target: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a folder beside `target`, then put it in its place; on failure `target` is untouched."""
    beside, old = target.with_name(f".{target.name}.partial"), target.with_name(f".{target.name}.old")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        fill(beside)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    beside.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def save_model(directory: Path, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write `directory`/config.json and model.safetensors together."""

    def fill(beside: Path) -> None:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in state.items()}, beside / "model.safetensors"
        )
        (beside / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    replace_directory(directory, fill)


def read_model(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of a directory that `save_model` wrote. Raises UserError where either is missing or broken."""
    for name in ("config.json", "model.safetensors"):
        if not (directory / name).is_file():
            raise UserError(
                f"{directory} holds no trained {directory.name} ({name} is missing): "
                f"train it with 'python train.py {directory.name} --config ...', or check the path"
            )
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        state = load_file(directory / "model.safetensors")
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise UserError(f"{directory} is damaged ({error}): copy or train it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{directory / 'config.json'} is damaged (not an object): copy or train it again")
    return config, state


def copy_model(source: str | Path, target: Path, dtype: torch.dtype = torch.float16) -> None:
    """Copy a model, or what there is of it, with its floats in `dtype`: half as large in float16, and read as before.

    `python -m common.checkpoint SOURCE TARGET` does it. Raises UserError where nothing is, and where `target` exists.
    """
    from common.model_card import write_model_card

    directory = model_directory(source)
    parts = [part for part in ("tokenizer", "prior") if (directory / part / "config.json").is_file()]
    if not parts:
        raise UserError(f"{source} holds neither a tokenizer nor a prior: give the output_dir of a training run")
    if target.exists():
        raise UserError(f"{target} exists: choose another folder")
    for part in parts:
        config, state = read_model(directory / part)
        rounded = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
        save_model(target / part, rounded, config)
    write_model_card(target)


def model_directory(model: str | Path, parts: Sequence[str] = ("tokenizer", "prior")) -> Path:
    """The folder of `model`: itself, or for "hf:owner/name" a copy of that repository's `parts` and of a model at its root.

    Raises UserError where there is none.
    """
    if not str(model).startswith("hf:"):
        if not Path(model).is_dir():
            raise UserError(f"no model directory {model}: give the output_dir of a training run, or hf:owner/name")
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository = str(model).removeprefix("hf:")
    patterns = [
        f"{part}{name}" for part in ("", *(f"{p}/" for p in parts)) for name in ("config.json", "model.safetensors")
    ]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot fetch {model} ({reason}): check the name and the network, or give a folder") from error


def load_weights(module: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Load `state` strictly. Raises UserError naming the first key or shape that does not fit."""
    own = module.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in state or name not in own:
            where = "missing from" if name not in state else "unknown in"
            raise UserError(
                f"{source} does not fit this model: '{name}' is {where} it; is config.json from another run?"
            )
        if own[name].shape != state[name].shape:
            raise UserError(
                f"{source} does not fit this model: '{name}' has shape {list(state[name].shape)}, "
                f"wanted {list(own[name].shape)}; set output_dir to another folder or train.resume=never"
            )
    module.load_state_dict(state)


def warm_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Moving average with decay min(decay, (1 + n) / (10 + n)) after n updates, so that early steps are forgotten.

    Buffers are copied, not averaged: the quantizer keeps its codebook there, which is an average already.
    """

    @torch.no_grad()
    def average(averaged: Any, current: Any, updates: Any) -> None:
        n = float(updates)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(model, multi_avg_fn=average, use_buffers=False)


def checkpoint_folder(output_dir: Path, stage: str) -> Path:
    """Where a stage keeps its checkpoints: one folder `step-N` each."""
    return output_dir / "checkpoints" / stage


def newest_checkpoint(output_dir: Path, stage: str) -> Path | None:
    """The whole checkpoint with the highest step; half-written ones have other names and are not seen."""
    found = [path for path in checkpoint_folder(output_dir, stage).glob("step-*") if (path / "progress.json").is_file()]
    return max(found, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def save_checkpoint(
    accelerator: Accelerator, ema: AveragedModel, output_dir: Path, stage: str, progress: dict[str, Any], keep: int
) -> None:
    """Write `step-N` with every process's random state; keep the newest `keep`. All processes call this together."""
    folder = checkpoint_folder(output_dir, stage)
    target = folder / f"step-{progress['step']}"
    beside = folder / f".step-{progress['step']}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(beside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        save_file({name: value.contiguous() for name, value in ema.state_dict().items()}, beside / "ema.safetensors")
        (beside / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        beside.rename(target)
        steps = sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
        for old in steps[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """What the loop noted beside a checkpoint: at least its `step`. Raises UserError for a folder that is none."""
    try:
        return dict(json.loads((checkpoint / "progress.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{checkpoint} is not a checkpoint (no readable progress.json): name a step-N folder"
        ) from error


def load_checkpoint(accelerator: Accelerator, ema: AveragedModel, checkpoint: Path) -> None:
    """Put models, optimizers, random states and the moving average back. Raises UserError for one of another shape."""
    try:
        accelerator.load_state(str(checkpoint))
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"checkpoint {checkpoint} does not fit this configuration ({reason}): "
            "set output_dir to another folder, or train.resume=never to start anew"
        ) from error
    load_weights(ema, load_file(checkpoint / "ema.safetensors"), checkpoint / "ema.safetensors")


def main(argv: Sequence[str]) -> None:
    """Copy a model with its weights in half precision."""
    parser = ArgumentParser(prog="python -m common.checkpoint", description=main.__doc__)
    parser.add_argument("source", help="a model directory, or hf:owner/name")
    parser.add_argument("target", type=Path, help="where to write the copy")
    args = parser.parse_args(argv)
    copy_model(args.source, args.target)
    print(args.target)


if __name__ == "__main__":
    sys.exit(run_cli(main))
