"""No command of sample.py overwrites what it reads; names of files and classes reach the terminal escaped."""

import os

import numpy as np
import pytest
from PIL import Image

import sample
from common.errors import run_cli

EDITING = {
    "inpaint": ["--box", "0,0,8,8"],
    "outpaint": ["--right", "8"],
    "vary": [],
    "morph": ["--other", "other.png"],
    "reconstruct": [],
}


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """A folder with two images and a mask, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("in", "other", "mask"):
        Image.fromarray(np.full((32, 32), 255, np.uint8)).save(f"{name}.png")
    (tmp_path / "folder").mkdir()
    return tmp_path


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def refused(inputs, capfd, *arguments):
    """The line of a command that is refused and leaves the inputs as they are. No model is needed for that."""
    before = content(inputs)
    assert run_cli(sample.main, [arguments[0], "--model", "nowhere", *arguments[1:]]) == 2
    assert content(inputs) == before
    (line,) = capfd.readouterr().err.splitlines()
    return line


ALIASES = {
    "the same name": lambda: "in.png",
    "another way": lambda: os.path.abspath("folder/../in.png"),
    "a symbolic link": lambda: os.symlink("in.png", "out.png"),
    "a hard link": lambda: os.link("in.png", "out.png"),
    "a link of a folder": lambda: os.symlink(".", "again") or "again/in.png",
}


@pytest.mark.parametrize("command", EDITING)
@pytest.mark.parametrize("alias", ALIASES.values(), ids=ALIASES)
def test_an_image_is_never_overwritten(inputs, capfd, command, alias):
    out = alias() or "out.png"
    line = refused(inputs, capfd, command, "--image", "in.png", "--out", out, *EDITING[command])
    assert line == f"error: --out {out} would overwrite --image in.png: choose another --out"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("inpaint --image in.png --mask mask.png --out mask.png", "overwrite --mask"),
        ("morph --image in.png --other other.png --out other.png", "overwrite --other"),
        ("vary --image in.png --out MODEL/prior/out.png", "lies in the folder prior of the model"),
        ("reconstruct --image in.png --out MODEL/tokenizer/out.png", "lies in the folder tokenizer"),
        ("grid --out MODEL/checkpoints/x/out.png", "lies in the folder checkpoints"),
        ("grid --out out.png --trajectory MODEL/prior/out.gif", "--trajectory"),
        ("grid --images-dir MODEL/codes", "--images-dir"),
        ("vary --image in.png --out all/000001.png --images-dir all", "one of the images in --images-dir"),
    ],
)
def test_nothing_that_is_read_or_belongs_to_the_model_is_overwritten(inputs, capfd, arguments, message):
    for folder in ("prior", "tokenizer", "checkpoints", "codes"):
        (inputs / "nowhere" / folder).mkdir(parents=True)
    assert message in refused(inputs, capfd, *arguments.replace("MODEL", "nowhere").split())
    assert not [*(inputs / "nowhere").rglob("*.*")]


@pytest.mark.parametrize(("number", "refuses"), [(0, True), (2, True), (3, False)])
def test_a_numbered_image_is_not_overwritten_by_a_variant(inputs, capfd, number, refuses):
    image = inputs / f"{number:06d}.png"
    os.rename("in.png", image)
    arguments = ["vary", "--image", image.name, "--out", "out.png", "--images-dir", ".", "--n", "3"]
    line = refused(inputs, capfd, *arguments)
    assert ("would overwrite --image" in line) == refuses
    assert ("no model directory" in line) == (not refuses)


def test_the_temporary_file_of_an_output_is_no_input_either(inputs, capfd):
    os.rename("in.png", ".out.png.partial")
    line = refused(inputs, capfd, "vary", "--image", ".out.png.partial", "--out", "out.png")
    assert "would overwrite --image" in line
