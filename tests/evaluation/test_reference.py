import pytest

from common.errors import UserError
from evaluation import reference
from evaluation.reference import ReferenceImages
from tests.evaluation.inputs import save_images


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "BATCH_PIXELS", 3 * 8**2)
    files, pixels = save_images(tmp_path, 7, size=8)
    images = ReferenceImages(tmp_path, 8, 3)
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
    assert [name for batch in ReferenceImages(tmp_path, 8, 3) for name in batch.classes] == ["1", "2", ""]


def test_the_embedded_digits_are_those_of_the_validation_split():
    images = ReferenceImages("mnist5k", 32, 1)
    batches = list(images)
    assert images.count == 500
    assert [len(batch.pixels) for batch in batches] == [100] * 5
    assert [name for batch in batches for name in batch.classes] == [
        str(digit) for digit in range(10) for _ in range(50)
    ]
    assert {file for batch in batches for file in batch.files} == {""}


def test_a_batch_of_large_images_is_small(tmp_path):
    save_images(tmp_path, 2, size=8)
    assert [ReferenceImages(tmp_path, size, 3).batch_size for size in (8, 256, 2048)] == [100, 16, 1]


def test_one_image_is_too_few(tmp_path):
    save_images(tmp_path, 1)
    with pytest.raises(UserError, match="at least 2"):
        ReferenceImages(tmp_path, 8, 3)


def test_one_image_that_decodes_is_too_few(tmp_path):
    files, _ = save_images(tmp_path, 2)
    files[0].write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 2 images in .* decode"):
        list(ReferenceImages(tmp_path, 8, 3))
