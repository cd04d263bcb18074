"""Hostile configurations: YAML texts and overrides."""

from __future__ import annotations

from pathlib import Path
from random import Random

from benchmarks.hostile_case import Case

# Texts that YAML reads as something else; a key of a text takes them as they stand.
WORDS = (
    "1.10",
    "1e3",
    "007",
    "my pics #1",
    "0123",
    "no",
    "on",
    "2024-01-01",
    "0x10",
    "1_000",
    "12:30:45",
    "a: b",
    "1.0",
)
VALUES = ("", "null", "~", "true", "no", "-1", "0", "1", "1.5", "1" + "0" * 30, "1" + "0" * 400, "9" * 5000, ".nan", "nan",
          ".inf", "1e400", "0x10", "010", "1_000", "wide", '"3"', "[]", "[1, 2]", "[1, wide]", "{}", "{a: 1}",
          "[" * 300 + "]" * 300,
          "&a [*a]", "*nowhere", "!!python/object/apply:os.system [echo]", "!!binary aGk=", "${oc.env:HOME}", "${prior.width}",
          "???", "2024-01-01", "x" * 5000, "\u00e9\u202e", "'\x1b[31m'", "|\n   long\n   text", "- a")  # fmt: skip
LAUGHS = "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
                   + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)])  # fmt: skip
TEXTS: tuple[bytes, ...] = (
    b"", b"\0", b"\xff\xfe\0", b"a: [1, 2", b"- 1\n- 2\n", b"3", b"prior: 3\n", b"prior:\n\twidth: 3\n", b"? [1]\n: 2\n",
    b"{" * 5000, b"[" * 200_000, b"prior: {width: 8, width: 16}\n", b"--- {}\n--- {}\n", b"<<: {prior: 3}\n", b"1: 2\n",
    b"null: 3\n",
    b"prior: &a {width: 64, train: *a}\n", b"? \n", b"%YAML 9.9\n---\na: 1\n", LAUGHS.encode(), b"data: " + b"x" * 10**6,
)  # fmt: skip
KEYS = (
    "output_dir", "seed", "data", "data.source", "data.path", "data.image_size", "data.channels", "data.holdout",
    "data.flip", "data.in_memory", "tokenizer", "tokenizer.downsample", "tokenizer.width", "tokenizer.multipliers",
    "tokenizer.blocks", "tokenizer.quantizer.kind", "tokenizer.quantizer.codebook_size", "tokenizer.quantizer.levels",
    "tokenizer.quantizer.decay", "tokenizer.loss.perceptual", "tokenizer.discriminator", "tokenizer.train.steps",
    "tokenizer.train.betas", "tokenizer.train.trackers", "tokenizer.train.mixed_precision", "prior", "prior.graph",
    "prior.width", "prior.dropout", "prior.time_conditioned", "prior.generation.sampler_options",
    "prior.generation.guidance_interval", "prior.generation.num_inference_steps", "prior.train.learning_rate",
    "prior.train.resume", "", ".", "prior.", ".width", "prior..width", "prior.width.x", "prior.widht", "prior[0]",
    "data.path.x",
)  # fmt: skip


def hostile_config(rng: Random, model: Path, folder: Path) -> Case:
    """A YAML text with a hostile value, or a hostile text, and up to three overrides."""
    del model
    file = folder / "run.yaml"
    kind = rng.choice(("text", "value", "value", "bytes", "overrides", "overrides", "words"))
    good = Path("configs/mnist.yaml").read_bytes()
    if kind == "text":
        file.write_bytes(rng.choice(TEXTS))
    elif kind == "value":
        key = rng.choice(KEYS).split(".")
        lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(key)]
        file.write_text("\n".join(lines) + f" {rng.choice(VALUES)}\n", encoding="utf-8")
    elif kind == "bytes":
        whole = bytearray(good)
        for _ in range(rng.randint(1, 8)):
            whole[rng.randrange(len(whole))] = rng.randrange(256)
        file.write_bytes(whole[: rng.randint(1, len(whole))])
    else:
        file.write_bytes(good)
    overrides = [
        f"{rng.choice(KEYS)}={rng.choice(VALUES)}" for _ in range(rng.randint(0, 3) if kind == "overrides" else 0)
    ]
    overrides = [text for text in overrides if not text.startswith(("output_dir=", "data.path="))]
    if kind == "words":
        overrides = [f"{rng.choice(('output_dir', 'data.path'))}={rng.choice(WORDS)}"]
    if rng.random() < 0.05:
        overrides.append(rng.choice(("=", "prior.width", "", "prior.width:3", "\x1b[31m=1", "a" * 5000 + "=1")))
    return Case(f"configuration, {kind} {' '.join(overrides)[:200]!r}", "configuration", [str(file), *overrides])
