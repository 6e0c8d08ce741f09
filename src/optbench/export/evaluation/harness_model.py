"""A trained run as a model of the lm-evaluation-harness: log-likelihoods in batches, greedy text.

The only module that imports the harness's model class; it needs the extra ``eval``. The rules are
those of the harness's own Hugging Face class, so that an exported run scores the same there:
contexts lose their beginning when they do not fit, and a text without context follows the
end-of-document token. Where that class abandons, on a continuation longer than the model's
sequences, this one scores it in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from optbench.config import UserError
from optbench.errors import excerpt
from optbench.export.evaluation.windows import Window, windows
from optbench.training.weights import TrainedModel

TOKENS_PER_BATCH = 16_384
_HEAD_CHUNK = 4096  # positions whose logits over the vocabulary are held at once
_MAX_NEW_TOKENS = 256  # the harness's own default


class HarnessError(UserError):
    """A request that this model cannot answer; the message names it."""


class _Scored(NamedTuple):
    """Σ log p of some tokens in nats, and whether each of them was the likeliest."""

    log_likelihood: float
    is_greedy: bool


class HarnessModel(TemplateLM):
    """Answers the harness's requests with the model of a run.

    Args:
        trained: the run.
        device: where the model computes.
        tokens_per_batch: sequences go through together as long as they and their padding are at
            most this many tokens.
    """

    def __init__(
        self,
        trained: TrainedModel,
        *,
        device: torch.device,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> None:
        super().__init__()
        self._model = trained.model.to(device)
        self._device = device
        self._tokenizer = trained.tokenizer
        self._eod_id = trained.origin.eod_id
        self._tokens_per_batch = tokens_per_batch
        self.max_length = trained.model.config.seq_len

    @property
    def eot_token_id(self) -> int:
        """The end-of-document token, after which every document of the training text began."""
        return self._eod_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of a text, as in training: nothing is added to it."""
        del add_special_tokens, kwargs
        return self._tokenizer.encode(string, add_special_tokens=False).ids

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Σ log p in nats of whole texts, each after the end-of-document token."""
        del disable_tqdm
        texts = [self.tok_encode(request.args[0]) for request in requests]
        return [scored.log_likelihood for scored in self._score([([], text) for text in texts])]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        del kwargs
        for (context, continuation), _, tokens in requests:
            if not tokens:
                raise HarnessError(
                    f"The continuation {excerpt(continuation)} adds no token to the context "
                    f"{context[-40:]!r}, so that it has no likelihood. Change the task so that it "
                    f"begins with a space."
                )
        pairs = [(context, continuation) for _, context, continuation in requests]
        return [(scored.log_likelihood, scored.is_greedy) for scored in self._score(pairs)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The likeliest token after another, until a stop text, the document's end or the limit.

        Raises:
            HarnessError: a task asks for sampling, or for so long a text that most of its prompt
                would be cut.
        """
        del disable_tqdm
        return [self._generate(*request.args) for request in requests]

    def _score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[_Scored]:
        """Of each (context, continuation) the continuation's; an empty context is a beginning."""
        jobs = [
            (index, window)
            for index, (context, continuation) in enumerate(pairs)
            for window in windows(context or [self._eod_id], continuation, self.max_length)
        ]
        totals, greedy = [0.0] * len(pairs), [True] * len(pairs)
        for batch in _batches(jobs, self._tokens_per_batch):
            scored = self._score_windows([window for _, window in batch])
            for (index, _), (log_likelihood, is_greedy) in zip(batch, scored, strict=True):
                totals[index] += log_likelihood
                greedy[index] &= is_greedy
        return [_Scored(*both) for both in zip(totals, greedy, strict=True)]

    @torch.no_grad()
    def _score_windows(self, batch: Sequence[Window]) -> list[_Scored]:
        """One pass; only positions that predict a target go through the output head."""
        # Padding on the right is never attended to: attention is causal.
        inputs = pad_sequence([torch.tensor(w.inputs) for w in batch], batch_first=True)
        hidden = self._model.hidden_states(inputs.to(self._device))
        predicting = torch.cat(
            [
                row[len(w.inputs) - len(w.targets) : len(w.inputs)]
                for row, w in zip(hidden, batch, strict=True)
            ]
        )
        targets = torch.tensor([token for w in batch for token in w.targets], device=self._device)
        chunks = zip(predicting.split(_HEAD_CHUNK), targets.split(_HEAD_CHUNK), strict=True)
        both = [self._score_positions(*chunk) for chunk in chunks]
        log_p, is_best = (torch.cat(parts).cpu() for parts in zip(*both, strict=True))
        lengths = [len(w.targets) for w in batch]
        return [
            _Scored(float(p.sum()), bool(best.all()))
            for p, best in zip(log_p.split(lengths), is_best.split(lengths), strict=True)
        ]

    def _score_positions(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The targets' (N,) log p, and whether each is the likeliest, after states (N, D)."""
        log_p = F.log_softmax(self._model.head(hidden).float(), dim=-1)
        return log_p.gather(1, targets[:, None])[:, 0], log_p.argmax(-1) == targets

    def _prompt(self, context: str, limit: int) -> list[int]:
        """The end of a context, as much as leaves room for ``limit`` tokens after it."""
        tokens = self.tok_encode(context) or [self._eod_id]
        room = self.max_length - limit
        if len(tokens) > room and limit > self.max_length // 2:
            raise HarnessError(
                f"A task asks for up to {limit} new tokens (max_gen_toks, {_MAX_NEW_TOKENS} when it"
                f" is not set), which leaves {max(0, room)} of the model's {self.max_length} for a "
                f"prompt of {len(tokens)}: the answer would not be to the question. Set "
                f"max_gen_toks to at most {self.max_length // 2} in its generation_kwargs."
            )
        # The beginning is cut once, so that what is generated does not push it out any further.
        return tokens[-room:]

    @torch.no_grad()
    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        if settings.get("do_sample") or settings.get("temperature"):
            raise HarnessError(
                f"A task asks for sampled text ({settings}), but runs answer with the likeliest "
                f"token only. Set do_sample: false and temperature: 0.0 in its generation_kwargs."
            )
        until = settings.get("until") or []
        stops: list[str] = [until] if isinstance(until, str) else list(until)
        limit = int(settings.get("max_gen_toks", _MAX_NEW_TOKENS))
        tokens = self._prompt(context, limit)
        new: list[int] = []
        text = ""
        while len(new) < limit:
            inputs = torch.tensor([[*tokens, *new][-self.max_length :]], device=self._device)
            best = int(self._model.head(self._model.hidden_states(inputs)[0, -1]).argmax())
            if best == self._eod_id:
                break
            new.append(best)
            text = self._tokenizer.decode(new)
            if found := [text.index(stop) for stop in stops if stop and stop in text]:
                return text[: min(found)]
        return text


def _batches(
    jobs: Sequence[tuple[int, Window]], tokens_per_batch: int
) -> Iterator[list[tuple[int, Window]]]:
    """The jobs, longest first: what would not fit into memory fails at once."""
    ordered = sorted(jobs, key=lambda job: -len(job[1].inputs))
    start = 0
    while start < len(ordered):
        longest = len(ordered[start][1].inputs)
        end = start + max(1, tokens_per_batch // longest)
        yield ordered[start:end]
        start = end
