"""Teach a network one subject: multi-view DreamBooth (MVDream, section 3.3), terms of loss in the same loop.

    loss = mean over the subject's samples of L_LDM  +  prior_weight L_MV(prior)  +  preservation |theta - theta0|_1 / N

The subject's samples are single pictures without cameras (the paper's 2D mode) and, where cameras are known, posed
views that are seen together.  The prior are samples that the model drew itself before it began to change; the last term
is the paper's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from viewfold.data.batches import Batch
from viewfold.errors import InputError
from viewfold.model.backbone import Backbone, PromptReader
from viewfold.model.lowrank import LowRankWeights, copy_with_low_rank
from viewfold.model.weights_hash import hash_tensors
from viewfold.training.diffusion import TextCache
from viewfold.training.loop import fit
from viewfold.training.monitor import Progress
from viewfold.training.objective import ObjectiveSettings, diffusion_loss
from viewfold.training.run import Checked, Trained
from viewfold.training.subject import PriorSamples, Subject, SubjectBatch, SubjectSettings

REPEATS = 4
"""Noises that each sample is looked at under in a check."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A network that knows the subject."""

    network: nn.Module
    """With the averaged weights: all of them, or the low-rank layers on the weights that were given."""
    low_rank: LowRankWeights | None
    """The layers alone, where only they were trained."""
    trained: Trained


def learn_subject(
    network: Backbone,
    reader: PromptReader,
    alphas_cumprod: Tensor,
    out: str | Path,
    *,
    subject: Subject,
    prior: PriorSamples | None,
    settings: SubjectSettings,
    sheets: Callable[[nn.Module], Mapping[str, Tensor]] | None = None,
    override: bool = False,
    progress: Progress | None = None,
) -> Learned:
    """Teach a network a subject; with a rank it stays as it is, and a copy learns that shares its weights.

    Args:
        network: pretrained, float32.
        reader: of prompts, the network's own; frozen.
        alphas_cumprod: of the scheduler that will sample.
        out: holds checkpoints, log.jsonl, run.json and samples/; a run there is continued.
        subject: what is learned.
        prior: samples of the model's own; needed if `settings.prior` or `settings.forgetting` asks for them.
        sheets: draws pictures "3 h w" by name with a network that holds the averages while it is called.
        override, progress: see `loop.fit`.

    Raises:
        InputError: no prior where the settings need one, or a network without attention layers.
        FitError, WeightsError, OutputError, Stopped: see `loop.fit`.
    """
    assert isinstance(network, nn.Module)
    if prior is None and (settings.prior or settings.forgetting is not None):
        raise InputError("`prior` must be given where `settings` has a prior or asks what is forgotten; got none.")
    device, objective = network.device, settings.objective
    alphas_cumprod = alphas_cumprod.to(device)
    texts = TextCache(reader)
    if settings.rank is None:
        learner, low_rank = network.requires_grad_(True), None
        start = [p.detach().clone() for p in learner.parameters()] if settings.preservation else []
    else:
        if settings.loop.parallel == "fsdp":
            raise InputError("`parallel` must be ddp for low-rank layers, which are small; got fsdp.")
        generator = torch.Generator().manual_seed(settings.loop.seed)
        learner = copy_with_low_rank(
            network, rank=settings.rank, layers=settings.layers, cameras=False, generator=generator
        )
        low_rank, start = LowRankWeights(learner), []

    def error(batch: Batch, generator: torch.Generator, *, objective: ObjectiveSettings = objective) -> Tensor:
        condition = texts.read_some(batch.captions, dropped=objective.drop_text, generator=generator)
        return diffusion_loss(
            learner,
            batch.latents,
            condition.to(device),
            batch.cameras,
            alphas_cumprod=alphas_cumprod,
            settings=objective,
            generator=generator,
        )

    def draw(step: int, generator: torch.Generator) -> SubjectBatch:
        return SubjectBatch(
            pictures=subject.draw_pictures(settings.pictures, generator),
            posed=subject.draw_posed(settings.posed, generator, views=settings.views),
            prior=None if prior is None or not settings.prior else prior.draw(settings.prior, generator),
        )

    def loss(batch: SubjectBatch, generator: torch.Generator) -> dict[str, Tensor]:
        parts = {"pictures": batch.pictures, "posed": batch.posed, "prior": batch.prior}
        terms = {name: error(part, generator) for name, part in parts.items() if part is not None}
        own = [name for name in ("pictures", "posed") if name in terms]
        total = torch.stack([terms[name] for name in own]).mean()
        if "prior" in terms:
            total = total + settings.prior_weight * terms["prior"]
        if settings.preservation:
            terms["change"] = mean_change(learner, start) if low_rank is None else low_rank_change(low_rank)
            total = total + settings.preservation * terms["change"]
        return {"loss": total, **terms}

    @torch.no_grad()
    def measure() -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)  # the same noises each time
        posed = subject.draw_posed(settings.posed, generator, views=settings.views)
        batches = {"subject": posed or subject.draw_pictures(2 * settings.pictures, generator)}
        if prior is not None:
            batches["held_back"] = prior.held_back
        whole = replace(objective, drop_text=0.0)
        return {
            name: sum(float(error(batch.to(device), generator, objective=whole)) for _ in range(REPEATS)) / REPEATS
            for name, batch in batches.items()
            if batch is not None
        }

    learner.eval()
    before = measure()
    learner.train()

    def check(done: int) -> Checked:
        learner.eval()  # the loop knows the low-rank layers alone
        now, enough = measure(), ""
        if settings.forgetting is not None and now["held_back"] > (1 + settings.forgetting) * before["held_back"]:
            enough = f"the error on other prompts rose from {before['held_back']:.4f} to {now['held_back']:.4f}"
        pictures = {} if sheets is None else dict(sheets(learner))
        learner.train()
        return Checked(scalars=now, pictures=pictures, enough=enough)

    n_samples = [(settings.pictures, subject.pictures), (settings.posed, subject.posed), (settings.prior, prior)]
    trained = fit(
        learner if low_rank is None else low_rank,
        draw,
        loss,
        out,
        settings=settings.loop,
        samples=sum(n for n, given in n_samples if given is not None),
        record=_record(network, reader, alphas_cumprod, subject, prior, settings),
        override=override,
        check=check,
        account=lambda: {"before": before},
        progress=progress,
    )
    return Learned(network=learner.eval(), low_rank=low_rank, trained=trained)


def mean_change(network: nn.Module, start: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Return |theta - theta0|_1 / N over all weights (MVDream, section 3.3)."""
    parameters = list(network.parameters())
    moved = torch.stack([(p - before).abs().sum() for p, before in zip(parameters, start, strict=True)])
    return moved.sum() / sum(p.numel() for p in parameters)


def low_rank_change(layers: LowRankWeights) -> Float[Tensor, ""]:
    """Return the same over the weights that have low-rank layers, |B A|_1 / N."""
    changes = layers.changes()
    return torch.stack([change.abs().sum() for change in changes]).sum() / sum(change.numel() for change in changes)


def _record(
    network: nn.Module, reader: PromptReader, alphas: Tensor, subject: Subject, prior: PriorSamples | None,
    settings: SubjectSettings,
) -> dict[str, object]:  # fmt: skip
    """Return what decides what is learned, for the checkpoints."""
    tensors = {"alphas_cumprod": alphas, "pictures": subject.pictures}
    if subject.posed is not None:
        tensors |= {"posed": subject.posed.latents, "poses": subject.posed.cameras.world_from_camera}
    if prior is not None:
        tensors["prior"] = prior.latents
    given = [(name, tensor) for name, tensor in sorted(tensors.items()) if tensor is not None]
    chosen = {name: value for name, value in asdict(settings).items() if name != "loop"}
    return {
        "subject": subject.text,
        "posed_text": subject.posed_text,
        "prior_prompts": None if prior is None else list(prior.prompts),
        "given": hash_tensors(given).hexdigest(),
        "base": hash_tensors(sorted(network.state_dict().items())).hexdigest(),
        "text_encoder": hash_tensors(sorted(reader.network.state_dict().items())).hexdigest(),
        **chosen,
    }
