"""The page of `viewfold serve` as a person has it: from words to an object on the screen, with nothing lost on the way.

The server is the real one; but for the last test its worker is a hand in the test, which takes a job when it likes.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import serve_window
import torch
from PIL import Image
from report_fakes import HOSTILE
from serve_window import Desk, Opened, colors_of

pytestmark = pytest.mark.heavy

browser, desk = serve_window.browser, serve_window.desk


def test_a_prompt_becomes_views_and_an_object_that_is_seen_turned_and_downloaded(
    browser: Any, desk: Desk, tmp_path: Path
) -> None:
    opened = Opened(browser, desk.address)
    page = opened.page
    opened.ask_for("a red mug")
    page.wait_for_url("**/#job/*")
    opened.wait_for_text(".job .state", "Next in the queue")
    job = desk.take()
    assert job.request["prompt"] == "a red mug" and job.request["views"] is None, "the quality decides"
    journal = desk.journals[job.id]
    journal("generate", 3, 8)
    journal.show(torch.rand(4, 3, 64, 64))
    opened.wait_for_text(".job .state", "Drawing the views")
    opened.wait_for_text(".job .details", "step 3 of 8")
    page.locator(".strip canvas").nth(3).wait_for()
    box = page.locator(".job .box").bounding_box()
    journal("fit", 1, 2, loss=0.01)
    opened.wait_for_text(".job .state", "Shaping the object")
    desk.finish(job)
    page.locator(".viewer.ready").wait_for()
    page.wait_for_timeout(1000)
    assert page.locator(".job .box").bounding_box() == box, "nothing moved"
    canvas = page.locator(".viewer canvas").first.bounding_box()
    assert abs(canvas["width"] - box["width"]) < 2 and abs(canvas["height"] - box["height"]) < 2, "the style was taken"
    assert colors_of(page, tmp_path / "solid.png") > 8, "the canvas is not blank"
    page.get_by_role("button", name="Wireframe").click()
    page.wait_for_timeout(500)
    colors_of(page, tmp_path / "wires.png")
    assert (tmp_path / "solid.png").read_bytes() != (tmp_path / "wires.png").read_bytes()
    with page.expect_download() as download:
        page.get_by_role("link", name=re.compile("^GLB")).click()
    download.value.save_as(tmp_path / "got.glb")
    assert (tmp_path / "got.glb").read_bytes() == (desk.folder(job) / "asset.glb").read_bytes()
    assert download.value.suggested_filename == "a-red-mug.glb"
    opened.reload()
    page.locator(".viewer.ready").wait_for()
    assert (
        page.locator("textarea#prompt").input_value() == "a red mug"
        and page.locator(".job h2").inner_text() == "a red mug"
    )
    opened.close()


def test_what_the_model_does_not_know_is_drawn_after_a_second_word_alone(browser: Any, desk: Desk) -> None:
    opened = Opened(browser, desk.address)
    page = opened.page
    opened.ask_for("a red gramophone")
    opened.wait_for_text("#prompt-note", "gramophone")
    page.keyboard.press("Enter")
    page.wait_for_timeout(700)
    assert "#job" not in page.url and desk.queue.counts()["queued"] == 0
    page.get_by_role("button", name="Draw it anyway").click()
    page.wait_for_url("**/#job/*")
    assert desk.queue.counts()["queued"] == 1
    opened.close()


def test_words_that_it_knows_are_clicked_into_the_prompt(browser: Any, desk: Desk) -> None:
    opened = Opened(browser, desk.address)
    page = opened.page
    for word, prompt in (
        ("teapot", "a teapot"), ("orange", "an orange teapot"), ("umbrella", "an orange umbrella"),
        ("red", "a red umbrella"),
    ):  # fmt: skip
        page.get_by_role("button", name=word, exact=True).click()
        assert page.locator("textarea#prompt").input_value() == prompt
    opened.close()


def test_errors_are_said_beside_the_field_and_nothing_typed_is_lost(browser: Any, desk: Desk) -> None:
    opened = Opened(browser, desk.address)
    page = opened.page
    opened.ask_for(" ")
    opened.wait_for_text("#prompt + #make-error", "Say what it should be.")
    opened.ask_for("red mug " * 200)
    opened.wait_for_text("#prompt + #make-error", "at most 1000")
    page.locator("textarea#prompt").fill("a red mug")
    page.locator("#more summary").click()
    page.locator("#views").fill("99")
    page.keyboard.press("Enter")
    opened.wait_for_text("#views + #make-error", "At most 16.")
    assert page.evaluate("() => document.activeElement.id") == "views"
    opened.reload()
    assert page.locator("textarea#prompt").input_value() == "a red mug" and page.locator("#views").input_value() == "99"
    opened.close()


def test_several_wait_and_one_is_cancelled_and_one_fails_in_words(browser: Any, desk: Desk) -> None:
    opened = Opened(browser, desk.address)
    page = opened.page
    for prompt in ("a red mug", "a blue duck", "a green car"):
        opened.ask_for(prompt)
        opened.wait_for_text(".job h2", prompt)
    opened.wait_for_text(".job .state", "2 before it")
    page.locator(".queue li").nth(2).wait_for()
    page.get_by_role("button", name="Cancel a blue duck").click()
    page.locator(".queue li", has_text="a blue duck").wait_for(state="detached")
    first = desk.take()
    page.locator(".queue a", has_text="a red mug").click()
    desk.queue.finish(first.id, "hand", "failed", error={"code": "memory", "message": "`views` must be fewer."})
    opened.wait_for_text(".job .box", "Views must be fewer.")
    page.get_by_role("button", name="Run again with changes").click()
    assert page.locator("textarea#prompt").input_value() == "a red mug"
    assert page.locator("#seed").input_value() == str(first.request["seed"])
    opened.close()


def test_history_is_searched_deleted_from_with_undo_and_put_side_by_side(browser: Any, desk: Desk) -> None:
    for place in range(30):
        desk.add(f"a toy number {place}", quality="views")
    one, two = desk.add("a green owl", seed=12), desk.add("a lime table", seed=11)
    opened = Opened(browser, desk.address)
    page = opened.page
    page.get_by_role("link", name="History").click()
    page.locator(".card").nth(23).wait_for()
    page.get_by_role("button", name="Show more").click()
    page.locator(".card").nth(31).wait_for()
    page.get_by_role("button", name="Delete a lime table").click()
    assert page.locator(".card", has_text="a lime table").is_hidden()
    page.get_by_role("button", name="Undo").click()
    assert page.locator(".card", has_text="a lime table").is_visible()
    page.get_by_role("button", name="Delete a toy number 29").click()
    page.locator("#find").fill("owl")
    page.wait_for_function("() => document.querySelectorAll('.card').length === 1")
    page.get_by_role("button", name="Put a green owl beside another").click()
    opened.wait_for_text("#history-title", "Beside")
    page.locator(".card a", has_text="a lime table").click()
    page.wait_for_url(f"**/#compare/{one}/{two}")
    page.locator(".viewer.ready").nth(1).wait_for()
    assert page.locator("#compare tbody tr").count() >= 3
    deadline = time.monotonic() + 15
    while desk.queue.list("local", words="number 29") and time.monotonic() < deadline:
        page.wait_for_timeout(200)
    assert not desk.queue.list("local", words="number 29"), "deleted when nobody took it back"
    assert desk.queue.get(two) is not None
    opened.close()


def test_pictures_are_chosen_refused_taken_out_and_taught(browser: Any, desk: Desk, tmp_path: Path) -> None:
    for name, color in (("one.png", "red"), ("two.png", "blue")):
        Image.new("RGB", (64, 64), color).save(tmp_path / name)
    (tmp_path / "words.txt").write_text("no picture")
    opened = Opened(browser, desk.address)
    page = opened.page
    page.get_by_role("link", name="Personalise").click()
    page.locator("#teach .main").click()
    opened.wait_for_text("#drop-error", "Choose pictures")
    page.locator("#files").set_input_files([tmp_path / name for name in ("one.png", "two.png", "words.txt")])
    page.locator("#thumbs img").nth(1).wait_for()
    opened.wait_for_text("#drop-error", "words.txt")
    page.get_by_role("button", name="Remove two.png").click()
    page.locator("#class").fill("mug")
    name = page.locator("#subject").input_value()
    assert re.fullmatch(r"a \w+ mug", name), "a name is proposed"
    page.locator("#subject").fill("mug")
    page.keyboard.press("Enter")
    opened.wait_for_text("#subject-error", "a word of its own")
    opened.reload()
    assert page.locator("#thumbs img").count() == 1 and page.locator("#class").input_value() == "mug"
    page.locator("#subject").fill("a zorb mug")
    page.keyboard.press("Enter")
    page.wait_for_url("**/#job/*")
    job = desk.take()
    assert (job.kind, job.request["subject"], len(job.request["pictures"])) == ("personalize", "a zorb mug", 1)
    assert desk.queue.finish(job.id, "hand", "done", result={"notes": []})
    page.get_by_role("button", name="Use it in a prompt").click()
    page.locator("#subjects input:checked").wait_for()
    assert page.locator("textarea#prompt").input_value() == "a zorb mug"
    page.locator("textarea#prompt").focus()
    page.keyboard.press("Enter")
    opened.wait_for_text(".job .state", "Next")
    assert desk.take().request["subjects"] == [job.id]
    opened.close()


@pytest.mark.parametrize("desk", ["token"], indirect=True)
def test_an_expired_login_asks_again_and_loses_nothing(browser: Any, desk: Desk) -> None:
    token = desk.tokens.add("anna")
    opened = Opened(browser, desk.address, forgives="401")
    page = opened.page
    page.locator("#token").fill("wrong")
    page.keyboard.press("Enter")
    page.locator("#login-error").filter(has_text=re.compile(".")).wait_for()
    page.locator("#token").fill(token)
    page.keyboard.press("Enter")
    page.locator("#known .word").first.wait_for(state="attached")
    page.locator("textarea#prompt").fill("a red mug")
    page.wait_for_timeout(800)
    opened.context.clear_cookies()
    page.locator("textarea#prompt").focus()
    page.keyboard.press("Enter")
    page.locator("#login[open]").wait_for()
    assert page.locator("textarea#prompt").input_value() == "a red mug"
    page.locator("#token").fill(token)
    page.keyboard.press("Enter")
    page.wait_for_url("**/#job/*")
    assert desk.take().owner == "anna"
    opened.close()


def test_a_lost_connection_is_said_and_found_again(browser: Any, desk: Desk) -> None:
    opened = Opened(browser, desk.address, forgives="ERR_INTERNET_DISCONNECTED")
    page = opened.page
    opened.context.set_offline(True)
    opened.ask_for("a red mug")
    opened.wait_for_text("#connection", "No connection")
    opened.wait_for_text("#make-error", "cannot be reached")
    opened.context.set_offline(False)
    page.locator("#connection").wait_for(state="hidden")
    page.locator("textarea#prompt").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/#job/*")
    job = desk.take()
    opened.wait_for_text(".job .state", "Starting")
    desk.journals[job.id]("generate", 1, 8)
    opened.wait_for_text(".job .state", "Drawing")
    assert desk.queue.counts()["running"] == 1 and desk.queue.counts()["queued"] == 0, "asked for once"
    opened.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 820), ("light", 360)])
def test_no_part_sticks_out_and_strangers_words_stay_words(browser: Any, desk: Desk, scheme: str, width: int) -> None:
    words = "".join(letter for letter in HOSTILE if letter.isprintable())
    job = desk.add(words)
    opened = Opened(browser, desk.address, scheme=scheme, width=width)
    page = opened.page
    for part in ("#make", "#personalise", "#history", f"#job/{job}", f"#compare/{job}/{job}"):
        opened.go(part)
        page.wait_for_timeout(800)
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), part
    opened.go(f"#job/{job}")
    assert page.locator(".job h2").inner_text() == words.strip()
    background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background.strip("rgb()").split(","))) > 384) == (scheme == "light")
    opened.close()


def test_everything_that_takes_the_focus_has_a_name_and_is_reached_by_keyboard(browser: Any, desk: Desk) -> None:
    job = desk.add("a lime table")
    opened = Opened(browser, desk.address, reduced_motion="reduce")
    page = opened.page
    opened.go(f"#job/{job}")
    page.locator(".viewer.ready").wait_for()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("a, button, input, select, textarea, summary, progress")]
        .filter((one) => one.checkVisibility() && !(one.textContent.trim() || one.labels?.length || one.ariaLabel
            || one.closest("[aria-hidden=true]") || one.querySelector("img[alt]")))
        .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    page.evaluate("() => document.activeElement.blur()")
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.id || document.activeElement.textContent.trim()"))
    wanted = {"skip", "prompt", "Make it", "Run again with changes", "Delete", "Wireframe", "History"}
    assert wanted <= reached, wanted - reached
    opened.close()


def test_viewfold_serve_draws_lifts_and_shows(browser: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "viewfold.cli", "serve", "--port", "0", "--data", str(tmp_path / "data")]
    with subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[0].rstrip("/")
            opened = Opened(browser, address)
            page = opened.page
            page.locator("#known .word").first.wait_for(state="attached", timeout=120_000)
            page.locator("#more summary").click()
            page.locator("#views").fill("4")
            page.locator("#steps").fill("4")
            opened.ask_for("a red mug")
            page.locator(".strip canvas").first.wait_for(timeout=120_000)
            page.locator(".viewer.ready").wait_for(timeout=900_000)
            page.wait_for_timeout(1500)
            assert colors_of(page, tmp_path / "seen.png") > 8
            with page.expect_download() as download:
                page.get_by_role("link", name=re.compile("^GLB")).click()
            assert Path(download.value.path()).read_bytes()[:4] == b"glTF"
            opened.close()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
