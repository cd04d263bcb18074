"""Score a model, or a folder of pictures, against a reference and write report.json.

python evaluate.py --model DIR | --images DIR  --reference DIR|mnist5k  --out report.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ArgumentParser, UserError, run_cli

if TYPE_CHECKING:
    from torch import Tensor

    from common.data import ImageData


def load_reference(name: str, image_size: int, channels: int) -> ImageData:
    """The held-out part of an embedded data set by its name, or all pictures under a folder."""
    from common.data import DataConfig, load_folder, load_images

    if name == "mnist5k":
        return load_images(DataConfig(source=name, image_size=image_size, channels=channels), "val")
    return load_folder(name, image_size, channels)


def frechet(pictures: Tensor, reference: Tensor, name: str) -> dict[str, Any]:
    """Frechet distance of uint8 pictures `(N, C, H, W)` to `reference`, labelled with all that it depends on."""
    import torch
    from tqdm import tqdm

    from common.metrics import EfficientNetFeatures, frechet_distance

    network = EfficientNetFeatures()

    def features(pixels: Tensor, what: str) -> Tensor:
        with torch.no_grad():
            batches = tqdm(pixels.split(100), desc=f"features of {what}")
            return torch.cat([network(batch.float() / 127.5 - 1) for batch in batches])

    if min(len(pictures), len(reference)) < 2:
        raise UserError("a Frechet distance needs at least 2 pictures on both sides: raise --n or add pictures")
    distance = frechet_distance(features(pictures, "pictures"), features(reference, "reference"))
    return {
        "frechet_distance": distance,
        "extractor": network.name,
        "note": "not FID: another feature network",
        "pictures": len(pictures),
        "reference": name,
        "reference_pictures": len(reference),
    }


def score_model(args: argparse.Namespace) -> dict[str, Any]:
    """Reconstruction, likelihood and samples of a model directory."""
    import torch
    from tqdm import tqdm

    from common.metrics import codebook_use, psnr, ssim
    from diffusion.codes import split_codes
    from diffusion.loss import likelihood_bound
    from diffusion.pipeline import ImageGenerator
    from sample import settings_from

    generator = ImageGenerator.from_pretrained(args.model)
    tokenizer, device = generator.tokenizer, generator.device
    reference = load_reference(args.reference, tokenizer.image_size, tokenizer.channels)

    codes, restored = [], []
    for pixels in tqdm(reference.pixels.split(100), desc="reconstruct"):
        codes.append(tokenizer.encode((pixels.float() / 127.5 - 1).to(device)))
        restored.append(((tokenizer.decode(codes[-1]).cpu() + 1) * 127.5).round().to(torch.uint8))
    all_codes, reconstructions = torch.cat(codes), torch.cat(restored)
    first, second = reconstructions.float() / 127.5 - 1, reference.pixels.float() / 127.5 - 1
    counts = torch.bincount(all_codes.flatten().cpu(), minlength=tokenizer.codebook_size)
    reconstruction = {"psnr_db": psnr(first, second).mean().item(), "ssim": ssim(first, second).mean().item()}

    no_class = len(generator.class_names)
    labels = torch.where(reference.labels < 0, no_class, reference.labels)
    if no_class and reference.class_names != generator.class_names:
        labels = torch.full_like(labels, no_class)  # other classes: score without
    digits = split_codes(all_codes, generator.groups, generator.vocab_size)
    bound = likelihood_bound(
        generator.prior, generator.graph, digits, labels.to(device), torch.Generator().manual_seed(args.seed),
        raw_score=generator.config["parametrization"] == "score",
    )  # fmt: skip
    nats, error = bound.nats * generator.groups, bound.standard_error * generator.groups  # of a whole code
    dimensions = tokenizer.channels * tokenizer.downsample**2  # that a code stands for

    settings = settings_from(args)
    drawn, calls = [], []
    with tqdm(total=args.n, desc="pictures", unit="picture") as bar:
        for start in range(0, args.n, 100):
            every = range(no_class) if no_class else None
            batch = generator.generate_codes(min(100, args.n - start), every, settings, args.seed, first=start)
            drawn.append(((tokenizer.decode(batch.codes).cpu() + 1) * 127.5).round().to(torch.uint8))
            calls.append(batch.network_calls.double())
            bar.update(len(batch.codes))
    samples = frechet(torch.cat(drawn), reference.pixels, args.reference)
    return {
        "model": str(args.model),
        "reference": args.reference,
        "reconstruction": reconstruction
        | {"pictures": len(reference)}
        | codebook_use(counts)
        | {"frechet": frechet(reconstructions, reference.pixels, args.reference)},
        "likelihood": {
            "what": "upper bound on -log p(codes | class) of the reference's codes",
            "nats_per_code": nats,
            "bits_per_code": nats / math.log(2),
            "bits_per_code_standard_error": error / math.log(2),
            "bits_per_dimension": nats / math.log(2) / dimensions,
        },
        "samples": samples | {"network_calls": torch.cat(calls).mean().item(), "seed": args.seed} | asdict(settings),
    }


def score_images(args: argparse.Namespace) -> dict[str, Any]:
    """Frechet distance of a folder of pictures, at the size of its first, or at the reference's own."""
    from common.data import find_pictures, load_folder
    from common.imageio import read_image

    size = 32 if args.reference == "mnist5k" else min(read_image(find_pictures(args.images)[0]).size)
    pictures, reference = load_folder(args.images, size, 3), load_reference(args.reference, size, 3)
    return {"images": str(args.images), "samples": frechet(pictures.pixels, reference.pixels, args.reference)}


def main(argv: Sequence[str]) -> None:
    """Parse the command line, score, write the report."""
    from sample import add_sampling_arguments

    parser = ArgumentParser(prog="evaluate.py", description="Score a model or a folder of pictures.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, help="a model directory, such as runs/mnist")
    what.add_argument("--images", type=Path, help="a folder of pictures")
    parser.add_argument("--reference", required=True, help="mnist5k (its held-out part) or a folder of pictures")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--n", type=int, default=500, help="pictures drawn from the model (default 500)")
    add_sampling_arguments(parser, guidance=2.0)
    parser.add_argument("--seed", type=int, default=0, help="of the samples and the likelihood (default 0)")
    args = parser.parse_args(argv)
    if args.n < 2:
        raise UserError(f"--n must be at least 2, got {args.n}")

    from common.checkpoint import write_text

    if args.out.is_dir():
        raise UserError(f"cannot write {args.out}: it is a folder; name a file")
    report = score_model(args) if args.model else score_images(args)
    write_text(args.out, json.dumps(report, indent=2) + "\n")
    print(args.out)


if __name__ == "__main__":
    sys.exit(run_cli(main))
