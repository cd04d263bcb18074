"""Runs of train.py, end to end on a tiny model."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import train
from common.config import TrainConfig, load_config
from common.errors import UserError, run_cli
from diffusion.pipeline import ImageGenerator
from diffusion.settings import SamplingSettings
from diffusion.stage import PriorStage
from tests.processes import PROCESS, run_two_processes
from tests.tiny import TINY
from training.run import STAGES, RunConfig, build_accelerator, encode_splits

CONFIG = ["--config", "configs/mnist.yaml"]


@pytest.fixture
def folder(tiny_run, tmp_path):
    """An output folder with the tiny tokenizer and its codes, for a prior of its own."""
    for name in ("tokenizer", "codes"):
        (tmp_path / name).symlink_to(tiny_run / name)
    return tmp_path


def train_prior(folder, *overrides):
    return run_cli(train.main, ["prior", *CONFIG, f"output_dir={folder}", *TINY, *overrides])


def prior_weights(folder):
    return load_file(folder / "prior/model.safetensors")


def test_help_needs_no_torch():
    code = "import sys, train\ntry: train.main(['--help'])\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, **PROCESS)
    assert done.returncode == 0
    assert "tokenizer" in done.stdout
    assert done.stderr == "False\n"


def test_the_command_line_offers_the_stages():
    assert tuple(STAGES) == train.STAGES


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63, 2**70, "1.5", "0x10", "1_0", "nan", ""])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(UserError, match="seed must "):
        load_config(RunConfig, "configs/mnist.yaml", [f"seed={seed}"])


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config(RunConfig, "configs/mnist.yaml", ["output_dir=~/run", "data.path=~/images"])
    assert (config.output_dir, config.data.path) == (str(tmp_path / "run"), str(tmp_path / "images"))


def test_training_leaves_a_whole_directory(tiny_run):
    for name in (
        "tokenizer/config.json", "tokenizer/model.safetensors", "prior/config.json", "prior/model.safetensors",
        "README.md", "curves.png", "config.yaml", "logs/tokenizer.jsonl", "logs/prior.jsonl",
        "checkpoints/tokenizer/step-4/progress.json", "checkpoints/prior/step-4/progress.json",
    ):  # fmt: skip
        assert (tiny_run / name).is_file(), name
    assert len(list((tiny_run / "codes").glob("[!.]*"))) == 2
    for stage in ("tokenizer", "prior"):
        assert json.loads((tiny_run / stage / "config.json").read_text())["class_names"] == [str(i) for i in range(10)]
    assert json.loads((tiny_run / "tokenizer/config.json").read_text())["perceptual"] == "none"
    assert load_config(RunConfig, tiny_run / "config.yaml").prior.width == 32  # as overridden


@pytest.mark.parametrize("stage", ["tokenizer", "prior"])
def test_validation_scores_are_recorded(tiny_run, stage):
    scores = json.loads((tiny_run / stage / "config.json").read_text())["validation"]
    *_, last = (json.loads(line) for line in (tiny_run / f"logs/{stage}.jsonl").read_text().splitlines())
    assert last == {"step": 4} | {f"val_{name}": value for name, value in scores.items()}


def test_after_ctrl_c_the_same_command_ends_in_the_weights_of_an_uninterrupted_run(folder, monkeypatch, capfd):
    original = PriorStage.step

    def interrupt(self, batch, step):
        if step == 3:
            raise KeyboardInterrupt
        return original(self, batch, step)

    assert train_prior(folder) == 0
    whole = prior_weights(folder)
    shutil.rmtree(folder / "prior")
    shutil.rmtree(folder / "checkpoints")
    with monkeypatch.context() as patch:
        patch.setattr(PriorStage, "step", interrupt)
        assert train_prior(folder) == 130
    checkpoint = folder / "checkpoints/prior/step-2"
    assert capfd.readouterr().err.splitlines()[-1] == f"stopped; the same command resumes from {checkpoint}"
    assert not (folder / "prior").exists()

    assert train_prior(folder) == 0
    assert f"prior: resumes from {checkpoint}" in capfd.readouterr().out
    again = prior_weights(folder)
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_a_signal_stops_a_process_in_one_line(folder, tmp_path):
    # The handler is set because a process in the background of a shell script ignores SIGINT.
    code = "import signal, sys, train; from common.errors import run_cli\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\nsys.exit(run_cli(train.main, sys.argv[1:]))"
    arguments = ["prior", *CONFIG, f"output_dir={folder}", *TINY, "prior.train.steps=1000000"]
    log = tmp_path / "stderr.txt"  # a pipe that nobody reads would fill up and block the process
    with log.open("w") as stderr:
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=stderr, **PROCESS)
    try:
        deadline = time.monotonic() + 300
        while not list(folder.glob("checkpoints/prior/step-*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == 130
    finally:
        process.kill()
    errors = log.read_text()
    assert errors.splitlines()[-1].startswith("stopped; the same command resumes from")
    assert "Traceback" not in errors


def write_images(folder, number):
    folder.mkdir(parents=True)
    for index in range(number):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


@pytest.mark.parametrize(("flip", "number"), [("false", 3), ("true", 6)])
def test_encoding_holds_both_directions_of_flipped_training_images(tiny_run, tmp_path, flip, number):
    (tmp_path / "tokenizer").symlink_to(tiny_run / "tokenizer")
    write_images(tmp_path / "images/train", 3)
    write_images(tmp_path / "images/val", 2)
    data = ["data.source=folder", f"data.path={tmp_path / 'images'}", f"data.flip={flip}", f"output_dir={tmp_path}"]
    data += ["data.allow_other_classes=true"]  # the tokenizer was trained on digits
    assert run_cli(train.main, ["encode", *CONFIG, *TINY, *data]) == 0
    written = {file: file.stat().st_mtime_ns for file in tmp_path.glob("codes/*/codes.npy")}
    assert len(written) == 2

    config = load_config(RunConfig, "configs/mnist.yaml", [*TINY, *data])
    encoded = encode_splits(config, build_accelerator(config.prior.train, tmp_path))
    assert (len(encoded.train), len(encoded.val)) == (number, 2)
    assert {file: file.stat().st_mtime_ns for file in written} == written  # nothing is encoded twice
    images = encoded.tokenizer.encode(torch.stack([image for image, _ in load_both_ways(config)]))
    codes = torch.stack([codes for codes, _ in (encoded.train[i] for i in range(number))])
    assert torch.equal(codes, images[:number])


def load_both_ways(config):
    from images.dataset import WithFlips
    from images.sources import load_images

    both = WithFlips(load_images(config.data, "train"))
    return [both[index] for index in range(len(both))]


KINDS = {
    "score": ["prior.graph=uniform", "prior.parametrization=score", "prior.noise=geometric"],
    "groups": ["prior.groups=2"],
    "lambda_dce": ["prior.loss=lambda_dce", "prior.noise=polynomial"],
    "maskgit": ["prior.loss=maskgit", "prior.time_conditioned=true"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prior_trains_and_generates(folder, kind):
    assert train_prior(folder, *KINDS[kind]) == 0
    *steps, validation = (json.loads(line) for line in (folder / "logs/prior.jsonl").read_text().splitlines())
    assert all(np.isfinite(row["loss"]) for row in steps)
    assert 2 < validation["val_bits_per_code"] < 8  # log2 16 = 4 at the start
    if kind == "maskgit":  # its weights sum to 1, and the head starts at zero: all 16 codes have the same probability
        assert steps[0]["loss"] == pytest.approx(np.log(16), rel=1e-3)
    generator = ImageGenerator.from_pretrained(folder, "cpu")
    settings = SamplingSettings(num_inference_steps=3, guidance_scale=2.0)
    samples = generator.sample_codes(4, [1, 2], settings, seed=1)
    assert samples.codes.shape == (4, 8, 8)
    assert 0 <= int(samples.codes.min()) <= int(samples.codes.max()) < 16
    assert samples.network_calls.shape == (4,)
    assert 1 <= int(samples.network_calls.min()) <= int(samples.network_calls.max()) <= 3


@pytest.mark.parametrize("graph", ["absorbing", "uniform"])
def test_the_bound_on_validation_codes_falls_with_training_and_stays_above_their_entropy(folder, graph):
    bits = []
    for steps in (1, 60):
        settings = [
            f"prior.graph={graph}",
            "prior.noise=loglinear",
            f"prior.train.steps={steps}",
            "prior.train.resume=never",
        ]
        settings += ["prior.train.learning_rate=3e-3", "prior.train.warmup_steps=5", "prior.train.ema_decay=0.5"]
        assert train_prior(folder, *settings, "prior.train.checkpoint_every=1000") == 0
        bits.append(json.loads((folder / "prior/config.json").read_text())["validation"]["bits_per_code"])
    # The 50 validation images of a class differ, so no model can give them less than log2(50) bits each on average.
    entropy = np.log2(50) / 64
    assert entropy < bits[1]
    assert bits[1] < bits[0] - 0.3
    assert bits[0] < 4.6  # 16 codes: 4 bits at the start


def test_two_processes_train_one_model(folder):
    run_two_processes("train.py", "prior", *CONFIG, f"output_dir={folder}", *TINY)
    assert (folder / "prior/model.safetensors").is_file()
    assert len(list((folder / "checkpoints/prior/step-4").glob("random_states_*"))) == 2
    assert len((folder / "logs/prior.jsonl").read_text().splitlines()) == 5  # one process writes


@pytest.mark.parametrize(("setting", "value"), [("trackers", ["no-tracker"]), ("mixed_precision", "fp16")])
def test_what_the_machine_does_not_have_is_one_line(tmp_path, monkeypatch, setting, value):
    def refuse(**_):
        raise ValueError("not here")

    if setting == "mixed_precision":  # some machines have it
        monkeypatch.setattr("training.run.Accelerator", refuse)
    with pytest.raises(UserError, match=r"train.trackers=.* or mixed_precision cannot be used here"):
        build_accelerator(TrainConfig(**{setting: value}), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prior", "prior.widht=3"], "prior.width"),
        (["prior", "prior.width=wide"], "prior.width"),
        (["prior", "prior.graph=uniform", "prior.loss=maskgit"], "absorbing"),
        (["prior", "--config", "none.yaml"], "none.yaml"),
        (["prior", "--config", "{here}/flat.yaml"], "flat.yaml"),
        (["tokenizer", "output_dir={here}/run", "data.source=folder", "data.path={here}/empty"], "no images"),
        (["tokenizer", "output_dir={here}/run", "data.source=folder", "data.path=nowhere"], "nowhere"),
        (["prior", "output_dir={here}/run"], "no trained tokenizer"),
        (["prior", "output_dir={here}/flat.yaml"], "flat.yaml"),
        (["tokenizer", "output_dir={tiny}", *TINY, "tokenizer.width=12"], "does not fit"),
        (["prior", "output_dir={tiny}", *TINY, "prior.groups=3"], "groups"),
        (["prior", "output_dir={tiny}", *TINY, "prior.train.resume={here}/empty"], "is not a checkpoint"),
        (["tokenizer", "output_dir={tiny}", *TINY, "data.flip=true"], "other data"),
        (["tokeniser"], "choose from"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tiny_run, tmp_path, capfd, arguments, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat.yaml").write_text("prior: 3\n")
    names = {"here": str(tmp_path), "tiny": str(tiny_run)}
    arguments = [argument.format(**names) for argument in arguments]
    before = {name: (tiny_run / name).read_bytes() for name in ("tokenizer/config.json", "prior/config.json")}
    try:
        code = run_cli(train.main, arguments if "--config" in arguments else [*arguments[:1], *CONFIG, *arguments[1:]])
    except SystemExit as stop:
        code = stop.code
    errors = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert code == 2
    assert len(errors) == 1
    assert errors[0].startswith("error:")
    assert said in errors[0]
    assert {name: (tiny_run / name).read_bytes() for name in before} == before
