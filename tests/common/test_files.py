import os
import resource
from contextlib import contextmanager

import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.files import (
    check_separate,
    install_directory,
    replace_directory,
    replace_file,
    temporary_path,
    write_text,
)
from common.model_dir import save_model
from images.io import save_gif, save_png


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_folders_are_made(tmp_path):
    target = tmp_path / "new/file.txt"
    for text in ("first", "second"):
        write_text(target, text)
        assert target.read_text() == text
    assert names(target.parent) == ["file.txt"]


@pytest.mark.parametrize(
    ("error", "raised"), [(OSError(28, "No space left"), UserError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_failed_write_leaves_the_old_file(tmp_path, error, raised):
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail(part):
        part.write_text("ne")
        raise error

    with pytest.raises(raised):
        replace_file(target, fail)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize(("make", "message"), [(os.mkdir, "it is a folder"), (os.mkfifo, "a device or a pipe")])
def test_a_folder_or_a_device_is_not_replaced(tmp_path, make, message):
    make(tmp_path / "file.txt")
    with pytest.raises(UserError, match=rf"cannot write .*file.txt: .*{message}"):
        write_text(tmp_path / "file.txt", "text")
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "x" * 246, "x" * 247])
def test_the_longest_names_can_be_written(tmp_path, name):
    write_text(tmp_path / name, "text")
    assert names(tmp_path) == [name]
    assert temporary_path(tmp_path / name) != temporary_path(tmp_path / name[:-1])


def test_a_name_with_a_zero_byte_is_one_line(tmp_path):
    with pytest.raises(UserError, match="zero byte"):
        write_text(tmp_path / "a\0b", "text")


def test_a_link_at_the_temporary_path_is_not_followed(tmp_path):
    (tmp_path / "other.txt").write_text("other")
    temporary_path(tmp_path / "file.txt").symlink_to("other.txt")
    write_text(tmp_path / "file.txt", "text")
    assert (tmp_path / "other.txt").read_text() == "other"
    assert (tmp_path / "file.txt").read_text() == "text"


@contextmanager
def full_disk(most=2000):
    """No file can have more than `most` bytes, as on a disk that is full after them."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


NOISE = Image.effect_noise((100, 100), 90)
WRITERS = {
    "text": lambda path: write_text(path, "x" * 9000),
    "png": lambda path: save_png(NOISE, path.with_suffix(".png")),
    "gif": lambda path: save_gif([NOISE, NOISE], path.with_suffix(".gif")),
    "model": lambda path: save_model(path, {"weight": torch.zeros(9000)}, {}),
    "configuration": lambda path: save_model(path, {}, {"key": "x" * 9000}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path, write):
    for name in ("a", "a.png", "a.gif"):
        (tmp_path / name).write_text("old")
    with full_disk(), pytest.raises(UserError, match=r"cannot write .*/a\S*: .*choose another path") as caught:
        write(tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["a", "a.gif", "a.png"]
    assert all(file.read_text() == "old" for file in tmp_path.iterdir())


def test_outputs_are_neither_inputs_nor_one_file(tmp_path):
    image, out = tmp_path / "in.png", tmp_path / "out.png"
    image.touch()
    check_separate(
        [("--out", out), ("--trajectory", tmp_path / "out.gif")], [("--image", image), ("--mask", tmp_path / "no")]
    )
    with pytest.raises(UserError, match=r"--out .* would overwrite --image .*: choose another --out"):
        check_separate([("--out", image)], [("--image", image)])
    with pytest.raises(UserError, match=r"--out .* lies in the folder .*: choose another --out"):
        check_separate([("--out", out)], [("the folder", tmp_path)])
    with pytest.raises(UserError, match=r"--log .* is the same file as --out .*: choose another --log"):
        check_separate([("--out", out), ("--log", tmp_path / "x/../out.png")], [])


@pytest.mark.parametrize(
    ("error", "raised"), [(OSError(28, "No space left"), UserError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_failed_write_leaves_the_old_folder(tmp_path, error, raised):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()

    def fail(part):
        (part / "new").touch()
        raise error

    with pytest.raises(raised):
        replace_directory(target, fail)
    assert names(tmp_path) == ["model"]
    assert names(target) == ["old"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "model"
    for name in ("old", "new"):
        replace_directory(target, lambda part, name=name: (part / name).touch())
    assert names(target) == ["new"]
    assert names(tmp_path) == ["model"]


def test_an_installed_folder_keeps_what_was_written_at_its_temporary_path(tmp_path):
    target = tmp_path / "codes"
    temporary_path(target).mkdir()
    (temporary_path(target) / "codes.npy").touch()
    install_directory(target)
    assert names(target) == ["codes.npy"]
