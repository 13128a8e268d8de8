"""The weights that come with the package: a licence and a card beside each, and a card that says what is so."""

import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open

from viewfold.data.toybox import COLORS, KINDS

MODELS = Path(__file__).parents[1] / "src" / "viewfold" / "models"
CARD = (MODELS / "toybox" / "README.md").read_text()


def rows(text: str) -> dict[str, list[str]]:
    """The rows of three cells of all tables of a page, by the first."""
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|")
    return {row[0]: row[1:] for row in cells if len(row) == 3}


@pytest.mark.parametrize("folder", sorted({path.parts[len(MODELS.parts)] for path in MODELS.rglob("*.safetensors")}))
def test_weights_come_with_their_licence_and_a_card_that_names_it(folder: str) -> None:
    assert "Apache License" in (MODELS / folder / "LICENSE").read_text()
    assert re.match(r"---\nlicense: apache-2.0\n", (MODELS / folder / "README.md").read_text())


def test_the_card_names_what_the_model_draws() -> None:
    plain = " ".join(CARD.split())
    assert f"**Kinds** ({len(KINDS)}): {', '.join(KINDS)}." in plain
    assert f"**Colours** ({len(COLORS)}): {', '.join(COLORS)};" in plain


def test_the_card_counts_the_parameters_that_the_files_hold() -> None:
    for part in ("unet", "vae", "text_encoder"):
        count = 0
        for path in (MODELS / "toybox" / part).glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
            for shape in shapes:
                size = 1
                for edge in shape:
                    size *= edge
                count += size
        assert re.search(rf"`{part}/`[^|]*\| {count / 1e6:.1f} M ", CARD), (part, count)


def test_the_cards_figures_are_those_of_the_readme_and_of_the_judges_own_file(root: Path) -> None:
    claimed, measured = rows(CARD), rows((root / "README.md").read_text())
    figures = [name for name in claimed if name in measured and "(" in claimed[name][0] and "%" in claimed[name][0]]
    assert len(figures) >= 8 and all(claimed[name] == measured[name] for name in figures)
    held_out = json.loads((MODELS / "judge" / "config.json").read_text())["figures"]["held_out_combinations"]
    said = re.findall(r"(\d+\.\d) %", (MODELS / "judge" / "README.md").read_text())
    assert said == [f"{100 * held_out[name]:.1f}" for name in ("kind", "main", "accent")]
