import pytest

from common.errors import UserError
from common.model_dir import model_directory


def test_hub_names_are_fetched_and_failures_are_one_line(tmp_path, monkeypatch):
    asked = []

    def fetch(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert model_directory("hf:someone/digits") == tmp_path
    assert asked[0][0] == "someone/digits" and not any(pattern == "*" for pattern in asked[0][1])

    def refuse(*_, **__):
        raise OSError("no\nnetwork")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(UserError, match=r"hf:someone/digits \(no network\)"):
        model_directory("hf:someone/digits")
    with pytest.raises(UserError, match="no model directory"):
        model_directory(tmp_path / "none")
