"""Measure how many samples of a digits model show the digit of their label, by an independent classifier.

python benchmarks/digits.py --model runs/mnist [--n 500] [--guidance 2] [--steps 16]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.digit_classifier import correct, load_digits, train_classifier
from common.errors import ArgumentParser, UserError, run_cli
from diffusion.pipeline import ImageGenerator

LEAST_ACCURACY = 0.95  # of the classifier on real digits; below it, its figures for samples mean nothing


def main(argv: Sequence[str]) -> None:
    parser = ArgumentParser(prog="digits.py", description="Accuracy of an independent classifier on sampled digits.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    classifier = train_classifier(*load_digits("train"))
    images, labels = load_digits("val")
    generator = ImageGenerator.from_pretrained(args.model, "cpu")
    settings = generator.settings(num_inference_steps=args.steps, guidance_scale=args.guidance, sampler="tweedie")
    sampled = generator.sample_codes(args.n, range(10), settings, args.seed)
    right = correct(classifier, generator.tokenizer.decode(sampled.codes), sampled.labels)
    reconstructions = generator.tokenizer.decode(generator.tokenizer.encode(images))
    on_real_digits = correct(classifier, images, labels).mean().item()
    result = {
        "classifier_accuracy_on_validation": on_real_digits,
        "reconstruction_accuracy": correct(classifier, reconstructions, labels).mean().item(),
        "sample_accuracy": right.mean().item(),
        "by_digit": [round(right[sampled.labels == digit].mean().item(), 3) for digit in range(10)],
        "n": args.n, "guidance": args.guidance, "steps": args.steps, "seed": args.seed,
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    if on_real_digits < LEAST_ACCURACY:
        raise UserError(f"the classifier is below {LEAST_ACCURACY} on real digits, so the other figures mean nothing")


if __name__ == "__main__":
    sys.exit(run_cli(main))
