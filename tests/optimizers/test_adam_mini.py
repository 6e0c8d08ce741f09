from __future__ import annotations

import pytest
import torch
from torch import nn

from optbench.config import ModelConfig
from optbench.optimizers import AdamMini, AdamW, parameter_groups
from optbench.training.model import Llama
from tests.optimizers.comparison import ROLES, by_role, largest_error
from tests.optimizers.reference_adam_mini import ReferenceAdamMini, head_blocks, row_blocks
from tests.optimizers.trajectories import SHAPES, distance, parameters, walk

COMMON = {"lr": 0.02, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
SIZES = ModelConfig(num_layers=2, d_model=8, d_ff=16, num_heads=2, vocab_size=32, seq_len=4)


def reference(params: list[nn.Parameter], head_dim: int, norm_blocks: str) -> ReferenceAdamMini:
    blocks = [
        None
        if role == "norm"
        else head_blocks(shape, shape[0] // head_dim)
        if role == "matrix"
        else row_blocks(shape)
        for role, shape in zip(ROLES, SHAPES, strict=True)
    ]
    starts = [param.detach().numpy() for param in params]
    return ReferenceAdamMini(starts, roles=ROLES, blocks=blocks, norm_blocks=norm_blocks, **COMMON)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("head_dim", [1, 2])
@pytest.mark.parametrize(
    ("options", "norm_blocks"),
    [({}, "scalar"), (dict(AdamMini.paper), "element")],
    ids=["authors", "study"],
)
def test_trajectory_is_that_of_the_reference(
    options: dict[str, object], norm_blocks: str, head_dim: int, batched: bool
):
    params = parameters()
    optimizer = AdamMini(by_role(params), head_dim=head_dim, **COMMON, **options)
    optimizer.batched = batched
    assert largest_error(optimizer, reference(params, head_dim, norm_blocks), params) < 1e-12


@pytest.mark.parametrize("batched", [True, False])
def test_a_bias_is_stepped_element_by_element_and_a_gain_is_not(batched: bool):
    """As by the authors' code, which gives a bias to Adam and a norm's gain one second moment."""
    bias, gain = parameters(), parameters()
    roles = {"bias": bias, "norm": gain}
    for role, params in roles.items():
        groups = by_role(params)
        groups[-1]["role"] = role
        optimizer = AdamMini(groups, **COMMON)
        optimizer.batched = batched
        norm_blocks = "element" if role == "bias" else "scalar"
        assert largest_error(optimizer, reference(params, 1, norm_blocks), params) < 1e-12
    assert distance(bias[-1:], gain[-1:]) > 1e-3


def test_the_biases_of_a_model_are_found_and_stepped_as_by_adamw():
    def train(build: type[AdamMini] | type[AdamW]) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv1d(3, 3, 2), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2, bias=False)
        ).double()
        optimizer = build(parameter_groups(model), **COMMON)
        for step in range(4):
            generator = torch.Generator().manual_seed(step)
            for param in model.parameters():
                param.grad = torch.randn(param.shape, generator=generator, dtype=torch.float64)
            optimizer.step()
        return model

    ours, theirs = train(AdamMini), train(AdamW)
    for name, own in ours.named_parameters():
        apart = (own - theirs.get_parameter(name)).abs().max()
        assert apart < 1e-14 if name.endswith(".bias") else apart > 1e-6, name


def test_every_shape_of_a_bias_has_a_block_for_each_element():
    param = nn.Parameter(torch.zeros(2, 3, 4))
    param.grad = torch.ones(2, 3, 4)
    optimizer = AdamMini([{"params": [param], "role": "bias", "head_dim": 2}])
    optimizer.step()
    assert optimizer.state[param]["exp_avg_sq"].shape == (24, 1)


def test_blocks_of_one_element_give_adamw():
    shapes = ((6, 1), (5,), (), (4, 1, 1))
    ours, theirs = parameters(shapes), parameters(shapes)
    walk(AdamMini(ours, norm_block="element", **COMMON), ours, 10)
    walk(AdamW(theirs, **COMMON), theirs, 10)
    assert distance(ours, theirs) < 1e-14


def test_equal_magnitudes_in_every_block_give_adamw():
    ours, theirs = parameters(), parameters()
    optimizers = [(AdamMini(ours, head_dim=2, **COMMON), ours), (AdamW(theirs, **COMMON), theirs)]
    for step in range(1, 6):
        for optimizer, params in optimizers:
            for param in params:
                signs = torch.arange(param.numel()).reshape(param.shape).mul(step).remainder(3) - 1
                param.grad = step * (2.0 * signs.sign().double().add(0.5).sign())
            optimizer.step()
    assert distance(ours, theirs) < 1e-14


def heads(model: Llama) -> dict[str, int]:
    names = [name for name, _ in model.named_parameters() if ".q_proj" in name or ".k_proj" in name]
    return dict.fromkeys(names, model.config.head_dim)


@pytest.mark.parametrize("norm_block", ["tensor", "element"])
def test_every_tensor_of_the_model_has_the_blocks_of_its_kind(norm_block: str):
    model = Llama(SIZES, seed=0)
    groups = parameter_groups(model, model.roles(), heads=heads(model))
    optimizer = AdamMini(groups, norm_block=norm_block)
    model.loss(torch.zeros(1, 5, dtype=torch.long)).backward()
    optimizer.step()
    counts = {
        name: optimizer.state[p]["exp_avg_sq"].numel() for name, p in model.named_parameters()
    }
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert counts[name] == (1 if norm_block == "tensor" else 8)
        elif name in heads(model):
            assert counts[name] == SIZES.num_heads
        else:
            assert counts[name] == parameter.shape[0]
    assert counts["embedding.weight"] == counts["head.weight"] == SIZES.vocab_size


@pytest.mark.parametrize(
    ("shape", "role", "head_dim", "blocks"),
    [
        ((6, 4), "matrix", 1, 6),
        ((6, 4), "matrix", 3, 2),
        ((6, 4), None, 2, 3),
        ((6, 4), "embedding", 3, 6),
        ((6, 4), "head", 3, 6),
        ((6, 4), "norm", 3, 6),
        ((6,), "norm", 3, 1),
    ],
)
def test_each_element_is_in_exactly_one_block(
    shape: tuple[int, ...], role: str | None, head_dim: int, blocks: int
):
    # One element at a time gets a gradient; the block it belongs to is where a moment appears.
    numel = torch.Size(shape).numel()
    owners: list[int] = []
    for element in range(numel):
        param = nn.Parameter(torch.zeros(shape))
        param.grad = torch.eye(numel)[element].reshape(shape)
        optimizer = AdamMini([{"params": [param], "role": role, "head_dim": head_dim}])
        optimizer.step()
        owners.extend(optimizer.state[param]["exp_avg_sq"].flatten().nonzero().flatten().tolist())
    assert len(owners) == numel
    size = numel // blocks
    assert owners == [element // size for element in range(numel)]


def test_heads_may_be_wider_or_narrower_than_the_model_divided_by_their_number():
    # Three heads of four rows over five inputs: d/h is no whole number.
    param = nn.Parameter(torch.zeros(12, 5))
    param.grad = torch.ones(12, 5)
    param.grad[4:8] = 3.0
    optimizer = AdamMini([{"params": [param], "role": "matrix", "head_dim": 4}], beta2=0.0)
    optimizer.step()
    assert optimizer.state[param]["exp_avg_sq"].tolist() == [[1.0], [9.0], [1.0]]


def test_second_moments_take_the_memory_of_one_number_per_block():
    param = nn.Parameter(torch.zeros(12, 100))
    param.grad = torch.ones(12, 100)
    optimizer = AdamMini([{"params": [param], "head_dim": 4, "role": "matrix"}])
    optimizer.step()
    state = optimizer.state[param]
    assert state["exp_avg"].shape == (12, 100)
    assert state["exp_avg_sq"].untyped_storage().nbytes() == 3 * 4


def test_heads_that_do_not_divide_the_rows_are_refused():
    param = nn.Parameter(torch.zeros(6, 4))
    param.grad = torch.ones(6, 4)
    message = r"`head_dim` must divide .* but got head_dim=4 and a shape of \(6, 4\)\."
    with pytest.raises(ValueError, match=message):
        AdamMini([param], head_dim=4).step()


def test_groups_name_the_weight_whose_heads_do_not_fit():
    model = Llama(SIZES, seed=0)
    name = "blocks.0.attention.q_proj.weight"
    with pytest.raises(ValueError, match=rf"'{name}' has shape \(8, 8\) and got heads of 3 rows\."):
        parameter_groups(model, model.roles(), heads={name: 3})
    with pytest.raises(ValueError, match="Unknown parameter in the heads 'q_proj'"):
        parameter_groups(model, model.roles(), heads={"q_proj": 4})


def test_query_and_key_get_a_group_of_their_own():
    model = Llama(SIZES, seed=0)
    groups = parameter_groups(model, model.roles(), heads=heads(model))
    own = [group for group in groups if "head_dim" in group]
    assert [(group["role"], group["head_dim"]) for group in own] == [("matrix", 4)]
    expected = {id(p) for name, p in model.named_parameters() if name in heads(model)}
    assert {id(param) for param in own[0]["params"]} == expected
    grouped = [id(param) for group in groups for param in group["params"]]
    assert sorted(grouped) == sorted(id(param) for param in model.parameters())


def test_an_unknown_norm_block_is_refused():
    with pytest.raises(ValueError, match="`norm_block` must be 'tensor' or 'element', but got"):
        AdamMini(parameters(), norm_block="row")
