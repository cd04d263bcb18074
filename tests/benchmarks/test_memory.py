"""Computed memory against real training steps on the CPU."""

import json

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.profiler import ProfilerActivity, profile

from benchmarks import memory
from benchmarks.fake_tensors import Answers, make_fake
from common.config import TrainConfig
from common.errors import run_cli
from images.dataset import DataConfig
from vq.discriminator import DiscriminatorConfig
from vq.loss import LossConfig
from vq.quantizer import QuantizerConfig
from vq.tokenizer import TokenizerConfig

BATCH = 2


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)  # the tensors are tiny: a second thread only waits


@pytest.fixture(autouse=True)
def new_accelerator_state():
    AcceleratorState._reset_state(True)  # it keeps the precision of the first Accelerator of the process
    yield
    AcceleratorState._reset_state(True)


def configured(precision="no", quantizer=None, discriminator="patchgan", loss=None, **changes) -> TokenizerConfig:
    return TokenizerConfig(
        downsample=2,
        width=32,
        multipliers=[1, 2],
        blocks=1,
        quantizer=QuantizerConfig(**(quantizer or {})),
        discriminator=DiscriminatorConfig(kind=discriminator, layers=1),
        loss=LossConfig(**({"perceptual": "none", "adversarial_start": 0, "adversarial_warmup": 0} | (loss or {}))),
        train=TrainConfig(batch_size=BATCH, mixed_precision=precision),
        **changes,
    )


def data(size) -> DataConfig:
    return DataConfig(image_size=size, channels=3)


def fake_peak(config, size) -> dict[str, int]:
    """What the benchmark computes, with the types of the CPU."""
    stage = memory.build_stage(config, data(size))
    with FakeTensorMode(), Answers():
        memory.make_stage_fake(stage)
        return memory.peak_memory(stage, torch.empty(BATCH, 3, size, size))


@pytest.mark.parametrize(
    ("config", "tolerance"),
    [
        (configured(architecture="taming", quantizer={"kind": "simvq"}), 0),
        # The fake group_norm keeps its statistics in bfloat16, the real one in float32.
        (configured("bf16", quantizer={"kind": "lfq"}, discriminator="blurpool"), 1e-3),
        # A real convolution allocates a few more kilobytes in the second derivative, that of the gradient penalty.
        (
            configured(
                quantizer={"kind": "fsq", "codebook_size": 64, "levels": [4, 4, 4]},
                loss={"r1_weight": 1.0, "lecam_weight": 0.1, "reconstruction": "l2"},
            ),
            5e-3,
        ),
    ],
    ids=["taming, simvq", "bf16, lfq, blurpool", "fsq, all losses"],
)
def test_fake_step_takes_what_a_real_step_takes(config, tolerance):
    real = memory.peak_memory(memory.build_stage(config, data(16)), torch.rand(BATCH, 3, 16, 16) * 2 - 1)
    AcceleratorState._reset_state(True)
    assert fake_peak(config, 16) == pytest.approx(real, rel=tolerance)


def test_peak_is_that_of_the_allocator(tmp_path):
    config = configured(gradient_checkpointing=True)
    stage = memory.build_stage(config, data(64))
    batch = (torch.rand(BATCH, 3, 64, 64) * 2 - 1, torch.zeros(BATCH))
    stage.step(batch, 0)  # makes the optimizer state
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        stage.step(batch, 0)
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    allocated, peak = 0, 0
    for event in sorted((e for e in events if e["name"] == "[memory]"), key=lambda event: event["ts"]):
        allocated += event["args"]["Bytes"]
        peak = max(peak, allocated)
    AcceleratorState._reset_state(True)
    computed = fake_peak(config, 64)
    assert sum(computed[kind] for kind in ("Gradient", "Activation", "Temp")) == pytest.approx(peak, rel=0.01)


def test_activations_have_the_types_of_cuda():
    config = configured("bf16", discriminator="blurpool")

    def kept(device: str, follow_cuda: bool) -> int:
        """Bytes that generator and discriminator keep for their backward passes under the autocast of `device`."""
        AcceleratorState._reset_state(True)
        stage, total = memory.build_stage(config, data(32)), 0
        for prepared in (stage.model, stage.discriminator):
            network = stage.accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
            if follow_cuda:
                memory.follow_cuda(network)
            with FakeTensorMode(), Answers(), torch.device(device):
                make_fake(network)
                tracker = MemTracker()
                tracker.track_external(network)
                torch.set_autocast_dtype(device, torch.bfloat16)
                torch.set_autocast_enabled(device, True)  # torch.autocast("cuda") turns itself off without a GPU
                with tracker:
                    result = network(torch.empty(BATCH, 3, 32, 32))
                torch.set_autocast_enabled(device, False)
                torch.clear_autocast_cache()
                total += tracker.get_tracker_snapshot("current")[torch.empty(0).device]["Activation"]
                del result
        return total

    cuda = kept("cuda", False)
    assert kept("cpu", True) == pytest.approx(cuda, rel=0.01)
    assert kept("cpu", False) < 0.9 * cuda


class FrozenDistance(nn.Module):
    """A perceptual network of one convolution."""

    def __init__(self):
        super().__init__()
        self.network = nn.Conv2d(3, 64, 3).requires_grad_(False)

    def forward(self, first, second):
        return (self.network(first) - self.network(second)).square().mean((1, 2, 3))


def test_frozen_perceptual_network_is_counted(monkeypatch):
    without = fake_peak(configured(), 16)
    AcceleratorState._reset_state(True)
    monkeypatch.setattr(memory, "random_perceptual", lambda name: FrozenDistance())
    computed = fake_peak(configured(loss={"perceptual": "lpips"}), 16)
    assert computed["Buffer"] - without["Buffer"] == 4 * (64 * 3 * 9 + 64)


def test_report(capsys):
    tiny = ["tokenizer.downsample=2", "tokenizer.multipliers=[8,8]", "tokenizer.loss.perceptual=none"]
    command = ["--config", "configs/mnist.yaml", *tiny, "--gpus"]
    assert run_cli(memory.main, [*command, "2"]) == 0
    title, _, *lines = capsys.readouterr().out.splitlines()
    assert "32 images of 32 x 32 a GPU, 2 in all" in title
    sizes = {line[:70].strip(): float(line.split()[-2]) for line in lines}
    one_more, peak = sizes.pop("one more image a GPU"), sizes.pop("peak of a training step")
    assert peak == pytest.approx(sum(sizes.values()), abs=0.005)
    assert sizes["gradient buckets of DistributedDataParallel"] == pytest.approx(
        sizes["optimizer state: two moments of AdamW"] / 2, abs=0.0011
    )
    assert 0 < 32 * one_more < 1024 * peak
    assert run_cli(memory.main, [*command, "3"]) == 2
    assert capsys.readouterr().err == ("error: --gpus 3 does not divide tokenizer.train.batch_size 64: change one\n")


@pytest.mark.parametrize(("name", "parameters"), [("resnet50", 25_557_032), ("lpips", 14_716_160)])
def test_perceptual_networks_need_no_download(name, parameters):
    network = memory.random_perceptual(name)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert not any(p.requires_grad for p in network.parameters())
    with FakeTensorMode():
        make_fake(network)
        distances = network(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32))
    assert distances.shape == (2,) and not list(network.parameters())
