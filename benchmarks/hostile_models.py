"""Damaged and hostile model folders, the same for the same number.

Each is a copy of a good model with one fault: a value of a JSON file, the tensors or bytes of a weights file, or the kind of
a path.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.hostile_case import Case

Tensors = dict[str, Tensor]
# JSON texts that replace the value of a key; some are outside JSON's standard, which Python's parser does not mind.
VALUES = {
    "null": "null", "true": "true", "minus one": "-1", "zero": "0", "fraction": "1.5", "two": "2", "thousand": "1000",
    "10^5": "100000", "10^9": "1000000000", "10^18": "1" + "0" * 18, "10^400": "1" + "0" * 400,
    "10^5000": "1" + "0" * 5000, "NaN": "NaN", "Infinity": "Infinity", "-Infinity": "-Infinity", "1e400": "1e400",
    "tiny": "1e-320", "word": '"tree"', "number as text": '"3"', "empty text": '""', "long text": '"' + "x" * 10**6 + '"',
    "escape sequence": r'"\u001b[31m\u0007\u0000\n\ud800"', "empty list": "[]", "list": "[1, 2]", "texts": '["a", "b"]',
    "long list": "[" + "1, " * 10**5 + "3]", "nested list": "[[[1]]]", "object": '{"a": 1}', "empty object": "{}",
    "500 deep": "[" * 500 + "]" * 500, "200,000 deep": "[" * 200_000 + "]" * 200_000, "unclosed": "[" * 200_000,
}  # fmt: skip
MISSING = "missing"
TEXTS = {
    "empty": b"", "not JSON": b"width: 3\n", "not UTF-8": b'{"width": "\xff\xfe"}', "a list": b"[]", "null": b"null",
    "zeros": b"\0" * 1000, "unclosed": b'{"a": ', "two objects": b"{}{}", "200,000 deep": b"[" * 200_000,
}  # fmt: skip
PATHS = ("missing", "folder", "FIFO", "link to itself", "broken link", "endless device", "unreadable")


class Fault(NamedTuple):
    """What is wrong with a model folder: the file and the change of it, which takes random numbers."""

    name: str
    file: str
    change: Callable[[Path, np.random.Generator], None]


def set_value(keys: tuple[str, ...], text: str) -> Callable[[Path, np.random.Generator], None]:
    """Let a key of a JSON file, or of an object in it, hold a JSON text; `MISSING` removes it."""

    def change(file: Path, rng: np.random.Generator) -> None:
        del rng
        content = json.loads(file.read_text(encoding="utf-8"))
        place = content
        for key in keys[:-1]:
            place = place[key]
        if text == MISSING:
            del place[keys[-1]]
        else:
            place[keys[-1]] = "@"
        file.write_text(json.dumps(content).replace('"@"', text), encoding="utf-8")

    return change


def set_class_names(names: Callable[[int], object]) -> Callable[[Path, np.random.Generator], None]:
    """Let config.json hold other class names, made from the number of classes."""

    def change(file: Path, rng: np.random.Generator) -> None:
        del rng
        content = json.loads(file.read_text(encoding="utf-8"))
        content["class_names"] = names(len(content["class_names"]))
        file.write_text(json.dumps(content), encoding="utf-8")

    return change


def set_bytes(change: Callable[[bytes, np.random.Generator], bytes]) -> Callable[[Path, np.random.Generator], None]:
    """Change the bytes of a file."""
    return lambda file, rng: file.write_bytes(change(file.read_bytes(), rng)) and None


def set_tensors(
    change: Callable[[Tensors, str, np.random.Generator], object],
) -> Callable[[Path, np.random.Generator], None]:
    """Change the tensors of a weights file; the function also gets the name of one of them."""

    def apply(file: Path, rng: np.random.Generator) -> None:
        tensors = load_file(file)
        change(tensors, sorted(tensors)[rng.integers(len(tensors))], rng)
        save_file({name: value.contiguous() for name, value in tensors.items()}, file)

    return apply


def set_path(kind: str) -> Callable[[Path, np.random.Generator], None]:
    """Put something in the place of a file that is not a readable file."""

    def change(path: Path, rng: np.random.Generator) -> None:
        del rng
        if kind == "unreadable":
            path.chmod(0)  # root reads it nevertheless
            return
        path.unlink() if path.is_file() else shutil.rmtree(path)
        if kind == "folder":
            path.mkdir()
        elif kind == "FIFO":
            os.mkfifo(path)
        elif kind == "link to itself":
            path.symlink_to(path)
        elif kind == "broken link":
            path.symlink_to(path.with_name("nowhere"))
        elif kind == "endless device":
            path.symlink_to("/dev/zero")

    return change


def cast(kind: torch.dtype) -> Callable[[Path, np.random.Generator], None]:
    """Let one tensor have another type."""
    return set_tensors(lambda tensors, name, rng: tensors.update({name: tensors[name].to(kind)}))


def fill(value: float, every: bool) -> Callable[[Path, np.random.Generator], None]:
    """Let one element of a tensor, or every floating-point element of the file, have a value."""

    def change(tensors: Tensors, name: str, rng: np.random.Generator) -> None:
        floats = [key for key, tensor in tensors.items() if tensor.is_floating_point()]
        for key in floats if every else [floats[rng.integers(len(floats))]]:
            if every:
                tensors[key].fill_(value)
            else:
                tensors[key].view(-1)[rng.integers(tensors[key].numel())] = value

    return set_tensors(change)


def header_lies(whole: bytes, rng: np.random.Generator) -> bytes:
    """A weights file whose header has another length than it says, or offsets that overlap or lie outside."""
    size = struct.unpack("<Q", whole[:8])[0]
    if rng.random() < 0.4:
        wrong = (0, 1, size - 1, size + 1, 2 * size, 2**31, 2**63, 2**64 - 1)[rng.integers(8)]
        return struct.pack("<Q", wrong) + whole[8:]
    header = json.loads(whole[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    first, second = (names[i] for i in rng.choice(len(names), 2, replace=False))
    offsets = (header[second]["data_offsets"], [0, 2**62], [-1, 4], [8, 4], "no", None)
    header[first]["data_offsets"] = offsets[rng.integers(len(offsets))]
    if rng.random() < 0.3:
        header[first]["shape"] = ([2**40, 2**40], [-1], "no", [0], [1] * 10_000)[rng.integers(5)]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + size :]


def flip_bits(whole: bytes, rng: np.random.Generator) -> bytes:
    """Bits flipped near the beginning of a file, where a weights file has its header."""
    changed = bytearray(whole)
    for place in rng.integers(0, min(len(changed), 2000), rng.integers(1, 20)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


TENSORS: dict[str, Callable[[Tensors, str, np.random.Generator], object]] = {
    "tensor missing": lambda tensors, name, rng: tensors.pop(name),
    "no tensors": lambda tensors, name, rng: tensors.clear(),
    "tensor added": lambda tensors, name, rng: tensors.update({"more": torch.ones(3)}),
    "30,000 tensors": lambda tensors, name, rng: tensors.update({f"more.{i}": torch.ones(1) for i in range(30_000)}),
    "shape transposed": lambda tensors, name, rng: tensors.update({name: torch.ones(*tensors[name].shape[::-1], 2)}),
    "shape flat": lambda tensors, name, rng: tensors.update({name: tensors[name].reshape(-1, 1, 1)}),
    "shape of no elements": lambda tensors, name, rng: tensors.update({name: torch.ones(0, 3)}),
    "every float random": lambda tensors, name, rng: tensors.update(
        {key: 10 * torch.randn_like(value) for key, value in tensors.items() if value.is_floating_point()}
    ),
}
DTYPES = (torch.int32, torch.int64, torch.bool, torch.uint8, torch.float64, torch.bfloat16, torch.float16,
          torch.complex64, torch.float8_e4m3fn)  # fmt: skip
CLASS_NAMES: dict[str, Callable[[int], object]] = {
    "10^6 classes": lambda count: [str(i) for i in range(10**6)],
    "one class fewer": lambda count: ["a"] * (count - 1),
    "one name for all": lambda count: ["a"] * count,
    "names with escape sequences": lambda count: ["\x1b[2J\x07"] * count,
    "names that are no texts": lambda count: list(range(count)),
    "names of lone surrogates": lambda count: ["\udcff"] * count,
    "long names": lambda count: ["x" * 10**5] * count,
}


def faults(model: Path) -> list[Fault]:
    """All faults that this model can have."""
    return [*json_faults(model), *weights_faults(), *path_faults()]


def json_faults(model: Path) -> Iterator[Fault]:
    """Values of keys, and texts of files."""
    for file in ("tokenizer/config.json", "prior/config.json", "prior/generation.json"):
        content = json.loads((model / file).read_text(encoding="utf-8"))
        places = [(key,) for key in content] + [(key, inner) for key, value in content.items()
                                                if isinstance(value, dict) for inner in value]  # fmt: skip
        for keys in places:
            for name, text in {MISSING: MISSING, **VALUES}.items():
                yield Fault(f"{'.'.join(keys)}: {name}", file, set_value(keys, text))
        for name, text in TEXTS.items():
            yield Fault(f"text: {name}", file, set_bytes(lambda whole, rng, text=text: text))
        yield Fault("text: truncated", file, set_bytes(lambda whole, rng: whole[: rng.integers(1, len(whole))]))
        yield Fault("text: flipped bits", file, set_bytes(flip_bits))
    for name, names in CLASS_NAMES.items():
        yield Fault(f"class_names: {name}", "prior/config.json", set_class_names(names))


def weights_faults() -> Iterator[Fault]:
    """Tensors and bytes of the weights files."""
    for part in ("tokenizer", "prior"):
        file = f"{part}/model.safetensors"
        for name, change in TENSORS.items():
            yield Fault(f"weights: {name}", file, set_tensors(change))
        for kind in DTYPES:
            yield Fault(f"weights: a tensor of {kind}", file, cast(kind))
        for value in (float("nan"), float("inf"), 1e30, -1e38, 0.0):
            for every in (False, True):
                yield Fault(f"weights: {'all' if every else 'one'} {value}", file, fill(value, every))
        yield Fault("weights: truncated", file, set_bytes(lambda whole, rng: whole[: rng.integers(0, len(whole))]))
        yield Fault("weights: empty", file, set_bytes(lambda whole, rng: b""))
        for _ in range(5):
            yield Fault("weights: header lies", file, set_bytes(header_lies))
            yield Fault("weights: flipped bits", file, set_bytes(flip_bits))


def path_faults() -> Iterator[Fault]:
    """Things in the place of files and folders."""
    for place in ("tokenizer", "prior", "tokenizer/config.json", "prior/config.json", "tokenizer/model.safetensors",
                  "prior/model.safetensors", "prior/generation.json"):  # fmt: skip
        for kind in PATHS:
            yield Fault(f"path: {kind}", place, set_path(kind))


def write_hostile_model(model: Path, folder: Path, index: int) -> tuple[str, Path]:
    """Write hostile model number `index`, a changed copy of `model`, into `folder`; its fault and its path."""
    rng = np.random.default_rng(index)
    target = folder / "model"
    for part in ("tokenizer", "prior"):
        shutil.copytree(model / part, target / part)
    generation = target / "prior/generation.json"
    if not generation.is_file():
        generation.write_text(json.dumps({"num_inference_steps": 2, "sampler": "tweedie", "sampler_options": {}}))
    known = faults(target)
    order = np.random.default_rng(len(known)).permutation(len(known))
    fault = known[order[index % len(known)]]
    fault.change(target / fault.file, rng)
    return f"{fault.file}, {fault.name}", target


def hostile_model(index: int, model: Path, folder: Path) -> Case:
    """A hostile model, given to each program that reads one, in turn."""
    fault, path = write_hostile_model(model, folder, index)
    image, out = folder / "in.png", folder / "out.png"
    reference = folder / "reference"
    reference.mkdir()
    for place in (image, reference / "a.png", reference / "b.png"):
        Image.linear_gradient("L").resize((32, 32)).save(place)
    shared, steps = ["--model", str(path), "--out", str(out)], ["--steps", "2"]
    report = [
        "--model",
        str(path),
        "--reference",
        str(reference),
        "--out",
        str(folder / "report.json"),
        "--no-download",
    ]
    program, arguments, written = [
        ("sample.py", ["grid", *shared, *steps, "--n", "2"], out),
        ("sample.py", ["inpaint", *shared, *steps, "--image", str(image), "--box", "0,0,8,8"], out),
        ("sample.py", ["reconstruct", *shared, "--image", str(image)], out),
        ("sample.py", ["samplers", "--model", str(path)], None),
        ("evaluate.py", [*report, *steps, "--n", "2"], folder / "report.json"),
        ("common.export", [str(path), str(folder / "half")], folder / "half"),
        ("generate", [str(path)], None),
    ][np.random.default_rng(index).integers(7)]  # not index % 7: the number of faults may be a multiple of it
    return Case(f"model: {fault}, {program} {arguments[0]}", program, arguments, written)
