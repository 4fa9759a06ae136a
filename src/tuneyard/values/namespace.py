"""Values of the chart that prepares a namespace: the queue, the store's keys, the role."""

# ruff: noqa: N815, S105  (attributes are called as the charts' keys are; names of secrets are no secrets)
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tuneyard.values.base import Broken, Rule, Values
from tuneyard.values.scalars import Matching, Name, Strings, Text
from tuneyard.whereabouts import SITE_NAMES


class Kueue(Values):
    """The LocalQueue that Jobs queue in."""

    setup: bool = False
    """Create it."""

    cluster_queue_name: Name = "kaiwo"
    """The ClusterQueue that it belongs to; the LocalQueue has the same name."""

    api_version: Literal["kueue.x-k8s.io/v1beta2", "kueue.x-k8s.io/v1beta1"] = "kueue.x-k8s.io/v1beta2"
    """The API version of the cluster's Kueue; versions before 0.14 support v1beta1 only."""


class SecretSource(Values):
    """Where the store's keys are kept."""

    secret_store_name: Name = "k8s-secret-store"
    """The ClusterSecretStore."""

    remote_secret_name: Text = "default-user"
    """The secret in it."""

    access_key_name: Text = "API_ACCESS_KEY"
    """The key in it that holds the access key."""

    secret_key_name: Text = "API_SECRET_KEY"
    """The key in it that holds the secret key."""


class SecretDestination(Values):
    """The Secret in the namespace that the keys are written to."""

    k8s_secret_name: Name = "minio-credentials"
    """Its name."""

    access_key_name: Text = "API_ACCESS_KEY"
    """The key in it that holds the access key."""

    secret_key_name: Text = "API_SECRET_KEY"
    """The key in it that holds the secret key."""


class ExternalSecret(Values):
    """An ExternalSecret that fetches the store's keys."""

    setup: bool = False
    """Create it."""

    external_secret_name: Name = "minio-credentials-fetcher"
    """Its name."""

    api_version: Literal["external-secrets.io/v1", "external-secrets.io/v1beta1"] = "external-secrets.io/v1"
    """The API version of the cluster's External Secrets operator."""

    src: SecretSource = Field(default_factory=SecretSource)
    """Where the keys are kept."""

    dest: SecretDestination = Field(default_factory=SecretDestination)
    """The Secret that they are written to."""


def rules_name_what_they_allow(rule: PolicyRule) -> Iterator[Broken]:
    """A wildcard would let any pod read every Secret."""
    for field in ("apiGroups", "resources", "verbs"):
        if "*" in getattr(rule, field):
            yield Broken(field, "allows everything", value="*", allowed="each by its name")


class PolicyRule(Values):
    """One rule of a Role."""

    checks: ClassVar[Sequence[Rule]] = (rules_name_what_they_allow,)

    apiGroups: Strings = Field(default_factory=lambda: [""])
    """API groups; an empty name is the core group."""

    resources: Strings = Field(min_length=1)
    """Resources, in the plural."""

    verbs: Strings = Field(min_length=1)
    """The allowed verbs."""

    resourceNames: Strings = Field(default_factory=list[str])
    """Names of objects; empty for all of them."""


def _watch_own_jobs() -> list[PolicyRule]:
    """Enough to follow Jobs and their logs, and nothing that reads Secrets."""
    look = ["get", "list", "watch"]
    return [
        PolicyRule(apiGroups=[""], resources=["pods", "pods/log"], verbs=look),
        PolicyRule(apiGroups=["batch"], resources=["jobs"], verbs=look),
        PolicyRule(apiGroups=["apps"], resources=["deployments"], verbs=look),
    ]


class Role(Values):
    """A Role and its binding to the namespace's default account."""

    setup: bool = False
    """Create them."""

    name: Name = "tuneyard-viewer"
    """The Role's name."""

    bindingName: Name = "tuneyard-viewer"
    """The RoleBinding's name."""

    rules: list[PolicyRule] = Field(default_factory=_watch_own_jobs)
    """Its rules; by default they allow reading Jobs, pods and their logs."""


SiteName = Annotated[str, Matching("|".join(SITE_NAMES), "is not a site setting", ", ".join(SITE_NAMES))]


class Site(Values):
    """The ConfigMap `tuneyard-site` with a site's settings: mirrors, proxies, authorities, the device."""

    setup: bool = False
    """Create it."""

    env: dict[SiteName, Text] = Field(default_factory=dict)
    """Environment variables for every workload of the namespace: mirrors, proxies, the device, network interfaces."""

    caCert: Text = ""
    """Certificate authorities to trust for the store and the Hub, as PEM text, in addition to the system's."""


class NamespaceValues(Values):
    """Values of `k8s-namespace-setup`."""

    kind: ClassVar[str] = "namespace"

    kueue: Kueue = Field(default_factory=Kueue)
    """The LocalQueue that Jobs queue in."""

    external_secret: ExternalSecret = Field(default_factory=ExternalSecret)
    """An ExternalSecret that fetches the store's keys."""

    role: Role = Field(default_factory=Role)
    """A Role and its binding to the namespace's default account."""

    site: Site = Field(default_factory=Site)
    """The site's settings."""
