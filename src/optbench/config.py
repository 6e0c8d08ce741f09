"""RunConfig: everything that determines a run, frozen, with a content hash as its identity.

Two runs with the same :attr:`RunConfig.run_id` are the same run: they give the same losses on the
same software, and one of them is never trained if the other is already stored. Derived quantities
(number of steps, head size, parameter counts) are properties and are computed nowhere else.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

from optbench.errors import ConfigError as ConfigError
from optbench.errors import UserError as UserError
from optbench.errors import shortened
from optbench.schedule import DECAY_SHAPES, DecayShape
from optbench.space import Value, did_you_mean
from optbench.typed_data import builder, fits


class Role(enum.StrEnum):
    """What a parameter is in the model; optimizers route parameters by it."""

    MATRIX = "matrix"  # a hidden linear map, (out, in)
    EMBEDDING = "embedding"  # token embedding, (vocab, d)
    HEAD = "head"  # output projection, (vocab, d)
    NORM = "norm"  # gains and other vectors
    BIAS = "bias"  # what is added to the output of a layer


_MOST_LISTED_HEADS = 1024  # whose fit to a width is tried
MOST_SEED = 2**63 - 1
Precision: TypeAlias = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
AttentionScope: TypeAlias = Literal["document", "sequence"]
ATTENTION_SCOPES: tuple[AttentionScope, ...] = get_args(AttentionScope)
ClipScope: TypeAlias = Literal["all", "no_matrices", "norms"]
CLIPPED_ROLES: Mapping[ClipScope, frozenset[Role]] = MappingProxyType(
    {
        "all": frozenset(Role),
        "no_matrices": frozenset(Role) - {Role.MATRIX},
        "norms": frozenset({Role.NORM, Role.BIAS}),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes of a Llama (see :mod:`optbench.training.model`)."""

    num_layers: int
    d_model: int
    d_ff: int
    num_heads: int
    vocab_size: int
    seq_len: int
    rope_theta: float = 10_000.0

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.num_heads

    @property
    def num_nonembedding_params(self) -> int:
        """Hidden matrices only, L·(3·d·ff + 4·d²): the N of the scaling laws."""
        return self.num_layers * (3 * self.d_model * self.d_ff + 4 * self.d_model**2)

    @property
    def num_params(self) -> int:
        """All parameters: hidden matrices, embedding, head and norm weights."""
        embeddings = 2 * self.vocab_size * self.d_model
        return self.num_nonembedding_params + embeddings + (2 * self.num_layers + 1) * self.d_model

    @property
    def train_flops_per_token(self) -> float:
        """6 per weight of the hidden matrices and the head, plus causal attention, both passes."""
        weights = self.num_nonembedding_params + self.vocab_size * self.d_model
        return 6.0 * weights + 6.0 * self.num_layers * self.seq_len * self.d_model

    def problems(self) -> Iterator[str]:
        """Each setting that cannot be built, with the value received and the remedy."""
        sizes = ("num_layers", "d_model", "d_ff", "num_heads", "vocab_size", "seq_len")
        wrong = [name for name in sizes if not _is_positive_whole(getattr(self, name))]
        for name in wrong:
            value = getattr(self, name)
            yield f"model.{name} must be a whole number of at least 1, but got {value!r}."
        if not _is_positive(self.rope_theta):
            yield f"model.rope_theta must be a positive number, but got {self.rope_theta!r}."
        if "d_model" not in wrong and "num_heads" not in wrong:
            yield from self._head_problems()

    def _head_problems(self) -> Iterator[str]:
        most = min(self.d_model, _MOST_LISTED_HEADS)
        fitting = [h for h in range(1, most) if self.d_model % (2 * h) == 0]
        remedy = f"Choose num_heads from {fitting}." if fitting else "Choose an even d_model."
        if self.d_model % self.num_heads:
            yield (
                f"model.d_model must be divisible by model.num_heads, but got d_model="
                f"{self.d_model}, num_heads={self.num_heads}. {remedy}"
            )
        elif self.head_dim % 2:
            yield (
                f"The head size d_model / num_heads must be even for rotary positions, but got "
                f"{self.d_model} / {self.num_heads} = {self.head_dim}. {remedy}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which tokens: a prepared corpus by name and by the hash of its contents."""

    corpus: str
    fingerprint: str = ""  # hash of the manifest; makes the text part of a run's identity


# Settings that came after the first records, with the values under which those runs were made. Such
# a value is left out of the identity, and a configuration that lacks the setting means that value,
# whatever the default has become since: a recorded run keeps its identity and its meaning.
EARLIER_SETTINGS: Mapping[str, Value] = MappingProxyType(
    {"clip_scope": "all", "precision": "float32", "attention_scope": "document"}
)
EARLIER_HYPERPARAMETERS: Mapping[str, Mapping[str, Value]] = MappingProxyType(
    {"scion": MappingProxyType({"embedding_rule": "head", "radius_embedding": 1.0})}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """An optimizer by name, with every keyword of its constructor.

    Hyperparameters of :data:`EARLIER_HYPERPARAMETERS` that are not given have the value from there.
    """

    name: str
    hyperparameters: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Complete the hyperparameters, so that equal configurations compare equal."""
        earlier = EARLIER_HYPERPARAMETERS.get(self.name)
        if earlier is not None:
            object.__setattr__(self, "hyperparameters", {**earlier, **self.hyperparameters})

    def identifying_hyperparameters(self) -> dict[str, Value]:
        """Those that are part of a run's identity: without earlier values of later ones."""
        earlier = EARLIER_HYPERPARAMETERS.get(self.name, {})
        return {
            name: value
            for name, value in self.hyperparameters.items()
            if name not in earlier or value != earlier[name]
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Learning-rate schedule (see :mod:`optbench.schedule`); lengths in steps."""

    warmup_steps: int
    decay_steps: int
    shape: DecayShape = "cosine"
    final_frac: float = 0.0

    def problems(self, num_steps: int) -> Iterator[str]:
        """Each impossible length, with the remedy."""
        if self.shape not in DECAY_SHAPES:
            yield did_you_mean(str(self.shape), DECAY_SHAPES, what="decay shape")
        if self.warmup_steps < 0 or self.decay_steps < 0:
            yield (
                f"Schedule lengths must not be negative, but got warmup_steps={self.warmup_steps}, "
                f"decay_steps={self.decay_steps}."
            )
        if self.warmup_steps >= num_steps:
            yield (
                f"The warm-up must be shorter than the run, but got warmup_steps="
                f"{self.warmup_steps} in a run of {num_steps} steps. Lower the warm-up or the "
                f"batch size, or raise the token budget."
            )
        elif self.warmup_steps + self.decay_steps > num_steps:
            yield (
                f"Warm-up and decay must fit into the run, but got {self.warmup_steps} + "
                f"{self.decay_steps} > {num_steps} steps. Shorten one of them."
            )
        if not 0 <= self.final_frac <= 1:
            yield f"schedule.final_frac must lie in [0, 1], but got {self.final_frac}."


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One training run, completely.

    Args:
        num_tokens: the training budget, ``num_tokens // (batch_size · seq_len)`` steps.
        batch_size: sequences per step.
        clip_norm: limit of the common gradient norm; 0 switches clipping off.
        clip_scope: the parameters over which that norm is taken and which are scaled by it; the
            others are left as they are.
        precision: of the model's products; weights, gradients, norms, loss and everything that the
            optimizer keeps are float32 in either case.
        attention_scope: how far back a token sees: to the start of its document, or of its
            sequence. A corpus that does not know its documents has sequences only.
        seed: of the initialisation and of the data order.
        eval_tokens: tokens of the validation split on which the run is judged.
        test_tokens: tokens of the test split, read once at the end.
        num_evals: validation points along the run, the last one at its end.
    """

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    num_tokens: int
    batch_size: int
    clip_norm: float = 1.0
    clip_scope: ClipScope = "all"
    precision: Precision = "float32"
    attention_scope: AttentionScope = "document"
    seed: int = 0
    eval_tokens: int = 65_536
    test_tokens: int = 262_144
    num_evals: int = 4

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one optimizer step."""
        return self.batch_size * self.model.seq_len

    @property
    def num_steps(self) -> int:
        """⌊num_tokens / tokens_per_step⌋."""
        return self.num_tokens // self.tokens_per_step

    @property
    def train_flops(self) -> float:
        """FLOPs of the training passes, evaluation and optimizer arithmetic not counted."""
        return self.model.train_flops_per_token * self.num_steps * self.tokens_per_step

    @property
    def run_id(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return run_id_of(self.to_dict())

    def canonical_json(self) -> str:
        """Sorted, compact JSON: equal configurations give equal bytes, also where one has 1.0."""
        return _canonical_json(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, ready for JSON.

        Settings that came later than the first records are left out at their earlier values
        (:data:`EARLIER_SETTINGS`, :data:`EARLIER_HYPERPARAMETERS`).
        """
        plain = dataclasses.asdict(self)
        for name, earlier in EARLIER_SETTINGS.items():
            if plain[name] == earlier:
                del plain[name]
        plain["optimizer"]["hyperparameters"] = self.optimizer.identifying_hyperparameters()
        return plain

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> RunConfig:
        """Inverse of :meth:`to_dict`.

        Raises:
            ConfigError: unknown or missing keys and values of other types, all of them named.
        """
        if not fits(cls)(raw):
            from optbench.tables import table_problems  # pydantic, only where something is wrong

            raise ConfigError(table_problems(cls, raw))
        return builder(cls)(raw)

    def with_fingerprint(self, fingerprint: str) -> RunConfig:
        """The same run on the corpus with this fingerprint."""
        data = dataclasses.replace(self.data, fingerprint=fingerprint)
        return dataclasses.replace(self, data=data)

    def problems(self) -> list[str]:
        """Everything that makes this run impossible, except the optimizer's own checks."""
        found = [*self.model.problems()]
        for name in ("num_tokens", "batch_size", "eval_tokens", "test_tokens", "num_evals"):
            if getattr(self, name) < 1:
                found.append(f"{name} must be at least 1, but got {getattr(self, name)}.")
        if not 0 <= self.seed <= MOST_SEED:
            limit = "not be negative" if self.seed < 0 else "be below 2^63"
            found.append(f"seed must {limit}, but got {shortened(str(self.seed))}.")
        if not (self.clip_norm >= 0 and math.isfinite(self.clip_norm)):
            found.append(f"clip_norm must be finite and not negative, but got {self.clip_norm}.")
        if self.clip_scope not in CLIPPED_ROLES:
            found.append(did_you_mean(str(self.clip_scope), CLIPPED_ROLES, what="clip scope"))
        if self.precision not in PRECISIONS:
            found.append(did_you_mean(str(self.precision), PRECISIONS, what="precision"))
        if self.attention_scope not in ATTENTION_SCOPES:
            known = did_you_mean(
                str(self.attention_scope), ATTENTION_SCOPES, what="attention scope"
            )
            found.append(known)
        if self.batch_size >= 1 and _is_positive_whole(self.model.seq_len):
            if self.num_steps < 1:
                found.append(
                    f"The budget must hold at least one step, but got num_tokens="
                    f"{self.num_tokens} < batch_size · seq_len = {self.tokens_per_step}. "
                    f"Raise num_tokens or lower batch_size."
                )
            else:
                found.extend(self.schedule.problems(self.num_steps))
        return found


def _is_positive(value: Any) -> bool:
    """Whether a setting, which a user may have mistyped, is a finite number above zero."""
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def _is_positive_whole(value: Any) -> bool:
    return type(value) is int and value >= 1


def run_id_of(plain: Mapping[str, Any]) -> str:
    """The id of the run that :meth:`RunConfig.to_dict` describes like this."""
    return hashlib.sha256(_canonical_json(plain).encode()).hexdigest()[:16]


def _canonical_json(plain: Mapping[str, Any]) -> str:
    whole = _with_whole_numbers(plain)
    return json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _with_whole_numbers(value: Any) -> Any:
    """The same data with every float that is a whole number as an integer."""
    if isinstance(value, Mapping):
        return {key: _with_whole_numbers(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value
