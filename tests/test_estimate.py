"""What a model will take is counted from its configuration: closed forms, laws, and no weight is read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import tiny_model
from torch import nn

from viewfold.cli import doctor, main
from viewfold.errors import WeightsError
from viewfold.pipeline import estimate
from viewfold.pipeline.estimate import (
    PROCESS_BYTES,
    SCRATCH,
    Work,
    count_work,
    estimate_bytes,
    estimate_gpu_bytes,
    estimate_seconds,
)
from viewfold.pipeline.placement import Placement

CPU = torch.device("cpu")
WORK = Work(
    parameters={"unet": 1000, "vae": 100, "text_encoder": 300},
    linear=400,
    largest_file={"unet": 4000, "vae": 400, "text_encoder": 1200},
    stored_widths={"unet": 4.0, "vae": 4.0, "text_encoder": 4.0},
    step_flop=1e9,
    decode_flop=5e9,
    step_calls=100,
    step_numbers=10,
    decode_numbers=50,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model(path)
    return path


def test_operations_and_live_numbers_of_known_layers():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.no_grad():
        x, layers = torch.empty(5, 64), nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 16), nn.Linear(16, 8))
        flop, numbers, _ = estimate._count(lambda: layers(x), layers)
        assert flop == 2 * 5 * (64 * 32 + 32 * 16 + 16 * 8)
        assert numbers == 5 * (32 + 16)  # the first result is gone when the third is made
        q, k = torch.empty(2, 3, 128, 8), torch.empty(2, 3, 64, 8)
        attend = nn.functional.scaled_dot_product_attention
        assert estimate._count(lambda: attend(q, k, k), nn.Identity())[0] == 2 * 2 * (2 * 3) * 128 * 64 * 8


@pytest.mark.slow
def test_work_is_that_of_the_model_and_grows_with_the_views(folder):
    model, two, four = tiny_model(), count_work(folder, n_views=2), count_work(folder, n_views=4)
    for part in ("unet", "vae", "text_encoder"):
        held = sum(p.numel() for p in getattr(model, part).parameters())
        assert held <= two.parameters[part] <= held + 33 * 32 * (part == "text_encoder")  # a pooler that is not used
        assert 3.5 < two.stored_widths[part] < 6  # float32 and a header
    assert two.linear < two.parameters["unet"]
    assert 1.9 * two.step_flop < four.step_flop  # the text is read for all views together
    assert four.decode_flop == 2 * two.decode_flop
    assert four.step_numbers > two.step_numbers and four.step_calls == two.step_calls


def test_a_file_of_the_same_type_is_not_copied_and_one_of_another_is():
    loading = 4 * 1400
    assert estimate_bytes(WORK, torch.float32) == PROCESS_BYTES + max(loading, 4 * 1100 + SCRATCH * 4 * 50)
    assert estimate_bytes(WORK, torch.bfloat16) == PROCESS_BYTES + 2 * 1400 + 4000
    sharded = replace(WORK, largest_file=dict.fromkeys(WORK.parameters, 500))
    assert estimate_bytes(sharded, torch.bfloat16) == PROCESS_BYTES + 2 * 1400 + 500
    large = replace(WORK, decode_numbers=5000)
    assert estimate_bytes(large, torch.float32) == PROCESS_BYTES + 4 * 1100 + SCRATCH * 4 * 5000


def test_a_gpu_holds_what_is_not_offloaded():
    alive = SCRATCH * 2 * 50
    assert estimate_gpu_bytes(WORK, torch.bfloat16, Placement()) == 2 * 1400
    assert estimate_gpu_bytes(WORK, torch.bfloat16, Placement(int8=True)) == 2 * 1400 - 400
    assert estimate_gpu_bytes(WORK, torch.bfloat16, Placement(offload="model")) == 2 * 1000 + alive
    assert estimate_gpu_bytes(WORK, torch.bfloat16, Placement(offload="sequential")) == 2 * 300
    assert estimate_gpu_bytes(WORK, torch.float16, Placement(offload="model")) == 2 * 1000 + SCRATCH * 4 * 50


def test_the_doctor_lists_what_would_fit_on_a_gpu(folder, monkeypatch):
    monkeypatch.setattr("viewfold.device.best_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10, 10))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(estimate, "matrix_speed", lambda dtype, device: 1e9)
    rows = {finding.topic.strip(): finding for finding in doctor.examine_model(str(folder))}
    assert {"float32", "bfloat16 --int8", "float32 --offload model"} < set(rows)
    assert "never compared with a GPU" in rows["tiny"].state and "Does not fit" in rows["float32"].advice


def test_time_is_work_over_speed(monkeypatch):
    monkeypatch.setattr(estimate, "matrix_speed", lambda dtype, device: 1e9 / estimate.EFFICIENCY[dtype])
    seconds = estimate_seconds(WORK, torch.float32, device=CPU, steps=10)
    assert seconds == pytest.approx(10 * (1 + 100 * estimate.OVERHEAD) + 5)


@pytest.mark.slow
def test_the_doctor_estimates_a_model_and_reads_no_weights(folder, monkeypatch, capsys):
    from viewfold.weights import components

    monkeypatch.setattr(components, "_read_part", lambda *_: pytest.fail("weights are read"))
    monkeypatch.setattr(doctor, "examine", lambda: [])
    assert main(["doctor", "--model", str(folder), "--json"]) == 0
    model, first, *_ = json.loads(capsys.readouterr().out)
    assert model["topic"] == "tiny" and "unet 0 M" in model["state"]
    assert first["topic"].strip() == "float32" and "GiB" in first["state"] and "used by default" in first["state"]
    monkeypatch.setattr(doctor, "_memory_gib", lambda: 0.1)
    assert main(["doctor", "--model", str(folder)]) == 0
    assert "Does not fit into the 0.1 GiB here" in capsys.readouterr().out


def test_what_cannot_be_estimated_is_named(folder, tmp_path, capsys):
    (tmp_path / "model.pt").write_bytes(b"x")
    assert main(["doctor", "--model", str(tmp_path / "model.pt")]) == 2
    assert "`--model` must be a name or a folder" in capsys.readouterr().err
    with pytest.raises(WeightsError, match="model_index.json"):
        count_work(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    config = json.loads((broken / "unet" / "config.json").read_text())
    (broken / "unet" / "config.json").write_text(json.dumps({**config, "down_block_types": ["Nothing", "Else"]}))
    assert main(["doctor", "--model", str(broken)]) == 3
    assert "must describe a network" in capsys.readouterr().err
    (broken / "unet" / "config.json").write_text(json.dumps({"_class_name": "MultiViewUNetModel", "image_size": 32}))
    with pytest.raises(WeightsError, match="must give `sample_size`"):
        count_work(broken)
