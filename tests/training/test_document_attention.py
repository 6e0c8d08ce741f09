"""Attention within documents: every form of the mask, and the documents alone."""

import dataclasses

import pytest
import torch

from optbench.training.document_attention import attend, block_mask, document_mask, pair_mask
from optbench.training.label_sampler import LabelSampler
from optbench.training.model import Llama
from tests.builders import TINY_MODEL
from tests.training.test_model import lively_model

LENGTHS = (5, 1, 7, 3)
MODEL = dataclasses.replace(TINY_MODEL, seq_len=sum(LENGTHS))
DOC_IDS = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))[None]
# Also in float64, positions further on turn by angles whose sines were rounded to float32.
TABLES = 1e-5
unfused = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def packed_tokens() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, MODEL.vocab_size, (1, MODEL.seq_len), generator=generator)


def test_a_position_sees_its_document_up_to_itself() -> None:
    expected = [
        [query >= key and bool(DOC_IDS[0, query] == DOC_IDS[0, key]) for key in range(16)]
        for query in range(16)
    ]
    assert pair_mask(DOC_IDS)[0, 0].tolist() == expected
    assert torch.equal(document_mask(DOC_IDS), pair_mask(DOC_IDS))


@unfused
def test_blocks_give_what_pairs_give() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 16, 8, generator=generator, dtype=torch.float64)
    doc_ids = torch.cat([DOC_IDS, DOC_IDS.flip(1)])
    by_pairs = attend(q, k, v, pair_mask(doc_ids))
    by_blocks = attend(q, k, v, block_mask(doc_ids))
    torch.testing.assert_close(by_blocks, by_pairs, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(by_pairs, attend(q, k, v, None), atol=1e-2)


@unfused
@pytest.mark.parametrize("mask", [pair_mask, block_mask])
@torch.no_grad()  # on a CPU, FlexAttention has no backward pass
def test_packed_documents_get_the_logits_that_each_gets_alone(
    mask: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though their positions do not start again."""
    monkeypatch.setattr("optbench.training.model.document_mask", mask)
    model, tokens = lively_model(MODEL).double(), packed_tokens()
    alone = torch.cat([model(document) for document in tokens.split(LENGTHS, dim=1)], dim=1)
    torch.testing.assert_close(model(tokens, DOC_IDS), alone, rtol=TABLES, atol=TABLES)
    assert not torch.allclose(model(tokens), alone, atol=1e-2)


def sum_and_gradients(model: Llama, terms: list[torch.Tensor]) -> list[torch.Tensor]:
    total = torch.stack(terms).sum()
    return [total, *torch.autograd.grad(total, list(model.parameters()))]


def test_the_gradient_of_packed_documents_is_that_of_the_documents_alone() -> None:
    """Each last token of a document is left out, whose target would be the next one's first."""
    model, tokens = lively_model(MODEL).double(), packed_tokens()
    log_probs = model(tokens, DOC_IDS).log_softmax(-1)
    inside = DOC_IDS[0, 1:] == DOC_IDS[0, :-1]
    found = log_probs[0, :-1].gather(1, tokens[0, 1:, None])[inside]
    alone = [
        model(document[:, :-1]).log_softmax(-1).gather(2, document[:, 1:, None]).sum()
        for document in tokens.split(LENGTHS, dim=1)
        if document.shape[1] > 1
    ]
    packed = sum_and_gradients(model, [found.sum()])
    for mine, wanted in zip(packed, sum_and_gradients(model, alone), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=TABLES, atol=TABLES)


def test_one_document_for_all_is_attention_over_the_whole_sequence() -> None:
    model = lively_model(MODEL).double()
    tokens = torch.cat([packed_tokens(), packed_tokens()[:, :1]], dim=1)
    together = model.loss(tokens, torch.zeros_like(DOC_IDS))
    torch.testing.assert_close(together, model.loss(tokens), rtol=1e-12, atol=1e-12)
    assert model.loss(tokens, DOC_IDS) != together


def test_the_twice_differentiable_loss_keeps_to_the_documents() -> None:
    model = lively_model(MODEL)
    tokens = torch.cat([packed_tokens(), packed_tokens()[:, :1]], dim=1)
    torch.testing.assert_close(
        model.twice_differentiable_loss(tokens, DOC_IDS), model.loss(tokens, DOC_IDS)
    )


def test_labels_are_sampled_from_predictions_within_documents() -> None:
    """Predictions so sure that the draw is the most likely token."""
    model = lively_model(MODEL)
    model.head.weight.data *= 1000
    tokens = torch.cat([packed_tokens(), packed_tokens()[:, :1]], dim=1)
    noise = LabelSampler(torch.Generator().manual_seed(0), DOC_IDS.numel())
    loss = model.sampled_label_loss(tokens, noise, DOC_IDS)
    likeliest = model(tokens[:, :-1], DOC_IDS).argmax(-1)
    sure = torch.cat([tokens[:, :1], likeliest], dim=1)
    inputs_kept = model(tokens[:, :-1], DOC_IDS).flatten(0, 1)
    wanted = torch.nn.functional.cross_entropy(inputs_kept, sure[0, 1:])
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-4)
