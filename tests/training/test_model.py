from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

from optbench.config import ModelConfig, Precision, Role
from optbench.training.model import Llama, RMSNorm, RotaryPositions
from tests.builders import TINY_MODEL
from tests.needs import needs_compiler

WIDE = ModelConfig(num_layers=1, d_model=64, d_ff=256, num_heads=2, vocab_size=512, seq_len=8)
Array = npt.NDArray[np.float64]


def tokens_of(config: ModelConfig, *, batch: int = 2, length: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    shape = (batch, length or config.seq_len)
    return torch.randint(0, config.vocab_size, shape, generator=generator)


def numpy_logits(weights: dict[str, Array], config: ModelConfig, tokens: list[int]) -> Array:
    """The forward pass of one sequence by position and head, from the definitions of the parts."""

    def norm(x: Array, gain: Array) -> Array:
        return gain * x / np.sqrt(np.mean(x * x) + 1e-5)

    def rotated(x: Array, position: int) -> Array:
        size = len(x)
        turned = np.empty(size)
        for i in range(size // 2):
            angle = position / config.rope_theta ** (2 * i / size)
            a, b = x[i], x[i + size // 2]
            turned[i] = a * math.cos(angle) - b * math.sin(angle)
            turned[i + size // 2] = b * math.cos(angle) + a * math.sin(angle)
        return turned

    def attention(xs: list[Array], w: dict[str, Array]) -> list[Array]:
        size, mixed = config.head_dim, [np.zeros(config.d_model) for _ in xs]
        for head in range(config.num_heads):
            rows = slice(head * size, (head + 1) * size)
            q, k, v = ([w[f"attention.{name}_proj.weight"][rows] @ x for x in xs] for name in "qkv")
            q, k = ([rotated(x, t) for t, x in enumerate(vectors)] for vectors in (q, k))
            for t in range(len(xs)):
                scores = np.array([q[t] @ k[s] / math.sqrt(size) for s in range(t + 1)])
                shares = np.exp(scores - scores.max())
                shares /= shares.sum()
                mixed[t][rows] = sum(a * v[s] for s, a in enumerate(shares))
        return [w["attention.o_proj.weight"] @ x for x in mixed]

    def mlp(x: Array, w: dict[str, Array]) -> Array:
        gate = w["mlp.gate_proj.weight"] @ x
        up = w["mlp.up_proj.weight"] @ x
        return w["mlp.down_proj.weight"] @ (gate / (1 + np.exp(-gate)) * up)

    xs = [weights["embedding.weight"][token] for token in tokens]
    for layer in range(config.num_layers):
        prefix = f"blocks.{layer}."
        w = {n.removeprefix(prefix): a for n, a in weights.items() if n.startswith(prefix)}
        mixed = attention([norm(x, w["attention_norm.gain"]) for x in xs], w)
        xs = [x + m for x, m in zip(xs, mixed, strict=True)]
        xs = [x + mlp(norm(x, w["mlp_norm.gain"]), w) for x in xs]
    return np.stack([weights["head.weight"] @ norm(x, weights["final_norm.gain"]) for x in xs])


def lively_model(config: ModelConfig = TINY_MODEL) -> Llama:
    """A model far from its initialisation, so that every part matters, gains included."""
    model = Llama(config, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def test_logits_are_those_of_an_independent_forward_pass() -> None:
    model = lively_model().double()  # but for the sines of positions, which are float32
    weights = {n: p.detach().numpy().astype(np.float64) for n, p in model.named_parameters()}
    tokens = tokens_of(TINY_MODEL)
    logits = model(tokens).detach().numpy()
    assert logits.shape == (2, 16, 64)
    for row, sequence in zip(logits, tokens.tolist(), strict=True):
        expected = numpy_logits(weights, TINY_MODEL, sequence)
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-5)


def test_the_loss_is_the_mean_cross_entropy_of_the_next_tokens() -> None:
    model = lively_model()
    tokens = tokens_of(TINY_MODEL, batch=3, length=17)
    logits = model(tokens[:, :-1])
    expected = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(model.loss(tokens), expected, rtol=1e-6, atol=1e-6)


def test_the_gradients_of_the_loss_are_those_of_cross_entropy() -> None:
    model = lively_model().double()
    tokens = tokens_of(TINY_MODEL, batch=3, length=17)
    parameters = list(model.parameters())
    got = torch.autograd.grad(model.loss(tokens), parameters)
    logits = model(tokens[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    for mine, wanted in zip(got, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)
        assert wanted.abs().max() > 0


def test_an_untrained_model_knows_nothing() -> None:
    loss = Llama(WIDE, seed=0).loss(tokens_of(WIDE, batch=8, length=9))
    # Logits of unit variance add half a nat to the loss of a uniform guess.
    assert loss.item() == pytest.approx(math.log(512) + 0.5, abs=0.1)


@pytest.mark.parametrize("position", [0, 1, 7, 15])
def test_a_token_changes_nothing_before_itself(position: int) -> None:
    model = lively_model()
    tokens = tokens_of(TINY_MODEL)
    other = tokens.clone()
    other[:, position] = (other[:, position] + 1) % TINY_MODEL.vocab_size
    before, after = model(tokens), model(other)
    assert torch.equal(before[:, :position], after[:, :position])
    assert (before[:, position:] != after[:, position:]).any(dim=-1).all()


def test_sequences_of_a_batch_do_not_see_each_other() -> None:
    model = lively_model().double()
    tokens = tokens_of(TINY_MODEL, batch=3)
    alone = torch.cat([model(row[None]) for row in tokens])
    torch.testing.assert_close(model(tokens), alone, rtol=1e-10, atol=1e-10)


def test_a_shorter_sequence_gets_the_logits_of_the_longer_ones_start() -> None:
    model = lively_model().double()
    tokens = tokens_of(TINY_MODEL)
    torch.testing.assert_close(model(tokens[:, :5]), model(tokens)[:, :5], rtol=1e-10, atol=1e-10)


def test_attention_scores_depend_on_the_distance_of_positions_alone() -> None:
    rotary = RotaryPositions(head_dim=8, seq_len=32, theta=10_000.0)
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    turned_q = rotary(q.expand(1, 1, 32, 8))[0, 0]
    turned_k = rotary(k.expand(1, 1, 32, 8))[0, 0]
    scores = turned_q @ turned_k.T
    for distance in range(-31, 32):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
    assert scores[0].std() > 0.1
    torch.testing.assert_close(turned_q[0], q, rtol=0, atol=0)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(32), rtol=1e-6, atol=0)


def test_rotary_pairs_turn_at_their_own_frequency() -> None:
    rotary = RotaryPositions(head_dim=4, seq_len=8, theta=100.0)
    x = torch.zeros(1, 1, 8, 4)
    x[..., 1] = 1.0  # the second pair, (1, 3), turns by position / 10
    turned = rotary(x)[0, 0]
    angle = torch.arange(8) / 10
    expected = torch.stack([0 * angle, angle.cos(), 0 * angle, angle.sin()], dim=-1)
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-6)


def test_rms_norm_sees_no_scale_but_its_gain() -> None:
    norm = RMSNorm(16)
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(norm(1000 * x), norm(x), rtol=1e-4, atol=1e-5)
    assert norm(x).square().mean(dim=-1).tolist() == pytest.approx([1.0] * 3, abs=1e-4)
    with torch.no_grad():
        norm.gain[2] = 0.0
    assert torch.equal(norm(x)[:, 2], torch.zeros(3))


def test_weights_follow_the_studys_law() -> None:
    model = Llama(WIDE, seed=0)
    for name, role in model.roles().items():
        weight = model.get_parameter(name).detach()
        if role is Role.NORM:
            assert torch.equal(weight, torch.ones(64))
            continue
        scale = 1 / 64 if role is Role.EMBEDDING else weight.shape[1] ** -0.5
        # The deviation of an estimated deviation of n draws is 1/√(2n); four of them.
        tolerance = 4 / math.sqrt(2 * weight.numel())
        assert weight.std().item() / scale == pytest.approx(0.98658, rel=tolerance)
        assert weight.mean().abs().item() < 4 * scale / math.sqrt(weight.numel())
        assert weight.abs().max().item() <= 3 * scale


def test_the_cut_is_at_three_deviations_and_not_before() -> None:
    head = Llama(WIDE, seed=0).head.weight.detach() * 8
    beyond = (head.abs() > 2.8).float().mean().item()
    # Of the normal law, 0.511 % lie beyond 2.8 and 0.270 % are cut away beyond 3.
    assert beyond == pytest.approx(0.00242, rel=0.4)


def test_the_seed_decides_every_weight() -> None:
    torch.manual_seed(1)
    first = Llama(TINY_MODEL, seed=3).state_dict()
    torch.manual_seed(2)
    again, other = (Llama(TINY_MODEL, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if not name.endswith("gain")]
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_no_two_matrices_are_drawn_alike() -> None:
    model = Llama(TINY_MODEL, seed=0)
    squares = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    for i, one in enumerate(squares):
        assert not any(one.shape == two.shape and torch.equal(one, two) for two in squares[i + 1 :])


def test_every_parameter_has_one_role_that_fits_its_shape() -> None:
    model = Llama(TINY_MODEL, seed=0)
    roles = model.roles()
    assert list(roles) == [name for name, _ in model.named_parameters()]
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    by_role = {role: [n for n, r in roles.items() if r is role] for role in Role}
    assert by_role[Role.EMBEDDING] == ["embedding.weight"]
    assert by_role[Role.HEAD] == ["head.weight"]
    assert shapes["embedding.weight"] == shapes["head.weight"] == (64, 16)
    assert {shapes[name] for name in by_role[Role.MATRIX]} == {(16, 16), (64, 16), (16, 64)}
    assert len(by_role[Role.MATRIX]) == 7 * TINY_MODEL.num_layers
    assert {shapes[name] for name in by_role[Role.NORM]} == {(16,)}
    assert len(by_role[Role.NORM]) == 2 * TINY_MODEL.num_layers + 1


def test_embedding_and_head_are_not_tied() -> None:
    model = Llama(TINY_MODEL, seed=0)
    assert model.embedding.weight.data_ptr() != model.head.weight.data_ptr()
    assert all(
        module.bias is None for module in model.modules() if isinstance(module, torch.nn.Linear)
    )


def test_rotary_tables_are_no_part_of_the_saved_model() -> None:
    model = Llama(TINY_MODEL, seed=0)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_rotary_frequencies_follow_the_configuration() -> None:
    other = dataclasses.replace(TINY_MODEL, rope_theta=100.0)
    tokens = tokens_of(TINY_MODEL)
    logits, changed = lively_model()(tokens), lively_model(other)(tokens)
    assert torch.equal(logits[:, 0], changed[:, 0])
    assert not torch.allclose(logits[:, -1], changed[:, -1], atol=1e-3)


def gradients_of(model: Llama, tokens: torch.Tensor) -> list[torch.Tensor]:
    loss = model.loss(tokens)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def relative_error(mine: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((mine - wanted).norm() / wanted.norm()).item()


def test_bfloat16_is_float32_but_for_the_rounding_of_products() -> None:
    tokens = tokens_of(WIDE, batch=16, length=9)
    models = [Llama(WIDE, seed=0, precision=p) for p in ("float32", "bfloat16")]
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))
    (loss, *wanted), (low_loss, *found) = (gradients_of(model, tokens) for model in models)
    assert low_loss.dtype == torch.float32
    assert 0 < abs(low_loss - loss) < 2e-3 * loss
    for mine, gradient in zip(found, wanted, strict=True):
        assert mine.dtype == torch.float32
        assert 0 < relative_error(mine, gradient) < 0.03


def test_bfloat16_products_are_those_of_autocast() -> None:
    """As close to it as two orders of summation are."""
    tokens = tokens_of(WIDE, batch=16, length=9)
    with torch.autocast("cpu", torch.bfloat16):
        logits = Llama(WIDE, seed=0)(tokens[:, :-1])
    own = Llama(WIDE, seed=0, precision="bfloat16")(tokens[:, :-1])
    assert own.dtype == logits.dtype == torch.bfloat16
    assert relative_error(own.float(), logits.float()) < 4e-3


def test_only_products_are_in_bfloat16() -> None:
    model = Llama(TINY_MODEL, seed=0, precision="bfloat16")
    seen: dict[str, tuple[torch.dtype, torch.dtype]] = {}
    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(
                lambda _, given, out, name=name: seen.update({name: (given[0].dtype, out.dtype)})
            )
    model(tokens_of(TINY_MODEL))
    low, full = torch.bfloat16, torch.float32
    assert seen["blocks.0"] == seen["blocks.1"] == (full, full)  # the residual stream
    assert seen["blocks.1.attention_norm"] == seen["final_norm"] == (full, low)
    assert seen["blocks.1.mlp.down_proj"] == seen["head"] == (low, low)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recomputed_activations_give_the_same_bits(precision: Precision) -> None:
    tokens = tokens_of(TINY_MODEL, batch=3, length=17)
    kept, again = (
        Llama(TINY_MODEL, seed=0, precision=precision, activation_checkpointing=again)
        for again in (False, True)
    )
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    again.blocks[0].register_forward_pre_hook(count)
    for mine, wanted in zip(gradients_of(again, tokens), gradients_of(kept, tokens), strict=True):
        assert torch.equal(mine, wanted)
    assert passes == 2
    with torch.no_grad():
        assert torch.equal(again.loss(tokens), kept.loss(tokens))
    assert passes == 3


@pytest.mark.slow
@needs_compiler
# PyTorch 2.13 uses what it deprecates when it loads its compiler, and looks at every input's .grad.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_blocks_compute_what_plain_ones_do() -> None:
    tokens = tokens_of(TINY_MODEL, batch=3, length=17)
    plain, compiled = Llama(TINY_MODEL, seed=0), Llama(TINY_MODEL, seed=0)
    compiled.compile_blocks()
    assert list(compiled.state_dict()) == list(plain.state_dict())
    found, wanted = gradients_of(compiled, tokens), gradients_of(plain, tokens)
    for mine, gradient in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(compiled.twice_differentiable_loss(tokens), plain.loss(tokens))
    with torch.compiler.set_stance("fail_on_recompile"):  # the second block was no other form
        gradients_of(compiled, tokens)
