"""The page in the browser: repaint parts of an image, sample image grids. Start it with `python sample.py app --model DIR`."""

import re
from importlib.metadata import PackageNotFoundError, version

from common.errors import UserError

SUPPORTED_GRADIO = "gradio>=6.31,<7"  # as in pyproject.toml; the painter needs the HTML templates of version 6


def check_gradio() -> None:
    """Raise UserError unless a gradio is installed that the page works with."""
    install = "run pip install -e '.[app]' in a clone of smalti"
    try:
        installed = version("gradio")
    except PackageNotFoundError:
        raise UserError(f"the page needs {SUPPORTED_GRADIO}: {install}") from None
    major, minor = (int(number) for number in re.findall(r"\d+", installed)[:2])
    if major != 6 or minor < 31:
        raise UserError(f"the page needs {SUPPORTED_GRADIO}, and {installed} is installed: {install}")


check_gradio()
