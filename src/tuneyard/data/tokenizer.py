"""A delivered model's tokenizer as its server will use it: loaded, given a chat template and a pad token, never grown.

Not the encoding of conversations (`encoding`) and not the check of the result (`contract`). transformers is imported
inside the functions, since it takes seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from tuneyard.data.templates import CHAT_ML, KEEP_ORIGINAL, NAMED, TEMPLATE_NAMES, apply_named_template, is_one_token
from tuneyard.errors import InvalidDataError, InvalidValuesError, NotFoundError, Problem
from tuneyard.models import UNUSABLE, reason_of
from tuneyard.whereabouts import installation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_DATA_CONF = "finetuning_config.data_conf"
_PAD_FROM = {
    "bos-repurpose": "bos_token",
    "unk-repurpose": "unk_token",
    # the mask goes by position, so EOS in answers is still learnt where EOS pads
    "eos-repurpose": "eos_token",
    # once it made padding look like EOS to the model; here nothing ever attends to padding
    "unk-convert-to-eos": "unk_token",
}
_PROBE = "What is a yard?"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


class TemplateConf(Protocol):
    """The part of `finetuning_config.data_conf` that says how conversations become text."""

    @property
    def chat_template_name(self) -> str:
        """`keep-original` or a template's name."""
        ...

    @property
    def missing_pad_token_strategy(self) -> str:
        """Where the pad token comes from, such as `bos-repurpose`."""
        ...


def load_tokenizer(folder: Path, data_conf: TemplateConf, *, name: str = "") -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model folder with the chat template and pad token that the values ask for.

    Its vocabulary stays as it was delivered. Saving it beside the tuned weights gives the server the same template and
    the same stop token as the training had.

    Args:
        folder: A model folder, with `tokenizer.json` or what it can be made from.
        data_conf: The values' `data_conf`.
        name: What the user calls the model, such as its key in the store; the folder's path where empty.

    Returns:
        The tokenizer, with a `chat_template`, an `eos_token` and a `pad_token`; what it renders is rendered within
        limits (`bounded`).

    Raises:
        NotFoundError: Where the folder has no tokenizer.
        InvalidDataError: Where its tokenizer can't be used: slow (no `tokenizer.json`), in need of the repository's own
            code, or with tokens that the model has no embedding for.
        InvalidValuesError: Where the values name an unknown template or strategy, or one this tokenizer can't follow.
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
        tokenizer: As the server will load it.
        folder: The model folder; its `generation_config.json` is read, or else `config.json`, as servers do.

    Returns:
        The ids, sorted, without repeats; empty where nothing names one.

    Raises:
        InvalidDataError: What names them is no number.
    """
    file = "generation_config.json"
    settings = _read_json(folder / file)
    if not settings:
        file = "config.json"
        settings = _read_json(folder / file)
    given: Any = settings.get("eos_token_id")
    named = cast("list[Any]", given) if isinstance(given, list) else [] if given is None else [given]
    if not all(type(each) is int and 0 <= each < 2**32 for each in named):
        what = f"has an eos_token_id that is no token id: {str(given)[:80]}"
        raise InvalidDataError(
            f"{file} {what}.",
            hint="Correct it and deliver the model again.",
            problems=[Problem(f"{file}: eos_token_id", "is no token id", str(given)[:80], "a whole number, or a list")],
        )
    own: Any = tokenizer.eos_token_id
    return tuple(sorted({*named, *([] if own is None else [own])}))


def read_tokenizer(folder: Path, *, name: str) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model folder as it was delivered.

    Args:
        folder: A model folder, with `tokenizer.json` or what it can be made from.
        name: What the user calls the model.

    Raises:
        NotFoundError: The folder has no tokenizer, or transformers is not installed.
        InvalidDataError: Its files are no tokenizer that has a `tokenizer.json` behind it.
    """
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise NotFoundError(
            f"The model {name} has no tokenizer ({', '.join(_TOKENIZER_FILES[:2])}).",
            hint="Deliver the model again without excluding its tokenizer's files.",
            folder=str(folder),
        )
    try:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast
    except ImportError as error:
        raise NotFoundError(
            "Encoding conversations needs transformers, which is not installed.", hint=installation("train")
        ) from error
    try:
        # False, not None: None would ask on the terminal whether to run the repository's code
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # Settings of a wrong type show only in use.
        tokenizer.decode(tokenizer(_PROBE)["input_ids"], skip_special_tokens=True)
    except Exception as error:
        if not isinstance(error, UNUSABLE) and type(error) is not Exception:  # which the Rust library raises
            raise
        raise _unusable(name, f"can't be loaded: {reason_of(error).replace(str(folder), name)}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise _unusable(name, f"is {type(tokenizer).__name__}, which has no tokenizer.json behind it")
    return tokenizer


def template_problem(tokenizer: PreTrainedTokenizerFast) -> str:
    """Say why a tokenizer's own chat template can't render conversations; empty where it can, or has none.

    Args:
        tokenizer: As `read_tokenizer` gives it.
    """
    own: Any = tokenizer.chat_template
    if isinstance(own, dict) and "default" not in own:  # transformers would have to be given a name at each call
        return f"has chat templates named {', '.join(map(str, own))}, and none named default"
    texts = list(cast("dict[str, Any]", own).values()) if isinstance(own, dict) else [own]
    return "" if own is None or all(isinstance(text, str) for text in texts) else "has a chat template that is no text"


def _choose_template(tokenizer: PreTrainedTokenizerFast, name: str, stop_ids: tuple[int, ...], model: str) -> None:
    where = f"{_DATA_CONF}.chat_template_name"
    if name not in TEMPLATE_NAMES:
        problem = Problem(where, "names no chat template", name, " or ".join(TEMPLATE_NAMES))
        raise InvalidValuesError(f"There is no chat template named {name!r}.", problems=[problem])
    if name == KEEP_ORIGINAL:
        none = "" if tokenizer.chat_template else "has no chat template of its own to keep"
        if why := template_problem(tokenizer) or none:
            problem = Problem(where, f"the tokenizer of {model} {why}", name, CHAT_ML)
            raise InvalidValuesError(
                f"The tokenizer of {model} {why}.",
                hint=f"Give it one: --set {where}={CHAT_ML}",
                problems=[problem],
            )
        return
    mark = NAMED[name].end_mark
    has_mark = bool(mark) and is_one_token(tokenizer, mark)
    if not stop_ids and not has_mark:
        problem = Problem(where, f"the tokenizer of {model} has no token to end an answer with", name)
        missing = f"EOS token and no {mark}" if mark else "EOS token"
        raise InvalidValuesError(
            f"The tokenizer of {model} has no {missing}, so {name} can't end an answer.",
            hint="Deliver a model whose tokenizer_config.json names an eos_token.",
            problems=[problem],
        )
    if tokenizer.eos_token_id is None and not has_mark:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop_ids[0])
    apply_named_template(tokenizer, name, stop_ids)


def _choose_pad(tokenizer: Any, strategy: str, embeddings: int | None) -> None:
    where = f"{_DATA_CONF}.missing_pad_token_strategy"
    if strategy not in _PAD_FROM:
        problem = Problem(where, "is no known strategy", strategy, " or ".join(_PAD_FROM))
        raise InvalidValuesError(f"There is no pad token strategy named {strategy!r}.", problems=[problem])
    if tokenizer.pad_token_id is not None and (embeddings is None or tokenizer.pad_token_id < embeddings):
        return
    kind = _PAD_FROM[strategy]
    token = getattr(tokenizer, kind)
    if token is None:
        other = next((name for name, source in _PAD_FROM.items() if getattr(tokenizer, source) is not None), "")
        problem = Problem(where, f"the tokenizer has no {kind} to pad with", strategy, suggestion=other)
        raise InvalidValuesError(
            f"The tokenizer has no pad token, and no {kind} that {strategy} could use for it.",
            hint=f"Try --set {where}={other}" if other else "Deliver a model whose tokenizer names a pad token.",
            problems=[problem],
        )
    tokenizer.pad_token = token


def _check_fits(tokenizer: Any, folder: Path, name: str) -> None:
    embeddings = _embeddings(folder)
    used = {text: tokenizer.convert_tokens_to_ids(text) for text in tokenizer.all_special_tokens}
    beyond = {text: number for text, number in used.items() if embeddings is not None and number >= embeddings}
    if beyond:
        text, number = next(iter(beyond.items()))
        raise _unusable(
            name,
            f"uses the token {text!r} with id {number}, but the model has embeddings for {embeddings} tokens only",
        )


def _embeddings(folder: Path) -> int | None:
    rows = _read_json(folder / "config.json").get("vocab_size")
    return rows if isinstance(rows, int) else None


def _unusable(model: str, what: str) -> InvalidDataError:
    return InvalidDataError(
        f"The tokenizer of {model} {what}.",
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
            f"{path} is not JSON.", hint="Deliver the model again.", problems=[Problem(str(path), str(error))]
        ) from error
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}
