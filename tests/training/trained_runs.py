"""Runs with kept weights that nobody trained: sharper than a fresh model, and made in no time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from optbench.config import DataConfig, ModelConfig, RunConfig
from optbench.data.shards import Corpus
from optbench.store.store import RunRecord, RunStore
from optbench.training.model import Llama
from optbench.training.weights import TrainedModel, load_trained, save_weights, weights_file
from tests.builders import TINY_CONFIG, record_of
from tests.data.synthetic import VOCAB_SIZE

MODEL = ModelConfig(
    num_layers=2, d_model=32, d_ff=48, num_heads=4, vocab_size=VOCAB_SIZE, seq_len=32
)


def config_of(model: ModelConfig = MODEL) -> RunConfig:
    data = DataConfig(corpus="toy", fingerprint="f0")
    return dataclasses.replace(TINY_CONFIG, model=model, data=data)


def sharp_model(model: ModelConfig = MODEL, *, seed: int = 5) -> Llama:
    """A model whose gains are not one and whose predictions are far from uniform."""
    llama = Llama(model, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in llama.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 2.0, generator=generator)
        llama.embedding.weight.mul_(model.d_model)
    return llama


def keep(store: Path, corpus: Corpus, model: ModelConfig = MODEL) -> RunRecord:
    """Put a run with its weights into a store."""
    record = record_of(config_of(model))
    path = weights_file(store, record.run_id)
    code = {"optbench": "0.1", "commit": "c0ffee", "dirty": True}
    save_weights(path, sharp_model(model), corpus, run_id=record.run_id, test_loss=3.5, code=code)
    with RunStore.open(store) as opened:
        opened.append(record)
    return record


def kept(store: Path, corpus: Corpus, model: ModelConfig = MODEL) -> TrainedModel:
    """The model of a run that was put into a store."""
    record = keep(store, corpus, model)
    return load_trained(weights_file(store, record.run_id), model, record.run_id)
