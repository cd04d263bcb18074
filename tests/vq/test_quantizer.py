import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from common.errors import UserError
from diffusion.subcodes import merge_codes, split_codes
from tests.processes import run_two_processes
from vq.quantizer import QuantizerConfig, build_quantizer

CONFIGS = {
    "vq": QuantizerConfig(codebook_size=16, codebook_dim=4, kmeans_init=False),
    "vq euclidean": QuantizerConfig(codebook_size=16, codebook_dim=4, kmeans_init=False, cosine=False),
    "vq kmeans": QuantizerConfig(codebook_size=16, codebook_dim=4),
    "simvq": QuantizerConfig(kind="simvq", codebook_size=16, codebook_dim=4),
    "fsq": QuantizerConfig(kind="fsq", codebook_size=60, levels=[5, 4, 3]),
    "fsq groups": QuantizerConfig(kind="fsq", codebook_size=144, levels=[3, 4, 4, 3], groups=2),
    "lfq": QuantizerConfig(kind="lfq", codebook_size=64),
    "lfq groups": QuantizerConfig(kind="lfq", codebook_size=64, groups=2),
    "bsq": QuantizerConfig(kind="bsq", codebook_size=64, groups=3),
}


def make(name):
    torch.manual_seed(0)
    return build_quantizer(CONFIGS[name])


def latents_for(quantizer, requires_grad=False):
    shape = (3, quantizer.dim, 6, 5)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_(requires_grad)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("autocast", [False, True])
def test_decoded_codes_are_the_quantized_latents_in_both_modes(name, autocast):
    quantizer = make(name).train()
    latents = latents_for(quantizer)
    if name.startswith("vq"):
        quantizer(latents)  # so that k-means has run and the codebook has moved
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        # The codebook is updated after the codes are chosen: look them up in the codebook of before.
        before = {key: value.clone() for key, value in quantizer.state_dict().items()}
        trained = quantizer(latents)
        quantizer.load_state_dict(before)
        torch.testing.assert_close(quantizer.decode(trained.codes), trained.latents)
        quantizer.eval()
        evaluated = quantizer(latents)
    assert evaluated.codes.shape == (3, 6, 5)
    assert evaluated.codes.dtype == torch.int64
    assert evaluated.losses == {}
    assert 0 <= evaluated.codes.min() <= evaluated.codes.max() < quantizer.codebook_size
    assert torch.equal(quantizer.decode(evaluated.codes), evaluated.latents)
    assert evaluated.latents.dtype == torch.float32
    assert torch.equal(trained.codes, evaluated.codes)
    assert torch.equal(evaluated.codes, quantizer(latents).codes), "autocast around the quantizer changed the codes"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_loaded_quantizer_gives_the_same_codes_and_latents(name, tmp_path):
    quantizer = make(name).train()
    latents = latents_for(quantizer)
    quantizer(latents)  # moves a learned codebook
    expected = quantizer.eval()(latents)
    save_file({key: value.contiguous() for key, value in quantizer.state_dict().items()}, tmp_path / "q.safetensors")
    torch.manual_seed(5)
    loaded = build_quantizer(CONFIGS[name]).eval()
    loaded.load_state_dict(load_file(tmp_path / "q.safetensors"))
    assert torch.equal(loaded(latents).codes, expected.codes)
    assert torch.equal(loaded.decode(expected.codes), expected.latents)


@pytest.mark.parametrize("name", ["fsq", "lfq", "bsq"])
def test_fixed_codes_are_distinct_and_all_of_them_are_reached(name):
    quantizer = make(name).eval()
    codes = torch.arange(quantizer.codebook_size).view(1, 1, -1)
    lattice = quantizer.decode(codes)
    assert torch.unique(lattice, dim=-1).shape == lattice.shape
    # FSQ applies tanh with an offset, so it does not map its own latents to themselves; signs do not change.
    if name == "fsq":
        wide = torch.randn(1, quantizer.dim, 1, 5000) * 3
        assert len(torch.unique(quantizer(wide).codes)) == quantizer.codebook_size
    else:
        assert torch.equal(quantizer(lattice).codes, codes)


@pytest.mark.parametrize("name", ["vq", "vq euclidean", "simvq"])
def test_the_nearest_code_is_chosen(name):
    quantizer = make(name).eval()
    latents = latents_for(quantizer)
    book = quantizer.decode(torch.arange(16).view(1, 1, -1))[0, :, 0].T  # (16, D)
    points = latents.movedim(1, -1)
    if name == "vq":
        points = F.normalize(points, dim=-1)
    assert torch.equal(quantizer(latents).codes, torch.cdist(points.flatten(0, 2), book).argmin(1).view(3, 6, 5))


@pytest.mark.parametrize(("name", "base"), [("lfq groups", 8), ("fsq groups", 12), ("bsq", 4)])
def test_a_sub_code_determines_a_group_of_dimensions(name, base):
    quantizer = make(name).eval()
    codes = torch.arange(quantizer.codebook_size).view(1, 1, -1)
    sub_codes = split_codes(codes, quantizer.groups, base)
    assert torch.equal(merge_codes(sub_codes, quantizer.groups, base), codes)
    # the first group of dimensions is the lowest digit for levels, and the highest for bits
    parts = quantizer.decode(codes)[0, :, 0].chunk(quantizer.groups)
    order = range(quantizer.groups) if name.startswith("fsq") else reversed(range(quantizer.groups))
    for part, group in zip(parts, order, strict=True):
        seen = {}
        for column, value in zip(part.T.tolist(), sub_codes[0, 0, :, group].tolist(), strict=True):
            assert seen.setdefault(value, column) == column, f"sub-code {value} of group {group} has two meanings"
        assert len(seen) == base
        assert len({tuple(column) for column in seen.values()}) == base


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_reach_the_encoder(name):
    quantizer = make(name).train()
    latents = latents_for(quantizer, requires_grad=True)
    output = quantizer(latents)
    (output.latents.square().sum() + sum(output.losses.values())).backward()
    assert bool(latents.grad.isfinite().all())
    assert latents.grad.abs().sum() > 0


BITS = {"commitment", "entropy_each", "entropy_mean"}
LOSSES = {"vq": {"commitment"}, "simvq": {"commitment"}, "fsq": set(), "lfq": BITS, "bsq": BITS}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_losses_of_each_kind_are_finite_scalars(name):
    quantizer = make(name).train()
    losses = quantizer(latents_for(quantizer)).losses
    assert losses.keys() == LOSSES[CONFIGS[name].kind]
    assert all(value.ndim == 0 and bool(value.isfinite()) for value in losses.values())


def test_the_rotation_trick_changes_the_gradient():
    gradients = []
    for trick in (True, False):
        torch.manual_seed(0)
        config = QuantizerConfig(codebook_size=16, codebook_dim=4, kmeans_init=False, rotation_trick=trick)
        quantizer = build_quantizer(config).train()
        latents = latents_for(quantizer, requires_grad=True)
        (quantizer(latents).latents * torch.arange(4.0).view(1, 4, 1, 1)).sum().backward()
        gradients.append(latents.grad)
    assert not torch.allclose(*gradients)


def test_the_codebook_is_updated_in_train_mode_also_without_gradients_and_not_in_eval_mode():
    quantizer = make("vq").eval()
    before = quantizer.state_dict()["quantize._codebook.embed"].clone()
    quantizer(latents_for(quantizer))
    assert torch.equal(before, quantizer.state_dict()["quantize._codebook.embed"])
    with torch.no_grad():
        quantizer.train()(latents_for(quantizer))
    assert not torch.equal(before, quantizer.state_dict()["quantize._codebook.embed"])


def test_an_untrained_codebook_is_refused_in_eval_mode():
    quantizer = make("vq kmeans").eval()
    with pytest.raises(UserError, match="never trained"):
        quantizer(latents_for(quantizer))
    quantizer.train()(latents_for(quantizer))
    assert quantizer.eval()(latents_for(quantizer)).codes.shape == (3, 6, 5)


def test_the_codebook_is_a_moving_average_with_the_configured_decay():
    config = QuantizerConfig(
        codebook_size=2, codebook_dim=1, kmeans_init=False, cosine=False, decay=0.75, dead_code_threshold=0
    )
    quantizer = build_quantizer(config).train()
    book = quantizer.quantize._codebook
    book.embed.copy_(torch.tensor([[[0.0], [10.0]]]))
    book.embed_avg.copy_(book.embed)
    quantizer(torch.tensor([1.0, 1.0, 12.0, 12.0]).view(1, 1, 2, 2))
    # sizes 0.75 x 1 + 0.25 x 2 = 1.25; sums 0.25 x 2 = 0.5, and 0.75 x 10 + 0.25 x 24 = 13.5
    torch.testing.assert_close(book.embed.flatten(), torch.tensor([0.5, 13.5]) / 1.25, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("threshold", "fewest", "most"), [(1.0, 24, 32), (0.0, 1, 8)])
def test_unused_codes_are_replaced_if_there_is_a_threshold(threshold, fewest, most):
    config = QuantizerConfig(codebook_size=32, codebook_dim=4, kmeans_init=False, dead_code_threshold=threshold)
    torch.manual_seed(0)
    quantizer = build_quantizer(config)
    with torch.no_grad():  # all codes except two are far from all latents
        quantizer.quantize._codebook.embed[0, 2:] = F.normalize(torch.tensor([1.0, 0, 0, 0]), dim=0)
        quantizer.quantize._codebook.embed_avg.copy_(quantizer.quantize._codebook.embed)
    latents = F.normalize(torch.randn(8, 4, 8, 8), dim=1)
    latents[:, 0] = -latents[:, 0].abs() - 1
    for _ in range(60):
        quantizer.train()(latents)
    assert fewest <= len(torch.unique(quantizer.eval()(latents).codes)) <= most


@pytest.mark.parametrize("name", ["vq", "vq kmeans"])
def test_latents_that_are_not_finite_do_not_update_the_codebook(name):
    quantizer = make(name).train()
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    latents = latents_for(quantizer)
    latents[0, 0, 0, 0] = math.nan
    output = quantizer(latents)
    assert math.isnan(sum(output.losses.values()))
    assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("commitment_weight", "commitment"),
        ("entropy_weight", "entropy_each"),
        ("entropy_weight", "entropy_mean"),
        ("entropy_gamma", "entropy_mean"),
    ],
)
def test_weights_scale_their_loss(key, part):
    values = []
    for scale in (0.5, 1.5):
        config = QuantizerConfig(kind="lfq", codebook_size=16, entropy_temperature=1.0, **{key: scale})
        torch.manual_seed(0)
        values.append(build_quantizer(config).train()(torch.randn(2, 4, 5, 5)).losses[part])
    assert (values[0] < 0) == (part == "entropy_mean"), "a high entropy of the mean is rewarded"
    torch.testing.assert_close(values[1], 3 * values[0])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "gumbel"}, "simvq"),
        ({"kind": "fsq", "codebook_size": 1024, "levels": [8, 5, 5, 5]}, "is 1000: set .*codebook_size=1000"),
        ({"kind": "fsq", "codebook_size": 16}, "far from .* set tokenizer.quantizer.codebook_size=240"),
        ({"kind": "fsq", "codebook_size": 2**20}, "far from .* set tokenizer.quantizer.codebook_size=64000"),
        ({"kind": "fsq", "codebook_size": 4, "levels": [2, 2]}, "at least 3"),
        ({"levels": [8, 8]}, "for fsq"),
        ({"kind": "lfq", "codebook_size": 1000}, "power of two .*=512 or 1024"),
        ({"kind": "bsq", "codebook_size": 1000, "groups": 2}, "power of two .*=256 or 1024"),
        ({"kind": "bsq", "codebook_size": 5, "groups": 3}, "power of two .*=8$"),
        (
            {"kind": "lfq", "codebook_size": 1024, "groups": 3},
            "10 bits .* set tokenizer.quantizer.groups=1 or 2 or 5 or 10",
        ),
        ({"kind": "fsq", "codebook_size": 60, "levels": [5, 4, 3], "groups": 3}, "equal groups"),
        ({"groups": 2}, "have no sub-codes"),
        ({"decay": 1.0}, "decay"),
        ({"commitment_weight": -1.0}, "commitment_weight"),
        ({"entropy_temperature": 0.0}, "entropy_temperature"),
        ({"codebook_size": 1}, "at least 2"),
        ({"kind": "lfq", "codebook_size": 2**36}, "at most"),
        ({"codebook_dim": 0}, "codebook_dim"),
    ],
)
def test_bad_configurations(keys, message):
    with pytest.raises(ValueError, match=message):
        QuantizerConfig(**keys)


def test_two_processes_keep_one_codebook_and_one_entropy():
    """50 steps with k-means and replacement of codes, over gloo; tests/vq/two_processes.py compares the processes."""
    done = run_two_processes("-m", "tests.vq.two_processes")
    for passed in ("one codebook", "one entropy", "skipped together"):
        assert passed in done.stdout


@pytest.mark.parametrize(
    ("asked", "size", "levels"),
    [
        (128, 240, [8, 6, 5]),
        (256, 240, [8, 6, 5]),
        (512, 1000, [8, 5, 5, 5]),
        (1024, 1000, [8, 5, 5, 5]),
        (2048, 1000, [8, 5, 5, 5]),
        (4096, 4375, [7, 5, 5, 5, 5]),
        (16384, 15360, [8, 8, 8, 6, 5]),
        (65536, 64000, [8, 8, 8, 5, 5, 5]),
    ],
)
def test_fsq_without_levels_has_those_of_the_paper(asked, size, levels):
    config = QuantizerConfig(kind="fsq", codebook_size=asked)
    assert (config.codebook_size, config.levels) == (size, levels)
    assert config == QuantizerConfig(kind="fsq", codebook_size=size, levels=levels)  # as it is stored and loaded
    quantizer = build_quantizer(config)
    assert quantizer.codebook_size == size
    assert quantizer.decode(torch.tensor([[[size - 1]]])).shape == (1, len(levels), 1, 1)
