from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import TrainConfig, load_config, to_yaml
from common.errors import UserError
from diffusion.prior import PriorConfig
from diffusion.settings import SamplingSettings
from images.dataset import DataConfig
from training.run import RunConfig

MNIST = Path("configs/mnist.yaml")


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.yaml")), ids=str)
def test_every_configuration_loads(path):
    assert load_config(RunConfig, path).output_dir


def test_overrides_act():
    config = load_config(RunConfig, MNIST, ["prior.width=64", "tokenizer.train.learning_rate=1e-4"])
    assert config.prior.width == 64 and config.tokenizer.train.learning_rate == 1e-4


@pytest.mark.parametrize("no", ["no", "'no'"])
def test_no_is_a_precision_in_a_file(tmp_path, no):
    file = tmp_path / "run.yaml"
    file.write_text(f"prior:\n  train:\n    mixed_precision: {no}\n")
    assert load_config(RunConfig, file).prior.train.mixed_precision == "no"


def test_a_required_section_may_not_be_missing(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("output_dir: x\ntokenizer:\n  width: 16\n")
    assert load_config(RunConfig, file, ["prior.depth=2"], required="tokenizer").prior.depth == 2
    with pytest.raises(UserError, match="no section 'prior'"):
        load_config(RunConfig, file, ["prior.depth=2"], required="prior")


texts = st.text(st.characters(exclude_characters="\0"))  # surrogates too: they stand for bytes of file names
numbers = st.floats(0, 1e300, allow_nan=False)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    texts,
    texts,
    st.lists(texts, max_size=3),
    st.dictionaries(texts, texts | numbers | st.booleans(), max_size=3),
    numbers,
)
def test_a_written_configuration_reads_back_to_equal_values(
    tmp_path_factory, output_dir, path, trackers, options, rate
):
    config = RunConfig(
        output_dir=output_dir,
        data=DataConfig(path=path),
        prior=PriorConfig(
            train=TrainConfig(trackers=trackers, weight_decay=rate),
            generation=SamplingSettings(sampler_options=options, guidance_interval=(0.1, 0.9)),
        ),
    )
    file = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert repr(load_config(RunConfig, file)) == repr(config)
    assert load_config(RunConfig, file, [f"data.path={output_dir}"]).data.path == output_dir


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("prior.widht=64", "nearest valid one is 'prior.width'"),
        ("prior.width=wide", "prior.width"),
        ("prior.width", "section.key=value"),
        ("prior.train.steps=0", "at least 1"),
        ("prior.noise=pink", "noise must be one of"),
    ],
)
def test_mistakes_are_one_line_that_names_them(override, said):
    with pytest.raises(UserError, match=said) as caught:
        load_config(RunConfig, MNIST, [override])
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match="no configuration file"):
        load_config(RunConfig, tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1, 2")
    with pytest.raises(UserError, match="YAML"):
        load_config(RunConfig, tmp_path / "broken.yaml")
