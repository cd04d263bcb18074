"""DIR/README.md: the model card that the Hugging Face Hub shows, written anew after every stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.files import write_text


def write_model_card(directory: Path) -> None:
    """Describe the stages that `directory` holds: what they are, what they were trained on, what they score."""
    stages = {
        name: json.loads((directory / name / "config.json").read_text(encoding="utf-8"))
        for name in ("tokenizer", "prior")
        if (directory / name / "config.json").is_file()
    }
    write_text(directory / "README.md", model_card(directory.name, stages))


def model_card(name: str, stages: dict[str, dict[str, Any]]) -> str:
    """The card's text. `stages`: what the config.json of "tokenizer" and "prior" hold, where they exist."""
    lines = [
        "---",
        "library_name: smalti",
        "pipeline_tag: unconditional-image-generation",
        "tags: [vq-gan, sedd]",
        "---",
    ]
    lines += [
        f"# {name}",
        "",
        "A model of smalti: a VQ-GAN tokenizer and a score-entropy discrete diffusion prior.",
        "",
    ]
    for stage, config in stages.items():
        lines += [f"## {stage}", "", "| | |", "|---|---|"]
        hidden = ("validation", "held_out", "data_key")
        lines += [f"| {key} | {_cell(value)} |" for key, value in config.items() if key not in hidden]
        scores = config.get("validation", config.get("held_out", {}))  # "held_out" in models of an older version
        lines += ["", "On validation images:", "", "| score | value |", "|---|---|"]
        lines += [f"| {score} | {value:.4g} |" for score, value in scores.items()] + [""]
    if "prior" in stages:
        lines += ["## Use", "", f"    python sample.py grid --model {name} --out grid.png", ""]
    lines += ["The weights are safetensors; nothing here is unpickled.", ""]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    return (text if len(text) <= 200 else text[:197] + "...").replace("|", "\\|")
