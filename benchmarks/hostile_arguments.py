"""Hostile command lines, made from the parsers themselves: every option of every command, with values of every kind."""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

from PIL import Image

import evaluate
import sample
from benchmarks.hostile_case import Case
from common.errors import ArgumentParser

INTS = ("-1", "0", "1", "2", "3", "7", "1000000000", "1" + "0" * 30, "9" * 5000, "1e3", "1.5", "abc", "", "0x10", "1_0",
        "\u0663", " 2", "+2", "-", "\x1b[31m")  # fmt: skip
FLOATS = ("nan", "inf", "-inf", "-1", "0", "0.3", "1", "1.5", "1e400", "1e-320", "-0", "abc", "", "1,5", "\x1b[31m")
TEXTS = ("", "0", "3", "-1", "none", "random", "tweedie", "halton", "first_hitting", "cosine", "a=b", "=", "eta=1", "churn=0.5",
         "churn=nan", "corrections=-1", "theta=inf", "\x1b[31mred", "\u00e9\u200b\u202e", "\udcff", "x" * 5000, "a\nb",
         "1" + "0" * 30)  # fmt: skip
SIZES = ("32x32", "40x33", "4x4", "3x3", "0x0", "-4x8", "99999x99999", "1000000000x4", "64", "x", "1x2x3", "axb", "")
BOXES = (
    "0,0,8,8",
    "4,4,5,5",
    "0,0,32,32",
    "0,0,0,0",
    "-1,0,4,4",
    "8,8,4,4",
    "0,0,999,9",
    "a,b,c,d",
    "1,2,3",
    "",
    "1.5,0,4,4",
)
# Commands that end only when they are stopped.
ENDLESS = ("app",)
ALWAYS = ("out", "model", "n", "num_inference_steps")  # options that are mostly given, because defaults take long
OUTPUTS = ("out", "trajectory")


def prepare(folder: Path) -> None:
    """Write the inputs that command lines name: images, a mask, and a folder of reference images."""
    Image.linear_gradient("L").resize((32, 32)).save(folder / "in.png")
    Image.radial_gradient("L").resize((32, 32)).save(folder / "other.png")
    Image.new("L", (32, 32), 255).crop((0, 0, 32, 32)).save(folder / "mask.png")
    (folder / "text.png").write_text("no image")
    (folder / "reference").mkdir()
    for index in range(4):
        Image.new("L", (32, 32), 60 * index).save(folder / f"reference/{index}.png")


def paths(folder: Path) -> tuple[str, ...]:
    """Paths of every kind, for inputs and outputs."""
    inputs = [
        str(folder / name) for name in ("in.png", "other.png", "mask.png", "text.png", "reference", "nowhere.png")
    ]
    outputs = [str(folder / name) for name in ("new/x.png", "in.png/x.png", "x" * 300 + ".png", "x.jpg", "\x1b[31m.png",
                                               "\udcff.png", ".png", "reference/0.png", "x.gif", "x.json")]  # fmt: skip
    return (*inputs, *outputs, "", "/dev/null", "/dev/null/x.png", "/proc/x.png", str(folder))


def commands() -> dict[str, tuple[str, ArgumentParser]]:
    """Name of a command -> its program and its parser."""
    subparsers = next(
        action for action in sample.build_parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    found = {name: ("sample.py", parser) for name, parser in subparsers.choices.items() if name not in ENDLESS}
    return {**found, "evaluate": ("evaluate.py", evaluate.build_parser())}


def hostile_command(rng: Random, model: Path, folder: Path) -> Case:
    """A command line whose required options are mostly right, with up to four others."""
    prepare(folder)
    name = rng.choice(sorted(commands()))
    program, parser = commands()[name]
    actions = [action for action in parser._actions if action.option_strings and action.dest != "help"]
    always = [action for action in actions if action.required or action.dest in ALWAYS]
    others = [action for action in actions if action not in always]
    chosen = [*always, *rng.sample(others, min(len(others), rng.choice((0, 0, 1, 1, 2, 4))))]
    good, out = good_values(model, folder, name), None
    outputs: set[Path] = set()
    inputs: set[Path] = set()
    arguments = [] if name == "evaluate" else [name]
    for action in chosen:
        wanted = good.get(action.dest)
        right = wanted is not None and rng.random() < 0.93
        values = [wanted] if right and wanted else hostile_values(rng, action, folder)
        if rng.random() < 0.03 and action.dest not in ALWAYS:
            continue
        (outputs if action.dest in OUTPUTS else inputs).update(map(Path, values))
        if action.dest == "out" and right:
            out = folder / Path(values[0]).name
        arguments += [rng.choice(action.option_strings), *values]
    if rng.random() < 0.05:
        arguments.append(rng.choice(("--widht=3", "extra", "--", "-x", "--help=1")))
    if "--images-dir" in arguments:  # a billion images in a folder are a long run, not a mistake
        arguments = ["5" if text == "1000000000" else text for text in arguments]
    return Case(
        f"{name} {' '.join(arguments)[:200]!r}", program, arguments, out, replaceable=frozenset(outputs - inputs)
    )


def good_values(model: Path, folder: Path, name: str) -> dict[str, str]:
    """Values that fit, for the options that most command lines should give rightly; few steps and samples are fast."""
    out = "out.json" if name == "evaluate" else "out.png"
    return {
        "model": str(model), "out": str(folder / out), "image": str(folder / "in.png"), "other": str(folder / "other.png"),
        "reference": str(folder / "reference"), "num_inference_steps": "2", "n": "3", "images_dir": str(folder / "images"),
        "trajectory": str(folder / "t.gif"), "box": "0,0,8,8", "mask": str(folder / "mask.png"),
    }  # fmt: skip


def hostile_values(rng: Random, action: argparse.Action, folder: Path) -> list[str]:
    """Values of an option, of the kind that it asks for or of another kind."""
    if action.nargs == 0:
        return []
    pools = {int: INTS, float: FLOATS, Path: paths(folder), str: TEXTS, None: TEXTS}
    pool = pools.get(action.type, TEXTS)  # type: ignore[call-overload]
    if action.dest in ("size", "box"):
        pool = SIZES if action.dest == "size" else BOXES
    if action.dest == "num_inference_steps":
        pool = tuple(text for text in INTS if text != "7")
    if rng.random() < 0.05:
        pool = TEXTS
    count = {"+": rng.randint(1, 3), 2: 2}.get(action.nargs or 1, 1)
    return [rng.choice(pool) for _ in range(count)]
