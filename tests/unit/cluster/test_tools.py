"""What helm and kubectl say when they fail, as errors of ours; and tools that are missing or too old."""

from __future__ import annotations

import pytest

from tuneyard.cluster import Tools
from tuneyard.cluster.tools import explained
from tuneyard.errors import ConflictError, DeniedError, NotFoundError, TuneyardError, UnavailableError


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('Error from server (NotFound): namespaces "x" not found', NotFoundError),
        ('Error from server (NotFound): jobs.batch "x" not found', NotFoundError),
        ('Error from server (Forbidden): jobs.batch is forbidden: User "u" cannot create', DeniedError),
        ("error: You must be logged in to the server (Unauthorized)", DeniedError),
        ('error: context "x" does not exist', NotFoundError),
        ('The Job "x" is invalid: spec.template: Invalid value: field is immutable', ConflictError),
        ("Unable to connect to the server: dial tcp 127.0.0.1:9: connect: connection refused", UnavailableError),
        ("Unable to connect to the server: x509: certificate signed by unknown authority", UnavailableError),
        ("Error: values don't meet the specifications of the schema", TuneyardError),
    ],
)
def test_each_refusal_is_an_error_of_its_own(said, kind):
    assert type(explained("kubectl", said)) is kind


def test_a_missing_namespace_says_how_to_make_it():
    error = explained("kubectl", 'Error from server (NotFound): namespaces "lab" not found')
    assert error.message == "The cluster has no namespace 'lab'."
    assert "kubectl create namespace lab" in error.hint


def test_a_missing_program_is_named_with_what_to_install(tmp_path):
    with pytest.raises(UnavailableError, match="kubectl is not on this machine's PATH") as raised:
        Tools(None, "x", environ={"PATH": str(tmp_path)}).check("kubectl")
    assert "Install kubectl 1.27 or newer" in raised.value.hint


@pytest.mark.parametrize(("program", "version"), [("kubectl", "v1.19.3"), ("helm", "v3.9.0+g1"), ("helm", "none")])
def test_a_program_that_is_too_old_is_named_with_its_version(tmp_path, program, version):
    path = tmp_path / program
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
    with pytest.raises(UnavailableError, match=f"{program} on this machine is too old") as raised:
        Tools(None, "x", environ={"PATH": f"{tmp_path}:/bin:/usr/bin"}).check(program)
    assert "or newer" in raised.value.hint
