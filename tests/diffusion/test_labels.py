"""Labels as people give them."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from diffusion.labels import RANDOM_CLASS, Classes

NAMES = ["cat", "7", "dog"]
PLAIN, UNGUIDED = Classes(NAMES, dropout=True), Classes(NAMES, dropout=False)
NO_CLASSES = Classes([], dropout=False)


@pytest.mark.parametrize(
    ("wanted", "number"),
    [
        ("dog", 2),
        ("2", 2),
        (2, 2),
        (torch.tensor(2), 2),
        (np.int64(2), 2),
        ("7", 1),
        ("none", 3),
        ("random", RANDOM_CLASS),
    ],
)
def test_classes_go_by_number_name_or_word(wanted, number):
    assert PLAIN.number(wanted) == number  # a name goes before a number
    assert PLAIN.numbers(wanted) == [number]


@pytest.mark.parametrize("wrong", ["bird", 3, "3", -1, "-1", 2.0, None])
@pytest.mark.parametrize("classes", [PLAIN, UNGUIDED, NO_CLASSES])
def test_unknown_classes_are_refused(wrong, classes):
    with pytest.raises(UserError, match=r"this model|number or a name"):
        classes.number(wrong)


@pytest.mark.parametrize(("wanted", "numbers"), [
    (None, [RANDOM_CLASS]), (1, [1]), ("dog", [2]), (["dog", 0], [2, 0]), ((1, 2), [1, 2]), (torch.tensor([2, 1]), [2, 1]),
    (range(2), [0, 1]), (["none", "cat", "random"], [3, 0, RANDOM_CLASS]),
])  # fmt: skip
def test_one_label_or_several(wanted, numbers):
    assert PLAIN.numbers(wanted) == numbers


def test_without_a_label_editing_takes_no_class_where_the_model_knows_it():
    assert PLAIN.editing_numbers(None) == [3]
    assert UNGUIDED.editing_numbers(None) == [RANDOM_CLASS]
    assert NO_CLASSES.editing_numbers(None) == [0]
    assert PLAIN.editing_numbers("dog") == [2]


def test_no_class_needs_label_dropout():
    with pytest.raises(UserError, match="without label dropout"):
        UNGUIDED.numbers("none")


def test_a_model_without_classes_takes_the_words():
    assert NO_CLASSES.numbers(None) == NO_CLASSES.numbers("none") == NO_CLASSES.numbers("random") == [0]
    assert NO_CLASSES.name(0) == ""


def test_a_class_of_that_name_wins_over_the_word():
    classes = Classes(["all", "none", "random"], dropout=True)
    assert classes.numbers(["none", "random"]) == [1, 2]
    assert classes.editing_numbers(None) == [3]


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("Dogg", "dog"), ("CAT", "cat"), ("nonne", "none"), ("rando", "random")]
)
def test_a_wrong_name_gives_the_nearest(wrong, nearest):
    with pytest.raises(UserError, match=f"unknown class '{wrong}': the nearest one is '{nearest}'"):
        PLAIN.number(wrong)


@pytest.mark.parametrize(("wrong", "hint"), [
    ("smiley", "the nearest one is 'smileys-emotion'; this model"),
    ("", "this model"),
    ("xyz", "this model"),
])  # fmt: skip
def test_a_part_of_a_name_gives_the_name_and_nothing_near_gives_no_hint(wrong, hint):
    with pytest.raises(UserError, match=f"unknown class '{wrong}': {hint}"):
        Classes(["flags", "smileys-emotion"], dropout=True).number(wrong)


def test_names_of_numbers():
    assert [PLAIN.name(number) for number in (0, 3, RANDOM_CLASS)] == ["cat", "none", "random"]


def test_a_message_lists_few_of_many_classes():
    with pytest.raises(UserError, match="and 80 more"):
        Classes([f"class{i}" for i in range(100)], dropout=True).number("xyz")
