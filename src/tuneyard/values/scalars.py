"""Types of single values, as forgiving as Helm and YAML make necessary and no more.

`--set x=0.5` arrives as the text "0.5", `save_strategy: no` as false, a tag `7` as a number: all three are accepted. A
truth value where a number is meant, or a number with decimals where text is meant (`1.10` has already become 1.1), is
refused. Not the shapes made of several values (`storage`, `cluster`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from tuneyard.values.base import Broken, broken_error

DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")
"""A number with a point or an exponent, written as text."""


def _no_truth_value(given: Any) -> Any:
    if isinstance(given, bool):
        raise PydanticCustomError("number_expected", "is a boolean where a number is expected")
    return given.strip() if isinstance(given, str) else given


def _text_of_a_whole_number(given: Any) -> Any:
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if isinstance(given, bool | float):
        raise PydanticCustomError("text_expected", "is not a string: quote it, since YAML may have changed it")
    return given


def no_from_false(given: Any) -> Any:
    """Read YAML's `no`, which arrives as false, as the word."""
    return "no" if given is False else given


def number_of_decimal(given: Any) -> Any:
    """Turn a number with a point or an exponent that came as text (`--set a=1e-6`) into the number."""
    return float(given) if isinstance(given, str) and DECIMAL.fullmatch(given) else given


def _whole_if_equal(number: float) -> float:
    return int(number) if number.is_integer() else number


T = TypeVar("T")

Int = Annotated[int, BeforeValidator(_no_truth_value)]
Float = Annotated[float, BeforeValidator(_no_truth_value)]
Number = Annotated[Float, AfterValidator(_whole_if_equal)]
Text = Annotated[str, BeforeValidator(_text_of_a_whole_number)]
Word = Annotated[T, BeforeValidator(no_from_false)]
"""`Word[Literal["no", …]]`: one of some words, of which YAML may have read `no` as false."""

Count = Annotated[Int, Field(ge=1)]
"""A whole number of at least one."""

Strings = list[Text]


@dataclass(frozen=True, slots=True)
class Matching:
    """Put into `Annotated`: the text has to have a form, which the JSON schema shows too.

    Attributes:
        pattern: The whole text has to match this regular expression; without lookahead, since Helm reads it too.
        what: The message if it doesn't.
        allowed: The form in words, with an example.
    """

    pattern: str
    what: str
    allowed: str

    def check(self, given: str) -> str:
        """Return the text where it has the form."""
        if not re.fullmatch(self.pattern, given):
            raise broken_error([Broken("", self.what, value=given, allowed=self.allowed)])
        return given

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": f"^(?:{self.pattern})$"}


_NAME = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_NAME_IN_WORDS = "lower case letters, digits, '-' and '.', as in minio-credentials"
Name = Annotated[Text, Matching(_NAME, "is not a valid Kubernetes name", _NAME_IN_WORDS)]
OptionalName = Annotated[
    Text, Matching(f"({_NAME})?", "is not a valid Kubernetes name", f"{_NAME_IN_WORDS}; empty for none")
]
"""The name of a Kubernetes object; the optional one may be empty."""

Quantity = Annotated[
    Text,
    Matching(
        r"\d+(\.\d+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?",
        "is not a valid Kubernetes quantity",
        "a number with a unit, as in 10Gi or 500m",
    ),
]
"""A Kubernetes quantity."""

LabelKey = Annotated[
    str,
    Matching(
        r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?",
        "is not a valid label key",
        "letters, digits, '-', '_' and '.', with or without a domain before a '/', as in kueue.x-k8s.io/queue-name",
    ),
]
LabelValue = Annotated[
    Text,
    Matching(
        r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?",
        "is not a valid label value",
        "at most 63 letters, digits, '-', '_' and '.'",
    ),
]
EnvName = Annotated[
    str,
    Matching(r"[A-Za-z_][A-Za-z0-9_]*", "is not a valid environment variable name", "letters, digits and '_'"),
]


def _one_or_more(given: Any) -> Any:
    if isinstance(given, list) and all(isinstance(item, str) for item in cast("list[Any]", given)):
        return cast("list[str]", given)
    if isinstance(given, str):
        return given
    raise PydanticCustomError("text_expected", "is neither a string nor a list of strings")


OneOrMoreStrings = Annotated[str | Strings, BeforeValidator(_one_or_more)]
"""A text or a list of texts, kept as given."""


def _plain(given: Any) -> Any:
    if isinstance(given, dict):
        return {str(key): _plain(item) for key, item in cast("dict[Any, Any]", given).items()}
    if isinstance(given, list):
        return [_plain(item) for item in cast("list[Any]", given)]
    if given is None or isinstance(given, bool | int | float | str):
        number = number_of_decimal(given)
        # Helm writes 16.0 as 16: both targets have to read the same
        return _whole_if_equal(number) if isinstance(number, float) else number
    raise PydanticCustomError("plain_expected", "is not a plain value of YAML")


Plain = Annotated[Any, AfterValidator(_plain)]
"""Any plain value of YAML. Decimal numbers given as text are converted to numbers."""


def _map_of_text(given: Any) -> Any:
    """Read JSON text as the map it is, as transformers does."""
    if not isinstance(given, str):
        return given
    try:
        read = json.loads(given)
    except json.JSONDecodeError:
        read = None
    if not isinstance(read, dict):
        raise PydanticCustomError(
            "map_expected", "is neither a map nor a JSON object as text; a file path is not accepted"
        )
    return cast("dict[str, Any]", read)


Map = Annotated[dict[str, Plain], BeforeValidator(_map_of_text, json_schema_input_type=dict[str, Any] | str)]
"""A map of plain values, or JSON text of one. Not a file's path: a process reads only its values."""
