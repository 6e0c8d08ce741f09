"""Data sets in the hub's layouts, from folders on this machine: no network is touched."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optbench.data import parts
from optbench.data.corpus import DataError
from optbench.data.mixture_recipe import HubDataset, TextSource
from optbench.data.parts import list_parts
from optbench.data.preparation import prepare_mixture
from optbench.data.readers import read_part
from optbench.data.recipe_file import read_recipe
from optbench.data.retries import Patience
from tests.data.folders import dclm, json_lines, texts, write

PATIENCE = Patience(attempts=3, sleep=lambda seconds: None)


@pytest.fixture
def _hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("datasets")


def starcoder(root: Path, card: str = "") -> dict[str, list[str]]:
    """As StarCoder data: Parquet in a folder per language, the text in ``content``."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    found: dict[str, list[str]] = {}
    for language in ("ada", "python"):
        for i in range(2):
            name = f"{language}/train-{i:05d}-of-00002.parquet"
            found[name] = texts(name, 30)
            (root / language).mkdir(parents=True, exist_ok=True)
            table = pa.table({"content": found[name], "max_stars_count": [1.0] * 30})
            pq.write_table(table, root / name, row_group_size=8)
    if card:
        write(root / "README.md", card.encode())
    return found


def read_all(source: TextSource, base: Path) -> list[str]:
    listing = list_parts(source, base, PATIENCE)
    return [text for part in listing.parts for text in read_part(part, source)]


def flat(found: dict[str, list[str]]) -> list[str]:
    return sorted(text for documents in found.values() for text in documents)


@pytest.mark.usefixtures("_hub")
def test_a_data_set_is_read_as_its_layout_says(tmp_path: Path) -> None:
    found = starcoder(tmp_path / "starcoderdata")
    hub = HubDataset(dataset="starcoderdata")
    source = TextSource(name="code", hub=hub, field="content")
    assert sorted(read_all(source, tmp_path)) == flat(found)


@pytest.mark.usefixtures("_hub")
def test_a_card_names_configurations_splits_and_how_many_documents(tmp_path: Path) -> None:
    card = """---
configs:
- config_name: ada
  data_files:
  - split: train
    path: ada/train-*
  - split: val
    path: python/train-00000-*
dataset_info:
- config_name: ada
  splits:
  - name: train
    num_examples: 61
---
"""
    found = starcoder(tmp_path / "code", card)
    val = HubDataset(dataset="code", config="ada", split="val")
    source = TextSource(name="code", hub=val, field="content")
    assert read_all(source, tmp_path) == found["python/train-00000-of-00002.parquet"]
    train = TextSource(name="code", hub=HubDataset(dataset="code", config="ada"), field="content")
    listing = list_parts(train, tmp_path, PATIENCE)
    assert [part.label for part in listing.parts] != []
    assert listing.documents == 61
    recipe = read_recipe(
        'name = "x"\nvocab_size = 300\n[[sources]]\nname = "code"\nfield = "content"\n'
        'hub = { dataset = "code", config = "ada" }',
        tmp_path,
    )
    with pytest.raises(DataError, match="'code' gave 60 documents, but there must be 61"):
        prepare_mixture(recipe, tmp_path / "cache")


@pytest.mark.usefixtures("_hub")
@pytest.mark.parametrize(
    ("hub", "message"),
    [
        (HubDataset(dataset="code", split="tain"), r"Unknown split of 'code' 'tain'\. Did you"),
        (HubDataset(dataset="code", config="rust"), r"cannot be read as its card says \(.*rust"),
    ],
)
def test_an_unknown_split_or_configuration_is_refused(
    hub: HubDataset, message: str, tmp_path: Path
) -> None:
    starcoder(tmp_path / "code")
    with pytest.raises(DataError, match=message):
        list_parts(TextSource(name="code", hub=hub), tmp_path, PATIENCE)


def test_patterns_replace_a_card(tmp_path: Path) -> None:
    """As for ProofPile-2, whose card is a script."""
    found = dclm(tmp_path / "pile")
    write(tmp_path / "pile/proof-pile-2.py", b"raise SystemExit")
    hub = HubDataset(dataset="pile", files=("global-shard_0*/*/*.gz",))
    chosen = {name: t for name, t in found.items() if name.startswith("global-shard_0")}
    assert sorted(read_all(TextSource(name="proof", hub=hub), tmp_path)) == flat(chosen)


def test_files_come_in_the_same_order_wherever_they_lie(tmp_path: Path) -> None:
    labels = []
    for folder in ("here", "or/there"):
        dclm(tmp_path / folder, files=4)
        source = TextSource(name="web", files=(f"{folder}/*/*/*.gz",))
        labels.append([p.label for p in list_parts(source, tmp_path, PATIENCE).parts])
    assert labels[0] == labels[1]
    assert labels[0] != sorted(labels[0])


def test_the_mixture_of_the_paper_is_prepared_from_folders_in_its_layouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped recipe itself, with folders in place of the data sets on the hub."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    zstandard = pytest.importorskip("zstandard")
    pytest.importorskip("datasets")
    from optbench.data.recipe_file import shipped_recipes

    pack = zstandard.ZstdCompressor().compress
    web = tmp_path / "mlfoundations/dclm-baseline-1.0/global-shard_01_of_10/local-shard_0_of_10"
    write(web / "shard_00000000_processed.jsonl.zst", pack(json_lines(texts("web", 400))))
    starcoder(tmp_path / "bigcode/starcoderdata")
    pile = tmp_path / "EleutherAI/proof-pile-2"
    for part in ("arxiv", "algebraic-stack"):
        write(pile / part / "train/0.jsonl.zst", pack(json_lines(texts(part, 30))))
    for split in ("val", "test"):
        path = tmp_path / f"allenai/paloma/c4_en/{split}/{split}.jsonl.gz"
        write(path, gzip.compress(json_lines(texts(f"c4 {split}", 20))))
    text = shipped_recipes()["dclm-mix"].replace('tokenizer = "llama3"', "vocab_size = 300")
    recipe = read_recipe(text.replace("10_000_000_000", "9_000"), tmp_path)
    manifest = prepare_mixture(recipe, tmp_path / "cache")
    assert manifest.mixture("train") == (("dclm", 760), ("starcoder", 50), ("proofpile", 11))
    assert manifest.mixture("validation") == (("c4-en", 1),)
    assert manifest.mixture("test") == (("c4-en-test", 1),)
    assert [s.documents for s in manifest.shards_of("validation", "c4-en")] == [20]
    tokens = {s.source: s.tokens for s in manifest.shards if s.split == "train"}
    for name, parts_of_it in manifest.mixture("train"):
        assert tokens[name] >= 9000 * parts_of_it / 821


def test_a_folder_whose_name_datasets_would_match_is_refused(tmp_path: Path) -> None:
    for name in ("run[12]", "run1"):
        write(tmp_path / name / "train.jsonl", json_lines(texts(name, 3)))
    source = TextSource(name="web", hub=HubDataset(dataset="run[12]"))
    with pytest.raises(DataError, match=r"run\[12\] has a name that .*`files` in the hub table"):
        list_parts(source, tmp_path, PATIENCE)


def test_a_listing_is_tried_again_after_a_rate_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dclm(tmp_path / "web")
    source = TextSource(name="web", files=(f"file://{tmp_path}/web/*/*/*.gz",))
    monkeypatch.setattr(parts.fsspec, "url_to_fs", after(2, parts.fsspec.url_to_fs))
    assert len(list_parts(source, tmp_path, PATIENCE).parts) == len(found)
    monkeypatch.setattr(parts.fsspec, "url_to_fs", after(3, parts.fsspec.url_to_fs))
    with pytest.raises(DataError, match=r"'web' cannot list file:.*web/\*/\*/\*\.gz \(RateLimit"):
        list_parts(source, tmp_path, PATIENCE)


class RateLimitError(Exception):
    status = 429


class GatedError(Exception):
    status = 403


def after(failures: int, then: Callable[..., Any]) -> Callable[..., Any]:
    left = [RateLimitError() for _ in range(failures)]

    def limited(*args: Any, **options: Any) -> Any:
        if left:
            raise left.pop()
        return then(*args, **options)

    return limited


def test_a_data_set_behind_terms_says_how_to_log_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gated(*args: Any, **options: Any) -> Any:
        raise GatedError

    monkeypatch.setattr(parts.fsspec, "url_to_fs", gated)
    source = TextSource(name="c4", hub=HubDataset(dataset="a/b", revision="abc1234", files=("*",)))
    with pytest.raises(DataError, match=r"'c4' cannot list a/b .*log in: hf auth login"):
        list_parts(source, tmp_path, PATIENCE)


def test_a_branch_is_read_at_the_commit_it_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    class Api:
        def dataset_info(self, dataset: str, revision: str) -> Any:
            assert (dataset, revision) == ("a/b", "main")
            return type("Info", (), {"sha": "c0ffee" * 7})()

    asked: list[str] = []

    def url_to_fs(url: str) -> Any:
        asked.append(url)
        raise FileNotFoundError(url)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(parts.fsspec, "url_to_fs", url_to_fs)
    source = TextSource(name="web", hub=HubDataset(dataset="a/b", files=("*.gz",)))
    with pytest.raises(DataError, match="cannot list a/b"):
        list_parts(source, tmp_path, PATIENCE)
    assert asked == [f"hf://datasets/a/b@{'c0ffee' * 7}/*.gz"]


def test_no_file_and_no_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The source 'web' finds no file at .*none/\*\.gz"):
        list_parts(TextSource(name="web", files=("none/*.gz",)), tmp_path, PATIENCE)
    write(tmp_path / "a.dat", b"x")
    with pytest.raises(DataError, match=r"does not say the format of .*a\.dat, .* text, jsonl, p"):
        list_parts(TextSource(name="web", files=("a.dat",)), tmp_path, PATIENCE)


def test_a_missing_package_is_refused_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    source = TextSource(name="code", hub=HubDataset(dataset="x", revision="abc1234"))
    with pytest.raises(DataError, match=r"'datasets', which is not installed\. Install it: pip"):
        list_parts(source, tmp_path, PATIENCE)
