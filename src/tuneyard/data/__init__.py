"""Conversations and preferences from files to token ids with a loss mask: read, checked, encoded, split and shown.

Between the delivery of data and the training on it. It never writes, and imports transformers only to load a tokenizer.
"""

from tuneyard.data.bounded import SHARED as SHARED_TEMPLATES
from tuneyard.data.bounded import TemplateLimitError, bound_template
from tuneyard.data.check import EncodedRow, check, encode_files
from tuneyard.data.contract import check_template
from tuneyard.data.conversations import Conversation, Message, Preference
from tuneyard.data.encoding import ChatEncoder, Encoded
from tuneyard.data.formats import FORMATS, Format, detect, parse_row
from tuneyard.data.page import report_page
from tuneyard.data.reading import format_of, read_rows
from tuneyard.data.rendering import template_messages
from tuneyard.data.report import DataReport
from tuneyard.data.segments import conversations_of
from tuneyard.data.show import conversation_text, report_table, special_tokens_line
from tuneyard.data.split import split
from tuneyard.data.tokenizer import load_tokenizer, read_tokenizer, stop_token_ids, template_problem

__all__ = [
    "FORMATS",
    "SHARED_TEMPLATES",
    "ChatEncoder",
    "Conversation",
    "DataReport",
    "Encoded",
    "EncodedRow",
    "Format",
    "Message",
    "Preference",
    "TemplateLimitError",
    "bound_template",
    "check",
    "check_template",
    "conversation_text",
    "conversations_of",
    "detect",
    "encode_files",
    "format_of",
    "load_tokenizer",
    "parse_row",
    "read_rows",
    "read_tokenizer",
    "report_page",
    "report_table",
    "special_tokens_line",
    "split",
    "stop_token_ids",
    "template_messages",
    "template_problem",
]
