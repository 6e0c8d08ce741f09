from __future__ import annotations

from optbench.report.text_table import text_table


def test_numbers_are_aligned_to_the_right_and_words_to_the_left() -> None:
    lines = text_table(
        ("axis", "loss", "", "run"), [("lr", "4.1", "tie", "ab"), ("beta2", "12.25", "", "c")],
        left=("axis", "run"),
    )  # fmt: skip
    assert lines == (
        "axis    loss       run",
        "lr       4.1  tie  ab",
        "beta2  12.25       c",
    )


def test_no_line_ends_in_spaces() -> None:
    assert text_table(("", "b"), [("long", "")], left=("b",)) == ("      b", "long")
