"""Tables on terminals of any width, and names that would break a line or a terminal."""

from __future__ import annotations

import pytest

from hptctl import console

COLUMNS = ("class", ">train", ">val")
ROWS = [
    ("00012_Animalia_Arthropoda_Arachnida_Araneae_Theridiosomatidae_Theridiosoma_gemmosum", "1,012", "3"),
    ("a cat with a name that goes on until it breaks the line", "4", "5"),
]


def printed(capsys: pytest.CaptureFixture[str], width: int, rows: list[tuple[str, ...]] = ROWS) -> list[str]:
    before = console.out.width
    console.out.width = width
    try:
        console.table("", COLUMNS, rows)
    finally:
        console.out.width = before
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_figures_stay_whole_beside_long_names(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, 80)
    assert lines[0].split() == ["class", "train", "val"]
    assert lines[1].split() == ["00012_Animalia_Arthropoda_Arachnida_Araneae_Theridiosomatidae_", "1,012", "3"]
    assert lines[2:] == ["Theridiosoma_gemmosum", f"{ROWS[1][0]}{' ' * 19}4    5"]


def test_at_forty_columns_names_are_cut_at_their_marks_and_words(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, 40)
    assert all(len(line) <= 40 for line in lines)
    assert lines[1].split() == ["00012_Animalia_Arthropoda_", "1,012", "3"]
    assert lines[2:5] == ["Arachnida_Araneae_", "Theridiosomatidae_", "Theridiosoma_gemmosum"]
    assert lines[5].startswith("a cat with a name that ")


def test_where_columns_have_no_room_each_row_stands_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, 20, [("猫" * 12, "1,012", "3"), ("dog", "4", "")]) == [
        "猫" * 10, "猫" * 2, "  train 1,012", "  val 3", "dog", "  train 4",
    ]  # fmt: skip
    printed(capsys, 1)  # it ends


def test_a_name_breaks_no_line_and_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, 80, [("a\nb\x1b[2J\u202e", "1", "2")])[1].split() == [r"a\nb\x1b[2J\u202e", "1", "2"]
    console.error("no dataset 'a\nb\x1b[2J'")
    assert capsys.readouterr().err == "error: no dataset 'a\\nb\\x1b[2J'\n"
    console.error(f"no image {'x' * 5000}.png; check it")
    assert len(capsys.readouterr().err) < 400
