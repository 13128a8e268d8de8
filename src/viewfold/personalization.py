"""Teach a model one thing from a few pictures of it: multi-view DreamBooth (MVDream, section 3.3).

    pictures -> cameras, by the model itself;  posed views -> latents;  the model's own samples as a prior
    -> training -> a LoRA file, or a whole model

The verb joins the parts: the model says from where pictures were taken, they become latents of its own size and ground,
the prior is drawn once and kept, `training.dreambooth` trains, and what comes out carries a record of what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from viewfold.errors import AssetError, InputError
from viewfold.model.weights_hash import hash_base, hash_tensors
from viewfold.model.wording import MADE_UP, own_words
from viewfold.pipeline import MultiViewPipeline
from viewfold.pipeline.anchors import opaque
from viewfold.pipeline.generation import orbit
from viewfold.pipeline.posing import find_cameras
from viewfold.store import atomic_write, check_output
from viewfold.training.dreambooth import learn_subject
from viewfold.training.monitor import Progress
from viewfold.training.ranks import Ranks
from viewfold.training.subject import HELD_BACK, Posed, PriorSamples, Subject, SubjectSettings
from viewfold.views import GROUND, Views
from viewfold.weights.components import MODEL_PARTS
from viewfold.weights.lora_file import LORA_NAME, write_lora

if TYPE_CHECKING:
    from viewfold.data.photos import Photos

OTHERS = (
    "a red car", "a blue chair", "a green tree", "a white dog", "a brown house", "an orange cat", "a yellow duck",
    "a grey robot", "a pink flower", "a black hat", "a purple lamp", "a cyan boat",
)  # fmt: skip
"""Things that the prior is drawn of beside the subject's class: what a small or a large model surely knows.  The last
`HELD_BACK` are not trained on."""

OF_CLASS = 4
"""Samples of the class among the prior."""

COPIES = 8
"""Of each picture, moved and scaled a little; encoded once."""

PRIOR_NAME = "prior.safetensors"

POSED_NAME = "posed"
"""Folder of the pictures with the cameras that the model found: a source of its own, once they are put right."""

SHARES = (1.0, 0.85, 0.72, 0.6)
"""Of the largest height in the frame: how large a subject that is cut out may be drawn."""

CLEAR = 0.05
"""Pictures whose cameras stand out by less are the same all round, or of something that the model does not know."""


@dataclass(frozen=True, kw_only=True)
class Personalized:
    """What came out."""

    path: Path
    """The folder that `--lora` takes, or the model's folder where all weights were trained."""
    report: dict[str, Any]
    """What is in run.json."""
    posed: Views | None = None
    """The pictures with the cameras that the model found for them, if it was asked."""


def check_subject(model: MultiViewPipeline, subject: str, class_name: str) -> list[str]:
    """Return what a person should know about the words for a subject.

    Raises:
        InputError: the subject is not its class with a word of its own before it.
        PromptError: words that say nothing.
    """
    names = own_words(subject, class_name)
    other = next(word for word in MADE_UP if word not in subject.lower().split())
    notes = [
        f"the model knows the word '{word}', which will mean the subject from now on; 'a {other} {class_name}' "
        "would keep the two apart"
        for word in names
        if knows(model, word)
    ]
    return notes + [f"of the class: {note}" for note in model.text.check(class_name)]


def knows(model: MultiViewPipeline, word: str) -> bool:
    """Return whether the vocabulary has a word as one whole, so that it means something already."""
    pieces = [piece.removesuffix("</w>") for piece in model.tokenizer.tokenize(word)]
    return pieces == [word]


def personalize(
    model: MultiViewPipeline,
    source: Photos | Views,
    *,
    subject: str,
    class_name: str,
    out: str | Path,
    settings: SubjectSettings | None = None,
    prior_prompts: Sequence[str] | None = None,
    sheets: Iterable[str] = (),
    override: bool = False,
    stage: Callable[[str, int, int], None] | None = None,
    found: Callable[[Views], None] | None = None,
    progress: Progress | None = None,
) -> Personalized:
    """Teach `model` a subject; the model itself stays as it is, unless all weights are trained (`settings.rank` None).

    Args:
        model: what `load(name, dtype=torch.float32)` returned.
        source: pictures of one thing (`data.photos.read_photos`), whose cameras the model is asked for if
            `settings.pose` says so; or posed views of it.  What has cameras is learned together with them, and one by
            one without.
        subject: what it is called from now on, "a zorb mug".
        class_name: what kind of thing it is, "mug"; `subject` ends with it.
        out: folder of the run; gets the LoRA file (or model/), the prior, checkpoints, log.jsonl, run.json, samples/.
            A run that was stopped there goes on.
        settings: None is `SubjectSettings()`; the prediction is the model's own in any case.
        prior_prompts: what the prior is drawn of, the last `HELD_BACK` to tell what is forgotten; None: `OTHERS`, and
            the class.
        sheets: prompts that are drawn at each check, into out/samples.
        override: see `training.loop.fit`.
        stage: called with ("poses", done, all) as pictures get cameras, and ("prior", done, all) as the prior is drawn.
        found: called with the pictures and the cameras that the model found for them, before the training.
        progress: called after each step of the training.

    Raises:
        InputError, PromptError: words, pictures or settings that cannot be used.
        FitError, WeightsError, OutputError, Stopped: see `training.dreambooth.learn_subject`.
    """
    if model.loras:
        raise InputError("`model` must be without LoRA files to learn a subject. Call `unload_lora_weights` first.")
    check_subject(model, subject, class_name)
    out, settings, ranks = Path(out), settings or SubjectSettings(), Ranks.join(model.device)
    check_output(out / "model", holds=rf"{'|'.join(MODEL_PARTS)}|model_index\.json")
    prediction = model.scheduler.config["prediction_type"]
    settings = replace(settings, objective=replace(settings.objective, prediction=prediction))
    seed, posed, prior = settings.loop.seed, None, None
    if settings.pose and not isinstance(source, Views):
        looked = partial(pose, model, source, f"a {class_name}", out / POSED_NAME, seed=seed, stage=stage)
        posed = ranks.first_of_each_machine_first(looked)
        if found is not None:
            found(posed)
    if settings.prior or settings.forgetting is not None:
        prompts = [f"a {class_name}"] * OF_CLASS + [*OTHERS] if prior_prompts is None else list(prior_prompts)
        drawn = partial(draw_prior, model, prompts, out / PRIOR_NAME, seed=seed, stage=stage)
        prior = ranks.first_of_each_machine_first(drawn)
    base, name = hash_base(model), str(model.config.get("_name_or_path") or "unnamed")
    learned = learn_subject(
        model.unet,
        model.text,
        model.alphas_cumprod,
        out,
        subject=latents_of(model, source if posed is None else posed, text=subject, seed=seed),
        prior=prior,
        settings=settings,
        sheets=_sheets(model, list(sheets)),
        override=override,
        progress=progress,
    )
    if learned.low_rank is None:
        model.unet, path = learned.network.eval(), out / "model"
        if ranks.lead:
            with atomic_write(path) as temporary:
                model.save_pretrained(temporary)
        return Personalized(path=path, report=learned.trained.report, posed=posed)
    if ranks.lead:
        told = {"subject": subject, "class": class_name, "base": base, "base_name": name, "settings": asdict(settings)}
        write_lora(out / LORA_NAME, learned.low_rank.factors(), record=told)
    return Personalized(path=out, report=learned.trained.report, posed=posed)


@torch.no_grad()
def pose(
    model: MultiViewPipeline,
    photos: Photos,
    prompt: str,
    path: Path,
    *,
    seed: int,
    stage: Callable[[str, int, int], None] | None = None,
) -> Views:
    """Return pictures with the cameras that the model finds for them; kept in a folder, and read from it the next time.

    Subjects that are cut out are framed as the model draws them, and equally high in all.  `run` holds the names of the
    pictures and how clear each pose is (`pipeline.posing.Poses`).  A folder that is damaged, or of other pictures,
    words or weights, is made anew; cameras that were put right in it stay.
    """
    from viewfold.data.photos import framed_alike

    key = f"{hash_base(model)} {hash_tensors([(f'{seed} {prompt}', photos.rgba)]).hexdigest()}"
    try:
        found = Views.load(path) if path.is_dir() else None
    except AssetError:
        found = None
    if found is not None and found.run.get("key") == key and len(found) == len(photos.photos):
        return found
    shares = [framed_alike(photos.rgba, share=share) for share in SHARES]
    framings = [rgba for rgba in shares if rgba is not None] or [photos.rgba]
    latents = torch.stack([_encoded(model, torch.stack([over_ground(p) for p in framing])) for framing in framings])
    progress = None if stage is None else partial(stage, "poses")
    poses = find_cameras(model, latents, model.defaults.worded(prompt), seed=seed, progress=progress)
    rgb, alpha = framings[poses.framing].split([3, 1], dim=1)
    cut_out = bool((alpha < 1).any())
    names = [photo.path.name for photo in photos.photos]
    run = {"key": key, "pictures": names, "clarity": [round(x, 4) for x in poses.clarity.tolist()]}
    views = Views(rgb=rgb, alpha=alpha if cut_out else None, cameras=poses.cameras, prompt=prompt, run=run)
    return Views.load(views.save(path, turntable=False))  # so that they are what the next run will read


@torch.no_grad()
def draw_prior(
    model: MultiViewPipeline,
    prompts: Sequence[str],
    path: Path,
    *,
    seed: int,
    stage: Callable[[str, int, int], None] | None = None,
) -> PriorSamples:
    """Return what the model draws of some prompts, as latents; kept in a file, and read from it the next time.

    A file that is damaged, or of other prompts, seeds or weights, is drawn anew.

    Raises:
        InputError: no more than `HELD_BACK` prompts.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    if len(prompts) <= HELD_BACK:
        raise InputError(f"`prior_prompts` must be more than {HELD_BACK}; got {len(prompts)}.")
    cameras, prompts = orbit(model.defaults), [model.defaults.worded(prompt) for prompt in prompts]
    given = hash_tensors([(f"{seed} {prompt}", torch.zeros(0)) for prompt in prompts]).hexdigest()
    key = f"{hash_base(model)} {given}"
    shape = (len(prompts), len(cameras), model.unet.config["in_channels"], *[model.unet.config["sample_size"]] * 2)
    if path.is_file():
        try:
            with safe_open(path, framework="pt") as file:
                found = file.get_tensor("latents") if (file.metadata() or {}).get("key") == key else None
        except (SafetensorError, OSError, ValueError):
            found = None
        if found is not None and tuple(found.shape) == shape and bool(found.isfinite().all()):
            return PriorSamples(prompts=prompts, latents=found.float(), cameras=cameras)
    latents = []
    for place, prompt in enumerate(prompts):
        if stage is not None:
            stage("prior", place, len(prompts))
        negative = model.defaults.negative
        latents.append(model(prompt, cameras, negative_prompt=negative, seeds=seed + place, output_type="latent").cpu())
    if stage is not None:
        stage("prior", len(prompts), len(prompts))
    drawn = torch.cat(latents).float()
    with atomic_write(path) as temporary:
        save_file({"latents": drawn.contiguous()}, temporary, metadata={"key": key})
    return PriorSamples(prompts=prompts, latents=drawn, cameras=cameras)


@torch.no_grad()
def latents_of(model: MultiViewPipeline, source: Photos | Views, *, text: str, seed: int) -> Subject:
    """Return a subject's pictures as the model's latents, over grey: each `COPIES` times, moved and scaled."""
    from viewfold.data.photos import augmented

    posed = None
    if isinstance(source, Views):
        rgb = opaque(source, size=model.image_size)
        posed = Posed(latents=_encoded(model, rgb), cameras=source.cameras)
        rgba = torch.cat([rgb, torch.ones_like(rgb[:, :1])], dim=1)
    else:
        rgba = source.rgba
    generator = torch.Generator().manual_seed(seed)
    copies = [over_ground(augmented(picture, generator)) for _ in range(COPIES) for picture in rgba]
    return Subject(
        text=text,
        pictures=_encoded(model, torch.stack(copies)),
        posed=posed,
        posed_text=model.defaults.worded(text),
    )


def over_ground(rgba: Float[Tensor, "4 h w"]) -> Float[Tensor, "3 h w"]:
    """Return a picture over grey where it is see-through."""
    return rgba[:3] * rgba[3:] + GROUND * (1 - rgba[3:])


def _encoded(model: MultiViewPipeline, rgb: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n c h w"]:
    return torch.cat([model.encode(some).cpu() for some in rgb.split(16)])


def _sheets(model: MultiViewPipeline, prompts: list[str]) -> Callable[[nn.Module], dict[str, Tensor]] | None:
    """Return what draws prompts with a network, four views side by side."""
    if not prompts:
        return None
    for prompt in prompts:
        model.text.check(prompt)

    def draw(network: nn.Module) -> dict[str, Tensor]:
        own, model.unet = model.unet, network
        try:
            worded = [model.defaults.worded(prompt) for prompt in prompts]
            drawn = model(worded, orbit(model.defaults), negative_prompt=model.defaults.negative).cpu()
        finally:
            model.unet = own
        return {prompt: views.permute(1, 2, 0, 3).flatten(2) for prompt, views in zip(prompts, drawn, strict=True)}

    return draw
