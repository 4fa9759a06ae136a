"""Conversations, and how they are shown and saved."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from tuneyard.chatting import Conversation, Endpoint, read_question
from tuneyard.chatting.display import in_turn, printable, two_answers
from tuneyard.errors import NotFoundError, UsageError


def test_conversation_grows_by_questions_and_answers():
    talk = Conversation("Be brief.")
    assert talk.ask("One?") == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}]
    talk.answer("Yes.")
    assert [message["role"] for message in talk.ask("Two?")] == ["system", "user", "assistant", "user"]


def test_empty_answer_removes_the_question():
    talk = Conversation()
    talk.ask("One?")
    talk.answer("")
    assert talk.messages == []


def test_reset_keeps_the_system_message():
    talk = Conversation("Be brief.")
    talk.ask("One?")
    talk.answer("Yes.")
    talk.reset()
    assert talk.messages == [{"role": "system", "content": "Be brief."}]


def test_messages_are_a_copy():
    talk = Conversation()
    talk.ask("One?")[0]["content"] = "changed"
    assert talk.messages[0]["content"] == "One?"


def test_saved_conversation_is_a_line_of_training_data(tmp_path):
    talk = Conversation()
    talk.ask("Größe?")
    talk.answer("Klein.")
    for _ in range(2):
        talk.save(tmp_path / "kept.jsonl")
    lines = (tmp_path / "kept.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["messages"] for line in lines] == [talk.messages] * 2


def test_control_characters_are_removed():
    assert printable("a\x1b[2Jb\x07\tc\nd\x9b") == "a[2Jb\tc\nd"


def shown(width: int) -> str:
    out = Console(file=io.StringIO(), width=width, force_terminal=False)
    out.print(two_answers({"base": "left [bold]words[/]", "tuned": "right words"}, width=width))
    return out.file.getvalue()


def test_two_answers_are_side_by_side_on_a_wide_terminal():
    lines = shown(100).splitlines()
    assert any("left [bold]words[/]" in line and "right words" in line for line in lines)


def test_two_answers_are_stacked_on_a_narrow_terminal():
    lines = shown(60).splitlines()
    left, right = (next(at for at, line in enumerate(lines) if word in line) for word in ("left", "right"))
    assert left < right
    assert any("base" in line for line in lines[:left])


def test_answers_on_a_pipe_have_headings():
    assert in_turn({"base": " a\n", "tuned": "b"}) == "## base\n\na\n\n## tuned\n\nb"


def test_base_and_tuned_model_are_found_by_the_model_list():
    endpoint = Endpoint("http://here/v1", "", ("tuned", "other", "base"), {"tuned": "base", "other": "base"})
    assert endpoint.chosen(None, compare=False) == ("tuned",)
    assert endpoint.chosen(None, compare=True) == ("base", "tuned")
    assert endpoint.chosen(["other"], compare=True) == ("base", "other")
    assert endpoint.chosen(["other", "tuned"], compare=True) == ("other", "tuned")


def test_error_for_an_unknown_model_lists_the_names():
    with pytest.raises(NotFoundError, match="serves no model 'x'; it serves tuned, base"):
        Endpoint("http://here/v1", "", ("tuned", "base")).chosen(["x"], compare=False)


def test_server_with_one_model_has_nothing_to_compare():
    with pytest.raises(NotFoundError, match="no base and tuned model to compare"):
        Endpoint("http://here/v1", "", ("full",)).chosen(None, compare=True)


def test_repr_of_an_endpoint_hides_the_key():
    assert "s3cret" not in repr(Endpoint("http://here/v1", "s3cret"))


def test_question_is_read_from_the_argument_or_a_pipe():
    assert read_question(" What? ") == "What?"
    assert read_question(None, io.StringIO("What\nnow?\n")) == "What\nnow?"
    with pytest.raises(UsageError, match="empty"):
        read_question("", io.StringIO("unused"))
