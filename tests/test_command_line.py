"""The command lines, end to end on a tiny model; the bad inputs, one after the other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluate
import sample
import train
from common.errors import run_cli
from diffusion.pipeline import ImageGenerator
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
    from safetensors.torch import load_file

    where = f"output_dir={tmp_path}"
    (tmp_path / "tokenizer").symlink_to(tiny_run / "tokenizer")
    assert run_cli(train.main, ["prior", *CONFIG, where, *TINY]) == 0
    whole = load_file(tmp_path / "prior/model.safetensors")
    # as after a crash between the two checkpoints
    import shutil

    shutil.rmtree(tmp_path / "checkpoints/prior/step-4")
    assert run_cli(train.main, ["prior", *CONFIG, where, *TINY]) == 0
    again = load_file(tmp_path / "prior/model.safetensors")
    assert all(np.allclose(whole[name], again[name], atol=1e-6) for name in whole)


def test_same_seed_same_pictures_whatever_the_batch(tiny_run):
    generator = ImageGenerator.from_pretrained(tiny_run, "cpu")
    one, many = (generator.generate(5, [1, 2], 4, 2.0, seed=3, batch_size=size) for size in (2, 5))
    assert all(np.array_equal(a, b) for a, b in zip(one, many, strict=True))
    other = generator.generate(5, [1, 2], 4, 2.0, seed=4)
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_grid(tiny_run, tmp_path):
    arguments = ["grid", "--model", str(tiny_run), "--n", "6", "--label", "1", "2", "3", "--steps", "2"]
    out = tmp_path / "new" / "grid.png"
    assert run_cli(sample.main, [*arguments, "--out", str(out), "--images-dir", str(tmp_path / "all")]) == 0
    assert Image.open(out).size == (3 * 34 - 2, 2 * 34 - 2)  # one column a label
    assert len(list((tmp_path / "all").glob("*.png"))) == 6


@pytest.mark.parametrize(("mode", "size"), [("L", (32, 32)), ("RGB", (50, 40)), ("RGBA", (28, 60)), ("LA", (20, 20))])
def test_repainting_leaves_kept_pixels_alone_and_keeps_size_and_mode(tiny_run, tmp_path, mode, size):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), np.uint8), "RGBA").convert(mode)
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[5:14, 3:12] = 255
    image.save(tmp_path / "in.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    arguments = ["--image", str(tmp_path / "in.png"), "--mask", str(tmp_path / "mask.png"), "--steps", "2"]
    out = tmp_path / "out.png"
    assert run_cli(sample.main, ["inpaint", "--model", str(tiny_run), *arguments, "--out", str(out)]) == 0
    painted = Image.open(out)
    assert painted.mode == mode and painted.size == size
    before, after = np.asarray(image), np.asarray(painted)
    assert np.array_equal(before[mask == 0], after[mask == 0])
    assert not np.array_equal(before[mask > 0], after[mask > 0])


def test_what_lies_under_the_mask_does_not_matter(tiny_run):
    generator = ImageGenerator.from_pretrained(tiny_run, "cpu")
    rng = np.random.default_rng(1)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:20] = 255
    first = rng.integers(0, 256, (32, 32), np.uint8)
    second = np.where(mask > 0, rng.integers(0, 256, (32, 32), np.uint8), first).astype(np.uint8)
    results = [
        generator.inpaint(Image.fromarray(image), Image.fromarray(mask), num_inference_steps=3)[0]
        for image in (first, second)
    ]
    assert np.array_equal(results[0], results[1])


def test_evaluation_writes_a_report(tiny_run, tmp_path):
    out = tmp_path / "report.json"
    arguments = ["--model", str(tiny_run), "--reference", "mnist5k", "--n", "20", "--steps", "2"]
    assert run_cli(evaluate.main, [*arguments, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["samples"]["extractor"] == "efficientnet_lite0@64" and report["samples"]["pictures"] == 20
    for part in (report["samples"], report["reconstruction"]["frechet"]):
        assert part["frechet_distance"] > 1 and part["reference_pictures"] == 500
    assert 0 < report["reconstruction"]["psnr_db"] < 30 and 0 < report["reconstruction"]["codes_used"] <= 1
    assert 0 < report["likelihood"]["bits_per_code_bound"] < 10


def test_a_folder_is_at_distance_zero_from_itself_and_far_from_another(tmp_path):
    for name, bright in (("dark", 0), ("light", 100)):
        for index in range(4):
            noise = np.random.default_rng(index).integers(bright, bright + 100, (32, 32, 3), np.uint8)
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(noise).save(tmp_path / name / f"{index}.png")
    out = tmp_path / "report.json"
    distances = []
    for reference in ("dark", "light"):
        arguments = ["--images", str(tmp_path / "dark"), "--reference", str(tmp_path / reference), "--out", str(out)]
        assert run_cli(evaluate.main, arguments) == 0
        distances.append(json.loads(out.read_text())["samples"]["frechet_distance"])
    assert abs(distances[0]) < 1e-3 < 1 < distances[1]


def bad_inputs(run: Path, tmp: Path) -> dict[str, tuple]:
    Image.new("L", (32, 32)).save(tmp / "in.png")
    Image.new("L", (32, 32), 255).save(tmp / "mask.png")
    Image.new("L", (16, 16), 255).save(tmp / "small.png")
    (tmp / "broken.png").write_bytes(b"\x89PNG nothing")
    (tmp / "empty").mkdir()
    (tmp / "half").mkdir()
    (tmp / "half/tokenizer").symlink_to(run / "tokenizer")
    (tmp / "locked.png").mkdir()
    grid = ["grid", "--model", str(run), "--out", str(tmp / "out.png")]
    paint = ["inpaint", "--model", str(run), "--out", str(tmp / "out.png"), "--image"]
    masked = [*paint, str(tmp / "in.png"), "--mask"]
    here = f"output_dir={tmp / 'run'}"
    return {
        "unknown key": (train, ["prior", *CONFIG, "prior.widht=3"], "prior.width"),
        "wrong type": (train, ["prior", *CONFIG, "prior.width=wide"], "prior.width"),
        "no configuration": (train, ["prior", "--config", "none.yaml"], "none.yaml"),
        "no pictures": (train, ["tokenizer", *CONFIG, here, "data.source=folder", f"data.path={tmp / 'empty'}"], "no pictures"),
        "no folder": (train, ["tokenizer", *CONFIG, here, "data.source=folder", "data.path=nowhere"], "nowhere"),
        "no tokenizer": (train, ["prior", *CONFIG, here], "no trained tokenizer"),
        "other shape": (train, ["tokenizer", *CONFIG, f"output_dir={run}", *TINY, "tokenizer.width=12"], "does not fit"),
        "broken picture": (sample, [*paint, str(tmp / "broken.png"), "--mask", str(tmp / "mask.png")], "broken.png"),
        "no picture": (sample, [*paint, str(tmp / "none.png"), "--mask", str(tmp / "mask.png")], "none.png"),
        "mask of another size": (sample, [*masked, str(tmp / "small.png")], "16 x 16"),
        "mask without white": (sample, [*masked, str(tmp / "in.png")], "no white"),
        "label out of range": (sample, [*grid, "--label", "10"], "0 to 9"),
        "no model": (sample, ["grid", "--model", "nowhere", "--out", str(tmp / "out.png")], "nowhere"),
        "no prior": (sample, ["grid", "--model", str(tmp / "half"), "--out", str(tmp / "out.png")], "no trained prior"),
        "steps 0": (sample, [*grid, "--steps", "0"], "steps"),
        "n negative": (sample, [*grid, "--n", "-1"], "--n"),
        "unknown sampler": (sample, [*grid, "--sampler", "magic"], "tweedie"),
        "output is a folder": (sample, ["grid", "--model", str(run), "--out", str(tmp / "locked.png")], "folder"),
        "output under a file": (sample, ["grid", "--model", str(run), "--out", str(tmp / "in.png/x.png")], "in.png"),
        "output not PNG": (sample, ["grid", "--model", str(run), "--out", str(tmp / "x.jpg")], ".png"),
        "reference missing": (evaluate, ["--model", str(run), "--reference", "no", "--out", str(tmp / "r.json")], "no folder"),
        "no subcommand": (sample, [], "command"),
    }  # fmt: skip


def test_every_mistake_gives_one_line_and_exit_code_2(tiny_run, tmp_path, capfd):
    for what, (program, arguments, said) in bad_inputs(tiny_run, tmp_path).items():
        capfd.readouterr()
        try:
            code = run_cli(program.main, arguments)
        except SystemExit as stop:
            code = stop.code
        lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
        assert code == 2 and len(lines) == 1 and said in lines[0], (what, code, lines)
        assert not (tmp_path / "out.png").exists() and not list(tmp_path.glob(".*partial")), what


def test_a_mistake_in_a_process_of_its_own_has_no_traceback():
    done = subprocess.run([sys.executable, "sample.py", "grid"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


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
