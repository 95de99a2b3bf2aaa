"""An image in, what is drawn on it out. `Image` has checked and decoded it before a function begins."""

import numpy as np
import PIL.Image

import paceline
from paceline.io import JSON, Image, Multipart

model = paceline.pytorch.get("shapes")
runner = model.to_runner()
labels = model.manifest.metadata["labels"]

svc = paceline.Service(name="shapes", runners=[runner])

picture = Image(mime_types=["image/png", "image/jpeg"], mode="RGB", pixels_max=4_000_000)


@svc.api(input=picture, output=JSON())
async def classify(image: PIL.Image.Image) -> dict:
    """What is drawn on a PNG or JPEG of at most 4 megapixels; the image is the body."""
    pixels = np.asarray(image.resize((32, 32)), np.float32) / 255
    scores = (await runner.async_run(pixels.transpose(2, 0, 1)[None]))[0]
    return {"shape": labels[int(scores.argmax())], "width": image.width, "height": image.height}


@svc.api(input=Multipart(image=picture), output=JSON())
async def upload(image: PIL.Image.Image) -> dict:
    """The same for a form, as browsers send it."""
    return await classify(image)
