"""Seeds made of several numbers, so that every step and every sample has its own random numbers."""

from __future__ import annotations

import numpy as np


def derived_seed(*numbers: int) -> int:
    """63 bits that depend on all of `numbers` (not negative) and on their order."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
