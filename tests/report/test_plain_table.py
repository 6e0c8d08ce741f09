from __future__ import annotations

from optbench.report.plain_table import plain_table


def test_numbers_are_aligned_to_the_right_and_words_to_the_left() -> None:
    lines = plain_table(
        ("axis", "loss", "", "run"), [("lr", "4.1", "tie", "ab"), ("beta2", "12.25", "", "c")],
        left=("axis", "run"),
    )  # fmt: skip
    assert lines == (
        "axis    loss       run",
        "lr       4.1  tie  ab",
        "beta2  12.25       c",
    )


def test_no_line_ends_in_spaces() -> None:
    assert plain_table(("", "b"), [("long", "")], left=("b",)) == ("      b", "long")
