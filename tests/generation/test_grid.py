"""sample.py grid on a tiny model."""

import os
import subprocess
import sys

import numpy as np
from PIL import Image

import sample
from common.errors import run_cli
from diffusion.pipeline import ImageGenerator

CONFIG = ["--config", "configs/mnist.yaml"]


def test_same_seed_same_images_whatever_the_batch(tiny_run, in_float64):
    generator = ImageGenerator.from_pretrained(tiny_run, "cpu")
    options = {"num_inference_steps": 4, "guidance_scale": 2.0}
    one, many = (generator.generate(5, [1, 2], seed=3, batch_size=size, **options) for size in (2, 5))
    assert all(np.array_equal(a, b) for a, b in zip(one, many, strict=True))
    other = generator.generate(5, [1, 2], seed=4, **options)
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_grid(tiny_run, tmp_path):
    arguments = ["grid", "--model", str(tiny_run), "--n", "6", "--label", "1", "2", "3", "--steps", "2"]
    out = tmp_path / "new" / "grid.png"
    assert run_cli(sample.main, [*arguments, "--out", str(out), "--images-dir", str(tmp_path / "all")]) == 0
    assert Image.open(out).size == (3 * 34 - 2, 2 * 34 - 2)  # one column a label
    assert len(list((tmp_path / "all").glob("*.png"))) == 6


def test_a_folder_of_images_goes_on_where_it_stopped_and_refuses_other_settings(tiny_run, tmp_path, capfd, in_float64):
    folder = tmp_path / "all"
    base = ["grid", "--model", str(tiny_run), "--images-dir", str(folder), "--steps", "2", "--batch-size", "4"]
    assert run_cli(sample.main, [*base, "--n", "6", "--label", "3", "7"]) == 0  # no --out: the folder alone
    first = {file.name: file.read_bytes() for file in folder.glob("*.png")}
    assert sorted(first) == [f"{i:06d}.png" for i in range(6)]
    about = Image.open(folder / "000003.png").text
    assert {key: about[key] for key in ("seed", "index", "label", "num_inference_steps", "sampler", "model")} == {
        "seed": "0", "index": "3", "label": "7", "num_inference_steps": "2", "sampler": "tweedie", "model": "tiny"
    }  # fmt: skip
    (folder / "000005.png").unlink()
    untouched = (folder / "000000.png").stat().st_mtime_ns
    out = tmp_path / "grid.png"
    assert run_cli(sample.main, [*base, "--n", "9", "--label", "3", "7", "--out", str(out)]) == 0
    again = {file.name: file.read_bytes() for file in folder.glob("*.png")}
    assert len(again) == 9 and all(again[name] == first[name] for name in first)
    assert (folder / "000000.png").stat().st_mtime_ns == untouched  # its batch was whole, and is left out
    assert Image.open(out).size == (2 * 34 - 2, 5 * 34 - 2)
    capfd.readouterr()
    assert run_cli(sample.main, [*base, "--n", "6", "--label", "3"]) == 2 and "label" in capfd.readouterr().err
    assert run_cli(sample.main, [*base, "--n", "6", "--label", "3", "7", "--seed", "1"]) == 2
    assert run_cli(sample.main, [*base, "--n", "6", "--label", "3", "7", "--out", str(folder / "000001.png")]) == 2
    for damaged in ("[]", "{"):
        (folder / "settings.json").write_text(damaged)
        assert run_cli(sample.main, [*base, "--n", "6", "--label", "3", "7"]) == 2
    (folder / "settings.json").unlink()
    assert run_cli(sample.main, [*base, "--n", "6", "--label", "3", "7"]) == 2
    fresh = ["grid", "--model", str(tiny_run), "--images-dir", str(tmp_path / "fresh"), "--n", "2", "--steps"]
    assert (
        run_cli(sample.main, [*fresh, "0"]) == 2 and run_cli(sample.main, [*fresh, "2"]) == 0
    )  # a refused one left nothing
    assert {file.name: file.read_bytes() for file in folder.glob("*.png")} == again


def test_two_processes_draw_the_images_of_one(tiny_run, tmp_path, in_float64):
    base = ["grid", "--model", str(tiny_run), "--steps", "2", "--batch-size", "2", "--num-images", "7", "--images-dir"]
    assert run_cli(sample.main, [*base, str(tmp_path / "one")]) == 0
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "tests.float64",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *base, str(tmp_path / "two"), "--out", str(tmp_path / "grid.png")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "4/4" in done.stderr  # the first one's part: two of the four batches
    one, two = (
        [np.asarray(Image.open(file)) for file in sorted((tmp_path / name).glob("*.png"))] for name in ("one", "two")
    )
    assert len(one) == 7 and all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert Image.open(tmp_path / "grid.png").size == (3 * 34 - 2, 3 * 34 - 2)


def test_the_codes_appear_in_a_trajectory(tiny_run, tmp_path):
    arguments = ["grid", "--model", str(tiny_run), "--n", "4", "--steps", "5", "--out", str(tmp_path / "grid.png")]
    assert run_cli(sample.main, [*arguments, "--trajectory", str(tmp_path / "codes.gif")]) == 0
    with Image.open(tmp_path / "codes.gif") as film:
        frames = []
        for index in range(film.n_frames):
            film.seek(index)
            frames.append(np.asarray(film.convert("L")).astype(int))
    assert len(frames) == 6 and frames[0].shape == (66, 66)  # all masked, then every step
    assert (frames[0][:32, :32] == 128).all()
    final = np.asarray(Image.open(tmp_path / "grid.png")).astype(int)
    assert np.abs(frames[-1] - final).max() <= 3 and np.abs(frames[0] - final).max() > 3


def test_a_size_beyond_the_models(tiny_run, tmp_path):
    arguments = ["grid", "--model", str(tiny_run), "--n", "1", "--steps", "2", "--size", "42x64"]
    images = []
    for kind in ("sliding", "rotary"):
        out = tmp_path / f"{kind}.png"
        assert run_cli(sample.main, [*arguments, "--large-grids", kind, "--out", str(out)]) == 0
        images.append(Image.open(out))
    assert images[0].size == images[1].size == (64, 42)
