"""Models from the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError, shorten

PREFIX = "hf:"


def download_model(model: str, files: Sequence[str]) -> Path:
    """A local copy of those of `files` that repository "hf:owner/name" has.

    Raises:
        UserError: the repository cannot be fetched.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - takes a second, and few commands need it
    from huggingface_hub.errors import (  # noqa: PLC0415
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        return Path(snapshot_download(model.removeprefix(PREFIX), allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"cannot fetch {model} ({shorten(str(error))}): check the name and the network, or give a folder"
        ) from error
