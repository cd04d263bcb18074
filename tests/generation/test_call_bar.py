"""Progress bars: network calls, on stderr, of every command that samples."""

import re

import numpy as np
import pytest
from PIL import Image

import sample
from common.errors import run_cli
from diffusion.call_bar import CallBar

COMMANDS = {
    "grid": (["--n", "3", "--batch-size", "2"], 8),  # two batches of 4 steps
    "inpaint": (["--box", "4,4,28,28", "--n", "2"], 4),
    "outpaint": (["--right", "8"], 4),
    "vary": (["--strength", "1"], 4),
    "morph": (["--n", "5"], 6),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_its_network_calls(tiny_run, tmp_path, capfd, command):
    flags, calls = COMMANDS[command]
    image = tmp_path / "in.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)).save(image)
    given = (
        [] if command == "grid" else ["--image", str(image)] + (["--other", str(image)] if command == "morph" else [])
    )
    where = ["--model", str(tiny_run), "--out", str(tmp_path / "out.png")]
    capfd.readouterr()
    assert run_cli(sample.main, [command, *where, *given, "--steps", "4", *flags]) == 0
    captured = capfd.readouterr()
    assert captured.out == f"{tmp_path / 'out.png'}\n"
    shown = [tuple(map(int, found)) for found in re.findall(rf"{command}: .*?(\d+)/(\d+) \[", captured.err)]
    assert shown[0] == (0, calls)
    assert shown[-1] == (calls, calls)
    assert {total for _, total in shown} == {calls}


def test_requests_follow_each_other_and_may_be_skipped():
    bar = CallBar("test", 4, hidden=True)
    first = bar.next_request()
    first(0, 10)
    assert bar.bar.total == 40
    first(10, 10)
    bar.skip_request()
    second = bar.next_request()
    second(3, 10)
    assert bar.bar.total == 30
    second(20, 20)  # its batches were halved
    bar.next_request()(10, 10)
    assert bar.before == 40
    assert bar.bar.total == 40


def test_only_the_first_process_shows_a_bar(capfd):
    with CallBar("test", 1, hidden=True) as bar:
        bar.next_request()(1, 1)
    assert capfd.readouterr().err == ""
