"""The HTML, CSS and JavaScript files of this package."""

from importlib.resources import files


def resource(name: str) -> str:
    """The text of a file of this package."""
    return files("app").joinpath(name).read_text("utf-8")
