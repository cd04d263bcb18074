import os

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.model_dir import load_model, read_json, read_model, save_model


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


def load_linear(directory, width=2, depth=1):
    """A model of `depth` linear layers, read from `directory`."""
    layers = {"depth": ("blocks", depth)}
    return load_model(directory, lambda: nn.ModuleDict({"blocks": make_blocks(width, depth)}), layers)


def make_blocks(width, depth):
    return nn.ModuleList(nn.Linear(width, width) for _ in range(depth))


@pytest.fixture
def linear(tmp_path):
    """The folder of a model of one linear layer of width 2, and its tensors."""
    state = {"blocks.0.weight": torch.randn(2, 2), "blocks.0.bias": torch.randn(2)}
    save_model(tmp_path / "prior", state, {})
    return tmp_path / "prior", state


def test_a_model_is_loaded_with_its_weights_in_eval_mode(linear):
    directory, state = linear
    before = torch.get_rng_state()
    nn.Linear(2, 2)  # one model is built with random numbers, the one that is compared takes none
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    model = load_linear(directory)
    assert torch.equal(torch.get_rng_state(), after)
    assert not model.training
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("width", "depth", "said"),
    [
        (3, 1, "wanted"),
        (2**14, 1, "wanted"),
        (2, 3, "1 parts 'blocks' where config.json says depth 3"),
        (2, 10**8, "10"),
    ],
)
def test_a_model_that_does_not_fit_its_weights_is_not_built(linear, width, depth, said):
    with pytest.raises(UserError, match=f"does not fit config.json .*{said}"):
        load_linear(linear[0], width, depth)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blocks.0.bias": torch.tensor([1.0, float("nan")])}, "not finite"),
        ({"blocks.0.bias": torch.tensor([1.0, float("-inf")])}, "not finite"),
        ({"blocks.0.bias": torch.tensor([1.0, 1e300], dtype=torch.float64)}, "not finite"),
        ({"blocks.0.bias": torch.ones(2, dtype=torch.int64)}, "type torch.int64, wanted torch.float32"),
        ({"blocks.0.bias": torch.ones(2).to(torch.float8_e4m3fn)}, "type F8_E4M3, wanted torch.float32"),
        ({"blocks.0.bias": torch.ones(2, 1)}, r"'blocks.0.bias' has shape \[2, 1\], wanted \[2\]"),
        ({"more": torch.ones(2)}, "'more' is unknown"),
        ({"blocks.0.bias": None}, "'blocks.0.bias' is missing"),
    ],
)
def test_wrong_tensors_are_named(linear, change, said):
    directory, state = linear
    save_model(directory, {k: v for k, v in (state | change).items() if v is not None}, {})
    with pytest.raises(UserError, match=said):
        load_linear(directory)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_and_large_numbers_are_loaded(linear, kind):
    directory, state = linear
    save_model(directory, {name: torch.full_like(value, 1e4).to(kind) for name, value in state.items()}, {})
    assert load_linear(directory).blocks[0].weight.dtype == torch.float32
    save_model(directory, {name: torch.full_like(value, 3e38) for name, value in state.items()}, {})
    assert load_linear(directory).blocks[0].weight.max() > 1e38  # their sum is infinite, they are not


def test_integers_are_constants(tmp_path):
    def build():
        module = nn.Module()
        module.register_buffer("bits", torch.tensor([2, 1]))
        module.register_buffer("trained", torch.tensor(False))
        return module

    save_model(tmp_path, {"bits": torch.tensor([2, 1]), "trained": torch.tensor(True)}, {})
    assert load_model(tmp_path, build, {}).trained
    save_model(tmp_path, {"bits": torch.tensor([2, 9]), "trained": torch.tensor(True)}, {})
    with pytest.raises(UserError, match="'bits' contains values"):
        load_model(tmp_path, build, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "not an object"),
        ("{", "property name"),
        ('{"a": 1' + "0" * 400 + "}", "too large a number"),
        ('{"a": 1' + "0" * 5000 + "}", "too large a number"),
        ('{"a": ' + "[" * 60 + "]" * 60 + "}", "deep"),
        ("[" * 200_000, ""),
        ('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}", ""),
    ],
    ids=["list", "unclosed", "10^400", "10^5000", "60 deep", "200,000 deep", "200,000 deep and closed"],
)
def test_damaged_json_is_one_line(tmp_path, text, said):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(UserError, match=f"config.json is damaged .*{said}") as caught:
        read_json(file)
    assert len(str(caught.value)) < 600
    file.write_text('{"a": ' + "[" * 40 + "]" * 40 + ', "b": NaN, "c": -9223372036854775808}')
    assert read_json(file)["c"] == -(2**63)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "config.json").symlink_to("/proc/self/mem")  # opens, and fails when it is read
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("kind", ["folder", "FIFO", "link"])
def test_what_is_no_file_is_not_opened(tmp_path, kind):
    path = tmp_path / "generation.json"
    {"folder": path.mkdir, "FIFO": lambda: os.mkfifo(path), "link": lambda: path.symlink_to(path)}[kind]()
    with pytest.raises(UserError, match="not a file"):
        read_json(path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files_say_how_to_train(tmp_path, name):
    save_model(tmp_path / "prior", {"weight": torch.ones(2)}, {})
    (tmp_path / "prior" / name).unlink()
    with pytest.raises(UserError, match=f"no trained prior .{name} is missing.*train.py prior"):
        read_model(tmp_path / "prior")
