"""Feature networks whose weights are missing, damaged or slow to come."""

import socket
import time

import pytest
import torch

from common.features import InceptionFeatures, WeightsMissing
from tests.evaluation.made import INCEPTION, StubInception

urlopen = torch.hub.urlopen


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
