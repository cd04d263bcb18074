from pathlib import Path

import pytest

from common.config import load_config
from common.errors import UserError
from training.run import RunConfig

MNIST = Path("configs/mnist.yaml")


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.yaml")), ids=str)
def test_every_configuration_loads(path):
    assert load_config(RunConfig, path).output_dir


def test_overrides_act():
    config = load_config(RunConfig, MNIST, ["prior.width=64", "tokenizer.train.learning_rate=1e-4"])
    assert config.prior.width == 64 and config.tokenizer.train.learning_rate == 1e-4


def test_no_is_a_precision_though_yaml_reads_it_as_false():
    config = load_config(RunConfig, MNIST, ["tokenizer.train.mixed_precision=no"])
    assert config.tokenizer.train.mixed_precision == "no"


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
