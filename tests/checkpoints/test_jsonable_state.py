"""State as JSON and tensors: every type comes back as itself, everything else is refused."""

import json

import pytest
import torch

from optbench.checkpoints.jsonable_state import (
    NotJsonableError,
    from_jsonable,
    tensor_names,
    to_jsonable,
)


def test_nested_state_survives_json_with_its_types() -> None:
    state = {
        "step": 7,
        "flag": True,
        "eps": 1e-300,
        "name": "x",
        "none": None,
        "betas": (0.9, [1, (2.5,)]),
        "inner": {"tensor": {"tuple": torch.arange(3)}, "pair": (torch.ones(2), {})},
    }
    tensors: dict[str, torch.Tensor] = {}
    plain = json.loads(json.dumps(to_jsonable(state, "a", tensors)))
    assert set(tensors) == {"a/inner/tensor/tuple", "a/inner/pair/0"} == set(tensor_names(plain))
    back = from_jsonable(plain, tensors)
    assert back.pop("inner")["pair"][0] is tensors["a/inner/pair/0"]
    state.pop("inner")
    assert back == state
    assert [type(value) for value in back.values()] == [type(value) for value in state.values()]


def test_a_float_survives_to_the_last_bit_and_beyond_the_finite() -> None:
    for value in (0.1 + 0.2, float("inf"), -0.0, 2**-1074):
        back = from_jsonable(json.loads(json.dumps(to_jsonable(value, "a", {}))), {})
        assert back.hex() == value.hex()


def test_what_is_neither_plain_nor_tensor_is_refused() -> None:
    for value in (object(), {1: 2}, {"a": {1, 2}}, b"bytes"):
        with pytest.raises(NotJsonableError, match=r"is of the type (object|dict|set|bytes)"):
            to_jsonable(value, "a", {})
    with pytest.raises(NotJsonableError, match="two tensors are called 'a/b/c'"):
        to_jsonable({"b/c": torch.ones(1), "b": {"c": torch.ones(1)}}, "a", {})


@pytest.mark.parametrize(
    "plain",
    [{}, {"call": "x"}, {"tensor": 1}, {"tuple": {}}, {"dict": []}, {"tensor": "a", "b": 1}],
)
def test_json_that_stands_for_nothing_is_refused(plain: object) -> None:
    with pytest.raises(NotJsonableError, match="stands for no value"):
        from_jsonable([plain], {})
    with pytest.raises(NotJsonableError, match="stands for no value"):
        list(tensor_names({"tuple": [plain]}))


def test_a_tensor_that_is_not_there_is_refused() -> None:
    with pytest.raises(NotJsonableError, match="the tensor 'a' is missing"):
        from_jsonable({"tensor": "a"}, {})
