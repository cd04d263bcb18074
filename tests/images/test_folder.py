import os
from pathlib import Path

import pytest
from PIL import Image

from common.errors import UserError
from images.folder import class_folder, find_images, list_folder, read_splits


def save(file, shade=0, size=(8, 8)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).save(file)


def test_images_are_found_sorted_in_all_folders_and_other_files_are_not(tmp_path):
    for name in ("b/2.png", "a/deep/1.JPG", "0.webp"):
        save(tmp_path / name)
    (tmp_path / "a/notes.txt").write_text("no image")
    (tmp_path / "a/folder.png").mkdir()
    found = [file.relative_to(tmp_path).as_posix() for file in find_images(tmp_path)]
    assert found == ["0.webp", "a/deep/1.JPG", "b/2.png"]


@pytest.mark.parametrize(("folder", "message"), [("none", "no folder"), ("empty", "no images")])
def test_nothing_to_find(tmp_path, folder, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        find_images(tmp_path / folder)


@pytest.mark.parametrize(("file", "name"), [("cat/a.png", "cat"), ("cat/deep/a.png", "cat"), ("a.png", "")])
def test_a_class_is_the_folder_under_the_root(file, name):
    assert class_folder(Path("root") / file, Path("root")) == name


def make(root, *names):
    """Empty files; finding reads no content."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def names(files, root):
    return [file.relative_to(root).as_posix() for file in files]


def left_out(skipped, root):
    return sorted(name for files in skipped.values() for name in names(files, root))


def numbered(folder, count):
    return [f"{folder}/{index}.png" for index in range(count)]


@pytest.mark.parametrize(
    "name",
    [".ipynb_checkpoints/a.png", "cat/.ipynb_checkpoints/a.png", "__MACOSX/cat/._a.png", "cat/._a.png", ".hidden.png",
     "cat/@eaDir/a.png", "$RECYCLE.BIN/a.png", ".Trash-1000/files/a.png", "cat/Thumbs.db/a.png"],
)  # fmt: skip
def test_hidden_and_system_entries_are_never_images_or_classes(tmp_path, name):
    make(tmp_path, "cat/0.png", "dog/0.png", name)
    assert names(find_images(tmp_path), tmp_path) == ["cat/0.png", "dog/0.png"]
    found = read_splits(tmp_path, 0.1)
    assert found.class_names == ["cat", "dog"]
    assert sum(len(files) for files in found.skipped.values()) == 1


def test_the_root_itself_may_be_hidden(tmp_path):
    make(tmp_path / ".cache", "0.png")
    assert names(find_images(tmp_path / ".cache"), tmp_path) == [".cache/0.png"]


@pytest.mark.parametrize("suffix", ["jfif", "JPE", "pbm", "pnm"])
def test_all_suffixes_of_a_format_are_found(tmp_path, suffix):
    make(tmp_path, f"a.{suffix}", "notes.txt", "page.pdf", "drawing.eps", "drawing.ps")
    assert names(find_images(tmp_path), tmp_path) == [f"a.{suffix}"]


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    make(tmp_path / "elsewhere", "0.png", "1.png")
    make(tmp_path / "root", "dog/0.png")
    for link, target in (("cat", "elsewhere"), ("kitten", "elsewhere"), ("dog/loop", "root"), ("dog/same", "root/dog")):
        (tmp_path / "root" / link).symlink_to(tmp_path / target, target_is_directory=True)
    (tmp_path / "root/dog/gone.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "root/dog/self.png").symlink_to("self.png")
    (tmp_path / "root/dog/file.png").symlink_to(tmp_path / "elsewhere/0.png")
    found = list_folder(tmp_path / "root")
    wanted = ["cat/0.png", "cat/1.png", "dog/0.png", "dog/file.png", "kitten/0.png", "kitten/1.png"]
    assert names(found.images, tmp_path / "root") == wanted
    assert left_out(found.skipped, tmp_path / "root") == ["dog/gone.png", "dog/loop", "dog/same", "dog/self.png"]


def test_names_that_are_not_utf_8_are_found_hashed_and_readable(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    make(folder, *(os.fsdecode(b"\xff%d.png" % index) for index in range(30)))
    assert len(find_images(tmp_path)) == 30
    found = read_splits(tmp_path, 0.3)
    assert found.class_names == ["caf\\xe9"]
    assert len(found.train.files) > len(found.val.files) > 0


def test_composed_and_decomposed_letters_are_one_class(tmp_path):
    make(tmp_path, "train/caf\u00e9/0.png", "val/cafe\u0301/0.png")
    assert read_splits(tmp_path, 0.1).class_names == ["caf\u00e9"]


@pytest.mark.parametrize("train", ["train", "Train", "training"])
@pytest.mark.parametrize("val", ["val", "valid", "validation", "test", "VAL", "Test"])
def test_folders_of_splits_are_not_classes(tmp_path, train, val):
    make(tmp_path, f"{train}/cat/0.png", f"{train}/dog/0.png", f"{val}/dog/1.png", "readme.txt")
    assert read_splits(tmp_path, 0.1).split("train") == (
        tmp_path / train,
        [tmp_path / train / f"{c}/0.png" for c in ("cat", "dog")],
    )
    assert read_splits(tmp_path, 0.1).split("val") == (tmp_path / val, [tmp_path / val / "dog/1.png"])


def test_val_is_preferred_to_test_and_nothing_beside_the_splits_is_read(tmp_path):
    make(tmp_path, "train/cat/0.png", "test/cat/1.png", "val/cat/2.png", "extra/3.png", "4.png")
    found = read_splits(tmp_path, 0.1)
    assert names(found.train.files + found.val.files, tmp_path) == ["train/cat/0.png", "val/cat/2.png"]
    assert left_out(found.skipped, tmp_path) == ["4.png", "extra/3.png", "test/cat/1.png"]


def test_train_alone_is_split_by_hash(tmp_path):
    make(tmp_path, *numbered("train/cat", 30), *numbered("train/dog", 30), "val/readme.txt")
    found = read_splits(tmp_path, 0.2)
    assert found.train.root == found.val.root == tmp_path / "train"
    assert found.class_names == ["cat", "dog"]
    assert len(found.val.files) > 0
    assert len(found.train.files) + len(found.val.files) == 60
    assert any("split by a hash" in note for note in found.notes)


def test_train_beside_other_vehicles_is_a_class(tmp_path):
    make(tmp_path, "train/0.png", "bus/0.png", "car/0.png")
    found = read_splits(tmp_path, 1e-9)
    assert found.class_names == ["bus", "car", "train"]
    assert found.notes == ["train/ is a class, because folders of other classes are beside it"]


def test_val_without_train_is_refused(tmp_path):
    make(tmp_path, "valid/cat/0.png")
    with pytest.raises(UserError, match="holds valid/ and no train/"):
        read_splits(tmp_path, 0.1).split("train")


def test_a_few_images_beside_the_classes_are_left_out(tmp_path):
    make(tmp_path, *numbered("cat", 5), *numbered("dog", 5), "stray.png", "cover.jpg")
    found = read_splits(tmp_path, 0.3)
    assert found.class_names == ["cat", "dog"]
    assert left_out(found.skipped, tmp_path) == ["cover.jpg", "stray.png"]
    assert len(found.train.files) + len(found.val.files) == 10


def test_a_folder_in_a_flat_folder_is_no_class(tmp_path):
    make(tmp_path, *(f"{index}.png" for index in range(9)), "more/a.png")
    found = read_splits(tmp_path, 1e-9)
    assert found.class_names == []
    assert len(found.train.files) == 10
    assert found.notes[0].startswith("no classes: 9 images are in")


@pytest.mark.parametrize("holdout", [0.1, 0.5, 0.9])
def test_every_class_has_a_training_image(tmp_path, holdout):
    make(tmp_path, *(name for index in range(30) for name in numbered(f"class{index:02}", 2)))
    found = read_splits(tmp_path, holdout)
    assert len(found.class_names) == 30
    assert {class_folder(file, tmp_path) for file in found.train.files} == set(found.class_names)
    assert [note for note in found.notes if "one image of each is used for training" in note] or holdout == 0.1
    assert not set(found.train.files) & set(found.val.files)


def test_adding_files_moves_no_file_between_splits(tmp_path):
    make(tmp_path, *numbered("cat", 20), *numbered("dog", 20))
    before = read_splits(tmp_path, 0.3)
    make(tmp_path, *(f"{folder}/more{index}.png" for folder in ("cat", "cow") for index in range(20)))
    after = read_splits(tmp_path, 0.3)
    assert set(before.train.files) < set(after.train.files)
    assert set(before.val.files) < set(after.val.files)


def test_a_class_of_the_validation_images_alone_is_an_error_by_name(tmp_path):
    make(tmp_path, "train/cat/0.png", "val/Cat/0.png")
    with pytest.raises(UserError, match="class 'Cat' is only in"):
        read_splits(tmp_path, 0.1)


def test_flat_validation_images_have_no_class(tmp_path):
    make(tmp_path, "train/cat/0.png", "test/0.png", "test/1.png")
    found = read_splits(tmp_path, 0.1)
    assert found.class_names == ["cat"]
    assert len(found.val.files) == 2
    assert "scored without a class" in found.notes[0]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_images_is_refused(tmp_path, split):
    make(tmp_path, "0.png")
    with pytest.raises(UserError, match=f"too few images in .* for the {split} split"):
        read_splits(tmp_path, 1e-9 if split == "val" else 1 - 1e-9).split(split)


def test_a_folder_around_the_classes_and_spellings_of_one_class_are_noted(tmp_path):
    make(tmp_path, "pets/cat/0.png", "pets/Cat/0.png", "pets/dog/0.png")
    (around,) = read_splits(tmp_path, 1e-9).notes
    assert around.endswith(f"set data.path={tmp_path / 'pets'}")
    assert read_splits(tmp_path / "pets", 1e-9).notes == ["classes 'Cat', 'cat' differ only in case"]


def test_heif_files_that_cannot_be_read_are_noted(tmp_path, monkeypatch):
    monkeypatch.setattr("images.folder.SUFFIXES", (".png",))
    make(tmp_path, "0.png", "IMG_1.HEIC")
    (note,) = read_splits(tmp_path, 1e-9).notes
    assert note.startswith("1 HEIF files")


def test_a_split_that_is_a_link_to_the_other_is_noted(tmp_path):
    make(tmp_path, "train/cat/0.png")
    (tmp_path / "val").symlink_to("train")
    assert read_splits(tmp_path, 0.1).notes == ["the images of train and val are the same"]
