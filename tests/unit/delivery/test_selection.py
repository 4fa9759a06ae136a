"""Which files of a model are delivered."""

from __future__ import annotations

import pytest

from tuneyard.delivery.selection import select_model, split_globs
from tuneyard.delivery.sources import SourceFile
from tuneyard.errors import InvalidDataError


def files(*paths: str) -> tuple[SourceFile, ...]:
    return tuple(SourceFile(path=path, size=1) for path in paths)


def chosen(exclude: tuple[str, ...], *paths: str) -> list[str]:
    return [file.path for file in select_model(files(*paths), exclude=exclude, name="org/tiny").files]


@pytest.mark.parametrize(
    ("text", "globs"),
    [
        ("", ()),
        ("original/*", ("original/*",)),
        ("original/*,*.gguf  onnx/\n*.md", ("original/*", "*.gguf", "onnx/", "*.md")),
    ],
)
def test_exclude_globs_are_separated_by_commas_or_spaces(text: str, globs: tuple[str, ...]) -> None:
    assert split_globs(text) == globs


def test_excludes_match_whole_paths_as_the_hubs_own_tool_does() -> None:
    paths = ("config.json", "original/a/b.json", "onnx/model.onnx", "model.safetensors", "sub/notes.md")
    assert chosen(("original/*", "onnx/", "*.md"), *paths) == ["config.json", "model.safetensors"]


def test_an_exclude_that_matches_nothing_is_reported() -> None:
    selection = select_model(files("model.safetensors"), exclude=("orignal/*",), name="org/tiny")
    assert selection.notices == ("The downloadExcludeGlob 'orignal/*' matches no file of 'org/tiny'.",)


@pytest.mark.parametrize(
    "pickle",
    ["pytorch_model.bin", "a/consolidated.00.pth", "model.PT", "tf_model.h5", "x.pkl", "x.ckpt", "flax_model.msgpack"],
)
def test_pickles_beside_safetensors_are_left_out_with_one_notice(pickle: str) -> None:
    selection = select_model(files("config.json", "model.safetensors", pickle), exclude=(), name="org/tiny")
    assert [file.path for file in selection.files] == ["config.json", "model.safetensors"]
    assert selection.left_out == (pickle,)
    assert selection.notices == (f"Not delivered from 'org/tiny', which has safetensors: {pickle}.",)


def test_a_model_with_only_pickles_is_refused_by_name() -> None:
    with pytest.raises(InvalidDataError, match=r"only weights of .org/tiny. .* run code .*pytorch_model.bin") as caught:
        chosen((), "config.json", "pytorch_model.bin")
    assert caught.value.exit_code == 3
    assert "safetensors" in caught.value.hint
    assert [problem.where for problem in caught.value.problems] == ["pytorch_model.bin"]


def test_excluded_pickles_are_ignored() -> None:
    assert chosen(("*.bin",), "config.json", "pytorch_model.bin") == ["config.json"]


def test_a_model_without_any_file_left_is_refused() -> None:
    with pytest.raises(InvalidDataError, match="excludes all 1"):
        chosen(("*",), "config.json")


@pytest.mark.parametrize("path", ["../evil.json", "/etc/passwd", "a//b", "a\\b", "line\nbreak"])
def test_names_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(InvalidDataError, match="names that can't be object keys"):
        chosen((), path, "model.safetensors")
