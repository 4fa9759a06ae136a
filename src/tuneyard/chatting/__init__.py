"""Chatting with served models: a single question, a conversation, or base and tuned model side by side.

The room's public face; the rest is private. It knows an endpoint's URL and key and OpenAI's protocol, nothing of runs
or of how models are served. `openai` and `rich` are imported with the first question.
"""

from tuneyard.chatting.client import AnswerStream, Message, ask, ask_both, chat_stream
from tuneyard.chatting.conversation import Conversation
from tuneyard.chatting.endpoint import Endpoint, connect
from tuneyard.chatting.once import Answers, read_question, run_once
from tuneyard.chatting.session import run_chat

__all__ = [
    "AnswerStream",
    "Answers",
    "Conversation",
    "Endpoint",
    "Message",
    "ask",
    "ask_both",
    "chat_stream",
    "connect",
    "read_question",
    "run_chat",
    "run_once",
]
