"""Runs one hostile input in this process, and checks the rules that every process must follow."""

import signal
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, settings

from benchmarks.hostile_case import broken_rule, snapshot
from benchmarks.hostile_programs import run_program

LIMIT_S = 30  # for machines with other work; benchmarks/hostile.py has the limits that are promised


class TooSlow(Exception):
    """A program ran longer than LIMIT_S."""


def examples(number):
    """`number` inputs, the same in each run: a test does not fail by chance. More: benchmarks/hostile.py --minutes."""
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.large_base_example,
        ],
    )


@contextmanager
def time_limit():
    def stop(*_):
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(make, source, model):
    """Give the input that `make` makes of `source` (random numbers, or a number) to its program."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = make(source, model, folder)
        before = snapshot(folder)
        with time_limit():
            outcome = run_program(case.program, case.arguments)
        broken = broken_rule(replace(case, limit_s=LIMIT_S), replace(outcome, peak_bytes=0), folder, before)
        assert broken == "", f"{case.kind}: {case.program} {case.arguments}: {broken}"
    return case, outcome
