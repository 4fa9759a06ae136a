"""The chat templates that values can name instead of a model's own.

Each is written for one tokenizer: with its special tokens where it has them, as plain text where it hasn't, so that no
token is ever added and no embedding grows. `tokenizer.load_tokenizer` puts the result on the tokenizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KEEP_ORIGINAL = "keep-original"
CHAT_ML = "chat-ml"
TEMPLATE_NAMES = (KEEP_ORIGINAL, CHAT_ML)

_START, _END = "<|im_start|>", "<|im_end|>"


def is_one_token(tokenizer: PreTrainedTokenizerFast, text: str) -> bool:
    """Say whether the tokenizer has `text` as a special token of its own.

    Args:
        tokenizer: Any fast tokenizer.
        text: Such as `<|im_end|>`.

    Returns:
        True where the text is one added token, so that no neighbouring text can ever change how it is cut.
    """
    return text in tokenizer.get_added_vocab()


def adds_bos(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Say whether the tokenizer puts BOS before plain text by itself, which is how its model was trained."""
    if tokenizer.bos_token_id is None:
        return False
    ids: list[int] = tokenizer("a")["input_ids"]
    return ids[0] == tokenizer.bos_token_id


def apply_chat_ml(tokenizer: PreTrainedTokenizerFast, stop_ids: tuple[int, ...]) -> None:
    """Give the tokenizer a ChatML template that ends each answer with a token the server stops at.

    Where `<|im_end|>` is one of the tokenizer's tokens it ends the answer and is the EOS token; nothing is added for
    that. Where it isn't, the answer ends with the tokenizer's EOS token, and the plain text `<|im_end|>` follows after
    it, so the model learns to stop before it would write the mark out.

    Args:
        tokenizer: Changed in place: `chat_template`, and `eos_token` where `<|im_end|>` becomes it.
        stop_ids: What the server stops at so far; may be empty where the tokenizer has `<|im_end|>`.
    """
    if is_one_token(tokenizer, _END):
        if tokenizer.convert_tokens_to_ids(_END) not in stop_ids:
            tokenizer.eos_token = _END
        answer_end = f"'{_END}\n'"
    else:
        answer_end = f"eos_token + '{_END}\n'"
    bos = "{{ bos_token }}" if adds_bos(tokenizer) and tokenizer.bos_token != _START else ""
    tokenizer.chat_template = (
        f"{bos}{{% for message in messages %}}"
        f"{{{{ '{_START}' + message['role'] + '\n' + message['content'] }}}}"
        f"{{% if message['role'] == 'assistant' %}}{{{{ {answer_end} }}}}"
        f"{{% else %}}{{{{ '{_END}\n' }}}}{{% endif %}}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ '{_START}assistant\n' }}}}{{% endif %}}"
    )
