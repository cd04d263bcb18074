"""A tiny model directory, trained for a few steps by the real command lines."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch

import train
from common.errors import run_cli
from tests.tiny import TINY


@pytest.fixture(autouse=True)
def two_threads():
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
    """Tests do the same with a network and without."""

    def fail(*args, **kwargs):
        raise URLError("tests do not download")

    monkeypatch.setattr(torch.hub, "urlopen", fail)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    for stage in ("tokenizer", "prior"):
        assert run_cli(train.main, [stage, "--config", "configs/mnist.yaml", f"output_dir={folder}", *TINY]) == 0
    return folder
