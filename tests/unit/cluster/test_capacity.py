"""Capacity for a Job: Kueue's arithmetic, a namespace's quota, and nodes, from documents alone."""

from __future__ import annotations

import pytest

from tuneyard.cluster.capacity import accelerator_bytes
from tuneyard.cluster.demand import Demand, demand_of
from tuneyard.cluster.nodes import check_nodes, eligible, largest_allocatable, matches
from tuneyard.cluster.quantities import format_resource, parse_quantity
from tuneyard.cluster.quota import check_queue, check_resource_quota, cohort_of, queue_shares, selects

GPU = "amd.com/gpu"


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("8", 8),
        ("500m", 0.5),
        ("64Gi", 64 * 2**30),
        ("1Ti", 2**40),
        ("2k", 2000),
        ("1G", 1e9),
        ("1e3", 1e3),
        ("2E", 2e18),
    ],
)
def test_quantities_parse_as_in_kubernetes(text, quantity):
    assert parse_quantity(text) == quantity


def test_quantities_are_formatted_in_binary_units():
    assert [
        format_resource("memory", 2.0**34),
        format_resource(GPU, 8.0),
        format_resource("cpu", 0.5),
        format_resource("requests.storage", 2.0**20),
    ] == [
        "16 Gi memory",
        "8 amd.com/gpu",
        "0.5 cpu",
        "1 Mi requests.storage",
    ]


def demand(gpus=1, pods=1, *, pod=None, limits=None, **requests):
    return Demand(pods, {GPU: float(gpus), **requests}, limits or {}, pod or {}, "lab")


def queue(name="lab", *, gpus=8, used=0, flavor="default", waiting=0, active="True", resources=(GPU,), **more):
    spec = {key: value for key, value in more.items() if key not in ("borrowing", "lending")}
    quota = {"nominalQuota": str(gpus)}
    quota |= {f"{key}Limit": str(more[key]) for key in ("borrowing", "lending") if key in more}
    flavors = [{"name": flavor, "resources": [{"name": one, **quota} for one in resources]}]
    reserved = [{"name": flavor, "resources": [{"name": one, "total": str(used)} for one in resources]}]
    return {
        "metadata": {"name": name},
        "spec": {"resourceGroups": [{"coveredResources": list(resources), "flavors": flavors}], **spec},
        "status": {
            "flavorsReservation": reserved,
            "pendingWorkloads": waiting,
            "conditions": [{"type": "Active", "status": active, "message": "flavor missing"}],
        },
    }


def flavor(name="default", **spec):
    return {"metadata": {"name": name}, "spec": spec}


LOCAL = {"metadata": {"name": "lab"}, "spec": {"clusterQueue": "lab"}}


def found(requested, *queues, flavors=(), local=LOCAL):
    return check_queue(requested, local, queues[0], cohort_of(queues[0], queues), flavors)[0]


QUEUES = {
    "free now": (
        demand(6),
        [queue(used=2)],
        "yes",
        "LocalQueue 'lab' would admit it now: amd.com/gpu: requested 6, free 6",
    ),
    "in use": (
        demand(6),
        [queue(used=4, waiting=2)],
        "not now",
        "amd.com/gpu: requested 6, free 4 of 8; 2 already waiting",
    ),
    "too much": (
        demand(9),
        [queue()],
        "never",
        "LocalQueue 'lab' can never admit it: amd.com/gpu: requested 9, total 8",
    ),
    "every node counts": (demand(3, pods=3), [queue()], "never", "requested 9, total 8"),
    "not covered": (demand(1, cpu=1.0), [queue()], "never", "can never admit it: cpu is not covered"),
    "stopped": (demand(), [queue(stopPolicy="Hold")], "not now", "ClusterQueue 'lab' is stopped"),
    "not active": (demand(), [queue(active="False")], "not now", "is not active: flavor missing"),
    "strict FIFO": (
        demand(),
        [queue(waiting=1, queueingStrategy="StrictFIFO")],
        "not now",
        "strictly FIFO; 1 already waiting",
    ),
    "best-effort FIFO": (demand(), [queue(waiting=1)], "yes", "amd.com/gpu: requested 1, free 8"),
    "pods covered": (demand(0, pods=9), [queue(resources=(GPU, "pods"))], "never", "pods: requested 9, total 8"),
}


@pytest.mark.parametrize("case", QUEUES)
def test_a_queue_admits_now_later_or_never(case):
    requested, queues, fits, text = QUEUES[case]
    finding = found(requested, *queues)
    assert (finding.place, finding.fits) == ("queue", fits)
    assert text in finding.sentence


def member(name, **more):
    return queue(name, cohortName="yard", **more)


COHORTS = {
    "borrows free quota": ([member("lab"), member("other", used=2)], 14, "yes"),
    "waits for quota in use by others": ([member("lab"), member("other", used=2)], 15, "not now"),
    "exceeds the whole cohort": ([member("lab"), member("other")], 17, "never"),
    "exceeds its borrowing limit": ([member("lab", borrowing=2), member("other")], 11, "never"),
    "within its borrowing limit": ([member("lab", borrowing=2), member("other")], 10, "yes"),
    "exceeds the lending limit of another": ([member("lab"), member("other", lending=3)], 12, "never"),
    "within the lending limit of another": ([member("lab"), member("other", lending=3)], 11, "yes"),
    "its own quota is lent out": ([member("lab"), member("other", used=12)], 5, "not now"),
    "quota that it does not lend is free": ([member("lab", lending=0), member("other", used=8)], 8, "yes"),
    "another cohort does not count": ([member("lab"), queue("other", cohortName="else")], 9, "never"),
    "the older API version": ([queue("lab", cohort="yard"), queue("other", cohort="yard")], 16, "yes"),
}


@pytest.mark.parametrize("case", COHORTS)
def test_a_cohort_shares_quota_by_kueues_rules(case):
    queues, gpus, fits = COHORTS[case]
    assert found(demand(gpus), *queues).fits == fits


def test_a_single_flavor_must_cover_the_request_and_the_best_is_reported():
    two = queue(gpus=4, flavor="small")
    two["spec"]["resourceGroups"][0]["flavors"] += queue(gpus=6, flavor="large")["spec"]["resourceGroups"][0]["flavors"]
    assert found(demand(8), two).fits == "never"
    assert found(demand(6), two).fits == "yes"
    shares, flavors = queue_shares([two], {GPU: 6.0})
    assert (shares[0].total, flavors) == (6.0, ["large"])


def test_a_flavor_that_the_pods_cannot_use_does_not_count():
    labelled = [flavor(nodeLabels={"pool": "a"})]
    assert check_queue(demand(), LOCAL, queue(), [queue()], labelled)[1] == {"pool": "a"}
    assert found(demand(pod={"nodeSelector": {"pool": "b"}}), queue(), flavors=labelled).fits == "never"
    tainted = [flavor(nodeTaints=[{"key": "only", "value": "gpu", "effect": "NoSchedule"}])]
    assert found(demand(), queue(), flavors=tainted).fits == "never"
    tolerant = {"tolerations": [{"key": "only", "operator": "Exists"}]}
    assert found(demand(pod=tolerant), queue(), flavors=tainted).fits == "yes"


def test_a_stopped_local_queue_admits_nothing():
    stopped = {**LOCAL, "spec": {"clusterQueue": "lab", "stopPolicy": "HoldAndDrain"}}
    assert "LocalQueue 'lab' is stopped" in found(demand(), queue(), local=stopped).sentence


def test_a_queue_accepts_the_namespaces_it_selects():
    assert selects(queue(namespaceSelector={}), {})
    assert not selects(queue(), {"a": "b"})
    chosen = queue(namespaceSelector={"matchLabels": {"team": "yard"}})
    assert selects(chosen, {"team": "yard"}) and not selects(chosen, {"team": "quay"})


def resource_quota(used=None, **more):
    hard = {"requests.amd.com/gpu": "4", "pods": "10", "limits.memory": "8Gi"}
    return {"metadata": {"name": "small"}, "spec": {"hard": hard, **more}, "status": {"used": used or {}}}


def test_a_resource_quota_is_compared_by_its_own_keys():
    assert check_resource_quota(demand(4), resource_quota()).fits == "yes"
    late = check_resource_quota(demand(2), resource_quota({"requests.amd.com/gpu": "3"}))
    assert (late.fits, late.sentence) == (
        "not now",
        "ResourceQuota 'small' can't admit it now: requests.amd.com/gpu: requested 2, free 1 of 4",
    )
    assert check_resource_quota(demand(5), resource_quota()).fits == "never"
    over = check_resource_quota(demand(1, limits={"memory": 2.0**34}), resource_quota())
    assert over.sentence.endswith("limits.memory: requested 16 Gi, total 8 Gi")
    assert check_resource_quota(demand(5), resource_quota(scopes=["BestEffort"])) is None


def node(name="one", *, gpus=8, ready="True", labels=None, taints=(), **spec):
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"taints": list(taints), **spec},
        "status": {
            "allocatable": {GPU: str(gpus), "memory": "64Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


NODES = {
    "fits": (demand(8), [node()], "yes", "1 of 1 node can fit its pod"),
    "one of two": (demand(8), [node(), node("two", gpus=4)], "yes", "1 of 2 nodes can fit its pod"),
    "too many on one": (demand(9), [node(), node("two")], "never", "amd.com/gpu: requested 9, at most 8 on one node"),
    "too much memory": (
        demand(1, memory=2.0**37),
        [node()],
        "never",
        "memory: requested 128 Gi, at most 64 Gi on one node",
    ),
    "never both resources": (
        demand(8, cpu=1.0),
        [node(), {**node("two"), "status": {"allocatable": {"cpu": "4", "pods": "9"}}}],
        "never",
        "no node has enough amd.com/gpu and cpu together",
    ),
    "too few nodes": (demand(8, pods=2), [node()], "never", "all nodes together fit 1 of its 2 pods"),
    "two on one": (demand(4, pods=2), [node()], "yes", "can fit its 2 pods"),
    "cordoned": (demand(8), [node(unschedulable=True)], "not now", "not ready or cordoned: one"),
    "not ready": (demand(8), [node(ready="Unknown")], "not now", "not ready or cordoned: one"),
    "none": (demand(), [], "never", "no node matches its nodeSelector"),
}


@pytest.mark.parametrize("case", NODES)
def test_nodes_fit_the_pods_or_the_lacking_resource_is_reported(case):
    requested, nodes, fits, text = NODES[case]
    finding = check_nodes(requested, nodes)
    assert (finding.place, finding.fits) == ("nodes", fits)
    assert text in finding.sentence


def test_only_nodes_that_match_labels_taints_and_affinity_are_eligible():
    tainted = node("tainted", taints=[{"key": "only", "effect": "NoSchedule"}])
    preferred = node("preferred", taints=[{"key": "rather", "effect": "PreferNoSchedule"}], labels={"pool": "a"})
    cordoned = node("cordoned", taints=[{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}])
    every = [tainted, preferred, cordoned]

    def names(pod, labels=None):
        return [one["metadata"]["name"] for one in eligible(every, pod, labels or {})]

    assert names({}) == ["preferred", "cordoned"]
    assert names({"nodeSelector": {"pool": "a"}}) == names({}, {"pool": "a"}) == ["preferred"]
    assert names({"tolerations": [{"operator": "Exists"}]}) == ["tainted", "preferred", "cordoned"]
    term = {"matchExpressions": [{"key": "pool", "operator": "NotIn", "values": ["a"]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    assert names({"affinity": affinity}) == ["cordoned"]


@pytest.mark.parametrize(
    ("operator", "values", "expected"),
    [
        ("In", ["4"], True),
        ("NotIn", ["4"], False),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
        ("Gt", ["3"], True),
        ("Gt", ["4"], False),
        ("Lt", ["5"], True),
    ],
)
def test_selectors_match_as_in_kubernetes(operator, values, expected):
    assert matches([{"key": "many", "operator": operator, "values": values}], {"many": "4"}) == expected
    assert matches([{"key": "none", "operator": operator, "values": values}], {}) == (
        operator in ("NotIn", "DoesNotExist")
    )


def test_the_demand_of_a_job_is_its_requests_and_a_limit_implies_a_request():
    resources = {"limits": {GPU: "2", "memory": "8Gi"}, "requests": {"memory": "4Gi", "cpu": "500m"}}
    spec = {"containers": [{"name": "finetune", "resources": resources}]}
    job = {
        "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "lab"}},
        "spec": {"parallelism": 3, "template": {"spec": spec}},
    }
    read = demand_of(job)
    assert (read.pods, read.queue) == (3, "lab")
    assert read.requests == {GPU: 2, "memory": 4 * 2**30, "cpu": 0.5}
    assert read.total_requests == {GPU: 6, "memory": 12 * 2**30, "cpu": 1.5}
    assert read.limits == {GPU: 2, "memory": 8 * 2**30}


def test_accelerator_memory_is_read_from_the_vendors_labels():
    nvidia, amd = node(labels={"nvidia.com/gpu.memory": "81559"}), node(labels={"amd.com/gpu.vram": "192G"})
    assert accelerator_bytes([nvidia, node()]) == 81559 * 2**20
    assert accelerator_bytes([nvidia, amd]) == 192 * 2**30
    assert accelerator_bytes([node()]) is None
    assert largest_allocatable([node(), node(gpus=4)], GPU) == 8
