"""The temporary folder of a server: uploads and results, limited in bytes, files and age, and deleted with the server."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import print_note

if TYPE_CHECKING:
    from app.uploads import Limits

try:
    import fcntl
except ImportError:  # not on Windows: folders of killed servers stay there
    fcntl = None  # type: ignore[assignment]

PREFIX = "smalti-app-"
LOCK = "lock"
EMPTY_SECONDS = 60  # gradio creates the folder of an upload some time before it moves the upload there


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder that only this user can read, deleted at the end; first deletes those of servers that were killed."""
    delete_stale_folders(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
        files = Path(folder) / "files"
        files.mkdir(mode=0o700)
        descriptor = lock_folder(Path(folder))
        try:
            yield files
        finally:
            if descriptor is not None:
                os.close(descriptor)


def lock_folder(folder: Path) -> int | None:
    """Lock a folder for as long as this process lives; returns the descriptor, None where files cannot be locked."""
    if fcntl is None:
        return None
    new = folder / f"{LOCK}.new"
    descriptor = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(folder / LOCK)  # after the lock, so that no other server sees the file unlocked
    except OSError:  # a file system without locks: the folder has no lock file, and is never taken for a stale one
        new.unlink(missing_ok=True)
    return descriptor


def delete_stale_folders(parent: Path) -> None:
    """Delete the folders in `parent` whose server was killed: those of this user whose lock nobody holds any longer."""
    for folder in parent.glob(f"{PREFIX}*") if fcntl is not None else ():
        with suppress(OSError):  # no folder, without a lock file, or locked by a server that runs
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
                continue
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                print_note(f"deleted {folder}, which a server left behind when it was killed")
            finally:
                os.close(descriptor)


class Storage:
    """Uploads and results below one folder. `sweep` keeps them within the limits.

    Args:
        folder: gradio stores uploads there too, so everything below it counts.
        limits: most bytes and files, and the age at which files are deleted.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self.sweeping = threading.Lock()

    def new_path(self, name: str) -> Path:
        """A path for a file called `name`, in a new folder of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self.folder)) / name

    def sweep(self) -> None:
        """Delete files that are too old, then the oldest ones until the others are within the limits; and empty folders."""
        now = time.time()
        with self.sweeping:
            found, folders = self._listed()
            found.sort(reverse=True)
            size = 0
            for count, (modified, length, path) in enumerate(found, 1):
                size += length
                too_old = now - modified > self.limits.keep_hours * 3600
                if too_old or count > self.limits.files or size > self.limits.storage_mb * 2**20:
                    with suppress(OSError):
                        path.unlink()
            for folder in reversed(folders):  # the deepest first
                with suppress(OSError):  # not empty
                    if now - folder.stat().st_mtime > EMPTY_SECONDS:
                        folder.rmdir()

    def _listed(self) -> tuple[list[tuple[float, int, Path]], list[Path]]:
        """(time of change, bytes, path) of all files, and all folders below the top one."""
        files, folders = [], []
        for parent, names, entries in os.walk(self.folder):
            folders += [Path(parent, name) for name in names]
            for name in entries:
                with suppress(OSError):  # moved or deleted meanwhile
                    status = os.lstat(os.path.join(parent, name))
                    files.append((status.st_mtime, status.st_size, Path(parent, name)))
        return files, folders
