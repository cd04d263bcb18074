import pytest

from common.errors import UserError
from common.files import install_directory, replace_directory, replace_file, temporary_path, write_text


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


def test_a_folder_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file.txt").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*file.txt: .*choose another path"):
        write_text(tmp_path / "file.txt", "text")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_folder(tmp_path, error):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()

    def fail(part):
        (part / "new").touch()
        raise error

    with pytest.raises(type(error)):
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
