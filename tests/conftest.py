"""A tiny model directory, trained for a few steps by the real command lines."""

import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

import train
from common.errors import run_cli
from common.model_dir import read_model, save_model
from tests.float64 import float64
from tests.tiny import TINY
from tests.weights import use_weights_folder


def set_threads() -> None:
    """SMALTI_TEST_THREADS threads, by default 2, and at most one a core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, min(int(os.environ.get("SMALTI_TEST_THREADS", "2")), cores)))


set_threads()  # for the models of the session, which are trained before the first test's own fixtures


@pytest.fixture(autouse=True)
def threads():
    set_threads()  # the test before may have changed it


@pytest.fixture(autouse=True)
def seeded():
    """The random numbers of a test do not depend on which tests ran before it, so that none fails by chance."""
    torch.manual_seed(0)


@pytest.fixture
def in_float64():
    """What the test loads and computes is in float64, see tests/float64.py."""
    with float64():
        yield


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
    """Tests do the same with a network and without."""

    def fail(*args, **kwargs):
        raise URLError("tests do not download")

    monkeypatch.setattr(torch.hub, "urlopen", fail)


@pytest.fixture
def weights_folder(monkeypatch, tmp_path) -> Path:
    """An empty folder, in which the weights of all feature networks are looked for."""
    use_weights_folder(monkeypatch, tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    for stage in ("tokenizer", "prior"):
        assert run_cli(train.main, [stage, "--config", "configs/mnist.yaml", f"output_dir={folder}", *TINY]) == 0
    return folder


@pytest.fixture(scope="session")
def uniform_run(tiny_run, tmp_path_factory):
    """A prior on the uniform graph, trained without label dropout."""
    folder = tmp_path_factory.mktemp("runs") / "uniform"
    folder.mkdir()
    (folder / "tokenizer").symlink_to(tiny_run / "tokenizer")
    more = ["prior.graph=uniform", "prior.noise=geometric", "prior.label_dropout=0"]
    assert run_cli(train.main, ["prior", "--config", "configs/mnist.yaml", f"output_dir={folder}", *TINY, *more]) == 0
    return folder


@pytest.fixture(scope="session")
def lively_run(tiny_run, tmp_path_factory):
    """The tiny model with weights far from their start, so that labels and every code matter."""
    folder = tmp_path_factory.mktemp("runs") / "lively"
    folder.mkdir()
    (folder / "tokenizer").symlink_to(tiny_run / "tokenizer")
    config, state = read_model(tiny_run / "prior")
    torch.manual_seed(0)
    save_model(folder / "prior", {name: value + 0.3 * torch.randn_like(value) for name, value in state.items()}, config)
    return folder
