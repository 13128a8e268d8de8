"""Encoders that are on this machine: the one of the extra `eval`, and networks of transformers, timm and open_clip.

Weights come from .safetensors alone, which holds no code, and must fit their network in full: a layer that is missing
would be filled with random numbers.  Networks are those that the library itself defines; a folder that brings code of
its own is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold import limits
from viewfold.device import find_device
from viewfold.errors import FileError, InputError, MissingExtraError, WeightsError
from viewfold.evaluation.encoder import EfficientNetLite0, Encoded, Encoder, Preprocess
from viewfold.store import open_regular, read_json

CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's, of CLIP: taken where open_clip's network does not say."""

RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for what a preprocessor_config.json asks."""


KINDS = "efficientnet-lite0, transformers=FOLDER, clip=FOLDER, timm=NAME:FILE or open_clip=NAME:FILE"


def load_encoder(spec: str, *, device: torch.device | str | None = "cpu") -> Encoder:
    """Open an encoder that is on this machine; nothing is downloaded and no stranger's code is run.

    Args:
        spec: "efficientnet-lite0" (in the extra `eval`); "transformers=FOLDER", a folder with config.json,
            preprocessor_config.json and .safetensors; "clip=FOLDER", such a folder of a CLIPModel, with its tokenizer;
            "timm=NAME:FILE" or "open_clip=NAME:FILE", the library's name of the network and its .safetensors.
        device: where it computes; None takes the best one.

    Raises:
        InputError: a spec of another form.
        MissingExtraError: a library is not installed.
        WeightsError: the file or folder is missing, damaged, of another kind, or does not fit the network in full.
    """
    kind, _, rest = spec.partition("=")
    if spec == EfficientNetLite0.name:
        return EfficientNetLite0(device=device)
    if kind in ("transformers", "clip") and rest:
        return load_transformers(rest, reads=kind == "clip", device=device)
    name, _, file = rest.partition(":")
    if kind in ("timm", "open_clip") and name and file:
        load = load_timm if kind == "timm" else load_open_clip
        return load(name, file, device=device)
    raise InputError(
        f"`encoder` must be {KINDS}; got '{spec}'. A name alone would have to be downloaded, which is never done; "
        "TorchScript files (FID's own Inception) hold code, which is never run."
    )


class ClassifierEncoder:
    """A classifier of transformers: features are what its last layer reads, logits what it says."""

    def __init__(self, name: str, network: Any, prepare: Preprocess, device: torch.device) -> None:
        self.name, self.prepare, self.device, self._features = name, prepare, device, []
        self.network = network.eval().requires_grad_(False).to(device)
        network.classifier.register_forward_pre_hook(lambda _, inputs: self._features.append(inputs[0]))

    @torch.no_grad()
    def encode(self, rgb: Float[Tensor, "b 3 h w"]) -> Encoded:
        """See `Encoder`."""
        self._features.clear()
        logits = self.network(pixel_values=self.prepare(rgb.to(self.device))).logits
        return Encoded(_flat(self._features[0]), logits)


class PooledEncoder:
    """A network of transformers without classes: features are its pooled output, or the mean of its last one."""

    def __init__(self, name: str, network: Any, prepare: Preprocess, device: torch.device) -> None:
        self.name, self.prepare, self.device = name, prepare, device
        self.network = network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def encode(self, rgb: Float[Tensor, "b 3 h w"]) -> Encoded:
        """See `Encoder`."""
        out = self.network(pixel_values=self.prepare(rgb.to(self.device)))
        pooled = getattr(out, "pooler_output", None)
        return Encoded(_flat(out.last_hidden_state if pooled is None else pooled))


class ClipEncoder:
    """A CLIPModel of transformers, which looks and reads."""

    def __init__(self, name: str, network: Any, tokenizer: Any, prepare: Preprocess, device: torch.device) -> None:
        self.name, self.prepare, self.device, self.tokenizer = name, prepare, device, tokenizer
        self.network = network.eval().requires_grad_(False).to(device)
        self.length = int(network.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def encode(self, rgb: Float[Tensor, "b 3 h w"]) -> Encoded:
        """See `Encoder`."""
        pooled = self.network.vision_model(pixel_values=self.prepare(rgb.to(self.device))).pooler_output
        return Encoded(self.network.visual_projection(pooled))

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Float[Tensor, "b d"]:
        """See `TextEncoder`."""
        read = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        ).to(self.device)
        pooled = self.network.text_model(input_ids=read["input_ids"], attention_mask=read["attention_mask"])
        return self.network.text_projection(pooled.pooler_output)


class TimmEncoder:
    """A network of timm: features before its classifier, and the classifier's logits if it has any."""

    def __init__(self, name: str, network: Any, prepare: Preprocess, device: torch.device) -> None:
        self.name, self.prepare, self.device = name, prepare, device
        self.network = network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def encode(self, rgb: Float[Tensor, "b 3 h w"]) -> Encoded:
        """See `Encoder`."""
        seen = self.network.forward_features(self.prepare(rgb.to(self.device)))
        features = self.network.forward_head(seen, pre_logits=True)
        return Encoded(_flat(features), self.network.forward_head(seen) if self.network.num_classes else None)


class OpenClipEncoder:
    """A network of open_clip, which looks and reads."""

    def __init__(self, name: str, network: Any, tokenizer: Any, prepare: Preprocess, device: torch.device) -> None:
        self.name, self.prepare, self.device, self.tokenizer = name, prepare, device, tokenizer
        self.network = network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def encode(self, rgb: Float[Tensor, "b 3 h w"]) -> Encoded:
        """See `Encoder`."""
        return Encoded(self.network.encode_image(self.prepare(rgb.to(self.device))))

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Float[Tensor, "b d"]:
        """See `TextEncoder`."""
        return self.network.encode_text(self.tokenizer(prompts).to(self.device))


def _flat(features: Tensor) -> Float[Tensor, "b d"]:
    """Return a row per picture: of tokens "b n d" their mean, of cells "b d h w" too."""
    if features.ndim == 3:
        return features.mean(dim=1)
    return features.mean(dim=(2, 3)) if features.ndim == 4 else features


def load_transformers(folder: str | Path, *, reads: bool = False, device: torch.device | str | None = "cpu") -> Encoder:
    """Open a vision network of transformers: a classifier, a network without classes, or a CLIPModel.

    Args:
        folder: config.json, preprocessor_config.json, .safetensors; of a CLIPModel the tokenizer's files too.
        reads: it must be a CLIPModel, which comes back as a `TextEncoder`.

    Raises:
        WeightsError: it is no such folder, brings code, or its weights do not fit in full.
    """
    folder = Path(folder)
    config = _config(folder / "config.json")
    kinds = config.get("architectures")
    kind = kinds[0] if isinstance(kinds, list) and kinds and isinstance(kinds[0], str) else ""
    if config.get("auto_map") or (reads and kind != "CLIPModel"):
        wanted = "need no code of its own" if config.get("auto_map") else "hold a CLIPModel"
        raise WeightsError(f"`{folder}` must {wanted}; it holds '{kind}'. Nobody's code is run.")
    if not any(folder.glob("*.safetensors")):
        raise WeightsError(f"`{folder}` must hold .safetensors; it holds none. Convert its weights: pickles run code.")
    prepare = _preprocess(folder / "preprocessor_config.json")
    import transformers

    if not kind.endswith(("Model", "ForImageClassification")) or not hasattr(transformers, kind):
        raise WeightsError(
            f"`{folder}` must hold a network of transformers {transformers.__version__} that ends in Model or "
            f"ForImageClassification; its config.json names '{kind}'."
        )
    options: Any = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
    try:
        network, said = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True, **options)
        clip = kind == "CLIPModel"
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True) if clip else None
    except Exception as error:  # what a library raises of a damaged folder is not bounded
        raise WeightsError(f"`{folder}` cannot be opened: {str(error)[:300] or type(error).__name__}") from error
    absent = sorted(map(str, [*said["missing_keys"], *said["mismatched_keys"]]))
    if absent:
        raise WeightsError(
            f"`{folder}` must hold all weights of {kind}; {len(absent)} are missing or of another shape, as "
            f"{absent[0]}. They would be random."
        )
    name, place = folder.resolve().name, find_device(device)
    if clip:
        return ClipEncoder(name, network, tokenizer, prepare, place)
    if network.main_input_name != "pixel_values":
        raise WeightsError(f"`{folder}` must hold a network that looks at pictures; {kind} does not.")
    if kind.endswith("ForImageClassification"):
        if not hasattr(network, "classifier"):
            raise WeightsError(f"`{folder}` must hold a network with a `classifier`; {kind} has none.")
        return ClassifierEncoder(name, network, prepare, place)
    return PooledEncoder(name, network, prepare, place)


def _config(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, error=WeightsError, max_bytes=limits.CONFIG_BYTES)
    except FileError as error:
        raise WeightsError(
            f"{error} Encoders are folders as transformers saves them; nothing is downloaded."
        ) from error


def _preprocess(path: Path) -> Preprocess:
    """Read what transformers' own processor would do, whose fast kind needs torchvision."""
    said = _config(path)
    try:
        size, crop = said.get("size", 224), said.get("crop_size")
        shortest = size.get("shortest_edge") if isinstance(size, dict) else None
        side = size if isinstance(size, int) else shortest or size["height"]
        if isinstance(size, int) and said.get("do_center_crop"):
            shortest = size
        if said.get("do_center_crop") and crop is not None:
            final = crop if isinstance(crop, int) else crop["height"]
            shortest = shortest or side
        elif "crop_pct" in said and side < 384:  # ConvNeXt
            final, shortest = side, int(side / said["crop_pct"])
        else:
            final = side
        mean, deviation = (tuple(map(float, said[name])) for name in ("image_mean", "image_std"))
        mode = RESAMPLING[said.get("resample", 2)]
        plain = abs(float(said.get("rescale_factor", 1 / 255)) - 1 / 255) < 1e-6 and len(mean) == len(deviation) == 3
        if not (plain and said.get("do_normalize", True) and said.get("do_rescale", True) and min(deviation) > 0):
            raise ValueError("it scales its pictures in a way that is not read")
        if not 1 <= int(final) <= int(shortest or final) <= 4096:
            raise ValueError(f"a size of {final} out of {shortest or final}")
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise WeightsError(f"`{path}` must say size, mean and deviation of its pictures; {error!r}.") from error
    return Preprocess(size=int(final), mean=mean, deviation=deviation, shortest=shortest, mode=mode)


def load_timm(name: str, file: str | Path, *, device: torch.device | str | None = "cpu") -> Encoder:
    """Open a network that timm knows by name, with weights from a .safetensors file.

    Raises:
        InputError: timm knows no network of that name.
        MissingExtraError: timm is not installed.
        WeightsError: the file is missing, damaged or does not fit.
    """
    weights = _safetensors(file)
    try:
        import timm  # pyright: ignore[reportMissingImports]
        from timm.data import resolve_model_data_config  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(f"timm's networks need timm and torchvision ({error}): pip install timm") from error
    if not timm.is_model(name):  # "hf-hub:..." would be downloaded
        raise InputError(f"`encoder` must name one of timm's own networks; it knows no '{name}'.")
    network = timm.create_model(name, pretrained=False)
    last = weights.get(f"{network.default_cfg['classifier']}.weight")
    if (classes := 0 if last is None else len(last)) != network.num_classes:
        network.reset_classifier(classes)
    _fill(network, weights, file)
    said = resolve_model_data_config(network)
    size, mode = int(said["input_size"][-1]), str(said["interpolation"])
    prepare = Preprocess(
        size=size,
        mean=tuple(said["mean"]),
        deviation=tuple(said["std"]),
        shortest=round(size / float(said.get("crop_pct", 1.0))),
        mode=mode if mode in RESAMPLING.values() else "bicubic",
    )
    return TimmEncoder(name, network, prepare, find_device(device))


def load_open_clip(name: str, file: str | Path, *, device: torch.device | str | None = "cpu") -> Encoder:
    """Open a network that open_clip knows by name, with weights from a .safetensors file.

    Raises:
        InputError: open_clip knows no network of that name.
        MissingExtraError: open_clip is not installed.
        WeightsError: the file is missing, damaged or does not fit.
    """
    weights = _safetensors(file)
    try:
        import open_clip  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(
            f"open_clip's networks need open_clip_torch and torchvision ({error}): pip install open_clip_torch"
        ) from error
    text = (open_clip.get_model_config(name) or {}).get("text_cfg", {}) if name in open_clip.list_models() else None
    if text is None or "hf_model_name" in text or "hf_tokenizer_name" in text:
        raise InputError(
            f"`encoder` must name one of open_clip's networks that needs no other library's parts, which would be "
            f"downloaded; got '{name}'."
        )
    network = open_clip.create_model(name, pretrained=None)
    _fill(network, weights, file)
    size = network.visual.image_size
    side = int(size[0] if isinstance(size, tuple | list) else size)
    mean = tuple(getattr(network.visual, "image_mean", None) or CLIP_MEAN)
    deviation = tuple(getattr(network.visual, "image_std", None) or CLIP_DEVIATION)
    prepare = Preprocess(size=side, mean=mean, deviation=deviation, shortest=side)
    return OpenClipEncoder(name, network, open_clip.get_tokenizer(name), prepare, find_device(device))


def _safetensors(file: str | Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(file)
    try:
        with open_regular(path) as opened:
            claimed = int.from_bytes(opened.read(8), "little")
        if path.suffix != ".safetensors" or not 2 <= claimed <= limits.CHECKPOINT_HEADER_BYTES:
            raise ValueError("it is no .safetensors; others may run code")
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"`{path}` must be a whole .safetensors file: {reason}. Nothing is downloaded.") from error


def _fill(network: Any, weights: dict[str, Tensor], file: str | Path) -> None:
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"`{file}` must fit its network in full: {str(error)[:300]}") from error
