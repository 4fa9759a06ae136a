"""Reading a model's answer: tokens to text, and text to reasoning, content and tool calls, by the chat template.

Knows tokenizers and templates, nothing of requests, models or HTTP. `forms` learns from a template how answers look,
`parsing` takes an answer apart by that form, and `reader` does it token by token.
"""
