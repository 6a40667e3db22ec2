"""Files: real pictures of the asked format and ratio, films, music and uploads, until they are purged."""

from __future__ import annotations

import io
import wave

import httpx
import pytest
from PIL import Image

from app.simulator.pictures import size
from app.simulator.server import RunningSimulator
from tests.simulator.walks import OTHER_KEY, ended, get_job, submit

TYPES = {"jpg": ("JPEG", "image/jpeg"), "png": ("PNG", "image/png"), "webp": ("WEBP", "image/webp")}


def download(vendor: httpx.Client, url: str) -> httpx.Response:
    answer = vendor.get(url, headers={"X-API-Key": ""})
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize(("extension", "ratio"), [("jpg", "16:9"), ("png", "3:4"), ("webp", "1:1")])
def test_a_picture_has_the_asked_format_and_ratio(vendor: httpx.Client, extension: str, ratio: str) -> None:
    params = {"output_format": extension, "aspect_ratio": ratio}
    job = ended(vendor, submit(vendor, fluxParams=params))
    (url,) = job["result"]["images"]
    assert url == f"{vendor.base_url}/files/{job['id']}/0.{extension}".replace("//files", "/files")
    answer = download(vendor, url)
    picture = Image.open(io.BytesIO(answer.content))
    picture.load()
    assert (picture.format, answer.headers["content-type"]) == TYPES[extension]
    width, height = (int(part) for part in ratio.split(":"))
    assert picture.width * height == picture.height * width


def test_a_picture_is_a_jpg_of_its_own_unless_asked_otherwise(vendor: httpx.Client) -> None:
    urls = [ended(vendor, submit(vendor, prompt=prompt))["result"]["images"][0] for prompt in ("fox", "fox", "owl")]
    first, second, other = (download(vendor, url).content for url in urls)
    assert Image.open(io.BytesIO(first)).format == "JPEG"
    assert first == second
    assert first != other


def test_width_and_height_are_kept_and_odd_ratios_are_drawn(vendor: httpx.Client) -> None:
    for params, expected in (
        ({"width": 300, "height": 256}, (300, 256)),
        ({"aspect_ratio": "1:99999"}, (1, 1024)),
        ({"aspect_ratio": "0:0"}, (1024, 1024)),
    ):
        job = ended(vendor, submit(vendor, fluxParams=params))
        assert Image.open(io.BytesIO(download(vendor, job["result"]["images"][0]).content)).size == expected
    assert size("9" * 5000 + ":1") == (1024, 1024)


def test_every_picture_of_a_grid_is_there(vendor: httpx.Client) -> None:
    result = ended(vendor, submit(vendor, model="midjourney", prompt="x"))["result"]
    pictures = [download(vendor, url).content for url in (*result["images"], result["gridUrl"])]
    assert len(set(pictures)) == 5


def test_a_film_is_an_animated_webp_and_a_track_a_wav(vendor: httpx.Client) -> None:
    video = ended(vendor, submit(vendor, "/v2/videos/generate", model="veo-3", prompt="x", veoParams={}))
    answer = download(vendor, video["result"]["videoUrl"])
    film = Image.open(io.BytesIO(answer.content))
    assert (film.format, getattr(film, "n_frames", 1), answer.headers["content-type"]) == ("WEBP", 8, "image/webp")
    music = ended(vendor, submit(vendor, "/v2/music/generate", model="suno", prompt="x"))
    track = music["result"]["tracks"][0]
    answer = download(vendor, track["audioUrl"])
    with wave.open(io.BytesIO(answer.content)) as sound:
        assert sound.getnframes() / sound.getframerate() == track["duration"]
    assert answer.headers["content-type"] == "audio/wav"


def test_files_are_purged_after_a_day(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    job = ended(vendor, submit(vendor))
    url = job["result"]["images"][0]
    simulator.tell("advance", seconds=86_300)
    assert download(vendor, url).content
    assert get_job(vendor, job["id"])["expired"] is False
    simulator.tell("advance", seconds=200)
    assert vendor.get(url).status_code == 404
    assert get_job(vendor, job["id"])["expired"] is True
    assert vendor.get("/v2/jobs").json()["jobs"][0]["expired"] is True


def test_there_is_no_file_of_an_unfinished_job_and_none_by_another_name(
    simulator: RunningSimulator, vendor: httpx.Client
) -> None:
    job = ended(vendor, submit(vendor))
    assert vendor.get(f"/files/{job['id']}/1.jpg").status_code == 404
    assert vendor.get(f"/files/{job['id']}/0.png").status_code == 404
    simulator.tell("config", hold=True)
    assert vendor.get(f"/files/{submit(vendor)}/0.jpg").status_code == 404
    simulator.tell("faults", file_error=1)
    assert vendor.get(job["result"]["images"][0]).status_code >= 500


def test_result_urls_lead_to_the_public_address_where_one_is_set(
    simulator: RunningSimulator, vendor: httpx.Client
) -> None:
    simulator.tell("config", public_base_url="https://cdn.example")
    job = ended(vendor, submit(vendor))
    assert job["result"]["images"] == [f"https://cdn.example/files/{job['id']}/0.jpg"]


def test_an_upload_is_known_by_its_first_bytes_and_kept_for_an_hour(
    simulator: RunningSimulator, vendor: httpx.Client
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (3, 3)).save(file, "PNG")
    content = file.getvalue() + b"\r\n--\r\n"
    answer = vendor.post("/v2/uploads", files={"file": ("a.txt", content, "text/plain")})
    assert answer.status_code == 201
    upload = answer.json()
    assert (upload["kind"], upload["contentType"], upload["byteSize"]) == ("image", "image/png", len(content))
    assert download(vendor, upload["url"]).content == content
    simulator.tell("advance", seconds=3600)
    assert vendor.get(upload["url"]).status_code == 404


def test_an_upload_without_a_known_file_is_a_400(vendor: httpx.Client) -> None:
    too_large = b"\x89PNG\r\n\x1a\n" + bytes(25 * 1024 * 1024)
    for files in ({"other": b"x"}, {"file": b"just text"}, {"file": too_large}):
        answer = vendor.post("/v2/uploads", files=files)
        assert (answer.status_code, list(answer.json()["details"])) == (400, ["file"])
    assert vendor.post("/v2/uploads", json={}).status_code == 400
    assert vendor.post("/v2/uploads", json={}, headers={"X-API-Key": OTHER_KEY + "x"}).status_code == 401
