from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optbench.config import (
    ConfigError,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Role,
    RunConfig,
    ScheduleConfig,
)
from optbench.schedule import DECAY_SHAPES
from optbench.tables import read_table
from tests.builders import TINY_CONFIG, TINY_MODEL, config_with

# Changing this constant disowns every run that was ever stored.
GOLDEN_ID = "d8af0be635925e1e"


def reordered(value: Any) -> Any:
    """The same data with the keys of every table the other way round."""
    if isinstance(value, dict):
        return {key: reordered(item) for key, item in reversed(value.items())}
    return value


def changed(value: Any) -> Any:
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, dict):
        return {**value, "lr": value["lr"] * 2}
    return value + 1


def variations(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The configuration with one field changed, for every field at every depth."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = f"{path}{field.name}"
        if dataclasses.is_dataclass(value):
            for where, inner in variations(value, f"{name}."):
                yield where, dataclasses.replace(config, **{field.name: inner})
        else:
            yield name, dataclasses.replace(config, **{field.name: changed(value)})


VARIATIONS = dict(variations(TINY_CONFIG))


def test_the_id_of_a_run_never_changes() -> None:
    assert TINY_CONFIG.run_id == GOLDEN_ID
    assert TINY_CONFIG.canonical_json() == (
        '{"batch_size":4,"clip_norm":1,"data":{"corpus":"toy","fingerprint":"f0"},'
        '"eval_tokens":128,"model":{"d_ff":64,"d_model":16,"num_heads":2,"num_layers":2,'
        '"rope_theta":10000,"seq_len":16,"vocab_size":64},"num_evals":2,"num_tokens":640,'
        '"optimizer":{"hyperparameters":{"beta1":0.9,"lr":0.01},"name":"adamw"},'
        '"schedule":{"decay_steps":6,"final_frac":0,"shape":"cosine","warmup_steps":2},'
        '"seed":0,"test_tokens":128}'
    )


def test_the_id_is_the_same_in_another_process() -> None:
    code = (
        "import json, sys; from optbench.config import RunConfig;"
        "print(RunConfig.from_dict(json.load(sys.stdin)).run_id)"
    )
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(TINY_CONFIG.to_dict()),
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == GOLDEN_ID


def test_the_id_does_not_depend_on_the_order_of_keys() -> None:
    other = RunConfig.from_dict(reordered(TINY_CONFIG.to_dict()))
    assert list(other.optimizer.hyperparameters) == ["beta1", "lr"]
    assert other.run_id == GOLDEN_ID


def test_equal_configurations_have_equal_ids_whether_numbers_are_whole_or_not() -> None:
    def with_numbers(clip_norm: float, weight_decay: float) -> RunConfig:
        optimizer = OptimizerConfig(name="lion", hyperparameters={"weight_decay": weight_decay})
        return config_with(clip_norm=clip_norm, optimizer=optimizer)

    assert with_numbers(1, 0) == with_numbers(1.0, 0.0)
    assert with_numbers(1, 0).run_id == with_numbers(1.0, 0.0).run_id
    assert with_numbers(1, 0).run_id == with_numbers(1, -0.0).run_id
    assert with_numbers(1, 0).run_id != with_numbers(1.5, 0).run_id


def test_a_switch_is_no_number() -> None:
    on, one = (
        config_with(optimizer=OptimizerConfig(name="muon", hyperparameters={"nesterov": value}))
        for value in (True, 1)
    )
    assert on.run_id != one.run_id


@pytest.mark.parametrize("name", VARIATIONS)
def test_the_id_changes_with_every_field(name: str) -> None:
    assert VARIATIONS[name].run_id != GOLDEN_ID


def test_no_two_variations_share_an_id() -> None:
    assert len({c.run_id for c in VARIATIONS.values()}) == len(VARIATIONS) == 25


def test_an_added_hyperparameter_changes_the_id() -> None:
    more = {**TINY_CONFIG.optimizer.hyperparameters, "eps": 1e-8}
    assert config_with(optimizer=OptimizerConfig(name="adamw", hyperparameters=more)).run_id != (
        GOLDEN_ID
    )


def scion(**hyperparameters: float | str) -> RunConfig:
    return config_with(optimizer=OptimizerConfig(name="scion", hyperparameters=hyperparameters))


def test_a_hyperparameter_that_came_later_means_its_earlier_value_where_it_is_not_given() -> None:
    old = scion(lr=0.001)
    assert old.optimizer.hyperparameters == {
        "embedding_rule": "head",
        "radius_embedding": 1.0,
        "lr": 0.001,
    }
    assert old.to_dict()["optimizer"]["hyperparameters"] == {"lr": 0.001}
    said = scion(lr=0.001, embedding_rule="head", radius_embedding=1)
    assert (said, said.run_id) == (old, old.run_id)
    assert RunConfig.from_dict(json.loads(old.canonical_json())) == old
    assert "embedding_rule" not in TINY_CONFIG.optimizer.hyperparameters  # of AdamW


@pytest.mark.parametrize("changed", [{"embedding_rule": "sign"}, {"radius_embedding": 2.0}])
def test_another_value_than_the_earlier_one_is_part_of_the_identity(
    changed: dict[str, float | str],
) -> None:
    other = scion(lr=0.001, **changed)
    assert other.run_id != scion(lr=0.001).run_id
    assert other.to_dict()["optimizer"]["hyperparameters"] == {"lr": 0.001, **changed}
    assert RunConfig.from_dict(json.loads(other.canonical_json())) == other


def test_a_number_that_json_does_not_know_is_refused() -> None:
    config = config_with(clip_norm=float("nan"))
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        _ = config.run_id


WHOLE = st.integers(1 - 2**63, 2**63 - 1)


@given(
    hyperparameters=st.dictionaries(
        st.text("abcdef_", min_size=1),
        st.one_of(st.floats(allow_nan=False, allow_infinity=False), WHOLE, st.booleans()),
    ),
    seed=st.integers(0, 2**63 - 1),
    clip_norm=st.floats(0, 1e6),
)
def test_json_gives_the_same_configuration_back(
    hyperparameters: dict[str, float], seed: int, clip_norm: float
) -> None:
    optimizer = OptimizerConfig(name="adamw", hyperparameters=hyperparameters)
    config = config_with(optimizer=optimizer, seed=seed, clip_norm=clip_norm)
    for text in (json.dumps(config.to_dict()), config.canonical_json()):
        back = RunConfig.from_dict(json.loads(text))
        assert back == config
        assert back.run_id == config.run_id


def test_defaults_may_be_left_out() -> None:
    raw = TINY_CONFIG.to_dict()
    for optional in ("clip_norm", "seed"):
        del raw[optional]
    del raw["model"]["rope_theta"]
    del raw["schedule"]["shape"]
    assert RunConfig.from_dict(raw) == TINY_CONFIG


def test_every_unknown_and_missing_key_is_named_with_its_full_path() -> None:
    raw = TINY_CONFIG.to_dict()
    raw["batch_sise"] = raw.pop("batch_size")
    raw["model"]["num_layer"] = raw["model"].pop("num_layers")
    raw["schedule"]["warmup"] = 3
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict(raw)
    assert caught.value.problems == [
        "Missing key 'model.num_layers'.",
        "Unknown key 'model.num_layer'. Did you mean 'model.num_layers'? Available: "
        "model.num_layers, model.d_model, model.d_ff, model.num_heads, model.vocab_size, "
        "model.seq_len, model.rope_theta.",
        "Unknown key 'schedule.warmup'. Did you mean 'schedule.warmup_steps'? Available: "
        "schedule.warmup_steps, schedule.decay_steps, schedule.shape, schedule.final_frac.",
        "Missing key 'batch_size'.",
        "Unknown key 'batch_sise'. Did you mean 'batch_size'? Available: model, data, optimizer, "
        "schedule, num_tokens, batch_size, clip_norm, clip_scope, precision, attention_scope, "
        "seed, eval_tokens, test_tokens, num_evals.",
    ]
    assert str(caught.value) == "\n".join(f"- {p}" for p in caught.value.problems)


def test_problems_are_listed_in_the_order_of_the_fields() -> None:
    # All four at once: an order that comes from hashing strings would hardly be this one.
    raw: dict[str, Any] = {**TINY_CONFIG.to_dict(), "schedule": 1, "data": 2, "model": 3}
    raw["optimizer"] = {}
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict(raw)
    assert caught.value.problems == [
        "model must be a table of keys and values, but got 3.",
        "data must be a table of keys and values, but got 2.",
        "Missing key 'optimizer.name'.",
        "schedule must be a table of keys and values, but got 1.",
    ]


def test_a_single_problem_is_the_whole_message() -> None:
    with pytest.raises(ConfigError, match=r"^Missing key 'data\.corpus'\.$"):
        read_table(DataConfig, {}, "data")


def test_an_error_keeps_its_problems_on_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ConfigError(["One thing.", "Another."])))
    assert error.problems == ["One thing.", "Another."]
    assert str(error) == "- One thing.\n- Another."


def test_a_possible_configuration_has_no_problems(tiny_config: RunConfig) -> None:
    assert tiny_config.problems() == []


def model_with(**changes: Any) -> ModelConfig:
    return dataclasses.replace(TINY_MODEL, **changes)


def schedule_with(**changes: Any) -> ScheduleConfig:
    return dataclasses.replace(TINY_CONFIG.schedule, **changes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            config_with(model=model_with(num_heads=3)),
            "model.d_model must be divisible by model.num_heads, but got d_model=16, num_heads=3. "
            "Choose num_heads from [1, 2, 4, 8].",
        ),
        (
            config_with(model=model_with(num_heads=16)),
            "The head size d_model / num_heads must be even for rotary positions, but got "
            "16 / 16 = 1. Choose num_heads from [1, 2, 4, 8].",
        ),
        (
            config_with(model=model_with(d_model=15, num_heads=5)),
            "The head size d_model / num_heads must be even for rotary positions, but got "
            "15 / 5 = 3. Choose an even d_model.",
        ),
        *(
            (
                config_with(model=model_with(**{name: value})),
                f"model.{name} must be a whole number of at least 1, but got {value!r}.",
            )
            for name in ("num_layers", "d_model", "d_ff", "num_heads", "vocab_size", "seq_len")
            for value in (0, -2, 2.0, "2", True)
        ),
        *(
            (
                config_with(model=model_with(rope_theta=value)),
                f"model.rope_theta must be a positive number, but got {value!r}.",
            )
            for value in (0.0, -1, float("inf"), "10000")
        ),
        *(
            (config_with(**{name: 0}), f"{name} must be at least 1, but got 0.")
            for name in ("batch_size", "eval_tokens", "test_tokens", "num_evals")
        ),
        (config_with(seed=-1), "seed must not be negative, but got -1."),
        (config_with(clip_norm=-1.0), "clip_norm must be finite and not negative, but got -1.0."),
        (
            config_with(clip_norm=float("nan")),
            "clip_norm must be finite and not negative, but got nan.",
        ),
        (
            config_with(num_tokens=63),
            "The budget must hold at least one step, but got num_tokens=63 < batch_size · seq_len "
            "= 64. Raise num_tokens or lower batch_size.",
        ),
        (
            config_with(schedule=schedule_with(warmup_steps=10, decay_steps=0)),
            "The warm-up must be shorter than the run, but got warmup_steps=10 in a run of 10 "
            "steps. Lower the warm-up or the batch size, or raise the token budget.",
        ),
        (
            config_with(schedule=schedule_with(warmup_steps=5)),
            "Warm-up and decay must fit into the run, but got 5 + 6 > 10 steps. Shorten one of "
            "them.",
        ),
        (
            config_with(schedule=schedule_with(decay_steps=-1)),
            "Schedule lengths must not be negative, but got warmup_steps=2, decay_steps=-1.",
        ),
        (
            config_with(schedule=schedule_with(shape="cosin")),
            "Unknown decay shape 'cosin'. Did you mean 'cosine'? "
            f"Available: {', '.join(DECAY_SHAPES)}.",
        ),
        (
            config_with(schedule=schedule_with(shape=3)),
            f"Unknown decay shape '3'. Available: {', '.join(DECAY_SHAPES)}.",
        ),
        (
            config_with(schedule=schedule_with(final_frac=1.5)),
            "schedule.final_frac must lie in [0, 1], but got 1.5.",
        ),
    ],
)
def test_an_impossible_setting_is_named_with_its_remedy(config: RunConfig, message: str) -> None:
    assert config.problems() == [message]


def test_every_choice_of_heads_that_is_offered_is_possible() -> None:
    for d_model in range(2, 65, 2):
        (message,) = model_with(d_model=d_model, num_heads=d_model).problems()
        offered = re.findall(r"\d+", message.partition("from [")[2])
        assert offered
        for num_heads in map(int, offered):
            assert not list(model_with(d_model=d_model, num_heads=num_heads).problems())


def test_all_problems_are_found_at_once() -> None:
    config = config_with(
        model=model_with(num_layers=0, num_heads=5),
        schedule=schedule_with(warmup_steps=100, final_frac=-1),
        eval_tokens=0,
        clip_norm=float("inf"),
    )
    starts = [problem.split()[0] for problem in config.problems()]
    assert starts == [
        "model.num_layers",
        "model.d_model",
        "eval_tokens",
        "clip_norm",
        "The",
        "schedule.final_frac",
    ]


def test_derived_sizes_are_those_of_the_definition() -> None:
    assert TINY_MODEL.head_dim == 8
    assert TINY_MODEL.num_nonembedding_params == 2 * (3 * 16 * 64 + 4 * 16 * 16)
    assert TINY_MODEL.num_params == TINY_MODEL.num_nonembedding_params + 2 * 64 * 16 + 5 * 16
    # Causal attention: half of 2 · 2 · S · D forward per token and layer, three times that in all.
    assert TINY_MODEL.train_flops_per_token == (
        6 * (TINY_MODEL.num_nonembedding_params + 64 * 16) + 2 * 3 * 2 * 16 * 16
    )


def test_a_budget_is_rounded_down_to_whole_steps() -> None:
    config = config_with(num_tokens=64 * 7 + 63)
    assert (config.tokens_per_step, config.num_steps) == (64, 7)
    assert config.train_flops == 7 * 64 * TINY_MODEL.train_flops_per_token


def test_a_fingerprint_makes_another_run() -> None:
    config = TINY_CONFIG.with_fingerprint("f1")
    assert config == config_with(data=DataConfig(corpus="toy", fingerprint="f1"))
    assert config.run_id != GOLDEN_ID
    assert config.with_fingerprint("f0") == TINY_CONFIG


def test_roles_are_their_own_names() -> None:
    assert [f"{role}" for role in Role] == ["matrix", "embedding", "head", "norm", "bias"]


def test_a_clip_scope_is_part_of_the_identity_but_not_its_default() -> None:
    assert "clip_scope" not in TINY_CONFIG.to_dict()  # stored runs are older than the setting
    other = dataclasses.replace(TINY_CONFIG, clip_scope="norms")
    assert other.run_id != TINY_CONFIG.run_id
    assert RunConfig.from_dict(other.to_dict()) == other
    assert dataclasses.replace(TINY_CONFIG, clip_scope="norm").problems() == [
        "Unknown clip scope 'norm'. Did you mean 'norms'? Available: all, no_matrices, norms."
    ]


def test_a_precision_is_part_of_the_identity_but_not_its_default() -> None:
    assert "precision" not in TINY_CONFIG.to_dict()  # stored runs are older than the setting
    other = dataclasses.replace(TINY_CONFIG, precision="bfloat16")
    assert other.run_id != TINY_CONFIG.run_id
    assert RunConfig.from_dict(other.to_dict()) == other
    assert other.problems() == []
    assert dataclasses.replace(TINY_CONFIG, precision="bfloat").problems() == [
        "Unknown precision 'bfloat'. Did you mean 'bfloat16'? Available: float32, bfloat16."
    ]
