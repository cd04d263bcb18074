import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from vector_quantize_pytorch import LFQ

from common.errors import UserError
from vq.quantizer import QuantizerConfig, binary_entropies, build_quantizer

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
def test_codes_lead_back_to_their_latents_in_both_modes_and_after_loading(name, autocast, tmp_path):
    quantizer = make(name).train()
    latents = latents_for(quantizer)
    if name.startswith("vq"):
        quantizer(latents)  # so that k-means has run and the codebook has moved
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        # The codebook moves after the codes are chosen, so what was chosen is looked up in the codebook of before.
        before = {key: value.clone() for key, value in quantizer.state_dict().items()}
        trained = quantizer(latents)
        quantizer.load_state_dict(before)
        torch.testing.assert_close(quantizer.decode(trained.codes), trained.latents)
        quantizer.eval()
        scored = quantizer(latents)
    assert scored.codes.shape == (3, 6, 5) and scored.codes.dtype == torch.int64 and scored.losses == {}
    assert scored.codes.min() >= 0 and scored.codes.max() < quantizer.codebook_size
    assert torch.equal(quantizer.decode(scored.codes), scored.latents) and scored.latents.dtype == torch.float32
    assert torch.equal(trained.codes, scored.codes)
    assert torch.equal(scored.codes, quantizer(latents).codes)  # half precision around it chooses no other codes

    from safetensors.torch import load_file, save_file

    save_file({key: value.contiguous() for key, value in quantizer.state_dict().items()}, tmp_path / "q.safetensors")
    torch.manual_seed(5)
    again = build_quantizer(CONFIGS[name]).eval()
    again.load_state_dict(load_file(tmp_path / "q.safetensors"))
    assert torch.equal(again(latents).codes, scored.codes) and torch.equal(again.decode(scored.codes), scored.latents)


@pytest.mark.parametrize("name", ["fsq", "lfq", "bsq"])
def test_every_code_of_a_fixed_lattice_is_its_own_nearest(name):
    quantizer = make(name).eval()
    codes = torch.arange(quantizer.codebook_size).view(1, 1, -1)
    lattice = quantizer.decode(codes)
    assert torch.unique(lattice, dim=-1).shape == lattice.shape
    # FSQ bounds its input by tanh with an offset, so a point of the lattice comes from elsewhere; signs stay.
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


def test_sub_codes_are_digits_of_a_code_and_groups_of_its_dimensions():
    from diffusion.codes import merge_codes, split_codes

    for name, base in (("lfq groups", 8), ("fsq groups", 12), ("bsq", 4)):
        quantizer = make(name).eval()
        codes = torch.arange(quantizer.codebook_size).view(1, 1, -1)
        digits = split_codes(codes, quantizer.groups, base)
        assert torch.equal(merge_codes(digits, quantizer.groups, base), codes)
        # a group's dimensions depend on its digit alone: first group lowest for levels, highest for bits
        parts = quantizer.decode(codes)[0, :, 0].chunk(quantizer.groups)
        order = range(quantizer.groups) if name.startswith("fsq") else reversed(range(quantizer.groups))
        for part, digit in zip(parts, order, strict=True):
            seen = {}
            for column, value in zip(part.T.tolist(), digits[0, 0, :, digit].tolist(), strict=True):
                assert seen.setdefault(value, column) == column
            assert len(seen) == base and len({tuple(column) for column in seen.values()}) == base


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_reach_the_encoder(name):
    quantizer = make(name).train()
    latents = latents_for(quantizer, requires_grad=True)
    output = quantizer(latents)
    (output.latents.square().sum() + sum(output.losses.values())).backward()
    assert bool(latents.grad.isfinite().all()) and latents.grad.abs().sum() > 0
    assert all(value.ndim == 0 and bool(value.isfinite()) for value in output.losses.values())
    expected = {"vq": {"commitment"}, "simv": {"commitment"}, "fsq": set()}.get(
        name[:4].strip(), {"commitment", "entropy_each", "entropy_mean"}
    )
    assert set(output.losses) == (expected if not name.startswith("vq") else {"commitment"})


def test_the_rotation_trick_acts():
    gradients = []
    for trick in (True, False):
        torch.manual_seed(0)
        config = QuantizerConfig(codebook_size=16, codebook_dim=4, kmeans_init=False, rotation_trick=trick)
        quantizer = build_quantizer(config).train()
        latents = latents_for(quantizer, requires_grad=True)
        (quantizer(latents).latents * torch.arange(4.0).view(1, 4, 1, 1)).sum().backward()
        gradients.append(latents.grad)
    assert not torch.allclose(*gradients)


def test_eval_moves_no_codebook_and_train_does_even_without_gradients():
    quantizer = make("vq").eval()
    before = quantizer.state_dict()["quantize._codebook.embed"].clone()
    quantizer(latents_for(quantizer))
    assert torch.equal(before, quantizer.state_dict()["quantize._codebook.embed"])
    with torch.no_grad():
        quantizer.train()(latents_for(quantizer))
    assert not torch.equal(before, quantizer.state_dict()["quantize._codebook.embed"])


def test_a_codebook_that_was_never_trained_is_not_started_by_pictures_to_score():
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


def test_dead_codes_are_revived_and_without_a_threshold_are_not():
    for threshold in (1.0, 0.0):
        config = QuantizerConfig(codebook_size=32, codebook_dim=4, kmeans_init=False, dead_code_threshold=threshold)
        torch.manual_seed(0)
        quantizer = build_quantizer(config)
        with torch.no_grad():  # all codes but two far from everything
            quantizer.quantize._codebook.embed[0, 2:] = F.normalize(torch.tensor([1.0, 0, 0, 0]), dim=0)
            quantizer.quantize._codebook.embed_avg.copy_(quantizer.quantize._codebook.embed)
        latents = F.normalize(torch.randn(8, 4, 8, 8), dim=1)
        latents[:, 0] = -latents[:, 0].abs() - 1
        for _ in range(60):
            quantizer.train()(latents)
        used = len(torch.unique(quantizer.eval()(latents).codes))
        assert used >= 24 if threshold else used <= 8, (threshold, used)


def test_latents_that_are_not_finite_move_no_codebook():
    for name in ("vq", "vq kmeans"):
        quantizer = make(name).train()
        before = {key: value.clone() for key, value in quantizer.state_dict().items()}
        latents = latents_for(quantizer)
        latents[0, 0, 0, 0] = math.nan
        output = quantizer(latents)
        assert math.isnan(sum(output.losses.values()))
        assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())


@pytest.mark.parametrize("kind", ["lfq", "bsq"])
def test_entropies_against_the_sum_over_all_codes(kind):
    torch.manual_seed(0)
    latents = (torch.randn(50, 4) * 0.2).double()
    scale = 0.5 if kind == "bsq" else 1.0  # 1 / sqrt(4)
    bits = torch.tensor([[(code >> b) & 1 for b in (3, 2, 1, 0)] for code in range(16)], dtype=torch.float64)
    book = (2 * bits - 1) * scale
    for temperature in (0.5, 2.0):
        p = torch.softmax(2 * latents @ book.T / temperature, dim=1)
        each = -(p * p.log()).sum(1).mean()
        mean = -(p.mean(0) * p.mean(0).log()).sum()
        got = binary_entropies(latents, scale, 1, temperature)
        torch.testing.assert_close(got[0], each)
        torch.testing.assert_close(got[1], mean)
        # by groups: the entropy of each half's own mean
        halves = [p.view(50, 4, 4).sum(2).mean(0), p.view(50, 4, 4).sum(1).mean(0)]
        torch.testing.assert_close(
            binary_entropies(latents, scale, 2, temperature)[1], sum(-(h * h.log()).sum() for h in halves)
        )


def test_entropies_are_those_of_the_library_in_one_process():
    torch.manual_seed(0)
    latents = torch.randn(2, 6, 8, 8) * 0.02
    library = LFQ(codebook_size=64, entropy_loss_weight=1.0).train()
    _, parts = library(latents, inv_temperature=100.0, return_loss_breakdown=True)
    each, mean = binary_entropies(latents.movedim(1, -1).flatten(0, -2), 1.0, 1, 0.01)
    torch.testing.assert_close(each, parts.per_sample_entropy, rtol=1e-3, atol=1e-3)  # it clamps at 1e-5
    torch.testing.assert_close(mean, parts.batch_entropy, rtol=1e-3, atol=1e-3)


def test_entropies_have_finite_gradients_far_from_zero():
    latents = torch.tensor([[30.0, -30.0], [0.0, 1e-3]], requires_grad=True)
    each, mean = binary_entropies(latents, 1.0, 1, 0.01)
    (each - mean).backward()
    assert bool(latents.grad.isfinite().all()) and each >= 0 and mean >= 0


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"kind": "gumbel"}, "simvq"),
        ({"kind": "fsq", "codebook_size": 1024, "levels": [8, 5, 5, 5]}, "which is 1000: set codebook_size=1000"),
        ({"kind": "fsq", "codebook_size": 1024}, "such as"),
        ({"kind": "fsq", "codebook_size": 4, "levels": [2, 2]}, "at least 3"),
        ({"levels": [8, 8]}, "for fsq"),
        ({"kind": "lfq", "codebook_size": 1000}, "power of two"),
        ({"kind": "lfq", "codebook_size": 1024, "groups": 3}, "10 bits"),
        ({"kind": "fsq", "codebook_size": 60, "levels": [5, 4, 3], "groups": 3}, "equal groups"),
        ({"groups": 2}, "one code a position"),
        ({"decay": 1.0}, "decay"),
        ({"commitment_weight": -1.0}, "commitment_weight"),
        ({"entropy_temperature": 0.0}, "entropy_temperature"),
        ({"codebook_size": 1}, "at least 2"),
        ({"kind": "lfq", "codebook_size": 2**36}, "at most"),
        ({"codebook_dim": 0}, "codebook_dim"),
    ],
)
def test_bad_configurations(keys, said):
    with pytest.raises(ValueError, match=said):
        QuantizerConfig(**keys)


def test_two_processes_keep_one_codebook_and_one_entropy():
    """50 steps with k-means and expiry on, over gloo; tests/vq/two_processes.py compares and says so."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.vq.two_processes"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "one codebook" in done.stdout and "one entropy" in done.stdout and "skipped together" in done.stdout
