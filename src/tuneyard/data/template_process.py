"""`python -m tuneyard.data.template_process`: renders untrusted chat templates, within limits. See `bounded`.

One request a line on standard input, as JSON: messages, and how many of them to render, each with a generation prompt
or without. One response a line on standard output, with a text or a reason for each. The kernel ends the process if a
text takes too much processor time, so no template can prevent it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any


def main(seconds: float, memory_bytes: int, characters: int) -> None:
    """Answer requests until there are no more.

    Args:
        seconds: Processor time for one text.
        memory_bytes: Memory in addition to that of the libraries.
        characters: The longest text.
    """
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # a library's output must not be read as a response
    _limit_memory(memory_bytes)
    print("ready", file=answers, flush=True)

    def render(messages: list[Any], prompt: bool, rest: dict[str, Any]) -> dict[str, str]:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            (text,), _ = render_jinja_template(conversations=[messages], add_generation_prompt=prompt, **rest)
            return {"text": text} if len(text) <= characters else {"limit": f"{characters} characters"}
        except (MemoryError, RecursionError) as error:
            return {
                "limit": f"{memory_bytes >> 20} MiB of memory" if isinstance(error, MemoryError) else "nested calls"
            }
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            return {"error": str(error)[:10_000]}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    for line in sys.stdin:
        messages, cuts, now, rest = json.loads(line)
        if now is not None:  # an argument takes precedence over transformers' function of that name
            rest = {**rest, "strftime_now": datetime.fromisoformat(now).strftime}
        print(json.dumps([render(messages[:count], prompt, rest) for count, prompt in cuts]), file=answers, flush=True)


def _limit_memory(more: int) -> None:
    with suppress(OSError, ValueError):  # macOS has neither this limit nor /proc
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + more, size + more))


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
