from __future__ import annotations

import pytest
import torch

from segp_cl.runtime.hardware import DeviceNotFoundError, choose_device, choose_dtype


@pytest.mark.parametrize("wanted", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(DeviceNotFoundError, match=f"device {wanted} was requested, but PyTorch finds no GPU.*DEVICE"):
        choose_device(wanted)


def test_one_gpu_is_not_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto") == choose_device("cuda") == "cuda"
    assert choose_device("cuda:0") == "cuda:0"
    with pytest.raises(DeviceNotFoundError, match="device cuda:9 was requested, but PyTorch finds 1 GPU here"):
        choose_device("cuda:9")


def test_precisions() -> None:
    assert choose_dtype("auto", "cpu") == choose_dtype("float32", "cuda") == torch.float32
    assert choose_dtype("auto", "cuda") == choose_dtype("bfloat16", "cpu") == torch.bfloat16
    assert choose_dtype("auto", "cuda:1") == torch.bfloat16
