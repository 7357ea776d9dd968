"""Several users of one machine: a cache, a tracking store and folders of runs that not all of them may write."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from program import run_inside

from hpt.data import cache_store
from hptctl import tracking

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as several users")

ANN, BEN, GROUP = 61_001, 61_002, 61_000


def as_user(user: int, do: Callable[[], Any], *, umask: int = 0o022) -> Any:
    """What `do` gives to a user of the common group, in a process of theirs.

    A fork has loaded what the interpreter's own folder may keep from other users.
    """
    source, sink = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setresgid(GROUP, GROUP, GROUP)
            os.setresuid(user, user, user)
            os.umask(umask)
            found = do()
        except BaseException as error:
            found = repr(error)
        with os.fdopen(sink, "wb") as out:
            pickle.dump(found, out)
        os._exit(0)
    os.close(sink)
    with os.fdopen(source, "rb") as answer:
        found = pickle.load(answer)
    os.waitpid(child, 0)
    return found


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`images/` that all may read, in a folder that is the working folder; what pytest makes is root's alone."""
    folder = Path(tempfile.mkdtemp(prefix="hptctl-users-"))
    folder.chmod(0o755)
    for name in ("images/cat", "images/dog"):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 255, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    monkeypatch.setenv("HPTCTL_CACHE", str(folder / "warm"))
    monkeypatch.setenv("HPTCTL_DATA", str(folder / "data"))
    with chdir(folder):
        for words in (["datasets", "info", "images"], ["datasets", "info", "gone"], ["datasets", "cache", "prune"]):
            run_inside(*words)  # imports what the users' processes cannot
        yield folder
    shutil.rmtree(folder)


def cache_of(world: Path, owner: int, mode: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of some user's, whose folders have a mode."""
    cache = world / "cache"
    for folder in (cache, cache / "images"):
        folder.mkdir()
        os.chown(folder, owner, GROUP)
        folder.chmod(mode)
    monkeypatch.setenv("HPTCTL_CACHE", str(cache))
    return cache / "images"


def info(images: str = "images") -> tuple[int, str, str]:
    done = run_inside("datasets", "info", images)
    return done.returncode, done.stdout, " ".join(done.stderr.split())


def pruned() -> tuple[list[str], list[str], list[str]]:
    """Names of the entries that a prune of all has removed, left to who reads them, and left to their owner."""
    done = cache_store.prune(everything=True)
    return tuple([Path(*each.datasets).name for each in some] for some in (done.removed, done.in_use, done.denied))  # type: ignore[return-value]


def test_what_one_user_has_decoded_another_reads_and_what_is_missing_names_the_setting(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = cache_of(world, ANN, 0o755, monkeypatch)
    code, said, error = as_user(ANN, info)
    assert code == 0, error
    assert "20 images" in said
    before = sorted(images.rglob("*"))
    assert as_user(BEN, info)[:2] == (0, said)
    assert as_user(BEN, pruned) == ([], [], ["images"])
    shutil.copytree("images", "others")
    Path("others/cat/0.png").unlink()
    code, _, error = as_user(BEN, lambda: info("others"))
    assert code == 2
    assert "error: these images are not in the cache yet, where you may not write (Permission denied: " in error
    assert error.endswith("; set HPTCTL_CACHE to a folder that can be written")
    assert sorted(images.rglob("*")) == before


@pytest.mark.parametrize(("mode", "umask"), [(0o2775, 0o002), (0o1777, 0o022)], ids=["group", "open to all"])
def test_users_who_may_both_write_decode_for_each_other(
    world: Path, mode: int, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_of(world, 0, mode, monkeypatch)
    shutil.copytree("images", "others")
    Path("others/cat/0.png").unlink()
    for user, folder in ((ANN, "images"), (BEN, "others"), (ANN, "others"), (BEN, "images")):
        code, _, error = as_user(user, lambda folder=folder: info(folder), umask=umask)
        assert code == 0, error
    removed, _, denied = as_user(BEN, pruned, umask=umask)
    # Of an open folder each removes what is his own; within a group, all is everybody's.
    assert (sorted(removed), denied) == ((["images", "others"], []) if mode == 0o2775 else (["others"], ["images"]))
    for user in (ANN, BEN):  # locks and stamps that are left are no hindrance
        assert as_user(user, info, umask=umask)[0] == 0


def test_an_entry_that_another_user_reads_is_not_pruned(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = cache_of(world, ANN, 0o755, monkeypatch)
    assert as_user(ANN, info)[0] == 0
    (entry,) = (path for path in images.iterdir() if path.is_dir())

    (over, end), (heard, told) = os.pipe(), os.pipe()
    if (reader := os.fork()) == 0:
        os.setresgid(GROUP, GROUP, GROUP)
        os.setresuid(BEN, BEN, BEN)
        file = cache_store.open_pixels(entry)
        os.write(told, b".")
        os.read(over, 1)
        file.close()
        os._exit(0)
    os.read(heard, 1)
    assert as_user(ANN, pruned) == ([], ["images"], [])
    os.write(end, b".")
    os.waitpid(reader, 0)
    for each in (over, end, heard, told):
        os.close(each)
    assert as_user(ANN, pruned) == (["images"], [], [])


@pytest.mark.slow
def test_a_store_that_may_only_be_read_is_listed_and_reported(world: Path, report_folder: Path) -> None:
    for name in ("mlflow.db", "runs"):
        path = report_folder / name
        shutil.copytree(path, name) if path.is_dir() else shutil.copy(path, name)
    for path in (Path(), *Path().rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    out = world / "bens"
    out.mkdir()
    os.chown(out, BEN, GROUP)
    words = ["report", "--experiment", "test", "--out", str(out / "r.html")]
    assert run_inside(*words).returncode == 0
    (out / "r.html").unlink()
    Path("mlflow.db.lock").chmod(0o644)  # as an earlier version left it
    done = as_user(BEN, lambda: run_inside(*words))
    assert done.returncode == 0, done.stderr
    assert (out / "r.html").stat().st_uid == BEN


@pytest.mark.slow
def test_a_new_store_may_be_written_by_whom_the_umask_allows(world: Path, new_store: Path) -> None:
    (world / "shared").mkdir()
    os.chown(world / "shared", ANN, GROUP)

    def make() -> int:
        with chdir("shared"):
            tracking.client()
            return stat.S_IMODE(Path("mlflow.db").stat().st_mode)

    with chdir(new_store.parent):
        tracking.client()
    assert as_user(ANN, make, umask=0o002) == 0o664
