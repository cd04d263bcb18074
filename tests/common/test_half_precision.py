import torch

from common import export
from common.errors import run_cli
from diffusion.pipeline import ImageGenerator


def test_a_copy_in_half_precision_is_half_as_large_and_generates_nearly_the_same(lively_run, tmp_path, capfd):
    target = tmp_path / "half"
    assert run_cli(export.main, [str(lively_run), str(target)]) == 0
    sizes = [(folder / "prior/model.safetensors").stat().st_size for folder in (lively_run, target)]
    assert sizes[1] < 0.6 * sizes[0] and (target / "README.md").is_file()
    whole, half = (ImageGenerator.from_pretrained(folder, "cpu") for folder in (lively_run, target))
    weights = [generator.prior.network.head.weight for generator in (whole, half)]
    assert weights[1].dtype == torch.float32 and 0 < (weights[0] - weights[1]).abs().max() < 1e-2
    assert half.generate(1, 1, num_inference_steps=2)[0].size == (32, 32)
