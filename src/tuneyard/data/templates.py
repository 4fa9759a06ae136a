"""The chat templates that values can name instead of a model's own.

Each is adapted to a tokenizer: with its special tokens if it has them, else as plain text, so that no token is ever
added and no embedding grows. `tokenizer.load_tokenizer` sets the result on the tokenizer. The names and templates are
those of the finetuning engine that the specification's values were written for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KEEP_ORIGINAL = "keep-original"
CHAT_ML = "chat-ml"

_ANSWER_END = "ANSWER_END"


@dataclass(frozen=True, slots=True)
class NamedTemplate:
    """A chat template by name.

    Attributes:
        body: Jinja, without BOS; the text `ANSWER_END` in it stands for the expression that ends an answer.
        end_mark: The text that ends a turn, if that isn't EOS itself.
    """

    body: str
    end_mark: str = ""


def _is(role: str) -> str:
    return f"message['role'] == '{role}'"


_ONLY_CHAT = (
    "{% else %}{{ raise_exception('this template has no messages of the role ' + message['role']) }}{% endif %}"
)

NAMED = {
    CHAT_ML: NamedTemplate(
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
        f"{{% if {_is('assistant')} %}}{{{{ {_ANSWER_END} }}}}{{% else %}}{{{{ '<|im_end|>' }}}}{{% endif %}}"
        "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        end_mark="<|im_end|>",
    ),
    "simplified-llama31": NamedTemplate(
        "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{{ message['content'] | trim }}"
        f"{{% if {_is('assistant')} %}}{{{{ {_ANSWER_END} }}}}{{% else %}}{{{{ '<|eot_id|>' }}}}{{% endif %}}"
        "{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        end_mark="<|eot_id|>",
    ),
    "mistral-with-system": NamedTemplate(
        "{% for message in messages %}"
        f"{{% if {_is('system')} %}}{{{{ '<<SYS>>\n' + message['content'] + '\n<</SYS>>\n' }}}}"
        f"{{% elif {_is('user')} %}}{{{{ '[INST] ' + message['content'] + ' [/INST]' }}}}"
        f"{{% elif {_is('assistant')} %}}{{{{ message['content'] + {_ANSWER_END} + ' ' }}}}"
        f"{_ONLY_CHAT}{{% endfor %}}"
    ),
    "poro": NamedTemplate(
        "{% for message in messages %}"
        f"{{% if {_is('system')} or {_is('user')} %}}"
        "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token }}"
        f"{{% elif {_is('assistant')} %}}{{{{ '<|assistant|>\n' + message['content'] + {_ANSWER_END} }}}}"
        f"{_ONLY_CHAT}{{% endfor %}}{{% if add_generation_prompt %}}{{{{ '<|assistant|>\n' }}}}{{% endif %}}"
    ),
}
TEMPLATE_NAMES = (KEEP_ORIGINAL, *NAMED)


def is_one_token(tokenizer: PreTrainedTokenizerFast, text: str) -> bool:
    """Return whether `text` is an added token of the tokenizer.

    Args:
        tokenizer: Any fast tokenizer.
        text: Such as `<|im_end|>`.

    Returns:
        True if the text is one added token, so that no neighbouring text can change how it is tokenised.
    """
    return text in tokenizer.get_added_vocab()


def adds_bos(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether the tokenizer adds BOS to plain text, which is how its model was trained."""
    if tokenizer.bos_token_id is None:
        return False
    ids: list[int] = tokenizer("a")["input_ids"]
    return ids[0] == tokenizer.bos_token_id


def apply_named_template(tokenizer: PreTrainedTokenizerFast, name: str, stop_ids: tuple[int, ...]) -> None:
    """Set a named template on the tokenizer that ends each answer with a token that the server stops at.

    If the template's end mark (`<|im_end|>`) is one of the tokenizer's tokens, it ends the answer and is the EOS token.
    Otherwise the answer ends with the tokenizer's EOS token and the mark follows as plain text, so the model learns to
    stop before the mark.

    Args:
        tokenizer: Changed in place: `chat_template`, and `eos_token` if the end mark becomes it.
        name: A key of `NAMED`.
        stop_ids: The ids that the server stops at so far; may be empty if the tokenizer has the end mark.
    """
    template = NAMED[name]
    mark = template.end_mark
    if mark and is_one_token(tokenizer, mark):
        if tokenizer.convert_tokens_to_ids(mark) not in stop_ids:
            tokenizer.eos_token = mark
        answer_end = f"'{mark}'"
    else:
        answer_end = f"eos_token + '{mark}'" if mark else "eos_token"
    # A tokenizer whose BOS begins every turn (SmolLM2's <|im_start|>) doesn't add it to plain text.
    bos = "{{ bos_token }}" if adds_bos(tokenizer) else ""
    tokenizer.chat_template = bos + template.body.replace(_ANSWER_END, answer_end)
