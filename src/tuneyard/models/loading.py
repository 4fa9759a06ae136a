"""Loads a causal language model from a verified folder by transformers, and refuses one that lacks a weight.

transformers fills missing weights with random numbers and ignores unknown ones, with a report in its log. Here both are
errors that name the weights, in both ways of loading a model: with its weights, and as an outline on torch's meta
device, which has every module, name and shape and uses no memory.
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
from tuneyard.models.unusable import unusable
from tuneyard.values import without_credentials

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_FEW = 6
_LONGEST_REASON = 400
_HINT = "Deliver a model in transformers' format: config.json, safetensors, tokenizer.json."


def library_is_here() -> bool:
    """Whether transformers and torch are installed; loads neither."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


def load_model(folder: Path, *, where: str, **keywords: Any) -> PreTrainedModel:
    """Load a causal language model with its weights.

    Args:
        folder: The model's verified folder.
        where: The model, for messages.
        keywords: More arguments of `from_pretrained`, such as dtype and attn_implementation.

    Returns:
        The model, on the CPU unless `device_map` differs.

    Raises:
        IncompleteModelError: Its files lack a weight, or hold one that is unexpected or of another shape.
        InvalidDataError: transformers can't load it without custom code.
    """
    return _load(None, folder, where, keywords)


def require_library() -> None:
    """Check that transformers and torch are installed.

    Raises:
        NotFoundError: They are not.
    """
    if not library_is_here():
        raise NotFoundError(
            "Loading a model needs torch and transformers, which are not installed.",
            hint='Install them: pip install "tuneyard[train]"',
        )


def outline_model(folder: Path, *, where: str, architecture: str | None = None, **keywords: Any) -> PreTrainedModel:
    """Build a model on the meta device, and compare it with the contents of its files.

    Args:
        folder: A model's folder, or its outline (`write_outline`).
        where: The model, for messages.
        architecture: The name of transformers' class; that for causal language models where None.
        keywords: More arguments of `from_pretrained`; the dtype is that of the files by default.

    Returns:
        The model without weights.

    Raises:
        IncompleteModelError, InvalidDataError: As `load_model`.
    """
    return _load(architecture, folder, where, {"dtype": "auto", **keywords, "device_map": "meta"})


def check_whole(folder: Path, *, where: str) -> str:
    """Compare the contents of a model's files with the library's model of the architecture that its config names.

    Args:
        folder: A model's folder, or its outline (`write_outline`), vetted.
        where: The model, for messages.

    Returns:
        A sentence with the reason where it was not compared; empty where it was.

    Raises:
        IncompleteModelError: Its files lack a weight, or hold one that is unexpected or of another shape.
    """
    if not library_is_here():
        return f"The weights of '{where}' were not compared: torch and transformers are not installed."
    import transformers

    named: Any = json.loads((folder / "config.json").read_bytes()).get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    if not hasattr(transformers, architecture):
        return f"The weights of '{where}' were not compared: transformers has no architecture '{architecture}'."
    try:
        outline_model(folder, where=where, architecture=architecture)
    except IncompleteModelError:
        raise
    except InvalidDataError as error:
        return f"The weights of '{where}' were not compared: {error.message}"
    return ""


def load_adapter(base: PreTrainedModel, folder: Path, *, where: str) -> PeftModel:
    """Load a saved adapter onto its base by PEFT.

    Args:
        base: The model that it was trained on; its modules are replaced in place.
        folder: The adapter's verified folder.
        where: The adapter, for messages.

    Returns:
        The model with the adapter, in evaluation mode.

    Raises:
        IncompleteModelError: The folder lacks weights that its own configuration names.
        InvalidDataError: PEFT can't load it onto this base.
    """
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = PeftModel.from_pretrained(base, folder)
        except _unloadable() as error:
            reason = reason_of(error)
            raise InvalidDataError(
                f"The adapter '{where}' can't be loaded onto its base: {reason}", hint=_HINT, problems=[]
            ) from error
    for warning in caught:
        if "missing adapter keys" in str(warning.message):  # PEFT would leave those at their initial values
            raise incomplete(
                where, [Problem("adapter_model.safetensors", "lacks weights that adapter_config.json names")]
            )
    return model.eval()


def _load(architecture: str | None, folder: Path, where: str, keywords: Mapping[str, Any]) -> PreTrainedModel:
    require_library()
    import transformers

    kind: Any = getattr(transformers, architecture) if architecture else transformers.AutoModelForCausalLM
    try:
        # False, not None, which would prompt on the terminal whether to run the repository's code
        model, found = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **keywords,
        )
    except _unloadable() as error:
        reason = reason_of(error)
        raise InvalidDataError(f"The model '{where}' can't be loaded: {reason}", hint=_HINT, problems=[]) from error
    if problems := _problems(found):
        raise incomplete(where, problems)
    for config in (model.config, model.config.get_text_config()):
        config.return_dict = True  # outputs are read by name, even where config.json disables it
    return model


def reason_of(error: BaseException) -> str:
    """Return an exception's text on one line, without credentials, and truncated; its type where it is empty.

    Args:
        error: What a library raised.
    """
    text = without_credentials(" ".join(str(error).split()))
    if not text or isinstance(error, KeyError):  # whose text is the key alone
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 1]}…"


def _unloadable() -> tuple[type[BaseException], ...]:
    from safetensors import SafetensorError

    return (*unusable(), SafetensorError)


def _problems(found: Mapping[str, Any]) -> list[Problem]:
    """Return what transformers reports of a loaded model."""
    shapes = {name: (given, wanted) for name, given, wanted in found["mismatched_keys"]}
    kinds = (
        [Problem(name, "is missing") for name in grouped(found["missing_keys"])],
        [Problem(name, "is not a weight of this model") for name in grouped(found["unexpected_keys"])],
        [
            Problem(name, "has a different shape than config.json declares", str(tuple(given)), str(tuple(wanted)))
            for name, (given, wanted) in sorted(shapes.items())
        ],
        [Problem("weights", "can't be read", str(message)) for message in found.get("error_msgs") or ()],
    )
    return [problem for kind in kinds for problem in kind[:_FEW]]


def incomplete(where: str, problems: Collection[Problem]) -> IncompleteModelError:
    """Return the error for an incomplete model.

    Args:
        where: The model, for messages.
        problems: Each weight or file, at least one.
    """
    first = next(iter(problems))
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return IncompleteModelError(
        f"The weights of the model {where!r} do not fit its config.json: {first.where} {first.what}{more}.",
        hint="Deliver the whole model again; check its source and downloadExcludeGlob.",
        problems=list(problems),
    )
