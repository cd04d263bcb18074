import pytest
import torch
from torch import nn

from common.errors import UserError
from common.model_dir import load_weights, read_model, save_model


def test_a_model_is_read_as_it_was_saved(tmp_path):
    state = {"weight": torch.randn(3, 2), "count": torch.tensor(7)}
    save_model(tmp_path / "prior", state, {"width": 3}, {"generation.json": "{}"})
    config, read = read_model(tmp_path / "prior")
    assert config == {"width": 3}
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], value) for name, value in state.items())
    assert (tmp_path / "prior/generation.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_damaged_files_are_named(tmp_path, name):
    save_model(tmp_path / "prior", {"weight": torch.ones(2)}, {})
    (tmp_path / "prior" / name).write_bytes(b"\x80 not this")
    with pytest.raises(UserError, match="damaged"):
        read_model(tmp_path / "prior")


def test_weights_of_another_shape_or_name(tmp_path):
    with pytest.raises(UserError, match=r"'weight' has shape \[3, 2\], wanted \[4, 2\]"):
        load_weights(nn.Linear(2, 4), {"weight": torch.ones(3, 2), "bias": torch.ones(4)}, tmp_path)
    with pytest.raises(UserError, match="'bias' is missing"):
        load_weights(nn.Linear(2, 4), {"weight": torch.ones(4, 2)}, tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files_say_how_to_train(tmp_path, name):
    save_model(tmp_path / "prior", {"weight": torch.ones(2)}, {})
    (tmp_path / "prior" / name).unlink()
    with pytest.raises(UserError, match=f"no trained prior .{name} is missing.*train.py prior"):
        read_model(tmp_path / "prior")
