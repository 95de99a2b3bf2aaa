"""Scores of some films for one user: two tensors go to the runner, by their names."""

import numpy as np
import numpy.typing as npt

import paceline

model = paceline.pytorch.get("taste")
known = model.manifest.metadata
runner = model.to_runner()

svc = paceline.Service(name="films", runners=[runner])


@svc.api
async def score(user: int, films: list[int]) -> npt.NDArray[np.float32]:
    """How much a user likes each of some films, about 0 to 1."""
    if not 0 <= user < known["users"]:
        raise paceline.InvalidInput(f"user {user} is unknown, expected 0 to {known['users'] - 1}")
    if not films or min(films) < 0 or max(films) >= known["films"]:
        raise paceline.InvalidInput(f"films is {films}, expected one or more of 0 to {known['films'] - 1}")
    return await runner.async_run(user=[user] * len(films), film=films)  # rows pair up, so both are as long
