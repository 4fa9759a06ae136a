"""Values of the chart that delivers: a model and data into the store."""

# ruff: noqa: N815  (attributes are called as the charts' keys are)
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from tuneyard.values.base import CLUSTER, Broken, Rule
from tuneyard.values.places import BucketPath, ModelText
from tuneyard.values.scalars import Count, Quantity, Strings, Text
from tuneyard.values.shared import Job, NetworkPolicy, SecretKey


def _no_model_is_empty(given: Any) -> Any:
    return None if given == "" else given


def _globs(given: Any) -> Any:
    return [given] if isinstance(given, str) and given else [] if given == "" else given


Globs = Annotated[Strings, BeforeValidator(_globs, json_schema_input_type=str | list[str])]


def something_is_delivered(values: DeliverValues) -> Iterator[Broken]:
    """A delivery needs a model or data."""
    if not values.modelID and not values.dataScript:
        yield Broken("modelID", "is empty, as is dataScript: there is nothing to deliver", about=("dataScript",))


def each_delivery_has_its_place(values: DeliverValues) -> Iterator[Broken]:
    """Each destination has its own key."""
    if values.modelID and not values.bucketModelPath:
        what = "is missing: the model has no destination"
        yield Broken("bucketModelPath", what, allowed="default-bucket/models/<name>", about=("modelID",))
    if values.dataScript and not values.bucketDataDir:
        what = "is missing: the data has no destination"
        yield Broken("bucketDataDir", what, allowed="default-bucket/datasets", about=("dataScript",))
    if values.modelRevision and not values.modelID:
        what = "pins a model, and modelID is empty"
        yield Broken("modelRevision", what, value=values.modelRevision, about=("modelID",))


def data_script_is_python(values: DeliverValues) -> Iterator[Broken]:
    """A script that can't be parsed would fail only after the model has been copied."""
    try:
        compile(values.dataScript, "dataScript", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = f" at line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else error
        yield Broken("dataScript", f"is not valid Python{line}: {reason}")


class DeliverValues(Job):
    """Values of `deliver-huggingface-example-resources`."""

    kind: ClassVar[str] = "deliver"

    checks: ClassVar[Sequence[Rule]] = (something_is_delivered, each_delivery_has_its_place, data_script_is_python)

    image: Annotated[Text, CLUSTER] = "ghcr.io/tuneyard/deliver:0.1.0"
    """The image that delivers."""

    modelID: Annotated[ModelText | None, BeforeValidator(_no_model_is_empty)] = None
    """A Hub id (`org/name`), a folder (`/path`, `./path`) or a place in the store (`s3://bucket/path`)."""

    modelRevision: Text = ""
    """A commit, tag or branch of the Hub; empty for the newest commit, which is then pinned."""

    bucketModelPath: BucketPath | None = None
    """The destination of the model, as `bucket/key`."""

    downloadExcludeGlob: Globs = Field(default_factory=list[str])
    """Files of the model to exclude: one glob or several."""

    dataScript: Text = ""
    """Python that writes files into `/downloads/datasets`. It runs without the store's keys. Empty for none."""

    dataScriptSandbox: Literal["best-effort", "required"] = "best-effort"
    """`best-effort` confines dataScript as far as this machine's kernel can, and logs how far; `required` refuses to
    run it unless the kernel restricts writing, truncation, reading keys and access to other processes."""

    bucketDataDir: BucketPath | None = None
    """The destination of the files that dataScript writes, as `bucket/key`."""

    allowOverwrite: bool = False
    """Replace existing content that differs, instead of failing with exit code 6."""

    hfTokenSecret: Annotated[SecretKey, CLUSTER] = Field(default_factory=SecretKey)
    """The Secret with a token for the Hugging Face Hub."""

    storageQuantity: Annotated[Quantity, CLUSTER] = "10Gi"
    """Disk space for files in transfer."""

    networkPolicy: Annotated[NetworkPolicy, CLUSTER] = Field(default_factory=NetworkPolicy)
    """Restrict the network."""

    terminationGracePeriodSeconds: Annotated[Count, CLUSTER] = 30
    """Seconds that a delivery has to end after SIGTERM."""
