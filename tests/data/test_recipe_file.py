from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from optbench.config import ConfigError
from optbench.data.mixture_recipe import HubDataset
from optbench.data.recipe_file import find_recipe, read_recipe, shipped_recipes

SMALL = """
name = "mine"
vocab_size = 512

[[sources]]
name = "web"
files = ["a.txt"]
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        read_recipe(text, Path())
    return error.value.problems


def test_the_shipped_mixture_is_that_of_the_paper() -> None:
    recipe = find_recipe("dclm-mix")
    assert [(s.name, s.weight) for s in recipe.sources] == [
        ("dclm", Fraction("3.8")),
        ("starcoder", Fraction("0.25")),
        ("proofpile", Fraction("0.055")),
    ]
    assert recipe.weights() == (760, 50, 11)
    assert recipe.tokenizer == "llama3"
    hubs = [s.hub for s in (*recipe.sources, recipe.validation, recipe.test) if s]
    assert {hub.dataset for hub in hubs if hub} == {
        "mlfoundations/dclm-baseline-1.0",
        "bigcode/starcoderdata",
        "EleutherAI/proof-pile-2",
        "allenai/paloma",
    }
    assert all(hub and hub.revision != "main" for hub in hubs)
    assert [s.field for s in recipe.sources] == ["text", "content", "text"]


def test_the_tokens_of_the_shipped_mixture_are_shared_out_by_its_weights() -> None:
    recipe = find_recipe("dclm-mix")
    quotas = {s.source.name: s.tokens for s in recipe.streams()}
    assert quotas["dclm"] == -(-recipe.tokens * 760 // 821)
    assert quotas["starcoder"] == -(-recipe.tokens * 50 // 821)
    assert quotas["c4-en"] == 0  # all of it
    assert [s.shares for s in recipe.streams()][2:] == [
        (("train", 1),),
        (("validation", 1.0),),
        (("test", 1.0),),
    ]


def test_every_shipped_recipe_can_be_read() -> None:
    assert [find_recipe(name).name for name in shipped_recipes()] == list(shipped_recipes())


def test_a_recipe_without_held_out_tables_divides_its_documents() -> None:
    (stream,) = read_recipe(SMALL, Path()).streams()
    assert stream.shares == (("validation", 0.02), ("test", 0.02), ("train", 0.96))
    assert stream.counted == {"train"}


def test_a_validation_table_alone_is_halved() -> None:
    recipe = read_recipe(SMALL + '[validation]\nfiles = ["v.txt"]\ntokens = 9', Path())
    train, held_out = recipe.streams()
    assert train.shares == (("train", 1),)
    assert held_out.source.name == "validation"
    assert held_out.shares == (("validation", 0.5), ("test", 0.5))
    assert (held_out.tokens, held_out.counted) == (9, {"validation", "test"})


def test_a_hub_table_is_read() -> None:
    hub = 'hub = { dataset = "a/b", config = "en", split = "val", files = ["*.gz"] }'
    recipe = read_recipe(SMALL.replace('files = ["a.txt"]', hub), Path())
    assert recipe.sources[0].hub == HubDataset(
        dataset="a/b", config="en", split="val", files=("*.gz",)
    )


def test_the_digest_knows_what_decides_the_bytes() -> None:
    recipe = read_recipe(SMALL, Path())
    assert recipe.digest() == read_recipe(SMALL, Path("/elsewhere")).digest()
    others = [
        SMALL.replace("512", "513"),
        SMALL.replace("a.txt", "b.txt"),
        SMALL.replace('name = "web"', 'name = "web"\nweight = 2'),
        "tokens = 5\n" + SMALL,
    ]
    digests = {read_recipe(text, Path()).digest() for text in others}
    assert len(digests | {recipe.digest()}) == 5


def test_all_problems_are_reported_at_once() -> None:
    found = problems("""
name = "Mine"
tokenizr = "llama3"
validation_share = 0.7
tokens = "many"

[[sources]]
name = "web"
weight = -1
fles = ["a"]
format = "jsonlines"
side_by_side = 0

[[sources]]
name = "code"
files = ["b"]
hub = { datset = "x" }
weight = nan

[test]
files = ["c"]
""")
    for expected in (
        "Unknown key 'tokenizr'. Did you mean 'tokenizer'?",
        "Unknown key 'sources[0].fles'. Did you mean 'sources[0].files'?",
        "sources[0] needs either `files` or `hub`, and not both.",
        "sources[0].format must be 'text', 'jsonl' or 'parquet', but got 'jsonlines'. Did you ",
        "sources[0].weight must be a number above 0 of",
        "sources[0].side_by_side must be at least 1, but got 0.",
        "sources[1] needs either `files` or `hub`, and not both.",
        "Unknown key 'sources[1].hub.datset'. Did you mean 'sources[1].hub.dataset'?",
        "sources[1].weight must be a finite number, but got NaN.",
        "tokens must be a whole number, but got 'many'.",
        "name must be a lower-case name such as 'my-mix', but got 'Mine'.",
        "A recipe needs either `tokenizer` (llama3 or a file) or `vocab_size`",
        "A [test] table needs a [validation] table beside it.",
        "validation_share does not go with a [validation] table; remove one.",
        "validation_share must lie between 0 and 0.5, but got 0.7.",
    ):
        assert any(problem.startswith(expected) for problem in found), (expected, found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "The recipe is not valid TOML"),
        ('name = "x"\nvocab_size = 300', "A recipe needs at least one [[sources]] table"),
        ("sources = 3\n" + SMALL.split("[[")[0], "A recipe needs at least one [[sources]] table"),
        (SMALL.replace("mine", "nano"), "name must not be 'nano'"),
        (SMALL + SMALL.split("512")[1], "Source names must differ, but 'web' comes 2 times."),
        (SMALL + 'weight = 0.1234567\n[[sources]]\nname = "b"\nfiles = ["b"]', "The weights are"),
        (SMALL.replace('"a.txt"', "3"), "sources[0].files[0] must be text, but got 3."),
        (
            SMALL.replace('["a.txt"]', '"a.txt"'),
            "sources[0].files must be a list, but got 'a.txt'. Write [",
        ),
        (SMALL.replace("[[sources]]", "[sources]"), "Write [[sources]] instead of [sources]"),
        (SMALL.replace('name = "web"', ""), "sources[0].name is missing: a lower-case"),
        (
            "tokens = '3B'\n" + SMALL,
            "tokens must be a whole number, but got '3B'. Write it out",
        ),
        (SMALL + "weight = 0", "sources[0].weight must be a number above 0 of at most 12 digits"),
        (SMALL + "hub = 3", "sources[0].hub must be a table of keys and values, but got 3."),
        ("validation = 3\n" + SMALL, "validation must be a table of keys and values, but got 3."),
        ("test_share = 0\n" + SMALL, "test_share must lie between 0 and 0.5, but got 0.0. Every"),
        (
            SMALL + '[validation]\nfiles = ["v.txt"]\nweight = 2',
            "validation.weight has no meaning",
        ),
        ("shard_tokens = 0\n" + SMALL, "shard_tokens must be at least 1, but got 0."),
    ],
)
def test_a_problem_names_what_is_wrong(text: str, message: str) -> None:
    found = problems(text)
    assert any(problem.startswith(message) for problem in found), found


def test_a_value_of_the_wrong_kind_is_one_problem() -> None:
    assert len(problems(SMALL.replace('["a.txt"]', '"a.txt"'))) == 1
    assert len(problems(SMALL.replace("[[sources]]", "[sources]"))) == 1


def test_an_unknown_recipe_is_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'dclm'\. Did you mean 'dclm-mix'\? Available: nano, "):
        find_recipe("dclm")
    latin = tmp_path / "latin.toml"
    latin.write_bytes("# ä\n".encode("latin-1"))
    with pytest.raises(
        ConfigError, match=r"latin\.toml, line 1 is not UTF-8: byte 0xe4 at position 2"
    ):
        find_recipe(str(latin))
    with pytest.raises(ConfigError, match=r"There is no recipe file .*none\.toml"):
        find_recipe(str(tmp_path / "none.toml"))


def test_the_example_of_the_documentation_is_a_recipe() -> None:
    text = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    recipe = read_recipe(text.split("```toml\n")[1].split("```")[0], Path())
    assert [s.name for s in recipe.sources] == ["web", "books", "code"]
