"""Records that are parsed when they are asked for: a mapping like any other, and small."""

from __future__ import annotations

import dataclasses
import gc
import json
import tracemalloc
from pathlib import Path

import pytest

from optbench.store.store import RunRecord, RunStore, StoreError
from tests.builders import config_with_lr, record_of


def record(number: int, **changes: object) -> RunRecord:
    plain = record_of(config_with_lr(number + 1.0), loss=3.0 + number)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def written(directory: Path, *records: RunRecord) -> RunStore:
    directory.mkdir(exist_ok=True)
    (directory / "runs.jsonl").write_text("".join(f"{one.to_json()}\n" for one in records))
    return RunStore.read(directory)


def test_it_is_a_mapping_in_the_order_of_the_file(tmp_path: Path) -> None:
    records = [record(number) for number in range(4)]
    found = written(tmp_path, *records).records
    by_id = {one.run_id: one for one in records}
    assert list(found.items()) == list(by_id.items())
    assert found == by_id
    assert len(found) == 4
    assert found.get("unknown") is None
    assert "unknown" not in found
    with pytest.raises(KeyError, match="unknown"):
        found["unknown"]


def test_a_record_that_somebody_holds_is_not_parsed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    plain = RunRecord.from_dict
    monkeypatch.setattr(
        RunRecord, "from_dict", lambda raw: (parsed.append(raw["run_id"]), plain(raw))[1]
    )
    found = written(tmp_path, record(0), record(1)).records
    assert parsed == []  # opening parses none
    first, second = found
    held = found[first]
    assert found[first] is held
    assert [found[second].val_loss, found[second].val_loss] == [4.0, 4.0]
    assert parsed == [first, second, second]


def test_what_was_appended_is_found_beside_what_was_there(tmp_path: Path) -> None:
    written(tmp_path, record(0))
    with RunStore.open(tmp_path) as store:
        store.append(record(1))
        assert list(store.records.values()) == [record(0), record(1)]
    assert list(store.records.values()) == [record(0), record(1)]  # also when it is closed


def test_totals_are_those_of_the_records_that_hold_and_the_time_of_all(tmp_path: Path) -> None:
    def totals(store: RunStore) -> tuple[int, int, float]:
        own = (store.totals.runs, store.totals.tokens, store.totals.core_s)
        kept = store.records.values()
        assert own[:2] == (len(kept), sum(one.num_tokens for one in kept))
        return own

    failed = record(1, status="failed", val_loss=None, num_tokens=64, wall_s=1.5)
    with RunStore.open(tmp_path) as store:
        assert totals(store) == (0, 0, 0.0)
        store.append(record(0, num_tokens=100, wall_s=2.0))
        store.append(failed)
        assert totals(store) == (2, 164, 3.5)
        store.append(dataclasses.replace(failed, num_tokens=32, wall_s=1.0))
        assert totals(store) == (2, 132, 4.5)
        store.append(record(1, num_tokens=100, wall_s=8.0))
        store.append(failed)
        assert totals(store) == (2, 200, 12.5)
        store.append(record(2, num_tokens=100, wall_s=8.0, execution={"devices": 4}))
        assert totals(store) == (3, 300, 44.5)
    assert totals(RunStore.read(tmp_path)) == (3, 300, 44.5)


def test_a_record_that_gave_way_is_not_given_out_any_more(tmp_path: Path) -> None:
    failed = record(0, status="failed", val_loss=None)
    with RunStore.open(tmp_path) as store:
        store.append(failed)
        held = store.records[failed.run_id]
        store.append(record(0))
        assert held == failed
        assert store.records[failed.run_id] == record(0)


def test_the_file_may_be_replaced_while_it_is_read(tmp_path: Path) -> None:
    records = [record(number) for number in range(3)]
    store = written(tmp_path, *records)
    other = tmp_path / "other.jsonl"
    other.write_text(record(7).to_json() + "\n")
    other.replace(tmp_path / "runs.jsonl")
    assert list(store.records.values()) == records


def test_damage_behind_a_thousand_records_is_named_by_its_line(tmp_path: Path) -> None:
    line = record(0).to_json()
    (tmp_path / "runs.jsonl").write_text(f"{line}\n" * 1000 + line[:-1] + "\n" + f"{line}\n")
    with pytest.raises(StoreError, match=r"runs\.jsonl, line 1001 is not a JSON object"):
        RunStore.read(tmp_path)


def test_a_record_whose_error_holds_half_a_character_is_read(tmp_path: Path) -> None:
    # Python makes such texts of file names that are no UTF-8, writes them, and reads them again.
    odd = record(0, status="diverged", error="no file run-\udcff.txt")
    found = written(tmp_path, odd, record(1))
    assert found.records[odd.run_id].error == odd.error
    assert found.totals.runs == 2


def test_numbers_written_in_any_way_are_read_as_numbers(tmp_path: Path) -> None:
    raw = {**json.loads(record(0).to_json()), "wall_s": 7, "val_loss": 2}
    (tmp_path / "runs.jsonl").write_text(json.dumps(raw) + "\n")
    store = RunStore.read(tmp_path)
    assert store.totals.core_s == 7.0
    assert [one.val_loss for one in store.records.values()] == [2]


def test_opening_takes_a_fraction_of_what_the_records_take(tmp_path: Path) -> None:
    count = 2000
    curve = [(step, 1.0 / step) for step in range(1, 51)]
    with (tmp_path / "runs.jsonl").open("w") as file:
        for number in range(count):
            plain = record(number, train_curve=curve)
            file.write(plain.to_json() + "\n")
    tracemalloc.start()
    try:
        store = RunStore.read(tmp_path)
        gc.collect()
        opened = tracemalloc.get_traced_memory()[0]
        whole = list(store.records.values())
        everything = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(whole) == count
    assert opened / count < 700  # bytes of an entry
    assert everything > 10 * opened


def test_a_record_with_another_configuration_than_its_run_is_refused(tmp_path: Path) -> None:
    edited = record(0)
    edited.config["optimizer"]["hyperparameters"]["lr"] = 7.0
    found = written(tmp_path, record(1), edited).records
    assert found[record(1).run_id] == record(1)
    message = rf"runs\.jsonl, line 2: The record is of run {edited.run_id}, but its configuration"
    with pytest.raises(StoreError, match=message):
        found[edited.run_id]


def test_a_record_may_name_settings_that_came_later_at_their_earlier_values(
    tmp_path: Path,
) -> None:
    plain = record(0)
    plain.config["clip_scope"] = "all"
    assert written(tmp_path, plain).records[plain.run_id].run_config == record(0).run_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_loss": "3.1"}, "val_loss must be a number, but got '3.1'."),
        ({"val_loss": True}, "val_loss must be a number, but got True."),
        ({"train_curve": [["a", 1.0]]}, r"train_curve\[0\]\[0\] must be a number"),
        ({"train_curve": [[1, 1.0, 2]]}, r"train_curve\[0\] must be a shorter list"),
        ({"num_tokens": 1.5}, "num_tokens cannot be 1.5."),
        ({"execution": {"devices": "2"}}, "execution.devices cannot be '2'."),
        ({"status": "done"}, "status cannot be 'done'."),
        ({"schema": None}, "schema cannot be None."),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_line(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    raw = {**json.loads(record(0).to_json()), **changes}
    (tmp_path / "runs.jsonl").write_text(json.dumps(raw) + "\n")
    with pytest.raises(StoreError, match=rf"runs\.jsonl, line 1: {message}.* restore the line"):
        list(RunStore.read(tmp_path).records.values())
