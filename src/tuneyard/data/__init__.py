"""Conversations from files to token ids with a loss mask: read, checked, encoded, split and shown.

The room between what was delivered and what is trained on. It never writes, and loads transformers only where a
tokenizer is asked for.
"""

from tuneyard.data.check import check, encode_files
from tuneyard.data.contract import check_template
from tuneyard.data.conversations import Conversation, Message
from tuneyard.data.encoding import ChatEncoder, Encoded
from tuneyard.data.reading import read_rows
from tuneyard.data.rendering import template_messages
from tuneyard.data.report import DataReport
from tuneyard.data.show import conversation_text, report_table
from tuneyard.data.split import split
from tuneyard.data.tokenizer import load_tokenizer, stop_token_ids

__all__ = [
    "ChatEncoder",
    "Conversation",
    "DataReport",
    "Encoded",
    "Message",
    "check",
    "check_template",
    "conversation_text",
    "encode_files",
    "load_tokenizer",
    "read_rows",
    "report_table",
    "split",
    "stop_token_ids",
    "template_messages",
]
