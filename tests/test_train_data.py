"""What training does with the shards that it is given: what it refuses, replaces, mixes and records."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import LATENT_SIZE, tiny_unet
from tiny_shards import SHAPE, write_shards
from tiny_training import LOOP, SETTINGS, recorder, train

from viewfold.errors import AssetError, InputError


@pytest.mark.parametrize("spoil", ["nan", "shape", "objects", "cameras"])
def test_samples_that_cannot_be_trained_on_are_named_before_the_first_step(spoil: str, tmp_path: Path) -> None:
    good = np.zeros((8, *SHAPE), np.float16)
    wrong = {
        "nan": np.full((8, *SHAPE), np.nan, np.float16),
        "shape": np.zeros((8, SHAPE[0], LATENT_SIZE, LATENT_SIZE + 1), np.float16),
        "objects": np.array(["a"], dtype=object),
        "cameras": good[:7],
    }[spoil]
    if spoil == "objects":
        wrong = np.zeros((8, 4), np.int64)
    shards = write_shards(tmp_path / "objects", latents={"asset2": wrong, "asset0": good})
    network = recorder()
    with pytest.raises(AssetError, match=r"1 of 6 samples cannot be trained on: `asset2"):
        train(tmp_path, unet=network, objects=shards)
    assert network.calls == [] and not (tmp_path / "run").exists()


def test_views_that_do_not_divide_a_circle_are_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="3 `views` divide evenly; got 8 views on 1 circles"):
        train(tmp_path, replace(SETTINGS, views=3))


@pytest.mark.slow
def test_latents_of_another_autoencoder_are_refused_and_unknown_ones_are_told(tmp_path: Path) -> None:
    objects = write_shards(tmp_path / "objects", encoder="a" * 64)
    pictures = write_shards(tmp_path / "pictures", posed=False, encoder="a" * 64)
    train(tmp_path, objects=objects, pictures=pictures, vae="a" * 64)
    with pytest.raises(InputError, match=r"latents of the model's own autoencoder \(bbbb.*--latents"):
        train(tmp_path, objects=objects, pictures=pictures, vae="b" * 64)
    unknown = write_shards(tmp_path / "unknown")
    with pytest.warns(UserWarning, match="do not say which autoencoder"):
        train(tmp_path / "second", objects=unknown, pictures=pictures, vae="a" * 64)


def test_a_batch_beside_which_there_would_be_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`batch` must be large enough for 30% of pictures; got 1"):
        train(tmp_path, replace(SETTINGS, batch=1, objective=replace(SETTINGS.objective, share_2d=0.3)))


def test_pictures_are_given_exactly_when_the_mix_has_some(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exactly when `share_2d` is above 0"):
        train(tmp_path, pictures=None)


@pytest.mark.slow
def test_a_sample_that_breaks_while_a_run_goes_on_is_replaced_and_reported(tmp_path: Path) -> None:
    objects, broken = write_shards(tmp_path / "objects"), []

    def progress(status: Any) -> None:
        if status.step == 1:
            shard = objects / "shard-00000.tar"
            broken.append(shard.stat())
            content = bytearray(shard.read_bytes())
            at = content.index(b"asset3.latents.npy") + 512
            content[at + 128 : at + 1024] = bytes(896)
            with shard.open("r+b") as file:
                file.write(content)
            os.utime(shard, ns=(broken[0].st_atime_ns, broken[0].st_mtime_ns))

    settings = replace(SETTINGS, loop=replace(LOOP, steps=8, read_ahead=1))
    with pytest.warns(UserWarning, match="objects: a sample is replaced by another one: asset3: .*checksum"):
        report = train(tmp_path, settings, objects=objects, progress=progress).report
    assert report["data"]["objects"]["replaced"] > 0 and list(report["data"]["objects"]["unread"]) == ["asset3"]
    assert report["data"]["pictures"]["replaced"] == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"] == report["data"]


@pytest.mark.slow
def test_several_folders_are_recorded_and_other_weights_are_refused_on_resumption(tmp_path: Path) -> None:
    one, two = write_shards(tmp_path / "one"), write_shards(tmp_path / "two", samples=3)
    start = tiny_unet()
    train(tmp_path, unet=copy.deepcopy(start), objects=[one, f"{two}:0.25"])
    said = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [folder["share"] for folder in said["data"]["objects"]["folders"]] == [0.8, 0.2]
    assert said["decides"]["objects"]["2"]["share"] == 0.2 and said["decides"]["objects"]["2"]["samples"] == 3
    more = replace(SETTINGS, loop=replace(LOOP, steps=3))
    with pytest.raises(InputError, match=r"objects.1.share was 0.8, is 0.5; objects.2.share was 0.2, is 0.5"):
        train(tmp_path, more, copy.deepcopy(start), objects=[one, two])
    assert train(tmp_path, more, copy.deepcopy(start), objects=[one, f"{two}:0.25"]).report["steps_made"] == 1


@pytest.mark.slow
def test_moments_are_drawn_and_recorded_and_a_run_with_means_says_nothing_new(tmp_path: Path) -> None:
    moments = write_shards(tmp_path / "moments", grounds=(0.0, 1.0))
    train(tmp_path, objects=moments)
    decides = json.loads((tmp_path / "run" / "run.json").read_text())["decides"]
    assert decides["objects"]["posterior"] == "sample" and decides["objects"]["grounds"] == [0.0, 1.0]
    assert set(decides["pictures"]) == {"samples", "uids", "encoders"}, "as runs before moments were recorded"
    more = replace(SETTINGS, loop=replace(LOOP, steps=3), posterior="mean")
    with pytest.raises(InputError, match="objects.posterior was sample, is mean"):
        train(tmp_path, more, objects=moments)
