"""Every mistake of a user gives one line and exit code 2, and leaves nothing half written."""

import subprocess
import sys

import pytest
from PIL import Image

import evaluate
import sample
import train
from common.errors import run_cli
from common.model_dir import read_model, save_model
from tests.tiny import TINY

PROGRAMS = {"train": train, "sample": sample, "evaluate": evaluate}
# What the words in capitals stand for; RUN, UNIFORM and TMP are folders.
WORDS = {
    "CONFIG": "--config configs/mnist.yaml",
    "TINY": " ".join(TINY),
    "GRID": "grid --model RUN --out TMP/out.png",
    "OTHER": "grid --model UNIFORM --out TMP/out.png",
    "PAINT": "inpaint EDIT",
    "EDIT": "--model RUN --out TMP/out.png --image",
    "LONG": "x" * 300,
}
CASES = [
    ("unknown key", "train", "prior CONFIG prior.widht=3", "prior.width"),
    ("wrong type", "train", "prior CONFIG prior.width=wide", "prior.width"),
    ("section that is none", "train", "prior --config TMP/flat.yaml", "flat.yaml"),
    ("no section for the stage", "train", "prior --config TMP/only.yaml output_dir=RUN", "no section 'prior'"),
    ("key given twice", "train", "prior --config TMP/twice.yaml", "line 2: key 'seed' stands twice"),
    ("no configuration", "train", "prior --config none.yaml", "none.yaml"),
    ("no images", "train", "tokenizer CONFIG output_dir=TMP/run data.source=folder data.path=TMP/empty", "no images"),
    ("no folder", "train", "tokenizer CONFIG output_dir=TMP/run data.source=folder data.path=nowhere", "nowhere"),
    ("no tokenizer", "train", "prior CONFIG output_dir=TMP/run", "no trained tokenizer"),
    ("other shape", "train", "tokenizer CONFIG output_dir=RUN TINY tokenizer.width=12", "does not fit"),
    ("broken image", "sample", "PAINT TMP/broken.png --mask TMP/mask.png", "broken.png"),
    ("no image", "sample", "PAINT TMP/none.png --mask TMP/mask.png", "none.png"),
    ("mask of another size", "sample", "PAINT TMP/in.png --mask TMP/small.png", "16 x 16"),
    ("mask without white", "sample", "PAINT TMP/in.png --mask TMP/in.png", "no white"),
    ("label out of range", "sample", "GRID --label 10", "0 to 9"),
    ("no model", "sample", "grid --model nowhere --out TMP/out.png", "nowhere"),
    ("no prior", "sample", "grid --model TMP/half --out TMP/out.png", "no trained prior"),
    ("steps 0", "sample", "GRID --steps 0", "steps"),
    ("n negative", "sample", "GRID --n -1", "--n"),
    ("unknown sampler", "sample", "GRID --sampler magic", "tweedie"),
    ("output is a folder", "sample", "grid --model RUN --out TMP/locked.png", "folder"),
    ("output under a file", "sample", "grid --model RUN --out TMP/in.png/x.png", "in.png"),
    ("output not PNG", "sample", "grid --model RUN --out TMP/x.jpg", ".png"),
    ("reference missing", "evaluate", "--model RUN --reference no --out TMP/r.json", "no folder"),
    ("unknown option", "sample", "GRID --option eta=1", "no option"),
    ("option without a value", "sample", "GRID --option eta", "name=value"),
    ("unknown ramp", "sample", "GRID --guidance-ramp steep", "power_cosine"),
    ("unknown step grid", "sample", "GRID --step-grid square", "cosine"),
    ("temperature 0", "sample", "GRID --temperature 0", "temperature"),
    ("unfit sampler", "sample", "OTHER --sampler halton", "absorbing"),
    ("guidance without label dropout", "sample", "OTHER --guidance 2", "label dropout"),
    ("loss and graph", "train", "prior CONFIG prior.graph=uniform prior.loss=maskgit", "absorbing"),
    ("codes in unequal parts", "train", "prior CONFIG output_dir=RUN TINY prior.groups=3", "groups"),
    ("nowhere to write", "sample", "grid --model RUN", "--out"),
    ("many images without a folder", "sample", "GRID --n 2000", "--images-dir"),
    ("class of no name", "sample", "GRID --label seven", "unknown class 'seven'"),
    ("size of one number", "sample", "GRID --size 64", "HEIGHTxWIDTH"),
    ("size below a code", "sample", "GRID --size 2x64", "smaller than one code"),
    ("unknown way with large grids", "sample", "GRID --size 64x64 --large-grids magic", "sliding, rotary"),
    ("trajectory not GIF", "sample", "GRID --trajectory TMP/t.png", ".gif"),
    ("unknown dtype", "sample", "GRID --dtype int8", "bfloat16"),
    ("box of three", "sample", "PAINT TMP/in.png --box 1,2,3", "left,top,right,bottom"),
    ("box outside", "sample", "PAINT TMP/in.png --box 0,0,40,4", "does not lie in"),
    ("name too long", "sample", "grid --model RUN --out TMP/LONG.png", "too long"),
    ("extend by too much", "sample", "outpaint EDIT TMP/in.png --right 2000000000", "million"),
    ("prior without a graph", "sample", "grid --model TMP/odd --out TMP/out.png", "does not describe"),
    ("neither mask nor box", "sample", "PAINT TMP/in.png", "give a mask or a box"),
    ("extend by nothing", "sample", "outpaint EDIT TMP/in.png", "at least one pixel"),
    ("strength 0", "sample", "vary EDIT TMP/in.png --strength 0", "strength"),
    ("morph to another size", "sample", "morph EDIT TMP/in.png --other TMP/small.png", "same size"),
    ("no subcommand", "sample", "", "command"),
    ("wrong class name", "sample", "GRID --label nonne", "nearest one is 'none'"),
    ("no class without label dropout", "sample", "OTHER --label none", "label dropout"),
    ("endless strip", "sample", "PAINT TMP/in.png --box 0,0,8,8 --n 1000000000", "--images-dir"),
    ("endless variations", "sample", "vary EDIT TMP/in.png --n 1" + "0" * 30, "--images-dir"),
    ("endless morph", "sample", "morph EDIT TMP/in.png --other TMP/in.png --n 1000000000", "--images-dir"),
    (
        "endless morph into a folder",
        "sample",
        "morph EDIT TMP/in.png --other TMP/in.png --n 1000000000 --images-dir TMP/film",
        "at most 1000000",
    ),
    ("batch that no memory holds", "sample", "GRID --batch-size 1000000000", "at most 16384"),
    ("strength nan", "sample", "vary EDIT TMP/in.png --strength nan", "strength"),
    ("endless corrections", "sample", "GRID --sampler predictor_corrector --option corrections=1000000000", "1000000"),
    (
        "half a correction",
        "sample",
        "GRID --sampler predictor_corrector --option corrections=0.5",
        "whole decimal number",
    ),
    ("option nan", "sample", "GRID --sampler maskgit --option choice_temperature=nan", "must be a decimal number"),
    ("option inf", "sample", "GRID --sampler entropy_bound --option bound=inf", "must be a decimal number"),
    ("guidance nan", "sample", "GRID --guidance nan", "guidance"),
    ("temperature inf", "sample", "GRID --temperature inf", "temperature"),
    ("endless tiles", "sample", "reconstruct --model RUN --image TMP/large.png --out TMP/out.png --tile 4", "--tile"),
    ("tile 0", "sample", "reconstruct --model RUN --image TMP/in.png --out TMP/out.png --tile 0", "--tile"),
]


@pytest.fixture(scope="module")
def inputs(tiny_run, tmp_path_factory):
    """A folder of inputs that are damaged or do not fit."""
    tmp = tmp_path_factory.mktemp("inputs")
    Image.new("L", (32, 32)).save(tmp / "in.png")
    Image.new("L", (32, 32), 255).save(tmp / "mask.png")
    Image.new("L", (16, 16), 255).save(tmp / "small.png")
    Image.new("L", (1000, 1000)).save(tmp / "large.png")
    (tmp / "broken.png").write_bytes(b"\x89PNG nothing")
    (tmp / "empty").mkdir()
    (tmp / "flat.yaml").write_text("prior: 3\n")
    (tmp / "only.yaml").write_text("tokenizer:\n  width: 8\n")
    (tmp / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    (tmp / "half").mkdir()
    (tmp / "half/tokenizer").symlink_to(tiny_run / "tokenizer")
    (tmp / "locked.png").mkdir()
    config, state = read_model(tiny_run / "prior")
    save_model(tmp / "odd/prior", state, {key: value for key, value in config.items() if key != "graph"})
    (tmp / "odd/tokenizer").symlink_to(tiny_run / "tokenizer")
    return tmp


@pytest.mark.parametrize(
    ("program", "arguments", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_mistake_gives_one_line_and_exit_code_2(tiny_run, uniform_run, inputs, capfd, program, arguments, message):
    for word, meaning in WORDS.items():
        arguments = arguments.replace(word, meaning)
    places = {"RUN": tiny_run, "UNIFORM": uniform_run, "TMP": inputs}
    for word, place in places.items():
        arguments = arguments.replace(word, str(place))
    capfd.readouterr()
    try:
        code = run_cli(PROGRAMS[program].main, arguments.split())
    except SystemExit as stop:
        code = stop.code
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == 2, lines
    assert len(lines) == 1, lines
    assert message in lines[0]
    assert not (inputs / "out.png").exists()
    assert not list(inputs.glob(".*partial"))


def test_a_mistake_in_a_process_of_its_own_has_no_traceback():
    done = subprocess.run([sys.executable, "sample.py", "grid"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
