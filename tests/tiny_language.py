"""Tokenizers and language models of several families, built without a download."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

_SENTENCES = ["the quick brown fox jumps over the lazy dog", "say it again, please", "what a fine day it is today"]
_WIDTH = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_HEADS = {"num_key_value_heads": 1, "head_dim": 8}


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(leading_space: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("▁")] if leading_space else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    ends = [decoders.Strip(" ", 1, 0)] if leading_space else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
    return tokenizer


@dataclass(frozen=True)
class Family:
    """A family's kind of tokenizer, its special tokens, and its configuration."""

    build: Callable[[], Tokenizer]
    special: dict[str, str]
    config: str
    settings: dict[str, Any]
    extra_rows: int = 0  # of the embeddings, beyond the tokenizer's size
    adds_bos: bool = False


FAMILIES = {
    "llama": Family(
        lambda: _sentencepiece(leading_space=True),
        {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"},
        "LlamaConfig",
        {**_WIDTH, **_HEADS, "tie_word_embeddings": False},
        adds_bos=True,
    ),
    "qwen": Family(
        _byte_level,
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "im_start_token": "<|im_start|>"},
        "Qwen3Config",
        {**_WIDTH, **_HEADS, "tie_word_embeddings": True},
        extra_rows=20,
    ),
    "gemma": Family(
        lambda: _sentencepiece(leading_space=False),
        {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"},
        "GemmaConfig",
        {**_WIDTH, **_HEADS, "tie_word_embeddings": True},
        adds_bos=True,
    ),
    "gpt2": Family(
        _byte_level,
        {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        "GPT2Config",
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 256},
    ),
    "phi": Family(  # a bias of the output
        _byte_level,
        {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        "PhiConfig",
        _WIDTH,
    ),
}


def tiny_tokenizer(family: str = "qwen") -> PreTrainedTokenizerFast:
    """A tokenizer of a family, trained on a few sentences."""
    made = FAMILIES[family]
    tokenizer = made.build()
    special = list(dict.fromkeys(made.special.values()))
    alphabet = pre_tokenizers.ByteLevel.alphabet() if isinstance(tokenizer.decoder, decoders.ByteLevel) else []
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    if made.adds_bos:
        bos = made.special["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    names = {
        name: token
        for name, token in made.special.items()
        if name in PreTrainedTokenizerFast.SPECIAL_TOKENS_ATTRIBUTES
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def tiny_language_model(family: str, tokenizer: PreTrainedTokenizerFast, **changes: Any) -> PreTrainedModel:
    """A model of a family with random weights, as wide as its tokenizer or a little wider."""
    made = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, made.config)(
        vocab_size=len(tokenizer) + made.extra_rows,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **(made.settings | changes),
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval()
