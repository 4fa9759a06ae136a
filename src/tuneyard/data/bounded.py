"""Untrusted chat templates, rendered in a separate process with limits on time and memory.

jinja's sandbox keeps a template from Python's objects, but not from an endless loop or from filling the memory. So a
template never runs in a process that holds keys, weights or other users' requests: it runs in one (`template_process`)
that the kernel ends at its limit. Rendering and tokenization stay the library's: training and our own server both use
`bound_template`, and get the same text.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, TemplateRuntimeError

from tuneyard.errors import TuneyardError
from tuneyard.interpreter import python
from tuneyard.whereabouts import installation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SECONDS = 5.0
"""Processor time for rendering one conversation; a long one takes some milliseconds."""
MEMORY_BYTES = 512 * 1024 * 1024
CHARACTERS = 64 * 1024 * 1024

_WALL_SECONDS = 300.0
"""The process is also ended after this time, which includes waiting for a processor."""
_KNOWN = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH")
_CONTENT_ONLY = "{{ messages[0]['content'] }}"


Cut = tuple[int, bool]
"""How many of a conversation's messages are rendered, and whether a generation prompt follows."""


class TemplateLimitError(TemplateRuntimeError):
    """Raised if a chat template exceeds the limit on time, memory or text, which the message names."""


class TemplateProcess:
    """A process that renders templates; started on demand and restarted after it has ended. Thread-safe.

    Args:
        seconds: Processor time for one conversation.
        memory_bytes: Memory for it.
        characters: The longest text.
    """

    def __init__(
        self, *, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES, characters: int = CHARACTERS
    ) -> None:
        self._limits = (seconds, memory_bytes, characters)
        self.now: datetime | None = None
        """The time for templates that use `strftime_now`; None for the clock's."""
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: object) -> TemplateProcess:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _with_limits, self._limits

    def render(
        self, messages: Sequence[Mapping[str, Any]], cuts: Sequence[Cut], /, **rest: Any
    ) -> list[str | TemplateError]:
        """Render one conversation, whole or its beginnings.

        Args:
            messages: The conversation's messages.
            cuts: What to render.
            rest: Other arguments of transformers' `render_jinja_template`, as plain JSON values.

        Returns:
            For each cut its text, or the error: `TemplateLimitError` if it exceeds a limit, `TemplateError` if the
            template refuses the conversation, or is not a template.
        """
        now = self.now.isoformat() if self.now else None
        line = json.dumps([messages, cuts, now, rest], default=str).encode() + b"\n"
        with self._lock:
            answers = self._request(line, len(cuts))
        return [_outcome(answer) for answer in answers]

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        if self._owner == os.getpid():  # in a fork it is another process's child
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()

    def _request(self, line: bytes, cuts: int) -> list[dict[str, str]]:
        if self._process is None or self._owner != os.getpid():
            self._start()
        try:
            return json.loads(self._exchange(line))
        except (OSError, ValueError):  # the kernel ended it before it could answer
            seconds = self._limits[0]
            self.close()
            return [{"limit": f"{seconds:g} s of processor time, or of memory"}] * cuts

    def _start(self) -> None:
        self.close()
        environment = {name: os.environ[name] for name in _KNOWN if name in os.environ}
        self._process = subprocess.Popen(
            python("-m", "tuneyard.data.template_process", *map(str, self._limits)),
            env={**environment, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is handled by this process
        )
        self._owner = os.getpid()
        if self._line() != b"ready\n":
            self.close()
            raise TuneyardError(
                "Chat templates can't be rendered: transformers can't be loaded.", hint=installation("train")
            )

    def _exchange(self, line: bytes) -> bytes:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], _WALL_SECONDS)[0]:
            return b""
        return self._process.stdout.readline()


def _outcome(answer: Mapping[str, str]) -> str | TemplateError:
    if "text" in answer:
        return answer["text"]
    if "limit" in answer:
        return TemplateLimitError(f"the chat template exceeds the limit of {answer['limit']}, and was stopped")
    return TemplateError(answer["error"])


SHARED = TemplateProcess()
"""The process that renders for all tokenizers of this process."""


def _with_limits(seconds: float, memory_bytes: int, characters: int) -> TemplateProcess:
    if (seconds, memory_bytes, characters) == (SECONDS, MEMORY_BYTES, CHARACTERS):
        return SHARED
    return TemplateProcess(seconds=seconds, memory_bytes=memory_bytes, characters=characters)


atexit.register(SHARED.close)


def template_arguments(tokenizer: Any, tools: Any, chat_template: str | None = None) -> dict[str, Any]:
    """Return the arguments with which a tokenizer's template is rendered, besides the messages.

    Args:
        tokenizer: The tokenizer.
        tools: The conversation's tools.
        chat_template: Another template than the tokenizer's own.
    """
    template = tokenizer.get_chat_template(chat_template, tools)
    return {**tokenizer.special_tokens_map, "chat_template": template, "tools": tools}


def bound_template(tokenizer: PreTrainedTokenizerFast, process: TemplateProcess | None = None) -> None:
    """Make a tokenizer render its chat template in a process with limits.

    `apply_chat_template` keeps its arguments, except for batches, functions as tools and masks of answers; it raises
    `TemplateLimitError` for a template that exceeds a limit. Saving the tokenizer is not affected.

    Args:
        tokenizer: The tokenizer of a delivered model.
        process: The process that renders; None for the one that all tokenizers of this process share.
    """
    whole: Any = tokenizer
    whole.apply_chat_template = partial(_apply, tokenizer, process or SHARED)


def _apply(
    tokenizer: Any,
    process: TemplateProcess,
    conversation: Any,
    tools: Any = None,
    documents: Any = None,
    chat_template: str | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool | str = False,
    **rest: Any,
) -> Any:
    """`apply_chat_template` of transformers, with the text rendered in the other process."""
    own = {name: rest.pop(name) for name in _OF_THE_TEXT & rest.keys()}
    if own.pop("return_assistant_tokens_mask", False):
        raise ValueError("return_assistant_tokens_mask is not supported with limits on the template")
    if add_generation_prompt and continue_final_message:
        raise ValueError("continue_final_message and add_generation_prompt contradict each other")
    messages = list(conversation)
    if not messages:
        raise ValueError("an empty conversation can't be rendered")
    more = {"documents": documents, "continue_final_message": continue_final_message, **rest}
    given = template_arguments(tokenizer, tools, chat_template)
    (text,) = process.render(messages, [(len(messages), add_generation_prompt)], **{**given, **more})
    if isinstance(text, TemplateError):
        raise text
    if own.get("tokenize") is False:
        return text
    message = [{"role": "user", "content": text}]
    return type(tokenizer).apply_chat_template(tokenizer, message, chat_template=_CONTENT_ONLY, **own)


_OF_THE_TEXT = frozenset(
    {
        "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict",
        "return_assistant_tokens_mask", "tokenizer_kwargs",
    }
)  # fmt: skip
"""The arguments of `apply_chat_template` about token ids; the others are the template's."""
