"""The numbers of the report on reconstructions, against independent ones."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.metrics import frechet_distance, ssim
from evaluation import reconstruction, reference
from images.convert import from_8_bits
from tests.evaluation.inputs import run, save_images, save_tokenizer, to_images
from tests.weights import use_stand_ins, use_weights_folder


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A tokenizer, 45 images, the codes and reconstructions that evaluate.py made of them, and its report."""
    folder = tmp_path_factory.mktemp("scored")
    tokenizer = save_tokenizer(folder / "model")
    files, pixels = save_images(folder / "images", 45)
    real, made = reconstruction.reconstruct, []
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        use_weights_folder(patch, folder / "weights")
        inception = use_stand_ins(patch, folder / "weights")
        patch.setattr(reference, "BATCH_PIXELS", 8 * 32**2)  # so that there are several batches
        patch.setattr(reconstruction, "reconstruct", lambda *given: made.append(real(*given)) or made[-1])
        report = run(folder / "model", folder / "images", folder / "report.json")
        import lpips

        vgg = lpips.LPIPS(net="vgg", verbose=False)
    codes, restored = (torch.cat(parts) for parts in zip(*made, strict=True))
    restored = restored.permute(0, 2, 3, 1).numpy()
    decibels = 10 * np.log10(255**2 / ((pixels.astype(float) - restored) ** 2).mean((1, 2, 3)))
    return SimpleNamespace(
        folder=folder, tokenizer=tokenizer, files=files, pixels=pixels, batches=[len(batch) for batch, _ in made],
        report=report, found=report["reconstruction"], codes=codes, restored=restored, decibels=decibels,
        inception=inception, vgg=vgg,
    )  # fmt: skip


def test_a_model_that_is_only_a_tokenizer_has_no_further_parts(scored):
    assert set(scored.report) == {"model", "reference", "reconstruction", "data"}
    assert scored.batches == [8, 8, 8, 8, 8, 5]
    assert scored.found["images"] == 45
    assert scored.found["bit_for_bit"] == 0


def test_reconstructions_are_the_decoded_codes_of_the_images(scored):
    # All images at once are another batch shape, which rounds differently: of two codes that are equally near it may
    # choose the other one, and of two grey levels as well. So all other numbers are those of the recorded reconstructions.
    images = to_images(scored.pixels)
    assert (scored.codes == scored.tokenizer.encode(images)).float().mean() > 0.99
    levels = (to_images(scored.restored) - scored.tokenizer.decode(scored.codes)).abs() * 127.5
    assert levels.max() < 0.51


def test_psnr_and_ssim(scored):
    assert math.isclose(scored.found["psnr_db"], scored.decibels.mean(), rel_tol=1e-4)
    wanted = ssim(to_images(scored.restored), to_images(scored.pixels)).mean()
    assert math.isclose(scored.found["ssim"], wanted, rel_tol=1e-4)


def test_lpips(scored):
    wanted = scored.vgg(to_images(scored.restored), to_images(scored.pixels)).mean().item()
    assert wanted > 0.01
    assert math.isclose(scored.found["lpips"], wanted, rel_tol=1e-3)


def test_rfid(scored):
    def features(arrays):
        channels = [[Image.fromarray(a[..., c].astype(np.float32)) for c in range(3)] for a in arrays]
        resized = [[np.asarray(c.resize((299, 299), Image.Resampling.BICUBIC)) for c in three] for three in channels]
        return scored.inception((torch.from_numpy(np.array(resized)).clamp(0, 255) - 128) / 128).detach()

    wanted = frechet_distance(features(scored.restored), features(scored.pixels))
    assert wanted > 0.01
    assert math.isclose(scored.found["rfid"], wanted, rel_tol=1e-3)
    assert "45 images" in scored.found["rfid_note"]


def test_scores_of_stand_in_weights_are_labelled(scored):
    for score in ("lpips", "rfid"):
        assert scored.found[f"{score}_note"].startswith("weights of unknown origin")
        assert scored.found[f"{score}_weights"]["published"] is False
        assert len(scored.found[f"{score}_weights"]["sha256"]) == 64


def test_the_frechet_distance_is_labelled(scored):
    part = scored.found["frechet"]
    assert part["frechet_distance"] > 1
    assert part["reference_images"] == 45
    assert "not FID" in part["note"]


def test_use_of_the_codebook(scored):
    counts = np.unique(scored.codes.numpy(), return_counts=True)[1]
    fractions = counts / counts.sum()
    assert 1 < len(counts) < 256
    assert scored.found["codes_used"] == len(counts) / 256
    assert math.isclose(scored.found["perplexity"], np.exp(-(fractions * np.log(fractions)).sum()), rel_tol=1e-6)


def test_the_worst_are_listed_with_their_files(scored):
    worst, listed = np.argsort(scored.decibels)[:10], scored.found["worst"]
    assert [entry["index"] for entry in listed] == worst.tolist()
    files = [scored.files[index].relative_to(scored.folder / "images").as_posix() for index in worst]
    assert [entry["file"] for entry in listed] == files
    assert np.allclose([entry["psnr_db"] for entry in listed], scored.decibels[worst], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "columns", "rows"), [("worst", 10, 1), ("reconstructions", 8, 4)], ids=["worst", "reconstructions"]
)
def test_image_grids_show_images_above_their_reconstructions(scored, name, columns, rows):
    image = Image.open(scored.folder / f"report-{name}.png")
    assert image.size == (columns * 34 - 2, 2 * rows * 34 - 2)
    shown = np.argsort(scored.decibels)[:10] if name == "worst" else np.linspace(0, 44, 32).round().astype(int)
    for position, index in enumerate(shown):
        row, column = divmod(position, columns)
        for wanted, top in ((scored.pixels, 2 * row), (scored.restored, 2 * row + 1)):
            cell = np.asarray(image)[top * 34 : top * 34 + 32, column * 34 : column * 34 + 32]
            assert np.array_equal(cell, wanted[index]), position


def test_a_perfect_tokenizer_has_no_infinite_number(tmp_path, all_weights, monkeypatch):
    save_tokenizer(tmp_path / "model")
    save_images(tmp_path / "images", 6)
    monkeypatch.setattr(
        reconstruction, "reconstruct", lambda tokenizer, pixels: (tokenizer.encode(from_8_bits(pixels)), pixels)
    )
    found = run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json")["reconstruction"]
    assert found["psnr_db"] is None
    assert found["bit_for_bit"] == 6
    assert [entry["psnr_db"] for entry in found["worst"]] == [None] * 6
    assert [entry["index"] for entry in found["worst"]] == list(range(6))
    assert math.isclose(found["ssim"], 1, abs_tol=1e-6)
    assert found["lpips"] == 0
    assert abs(found["rfid"]) < 1e-6
    assert abs(found["frechet"]["frechet_distance"]) < 1e-6


def test_an_image_that_is_reconstructed_bit_for_bit_is_left_out_of_the_mean(tmp_path, no_lpips, monkeypatch):
    save_tokenizer(tmp_path / "model")
    save_images(tmp_path / "images", 3)

    def all_but_one(tokenizer, pixels):
        restored = pixels.int()
        restored[1:] += torch.where(restored[1:] < 128, 25, -25)
        return tokenizer.encode(from_8_bits(pixels)), restored.to(torch.uint8)

    monkeypatch.setattr(reconstruction, "reconstruct", all_but_one)
    found = run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json")["reconstruction"]
    assert found["bit_for_bit"] == 1
    assert math.isclose(found["psnr_db"], 20 * math.log10(255 / 25), abs_tol=1e-3)
    assert found["worst"][2]["psnr_db"] is None
    assert found["worst"][2]["index"] == 0


def test_small_images_have_the_scores_that_fit_them(tmp_path, all_weights):
    save_tokenizer(tmp_path / "model", size=8)
    save_images(tmp_path / "images", 3)
    found = run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json")["reconstruction"]
    for score, pixels in (("ssim", 11), ("lpips", 16)):
        assert found[score] is None
        assert f"{pixels} pixels" in found[f"{score}_note"]
    assert found["psnr_db"] > 0
    assert found["rfid"] > 0


def test_an_image_that_does_not_decode_is_left_out_and_shifts_no_name(tmp_path, no_lpips):
    save_tokenizer(tmp_path / "model", channels=1)
    files, _ = save_images(tmp_path / "images", 4)
    files[1].write_bytes(b"nothing")
    found = run(tmp_path / "model", tmp_path / "images", tmp_path / "r.json")["reconstruction"]
    assert found["images"] == 3
    names = {entry["index"]: (tmp_path / "images" / entry["file"]) for entry in found["worst"]}
    assert names == {0: files[0], 1: files[2], 2: files[3]}
