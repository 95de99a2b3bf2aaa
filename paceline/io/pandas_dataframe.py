"""PandasDataFrame: a table, as JSON, CSV or Parquet."""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import orjson

from paceline.io import json_text
from paceline.io.descriptor import Descriptor, MediaTypes
from paceline.io.json import described
from paceline.io.payload import Encoded, Payload, accepted_type, preferred_type, text_of
from paceline.protocol.errors import InvalidInput, ModelError, StartError

if TYPE_CHECKING:
    import pandas

_JSON, _CSV, _PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"

Orient: TypeAlias = Literal["records", "columns"]


class PandasDataFrame(Descriptor):
    """A `pandas.DataFrame` in and out (extra `pandas`): `application/json`, `text/csv`, and
    `application/vnd.apache.parquet` where pyarrow is installed. Output is in the first of these that the request's
    `Accept` names, else JSON.

    - JSON in: a list of objects (records), or an object of lists (columns). JSON out: `orient`; missing values are
      null.
    - `columns`: the names that have to be there, all and no others; the function gets them in this order.
    - `dtype`: of all columns, or by name.

    Raises InvalidInput for what is no such table, naming the column.

    Example::

        @svc.api(input=PandasDataFrame(columns=["age", "fare"], dtype="float32"), output=PandasDataFrame())
        def predict(frame: pd.DataFrame) -> pd.DataFrame: ...
    """

    def __init__(
        self,
        *,
        columns: Sequence[str] | None = None,
        dtype: str | Mapping[str, str] | None = None,
        orient: Orient = "records",
        example: Any = None,
    ) -> None:
        if orient not in ("records", "columns"):
            raise StartError(f'PandasDataFrame(orient={orient!r}), expected "records" or "columns"')
        self._pandas = _pandas()
        self._columns = None if columns is None else list(columns)
        self._dtype = dtype
        self._orient: Orient = orient
        self._example = example
        parquet = (_PARQUET,) if importlib.util.find_spec("pyarrow") else ()
        self._types = (_JSON, _CSV, *parquet)

    @classmethod
    def from_sample(cls, sample: pandas.DataFrame) -> PandasDataFrame:
        """The columns of `sample` with their dtypes, and its first rows as the documentation's example."""
        dtypes = {str(name): str(dtype) for name, dtype in sample.dtypes.items()}
        return cls(
            columns=[str(name) for name in sample.columns], dtype=dtypes, example=sample.head(3).to_dict("records")
        )

    async def decode(self, payload: Payload) -> pandas.DataFrame:
        kind = accepted_type(payload, (*json_text.JSON_TYPES, *self._types[1:]))
        if kind == _CSV:
            frame = self._of_csv(payload)
        elif kind == _PARQUET:
            frame = self._of_parquet(payload)
        else:
            frame = self._of_json(json_text.loads(payload), payload.where)
        return self._checked(frame, payload.where)

    def _of_json(self, value: Any, where: str) -> pandas.DataFrame:
        records = isinstance(value, list) and all(isinstance(row, dict) for row in value)
        columns = isinstance(value, dict) and all(isinstance(column, list) for column in value.values())
        if not (records or columns):
            raise InvalidInput(
                f"{where} is no table; expected a list of objects (rows), or an object of lists (columns)"
            )
        try:
            frame: pandas.DataFrame = self._pandas.DataFrame(value)
        except ValueError as error:
            raise InvalidInput(f"{where} is no table: {error}") from error
        return frame

    def _of_csv(self, payload: Payload) -> pandas.DataFrame:
        try:
            frame: pandas.DataFrame = self._pandas.read_csv(io.StringIO(text_of(payload)))
        except ValueError as error:  # pandas' ParserError and EmptyDataError are such
            raise InvalidInput(f"{payload.where} is not CSV: {error}") from error
        return frame

    def _of_parquet(self, payload: Payload) -> pandas.DataFrame:
        try:
            frame: pandas.DataFrame = self._pandas.read_parquet(io.BytesIO(payload.data))
        except Exception as error:  # whatever the reader raises, it is about these bytes
            raise InvalidInput(f"{payload.where} is not a Parquet file: {str(error)[:200]}") from error
        return frame

    def _checked(self, frame: pandas.DataFrame, where: str) -> pandas.DataFrame:
        if self._columns is not None:
            missing = [name for name in self._columns if name not in frame.columns]
            unknown = [str(name) for name in frame.columns if name not in self._columns]
            if missing or unknown:
                faults = [f"lacks the column {name!r}" for name in missing] + [f"has {name!r}" for name in unknown]
                raise InvalidInput(f"{where} {', '.join(faults[:5])}; expected the columns {', '.join(self._columns)}")
            frame = frame[self._columns]
        for name, dtype in self._dtypes(frame).items():
            try:
                frame = frame.astype({name: dtype})
            except (ValueError, TypeError) as error:
                raise InvalidInput(f"{where}: the column {name!r} cannot be read as {dtype}: {error}") from error
        return frame

    def _dtypes(self, frame: pandas.DataFrame) -> Mapping[str, str]:
        if isinstance(self._dtype, str):
            return dict.fromkeys(frame.columns, self._dtype)
        return self._dtype or {}

    def encode(self, value: Any, accept: str = "") -> Encoded:
        if not isinstance(value, self._pandas.DataFrame):
            raise ModelError(f"the result is a {type(value).__name__}, expected a pandas.DataFrame")
        kind = preferred_type(accept, self._types)
        if kind == _CSV:
            return Encoded(value.to_csv(index=False).encode(), f"{_CSV}; charset=utf-8")
        if kind == _PARQUET:
            return Encoded(value.to_parquet(index=False), _PARQUET)
        if self._orient == "records":
            return Encoded(value.to_json(orient="records").encode(), _JSON)
        columns = {str(name): orjson.Fragment(value[name].to_json(orient="values")) for name in value.columns}
        return Encoded(orjson.dumps(columns), _JSON)

    def schema(self) -> MediaTypes:
        names = self._columns or []
        row: dict[str, Any] = {"type": "object", "properties": {name: {} for name in names}, "required": names}
        types: MediaTypes = {kind: {"schema": {"type": "string", "contentMediaType": kind}} for kind in self._types[1:]}
        return {_JSON: described({"type": "array", "items": row}, self._example), **types}


def _pandas() -> Any:
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise StartError("PandasDataFrame() needs pandas: pip install 'paceline[pandas]'") from error
