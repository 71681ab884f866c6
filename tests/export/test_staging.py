"""Exports that are killed, or fail, leave the earlier bundle whole and nothing of their own."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oct_jax.export import staging as staging_module
from oct_jax.export.staging import check_place, staging
from oct_jax.types import UserError
from oct_jax.work_folder import LOCK, remove_stale

SHA_OF_X = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


def fill(folder, text="x"):
    (folder / "bundle.json").write_text(text)
    (folder / "SHA256SUMS").write_text(f"{SHA_OF_X}  bundle.json\n")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def out(tmp_path):
    with staging(tmp_path / "out") as folder:
        fill(folder)
    return tmp_path / "out"


@pytest.mark.parametrize("exchange", [True, False])
def test_a_bundle_takes_the_place_of_an_earlier_one(out, exchange, monkeypatch):
    if not exchange:
        monkeypatch.setattr(staging_module, "_exchange", lambda first, second: False)
    with staging(out) as folder:
        fill(folder, "y")
        assert (out / "bundle.json").read_text() == "x"
    assert (out / "bundle.json").read_text() == "y"
    assert names(out.parent) == ["out"]


def test_an_error_leaves_the_earlier_bundle(out):
    def fails():
        with staging(out) as folder:
            fill(folder, "y")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"):
        fails()
    assert (out / "bundle.json").read_text() == "x"
    assert names(out.parent) == ["out"]


KILLED = """
import os, sys
from pathlib import Path
from oct_jax.export import staging
out = Path(sys.argv[1])
staging._exchange = lambda first, second: False
replace = os.replace
def kill_after_first(source, target):
    replace(source, target)
    os._exit(9)
with staging.staging(out) as folder:
    (folder / "bundle.json").write_text("y")
    (folder / "SHA256SUMS").write_text("0" * 64 + "  bundle.json\\n")
    if sys.argv[2] == "inside":
        os._exit(9)
    os.replace = kill_after_first
"""


@pytest.mark.parametrize("moment", ["inside", "between"])
def test_what_a_killed_export_left_is_mended_by_the_next(out, moment):
    done = subprocess.run([sys.executable, "-c", KILLED, str(out), moment])
    assert done.returncode == 9
    assert len(names(out.parent)) == (2 if moment == "inside" else 1)
    remove_stale(out)
    assert names(out.parent) == ["out"]
    assert (out / "bundle.json").read_text() == "x"


def test_only_its_own_stale_folders_are_removed(out):
    (out.parent / ".out.mine1234").mkdir()
    (out.parent / ".out.mine1234" / "notes.txt").write_text("keep me")
    (out.parent / ".other.12345678").mkdir()
    (out.parent / ".other.12345678" / LOCK).touch()
    with staging(out) as running:
        fill(running, "z")
        remove_stale(out)
        assert (running / "bundle.json").exists()
    assert names(out.parent) == [".other.12345678", ".out.mine1234", "out"]


@pytest.mark.parametrize("place", ["/etc/passwd/x", "/etc/passwd", "/dev/null"])
def test_places_that_are_not_folders_are_refused(place):
    with pytest.raises(UserError, match=r"is not a (folder|bundle)"):
        check_place(Path(place))


def test_what_is_not_of_the_bundle_is_not_replaced(out, tmp_path):
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt"), staging(out):
        pass
    assert (out / "notes.txt").read_text() == "mine"
    own = tmp_path / "own"
    own.mkdir()
    (own / "SHA256SUMS").write_text("mine")
    with pytest.raises(UserError, match="not a bundle"), staging(own):
        pass
    (out / "notes.txt").unlink()
    (out / ".oct_jax").unlink()
    with pytest.raises(UserError, match=r"has no marker \.oct_jax"), staging(out):
        pass
    assert (out / "bundle.json").read_text() == "x"
    link = tmp_path / "link"
    link.symlink_to(out)
    with pytest.raises(UserError, match="not a bundle"), staging(link):
        pass
    assert names(tmp_path) == ["link", "out", "own"]
