"""The doctor names what is there, and a remedy for what is not."""

import importlib.metadata
import json
from pathlib import Path

import pytest

from twofold import doctor, sandbox
from twofold.types import TwofoldError


def by_name() -> dict[str, doctor.Finding]:
    """The last finding of each name."""
    return {finding.name: finding for finding in doctor.examine()}


def test_every_trouble_has_a_remedy_and_nothing_else_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "level", lambda: "medium")
    monkeypatch.setattr(sandbox, "effects", lambda: {"write": True, "read": False})
    found = by_name()
    assert all(bool(finding.remedy) == (finding.state != "ok") for finding in found.values())
    assert found["sandbox"].what == "medium: open to read"
    assert {"python", "libraries", "weights", "processor", "network", "sandbox"} <= set(found)


def test_the_level_of_this_machine_is_shown() -> None:
    assert by_name()["sandbox"].what.startswith(sandbox.level())


def test_missing_library_and_damaged_weights_block(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(name: str) -> str:
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(doctor, "WEIGHTS", tmp_path)
    monkeypatch.setattr(sandbox, "level", lambda: "strong")
    monkeypatch.setattr(sandbox, "effects", lambda: {"write": True})
    assert doctor.main() == 1
    printed = capsys.readouterr().out
    assert "pip install peft" in printed
    assert f"git checkout {tmp_path}" in printed


def test_without_a_sandbox_answers_are_still_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise TwofoldError("no zygote")

    monkeypatch.setattr(sandbox, "level", broken)
    assert by_name()["sandbox"].state == "warn"


def test_tokenizer_threads_and_notebook_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox, "level", lambda: "strong")
    monkeypatch.setattr(sandbox, "effects", lambda: {"write": True})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = by_name()
    assert found["tokenizer"].what == "BPE, 16,384 tokens"
    assert found["threads"].state == "ok"
    assert "ipykernel" in found["notebook"].what
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    monkeypatch.setattr(doctor, "WEIGHTS", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ipykernel" else object())
    found = by_name()
    assert (found["tokenizer"].state, found["threads"].state, found["notebook"].state) == ("blocked", "warn", "warn")
    assert found["notebook"].what == "missing: ipykernel"


def test_a_kernel_of_another_python_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "share" / "jupyter" / "kernels"
    for name, python in (("other", "/nowhere/python"), ("bare", "python"), ("broken", None)):
        (folder / name).mkdir(parents=True)
        (folder / name / "kernel.json").write_text(json.dumps({"language": "python", "argv": [python]}) if python else "{")
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    (finding,) = doctor._notebook()
    assert finding.state == "warn"
    assert "other Pythons run the kernels other" in finding.what


def test_a_gpu_that_needs_the_fallback_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from twofold.engines import resident

    def refuse(**_: object) -> None:
        raise RuntimeError("decode.cu does not compile")

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (finding,) = doctor._gpu()
    assert (finding.state, "none" in finding.what) == ("ok", True)
    monkeypatch.setattr(resident, "gpu", lambda: "Card, 24 GiB")
    monkeypatch.setattr(resident, "Kernels", refuse)
    (finding,) = doctor._gpu()
    assert finding.state == "warn"
    assert "Card, 24 GiB: plain transformers" in finding.what
    assert "(decode.cu does not compile)" in finding.what
    assert "driver" in finding.remedy
    monkeypatch.setattr(resident, "trial", lambda: "")
    assert next(doctor._gpu()).what == "Card, 24 GiB: kernels compile, graphs are captured"
