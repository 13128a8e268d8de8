"""The page of `viewfold serve` in a window that nobody looks at, and a hand in place of the worker."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_report_browser import NAMES

from viewfold.camera import Cameras
from viewfold.data.toybox import sample_asset
from viewfold.picture import to_pil
from viewfold.scene.export import save_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.views import Views

CAMERAS = Cameras.orbit(4, elevation_deg=15)

FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]

WAIT_MS = 20_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium with a software renderer of WebGL; neither it nor its driver is downloaded here."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("the page is opened in chromium; apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="the page is opened with pip install playwright")
    with api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


@dataclass
class Desk:
    """A server whose worker is the test."""

    data: Path
    queue: Any
    address: str
    tokens: Any = None
    journals: dict[str, Any] = field(default_factory=dict)

    def take(self) -> Any:
        """Begin the job whose turn it is, as a worker does, and return it."""
        from viewfold.serve.journal import Journal
        from viewfold.serve.work import begin

        deadline = time.monotonic() + WAIT_MS / 1000
        while (job := self.queue.claim("hand")) is None:
            assert time.monotonic() < deadline, "nobody asked for anything"
            time.sleep(0.05)
        begin(self.data, job.id, job.owner, job.request)
        self.journals[job.id] = Journal(self.folder(job), phases=("load", "generate", "fit", "save"))
        return job

    def folder(self, job: Any) -> Path:
        """Return where a job's files lie."""
        return self.data / "jobs" / job.id

    def finish(self, job: Any, *, seed: int = 11) -> None:
        """End a job with a toy: its views, and its mesh unless views are all that is wanted."""
        folder, mesh = self.folder(job), sample_asset(seed).mesh()
        views = Views(rgb=rasterize(mesh, CAMERAS, size=64).over(0.5), cameras=CAMERAS, prompt=job.title)
        views.save(folder / "views", turntable=False)
        to_pil(views.over()[0]).save(folder / "thumb.webp")
        if job.request.get("quality") != "views":
            save_mesh(mesh, folder / "asset.glb")
        result = {"agreement": 0.93, "faces": len(mesh.faces), "seconds": 12.0, "notes": []}
        assert self.queue.finish(job.id, "hand", "done", result=result)

    def add(self, title: str, *, seed: int = 11, quality: str = "draft") -> str:
        """Put a finished job into the history."""
        from viewfold.serve.request import Make

        asked = Make(kind="make", prompt=title, seed=seed, quality=quality)  # type: ignore[arg-type]
        told = asked.model_dump(by_alias=True, mode="json")
        job = self.queue.submit("local", "make", title, told)
        assert self.take().id == job.id
        self.finish(job, seed=seed)
        return job.id


@pytest.fixture
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Desk]:
    """A server on a free port; with the parameter "token" it lets in who has one."""
    uvicorn = pytest.importorskip("uvicorn", reason="the server needs pip install 'viewfold[serve]'")
    from viewfold.data.toybox import COLORS, KINDS
    from viewfold.serve.app import ServeSettings, create_app
    from viewfold.serve.knowledge import Knowledge, write_knowledge
    from viewfold.serve.queue import Queue
    from viewfold.serve.tokens import Tokens

    kinds = tuple(sorted(KINDS))
    known = Knowledge(
        name="toybox", image_size=64, steps=8, guidance=2.0, lift_views=16, kinds=kinds, nouns=kinds,
        colors=tuple(COLORS), words=(*COLORS, *kinds, "an", "with"),
    )  # fmt: skip
    write_knowledge(tmp_path, known)
    tokens = Tokens(tmp_path) if getattr(request, "param", None) == "token" else None
    with (
        closing(Queue(tmp_path / "queue.sqlite")) as queue,
        closing(socket.create_server(("127.0.0.1", 0))) as listener,
    ):
        app = create_app(tmp_path, queue, ServeSettings(tokens=tokens, workers=lambda: 1, learns=True))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        yield Desk(data=tmp_path, queue=queue, address=f"http://127.0.0.1:{port}", tokens=tokens)
        app.state.board.close()
        server.should_exit = True
        thread.join(20)


class Opened:
    """The page in a window, and all that it complained of or asked of others."""

    def __init__(
        self, browser: Any, address: str, *, scheme: str = "light", width: int = 1280, forgives: str = "", **more: Any
    ) -> None:
        self.said: list[str] = []
        self.forgives = re.compile(forgives or r"(?!)")
        self.context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}, accept_downloads=True, **more
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", lambda message: self._hear(message.type, message.text))
        self.page.on("dialog", lambda dialog: (self.said.append(f"it opened {dialog.message}"), dialog.dismiss()))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self._ask(request.url, address))
        self.address = address
        self.go("")

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "assert") and not self.forgives.search(text):
            self.said.append(text)

    def _ask(self, url: str, address: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            self.said.append(f"asked for {url}")

    def go(self, hash: str) -> None:
        """Open a part of the page anew."""
        self.page.goto("about:blank")
        self.page.goto(self.address + "/" + hash)
        self._begin()

    def reload(self) -> None:
        """Open the same part anew, as a browser does on F5."""
        self.page.reload()
        self._begin()

    def _begin(self) -> None:
        self.page.locator("#make .main:enabled, #teach .main:enabled, #login[open]").first.wait_for(state="attached")

    def ask_for(self, prompt: str) -> None:
        """Type a prompt, and Enter."""
        self.page.locator("textarea#prompt").fill(prompt)
        self.page.keyboard.press("Enter")

    def wait_for_text(self, selector: str, text: str) -> None:
        """Wait until something reads so."""
        self.page.locator(selector, has_text=text).first.wait_for()

    def close(self) -> None:
        """Close it, and fail if it complained or asked of others."""
        self.context.close()
        assert not self.said


def colors_of(page: Any, place: Path) -> int:
    """Return how many colours the viewer shows: of an empty one there is one."""
    page.locator(".viewer").screenshot(path=place)
    with Image.open(place) as image:
        return len(image.convert("RGB").quantize(64).getcolors(64) or [])
