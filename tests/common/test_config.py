import re
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
from vq.autoencoder import ARCHITECTURES
from vq.quantizer import KINDS as QUANTIZERS

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
paths = texts.filter(lambda text: not text.startswith("~"))  # which stands for a home folder
numbers = st.floats(0, 1e300, allow_nan=False)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    paths,
    paths,
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


# Each of these alone changes one key of a configuration; what does not fit names a key and a value that does.
ALONE = [
    *(f"tokenizer.quantizer.kind={kind}" for kind in QUANTIZERS),
    *(f"tokenizer.architecture={architecture}" for architecture in ARCHITECTURES),
    *(f"tokenizer.downsample={downsample}" for downsample in (2, 8, 16)),
    *(f"prior.heads={heads}" for heads in (1, 5, 7)),
    "prior.graph=uniform", "prior.parametrization=score", "prior.loss=lambda_dce", "prior.loss=cross_entropy",
    "prior.width=100", "tokenizer.width=20", "tokenizer.multipliers=[]", "tokenizer.multipliers=[1]",
    "tokenizer.latent_channels=4", "tokenizer.quantizer.codebook_size=1000", "tokenizer.quantizer.groups=2",
    "tokenizer.quantizer.groups=5", "tokenizer.quantizer.levels=[8,5]",
]  # fmt: skip


@pytest.mark.parametrize("override", ALONE)
@pytest.mark.parametrize("name", ["mnist", "emoji64-f8", "imagenet256-lfq"])
def test_one_override_fits_or_the_message_gives_one_that_does(name, override):
    path = Path(f"configs/{name}.yaml")
    try:
        load_config(RunConfig, path, [override])
    except UserError as error:
        fitting = re.search(r"set ((\S+)=\S+)", str(error))
        assert fitting, error
        changed = [fitting[1]] if fitting[2] == override.partition("=")[0] else [override, fitting[1]]
        load_config(RunConfig, path, changed)


@pytest.mark.parametrize("name", ["mnist", "emoji64-f8"])
@pytest.mark.parametrize("kind", QUANTIZERS)
def test_every_kind_of_quantizer_fits_alone(name, kind):
    load_config(RunConfig, f"configs/{name}.yaml", [f"tokenizer.quantizer.kind={kind}"])
