"""Shapes that several charts share: secrets, labels, resources, environment.

Everything here is about where a workload runs, so nothing of it changes what is computed. Not a place for what only
one chart has.
"""

# ruff: noqa: N815  (attributes are called as the charts' keys are)
from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from tuneyard.values.base import CLUSTER, Values
from tuneyard.values.places import StoreUrl
from tuneyard.values.public import NOT_SHOWN
from tuneyard.values.scalars import EnvName, Int, LabelKey, LabelValue, Matching, Name, OptionalName, Quantity, Text


class CredentialsSecret(Values):
    """The Secret that holds the bucket's keys."""

    name: Name = "minio-credentials"
    """The Secret's name."""

    accessKeyKey: Text = "API_ACCESS_KEY"
    """The key in it that holds the access key."""

    secretKeyKey: Text = "API_SECRET_KEY"
    """The key in it that holds the secret key."""


class SecretKey(Values):
    """A key of a Secret; an empty name for none."""

    name: OptionalName = ""
    """The Secret's name; empty for none."""

    key: Text = "token"
    """The key in it."""


class ApiKeySecret(SecretKey):
    """The Secret with the endpoint's API key; an empty name for none."""

    key: Text = "api-key"
    """The key in it."""


class NodesSecret(SecretKey):
    """The Secret with the key that the nodes of a run share; an empty name for none."""

    key: Text = "nodes-key"
    """The key in it."""


class SecretRef(Values):
    """A key of an existing Secret."""

    name: Name
    """The Secret's name."""

    key: Text
    """The key in it."""


class CABundle(Values):
    """A ConfigMap with the certificate authorities of the store."""

    configMap: OptionalName = ""
    """The ConfigMap's name; empty to trust the system's authorities."""

    key: Text = "ca.crt"
    """The key in it that holds the PEM text."""


class Resources(Values):
    """Resource requests and limits of a container, except accelerators."""

    requests: dict[Text, Quantity] = Field(default_factory=dict)
    """Requests, by resource name."""

    limits: dict[Text, Quantity] = Field(default_factory=dict)
    """Limits, by resource name."""


Port = Annotated[Int, Field(ge=1, le=65535)]


class NetworkPolicy(Values):
    """Restricts the workload's network to what it needs."""

    enabled: bool = False
    """Render a NetworkPolicy."""

    egressPorts: list[Port] = Field(default_factory=lambda: [443])
    """TCP ports open for egress to any address, in addition to DNS, the store's port and the run's own pods."""


def _env_from_list(given: Any) -> Any:
    """Read Kubernetes' list of `{name, value}` and `{name, valueFrom: {secretKeyRef}}` as a map."""
    if not isinstance(given, list):
        return given
    env: dict[str, Any] = {}
    for entry in cast("list[Any]", given):
        if not isinstance(entry, dict) or "name" not in entry:
            return cast("Any", given)
        item = cast("dict[str, Any]", entry)
        source: Any = item.get("valueFrom") or {}
        if not isinstance(source, dict) or set(cast("dict[str, Any]", source)) - {"secretKeyRef"}:
            raise PydanticCustomError("secret_expected", "is neither a string nor a secretKeyRef")
        env[str(item["name"])] = cast("dict[str, Any]", source).get("secretKeyRef", item.get("value", ""))
    return env


def _env_text(given: Any) -> Any:
    """Write a boolean of YAML as text for an environment variable."""
    if given == NOT_SHOWN:
        raise PydanticCustomError("not_shown", "was printed without its value; set it")
    return str(given).lower() if isinstance(given, bool) else str(given) if isinstance(given, float) else given


def _kind_of_env(given: Any) -> str:
    return "secret" if isinstance(given, dict | SecretRef) else "text"


_EnvText = Annotated[Text, BeforeValidator(_env_text, json_schema_input_type=str | bool | float)]
_EnvShape = dict[EnvName, str | bool | float | SecretRef] | list[dict[str, Any]]
EnvValue = Annotated[
    Annotated[_EnvText, Tag("text")] | Annotated[SecretRef, Tag("secret")], Discriminator(_kind_of_env)
]
Env = Annotated[dict[EnvName, EnvValue], BeforeValidator(_env_from_list, json_schema_input_type=_EnvShape)]
"""Environment variables: a text, or `{name, key}` of a Secret. Kubernetes' own list form is read too."""

Labels = Annotated[dict[LabelKey, LabelValue], CLUSTER]
GpuResource = Annotated[
    Text,
    Matching(
        r"|[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9][-A-Za-z0-9_.]*",
        "is not a valid extended resource name",
        "amd.com/gpu, nvidia.com/gpu or another domain/name; empty for the CPU",
    ),
]


class Workload(Values):
    """The keys of every chart that runs a container."""

    labels: Labels = Field(default_factory=dict)
    """Labels of every object, such as `kueue.x-k8s.io/queue-name`."""

    imagePullPolicy: Annotated[Literal["IfNotPresent", "Always", "Never"], CLUSTER] = "IfNotPresent"
    """When the image is pulled."""

    imagePullSecrets: Annotated[list[Name], CLUSTER] = Field(default_factory=list)
    """Names of the Secrets that pull the image."""

    resources: Annotated[Resources, CLUSTER] = Field(default_factory=Resources)
    """Requests and limits of CPU and memory."""

    podSecurityContext: Annotated[dict[str, Any], CLUSTER] = Field(default_factory=dict)
    """The pod's securityContext, as Kubernetes has it; empty for a strict one."""

    serviceAccountName: Annotated[OptionalName, CLUSTER] = ""
    """The service account of pods, its token not mounted; empty for the namespace's default."""

    nodeSelector: Annotated[dict[LabelKey, LabelValue], CLUSTER] = Field(default_factory=dict)
    """Node labels to require."""

    tolerations: Annotated[list[dict[str, Any]], CLUSTER] = Field(default_factory=list[dict[str, Any]])
    """Tolerations, in Kubernetes' format."""

    affinity: Annotated[dict[str, Any], CLUSTER] = Field(default_factory=dict)
    """Affinity, in Kubernetes' format."""

    queueName: Annotated[LabelValue, CLUSTER] = ""
    """Kueue's LocalQueue; empty for none."""

    priorityClass: Annotated[LabelValue, CLUSTER] = ""
    """Kueue's priority class; empty for none."""


class Job(Workload):
    """The additional keys of a workload that runs to completion; those of the store have the charts' older names."""

    bucketStorageHost: Annotated[StoreUrl, CLUSTER] = ""
    """URL of the object store; `TUNEYARD_STORE` takes precedence."""

    bucketCredentialsSecret: Annotated[CredentialsSecret, CLUSTER] = Field(default_factory=CredentialsSecret)
    """The Secret with the store's keys."""

    bucketCABundle: Annotated[CABundle, CLUSTER] = Field(default_factory=CABundle)
    """Authorities for the store's certificate."""

    storageClass: Annotated[OptionalName, CLUSTER] = ""
    """Storage class of the ephemeral working volume; empty for the node's disk."""

    volumeClaim: Annotated[OptionalName, CLUSTER] = ""
    """An existing PersistentVolumeClaim to work on; empty for an ephemeral volume."""

    ttlSecondsAfterFinished: Annotated[Annotated[Int, Field(ge=0)] | None, CLUSTER] = None
    """Seconds after which a finished Job is deleted; null to keep it."""
