import json
import subprocess
import sys

import pytest

from common.errors import run_cli
from tests.vq.published import small_state, write, write_published
from vq.pretrained import main


def config_of(out):
    return json.loads((out / "tokenizer/config.json").read_text())


def refused(capsys, arguments):
    """The line on stderr of a refused command; asserts the exit code and that it is the only output."""
    try:
        code = run_cli(main, [str(argument) for argument in arguments])
    except SystemExit as stopped:  # argparse
        code = stopped.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.endswith("\n") and captured.err.count("\n") == 1, captured.err
    return captured.err


def test_the_command_converts_and_prints_a_summary(tmp_path):
    path, out = write_published(tmp_path, "taming", small_state("taming")), tmp_path / "new" / "model"
    command = [sys.executable, "-m", "vq.pretrained", str(path), "--out", str(out), "--image-size", "128"]
    done = subprocess.run([*command, "--layout", "taming"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for prefix, number in (("loss.", 2), ("model_ema.", 1), ("discriminator.", 1)):
        assert f"left out {number} tensors {prefix}*" in done.stdout
    assert "layout taming, f = 4, 48 codes of dimension 6" in done.stdout
    assert config_of(out)["converted_from"] == {"layout": "taming", "file": "last.ckpt"}
    assert config_of(out)["image_size"] == 128


def test_force_replaces_an_existing_tokenizer(tmp_path, capsys):
    first, second = (write(tmp_path / f"{name}.safetensors", small_state(name)) for name in ("taming", "amused"))
    out = tmp_path / "out"
    assert run_cli(main, [str(first), "--out", str(out)]) == 0
    capsys.readouterr()
    assert "--force" in refused(capsys, [second, "--out", out])
    assert config_of(out)["converted_from"]["layout"] == "taming"
    assert run_cli(main, [str(second), "--out", str(out), "--force"]) == 0
    assert config_of(out)["converted_from"]["layout"] == "amused"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image-size", "30"], "f = 4, got 30"),
        (["--image-size", "big"], "invalid int"),
        (["--layout", "dalle"], "invalid choice: 'dalle'"),
        (["--layout", "taming"], "has layout maskgit and not taming"),
    ],
)
def test_a_wrong_argument_gives_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    path = write(tmp_path / "file.bin", small_state("maskgit"))
    found = refused(capsys, [path, "--out", tmp_path / "out", *arguments])
    assert message in found, found
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder_gives_one_line(tmp_path, capsys):
    path, out = write(tmp_path / "file.bin", small_state("maskgit")), tmp_path / "out"
    out.write_text("a file")
    assert "cannot write" in refused(capsys, [path, "--out", out])
    assert out.read_text() == "a file"


def test_help_is_printed_without_torch():
    script = "import sys, vq.pretrained as p\ntry: p.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--image-size" in done.stdout
