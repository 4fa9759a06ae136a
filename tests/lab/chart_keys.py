"""For each key that changes what Helm renders: a changed value, and the values that it needs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lab.charts import DELIVER, NAMESPACE, SERVE, TRAIN

Case = tuple[Mapping[str, Any], Mapping[str, Any]]
"""The values without which the key has no effect, and the values that change it, both by dotted path."""

RULE = {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get"], "resourceNames": ["one"]}


def plain(*, beside: Mapping[str, Any] | None = None, **values: Any) -> dict[str, Case]:
    """Return a case for each key and its changed value; `__` stands for a dot."""
    return {key.replace("__", "."): (beside or {}, {key.replace("__", "."): value}) for key, value in values.items()}


WORKLOAD = {
    **plain(
        labels={"team": "blue"},
        imagePullPolicy="Always",
        imagePullSecrets=["registry"],
        resources__requests={"cpu": "3"},
        resources__limits={"memory": "3Gi"},
        podSecurityContext={"runAsUser": 4242},
        serviceAccountName="builder",
        nodeSelector={"zone": "a"},
        tolerations=[{"key": "x", "operator": "Exists"}],
        affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
        queueName="silo",
        terminationGracePeriodSeconds=77,
        networkPolicy__enabled=True,
    ),
    **plain(beside={"networkPolicy.enabled": True}, networkPolicy__egressPorts=[8443]),
    **plain(beside={"queueName": "silo"}, priorityClass="urgent"),
}
JOB = {
    **WORKLOAD,
    **plain(
        bucketCredentialsSecret__name="keys",
        bucketCredentialsSecret__accessKeyKey="id",
        bucketCredentialsSecret__secretKeyKey="secret",
        bucketCABundle__configMap="authorities",
        storageClass="fast",
        volumeClaim="kept",
        ttlSecondsAfterFinished=60,
        hfTokenSecret__name="hub",
    ),
    **plain(beside={"networkPolicy.enabled": True}, bucketStorageHost="http://store:9000"),
    **plain(beside={"bucketCABundle.configMap": "authorities"}, bucketCABundle__key="tls.crt"),
    **plain(beside={"hfTokenSecret.name": "hub"}, hfTokenSecret__key="hub-token"),
}
ENVIRONMENT = {"name": "secrets", "key": "one"}
CASES: dict[str, dict[str, Case]] = {
    NAMESPACE.name: {
        **plain(kueue__setup=True, external_secret__setup=True, role__setup=True),
        **plain(
            beside={"kueue.setup": True},
            kueue__cluster_queue_name="other",
            kueue__api_version="kueue.x-k8s.io/v1beta1",
        ),
        **plain(
            beside={"external_secret.setup": True},
            external_secret__external_secret_name="fetcher",
            external_secret__api_version="external-secrets.io/v1beta1",
            external_secret__src__secret_store_name="vault",
            external_secret__src__remote_secret_name="someone",
            external_secret__src__access_key_name="id",
            external_secret__src__secret_key_name="secret",
            external_secret__dest__k8s_secret_name="keys",
            external_secret__dest__access_key_name="id",
            external_secret__dest__secret_key_name="secret",
        ),
        **plain(beside={"role.setup": True}, role__name="other", role__bindingName="other", role__rules=[RULE]),
        **{
            f"role.rules[].{name}": ({"role.setup": True, "role.rules": [RULE]}, {"role.rules": [{**RULE, **change}]})
            for name, change in {
                "apiGroups": {"apiGroups": ["apps"]},
                "resources": {"resources": ["pods"]},
                "verbs": {"verbs": ["list"]},
                "resourceNames": {"resourceNames": ["two"]},
            }.items()
        },
        **plain(beside={"site.env": {"HF_ENDPOINT": "http://hub"}}, site__setup=True),
        **plain(beside={"site.setup": True}, site__env={"HF_ENDPOINT": "http://hub"}, site__caCert="-----BEGIN"),
    },
    DELIVER.name: {**JOB, **plain(image="other/image:1", storageQuantity="77Gi")},
    TRAIN.name: {
        **JOB,
        **plain(
            finetuningImage="other/image:1",
            finetuningGpus=3,
            nodes=2,
            gpuResource="nvidia.com/gpu",
            downloadsReservedSize="77Gi",
            checkpointsReservedSize="77Gi",
            sharedMemory="3Gi",
            waitSeconds=7,
            env={"ONE": "text"},
        ),
        **plain(beside={"nodes": 2}, nodesSecret__name="nodes", networkPolicy__betweenNodes=False),
        **plain(beside={"nodes": 2, "nodesSecret.name": "nodes"}, nodesSecret__key="other"),
        "env.<name>.name": ({"env": {"ONE": ENVIRONMENT}}, {"env": {"ONE": {**ENVIRONMENT, "name": "others"}}}),
        "env.<name>.key": ({"env": {"ONE": ENVIRONMENT}}, {"env": {"ONE": {**ENVIRONMENT, "key": "two"}}}),
    },
    SERVE.name: {
        **WORKLOAD,
        **plain(
            image="other/image:1",
            gpus=3,
            gpuResource="nvidia.com/gpu",
            env_vars={"ONE": "text"},
            port=8181,
            bucket_storage__credentials__secret_name="keys",
            bucket_storage__credentials__access_key_key="id",
            bucket_storage__credentials__secret_key_key="secret",
            bucketCABundle__configMap="authorities",
            hf_token__secret_name="hub",
            apiKeySecret__name="door",
            storage__quantity="77Gi",
            storage__storageClassName="fast",
            storage__volumeClaim="kept",
            dshm__sizeLimit="3Gi",
            probes__startup={"periodSeconds": 3},
            probes__liveness={"periodSeconds": 3},
            probes__readiness={"periodSeconds": 3},
            replicas=3,
        ),
        **plain(beside={"bucketCABundle.configMap": "authorities"}, bucketCABundle__key="tls.crt"),
        **plain(beside={"hf_token.secret_name": "hub"}, hf_token__key="hub-token"),
        **plain(beside={"apiKeySecret.name": "door"}, apiKeySecret__key="other"),
        **plain(
            beside={"apiKeySecret.name": "door", "httpRoute.parentRefs": [{"name": "gate"}]}, httpRoute__enabled=True
        ),
        **plain(
            beside={
                "apiKeySecret.name": "door",
                "httpRoute.enabled": True,
                "httpRoute.parentRefs": [{"name": "gate"}],
            },
            httpRoute__parentRefs=[{"name": "other"}],
            httpRoute__hostnames=["chat.example.com"],
            httpRoute__path="/tuned",
        ),
        **plain(
            beside={"networkPolicy.enabled": True},
            bucket_storage__host="http://store:9000",
            networkPolicy__ingressFrom=[{"namespaceSelector": {"matchLabels": {"team": "blue"}}}],
        ),
        "env_vars.<name>.name": (
            {"env_vars": {"ONE": ENVIRONMENT}},
            {"env_vars": {"ONE": {**ENVIRONMENT, "name": "others"}}},
        ),
        "env_vars.<name>.key": (
            {"env_vars": {"ONE": ENVIRONMENT}},
            {"env_vars": {"ONE": {**ENVIRONMENT, "key": "two"}}},
        ),
    },
}
