"""DIR/README.md: the model card that the Hugging Face Hub shows, written again after every stage."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from common.files import write_text
from common.model_dir import CONFIG_FILE

HEADER = """\
---
library_name: smalti
pipeline_tag: unconditional-image-generation
tags: [vq-gan, sedd]
---
"""
SCORES = ("validation", "held_out")  # keys of the validation scores; models written by older versions have the second
HIDDEN = (*SCORES, "data_key")  # keys without a row in the table of settings
Stages = Mapping[str, Mapping[str, object]]


def write_model_card(directory: Path) -> None:
    """Write `directory`/README.md: a description of the stages, their settings, and their validation scores."""
    stages = {
        name: json.loads((directory / name / CONFIG_FILE).read_text(encoding="utf-8"))
        for name in ("tokenizer", "prior")
        if (directory / name / CONFIG_FILE).is_file()
    }
    write_text(directory / "README.md", model_card(directory, stages))


def model_card(directory: Path, stages: Stages) -> str:
    """The text of the card of the model in `directory`.

    Args:
        stages: the content of config.json of "tokenizer" and "prior", where they exist.
    """
    lines = [
        HEADER + f"# {directory.resolve().name}",
        "",
        "A model of smalti: a VQ-GAN tokenizer and a score-entropy discrete diffusion prior.",
        "",
    ]
    for stage, config in stages.items():
        lines += [f"## {stage.capitalize()}", "", "### Settings", "", "| key | value |", "|---|---|"]
        lines += [f"| {key} | {_cell(value)} |" for key, value in config.items() if key not in HIDDEN]
        scores = _scores(config)
        if scores:
            lines += ["", "### Scores on validation images", "", "| score | value |", "|---|---|"]
            lines += [f"| {score} | {value:.4g} |" for score, value in scores.items()]
        lines += [""]
    if "prior" in stages:
        command = f"python sample.py grid --model {shlex.quote(_usable_path(directory))} --out grid.png"
        lines += ["## Use", "", "In the folder of smalti:", "", f"    {command}", ""]
        lines += ["After an upload to the Hugging Face Hub: `--model hf:OWNER/NAME`, from any machine.", ""]
    lines += ["The weights are safetensors files. Loading them runs no pickle.", ""]
    return "\n".join(lines)


def _usable_path(directory: Path) -> str:
    """A path that works where training was started: relative inside that folder, else absolute."""
    absolute, here = directory.resolve(), Path.cwd()
    return (absolute.relative_to(here) if absolute.is_relative_to(here) else absolute).as_posix()


def _scores(config: Mapping[str, object]) -> dict[str, float]:
    found = next((config[key] for key in SCORES if key in config), {})
    named = found.items() if isinstance(found, Mapping) else ()
    return {name: value for name, value in named if isinstance(value, (int, float))}


def _cell(value: object) -> str:
    text = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    return (text if len(text) <= 200 else text[:197] + "...").replace("|", "\\|")
