"""What the page shows while a job runs, as HTML: a line of status, and previews."""

from __future__ import annotations

import html
import logging
from collections.abc import Sequence

from PIL import Image

from app.data_url import data_url
from common.errors import UserError

log = logging.getLogger("smalti.app")

WAITING = "Waiting for other requests…"
REFUSED = "The server did not take this request: too many are waiting. Try again."
FAILED = "Something went wrong. The server's log has the details; other requests are not affected."


def note(text: str) -> str:
    """A plain line."""
    return f'<p role="status">{html.escape(text, quote=False)}</p>'


def problem(text: str) -> str:
    """A line that says what is wrong."""
    return f'<p role="alert" class="problem">{html.escape(text, quote=False)}</p>'


def problem_of(error: Exception) -> str:
    """The line for an error: the message of a UserError; for any other error FAILED, and the log gets the traceback."""
    if isinstance(error, UserError):
        return problem(" ".join(str(error).split()))
    log.error("a request failed", exc_info=error)
    return problem(FAILED)


def previews_html(images: Sequence[Image.Image]) -> str:
    """Images side by side, "" for none. The page holds their bytes: a preview leaves no file on the server."""
    tiles = "".join(f'<img alt="Preview {number}" src="{data_url(image)}">' for number, image in enumerate(images, 1))
    return f'<div class="tiles">{tiles}</div>' if images else ""
