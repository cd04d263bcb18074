"""Score a model, or a folder of pictures, against a reference and write report.json, with pictures beside it.

python evaluate.py --model DIR | --images DIR  --reference DIR|mnist5k  --out report.json  [--only reconstruction]

A model without a prior is scored by its reconstructions alone. Beside the report lie <its stem>-reconstructions.png, with
pictures from all over the reference, and <its stem>-worst.png, with those of the lowest PSNR: each over its reconstruction.
A number that JSON does not know, such as the infinite PSNR of a picture that comes back bit for bit, is null.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common.errors import ArgumentParser, UserError, run_cli

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor, nn

    from common.features import EfficientNetFeatures
    from diffusion.pipeline import CodesToImages, ImageGenerator, Settings

log = logging.getLogger(__name__)
SHOWN = 32  # pictures in <stem>-reconstructions.png
COLUMNS = 8
WORST = 10  # pictures in <stem>-worst.png
BATCH_PIXELS = 2**20  # a batch at 256 pixels then takes a few GB of activations


class Batch(NamedTuple):
    """pixels uint8 `(B, C, S, S)`; of each picture the name of its class, "" without, and its file, "" if embedded."""

    pixels: Tensor
    classes: list[str]
    files: list[str]


class Pictures:
    """Pictures that are read batch by batch, each once: those of a large folder never lie in memory together.

    Args:
        source: "mnist5k" for its held-out part, or a folder, of which all pictures are taken. A class is a folder
            directly under it; pictures lying in the folder itself mean that there are none.
        size: pixels a side, to which pictures are cropped and resized.

    Raises:
        UserError: there is nothing to read.
    """

    def __init__(self, source: str | Path, size: int, channels: int) -> None:
        from images.dataset import DataConfig, ImageData, find_images, load_images

        self.size, self.channels = size, channels
        self.embedded: ImageData | None = None
        if source == "mnist5k":
            images = load_images(DataConfig(source="mnist5k", image_size=size, channels=channels), "val")
            assert isinstance(images, ImageData)
            self.embedded = images
            self.count = len(images)
        else:
            self.folder = Path(source)
            self.files = find_images(self.folder)
            self.count = len(self.files)  # those that do not decode will be fewer
        if self.count < 2:
            raise UserError(f"{source} holds {self.count} picture and scores need at least 2: add pictures")
        self.batch_size = max(1, min(100, BATCH_PIXELS // size**2))

    def __iter__(self) -> Iterator[Batch]:
        """In the order of their names. Raises UserError at the end where fewer than 2 decode."""
        from tqdm import tqdm

        decoded = 0
        with tqdm(total=self.count, desc="read and score", unit="picture") as bar:
            for start in range(0, self.count, self.batch_size):
                part = slice(start, start + self.batch_size)
                if self.embedded is not None:
                    names = [self.embedded.class_names[label] for label in self.embedded.labels[part].tolist()]
                    batch = Batch(self.embedded.pixels[part], names, [""] * len(names))
                else:
                    batch = self._read(self.files[part])
                decoded += len(batch.pixels)
                if len(batch.pixels):
                    yield batch
                bar.update(min(self.batch_size, self.count - start))
        if decoded < 2:
            raise UserError(
                f"{decoded} of {self.count} pictures in {self.folder} decode and scores need 2: add pictures"
            )

    def _read(self, files: Sequence[Path]) -> Batch:
        import torch

        from images.dataset import fit_square, stack_squares
        from images.io import read_image

        batch = Batch(torch.empty(0), [], [])
        squares = []
        for file in files:
            try:
                squares.append(fit_square(read_image(file), self.size, self.channels))
            except UserError as error:
                log.warning("skipped: %s", error)
                continue
            parts = file.relative_to(self.folder).parts
            batch.classes.append(parts[0] if len(parts) > 1 else "")
            batch.files.append("/".join(parts))
        return batch._replace(pixels=stack_squares(squares)) if squares else batch


def to_images(pixels: Tensor, device: str | torch.device) -> Tensor:
    """Float in [-1, 1] on `device` of uint8 `pixels`."""
    return pixels.to(device).float() / 127.5 - 1


def at_8_bits(images: Tensor) -> Tensor:
    """Images in [-1, 1] rounded to what a saved picture holds. Raises UserError where they are not finite."""
    import torch

    if not bool(torch.isfinite(images).all()):
        raise UserError("the tokenizer's pictures are not finite: its weights are damaged, train or copy it again")
    return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def reconstruct(tokenizer: CodesToImages, images: Tensor) -> tuple[Tensor, Tensor]:
    """Codes `(B, h, w)` of images `(B, C, S, S)` in [-1, 1], and their reconstructions at 8 bits."""
    codes = tokenizer.encode(images)
    return codes, at_8_bits(tokenizer.decode(codes))


def load_if_had(
    what: str, build: Callable[[bool], nn.Module], download: bool, device: str | torch.device
) -> tuple[nn.Module | None, str]:
    """The network that `build` makes; or None, and one line what file to place where."""
    from common.features import WeightsMissing

    try:
        network = build(download)
    except WeightsMissing as missing:
        log.warning("no %s: %s", what, missing)
        return None, str(missing)
    return network.to(device).eval(), ""


@dataclass
class Reconstruction:
    """What one pass over the reference found.

    Attributes:
        report: the report's part.
        pictures: to lie beside the report, by the end of their names.
        codes: of all pictures `(N, h, w)`, where they were asked for.
        classes: of all pictures.
        features: EfficientNet's, of the reference `(N, D)`.
    """

    report: dict[str, Any]
    pictures: dict[str, Image.Image]
    codes: Tensor | None
    classes: list[str]
    features: Tensor


class Pair(NamedTuple):
    """A picture and its reconstruction; PSNR in dB and place in the reference come first, so that it sorts by them."""

    psnr: float
    place: int
    file: str
    above: Image.Image
    below: Image.Image


class Gallery:
    """The pictures that are kept to be looked at: SHOWN from all over the reference, and the WORST lowest in PSNR."""

    def __init__(self, count: int) -> None:
        self.wanted = {round(i * (count - 1) / (SHOWN - 1)) for i in range(SHOWN)}  # all where they are fewer
        self.seen = 0
        self.shown: list[Pair] = []
        self.worst: list[Pair] = []

    def add(self, images: Tensor, restored: Tensor, decibels: Tensor, files: Sequence[str]) -> None:
        """The next batch: images and reconstructions `(B, C, S, S)` in [-1, 1], PSNR `(B,)`."""
        import torch

        from images.convert import to_pil

        for row, psnr in enumerate(decibels.tolist()):
            shown = self.seen in self.wanted
            if shown or len(self.worst) < WORST or psnr < self.worst[-1].psnr:
                pair = Pair(psnr, self.seen, files[row], *to_pil(torch.stack([images[row], restored[row]])))
                self.shown += [pair] if shown else []
                self.worst = sorted([*self.worst, pair], key=lambda pair: (pair.psnr, pair.place))[:WORST]
            self.seen += 1

    def pictures(self) -> dict[str, Image.Image]:
        """What lies beside the report, by the end of its name."""
        from images.grid import paired_grid

        return {
            name: paired_grid([pair.above for pair in pairs], [pair.below for pair in pairs], columns)
            for name, pairs, columns in (("reconstructions", self.shown, COLUMNS), ("worst", self.worst, WORST))
        }

    def worst_part(self) -> list[dict[str, Any]]:
        """The report's list of the worst: place in the reference, counted from 0, PSNR, and file where it has one."""
        named = ({"file": pair.file} if pair.file else {} for pair in self.worst)
        places = ({"index": pair.place, "psnr_db": pair.psnr} for pair in self.worst)
        return [place | name for place, name in zip(places, named, strict=True)]


def score_reconstruction(
    tokenizer: CodesToImages,
    device: str | torch.device,
    extractor: EfficientNetFeatures,
    reference: Pictures,
    name: str,
    keep_codes: bool,
    download: bool,
) -> Reconstruction:
    """Everything that is asked of reconstructions, in one pass; of every picture only its features and scores are kept.

    Scores are of reconstructions at 8 bits. Raises UserError where fewer than 2 pictures decode.
    """
    import torch

    from common.features import InceptionFeatures
    from common.metrics import codebook_use, frechet_distance, psnr, ssim
    from vq.perceptual import load_downloaded

    size = tokenizer.image_size
    lpips, lpips_missing = None, "VGG-16 takes pictures of at least 16 pixels a side: it halves them four times"
    if size >= 16:
        lpips, lpips_missing = load_if_had("LPIPS", partial(load_downloaded, "lpips"), download, device)
    inception, inception_missing = load_if_had("rFID", InceptionFeatures, download, device)
    scores: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": psnr}
    scores |= {"ssim": ssim} if size >= 11 else {}
    scores |= {"lpips": lpips} if lpips is not None else {}
    networks: dict[str, nn.Module] = {"efficientnet": extractor}
    networks |= {"inception": inception} if inception is not None else {}

    of_each: dict[str, list[Tensor]] = {score: [] for score in scores}
    features: dict[str, tuple[list[Tensor], list[Tensor]]] = {network: ([], []) for network in networks}
    used: Counter[int] = Counter()  # a table of all codes could be larger than memory: 36 bits make 2 ** 36 of them
    codes: list[Tensor] = []
    classes: list[str] = []
    gallery = Gallery(reference.count)
    for batch in reference:
        images = to_images(batch.pixels, device)
        batch_codes, restored = reconstruct(tokenizer, images)
        with torch.no_grad():
            for score, compare in scores.items():
                of_each[score].append(compare(restored, images).double().cpu())
            for network, (of_restored, of_reference) in features.items():
                of_restored.append(networks[network](restored).float().cpu())
                of_reference.append(networks[network](images).float().cpu())
        found, counts = batch_codes.unique(return_counts=True)
        used.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        if keep_codes:
            codes.append(batch_codes.cpu())
        gallery.add(images, restored, of_each["psnr"][-1], batch.files)
        classes += batch.classes

    every = {score: torch.cat(values) for score, values in of_each.items()}
    finite = every["psnr"][every["psnr"].isfinite()]
    distances = {
        network: frechet_distance(torch.cat(of_restored), torch.cat(of_reference))
        for network, (of_restored, of_reference) in features.items()
    }
    report = {
        "pictures": len(classes),
        "psnr_db": finite.mean().item() if len(finite) else None,
        "psnr_note": "mean over pictures; those that come back bit for bit, whose PSNR is infinite, are left out",
        "bit_for_bit": len(classes) - len(finite),
        "ssim": every["ssim"].mean().item() if "ssim" in every else None,
        "ssim_note": "mean over pictures; needs 11 pixels a side",
        "lpips": every["lpips"].mean().item() if "lpips" in every else None,
        "lpips_note": lpips_missing or "mean over pictures; VGG-16, version 0.1",
        "rfid": distances.get("inception"),
        "rfid_note": inception_missing
        or f"{InceptionFeatures.name} and resizing, of {len(classes)} pictures at {size} pixels; few pictures raise it",
        **codebook_use(torch.tensor(list(used.values())), tokenizer.codebook_size),
        "frechet": frechet_part(distances["efficientnet"], extractor.name, len(classes), name, len(classes)),
        "worst": gallery.worst_part(),
    }  # fmt: skip
    all_codes = torch.cat(codes) if keep_codes else None
    return Reconstruction(report, gallery.pictures(), all_codes, classes, torch.cat(features["efficientnet"][1]))


def frechet_part(
    distance: float, extractor: str, pictures: int, reference: str, reference_pictures: int
) -> dict[str, Any]:
    """A Frechet distance, labelled with all that it depends on."""
    return {
        "frechet_distance": distance,
        "extractor": extractor,
        "note": "not FID: another feature network",
        "pictures": pictures,
        "reference": reference,
        "reference_pictures": reference_pictures,
    }


def score_likelihood(generator: ImageGenerator, found: Reconstruction, seed: int) -> dict[str, Any]:
    """Bound on the likelihood of the reference's codes, given their classes where the model knows the same ones."""
    import torch

    from diffusion.loss import likelihood_bound
    from diffusion.subcodes import split_codes

    assert found.codes is not None
    no_class = len(generator.class_names)
    names = sorted(set(found.classes))
    known = no_class and names == generator.class_names  # other classes: score without
    numbers = {name: number if known else no_class for number, name in enumerate(names)}
    labels = torch.tensor([numbers.get(name, no_class) for name in found.classes])
    digits = split_codes(found.codes.to(generator.device), generator.groups, generator.vocab_size)
    bound = likelihood_bound(
        generator.prior, generator.graph, digits, labels.to(generator.device), torch.Generator().manual_seed(seed),
        raw_score=generator.config["parametrization"] == "score",
    )  # fmt: skip
    nats, error = bound.nats * generator.groups, bound.standard_error * generator.groups  # of a whole code
    dimensions = generator.tokenizer.channels * generator.tokenizer.downsample**2  # that a code stands for
    return {
        "what": "upper bound on -log p(codes | class) of the reference's codes",
        "nats_per_code": nats,
        "bits_per_code": nats / math.log(2),
        "bits_per_code_standard_error": error / math.log(2),
        "bits_per_dimension": nats / math.log(2) / dimensions,
    }


def score_samples(
    args: argparse.Namespace,
    generator: ImageGenerator,
    settings: Settings,
    extractor: EfficientNetFeatures,
    features: Tensor,
) -> dict[str, Any]:
    """Frechet distance of `--n` drawn pictures to the reference's `features` `(N, D)`."""
    import torch
    from tqdm import tqdm

    from common.metrics import frechet_distance

    drawn, calls = [], []
    every = range(len(generator.class_names)) if generator.class_names else None
    with tqdm(total=args.n, desc="draw", unit="picture") as bar:
        for start in range(0, args.n, 100):
            batch = generator.generate_codes(min(100, args.n - start), every, settings, args.seed, first=start)
            with torch.no_grad():
                drawn.append(extractor(at_8_bits(generator.tokenizer.decode(batch.codes))).cpu())
            calls.append(batch.network_calls.double())
            bar.update(len(batch.codes))
    distance = frechet_distance(torch.cat(drawn), features)
    return (
        frechet_part(distance, extractor.name, args.n, args.reference, len(features))
        | {"network_calls": torch.cat(calls).mean().item(), "seed": args.seed}
        | asdict(settings)
    )


def score_model(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Image.Image]]:
    """Reconstruction, and where there is a prior likelihood and samples; and the pictures to lie beside the report."""
    import torch

    from common.features import EfficientNetFeatures
    from common.model_dir import model_directory
    from diffusion.pipeline import ImageGenerator
    from images.io import check_writable
    from sample import settings_from
    from vq.tokenizer import Tokenizer

    directory, settings = model_directory(args.model), settings_from(args)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = None
    if args.only is None and (directory / "prior").exists():
        generator = ImageGenerator.from_pretrained(directory, device)
    tokenizer = generator.tokenizer if generator else Tokenizer.from_pretrained(directory, device)
    reference = Pictures(args.reference, tokenizer.image_size, tokenizer.channels)
    for end in ("reconstructions", "worst"):
        check_writable(beside(args.out, end))  # now rather than after all the work
    if generator is None and args.only is None:
        log.warning("%s holds no prior: only reconstruction is scored", args.model)
    extractor = EfficientNetFeatures().to(device)
    found = score_reconstruction(
        tokenizer, device, extractor, reference, args.reference, generator is not None, not args.no_download
    )
    report = {"model": str(args.model), "reference": args.reference, "reconstruction": found.report}
    if generator is not None:
        report["likelihood"] = score_likelihood(generator, found, args.seed)
        report["samples"] = score_samples(args, generator, settings, extractor, found.features)
    return report, found.pictures


def score_images(args: argparse.Namespace) -> dict[str, Any]:
    """Frechet distance of a folder of pictures, at the size of its first, or at the reference's own."""
    import torch

    from common.features import EfficientNetFeatures
    from common.metrics import frechet_distance
    from images.dataset import find_images
    from images.io import read_image

    size = 32 if args.reference == "mnist5k" else min(read_image(find_images(args.images)[0]).size)
    extractor = EfficientNetFeatures()
    both = []
    with torch.no_grad():
        for pictures in (Pictures(args.images, size, 3), Pictures(args.reference, size, 3)):
            both.append(torch.cat([extractor(to_images(batch.pixels, "cpu")) for batch in pictures]))
    part = frechet_part(frechet_distance(*both), extractor.name, len(both[0]), args.reference, len(both[1]))
    return {"images": str(args.images), "samples": part}


def beside(out: Path, end: str) -> Path:
    """The picture <stem>-<end>.png that lies beside the report `out`."""
    return out.with_name(f"{out.stem}-{end}.png")


def known_to_json(value: Any) -> Any:
    """`value` with None for every infinite number and NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: known_to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [known_to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(argv: Sequence[str]) -> None:
    """Parse the command line, score, write the report."""
    from sample import add_sampling_arguments

    parser = ArgumentParser(prog="evaluate.py", description="Score a model or a folder of pictures.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, help="a model directory, such as runs/mnist; its prior may be missing")
    what.add_argument("--images", type=Path, help="a folder of pictures")
    parser.add_argument("--reference", required=True, help="mnist5k (its held-out part) or a folder of pictures")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--only", choices=["reconstruction"], help="of a model: skip likelihood and samples")
    parser.add_argument(
        "--no-download", action="store_true", help="leave out LPIPS and rFID where their weights (0.6 GB) are not here"
    )
    parser.add_argument("--n", type=int, default=500, help="pictures drawn from the model (default 500)")
    add_sampling_arguments(parser, guidance=2.0)
    parser.add_argument("--seed", type=int, default=0, help="of the samples and the likelihood (default 0)")
    args = parser.parse_args(argv)
    if args.n < 2:
        raise UserError(f"--n must be at least 2, got {args.n}")
    if args.only and not args.model:
        raise UserError("--only is for a model: give --model, or leave it out with --images")

    from common.files import write_text
    from images.io import save_png

    if args.out.is_dir():
        raise UserError(f"cannot write {args.out}: it is a folder; name a file")
    report, pictures = score_model(args) if args.model else (score_images(args), {})
    for end, picture in pictures.items():
        save_png(picture, beside(args.out, end))
    write_text(
        args.out, json.dumps(known_to_json(report), indent=2, allow_nan=False) + "\n"
    )  # last: it vouches for them
    print(args.out)


if __name__ == "__main__":
    sys.exit(run_cli(main))
