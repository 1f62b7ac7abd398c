"""Scores from any server that speaks OpenAI's chat API (vLLM, SGLang, llama.cpp, …), by concurrent requests."""

import asyncio
import base64
import json
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2
from PIL import Image

from .. import response
from ..errors import UserError
from .asking import SAMPLING, Asking, Mode
from .rating import Rating
from .source import Source, name_of

RETRIES = 5  # after the first attempt
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds
LONGEST_RETRY_AFTER = 120.0  # seconds; a server that asks for more is not waited for
CONNECT_SECONDS = 10.0
NO_CONNECTION = (httpx2.ConnectError, httpx2.ConnectTimeout)
LOST_IN_A_ROW = 5  # so many images lost one after the other are the server's fault, not theirs


class OpenAIRater:
    """Scores images with the model of a server: a mean of `samples` answers in [1, 5], as `Scorer` does.

    Each sample is a request of its own, with a seed that depends on (seed, the image's pixels, the sample's number)
    alone. Whether the same seed gives the same answer is the server's affair: most promise it for one batch only.

    Images travel as PNG, since JPEG would change the quality that is judged, resized to at most `max_pixels` where that
    is given; the server may resize further. Requests that meet a broken connection, a timeout or one of the statuses
    408, 429 and 5xx are repeated up to 5 times, after 0.5 s, 1 s, … 30 s with jitter, and what `Retry-After` asks. Then
    the image is given up, as is one that the server refuses (400, 413, 422).

    Raises UserError, from `rate`, for what is the fault of the whole run: no server at `url`, a wrong key, an unknown
    model, and five images lost in a row.
    """

    def __init__(
        self,
        model: str,
        url: str,
        *,
        mode: Mode = "reason",
        samples: int = 6,
        seed: int = 0,
        prompt: response.PromptName | None = None,
        temperature: float = 1.0,
        max_new_tokens: int | None = None,
        max_pixels: int | None = None,
        reference: bool = False,
        concurrency: int = 8,
        timeout: float = 120.0,
        key: str | None = None,
    ):
        """`url`: with its version, such as http://localhost:8000/v1; a user and password in it are sent (Basic).

        `concurrency`: requests at a time. `timeout`: seconds that a server may be silent. `key`: by default the
        environment's OPENAI_API_KEY; sent as a bearer token unless `url` has a user. Raises UserError.
        """
        self.asking = Asking(
            "openai",
            model,
            mode,
            samples,
            seed,
            prompt,
            temperature,
            max_new_tokens,
            max_pixels,
            reference,
        )
        if concurrency < 1 or not timeout > 0:
            raise UserError(
                f"concurrency is {concurrency} and timeout {timeout}; both must be above 0"
            )
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"the URL {url!r} must be like http://localhost:8000/v1")
        key = os.environ.get("OPENAI_API_KEY") if key is None else key
        if key and not (key.isascii() and key.isprintable()):
            raise UserError(
                "the key (OPENAI_API_KEY) holds a line break or a letter that no key has; copy it again"
            )
        self.url = (
            parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
        )  # safe to show
        self.concurrency, self.timeout, self._key = concurrency, timeout, key
        self._auth = (
            (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        )
        # Enough to keep every request slot filled, and two images for those that finish early.
        self._ahead = -(-concurrency // samples) + 2

    def settings(self) -> dict[str, Any]:
        """Everything known that a score depends on besides the image; which weights are served is not known."""
        return self.asking.settings() | {"url": self.url}

    def rate(self, images: Iterable[Source]) -> Iterator[Rating]:
        """Ratings in the order of `images`, which may be endless: a few are read ahead (requests / samples + 2)."""
        headers = {"Content-Type": "application/json"}
        if self._key and self._auth is None:
            headers["Authorization"] = f"Bearer {self._key}"
        client = httpx2.AsyncClient(
            auth=self._auth,
            headers=headers,
            limits=httpx2.Limits(max_connections=None),  # `_Run.slots` bounds them
            timeout=httpx2.Timeout(
                self.timeout, connect=min(self.timeout, CONNECT_SECONDS), pool=None
            ),
        )
        waiting: deque[Future[Rating]] = deque()
        with _Run(client, self.concurrency) as run:
            for source in images:
                waiting.append(run.submit(self._rate(run, source)))
                while waiting and (len(waiting) >= self._ahead or waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    async def _rate(self, run: "_Run", source: Source) -> Rating:
        name, made_by = name_of(source), self.asking.made_by
        try:
            body, digest = await asyncio.to_thread(self._body, source)
        except UserError as fault:
            return Rating.failed(name, str(fault), **made_by)
        started = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                seeds = [self.asking.sample_seed(digest, k) for k in range(self.asking.samples)]
                tasks = [group.create_task(self._ask(run, body, seed)) for seed in seeds]
        except ExceptionGroup as faults:
            first = faults.exceptions[0]
            if not isinstance(first, _Lost):
                raise first from None
            run.count_lost(first, self.url)
            return Rating.failed(
                name, str(first), **made_by, seconds=round(time.perf_counter() - started, 4)
            )
        run.scored, run.lost = True, 0
        responses = [task.result() for task in tasks]
        return Rating.from_samples(
            name, responses, **made_by, seconds=round(time.perf_counter() - started, 4)
        )

    def _body(self, source: Source) -> tuple[bytes, str]:
        """The request of a source but for its end, the seed; and the digest of its images."""
        images, digest = self.asking.open(source)
        request = {
            "model": self.asking.model,
            "messages": self.asking.messages([_part(image) for image in images]),
            "n": 1,
            "max_tokens": self.asking.max_new_tokens,
            "temperature": self.asking.temperature,
            **SAMPLING,
        }
        return json.dumps(request).encode().removesuffix(b"}"), digest

    async def _ask(self, run: "_Run", body: bytes, seed: int) -> response.Response:
        async with run.slots:
            for attempt in range(RETRIES + 1):
                try:
                    return await self._attempt(run, body + b', "seed": %d}' % seed)
                except _Passing as fault:
                    reason = str(fault)
                    if attempt < RETRIES:
                        await _pause(wait_seconds(attempt, fault.retry_after))
                except NO_CONNECTION as error:
                    if attempt == RETRIES or not run.reached:
                        raise self._no_server(error) from error
                    await _pause(wait_seconds(attempt))
        raise _Lost(f"{reason}, in {RETRIES + 1} attempts", by_server=True)

    async def _attempt(self, run: "_Run", body: bytes) -> response.Response:
        try:
            answer = await run.client.post(f"{self.url}/chat/completions", content=body)
        except NO_CONNECTION:
            raise
        except httpx2.TransportError as error:
            run.reached = True
            silent = isinstance(error, httpx2.TimeoutException)
            broken = f"the connection broke ({str(error) or type(error).__name__})"
            raise _Passing(
                f"the server was silent for {self.timeout:g} s" if silent else broken
            ) from error
        run.reached = True
        said = f"the server answered {answer.status_code}: {self._message(answer)}"
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            retry_after = _retry_after(answer.headers.get("Retry-After"))
            if retry_after > LONGEST_RETRY_AFTER:
                raise UserError(
                    f"{said}, and asks to wait {retry_after:.0f} s; run again then ({self.url})"
                )
            raise _Passing(said, retry_after)
        if answer.status_code in (400, 413, 422):
            raise _Lost(said, by_server=False)
        if not answer.is_success:
            raise UserError(
                f"{said}; check the model {self.asking.model!r}, the key and the URL {self.url}"
            )
        try:
            text, truncated = read_completion(answer.json())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _Passing(
                f"the server's answer is no chat completion: {self._message(answer)}"
            ) from error
        return response.read(text, truncated=truncated, prompt=self.asking.prompt)

    def _no_server(self, error: Exception) -> UserError:
        model = self.asking.model
        return UserError(
            f"no server answers at {self.url} ({error}): start one, for example `vllm serve {model}`"
        )

    def _message(self, answer: httpx2.Response) -> str:
        """What a server says is wrong, in one short line, without the key."""
        try:
            said = answer.json()
        except ValueError:
            said = answer.text
        if isinstance(said, dict):
            said = said.get("error", said)
        if isinstance(said, dict):
            said = said.get("message") or said.get("detail") or said
        line = " ".join(str(said).split())
        return (line.replace(self._key, "…") if self._key else line)[:300] or "nothing"


def _part(image: Image.Image) -> dict[str, Any]:
    """An image in a message's content."""
    png = BytesIO()
    image.save(png, "PNG", compress_level=1)
    data = "data:image/png;base64," + base64.b64encode(png.getbuffer()).decode()
    return {"type": "image_url", "image_url": {"url": data}}


def read_completion(completion: Any) -> tuple[str, bool]:
    """The text of a chat completion, and whether it ran out of tokens.

    A server that parts the thinking from the answer (`reasoning_content`, in newer vLLM `reasoning`) has taken the tags
    away: they are put back. Raises LookupError, TypeError or AttributeError for what is no completion.
    """
    choice = completion["choices"][0]
    message = choice["message"]
    thinking, content = (
        message.get("reasoning_content") or message.get("reasoning"),
        message.get("content") or "",
    )
    if not isinstance(content, str):
        raise TypeError(f"content is {type(content).__name__}")
    text = f"<think>{thinking}</think>{content}" if thinking else content
    return text, choice.get("finish_reason") == "length"


def wait_seconds(attempt: int, retry_after: float = 0.0) -> float:
    """Seconds before the next attempt (`attempt` counts from 0): exponential, jittered, after what the server asks."""
    return retry_after + min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1)


_pause = asyncio.sleep


def _retry_after(header: str | None) -> float:
    """Seconds, of a number or a date (RFC 9110, 10.2.3); 0 where there is neither."""
    with suppress(ValueError):
        return max(0.0, float(header or 0))
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(header or "") - datetime.now(UTC)).total_seconds())
    return 0.0


class _Passing(Exception):
    """What may be gone at the next attempt."""

    def __init__(self, reason: str, retry_after: float = 0.0):
        super().__init__(reason)
        self.retry_after = retry_after


class _Lost(Exception):
    """Why an image has no rating."""

    def __init__(self, reason: str, *, by_server: bool):
        super().__init__(reason)
        self.by_server = by_server


class _Run:
    """One run over images: an event loop in a thread of its own, and what is known of the server.

    A thread, so that `rate` can be called where a loop runs already (a notebook, a server), and Ctrl-C is not held up.
    """

    def __init__(self, client: httpx2.AsyncClient, concurrency: int):
        self.client, self.slots = client, asyncio.Semaphore(concurrency)
        self.reached = False  # something listens there
        self.scored = False  # an image has been scored
        self.lost = 0  # images in a row
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ratings", daemon=True)

    def submit(self, work: Coroutine[Any, Any, Rating]) -> Future[Rating]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def count_lost(self, fault: _Lost, url: str) -> None:
        """A refused image counts only while no other has been scored: then the request itself may be at fault."""
        self.lost += fault.by_server or not self.scored
        if self.lost >= LOST_IN_A_ROW:
            raise UserError(
                f"{self.lost} images in a row are lost ({fault}): mend the server at {url}, then go on"
            )

    def __enter__(self) -> "_Run":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if (
            sys.is_finalizing()
        ):  # a generator left unfinished, dropped as the process ends: the thread is gone already
            return
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.aclose()
