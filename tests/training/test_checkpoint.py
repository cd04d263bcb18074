import pytest
import torch
from torch import nn

from common.errors import UserError
from common.files import replace_directory
from common.model_card import model_card
from common.model_dir import load_weights, model_directory, read_model, save_model
from common.optim import build_ema
from training.checkpoint import newest_checkpoint


def test_a_failed_write_leaves_what_was_there(tmp_path):
    target = tmp_path / "model"
    save_model(target, {"weight": torch.ones(2)}, {"width": 3})

    def fail(beside):
        (beside / "config.json").write_text("{}")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_directory(target, fail)
    config, state = read_model(target)
    assert config == {"width": 3} and torch.equal(state["weight"], torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


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


def test_newest_is_by_number_and_half_written_ones_do_not_count(tmp_path):
    for name, whole in (("step-900", True), ("step-1000", True), ("step-2000", False), (".step-3000.partial", True)):
        folder = tmp_path / "checkpoints/prior" / name
        folder.mkdir(parents=True)
        if whole:
            (folder / "progress.json").write_text("{}")
    assert newest_checkpoint(tmp_path, "prior").name == "step-1000"
    assert newest_checkpoint(tmp_path, "tokenizer") is None


def test_average_warms_up_and_follows():
    model = nn.Linear(1, 1, bias=False)
    ema = build_ema(model, decay=0.9)
    values, wanted = [1.0, 2.0, 4.0], None
    for n, value in enumerate(values):
        model.weight.data.fill_(value)
        ema.update_parameters(model)
        decay = min(0.9, (1 + n) / (10 + n))
        wanted = value if wanted is None else decay * wanted + (1 - decay) * value
    assert ema.module.weight.item() == pytest.approx(wanted)


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


@pytest.mark.parametrize("key", ["validation", "held_out"])  # the second: models of an older version
def test_model_card_tells_scores(key):
    card = model_card("mine", {"prior": {"width": 8, key: {"bits_per_code": 2.5}, "data_key": "secret"}})
    assert card.startswith("---\nlibrary_name: smalti\n") and "| width | 8 |" in card
    assert "| bits_per_code | 2.5 |" in card
    assert "secret" not in card
    assert f"| {key} |" not in card


def test_a_copy_in_half_precision_is_half_as_large_and_draws_nearly_the_same(lively_run, tmp_path, capfd):
    from common import export
    from common.errors import run_cli
    from diffusion.pipeline import ImageGenerator

    target = tmp_path / "half"
    assert run_cli(export.main, [str(lively_run), str(target)]) == 0
    sizes = [(folder / "prior/model.safetensors").stat().st_size for folder in (lively_run, target)]
    assert sizes[1] < 0.6 * sizes[0] and (target / "README.md").is_file()
    whole, half = (ImageGenerator.from_pretrained(folder, "cpu") for folder in (lively_run, target))
    weights = [generator.prior.head.weight for generator in (whole, half)]
    assert weights[1].dtype == torch.float32 and 0 < (weights[0] - weights[1]).abs().max() < 1e-2
    assert half.generate(1, 1, 2)[0].size == (32, 32)
    for wrong in ([str(lively_run), str(target)], [str(tmp_path), str(tmp_path / "other")]):
        assert run_cli(export.main, wrong) == 2
    assert not (tmp_path / "other").exists()
