"""Tasks of the harness on data of our own: as YAML and JSON files, nothing is downloaded."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

SYLLABLES = ("ba", "ko", "mi", "re", "su", "ta", "lo", "ne", "pi", "ga")

_CHOICE = """\
task: toy_choice
dataset_path: json
dataset_kwargs: {data_files: {test: "%s"}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 1.5}
"""
_LAST_WORD = """\
task: toy_last_word
dataset_path: json
dataset_kwargs: {data_files: {test: "%s"}}
test_split: test
output_type: loglikelihood
doc_to_text: question
doc_to_target: "{{' ' + choices[0]}}"
metric_list: [{metric: perplexity, aggregation: perplexity}, {metric: acc}]
"""
_TEXT = """\
task: toy_text
dataset_path: json
dataset_kwargs: {data_files: {test: "%s"}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""
_GREEDY = """\
task: toy_greedy
dataset_path: json
dataset_kwargs: {data_files: {test: "%s"}}
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["e"], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match}]
"""
TASKS = {"toy_choice": _CHOICE, "toy_last_word": _LAST_WORD, "toy_text": _TEXT,
         "toy_greedy": _GREEDY}  # fmt: skip


def documents(count: int = 20) -> list[dict[str, Any]]:
    """Questions from one word to far more than a model's sequence, two to four choices."""
    rng = random.Random(3)

    def words(number: int) -> str:
        drawn = ("".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(number))
        return " ".join(drawn)

    return [
        {
            "question": words(1 + 2 * index),
            "choices": [words(1 + (index + k) % 5) for k in range(2 + index % 3)],
            "gold": index % 2,
            "text": words(1 + 4 * index),
        }
        for index in range(count)
    ]


def write_tasks(folder: Path, *names: str) -> Path:
    """A folder with these tasks and their data."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "documents.json"
    data.write_text("\n".join(json.dumps(document) for document in documents()))
    for name in names:
        (folder / f"{name}.yaml").write_text(TASKS[name] % data)
    return folder
