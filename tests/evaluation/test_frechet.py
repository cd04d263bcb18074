import torch

from common.metrics import frechet_distance
from evaluation.frechet import distance_with_bar, frechet_part


def test_a_bar_with_the_networks_name_says_what_is_computed(capsys):
    features, reference = torch.rand(5, 3), torch.rand(6, 3)
    assert distance_with_bar(features, reference, "network@64") == frechet_distance(features, reference)
    assert "Frechet distance of network@64" in capsys.readouterr().err


def test_a_frechet_distance_names_everything_that_it_depends_on():
    part = frechet_part(3.0, "network@64", 20, "folder", 500)
    assert part.pop("note") == "not FID: another feature network"
    assert part == {
        "frechet_distance": 3.0,
        "extractor": "network@64",
        "images": 20,
        "reference": "folder",
        "reference_images": 500,
    }
