"""What values require of a cluster, in one form for every chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneyard.cluster import QUEUE_LABEL, parse_quantity
from tuneyard.errors import InvalidValuesError, NotFoundError
from tuneyard.values import DeliverValues, FinetuneValues, InferenceValues, load_values

_PRIORITY = "kueue.x-k8s.io/priority-class"


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a run requires of a cluster.

    Attributes:
        verb: `deliver`, `finetune` or `serve`.
        queue: The LocalQueue; empty for none.
        priority: The WorkloadPriorityClass; empty for none.
        gpu_resource: The resource name of an accelerator; empty for none.
        resources: Resource requests of all pods together, by resource name: bytes, cores or a count.
        storage_class: The storage class; empty for a volume without one.
        secrets: Required keys, by Secret.
        ca: ConfigMap and key of the store's CA bundle; the name is empty for none.
        pull_secrets: The image pull secrets.
        image: The image.
        store: The store's URL; empty for none.
        bucket_secret: The Secret of the bucket, and the names of its access key and secret key.
        http_route: Whether an HTTPRoute is requested.
    """

    verb: str
    queue: str = ""
    priority: str = ""
    gpu_resource: str = ""
    resources: Mapping[str, float] = field(default_factory=dict[str, float])
    storage_class: str = ""
    secrets: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    ca: tuple[str, str] = ("", "ca.crt")
    pull_secrets: Sequence[str] = ()
    image: str = ""
    store: str = ""
    bucket_secret: tuple[str, str, str] = ("", "", "")
    http_route: bool = False


def read_requirements(files: Sequence[Path], sets: Sequence[str]) -> Requirements | None:
    """Read the requirements of values, whichever verb they are for; None without values.

    Args:
        files: Values files, later ones winning.
        sets: Texts of `--set`.

    Raises:
        InvalidValuesError: The values fit no verb.
        NotFoundError: A values file does not exist.
    """
    if not files and not sets:
        return None
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise NotFoundError(f"The values file '{missing[0]}' does not exist.", hint=f"ls {missing[0].parent}")
    errors: list[InvalidValuesError] = []
    for model in (FinetuneValues, DeliverValues, InferenceValues):
        try:
            return _requirements_of(load_values(model, files, sets))
        except InvalidValuesError as error:
            errors.append(error)
    raise min(errors, key=lambda error: len(error.problems))  # most likely of the intended verb


def _requirements_of(values: FinetuneValues | DeliverValues | InferenceValues) -> Requirements:
    common: dict[str, Any] = {
        "queue": values.queueName or values.labels.get(QUEUE_LABEL, ""),
        "priority": values.priorityClass or values.labels.get(_PRIORITY, ""),
        "ca": (values.bucketCABundle.configMap, values.bucketCABundle.key),
        "pull_secrets": values.imagePullSecrets,
        "http_route": bool(getattr(getattr(values, "httpRoute", None), "enabled", False)),
    }
    if isinstance(values, InferenceValues):
        credentials = values.bucket_storage.credentials
        bucket = (credentials.secret_name, credentials.access_key_key, credentials.secret_key_key)
        api_key = {values.apiKeySecret.name: [values.apiKeySecret.key]} if values.apiKeySecret.name else {}
        return Requirements(
            "serve",
            gpu_resource=values.gpuResource,
            resources=_resources(values.resources.requests, values.gpuResource, values.gpus, 1),
            storage_class=values.storage.storageClassName,
            secrets={bucket[0]: bucket[1:], **api_key},
            image=values.image,
            store=values.bucket_storage.host,
            bucket_secret=bucket,
            **common,
        )
    secret = values.bucketCredentialsSecret
    bucket = (secret.name, secret.accessKeyKey, secret.secretKeyKey)
    finetune = isinstance(values, FinetuneValues)
    gpu, gpus, nodes = (values.gpuResource, values.finetuningGpus, values.nodes) if finetune else ("", 0, 1)
    return Requirements(
        "finetune" if finetune else "deliver",
        gpu_resource=gpu,
        resources=_resources(values.resources.requests, gpu, gpus, nodes),
        storage_class=values.storageClass,
        secrets={bucket[0]: bucket[1:]},
        image=values.finetuningImage if finetune else values.image,
        store=values.bucketStorageHost,
        bucket_secret=bucket,
        **common,
    )


def _resources(requests: Mapping[str, str], gpu: str, gpus: int, nodes: int) -> dict[str, float]:
    per_node = dict(requests)
    if gpu:
        per_node[gpu] = str(gpus)
    return {name: parse_quantity(amount) * nodes for name, amount in per_node.items()}
