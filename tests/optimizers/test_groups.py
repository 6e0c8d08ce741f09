from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from optbench.config import ModelConfig, Role
from optbench.optimizers import AdamW, Muon, describe_groups, infer_roles, parameter_groups
from optbench.training.model import Llama

SIZES = ModelConfig(num_layers=2, d_model=8, d_ff=16, num_heads=2, vocab_size=32, seq_len=4)


@pytest.fixture
def llama() -> Llama:
    return Llama(SIZES, seed=0)


class Tied(nn.Module):
    """Embedding and head share a weight; convolution, fused attention and biases besides."""

    def __init__(self) -> None:
        super().__init__()
        self.lm_head = nn.Linear(8, 32, bias=False)
        self.embedding = nn.Embedding(32, 8)
        self.embedding.weight = self.lm_head.weight
        self.conv = nn.Conv1d(8, 8, 3)
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm(8)
        self.output = nn.Linear(8, 8)


def test_each_parameter_of_the_model_is_in_exactly_one_group(llama: Llama):
    grouped = [
        param for group in parameter_groups(llama, llama.roles()) for param in group["params"]
    ]
    assert len(grouped) == len({id(param) for param in grouped})
    assert {id(param) for param in grouped} == {id(param) for param in llama.parameters()}


def test_hidden_matrices_and_the_head_are_decayed_and_nothing_else(llama: Llama):
    optimizer = AdamW(parameter_groups(llama, llama.roles()), weight_decay=0.25)
    decay = {group["role"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decay == {"matrix": 0.25, "head": 0.25, "embedding": 0.0, "norm": 0.0}


def test_decayed_roles_can_be_chosen(llama: Llama):
    groups = parameter_groups(llama, llama.roles(), decayed_roles=frozenset({Role.NORM}))
    undecayed = {group["role"] for group in groups if "weight_decay" in group}
    assert undecayed == {"matrix", "head", "embedding"}


def test_groups_serve_a_torch_optimizer_too(llama: Llama):
    optimizer = torch.optim.AdamW(parameter_groups(llama, llama.roles()), weight_decay=0.25)
    assert [group["weight_decay"] for group in optimizer.param_groups].count(0.0) == 2


def test_named_parameters_serve_as_well_as_the_model(llama: Llama):
    from_model = parameter_groups(llama, llama.roles())
    from_names = parameter_groups(llama.named_parameters(), llama.roles())
    for one, other in zip(from_model, from_names, strict=True):
        assert [id(param) for param in one["params"]] == [id(param) for param in other["params"]]


def test_inferred_roles_are_those_the_model_states(llama: Llama):
    assert infer_roles(llama) == llama.roles()
    stated, inferred = parameter_groups(llama, llama.roles()), parameter_groups(llama)
    assert [group["role"] for group in stated] == [group["role"] for group in inferred]


def wrapped(model: nn.Module, names: str) -> nn.Module:
    """The model under the names that wrappers give it, the outermost first."""
    for name in reversed(names.split(".")):
        model = nn.ModuleDict({name: model})
    return model


def grouped(groups: list[dict[str, Any]]) -> list[tuple[str, list[int]]]:
    return [(group["role"], [id(param) for param in group["params"]]) for group in groups]


@pytest.mark.parametrize("names", ["module", "_orig_mod", "module._orig_mod", "_orig_mod.module"])
def test_a_wrapped_model_takes_the_roles_of_the_bare_one_and_the_reverse(llama: Llama, names: str):
    outer = wrapped(llama, names)
    heads, outer_heads = llama.heads(), {f"{names}.{k}": v for k, v in llama.heads().items()}
    expected = parameter_groups(llama, llama.roles(), heads=heads)
    for groups in (
        parameter_groups(outer, llama.roles(), heads=heads),
        parameter_groups(outer.named_parameters(), llama.roles(), heads=outer_heads),
        parameter_groups(outer, heads=heads),
        parameter_groups(llama, infer_roles(outer), heads=outer_heads),
    ):
        assert grouped(groups) == grouped(expected)
        assert [group.get("head_dim") for group in groups] == [None, None, None, None, 4]


def test_parts_that_were_wrapped_later_keep_their_roles(llama: Llama):
    roles = llama.roles()
    expected = grouped(parameter_groups(llama, roles))
    llama.blocks[1] = wrapped(llama.blocks[1], "_orig_mod")
    assert "blocks.1._orig_mod.mlp.up_proj.weight" in dict(llama.named_parameters())
    assert grouped(parameter_groups(llama, roles)) == expected


def test_a_wrapped_head_is_known_by_name():
    model = nn.ModuleDict({"wte": nn.Embedding(9, 4), "lm_head": nn.Linear(4, 9)})
    model["up"] = nn.Linear(4, 9)
    model["lm_head"] = wrapped(model["lm_head"], "_orig_mod")
    assert infer_roles(model)["lm_head._orig_mod.weight"] is Role.HEAD


def test_overrides_may_name_a_wrapped_parameter_as_it_was_before(llama: Llama):
    outer = wrapped(llama, "module")
    roles = infer_roles(outer, {"head.weight": Role.NORM})
    assert roles["module.head.weight"] is Role.NORM
    assert roles.keys() == dict(outer.named_parameters()).keys()


def test_prefixes_count_where_they_alone_tell_parameters_apart():
    model = nn.Linear(3, 3, bias=False)
    model.module = nn.Linear(3, 3, bias=False)
    groups = parameter_groups(model, {"weight": Role.NORM, "module.weight": Role.MATRIX})
    assert grouped(groups) == [
        ("matrix", [id(model.module.weight)]),
        ("norm", [id(model.weight)]),
    ]
    with pytest.raises(ValueError, match=r"Unknown parameter in the roles '_orig_mod\.weight'"):
        parameter_groups(model, {"_orig_mod.weight": Role.NORM, "module.weight": Role.MATRIX})


def test_a_word_within_a_name_is_no_wrapper():
    model = nn.ModuleDict({"a": nn.ModuleDict({"module": nn.Linear(3, 3, bias=False)})})
    with pytest.raises(ValueError, match=r"'a\.weight'\. Did you mean 'a\.module\.weight'\?"):
        parameter_groups(model, {"a.weight": Role.MATRIX})


def test_two_roles_for_one_wrapped_parameter_are_refused(llama: Llama):
    roles = llama.roles() | {"module.head.weight": Role.MATRIX}
    with pytest.raises(
        ValueError,
        match=r"'module\.head\.weight' in the roles is the parameter 'head\.weight', for which "
        r"they hold both head and matrix\. Give each parameter once\.",
    ):
        parameter_groups(llama, roles)


def test_frozen_parameters_are_left_out(llama: Llama):
    llama.embedding.weight.requires_grad_(False)
    groups = parameter_groups(llama, llama.roles())
    assert "embedding" not in {group["role"] for group in groups}


def test_a_tied_weight_is_one_embedding():
    model = Tied()
    roles = infer_roles(model)
    assert roles["lm_head.weight"] is Role.EMBEDDING
    assert "embedding.weight" not in roles
    named = list(model.named_parameters(remove_duplicate=False))
    assert len(named) > len(roles)
    groups = parameter_groups(named, {**roles, "embedding.weight": Role.EMBEDDING})
    assert [len(g["params"]) for g in groups if g["role"] == "embedding"] == [1]


def test_weights_of_linear_layers_and_convolutions_are_matrices():
    roles = infer_roles(Tied())
    assert roles["conv.weight"] is Role.MATRIX
    assert roles["attention.in_proj_weight"] is Role.NORM
    assert roles["attention.out_proj.weight"] is Role.MATRIX
    assert roles["output.bias"] is Role.BIAS


def test_the_head_is_known_by_size_before_name():
    model = nn.ModuleDict({"output": nn.Linear(4, 4), "wte": nn.Embedding(9, 4)})
    assert infer_roles(model)["output.weight"] is Role.HEAD
    model["decoder"] = nn.Linear(4, 9)
    assert infer_roles(model)["output.weight"] is Role.MATRIX
    assert infer_roles(model)["decoder.weight"] is Role.HEAD
    model["lm_head"] = nn.Linear(4, 9)
    model["up"] = nn.Linear(4, 9)
    assert infer_roles(model)["lm_head.weight"] is Role.HEAD


def test_a_model_without_linear_layers_has_no_head():
    assert set(infer_roles(nn.Embedding(3, 2)).values()) == {Role.EMBEDDING}


def test_inferred_roles_can_be_overridden(llama: Llama):
    name = "blocks.0.mlp.up_proj.weight"
    assert infer_roles(llama, {name: Role.NORM}) == llama.roles() | {name: Role.NORM}


def test_an_override_of_an_unknown_parameter_is_refused(llama: Llama):
    with pytest.raises(ValueError, match=r"'head\.wieght'\. Did you mean 'head\.weight'\?"):
        infer_roles(llama, {"head.wieght": Role.NORM})


def test_a_parameter_without_role_is_named_with_its_shape(llama: Llama):
    roles = llama.roles()
    del roles["head.weight"]
    with pytest.raises(
        ValueError,
        match=r"Parameter 'head\.weight' \(shape \(32, 8\)\) has no role; add it to the roles as "
        r"one of: matrix, embedding, head, norm, bias\.",
    ):
        parameter_groups(llama, roles)


def test_a_role_of_an_unknown_parameter_is_refused(llama: Llama):
    with pytest.raises(ValueError, match=r"Unknown parameter in the roles 'final_norm\.gian'"):
        parameter_groups(llama, llama.roles() | {"final_norm.gian": Role.NORM})


def test_roles_cannot_be_inferred_from_names(llama: Llama):
    with pytest.raises(ValueError, match=r"inferred from a module only\. Pass `roles` as well\."):
        parameter_groups(llama.named_parameters())


def test_groups_are_described_as_a_table(llama: Llama):
    optimizer = Muon(parameter_groups(llama), lr=0.02, aux_lr_ratio=0.5, weight_decay=0.1)
    assert describe_groups(optimizer).splitlines() == [
        "role       rule   tensors  elements  lr    weight_decay",
        "matrix     Muon   14       1,280     0.02  0.1",
        "embedding  AdamW  1        256       0.01  0",
        "head       AdamW  1        256       0.01  0.1",
        "norm       AdamW  5        40        0.01  0",
    ]


def test_a_torch_optimizer_is_described_too():
    table = describe_groups(torch.optim.SGD([nn.Parameter(torch.zeros(2, 3))], lr=0.5))
    assert table.splitlines()[1].split() == ["-", "SGD", "1", "6", "0.5", "0"]
