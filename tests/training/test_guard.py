from pathlib import Path

import pytest

from training.guard import NonFiniteGuard


@pytest.mark.parametrize(
    ("skipped", "total", "in_a_row", "limit_reached"),
    [
        ([], 0, 0, False),
        ([False, True], 1, 1, False),
        ([True, True], 2, 2, False),
        ([True, True, False, True, True], 4, 2, False),
        ([False, True, True, True], 3, 3, True),
    ],
)
def test_only_steps_in_a_row_reach_the_limit(skipped, total, in_a_row, limit_reached):
    guard = NonFiniteGuard(limit=3)
    for value in skipped:
        guard.count(value)
    assert (guard.total, guard.in_a_row, guard.limit_reached) == (total, in_a_row, limit_reached)


@pytest.mark.parametrize(("checkpoint", "said"), [(Path("runs/step-4"), "runs/step-4"), (None, "no step succeeded")])
def test_the_message_is_one_line_that_says_what_to_do(checkpoint, said):
    guard = NonFiniteGuard(limit=1)
    guard.count(True)
    message = guard.message("prior", 5, checkpoint)
    assert "\n" not in message
    for part in ("1 steps in a row, up to step 5", said, "prior.train.learning_rate", "prior.train.mixed_precision=no"):
        assert part in message, part
