"""The whole chain on real data: train, save, serve with all processes, ask, compare with the model in this process.

    python examples/digits/demo.py [--keep]        (or: make demo, make demo KEEP=1)

Exits 1 if the accuracy on the held-out digits is 0.95 or less, if any answer differs from the in-process model's, or if
the mean batch is 1.5 rows or less. Writes demo.json.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import paceline

HERE = Path(__file__).resolve().parent
ROUNDS = 8
IN_FLIGHT = 64
ACCURACY_MIN = 0.95
MEAN_BATCH_MIN = 1.5
START_S = 60.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What came back: one row of scores per held-out digit and round, latencies in seconds, rows of the batch that
    each request ran in, and the seconds that all took."""

    scores: np.ndarray
    latencies_s: np.ndarray
    batch_rows: Counter[int]
    seconds: float


def train(progress: Progress, environ: dict[str, str]) -> str:
    """Run train.py as a user would; the tag of what it saved."""
    task = progress.add_task("training the network", total=None)
    saved = ""
    with subprocess.Popen(
        [sys.executable, str(HERE / "train.py")], stdout=subprocess.PIPE, text=True, env=environ
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line) if line.startswith("{") else {}
            if "epoch" in event:
                progress.update(task, total=event["epochs"], completed=event["epoch"])
            saved = event.get("saved", saved)
    if process.returncode != 0 or not saved:
        raise SystemExit(f"training failed with exit code {process.returncode}; its output is above")
    return saved


@contextmanager
def serving(progress: Progress, environ: dict[str, str], tag: str, run_dir: Path) -> Iterator[str]:
    """`paceline serve` with 2 API servers and 1 worker; gives its URL, stops it at the end."""
    task = progress.add_task(f"serving {tag}", total=1)
    log = Path(environ["PACELINE_HOME"]) / "server.log"
    command = [sys.executable, "-m", "paceline", "serve", tag, "--api-workers", "2", "--port", "0", "--json"]
    command += ["--run-dir", str(run_dir)]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environ, start_new_session=True
        )
    try:
        yield _ready_url(process, progress, task, log)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        if code != 0:
            raise SystemExit(f"the server stopped with exit code {code}; its output is in {log}")


def _ready_url(process: subprocess.Popen[str], progress: Progress, task: Any, log: Path) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "ready":
            progress.update(task, completed=1)
            # Read on, so that the server never waits for us.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return str(event["url"])
    raise SystemExit(f"the server ended with exit code {process.wait()} before it was ready; its output is in {log}")


async def ask(progress: Progress, url: str, model: str, images: np.ndarray) -> Answers:
    """Every image as a request of its own, ROUNDS times over, IN_FLIGHT at a time."""
    task = progress.add_task("asking", total=ROUNDS * len(images))
    scores = np.empty((ROUNDS * len(images), 10), np.float32)
    latencies_s = np.empty(len(scores))
    batch_rows: Counter[int] = Counter()
    numbers = iter(range(len(scores)))

    async def caller(client: paceline.AsyncClient) -> None:
        for number in numbers:
            image = images[number % len(images)]
            began = time.perf_counter()
            outputs = await client.predict_named(model, image[None])
            latencies_s[number] = time.perf_counter() - began
            scores[number] = outputs["output_0"][0]
            batch_rows[outputs.batch_rows] += 1
            progress.advance(task)

    async with paceline.AsyncClient(url) as client:
        began = time.perf_counter()
        await asyncio.gather(*[caller(client) for _ in range(IN_FLIGHT)])
        return Answers(scores, latencies_s, batch_rows, time.perf_counter() - began)


def judge(answers: Answers, expected: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The figures, and what is wrong with them."""
    repeated = np.tile(expected, (ROUNDS, 1))
    # A batch may differ from a single call in the last bits of a float, never more.
    different = int((~np.isclose(answers.scores, repeated, rtol=1e-4, atol=1e-4).all(axis=1)).sum())
    accuracy = float((answers.scores.argmax(1) == np.tile(labels, ROUNDS)).mean())
    batches = sum(count / rows for rows, count in answers.batch_rows.items())
    mean_batch = len(answers.scores) / batches
    p50, p99 = (float(np.percentile(answers.latencies_s, q)) * 1e3 for q in (50, 99))
    wrong = []
    if accuracy <= ACCURACY_MIN:
        wrong.append(f"accuracy {accuracy:.4f} is not over {ACCURACY_MIN}")
    if different:
        wrong.append(f"{different} answers differ from the in-process model")
    if mean_batch <= MEAN_BATCH_MIN:
        wrong.append(f"the mean batch of {mean_batch:.2f} rows is not over {MEAN_BATCH_MIN}")
    return {
        "requests": len(answers.scores),
        "accuracy": round(accuracy, 4),
        "different_answers": different,
        "requests_per_s": round(len(answers.scores) / answers.seconds, 1),
        "p50_ms": round(p50, 2),
        "p99_ms": round(p99, 2),
        "mean_batch": round(mean_batch, 2),
        "batches_by_rows": {str(rows): round(count / rows) for rows, count in sorted(answers.batch_rows.items())},
        "wrong": wrong,
    }


def batch_lines(batches_by_rows: dict[int, int]) -> list[str]:
    """A bar for each doubling of the batch size: 1, 2, 3-4, 5-8, ..."""
    grouped: Counter[int] = Counter()
    for rows, count in batches_by_rows.items():
        grouped[(rows - 1).bit_length()] += count
    lines = []
    for group, count in sorted(grouped.items()):
        low, high = (1 << group) // 2 + 1, 1 << group
        rows = str(high) if low >= high else f"{low}-{high}"
        bar = "█" * max(1, round(40 * count / max(grouped.values())))
        lines.append(f"  {rows:>6} rows  {bar} {count} {'batch' if count == 1 else 'batches'}")
    return lines


def show(console: Console, figures: dict[str, Any]) -> None:
    console.print(f"accuracy    {figures['accuracy']:.4f} on {figures['requests']} single requests")
    console.print(f"answers     {figures['different_answers']} differ from the model in this process")
    console.print(f"speed       {figures['requests_per_s']:,.0f} requests/s with {IN_FLIGHT} in flight")
    console.print(f"latency     p50 {figures['p50_ms']} ms, p99 {figures['p99_ms']} ms")
    console.print(f"mean batch  {figures['mean_batch']} rows")
    for line in batch_lines({int(rows): count for rows, count in figures["batches_by_rows"].items()}):
        console.print(line, highlight=False)


def write_curl(url: str, model: str, image: np.ndarray, folder: Path) -> str:
    """A curl line that sends one digit; its body lies in `folder`."""
    tensor = {
        "name": "x",
        "shape": [1, 3, 32, 32],
        "datatype": "FP32",
        "data": [round(v, 4) for v in image.ravel().tolist()],
    }
    body = folder / "digit.json"
    body.write_text(json.dumps({"inputs": [tensor]}))
    return f"curl -s {url}/v2/models/{model}/infer -d @{body}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Train, save, serve and ask; see the file's first lines.")
    parser.add_argument("--keep", action="store_true", help="stay up until Ctrl-C")
    parser.add_argument("--home", type=Path, default=Path(".demo").resolve(), help="the demo's own model store")
    options = parser.parse_args()
    os.environ["PACELINE_HOME"] = str(options.home)
    environ = dict(os.environ)
    console = Console()
    began = time.monotonic()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with tempfile.TemporaryDirectory(prefix="paceline-") as folder, Progress(*columns, console=console) as progress:
        tag = train(progress, environ)
        with serving(progress, environ, tag, Path(folder) / "run") as url:
            images, labels, expected = _in_process(tag)
            model = tag.partition(":")[0]
            # A full collection of all that torch brings along would stop this process, and so the asking, for 100 ms.
            gc.collect()
            gc.freeze()
            answers = asyncio.run(ask(progress, url, model, images))
            progress.stop()
            figures = judge(answers, expected, labels) | {"url": url, "seconds": round(time.monotonic() - began, 1)}
            show(console, figures)
            curl = write_curl(url, model, images[0], options.home)
            if options.keep:
                _stay(console, url, curl, Path(folder) / "run")
            else:
                console.print("try it      with make demo KEEP=1 (it stays up and prints its own port):")
                console.print(f"            {curl}", soft_wrap=True, highlight=False)
    Path("demo.json").write_text(json.dumps(figures, indent=2) + "\n")
    for reason in figures["wrong"]:
        console.print(f"[red]failed[/]: {reason}")
    return 1 if figures["wrong"] else 0


def _in_process(tag: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(images, labels, the scores that the saved model gives in this very process)."""
    import torch
    from train import load_digits

    images, labels = load_digits(held_out=True)
    model = paceline.pytorch.load_model(tag)
    with torch.inference_mode():
        return images, labels, model(torch.from_numpy(images)).numpy()


def _stay(console: Console, url: str, curl: str, run_dir: Path) -> None:
    status = Path(sys.executable).with_name("paceline")
    console.print(f"try it      {curl}", soft_wrap=True, highlight=False)
    console.print(f"look        {status} status --run-dir {run_dir}", soft_wrap=True, highlight=False)
    console.print(f"serving on {url} until Ctrl-C")
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()


if __name__ == "__main__":
    sys.exit(main())
