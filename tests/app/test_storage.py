import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")

from app.storage import EMPTY_SECONDS, LOCK, PREFIX, Storage, delete_stale_folders, temporary_folder
from app.uploads import Limits


def stored(storage, name, size=10, age=0.0) -> Path:
    """A file in its own folder, changed `age` seconds ago."""
    path = storage.new_path(name)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_the_oldest_files_beyond_a_limit_are_deleted(tmp_path):
    for limits, kept in [(Limits(files=2), ["b", "a"]), (Limits(storage_mb=1), ["c", "b", "a"]),
                         (Limits(keep_hours=1), ["c", "b", "a"])]:  # fmt: skip
        storage = Storage(tmp_path / str(len(kept)) / str(limits.files) / str(limits.keep_hours), limits)
        paths = {
            name: stored(storage, name, 300_000, age) for name, age in [("d", 4000), ("c", 30), ("b", 20), ("a", 10)]
        }
        storage.sweep()
        assert [name for name, path in paths.items() if path.exists()] == kept, limits


def test_empty_folders_are_deleted_but_not_new_ones(tmp_path):
    storage = Storage(tmp_path, Limits())
    old, new, full = storage.new_path("a").parent, storage.new_path("a").parent, stored(storage, "b").parent
    for folder in (old, full):
        os.utime(folder, (time.time() - 2 * EMPTY_SECONDS,) * 2)
    storage.sweep()
    assert (old.exists(), new.exists(), full.exists()) == (False, True, True)


def test_the_folder_is_private_and_ends_with_its_server(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with temporary_folder() as folder:
        (folder / "file").write_text("a")
        assert folder.stat().st_mode & 0o077 == 0
        assert folder.parent.stat().st_mode & 0o077 == 0
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal
from app.storage import temporary_folder
with temporary_folder():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of files")
def test_only_folders_of_killed_servers_are_deleted(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    subprocess.run([sys.executable, "-c", KILLED], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    (killed,) = tmp_path.glob(f"{PREFIX}*")
    (killed / "files" / "upload.png").write_text("a")
    foreign, readable, elsewhere = (tmp_path / f"{PREFIX}{name}" for name in ("foreign", "readable", "elsewhere"))
    foreign.mkdir(mode=0o700)  # without a lock file: it may belong to another program
    readable.mkdir(mode=0o755)
    (readable / LOCK).write_text("")
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    (target / LOCK).write_text("")
    elsewhere.symlink_to(target)
    with temporary_folder() as running:  # deletes at its start
        assert not killed.exists()
        assert str(killed) in capfd.readouterr().err
        delete_stale_folders(tmp_path)
        assert running.exists()
    assert all(folder.exists() for folder in (foreign, readable, elsewhere, target))
