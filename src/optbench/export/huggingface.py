"""A trained run as a folder that Hugging Face ``transformers`` opens: LlamaForCausalLM.

Only JSON and safetensors are written, so ``transformers`` itself is not needed. Weights are copied
unchanged under other names: both models rotate positions by halves, (i, i + K/2), so query and key
rows keep their order.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from optbench.config import ModelConfig, UserError
from optbench.store.store import RunRecord
from optbench.training.model import Llama
from optbench.training.weights import Origin, TrainedModel

_IN_BLOCK = {
    "attention_norm.gain": "input_layernorm.weight",
    "attention.q_proj.weight": "self_attn.q_proj.weight",
    "attention.k_proj.weight": "self_attn.k_proj.weight",
    "attention.v_proj.weight": "self_attn.v_proj.weight",
    "attention.o_proj.weight": "self_attn.o_proj.weight",
    "mlp_norm.gain": "post_attention_layernorm.weight",
    "mlp.gate_proj.weight": "mlp.gate_proj.weight",
    "mlp.up_proj.weight": "mlp.up_proj.weight",
    "mlp.down_proj.weight": "mlp.down_proj.weight",
}
_OUTSIDE = {
    "embedding.weight": "model.embed_tokens.weight",
    "final_norm.gain": "model.norm.weight",
    "head.weight": "lm_head.weight",
}


class ExportError(UserError):
    """A folder that cannot be written; the message names it and the remedy."""


def export_run(record: RunRecord, trained: TrainedModel, out: Path) -> None:
    """Write the folder ``out``, complete or not at all.

    Raises:
        ExportError: ``out`` holds something already, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "is a folder with files in it" if out.is_dir() else "is a file"
        raise ExportError(f"{out} {what}, which is never overwritten. Choose another --out.")
    # Resolved, because a path such as '.' has no name to put a folder beside.
    target = out.resolve()
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        staging.mkdir(parents=True)
        _fill(staging, record, trained)
        staging.rename(target)
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"{out} could not be written ({error}). Free some space or choose another --out."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def huggingface_name(name: str) -> str:
    """What ``transformers`` calls a parameter of :class:`optbench.training.model.Llama`."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    _blocks, layer, rest = name.split(".", 2)
    return f"model.layers.{layer}.{_IN_BLOCK[rest]}"


def huggingface_tensors(model: Llama) -> dict[str, Tensor]:
    """Every parameter under its name in ``transformers``, the values shared."""
    return {huggingface_name(name): p.detach() for name, p in model.named_parameters()}


def huggingface_config(config: ModelConfig, eod_id: int) -> dict[str, Any]:
    """``config.json``: the same function as :class:`optbench.training.model.Llama` computes."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.seq_len,
        # Version 4 of transformers reads the first, version 5 the second.
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": eod_id,
        "eos_token_id": eod_id,
        "use_cache": True,
        "dtype": "float32",
    }


def _fill(folder: Path, record: RunRecord, trained: TrainedModel) -> None:
    config, origin = trained.model.config, trained.origin
    end = trained.tokenizer.id_to_token(origin.eod_id)
    assert end is not None
    tensors = {name: t.contiguous() for name, t in huggingface_tensors(trained.model).items()}
    metadata = {"format": "pt", "optbench_run_id": origin.run_id, "optbench": origin.version}
    _write_json(folder / "config.json", huggingface_config(config, origin.eod_id))
    save_file(tensors, folder / "model.safetensors", metadata)
    # Safetensors lets nobody else read what it writes; a folder to hand on has one mode.
    shutil.copymode(folder / "config.json", folder / "model.safetensors")
    _write_json(folder / "generation_config.json", _generation_config(origin.eod_id))
    _write_json(folder / "tokenizer.json", _tokenizer(trained.tokenizer_json))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(config, end))
    _write_json(folder / "special_tokens_map.json", {"bos_token": end, "eos_token": end})
    _write_json(folder / "run.json", dataclasses.asdict(record))
    (folder / "README.md").write_text(model_card(record, trained), encoding="utf-8")


def _generation_config(eod_id: int) -> dict[str, Any]:
    return {"bos_token_id": eod_id, "eos_token_id": eod_id, "do_sample": False}


def _tokenizer(text: str) -> dict[str, Any]:
    """As trained, without a step that would add tokens to a text: training added none."""
    return {**json.loads(text), "post_processor": None}


def _tokenizer_config(config: ModelConfig, end: str) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "model_max_length": config.seq_len,
        "add_bos_token": False,
        "add_eos_token": False,
        # In training, a text that spells the end-of-document token out was text.
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
    }


def model_card(record: RunRecord, trained: TrainedModel) -> str:
    """The folder's README: which run this is, what it was trained on, what it is not."""
    config, origin = record.run_config, trained.origin
    model = config.model
    settings = ", ".join(f"{k}={v}" for k, v in sorted(config.optimizer.hyperparameters.items()))
    training = (
        f"{record.num_tokens:,} tokens, {record.num_steps:,} steps of {config.batch_size} "
        f"sequences, seed {config.seed}"
    )
    return f"""\
# Run {record.run_id}

A Llama of {model.num_params:,} parameters ({model.num_nonembedding_params:,} without embedding and
head), trained for a comparison of optimizers. It is a measurement, not a language model to use.

| | |
| --- | --- |
| optimizer | {config.optimizer.name}: {settings} |
| model | {model.num_layers} layers, d = {model.d_model}, sequences of {model.seq_len} tokens |
| training | {training} |
| text | corpus '{config.data.corpus}', fingerprint {config.data.fingerprint} |
| test loss | {origin.test_loss:.4f} nats per token |
| made by | {_code(origin)} |

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("this folder")
tokenizer = AutoTokenizer.from_pretrained("this folder")
```

`run.json` is the whole record. The scores of a single run on downstream tasks cannot rank
optimizers; compare their test losses over several seeds.
"""


def _code(origin: Origin) -> str:
    commit = f", commit {origin.commit}" if origin.commit else ""
    return f"optbench {origin.version}{commit}" + (
        " with changes that were not committed" if origin.dirty else ""
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
