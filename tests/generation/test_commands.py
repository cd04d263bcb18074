"""The commands of sample.py on a tiny model: files, sizes, modes, metadata, and that every flag acts."""

import numpy as np
import pytest
from PIL import Image

import sample
from common.errors import run_cli
from diffusion.sampler import SAMPLERS

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 4), np.uint8)


@pytest.fixture
def edit(tiny_run, tmp_path):
    """A function that runs a command on the image PIXELS and gives the image that it writes."""
    Image.fromarray(PIXELS, "RGBA").save(tmp_path / "in.png")
    Image.fromarray(PIXELS[::-1, ::-1, :3]).save(tmp_path / "other.png")

    def run(command, *flags, out="out.png"):
        sampling = [] if command == "reconstruct" else ["--steps", "2", "--label", "3"]
        files = ["--image", str(tmp_path / "in.png"), "--out", str(tmp_path / out)]
        assert run_cli(sample.main, [command, "--model", str(tiny_run), *files, *sampling, *flags]) == 0
        return Image.open(tmp_path / out)

    return run


def test_inpaint_changes_the_boxes_alone(edit):
    boxes = ["--box", "3,4,20,20", "--box", "40,0,60,9"]
    painted = np.asarray(edit("inpaint", *boxes, "--feather", "3", "--margin", "0"))
    changed = (painted != PIXELS).any(-1)
    assert changed[4:20, 3:20].any()
    assert changed[:9, 40:].any()
    changed[4:20, 3:20] = changed[:9, 40:] = False
    assert not changed.any()


def test_several_variants_are_a_strip_and_single_files(edit, tmp_path):
    strip = edit("inpaint", "--box", "3,4,20,20", "--n", "3", "--images-dir", str(tmp_path / "each"))
    assert strip.size == (5 * 62 - 2, 40)  # the image, its mask and three variants
    assert sorted(file.name for file in (tmp_path / "each").iterdir()) == [f"{i:06d}.png" for i in range(3)]
    assert strip.text["box"] == "[(3, 4, 20, 20)]"
    assert strip.text["command"] == "inpaint"
    assert Image.open(tmp_path / "each/000002.png").text["index"] == "2"


def test_outpaint_keeps_the_image(edit):
    extended = np.asarray(edit("outpaint", "--left", "9", "--bottom", "20"))
    assert extended.shape == (60, 69, 4)
    assert np.array_equal(extended[:40, 9:], PIXELS)


def test_vary_keeps_size_and_alpha(edit):
    varied = np.asarray(edit("vary", "--strength", "0.3"))
    assert varied.shape == PIXELS.shape
    assert np.array_equal(varied[..., 3], PIXELS[..., 3])
    assert edit("vary", "--n", "2").size == (3 * 62 - 2, 40)  # the image and two variants


def test_morph_writes_a_strip_or_an_animation(edit, tmp_path):
    other = ["--other", str(tmp_path / "other.png"), "--n", "4"]
    assert edit("morph", *other).size == (4 * 62 - 2, 40)
    assert edit("morph", *other, "--images-dir", str(tmp_path / "film"), out="film.gif").n_frames == 4
    assert len(list((tmp_path / "film").glob("*.png"))) == 4


def test_reconstruct_keeps_size_and_mode(edit, capsys):
    again = edit("reconstruct", "--tile", "16")
    assert again.size == (60, 40)
    assert again.mode == "RGBA"
    assert "PSNR" in capsys.readouterr().err


@pytest.mark.parametrize("colour", [(220, 30, 30), (90,)])
def test_reconstruct_gives_a_translucent_image_the_colours_of_the_opaque_one(tiny_run, tmp_path, colour):
    results = []
    for name, alpha in (("opaque", ()), ("translucent", (128,))):
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[len(colour + alpha)]
        Image.new(mode, (40, 36), colour + alpha if alpha or len(colour) > 1 else colour[0]).save(tmp_path / "in.png")
        arguments = ["--model", tiny_run, "--image", tmp_path / "in.png", "--out", tmp_path / f"{name}.png"]
        assert run_cli(sample.main, ["reconstruct", *map(str, arguments)]) == 0
        results.append(Image.open(tmp_path / f"{name}.png"))
    opaque, translucent = results
    assert np.array_equal(np.asarray(translucent)[..., -1], np.full((36, 40), 128))
    assert all(np.array_equal(a, b) for a, b in zip(opaque.split(), translucent.split(), strict=False))


def test_inpaint_says_what_is_repainted(edit, tmp_path, capsys):
    edit("inpaint", "--box", "0,0,30,20")
    opaque = int((PIXELS[:20, :30, 3] < 255).sum())
    assert f"note: mask: 25% of the image is repainted; {opaque} of these pixels were" in capsys.readouterr().err
    mask = Image.new("RGBA", (60, 40), "white")
    mask.paste((255, 255, 255, 0), (0, 0, 30, 20))
    mask.save(tmp_path / "mask.png")
    edit("inpaint", "--mask", str(tmp_path / "mask.png"))
    assert "note: the mask is white or transparent" in capsys.readouterr().err


def test_names_reach_the_terminal_without_escape_sequences(tiny_run, tmp_path, capsys):
    name = str(tmp_path / "a\x1b[2J\n\r\u202e")
    Image.new("L", (32, 32)).save(f"{name}.png")
    arguments = ["--model", str(tiny_run), "--image", f"{name}.png", "--out", f"{name}out.png"]
    assert run_cli(sample.main, ["reconstruct", *arguments]) == 0
    assert run_cli(sample.main, ["inpaint", *arguments, "--box", "0,0,8,8", "--steps", "1", "--fit"]) == 0
    assert run_cli(sample.main, ["inpaint", *arguments, "--box", "0,0,99,99"]) == 2
    grid = ["grid", "--model", str(tiny_run), "--n", "1", "--steps", "1"]
    assert (
        run_cli(sample.main, [*grid, "--out", f"{name}.png", "--trajectory", f"{name}.gif", "--images-dir", name]) == 0
    )
    printed = "".join(capsys.readouterr())
    assert "a\\x1b[2J\\n\\r\\u202e" in printed
    for line in printed.replace("\r", "\n").split("\n"):  # a bar begins again with \r
        assert line.isprintable(), line


def test_a_turned_photograph_is_repainted_upright(tiny_run, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    Image.new("RGB", (60, 40), "white").save(tmp_path / "in.jpg", exif=exif)
    arguments = ["inpaint", "--model", str(tiny_run), "--image", str(tmp_path / "in.jpg"), "--steps", "2"]
    assert run_cli(sample.main, [*arguments, "--box", "0,50,10,60", "--out", str(tmp_path / "out.png")]) == 0
    assert Image.open(tmp_path / "out.png").size == (40, 60)


@pytest.mark.parametrize(("mode", "size"), [("L", (32, 32)), ("RGB", (50, 40)), ("RGBA", (28, 60)), ("LA", (20, 20))])
def test_inpaint_leaves_kept_pixels_alone_and_keeps_size_and_mode(tiny_run, tmp_path, mode, size):
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
    assert painted.mode == mode
    assert painted.size == size
    before, after = np.asarray(image), np.asarray(painted)
    assert np.array_equal(before[mask == 0], after[mask == 0])
    assert not np.array_equal(before[mask > 0], after[mask > 0])


def generated(model, out, *flags):
    """The image grid that `grid` writes."""
    arguments = ["grid", "--model", str(model), "--n", "4", "--label", "1", "--out", str(out), *flags]
    assert run_cli(sample.main, arguments) == 0
    return Image.open(out)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_works_from_the_command_line(tiny_run, tmp_path, name):
    flags = ["--guidance", "2", "--guidance-ramp", "linear", "--temperature", "0.9", "--top-p", "0.9"]
    flags += ["--sampler", name, "--steps", "3", "--time-spacing", "cosine"]
    about = generated(tiny_run, tmp_path / "grid.png", *flags).text
    assert about["sampler"] == name
    assert about["time_spacing"] == "cosine"
    assert about["guidance_scale"] == "2.0"


def test_samplers_are_listed_with_papers_graphs_and_options(capsys):
    assert run_cli(sample.main, ["samplers"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(lines) == list(SAMPLERS)
    assert all("arXiv" in line for line in lines.values())
    assert "--option choice_temperature=4.5" in lines["maskgit"]
    assert "[absorbing graph]" in lines["halton"]
    assert "[both graphs]" in lines["tweedie"]


@pytest.mark.parametrize(("base", "more"), [
    ([], ["--sampler", "halton"]),
    ([], ["--steps", "3"]),
    ([], ["--guidance", "4"]),
    ([], ["--temperature", "0.3"]),
    ([], ["--top-p", "0.3"]),
    ([], ["--time-spacing", "cosine"]),
    ([], ["--seed", "1"]),
    ([], ["--label", "2"]),
    (["--guidance", "4"], ["--guidance-ramp", "linear"]),
    (["--guidance", "4"], ["--guidance-interval", "0.4", "0.6"]),
    (["--sampler", "remdm"], ["--option", "eta=0.9"]),
    (["--size", "48x32"], ["--large-grids", "rotary"]),
])  # fmt: skip
def test_every_flag_acts(lively_run, tmp_path, base, more):
    base = ["--steps", "8", *base]
    before = generated(lively_run, tmp_path / "before.png", *base)
    after = generated(lively_run, tmp_path / "after.png", *base, *more)
    assert not np.array_equal(before, after)


def test_half_precision_is_recorded(tiny_run, tmp_path):
    assert generated(tiny_run, tmp_path / "grid.png", "--steps", "2", "--dtype", "bfloat16").text["dtype"] == "bfloat16"
