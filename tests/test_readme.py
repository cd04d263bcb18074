"""The README's commands and Python snippets run, on a tiny model."""

import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

import evaluate
import sample
import train
from common import export
from common.errors import run_cli
from tests.tiny import TINY

PROGRAMS = {
    "train.py": train.main,
    "sample.py": sample.main,
    "evaluate.py": evaluate.main,
    "-m common.export": export.main,
}
README = Path("README.md").read_text(encoding="utf-8")
CODE = "\n".join(line[4:] if line.startswith("    ") else "" for line in README.splitlines())
SECTIONS = [
    "Installation", "Quick start", "Training", "Sampling", "Inpainting", "Evaluation", "Python API", "Configuration",
    "Project layout", "Citation", "License",
]  # fmt: skip


def snippet(start: str) -> str:
    """The block of code from the line `start` on."""
    return CODE[CODE.index(start) :].split("\n\n")[0]


def test_sections_and_line_length():
    assert re.findall(r"^## (.*)$", README, flags=re.MULTILINE) == SECTIONS
    assert [line for line in README.splitlines() if len(line) > 120] == []


def test_commands(tmp_path, monkeypatch):
    served = []
    monkeypatch.setitem(sys.modules, "app.server", SimpleNamespace(serve=lambda model, **where: served.append(where)))
    images = tmp_path / "given"
    images.mkdir()
    for index in range(12):
        noise = np.random.default_rng(index).integers(0, 256, (70, 64, 3), np.uint8)
        Image.fromarray(noise).save(images / f"{index}.png")
    commands = re.findall(r"^python (\S+\.py|-m common\.export) (.*)$", CODE.replace("\\\n", " "), flags=re.MULTILINE)
    assert len(commands) >= 8
    assert {program for program, _ in commands} == set(PROGRAMS)
    for program, rest in commands:
        arguments = [
            re.sub("^(output_dir=)?(runs|exported)/", rf"\1{tmp_path}/\2/", word).replace("IMAGES", str(images))
            for word in shlex.split(rest)
        ]
        if program == "train.py":
            name = Path(arguments[arguments.index("--config") + 1]).stem  # of the configuration's output_dir
            where = [] if "output_dir=" in rest else [f"output_dir={tmp_path}/runs/{name}"]
            for stage in ("tokenizer", "prior"):  # a process has one precision for all of its runs
                where += [f"{stage}.train.batch_size=4", f"{stage}.train.mixed_precision=no"]
            arguments += [*TINY, *where]
        for flag, fewer in (("--num-images", "20"), ("--steps", "4")):  # the same commands in less time
            if flag in arguments:
                arguments[arguments.index(flag) + 1] = fewer
        for flag in ("--out", "--images-dir", "--trajectory"):
            if flag in arguments:
                out = arguments.index(flag) + 1
                arguments[out] = str(tmp_path / arguments[out])
        if "--out" in arguments:
            out = arguments.index("--out") + 1
        assert run_cli(PROGRAMS[program], arguments) == 0, (program, arguments)
        assert "--out" not in arguments or Path(arguments[out]).stat().st_size > 100
    assert served == [{"host": "127.0.0.1", "port": 7860, "allowed": []}]
    assert (tmp_path / "exported/mnist/prior/generation.json").is_file()


def test_snippet_of_the_generator(tiny_run):
    names: dict = {}
    exec(snippet("from PIL import Image").replace("runs/mnist", str(tiny_run)), names)
    made = {name: len(names[name]) for name in ("images", "variants", "wider", "varied", "between")}
    assert made == {"images": 16, "variants": 4, "wider": 1, "varied": 4, "between": 8}
    assert names["images"][0].size == (32, 32)
    assert names["wider"][0].size == (48, 32)
    assert names["gen"].settings(sampler="maskgit", top_p=0.9).top_p == 0.9


def test_snippet_of_the_tokenizer(tiny_run):
    names = {"images": torch.rand(2, 1, 30, 45) * 2 - 1}
    exec(snippet("from vq.tokenizer").replace("runs/mnist", str(tiny_run)), names)
    assert names["decoded"].shape == names["images"].shape
    assert names["codes"].shape == (2, 8, 12)


def test_links():
    missing = [link for link in re.findall(r"\]\(([^)h][^)]*)\)", README) if not Path(link).exists()]
    assert missing == []
