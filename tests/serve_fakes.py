"""A server of `viewfold serve` in a thread, and what its workers would have made."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from PIL import Image

from viewfold.serve.app import ServeSettings, create_app
from viewfold.serve.folder import QUEUE, jobs_folder
from viewfold.serve.journal import Journal
from viewfold.serve.knowledge import Knowledge, write_knowledge
from viewfold.serve.queue import Queue, QueueLimits

TOY = Knowledge(
    name="toybox", image_size=64, lift_views=16, steps=8, guidance=2.0, kinds=("car", "mug"),
    nouns=("car", "cup", "mug"), colors=("blue", "red"), words=("and", "blue", "car", "cup", "dragon", "handle", "mug",
    "red", "with"),
)  # fmt: skip

MUG = {"kind": "make", "prompt": "a red mug", "quality": "views"}


@dataclass
class Served:
    """A server, and the queue behind it."""

    data: Path
    queue: Queue
    settings: ServeSettings
    address: str = ""
    app: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.address, headers=self.headers, timeout=30, trust_env=False, **more)

    def put(self, **asked: Any) -> dict[str, Any]:
        with self.client() as client:
            answer = client.post("/v1/jobs", json=MUG | asked)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def make(self, job: str, *, state: str = "done", figures: dict[str, Any] | None = None) -> Path:
        """Let a worker make what a job asks for, in no time."""
        claimed = self.queue.claim("w")
        assert claimed is not None and claimed.id == job
        folder = jobs_folder(self.data) / job
        (folder / "views").mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (250, 10 * number, 0)).save(folder / "views" / f"{number:03d}.png")
        (folder / "views" / "transforms.json").write_text("{}")
        (folder / "asset.glb").write_bytes(bytes(range(256)) * 8)
        Image.new("RGB", (8, 8)).save(folder / "thumb.webp")
        (folder / "lora.safetensors").write_bytes(b"weights")
        self.queue.finish(job, "w", state, result=figures or {"faces": 12})
        return folder

    def journal(self, job: str) -> Journal:
        folder = jobs_folder(self.data) / job
        folder.mkdir(parents=True, exist_ok=True)
        return Journal(folder, phases=("load", "generate", "save"))


@contextlib.contextmanager
def serving(data: Path, *, limits: QueueLimits | None = None, **settings: Any) -> Iterator[Served]:
    """Serve a folder at a free port of this machine."""
    data.mkdir(parents=True, exist_ok=True)
    write_knowledge(data, TOY)
    queue = Queue(data / QUEUE, limits=limits)
    served = Served(data, queue, ServeSettings(**({"workers": lambda: 1, "learns": True} | settings)))
    served.app = create_app(data, queue, served.settings)
    listener = socket.create_server(("127.0.0.1", 0))
    served.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(served.app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield served
    finally:
        served.app.state.board.close()
        server.should_exit = True
        thread.join()
        queue.close()
        listener.close()
