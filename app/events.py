"""How the page's buttons start jobs on the server, and how a job's updates reach the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

import gradio as gr

from app.service import StoppedError, Update
from app.status import REFUSED, WAITING, note, previews_html, problem, problem_of

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# preprocess=False: the handlers get the values as the browser sent them and check everything themselves. gradio's own
# preprocessing would leave a temporary file behind for each upload that it hands over.
READING: dict[str, Any] = {"concurrency_id": "reading", "concurrency_limit": 1, "preprocess": False, **QUIET}
GENERATING: dict[str, Any] = {"concurrency_id": "generating", "concurrency_limit": 1, "preprocess": False, **QUIET}
AT_ONCE: dict[str, Any] = {"queue": False, "preprocess": False, **QUIET}


def connect(
    start: gr.Button,
    handler: Callable[..., Iterator[tuple[Any, ...]]],
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
) -> gr.events.Dependency:
    """Let `start` run the handler; returns the job, which a stop button can cancel. The first of `outputs` is the status."""
    status = [outputs[0]]
    start.click(None, None, status, js=f"() => {json.dumps(note(WAITING))}", **QUIET)
    job = start.click(handler, inputs, outputs, **GENERATING)
    job.failure(None, None, status, js=f"() => {json.dumps(problem(REFUSED))}", **QUIET)
    return job


def connect_stop(stop: gr.Button, jobs: Sequence[gr.events.Dependency], status: gr.HTML) -> None:
    """Let `stop` cancel jobs."""
    stop.click(lambda: note("Stopped."), None, status, cancels=list(jobs), queue=False, **QUIET)


def on_page(updates: Iterator[Update], show: Callable[[list[str]], object]) -> Iterator[tuple[Any, ...]]:
    """Updates as values of (status, previews, results, seed). An error becomes a status, and the rest stays as it is."""
    try:
        for update in updates:
            yield (
                update.status,
                gr.skip() if update.previews is None else previews_html(update.previews),
                gr.skip() if update.images is None else show(update.images),
                gr.skip() if update.seed is None else update.seed,
            )
    except (StoppedError, CancelledError):  # the server ends
        return
    except Exception as error:
        yield problem_of(error), gr.skip(), gr.skip(), gr.skip()
