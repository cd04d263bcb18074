"""The numbers of the report on reconstructions, against independent ones."""

import math
from urllib.error import URLError

import numpy as np
import torch
from PIL import Image

import evaluate
from common.errors import run_cli
from common.metrics import frechet_distance, ssim
from evaluation import reconstruction, reference
from images.convert import from_8_bits
from tests.evaluation.made import INCEPTION, run, save_images, save_tokenizer, to_images


def test_every_number_of_a_model_that_is_only_a_tokenizer(tmp_path, all_weights, monkeypatch):
    monkeypatch.setattr(reference, "BATCH_PIXELS", 8 * 32**2)  # so that there are several batches
    tokenizer = save_tokenizer(tmp_path / "model")
    files, pixels = save_images(tmp_path / "images", 45)
    batches = reference.ReferenceImages(tmp_path / "images", 32, 3)
    assert [len(batch.pixels) for batch in batches] == [8, 8, 8, 8, 8, 5]
    real, made = reconstruction.reconstruct, []
    monkeypatch.setattr(reconstruction, "reconstruct", lambda *given: made.append(real(*given)) or made[-1])
    report = run(tmp_path / "model", tmp_path / "images", tmp_path / "report.json")
    assert set(report) == {"model", "reference", "reconstruction"}
    found = report["reconstruction"]

    images = to_images(pixels)
    codes, restored = (torch.cat(parts) for parts in zip(*made, strict=True))
    # All at once is another batch shape, which rounds differently: of two codes that are as near it may choose the other,
    # and of two grey levels as well. So the numbers below are of the reconstructions that the report is about.
    assert (codes == tokenizer.encode(images)).float().mean() > 0.99
    levels = (restored / 127.5 - 1 - tokenizer.decode(codes)).abs() * 127.5
    assert levels.max() < 0.51
    restored = restored.permute(0, 2, 3, 1).numpy()
    errors = ((pixels.astype(float) - restored) ** 2).mean((1, 2, 3))
    decibels = 10 * np.log10(255**2 / errors)
    assert found["images"] == 45 and found["bit_for_bit"] == 0
    assert math.isclose(found["psnr_db"], decibels.mean(), rel_tol=1e-4)
    assert math.isclose(found["ssim"], ssim(to_images(restored), images).mean(), rel_tol=1e-4)

    import lpips

    wanted = lpips.LPIPS(net="vgg", verbose=False)(to_images(restored), images).mean().item()
    assert wanted > 0.01 and math.isclose(found["lpips"], wanted, rel_tol=1e-3)

    def inception(arrays):
        channels = [[Image.fromarray(a[..., c].astype(np.float32)) for c in range(3)] for a in arrays]
        resized = [[np.asarray(c.resize((299, 299), Image.Resampling.BICUBIC)) for c in three] for three in channels]
        return all_weights((torch.from_numpy(np.array(resized)).clamp(0, 255) - 128) / 128).detach()

    wanted = frechet_distance(inception(restored), inception(pixels))
    assert wanted > 0.01 and math.isclose(found["rfid"], wanted, rel_tol=1e-3)
    assert "45 images" in found["rfid_note"]
    assert found["frechet"]["frechet_distance"] > 1 and "not FID" in found["frechet"]["note"]

    counts = np.unique(codes.numpy(), return_counts=True)[1]
    fractions = counts / counts.sum()
    assert 1 < len(counts) < 256 and found["codes_used"] == len(counts) / 256
    assert math.isclose(found["perplexity"], np.exp(-(fractions * np.log(fractions)).sum()), rel_tol=1e-6)

    worst = np.argsort(decibels)[:10]
    assert [each["index"] for each in found["worst"]] == worst.tolist()
    assert [each["file"] for each in found["worst"]] == [
        files[index].relative_to(tmp_path / "images").as_posix() for index in worst
    ]
    assert np.allclose([each["psnr_db"] for each in found["worst"]], decibels[worst], atol=1e-3)

    def cell(image, column, row):
        return np.asarray(image)[row * 34 : row * 34 + 32, column * 34 : column * 34 + 32]

    image = Image.open(tmp_path / "report-worst.png")
    assert image.size == (10 * 34 - 2, 2 * 34 - 2)
    for column, index in enumerate(worst):
        assert np.array_equal(cell(image, column, 0), pixels[index])
        assert np.array_equal(cell(image, column, 1), restored[index])
    image = Image.open(tmp_path / "report-reconstructions.png")
    assert image.size == (8 * 34 - 2, 8 * 34 - 2)
    for position, index in enumerate(np.linspace(0, 44, 32).round().astype(int)):
        row, column = divmod(position, 8)
        assert np.array_equal(cell(image, column, 2 * row), pixels[index])
        assert np.array_equal(cell(image, column, 2 * row + 1), restored[index])


def test_a_perfect_tokenizer_has_no_infinite_number(tmp_path, all_weights, monkeypatch):
    save_tokenizer(tmp_path / "model")
    save_images(tmp_path / "images", 6)
    monkeypatch.setattr(
        reconstruction, "reconstruct", lambda tokenizer, pixels: (tokenizer.encode(from_8_bits(pixels)), pixels)
    )
    found = run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json")["reconstruction"]
    assert found["psnr_db"] is None and found["bit_for_bit"] == 6
    assert [each["psnr_db"] for each in found["worst"]] == [None] * 6
    assert [each["index"] for each in found["worst"]] == list(range(6))
    assert math.isclose(found["ssim"], 1, abs_tol=1e-6) and found["lpips"] == 0
    assert abs(found["rfid"]) < 1e-6 and abs(found["frechet"]["frechet_distance"]) < 1e-6


def test_a_image_that_comes_back_whole_is_left_out_of_the_mean(tmp_path, no_lpips, monkeypatch):
    save_tokenizer(tmp_path / "model")
    save_images(tmp_path / "images", 3)

    def all_but_one(tokenizer, pixels):
        restored = pixels.int()
        restored[1:] += torch.where(restored[1:] < 128, 25, -25)  # about a tenth of the range: 20 dB
        return tokenizer.encode(from_8_bits(pixels)), restored.to(torch.uint8)

    monkeypatch.setattr(reconstruction, "reconstruct", all_but_one)
    found = run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json")["reconstruction"]
    assert found["bit_for_bit"] == 1 and math.isclose(found["psnr_db"], 20 * math.log10(255 / 25), abs_tol=1e-3)
    assert found["worst"][2]["psnr_db"] is None and found["worst"][2]["index"] == 0


def test_small_images_have_the_scores_that_fit_them(tmp_path, all_weights):
    save_tokenizer(tmp_path / "model", size=8)
    save_images(tmp_path / "images", 3)
    found = run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json")["reconstruction"]
    assert found["ssim"] is None and "11 pixels" in found["ssim_note"]
    assert found["lpips"] is None and "16 pixels" in found["lpips_note"]
    assert found["psnr_db"] > 0 and found["rfid"] > 0


def test_a_image_that_does_not_decode_is_left_out_and_shifts_no_name(tmp_path, no_lpips):
    save_tokenizer(tmp_path / "model", channels=1)
    files, _ = save_images(tmp_path / "images", 4)
    files[1].write_bytes(b"nothing")
    found = run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json")["reconstruction"]
    assert found["images"] == 3
    names = {each["index"]: (tmp_path / "images" / each["file"]) for each in found["worst"]}
    assert names == {0: files[0], 1: files[2], 2: files[3]}


def test_mistakes_give_one_line_and_leave_nothing(tmp_path, no_lpips, capfd):
    tokenizer = save_tokenizer(tmp_path / "model")
    with torch.no_grad():
        tokenizer.decoder.conv_out.bias.fill_(math.nan)
    tokenizer.save(tmp_path / "damaged" / "tokenizer", {})
    save_images(tmp_path / "images", 3)
    save_images(tmp_path / "one", 1)
    files, _ = save_images(tmp_path / "one-good", 2)
    files[0].write_bytes(b"nothing")
    (tmp_path / "none").mkdir()
    (tmp_path / "taken-worst.png").mkdir()
    model, images = tmp_path / "model", tmp_path / "images"
    before = sorted(tmp_path.rglob("*"))
    for arguments, said in (
        (["--model", model, "--reference", tmp_path / "nowhere"], "no folder"),
        (["--model", model, "--reference", tmp_path / "none"], "no images"),
        (["--model", model, "--reference", tmp_path / "one"], "at least 2"),
        (["--model", model, "--reference", tmp_path / "one-good"], "need 2"),
        (["--model", tmp_path / "nowhere", "--reference", images], "no model directory"),
        (["--model", images, "--reference", images], "no trained tokenizer"),
        (["--model", tmp_path / "damaged", "--reference", images], "not finite"),
        (["--model", model, "--reference", images, "--out", tmp_path / "none"], "is a folder"),
        (["--model", model, "--reference", images, "--out", tmp_path / "taken.json"], "is a folder"),
        (["--model", model, "--reference", images, "--out", files[1] / "r.json"], "cannot write"),
        (["--model", model, "--reference", images, "--only", "samples"], "invalid choice"),
        (["--images", images, "--reference", images, "--only", "reconstruction"], "--only"),
        (["--images", tmp_path / "one", "--reference", images], "at least 2"),
    ):
        capfd.readouterr()
        try:
            code = run_cli(evaluate.main, ["--out", str(tmp_path / "r.json"), *map(str, arguments)])
        except SystemExit as stop:
            code = stop.code
        lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
        assert code == 2 and len(lines) == 1 and said in lines[0], (arguments, code, lines)
        assert sorted(tmp_path.rglob("*")) == before, arguments


def test_nothing_is_downloaded_where_that_is_not_wanted(tmp_path, monkeypatch):
    save_tokenizer(tmp_path / "model")
    save_images(tmp_path / "images", 4)
    asked = []

    def note(*args, **kwargs):
        asked.append(args)
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", note)
    report = run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json", "--no-download")["reconstruction"]
    assert asked == [] and report["lpips"] is None and report["rfid"] is None
    for name, file in (("lpips_note", "vgg16-397923af.pth"), ("rfid_note", INCEPTION)):
        assert report[name].startswith(f"place {file} in ") and "downloads are off" in report[name]
    run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json")
    assert len(asked) == 2
