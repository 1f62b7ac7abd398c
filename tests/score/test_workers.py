"""A Scorer wherever programs run one: daemonic workers, threads, after a fork, and without processes of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import picture
from visualquality import process
from visualquality.models.load import load
from visualquality.process import may_fork_workers
from visualquality.score import reading
from visualquality.score.scorer import Scorer

# What a program does: it loads a model, uses it, and then uses it again in processes that it makes. The images count as
# slow to read, so that the Scorer wants helpers. Two threads, since with one OpenMP has none that a fork could miss.
PROGRAM = """
import gc, json, multiprocessing, os, sys, threading
from contextlib import ExitStack
import torch
from PIL import Image
torch.set_num_threads(2)
from conftest import picture
from visualquality import Scorer
from visualquality.process import ForkSafeLock
from visualquality.score import reading

reading.QUICK_SECONDS = 0.0
images = [picture(i, (200, 150)) for i in range(6)]
options = {"mode": "expect", "device": "cpu", "batch": 2}
scorer = Scorer(sys.argv[1], **options)
fork = multiprocessing.get_context("fork")

def scores(_=None):
    return [rating.score for rating in scorer(images)]

def scores_of_ones_own(_=None):
    return [rating.score for rating in Scorer(sys.argv[1], **options)(images)]

def here():
    return [scores()]

def pool():  # whose workers are daemonic
    with fork.Pool(2) as workers:
        return workers.map(scores, range(2))

def process():  # which may have children
    queue = fork.Queue()
    child = fork.Process(target=lambda: queue.put(scores()))
    child.start()
    found = queue.get(timeout=100)
    child.join()
    return [found]

def own_model():
    with fork.Pool(1) as workers:
        return workers.map(scores_of_ones_own, [0])

def data_loader():
    class Rated(torch.utils.data.Dataset):
        def __len__(self):
            return 2
        def __getitem__(self, index):
            return scores()
    loader = torch.utils.data.DataLoader(
        Rated(), batch_size=1, num_workers=2, collate_fn=list, multiprocessing_context=fork
    )
    return [each for batch in loader for each in batch]

def prefork():  # as Celery and gunicorn do it
    read, write = os.pipe()
    if os.fork() == 0:
        # Celery's process objects lack what multiprocessing's have.
        multiprocessing.process._current_process = object()
        os.write(write, json.dumps(scores()).encode())
        os._exit(0)
    os.close(write)
    return [json.loads(os.fdopen(read).read())]

def beside_a_thread():  # which is opening an image at the moment of the fork, and so holds a lock
    held, stop = threading.Event(), threading.Event()
    def work():
        with ExitStack() as stack:
            locks = [each for each in gc.get_objects() if isinstance(each, ForkSafeLock)]
            assert locks
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            stop.wait()
    other = threading.Thread(target=work)
    other.start()
    held.wait()
    try:
        with fork.Pool(2) as workers:
            return workers.map(scores, range(2))
    finally:
        stop.set()
        other.join()

for way in (here, pool, process, own_model, data_loader, prefork, beside_a_thread):
    print(json.dumps([way.__name__, way()]), flush=True)
"""
WAYS = ("pool", "process", "own_model", "data_loader", "prefork", "beside_a_thread")


@pytest.fixture(scope="module")
def program(model_folder, tmp_path_factory) -> dict[str, list[list[float]]]:
    """What the program printed: the scores that each worker had, by the kind of worker."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    places = [*(path for path in sys.path if path.endswith("tests")), os.environ.get("PYTHONPATH")]
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, places)), "OMP_NUM_THREADS": "2"}
    with (folder / "out").open("w", encoding="utf-8") as out:
        run = subprocess.Popen(
            [sys.executable, "program.py", str(model_folder("nano"))],
            cwd=folder,
            env=os.environ | paths,
            stdout=out,
            start_new_session=True,
        )
        try:
            run.wait(300)
        except (
            subprocess.TimeoutExpired
        ):  # it waits for what a fork does not have: the tests below say where
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    return dict(map(json.loads, (folder / "out").read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize("way", WAYS)
def test_scores_are_the_same_in_every_kind_of_worker(way, program):
    (here,) = program["here"]
    assert len(here) == 6
    assert program[way]
    for scores in program[way]:
        assert scores == pytest.approx(here, abs=1e-4)


@pytest.fixture
def scorer(model_folder, monkeypatch):
    monkeypatch.setattr(reading, "QUICK_SECONDS", 0.0)
    return Scorer(str(model_folder("nano")), mode="expect", device="cpu", batch=2)


IMAGES = [picture(i, (90, 60)) for i in range(8)]


def test_threads_share_a_scorer(scorer):
    alone = [rating.score for rating in scorer(IMAGES)]
    with ThreadPoolExecutor(3) as pool:
        for ratings in pool.map(scorer, [IMAGES] * 3):
            assert [rating.score for rating in ratings] == pytest.approx(alone, abs=1e-4)


def test_where_the_system_gives_no_process_threads_read(scorer, monkeypatch):
    alone = [rating.score for rating in scorer(IMAGES)]

    def refuse(*_, **__):
        raise OSError(38, "Function not implemented")  # a machine without semaphores

    monkeypatch.setattr(reading, "ProcessPoolExecutor", refuse)
    assert [rating.score for rating in scorer(IMAGES)] == pytest.approx(alone, abs=1e-4)


def test_a_process_of_its_own_is_made_only_where_that_is_safe(monkeypatch):
    assert may_fork_workers()
    found = []
    other = threading.Thread(target=lambda: found.append(may_fork_workers()))
    other.start()
    other.join()
    assert found == [False]  # in a thread
    stop = threading.Event()
    for daemon, allowed in ((False, False), (True, True)):
        beside = threading.Thread(target=stop.wait, daemon=daemon)
        beside.start()
        assert may_fork_workers() is allowed
        stop.set()
        beside.join()
        stop.clear()
    monkeypatch.delattr("os.fork")
    assert not may_fork_workers()  # on Windows


def test_a_gpu_that_was_used_before_the_fork_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(process, "_IMPORTED_IN", -1)
    monkeypatch.setattr(process, "_one_thread_in", lambda process: None)
    process.use_model_here("cuda:0")  # nothing was done with it: PyTorch can begin
    monkeypatch.setattr("torch.cuda._is_in_bad_fork", lambda: True)
    with pytest.raises(ValueError, match="forked from one that used cuda:0"):
        process.use_model_here("cuda:0")
    process.use_model_here("cpu")


def test_a_model_on_the_cpu_needs_nothing_where_nothing_was_forked():
    assert not process.was_forked()
    assert load("nano", device="cpu").model.device.type == "cpu"
