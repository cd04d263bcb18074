"""Models from the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError

PREFIX = "hf:"
FILES = ("config.json", "model.safetensors", "generation.json")


def download_model(model: str, parts: Sequence[str]) -> Path:
    """A local copy of the `parts` (folders) of repository "hf:owner/name", and of a model at its root.

    Raises:
        UserError: the repository cannot be fetched.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - takes a second, and few commands need it
    from huggingface_hub.errors import (  # noqa: PLC0415
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    patterns = [f"{part}{name}" for part in ("", *(f"{p}/" for p in parts)) for name in FILES]
    try:
        return Path(snapshot_download(model.removeprefix(PREFIX), allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot fetch {model} ({reason}): check the name and the network, or give a folder") from error
