"""Values of the chart that serves: a model, adapters, and the server's own flags."""

# ruff: noqa: N815, S105  (attributes are called as the charts' keys are; names of secrets are no secrets)
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, cast

from pydantic import BeforeValidator, Field

from tuneyard.values import legacy
from tuneyard.values.base import CLUSTER, Broken, Rule, Values
from tuneyard.values.places import BucketPath, ModelText, StoreUrl
from tuneyard.values.scalars import Count, Int, Matching, Name, OptionalName, Plain, Quantity, Text
from tuneyard.values.shared import ApiKeySecret, CABundle, Env, GpuResource, NetworkPolicy, Workload

HostName = Annotated[
    Text,
    Matching(
        r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
        "is not a valid host name",
        "lower case letters, digits, '-' and '.', as in chat.example.com",
    ),
]
UrlPath = Annotated[
    Text,
    Matching(
        r"/[-A-Za-z0-9._~!$&'()*+,;=:@%/]*", "is not a valid URL path", "a path that starts with '/', as in /tuned"
    ),
]
AdapterName = Annotated[
    str,
    Matching(
        r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}", "is not a valid served model name", "letters, digits, '-', '_', '.'"
    ),
]


class BucketCredentials(Values):
    """The Secret that holds the bucket's keys."""

    secret_name: Name = "minio-credentials"
    """The Secret's name."""

    access_key_key: Text = "API_ACCESS_KEY"
    """The key in it that holds the access key."""

    secret_key_key: Text = "API_SECRET_KEY"
    """The key in it that holds the secret key."""


class BucketStorage(Values):
    """The store that models come from."""

    host: StoreUrl = ""
    """URL of the object store; `TUNEYARD_STORE` takes precedence."""

    credentials: BucketCredentials = Field(default_factory=BucketCredentials)
    """The Secret with the store's keys."""


class HubToken(Values):
    """A token for the Hugging Face Hub."""

    secret_name: OptionalName = ""
    """The Secret's name; empty for none."""

    key: Text = "token"
    """The key in it."""


class Storage(Values):
    """The volume for models."""

    quantity: Quantity = "64Gi"
    """Its size."""

    storageClassName: OptionalName = ""
    """Its storage class, for an ephemeral volume; empty for the node's disk."""

    volumeClaim: OptionalName = ""
    """An existing PersistentVolumeClaim for models instead, in a folder named after the server; empty for none."""


class SharedMemory(Values):
    """`/dev/shm`, which the processes of a server communicate through."""

    sizeLimit: Quantity = "8Gi"
    """Its size."""


class Probes(Values):
    """Probes of the server; an empty one is the chart's default."""

    startup: dict[str, Any] = Field(default_factory=dict)
    """The startup probe."""

    liveness: dict[str, Any] = Field(default_factory=dict)
    """The liveness probe."""

    readiness: dict[str, Any] = Field(default_factory=dict)
    """The readiness probe."""


def a_route_needs_a_gateway(route: HttpRoute) -> Iterator[Broken]:
    """A route needs a Gateway."""
    if route.enabled and not route.parentRefs:
        what = "is empty: the route has no Gateway"
        yield Broken("parentRefs", what, allowed="[{name: my-gateway}]", about=("enabled",))


class HttpRoute(Values):
    """A route of the Gateway API to the server."""

    checks: ClassVar[Sequence[Rule]] = (a_route_needs_a_gateway,)

    enabled: bool = False
    """Render an HTTPRoute."""

    parentRefs: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    """The Gateways of the route, in Kubernetes' format: `[{name, namespace}]`."""

    hostnames: list[HostName] = Field(default_factory=list)
    """Host names of the route; empty for those of the Gateway."""

    path: UrlPath = "/v1"
    """The path prefix of requests to route."""


class ServingNetworkPolicy(NetworkPolicy):
    """Who may connect to the server, and what it may connect to."""

    ingressFrom: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    """Peers that may connect, in NetworkPolicy's format; empty for the pods of the namespace."""


def _flags(given: Any) -> Any:
    """Write vLLM's flags in one form: its documentation uses `-`, files use both."""
    if not isinstance(given, dict):
        return given
    flags: dict[str, Any] = {}
    for key, value in cast("dict[Any, Any]", given).items():
        flags[str(key).lstrip("-").replace("-", "_")] = value
    return flags


def flags_are_words(values: InferenceValues) -> Iterator[Broken]:
    """A flag is one of vLLM's; some are set by their own keys."""
    own = {"model": "model", "api_key": "apiKeySecret", "hf_token": "hf_token", "lora_modules": "adapters"}
    for flag, value in values.vllm_engine_args.items():
        where = f"vllm_engine_args.{flag}"
        if not re.fullmatch(r"[a-z][a-z0-9_]*", flag):
            yield Broken(where, "is not a valid flag name", allowed="letters, digits and '_' or '-'")
        elif flag in own:
            shown = "" if flag in ("api_key", "hf_token") else str(value)
            yield Broken(where, "is not accepted here: it has its own key", value=shown, suggestion=own[flag])


def a_route_has_a_key(values: InferenceValues) -> Iterator[Broken]:
    """A Gateway exposes the server to everyone who reaches it."""
    if values.httpRoute.enabled and not values.apiKeySecret.name:
        what = "is missing, and httpRoute would expose the server without a key"
        yield Broken("apiKeySecret.name", what, allowed="the name of a Secret", about=("httpRoute.enabled",))


class InferenceValues(Workload, legacy.AcceptsOldKeys):
    """Values of `llm-inference-vllm`."""

    kind: ClassVar[str] = "serve"

    spellings: ClassVar[legacy.Spellings] = legacy.INFERENCE
    checks: ClassVar[Sequence[Rule]] = (flags_are_words, a_route_has_a_key)

    model: ModelText
    """A Hub id (`org/name`), a place in the store (`s3://bucket/path`) or a folder (`/path`, `./path`)."""

    adapters: dict[AdapterName, BucketPath] = Field(default_factory=dict)
    """Adapters to serve beside the model: served name to `bucket/path`."""

    image: Annotated[Text, CLUSTER] = "ghcr.io/tuneyard/serve:0.1.0"
    """The serving image."""

    gpus: Count = 1
    """Accelerators of one server."""

    gpuResource: GpuResource = "amd.com/gpu"
    """The extended resource of one accelerator; empty to serve from the CPU."""

    vllm_engine_args: Annotated[dict[str, Plain], BeforeValidator(_flags)] = Field(default_factory=dict)
    """vLLM's flags, with `_` or `-`, such as served_model_name and max_model_len."""

    env_vars: Env = Field(default_factory=dict)
    """Environment variables of the server: a text, or `{name, key}` of a Secret."""

    bucket_storage: Annotated[BucketStorage, CLUSTER] = Field(default_factory=BucketStorage)
    """The store that models come from."""

    bucketCABundle: Annotated[CABundle, CLUSTER] = Field(default_factory=CABundle)
    """Authorities for the store's certificate."""

    hf_token: Annotated[HubToken, CLUSTER] = Field(default_factory=HubToken)
    """The Secret with a token for the Hugging Face Hub."""

    apiKeySecret: Annotated[ApiKeySecret, CLUSTER] = Field(default_factory=ApiKeySecret)
    """The Secret with the API key that clients send; without a name, the server accepts every request."""

    storage: Annotated[Storage, CLUSTER] = Field(default_factory=Storage)
    """The volume for models."""

    dshm: Annotated[SharedMemory, CLUSTER] = Field(default_factory=SharedMemory)
    """Shared memory."""

    probes: Annotated[Probes, CLUSTER] = Field(default_factory=Probes)
    """Probes of the server."""

    port: Annotated[Int, Field(ge=1, le=65535)] = 8080
    """The port that the server listens on, in its container."""

    replicas: Annotated[Count, CLUSTER] = 1
    """Number of servers behind the Service."""

    httpRoute: Annotated[HttpRoute, CLUSTER] = Field(default_factory=HttpRoute)
    """A route of the Gateway API to the server."""

    networkPolicy: Annotated[ServingNetworkPolicy, CLUSTER] = Field(default_factory=ServingNetworkPolicy)
    """Restrict the network."""

    terminationGracePeriodSeconds: Annotated[Count, CLUSTER] = 60
    """Seconds that a server has to finish its answers after SIGTERM."""
