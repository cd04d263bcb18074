"""A tiny model directory, trained for a few steps by the real command lines."""

from pathlib import Path

import pytest
import torch

import train
from common.errors import run_cli
from tests.tiny import TINY


@pytest.fixture(autouse=True)
def two_threads():
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    for stage in ("tokenizer", "prior"):
        assert run_cli(train.main, [stage, "--config", "configs/mnist.yaml", f"output_dir={folder}", *TINY]) == 0
    return folder
