"""Training images among the reference: they make a model's scores better than those of new images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.model_dir import CONFIG_FILE, read_json
from evaluation.reference import ReferenceImages
from evaluation.source import ImageSource, read_data_config, source_of_data
from images.dataset import DataConfig, ImageFiles
from images.folder import TRAIN_FOLDERS, VAL_FOLDERS
from images.sources import load_images

RUN_CONFIG = "config.yaml"  # which training writes into its output_dir


def count_training_images(directory: Path, reference: ReferenceImages) -> int | None:
    """How many of the reference's images a model was trained on; None where that is not known.

    The config.yaml of a run names its training images. A tokenizer without that file still has `data_key`, a hash of the
    training files' names, sizes and times, which is compared with the training split of the reference's folder.

    Args:
        directory: the model's.
    """
    source = reference.source
    trained = _of_run(directory / RUN_CONFIG)
    if trained is not None and (trained.data is not None or source.data is not None):
        same = trained.data is not None and source.data is not None and trained.data.source == source.data.source
        return reference.count if same and source.split == "train" else 0
    files = _of_key(directory / "tokenizer" / CONFIG_FILE, reference) if trained is None else trained.files
    if files is None:
        return None
    seen = {os.path.realpath(file) for file in files}
    return sum(os.path.realpath(file) in seen for file in source.files)


def _of_run(config: Path) -> ImageSource | None:
    """The training images of a run; None without a configuration, or where its images are no longer there."""
    if not config.is_file():
        return None
    try:
        return source_of_data(read_data_config(config), "train", str(config))
    except UserError:
        return None


def _of_key(config: Path, reference: ReferenceImages) -> Sequence[Path] | None:
    """The training images of a tokenizer, if they are those of the reference's folder, split as `DataConfig` does."""
    stored, source = read_json(config), reference.source
    if source.data is not None or stored.get("data_source") != "folder":
        return None
    is_split = source.root.name.lower() in (*TRAIN_FOLDERS, *VAL_FOLDERS)
    for root in (source.root, *([source.root.parent] if is_split else [])):
        for flip in (False, True):
            data = DataConfig("folder", str(root), reference.size, reference.channels, flip=flip, in_memory=False)
            try:
                images = load_images(data, "train")
            except UserError:
                continue
            if isinstance(images, ImageFiles) and images.fingerprint[:16] == stored.get("data_key"):
                return images.files
    return None
