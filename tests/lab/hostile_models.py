"""Models that try to run code when they are loaded: a tiny real model each, with one change.

Each change is a function of the folder and of a Python program that leaves a canary; nothing here runs it.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Change = Callable[[Path, str], None]


@dataclass(frozen=True)
class HostileModel:
    """A model with one hostile change.

    Attributes:
        name: What it tries.
        change: Makes it out of a good one.
        adapter: Whether it is an adapter, on a good base.
        soak: Whether it is so much like another one that `make soak` is soon enough.
    """

    name: str
    change: Change
    adapter: bool = False
    soak: bool = False


class _Runs:
    """Unpickles as a call of `exec`."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self._code,)


def hostile_models() -> tuple[HostileModel, ...]:
    """Yield every hostile model."""
    made = (
        *_repository_code(),
        *_pickles(),
        *_safetensors(),
        *_settings(),
        *_templates(),
        *_tokenizers(),
        *_adapters(),
    )
    assert len({one.name for one in made}) == len(made)
    return made


def edit(path: Path, **fields: Any) -> None:
    """Change settings in a JSON file; `...` removes one."""
    settings = json.loads(path.read_text()) if path.exists() else {}
    settings = {**settings, **fields}
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not ...}))


def _module(folder: Path, canary: str, name: str) -> None:
    (folder / f"{name}.py").write_text(
        f"{canary}\nfrom transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class EvilConfig(LlamaConfig): model_type = 'evil'\n"
        "class EvilModel(LlamaForCausalLM): config_class = EvilConfig\n"
        "class EvilTokenizer(PreTrainedTokenizerFast): pass\n"
    )


def _repository_code() -> Iterator[HostileModel]:
    maps: dict[str, dict[str, Any]] = {
        "AutoConfig": {"auto_map": {"AutoConfig": "evil.EvilConfig"}},
        "AutoModelForCausalLM": {"auto_map": {"AutoModelForCausalLM": "evil.EvilModel"}},
        "AutoConfig and AutoModelForCausalLM": {
            "auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
        },
        "an unknown model_type": {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig"}},
        "no model_type": {"model_type": ..., "auto_map": {"AutoConfig": "evil.EvilConfig"}},
        "another repository": {"auto_map": {"AutoModelForCausalLM": "org/evil--evil.EvilModel"}},
        "a path": {"auto_map": {"AutoModelForCausalLM": "../evil.EvilModel"}},
        "a whole path": {"auto_map": {"AutoConfig": "/tmp/evil.EvilConfig"}},
        "a list": {"auto_map": ["evil.EvilConfig"]},
        "AutoTokenizer": {"auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}},
        "trust_remote_code": {"trust_remote_code": True, "auto_map": {"AutoModelForCausalLM": "evil.EvilModel"}},
        "trust_remote_code deep inside": {"text_config": {"vision": [{"trust_remote_code": True}]}},
        "custom_generate": {"custom_generate": "org/evil"},
    }
    for what, fields in maps.items():

        def change(folder: Path, canary: str, fields: dict[str, Any] = fields) -> None:
            _module(folder, canary, "evil")
            edit(folder / "config.json", **fields)

        yield HostileModel(f"config.json: {what}", change)

    def generate(folder: Path, canary: str) -> None:
        (folder / "custom_generate").mkdir()
        (folder / "custom_generate" / "generate.py").write_text(f"{canary}\ndef generate(*a, **k): ...\n")

    yield HostileModel("a custom_generate folder", generate)

    def beside(folder: Path, canary: str) -> None:
        for name in ("torch", "json", "sitecustomize", "transformers", "__init__", "conftest", "setup"):
            (folder / f"{name}.py").write_text(canary)

    yield HostileModel("modules with the names of others", beside)


def _torch_zip(body: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", body)
            archive.writestr("archive/version", "3\n")
            archive.writestr("archive/byteorder", "little")

    return write


def _pickles() -> Iterator[HostileModel]:
    names = (
        "pytorch_model.bin", "model.pt", "model.pth", "consolidated.00.pth", "model.ckpt", "weights.pkl", "w.pickle",
        "model.joblib", "w.dill", "training_args.bin", "optimizer.pt", "rng_state.pth",
    )  # fmt: skip
    for name in names:
        for only in (False, True):

            def change(folder: Path, canary: str, name: str = name, only: bool = only) -> None:
                _torch_zip(pickle.dumps(_Runs(canary)))(folder / name)
                if only:
                    (folder / "model.safetensors").unlink()

            beside = "alone" if only else "beside safetensors"
            yield HostileModel(f"a pickle as {name}, {beside}", change, soak=name not in names[:4])

    def plain(folder: Path, canary: str) -> None:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Runs(canary)))
        edit(folder / "config.json", use_safetensors=False)

    yield HostileModel("a plain pickle, and settings that request it", plain)

    def disguised(folder: Path, canary: str) -> None:
        _torch_zip(pickle.dumps(_Runs(canary)))(folder / "model.safetensors")

    yield HostileModel("a pickle called model.safetensors", disguised)

    def indexed(folder: Path, canary: str) -> None:
        _torch_zip(pickle.dumps(_Runs(canary)))(folder / "pytorch_model-00001.bin")
        (folder / "model.safetensors").unlink()
        index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "pytorch_model-00001.bin"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    yield HostileModel("an index of safetensors that names a pickle", indexed)


def _safetensors() -> Iterator[HostileModel]:
    def header(document: bytes, size: int | None = None, rest: bytes = b"\0" * 64) -> bytes:
        return struct.pack("<Q", len(document) if size is None else size) + document + rest

    def tensor(**fields: Any) -> bytes:
        one = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64], **fields}
        return header(json.dumps({"model.embed_tokens.weight": one}).encode())

    bodies = {
        "is empty": b"",
        "has a header of 2^63 bytes": header(b"{}", 2**63),
        "has a header of 2^64-1 bytes": header(b"{}", 2**64 - 1),
        "has a header of 100 MB and ends": header(b"{}", 100_000_000),
        "has a header that is no JSON": header(b"{{{{"),
        "has a header nested deeply": header(b'{"a":' * 50_000),
        "has a negative shape": tensor(shape=[-4, -4]),
        "has a vast shape": tensor(shape=[2**40, 2**40]),
        "has an unknown dtype": tensor(dtype="EVIL"),
        "has offsets beyond its end": tensor(data_offsets=[0, 10**12]),
        "has offsets backwards": tensor(data_offsets=[64, 0]),
        "has negative offsets": tensor(data_offsets=[-64, 0]),
        "has offsets that don't fit": tensor(data_offsets=[0, 8]),
        "has no tensors": header(b"{}", rest=b""),
        "has metadata of another format": header(json.dumps({"__metadata__": {"format": "pickle"}}).encode(), rest=b""),
    }
    for what, body in bodies.items():

        def change(folder: Path, canary: str, body: bytes = body) -> None:
            (folder / "model.safetensors").write_bytes(body)

        yield HostileModel(f"model.safetensors {what}", change)
    for where in (
        "../outside.safetensors",
        "/etc/passwd",
        "..\\x.safetensors",
        "sub/../../x.safetensors",
        "https://x/y",
    ):

        def index(folder: Path, canary: str, where: str = where) -> None:
            (folder / "model.safetensors").rename(folder / "model-1.safetensors")
            weights = {"weight_map": {"model.embed_tokens.weight": where, "model.norm.weight": "model-1.safetensors"}}
            (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, **weights}))

        yield HostileModel(f"an index names {where}", index)


def _settings() -> Iterator[HostileModel]:
    fields: dict[str, dict[str, Any]] = {
        "_attn_implementation_internal is a kernel": {"_attn_implementation_internal": "org/evil-kernel"},
        "_attn_implementation is a kernel": {"_attn_implementation": "org/evil-kernel@main:attention"},
        "attn_implementation is a kernel": {"attn_implementation": "org/evil"},
        "attn_implementation is a map of kernels": {"attn_implementation": {"": "org/evil", "text_config": "org/evil"}},
        "experts_implementation is a kernel": {"experts_implementation": "org/evil"},
        "a kernel in a nested configuration": {"text_config": {"attn_implementation": "org/evil"}},
        "quantised by an unknown method": {
            "quantization_config": {"quant_method": "evil", "auto_map": {"x": "evil.X"}}
        },
        "quantised by a module": {"quantization_config": {"quant_method": "os.system", "load_in_8bit": True}},
        "quantised by torchao's type": {
            "quantization_config": {
                "quant_method": "torchao",
                "quant_type": {"default": {"_type": "os.system", "_data": {}}},
            }
        },
        "an architecture of another module": {"architectures": ["os.system"]},
        "an architecture with dots": {"architectures": ["..evil.EvilModel"]},
        "a model_type that is a path": {"model_type": "../../evil"},
        "a name elsewhere": {"_name_or_path": "/tmp/evil", "name_or_path": "org/evil"},
        "a dtype that is code": {"dtype": "__import__('os').system('x')"},
        "an activation that is code": {"hidden_act": "__import__('os').system('x')"},
        "a rope type that is code": {"rope_scaling": {"rope_type": "os.system", "factor": 2.0}},
        "a negative size": {"hidden_size": -64},
        "no heads": {"num_attention_heads": 0},
    }
    for what, given in fields.items():

        def change(folder: Path, canary: str, given: dict[str, Any] = given) -> None:
            _module(folder, canary, "evil")
            edit(folder / "config.json", **given)

        yield HostileModel(f"config.json: {what}", change)
    bodies = {
        "nested deeply": b'{"a":' * 60_000,
        "no JSON": b"\xff\xfe",
        "a list": b"[]",
        "NaN": b'{"hidden_size": NaN}',
    }
    for what, body in bodies.items():

        def write(folder: Path, canary: str, body: bytes = body) -> None:
            (folder / "config.json").write_bytes(body)

        yield HostileModel(f"config.json is {what}", write)

    def generation(folder: Path, canary: str) -> None:
        _module(folder, canary, "evil")
        edit(folder / "generation_config.json", custom_generate="org/evil", trust_remote_code=True)

    yield HostileModel("generation_config.json names code", generation)


# Jinja that accesses Python's internals; `CANARY` stands for code that leaves the canary.
ESCAPES = {
    "cycler's globals": "{{ cycler.__init__.__globals__.os.system('CANARY') }}",
    "joiner's globals": "{{ joiner.__init__.__globals__['os'].popen('CANARY').read() }}",
    "namespace's globals": "{{ namespace.__init__.__globals__.os.system('CANARY') }}",
    "lipsum's globals": "{{ lipsum.__globals__['os'].popen('CANARY').read() }}",
    "the object's subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "an attribute by filter": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "an attribute by index": "{{ ()['__class__']['__base__']['__subclasses__']() }}",
    "an attribute spelt in hex": "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "a format string": "{{ '{0.__class__.__mro__}'.format('') }}",
    "a format map": "{{ '{x.__class__.__init__.__globals__}'.format_map({'x': cycler}) }}",
    "an indirect format": "{{ ''|attr('format')('{0.__class__}') }}",
    "a kept format": "{% set f = '{0.__class__.__mro__[1]}'.format %}{{ f(1) }}",
    "a map with a format": "{{ ['{0.__class__}']|map('format', '')|list }}",
    "raise_exception's globals": "{{ raise_exception.__globals__['__builtins__'].exec('CANARY') }}",
    "strftime_now's globals": "{{ strftime_now.__globals__['__builtins__']['exec']('CANARY') }}",
    "tojson's code": "{{ tojson.__func__.__code__ }}",
    "self's globals": "{{ self.__init__.__globals__ }}",
    "self's context": "{{ self._TemplateReference__context.cycler.__init__.__globals__.os.system('CANARY') }}",
    "a loop's globals": "{% for x in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "a macro's insides": "{% macro m() %}{{ m.__init__.__globals__ }}{{ caller }}{% endmacro %}{{ m() }}",
    "an import": "{% import 'os' as os %}{{ os.system('CANARY') }}",
    "an include": "{% include '/etc/passwd' %}",
    "an extends": "{% extends 'CANARY' %}",
    "a generator's frame": "{{ (messages|map('upper')).gi_frame.f_globals }}",
    "a change of the messages": "{% set _ = messages.append(1) %}{% set _ = messages[0].update({'content': 'evil'}) %}",
    "a vast range": "{% for x in range(1000000000) %}x{% endfor %}",
    "do and debug": "{% do messages.append(1) %}{% debug %}",
}


def _templates() -> Iterator[HostileModel]:
    rest = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    for what, escape in ESCAPES.items():
        for file in ("tokenizer_config.json", "chat_template.jinja"):

            def change(folder: Path, canary: str, escape: str = escape, file: str = file) -> None:
                body = escape.replace("CANARY", canary.replace("'", '"')) + rest
                (folder / "chat_template.jinja").unlink(missing_ok=True)
                if file == "chat_template.jinja":
                    (folder / file).write_text(body)
                else:
                    edit(folder / file, chat_template=body)

            yield HostileModel(f"{file}: a template by {what}", change, soak=file == "chat_template.jinja")


def _tokenizers() -> Iterator[HostileModel]:
    fields: dict[str, dict[str, Any]] = {
        "auto_map": {"auto_map": {"AutoTokenizer": [None, "evil.EvilTokenizer"]}},
        "auto_map and its class": {
            "auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}, "tokenizer_class": "EvilTokenizer",
        },
        "auto_map of another repository": {"auto_map": {"AutoTokenizer": [None, "org/evil--evil.EvilTokenizer"]}},
        "trust_remote_code": {"trust_remote_code": True, "auto_map": {"AutoTokenizer": [None, "evil.EvilTokenizer"]}},
        "a class that is a path": {"tokenizer_class": "../../evil.EvilTokenizer"},
        "a class of another module": {"tokenizer_class": "os.system"},
        "files elsewhere": {"tokenizer_file": "/etc/passwd", "vocab_file": "/etc/passwd"},
        "a base elsewhere": {"name_or_path": "org/evil", "base_model_name_or_path": "org/evil"},
        "a processor": {"processor_class": "EvilProcessor", "auto_map": {"AutoProcessor": "evil.EvilProcessor"}},
        "tokens that are code": {"eos_token": {"__type": "AddedToken", "content": "__import__('os')"}},
    }  # fmt: skip
    for what, given in fields.items():

        def change(folder: Path, canary: str, given: dict[str, Any] = given) -> None:
            _module(folder, canary, "evil")
            edit(folder / "tokenizer_config.json", **given)

        yield HostileModel(f"tokenizer_config.json: {what}", change)
    for what, body in {"empty": b"{}", "no JSON": b"\xff", "nested deeply": b'{"a":' * 60_000}.items():

        def write(folder: Path, canary: str, body: bytes = body) -> None:
            (folder / "tokenizer.json").write_bytes(body)

        yield HostileModel(f"tokenizer.json is {what}", write)


def _adapters() -> Iterator[HostileModel]:
    fields: dict[str, dict[str, Any]] = {
        "a base elsewhere": {"base_model_name_or_path": "org/evil", "revision": "main"},
        "a base by path": {"base_model_name_or_path": "/tmp/evil"},
        "an auto_mapping": {"auto_mapping": {"base_model_class": "system", "parent_library": "os"}},
        "megatron_core": {"megatron_config": {"a": 1}, "megatron_core": "evil"},
        "X-LoRA, which fetches others": {"peft_type": "XLORA", "adapters": {"0": "org/evil"}},
        "prompt tuning with a tokenizer": {
            "peft_type": "PROMPT_TUNING", "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "x",
            "tokenizer_name_or_path": "org/evil", "tokenizer_kwargs": {"trust_remote_code": True},
            "num_virtual_tokens": 1, "inference_mode": False,
        },
        "a state elsewhere": {
            "peft_type": "MULTITASK_PROMPT_TUNING", "prompt_tuning_init_state_dict_path": "/tmp/evil.bin",
        },
        "an unknown type": {"peft_type": "EVIL"},
        "no type": {"peft_type": ...},
        "CorDA's cache": {"init_lora_weights": "corda", "corda_config": {"cache_file": "/tmp/evil.pt"}},
        "auto_map": {"auto_map": {"AutoPeftModel": "evil.Evil"}},
        "trust_remote_code": {"runtime_config": {"trust_remote_code": True}},
    }  # fmt: skip
    for what, given in fields.items():

        def change(folder: Path, canary: str, given: dict[str, Any] = given) -> None:
            _module(folder, canary, "evil")
            edit(folder / "adapter_config.json", **given)

        yield HostileModel(f"adapter_config.json: {what}", change, adapter=True)

    def pickled(folder: Path, canary: str) -> None:
        (folder / "adapter_model.safetensors").unlink()
        _torch_zip(pickle.dumps(_Runs(canary)))(folder / "adapter_model.bin")

    yield HostileModel("an adapter in a pickle", pickled, adapter=True)

    def missing(folder: Path, canary: str) -> None:
        (folder / "adapter_model.safetensors").unlink()
        edit(folder / "adapter_config.json", base_model_name_or_path="org/evil")

    yield HostileModel("an adapter without weights", missing, adapter=True)
