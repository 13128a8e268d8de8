"""What the paper and its released configuration say of 3D generation, one test a statement; docs/paper.md is the map.

Statements are in our words.  "As released" is MVDream-threestudio, configs/mvdream-sd21-shading.yaml and what it calls.
Lengths there are of a scene of radius 1, ours has 0.5.  How each part behaves is tested where docs/paper.md says.
"""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path

import pytest
import torch

from viewfold.camera import OBJECT_RADIUS
from viewfold.data.render import PAPER
from viewfold.lifting.phase import phase_at
from viewfold.lifting.presets import MVDREAM, MVDREAM_NEGATIVE, MVDREAM_NOISE, MVDREAM_REDUCED
from viewfold.lifting.score import Reconstruction
from viewfold.lifting.start import FromBlob
from viewfold.lifting.viewpoint import draw_cameras
from viewfold.model.presets import MVDREAM_SD21
from viewfold.scene.background import HIDDEN, N_HARMONICS, WIDTH, Background
from viewfold.scene.blob import Blob
from viewfold.scene.hashfield import HashField, HashGridSettings
from viewfold.scene.volume import SCENE_RADIUS
from viewfold.training.objective import ObjectiveSettings
from viewfold.training.subject import PAPER as DREAMBOOTH

ROOT = Path(__file__).parents[1]
DISTIL = MVDREAM.distil
HALF = OBJECT_RADIUS / 1.0
"""One unit of length of the original in ours."""


# Guidance: section 3.2 and its appendix ------------------------------------------------------------------------------


def test_the_loss_is_x0_reconstruction_with_a_rescale_of_a_half() -> None:
    """recon_loss: true; recon_std_rescale: 0.5 (0.7 in Lin et al.)."""
    assert DISTIL.score == Reconstruction(rescale=0.5)


def test_guidance_is_50() -> None:
    """guidance_scale: 50.0."""
    assert DISTIL.guidance == 50.0


def test_the_score_is_summed_over_latents_and_weighs_one() -> None:
    """lambda_sds: 1.0 on 0.5 |x - x0|^2 / (pictures of the batch)."""
    assert DISTIL.score_mean == "views"


def test_the_noise_anneals_linearly_over_8000_absolute_steps() -> None:
    """min_step_percent: [0, 0.98, 0.02, 8000]; max_step_percent: [0, 0.98, 0.50, 8000]; int(1000 x percent)."""
    assert DISTIL.noise == MVDREAM_NOISE
    levels = {0: (980, 980), 2000: (740, 860), 4000: (500, 740), 8000: (20, 500), 9999: (20, 500)}
    assert {step: DISTIL.noise.at(step) for step in levels} == levels


def test_one_time_step_serves_the_whole_batch() -> None:
    """As released: t has one entry, repeated for the batch."""
    t = DISTIL.noise.draw(6000, n_objects=2, generator=torch.Generator().manual_seed(0))
    assert t.shape == (2,) and t[0] == t[1]


def test_the_negative_prompt_is_a_fixed_list() -> None:
    """negative_prompt, letter for letter; between "pixelated" and "obscure" a comma is missing."""
    assert DISTIL.negative == MVDREAM_NEGATIVE
    words = MVDREAM_NEGATIVE.split(", ")
    assert (
        len(words) == 19 and words[0] == "ugly" and words[3] == "pixelated obscure" and words[-1] == "bad proportions"
    )
    assert len(MVDREAM_NEGATIVE) == 225 and MVDREAM_NEGATIVE.isascii()


def test_latents_are_samples_of_the_posterior() -> None:
    """As released: get_first_stage_encoding(encode_first_stage(pictures)) samples."""
    assert DISTIL.sample_posterior


# Cameras --------------------------------------------------------------------------------------------------------------


def test_four_views_stand_a_quarter_apart_at_a_random_azimuth() -> None:
    """n_view: 4; azimuth (u + i) / 4 of the circle."""
    assert DISTIL.views == 4


def test_elevation_lies_between_0_and_30_and_a_coin_chooses_its_law() -> None:
    """elevation_range: [0, 30]; uniform in degrees or over the sphere, one half each."""
    assert DISTIL.elevation_deg == (0.0, 30.0) and DISTIL.elevation_by_area == 0.5


def test_the_field_of_view_lies_between_15_and_60() -> None:
    """fovy_range: [15, 60], one for the views of an object."""
    assert DISTIL.lens is not None and DISTIL.lens.fov_deg == (15.0, 60.0)


def test_the_distance_is_relative_to_the_focal_length() -> None:
    """camera_distance_range: [0.8, 1.0] x 1 / tan(fov / 2), in their unit; no perturbation of cameras."""
    assert DISTIL.lens is not None and DISTIL.lens.distance == (0.8, 1.0)
    drawn = draw_cameras(
        50, n_views=4, elevation_deg=(0, 30), lens=DISTIL.lens, generator=torch.Generator().manual_seed(0)
    )
    theirs = drawn.position.norm(dim=-1) / HALF * (drawn.fov_deg.deg2rad() / 2).tan()
    assert theirs.min() >= 0.8 - 1e-4 and theirs.max() <= 1.0 + 1e-4


# Schedule and optimiser -----------------------------------------------------------------------------------------------


def test_ten_thousand_steps() -> None:
    """max_steps: 10000."""
    assert DISTIL.steps == 10_000


def test_eight_pictures_of_64_pixels_become_four_of_256_at_step_5000() -> None:
    """batch_size: [8, 4]; width, height: [64, 256]; resolution_milestones: [5000]."""
    for step, size, pictures in ((0, 64, 8), (4999, 64, 8), (5000, 256, 4), (9999, 256, 4)):
        phase = phase_at(DISTIL.phases, step)
        assert (phase.size, phase.objects * DISTIL.views) == (size, pictures)


def test_the_optimiser_is_adamw_without_a_schedule() -> None:
    """AdamW, betas [0.9, 0.99], eps 1e-15; weight decay is PyTorch's own 0.01; the rates are constant."""
    adam = DISTIL.optimizer
    assert (adam.betas, adam.eps, adam.weight_decay, adam.last_rate) == ((0.9, 0.99), 1e-15, 0.01, 1.0)
    assert inspect.signature(torch.optim.AdamW).parameters["weight_decay"].default == adam.weight_decay


def test_rates_are_a_hundredth_for_the_encoding_and_a_thousandth_for_the_networks_and_the_background() -> None:
    """geometry.encoding: 0.01; geometry.density_network, geometry.feature_network, background: 0.001."""
    made = MVDREAM.representation.begin(Blob(radius=0.25), detail=0.2)
    table, networks = made.groups(DISTIL.learning_rate)
    assert (table["lr"], networks["lr"]) == (pytest.approx(0.01), pytest.approx(0.001))
    assert len(table["params"]) == 1 and len(networks["params"]) == 4, "two layers each"
    assert DISTIL.backdrop is not None
    assert DISTIL.backdrop.rate * DISTIL.learning_rate == pytest.approx(0.001)


# Scene ----------------------------------------------------------------------------------------------------------------


def test_it_begins_as_magic3ds_blob() -> None:
    """density_bias: blob_magic3d; density_blob_scale: 10; density_blob_std: 0.5 (of a radius of 1); no views."""
    assert MVDREAM.start == FromBlob(radius=0.5 * HALF)
    points = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, -0.25, 0.0], [0.0, 0.0, 0.5]])
    theirs = 10 * (1 - (points / HALF).norm(dim=-1) / 0.5)
    torch.testing.assert_close(Blob(radius=0.25).logit(points), theirs)
    assert DISTIL.photometric_weight == 0


def test_the_scene_is_a_hash_grid_of_16_levels() -> None:
    """HashGrid: 16 levels of 2 features, 2^19 rows, 16 to 4096 cells, growing 1.4473 times."""
    assert isinstance(MVDREAM.representation, HashGridSettings)
    hashed = MVDREAM.representation.encoding
    assert (hashed.levels, hashed.features, hashed.log2_rows, hashed.base) == (16, 2, 19, 16)
    assert hashed.growth == pytest.approx(1.447269237440378, abs=5e-5) and MVDREAM.representation.level_growth is None
    assert hashed.resolution(0) == 16 and hashed.resolution(15) == pytest.approx(4096, abs=2)


def test_density_and_colour_are_networks_of_one_hidden_layer_of_64_without_biases() -> None:
    """VanillaMLP: n_neurons 64, n_hidden_layers 1, ReLU."""
    made = MVDREAM.representation.begin(Blob(radius=0.25), detail=0.2)
    shapes = [tuple(p.shape) for p in made.groups(0.1)[1]["params"]]
    assert shapes == [(64, 32), (1, 64), (64, 32), (3, 64)]


def test_density_is_softplus_of_their_unit_of_length() -> None:
    """density_activation: softplus; 1 per unit of theirs is 2 per unit of ours; in the middle softplus(10)."""
    made = MVDREAM.representation.begin(Blob(radius=0.25), detail=0.2)
    assert isinstance(made, HashField)
    middle = float(made.density(torch.zeros(1, 3)).detach())
    assert middle == pytest.approx(2 * math.log1p(math.exp(10)), rel=0.01)


def test_normals_are_analytic() -> None:
    """normal_type: analytic."""
    assert isinstance(MVDREAM.representation, HashGridSettings) and MVDREAM.representation.normals == "analytic"


def test_a_ray_takes_steps_of_512_along_the_diagonal_of_their_cube() -> None:
    """num_samples_per_ray: 512 over 1.732 x 2 radii; ours counts the same step across its sphere of radius 0.55."""
    assert isinstance(MVDREAM.representation, HashGridSettings)
    theirs = 1.732 * 2 / 512 * HALF
    assert 2 * SCENE_RADIUS / MVDREAM.representation.samples == pytest.approx(theirs, rel=2e-3)


def test_empty_space_is_skipped_by_a_grid_of_32_cells() -> None:
    """OccGridEstimator(resolution=32), decaying by 0.95."""
    assert isinstance(MVDREAM.representation, HashGridSettings)
    assert (MVDREAM.representation.cells, MVDREAM.representation.decay) == (32, 0.95)


def test_the_background_is_a_small_network_of_the_direction() -> None:
    """neural-environment-map-background: harmonics of degree 3, two hidden layers of 16, sigmoid, no biases."""
    assert DISTIL.backdrop is not None and DISTIL.backdrop.learned
    assert (N_HARMONICS, WIDTH, HIDDEN) == (3**2, 16, 2)
    shapes = [tuple(p.shape) for p in Background().parameters()]
    assert shapes == [(16, 9), (16, 16), (3, 16)]


def test_half_of_the_steps_show_one_random_colour_behind_all_views() -> None:
    """random_aug: true, whose own share is 0.5; share_aug_bg: true, one colour for the batch."""
    assert DISTIL.backdrop is not None
    assert (DISTIL.backdrop.solid_share, DISTIL.backdrop.shared) == (0.5, "batch")


def test_colours_are_unlit_for_5000_steps() -> None:
    """ambient_only_steps: 5000."""
    assert DISTIL.shading is not None and DISTIL.shading.albedo_steps == 5000


def test_then_three_of_four_steps_are_lit_and_half_of_those_without_colour() -> None:
    """diffuse_prob 0.75, threestudio's own; textureless_prob: 0.5."""
    assert DISTIL.shading is not None
    assert (DISTIL.shading.shaded_share, DISTIL.shading.textureless_share) == (0.75, 0.5)


def test_shading_is_soft() -> None:
    """soft_shading: true: a random share of ambient light, the rest is the lamp's."""
    assert DISTIL.shading is not None and DISTIL.shading.ambient == (0.0, 1.0)


def test_lamps_stand_near_their_cameras() -> None:
    """light_sample_strategy "dreamfusion", light_position_perturb 1.0, light_distance_range 0.8 to 1.5: its own."""
    assert DISTIL.shading is not None
    assert DISTIL.shading.light_spread == 1.0 * HALF
    assert DISTIL.shading.light_distance == (0.8 * HALF, 1.5 * HALF)


def test_the_orientation_loss_rises_from_10_to_1000_over_5000_steps() -> None:
    """lambda_orient: [0, 10., 1000., 5000]."""
    weight = DISTIL.regularizer.orientation
    assert [weight.at(step) for step in (0, 2500, 5000, 9999)] == [10.0, 505.0, 1000.0, 1000.0]


def test_no_sparsity_opacity_or_z_variance() -> None:
    """lambda_sparsity, lambda_opaque, lambda_z_variance: 0."""
    terms = DISTIL.regularizer
    assert (terms.sparsity, terms.opacity, terms.z_variance) == (0.0, 0.0, 0.0)


def test_the_representation_adds_nothing_of_its_own() -> None:
    """There is no total variation in the original."""
    made = MVDREAM.representation.begin(Blob(radius=0.25), detail=0.1)
    assert float(made.prior_loss().detach()) == 0


# Data and training, where there are numbers ---------------------------------------------------------------------------


def test_renders_of_the_data_are_the_appendixs() -> None:
    """32 azimuths, two settings each, fov U[15, 60], elevation U[0, 30], distance U[0.9, 1.1] x 0.5 / tan(fov / 2)."""
    assert (PAPER.size, PAPER.views, PAPER.orbits, PAPER.light) == (256, 32, 2, "random")
    assert (PAPER.fov_deg, PAPER.elevation_deg, PAPER.distance) == ((15.0, 60.0), (0.0, 30.0), (0.9, 1.1))


def test_three_of_ten_training_samples_are_2d() -> None:
    assert ObjectiveSettings().share_2d == 0.3


def test_the_network_is_sd21s_with_a_camera_of_16_numbers() -> None:
    assert MVDREAM_SD21.camera_dim == 16 and MVDREAM_SD21.text_dim == 1024 and MVDREAM_SD21.latent_size * 8 == 256


# What is reduced, and the map -----------------------------------------------------------------------------------------


def test_the_reduced_preset_keeps_the_method_and_changes_what_the_shipped_model_needs() -> None:
    """The same loss, noise, views and posterior, annealed over the same four fifths of the run."""
    small = MVDREAM_REDUCED.distil
    for name in ("score", "noise_at_start", "noise_at_end", "views", "elevation_deg", "sample_posterior"):
        assert getattr(small, name) == getattr(DISTIL, name)
    assert small.anneal_steps is not None and DISTIL.anneal_steps is not None
    assert math.isclose(small.anneal_steps / small.steps, DISTIL.anneal_steps / DISTIL.steps)
    assert MVDREAM_REDUCED.start == MVDREAM.start and small.photometric_weight == 0


def test_the_map_names_code_and_tests_that_are_there() -> None:
    page = (ROOT / "docs" / "paper.md").read_text()
    tests = re.findall(r"`(test_\w+)::(test_\w+)`", page)
    missing = [
        f"{file}::{name}"
        for file, name in tests
        if not (path := ROOT / "tests" / f"{file}.py").exists() or f"def {name}(" not in path.read_text()
    ]
    assert not missing and len(tests) > 40
    files = re.findall(r"`((?:lifting|scene|model|training|data|diffusion|pipeline)/[\w/]+\.py)", page)
    assert not [name for name in files if not (ROOT / "src" / "viewfold" / name).exists()] and len(files) > 20


def test_every_statement_tested_here_is_on_the_map() -> None:
    page = (ROOT / "docs" / "paper.md").read_text()
    here = set(re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(), re.MULTILINE))
    about = {
        "test_the_reduced_preset_keeps_the_method_and_changes_what_the_shipped_model_needs",
        "test_the_map_names_code_and_tests_that_are_there",
        "test_every_statement_tested_here_is_on_the_map",
    }
    assert {name for name in here - about if f"`test_paper::{name}`" not in page} == set()


# Multi-view DreamBooth: section 3.3 and the appendix ------------------------------------------------------------------


def test_dreambooth_is_600_steps_at_2e_6_with_lambda_1() -> None:
    """AdamW, weight decay 0.01, batches of 4 pictures, all weights, and nothing but the distance of the weights."""
    loop = DREAMBOOTH.loop
    assert (loop.steps, loop.lr, loop.optimizer, loop.weight_decay) == (600, 2e-6, "adamw", 0.01)
    assert (loop.warmup, loop.schedule, loop.ema) == (0, "constant", 0.0), "no averages of the weights"
    assert (DREAMBOOTH.pictures, DREAMBOOTH.preservation, DREAMBOOTH.rank, DREAMBOOTH.prior) == (4, 1.0, None, 0)
