"""The shape that every model of values shares: closed, frozen, null means default, and rules across fields.

Not the reading of files (`load`) and not the wording of what pydantic finds (`problems`). It sits at the bottom of the
values room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

BROKEN = "tuneyard_broken"
"""The type of those of pydantic's errors that carry `Broken` ones of ours."""

NOTICE = "notice"
"""The key of the validation context under which a sink for one-line notices may be passed."""

DRAFT = "draft"
"""The key of the validation context that makes a model a draft: it keeps invalid fields, and raises nothing."""

REFUSED = "\0refused"
"""The extra key of a draft under which it keeps what a validator refused before the fields were looked at."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that values break, with paths relative to the model that has the rule.

    Attributes:
        where: Dotted path of the key to change; empty for the model itself.
        what: What is wrong with it.
        value: The value given, as text.
        allowed: What is allowed there.
        suggestion: What was probably meant.
        about: The other keys that the rule looked at.
    """

    where: str
    what: str
    value: str = ""
    allowed: str = ""
    suggestion: str = ""
    about: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Invalid:
    """Stands in a draft for the value of a field that is invalid.

    Attributes:
        errors: What pydantic found, with locations relative to the field; empty where a required value is missing.
    """

    errors: tuple[ErrorDetails, ...] = ()


class Refusals(tuple[Broken, ...]):
    """What a draft carries under `REFUSED`; a type of its own, since users may write any key."""

    __slots__ = ()


Rule = Callable[[Any], Iterable[Broken]]
"""Checks a model whose fields are valid and yields the rules that they break."""

Remark = Callable[[Any], str | None]
"""Checks a valid model and describes in one line what its user may not expect."""


@dataclass(frozen=True, slots=True)
class ClusterOnly:
    """Marks a field that has an effect on a cluster only."""


CLUSTER = ClusterOnly()


def broken_error(broken: Iterable[Broken]) -> PydanticCustomError:
    """Wrap broken rules so that pydantic reports them beside its own findings.

    Args:
        broken: At least one.

    Returns:
        The error to raise inside a validator.
    """
    return PydanticCustomError(BROKEN, "a rule is broken", {"broken": tuple(broken)})


def refuse(given: dict[str, Any], broken: Sequence[Broken], info: ValidationInfo) -> dict[str, Any]:
    """Refuse values before their fields are validated.

    Args:
        given: The values, without what is refused.
        broken: What is refused; may be empty.
        info: What pydantic passes to a validator.

    Returns:
        The values to go on with; a draft's carry what is refused.

    Raises:
        PydanticCustomError: Something is refused, and the model is no draft.
    """
    if not broken:
        return given
    if not _is_draft(info):
        raise broken_error(broken)
    before = given.get(REFUSED)
    return {**given, REFUSED: Refusals([*(before if isinstance(before, Refusals) else ()), *broken])}


def _is_draft(info: ValidationInfo) -> bool:
    return DRAFT in cast("dict[str, Any]", info.context or {})


def notify(info: ValidationInfo, text: str) -> None:
    """Pass a notice to the caller that loads the values, if it passed a sink for notices.

    Args:
        info: What pydantic gives to a validator.
        text: The line.
    """
    sink = cast("dict[str, Any]", info.context or {}).get(NOTICE)
    if sink is not None:
        sink(text)


class Values(BaseModel):
    """One closed map of values. An unknown key is refused, a null means the default."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        defer_build=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    kind: ClassVar[str] = ""
    """What `tuneyard values schema` calls the values of a chart; empty for a part of them."""
    checks: ClassVar[Sequence[Rule]] = ()
    remarks: ClassVar[Sequence[Remark]] = ()

    @model_validator(mode="before")
    @classmethod
    def null_means_the_default(cls, given: Any, info: ValidationInfo) -> Any:
        """Drop the keys that are null, as Helm does."""
        if not isinstance(given, dict):
            return given
        values = {key: value for key, value in cast("dict[Any, Any]", given).items() if value is not None}
        if _is_draft(info):
            required = (name for name, field in cls.model_fields.items() if field.is_required())
            return {**dict.fromkeys(required, Invalid()), **values}
        return values

    @field_validator("*", mode="wrap")
    @classmethod
    def draft_keeps_invalid_fields(cls, given: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Validate a field; in a draft, keep its errors in its place."""
        if not _is_draft(info):
            return handler(given)
        if isinstance(given, Invalid):
            return given
        try:
            return handler(given)
        except ValidationError as error:
            return Invalid(tuple(error.errors(include_url=False)))

    @model_validator(mode="after")
    def rules_hold(self, info: ValidationInfo) -> Values:
        """Report every broken rule at once, then the notices; a draft's rules are checked in `problems`."""
        if _is_draft(info):
            return self
        broken = [found for rule in self.checks for found in rule(self)]
        if broken:
            raise broken_error(broken)
        for remark in self.remarks:
            if text := remark(self):
                notify(info, text)
        return self
