import math
from types import SimpleNamespace

import pytest
import torch

from diffusion.likelihood import Bound
from evaluation.likelihood import class_labels, score_likelihood


@pytest.mark.parametrize(
    ("known", "classes", "labels"),
    [
        (["cat", "dog"], ["dog", "cat", "dog"], [1, 0, 1]),
        (["cat", "dog"], ["dog", "owl", "dog"], [2, 2, 2]),  # other classes: "no class"
        (["cat", "dog"], ["dog", "", "cat"], [2, 2, 2]),
        ([], ["dog", "cat", "dog"], [0, 0, 0]),
    ],
)
def test_labels_are_those_of_the_model_or_none(known, classes, labels):
    assert class_labels(classes, known).tolist() == labels


@pytest.mark.parametrize(("seed", "used"), [(7, 7), (2**64 - 1, 2**64 - 1), (2**64 + 7, 7)])
def test_the_bound_is_reported_in_nats_and_bits(seed, used):
    asked = {}

    class Prior:
        def likelihood(self, codes, labels, generator):
            asked.update(codes=codes, labels=labels.tolist(), seed=generator.initial_seed())
            return Bound(2.0, 0.5)

    generator = SimpleNamespace(
        prior=Prior(), class_names=["cat", "dog"], device="cpu", tokenizer=SimpleNamespace(channels=3, downsample=4)
    )
    codes = torch.randint(16, (2, 4, 4))
    report = score_likelihood(generator, codes, ["dog", "cat"], seed=seed)
    assert asked["labels"] == [1, 0]
    assert asked["seed"] == used
    assert torch.equal(asked["codes"], codes)
    assert report["nats_per_code"] == 2.0
    assert math.isclose(report["bits_per_code"], 2 / math.log(2))
    assert math.isclose(report["bits_per_code_standard_error"], 0.5 / math.log(2))
    assert math.isclose(report["bits_per_dimension"], report["bits_per_code"] / 48)
