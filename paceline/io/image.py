"""Image: a Pillow image. Its size is known, and bounded, before a pixel is decoded."""

from __future__ import annotations

import asyncio
import importlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paceline.io.descriptor import Descriptor, MediaTypes
from paceline.io.payload import Encoded, Payload, accepted_type, preferred_type
from paceline.protocol import limits
from paceline.protocol.errors import InvalidInput, ModelError, StartError, TooLarge

if TYPE_CHECKING:
    import PIL.Image

# Pillow knows many more, some of which start other programs (EPS) or are rarely tested with hostile bytes.
_FORMATS = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
}
_DEFAULT_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp")


class Image(Descriptor):
    """A `PIL.Image.Image` in and out (extra `image`).

    - `mime_types`: what is taken (of image/jpeg, png, webp, gif, bmp, tiff); others are refused with 415. What the
      bytes are is looked up in the bytes, and has to be one of these as well (400).
    - `pixels_max`: larger images are refused with 413, before they are decoded.
    - `mode`: converts to it ("RGB", "L"); None leaves the image as it is. Of an animation the function gets the first
      frame; an EXIF rotation is the function's to apply (`PIL.ImageOps.exif_transpose`).
    - `output_type`: of results; another one of `mime_types` if the request's `Accept` names it.

    Results may be numpy arrays of bytes, too.

    Example::

        @svc.api(input=Image(mode="RGB"), output=JSON())
        async def classify(image: PIL.Image.Image) -> dict: ...
    """

    def __init__(
        self,
        *,
        mime_types: Sequence[str] = _DEFAULT_TYPES,
        pixels_max: int = limits.IMAGE_PIXELS_MAX,
        mode: str | None = None,
        output_type: str = "image/png",
    ) -> None:
        unknown = [kind for kind in (*mime_types, output_type) if kind not in _FORMATS]
        if unknown or isinstance(mime_types, str) or not mime_types:
            raise StartError(f"Image() takes {', '.join(_FORMATS)}, got {unknown or mime_types!r}")
        self._pillow = _pillow()
        self._mime_types = tuple(mime_types)
        self._formats = [_FORMATS[kind] for kind in mime_types]
        self._pixels_max = pixels_max
        self._mode = mode
        self._output_types = (output_type, *[kind for kind in mime_types if kind != output_type])

    @classmethod
    def from_sample(cls, sample: PIL.Image.Image | str) -> Image:
        """Takes images of the sample's format and mode. `sample`: an image, or the path of one."""
        image = _pillow().open(sample) if isinstance(sample, str) else sample
        kinds = [kind for kind, name in _FORMATS.items() if name == image.format]
        return cls(mime_types=kinds or _DEFAULT_TYPES, mode=image.mode, output_type=kinds[0] if kinds else "image/png")

    async def decode(self, payload: Payload) -> PIL.Image.Image:
        accepted_type(payload, self._mime_types)
        image = self._opened(payload)
        # Decoding takes as long as a model; the loop has others to serve meanwhile.
        return await asyncio.get_running_loop().run_in_executor(None, self._loaded, image, payload.where)

    def _opened(self, payload: Payload) -> PIL.Image.Image:
        """The image with its head read, and no pixel."""
        try:
            image = self._pillow.open(io.BytesIO(payload.data), formats=self._formats)
        except self._pillow.DecompressionBombError as error:
            raise TooLarge(
                f"{payload.where} is an image of too many pixels, expected at most {self._pixels_max}"
            ) from error
        except Exception as error:  # whatever a decoder raises, it is about these bytes
            raise InvalidInput(
                f"{payload.where} is not an image of {', '.join(self._mime_types)} ({len(payload.data)} bytes)"
            ) from error
        width, height = image.size
        if width * height > self._pixels_max:
            raise TooLarge(
                f"{payload.where} is an image of {width} x {height} pixels, expected at most {self._pixels_max} in all"
            )
        opened: PIL.Image.Image = image
        return opened

    def _loaded(self, image: PIL.Image.Image, where: str) -> PIL.Image.Image:
        try:
            image.load()
            return image if self._mode is None or image.mode == self._mode else image.convert(self._mode)
        except Exception as error:  # as above
            raise InvalidInput(f"{where} is a broken {image.format} image: {error}") from error

    def encode(self, value: Any, accept: str = "") -> Encoded:
        if hasattr(value, "__array_interface__") and not isinstance(value, self._pillow.Image):
            try:
                value = self._pillow.fromarray(value)
            except (TypeError, ValueError) as error:
                raise ModelError(f"the result is an array that is no image: {error}") from error
        if not isinstance(value, self._pillow.Image):
            raise ModelError(f"the result is a {type(value).__name__}, expected a PIL.Image.Image or an array of uint8")
        kind = preferred_type(accept, self._output_types)
        stream = io.BytesIO()
        # JPEG has neither transparency nor palettes.
        fitting = value.convert("RGB") if kind == "image/jpeg" and value.mode not in ("RGB", "L", "CMYK") else value
        fitting.save(stream, _FORMATS[kind])
        return Encoded(stream.getvalue(), kind)

    def schema(self) -> MediaTypes:
        return {kind: {"schema": {"type": "string", "contentMediaType": kind}} for kind in self._mime_types}


def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise StartError("Image() needs Pillow: pip install 'paceline[image]'") from error
