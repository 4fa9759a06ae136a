"""The kubernetes target under test: the command as a user types it, in a workspace with a tiny model and data."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lab.cluster.workspaces import SECRET, STORE, Workspace, kubectl
from lab.training import ARGUMENTS, DATA, MODEL, changed, deliver_inputs

WAIT_SECONDS = 240
"""Only ends a broken test: nothing here asserts how long something takes."""

MISSING_IMAGE = "localhost/tuneyard/not-there:0"
"""Runs of this image stay in the queue of the node and take nothing."""


@dataclass
class TargetLab:
    """The command `tuneyard --on kubernetes` in a workspace.

    Attributes:
        workspace: The namespace and the bucket.
        folder: For values files.
        environ: More environment for the command.
    """

    workspace: Workspace
    folder: Path
    environ: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def namespace(self) -> str:
        """The namespace that runs are launched in."""
        return self.workspace.namespace

    def place(self, key: str) -> str:
        """Map a key of `lab.training` to the tests' own part of the bucket."""
        return self.workspace.place(key)

    def upload_inputs(self) -> None:
        """Upload the model and the conversations, manifests last, as a delivery does."""
        deliver_inputs(self.folder / "store", hidden=256)  # vLLM's CPU kernels want heads of 64
        self.workspace.upload(self.folder / "store")

    def values(self, name: str, *, steps: int = 4, **changes: Any) -> Path:
        """Write a values file of a finetuning run without accelerators; further values by their top-level keys."""
        arguments = {"logging_steps": 1, "eval_strategy": "no", "max_steps": steps, "save_steps": 100}
        values = changed(**{ARGUMENTS + key: value for key, value in arguments.items()})
        values["finetuning_config"]["data_conf"]["training_data"]["datasets"] = [{"path": self.place(DATA)}]
        values |= {
            "basemodel": self.place(MODEL),
            "checkpointsRemote": f"{self.workspace.prefix}/experiments/{name}",
            "bucketStorageHost": STORE,
            "bucketCredentialsSecret": {"name": SECRET},
            "gpuResource": "",
            "storageClass": "",
            "downloadsReservedSize": "1Gi",
            "checkpointsReservedSize": "1Gi",
            "env": {"OMP_NUM_THREADS": "1"},
            **changes,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def command(self, *words: object) -> list[str]:
        """Return the command line that a user would type."""
        options = ["--on", "kubernetes", "--namespace", self.namespace]
        return [sys.executable, "-m", "tuneyard", *map(str, words), *options]

    def run(
        self, *words: object, rc: int = 0, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command, and check its exit code."""
        done = subprocess.run(
            self.command(*words),
            env={**os.environ, **self.environ, **(environ or {})},
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS * 2,
        )
        assert done.returncode == rc, f"{words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done

    def launch(self, name: str, *words: object, **changes: Any) -> None:
        """Launch a finetuning run without waiting for it."""
        self.run("finetune", "-f", self.values(name, **changes), "--name", name, "--detach", *words)

    def show(self, name: str) -> dict[str, Any]:
        """Return what `runs show` reports."""
        return json.loads(self.run("runs", "show", name, "--json").stdout)["run"]

    def until(self, name: str, look: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait until `runs show` reports what is expected, and return it."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            info = self.show(name)
            if look(info):
                return info
            assert time.monotonic() < deadline, f"never happened: {info}"
            time.sleep(1)

    def remove(self, *names: str) -> None:
        """Stop and delete runs."""
        for name in names:
            self.run("stop", name, "--force", "--timeout", 20)
            self.run("delete", name, "--yes")

    def objects(self, name: str) -> list[str]:
        """List every object of a run that is left, as `kind/name`."""
        kinds = "jobs,deployments,configmaps,secrets,services,networkpolicies,pods,persistentvolumeclaims"
        labels = f"app.kubernetes.io/instance={name},app.kubernetes.io/part-of=tuneyard"
        return kubectl("get", kinds, "-n", self.namespace, "-l", labels, "-o", "name").split()


def killing_kubectl(folder: Path) -> Path:
    """Make a `kubectl` that kills its caller, before or after the call that the environment names.

    `KILL_CALL` counts from 1, `KILL_WHEN` is `before` or `after`, and `KILL_COUNT` names the file that is counted in.
    """
    real = subprocess.run(["which", "kubectl"], capture_output=True, text=True, check=True).stdout.strip()
    path = folder / "kubectl"
    path.write_text(
        textwrap.dedent(f"""\
        #!{sys.executable}
        import os, signal, subprocess, sys
        count = os.environ["KILL_COUNT"]
        with open(count, "a") as file:
            file.write("x")
        now = os.path.getsize(count) == int(os.environ["KILL_CALL"])
        if now and os.environ["KILL_WHEN"] == "before":
            os.kill(os.getppid(), signal.SIGKILL)
            sys.exit(1)
        code = subprocess.run(["{real}", *sys.argv[1:]]).returncode
        if now:
            os.kill(os.getppid(), signal.SIGKILL)
        sys.exit(code)
        """)
    )
    path.chmod(0o755)
    return path


@contextmanager
def own_queue(namespace: str) -> Iterator[str]:
    """Make a LocalQueue whose ClusterQueue, named like the namespace, has a single accelerator; return its name."""
    flavor = json.loads(kubectl("get", "resourceflavors", "-o", "json"))["items"][0]["metadata"]["name"]
    quota = [
        {"name": "amd.com/gpu", "nominalQuota": 1},
        *[{"name": one, "nominalQuota": "1Ti"} for one in ("cpu", "memory")],
    ]
    group = {"coveredResources": [one["name"] for one in quota], "flavors": [{"name": flavor, "resources": quota}]}
    spec = {"namespaceSelector": {}, "resourceGroups": [group]}
    version = "kueue.x-k8s.io/v1beta1"
    made = [
        {"apiVersion": version, "kind": "ClusterQueue", "metadata": {"name": namespace}, "spec": spec},
        {
            "apiVersion": version,
            "kind": "LocalQueue",
            "metadata": {"name": "one", "namespace": namespace},
            "spec": {"clusterQueue": namespace},
        },
    ]
    kubectl("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": made}))
    try:
        yield "one"
    finally:
        kubectl("delete", "clusterqueue", namespace, "--wait=false")


def service_account(namespace: str, folder: Path) -> Path:
    """Make a kubeconfig of an account without rights in the namespace, and return its path."""
    kubectl("create", "serviceaccount", "nobody", "-n", namespace)
    token = kubectl("create", "token", "nobody", "-n", namespace).strip()
    config = json.loads(kubectl("config", "view", "--minify", "--raw", "-o", "json"))
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    path = folder / "nobody.conf"
    path.write_text(json.dumps(config))
    return path


def lines_on_a_terminal(command: list[str], width: int, patterns: Sequence[str]) -> list[str]:
    """Run a command on a terminal until it has drawn a line that matches each pattern; return the lines.

    Args:
        command: The command.
        width: The terminal's columns.
        patterns: A regular expression for each expected line, from its start.
    """
    import fcntl
    import pty
    import select
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environ = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR", "CI")}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**environ, "TERM": "xterm-256color"}
    ) as process:
        os.close(theirs)
        shown, lines, deadline = b"", list[str](), time.monotonic() + WAIT_SECONDS
        while missing := [each for each in patterns if not any(re.match(each, line) for line in lines)]:
            assert time.monotonic() < deadline, f"not drawn: {missing}; drawn: {lines[-8:]}"
            if select.select([ours], [], [], 0.5)[0]:
                try:
                    shown += os.read(ours, 65536)
                except OSError as ended:
                    raise AssertionError(f"it ended before {missing} was drawn: {lines[-8:]}") from ended
                lines = _drawn(shown)
        process.terminate()
    os.close(ours)
    return lines


def _drawn(shown: bytes) -> list[str]:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace"))
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]
