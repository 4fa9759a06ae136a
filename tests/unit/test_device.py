"""Which device is computed on: by the values and `TUNEYARD_DEVICE`, never in silence by the CPU."""

from __future__ import annotations

import pytest

from tuneyard.device import choose_device
from tuneyard.errors import AcceleratorMissingError, UsageError


@pytest.mark.parametrize(("named", "resource"), [("", ""), ("cpu", ""), ("cpu", "amd.com/gpu")])
def test_the_cpu_is_used_where_it_is_configured(monkeypatch, named, resource):
    monkeypatch.setenv("TUNEYARD_DEVICE", named)
    assert choose_device(resource, 1, key="gpus") == "cpu"


def test_a_device_of_another_name_is_a_usage_error(monkeypatch):
    monkeypatch.setenv("TUNEYARD_DEVICE", "tpu")
    with pytest.raises(UsageError, match="'tpu'; allowed: cpu, cuda, mps"):
        choose_device("", 1, key="gpus")


def test_a_missing_accelerator_is_reported_with_a_hint(monkeypatch):
    import torch

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has an accelerator")
    monkeypatch.delenv("TUNEYARD_DEVICE", raising=False)
    with pytest.raises(AcceleratorMissingError, match=r"\(gpus=2, gpuResource='amd\.com/gpu'\)") as caught:
        choose_device("amd.com/gpu", 2, key="gpus")
    assert "TUNEYARD_DEVICE=cpu" in caught.value.hint
    assert (caught.value.exit_code, caught.value.hint.count("\n")) == (8, 0)
