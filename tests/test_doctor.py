"""`viewfold doctor` says what this machine can do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import tiny_model

from viewfold.cli import doctor, main


def test_doctor_reports_in_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    findings = doctor.examine()
    assert {"python", "packages", "device", "memory", "disk", "toybox", "speed"} <= {f.topic for f in findings}
    broken = any(finding.broken for finding in findings)
    assert main(["doctor", "--json"]) == (1 if broken else 0)
    assert [f["topic"] for f in json.loads(capsys.readouterr().out)] == [f.topic for f in findings]
    assert main(["doctor"]) == (1 if broken else 0)
    assert "device" in capsys.readouterr().out


def test_doctor_misses_a_shard_of_the_shipped_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models" / "toybox"
    tiny_model(folder)
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "cli" / "doctor.py"))
    assert not doctor._shipped_model().broken
    next((folder / "unet").glob("*.safetensors")).unlink()
    finding = doctor._shipped_model()
    assert finding.broken and "lacks 1 files: unet/*.safetensors" in finding.state
