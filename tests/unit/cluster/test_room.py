"""Whether a Job has room: Kueue's arithmetic, a namespace's quota, and nodes, from documents alone."""

from __future__ import annotations

import pytest

from tuneyard.cluster.amounts import amount_of, written
from tuneyard.cluster.demand import Demand, demand_of
from tuneyard.cluster.nodes import eligible, matches, most_on_one, on_nodes
from tuneyard.cluster.quota import cohort_of, in_queue, in_resource_quota, queue_shares, selects
from tuneyard.cluster.room import accelerator_bytes

GPU = "amd.com/gpu"


@pytest.mark.parametrize(
    ("text", "amount"),
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
def test_amounts_are_read_as_kubernetes_writes_them(text, amount):
    assert amount_of(text) == amount


def test_amounts_are_written_in_the_units_people_use():
    assert [
        written("memory", 2.0**34),
        written(GPU, 8.0),
        written("cpu", 0.5),
        written("requests.storage", 2.0**20),
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


def found(asked, *queues, flavors=(), local=LOCAL):
    return in_queue(asked, local, queues[0], cohort_of(queues[0], queues), flavors)[0]


QUEUES = {
    "room now": (demand(6), [queue(used=2)], "yes", "lab would admit it now: 6 amd.com/gpu of 6 free"),
    "in use": (
        demand(6),
        [queue(used=4, waiting=2)],
        "not now",
        "amd.com/gpu: 6 asked for, 4 of 8 free; 2 wait already",
    ),
    "too much": (demand(9), [queue()], "never", "lab never admits it: amd.com/gpu: 9 asked for, 8 is all there is"),
    "nodes count": (demand(3, pods=3), [queue()], "never", "9 asked for, 8 is all there is"),
    "not covered": (demand(1, cpu=1.0), [queue()], "never", "lab never admits it: cpu is not covered"),
    "stopped": (demand(), [queue(stopPolicy="Hold")], "not now", "the ClusterQueue lab is stopped"),
    "not active": (demand(), [queue(active="False")], "not now", "is not active: flavor missing"),
    "in turn": (demand(), [queue(waiting=1, queueingStrategy="StrictFIFO")], "not now", "strictly in turn; 1 wait"),
    "out of turn": (demand(), [queue(waiting=1)], "yes", "1 amd.com/gpu of 8 free"),
    "pods covered": (demand(0, pods=9), [queue(resources=(GPU, "pods"))], "never", "pods: 9 asked for, 8 is all"),
}


@pytest.mark.parametrize("case", QUEUES)
def test_a_queue_admits_now_later_or_never(case):
    asked, queues, fits, words = QUEUES[case]
    told = found(asked, *queues)
    assert (told.place, told.fits) == ("queue", fits)
    assert words in told.sentence


def member(name, **more):
    return queue(name, cohortName="yard", **more)


COHORTS = {
    "borrows what is free": ([member("lab"), member("other", used=2)], 14, "yes"),
    "waits for what others use": ([member("lab"), member("other", used=2)], 15, "not now"),
    "has no more than all": ([member("lab"), member("other")], 17, "never"),
    "borrows to its limit": ([member("lab", borrowing=2), member("other")], 11, "never"),
    "within its limit": ([member("lab", borrowing=2), member("other")], 10, "yes"),
    "what is not lent is not there": ([member("lab"), member("other", lending=3)], 12, "never"),
    "what is lent is": ([member("lab"), member("other", lending=3)], 11, "yes"),
    "its own was lent": ([member("lab"), member("other", used=12)], 5, "not now"),
    "what it does not lend is free": ([member("lab", lending=0), member("other", used=8)], 8, "yes"),
    "another cohort does not count": ([member("lab"), queue("other", cohortName="else")], 9, "never"),
    "the older key": ([queue("lab", cohort="yard"), queue("other", cohort="yard")], 16, "yes"),
}


@pytest.mark.parametrize("case", COHORTS)
def test_a_cohort_shares_by_kueues_rules(case):
    queues, gpus, fits = COHORTS[case]
    assert found(demand(gpus), *queues).fits == fits


def test_one_flavor_has_to_have_it_all_and_the_nearest_is_told():
    two = queue(gpus=4, flavor="small")
    two["spec"]["resourceGroups"][0]["flavors"] += queue(gpus=6, flavor="large")["spec"]["resourceGroups"][0]["flavors"]
    assert found(demand(8), two).fits == "never"
    assert found(demand(6), two).fits == "yes"
    shares, flavors = queue_shares([two], {GPU: 6.0})
    assert (shares[0].whole, flavors) == (6.0, ["large"])


def test_a_flavor_that_its_pods_cannot_take_does_not_count():
    labelled = [flavor(nodeLabels={"pool": "a"})]
    assert in_queue(demand(), LOCAL, queue(), [queue()], labelled)[1] == {"pool": "a"}
    assert found(demand(pod={"nodeSelector": {"pool": "b"}}), queue(), flavors=labelled).fits == "never"
    tainted = [flavor(nodeTaints=[{"key": "only", "value": "gpu", "effect": "NoSchedule"}])]
    assert found(demand(), queue(), flavors=tainted).fits == "never"
    tolerant = {"tolerations": [{"key": "only", "operator": "Exists"}]}
    assert found(demand(pod=tolerant), queue(), flavors=tainted).fits == "yes"


def test_a_stopped_local_queue_holds_back():
    stopped = {**LOCAL, "spec": {"clusterQueue": "lab", "stopPolicy": "HoldAndDrain"}}
    assert "the LocalQueue lab is stopped" in found(demand(), queue(), local=stopped).sentence


def test_a_queue_takes_the_namespaces_it_selects():
    assert selects(queue(namespaceSelector={}), {})
    assert not selects(queue(), {"a": "b"})
    chosen = queue(namespaceSelector={"matchLabels": {"team": "yard"}})
    assert selects(chosen, {"team": "yard"}) and not selects(chosen, {"team": "quay"})


def resource_quota(used=None, **more):
    hard = {"requests.amd.com/gpu": "4", "pods": "10", "limits.memory": "8Gi"}
    return {"metadata": {"name": "small"}, "spec": {"hard": hard, **more}, "status": {"used": used or {}}}


def test_a_namespaces_quota_is_compared_by_its_own_keys():
    assert in_resource_quota(demand(4), resource_quota()).fits == "yes"
    late = in_resource_quota(demand(2), resource_quota({"requests.amd.com/gpu": "3"}))
    assert (late.fits, late.sentence) == (
        "not now",
        "the namespace's quota small does not let it in now: requests.amd.com/gpu: 2 asked for, 1 of 4 free",
    )
    assert in_resource_quota(demand(5), resource_quota()).fits == "never"
    over = in_resource_quota(demand(1, limits={"memory": 2.0**34}), resource_quota())
    assert over.sentence.endswith("limits.memory: 16 Gi asked for, 8 Gi is all there is")
    assert in_resource_quota(demand(5), resource_quota(scopes=["BestEffort"])) is None


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
    "holds it": (demand(8), [node()], "yes", "1 of 1 node can hold its pod"),
    "one of two": (demand(8), [node(), node("two", gpus=4)], "yes", "1 of 2 nodes can hold its pod"),
    "too many on one": (demand(9), [node(), node("two")], "never", "9 asked for, 8 is the most on one node"),
    "too much memory": (demand(1, memory=2.0**37), [node()], "never", "memory: 128 Gi asked for, 64 Gi is the most"),
    "never both": (
        demand(8, cpu=1.0),
        [node(), {**node("two"), "status": {"allocatable": {"cpu": "4", "pods": "9"}}}],
        "never",
        "none has enough amd.com/gpu and cpu at once",
    ),
    "too few nodes": (demand(8, pods=2), [node()], "never", "it has 2 pods, and all nodes hold 1 of them"),
    "two on one": (demand(4, pods=2), [node()], "yes", "can hold its 2 pods"),
    "cordoned": (demand(8), [node(unschedulable=True)], "not now", "not ready or cordoned: one"),
    "not ready": (demand(8), [node(ready="Unknown")], "not now", "not ready or cordoned: one"),
    "none": (demand(), [], "never", "no node has what its nodeSelector"),
}


@pytest.mark.parametrize("case", NODES)
def test_nodes_hold_its_pods_or_what_is_lacking_is_told(case):
    asked, nodes, fits, words = NODES[case]
    told = on_nodes(asked, nodes)
    assert (told.place, told.fits) == ("nodes", fits)
    assert words in told.sentence


def test_only_nodes_that_labels_taints_and_affinity_allow_count():
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
    ("operator", "values", "holds"),
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
def test_selectors_are_kubernetes_own(operator, values, holds):
    assert matches([{"key": "many", "operator": operator, "values": values}], {"many": "4"}) == holds
    assert matches([{"key": "none", "operator": operator, "values": values}], {}) == (
        operator in ("NotIn", "DoesNotExist")
    )


def test_a_job_asks_for_the_requests_of_its_pods_and_a_limit_alone_is_one():
    resources = {"limits": {GPU: "2", "memory": "8Gi"}, "requests": {"memory": "4Gi", "cpu": "500m"}}
    spec = {"containers": [{"name": "finetune", "resources": resources}]}
    job = {
        "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "lab"}},
        "spec": {"parallelism": 3, "template": {"spec": spec}},
    }
    asked = demand_of(job)
    assert (asked.pods, asked.queue) == (3, "lab")
    assert asked.requests == {GPU: 2, "memory": 4 * 2**30, "cpu": 0.5}
    assert asked.in_all == {GPU: 6, "memory": 12 * 2**30, "cpu": 1.5}
    assert asked.limits == {GPU: 2, "memory": 8 * 2**30}


def test_what_an_accelerator_holds_is_read_off_the_vendors_labels():
    nvidia, amd = node(labels={"nvidia.com/gpu.memory": "81559"}), node(labels={"amd.com/gpu.vram": "192G"})
    assert accelerator_bytes([nvidia, node()]) == 81559 * 2**20
    assert accelerator_bytes([nvidia, amd]) == 192 * 2**30
    assert accelerator_bytes([node()]) is None
    assert most_on_one([node(), node(gpus=4)], GPU) == 8
