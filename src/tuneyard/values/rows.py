"""`data_conf.rows`: what happens to rows that can't or shouldn't be trained on unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tuneyard.values.base import Broken, Rule, Values
from tuneyard.values.scalars import Float


def cut_answers_need_truncation(rows: RowsConf) -> Iterator[Broken]:
    """No answer is cut where nothing is truncated."""
    if rows.cut_answers != "keep" and rows.overlong != "truncate":
        what = f"has no effect with overlong {rows.overlong}"
        yield Broken("cut_answers", what, rows.cut_answers, "overlong: truncate", about=("overlong",))


class RowsConf(Values):
    """What happens to rows that can't or shouldn't be trained on as they are; each is counted either way."""

    checks: ClassVar[Sequence[Rule]] = (cut_answers_need_truncation,)

    unusable: Literal["refuse", "drop"] = "refuse"
    """Rows that can't be read or rendered, such as empty answers: stop and list each, or continue without them."""

    overlong: Literal["drop", "truncate", "refuse"] = "drop"
    """Rows of more tokens than max_seq_length."""

    cut_answers: Literal["keep", "drop", "refuse"] = "keep"
    """Truncated rows that end within an answer, whose end is then never trained on."""

    special_tokens: Literal["keep", "drop", "refuse"] = "drop"
    """Rows whose text contains a special token (`<|im_end|>`, `</s>`). The tokenizer encodes it as a control token, and
    the model would learn to end or begin a turn in the middle of a text. They are dropped by default: ordinary data
    has few (HTML's `</s>`), too few to stop training for."""

    duplicates: Literal["keep", "drop", "refuse"] = "keep"
    """Rows equal to an earlier one."""

    near_duplicates: Literal["keep", "drop", "refuse"] = "keep"
    """Rows nearly equal to an earlier one."""

    leaked: Literal["keep", "drop", "refuse"] = "keep"
    """Training rows equal or nearly equal to one of the validation files. With AUTO_SPLIT, anything but keep holds rows
    that are nearly equal together on one side, so that none leaks."""

    similarity: Annotated[Float, Field(ge=0.5, le=1)] = 0.8
    """The share of text in common (Jaccard index of 8-byte pieces, estimated) from which two rows are nearly equal."""
