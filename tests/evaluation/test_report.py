import json
import math
from pathlib import Path

import pytest
from PIL import Image

from common.errors import UserError
from evaluation.report import check_paths, frechet_part, image_path, json_safe, write_report

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


@pytest.mark.parametrize("taken", ["r.json", "r-worst.png"])
def test_paths_that_are_folders_are_refused_before_the_work(tmp_path, taken):
    check_paths(tmp_path / "r.json", ("worst",))
    (tmp_path / taken).mkdir()
    with pytest.raises(UserError, match=f"cannot write .*{taken}: it is a folder"):
        check_paths(tmp_path / "r.json", ("worst",))


def test_a_frechet_distance_names_everything_that_it_depends_on():
    part = frechet_part(3.0, "network@64", 20, "folder", 500)
    assert part.pop("note") == "not FID: another feature network"
    assert part == {
        "frechet_distance": 3.0,
        "extractor": "network@64",
        "images": 20,
        "reference": "folder",
        "reference_images": 500,
    }
