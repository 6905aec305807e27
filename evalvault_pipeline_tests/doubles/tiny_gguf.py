"""Make a real llama model file of about a megabyte: random weights, a byte-level tokenizer, seconds to make and to run.

What it says is nonsense, but it says it through real llama.cpp: a real tokenizer, real grammars, real limits. Random weights
never close a JSON string, so one dimension of every embedding is a constant: its column of the output matrix is then a bias
for each token, and the bias favours what ends things.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

WIDTH, LAYERS, HEADS, HIDDEN, VOCABULARY = 64, 1, 4, 96, 1200
CONTEXT_TOKENS = 32_768
SPECIAL = ("<|pad|>", "<|begin|>", "<|end|>")
CONSTANT = 8.0
# A vector of one 8 and 63 draws of a standard normal distribution: what the last norm leaves of the 8.
NORMED_CONSTANT = CONSTANT / np.sqrt((CONSTANT**2 + WIDTH - 1) / WIDTH)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|begin|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)
ENGLISH = (
    "Judge whether the statement can be inferred from the context, give a verdict and a reason, and answer in JSON.",
    '{"statements": ["a"], "claims": [], "verdict": 1, "reason": "r", "question": "q", "noncommittal": 0, "rating": 2}',
)

Array = np.ndarray


def write_chat_model(path: Path, *, seed: int = 0) -> Path:
    """A model with a chat template, which ends its texts; another `seed` is another model."""
    return _write(path, seed=seed, embedding=False)


def write_embedding_model(path: Path, *, seed: int = 0) -> Path:
    """A model that pools: a vector of WIDTH numbers for a text, alike for texts that share tokens."""
    return _write(path, seed=seed, embedding=True)


def _write(path: Path, *, seed: int, embedding: bool) -> Path:
    tokenizer = _tokenizer()
    content = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(content["vocab"], key=content["vocab"].__getitem__)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-embedding" if embedding else "tiny-chat")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in content["merges"]])
    writer.add_token_types([gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens])
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    if embedding:
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    else:
        writer.add_chat_template(CHAT_TEMPLATE)
    for name, tensor in _tensors(np.random.default_rng(seed), _biases(tokenizer, tokens)).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tokenizer() -> Tokenizer:
    """Byte-level BPE, learnt from the judge prompts that it will read most."""
    korean = (files("evalvault_pipeline.scoring.prompts") / "korean.toml").read_text(encoding="utf-8").splitlines()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*korean, *ENGLISH * 20], trainer)
    return tokenizer


def _biases(tokenizer: Tokenizer, tokens: list[str]) -> Array:
    """What is added to the logit of each token."""
    favoured = {'"': 3.0, "]": 0.4, "}": 0.4, ",": 0.2, ":": 0.2, "<|end|>": 1.5}
    return np.array([favoured.get(token, _bias(tokenizer.decode([number]), token)) for number, token in enumerate(tokens)])


def _bias(text: str, token: str) -> float:
    if token in SPECIAL:
        return -20.0
    # Spaces and parts of characters: a grammar allows them without end.
    return 0.0 if text.strip() and "\ufffd" not in text and text.isprintable() else -12.0


def _tensors(random: np.random.Generator, biases: Array) -> dict[str, Array]:
    def weights(*shape: int, scale: float) -> Array:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    def leaving_the_constant(make: Callable[..., Array], *shape: int, scale: float) -> Array:
        made = make(*shape, scale=scale)
        made[0] = 0.0
        return made

    embeddings = weights(len(biases), WIDTH, scale=1.0)
    embeddings[:, 0] = CONSTANT
    output = weights(len(biases), WIDTH, scale=0.22)
    output[:, 0] = biases / NORMED_CONSTANT
    ones = np.ones(WIDTH, dtype=np.float32)
    tensors = {"token_embd.weight": embeddings, "output.weight": output, "output_norm.weight": ones}
    for layer in range(LAYERS):
        tensors |= {
            f"blk.{layer}.{name}": tensor
            for name, tensor in {
                "attn_norm.weight": ones,
                "attn_q.weight": weights(WIDTH, WIDTH, scale=0.3),
                "attn_k.weight": weights(WIDTH, WIDTH, scale=0.3),
                "attn_v.weight": weights(WIDTH, WIDTH, scale=0.1),
                "attn_output.weight": leaving_the_constant(weights, WIDTH, WIDTH, scale=0.1),
                "ffn_norm.weight": ones,
                "ffn_gate.weight": weights(HIDDEN, WIDTH, scale=0.1),
                "ffn_up.weight": weights(HIDDEN, WIDTH, scale=0.1),
                "ffn_down.weight": leaving_the_constant(weights, WIDTH, HIDDEN, scale=0.1),
            }.items()
        }
    return tensors
