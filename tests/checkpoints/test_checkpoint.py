"""Checkpoints that are damaged are refused by name, and the run ends as if they had not been."""

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import safetensors.torch
import torch

from optbench.checkpoints.checkpoint import checkpoint_directory, discard, discard_finished
from optbench.checkpoints.manifest import CheckpointError, CheckpointManifest, rank_file
from optbench.files.tensor_file import StreamFacts, write_tensors
from tests.checkpoints.checkpointed_runs import Part, Runs, assert_bit_equal, config_of, undisturbed

FILE = rank_file(0, 1)
HEAD = "model/head.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of its steps 8 and 9, interrupted after them."""
    root = tmp_path_factory.mktemp("made")
    Runs(root, CONFIG).part(10)
    return root


CONFIG = config_of("soap", steps=12, precondition_frequency=5)


@pytest.fixture(scope="module")
def whole() -> Part:
    return undisturbed(Runs("memory://no", CONFIG))


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Runs:
    shutil.copytree(made, tmp_path / "root")
    return Runs(tmp_path / "root", CONFIG)


def folder(runs: Runs, step: int = 9) -> Path:
    return Path(runs.root) / CONFIG.run_id / f"step-{step:08d}"


def manifest_of(where: Path) -> dict[str, Any]:
    return json.loads((where / "checkpoint.json").read_text())


def forge(
    where: Path,
    tensors: Callable[[dict[str, torch.Tensor]], None] = lambda _: None,
    facts: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:
    """Change what a checkpoint holds and make all its checksums right again."""
    step = int(where.name.removeprefix("step-"))
    found = CheckpointManifest.from_json(
        (where / "checkpoint.json").read_bytes(), CONFIG.run_id, step
    )
    held = safetensors.torch.load((where / FILE).read_bytes())
    tensors(held)
    facts(found.facts[0])
    with (where / FILE).open("wb") as file:
        written = write_tensors(file, held)
    seal(where, written, found.facts[0])


def seal(where: Path, written: StreamFacts, facts: dict[str, Any]) -> None:
    step = int(where.name.removeprefix("step-"))
    manifest = CheckpointManifest(CONFIG.run_id, step, (written,), (facts,))
    (where / "checkpoint.json").write_bytes(manifest.to_json())


def forge_header(where: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = (where / FILE).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    replace_file(where, len(text).to_bytes(8, "little") + text + data[8 + length :])


def replace_file(where: Path, data: bytes) -> None:
    """Another file, with its size and checksum in the manifest."""
    (where / FILE).write_bytes(data)
    facts = manifest_of(where)["facts"][0]
    seal(where, StreamFacts(len(data), hashlib.sha256(data).hexdigest()), facts)


def rewrite_manifest(where: Path, **changes: Any) -> None:
    """Change entries of the manifest without a care for its checksum."""
    (where / "checkpoint.json").write_text(json.dumps({**manifest_of(where), **changes}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


class Bomb:
    """Unpickling it would be noticed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was read",)


def set_size(name: str, shape: list[int]) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        header[name]["shape"] = shape

    return change


def overlap(header: dict[str, Any]) -> None:
    by_start = sorted(header, key=lambda name: header[name]["data_offsets"])
    header[by_start[3]]["data_offsets"] = header[by_start[2]]["data_offsets"]
    header[by_start[3]]["shape"] = header[by_start[2]]["shape"]
    header[by_start[3]]["dtype"] = header[by_start[2]]["dtype"]


def state_of(facts: dict[str, Any], name: str = "head.weight") -> dict[str, Any]:
    return facts["optimizer"]["state"][name]["dict"]


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (
        lambda f: cut(f / FILE),
        r"rank-0-of-1.safetensors has [\d,]+ bytes, but checkpoint.json says [\d,]+: it was cut",
    ),
    "a bit of a tensor": (
        lambda f: flip(f / FILE, -5),
        r"rank-0-of-1.safetensors has been changed since it was written: its SHA-256 is",
    ),
    "a bit of the header's length": (
        lambda f: flip(f / FILE, 0),
        r"rank-0-of-1.safetensors is no safetensors file: its header cannot be read",
    ),
    "a bit of a loss in the manifest": (
        lambda f: (f / "checkpoint.json").write_text(
            (f / "checkpoint.json")
            .read_text()
            .replace('"train_curve": [[1, 3', '"train_curve": [[1, 4')
        ),
        "checkpoint.json has been changed since it was written",
    ),
    "no manifest": (
        lambda f: (f / "checkpoint.json").unlink(),
        "checkpoint.json is missing: writing it was not finished",
    ),
    "no file": (lambda f: (f / FILE).unlink(), "rank-0-of-1.safetensors is missing"),
    "an empty file": (
        lambda f: replace_file(f, b""),
        "rank-0-of-1.safetensors has a header of 0 bytes by its own account",
    ),
    "of another step": (
        lambda f: shutil.copy(f.parent / "step-00000008/checkpoint.json", f),
        r"checkpoint.json is of step 8 of run \w+, but lies where step 9",
    ),
    "of another run": (
        lambda f: (f / "checkpoint.json").write_bytes(
            CheckpointManifest("cafe", 9, (StreamFacts(1, "0" * 64),), ({},)).to_json()
        ),
        "checkpoint.json is of step 9 of run cafe, but lies where step 9 of run",
    ),
    "a newer schema": (
        lambda f: rewrite_manifest(f, schema=2),
        "checkpoint.json has schema 2, but this version of optbench reads up to 1",
    ),
    "no schema": (lambda f: rewrite_manifest(f, schema="1"), "has no schema number, but '1'"),
    "a path out of the folder": (
        lambda f: reseal(f, files=[{"name": "../../x", "size": 1, "sha256": "0" * 64}]),
        "must list 'rank-0-of-1.safetensors', but lists {'name': '../../x'",
    ),
    "a thousand ranks": (
        lambda f: reseal(f, num_ranks=1000),
        "must list one file for each of 1000 ranks",
    ),
    "an absurd size": (
        lambda f: reseal(f, files=[{"name": FILE, "size": 10**18, "sha256": "0" * 64}]),
        r"bytes, but checkpoint.json says 1,000,000,000,000,000,000",
    ),
    "a manifest that is no JSON": (
        lambda f: (f / "checkpoint.json").write_text("{"),
        r"checkpoint.json is no JSON \(JSONDecodeError",
    ),
    "a manifest of nested lists": (
        lambda f: (f / "checkpoint.json").write_text("[" * 200_000),
        r"checkpoint.json is no JSON \(RecursionError",
    ),
    "a manifest that is a list": (
        lambda f: (f / "checkpoint.json").write_text("[]"),
        "checkpoint.json is no JSON object",
    ),
    "a pickle as the manifest": (
        lambda f: (f / "checkpoint.json").write_bytes(pickle.dumps(Bomb())),
        "checkpoint.json is a pickle, which can run code",
    ),
    "a pickle as the tensors": (
        lambda f: replace_file(f, pickle.dumps(Bomb()) + b"\0" * 100),
        "rank-0-of-1.safetensors is a pickle .as torch.save writes., which can run code",
    ),
    "a file of torch.save": (
        lambda f: (torch.save({"a": Bomb()}, f / FILE), replace_file(f, (f / FILE).read_bytes())),
        "rank-0-of-1.safetensors is a pickle",
    ),
    "a header of 2**60 bytes": (
        lambda f: replace_file(f, (2**60).to_bytes(8, "little") + b"{}" + b"\0" * 64),
        "has a header of 1,152,921,504,606,846,976 bytes by its own account",
    ),
    "overlapping tensors": (lambda f: forge_header(f, overlap), "neither overlap nor leave gaps"),
    "an absurd shape": (
        lambda f: forge_header(f, set_size(HEAD, [2**40, 2**40])),
        r"itself: 'model/head.weight' is float32 of shape \(1099511627776, 1099511627776\), which",
    ),
    "a negative shape": (
        lambda f: forge_header(f, set_size(HEAD, [-16, -32])),
        "'model/head.weight' has the size or offset -16",
    ),
    "an unknown type": (
        lambda f: forge_header(f, lambda h: h[HEAD].update(dtype="OBJECT")),
        "its header cannot be read .KeyError: 'OBJECT'",
    ),
    "a transposed parameter": (
        lambda f: forge(f, lambda t: t.update({HEAD: t[HEAD].T.contiguous()})),
        r"'model/head.weight' is float32 of shape \(16, 32\), but the run has float32",
    ),
    "a parameter of another type": (
        lambda f: forge(f, lambda t: t.update({HEAD: t[HEAD].double()})),
        r"'model/head.weight' is float64 of shape \(32, 16\), but the run has float32",
    ),
    "a state of another shape": (
        lambda f: forge(f, lambda t: t.update({"optimizer/head.weight/exp_avg": torch.zeros(3)})),
        r"'optimizer/head.weight/exp_avg' is float32 of shape \(3,\), but the run has float32",
    ),
    "an absurd state": (
        lambda f: forge(
            f, lambda t: t.update({"optimizer/final_norm.gain/exp_avg": torch.zeros(10**7)})
        ),
        r"The tensors of 'optimizer/final_norm.gain' take [\d,]+ bytes, but [\d,]+ are the most",
    ),
    "a tensor less": (
        lambda f: forge(f, lambda t: t.pop(HEAD)),
        r"The file of rank 0 lacks \['model/head.weight'\]",
    ),
    "a tensor more": (
        lambda f: forge(f, lambda t: t.update({"model/extra": torch.zeros(1)})),
        r"has the unknown \['model/extra'\]",
    ),
    "a state less": (
        lambda f: forge(
            f,
            lambda t: t.pop("optimizer/head.weight/exp_avg"),
            lambda facts: state_of(facts).pop("exp_avg"),
        ),
        r"The state of 'head.weight' has the tensors .*, but \[.*'exp_avg', .* are expected",
    ),
    "no state of a parameter": (
        lambda f: forge(
            f,
            lambda t: [t.pop(n) for n in list(t) if n.startswith("optimizer/head.weight/")],
            lambda facts: facts["optimizer"]["state"].pop("head.weight"),
        ),
        r"The state of 'head.weight' has the tensors \[\]",
    ),
    "a state that is another's": (
        lambda f: forge(
            f, lambda t: None, lambda facts: state_of(facts)["exp_avg"].update(tensor=HEAD)
        ),
        r"has the unknown|has the tensors",
    ),
    "a state of an unknown parameter": (
        lambda f: forge(
            f, facts=lambda facts: facts["optimizer"]["state"].update({"who": {"dict": {}}})
        ),
        r"states of what the model does not have: \['who'\]",
    ),
    "a count that is a text": (
        lambda f: forge(f, facts=lambda facts: state_of(facts).update(step="9")),
        "The state 'step' of 'head.weight' is '9'",
    ),
    "a count past the step": (
        lambda f: forge(f, facts=lambda facts: state_of(facts).update(step=10)),
        "The state 'step' of 'head.weight' is 10",
    ),
    "another hyperparameter": (
        lambda f: forge(
            f,
            facts=lambda facts: [
                g["values"]["dict"].update(beta1=0.5) for g in facts["optimizer"]["groups"]
            ],
        ),
        "It has beta1 = 0.5 for the group where the run has 0.9",
    ),
    "a learning rate that is a text": (
        lambda f: forge(
            f,
            facts=lambda facts: [
                g["values"]["dict"].update(lr="1") for g in facts["optimizer"]["groups"]
            ],
        ),
        "It has lr = '1' for the group",
    ),
    "a loss that is none": (
        lambda f: forge(f, facts=lambda facts: facts["loop"].update(train_curve=[[1, 1e400]])),
        r"Its train_curve has the point \(1, inf\)",
    ),
    "a step past the end": (
        lambda f: forge(f, facts=lambda facts: facts["loop"].update(steps_taken=10**9)),
        "It is of step 1000000000 by its loop and of step 9 by its name; the run has 12 steps",
    ),
    "a micro-batch of nothing": (
        lambda f: forge(f, facts=lambda facts: facts["loop"].update(micro_batch_size=0)),
        "Its micro_batch_size is 0",
    ),
    "no loop": (
        lambda f: forge(f, facts=lambda facts: facts.pop("loop")),
        r"has not the form of a training state \(KeyError: 'loop'\)",
    ),
    "a value that stands for nothing": (
        lambda f: forge(f, facts=lambda facts: state_of(facts).update(step={"call": "os.system"})),
        "{'call': 'os.system'} stands for no value",
    ),
    "times of another length": (
        lambda f: forge(
            f, lambda t: t.update({"loop/0/step_times": torch.zeros(8, dtype=torch.float64)})
        ),
        r"'loop/0/step_times' is float64 of shape \(8,\), but the run has float64 of shape \(9,\)",
    ),
    "more losses than steps": (
        lambda f: forge(f, lambda t: t.update({"loop/0/recent_losses": torch.zeros(10)})),
        "'loop/0/recent_losses' is float32 of shape .10,., but the run has float32 of shape .0,.",
    ),
    "random numbers without end": (
        lambda f: forge(
            f, lambda t: t.update({"random/0/torch/cpu": torch.zeros(10**5, dtype=torch.uint8)})
        ),
        "'random/0/torch/cpu' is uint8 of shape .100000,., too much for a generator",
    ),
    "no random numbers": (
        lambda f: forge(
            f, lambda t: t.update({"random/0/torch/cpu": torch.zeros(7, dtype=torch.uint8)})
        ),
        "It holds no state of the random number generators .RuntimeError",
    ),
    "a history of no time": (
        lambda f: forge(f, facts=lambda facts: facts["history"].update(wall_s=-1)),
        "Its history is {'wall_s': -1",
    ),
}


def reseal(where: Path, **changes: Any) -> None:
    """Change entries of the manifest and give it the checksum of what it now says."""
    content = {**manifest_of(where), **changes}
    del content["content_sha256"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    checksum = hashlib.sha256(text.encode()).hexdigest()
    (where / "checkpoint.json").write_text(json.dumps({"content_sha256": checksum, **content}))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_used(
    damage: str, runs: Runs, whole: Part, caplog: pytest.LogCaptureFixture
) -> None:
    spoil, reason = DAMAGES[damage]
    before = {f.name: f.read_bytes() for f in folder(runs).iterdir()}
    spoil(folder(runs))
    assert before != {f.name: f.read_bytes() for f in folder(runs).iterdir()}
    resumed = runs.part(seed=5)
    (problem,) = resumed.checkpointer.record()["checkpoint_problems"]
    assert problem.startswith(f"The checkpoint {folder(runs)} is not used: ")
    assert re.search(reason, problem), problem
    assert caplog.messages == [problem]
    assert resumed.resumed_at == [8]
    assert_bit_equal(resumed, whole)
    assert sorted(f.name for f in folder(runs).parent.iterdir()) == [
        "step-00000011",
        "step-00000012",
    ]


def test_where_all_are_damaged_the_run_starts_anew_as_if_nothing_had_been(
    runs: Runs, whole: Part
) -> None:
    for step in (8, 9):
        flip(folder(runs, step) / FILE, -5)
    resumed = runs.part()
    assert resumed.resumed_at == []
    assert len(resumed.checkpointer.record()["checkpoint_problems"]) == 2
    assert resumed.steps == list(range(12))
    assert_bit_equal(resumed, whole)


def test_an_undamaged_checkpoint_is_forged_into_itself(runs: Runs, whole: Part) -> None:
    """So that the damages above are refused for what they say."""
    forge(folder(runs))
    resumed = runs.part(seed=5)
    assert resumed.resumed_at == [9]
    assert resumed.checkpointer.record().get("checkpoint_problems") is None
    assert_bit_equal(resumed, whole)


def test_the_files_are_read_by_the_library_and_hold_the_parameters(runs: Runs) -> None:
    held = safetensors.torch.load_file(folder(runs) / FILE)
    part = runs.part()
    assert {n.removeprefix("model/") for n in held if n.startswith("model/")} == {
        name for name, _ in part.model.named_parameters()
    }
    assert manifest_of(folder(runs, 12))["facts"][0]["loop"]["steps_taken"] == 12


def test_the_checkpoints_of_a_run_are_discarded_and_only_those(runs: Runs, tmp_path: Path) -> None:
    root = Path(runs.root)
    shutil.copytree(root / CONFIG.run_id, root / "other")
    discard_finished(root, {"unknown"})
    assert {path.name for path in root.iterdir()} == {"other", CONFIG.run_id}
    discard_finished(root, {CONFIG.run_id})
    assert [path.name for path in root.iterdir()] == ["other"]
    discard(root, "other")
    discard(root, "other")
    discard_finished(tmp_path / "nowhere", {"a"})
    assert list(root.iterdir()) == []


def test_places_that_cannot_be_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"'\.\./x' is no id of a run"):
        checkpoint_directory("/tmp", "../x")
    with pytest.raises(CheckpointError, match=r"cannot be kept in 'nosuch://x' .*Give a folder"):
        checkpoint_directory("nosuch://x", "r")


def test_a_root_may_be_a_url(whole: Part) -> None:
    runs = Runs("memory://bucket/prefix", CONFIG)
    resumed = runs.parts((4, 9))
    assert resumed.resumed_at == [3, 8]
    assert_bit_equal(resumed, whole)
    system: Any = fsspec.filesystem("memory")
    assert system.exists(f"/bucket/prefix/{CONFIG.run_id}/step-00000012/checkpoint.json")
    discard("memory://bucket/prefix", CONFIG.run_id)
    assert not system.exists(f"/bucket/prefix/{CONFIG.run_id}")
