"""The doctor names what is there, and a remedy for what is not."""

import importlib.metadata
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
