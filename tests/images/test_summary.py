import logging

from PIL import Image

from images.dataset import DataConfig
from images.sources import open_source
from images.summary import class_line, decoded_lines, skipped_lines


def test_many_classes_are_shortened():
    line = class_line({f"class{index}": 1000 + index for index in range(1000)})
    assert line.startswith("1,000 classes with their training images: class0 1,000, class1 1,001, ")
    assert line.endswith(", class11 1,011, ...; 1,000 to 1,999 each")
    assert class_line({}) == "no classes"
    assert class_line({"cat": 3}) == "1 class with their training images: cat 3"


def test_files_that_are_left_out_are_counted_and_a_few_are_named(tmp_path):
    files = [tmp_path / "cat" / f"{index}.png" for index in range(5)]
    (line,) = skipped_lines({"of a reason": files}, tmp_path)
    assert line == "left out: 5 of a reason (cat/0.png, cat/1.png, cat/2.png, ...)"


def test_what_decoding_shows(tmp_path, caplog):
    for index, size in enumerate([(8, 8)] * 6 + [(8, 9)] * 3):
        Image.new("L", size).save(tmp_path / f"{index}.png")
    (tmp_path / "9.png").write_bytes(b"no image")
    for in_memory in (True, False):
        source = open_source(
            DataConfig(source="folder", path=str(tmp_path), image_size=8, channels=1, holdout=0.4, in_memory=in_memory)
        )
        with caplog.at_level(logging.ERROR):
            lines = decoded_lines(source.load("train"), source.load("val"))
        if in_memory:
            assert lines == [
                "3 of 9 images are not square and were cropped",
                f"left out: 1 files that do not decode ({tmp_path / '9.png'})",
            ]
        else:
            assert lines == [
                "files are decoded when they are needed: one that does not decode is replaced by the next one"
            ]
