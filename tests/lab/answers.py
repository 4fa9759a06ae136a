"""Answers by chat template: the text that training teaches a model, and what the server's parser reads from it.

The templates are those of `chat_families`, a dozen more of TRL's, and those of `call_templates`.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from lab.call_templates import CALLS
from lab.chat_families import FAMILIES, Family, make_family_tokenizer
from tuneyard.data import Conversation, Message
from tuneyard.data.rendering import Renderer
from tuneyard.errors import InvalidDataError
from tuneyard.serving.answers.decoding import SpecialTokens, without_special
from tuneyard.serving.answers.parsing import AnswerParser, Content, Reasoning, ToolCall
from tuneyard.serving.template import ChatTemplate, Prompt

_GEMMA4 = ("<|turn>", "<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>")
_MUSE = ("<|start|>", "<|message|>", "<|eom|>")
_TOOL_START = ("<|im_start|>", "<|tool_call_start|>", "<|tool_call_end|>")
_IM_END = (("<|im_end|>",), ("<|im_start|>",))
_GEMMA_4 = (("<turn|>", "<|tool_response>"), _GEMMA4)
_FURTHER = {
    "muse_glimmer": (("<|eot|>",), _MUSE),
    "lfm2_2_5": (("<|im_end|>",), _TOOL_START),
    "lfm2_v2": (("<|im_end|>",), _TOOL_START),
    "cohere2": (("<|END_OF_TURN_TOKEN|>",), ("<|CHATBOT_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>")),
    **dict.fromkeys(("gemma4", "gemma4_v5", "diffusion_gemma"), _GEMMA_4),
    **dict.fromkeys(("nemotron_3_nano", "nemotron_3_ultra", "nemotron_3_5_lightning"), _IM_END),
    **dict.fromkeys(("qwen3_6", "qwen3_8", "qwen3_vl"), _IM_END),
}
# Real tokenizers have these as text, not as special tokens.
_TEXT = {"<think>", "</think>", "<tool_call>", "</tool_call>"}
ALL: dict[str, Family] = {
    **{
        name: replace(family, special=tuple(token for token in family.special if token not in _TEXT))
        for name, family in FAMILIES.items()
    },
    **{name: Family(f"{name}.jinja", stops, special) for name, (stops, special) in _FURTHER.items()},
    **CALLS,
}
# Messages that the templates can't render.
NO_REASONING = {
    "chatml", "llama-2", "llama-3", "llama-3.1", "llama-3.2", "mistral", "mistral-tools", "gemma", "gemma-3", "phi-3",
    "zephyr", "qwen-2.5", "qwen-3-2507", "cohere", "lfm-2", "lfm2_v2", "qwen3_vl", "cohere2", "mistral-nemo", "xlam",
    "granite", "phi-4-mini", "minimax-m1", "cohere-r7b", "deepseek-v3.1", "functionary", "apertus", "llama-4", "olmo-3",
}  # fmt: skip
NO_CALLS = {
    "chatml", "llama-2", "llama-3", "mistral", "gemma", "gemma-3", "phi-3", "zephyr", "deepseek-v3",
    "deepseek-r1-distill", "cohere", "lfm-2", "cohere2",
}  # fmt: skip
NO_TOOLS = NO_CALLS - {"lfm-2"}
"""Whose template renders no tools; that of LFM 2 renders them, and then no call of one."""

PROPERTIES = {
    "boat": {"type": "string", "description": "Its name."},
    "count": {"type": "integer", "description": "How many."},
    "deep": {"type": "object", "description": "More of it."},
    "fast": {"type": "boolean", "description": "Whether it is fast."},
    "parts": {"type": "array", "description": "Its parts.", "items": {"type": "string"}},
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Measures.",
            "parameters": {"type": "object", "properties": PROPERTIES},
        },
    }
    for name in ("measure", "weigh_2")
]
QUESTION = {"role": "user", "content": "How long is it?"}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": "abcdefgh1", "type": "function", "function": {"name": name, "arguments": arguments}}


RICH = call("measure", boat='Anna "x" <b> é', count=7, deep={"a": [1, 2.5, "z"]}, fast=True, parts=["p", "q r"])
CODE = call("measure", boat="def f(x):\n    return {1: x}\n")
THOUGHT = "Let me see:\n  two and two."
MESSAGES: dict[str, dict[str, Any]] = {
    "content": {"content": "Four.\n\n    indented <b>"},
    "reasoning": {"content": "Four.", "reasoning_content": THOUGHT},
    "call": {"tool_calls": [RICH]},
    "code": {"tool_calls": [CODE]},
    "bare call": {"tool_calls": [call("measure")]},
    "calls": {"tool_calls": [call("measure", boat="Anna"), call("weigh_2", boat="Bert")]},
    "content and call": {"content": "I measure.", "tool_calls": [call("measure", boat="Anna")]},
    "reasoning and call": {"reasoning_content": THOUGHT, "tool_calls": [call("measure", boat="Anna")]},
}


@dataclass(frozen=True)
class Made:
    """A tokenizer, and what the server derives from its chat template."""

    tokenizer: Any
    special: SpecialTokens
    template: ChatTemplate
    prompt: Prompt

    def bare(self, text: str) -> str:
        """Return a text without special tokens."""
        return without_special(self.special.mark(text))


@cache
def made(name: str, root: Path) -> Made:
    """Make a tokenizer with a template, once."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make_family_tokenizer(root / name, ALL[name]))
    special = SpecialTokens(tokenizer)
    template = ChatTemplate(tokenizer, special, tokenizer.convert_tokens_to_ids(list(ALL[name].stops)))
    return Made(tokenizer, special, template, template.prompt([QUESTION], None if name in NO_TOOLS else TOOLS, {}))


def answer(name: str, root: Path, message: dict[str, Any]) -> str | None:
    """Return the text that training teaches for a message, up to the stop token; None if the row is refused."""
    fields = {key: value for key, value in message.items() if key != "content"}
    if "reasoning_content" in fields:
        fields |= {"reasoning": fields["reasoning_content"], "thinking": fields["reasoning_content"]}
    turns = (Message("user", QUESTION["content"]), Message("assistant", message.get("content", ""), fields))
    tools = None if name in NO_TOOLS else tuple(TOOLS)
    try:
        conversation = Conversation(turns, tools, "rows.jsonl:1")
        (turn,) = Renderer(made(name, root).tokenizer, ALL[name].stops).turns(conversation, conversation.answers)
    except InvalidDataError:
        return None
    ends = [place for stop in ALL[name].stops if (place := turn.rest.find(stop)) >= 0]
    return turn.rest[: min(ends, default=len(turn.rest))]


def parsed(name: str, root: Path, text: str, *, pieces: random.Random | None = None) -> tuple[str, str, list[Any]]:
    """Return content, reasoning and calls of an answer that arrives in pieces."""
    one = made(name, root)
    form, within = one.prompt.form, one.prompt.within_reasoning
    parser = AnswerParser(form, one.special, within_reasoning=within, tools=TOOLS)
    rest, parts = one.special.mark(text), []
    while rest:
        size = pieces.choice((1, 1, 2, 3, 7, 30)) if pieces else len(rest)
        parts += parser.feed(rest[:size])
        rest = rest[size:]
    parts += parser.finish()
    return (
        "".join(part.text for part in parts if isinstance(part, Content)),
        "".join(part.text for part in parts if isinstance(part, Reasoning)),
        [(part.name, json.loads(part.arguments)) for part in parts if isinstance(part, ToolCall)],
    )
