"""Using the page in a browser as a visitor does."""

import base64
import io

from PIL import Image

from app.uploads import painted_mask


def choose(page, path: str, where="#picture") -> str:
    """Give a file to the page in place of an earlier one; returns the status."""
    if page.query_selector(f"{where} button[aria-label='Clear']"):
        page.click(f"{where} button[aria-label='Clear']")
        page.wait_for_selector(f"{where} input[type=file]", state="attached")
        page.wait_for_function("document.querySelector('#status')?.innerText.trim() === ''")
    page.set_input_files(f"{where} input[type=file]", path)
    wait_for(page, "pixels|alert", "innerHTML")
    return page.inner_text("#status")


def wait_for(page, words: str, what="innerText", where="#status") -> str:
    page.wait_for_function(f"/{words}/.test(document.querySelector('{where}')?.{what} ?? '')")
    return page.inner_text(where)


def enter(page, where: str, value: object) -> None:
    """Type a value into a field and leave it."""
    page.fill(where, str(value))
    page.keyboard.press("Tab")


def still_box(page, selector: str) -> dict[str, float]:
    """The place of an element that no longer moves: a page that is still loading shifts what it shows."""
    box = None
    for _ in range(100):
        before, box = box, page.locator(selector).bounding_box()
        if box is not None and box == before:
            return box
        page.wait_for_timeout(150)
    raise AssertionError(f"{selector} keeps moving")


def paint(page, *points: tuple[float, float]) -> None:
    """One stroke through points given as fractions of the canvas's width and height."""
    box = still_box(page, "#canvas canvas")
    for i, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
        if i == 0:
            page.mouse.down()
    page.mouse.up()


def canvas_mask(page) -> Image.Image:
    """The painted mask."""
    url = page.evaluate("document.querySelector('#canvas canvas').toDataURL()")
    return painted_mask(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA"))


def fetch(page, source: str) -> Image.Image:
    return Image.open(io.BytesIO(page.request.get(source).body()))


def shown_image(page) -> Image.Image:
    """The image below the canvas."""
    url = page.get_attribute("#canvas img", "src")
    return Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))


def repaint(page, variants: int | None = None, fails=False) -> list[Image.Image]:
    """Press Repaint and fetch the results."""
    if variants is not None:
        enter(page, "#count input[type=number]", variants)
    if fails:
        page.click("#repaint")
        wait_for(page, "alert", "innerHTML")
        return []
    return results_of(page, "#repaint")


def results_of(page, button: str) -> list[Image.Image]:
    """Press a button that starts a job of the edit tab, and fetch the results."""
    first = "document.querySelector('#variants .grid-wrap img')?.src"
    before = page.evaluate(first)
    page.click(button)
    wait_for(page, "(variants?|images) in")
    page.wait_for_function(f"before => {first} && {first} !== before", arg=before)
    return [fetch(page, image.get_attribute("src")) for image in page.query_selector_all("#variants .grid-wrap img")]
