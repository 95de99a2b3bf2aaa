"""AsyncClient with the face of Client, so that one test checks both: each call runs its loop until it is done."""

from __future__ import annotations

import asyncio

from paceline.client import AsyncClient, Prediction


class OneByOne:
    """One loop for its life; see the module."""

    def __init__(self, *args: object, **options: object) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(*args, **options)  # type: ignore[arg-type]  # passed on as they are

    def predict(self, model: str, *arrays: object, **options: object) -> Prediction:
        return self._runner.run(self._client.predict(model, *arrays, **options))  # type: ignore[arg-type]

    def metadata(self, model: str) -> dict[str, object]:
        return self._runner.run(self._client.metadata(model))

    def ready(self, model: str | None = None) -> bool:
        return self._runner.run(self._client.ready(model))

    def __enter__(self) -> OneByOne:
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()
