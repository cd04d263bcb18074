"""Random command lines, model folders, data folders, masks and configurations: each ends well or in one line of error."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.hostile_arguments import hostile_command
from benchmarks.hostile_configs import hostile_config
from benchmarks.hostile_folders import hostile_folder
from benchmarks.hostile_masks import hostile_mask
from benchmarks.hostile_models import hostile_model
from tests.fuzz.run import check, examples

RANDOM = st.randoms(use_true_random=False)  # hypothesis shortens their choices to find the simplest input that fails


@given(random=RANDOM)
@examples(240)
def test_command_lines(tiny_run, random):
    check(hostile_command, random, tiny_run)


@given(number=st.integers(0, 10**6))
@examples(100)
def test_model_folders(tiny_run, number):
    check(hostile_model, number, tiny_run)


@given(random=RANDOM)
@examples(100)
def test_data_folders(tiny_run, random):
    check(hostile_folder, random, tiny_run)


@given(random=RANDOM)
@examples(100)
def test_masks(tiny_run, random):
    check(hostile_mask, random, tiny_run)


@given(random=RANDOM)
@examples(200)
def test_configurations(tiny_run, random):
    check(hostile_config, random, tiny_run)
