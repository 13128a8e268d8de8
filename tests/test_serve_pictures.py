"""Pictures that are sent to `viewfold serve`, what is learned of them, and what is said of a prompt beforehand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import test_serve_api
from PIL import Image
from serve_fakes import MUG, Served, serving
from test_serve_api import error

client, served = test_serve_api.client, test_serve_api.served


def png(size: tuple[int, int] = (32, 24), *, alpha: bool = False) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 4 if alpha else 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


def test_pictures_are_kept_as_plain_pixels_and_what_is_none_is_refused_by_name(client: httpx.Client):
    bomb = b"\x89PNG\r\n\x1a\n" + b"\0" * 100
    files = [
        ("files", ("mug.png", png(alpha=True), "image/png")),
        ("files", ("../../evil\r\n.png", png(), "text/html")),
        ("files", ("bomb.png", bomb, "image/png")),
        ("files", ("page.svg", b"<svg onload='x'/>", "image/svg+xml")),
    ]
    answer = client.post("/v1/pictures", files=files)
    assert answer.status_code == 201
    kept, refused = answer.json()["pictures"], answer.json()["refused"]
    assert [picture["name"] for picture in kept] == ["mug.png", "../../evil%0D%0A.png"] and kept[0]["width"] == 32
    assert [picture["name"] for picture in refused] == ["bomb.png", "page.svg"]
    shown = client.get(kept[0]["url"])
    assert shown.headers["content-type"] == "image/png" and Image.open(io.BytesIO(shown.content)).mode == "RGBA"


def test_a_subject_is_learned_of_ones_own_pictures_alone(served: Served, client: httpx.Client):
    pictures = client.post("/v1/pictures", files=[("files", ("a.png", png(), "image/png"))]).json()["pictures"]
    asked = {"kind": "personalize", "subject": "a zorb mug", "class": "mug", "pictures": [pictures[0]["id"]]}
    job = client.post("/v1/jobs", json=asked).json()
    assert job["title"] == "a zorb mug" and job["request"]["class"] == "mug"
    for words in ({"subject": "mug"}, {"subject": "a mug"}, {"subject": "a zorb cup"}):
        assert error(client.post("/v1/jobs", json=asked | words), 422)["field"] == "subject"
    forged = client.post("/v1/jobs", json=asked | {"pictures": ["0" * 26]})
    assert "that you sent" in error(forged, 422)["message"]
    served.make(job["id"])
    using = client.post("/v1/jobs", json=MUG | {"prompt": "a zorb mug", "subjects": [job["id"]]})
    assert using.status_code == 202
    assert client.post("/v1/check", json={"prompt": "a zorb mug"}).json() == {"notes": [], "outside": False}


def test_a_prompt_is_looked_at_before_it_is_drawn(client: httpx.Client):
    def check(prompt: str) -> dict[str, Any]:
        return client.post("/v1/check", json={"prompt": prompt}).json()

    assert check("a red mug with a blue handle") == {"notes": [], "outside": False}
    assert check("two red cups")["outside"] is False
    dragon = check("a dragon")
    assert dragon["outside"] and dragon["notes"] == ["toybox was trained to draw other things; nearest: car, mug"]
    unknown = check("a red mugg")
    assert unknown["notes"][0] == "the model does not know 'mugg'; near words: mug" and unknown["outside"]
    assert check("") == {"notes": [], "outside": False}


def test_a_server_that_could_not_use_what_it_learns_says_so_at_once(tmp_path: Path):
    asked = {"kind": "personalize", "subject": "a zorb mug", "class": "mug", "pictures": ["0" * 26]}
    with serving(tmp_path, learns=False) as served, served.client() as client:
        assert client.get("/v1/about").json()["learns"] is False
        refused = error(client.post("/v1/jobs", json=asked), 501)
        assert refused["code"] == "missing_extra" and "pip install 'viewfold[lora]'" in refused["message"]
