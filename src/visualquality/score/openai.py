"""Scores from any server that speaks OpenAI's chat API (vLLM, SGLang, llama.cpp, …), by concurrent requests."""

import asyncio
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2
import openai

from .. import response
from ..errors import UserError
from ..seeds import request_seed
from .chat import ChatRater, png_data_url, read_completion
from .rating import Rating, seconds_since
from .settings import ScoreSettings
from .source import Source, name_of

RETRIES = 5  # after the first attempt
LONGEST_RETRY_AFTER = 120.0  # seconds; the library does not wait longer than this either
CONNECT_SECONDS = 10.0
NO_CONNECTION = (httpx2.ConnectError, httpx2.ConnectTimeout)
REFUSED = (400, 413, 422)  # statuses by which a server that works refuses one image
REPEATED = (408, 409, 429)  # these, and 5xx, are repeated by the library
LOST_IN_A_ROW = 5  # this many images lost one after the other are the server's fault, not theirs


class OpenAIRater(ChatRater):
    """Scores images with the model of a server: a mean of `samples` answers in [1, 5], as `Scorer` does.

    Each sample is a request of its own, with a seed that depends only on (seed, the image's pixels, the sample's
    number). Whether the same seed gives the same answer depends on the server: most promise it for one batch only.

    Images are sent as PNG, since JPEG would change the quality that is judged, resized to at most `max_pixels` where
    that is given; the server may resize further. Requests that meet a broken connection, a timeout, an answer that is
    no completion, or one of the statuses 408, 409, 429 and 5xx are repeated up to 5 times, after 0.5 s, 1 s, … 8 s
    with jitter, or after what `Retry-After` asks. Then the image is given up, as is one that the server refuses (400,
    413, 422).

    Raises UserError, from `rate`, for what is the fault of the whole run: no server at `url`, a wrong key, an unknown
    model, a server that asks to wait for more than 120 s, and five images lost in a row.
    """

    def __init__(
        self,
        model: str,
        settings: ScoreSettings,
        *,
        concurrency: int = 8,
        timeout: float = 120.0,
        key: str | None = None,
    ):
        """`settings.url`: with its version, such as http://localhost:8000/v1, or http://user:password@… (Basic).

        `concurrency`: requests at a time. `timeout`: seconds that a server may be silent. `key`: by default the
        environment's OPENAI_API_KEY; sent as a bearer token unless the URL has a user. Raises UserError.
        """
        super().__init__("openai", model, settings)
        if concurrency < 1 or not timeout > 0:
            raise UserError(
                f"concurrency is {concurrency} and timeout {timeout}; both must be above 0"
            )
        if settings.url is None:
            raise UserError("engine openai needs --url, such as http://localhost:8000/v1")
        if settings.dtype != "auto":
            raise UserError(
                f"dtype is {settings.dtype}, but a server chooses it: leave it out here, and give it to the server"
            )
        # The user and the password stand before the last "@" and are never shown.
        shown = settings.url.rpartition("@")[2]
        wrong = UserError(f"the URL {shown!r} must be like http://localhost:8000/v1")
        try:
            parts = urlsplit(settings.url)
        except ValueError as error:  # a bracket of an IPv6 address without the other
            raise wrong from error
        host = parts.netloc.rpartition("@")[2]
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise wrong
        self.url = parts._replace(netloc=host).geturl().rstrip("/")
        self._user: tuple[str, str] | None = None
        if parts.username:
            self._user = unquote(parts.username), unquote(parts.password or "")
        self._key = os.environ.get("OPENAI_API_KEY") if key is None else key
        if self._key and not (self._key.isascii() and self._key.isprintable()):
            raise UserError(
                "the key (OPENAI_API_KEY) holds a line break or a letter that no key has; copy it again"
            )
        self.concurrency, self.timeout = concurrency, timeout

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"url": self.url}

    def rate(self, images: Iterable[Source]) -> Iterator[Rating]:
        """Ratings in the order of `images`, which may be endless: a few are read ahead (requests / samples + 2)."""
        # Enough to keep every request slot filled, and two images for those that finish early.
        ahead = -(-self.concurrency // self.samples) + 2
        waiting: deque[Future[Rating]] = deque()
        with closing(_Session(self)) as session:
            for number, source in enumerate(images):
                # Not before: a run that has nothing left to rate needs no server.
                if number == 0:
                    session.submit(session.check_server()).result()
                waiting.append(session.submit(session.rate(source)))
                while waiting and (len(waiting) >= ahead or waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def request(self, source: Source) -> tuple[dict[str, Any], str, tuple[str, ...]]:
        """The body of the requests about a source, without the seed; the digest of its images, and their warnings."""
        images, digest, warnings = self.open(source)
        parts = [
            {"type": "image_url", "image_url": {"url": png_data_url(image)}} for image in images
        ]
        extra: dict[str, Any] = {**self.extra_sampling}
        if self.template_options:
            # The name that vLLM and SGLang have for it.
            extra["chat_template_kwargs"] = self.template_options
        body = {
            "model": self.model,
            "messages": self.messages(parts),
            "n": 1,
            "max_tokens": self.options.token_limit,
            "temperature": self.temperature,
            **self.sampling,
            "extra_body": extra,
        }
        return body, digest, warnings

    def error_from(self, error: openai.APIError) -> "UserError | ImageLostError":
        """What an error of the library means, which has repeated the request as often as it should."""
        cause = error.__cause__
        if isinstance(cause, NO_CONNECTION):
            return self.no_server(cause)
        refused = False
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            reason = f"the server answered {status}: {self.one_line(error.body)}"
            refused = status in REFUSED
            if not (refused or status in REPEATED or status >= 500):
                return UserError(
                    f"{reason}; check the model {self.model!r}, the key and the URL {self.url}"
                )
            wait = retry_after(error.response.headers.get("Retry-After", "0"))
            if wait > LONGEST_RETRY_AFTER:
                return UserError(
                    f"{reason}, and asks to wait {wait:.0f} s; run again then ({self.url})"
                )
        elif isinstance(cause, httpx2.DecodingError):
            reason = str(cause)
        elif isinstance(error, openai.APITimeoutError):
            reason = f"the server was silent for {self.timeout:g} s"
        else:
            reason = f"the connection broke ({str(cause) or type(cause).__name__})"
        return ImageLostError(
            reason if refused else f"{reason}, in {RETRIES + 1} attempts", refused
        )

    def no_server(self, error: Exception) -> UserError:
        return UserError(
            f"no server answers at {self.url} ({error}): "
            f"start one, for example `vllm serve {self.model}`"
        )

    def one_line(self, body: object) -> str:
        """What a server says is wrong, in one short line, without the key."""
        if isinstance(body, dict):
            body = body.get("message") or body.get("detail") or body
        line = " ".join(str(body).split())
        if self._key:
            line = line.replace(self._key, "…")
        return line[:300] or "nothing"


class ImageLostError(Exception):
    """Why an image has no score. `refused`: by a server that works, so the image may be at fault."""

    def __init__(self, reason: str, refused: bool):
        super().__init__(reason)
        self.refused = refused


class _Session:
    """One call of `rate`: its client, the event loop that this runs on, and how the last images went.

    The loop has a thread of its own, so that `rate` works where a loop runs already (a notebook, a web server), and
    Ctrl-C is not held up.
    """

    def __init__(self, rater: OpenAIRater):
        self.rater = rater
        self.http = openai.DefaultAsyncHttpxClient(
            follow_redirects=False,  # a redirected POST may arrive as a GET; the user must correct the URL
            auth=rater._user,  # replaces the header of the key
            event_hooks={"response": [self.check_completion]},
        )
        self.client = openai.AsyncOpenAI(
            base_url=rater.url,
            api_key=rater._key or "unused",  # the library refuses an empty one
            max_retries=RETRIES,
            # No bound on waiting for a free connection: `slots` bounds the requests.
            timeout=openai.Timeout(
                rater.timeout, connect=min(rater.timeout, CONNECT_SECONDS), pool=None
            ),
            http_client=self.http,
        )
        # Without a key no such header is sent: there may be a server or proxy that refuses a wrong one.
        self.headers = {} if rater._key else {"Authorization": openai.Omit()}
        # A request keeps its slot while it waits to be repeated, so that a busy server gets fewer requests.
        self.slots = asyncio.Semaphore(rater.concurrency)
        self.scored = False  # an image has been scored
        self.lost = 0  # images in a row
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="ratings", daemon=True)
        self.thread.start()

    def submit(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def close(self) -> None:
        """Cancel what is under way and end the thread."""
        # A generator left unfinished is closed as the process ends. Its thread is gone by then: do not wait for it.
        if sys.is_finalizing():
            return
        self.submit(self.stop()).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def stop(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.close()

    async def check_server(self) -> None:
        """Raises UserError where no server listens, at once: retries are for a server that has answered before."""
        try:
            await self.http.head(self.rater.url, timeout=CONNECT_SECONDS)
        except NO_CONNECTION as error:
            raise self.rater.no_server(error) from error
        except httpx2.RequestError:
            pass  # something listens there, however odd its answer

    async def rate(self, source: Source) -> Rating:
        name, origin = name_of(source), self.rater.rating_fields
        try:
            # In a thread: decoding and PNG would hold up the answers that come in.
            request, digest, warnings = await asyncio.to_thread(self.rater.request, source)
        except UserError as error:
            return Rating.failed(name, str(error), **origin)
        start = time.perf_counter()
        try:
            answers = await self.samples(request, digest)
        except ImageLostError as error:
            self.count_lost(error)
            return Rating.failed(name, str(error), **origin, seconds=seconds_since(start))
        self.scored, self.lost = True, 0
        rating = Rating.from_samples(name, answers, **origin, seconds=seconds_since(start))
        return rating.with_warnings(warnings)

    def count_lost(self, error: ImageLostError) -> None:
        # A refused image counts only while none has been scored: until then the request itself may be at fault.
        if not (self.scored and error.refused):
            self.lost += 1
        if self.lost >= LOST_IN_A_ROW:
            raise UserError(
                f"{self.lost} images in a row are lost ({error}): "
                f"fix the server at {self.rater.url}, then run again"
            )

    async def samples(self, request: dict[str, Any], digest: str) -> list[response.Response]:
        # Not gather: once a sample has failed, the others of its image must not be sent or repeated any more.
        tasks = []
        try:
            async with asyncio.TaskGroup() as group:
                for k in range(self.rater.samples):
                    seed = request_seed(self.rater.options.seed, digest, k)
                    tasks.append(group.create_task(self.sample(request, seed)))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def sample(self, request: dict[str, Any], seed: int) -> response.Response:
        # The raw answer: the library's classes do not promise the fields that servers add, such as the thinking.
        create = self.client.chat.completions.with_raw_response.create
        async with self.slots:
            try:
                answer = await create(**request, seed=seed, extra_headers=self.headers)
            except openai.APIError as error:
                raise self.rater.error_from(error) from error
        text, truncated = read_completion(answer.http_response.json())
        return self.rater.read(text, truncated=truncated)

    async def check_completion(self, answer: httpx2.Response) -> None:
        """Raises DecodingError for an answer of status 200 that is no completion, as of a server that still starts."""
        # Here rather than in `sample`: the library repeats a request where httpx2 raises a RequestError.
        if not answer.is_success:
            return
        await answer.aread()
        try:
            read_completion(answer.json())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            shown = self.rater.one_line(answer.text)
            raise httpx2.DecodingError(
                f"the server's answer is no chat completion: {shown}", request=answer.request
            ) from error


def retry_after(header: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date (RFC 9110, 10.2.3); 0 for anything else."""
    with suppress(ValueError):
        return float(header)
    with suppress(ValueError):
        return parsedate_to_datetime(header).timestamp() - time.time()
    return 0.0
