"""One image in as JSON, the scores of its ten classes out. Requests that come together share a batch."""

import paceline
from paceline.io import JSON, JSONSerializable

runner = paceline.pytorch.get("cifar_net").to_runner()

svc = paceline.Service(name="cifar", runners=[runner])


@svc.api(input=JSON(), output=JSON())
async def predict(json_obj: JSONSerializable) -> JSONSerializable:
    batch_ret = await runner.async_run([json_obj])  # a batch of one
    return batch_ret[0]
