import pytest

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")

from app.server import served
from app.uploads import DEFAULT_LIMITS, Limits
from tests.app.browser import choose, enter, fetch, paint, repaint, wait_for
from tests.app.client import free_port
from tests.app.fake_generator import FakeGenerator
from tests.app.files import BAD, encoded, sample_image, written


def test_bad_files_get_a_message_and_a_good_one_works_after_them(page, tmp_path):
    for name in ("truncated.png", "text.png", "empty.png", "tiny.png", "line.png", "bomb.png"):
        status = choose(page, written(tmp_path, name, BAD[name][0]))
        assert name in status
        assert page.query_selector("#status [role=alert]"), name
        assert page.query_selector("#canvas .stage[hidden]"), name
    large = tmp_path / "large.png"
    large.write_bytes(encoded(sample_image()) + bytes(DEFAULT_LIMITS.upload_mb << 20))
    page.click("#picture button[aria-label='Clear']")
    page.set_input_files("#picture input[type=file]", large)
    page.wait_for_selector("text=/exceed|too large|maximum/i")
    page.reload()
    assert "64 x 64" in choose(page, written(tmp_path, "good.png", sample_image()))
    page.wait_for_selector("#canvas canvas")
    paint(page, (0.5, 0.5), (0.6, 0.6))
    assert len(repaint(page, variants=2)) == 2


def test_the_grid_tab_samples_a_grid(page):
    page.click("button[role=tab]:has-text('Grid')")
    enter(page, "#number input[type=number]", 4)
    page.click("#draw")
    wait_for(page, "4 images in", where="#grid-status")
    grid = fetch(page, page.wait_for_selector("#grid img").get_attribute("src"))
    assert grid.size == (66, 66)
    assert not page.query_selector("#grid-codes img"), "the preview makes room for the result"


def test_further_sampling_options_act(page):
    page.click("button[role=tab]:has-text('Grid')")
    page.click("#grid-more button")
    enter(page, "#grid-temperature input", 0.5)
    page.click("#draw")
    wait_for(page, "16 images in", where="#grid-status")
    grid = fetch(page, page.wait_for_selector("#grid img").get_attribute("src"))
    assert grid.info["temperature"] == "0.5"
    enter(page, "#grid-temperature input", 0)
    page.click("#draw")
    assert "temperature must be above 0" in wait_for(page, "temperature", where="#grid-status")


def test_waiting_stopping_and_a_full_queue_are_shown(browser):
    with served(FakeGenerator(pause=1), port=free_port(), limits=Limits(waiting=1, examples=0)) as url:
        pages = [browser.new_page() for _ in range(3)]
        for page, words in zip(pages, ("Sampling: step", "Waiting", "did not take this"), strict=True):
            page.set_default_timeout(60_000)
            page.goto(url)
            page.click("button[role=tab]:has-text('Grid')")
            enter(page, "#grid-steps input[type=number]", 100)  # seconds
            page.click("#draw")
            wait_for(page, words, where="#grid-status")
        assert pages[0].is_visible("#grid-codes img") and not pages[0].is_visible("#grid")
        pages[0].click("#grid-stop")
        wait_for(pages[0], "Stopped", where="#grid-status")
        wait_for(pages[1], "Sampling: step", where="#grid-status")
        for page in pages:
            page.close()
