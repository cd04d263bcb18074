"""The prior as one object: prediction, loss, likelihood, saving and loading."""

import json

import pytest
import torch

from common.errors import UserError
from diffusion.prior import CodeShape, Prior, PriorConfig
from diffusion.settings import SamplingSettings


def make_prior(codebook_size=16, classes=3, **config):
    torch.manual_seed(0)
    prior = Prior(
        PriorConfig(width=32, depth=1, heads=2, **config), codebook_size, (4, 4), [str(i) for i in range(classes)]
    )
    with torch.no_grad():
        for parameter in prior.parameters():  # a new network predicts all codes alike
            parameter.add_(0.2 * torch.randn_like(parameter))
    return prior.eval()


KINDS = {
    "absorbing": {},
    "timed": {"time_conditioned": True},
    "sub-codes": {"groups": 2},
    "uniform": {"graph": "uniform", "noise": "geometric"},
    "score": {"graph": "uniform", "noise": "geometric", "parametrization": "score"},
    "maskgit": {"loss": "maskgit"},
    "lambda_dce": {"loss": "lambda_dce"},
}
EACH = pytest.mark.parametrize("kind", KINDS)


def some_codes(prior, n=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(prior.codebook_size, (n, 4, 4), generator=generator)


@EACH
def test_log_p0_is_normalised_over_the_codes(kind):
    prior = make_prior(**KINDS[kind])
    shape = (2, 4, 4) if prior.groups == 1 else (2, 4, 4, prior.groups)
    codes = prior.graph.limit(shape, torch.Generator().manual_seed(0))
    log_p0 = prior.log_p0(codes, torch.tensor([0.5, 2.0]), torch.tensor([0, 3]))
    assert log_p0.shape == (*shape, prior.vocab_size)
    torch.testing.assert_close(log_p0.exp().sum(-1).float(), torch.ones(shape))


def test_the_predictor_asks_with_and_without_labels_in_one_call():
    prior = make_prior()
    labels, sigma, rows = torch.tensor([2, 0, 1]), torch.ones(2), torch.tensor([0, 2])
    codes = prior.graph.limit((2, 4, 4))
    both = prior.predictor(labels, guided=True)(codes, sigma, rows)
    assert both.shape == (2, 2, 4, 4, 16)
    torch.testing.assert_close(both[0], prior.log_p0(codes, sigma, torch.tensor([2, 1])))
    torch.testing.assert_close(both[1], prior.log_p0(codes, sigma, torch.tensor([3, 3])))
    alone = prior.predictor(labels, guided=False)(codes, sigma, rows)
    torch.testing.assert_close(alone, both[:1])


@EACH
def test_the_loss_is_a_function_of_its_random_numbers_and_has_a_gradient(kind):
    prior = make_prior(**KINDS[kind]).train()
    codes, labels, t = some_codes(prior), torch.tensor([0, -1, 2]), torch.tensor([0.2, 0.5, 0.9])
    first, again, other = (prior.loss(codes, labels, t, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert bool(first.isfinite())
    assert first == again
    assert first != other
    first.backward()
    assert prior.network.head.weight.grad.abs().sum() > 0


def test_labels_are_dropped_as_often_as_configured():
    seen = []
    for label_dropout in (0.0, 0.5):
        prior = make_prior(label_dropout=label_dropout)
        prior.network.register_forward_pre_hook(lambda module, args: seen.append((args[2] == 3).double().mean().item()))
        codes = torch.zeros(2000, 4, 4, dtype=torch.int64)
        prior.loss(codes, torch.zeros(2000, dtype=torch.int64), torch.rand(2000), torch.Generator().manual_seed(0))
    assert seen[0] == 0
    assert seen[1] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("groups", "bits"), [(1, 4.0), (2, 4.0), (4, 4.0)])
def test_the_likelihood_of_a_uniform_network_is_the_number_of_bits_of_a_code(groups, bits):
    prior = make_prior(groups=groups)
    torch.nn.init.zeros_(prior.network.head.weight)
    torch.nn.init.zeros_(prior.network.head.bias)
    bound = prior.likelihood(some_codes(prior, 50), torch.full((50,), -1), torch.Generator().manual_seed(0))
    nats = bits * torch.tensor(2.0).log().item()
    assert abs(bound.nats - nats) < 4 * bound.standard_error + 1e-6


@EACH
def test_what_is_saved_is_loaded(tmp_path, kind):
    generation = SamplingSettings(num_inference_steps=7, temperature=0.9, guidance_interval=(0.1, 0.8))
    prior = make_prior(generation=generation, **KINDS[kind])
    prior.save(tmp_path / "prior", {"steps": 3})
    loaded = Prior.from_pretrained(tmp_path)
    assert loaded.config.resolved() == prior.config
    assert (loaded.grid, loaded.class_names, loaded.codebook_size) == (prior.grid, prior.class_names, 16)
    assert loaded.generation == generation
    assert not loaded.training
    for (name, value), (other, wanted) in zip(loaded.state_dict().items(), prior.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(value, wanted), name
    assert json.loads((tmp_path / "prior/config.json").read_text())["steps"] == 3


def test_a_model_without_generation_defaults_has_those_of_the_settings(tmp_path):
    make_prior().save(tmp_path / "prior", {})
    (tmp_path / "prior/generation.json").unlink()
    assert Prior.from_pretrained(tmp_path).generation == SamplingSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "not an object"),
        ("{", "damaged"),
        ('{"stepz": 3}', "unknown sampling option 'stepz'"),
        ('{"num_inference_steps": 0}', "at least 1"),
        ('{"sampler": 3}', "text"),
    ],
)
def test_damaged_generation_defaults_are_one_line(tmp_path, text, message):
    make_prior().save(tmp_path / "prior", {})
    (tmp_path / "prior/generation.json").write_text(text)
    with pytest.raises(UserError, match=message):
        Prior.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("graph", None),
        ("graph", "tree"),
        ("width", "wide"),
        ("width", 30),
        ("grid", [4]),
        ("grid", [4, 0]),
        ("groups", 3),
        ("groups", -1),
        ("groups", 10**18),
        ("depth", 2),
        ("depth", 10**5),
        ("depth", True),
        ("width", 10**9),
        ("heads", 10**9),
        ("dropout", float("nan")),
        ("label_dropout", "0.1"),
        ("parametrization", "x1"),
        ("parametrization", None),
        ("time_conditioned", True),
        ("codebook_size", 10**9),
        ("codebook_size", 0),
        ("grid", [4, 10**9]),
        ("grid", [2, 8]),
        ("class_names", ["a"]),
        ("class_names", [0, 1, 2]),
        ("class_names", "abc"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_line(tmp_path, key, value):
    make_prior().save(tmp_path / "prior", {})
    file = tmp_path / "prior/config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in (config | {key: value}).items() if v is not None}))
    with pytest.raises(UserError):
        Prior.from_pretrained(tmp_path)


def test_weights_that_explode_are_one_line_where_they_are_used():
    prior = make_prior()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.fill_(1e30)
    with pytest.raises(UserError, match="output is not finite"):
        prior.log_p0(prior.graph.limit((1, 4, 4)), torch.ones(1), torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize("kind", ["folder", "broken link"])
def test_generation_defaults_that_are_no_file_are_not_passed_over(tmp_path, kind):
    make_prior().save(tmp_path / "prior", {})
    file = tmp_path / "prior/generation.json"
    file.unlink()
    file.mkdir() if kind == "folder" else file.symlink_to("nowhere")
    with pytest.raises(UserError, match=r"generation\.json is not a file"):
        Prior.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("graph", "parametrization", "loss", "timed"),
    [
        ("absorbing", "x0", "score_entropy", False),
        ("uniform", "x0", "cross_entropy", True),
        ("uniform", "score", "score_entropy", True),
    ],
)
def test_automatic_values_are_decided_by_the_graph(graph, parametrization, loss, timed):
    config = PriorConfig(graph=graph, parametrization=parametrization).resolved(groups=2)
    assert config.loss == loss
    assert config.time_conditioned is timed
    assert config.groups == 2


def test_a_grid_is_two_numbers():
    with pytest.raises(ValueError, match="grid"):
        CodeShape(16, [1, 2, 3], [])
