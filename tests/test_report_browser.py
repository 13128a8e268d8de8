"""The pages as a reader has them: opened in a browser that nobody looks at, without an error and without a request."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_fakes import HOSTILE

from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.data.toybox import sample_asset
from viewfold.scene.export import save_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.views import Views

pytestmark = pytest.mark.heavy

CAMERAS = Cameras.orbit(4, elevation_deg=15)

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, driven by the package playwright; neither is downloaded here."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("the pages are opened in chromium; apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="the pages are opened with pip install playwright")
    with api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report and a blind comparison of two runs of three toys, one of which has a name that would like to run."""
    place = tmp_path_factory.mktemp("report")
    for run, shift in (("one", 0), ("two", 1)):
        for number, prompt in enumerate(("a toy", "another toy", HOSTILE)):
            mesh = sample_asset(11 + number + 3 * shift).mesh()
            told = {"settings": {"seed": 0}, "provenance": {"model": run}, "weights_sha256": "c" * 64}
            rgb = rasterize(mesh, CAMERAS, size=64).over(0.5)
            Views(rgb=rgb, cameras=CAMERAS, prompt=prompt, run=told).save(place / run / str(number))
    save_mesh(sample_asset(11).mesh(), place / "one" / "toy.glb")
    words = ["evaluate", str(place / "one"), str(place / "two"), "--report", str(place), "--ab", str(place)]
    assert main(words) == 0
    return place


class Opened:
    """A page in a window, and all that it said and asked for."""

    def __init__(self, browser: Any, path: Path, *, scheme: str = "light", width: int = 1280) -> None:
        self.said: list[str] = []
        self.context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.page.on("request", lambda request: self._ask(request.url))
        self.page.goto(path.as_uri())

    def _ask(self, address: str) -> None:
        if not address.startswith(("file:", "data:", "blob:")):
            self.said.append(f"asked for {address}")

    def close(self) -> None:
        """Close it, and fail if it said or asked for anything."""
        self.context.close()
        assert not self.said


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)])
def test_the_report_is_read_without_a_word_of_complaint(browser: Any, out: Path, scheme: str, width: int) -> None:
    opened = Opened(browser, out / "report.html", scheme=scheme, width=width)
    page = opened.page
    assert page.locator("#verdict table").first.is_visible()
    assert "agreement" in page.locator("#verdict table").first.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert page.locator("#against-0 article.pair").count() == 3
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background.strip("rgb()").split(","))) > 384) == (scheme == "light")
    opened.close()


def test_the_table_is_searched_and_sorted_by_keyboard_and_the_mesh_turned(browser: Any, out: Path) -> None:
    opened = Opened(browser, out / "report.html")
    page = opened.page
    page.locator("#find").fill("another")
    assert page.locator("table.all tbody tr:visible").count() == 2
    page.locator("#find").fill("")
    headings = page.locator("table.all").first.locator("thead th").all_inner_texts()
    (column,) = [place for place, heading in enumerate(headings) if "saturation" in heading]
    heading = page.locator("table.all").first.locator("thead button", has_text="saturation")
    heading.focus()
    page.keyboard.press("Enter")
    cells = (
        page.locator("table.all")
        .first.locator("tbody tr")
        .evaluate_all(f"(rows) => rows.map((row) => parseFloat(row.cells[{column}].textContent))")
    )
    assert cells == sorted(cells) and len(set(cells)) > 2
    before = page.locator(".turn img").first
    assert before.evaluate("(image) => getComputedStyle(image).animationName") == "turn"
    page.locator(".turn input").first.focus()
    page.keyboard.press("ArrowRight")
    assert before.evaluate("(image) => image.style.objectPosition").startswith("4.3")
    opened.close()


def test_who_wants_no_motion_has_none(browser: Any, out: Path) -> None:
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto((out / "report.html").as_uri())
    assert page.locator(".turn img").first.evaluate("(image) => getComputedStyle(image).animationName") == "none"
    context.close()


def test_votes_are_given_by_keyboard_taken_back_kept_and_saved(
    browser: Any, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Opened(browser, out / "ab.html")
    page = opened.page
    assert page.locator("section.pair:visible").count() == 1 and "1 of 3" in page.locator("#progress").inner_text()
    page.keyboard.press("1")
    page.keyboard.press("Backspace")
    page.keyboard.press("2")
    assert "2 of 3" in page.locator("#progress").inner_text()
    page.reload()
    assert "2 of 3" in page.locator("#progress").inner_text(), "kept by the browser"
    page.keyboard.press("0")
    page.locator("[data-choice=left]").click()
    assert page.locator("#done").is_visible() and not page.locator("#choose").is_visible()
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "votes.json"
    download.value.save_as(tmp_path / "votes.json")
    votes = json.loads((tmp_path / "votes.json").read_text())
    assert sorted(votes["votes"].values()) == ["left", "none", "right"]
    page.locator("#again").click()
    assert "1 of 3" in page.locator("#progress").inner_text()
    page.keyboard.press("1")
    with page.expect_download() as download:
        page.locator("#save").click()
    download.value.save_as(tmp_path / "more.json")
    opened.close()
    files = [str(tmp_path / "votes.json"), str(tmp_path / "more.json")]
    capsys.readouterr()
    assert main(["evaluate", "--votes", *files, "--key", str(out / "ab-key.json"), "--json"]) == 0
    tally = json.loads(capsys.readouterr().out)
    assert (tally["n_voters"], tally["ties"], tally["wins"] + tally["losses"]) == (2, 1, 3)
