"""A delivered model's tokenizer as its server will use it: loaded, with a chat template and a pad token, never grown.

Encoding conversations is `encoding`'s, checking the result `contract`'s. transformers is imported inside the functions,
since that takes seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from tuneyard.data.templates import CHAT_ML, KEEP_ORIGINAL, NAMED, TEMPLATE_NAMES, apply_named_template, is_one_token
from tuneyard.errors import InvalidDataError, InvalidValuesError, NotFoundError, Problem
from tuneyard.interpreter import faster_imports
from tuneyard.models import reason_of, unusable
from tuneyard.whereabouts import installation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_DATA_CONF = "finetuning_config.data_conf"
_PAD_FROM = {
    "bos-repurpose": "bos_token",
    "unk-repurpose": "unk_token",
    # The mask is by position, so EOS in answers is trained even if EOS is the pad token.
    "eos-repurpose": "eos_token",
    # In the original engine, padding looked like EOS to the model; here nothing attends to padding.
    "unk-convert-to-eos": "unk_token",
}
_PROBE = "What is a yard?"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


class TemplateConf(Protocol):
    """The part of `finetuning_config.data_conf` that decides how conversations are rendered."""

    @property
    def chat_template_name(self) -> str:
        """`keep-original` or a template's name."""
        ...

    @property
    def missing_pad_token_strategy(self) -> str:
        """The source of the pad token, such as `bos-repurpose`."""
        ...


def load_tokenizer(folder: Path, data_conf: TemplateConf, *, name: str = "") -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model folder with the chat template and pad token that the values configure.

    Its vocabulary is unchanged. Saving it beside the tuned weights gives the server the same template and the same stop
    token as the training.

    Args:
        folder: A model folder, with `tokenizer.json` or the files to build it from.
        data_conf: The values' `data_conf`.
        name: The model's name for messages, such as its key in the store; the folder's path if empty.

    Returns:
        The tokenizer, with a `chat_template`, an `eos_token` and a `pad_token`; it renders within limits (`bounded`).

    Raises:
        NotFoundError: If the folder has no tokenizer.
        InvalidDataError: If its tokenizer can't be used: slow (no `tokenizer.json`), in need of the repository's own
            code, or with tokens that the model has no embedding for.
        InvalidValuesError: If the values name an unknown template or strategy, or one that this tokenizer can't follow.
    """
    from tuneyard.data.bounded import bound_template

    name = name or str(folder)
    tokenizer = read_tokenizer(folder, name=name)
    stop_ids = stop_token_ids(tokenizer, folder)
    _choose_template(tokenizer, data_conf.chat_template_name, stop_ids, name)
    _choose_pad(tokenizer, data_conf.missing_pad_token_strategy, _embeddings(folder))
    _check_fits(tokenizer, folder, name)
    bound_template(tokenizer)
    return tokenizer


def stop_token_ids(tokenizer: PreTrainedTokenizerFast, folder: Path) -> tuple[int, ...]:
    """Return the ids a server stops at: the tokenizer's EOS and those of the model's generation settings.

    Args:
        tokenizer: The tokenizer as the server will load it.
        folder: The model folder; its `generation_config.json` is read, or else `config.json`, as servers do.

    Returns:
        The ids, sorted, without repeats; empty if there is none.

    Raises:
        InvalidDataError: If one of them is not a number.
    """
    file = "generation_config.json"
    settings = _read_json(folder / file)
    if not settings:
        file = "config.json"
        settings = _read_json(folder / file)
    given: Any = settings.get("eos_token_id")
    named = cast("list[Any]", given) if isinstance(given, list) else [] if given is None else [given]
    if not all(type(each) is int and 0 <= each < 2**32 for each in named):
        raise InvalidDataError(
            f"The eos_token_id of {file} is not a token id: '{str(given)[:80]}'.",
            hint="Correct it and deliver the model again.",
            problems=[Problem(f"{file}: eos_token_id", "is not a token id", str(given)[:80], "an integer, or a list")],
        )
    own: Any = tokenizer.eos_token_id
    return tuple(sorted({*named, *([] if own is None else [own])}))


def read_tokenizer(folder: Path, *, name: str) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model folder as it was delivered.

    Args:
        folder: A model folder, with `tokenizer.json` or the files to build it from.
        name: The model's name for messages.

    Raises:
        NotFoundError: The folder has no tokenizer, or transformers is not installed.
        InvalidDataError: Its files are not those of a tokenizer with a `tokenizer.json`.
    """
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise NotFoundError(
            f"The model '{name}' has no tokenizer ({', '.join(_TOKENIZER_FILES[:2])}).",
            hint="Deliver the model again without excluding its tokenizer's files.",
            folder=str(folder),
        )
    try:
        with faster_imports():
            from transformers import AutoTokenizer, PreTrainedTokenizerFast
    except ImportError as error:
        raise NotFoundError(
            "Encoding conversations needs transformers, which is not installed.", hint=installation("train")
        ) from error
    try:
        # False, not None: None would prompt on the terminal whether to run the repository's code.
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # Settings of a wrong type show only in use.
        tokenizer.decode(tokenizer(_PROBE)["input_ids"], skip_special_tokens=True)
    except Exception as error:
        if not isinstance(error, unusable()) and type(error) is not Exception:  # which the Rust library raises
            raise
        raise _unreadable(name, f"can't be loaded: {reason_of(error).replace(str(folder), name)}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise _unreadable(name, f"is {type(tokenizer).__name__}, which is not based on a tokenizer.json")
    return tokenizer


def template_problem(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return why a tokenizer's own chat template can't render conversations; empty if it can, or if there is none.

    Args:
        tokenizer: As `read_tokenizer` returns it.
    """
    own: Any = tokenizer.chat_template
    if isinstance(own, dict) and "default" not in own:  # transformers would need a name at each call
        return f"has chat templates named {', '.join(map(str, own))}, and none named default"
    texts = list(cast("dict[str, Any]", own).values()) if isinstance(own, dict) else [own]
    return "" if own is None or all(isinstance(text, str) for text in texts) else "has a chat template that is not text"


def _choose_template(tokenizer: PreTrainedTokenizerFast, name: str, stop_ids: tuple[int, ...], model: str) -> None:
    where = f"{_DATA_CONF}.chat_template_name"
    if name not in TEMPLATE_NAMES:
        problem = Problem(where, "is not a chat template", name, " or ".join(TEMPLATE_NAMES))
        raise InvalidValuesError(f"There is no chat template named {name!r}.", problems=[problem])
    if name == KEEP_ORIGINAL:
        none = "" if tokenizer.chat_template else "has no chat template of its own to keep"
        if why := template_problem(tokenizer) or none:
            problem = Problem(where, f"the tokenizer of '{model}' {why}", name, CHAT_ML)
            raise InvalidValuesError(
                f"The tokenizer of '{model}' {why}.",
                hint=f"Set one: --set {where}={CHAT_ML}",
                problems=[problem],
            )
        return
    mark = NAMED[name].end_mark
    has_mark = bool(mark) and is_one_token(tokenizer, mark)
    if not stop_ids and not has_mark:
        problem = Problem(where, f"the tokenizer of '{model}' has no token to end an answer with", name)
        missing = f"EOS token and no {mark}" if mark else "EOS token"
        raise InvalidValuesError(
            f"The tokenizer of '{model}' has no {missing}, so the template '{name}' can't end an answer.",
            hint="Deliver a model whose tokenizer_config.json has an eos_token.",
            problems=[problem],
        )
    if tokenizer.eos_token_id is None and not has_mark:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop_ids[0])
    apply_named_template(tokenizer, name, stop_ids)


def _choose_pad(tokenizer: Any, strategy: str, embeddings: int | None) -> None:
    where = f"{_DATA_CONF}.missing_pad_token_strategy"
    if strategy not in _PAD_FROM:
        problem = Problem(where, "is not a known strategy", strategy, " or ".join(_PAD_FROM))
        raise InvalidValuesError(f"There is no pad token strategy named {strategy!r}.", problems=[problem])
    if tokenizer.pad_token_id is not None and (embeddings is None or tokenizer.pad_token_id < embeddings):
        return
    kind = _PAD_FROM[strategy]
    token = getattr(tokenizer, kind)
    if token is None:
        other = next((name for name, source in _PAD_FROM.items() if getattr(tokenizer, source) is not None), "")
        problem = Problem(where, f"the tokenizer has no {kind} to pad with", strategy, suggestion=other)
        raise InvalidValuesError(
            f"The tokenizer has no pad token, and no {kind} for '{strategy}' to use.",
            hint=f"Use --set {where}={other}" if other else "Deliver a model whose tokenizer has a pad token.",
            problems=[problem],
        )
    tokenizer.pad_token = token


def _check_fits(tokenizer: Any, folder: Path, name: str) -> None:
    embeddings = _embeddings(folder)
    used = {text: tokenizer.convert_tokens_to_ids(text) for text in tokenizer.all_special_tokens}
    beyond = {text: number for text, number in used.items() if embeddings is not None and number >= embeddings}
    if beyond:
        text, number = next(iter(beyond.items()))
        raise _unreadable(
            name,
            f"uses the token {text!r} with id {number}, but the model has embeddings for {embeddings} tokens only",
        )


def _embeddings(folder: Path) -> int | None:
    rows = _read_json(folder / "config.json").get("vocab_size")
    return rows if isinstance(rows, int) else None


def _unreadable(model: str, what: str) -> InvalidDataError:
    return InvalidDataError(
        f"The tokenizer of '{model}' {what}.",
        hint="Deliver a model with a tokenizer.json that fits its weights.",
        problems=[Problem(model, f"its tokenizer {what}")],
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise InvalidDataError(
            f"'{path}' is not JSON.", hint="Deliver the model again.", problems=[Problem(str(path), str(error))]
        ) from error
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}
