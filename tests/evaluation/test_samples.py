from types import SimpleNamespace

import pytest
import torch

from common.errors import UserError
from common.metrics import frechet_distance
from diffusion.labels import Classes
from diffusion.settings import SamplingSettings
from evaluation import samples
from evaluation.samples import choose_settings, score_samples


class FakeGenerator:
    """Samples codes that are their own index; decodes a code to an image of that value / 100."""

    def __init__(self, class_names=("cat", "dog"), guided=True, defaults=None):
        self.class_names, self.guided = list(class_names), guided
        self.classes = Classes(self.class_names, guided)
        self.defaults = defaults or SamplingSettings()
        self.calls = []
        self.tokenizer = SimpleNamespace(decode=lambda codes: codes[:, None].float() / 100)

    def settings(self, **options):
        return self.defaults.updated(options)

    def request(self, n, labels, output_type, options):
        return SimpleNamespace(n=n, labels=labels, **options)

    def sample_batches(self, request, batch_size):
        """Reports a network call for each sample."""
        self.calls.append(request)
        for first in range(0, request.n, batch_size):
            codes = torch.arange(first, min(first + batch_size, request.n))[:, None, None].expand(-1, 2, 2)
            request.progress(min(first + batch_size, request.n), request.n)
            yield SimpleNamespace(codes=codes, network_calls=torch.full((len(codes),), 2 + (first > 0)))


class FakeExtractor(torch.nn.Module):
    name = "fake"

    def forward(self, images):
        return images.flatten(1)[:, :3]


@pytest.fixture
def with_defaults(tmp_path):
    (tmp_path / "prior").mkdir()
    (tmp_path / "prior/generation.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("guided", "options", "scale"), [(True, {}, 2.0), (False, {}, 1.0), (True, {"guidance_scale": 3.0}, 3.0)]
)
def test_a_model_without_generation_defaults_has_guidance_2_if_it_can(tmp_path, guided, options, scale, capsys):
    settings = choose_settings(FakeGenerator(guided=guided), tmp_path, options)
    assert settings == SamplingSettings(guidance_scale=scale)
    assert f"guidance {scale:g}" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "scale"), [({}, 1.5), ({"guidance_scale": 3.0}, 3.0)])
def test_generation_defaults_of_the_model_come_before_guidance_2(with_defaults, options, scale, capsys):
    generator = FakeGenerator(defaults=SamplingSettings(num_inference_steps=8, guidance_scale=1.5))
    settings = choose_settings(generator, with_defaults, options)
    assert settings == SamplingSettings(num_inference_steps=8, guidance_scale=scale)
    assert f"8 steps, guidance {scale:g}" in capsys.readouterr().err


def test_samples_are_scored_in_batches_over_all_classes(monkeypatch, capsys):
    monkeypatch.setattr(samples, "BATCH_SIZE", 4)
    generator, settings = FakeGenerator(), SamplingSettings(num_inference_steps=5)
    reference = torch.rand(7, 3)
    report = score_samples(generator, settings, 10, 3, FakeExtractor(), "folder", reference)
    (request,) = generator.calls
    assert (request.n, request.labels, request.settings, request.seed) == (10, [0, 1], settings, 3)
    assert "10/10" in capsys.readouterr().err
    levels = ((torch.arange(10) / 100 + 1) * 127.5).round() / 127.5 - 1  # at 8 bits
    wanted = frechet_distance(levels[:, None].expand(-1, 3), reference)
    assert report["frechet_distance"] == pytest.approx(wanted, abs=1e-6)
    assert report["network_calls"] == pytest.approx(2.6)
    assert report["images"] == 10
    assert report["reference_images"] == 7
    assert report["num_inference_steps"] == 5
    assert report["seed"] == 3
    assert report["classes"] == "all, equally often"


def test_a_model_without_classes_is_sampled_without_labels():
    generator = FakeGenerator(class_names=())
    report = score_samples(generator, SamplingSettings(), 2, 0, FakeExtractor(), "folder", torch.rand(3, 3))
    assert generator.calls[0].labels == [0]
    assert report["classes"] == "none"


def test_samples_that_are_not_finite_are_refused():
    generator = FakeGenerator()
    generator.tokenizer.decode = lambda codes: torch.full((len(codes), 1, 2, 2), torch.nan)
    with pytest.raises(UserError, match="not finite"):
        score_samples(generator, SamplingSettings(), 2, 0, FakeExtractor(), "folder", torch.rand(3, 3))
