import base64
import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")

from app.edit_tab import result_paths
from app.server import served
from app.uploads import Limits
from tests.app.browser import canvas_mask, choose, enter, paint, repaint, results_of, shown_image, wait_for
from tests.app.client import free_port
from tests.app.fake_generator import FakeGenerator
from tests.app.files import changed_inside, same_outside, sample_image, written

PHONE = {"width": 390, "height": 844}


def choose_example(page, number=1, where="#examples"):
    page.wait_for_function("document.querySelectorAll('#examples img').length === 6")
    page.click(f"{where} .grid-container button >> nth={number}")
    if where == "#examples":
        page.wait_for_selector("#canvas canvas", state="visible")


def show_tab(page, name):
    page.click(f"#operations button[role=tab]:has-text('{name}')")


def test_an_example_is_chosen_and_a_result_becomes_the_image(page):
    choose_example(page)
    assert shown_image(page).size == (32, 32)
    paint(page, (0.2, 0.5), (0.8, 0.5))
    results = repaint(page, variants=2)
    assert len(results) == 2
    page.click("#use")
    assert "choose one of the results" in wait_for(page, "choose")
    page.click("#variants .grid-container button >> nth=1")
    page.wait_for_selector("#variants .preview")
    page.click("#use")
    wait_for(page, "32 x 32 pixels")
    page.wait_for_function("/repaint-/.test(document.querySelector('#picture').innerText)")
    assert np.array_equal(np.asarray(shown_image(page).convert("L")), np.asarray(results[1].convert("L")))
    assert not np.asarray(canvas_mask(page)).any(), "the old mask belongs to the old image"


def test_examples_can_be_chosen_with_the_keyboard(page):
    page.wait_for_function("document.querySelectorAll('#examples img').length === 6")
    page.focus("#examples .grid-container button >> nth=0")
    page.keyboard.press("Enter")
    assert "32 x 32" in wait_for(page, "pixels")


def test_the_seed_that_was_used_is_shown_and_repeats_the_result(page):
    choose_example(page)
    paint(page, (0.2, 0.5), (0.8, 0.5))
    (first,) = repaint(page, variants=1)
    seed = page.input_value("#seed input")
    assert f"seed {seed}" in page.inner_text("#status")
    assert first.info["seed"] == seed
    (second,) = repaint(page)
    assert second.info["seed"] != seed, "each run has another seed"
    enter(page, "#seed input", seed)  # which turns the random seed off
    assert not page.is_checked("#random input")
    (third,) = repaint(page)
    assert (third.info, third.tobytes()) == (first.info, first.tobytes())
    assert third.info["label"] == page.input_value("#label input") == "none"


def test_each_operation_has_its_results(page, tmp_path):
    image = sample_image(32, 48)
    choose(page, written(tmp_path, "image.png", image))
    enter(page, "#count input[type=number]", 2)
    show_tab(page, "Outpaint")
    enter(page, "#outpaint-left input", 4)
    outpainted = results_of(page, "#outpaint")
    assert [one.size for one in outpainted] == [(32 + 4 + 16, 48)] * 2
    assert np.array_equal(np.asarray(outpainted[0])[:, 4:36], np.asarray(image))
    show_tab(page, "Vary")
    assert [one.size for one in results_of(page, "#vary")] == [(32, 48)] * 2
    show_tab(page, "Morph")
    page.click("#morph")
    assert "no last image" in wait_for(page, "last image")
    choose_example(page, 2, "#last-examples")
    page.wait_for_selector("#last-shown img")
    page.click("#morph")
    assert "one image is 32 x 48 and the other 32 x 32" in wait_for(page, "the other")
    choose_example(page, 1)
    wait_for(page, "32 x 32 pixels")
    enter(page, "#frames input[type=number]", 3)
    animation, *frames = results_of(page, "#morph")
    assert (animation.format, animation.n_frames, len(frames)) == ("GIF", 3, 3)


def test_a_preview_shows_the_kept_pixels_and_is_as_large_as_the_result(browser, tmp_path):
    with served(FakeGenerator(pause=0.3), port=free_port(), limits=Limits(examples=0)) as url:
        page = browser.new_page(viewport={"width": 1280, "height": 1100})
        page.goto(url)
        image = sample_image(32, 32)
        choose(page, written(tmp_path, "image.png", image))
        page.wait_for_selector("#canvas canvas", state="visible")
        paint(page, (0.3, 0.3), (0.6, 0.6))
        page.click("#repaint")
        preview = page.wait_for_selector("#codes img >> nth=3")
        assert not page.is_visible("#variants")
        width = preview.bounding_box()["width"]
        source = preview.get_attribute("src")
        results = page.wait_for_selector("#variants .grid-wrap img >> nth=3")
        assert 0.8 < width / results.bounding_box()["width"] < 1.25
        shown = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
        mask = canvas_mask(page)
        assert same_outside(image, shown, mask)
        assert changed_inside(image, shown, mask) > 0.9
        page.close()


def test_on_a_phone_the_mask_is_painted_by_touch(browser, address):
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(address)
    page.wait_for_function("document.querySelectorAll('#examples img').length === 6")
    page.tap("#examples .grid-container button >> nth=0")
    page.wait_for_selector("#canvas canvas", state="visible")
    page.locator("#canvas canvas").scroll_into_view_if_needed()
    scrolled = page.evaluate("scrollY")
    box = page.locator("#canvas canvas").bounding_box()
    touch = context.new_cdp_session(page)
    for kind, x in [("touchStart", 0.2), ("touchMove", 0.5), ("touchMove", 0.8)]:
        point = {"x": box["x"] + x * box["width"], "y": box["y"] + 0.5 * box["height"]}
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
        page.wait_for_timeout(100)  # a faster stroke is a fling, after which Chromium drops the next tap
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    row = np.asarray(canvas_mask(page))[16] > 0
    assert row[8:24].all() and not row[:2].any()
    assert page.evaluate("scrollY") == scrolled, "painting must not scroll the page"
    page.click("#repaint")
    wait_for(page, "4 variants in")
    page.wait_for_selector("#variants .grid-wrap img >> nth=3")
    for name in ("Outpaint", "Vary", "Morph"):
        show_tab(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name
    buttons = page.query_selector_all("#canvas button, #examples .thumbnail-item, #use, #morph, #stop")
    assert all(button.bounding_box()["height"] >= 40 for button in buttons), "too small for a finger"
    context.close()


@pytest.mark.parametrize("shown", [None, 7, "a", [None], [{"image": None}], [{"caption": "a"}]])
def test_a_gallery_that_the_page_did_not_send_has_no_paths(shown):
    assert result_paths(shown) == []
