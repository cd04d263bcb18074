"""Give damaged and hostile image files to every command that reads one and to the page; check how each process ends.

    python benchmarks/hostile.py --model runs/mnist --n 500

Each process must end with exit code 0, or with 2 and one line of error, within 5 seconds and 2 GiB, and leave no partial
file. Prints how many ended in which way, the slowest and the peak of memory; exit code 1 where a process broke the rules.
"""

from __future__ import annotations

import multiprocessing
import resource
import runpy
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.hostile_files import KINDS, noise, write_hostile_file
from common.errors import ArgumentParser, run_cli

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S, LIMIT_BYTES = 5.0, 2 << 30
KILL_S = 60.0  # a process that takes this long is stopped
PAGE = "page"
PRELOADED = ["generation.commands", "app.uploads"]  # imported once, by the server that forks the processes


@dataclass(frozen=True)
class Outcome:
    """How a process ended. The exit code is None where it was stopped or crashed; `stderr` is what it wrote there."""

    code: int | None
    seconds: float
    peak_bytes: int
    stderr: str


def command_for(index: int, model: str, path: Path, folder: Path) -> list[str]:
    """The arguments of a command that reads the file as an image or as a mask, in turn; or PAGE and the file."""
    good = str(folder / "good.png")
    shared = ["--model", model, "--out", str(folder / "out.png")]
    sampling = ["--steps", "2", "--label", "1"]
    return [
        ["inpaint", *shared, *sampling, "--box", "0,0,2,2", "--image", str(path)],
        ["outpaint", *shared, *sampling, "--right", "8", "--image", str(path)],
        ["vary", *shared, *sampling, "--image", str(path)],
        ["reconstruct", *shared, "--image", str(path)],
        ["inpaint", *shared, *sampling, "--image", good, "--mask", str(path)],
        ["morph", *shared, *sampling, "--n", "3", "--image", good, "--other", str(path)],
        [PAGE, str(path)],
    ][index // len(KINDS) % 7]


def open_upload(arguments: Sequence[str]) -> None:
    """Do what the page does with an uploaded image: check, decode, show."""
    from app.uploads import DEFAULT_LIMITS, open_image  # noqa: PLC0415 - in the process of its own

    open_image(arguments[0], None, DEFAULT_LIMITS)


def run_here(arguments: Sequence[str], stdout: Path, stderr: Path, result: Connection) -> None:
    """Run sample.py, or the page's part, in this process; send exit code, seconds and peak memory in bytes."""
    start = time.monotonic()
    sys.argv = ["sample.py", *arguments]
    with stdout.open("w") as out, stderr.open("w") as err, redirect_stdout(out), redirect_stderr(err):
        try:
            if arguments[0] == PAGE:
                code = run_cli(open_upload, arguments[1:])
            else:
                runpy.run_path(str(ROOT / "sample.py"), run_name="__main__")
                code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
    seconds = time.monotonic() - start
    result.send((code, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def run_in_process(arguments: Sequence[str], folder: Path) -> Outcome:
    """Run a command in a new process, forked where the packages are imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    stderr = folder / "stderr.txt"
    process = context.Process(target=run_here, args=(arguments, folder / "stdout.txt", stderr, sender))
    process.start()
    sender.close()
    process.join(KILL_S)
    if process.exitcode == 0:
        code, seconds, peak = receiver.recv()
    else:  # stopped here or by a signal
        process.kill()
        process.join()
        code, seconds, peak = None, KILL_S, 0
    return Outcome(code, seconds, peak, stderr.read_text() if stderr.is_file() else "")


def broken_rule(outcome: Outcome, writes: bool, folder: Path) -> str:
    """The first rule that a process broke, "" for none. `writes` tells whether it writes out.png where it ends with 0."""
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error:")]
    if outcome.code not in (0, 2) or len(errors) != (outcome.code == 2):
        return f"exit code {outcome.code}: {outcome.stderr}"
    if outcome.seconds > LIMIT_S:
        return f"{outcome.seconds:.1f} s"
    if outcome.peak_bytes > LIMIT_BYTES:
        return f"{outcome.peak_bytes / 2**30:.2f} GiB"
    if list(folder.glob(".*.partial")):
        return "left a partial file"
    if (folder / "out.png").exists() != (writes and outcome.code == 0):
        return "wrote no image" if outcome.code == 0 else "wrote an image in spite of an error"
    return ""


def attack(model: str, numbers: Iterable[int]) -> Iterator[tuple[str, Outcome, str]]:
    """Kind, outcome and broken rule ("" for none) of each hostile file."""
    for index in numbers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            noise(np.random.default_rng(0), 40, 40).save(folder / "good.png")
            kind, path = write_hostile_file(folder, index)
            arguments = command_for(index, model, path, folder)
            outcome = run_in_process(arguments, folder)
            broken = broken_rule(outcome, arguments[0] != PAGE, folder)
            yield kind, outcome, broken and f"{index} ({kind}, {arguments[0]}): {broken}"


def main(argv: Sequence[str]) -> None:
    parser = ArgumentParser(prog="hostile.py", description="Damaged and hostile image files to every command.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--verbose", action="store_true", help="print a line for each file")
    args = parser.parse_args(argv)
    ended: Counter[str] = Counter()
    broken, slowest, peak = 0, (0.0, ""), (0, "")
    for kind, outcome, what in tqdm(attack(args.model, range(args.n)), total=args.n, disable=args.verbose):
        if args.verbose:
            print(f"{kind:15} {outcome.code} {outcome.seconds:6.2f} s, peak {outcome.peak_bytes / 2**30:.2f} GiB")
        if what:
            print(what)
        broken += bool(what)
        ended["broken" if what else "image" if outcome.code == 0 else "one line of error"] += 1
        slowest, peak = max(slowest, (outcome.seconds, kind)), max(peak, (outcome.peak_bytes, kind))
    print(
        f"{args.n} files: {dict(ended)}; slowest {slowest[0]:.2f} s ({slowest[1]}); "
        f"peak memory {peak[0] / 2**30:.2f} GiB ({peak[1]})"
    )
    if broken:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(run_cli(main))
