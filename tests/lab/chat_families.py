"""Chat templates of real models, each with a tokenizer that has its special tokens, and conversations of every kind.

Most templates are TRL's copies of what the models ship with; those of older models are written here in their form.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from lab.chats import chat
from lab.tiny_models import CHATML, CORPUS, MISTRAL, ZEPHYR
from tuneyard.data import Conversation, Message

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_TOOLS = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{% if tools and loop.index0 == (messages | map(attribute='role') | list)"
    ".index('user') %}{{ '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST]' + message['content'] + '[/INST]' }}"
    "{% elif message['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]' }}"
    "{% elif message['role'] == 'tool' %}{{ '[TOOL_RESULTS]' + message['content'] + '[/TOOL_RESULTS]' }}"
    "{% elif message['tool_calls'] %}{{ message['content'] }}{% for call in message['tool_calls'] %}"
    "{{ '[TOOL_CALLS]' + call['function']['name'] + '[ARGS]' + call['function']['arguments'] | tojson }}{% endfor %}"
    "{{ eos_token }}{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        template: The chat template, or the name of TRL's file of it.
        stops: The tokens a server of it stops at.
        special: Further tokens of its own.
        bos: What a text begins with; empty where nothing is added.
        refused: Kinds of conversations that it has no form for.
    """

    template: str
    stops: tuple[str, ...]
    special: tuple[str, ...] = ()
    bos: str = ""
    refused: frozenset[str] = frozenset()

    @property
    def source(self) -> str:
        """Return the template."""
        if not self.template.endswith(".jinja"):
            return self.template
        return (files("trl") / "chat_templates" / self.template).read_text(encoding="utf-8")


_IM = ("<|im_start|>", "<|endoftext|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
_HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>", "<|finetune_right_pad_id|>")
_DEEPSEEK = ("<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>")
_DEEPSEEK += ("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>")
_DEEPSEEK += ("<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>")
_BEGIN, _END = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
_HARMONY = ("<|start|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|end|>", "<|startoftext|>")
_GLM = ("[gMASK]", "<sop>", "<|system|>", "<|assistant|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
_COHERE = ("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>")
NO_TOOLS = frozenset({"tools", "tools as text"})
THINKING = frozenset({"thinking"})  # their field is `reasoning_content`; what they would lose is refused
TURNS_ONLY = NO_TOOLS | {"system"}

FAMILIES = {
    "chatml": Family(CHATML, ("<|im_end|>",), ("<|im_start|>",), refused=NO_TOOLS),
    "llama-2": Family(LLAMA2, ("</s>",), bos="<s>", refused=NO_TOOLS),
    "llama-3": Family("llama3.jinja", ("<|eot_id|>",), _HEADERS, "<|begin_of_text|>", refused=NO_TOOLS),
    "llama-3.1": Family("llama3_1.jinja", ("<|eot_id|>", "<|eom_id|>"), _HEADERS, "<|begin_of_text|>"),
    "llama-3.2": Family("llama3_2.jinja", ("<|eot_id|>", "<|eom_id|>"), _HEADERS, "<|begin_of_text|>"),
    "mistral": Family(MISTRAL, ("</s>",), bos="<s>", refused=TURNS_ONLY),
    "mistral-tools": Family(MISTRAL_TOOLS, ("</s>",), ("[INST]", "[/INST]", "[TOOL_CALLS]", "[ARGS]"), "<s>"),
    "gemma": Family("gemma.jinja", ("<end_of_turn>",), ("<start_of_turn>",), "<bos>", refused=TURNS_ONLY),
    "gemma-3": Family("gemma3.jinja", ("<end_of_turn>",), ("<start_of_turn>",), "<bos>", refused=NO_TOOLS),
    "phi-3": Family(
        "phi3.jinja", ("<|end|>", "<|endoftext|>"), ("<|user|>", "<|assistant|>", "<|system|>"), refused=NO_TOOLS
    ),
    "zephyr": Family(ZEPHYR, ("</s>",), (), refused=NO_TOOLS),
    # renders the arguments of calls as text; servers return them parsed
    "deepseek-v3": Family("deepseekv3.jinja", (_END,), _DEEPSEEK, _BEGIN, refused=NO_TOOLS),
    "deepseek-r1-distill": Family(
        "deepseek_r1_distill.jinja", (_END,), (*_DEEPSEEK, "<think>", "</think>"), _BEGIN, refused=NO_TOOLS
    ),
    # reads `thinking`
    "gpt-oss": Family("gptoss.jinja", ("<|return|>", "<|call|>"), _HARMONY, refused=frozenset({"reasoning"})),
    "qwen-2.5": Family("qwen2_5.jinja", ("<|im_end|>",), _IM),
    "qwen-3": Family("qwen3.jinja", ("<|im_end|>",), _IM, refused=THINKING),
    "qwen-3-2507": Family("qwen3_instruct_2507.jinja", ("<|im_end|>",), _IM),
    "qwen-3.5-think": Family("qwen3_5_think.jinja", ("<|im_end|>",), _IM, refused=THINKING),
    "glm-4-moe": Family("glm4moe.jinja", ("<|endoftext|>", "<|user|>", "<|observation|>"), _GLM, refused=THINKING),
    "cohere": Family("cohere.jinja", ("<|END_OF_TURN_TOKEN|>",), _COHERE, "<BOS_TOKEN>", refused=NO_TOOLS),
    "lfm-2": Family(
        "lfm2.jinja", ("<|im_end|>",), ("<|im_start|>", "<|tool_call_start|>"), "<|startoftext|>", refused=NO_TOOLS
    ),
}


def make_family_tokenizer(folder: Path, family: Family) -> Path:
    """Write a tokenizer with a family's template and tokens, and a generation config with its stop tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokens = list(dict.fromkeys([*family.stops, *family.special, *([family.bos] if family.bos else [])]))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    named = {"eos_token": family.stops[0], "pad_token": family.stops[-1]}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        extra_special_tokens=[token for token in tokens if token not in (*named.values(), family.bos)],
        **named,
        **({"bos_token": family.bos} if family.bos else {}),
    )
    tokenizer.chat_template = family.source
    tokenizer.save_pretrained(folder)
    stops = [int(number) for number in tokenizer.convert_tokens_to_ids(list(family.stops))]
    GenerationConfig(eos_token_id=stops).save_pretrained(folder)
    return folder


def make_family_model(folder: Path, family: Family) -> Path:
    """Write a small random Llama (heads of 64, as vLLM's CPU kernels want) with a family's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    make_family_tokenizer(folder, family)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        dtype="float32",
    )
    kept = (folder / "generation_config.json").read_bytes()
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "generation_config.json").write_bytes(kept)
    return folder


TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "measure",
            "description": "Measures a boat.",
            "parameters": {"type": "object", "properties": {"boat": {"type": "string"}}, "required": ["boat"]},
        },
    },
)


def call(boat: str, *, as_text: bool = False) -> dict[str, object]:
    arguments = {"boat": boat}
    function = {"name": "measure", "arguments": json.dumps(arguments) if as_text else arguments}
    return {"id": "call00001", "type": "function", "function": function}


def tools(*, as_text: bool) -> Conversation:
    return Conversation(
        (
            Message("user", "How long is the Anna?"),
            Message("assistant", "", {"tool_calls": [call("Anna", as_text=as_text)]}),
            Message("tool", "nine metres", {"tool_call_id": "call00001", "name": "measure"}),
            Message("assistant", "It is nine metres long."),
            Message("user", "And the Bert?"),
            Message("assistant", "I don't know that one."),
        ),
        tools=TOOLS,
        where="rows.jsonl:1",
    )


def reasoned(*turns: tuple[str, str, str], field: str = "reasoning_content") -> Conversation:
    messages = [
        message
        for question, thought, answer in turns
        for message in (Message("user", question), Message("assistant", answer, {field: thought}))
    ]
    return Conversation(tuple(messages), where="rows.jsonl:1")


THOUGHTS = (("2+2?", "Two and two.", "Four."), ("3+3?", "Three and three.", "Six."))
CONVERSATIONS = {
    "one turn": chat("What is a yard?", "A place to build boats."),
    "turns": chat("What is a yard?", "A place.", "And a boat?", "Built there.", "And tea?", "A drink."),
    "system": chat("What is a yard?", "A place.", "And a boat?", "Built there.", system="Be brief."),
    "letters": chat("Wie heißt 🛶?", "Ein Kanu 🛶, größer als é.", "日本語?", "はい。\nTwo lines.\n\nThree."),
    "long": chat("Tell me of boats.", "A boat is built in a yard. " * 60, "More?", "No."),
    "tools": tools(as_text=False),
    "tools as text": tools(as_text=True),
    "reasoning": reasoned(*THOUGHTS),
    "thinking": reasoned(*THOUGHTS, field="thinking"),
}


def mixed(count: int, *, refused: frozenset[str], seed: int) -> list[Conversation]:
    """Make conversations of random turns, some with a system message, tool calls or reasoning.

    Args:
        count: How many.
        refused: Kinds that the family has no form for.
        seed: The same seed gives the same conversations.
    """
    rng = random.Random(seed)
    words = ("boat", "yard", "größer", "日本語", "🛶", "{x}", "<b>", "two\nlines", "tea.", "é", "'s", "42", "  wide")

    def text() -> str:
        return " ".join(rng.choices(words, k=rng.randint(1, 9)))

    made: list[Conversation] = []
    for number in range(count):
        messages = [Message("system", text())] if "system" not in refused and rng.random() < 0.3 else []
        with_tools = "tools" not in refused and rng.random() < 0.4
        for _ in range(rng.randint(1, 4)):
            messages.append(Message("user", text()))
            if with_tools and rng.random() < 0.5:
                messages.append(Message("assistant", "", {"tool_calls": [call(text(), as_text=rng.random() < 0.5)]}))
                messages.append(Message("tool", text(), {"tool_call_id": "call00001", "name": "measure"}))
            reasons = "reasoning" not in refused and rng.random() < 0.4
            messages.append(Message("assistant", text(), {"reasoning_content": text()} if reasons else {}))
        made.append(
            Conversation(tuple(messages), tools=TOOLS if with_tools else None, where=f"rows.jsonl:{number + 1}")
        )
    return made
