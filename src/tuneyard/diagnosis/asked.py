"""What values ask of a cluster, in one form for every chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneyard.cluster.amounts import amount_of
from tuneyard.errors import InvalidValuesError, NotFoundError
from tuneyard.values import DeliverValues, FinetuneValues, InferenceValues, load_values

_QUEUE, _PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run needs to find.

    Attributes:
        verb: `deliver`, `finetune` or `serve`.
        queue: The LocalQueue; empty for none.
        priority: Kueue's priority class; empty for none.
        gpu_resource: What the cluster calls one accelerator; empty for none.
        resources: Everything it asks of the queue's quota, by resource name: bytes, cores or a count.
        storage_class: The storage class; empty for a volume without one.
        secrets: Keys by the Secret that has to have them.
        ca: ConfigMap and key of the store's authorities; empty for none.
        pull_secrets: The Secrets that pull the image.
        image: The image.
        store: The store's URL; empty for none.
        access, secret: Which of the Secret's keys is which.
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


def asked_of(files: Sequence[Path], sets: Sequence[str]) -> Asked | None:
    """Read what values ask for, whichever verb they are for; None without any.

    Raises:
        InvalidValuesError: They fit no verb.
    """
    if not files and not sets:
        return None
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise NotFoundError(f"There is no values file {missing[0]}.", hint=f"ls {missing[0].parent}")
    refused: list[InvalidValuesError] = []
    for model in (FinetuneValues, DeliverValues, InferenceValues):
        try:
            return _of(load_values(model, files, sets))
        except InvalidValuesError as error:
            refused.append(error)
    raise min(refused, key=lambda error: len(error.problems))  # the verb that was meant


def _of(values: FinetuneValues | DeliverValues | InferenceValues) -> Asked:
    common: dict[str, Any] = {
        "queue": values.queueName or values.labels.get(_QUEUE, ""),
        "priority": values.priorityClass or values.labels.get(_PRIORITY, ""),
        "ca": (values.bucketCABundle.configMap, values.bucketCABundle.key),
        "pull_secrets": values.imagePullSecrets,
        "http_route": bool(getattr(getattr(values, "httpRoute", None), "enabled", False)),
    }
    if isinstance(values, InferenceValues):
        credentials = values.bucket_storage.credentials
        bucket = (credentials.secret_name, credentials.access_key_key, credentials.secret_key_key)
        own = {values.apiKeySecret.name: [values.apiKeySecret.key]} if values.apiKeySecret.name else {}
        return Asked(
            "serve",
            gpu_resource=values.gpuResource,
            resources=_resources(values.resources.requests, values.gpuResource, values.gpus, 1),
            storage_class=values.storage.storageClassName,
            secrets={bucket[0]: bucket[1:], **own},
            image=values.image,
            store=values.bucket_storage.host,
            bucket_secret=bucket,
            **common,
        )
    secret = values.bucketCredentialsSecret
    bucket = (secret.name, secret.accessKeyKey, secret.secretKeyKey)
    finetune = isinstance(values, FinetuneValues)
    gpu, gpus, nodes = (values.gpuResource, values.finetuningGpus, values.nodes) if finetune else ("", 0, 1)
    return Asked(
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
    asked = dict(requests)
    if gpu:
        asked[gpu] = str(gpus)
    return {name: amount_of(amount) * nodes for name, amount in asked.items()}
