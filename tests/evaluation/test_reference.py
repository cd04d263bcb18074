from dataclasses import replace

import pytest
from PIL import Image

from common.errors import UserError
from evaluation import reference
from evaluation.reference import ReferenceImages
from evaluation.source import ImageSource, find_source
from images.dataset import DataConfig
from tests.evaluation.inputs import save_images


def read(folder, size, channels=3):
    return ReferenceImages(find_source(str(folder)), size, channels)


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "BATCH_PIXELS", 3 * 8**2)
    files, pixels = save_images(tmp_path, 7, size=8)
    images = read(tmp_path, 8)
    for _ in range(2):  # it can be read again
        batches = list(images)
        assert [len(batch.pixels) for batch in batches] == [3, 3, 1]
        assert [file for batch in batches for file in batch.files] == [
            file.relative_to(tmp_path).as_posix() for file in files
        ]
        assert [name for batch in batches for name in batch.classes] == [file.parent.name for file in files]
        found = [image for batch in batches for image in batch.pixels.permute(0, 2, 3, 1).tolist()]
        assert found == pixels.tolist()


def test_images_without_a_class_folder_have_no_class(tmp_path):
    files, _ = save_images(tmp_path, 3, size=8)
    files[0].rename(tmp_path / "a.png")
    images = read(tmp_path, 8)
    assert [name for batch in images for name in batch.classes] == ["1", "2", ""]
    assert images.class_counts == {"1": 1, "2": 1, "": 1}


def test_the_embedded_digits_are_those_of_the_validation_split():
    images = read("mnist5k", 32, 1)
    batches = list(images)
    assert images.count == images.scored == 500
    assert [len(batch.pixels) for batch in batches] == [100] * 5
    assert [name for batch in batches for name in batch.classes] == [
        str(digit) for digit in range(10) for _ in range(50)
    ]
    assert {file for batch in batches for file in batch.files} == {""}


def test_a_set_of_torchvision_is_read_at_the_size_and_channels_asked_for(tmp_path, monkeypatch):
    import torchvision.datasets

    class Tiny:
        classes = ("bird", "ship")

        def __init__(self, root, train=True, download=False):
            self.items = [(Image.new("RGB", (10, 12), (i, 0, 0)), i % 2) for i in range(4 if train else 2)]

        def __iter__(self):
            return iter(self.items)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Tiny)
    data = DataConfig("torchvision:CIFAR10", str(tmp_path), image_size=64, channels=1, flip=True)
    source = ImageSource("run.yaml", "", "val", data=data)
    for split, count in (("val", 2), ("train", 4)):
        (batch,) = ReferenceImages(replace(source, split=split), 8, 3)
        assert batch.pixels.shape == (count, 3, 8, 8)
        assert batch.classes == ["bird", "ship"] * (count // 2)


def test_a_batch_of_large_images_is_small(tmp_path):
    save_images(tmp_path, 2, size=8)
    assert [read(tmp_path, size).batch_size for size in (8, 256, 2048)] == [100, 16, 1]


def test_what_was_found_scored_and_skipped_is_counted(tmp_path, capsys):
    files, _ = save_images(tmp_path, 5, size=8)
    files[0].write_bytes(b"no image")
    (tmp_path / "0/._x.png").write_bytes(b"hidden")
    images = read(tmp_path, 8)
    images.describe("reference")
    assert f"note: reference: all images of {tmp_path}: 5 images in 3 classes" in capsys.readouterr().err
    list(images)
    assert "1 of 5 images" in capsys.readouterr().err
    part = images.part()
    assert (part["found"], part["scored"], part["skipped"]) == (5, 4, 1)
    assert part["left_out"] == {"hidden or system files and folders": 1}
    assert (part["split"], part["size"], part["channels"]) == ("all", 8, 3)


def test_one_image_is_too_few(tmp_path):
    save_images(tmp_path, 1)
    with pytest.raises(UserError, match="at least 2"):
        read(tmp_path, 8)


def test_one_image_that_decodes_is_too_few(tmp_path):
    files, _ = save_images(tmp_path, 2)
    files[0].write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 2 images in .* decode"):
        list(read(tmp_path, 8))


def test_digits_have_one_size():
    with pytest.raises(UserError, match="32 pixels wide and not 64"):
        read("mnist5k", 64, 1)
