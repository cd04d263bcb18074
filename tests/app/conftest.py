"""Fixtures of the page's tests: the service, and a headless Chromium where there is one."""

import shutil

import pytest

from tests.app.fake_generator import FakeGenerator

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def generator():
    return FakeGenerator()


@pytest.fixture
def service(generator, tmp_path):
    from app.service import GenerationService
    from app.storage import Storage
    from app.uploads import DEFAULT_LIMITS

    service = GenerationService(generator, DEFAULT_LIMITS, Storage(tmp_path / "results", DEFAULT_LIMITS))
    yield service
    service.close()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="driving a browser needs playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the distribution's package")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(browser, tiny_run):
    from app.server import served
    from diffusion.pipeline import ImageGenerator
    from tests.app.client import free_port

    with served(ImageGenerator.from_pretrained(tiny_run, "cpu"), port=free_port()) as url:
        yield url


@pytest.fixture
def page(browser, address):
    """The page of the tiny model. Afterwards: no script failed, and it asked no other server."""
    page = browser.new_page(viewport={"width": 1280, "height": 1100})
    page.set_default_timeout(60_000)
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#picture input[type=file]", state="attached")
    yield page
    page.close()
    assert not errors
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
