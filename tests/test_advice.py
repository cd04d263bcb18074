"""Configuration keys and flags that messages and help texts name exist."""

import ast
import re
from pathlib import Path

import pytest

import evaluate
import sample
from common.config import load_config
from common.errors import UserError
from training.run import RunConfig
from vq import pretrained

PACKAGES = ("common", "images", "vq", "diffusion", "generation", "evaluation", "training", "app")
SOURCES = [file for package in PACKAGES for file in sorted(Path(package).glob("*.py"))]
SOURCES += [Path(name) for name in ("train.py", "sample.py", "evaluate.py")]
# `a.b=`: a key of the configuration; <> stands for what a message inserts, such as the stage
KEY = re.compile(r"(?<![\w.])((?:\w+|<\w*>)(?:\.\w+)+)=(?!=)")
FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z-]*)")
OTHERS = {
    "--config",
    "--nproc_per_node",
    "--allow-host",
    "--version",
}  # of train.py, torchrun, and of argparse's own making


def texts(file):
    """(line, text) of each text in a source file but docstrings; <> stands for the values inserted into it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    inside |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "<>" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def found(pattern):
    """(what the pattern matches, file and line) in the sources; section.key stands for any key."""
    return sorted({(match[1], f"{file}:{line}") for file in SOURCES for line, text in texts(file)
                   for match in pattern.finditer(text) if match[1] != "section.key"})  # fmt: skip


def key_exists(key):
    """Whether load_config knows `key`; a wrong type or value is no matter."""
    try:
        load_config(RunConfig, "configs/mnist.yaml", [f"{key}=1"])
    except UserError as error:
        return "unknown configuration key" not in str(error)
    return True


def known_flags():
    parsers = [sample.build_parser(), evaluate.build_parser(), pretrained.build_parser()]
    subparsers = [sub for action in parsers[0]._actions if isinstance(action.choices, dict)
                  for sub in action.choices.values()]  # fmt: skip
    return OTHERS.union(*(parser._option_string_actions for parser in [*parsers, *subparsers]))


def test_keys_and_flags_are_recognised():
    assert KEY.findall("set data.image_size=32, or <>.train.resume=never; x == y.z==3") == [
        "data.image_size",
        "<>.train.resume",
    ]
    assert FLAG.findall("give --images-dir DIR, --n; a-b --") == ["--images-dir", "--n"]
    assert not key_exists("train.resume") and key_exists("prior.train.resume") and key_exists("prior.width")
    assert len(found(KEY)) > 8 and len(found(FLAG)) > 20


@pytest.mark.parametrize(("key", "place"), found(KEY))
def test_a_key_in_a_message_is_one_of_the_configuration(key, place):
    for stage in ("tokenizer", "prior") if key.startswith("<") else ("",):
        assert key_exists(re.sub("<.*>", stage, key)), place


def test_flags_in_messages_exist():
    known = known_flags()
    assert [(flag, place) for flag, place in found(FLAG) if flag not in known] == []
