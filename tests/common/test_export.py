import subprocess
import sys

import torch

from common import export
from common.errors import run_cli
from common.model_dir import read_model, save_model


def test_help_needs_no_torch():
    code = "import sys\nfrom common import export\ntry: export.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "target" in done.stdout


def test_floats_become_float16_and_all_else_is_copied(tmp_path, capsys):
    state = {"weight": torch.tensor([0.1, 2.0]), "count": torch.tensor(70_001)}
    save_model(tmp_path / "model/tokenizer", state, {"width": 3}, {"generation.json": "{}"})
    assert run_cli(export.main, [str(tmp_path / "model"), str(tmp_path / "half")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'half'}\n"
    config, copied = read_model(tmp_path / "half/tokenizer")
    assert config == {"width": 3}
    assert torch.equal(copied["weight"], state["weight"].half())
    assert torch.equal(copied["count"], state["count"])
    files = sorted(file.relative_to(tmp_path / "half").as_posix() for file in (tmp_path / "half").rglob("*.*"))
    assert files == ["README.md"] + [
        f"tokenizer/{name}" for name in ("config.json", "generation.json", "model.safetensors")
    ]


def test_a_folder_without_a_model_is_refused(tmp_path, capsys):
    assert run_cli(export.main, [str(tmp_path), str(tmp_path / "half")]) == 2
    assert "neither a tokenizer nor a prior" in capsys.readouterr().err
    assert not (tmp_path / "half").exists()


def test_an_existing_target_is_refused(tmp_path, capsys):
    save_model(tmp_path / "model/tokenizer", {"weight": torch.ones(1)}, {})
    assert run_cli(export.main, [str(tmp_path / "model"), str(tmp_path / "model")]) == 2
    assert "exists: choose another folder" in capsys.readouterr().err


def test_values_that_half_precision_cannot_hold_are_refused_and_nothing_is_written(tmp_path, capsys):
    save_model(tmp_path / "model/tokenizer", {"weight": torch.tensor([1.0])}, {})
    save_model(tmp_path / "model/prior", {"weight": torch.tensor([1.0, 1e30])}, {})
    assert run_cli(export.main, [str(tmp_path / "model"), str(tmp_path / "half")]) == 2
    assert "prior: half precision cannot hold the values of 'weight'" in capsys.readouterr().err
    assert not (tmp_path / "half").exists()


def test_names_of_classes_need_not_be_utf8(tmp_path):
    save_model(tmp_path / "model/prior", {"weight": torch.ones(1)}, {"class_names": ["a", "\udcff"], "graph": "\udcfe"})
    assert run_cli(export.main, [str(tmp_path / "model"), str(tmp_path / "half")]) == 0
    assert "| graph | \\udcfe |" in (tmp_path / "half/README.md").read_text(encoding="utf-8")
    assert read_model(tmp_path / "half/prior")[0]["class_names"] == ["a", "\udcff"]
