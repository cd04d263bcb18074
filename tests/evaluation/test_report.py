import json
import math
from pathlib import Path

import pytest
from PIL import Image

from common.errors import UserError
from evaluation.report import check_images, check_report, image_path, json_safe, write_report

IMAGE = Image.new("L", (2, 2))


def test_numbers_that_json_does_not_have_are_null():
    value = {"a": [1.5, math.inf, (math.nan, "b")], "c": {"d": -math.inf, "e": True, "f": None, "g": 3}}
    assert json_safe(value) == {"a": [1.5, None, [None, "b"]], "c": {"d": None, "e": True, "f": None, "g": 3}}


def test_images_lie_next_to_the_report(tmp_path):
    write_report(tmp_path / "runs/r.json", {"psnr_db": math.inf}, {"worst": IMAGE})
    assert sorted(file.name for file in (tmp_path / "runs").iterdir()) == ["r-worst.png", "r.json"]
    assert json.loads((tmp_path / "runs/r.json").read_text()) == {"psnr_db": None}
    assert image_path(Path("runs/r.json"), "worst") == Path("runs/r-worst.png")


def test_the_report_is_written_last(tmp_path):
    (tmp_path / "r-worst.png").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        write_report(tmp_path / "r.json", {}, {"worst": IMAGE})
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder.json", "is a folder"),
        ("r.png", "a name that ends in .json"),
        ("r", "a name that ends in .json"),
        ("cat.png/r.json", "cannot write"),
        ("generation.json", "is not a report"),
        ("broken.json", "is not a report"),
        ("list.json", "is not a report"),
    ],
)
def test_a_report_that_cannot_be_written_or_replaces_another_file_is_refused(tmp_path, name, message):
    (tmp_path / "folder.json").mkdir()
    for file, content in (
        ("cat.png", "image"), ("generation.json", '{"sampler": "tweedie"}'), ("broken.json", "{"), ("list.json", "[1]"),
    ):  # fmt: skip
        (tmp_path / file).write_text(content)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=message):
        check_report(tmp_path / name)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("content", ['{"reconstruction": {}}', '{"images": "x", "samples": {}}'])
def test_an_older_report_may_be_replaced(tmp_path, content):
    (tmp_path / "r.json").write_text(content)
    check_report(tmp_path / "r.json")
    check_report(tmp_path / "new.json")


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the user of the tests may write everywhere
    with pytest.raises(UserError, match="no permission"):
        check_report(tmp_path / "r.json")


def test_images_of_the_report_are_never_among_the_reference(tmp_path):
    (tmp_path / "images/cat").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "images/cat")
    for folder in ("images", "images/cat", "link"):
        with pytest.raises(UserError, match="among the reference images"):
            check_images(tmp_path / folder / "r.json", ("worst",), tmp_path / "images")
    check_images(tmp_path / "r.json", ("worst",), tmp_path / "images")
    check_images(tmp_path / "images/r.json", ("worst",), None)


def test_an_image_of_the_report_that_is_a_folder_is_refused(tmp_path):
    check_images(tmp_path / "r.json", ("worst",), None)
    (tmp_path / "r-worst.png").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*r-worst.png: it is a folder"):
        check_images(tmp_path / "r.json", ("worst",), None)
