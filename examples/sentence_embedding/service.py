"""Text in, vectors out; sentences of different length share batches, because the model was saved with `pad`."""

import asyncio

import numpy as np
import numpy.typing as npt
from tokens import tokens_of

import paceline

runner = paceline.pytorch.get("encoder").to_runner()

svc = paceline.Service(name="sentences", runners=[runner])


@svc.api
async def embed(text: str) -> npt.NDArray[np.float32]:
    """The vector of a text, of length 1."""
    tokens = tokens_of(text)
    if not tokens:
        raise paceline.InvalidInput("the text has no words")
    batch = await runner.async_run([tokens])
    return batch[0]


@svc.api
async def closest(query: str, sentences: list[str]) -> dict:
    """The sentence that is most like the query."""
    if not sentences:
        raise paceline.InvalidInput("sentences is empty, expected one or more")
    vectors = await asyncio.gather(*[embed(text) for text in (query, *sentences)])
    likeness = [float(vectors[0] @ vector) for vector in vectors[1:]]
    best = int(np.argmax(likeness))
    return {"sentence": sentences[best], "likeness": round(likeness[best], 2)}
