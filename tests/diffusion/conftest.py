import pytest

from diffusion.pipeline import ImageGenerator


@pytest.fixture(scope="module")
def generator(lively_run):
    return ImageGenerator.from_pretrained(lively_run, "cpu")


@pytest.fixture
def exact(lively_run, in_float64):
    """The same in float64: its images are the same in batches of any size."""
    return ImageGenerator.from_pretrained(lively_run, "cpu")
