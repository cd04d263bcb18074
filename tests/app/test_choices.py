import pytest

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")

from app.choices import IN_TURN, MAX_SEED, NO_CLASS, RANDOM, Choices, class_labels, read_choices
from app.uploads import DEFAULT_LIMITS
from common.errors import UserError
from tests.app.fake_generator import FakeGenerator


def read(**changed):
    return read_choices(Choices(**{"label": RANDOM} | changed), FakeGenerator(), DEFAULT_LIMITS)


def test_a_seed_is_random_only_where_asked_for():
    assert {read(seed=5).seed for _ in range(3)} == {5}
    seeds = {read(seed=5, random_seed=True).seed for _ in range(8)}
    assert len(seeds) > 1
    assert all(0 <= seed <= MAX_SEED for seed in seeds)
    assert read(seed=None, random_seed=True).seed is not None, "an empty field does not matter then"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        *[({"label": value}, "label") for value in (2, -4, None, "long")],
        *[({"seed": value}, "seed") for value in (-1, 0.5, float("inf"), float("nan"), None, 2**32)],
        *[({"random_seed": value}, "random seed") for value in (None, 1, "true")],
        *[({"options": {"num_inference_steps": value}}, "steps") for value in (257, 0, 1e308, "4", None)],
        *[({"options": {"guidance_scale": value}}, "guidance") for value in (None, -1, float("nan"))],
        ({"options": {"unknown": 1}}, "unknown sampling option"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(changed, words):
    with pytest.raises(UserError, match=words):
        read(**changed)


def test_labels_as_the_generator_takes_them():
    names = ["round", "long"]
    labels = [class_labels(label, names) for label in (1, NO_CLASS, RANDOM, IN_TURN)]
    assert labels == [1, "none", "random", [0, 1]]
    assert [class_labels(label, []) for label in (NO_CLASS, RANDOM, IN_TURN)] == [None] * 3
