"""The guide's service.py. Product by product the same file but for the name in its imports and calls."""

from __future__ import annotations

_TEXT = """\
import PRODUCT
from PRODUCT.io import JSON

JSONSerializable = object

runner = PRODUCT.pytorch.get("my_torch_model").to_runner()

svc = PRODUCT.Service(name="test_service", runners=[runner])

@svc.api(input=JSON(), output=JSON())
async def predict(json_obj: JSONSerializable) -> JSONSerializable:
    batch_ret = await runner.async_run([json_obj])
    return batch_ret[0]
"""


def service_text(product: str) -> str:
    """The file for `product`, the name of a package."""
    return _TEXT.replace("PRODUCT", product)
