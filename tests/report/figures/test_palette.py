from __future__ import annotations

from optbench.report.figures.palette import assign_sizes, assign_styles

PAPER = (
    "adamw", "nadamw", "mars", "cautious", "lion", "adam_mini", "muon", "scion", "kron", "soap",
    "sophia",
)  # fmt: skip


def test_eleven_optimizers_have_eleven_colours() -> None:
    styles = assign_styles(PAPER, "adamw")
    assert len({style.color for style in styles.values()}) == 11


def test_seventy_optimizers_differ_in_colour_or_marker() -> None:
    names = [f"o{k}" for k in range(71)]
    assert len(set(assign_styles(names, "o0").values())) == 71


def test_an_optimizer_keeps_its_look_whoever_is_the_fastest() -> None:
    assert assign_styles(PAPER, "adamw")["muon"] == assign_styles(PAPER[:7], "adamw")["muon"]


def test_the_baseline_is_grey_wherever_it_is_named() -> None:
    for names in (["adamw", "muon"], ["muon", "adamw"]):
        assert assign_styles(names, "adamw")["adamw"].color == "#808080"


def test_sizes_differ_in_colour_and_marker() -> None:
    styles = list(assign_sizes(["d32", "d48", "d64", "d96"]).values())
    assert len({style.color for style in styles}) == len({style.symbol for style in styles}) == 4
