"""One training on several nodes: real processes, each with a folder of its own and nothing shared but the store."""

import shutil
import signal
import socket
import time

import psutil
import pytest

from lab.training import ARGUMENTS, REMOTE, changed, deliver_inputs, metrics, start, train, until_step

NO_DROPOUT = {"finetuning_config.peft_conf.peft_kwargs.lora_dropout": 0.0}
LONG = {ARGUMENTS + "num_train_epochs": 12, ARGUMENTS + "eval_steps": 20, **NO_DROPOUT}


@pytest.fixture(scope="module")
def delivered_store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("delivered")
    deliver_inputs(folder / "store")
    return folder / "store"


@pytest.fixture(scope="module")
def undisturbed(delivered_store, tmp_path_factory):
    """The losses of one process without any disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed")
    store = shutil.copytree(delivered_store, folder / "store")
    train(changed(**LONG), store, folder / "work")
    return losses(store)


@pytest.fixture
def store(delivered_store, tmp_path):
    return shutil.copytree(delivered_store, tmp_path / "store")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])


def start_node(node, values, store, workdir, port, *, nodes=2, **environment):
    place = {
        "TUNEYARD_NODES": str(nodes),
        "JOB_COMPLETION_INDEX": str(node),
        "TUNEYARD_MASTER_ADDR": "127.0.0.1",
        "TUNEYARD_MASTER_PORT": port,
        "TUNEYARD_NODES_KEY": "a key of the test's nodes",
    }
    return start(values, store, workdir / f"node-{node}", **{**place, **environment})


def start_nodes(values, store, workdir, port=None):
    port = port or free_port()
    return [start_node(node, values, store, workdir, port) for node in range(values["nodes"])]


def ends(processes):
    """Wait for all nodes, and return their exit codes and logs."""
    logs = [process.communicate(timeout=120)[1] for process in processes]
    return [process.returncode for process in processes], logs


def kill_tree(process):
    """End a node as a power loss does."""
    everyone = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in everyone:
        member.send_signal(signal.SIGKILL)
    process.communicate()


def losses(store):
    return {(row["kind"], row["step"]): row.get("loss", row.get("eval_loss")) for row in metrics(store)}


def check_losses(store, expected):
    """Check that each row is there once, with the numbers of one process."""
    steps = [(row["kind"], row["step"]) for row in metrics(store)]
    assert len(steps) == len(set(steps))
    found = losses(store)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-5, rel=0)


def test_a_killed_node_ends_the_other_with_8_and_a_restart_has_the_losses_of_one_process(undisturbed, store, tmp_path):
    values = changed(nodes=2, **LONG)
    nodes = start_nodes(values, store, tmp_path)
    until_step(nodes[0], tmp_path / "node-0", 9, seconds=300)
    kill_tree(nodes[1])
    codes, logs = ends(nodes[:1])
    assert codes == [8], logs
    assert "Node 1 was lost" in logs[0]
    assert "went wrong" not in logs[0]
    shutil.rmtree(tmp_path / "node-1")  # another machine
    codes, logs = ends(start_nodes(values, store, tmp_path))
    assert codes == [0, 0], logs
    assert "Attempt 2: resuming from step" in logs[0]
    check_losses(store, undisturbed)


def test_sigterm_on_one_node_saves_on_all_and_a_restart_has_the_losses_of_one_process(undisturbed, store, tmp_path):
    values = changed(nodes=2, finetuningGpus=2, **LONG, **{ARGUMENTS + "save_steps": 500})
    nodes = start_nodes(values, store, tmp_path)
    until_step(nodes[0], tmp_path / "node-0", 5, seconds=300)
    nodes[1].send_signal(signal.SIGTERM)
    codes, logs = ends(nodes)
    assert codes == [143, 143], logs
    stopped_at = int(logs[0].split("Stopped after step ")[1].split(":")[0])
    kept = store / REMOTE / f"checkpoint-{stopped_at}-1"
    assert {path.name for path in kept.glob("rng_state_*")} == {f"rng_state_{rank}.pth" for rank in range(4)}
    codes, logs = ends(start_nodes(values, store, tmp_path))
    assert codes == [0, 0], logs
    assert f"Attempt 2: resuming from step {stopped_at}" in logs[0]
    check_losses(store, undisturbed)


def test_a_node_with_other_values_is_refused_and_node_0_reports_who_is_missing(store, tmp_path):
    port, short = free_port(), {"TUNEYARD_MEETING_SECONDS": "8"}
    first = start_node(0, changed(nodes=2), store, tmp_path, port, **short)
    other = start_node(1, changed(nodes=2, **NO_DROPOUT), store, tmp_path, port, **short)
    codes, logs = ends([first, other])
    assert codes == [8, 8], logs
    assert "Node(s) 1 did not join within 8 s" in logs[0]
    assert "its values differ from node 0's" in logs[1]
    assert not any("Loading torch" in log for log in logs)
    assert not (store / REMOTE).exists()


def test_processes_of_one_machine_listen_on_loopback_alone(store, tmp_path):
    process = start(changed(finetuningGpus=2, **LONG), store, tmp_path / "work")
    until_step(process, tmp_path / "work", 2, seconds=300)
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    opened = [one.laddr for member in tree for one in member.net_connections() if one.status == psutil.CONN_LISTEN]
    interfaces = [member.environ().get("GLOO_SOCKET_IFNAME") for member in tree[1:]]
    kill_tree(process)
    assert interfaces.count("lo") == 2, "without it gloo takes whatever the machine's name leads to"
    assert len(opened) >= 3, "torch's store, and gloo of two processes"
    assert {address.ip for address in opened} == {"127.0.0.1"}


def test_nodes_without_a_shared_secret_are_refused_before_they_meet(store, tmp_path):
    node = start_node(0, changed(nodes=2), store, tmp_path, free_port(), TUNEYARD_NODES_KEY="")
    codes, logs = ends([node])
    assert codes == [3], logs
    assert "Several nodes need a shared secret" in logs[0]
    assert "waiting up to" not in logs[0]


def test_values_with_more_nodes_than_available_are_refused(store, tmp_path):
    logs = train(changed(nodes=2), store, tmp_path / "work", code=3)
    assert "nodes" in logs
    assert "TUNEYARD_NODES" in logs
    assert "--on kubernetes" in logs


def test_a_stop_request_while_waiting_for_other_nodes_ends_with_143(store, tmp_path):
    node = start_node(1, changed(nodes=2), store, tmp_path, free_port())
    deadline = time.monotonic() + 60
    assert node.stderr is not None
    line = node.stderr.readline()
    while "waiting up to" not in line and time.monotonic() < deadline:
        line = node.stderr.readline()
    node.send_signal(signal.SIGTERM)
    assert ends([node])[0] == [143]
