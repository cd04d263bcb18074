import os
import pickle

import pytest
import torch

from common.errors import UserError
from tests.vq.published import small_state, write
from vq.checkpoint_reader import read_checkpoint

# A warning on stderr would be a second line beside the error message.
pytestmark = pytest.mark.filterwarnings("error")
STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt", ".pth", ".bin"])
def test_every_kind_of_file_is_read(suffix, tmp_path):
    assert same(read_checkpoint(write(tmp_path / f"file{suffix}", STATE)), STATE)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": STATE, "epoch": 3, "names": ["a", "b"]},
        {"model": {"a.weight": torch.zeros(2, 3)}, "ema": STATE, "steps": 5},
        {"model": STATE, "optimizer": None},
        {"state_dict": {"model": STATE}},
    ],
    ids=["state_dict", "ema before model", "model", "nested"],
)
def test_the_state_dict_is_found_inside_its_wrappers(content, tmp_path):
    assert same(read_checkpoint(write(tmp_path / "file.pt", content)), STATE)


class RunsCode:
    """Unpickling an object of this class makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_pickles_are_never_executed(protocol, tmp_path):
    trap, path = tmp_path / "trap", tmp_path / "last.ckpt"
    content = {"state_dict": STATE, "callbacks": RunsCode(trap)}
    if protocol is None:
        torch.save(content, path)
    else:  # a bare pickle; with protocol 4 the reader gives up before it sees the function
        path.write_bytes(pickle.dumps(content | {"state_dict": {}}, protocol))
    with pytest.raises(UserError, match=r"unpickling.*\.safetensors") as caught:
        read_checkpoint(path)
    assert "more than tensors (posix.mkdir)" in str(caught.value) or protocol == 4
    assert not trap.exists(), "the code in the file was executed"
    torch.load(path, weights_only=False) if protocol is None else pickle.loads(path.read_bytes())
    assert trap.exists(), "the file would not have executed anything: the test shows nothing"


def half_of_a_file(tmp_path):
    whole = write(tmp_path / "whole.pt", small_state("taming")).read_bytes()
    return whole[: len(whole) // 2]


@pytest.mark.parametrize("name", ["a.pt", "b.ckpt", "c.bin", "d.pth", "e.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", bytes(range(256)) * 9, half_of_a_file])
def test_damaged_files_are_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content(tmp_path))
    with pytest.raises(UserError, match=f"{name} is damaged"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "no state dict but list"),
        ({"state_dict": {}}, "no state dict but dict"),
        (STATE | {"step": 3}, "'step', which is not a named tensor"),
        ({3: torch.ones(1)}, "'3', which is not a named tensor"),
    ],
)
def test_files_without_a_state_dict_are_refused(content, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_checkpoint(write(tmp_path / "file.pt", content))


@pytest.mark.parametrize(
    ("name", "message"), [("none.pt", "does not exist"), ("folder.pt", "is a folder"), ("weights.h5", "unknown kind")]
)
def test_other_paths_are_refused(name, message, tmp_path):
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(UserError, match=f"{name}.* {message}.*: give"):
        read_checkpoint(tmp_path / name)
