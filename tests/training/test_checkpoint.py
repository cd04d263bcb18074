import json
import shutil

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from common.errors import UserError
from tests.training.line_stage import LineStage, make_run
from training.checkpoint import (
    Progress,
    checkpoint_to_resume,
    first_reason,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    read_progress,
    save_checkpoint,
    set_aside,
)


def make_checkpoint(output_dir, name, complete=True):
    folder = output_dir / "checkpoints/prior" / name
    folder.mkdir(parents=True)
    if complete:
        (folder / "progress.json").write_text("{}")
    return folder


def names(checkpoints):
    return [path.name for path in checkpoints]


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    for name in ("step-1000", "step-900", "step-30"):
        make_checkpoint(tmp_path, name)
    assert names(list_checkpoints(tmp_path, "prior")) == ["step-30", "step-900", "step-1000"]
    assert newest_checkpoint(tmp_path, "prior").name == "step-1000"
    assert newest_checkpoint(tmp_path, "tokenizer") is None


@pytest.mark.parametrize(
    ("name", "complete"),
    [("step-2000", False), (".step-2000.partial", True), ("step-2000-good", True), ("step-x", True)],
)
def test_incomplete_and_renamed_folders_are_left_out(tmp_path, name, complete):
    make_checkpoint(tmp_path, "step-900")
    make_checkpoint(tmp_path, name, complete)
    assert names(list_checkpoints(tmp_path, "prior")) == ["step-900"]


def test_what_resume_selects(tmp_path):
    older, newer = (make_checkpoint(tmp_path, name) for name in ("step-1", "step-2"))
    assert checkpoint_to_resume(tmp_path, "prior", "auto") == newer
    assert checkpoint_to_resume(tmp_path, "prior", "never") is None
    assert checkpoint_to_resume(tmp_path, "prior", str(older)) == older
    with pytest.raises(UserError, match=r"prior.train.resume is auto, never or a folder in .*checkpoints/prior"):
        checkpoint_to_resume(tmp_path, "prior", "step-1")


def test_old_checkpoints_are_renamed_and_none_is_lost(tmp_path):
    for _ in range(2):
        make_checkpoint(tmp_path, "step-3")
        set_aside(tmp_path, "prior")
    set_aside(tmp_path, "prior")  # nothing left to rename
    kept = sorted(str(path.relative_to(tmp_path / "checkpoints")) for path in tmp_path.glob("checkpoints/*/*"))
    assert kept == ["prior-replaced-1/step-3", "prior-replaced-2/step-3"]


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"step": "x", "data_key": "k"}', '{"step": 3}'])
def test_a_folder_without_progress_is_not_a_checkpoint(tmp_path, content):
    if content is not None:
        (tmp_path / "progress.json").write_text(content)
    with pytest.raises(UserError, match="is not a checkpoint"):
        read_progress(tmp_path)


@pytest.fixture
def stage(tmp_path):
    return LineStage(make_run(tmp_path).accelerator)


def save(stage, output_dir, step, keep=2):
    save_checkpoint(stage.accelerator, stage.ema, output_dir, stage.name, Progress(step, "lines"), keep)
    return output_dir / f"checkpoints/prior/step-{step}"


def test_progress_is_read_as_it_was_saved(stage, tmp_path):
    checkpoint = save(stage, tmp_path, 3)
    assert json.loads((checkpoint / "progress.json").read_text()) == {"step": 3, "data_key": "lines"}
    assert read_progress(checkpoint) == Progress(3, "lines")


def test_only_the_newest_are_kept_and_a_renamed_one_stays(stage, tmp_path):
    save(stage, tmp_path, 1).rename(tmp_path / "checkpoints/prior/step-1-good")
    for step in (2, 9, 10):
        save(stage, tmp_path, step)
    assert sorted(names((tmp_path / "checkpoints/prior").iterdir())) == ["step-1-good", "step-10", "step-9"]


def test_loading_restores_weights_optimizer_average_and_random_state(stage, tmp_path):
    batch = torch.ones(4, 1), torch.zeros(4, 1)

    def step(number):
        stage.set_learning_rate(1.0)
        stage.step(batch, number)  # its noise comes from the global random state
        return [value.clone() for value in (*stage.model.state_dict().values(), *stage.ema.state_dict().values())]

    step(0)
    checkpoint = save(stage, tmp_path, 1)
    wanted = step(1)
    step(2)
    load_checkpoint(stage.accelerator, stage.ema, checkpoint, "prior")
    assert all(torch.equal(a, b) for a, b in zip(step(1), wanted, strict=True))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "ema.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"damaged " * 9], ids=["missing", "empty", "damaged"])
def test_a_damaged_checkpoint_is_one_line(stage, tmp_path, name, content):
    file = save(stage, tmp_path, 1) / name
    assert file.is_file()
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match="step-1 is damaged or does not fit") as caught:
        load_checkpoint(stage.accelerator, stage.ema, file.parent, "prior")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_network_names_the_first_tensor_and_a_key_that_exists(stage, tmp_path):
    checkpoint = save(stage, tmp_path, 1)
    long = AveragedModel(nn.ModuleDict({f"{'long_name_' * 20}{i}": nn.Linear(2, 3) for i in range(9)}))
    wide = AveragedModel(nn.Linear(1, 5))
    for ema, said in [(long, r"'module.bias' is unknown"), (wide, r"'module.bias' has shape \[1\], wanted \[5\]")]:
        with pytest.raises(UserError, match=f"does not fit.*{said}.*or prior.train.resume=never to start") as caught:
            load_checkpoint(stage.accelerator, ema, checkpoint, "prior")
        assert len(str(caught.value)) < 600


def test_of_pytorchs_list_of_tensors_the_first_is_said():
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(2, 3).load_state_dict(nn.Linear(4, 5).state_dict())
    assert first_reason(caught.value).startswith("size mismatch for weight: copying a param with shape")
    assert "bias" not in first_reason(caught.value)
    assert first_reason(EOFError()) == "EOFError"


@pytest.mark.parametrize("write", ["save_file", "install_directory"])
def test_an_interrupted_save_leaves_the_older_checkpoint(stage, tmp_path, monkeypatch, write):
    def interrupt(*_):
        raise KeyboardInterrupt

    older = save(stage, tmp_path, 1, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(f"training.checkpoint.{write}", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(stage, tmp_path, 2, keep=1)
    assert list_checkpoints(tmp_path, "prior") == [older]
    load_checkpoint(stage.accelerator, stage.ema, older, "prior")
    save(stage, tmp_path, 2, keep=1)  # over what the interruption left
    assert names((tmp_path / "checkpoints/prior").iterdir()) == ["step-2"]


def test_a_checkpoint_written_again_replaces_the_first(stage, tmp_path):
    checkpoint = save(stage, tmp_path, 1)
    shutil.copy(checkpoint / "progress.json", checkpoint / "left over")
    save(stage, tmp_path, 1)
    assert not (checkpoint / "left over").exists()


def test_home_is_expanded_in_the_checkpoint_to_resume(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "step-3").mkdir()
    assert checkpoint_to_resume(tmp_path, "prior", "~/step-3") == tmp_path / "step-3"
