import os
import warnings

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from images.io import FAST_PIXELS, MAX_PIXELS, check_writable, read_image, save_gif, save_png

needs_permissions = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="folders cannot be protected from this user"
)


def noise(size=(16, 12), seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".webp"])
def test_lossless_files_are_read_exactly(suffix, tmp_path):
    image = noise()
    image.save(tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    assert np.array_equal(np.asarray(read_image(tmp_path / f"a{suffix}")), np.asarray(image))


def test_jpeg_files_are_read(tmp_path):
    Image.new("RGB", (9, 7), (10, 200, 30)).save(tmp_path / "a.jpg")
    image = read_image(str(tmp_path / "a.jpg"))
    assert image.size == (9, 7)
    assert np.abs(np.asarray(image).astype(int) - [10, 200, 30]).max() < 5


def test_the_format_is_that_of_the_content_and_not_of_the_name(tmp_path):
    noise().save(tmp_path / "a.jpg", format="PNG")
    assert read_image(tmp_path / "a.jpg").size == (16, 12)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    noise().save(tmp_path / "a.png", exif=exif)
    found = read_image(tmp_path / "a.png")
    assert np.array_equal(np.asarray(found), np.rot90(np.asarray(noise()), -1))


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(read_image(tmp_path / "a.gif").convert("L")).max() == 10


def test_16_bits_are_kept(tmp_path):
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.mode == "I;16"
    assert np.asarray(image).tolist() == [[0, 65535]]


def whole_png(tmp_path):
    noise((60, 60)).save(tmp_path / "whole.png")
    return (tmp_path / "whole.png").read_bytes()


def broken_file(name, tmp_path):
    """The path of a file that cannot be read."""
    path = tmp_path / name
    if name == "folder.png":
        path.mkdir()
    elif name == "truncated.png":
        path.write_bytes(whole_png(tmp_path)[:3000])
    elif name == "text.png":
        path.write_bytes(b"this is not an image")
    elif name == "lab.tif":
        Image.new("LAB", (4, 4)).save(path)
    elif name == "postscript.png":
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\nshowpage\n")
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.png", "check the path"),
        ("folder.png", "it is a folder"),
        ("truncated.png", "does not decode"),
        ("text.png", "is not an image that can be read"),
        ("postscript.png", "is not an image that can be read"),
        ("lab.tif", "Lab colours"),
    ],
)
def test_files_that_cannot_be_read_are_named(name, message, tmp_path):
    path = broken_file(name, tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_images_with_too_many_pixels_are_refused_without_a_warning(tmp_path):
    Image.new("1", (MAX_PIXELS // 1000 + 1, 1000)).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match="25001 x 1000 pixels, more than 25 million"):
            read_image(tmp_path / "a.png")


def test_the_largest_image_is_read(tmp_path):
    Image.new("1", (MAX_PIXELS // 1000, 1000)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").size == (25000, 1000)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_png_keeps_pixels_and_metadata(mode, tmp_path):
    image = Image.new(mode, (5, 4), 7 if len(mode) == 1 or mode == "I;16" else tuple(range(len(mode))))
    save_png(image, tmp_path / "new" / "a.png", {"seed": "3", "label": "seven"})
    with Image.open(tmp_path / "new" / "a.png") as found:
        assert found.mode == mode
        assert np.array_equal(np.asarray(found), np.asarray(image))
        assert found.text == {"seed": "3", "label": "seven"}


def test_metadata_of_any_text_is_written(tmp_path):
    save_png(noise(), tmp_path / "a.png", {"label": "caf\udce9 \0\x1b 猫"})
    with Image.open(tmp_path / "a.png") as found:
        assert found.text == {"label": "caf\\xe9 \\x00\\x1b 猫"}


def test_large_png_files_are_compressed_less(tmp_path, monkeypatch):
    levels = []
    monkeypatch.setattr(Image.Image, "save", lambda self, path, compress_level, **_: levels.append(compress_level))
    monkeypatch.setattr("images.io.replace_file", lambda path, write: write(path))
    for height in (1000, 1001):
        save_png(Image.new("1", (FAST_PIXELS // 1000, height)), tmp_path / "a.png")
    assert levels == [6, 1]


def test_gif_frames_last_as_long_as_asked(tmp_path):
    save_gif([noise(seed=seed) for seed in range(3)], tmp_path / "a.gif", milliseconds=50, last=700)
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 3
        durations = []
        for frame in range(3):
            animation.seek(frame)
            durations.append(animation.info["duration"])
        assert durations == [50, 50, 700]
        assert animation.info["loop"] == 0, "the animation must repeat without end"


@pytest.mark.parametrize(
    ("save", "name"), [(save_png, "a.png"), (lambda image, path: save_gif([image], path), "a.gif")]
)
def test_a_failed_write_leaves_the_old_file(save, name, tmp_path, monkeypatch):
    save(noise(), tmp_path / name)
    before = (tmp_path / name).read_bytes()

    def disk_full(self, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", disk_full)
    with pytest.raises(UserError, match="No space left"):
        save(noise(seed=1), tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name], "a temporary file was left"


def test_parent_folders_are_created(tmp_path):
    check_writable(tmp_path / "a" / "b" / "c.png")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.jpg", "the format is PNG; give a name that ends in .png"),
        ("a", "ends in .png"),
        ("folder.png", "it is a folder"),
        ("file/a.png", "choose another folder"),
    ],
)
def test_names_that_cannot_be_written_are_refused(name, message, tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=message):
        check_writable(tmp_path / name)


def test_capital_suffixes_are_accepted(tmp_path):
    check_writable(tmp_path / "A.PNG")
    check_writable(tmp_path / "A.GIF", ".gif")


@needs_permissions
def test_a_protected_folder_is_refused(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(UserError, match="no permission"):
        check_writable(tmp_path / "locked" / "a.png")
