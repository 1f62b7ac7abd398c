"""Against a real HTTP server on this machine that behaves well, and one that does not."""

import asyncio
import base64
import io
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import anyio
import numpy as np
import pytest
from PIL import Image

from conftest import picture
from visualquality import UserError
from visualquality.score.chat import read_completion
from visualquality.score.openai import RETRIES, OpenAIRater, retry_after
from visualquality.score.settings import score_settings

GOOD = "<think>Sharp.</think><answer>4.00</answer>"


def completion(text=GOOD, finish="stop", **message):
    return {
        "choices": [
            {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
        ]
    }


class ChatServer(ThreadingHTTPServer):
    """Keeps the requests; `script(image, attempt)` gives (status, body) or (status, body, headers), or None to hang up.

    `attempt` counts the requests with the same image and seed, from 0.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.requests, self.headers, self.paths = [], [], []
        self.script = lambda image, attempt: (200, completion())
        self.delay = 0.0
        self.lock, self.inside, self.most_inside = threading.Lock(), 0, 0

    def images(self):
        return [decoded(r) for r in self.requests]

    def handle_error(self, request, client_address):
        """A client that has gone away is no fault."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            key = (request["seed"], request["messages"])
            attempt = sum((r["seed"], r["messages"]) == key for r in server.requests)
            server.requests.append(request)
            server.headers.append(self.headers)
            server.paths.append(self.path)
            server.inside += 1
            server.most_inside = max(server.most_inside, server.inside)
        time.sleep(server.delay)
        answer = server.script(decoded(request), attempt)
        with server.lock:
            server.inside -= 1
        if answer is None:
            self.close_connection = True
            return
        status, body, *headers = answer
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers[0] if headers else {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def decoded(request):
    parts = {part["type"]: part for part in request["messages"][-1]["content"]}
    kind, data = parts["image_url"]["image_url"]["url"].split(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ChatServer() as chat:
        thread = threading.Thread(
            target=chat.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        thread.start()
        yield chat
        chat.shutdown()


@pytest.fixture
def pauses(monkeypatch):
    """The seconds that were to be waited; none are."""
    waited = []

    async def pause(seconds):
        waited.append(seconds)

    monkeypatch.setattr(anyio, "sleep", pause)  # the library waits with it
    return waited


def made(url, *, model="some/model", concurrency=8, timeout=120.0, key=None, **options):
    settings = score_settings(url=url, **options)
    return OpenAIRater(model, settings, concurrency=concurrency, timeout=timeout, key=key)


def rater(server, **options):
    return made(server.url, **{"samples": 2, **options})


def tiles(n):
    """Images that their width tells apart."""
    return [picture(i, (8 + i, 8)) for i in range(n)]


def test_a_request_holds_the_very_pixels_the_question_and_every_sampling_field(server):
    image = picture(0)
    rating = next(rater(server, samples=3, key="k-1").rate([image]))
    assert (rating.score, rating.samples, rating.reasoning, rating.model) == (
        4.0,
        (4.0,) * 3,
        "Sharp.",
        "some/model",
    )
    assert all(np.array_equal(sent, image) for sent in server.images())
    request = server.requests[0]
    assert server.paths[0] == "/v1/chat/completions"
    assert [part["type"] for part in request["messages"][0]["content"]] == ["image_url", "text"]
    assert "<think>" in request["messages"][0]["content"][1]["text"]
    fields = {k: v for k, v in request.items() if k not in ("messages", "seed")}
    neutral = {"top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}
    penalties = {"presence_penalty": 0, "frequency_penalty": 0}
    assert fields == {
        "model": "some/model",
        "n": 1,
        "max_tokens": 512,
        "temperature": 1,
        **neutral,
        **penalties,
    }
    assert server.headers[0]["Authorization"] == "Bearer k-1"


def test_the_preset_of_the_authors_reaches_the_server_and_its_answers(server):
    asked = rater(server, model="VisualQuality-R1-7B", preset="authors", samples=2, top_p=0.5)
    next(asked.rate([picture(0)]))
    sent = {
        "temperature": 0.1,
        "top_k": 50,
        "top_p": 0.5,
        "repetition_penalty": 1.05,
        "max_tokens": 2048,
        "chat_template_kwargs": {"add_vision_id": True},
    }
    assert server.requests[0].items() >= sent.items()
    assert len(server.requests) == 2
    assert asked.read("<answer>3.5/5</answer>", truncated=False).score == 3.5
    assert asked.settings()["reading"] == "authors"


def test_seeds_depend_on_seed_pixels_and_number_alone(server, tmp_path):
    image, other = picture(0), picture(1)
    image.save(tmp_path / "saved.png")

    def seeds(source, **settings):
        server.requests.clear()
        list(rater(server, **settings).rate([source]))
        return sorted(r["seed"] for r in server.requests)

    three = seeds(image, samples=3)
    assert len(set(three)) == 3
    assert all(0 <= seed < 2**31 for seed in three)
    assert (
        seeds(str(tmp_path / "saved.png"), samples=3)
        == seeds(np.asarray(image), samples=3)
        == three
    )
    assert set(seeds(image, samples=2)) < set(three)
    assert not set(seeds(image, seed=1, samples=3)) & set(three)
    assert not set(seeds(other, samples=3)) & set(three)


def test_order_is_kept_and_requests_overlap(server):
    server.script = lambda image, attempt: (
        time.sleep(0.02 * (image.width % 3)),
        (200, completion()),
    )[1]
    server.delay = 0.1
    images = [f"{i}" for i in range(12)]
    opened = dict(zip(images, tiles(12), strict=True))
    for name, tile in opened.items():
        tile.filename = name
    ratings = list(rater(server, concurrency=6).rate(opened.values()))
    assert [r.image for r in ratings] == images
    assert all(r.score == 4 for r in ratings)
    assert 3 <= server.most_inside <= 6


def test_an_endless_stream_is_read_a_few_images_ahead(server):
    taken = []

    def endless():
        for i in count():
            assert i < 100, "the stream is read to its end"
            taken.append(i)
            yield picture(i, (8, 8))

    stream = rater(server, concurrency=4).rate(endless())  # 2 images fill its slots
    most = 0
    for rated in range(15):
        next(stream)
        most = max(most, len(taken) - rated)
    assert 2 <= most <= 2 + 2
    stream.close()
    assert "ratings" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    "bad",
    [
        (429, {}),
        (409, {}),
        (503, {"error": "loading"}),
        (408, {}),
        (200, b"<html>"),
        (200, {}),
        None,
    ],
)
def test_what_passes_is_tried_again(server, pauses, bad):
    server.script = lambda image, attempt: bad if attempt < 2 else (200, completion())
    rating = next(rater(server, samples=1).rate([picture(0)]))
    assert rating.score == 4
    assert len(server.requests) == 3
    assert len({r["seed"] for r in server.requests}) == 1
    assert len(pauses) == 2


@pytest.mark.parametrize(
    ("bad", "said"), [((500, {"error": {"message": "cuda"}}), "500: cuda"), (None, "connection")]
)
def test_an_image_is_given_up_after_the_stated_attempts_and_the_others_are_scored(
    server, pauses, bad, said
):
    server.script = lambda image, attempt: bad if image.width == 9 else (200, completion())
    ratings = list(rater(server, samples=1).rate(tiles(3)))
    assert [r.score for r in ratings] == [4, None, 4]
    assert said in ratings[1].problem
    assert sum(image.width == 9 for image in server.images()) == RETRIES + 1


def test_a_silent_server_is_left_after_the_timeout(server, pauses):
    server.script = lambda image, attempt: (
        time.sleep(1 if attempt == 0 else 0),
        (200, completion()),
    )[1]
    rating = next(rater(server, samples=1, timeout=0.5).rate([picture(0)]))
    assert rating.score == 4
    assert len(server.requests) == 2


def test_waits_grow_have_jitter_and_are_as_long_as_the_server_asks(server, pauses):
    server.script = lambda image, attempt: (503, {})
    (rating,) = rater(server, samples=1).rate([picture(0)])
    assert "in 6 attempts" in rating.problem
    assert len(set(pauses)) == len(pauses) == RETRIES
    for attempt, waited in enumerate(pauses):
        most = min(8, 0.5 * 2**attempt)
        assert most / 2 <= waited <= most
    pauses.clear()
    server.script = lambda image, attempt: (
        (200, completion()) if attempt else (429, {}, {"Retry-After": "7"})
    )
    assert next(rater(server, samples=1, seed=1).rate([picture(0)])).score == 4
    assert pauses == [7]


def test_reading_retry_after():
    assert retry_after("7.5") == 7.5
    assert retry_after("Fri, 31 Dec 2100 23:59:59 GMT") > 1e9
    assert retry_after("soon") == 0


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (401, {}, "401: no such key"),
        (404, {}, "404: no such"),
        (307, {"Location": "/"}, "307"),
        (429, {"Retry-After": "3600"}, "wait 3600 s"),
        (429, {"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}, "asks to wait"),
    ],
)
def test_a_fault_of_the_whole_run_stops_it_at_once(server, pauses, status, headers, said):
    server.script = lambda image, attempt: (
        status,
        {"error": {"message": "no such key k-secret"}},
        headers,
    )
    with pytest.raises(UserError, match=said) as error:
        list(rater(server, samples=1, concurrency=1, key="k-secret").rate(tiles(20)))
    assert "k-secret" not in str(error.value)
    assert not pauses
    assert len(server.requests) <= 3


def test_a_refused_image_fails_alone(server, pauses):
    """Six of them in a row too, after one was scored."""
    server.script = lambda image, attempt: (
        (400, {"message": "too long"}) if 8 < image.width < 15 else (200, completion())
    )
    ratings = list(rater(server, concurrency=1).rate(tiles(8)))
    assert [r.score for r in ratings] == [4, *[None] * 6, 4]
    assert "400: too long" in ratings[1].problem
    assert not pauses


def test_the_other_samples_of_a_refused_image_are_not_sent(server):
    server.script = lambda image, attempt: (400, {})
    (rating,) = rater(server, samples=6, concurrency=1).rate([picture(0)])
    assert rating.score is None
    assert len(server.requests) <= 2


@pytest.mark.parametrize("status", [400, 503])
def test_a_server_that_only_refuses_is_not_asked_for_every_image(server, pauses, status):
    server.script = lambda image, attempt: (status, {"detail": "no images here"})
    rated = []
    with pytest.raises(UserError, match=r"[5-8] images in a row.*no images here"):
        rated.extend(rater(server, samples=1, concurrency=1).rate(tiles(50)))
    assert len({image.width for image in server.images()}) <= 12


def test_no_server_is_said_at_once_and_a_server_that_goes_away_after_the_attempts(server, pauses):
    ours = rater(server, samples=1, concurrency=1)
    stream = ours.rate(tiles(9))
    assert next(stream).score == 4
    server.script = lambda image, attempt: None  # connections still open
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"no server answers at http://127.*vllm serve some/model"):
        list(stream)
    assert len(pauses) >= RETRIES
    pauses.clear()
    with pytest.raises(UserError, match="no server answers"):
        next(ours.rate(tiles(1)))
    assert not pauses
    assert list(ours.rate([])) == []  # a finished run that is started again needs no server


def test_a_bad_image_and_an_unreadable_answer_are_problems(server, tmp_path):
    (tmp_path / "not.png").write_text("hello")
    server.script = lambda image, attempt: (
        200,
        completion("<think>So", "length" if image.width == 8 else "stop"),
    )
    small, large = tiles(2)
    ratings = list(rater(server).rate([str(tmp_path / "not.png"), small, large]))
    assert "not.png" in ratings[0].problem
    assert [r.samples for r in ratings] == [(), (None, None), (None, None)]
    assert "cut_off" in ratings[1].problem


def test_reading_a_completion():
    assert read_completion(completion()) == (GOOD, False)
    assert read_completion(completion(None, "length")) == ("", True)
    for field in ("reasoning", "reasoning_content"):
        assert read_completion(completion("<answer>4.00</answer>", **{field: "Sharp."})) == (
            GOOD,
            False,
        )
    with pytest.raises(TypeError):
        read_completion(completion([1]))


@pytest.mark.parametrize("size", [(300, 200), (3000, 1), (1, 3000), (10, 10)])
def test_max_pixels_bounds_what_is_sent(server, size):
    next(rater(server, samples=1, max_pixels=1000).rate([picture(0, size)]))
    width, height = server.images()[0].size
    assert width * height <= 1000
    assert (width, height) == size if size == (10, 10) else width * height > 800


def test_q_insight_has_its_system_message_and_the_image_last(server):
    server.script = lambda image, attempt: (
        200,
        completion('<think>.</think><answer>{"rating": 2.5}</answer>'),
    )
    assert (
        next(rater(server, model="ByteDance/Q-Insight", samples=1).rate([picture(0)])).score == 2.5
    )
    system, user = server.requests[0]["messages"]
    assert system["role"] == "system"
    assert [part["type"] for part in user["content"]] == ["text", "image_url"]


def test_credentials_are_sent_and_not_shown(server, monkeypatch):
    next(rater(server, samples=1).rate([picture(0)]))
    monkeypatch.setenv("OPENAI_API_KEY", "k-env")
    next(rater(server, samples=1).rate([picture(0)]))
    server.url = server.url.replace("127", "me:se%40cret@127")
    ours = rater(server, samples=1)
    next(ours.rate([picture(0)]))
    basic = base64.b64encode(b"me:se@cret").decode()
    sent = [headers["Authorization"] for headers in server.headers]
    assert sent == [None, "Bearer k-env", f"Basic {basic}"]
    shown = json.dumps(ours.settings()) + ours.url
    server.script = lambda image, attempt: (403, {})
    with pytest.raises(UserError, match="403") as refused:
        next(ours.rate([picture(0)]))
    with pytest.raises(UserError, match="must be like http") as mistyped:
        made("htp://me:se%40cret@127.0.0.1/v1")
    shown += str(refused.value) + str(mistyped.value)
    assert not any(secret in shown for secret in ("k-env", "cret", "me:", basic))
    names = (
        "model",
        "engine",
        "prompt",
        "mode",
        "samples",
        "seed",
        "temperature",
        "max_new_tokens",
        "max_pixels",
    )
    assert list(ours.settings()) == [*names, "version", "url"]


@pytest.mark.parametrize(
    "settings",
    [
        *(
            {"mode": "expect"},
            {"mode": "auto"},
            {"samples": "auto"},
            {"samples": 0},
            {"max_pixels": 0},
            {"max_new_tokens": 0},
            {"temperature": -1.0},
        ),
        *(
            {"temperature": float("nan")},
            {"concurrency": 0},
            {"timeout": 0},
            {"key": "a\nb"},
            {"prompt": "none"},
        ),
        *({"url": "localhost:8000"}, {"url": "ftp://x/v1"}, {"url": "http:///v1"}, {"url": None}),
    ],
)
def test_impossible_settings(settings):
    with pytest.raises(UserError):
        made(**{"url": "http://localhost:8000/v1", **settings})


def test_it_works_where_an_event_loop_runs_already(server):
    async def notebook():
        return list(rater(server, samples=1).rate(tiles(2)))

    assert [r.score for r in asyncio.run(notebook())] == [4, 4]


def test_a_process_ends_with_a_generator_left_unfinished(server):
    code = f"""
from PIL import Image
from visualquality.score.openai import OpenAIRater
from visualquality.score.settings import ScoreSettings
rater = OpenAIRater("m", ScoreSettings(url={server.url!r}, samples=1))
stream = rater.rate(Image.new("RGB", (8 + i, 8)) for i in range(99))
print(next(stream).score)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("4.0\n", "")


def test_leaving_early_ends_what_is_under_way(server):
    server.delay = 5.0

    def interrupted(images):
        yield next(images)
        raise KeyboardInterrupt

    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        list(rater(server).rate(interrupted(iter(tiles(4)))))
    assert time.perf_counter() - started < 3
