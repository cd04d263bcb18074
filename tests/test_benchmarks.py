"""What benchmarks say: computed memory against real steps on a processor, and that the comparison with diffusers runs."""

import json
import math
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from benchmarks import memory, tokenizer
from common.config import TrainConfig
from common.errors import run_cli
from images.dataset import DataConfig
from vq.discriminator import DiscriminatorConfig, build_discriminator
from vq.loss import LossConfig
from vq.quantizer import QuantizerConfig
from vq.stage import TokenizerStage
from vq.tokenizer import Tokenizer, TokenizerConfig

SIZE, BATCH = 16, 2


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def accelerate_anew():
    AcceleratorState._reset_state(True)  # it holds a process to its first precision
    yield
    AcceleratorState._reset_state(True)


def configured(half="no", perceptual="none", width=32, quantizer=None, **changes) -> TokenizerConfig:
    return TokenizerConfig(
        width=width,
        blocks=1,
        quantizer=QuantizerConfig(kmeans_init=False, dead_code_threshold=0.0, **(quantizer or {})),
        loss=LossConfig(perceptual=perceptual, adversarial_start=0),
        train=TrainConfig(batch_size=BATCH, mixed_precision=half),
        **changes,
    )


def computed(config: TokenizerConfig, device="cpu", size=SIZE, gpus=1) -> memory.Memory:
    return memory.training_memory(config, size, 3, gpus, device)


def really_kept(config: TokenizerConfig) -> int:
    """Bytes of the storages that hooks see on a real forward pass and that are still there when it is over."""
    torch.manual_seed(0)
    model = Tokenizer(config, SIZE, 3).train()
    weights = {tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    seen = []

    def pack(tensor):
        seen.append(weakref.ref(tensor.untyped_storage()))
        return tensor.detach()

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=config.train.mixed_precision == "bf16"):
        output = model(torch.rand(BATCH, 3, SIZE, SIZE) * 2 - 1)
    assert output.reconstruction.requires_grad
    alive = [storage() for storage in seen if storage() is not None]
    return sum({s.data_ptr(): s.nbytes() for s in alive if s.data_ptr() not in weights}.values())


def test_kept_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU())
    images = torch.rand(2, 3, 4, 4)
    with memory.Kept(network.parameters()) as kept:
        output = network(images)
    # the picture; convolution's and norm's results; mean and 1 / deviation of 2 groups in 2 pictures
    assert output.requires_grad and kept.bytes_by_part() == {"": 4 * (2 * 3 * 16 + 2 * (2 * 8 * 16) + 2 * 2 * 2)}


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "vqgan+"},
        {"architecture": "taming", "quantizer": {"kind": "lfq"}},
        {"architecture": "amused", "gradient_checkpointing": True, "quantizer": {"kind": "simvq"}},
        {"architecture": "maskgit", "quantizer": {"kind": "fsq", "codebook_size": 64, "levels": [4, 4, 4]}},
    ],
    ids=lambda changes: changes["architecture"],
)
def test_activations_without_contents_are_those_of_a_real_pass(changes):
    config = configured(**changes)
    assert computed(config).activations == really_kept(config)


def test_half_precision_counts_what_autocast_casts():
    config = configured("bf16")
    kept = computed(config)
    # group norm's means, which the fake operation holds in half precision and the real one does not, are what differs
    assert kept.activations == pytest.approx(really_kept(config), rel=2e-3)
    model = memory.build_generator(config, SIZE, 3)
    casts = sum(2 * m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    assert kept.batch_free == casts
    whole = computed(configured())
    assert whole.batch_free == 0 and whole.activations == BATCH * whole.picture
    # On CUDA group norm and SiLU keep float32: about 4 + 4 + 2 bytes where float32 has 4 + 4 + 4 and a processor 2 + 2 + 2.
    on_cuda = computed(config, "cuda")
    # What group norm copies into another layout comes on top there.
    assert kept.picture / whole.picture == pytest.approx(0.55, abs=0.02)
    assert on_cuda.picture / whole.picture == pytest.approx(10 / 12, abs=0.03)


@pytest.mark.parametrize(
    ("quantizer", "bytes_a_pair"),
    [
        ({"kind": "vq"}, 4 + 8 + 4),  # distances, one-hot in int64, one-hot in float
        ({"kind": "simvq"}, 4),  # cdist
        ({"kind": "lfq"}, 4 + 4 + 4),  # the last doubling: what it multiplies is kept, two halves, their concatenation
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else None,
)
def test_quantizer_holds_matrices_of_tokens_times_codes(quantizer, bytes_a_pair):
    config = configured(quantizer=quantizer | {"codebook_size": 4096})
    pairs = BATCH * (64 // config.downsample) ** 2 * 4096
    assert computed(config, size=64).quantizer_peak == pytest.approx(bytes_a_pair * pairs, rel=0.06)


def test_quantizer_without_matrices_is_told_from_the_encoder_before_it():
    # With levels computed again, the encoder's own peak is far above what is left of it when the quantizer begins.
    config = configured(
        quantizer={"kind": "fsq", "codebook_size": 64, "levels": [4, 4, 4]}, gradient_checkpointing=True
    )
    latents = BATCH * (64 // config.downsample) ** 2 * 3 * 4
    assert latents < computed(config, size=64).quantizer_peak < 10 * latents


@pytest.mark.parametrize(
    ("changes", "slack"),
    [
        ({"perceptual": "efficientnet"}, 0.03),
        ({"half": "bf16", "discriminator": DiscriminatorConfig(kind="blurpool")}, 0.03),
        ({"gradient_checkpointing": True}, 0.25),
    ],
    ids=["perceptual", "bf16", "checkpointing"],
)
def test_total_is_that_of_a_real_step(changes, slack, accelerate_anew):
    config = configured(**changes, width=16)
    accelerator = Accelerator(cpu=True, mixed_precision=config.train.mixed_precision)
    stage = TokenizerStage(config, DataConfig(image_size=64, channels=3), accelerator)
    stage.model.train()
    stage.set_learning_rate(1.0)
    batch = (torch.rand(BATCH, 3, 64, 64) * 2 - 1, torch.zeros(BATCH))
    stage.step(batch, 0)  # AdamW's moments appear
    with memory.Storages() as storages:
        stage.step(batch, 1)
    memory_of = computed(config, size=64)
    largest = max(memory_of.moments.values())
    # Gradients of weights are counted as if they were all there at the largest moment, when few or none are.
    assert (1 - slack) * largest <= storages.peak <= largest + memory_of.always["generator: gradients"]


def test_gpus_share_the_batch_and_exchange_gradients(capsys):
    config = configured()
    one, two = computed(config), computed(config, gpus=2)
    assert two.activations == one.activations / 2
    weights = sum(p.numel() for p in memory.build_generator(config, SIZE, 3).parameters())
    judge = sum(p.numel() for p in build_discriminator(config.discriminator, 3).parameters())
    assert sum(two.always.values()) - sum(one.always.values()) == 4 * (weights + judge)

    command = ["--config", "configs/mnist.yaml", "tokenizer.loss.perceptual=none", "--gpus"]
    assert run_cli(memory.main, [*command, "2"]) == 0
    assert "32 pictures of 32 x 32" in capsys.readouterr().out
    assert run_cli(memory.main, [*command, "3"]) == 2
    assert "batch_size=66" in capsys.readouterr().err


def test_gradient_penalty_takes_more():
    config = configured()
    penalty = replace(config, loss=replace(config.loss, r1_weight=1.0))
    step = "discriminator's step"
    assert computed(penalty).moments[step] > 1.5 * computed(config).moments[step]


def test_comparison_with_diffusers(tmp_path, capsys):
    pytest.importorskip("diffusers")
    out = tmp_path / "speed.json"
    tiny = ["--sizes", "16", "--width", "32", "--batch", "2", "--pairs", "1", "--seconds", "0", "--threads", "1"]
    assert run_cli(tokenizer.main, [*tiny, "--device", "cpu", "--profile", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    rows = report["rows"]
    assert {(row["operation"], row["architecture"]) for row in rows} == {
        (operation, name) for operation in ("encode", "decode", "train") for name in ("vqgan+", "amused")
    }
    for row in rows:
        assert row["ratios"] == [row["ratio"]] and math.isfinite(row["ratio"]) and row["ratio"] > 0
        assert row["ratio"] == pytest.approx(row["ours_pictures_per_second"] / row["theirs_pictures_per_second"])
    parameters = report["sizes"][0]["parameters"]
    assert parameters["amused"] == parameters["diffusers"] != parameters["vqgan+"]
    for spent in report["sizes"][0]["profile"].values():
        assert all(spent[kind] > 0 for kind in ("convolution", "group norm", "SiLU", "quantizer", "optimizer"))
    assert "| 16 | 2 | train | amused |" in capsys.readouterr().out


def test_sides_run_in_turn_and_take_turns_at_being_first():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = tokenizer.compare(runs, pairs=3, least=0, device=torch.device("cpu"))
    assert "".join(calls[-6:]) == "abbaab" and all(len(times[name]) == 3 for name in "ab")


def test_without_diffusers_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert run_cli(tokenizer.main, ["--sizes", "16", "--width", "32", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install diffusers" in said
