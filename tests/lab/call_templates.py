"""Chat templates with forms of tool calls and reasoning that no template of `chat_families` has.

Each follows the form of the model that it is named after: the tools, the messages, and the assistant's calls.
"""

from __future__ import annotations

from lab.chat_families import Family


def _template(calls: str, *, content: str = "{{ message['content'] }}", end: str = "<|end|>") -> str:
    return (
        "{% if tools %}{{ '<|tools|>' + tools | tojson }}{% endif %}{% for message in messages %}"
        "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' }}"
        + content
        + "{% if message['tool_calls'] %}"
        + calls
        + "{% endif %}{{ '"
        + end
        + "' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )


def _each(call: str, between: str = "") -> str:
    separator = f"{{% if not loop.last %}}{{{{ '{between}' }}}}{{% endif %}}" if between else ""
    return (
        "{% for tool_call in message['tool_calls'] %}{% set call = tool_call['function'] %}"
        + call
        + separator
        + "{% endfor %}"
    )


_JSON = """{{ '{"name": "' + call['name'] + '", "arguments": ' + call['arguments'] | tojson + '}' }}"""
_PYTHON = (
    "{{ call['name'] + '(' }}{% for key, value in call['arguments'].items() %}{{ key + '=' + value | tojson }}"
    "{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ')' }}"
)


def _pairs(before: str, pair: str, after: str) -> str:
    loop = "{% for key, value in call['arguments'].items() %}"
    return f"{{{{ {before} }}}}{loop}{{{{ {pair} }}}}{{% endfor %}}{{{{ {after} }}}}"


_WITHOUT_CALLS = "{% if not message['tool_calls'] %}{{ message['content'] }}{% endif %}"
_IF_ANY = "{{% if message['content'] %}}{{{{ '{}' + message['content'] + '{}' }}}}{{% endif %}}"
_VALUE = "(value if value is string else value | tojson)"
_THINK = (
    "{% if message['reasoning_content'] %}{{ '<think>\n' + message['reasoning_content'] + '\n</think>\n' }}{% endif %}"
)


def _family(template: str, *special: str) -> Family:
    return Family(template, ("<|end|>",), ("<|assistant|>", "<|user|>", *special))


CALLS = {
    # [TOOL_CALLS] [{"name": …, "arguments": …, "id": …}]
    "mistral-nemo": _family(
        _template(
            "{{ '[TOOL_CALLS] [' }}"
            + _each(
                "{% if tool_call['id'] | length != 9 %}{{ raise_exception('nine letters and digits') }}{% endif %}"
                "{{ (call | tojson)[:-1] + ', \"id\": \"' + tool_call['id'] + '\"}' }}",
                ", ",
            )
            + "{{ ']' }}"
        ),
        "[TOOL_CALLS]",
    ),
    "xlam": _family(_template("{{ '[' }}" + _each(_JSON, ", ") + "{{ ']' }}", content=_WITHOUT_CALLS)),
    "granite": _family(_template("{{ '<|tool_call|>[' }}" + _each(_JSON, ", ") + "{{ ']' }}"), "<|tool_call|>"),
    "phi-4-mini": _family(
        _template("{{ '<|tool_call|>[' }}" + _each(_JSON, ", ") + "{{ ']<|/tool_call|>' }}"),
        "<|tool_call|>",
        "<|/tool_call|>",
    ),
    "minimax-m1": _family(_template("{{ '<tool_calls>\n' }}" + _each(_JSON, "\n") + "{{ '\n</tool_calls>' }}")),
    "cohere-r7b": _family(
        _template(
            "{{ '<|START_ACTION|>[\n' }}"
            + _each(
                """{{ '    {"tool_call_id": "' + loop.index0 | string + '", "tool_name": "' + call['name'] }}"""
                """{{ '", "parameters": ' + call['arguments'] | tojson + '}' }}""",
                ",\n",
            )
            + "{{ '\n]<|END_ACTION|>' }}",
            content=_IF_ANY.format("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        ),
        "<|START_ACTION|>",
        "<|END_ACTION|>",
    ),
    "deepseek-v3.1": _family(
        _template(
            "{{ '<calls>' }}"
            + _each("{{ '<call>' + call['name'] + '<sep>' + call['arguments'] | tojson + '</call>' }}")
            + "{{ '</calls>' }}"
        ),
        "<calls>",
        "<call>",
        "<sep>",
        "</call>",
        "</calls>",
    ),
    "hunyuan": _family(
        _template(
            "{{ '<tool_calls>\n' }}"
            + _each(
                "{{ '<tool_call>' + call['name'] + '<tool_sep>\n```json\n' + call['arguments'] | tojson }}"
                "{{ '\n```</tool_call>\n' }}"
            )
            + "{{ '</tool_calls>' }}",
            content=_THINK
            + "{% if message['content'] %}{{ '<answer>\n' + message['content'] + '\n</answer>' }}{% endif %}",
        )
    ),
    "functionary": _family(
        _template(_each("{{ '<function=' + call['name'] + '>' + call['arguments'] | tojson + '</function>' }}"))
    ),
    "apertus": _family(
        _template(
            "{{ '<|tools_prefix|>[' }}"
            + _each("{{ '{\"' + call['name'] + '\": ' + call['arguments'] | tojson + '}' }}", ", ")
            + "{{ ']<|tools_suffix|>' }}"
        ),
        "<|tools_prefix|>",
        "<|tools_suffix|>",
    ),
    "minimax-m2": _family(
        _template(
            "{{ '\n<minimax:tool_call>\n' }}"
            + _each(
                _pairs(
                    "'<invoke name=\"' + call['name'] + '\">\n'",
                    f"'<parameter name=\"' + key + '\">' + {_VALUE} + '</parameter>\n'",
                    "'</invoke>\n'",
                )
            )
            + "{{ '</minimax:tool_call>' }}",
            content=_THINK + "{{ message['content'] }}",
        )
    ),
    "seed-oss": _family(
        _template(
            _each(
                _pairs(
                    "'\n<seed:tool_call>\n<function=' + call['name'] + '>\n'",
                    f"'<parameter=' + key + '>' + {_VALUE} + '</parameter>\n'",
                    "'</function>\n</seed:tool_call>'",
                )
            ),
            content=_THINK.replace("think>", "seed:think>") + "{{ message['content'] }}",
        )
    ),
    "llama-4": _family(_template("{{ '[' }}" + _each(_PYTHON, ", ") + "{{ ']' }}", content=_WITHOUT_CALLS)),
    "olmo-3": _family(_template("{{ '<function_calls>\n' }}" + _each(_PYTHON, "\n") + "{{ '\n</function_calls>' }}")),
    "magistral": _family(
        _template(
            _each("{{ '[TOOL_CALLS]' + call['name'] + '[ARGS]' + call['arguments'] | tojson }}"),
            content="{% if message['reasoning_content'] %}{{ '[THINK]' + message['reasoning_content'] + '[/THINK]' }}"
            "{% endif %}{{ message['content'] }}",
        ),
        "[TOOL_CALLS]",
        "[ARGS]",
        "[THINK]",
        "[/THINK]",
    ),
}
"""Templates by the model whose form they have."""
