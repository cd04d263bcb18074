"""The training loop, on a stage that takes milliseconds."""

import json
import shutil

import pytest
import torch

from common.config import TrainConfig
from common.errors import Interrupted, UserError
from common.model_dir import read_model
from tests.training.line_stage import STEPS, LineStage, make_run
from training.loop import learning_rate_scale, train_stage


def train(output_dir, key="lines", seed=5, interrupted_at=-1, not_finite=(), **settings) -> LineStage:
    run = make_run(output_dir, key, seed, **settings)
    stage = LineStage(run.accelerator, interrupted_at, not_finite)
    train_stage(stage, run)
    return stage


def weights(output_dir):
    return read_model(output_dir / "prior")[1]


def steps_kept(output_dir, folder="prior"):
    return sorted(path.name for path in (output_dir / "checkpoints" / folder).iterdir())


def records(output_dir):
    return [json.loads(line) for line in (output_dir / "logs/prior.jsonl").read_text().splitlines()]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine():
    config = TrainConfig(steps=104, warmup_steps=4, min_learning_rate_ratio=0.2)
    assert [learning_rate_scale(step, config) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate_scale(4, config) == 1
    assert learning_rate_scale(54, config) == pytest.approx(0.6)
    assert learning_rate_scale(104, config) == pytest.approx(0.2)


@pytest.mark.parametrize("warmup", [0, 8, 20])
def test_the_learning_rate_stays_in_range_however_long_the_warm_up(warmup):
    config = TrainConfig(steps=8, warmup_steps=warmup)
    scales = [learning_rate_scale(step, config) for step in range(8)]
    assert all(0 < scale <= 1 for scale in scales)


def test_a_run_takes_every_step_and_writes_everything(tmp_path):
    stage = train(tmp_path)
    assert stage.steps == list(range(STEPS))
    assert stage.scales == [learning_rate_scale(step, make_run(tmp_path).train) for step in range(STEPS)]
    assert steps_kept(tmp_path) == ["step-6", "step-8"]  # keep_checkpoints is 2
    assert (tmp_path / "curves.png").is_file()
    assert "| error |" in (tmp_path / "README.md").read_text()
    config = read_model(tmp_path / "prior")[0]
    assert config.keys() == {"data_key", "data_source", "class_names", "steps", "validation"}
    assert (config["data_key"], config["data_source"], config["steps"]) == ("lines", "folder", STEPS)
    assert config["validation"] == {"error": pytest.approx(records(tmp_path)[-1]["val_error"])}


def test_metrics_are_logged_at_their_steps(tmp_path):
    train(tmp_path, steps=7, log_every=3)
    *training, validation = records(tmp_path)
    assert [(row["step"], row["steps_since"]) for row in training] == [(3, 3), (6, 3), (7, 1)]
    assert all(row.keys() == {"step", "loss", "grad_norm", "steps_since"} for row in training)
    assert validation.keys() == {"step", "val_error"}


@pytest.mark.parametrize("interrupted_at", [1, 5, 6])
def test_an_interrupted_run_ends_in_the_weights_of_an_uninterrupted_one(tmp_path, interrupted_at):
    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", interrupted_at=interrupted_at)
    resumed = train(tmp_path / "parts")
    first = interrupted_at // 3 * 3
    assert resumed.steps == list(range(first, STEPS))
    assert resumed.seen == whole.seen[first:]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_the_weights_depend_on_the_seed(tmp_path):
    train(tmp_path / "a", seed=5)
    train(tmp_path / "b", seed=6)
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_a_finished_run_takes_no_step_again(tmp_path):
    train(tmp_path)
    before = weights(tmp_path)
    assert train(tmp_path).steps == []
    assert same(before, weights(tmp_path))


def test_resuming_keeps_the_log_and_a_new_run_empties_it(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, interrupted_at=6)
    assert [row["step"] for row in records(tmp_path)] == [2, 4, 6]
    train(tmp_path)
    assert [row["step"] for row in records(tmp_path)] == [2, 4, 6, 8, 8]
    train(tmp_path, resume="never")
    assert [row["step"] for row in records(tmp_path)] == [2, 4, 6, 8, 8]


def test_resume_never_starts_from_scratch_and_keeps_the_old_checkpoints(tmp_path):
    train(tmp_path)
    assert train(tmp_path, resume="never").steps == list(range(STEPS))
    assert steps_kept(tmp_path, "prior-replaced-1") == ["step-6", "step-8"]


def test_resume_from_a_named_checkpoint(tmp_path):
    train(tmp_path)
    stage = train(tmp_path, resume=str(tmp_path / "checkpoints/prior/step-6"))
    assert stage.steps == [6, 7]


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"key": "others"}, "other data.*prior.train.resume=never"), ({"resume": "nowhere"}, "no checkpoint nowhere")],
)
def test_checkpoints_that_cannot_be_resumed(tmp_path, settings, said):
    train(tmp_path)
    with pytest.raises(UserError, match=said):
        train(tmp_path, **settings)
    assert steps_kept(tmp_path) == ["step-6", "step-8"]


def test_ctrl_c_before_the_first_checkpoint_promises_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught:
        train(tmp_path, interrupted_at=1)
    assert not isinstance(caught.value, Interrupted)


@pytest.mark.parametrize(
    ("resume", "said"),
    [("auto", "the same command resumes from"), ("never", "prior.train.resume=auto resumes from")],
)
def test_ctrl_c_names_the_checkpoint_to_resume_from(tmp_path, resume, said):
    with pytest.raises(Interrupted) as caught:
        train(tmp_path, interrupted_at=5, resume=resume)
    assert str(caught.value) == f"{said} {tmp_path / 'checkpoints/prior/step-3'}"


def test_ctrl_c_during_validation_loses_no_step(tmp_path, monkeypatch):
    def interrupt(self, loader):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LineStage, "evaluate", interrupt)
        with pytest.raises(Interrupted, match=f"step-{STEPS}"):
            train(tmp_path)
    assert train(tmp_path).steps == []
    assert (tmp_path / "prior/model.safetensors").is_file()


def test_skipped_steps_are_counted_and_the_run_goes_on(tmp_path):
    stage = train(tmp_path, not_finite=[3, 4], max_skipped_steps=3)
    assert stage.steps == list(range(STEPS))
    counts = [row.get("skipped_steps") for row in records(tmp_path)[:-1]]
    assert counts == [None, 1, 2, 2]


@pytest.mark.parametrize(("first_bad", "kept"), [(3, ["step-3"]), (4, ["step-3", "step-4"]), (0, [])])
def test_too_many_skipped_steps_stop_the_run_with_the_last_good_weights(tmp_path, first_bad, kept):
    with pytest.raises(UserError, match=f"2 steps in a row, up to step {first_bad + 2}"):
        train(tmp_path, not_finite=range(first_bad, STEPS), max_skipped_steps=2)
    folder = tmp_path / "checkpoints/prior"
    assert sorted(path.name for path in folder.glob("*")) == kept
    if kept:  # the same command resumes from there, and a finite run follows
        assert train(tmp_path).steps == list(range(first_bad, STEPS))


def test_a_damaged_checkpoint_is_named_and_nothing_is_exported(tmp_path):
    train(tmp_path)
    shutil.rmtree(tmp_path / "prior")
    (tmp_path / "checkpoints/prior/step-8/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="step-8 is damaged or does not fit"):
        train(tmp_path)
    assert not (tmp_path / "prior").exists()
