"""Give hostile inputs to the commands and the page; check how each process ends.

    python benchmarks/hostile.py --model runs/mnist --n 1000
    python benchmarks/hostile.py --model runs/mnist --minutes 60 --kinds models arguments

Kinds of inputs, in turn: damaged image files, model folders, command lines, data folders, masks, and configurations. Each
process must end with exit code 0, or with 2 and one line of error, within 5 seconds (30 for training) and 2 GiB, leave no
partial file and change no input; masks must keep all other pixels, labels must name the folder of their image. Prints how
many ended in which way, the slowest and the peak of memory; exit code 1 where a process broke a rule. The same number gives
the same input.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count, takewhile
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.hostile_arguments import hostile_command
from benchmarks.hostile_case import Case, Outcome, broken_rule, snapshot
from benchmarks.hostile_configs import hostile_config
from benchmarks.hostile_files import KINDS as FILE_KINDS
from benchmarks.hostile_files import noise, write_hostile_file
from benchmarks.hostile_folders import hostile_folder
from benchmarks.hostile_masks import hostile_mask
from benchmarks.hostile_models import hostile_model
from benchmarks.hostile_programs import run_program
from common.errors import ArgumentParser, run_cli

KILL_S = 60.0  # a process that takes this long is stopped
PRELOADED = ["benchmarks.hostile_programs", "generation.commands", "evaluation.run", "app.uploads"]


def hostile_image(index: int, model: Path, folder: Path) -> Case:
    """A damaged image file, given to each command that reads one as an image or as a mask, and to the page, in turn."""
    kind, path = write_hostile_file(folder, index)
    noise(np.random.default_rng(0), 40, 40).save(folder / "good.png")
    good, out = str(folder / "good.png"), folder / "out.png"
    shared = ["--model", str(model), "--out", str(out)]
    sampling = ["--steps", "2", "--label", "1"]
    arguments = [
        ["inpaint", *shared, *sampling, "--box", "0,0,2,2", "--image", str(path)],
        ["outpaint", *shared, *sampling, "--right", "8", "--image", str(path)],
        ["vary", *shared, *sampling, "--image", str(path)],
        ["reconstruct", *shared, "--image", str(path)],
        ["inpaint", *shared, *sampling, "--image", good, "--mask", str(path)],
        ["morph", *shared, *sampling, "--n", "3", "--image", good, "--other", str(path)],
        [str(path)],
    ][index // len(FILE_KINDS) % 7]
    if len(arguments) == 1:
        return Case(f"image: {kind}, page", "page", arguments)
    return Case(f"image: {kind}, {arguments[0]}", "sample.py", arguments, out)


def from_random(make: Callable[[Random, Path, Path], Case]) -> Callable[[int, Path, Path], Case]:
    """`make` with random numbers that depend on the number of the input."""
    return lambda index, model, folder: make(Random(index), model, folder)


MAKERS: dict[str, Callable[[int, Path, Path], Case]] = {
    "images": hostile_image,
    "models": hostile_model,
    "arguments": from_random(hostile_command),
    "folders": from_random(hostile_folder),
    "masks": from_random(hostile_mask),
    "configurations": from_random(hostile_config),
}


def run_here(case: Case, stderr: Path, result: Connection) -> None:
    """Run a case in this process; write what it printed to a file, and send how it ended."""
    outcome = run_program(case.program, case.arguments)
    stderr.write_text(outcome.stderr, encoding="utf-8", errors="backslashreplace")
    result.send((outcome.code, outcome.seconds, outcome.peak_bytes))


def run_in_process(case: Case, stderr: Path) -> Outcome:
    """Run a case in a new process, forked where the packages are imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    sendable = Case(case.kind, case.program, case.arguments)  # the check may be no function that can be sent
    process = context.Process(target=run_here, args=(sendable, stderr, sender))
    process.start()
    sender.close()
    process.join(KILL_S)
    if process.exitcode == 0:
        code, seconds, peak = receiver.recv()
    else:  # stopped here or by a signal
        process.kill()
        process.join()
        code, seconds, peak = None, KILL_S, 0
    return Outcome(code, seconds, peak, stderr.read_text(encoding="utf-8") if stderr.is_file() else "")


def attack(
    model: Path, numbers: Iterable[int], kinds: Sequence[str], full: bool = False, patience: float = 1.0
) -> Iterator[tuple[str, Outcome, str]]:
    """Kind, outcome and broken rule ("" for none) of each hostile input.

    Args:
        full: whether a broken rule is given with the whole traceback.
        patience: factor of the limits of time, for machines with other work.
    """
    for index in numbers:
        kind = kinds[index % len(kinds)]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "inputs"
            folder.mkdir()
            case = MAKERS[kind](index // len(kinds), model, folder)
            case = replace(case, limit_s=patience * case.limit_s)
            before = snapshot(folder)
            outcome = run_in_process(case, Path(name) / "stderr.txt")
            broken = broken_rule(case, outcome, folder, before)
        what = broken if full else (broken.strip().splitlines() or [""])[-1]  # of a traceback the last line
        yield kind, outcome, what and f"--kinds {kind} --first {index // len(kinds)} ({case.kind}): {what}"


def main(argv: Sequence[str]) -> None:
    parser = ArgumentParser(prog="hostile.py", description="Hostile inputs of every kind to every command.")
    parser.add_argument("--model", type=Path, required=True, help="a model directory of the digits")
    parser.add_argument("--n", type=int, default=1000, help="number of inputs (default 1000)")
    parser.add_argument("--minutes", type=float, help="stop after this time, instead of after --n inputs")
    parser.add_argument("--kinds", nargs="+", choices=MAKERS, default=list(MAKERS), help="default: all, in turn")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each kind (default 0)")
    parser.add_argument(
        "--patience",
        type=float,
        default=1.0,
        help="factor of the limits of time, for a machine with other work (default 1)",
    )
    parser.add_argument("--verbose", action="store_true", help="print a line for each input, and whole tracebacks")
    args = parser.parse_args(argv)
    begin = args.first * len(args.kinds)
    numbers: Iterable[int] = range(begin, begin + args.n)
    if args.minutes is not None:
        end = time.monotonic() + 60 * args.minutes
        numbers = takewhile(lambda _: time.monotonic() < end, count(begin))
    ended: Counter[str] = Counter()
    broken, slowest, peak = 0, (0.0, ""), (0, "")
    found = attack(args.model, numbers, args.kinds, args.verbose, args.patience)
    total = args.n if args.minutes is None else None
    for kind, outcome, what in tqdm(found, total=total, disable=args.verbose):
        if args.verbose:
            print(f"{kind:15} {outcome.code} {outcome.seconds:6.2f} s, peak {outcome.peak_bytes / 2**30:.2f} GiB")
        if what:
            print(what, flush=True)
        broken += bool(what)
        ended["wrong" if what else "done" if outcome.code == 0 else "one line of error"] += 1
        slowest, peak = max(slowest, (outcome.seconds, kind)), max(peak, (outcome.peak_bytes, kind))
    print(
        f"{sum(ended.values())} inputs, {broken} wrong: {dict(ended)}; slowest {slowest[0]:.2f} s ({slowest[1]}); "
        f"peak memory {peak[0] / 2**30:.2f} GiB ({peak[1]})"
    )
    if broken:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(run_cli(main))
