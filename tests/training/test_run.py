"""train.py, end to end on tiny models."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import train
from common.errors import run_cli
from diffusion.pipeline import ImageGenerator
from diffusion.settings import SamplingSettings
from tests.tiny import TINY

CONFIG = ["--config", "configs/mnist.yaml"]


def test_training_leaves_a_whole_directory(tiny_run):
    for name in (
        "tokenizer/config.json", "tokenizer/model.safetensors", "prior/config.json", "prior/model.safetensors",
        "README.md", "curves.png", "config.yaml", "logs/prior.jsonl", "checkpoints/prior/step-4/progress.json",
    ):  # fmt: skip
        assert (tiny_run / name).is_file(), name
    assert json.loads((tiny_run / "tokenizer/config.json").read_text())["perceptual"] == "none"
    assert len(list((tiny_run / "codes").glob("[!.]*"))) == 2


def test_resuming_gives_the_weights_of_an_unbroken_run(tiny_run, tmp_path):

    where = f"output_dir={tmp_path}"
    (tmp_path / "tokenizer").symlink_to(tiny_run / "tokenizer")
    assert run_cli(train.main, ["prior", *CONFIG, where, *TINY]) == 0
    whole = load_file(tmp_path / "prior/model.safetensors")
    # as after a crash between the two checkpoints

    shutil.rmtree(tmp_path / "checkpoints/prior/step-4")
    assert run_cli(train.main, ["prior", *CONFIG, where, *TINY]) == 0
    again = load_file(tmp_path / "prior/model.safetensors")
    assert all(np.allclose(whole[name], again[name], atol=1e-6) for name in whole)


KINDS = {
    "score": ["prior.graph=uniform", "prior.parametrization=score", "prior.noise=geometric"],
    "groups": ["prior.groups=2"],
    "lambda_dce": ["prior.loss=lambda_dce", "prior.noise=polynomial"],
    "maskgit": ["prior.loss=maskgit", "prior.time_conditioned=true"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prior_trains_draws_and_repaints(tiny_run, tmp_path, kind):
    (tmp_path / "tokenizer").symlink_to(tiny_run / "tokenizer")
    assert run_cli(train.main, ["prior", *CONFIG, f"output_dir={tmp_path}", *TINY, *KINDS[kind]]) == 0
    lines = [json.loads(line) for line in (tmp_path / "logs/prior.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    assert 2 < lines[-1]["val_bits_per_code"] < 8  # log2 16 = 4 at the start
    if kind == "maskgit":  # equal weights that sum to 1: the head begins at zero, and all 16 codes at log 16
        assert lines[0]["loss"] == pytest.approx(np.log(16), rel=1e-3)
    generator = ImageGenerator.from_pretrained(tmp_path, "cpu")
    sampled = generator.sample_codes(4, [1, 2], SamplingSettings(num_inference_steps=3, guidance_scale=2.0), seed=1)
    assert sampled.codes.shape == (4, 8, 8) and int(sampled.codes.min()) >= 0 and int(sampled.codes.max()) < 16
    assert sampled.network_calls.shape == (4,) and 1 <= int(sampled.network_calls.min()) <= 3
    image, mask = (Image.open(f"docs/images/{name}.png").convert("L") for name in ("digit", "digit-mask"))
    painted = generator.inpaint(image, mask, num_inference_steps=3)[0]
    kept = np.asarray(mask) < 128
    assert np.array_equal(np.asarray(image)[kept], np.asarray(painted)[kept])


@pytest.mark.parametrize("graph", ["absorbing", "uniform"])
def test_bound_on_validation_digits_falls_with_training_and_stays_above_their_entropy(tiny_run, tmp_path, graph):
    bits = []
    for steps in (1, 60):
        folder = tmp_path / str(steps)
        folder.mkdir()
        (folder / "tokenizer").symlink_to(tiny_run / "tokenizer")
        more = [
            f"prior.graph={graph}",
            "prior.noise=loglinear",
            "prior.train.learning_rate=3e-3",
            "prior.train.warmup_steps=5",
        ]
        more += [f"prior.train.steps={steps}", "prior.train.ema_decay=0.5", "prior.train.checkpoint_every=1000"]
        assert run_cli(train.main, ["prior", *CONFIG, f"output_dir={folder}", *TINY, *more]) == 0
        bits.append(json.loads((folder / "prior/config.json").read_text())["validation"]["bits_per_code"])
    # 50 held-out images a class, all different: no model can give them less than log2 50 bits each on average.
    entropy = np.log2(50) / 64
    assert entropy < bits[1] < bits[0] - 0.3 and bits[0] < 4.6  # 16 codes: 4 bits at the start


def test_two_processes_train_one_model(tiny_run, tmp_path):
    (tmp_path / "tokenizer").symlink_to(tiny_run / "tokenizer")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "train.py", "prior"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *CONFIG, f"output_dir={tmp_path}", *TINY],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "prior/model.safetensors").is_file()
    assert len(list((tmp_path / "checkpoints/prior/step-4").glob("random_states_*"))) == 2
