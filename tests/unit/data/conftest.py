"""Tokenizers for the tests of `tuneyard.data`, each built once, and rows written as files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.chats import DataConf
from lab.tiny_models import make_tokenizer
from tuneyard.data import ChatEncoder, load_tokenizer


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Callable[..., Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    made: dict[tuple[str, str | None], Path] = {}

    def folder(style: str, template: str | None = None) -> Path:
        key = (style, template)
        if key not in made:
            made[key] = make_tokenizer(root / str(len(made)), style=style, template=template)
        return made[key]

    return folder


@pytest.fixture(scope="session")
def make_encoder(tokenizer_folder) -> Callable[..., ChatEncoder]:
    def encoder(style="chatml", *, conf=DataConf(), template=None, **options) -> ChatEncoder:  # noqa: B008
        return ChatEncoder(load_tokenizer(tokenizer_folder(style, template), conf), **options)

    return encoder


@pytest.fixture
def write_rows(tmp_path) -> Callable[..., Path]:
    def write(*rows: object, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
