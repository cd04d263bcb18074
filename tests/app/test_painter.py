import shutil
import subprocess
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")

from tests.app.browser import canvas_mask, choose, paint, repaint, wait_for
from tests.app.files import box_mask, changed_inside, same_outside, sample_image, written


def test_the_script_is_valid_javascript():
    node = shutil.which("node")
    if node is None:
        pytest.skip("checking the script needs node")
    checked = subprocess.run(
        [node, "--check", str(files("app") / "painter.js")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("name", ["painter.html", "painter.css", "painter.js"])
def test_the_files_hold_nothing_that_gradio_fills_in(name):
    """gradio reads the HTML and the CSS as templates."""
    text = (files("app") / name).read_text("utf-8")
    assert "{{" not in text
    assert name == "painter.js" or "${" not in text


def test_only_the_painted_part_changes(page, tmp_path):
    image = Image.open("docs/images/digit.png").convert("L").resize((32, 32))
    choose(page, written(tmp_path, "digit.png", image))
    page.wait_for_selector("#canvas canvas")
    paint(page, (0.3, 0.3), (0.6, 0.3), (0.6, 0.55))
    mask = canvas_mask(page)
    assert mask.size == (32, 32)
    assert 0.03 < np.asarray(mask).mean() / 255 < 0.5
    results = repaint(page, variants=3)
    assert len(results) == 3
    for result in results:
        assert same_outside(image, result, mask)
        assert changed_inside(image, result, mask) > 0.5
    assert len({result.tobytes() for result in results}) == 3


def test_the_tools_work_with_mouse_and_keyboard(page, tmp_path):
    choose(page, written(tmp_path, "image.png", sample_image(48, 32)))
    page.wait_for_selector("#canvas canvas")
    paint(page, (0.2, 0.5), (0.8, 0.5))
    stroke = np.asarray(canvas_mask(page)) > 0
    assert stroke.shape == (32, 48)
    assert stroke[16, 12:36].all() and not stroke[:4].any()
    page.click("#canvas .rub")
    paint(page, (0.5, 0.2), (0.5, 0.8))
    erased = np.asarray(canvas_mask(page)) > 0
    assert not erased[16, 24] and erased[16, 12]
    assert erased.sum() < stroke.sum()
    page.click("#canvas .undo")
    assert np.array_equal(np.asarray(canvas_mask(page)) > 0, stroke)
    page.click("#canvas .clear")
    assert not np.asarray(canvas_mask(page)).any()
    assert repaint(page, fails=True) == []
    assert "nothing is painted" in page.inner_text("#status")
    page.click("#canvas .rub")
    page.focus("#canvas canvas")
    for key in ("ArrowLeft", "ArrowUp", "Space"):
        page.keyboard.press(key)
    rows, columns = (np.asarray(canvas_mask(page)) > 0).nonzero()  # one radius up and left of the mouse's last place
    assert 15 < columns.mean() < 23 and 18 < rows.mean() < 25
    assert len(repaint(page, variants=1)) == 1


def test_image_and_mask_from_files(page, tmp_path):
    image, mask = sample_image(40, 56).convert("L"), box_mask((40, 56), (4, 30, 33, 50))
    choose(page, written(tmp_path, "image.png", image))
    page.click("text=Mask from a file")
    choose(page, written(tmp_path, "mask.png", mask), "#mask")
    wait_for(page, "with its mask")
    page.wait_for_function("!document.querySelector('#canvas .stage').hidden")
    for _ in range(100):  # the mask is drawn some time after the canvas appears
        if np.array_equal(canvas_mask(page), mask):
            break
        page.wait_for_timeout(100)
    assert np.array_equal(canvas_mask(page), mask)
    (result,) = repaint(page, variants=1)
    assert same_outside(image, result, mask)
    assert changed_inside(image, result, mask) > 0.5
