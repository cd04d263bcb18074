"""The editing commands of sample.py, the samplers and the flags, on a tiny model."""

import numpy as np
import pytest
import torch
from PIL import Image

import sample
from common.errors import run_cli
from diffusion.pipeline import ImageGenerator
from diffusion.sampler import SAMPLERS
from diffusion.settings import SamplingSettings

CONFIG = ["--config", "configs/mnist.yaml"]


def test_editing_commands(tiny_run, tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 60, 4), np.uint8)
    image, other = str(tmp_path / "in.png"), str(tmp_path / "other.png")
    Image.fromarray(pixels, "RGBA").save(image)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(other)

    def run(name, *more, out="out.png"):
        sampling = [] if name == "reconstruct" else ["--steps", "2", "--label", "3"]
        arguments = [name, "--model", str(tiny_run), "--image", image, "--out", str(tmp_path / out), *sampling, *more]
        assert run_cli(sample.main, arguments) == 0
        return Image.open(tmp_path / out)

    painted = np.asarray(run("inpaint", "--box", "3,4,20,20", "--box", "40,0,60,9", "--feather", "3", "--margin", "0"))
    changed = (painted != pixels).any(-1)
    assert changed[4:20, 3:20].any() and changed[:9, 40:].any()
    changed[4:20, 3:20] = changed[:9, 40:] = False
    assert not changed.any()
    strip = run("inpaint", "--box", "3,4,20,20", "--n", "3", "--images-dir", str(tmp_path / "each"))
    assert strip.size == (5 * 62 - 2, 40) and len(list((tmp_path / "each").glob("*.png"))) == 3
    assert strip.text["box"] == "[(3, 4, 20, 20)]" and strip.text["command"] == "inpaint"
    extended = np.asarray(run("outpaint", "--left", "9", "--bottom", "20"))
    assert extended.shape == (60, 69, 4) and np.array_equal(extended[:40, 9:], pixels)
    varied = np.asarray(run("vary", "--strength", "0.3"))
    assert varied.shape == pixels.shape and np.array_equal(varied[..., 3], pixels[..., 3])
    assert run("vary", "--n", "2").size == (3 * 62 - 2, 40)
    assert run("morph", "--other", other, "--n", "4").size == (4 * 62 - 2, 40)
    film = run("morph", "--other", other, "--n", "4", "--images-dir", str(tmp_path / "film"), out="film.gif")
    assert film.n_frames == 4 and len(list((tmp_path / "film").glob("*.png"))) == 4
    again = run("reconstruct", "--tile", "16")
    assert again.size == (60, 40) and again.mode == "RGBA"


def test_a_turned_photograph_is_repainted_upright(tiny_run, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    Image.new("RGB", (60, 40), "white").save(tmp_path / "in.jpg", exif=exif)
    arguments = [
        "inpaint",
        "--model",
        str(tiny_run),
        "--image",
        str(tmp_path / "in.jpg"),
        "--box",
        "0,50,10,60",
        "--steps",
        "2",
    ]
    assert run_cli(sample.main, [*arguments, "--out", str(tmp_path / "out.png")]) == 0
    assert Image.open(tmp_path / "out.png").size == (40, 60)


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


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_from_the_command_line(tiny_run, tmp_path, name, capsys):
    out = tmp_path / "grid.png"
    arguments = ["grid", "--model", str(tiny_run), "--n", "4", "--steps", "3", "--sampler", name, "--guidance", "2"]
    arguments += ["--guidance-ramp", "linear", "--temperature", "0.9", "--top-p", "0.9", "--time-spacing", "cosine"]
    assert run_cli(sample.main, [*arguments, "--out", str(out)]) == 0
    assert Image.open(out).text["sampler"] == name
    capsys.readouterr()
    assert run_cli(sample.main, ["samplers"]) == 0
    assert any(line.startswith(f"{name} ") and "arXiv" in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("setting", [
    ["--sampler", "halton"], ["--steps", "3"], ["--guidance", "4"], ["--temperature", "0.3"], ["--top-p", "0.3"],
    ["--time-spacing", "cosine"], ["--guidance", "4", "--guidance-ramp", "linear"],
    ["--guidance", "4", "--guidance-interval", "0.4", "0.6"], ["--sampler", "remdm", "--option", "eta=0.9"], ["--seed", "1"],
])  # fmt: skip
def test_every_flag_acts(lively_run, tmp_path, setting):
    images = []
    base = ["--guidance", "4"] if "--guidance" in setting and len(setting) > 2 else []
    base = ["--sampler", "remdm"] if "remdm" in setting else base
    for name, more in (("a", base), ("b", setting)):
        out = tmp_path / f"{name}.png"
        arguments = [
            "grid",
            "--model",
            str(lively_run),
            "--n",
            "4",
            "--label",
            "1",
            "--steps",
            "8",
            "--out",
            str(out),
            *more,
        ]
        assert run_cli(sample.main, arguments) == 0
        images.append(np.asarray(Image.open(out)))
    assert not np.array_equal(*images)


def test_cached_predictions_change_no_code(lively_run, in_float64):
    generator = ImageGenerator.from_pretrained(lively_run, "cpu")
    settings = SamplingSettings(num_inference_steps=100, guidance_scale=2.0)
    cached = generator.sample_codes(6, [1, 2, 3], settings)
    called = generator.sample_codes(6, [1, 2, 3], settings.updated({"skip_unchanged": False}))
    assert torch.equal(cached.codes, called.codes)
    assert int(called.network_calls.min()) == 100
    assert int(cached.network_calls.max()) <= 64
