"""Tiny models for tests: real tokenizers and real Llama weights, built in seconds from a few strings.

Not a fixture file: plain functions that write a folder laid out like a delivered model. Each style copies one family of
real models in its special tokens, its way of adding BOS and its chat template.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Style = Literal["chatml", "plain", "llama3", "mistral", "zephyr"]

CORPUS = (
    "You are a helpful assistant. What is a yard? A yard is where boats are built and tuned.",
    "How do I finetune a model? Deliver it, finetune it, serve it and chat with it.",
    "system user assistant tool model data bucket checkpoint adapter rank loss token answer question",
    "The quick brown fox jumps over the lazy dog. 0 1 2 3 4 5 6 7 8 9 10\n\nYes, no, maybe!\n",
    "one\n\n\ntwo\n\n\nthree\n\n\nfour\n\n\n",
)

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)

_SENTENCEPIECE = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
_SPECIAL: dict[str, dict[str, str]] = {
    "chatml": {"unk_token": "<|endoftext|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "plain": _SENTENCEPIECE,
    "mistral": _SENTENCEPIECE,
    "zephyr": _SENTENCEPIECE,
}
_EXTRA: dict[str, list[str]] = {"llama3": ["<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]}
_PAD = {"chatml": "<|im_end|>"}
_TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "mistral": MISTRAL, "zephyr": ZEPHYR}
_VOCAB_SIZE = 400
# unlike GPT-2's, these words contain line ends: a prompt's closing "\n\n" is one token whatever follows
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_tokenizer(folder: Path, *, style: Style = "chatml", template: str | None = None) -> Path:
    """Write a trained tokenizer into `folder`.

    Args:
        folder: Where the files go; made where it is missing.
        style: `chatml` (as SmolLM2: no BOS added, default system prompt), `llama3` (BOS added by the tokenizer and by
            the template), `mistral` and `zephyr` (SentencePiece-like with byte fallback, BOS added), or `plain`
            (byte-level, `<s>` and `</s>`, no chat template, no pad token).
        template: A chat template to use instead of the style's own.

    Returns:
        The folder.
    """
    from transformers import PreTrainedTokenizerFast

    special = _SPECIAL[style]
    tokens = list(dict.fromkeys([*special.values(), *_EXTRA.get(style, [])]))
    backend = _sentencepiece_like(tokens) if style in ("mistral", "zephyr") else _byte_level(tokens, words=style)
    if style in ("llama3", "mistral", "zephyr"):
        _add_bos(backend, special["bos_token"])
    arguments: dict[str, Any] = dict(special)
    if style in _PAD:
        arguments["pad_token"] = _PAD[style]
    if style in _EXTRA:
        arguments["additional_special_tokens"] = _EXTRA[style]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **arguments)
    tokenizer.chat_template = template if template is not None else _TEMPLATES.get(style)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    return folder


def make_model(
    folder: Path,
    *,
    style: Style = "chatml",
    seed: int = 0,
    hidden: int = 64,
    layers: int = 2,
    tied: bool = True,
    template: str | None = None,
) -> Path:
    """Write a random Llama of a few hundred thousand float32 parameters, with its tokenizer, into `folder`.

    Args:
        folder: Where the files go; made where it is missing.
        style: The tokenizer's style, see `make_tokenizer`.
        seed: Of the random weights; the same seed gives the same bytes.
        hidden: The width; a multiple of 4 (there are 4 attention heads).
        layers: The number of decoder layers.
        tied: Whether input and output embeddings are one matrix.
        template: A chat template to use instead of the style's own.

    Returns:
        The folder, with `config.json`, `generation_config.json`, `model.safetensors` and the tokenizer's files.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    make_tokenizer(folder, style=style, template=template)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stops = [tokenizer.eos_token_id]
    if style == "llama3":
        stops.append(tokenizer.convert_tokens_to_ids("<|end_of_text|>"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stops[0],
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder, safe_serialization=True)
    generation = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": stops if len(stops) > 1 else stops[0]}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    return folder


def _byte_level(special_tokens: list[str], words: str) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if words == "llama3":
        cut = pre_tokenizers.Split(Regex(_LLAMA3_WORDS), "isolated")
        unsplit = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, unsplit])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCAB_SIZE,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _sentencepiece_like(special_tokens: list[str]) -> Tokenizer:
    """Build a tokenizer like Llama 2's: no pre-tokenizer, spaces as U+2581, unknown characters as bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = spaces
    words = (word for text in CORPUS for word in text.split())
    trained.train_from_iterator(words, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    pieces = [*special_tokens, *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special_tokens])
    return tokenizer


def _add_bos(tokenizer: Tokenizer, bos: str) -> None:
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
