"""The report on reconstructions: its numbers against independent ones, and what happens where weights cannot be had."""

import json
import math
import socket
import time
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

import common.features
import evaluate
from common.errors import run_cli
from common.features import InceptionFeatures, WeightsMissing
from common.metrics import frechet_distance, ssim
from images.grid import paired_grid
from vq.quantizer import QuantizerConfig
from vq.tokenizer import Tokenizer, TokenizerConfig

INCEPTION = "inception-2015-12-05.pt"
urlopen = torch.hub.urlopen


class StubInception(nn.Module):
    """What clean-fid asks of its TorchScript file: `layers`, from (B, 3, 299, 299) to (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2048))
        self.layers = pool

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Folders for weights that hold none, and no network to fill them."""

    def fail(*args, **kwargs):
        raise URLError("no network")

    torch.set_num_threads(1)  # pictures this small gain nothing from more
    weights = tmp_path / "weights"
    weights.mkdir()
    monkeypatch.setattr(torch.hub, "urlopen", fail)
    monkeypatch.setenv("TORCH_HOME", str(weights))
    monkeypatch.setattr(common.features, "INCEPTION_FOLDER", weights)
    return weights


@pytest.fixture
def no_lpips(monkeypatch):
    """LPIPS fails at once, without the second that it takes to make an empty VGG first."""
    monkeypatch.setattr("lpips.LPIPS", lambda **keys: torch.hub.urlopen())


@pytest.fixture
def all_weights(no_network, monkeypatch):
    """A random VGG for LPIPS and a stub of Inception where clean-fid looks for it; returns the stub."""
    torch.manual_seed(0)
    features = make_layers(cfgs["D"], batch_norm=False)
    monkeypatch.setattr("torchvision.models.vgg16", lambda pretrained: SimpleNamespace(features=features))
    stub = StubInception().eval()
    torch.jit.script(stub).save(no_network / INCEPTION)
    return stub


def save_tokenizer(folder, size=32, channels=3):
    torch.manual_seed(0)
    config = TokenizerConfig(width=8, blocks=1, quantizer=QuantizerConfig(codebook_size=256, kmeans_init=False))
    tokenizer = Tokenizer(config, size, channels).eval()
    tokenizer.save(folder / "tokenizer", {})
    return tokenizer


def save_pictures(folder, count, size=32):
    """Ever rougher ones from grey to noise, in an order that is not that of their names; returns them in that."""
    for index in range(count):
        rough = (index * 7) % count / count
        noise = np.random.default_rng(index).normal(128, 1 + 60 * rough, (size, size, 3)).clip(0, 255)
        file = folder / f"{index % 3}" / f"{index:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.astype(np.uint8)).save(file)
    files = sorted(folder.rglob("*.png"))
    return files, np.stack([np.asarray(Image.open(file)) for file in files])


def run(model, reference, out, *more):
    assert run_cli(evaluate.main, ["--model", str(model), "--reference", str(reference), "--out", str(out), *more]) == 0

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(out.read_text(), parse_constant=refuse)


def to_images(pixels):
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_every_number_of_a_model_that_is_only_a_tokenizer(tmp_path, all_weights, monkeypatch):
    monkeypatch.setattr(evaluate, "BATCH_PIXELS", 8 * 32**2)  # so that there are several batches
    tokenizer = save_tokenizer(tmp_path / "model")
    files, pixels = save_pictures(tmp_path / "pictures", 45)
    batches = evaluate.Pictures(tmp_path / "pictures", 32, 3)
    assert [len(batch.pixels) for batch in batches] == [8, 8, 8, 8, 8, 5]
    real, made = evaluate.reconstruct, []
    monkeypatch.setattr(evaluate, "reconstruct", lambda *given: made.append(real(*given)) or made[-1])
    report = run(tmp_path / "model", tmp_path / "pictures", tmp_path / "report.json")
    assert set(report) == {"model", "reference", "reconstruction"}
    found = report["reconstruction"]

    images = to_images(pixels)
    codes, restored = (torch.cat(parts) for parts in zip(*made, strict=True))
    # All at once is another batch shape, which rounds differently: of two codes that are as near it may choose the other,
    # and of two grey levels as well. So the numbers below are of the reconstructions that the report is about.
    assert (codes == tokenizer.encode(images)).float().mean() > 0.99
    levels = (restored - tokenizer.decode(codes)).abs() * 127.5
    assert levels.max() < 0.51
    restored = ((restored + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    errors = ((pixels.astype(float) - restored) ** 2).mean((1, 2, 3))
    decibels = 10 * np.log10(255**2 / errors)
    assert found["pictures"] == 45 and found["bit_for_bit"] == 0
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
    assert "45 pictures" in found["rfid_note"]
    assert found["frechet"]["frechet_distance"] > 1 and "not FID" in found["frechet"]["note"]

    counts = np.unique(codes.numpy(), return_counts=True)[1]
    shares = counts / counts.sum()
    assert 1 < len(counts) < 256 and found["codes_used"] == len(counts) / 256
    assert math.isclose(found["perplexity"], np.exp(-(shares * np.log(shares)).sum()), rel_tol=1e-6)

    worst = np.argsort(decibels)[:10]
    assert [each["index"] for each in found["worst"]] == worst.tolist()
    assert [each["file"] for each in found["worst"]] == [
        files[index].relative_to(tmp_path / "pictures").as_posix() for index in worst
    ]
    assert np.allclose([each["psnr_db"] for each in found["worst"]], decibels[worst], atol=1e-3)

    def cell(picture, column, row):
        return np.asarray(picture)[row * 34 : row * 34 + 32, column * 34 : column * 34 + 32]

    picture = Image.open(tmp_path / "report-worst.png")
    assert picture.size == (10 * 34 - 2, 2 * 34 - 2)
    for column, index in enumerate(worst):
        assert np.array_equal(cell(picture, column, 0), pixels[index])
        assert np.array_equal(cell(picture, column, 1), restored[index])
    picture = Image.open(tmp_path / "report-reconstructions.png")
    assert picture.size == (8 * 34 - 2, 8 * 34 - 2)
    for position, index in enumerate(np.linspace(0, 44, 32).round().astype(int)):
        row, column = divmod(position, 8)
        assert np.array_equal(cell(picture, column, 2 * row), pixels[index])
        assert np.array_equal(cell(picture, column, 2 * row + 1), restored[index])


def test_without_weights_the_report_says_what_to_place_where(tmp_path, no_network, capsys):
    save_tokenizer(tmp_path / "model")
    save_pictures(tmp_path / "pictures", 3)
    found = run(tmp_path / "model", tmp_path / "pictures", tmp_path / "r.json")["reconstruction"]
    for score, file, folder in (
        ("lpips", "vgg16-397923af.pth", no_network / "hub" / "checkpoints"),
        ("rfid", INCEPTION, no_network),
    ):
        note = found[f"{score}_note"]
        assert found[score] is None and note.startswith(f"place {file} in {folder}:") and "\n" not in note
    assert not [file for file in no_network.rglob("*") if file.is_file()]
    assert capsys.readouterr().out == f"{tmp_path / 'r.json'}\n"
    assert Image.open(tmp_path / "r-worst.png").size == (3 * 34 - 2, 2 * 34 - 2)


def test_a_perfect_tokenizer_has_no_infinite_number(tmp_path, all_weights, monkeypatch):
    save_tokenizer(tmp_path / "model")
    save_pictures(tmp_path / "pictures", 6)
    monkeypatch.setattr(evaluate, "reconstruct", lambda tokenizer, images: (tokenizer.encode(images), images))
    found = run(tmp_path / "model", tmp_path / "pictures", tmp_path / "r.json")["reconstruction"]
    assert found["psnr_db"] is None and found["bit_for_bit"] == 6
    assert [each["psnr_db"] for each in found["worst"]] == [None] * 6
    assert [each["index"] for each in found["worst"]] == list(range(6))
    assert math.isclose(found["ssim"], 1, abs_tol=1e-6) and found["lpips"] == 0
    assert abs(found["rfid"]) < 1e-6 and abs(found["frechet"]["frechet_distance"]) < 1e-6


def test_a_picture_that_comes_back_whole_is_left_out_of_the_mean(tmp_path, no_lpips, monkeypatch):
    save_tokenizer(tmp_path / "model")
    save_pictures(tmp_path / "pictures", 3)

    def all_but_one(tokenizer, images):
        restored = images.clone()
        restored[1:] = restored[1:] + torch.where(restored[1:] < 0, 0.2, -0.2)  # a tenth of the range: 20 dB
        return tokenizer.encode(images), restored

    monkeypatch.setattr(evaluate, "reconstruct", all_but_one)
    found = run(tmp_path / "model", tmp_path / "pictures", tmp_path / "r.json")["reconstruction"]
    assert found["bit_for_bit"] == 1 and math.isclose(found["psnr_db"], 20, abs_tol=1e-3)
    assert found["worst"][2]["psnr_db"] is None and found["worst"][2]["index"] == 0


def test_small_pictures_have_the_scores_that_fit_them(tmp_path, all_weights):
    save_tokenizer(tmp_path / "model", size=8)
    save_pictures(tmp_path / "pictures", 3)
    found = run(tmp_path / "model", tmp_path / "pictures", tmp_path / "r.json")["reconstruction"]
    assert found["ssim"] is None and "11 pixels" in found["ssim_note"]
    assert found["lpips"] is None and "16 pixels" in found["lpips_note"]
    assert found["psnr_db"] > 0 and found["rfid"] > 0


def test_a_picture_that_does_not_decode_is_left_out_and_shifts_no_name(tmp_path, no_lpips):
    save_tokenizer(tmp_path / "model", channels=1)
    files, _ = save_pictures(tmp_path / "pictures", 4)
    files[1].write_bytes(b"nothing")
    found = run(tmp_path / "model", tmp_path / "pictures", tmp_path / "r.json")["reconstruction"]
    assert found["pictures"] == 3
    names = {each["index"]: (tmp_path / "pictures" / each["file"]) for each in found["worst"]}
    assert names == {0: files[0], 1: files[2], 2: files[3]}


def test_a_prior_adds_likelihood_and_samples(tiny_run, tmp_path, no_lpips):
    out = tmp_path / "report.json"
    arguments = ["--model", str(tiny_run), "--reference", "mnist5k", "--n", "20", "--steps", "2"]
    assert run_cli(evaluate.main, [*arguments, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["samples"]["extractor"] == "efficientnet_lite0@64" and report["samples"]["pictures"] == 20
    for part in (report["samples"], report["reconstruction"]["frechet"]):
        assert part["frechet_distance"] > 1 and part["reference_pictures"] == 500
    assert 0 < report["reconstruction"]["psnr_db"] < 30 and 0 < report["reconstruction"]["codes_used"] <= 1
    likelihood = report["likelihood"]
    assert 2 < likelihood["bits_per_code"] < 10 and likelihood["bits_per_code_standard_error"] > 0
    assert abs(likelihood["bits_per_dimension"] - likelihood["bits_per_code"] / 16) < 1e-9
    assert 1 <= report["samples"]["network_calls"] <= 2 and report["samples"]["sampler"] == "tweedie"


def test_pairs_stand_over_each_other_in_a_row_that_is_not_full():
    above, below = ([Image.new("L", (4, 4), shade + i) for i in range(5)] for shade in (10, 20))
    grid = np.asarray(paired_grid(above, below, columns=3, gap=0))[::4, ::4]
    assert grid.tolist() == [[10, 11, 12], [20, 21, 22], [13, 14, 255], [23, 24, 255]]


@pytest.mark.parametrize(
    ("known", "met", "labels"),
    [
        (["cat", "dog"], ["dog", "cat", "dog"], [1, 0, 1]),
        (["cat", "dog"], ["dog", "owl", "dog"], [2, 2, 2]),  # other classes: the label that means none
        (["cat", "dog"], ["dog", "", "cat"], [2, 2, 2]),
        ([], ["dog", "cat", "dog"], [0, 0, 0]),
    ],
)
def test_the_likelihood_is_given_the_classes_that_the_model_knows(monkeypatch, known, met, labels):
    given = {}

    def bound(prior, graph, codes, labels, generator, raw_score):
        given.update(codes=codes, labels=labels.tolist())
        return SimpleNamespace(nats=1.0, standard_error=0.5)

    monkeypatch.setattr("diffusion.loss.likelihood_bound", bound)
    generator = SimpleNamespace(
        class_names=known, groups=2, vocab_size=4, device="cpu", prior=None, graph=None,
        config={"parametrization": "x0"}, tokenizer=SimpleNamespace(channels=3, downsample=4),
    )  # fmt: skip
    codes = torch.randint(16, (3, 2, 2))
    report = evaluate.score_likelihood(generator, evaluate.Reconstruction({}, {}, codes, met, torch.empty(0)), 0)
    assert given["labels"] == labels and torch.equal(given["codes"][..., 0] + 4 * given["codes"][..., 1], codes)
    assert math.isclose(report["bits_per_code"], 2 / math.log(2)) and math.isclose(
        report["bits_per_dimension"], report["bits_per_code"] / 48
    )


def test_reconstruction_alone_needs_no_prior_that_can_be_read(tmp_path, no_lpips):
    save_tokenizer(tmp_path / "model")
    save_pictures(tmp_path / "pictures", 3)
    (tmp_path / "model" / "prior").mkdir()
    command = ["--model", tmp_path / "model", "--reference", tmp_path / "pictures", "--out", tmp_path / "r.json"]
    assert run_cli(evaluate.main, [str(word) for word in command]) == 2
    report = run(tmp_path / "model", tmp_path / "pictures", tmp_path / "r.json", "--only", "reconstruction")
    assert set(report) == {"model", "reference", "reconstruction"} and report["reconstruction"]["pictures"] == 3


def test_inception_is_downloaded_whole_or_not_at_all(no_network, tmp_path, monkeypatch):
    source = tmp_path / "server" / INCEPTION
    source.parent.mkdir()
    torch.jit.script(StubInception()).save(source)
    whole = source.read_bytes()
    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    monkeypatch.setattr("cleanfid.downloads_helper.inception_url", source.as_uri())
    for content in (b"<html>sign in first</html>", whole[: len(whole) // 2], b""):
        source.write_bytes(content)
        with pytest.raises(WeightsMissing, match=f"place {INCEPTION} in {no_network}"):
            InceptionFeatures()
        assert not list(no_network.iterdir())
    source.write_bytes(whole)
    assert InceptionFeatures()(torch.zeros(2, 1, 8, 8)).shape == (2, 2048)
    assert [file.name for file in no_network.iterdir()] == [INCEPTION]
    source.unlink()
    InceptionFeatures()  # from the file that now lies there


def test_a_damaged_file_is_named_and_left_alone(no_network):
    (no_network / INCEPTION).write_bytes(b"half")
    with pytest.raises(WeightsMissing, match=f"{INCEPTION} cannot be read: replace it by https://"):
        InceptionFeatures()
    assert (no_network / INCEPTION).read_bytes() == b"half"


def test_a_silent_server_is_given_up(monkeypatch):
    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    monkeypatch.setattr(common.features, "TIMEOUT_S", 0.2)
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/{INCEPTION}"
        monkeypatch.setattr("cleanfid.downloads_helper.inception_url", url)
        start = time.monotonic()
        with pytest.raises(WeightsMissing, match="timed out"):
            InceptionFeatures()
    assert time.monotonic() - start < 5 and socket.getdefaulttimeout() is None


def test_mistakes_give_one_line_and_leave_nothing(tmp_path, no_lpips, capfd):
    tokenizer = save_tokenizer(tmp_path / "model")
    with torch.no_grad():
        tokenizer.decoder.conv_out.bias.fill_(math.nan)
    tokenizer.save(tmp_path / "damaged" / "tokenizer", {})
    save_pictures(tmp_path / "pictures", 3)
    save_pictures(tmp_path / "one", 1)
    files, _ = save_pictures(tmp_path / "one-good", 2)
    files[0].write_bytes(b"nothing")
    (tmp_path / "none").mkdir()
    (tmp_path / "taken-worst.png").mkdir()
    model, pictures = tmp_path / "model", tmp_path / "pictures"
    before = sorted(tmp_path.rglob("*"))
    for arguments, said in (
        (["--model", model, "--reference", tmp_path / "nowhere"], "no folder"),
        (["--model", model, "--reference", tmp_path / "none"], "no pictures"),
        (["--model", model, "--reference", tmp_path / "one"], "at least 2"),
        (["--model", model, "--reference", tmp_path / "one-good"], "need 2"),
        (["--model", tmp_path / "nowhere", "--reference", pictures], "no model directory"),
        (["--model", pictures, "--reference", pictures], "no trained tokenizer"),
        (["--model", tmp_path / "damaged", "--reference", pictures], "not finite"),
        (["--model", model, "--reference", pictures, "--out", tmp_path / "none"], "is a folder"),
        (["--model", model, "--reference", pictures, "--out", tmp_path / "taken.json"], "is a folder"),
        (["--model", model, "--reference", pictures, "--out", files[1] / "r.json"], "cannot write"),
        (["--model", model, "--reference", pictures, "--only", "samples"], "invalid choice"),
        (["--images", pictures, "--reference", pictures, "--only", "reconstruction"], "--only"),
        (["--images", tmp_path / "one", "--reference", pictures], "at least 2"),
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
    save_pictures(tmp_path / "pictures", 4)
    asked = []

    def note(*args, **kwargs):
        asked.append(args)
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", note)
    report = run(tmp_path / "model", tmp_path / "pictures", tmp_path / "r.json", "--no-download")["reconstruction"]
    assert asked == [] and report["lpips"] is None and report["rfid"] is None
    for name, file in (("lpips_note", "vgg16-397923af.pth"), ("rfid_note", INCEPTION)):
        assert report[name].startswith(f"place {file} in ") and "was not to be downloaded" in report[name]
    run(tmp_path / "model", tmp_path / "pictures", tmp_path / "r.json")
    assert len(asked) == 2
