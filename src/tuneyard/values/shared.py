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
    """One key of a Secret. An empty name means there is none."""

    name: OptionalName = ""
    """The Secret's name; empty for none."""

    key: Text = "token"
    """The key in it."""


class ApiKeySecret(SecretKey):
    """Where the key of the endpoint is. An empty name means there is none."""

    key: Text = "api-key"
    """The key in it."""


class NodesSecret(SecretKey):
    """Where the key is that the nodes of a run share. An empty name means there is none."""

    key: Text = "nodes-key"
    """The key in it."""


class SecretRef(Values):
    """A key of a Secret that has to be there."""

    name: Name
    """The Secret's name."""

    key: Text
    """The key in it."""


class CABundle(Values):
    """A ConfigMap with the certificates that the store's certificate is checked against."""

    configMap: OptionalName = ""
    """The ConfigMap's name; empty to trust the system's authorities."""

    key: Text = "ca.crt"
    """The key in it that holds the PEM text."""


class Resources(Values):
    """What a container asks for and may use, besides accelerators."""

    requests: dict[Text, Quantity] = Field(default_factory=dict)
    """Amounts that are set aside, by resource name."""

    limits: dict[Text, Quantity] = Field(default_factory=dict)
    """Amounts that are never exceeded, by resource name."""


Port = Annotated[Int, Field(ge=1, le=65535)]


class NetworkPolicy(Values):
    """Whether the workload's network is narrowed to what it needs."""

    enabled: bool = False
    """Render a NetworkPolicy."""

    egressPorts: list[Port] = Field(default_factory=lambda: [443])
    """TCP ports that may be reached anywhere, besides name servers, the store's port and the run's own pods."""


def _env_from_list(given: Any) -> Any:
    """Read Kubernetes' list of `{name, value}` and `{name, valueFrom: {secretKeyRef}}` as a map."""
    if not isinstance(given, list):
        return given
    env: dict[str, Any] = {}
    for entry in cast("list[Any]", given):
        if not isinstance(entry, dict) or "name" not in entry:
            return cast("Any", given)
        item = cast("dict[str, Any]", entry)
        source = cast("dict[str, Any]", item.get("valueFrom") or {})
        if set(source) - {"secretKeyRef"}:
            raise PydanticCustomError("secret_expected", "comes from what is neither a text nor a secretKeyRef")
        env[str(item["name"])] = source.get("secretKeyRef", item.get("value", ""))
    return env


def _env_text(given: Any) -> Any:
    """Write a truth value of YAML the way a program's environment has it."""
    if given == NOT_SHOWN:
        raise PydanticCustomError("not_shown", "was printed without its text, which has to be given again")
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
        "is not an extended resource's name",
        "amd.com/gpu, nvidia.com/gpu or another domain/name; empty for the CPU",
    ),
]


class Workload(Values):
    """What every chart that runs a container has."""

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
    """The account that pods run as, without its token; empty for the namespace's default."""

    nodeSelector: Annotated[dict[LabelKey, LabelValue], CLUSTER] = Field(default_factory=dict)
    """Labels that a node must have."""

    tolerations: Annotated[list[dict[str, Any]], CLUSTER] = Field(default_factory=list[dict[str, Any]])
    """Taints of nodes that are put up with, as Kubernetes has them."""

    affinity: Annotated[dict[str, Any], CLUSTER] = Field(default_factory=dict)
    """Which nodes and neighbours are sought or avoided, as Kubernetes has it."""

    queueName: Annotated[LabelValue, CLUSTER] = ""
    """The LocalQueue of Kueue to queue in; empty for none."""

    priorityClass: Annotated[LabelValue, CLUSTER] = ""
    """Kueue's priority class; empty for none."""


class Job(Workload):
    """What a workload that ends, and reads the store under the charts' older names, has too."""

    bucketStorageHost: Annotated[StoreUrl, CLUSTER] = ""
    """URL of the object store; `TUNEYARD_STORE` wins over it."""

    bucketCredentialsSecret: Annotated[CredentialsSecret, CLUSTER] = Field(default_factory=CredentialsSecret)
    """The Secret with the store's keys."""

    bucketCABundle: Annotated[CABundle, CLUSTER] = Field(default_factory=CABundle)
    """Authorities for the store's certificate."""

    storageClass: Annotated[OptionalName, CLUSTER] = ""
    """Storage class of the working volume, which lives as long as its pod; empty for the node's own disk."""

    volumeClaim: Annotated[OptionalName, CLUSTER] = ""
    """A PersistentVolumeClaim that is there, to work on; empty for a volume that comes and goes with the pod."""

    ttlSecondsAfterFinished: Annotated[Annotated[Int, Field(ge=0)] | None, CLUSTER] = None
    """Seconds after which a finished Job is removed; none keeps it."""
