import json

import pytest
from accelerate import Accelerator
from PIL import Image

from common.errors import UserError
from training.logging import MetricsLog, plot_curves


def rows(folder, stage="prior"):
    return [json.loads(line) for line in (folder / f"logs/{stage}.jsonl").read_text().splitlines()]


def test_a_record_is_one_line(tmp_path):
    log = MetricsLog(tmp_path, "prior", Accelerator(cpu=True), [], keep=False)
    log.log_metrics(2, {"loss": 0.5})
    assert rows(tmp_path) == [{"step": 2, "loss": 0.5}]  # already on disk
    log.log_metrics(4, {"val_psnr": 20.0})
    assert rows(tmp_path) == [{"step": 2, "loss": 0.5}, {"step": 4, "val_psnr": 20.0}]


@pytest.mark.parametrize(("keep", "steps"), [(True, [2, 4]), (False, [4])])
def test_a_resumed_run_keeps_the_records(tmp_path, keep, steps):
    MetricsLog(tmp_path, "prior", Accelerator(cpu=True), [], keep=False).log_metrics(2, {"loss": 0.5})
    MetricsLog(tmp_path, "prior", Accelerator(cpu=True), [], keep=keep).log_metrics(4, {"loss": 0.4})
    assert [row["step"] for row in rows(tmp_path)] == steps


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "is_main_process", False)
    MetricsLog(tmp_path, "prior", Accelerator(cpu=True), [], keep=False).log_metrics(2, {"loss": 0.5})
    assert list((tmp_path / "logs").iterdir()) == []


def test_trackers_get_the_same_metrics(tmp_path, monkeypatch):
    projects, logged = [], []
    monkeypatch.setattr(Accelerator, "init_trackers", lambda self, project: projects.append(project))
    monkeypatch.setattr(Accelerator, "log", lambda self, metrics, step: logged.append((step, metrics)))
    log = MetricsLog(tmp_path, "prior", Accelerator(cpu=True), ["tensorboard"], keep=False)
    log.log_metrics(2, {"loss": 0.5})
    assert projects == ["smalti-prior"]
    assert logged == [(2, {"loss": 0.5})]


def write_losses(folder, **series):
    for stage, losses in series.items():
        log = MetricsLog(folder, stage, Accelerator(cpu=True), [], keep=False)
        for step, loss in enumerate(losses):
            log.log_metrics(step, {"loss": loss, "grad_norm": 1.0})


def test_curves_have_one_panel_for_each_stage(tmp_path):
    sizes = []
    for stages in (["prior"], ["prior", "tokenizer"]):
        write_losses(tmp_path, **{stage: [3.0, 2.0, 1.0] for stage in stages})
        plot_curves(tmp_path / "logs", tmp_path / "curves.png")
        sizes.append(Image.open(tmp_path / "curves.png").size)
    assert sizes == [(600, 400), (1200, 400)]
    assert [path.name for path in tmp_path.glob(".*")] == []  # no temporary file is left


def test_curves_show_the_losses_and_nothing_else(tmp_path):
    images = []
    for losses in ([3.0, 2.0, 1.0], [3.0, 1.0, 2.0]):
        write_losses(tmp_path, prior=losses)
        plot_curves(tmp_path / "logs", tmp_path / "curves.png")
        images.append(Image.open(tmp_path / "curves.png").tobytes())
        MetricsLog(tmp_path, "prior", Accelerator(cpu=True), [], keep=True).log_metrics(9, {"val_psnr": 7.0})
        plot_curves(tmp_path / "logs", tmp_path / "curves.png")
        assert Image.open(tmp_path / "curves.png").tobytes() == images[-1]
    assert images[0] != images[1]


def test_curves_that_cannot_be_written_are_one_line(tmp_path):
    write_losses(tmp_path, prior=[1.0])
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*curves.png"):
        plot_curves(tmp_path / "logs", tmp_path / "curves.png")
