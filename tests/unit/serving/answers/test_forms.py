"""The form of answers, learned from chat templates: what a model learns to write, the parser gives back.

The oracle is training: what it teaches a model to write for a message has to come back out of the text as that message.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lab.answers import ALL, MESSAGES, NO_CALLS, NO_REASONING, answer, made, parsed


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forms")


# What a template itself gets wrong, so that nobody can read it back.
LOST = {
    ("gpt-oss", "calls"): "renders the first call alone",
    ("gpt-oss", "content and call"): "renders content beside a call as reasoning",
    ("muse_glimmer", "content and call"): "renders no content beside a call",
    ("llama-3.1", "content and call"): "renders no content beside a call",
    ("llama-3.2", "content and call"): "renders no content beside a call",
    ("xlam", "content and call"): "renders no content beside a call",
    ("llama-4", "content and call"): "renders no content beside a call",
    ("lfm2_2_5", "code"): "writes quotes and line ends into Python's quotes as they are",
    ("lfm2_v2", "code"): "writes quotes and line ends into Python's quotes as they are",
    ("gemma4", "reasoning"): "renders reasoning beside calls alone",
}
REFUSED = {("llama-3.1", "calls"), ("llama-3.2", "calls")}


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("name", ALL)
def test_parsing_inverts_what_training_renders(root: Path, name: str, kind: str) -> None:
    message = MESSAGES[kind]
    text = answer(name, root, message)
    without = "tool_calls" in message and name in NO_CALLS - {"deepseek-r1-distill"}
    assert (text is None) == (without or (name, kind) in REFUSED)
    if text is None:
        return
    content, reasoning, calls = parsed(name, root, text)
    if (name, kind) not in LOST:
        wanted = [(one["function"]["name"], one["function"]["arguments"]) for one in message.get("tool_calls", ())]
        assert calls == ([] if name in NO_CALLS else wanted)
        assert reasoning == ("" if name in NO_REASONING else message.get("reasoning_content", ""))
        assert content.strip() == message.get("content", "").strip()
    for seed in range(5):
        assert parsed(name, root, text, pieces=random.Random(seed)) == (content, reasoning, calls), seed


def test_every_template_with_calls_or_reasoning_has_a_form_for_it(root: Path) -> None:
    """The two lists above are what is true, and most templates are in neither."""
    forms = {name: made(name, root).prompt.form for name in ALL}
    assert {name for name, form in forms.items() if form.calls is None} == NO_CALLS
    assert {name for name, form in forms.items() if form.reasoning is None} == NO_REASONING
    assert len(ALL) >= 45
