"""A causal language model from a verified folder by transformers, and the refusal of one that lacks a weight.

transformers fills what a folder lacks with random numbers and passes over what it doesn't know, with a report in its
log. Here both are errors that name the weights, in the two ways a model is loaded: with its weights, and as an outline
on torch's meta device, which has every module, name and shape and takes no memory.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneyard.errors import IncompleteModelError, InvalidDataError, NotFoundError, Problem
from tuneyard.models.names import grouped
from tuneyard.values.public import without_credentials

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_FEW = 6
_LONGEST_REASON = 400
_HINT = "Deliver a model in the form of transformers: config.json, safetensors, tokenizer.json."


def library_is_here() -> bool:
    """Whether transformers and torch are installed; loads neither."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


def load_model(folder: Path, *, where: str, **keywords: Any) -> PreTrainedModel:
    """Load a causal language model with its weights.

    Args:
        folder: The model's verified folder.
        where: The model in the user's words.
        keywords: More arguments of `from_pretrained`, such as dtype and attn_implementation.

    Returns:
        The model, on the CPU unless `device_map` says otherwise.

    Raises:
        IncompleteModelError: Its files lack a weight, hold one that it hasn't, or one of another shape.
        InvalidDataError: It is no model that transformers can load without code of its own.
    """
    return _load(None, folder, where, keywords)


def require_library() -> None:
    """Refuse to go on where transformers and torch are not installed.

    Raises:
        NotFoundError: They are not.
    """
    if not library_is_here():
        raise NotFoundError(
            "Looking into a model needs torch and transformers, which are not installed.",
            hint='pip install "tuneyard[train]"',
        )


def outline_model(folder: Path, *, where: str, architecture: str | None = None, **keywords: Any) -> PreTrainedModel:
    """Build a model on the meta device and compare it with what its files hold.

    Args:
        folder: A model's folder, or its outline (`write_outline`).
        where: The model in the user's words.
        architecture: The name of transformers' class; that for causal language models where None.
        keywords: More arguments of `from_pretrained`; without a dtype among them, that of the files is taken.

    Returns:
        The model without weights.

    Raises:
        IncompleteModelError, InvalidDataError: As `load_model`.
    """
    return _load(architecture, folder, where, {"dtype": "auto", **keywords, "device_map": "meta"})


def check_whole(folder: Path, *, where: str) -> str:
    """Compare what a model's files hold with the library's model of the architecture that its config names.

    Args:
        folder: A model's folder, or its outline (`write_outline`), vetted.
        where: The model in the user's words.

    Returns:
        Why it was not compared, in a sentence; empty where it was.

    Raises:
        IncompleteModelError: Its files lack a weight, hold one that it hasn't, or one of another shape.
    """
    if not library_is_here():
        return f"The weights of {where} were not compared: torch and transformers are not installed."
    import transformers

    named: Any = json.loads((folder / "config.json").read_bytes()).get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    if not hasattr(transformers, architecture):
        return f"The weights of {where} were not compared: transformers has no architecture {architecture!r}."
    try:
        outline_model(folder, where=where, architecture=architecture)
    except IncompleteModelError:
        raise
    except InvalidDataError as error:
        return f"The weights of {where} were not compared: {error.message}"
    return ""


def load_adapter(base: PreTrainedModel, folder: Path, *, where: str) -> PeftModel:
    """Put a saved adapter on its base by PEFT.

    Args:
        base: The model it was trained on; its modules are replaced in place.
        folder: The adapter's verified folder.
        where: The adapter in the user's words.

    Returns:
        The model with the adapter, in evaluation mode.

    Raises:
        IncompleteModelError: The folder lacks weights that its own configuration names.
        InvalidDataError: It is no adapter that PEFT can put on this base.
    """
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = PeftModel.from_pretrained(base, folder)
        except _unusable() as error:
            reason = reason_of(error)
            raise InvalidDataError(
                f"The adapter {where!r} can't be put on its base: {reason}", hint=_HINT, problems=[]
            ) from error
    for warning in caught:
        if "missing adapter keys" in str(warning.message):  # PEFT would leave those as they begin
            raise incomplete(
                where, [Problem("adapter_model.safetensors", "lacks weights that adapter_config.json names")]
            )
    return model.eval()


def _load(architecture: str | None, folder: Path, where: str, keywords: Mapping[str, Any]) -> PreTrainedModel:
    require_library()
    import transformers

    kind: Any = getattr(transformers, architecture) if architecture else transformers.AutoModelForCausalLM
    try:
        # False, not None: None would ask on the terminal whether to run the repository's code
        model, found = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **keywords,
        )
    except _unusable() as error:
        reason = reason_of(error)
        raise InvalidDataError(f"The model {where!r} can't be loaded: {reason}", hint=_HINT, problems=[]) from error
    if problems := _problems(found):
        raise incomplete(where, problems)
    for config in (model.config, model.config.get_text_config()):
        config.return_dict = True  # outputs are read by name, whatever a config.json says
    return model


def reason_of(error: BaseException) -> str:
    """Write what a library reports on one line, without credentials, cut where it is long; its kind where it is empty.

    Args:
        error: What it raised.
    """
    text = without_credentials(" ".join(str(error).split()))
    if not text or isinstance(error, KeyError):  # whose text is the key alone
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 1]}…"


def _unusable() -> tuple[type[BaseException], ...]:
    from safetensors import SafetensorError

    from tuneyard.models.unusable import UNUSABLE

    return (*UNUSABLE, SafetensorError)


def _problems(found: Mapping[str, Any]) -> list[Problem]:
    """Name what transformers reports of a loaded model."""
    shapes = {name: (given, wanted) for name, given, wanted in found["mismatched_keys"]}
    kinds = (
        [Problem(name, "is missing") for name in grouped(found["missing_keys"])],
        [Problem(name, "is not a weight of this model") for name in grouped(found["unexpected_keys"])],
        [
            Problem(name, "has another shape than config.json says", str(tuple(given)), str(tuple(wanted)))
            for name, (given, wanted) in sorted(shapes.items())
        ],
        [Problem("weights", "can't be read", str(message)) for message in found.get("error_msgs") or ()],
    )
    return [problem for kind in kinds for problem in kind[:_FEW]]


def incomplete(where: str, problems: Collection[Problem]) -> IncompleteModelError:
    """Make the error that names what does not fit.

    Args:
        where: The model in the user's words.
        problems: Each weight or file, at least one.
    """
    first = next(iter(problems))
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return IncompleteModelError(
        f"The weights of the model {where!r} do not fit its config.json: {first.where} {first.what}{more}.",
        hint="Deliver the whole model again; check its source and downloadExcludeGlob.",
        problems=list(problems),
    )
