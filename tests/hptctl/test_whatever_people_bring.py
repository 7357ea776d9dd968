"""Lists, archives, settings and names that nobody would think of: exit code 0 or 2, one line, nothing elsewhere.

Each test draws few inputs, always the same ones; `-m slow` draws hundreds of others.
"""

from __future__ import annotations

import io
import os
import random
import re
import time
import zipfile
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from program import run_inside

SECONDS = 20
"""The most that one command may take: a hang."""
EXAMPLES = int(os.environ.get("HPTCTL_EXAMPLES", "200"))
"""Inputs of each slow test."""
MARKS = [
    " ",
    ",",
    ";",
    "\t",
    "|",
    "\n",
    "\r\n",
    '"',
    "'",
    "\\",
    "/",
    "..",
    ":",
    "=",
    "\0",
    "\ufeff",
    "\x1b[2J",
    "\u202e",
]
TEXT = st.lists(st.one_of(st.sampled_from(MARKS), st.text(max_size=4)), max_size=5).map("".join)
"""Marks that mean something somewhere, and other text."""


def png(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (5, 4), shade).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`around/here/` with a few images: `here` is the working folder, and `around` must stay as it is."""
    here = tmp_path_factory.mktemp("around") / "here"
    for number, name in enumerate(("1.png", "2.JPG", "a b.png", "caf\u00e9.png", "sub/3.png", "sub/4.png", "5")):
        (here / "img" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "img" / name).write_bytes(png(number))
    return here


def tried(place: Path, *words: str, told: str = "") -> None:
    """Run a command, and look at all that it did."""
    with chdir(place):
        before, began = sorted(place.parent.iterdir()), time.monotonic()
        done = run_inside(*words)
    about = f"{words!r} {told}\n{done.stdout[-500:]}\n{done.stderr[-3000:]}"
    assert done.returncode in (0, 2), about
    assert "Traceback" not in done.stderr, about
    assert time.monotonic() - began < SECONDS, about
    assert sorted(place.parent.iterdir()) == before, about
    errors = [line for line in done.stderr.splitlines() if not re.match(r"(?!error: )(warning: |\S.*\d+/\d+)", line)]
    if done.returncode:
        assert done.stderr.count("error: ") >= 1, about
        assert errors[-1].startswith("error: "), about
        assert len(done.stderr) < 5000, about


CELLS = st.one_of(
    st.sampled_from(
        ["1.png", "2.JPG", "a b.png", "img/1.png", "img\\2.JPG", "img/sub/3", "cafe\u0301.png", "C:\\x\\1.png"]
    ),
    st.sampled_from(["cat", "dog", "cat|dog", "0", "1", "-1", "NaN", "", "train", "val", "test", "1.0", "x" * 5000]),
    TEXT,
)
HEADERS = st.lists(
    st.sampled_from(["path", "image", "label", "split", "id", "cat", "dog", "Age", "", " PATH ", "name"]), max_size=5
)


@st.composite
def lists(draw: st.DrawFn) -> tuple[str, bytes]:
    separator = draw(st.sampled_from([",", ";", "\t", " ", "|"]))
    width = draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=6))
    header = draw(st.one_of(st.just(["path", "label", "split", "x"][:width]), HEADERS))
    text = draw(st.sampled_from(["\n", "\r\n"])).join(separator.join(row) for row in [header, *rows])
    data = text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])), errors="replace")
    cut = draw(st.integers(0, 400))
    return draw(st.sampled_from([".csv", ".tsv", ".txt", ".list"])), data[:-cut] if cut < 3 and cut else data


def a_list(place: Path, drawn: tuple[str, bytes]) -> None:
    suffix, data = drawn
    for folder in (place, place / "img"):
        file = folder / f"list{suffix}"
        file.write_bytes(data)
        tried(place, "datasets", "info", str(file.relative_to(place)), "--image-size", "8", told=repr(data[:600]))
        file.unlink()


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
MEMBERS = st.one_of(
    st.sampled_from(
        ["cat/1.png", "dog/2.png", "train/cat/1.png", "test/dog/1.png", "a\\b.png", "../x.png", "/x.png", "cat/"]
    ),
    TEXT.map(lambda text: f"{text[:200]}.png".replace("\0", "0")),
)


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", draw(st.sampled_from(METHODS))) as archive:
        for number, name in enumerate(dict.fromkeys(draw(st.lists(MEMBERS, max_size=5)))):
            archive.writestr(zipfile.ZipInfo(name), png(number)) if draw(st.booleans()) else archive.writestr(
                name, png(number)
            )
    data = bytearray(out.getvalue())
    shuffled = random.Random(draw(st.integers(0, 2**16)))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 8]))):
        data[shuffled.randrange(len(data))] = shuffled.randrange(256)
    cut = draw(st.sampled_from([0, 0, 0, 1, 10, 30]))
    return bytes(data[: len(data) - cut])


def a_zip(place: Path, data: bytes) -> None:
    file = place / "d.zip"
    file.write_bytes(data)
    tried(place, "datasets", "info", "d.zip", "--image-size", "8", told=repr(data[:600]))
    file.unlink()


KEYS = [
    "name",
    "datasets",
    "strategies",
    "steps",
    "seeds",
    "set",
    "grids",
    "evaluations",
    "bases",
    "preset",
    "weights",
    "policies",
    "shares",
    "lengths",
    "augment",
    "optimizer",
    "batch_size",
    "data",
    "x",
    "strategy",
    "dataset",
    "seed",
]
VALUES: Any = st.recursive(
    st.one_of(
        st.sampled_from(
            [
                '"hpt"',
                '"shapes@50"',
                "true",
                "1",
                "-1",
                "0.5",
                "nan",
                "inf",
                "1e400",
                "9" * 25,
                "1979-05-27",
                '""',
                "07:32:00",
                '"tiny"',
                '"linear"',
                '"../x"',
            ]
        ),
        st.text(alphabet=st.characters(codec="utf-8", exclude_characters='"\\\n\r', min_codepoint=32), max_size=6).map(
            '"{}"'.format
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda each: f"[{', '.join(each)}]"),
        st.dictionaries(st.sampled_from(KEYS), inner, max_size=3).map(
            lambda each: "{" + ", ".join(f"{k} = {v}" for k, v in each.items()) + "}"
        ),
    ),
    max_leaves=5,
)
TOML = st.one_of(
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5).map(
        lambda d: "".join(f"{k} = {v}\n" for k, v in d.items())
    ),
    TEXT,
)


def a_study(place: Path, text: str) -> None:
    (place / "s.toml").write_bytes(text.encode(errors="replace"))
    tried(place, "study", "plan", "s.toml", told=text)


TINY = ("pretrain", "-s", "target", "-d", "shapes@50", "--preset", "tiny", "--dry-run")


def a_config(place: Path, text: str) -> None:
    (place / "c.toml").write_bytes(text.encode(errors="replace"))
    tried(place, *TINY, "--config", "c.toml", told=text)


FIELDS = [
    "batch_size",
    "seed",
    "augment.policy",
    "optimizer.lr",
    "lr",
    "data.cache",
    "data",
    "data.split_seed",
    "steps",
    "queue",
    "moco.queue",
    "image_size",
    "data.max_unreadable",
    "bn_group",
    "",
    ".",
    "data..x",
    "device",
    "preset",
    "save_at",
]
SETS = st.tuples(
    st.one_of(st.sampled_from(FIELDS), TEXT),
    st.sampled_from(["=", "==", " = ", ""]),
    st.one_of(
        st.sampled_from(["1", "-1", "nan", "inf", "1e999", "9" * 30, "[]", "{}", "null", "true", "[1,", "0x10", "1_0"]),
        TEXT,
    ),
).map("".join)


def a_setting(place: Path, text: str) -> None:
    text = text.replace("\0", "")  # no command line has it
    tried(place, *TINY, f"--set={text}")


NAMES = st.one_of(
    TEXT,
    st.sampled_from([".", "a/b", "a" * 300, "-x", "x@1", "@", "con", "runs", "\u00e9" * 130, "a\nb"]),
)


def a_name(place: Path, text: str) -> None:
    text = text.replace("\0", "").encode(errors="replace").decode()
    tried(place, *TINY, f"--name={text}")
    tried(place, "runs", "show", "--", text)
    tried(place, "weights", "inspect", "--", text)
    if Path(text).name not in ("", "..") and not text.startswith(("~", "..")):  # which are folders of somebody's own
        tried(place, "datasets", "info", "--image-size", "8", "--", text)


KINDS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Path, Any], None]]] = {
    "list": (lists(), a_list),
    "zip": (zips(), a_zip),
    "study": (TOML, a_study),
    "configuration": (TOML, a_config),
    "setting": (SETS, a_setting),
    "name": (NAMES, a_name),
}


def draw(place: Path, kind: str, many: int, *, derandomize: bool) -> None:
    drawn, attempt = KINDS[kind]

    @settings(
        max_examples=many,
        derandomize=derandomize,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # to find a smaller failure takes hundreds of commands
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn)
    def each(value: Any) -> None:
        attempt(place, value)

    each()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_read_or_refused_in_one_line(place: Path, kind: str) -> None:
    draw(place, kind, 2, derandomize=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('set = "x"', "set = 'x'"),
        ("set = [1, 2]", "set = [1, 2]"),
        ('grids = "x"', "grids = 'x'"),
        ("grids = [1]", "grids.0 = 1"),
        ('datasets = ["shapes@50"]\nweights = ["a\\u0000b"]', "NUL"),
    ],
)
def test_a_study_of_other_types_is_refused_by_field(place: Path, text: str, words: str) -> None:
    a_study(place, text)
    with chdir(place):
        done = run_inside("study", "plan", "s.toml")
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_so_are_hundreds_of_others(place: Path, kind: str) -> None:
    draw(place, kind, EXAMPLES, derandomize=False)
