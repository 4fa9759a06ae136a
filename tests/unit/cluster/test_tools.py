"""Failures of helm and kubectl as errors of Tuneyard, and tools that are missing or too old."""

from __future__ import annotations

import pytest

from tuneyard.cluster import Tools
from tuneyard.cluster.tools import error_from
from tuneyard.errors import ConflictError, DeniedError, NotFoundError, TuneyardError, UnavailableError


@pytest.mark.parametrize(
    ("stderr", "kind"),
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
def test_each_failure_maps_to_its_error(stderr, kind):
    assert type(error_from("kubectl", stderr)) is kind


def test_a_missing_namespace_hints_at_its_creation():
    error = error_from("kubectl", 'Error from server (NotFound): namespaces "lab" not found')
    assert error.message == "The namespace 'lab' does not exist."
    assert "kubectl create namespace lab" in error.hint


def test_a_missing_program_is_reported_with_what_to_install(tmp_path):
    with pytest.raises(UnavailableError, match="kubectl is not on PATH") as raised:
        Tools(None, "x", environ={"PATH": str(tmp_path)}).check("kubectl")
    assert "Install kubectl 1.27 or newer" in raised.value.hint


@pytest.mark.parametrize(("program", "version"), [("kubectl", "v1.19.3"), ("helm", "v3.9.0+g1"), ("helm", "none")])
def test_an_unsupported_program_is_reported_with_its_version(tmp_path, program, version):
    path = tmp_path / program
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
    with pytest.raises(UnavailableError, match=f"The version '.+' of {program} is not supported") as raised:
        Tools(None, "x", environ={"PATH": f"{tmp_path}:/bin:/usr/bin"}).check(program)
    assert "or newer" in raised.value.hint
