"""Convert a published tokenizer checkpoint to DIR/tokenizer: `python -m vq.pretrained FILE --out DIR`.

Checkpoints of taming-transformers, latent-diffusion, LlamaGen, MaskGIT and aMUSEd are recognised by their keys. Code in a
pickle is never executed. docs/pretrained.md names the files and describes the checks of the conversion.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import ArgumentParser, run_cli
from vq.layouts import IGNORED, LAYOUTS


def build_parser() -> ArgumentParser:
    """The arguments of the command line."""
    parser = ArgumentParser(
        prog="python -m vq.pretrained", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help=".safetensors, or .ckpt, .pt, .pth, .bin that contain only tensors")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="model directory; DIR/tokenizer is written"
    )
    parser.add_argument("--layout", choices=LAYOUTS, help="refuse a file that does not have this layout")
    parser.add_argument(
        "--image-size",
        type=int,
        default=256,
        metavar="PIXELS",
        help="side of the images that the model is meant for, a multiple of its f [256]",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing DIR/tokenizer")
    return parser


def main(argv: Sequence[str]) -> None:
    """Parse `argv`, convert the file, and print a summary."""
    arguments = build_parser().parse_args(argv)

    from vq.convert import convert_file  # noqa: PLC0415

    done = convert_file(arguments.file, arguments.out, arguments.layout, arguments.image_size, arguments.force)
    for prefix, number in done.ignored.items():
        print(f"left out {number} tensors {prefix}*: {IGNORED[prefix]}")
    quantizer = done.config.quantizer
    print(
        f"{arguments.out / 'tokenizer'}: layout {done.layout.name}, f = {done.config.downsample}, "
        f"{quantizer.codebook_size} codes of dimension {quantizer.codebook_dim}, {done.parameters:,} parameters"
    )


if __name__ == "__main__":
    sys.exit(run_cli(main))
