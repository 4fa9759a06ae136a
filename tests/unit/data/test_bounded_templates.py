"""Endless chat templates are stopped, and all others render as in transformers."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lab.chat_families import CONVERSATIONS, FAMILIES, TOOLS, make_family_tokenizer
from lab.chats import DataConf, chat
from tuneyard.data import ChatEncoder, TemplateLimitError, bound_template, load_tokenizer, template_messages
from tuneyard.data.bounded import TemplateProcess
from tuneyard.errors import InvalidDataError

MESSAGES = [{"role": "user", "content": "What is a yard?"}, {"role": "assistant", "content": "A place."}]
DOUBLING = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
BOMBS = {
    "a long range": "{% for i in range(10**9) %}a{% endfor %}",
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a list that grows while it is read": "{% set l = [1] %}{% for i in l %}{{ l.append(i) }}{% endfor %}",
    "calls of itself": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "a text that doubles": DOUBLING + "{{ ns.x }}",
    "a text that doubles unseen": DOUBLING,
    "a text times a number": "{{ 'ab' * 10**11 }}",
    "a list times a number": "{{ [0] * 10**11 }}",
    "more memory than there may be, and none of it shown": "{% set x = messages[0]['role'] * (9 ** 8) %}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "a power that is not shown": "{% set x = 7 ** (10**10) %}",
    "a wide format": "{{ '%1000000000000d' % 1 }}",
    "a wide format of another kind": "{{ '{:>100000000000}'.format(1) }}",
    "a wide margin": "{{ 'a' | center(10**11) }}",
    "deep margins": "{{ ('a\n' * 10**6) | indent(10**6) }}",
    "a replacement that grows": "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}",
    "a join that grows": "{{ (['a' * 10**6] * 10**6) | join }}",
    "a long text": "{{ 'abcdefgh' * 10**6 }}",
    "numbers multiplied": DOUBLING.replace("'ab'", "10").replace("~", "*"),
    "only for one question": "{% if 'yard' in messages[0]['content'] %}{{ 'a' * 10**11 }}{% endif %}",
}


@pytest.fixture(scope="module")
def process() -> Iterator[TemplateProcess]:
    made = TemplateProcess(seconds=1.0, memory_bytes=128 * 1024 * 1024, characters=4_000_000)
    yield made
    made.close()


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=list(BOMBS))
def test_an_endless_template_is_stopped_and_the_next_one_is_rendered(process: TemplateProcess, bomb: str) -> None:
    before = psutil.Process().memory_info().rss
    (outcome,) = process.render(MESSAGES, [(2, False)], chat_template=bomb)
    assert isinstance(outcome, TemplateError), len(outcome)
    known = (BOMBS["a long range"], BOMBS["a list that grows while it is read"])
    if bomb not in known:  # what jinja's own sandbox knows
        assert isinstance(outcome, TemplateLimitError), outcome
        assert "exceeds the limit of " in str(outcome)
    assert psutil.Process().memory_info().rss - before < 64 * 1024 * 1024
    good = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert process.render(MESSAGES, [(2, False), (1, False)], chat_template=good) == [
        "What is a yard?A place.",
        "What is a yard?",
    ]


def test_a_template_sees_no_key_of_this_process(process: TemplateProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("HF_TOKEN", "canary")
    process.close()
    process.render(MESSAGES, [(1, False)], chat_template="x")
    assert process._process is not None
    environ = psutil.Process(process._process.pid).environ()
    assert "canary" not in environ.values()
    assert environ["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_bound_tokenizer_renders_as_transformers_does(tmp_path: Path, name: str) -> None:
    folder = make_family_tokenizer(tmp_path, FAMILIES[name])
    plain: Any = AutoTokenizer.from_pretrained(folder)
    bound: Any = AutoTokenizer.from_pretrained(folder)
    bound_template(bound)
    compared = 0
    for kind, conversation in CONVERSATIONS.items():
        if kind in FAMILIES[name].refused:
            continue
        messages = template_messages(message.as_dict() for message in conversation.messages)
        for options in (
            {"tokenize": False},
            {"tokenize": False, "add_generation_prompt": True},
            {"tokenize": True, "add_generation_prompt": True, "return_dict": False},
            {"return_tensors": "pt", "return_dict": True, "add_generation_prompt": True, "enable_thinking": False},
        ):
            tools = None if conversation.tools is None else list(conversation.tools)
            one, other = (each.apply_chat_template(messages, tools=tools, **options) for each in (plain, bound))
            if isinstance(one, str | list):
                assert one == other
            else:
                assert one.keys() == other.keys()
                assert all((one[key] == other[key]).all() for key in one)
            compared += 1
    assert compared >= 16


def test_a_templates_own_error_is_raised(tmp_path: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(make_family_tokenizer(tmp_path, FAMILIES["llama-2"]))
    bound_template(tokenizer)
    with pytest.raises(TemplateError, match="Conversation roles must alternate"):
        tokenizer.apply_chat_template([MESSAGES[1]])
    for wrong in ("{{", "{{ undefined.x.y }}", "{{ messages[7]['content'] }}", "{{ messages.__class__.__mro__ }}"):
        with pytest.raises(TemplateError):
            tokenizer.apply_chat_template(MESSAGES, chat_template=wrong, tokenize=False)
    with pytest.raises(ValueError, match="empty conversation"):
        tokenizer.apply_chat_template([])
    with pytest.raises(ValueError, match="assistant_tokens_mask is not supported"):
        tokenizer.apply_chat_template(MESSAGES, return_assistant_tokens_mask=True)
    continued = tokenizer.apply_chat_template(MESSAGES, continue_final_message=True, tokenize=False)
    assert continued.endswith("A place.")


def test_a_model_s_tokenizer_is_bound_when_it_is_loaded(tokenizer_folder: Any) -> None:
    tokenizer: Any = load_tokenizer(tokenizer_folder("chatml"), DataConf())
    with pytest.raises(TemplateLimitError, match="512 MiB of memory"):
        tokenizer.apply_chat_template(MESSAGES, chat_template=BOMBS["a text times a number"], tokenize=False)
    with pytest.raises(InvalidDataError, match="512 MiB of memory"):
        tokenizer.chat_template = BOMBS["a text times a number"]
        ChatEncoder(tokenizer).encode(chat("a yard?", "A place."))


class Counting(TemplateProcess):
    """Counts how often the process is started."""

    starts = 0

    def _start(self) -> None:
        type(self).starts += 1
        super()._start()


def test_a_stopped_template_is_not_run_for_every_row(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_family_tokenizer(tmp_path, FAMILIES["chatml"]))
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    tokenizer.chat_template = BOMBS["loops in loops"]
    counting = Counting(seconds=0.3)
    encoder = ChatEncoder(tokenizer, process=counting)
    for _ in range(20):
        with pytest.raises(InvalidDataError, match=r"refused by the chat template: the chat template exceeds"):
            encoder.encode(chat("a yard?", "A place."))
    assert Counting.starts == 1
    counting.close()


def test_a_conversation_is_sent_once_for_all_its_answers(tmp_path: Path) -> None:
    requested: list[int] = []

    class Noting(TemplateProcess):
        def render(self, messages: Any, cuts: Any, **rest: Any) -> list[str | TemplateError]:
            requested.append(len(cuts))
            return super().render(messages, cuts, **rest)

    noting = Noting()
    tokenizer: Any = AutoTokenizer.from_pretrained(make_family_tokenizer(tmp_path, FAMILIES["chatml"]))
    encoder = ChatEncoder(tokenizer, process=noting)
    encoder.encode(CONVERSATIONS["turns"])
    assert requested == [6]
    noting.close()


def test_a_bound_tokenizer_may_be_copied_pickled_and_saved(tmp_path: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(make_family_tokenizer(tmp_path / "one", FAMILIES["chatml"]))
    before = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    bound_template(tokenizer)
    for other in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert other.apply_chat_template(MESSAGES, tokenize=False) == before
    tokenizer.save_pretrained(tmp_path / "two")
    assert AutoTokenizer.from_pretrained(tmp_path / "two").chat_template == FAMILIES["chatml"].source


def test_many_threads_and_a_fork_get_their_own_texts() -> None:
    process = TemplateProcess()
    template = "{{ messages[0]['content'] }}"

    def render(number: int) -> bool:
        text = f"{number} " * 500
        return process.render([{"role": "user", "content": text}], [(1, False)], chat_template=template) == [text]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(render, range(200)))
    assert threading.active_count() < 50
    child = os.fork()
    if child == 0:
        os._exit(0 if all(map(render, range(20))) else 1)
    assert all(map(render, range(100, 120)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    process.close()


def test_tools_and_odd_values_of_rows_reach_the_template() -> None:
    import datetime

    process = TemplateProcess()
    row = [{"role": "user", "content": "a", "when": datetime.date(2020, 1, 2), "text": "\ud800\x85 <b>"}]
    template = "{{ messages[0]['when'] }} {{ messages[0]['text'] | length }} {{ tools[0]['function']['name'] }}"
    assert process.render(row, [(1, True)], chat_template=template, tools=list(TOOLS)) == ["2020-01-02 6 measure"]
    process.close()
