"""What the README tells people to type is run, on a tiny model."""

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
from common.errors import run_cli
from tests.tiny import TINY

PROGRAMS = {"train.py": train.main, "sample.py": sample.main, "evaluate.py": evaluate.main}
README = Path("README.md").read_text(encoding="utf-8")
CODE = "\n".join(line[4:] for line in README.splitlines() if line.startswith("    "))


def test_commands(tmp_path, monkeypatch):
    served = []
    monkeypatch.setitem(sys.modules, "app.server", SimpleNamespace(serve=lambda model, **where: served.append(where)))
    images = tmp_path / "given"
    images.mkdir()
    for index in range(12):
        noise = np.random.default_rng(index).integers(0, 256, (70, 64, 3), np.uint8)
        Image.fromarray(noise).save(images / f"{index}.png")
    commands = re.findall(r"^python (\S+\.py) (.*)$", CODE.replace("\\\n", " "), flags=re.MULTILINE)
    assert len(commands) >= 8
    for program, rest in commands:
        arguments = [
            word.replace("runs/", f"{tmp_path}/runs/").replace("IMAGES", str(images)) for word in shlex.split(rest)
        ]
        if program == "train.py":
            where = [] if "output_dir=" in rest else [f"output_dir={tmp_path}/runs/mnist"]
            arguments += [*where, *TINY, "tokenizer.train.batch_size=4", "prior.train.batch_size=4"]
        for flag in ("--out", "--images-dir", "--trajectory"):
            if flag in arguments:
                out = arguments.index(flag) + 1
                arguments[out] = str(tmp_path / arguments[out])
        if "--out" in arguments:
            out = arguments.index("--out") + 1
        assert run_cli(PROGRAMS[program], arguments) == 0, (program, arguments)
        assert "--out" not in arguments or Path(arguments[out]).stat().st_size > 100
    assert served == [{"host": "127.0.0.1", "port": 7860}]


def test_snippets_and_links(tiny_run):
    snippet = CODE[CODE.index("from diffusion.pipeline") :].split("\n\n")[0].splitlines()[:3]
    names: dict = {}
    exec("\n".join(snippet).replace("runs/mnist", str(tiny_run)), names)
    assert len(names["images"]) == 16 and names["images"][0].size == (32, 32)
    snippet = CODE[CODE.index("from vq.tokenizer") :].splitlines()[:4]
    names = {"images": torch.rand(2, 1, 30, 45) * 2 - 1}
    exec("\n".join(snippet).replace("runs/mnist", str(tiny_run)), names)
    assert names["decoded"].shape == names["images"].shape and names["codes"].shape == (2, 8, 12)
    for link in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert Path(link).exists(), link
