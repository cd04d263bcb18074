import math
from types import SimpleNamespace

import pytest
import torch

from diffusion.likelihood import Bound
from evaluation.likelihood import POINTS, class_labels, match_classes, score_likelihood


class FakePrior:
    """Remembers what its likelihood is asked for."""

    def __init__(self, class_names=("cat", "dog"), guided=True):
        self.class_names, self.no_class, self.guided = list(class_names), len(class_names), guided

    def likelihood(self, codes, labels, generator, points, progress):
        self.asked = (codes, labels.tolist(), generator.initial_seed())
        for _ in range(points):
            progress(len(codes))
        return Bound(2.0, 0.5)


def score(prior, codes, classes, seed=0):
    generator = SimpleNamespace(
        prior=prior, device="cpu", tokenizer=SimpleNamespace(channels=3, downsample=4), class_names=prior.class_names
    )
    return score_likelihood(generator, codes, classes, seed)


@pytest.mark.parametrize(
    ("known", "classes", "labels"),
    [
        (["cat", "dog"], ["dog", "cat", "dog"], [1, 0, 1]),
        (["cat", "dog"], ["dog", "dog", "dog"], [1, 1, 1]),  # only some of the model's classes
        (["cat", "dog"], ["dog", "owl", "dog"], [1, 2, 1]),
        (["cat", "dog"], ["dog", "", "cat"], [1, 2, 0]),
        ([], ["dog", "cat", "dog"], [0, 0, 0]),
    ],
)
def test_every_image_has_the_models_number_of_its_class_or_none(known, classes, labels):
    assert class_labels(classes, known).tolist() == labels


@pytest.mark.parametrize(
    ("names", "guided", "classes", "labels", "what", "counts"),
    [
        (
            "cat dog",
            True,
            "cat dog",
            [0, 1],
            "upper bound on -log p(codes | class) of the reference's codes",
            (2, 0, 0),
        ),
        (
            "cat dog",
            False,
            "dog dog",
            [1, 1],
            "upper bound on -log p(codes | class) of the reference's codes",
            (2, 0, 0),
        ),
        ("cat dog", True, "owl dog", [2, 1], "-log p(codes | class) of 1 images, and on -log p(codes) of 1", (1, 1, 0)),
        ("cat dog", True, "owl yak", [2, 2], "upper bound on -log p(codes) of the reference's codes", (0, 2, 0)),
        ("cat dog", False, "owl dog", [1], "upper bound on -log p(codes | class) of the reference's codes", (1, 0, 1)),
        ("", True, "owl dog", [0, 0], "upper bound on -log p(codes) of the reference's codes", (0, 2, 0)),
        ("", False, "owl dog", [0, 0], "upper bound on -log p(codes) of the reference's codes", (0, 2, 0)),
    ],
)
def test_the_label_says_what_the_number_is_of(names, guided, classes, labels, what, counts):
    prior, codes = FakePrior(names.split(), guided), torch.arange(8).view(2, 2, 2)
    report = score(prior, codes, classes.split())
    assert prior.asked[1] == labels
    assert torch.equal(prior.asked[0], codes[-len(labels) :])
    assert what in report["what"]
    assert (report["images_with_class"], report["images_without_class"], report["images_left_out"]) == counts
    assert report["images"] == len(labels)


def test_without_label_dropout_images_of_unknown_classes_alone_have_no_number():
    prior = FakePrior(guided=False)
    report = score(prior, torch.zeros(2, 2, 2, dtype=torch.int64), ["owl", ""])
    assert not hasattr(prior, "asked")
    assert report["what"].startswith("not scored")
    assert {report[key] for key in report if key.startswith(("nats", "bits"))} == {None}
    assert report["images_left_out"] == 2


def test_the_note_names_some_unknown_classes():
    unknown = {f"bird{index}": 1 for index in range(8)}
    note = match_classes({"cat": 4, "": 3} | unknown, FakePrior()).note()
    assert "4 images are scored given their class, 11 without a class" in note
    assert "'bird0', 'bird1', 'bird2', 'bird3', 'bird4', and 3 more" in note
    assert "3 without a class folder" in note
    assert (
        "4 images are scored given their class, 1 are left out"
        in match_classes({"cat": 4, "owl": 1}, FakePrior(guided=False)).note()
    )


@pytest.mark.parametrize(("classes", "names"), [({"cat": 4}, ("cat", "dog")), ({"cat": 4, "": 3}, ())])
def test_nothing_is_noted_where_all_classes_are_known_or_the_model_has_none(classes, names):
    assert match_classes(classes, FakePrior(names)).note() == ""


@pytest.mark.parametrize(("seed", "used"), [(7, 7), (2**64 - 1, 2**64 - 1), (2**64 + 7, 7)])
def test_the_bound_is_reported_in_nats_and_bits(seed, used):
    prior, codes = FakePrior(), torch.randint(16, (2, 4, 4))
    report = score(prior, codes, ["dog", "cat"], seed=seed)
    assert prior.asked[1:] == ([1, 0], used)
    assert torch.equal(prior.asked[0], codes)
    assert report["nats_per_code"] == 2.0
    assert math.isclose(report["bits_per_code"], 2 / math.log(2))
    assert math.isclose(report["bits_per_code_standard_error"], 0.5 / math.log(2))
    assert math.isclose(report["bits_per_dimension"], report["bits_per_code"] / 48)


def test_the_bar_ends_at_its_total(capsys):
    score(FakePrior(), torch.zeros(3, 2, 2, dtype=torch.int64), ["cat", "dog", "owl"])
    assert f"{3 * POINTS}/{3 * POINTS}" in capsys.readouterr().err
