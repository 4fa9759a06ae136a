"""The chat against a real server: questions, streams, history, comparison, and its errors."""

from __future__ import annotations

import io
import json
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from rich.console import Console

from tuneyard.chatting import Conversation, Endpoint, ask, ask_both, chat_stream, run_chat, run_once
from tuneyard.chatting.endpoint import connect, open_client
from tuneyard.errors import DeniedError, InvalidDataError, NotFoundError, UnavailableError, UsageError
from tuneyard.serving.readiness import wait_ready

QUESTION = [{"role": "user", "content": "What is a yard?"}]
SHORT = {"max_tokens": 8, "temperature": 0.0}


@dataclass
class Launched:
    """The state of a launched server."""

    url: str | None
    api_key_file: str | None


def console(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=False)


def typed(*lines: str):
    """A terminal at which these lines are typed, and then Ctrl-D."""
    rest = iter(lines)

    def read(prompt: str) -> str:
        try:
            line = next(rest)
        except StopIteration:
            raise EOFError from None
        if line == "^C":
            raise KeyboardInterrupt
        return line

    return read


def test_endpoint_lists_tuned_models_first(server, tmp_path):
    (tmp_path / "key").write_text(server.key + "\n")
    endpoint = Endpoint.of(Launched(server.url, str(tmp_path / "key")))
    assert endpoint.models == ("tuned", "brief", "other", "tiny")
    assert endpoint.bases["tuned"] == "tiny"
    with pytest.raises(UsageError, match="not a server"):
        Endpoint.of(Launched(None, None))


def test_answer_and_its_stream_are_the_same(endpoint):
    whole = ask(endpoint, "tiny", QUESTION, **SHORT)
    with open_client(endpoint) as client:
        pieces = list(chat_stream(client, "tiny", QUESTION, **SHORT))
    assert "".join(pieces) == whole
    assert len(pieces) > 1


def test_base_and_tuned_answers_to_the_same_messages_differ(endpoint):
    answers = ask_both(endpoint, QUESTION, **SHORT)
    assert [*answers] == ["tiny", "tuned"]
    assert answers == {name: ask(endpoint, name, QUESTION, **SHORT) for name in answers}
    assert len(set(answers.values())) == 2


def test_single_question_writes_only_the_answer(endpoint):
    out = console()
    answers = run_once(endpoint, "What is a yard?", ["tiny"], console=out, **SHORT)
    assert answers == {"tiny": ask(endpoint, "tiny", QUESTION, **SHORT)}
    assert out.file.getvalue() == answers["tiny"] + "\n"


def test_single_question_to_both_writes_both_with_headings(endpoint):
    out = console()
    answers = run_once(endpoint, "What is a yard?", compare=True, console=out, **SHORT)
    text = out.file.getvalue()
    assert text.index("## tiny") < text.index("## tuned")
    assert answers == ask_both(endpoint, QUESTION, **SHORT)


def test_note_about_a_cut_answer_goes_to_standard_error(endpoint, caplog):
    out, notes = console(), console()
    answers = run_once(endpoint, "What is a yard?", ["tiny"], console=out, notes=notes, **SHORT)
    assert out.file.getvalue() == answers["tiny"] + "\n"
    assert notes.file.getvalue() == "The answer of 'tiny' was cut off: --max-tokens is 8.\n"
    assert answers.cut == ["tiny"]
    ask(endpoint, "tiny", QUESTION, **SHORT)
    assert "was cut" in caplog.text


def test_each_cut_answer_of_a_comparison_has_a_note(endpoint):
    notes = console()
    answers = run_once(endpoint, "What is a yard?", compare=True, console=console(), notes=notes, **SHORT)
    assert answers.cut == ["tiny", "tuned"]
    assert notes.file.getvalue().count("was cut") == 2


def test_complete_answer_has_no_note(endpoint, caplog):
    out, notes = console(), console()
    answers = run_once(endpoint, "What is a yard?", ["brief"], console=out, notes=notes, **SHORT)
    run_chat(endpoint, ["brief"], console=out, read_line=typed("What is a yard?"), **SHORT)
    ask(endpoint, "brief", QUESTION, **SHORT)
    assert answers.cut == []
    assert "was cut" not in notes.file.getvalue() + out.file.getvalue() + caplog.text


def test_conversation_shows_that_an_answer_was_cut(endpoint):
    out = console()
    run_chat(endpoint, ["tiny"], console=out, read_line=typed("What is a yard?"), **SHORT)
    assert "The answer of 'tiny' was cut off: --max-tokens is 8." in out.file.getvalue()
    out = console(300)
    run_chat(endpoint, compare=True, console=out, read_line=typed("What is a yard?"), **SHORT)
    assert out.file.getvalue().count("was cut") == 2


def test_note_reports_a_full_context(endpoint):
    notes = console()
    nearly = "yard " * 1500
    run_once(endpoint, nearly, ["other"], console=console(), notes=notes, temperature=0.0)
    assert notes.file.getvalue() == "The answer of 'other' was cut off: the model's context is full.\n"


def test_quiet_writes_nothing(endpoint, capsys):
    assert run_once(endpoint, "What is a yard?", quiet=True, **SHORT)["tuned"]
    assert capsys.readouterr() == ("", "")


def test_reset_clears_the_history(endpoint, tmp_path):
    out, kept = console(), tmp_path / "kept.jsonl"
    lines = ["What is a yard?", "And a boat?", f"/save {kept}", "/reset", "And a boat?", f"/save {kept}", "/exit", "no"]
    run_chat(endpoint, ["tiny"], console=out, read_line=typed(*lines), system="Be brief.", **SHORT)
    first, second = (json.loads(line)["messages"] for line in kept.read_text().splitlines())
    talk = Conversation("Be brief.")
    for question in ("What is a yard?", "And a boat?"):
        talk.answer(ask(endpoint, "tiny", talk.ask(question), **SHORT))
    assert first == talk.messages
    assert [message["role"] for message in second] == ["system", "user", "assistant"]
    assert "no" not in out.file.getvalue().splitlines()


def test_each_model_of_a_comparison_has_its_own_history(endpoint, tmp_path):
    kept = tmp_path / "kept.jsonl"
    lines = ["What is a yard?", "And a boat?", f"/save {kept}"]
    run_chat(endpoint, compare=True, console=console(), read_line=typed(*lines), **SHORT)
    saved = [json.loads(line)["messages"] for line in kept.read_text().splitlines()]
    for name, messages in zip(("tiny", "tuned"), saved, strict=True):
        talk = Conversation()
        for question in ("What is a yard?", "And a boat?"):
            talk.answer(ask(endpoint, name, talk.ask(question), **SHORT))
        assert messages == talk.messages


def test_ctrl_c_at_the_prompt_shows_how_to_exit(endpoint):
    out = console()
    run_chat(endpoint, ["tiny"], console=out, read_line=typed("^C", "/help", "/nonsense"))
    assert "Ctrl-D or /exit exits" in out.file.getvalue()
    assert out.file.getvalue().count("/reset clears") == 2


def test_refused_question_does_not_end_the_conversation(endpoint, tmp_path):
    out, kept = console(), tmp_path / "kept.jsonl"
    lines = ["yard " * 3000, "What is a yard?", f"/save {kept}"]
    run_chat(endpoint, ["tiny"], console=out, read_line=typed(*lines), **SHORT)
    assert "at most 2048" in out.file.getvalue()
    assert len(json.loads(kept.read_text())["messages"]) == 2


def test_wrong_key_is_denied(server):
    with pytest.raises(DeniedError, match="refuses the key") as caught:
        connect(server.url, "wrong")
    assert "api_key_file" in caught.value.hint
    with pytest.raises(DeniedError):
        wait_ready(server.url, "wrong", "tuned", 5)


def test_unknown_model_is_not_found_and_the_names_are_listed(server, endpoint):
    with pytest.raises(NotFoundError, match="it serves tuned, tiny, brief, other"):
        ask(endpoint, "nobody", QUESTION)
    with pytest.raises(NotFoundError, match="it serves tuned, brief, other, tiny"):
        run_once(endpoint, "Hello", ["nobody"])
    with pytest.raises(NotFoundError):
        wait_ready(server.url, server.key, "nobody", 5)


def test_refused_messages_are_invalid_data(endpoint):
    with pytest.raises(InvalidDataError, match=r"messages\.0\.role"):
        ask(endpoint, "tuned", [{"role": "alien", "content": "Hello"}])


def test_missing_server_is_unavailable():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UnavailableError, match="can't be reached") as caught:
        connect(url, "x")
    assert "tuneyard runs" in caught.value.hint
    with pytest.raises(UnavailableError, match=r"did not answer within 0\.3 s"):
        wait_ready(url, "x", "tuned", 0.3)


def test_proxies_of_the_environment_are_not_used_for_loopback(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert "tuned" in connect(server.url, server.key).models
    wait_ready(server.url, server.key, "tuned", 60)


PIECE = b'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "x", "choices": [{"index": 0, "delta": {"content": "so far"}}]}\n\n'  # noqa: E501


@contextmanager
def breaking_off(*sent: bytes):
    """A server that sends the beginning of a stream and is gone."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            client, _ = door.accept()
            with client:
                client.recv(65536)
                client.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                for part in sent:
                    client.sendall(b"%x\r\n%s\r\n" % (len(part), part))

        thread = threading.Thread(target=serve)
        thread.start()
        yield Endpoint(f"http://127.0.0.1:{door.getsockname()[1]}/v1")
        thread.join()


@pytest.mark.parametrize(
    ("sent", "what"), [((PIECE,), "disconnected"), ((PIECE, b"data: {oops\n\n"), "that is not JSON")]
)
def test_pieces_before_a_disconnect_are_kept(sent, what):
    pieces: list[str] = []
    with breaking_off(*sent) as endpoint, open_client(endpoint) as client, pytest.raises(UnavailableError, match=what):
        for piece in chat_stream(client, "x", QUESTION):
            pieces.append(piece)  # noqa: PERF402  (kept one by one: the stream does not end well)
    assert pieces == ["so far"]


def test_interrupted_answer_is_kept_in_the_conversation(tmp_path):
    out, kept = console(), tmp_path / "kept.jsonl"
    with breaking_off(PIECE) as endpoint:
        run_chat(endpoint, ["x"], console=out, read_line=typed("What is a yard?", f"/save {kept}"))
    assert "disconnected in the middle" in out.file.getvalue()
    assert json.loads(kept.read_text())["messages"][1]["content"] == "so far"
