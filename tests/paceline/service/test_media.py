"""Text, Image, File, PandasDataFrame, Multipart."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from paceline.io import JSON, File, Image, Multipart, NumpyNdarray, PandasDataFrame, Text, UploadedFile
from paceline.protocol import limits
from paceline.protocol.errors import StartError
from paceline.service import Service
from tests.paceline.service.asking import ask, echo_service, error_of


def picture(kind: str = "PNG", size: tuple[int, int] = (4, 3), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    PIL.Image.new(mode, size).save(stream, kind)
    return stream.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is huge."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_text_arrives_and_returns_as_utf8() -> None:
    service, got = echo_service(Text())
    response = ask(service, "/echo", content="grüße".encode(), headers={"content-type": "text/plain; charset=utf-8"})
    assert (response.text, got) == ("grüße", ["grüße"])
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


def test_text_that_is_not_utf8_is_a_400_that_says_where() -> None:
    service, _ = echo_service(Text())
    text = "the body is not UTF-8: byte 0xfc at 2 is invalid; encode the text as UTF-8"
    assert error_of(ask(service, "/echo", content="grüße".encode("latin-1"))) == (400, "invalid_input", text)


@pytest.mark.parametrize("kind", ["application/json", "text/plain; charset=latin-1"])
def test_text_of_another_type_or_charset_is_415(kind: str) -> None:
    service, _ = echo_service(Text())
    assert error_of(ask(service, "/echo", content=b"x", headers={"content-type": kind}))[0] == 415


def test_a_result_that_is_no_text_is_an_error() -> None:
    service, _ = echo_service(JSON(), Text())
    assert error_of(ask(service, "/echo", json=1)) == (500, "model_error", "the result is a int, expected text")


def test_an_image_arrives_decoded_and_in_the_mode_asked_for() -> None:
    service, got = echo_service(Image(mode="L"))
    response = ask(service, "/echo", content=picture("JPEG"), headers={"content-type": "image/jpeg"})
    assert (got[0].size, got[0].mode) == ((4, 3), "L")
    assert response.headers["content-type"] == "image/png"
    assert PIL.Image.open(io.BytesIO(response.content)).size == (4, 3)


def test_an_image_of_another_content_type_is_415() -> None:
    service, got = echo_service(Image(mime_types=["image/png"]))
    response = ask(service, "/echo", content=picture("JPEG"), headers={"content-type": "image/jpeg"})
    text = 'the body has the content type "image/jpeg", expected image/png; '
    assert error_of(response)[:2] == (415, "unsupported_media_type")
    assert error_of(response)[2].startswith(text)
    assert got == []


@pytest.mark.parametrize("body", [b"", b"text", picture("JPEG"), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_bytes_that_are_no_image_of_the_types_are_a_400(body: bytes) -> None:
    service, got = echo_service(Image(mime_types=["image/png"]))
    status, code, text = error_of(ask(service, "/echo", content=body, headers={"content-type": "image/png"}))
    assert (status, code, got) == (400, "invalid_input", [])
    assert "not an image of image/png" in text


def test_a_cut_off_image_is_a_400() -> None:
    service, _ = echo_service(Image())
    body = picture(size=(64, 64))[:-40]
    status, code, text = error_of(ask(service, "/echo", content=body, headers={"content-type": "image/png"}))
    assert (status, code) == (400, "invalid_input")
    assert text.startswith("the body is ")


def test_a_huge_image_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: Any) -> None:
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr(PIL.Image.Image, "load", decoded)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", decoded)
    service, _ = echo_service(Image())
    response = ask(service, "/echo", content=bomb(8000, 8000), headers={"content-type": "image/png"})
    text = f"the body is an image of 8000 x 8000 pixels, expected at most {limits.IMAGE_PIXELS_MAX} in all"
    assert error_of(response) == (413, "too_large", text)


def test_an_image_that_pillow_itself_calls_a_bomb_is_too_large() -> None:
    service, _ = echo_service(Image())
    response = ask(service, "/echo", content=bomb(60_000, 60_000), headers={"content-type": "image/png"})
    assert error_of(response)[:2] == (413, "too_large")


def test_the_pixel_cap_is_a_parameter_and_its_own_size_passes() -> None:
    service, _ = echo_service(Image(pixels_max=12))
    assert ask(service, "/echo", content=picture(size=(4, 3))).status_code == 200
    assert error_of(ask(service, "/echo", content=picture(size=(13, 1))))[:2] == (413, "too_large")


def test_an_image_goes_out_as_the_type_that_is_accepted() -> None:
    service, _ = echo_service(Image())
    response = ask(service, "/echo", content=picture(mode="RGBA"), headers={"accept": "image/jpeg"})
    assert (response.headers["content-type"], response.content[:2]) == ("image/jpeg", b"\xff\xd8")


@pytest.mark.parametrize(
    ("result", "status"), [(np.zeros((2, 2, 3), np.uint8), 200), (np.zeros((2, 2, 9)), 500), (1, 500)]
)
def test_arrays_of_bytes_are_images_and_other_things_are_not(result: Any, status: int) -> None:
    service = Service(name="s")

    @service.api(output=Image())
    async def draw() -> Any:
        return result

    assert ask(service, "/draw").status_code == status


@pytest.mark.parametrize(
    "options", [{"mime_types": ["image/svg+xml"]}, {"mime_types": "image/png"}, {"output_type": "x"}]
)
def test_image_types_that_are_not_read_are_errors_at_load(options: dict[str, Any]) -> None:
    with pytest.raises(StartError):
        Image(**options)


def test_an_image_sample_says_type_and_mode() -> None:
    service, got = echo_service(Image.from_sample(PIL.Image.open(io.BytesIO(picture("JPEG", mode="L")))))
    assert ask(service, "/echo", content=picture("JPEG"), headers={"content-type": "image/jpeg"}).status_code == 200
    assert got[0].mode == "L"
    assert ask(service, "/echo", content=picture(), headers={"content-type": "image/png"}).status_code == 415


def test_a_file_arrives_with_its_bytes_and_type() -> None:
    service, got = echo_service(File(mime_types=["audio/*"]))
    response = ask(service, "/echo", content=b"RIFF", headers={"content-type": "audio/wav"})
    assert isinstance(got[0], UploadedFile)
    assert (got[0].content_type, response.content, response.headers["content-type"]) == (
        "audio/wav",
        b"RIFF",
        "audio/wav",
    )
    assert ask(service, "/echo", content=b"x", headers={"content-type": "video/mp4"}).status_code == 415


def test_a_path_is_sent_as_its_file(tmp_path: Path) -> None:
    (tmp_path / "ü.csv").write_text("a\n1\n")
    service = Service(name="s")

    @service.api
    def report() -> Path:
        return tmp_path / "ü.csv"

    response = ask(service, "/report")
    assert (response.content, response.headers["content-type"]) == (b"a\n1\n", "text/csv; charset=utf-8")
    assert response.headers["content-disposition"] == "attachment; filename=\"_.csv\"; filename*=UTF-8''%C3%BC.csv"


def test_a_path_that_is_no_file_is_an_error(tmp_path: Path) -> None:
    service = Service(name="s")

    @service.api
    def report() -> Path:
        return tmp_path / "gone.csv"

    assert error_of(ask(service, "/report")) == (
        500,
        "model_error",
        "the result is the path of 'gone.csv', which is no file",
    )


@pytest.mark.parametrize(
    ("result", "body"), [(b"ab", b"ab"), (io.BytesIO(b"ab"), b"ab"), (bytearray(b"ab"), b"ab"), ("ab", None)]
)
def test_files_go_out_from_bytes_and_open_files(result: Any, body: bytes | None) -> None:
    service = Service(name="s")

    @service.api(output=File())
    async def give() -> Any:
        return result

    response = ask(service, "/give")
    assert response.content == body if body is not None else error_of(response)[:2] == (500, "model_error")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'[{"a": 1, "b": 2.5}, {"a": 3, "b": 4}]', "application/json"),
        (b'{"a": [1, 3], "b": [2.5, 4]}', "application/json"),
        (b"b,a\n2.5,1\n4,3\n", "text/csv"),
    ],
)
def test_a_table_is_read_from_rows_columns_and_csv(body: bytes, kind: str) -> None:
    service, got = echo_service(PandasDataFrame(columns=["a", "b"], dtype="float32"))
    response = ask(service, "/echo", content=body, headers={"content-type": kind})
    assert response.json() == [{"a": 1.0, "b": 2.5}, {"a": 3.0, "b": 4.0}]
    assert (list(got[0].columns), [str(dtype) for dtype in got[0].dtypes]) == (["a", "b"], ["float32", "float32"])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'[{"a": 1}]', "the body lacks the column 'b'; expected the columns a, b"),
        (b'[{"a": 1, "b": 2, "c": 3}]', "the body has 'c'; expected the columns a, b"),
        (b'[{"a": 1, "b": "x"}]', "the body: the column 'b' cannot be read as float32: "),
        (b"[1, 2]", "the body is no table; "),
        (b'{"a": [1], "b": [1, 2]}', "the body is no table: "),
        (b'{"a": 1}', "the body is no table; "),
    ],
)
def test_what_is_no_such_table_names_the_column(body: bytes, text: str) -> None:
    service, _ = echo_service(PandasDataFrame(columns=["a", "b"], dtype={"b": "float32"}))
    status, code, found = error_of(ask(service, "/echo", content=body))
    assert (status, code) == (400, "invalid_input")
    assert found.startswith(text)


def test_an_empty_csv_is_a_400() -> None:
    service, _ = echo_service(PandasDataFrame())
    response = ask(service, "/echo", content=b"", headers={"content-type": "text/csv"})
    assert error_of(response)[:2] == (400, "invalid_input")


def test_a_table_goes_out_as_it_is_asked_for() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan]})
    service = Service(name="s")

    @service.api(output=PandasDataFrame(orient="columns"))
    async def columns() -> Any:
        return frame

    @service.api
    async def rows() -> pd.DataFrame:
        return frame

    assert ask(service, "/columns").json() == {"a": [1, 2], "b": [0.5, None]}
    assert ask(service, "/rows").json() == [{"a": 1, "b": 0.5}, {"a": 2, "b": None}]
    assert ask(service, "/rows", headers={"accept": "text/csv"}).text == "a,b\n1,0.5\n2,\n"


def test_parquet_is_read_where_pyarrow_is_there() -> None:
    service, _ = echo_service(PandasDataFrame())
    kind = {"content-type": "application/vnd.apache.parquet"}
    expected = 400 if importlib.util.find_spec("pyarrow") else 415
    assert ask(service, "/echo", content=b"no parquet", headers=kind).status_code == expected


def test_a_table_sample_says_columns_and_dtypes() -> None:
    descriptor = PandasDataFrame.from_sample(pd.DataFrame({"a": [1], "b": [0.5]}))
    assert descriptor.schema()["application/json"]["example"] == [{"a": 1, "b": 0.5}]
    service, _ = echo_service(descriptor)
    assert ask(service, "/echo", json=[{"a": 2, "b": 1}]).json() == [{"a": 2, "b": 1.0}]


def form_service() -> tuple[Service, list[Any]]:
    service, got = Service(name="s"), []

    @service.api(
        input=Multipart(image=Image(), options=JSON(model=dict[str, int]), x=NumpyNdarray(dtype="float32")),
        output=JSON(),
    )
    async def detect(image: PIL.Image.Image, options: dict[str, int], x: Any) -> Any:
        got.append((image.size, options, x.tolist()))
        return "ok"

    return service, got


def form(**changes: Any) -> dict[str, Any]:
    parts = {
        "image": ("a.png", picture(), "image/png"),
        "options": (None, b'{"a": 1}', "application/json"),
        "x": (None, b"[1, 2]"),
    }
    return {name: part for name, part in {**parts, **changes}.items() if part is not None}


def test_a_form_gives_the_function_its_fields_by_name() -> None:
    service, got = form_service()
    assert ask(service, "/detect", files=form()).json() == "ok"
    assert got == [((4, 3), {"a": 1}, [1.0, 2.0])]


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"image": None}, 400, 'field "image" is missing; expected a form of image, options, x'),
        ({"imge": ("a", b"")}, 400, 'field "imge" is unknown. Did you mean "image"? Known fields: image, options, x'),
        ({"options": (None, b"{")}, 400, 'field "options" is not JSON: '),
        ({"options": (None, b'{"a": "b"}')}, 400, 'field "options.a" is "b", expected an integer'),
        ({"image": ("a.txt", b"x", "text/plain")}, 415, 'field "image" has the content type "text/plain"'),
        ({"image": ("a.png", b"x", "image/png")}, 400, 'field "image" is not an image of'),
        ({"image": ("a.png", bomb(9000, 9000), "image/png")}, 413, 'field "image" is an image of 9000 x 9000 pixels'),
        ({"x": (None, b'["a"]')}, 400, 'field "x" is not an array of numbers: it holds text'),
    ],
)
def test_a_wrong_field_of_a_form_is_named(changes: dict[str, Any], status: int, text: str) -> None:
    service, got = form_service()
    found = error_of(ask(service, "/detect", files=form(**changes)))
    assert found[0] == status
    assert found[2].startswith(text)
    assert got == []


def test_a_file_of_unknown_kind_is_looked_into() -> None:
    service, _ = form_service()
    unknown = ("blob", picture(), "application/octet-stream")
    assert ask(service, "/detect", files=form(image=unknown)).status_code == 200


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"", 400),
        ("multipart/form-data; boundary=b", b"", 400),
        ("multipart/form-data; boundary=b", b"garbage", 400),
        ("multipart/form-data; boundary=b", b'--b\r\ncontent-disposition: form-data; name="x"\r\n\r\n[1]', 400),
        ("multipart/form-data; boundary=b", b"--b\r\ncontent-disposition: form-data\r\n\r\n[1]\r\n--b--\r\n", 400),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="\xff"\r\n\r\n1\r\n--b--\r\n',
            400,
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="x"\r\n\r\n1\r\n' * 2 + b"--b--\r\n",
            400,
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="x"\r\n\r\n1\r\n' * 65 + b"--b--\r\n",
            413,
        ),
        ("multipart/form-data; boundary=b", b"--b\r\nx: " + b"y" * 5000 + b"\r\n\r\n1\r\n--b--\r\n", 400),
        ("", b"--b--", 400),
    ],
)
def test_what_is_no_form_is_refused(kind: str, body: bytes, status: int) -> None:
    service, got = form_service()
    response = ask(service, "/detect", content=body, headers={"content-type": kind} if kind else {})
    assert (error_of(response)[0], got) == (status, [])


def test_a_form_goes_out_and_can_be_read_again() -> None:
    fields = {"text": Text(), "file": File(), "data": JSON()}
    service = Service(name="s")

    @service.api(output=Multipart(**fields))
    async def give() -> Any:
        return {"text": "a", "file": UploadedFile(b"\r\n--x", "f.bin", "audio/wav"), "data": [1]}

    @service.api(input=Multipart(**fields), output=JSON())
    async def take(text: str, file: UploadedFile, data: Any) -> Any:
        return [text, file.name, file.content_type, file.getvalue().decode(), data]

    given = ask(service, "/give")
    taken = ask(service, "/take", content=given.content, headers={"content-type": given.headers["content-type"]})
    assert taken.json() == ["a", "f.bin", "audio/wav", "\r\n--x", [1]]


def test_a_result_without_the_forms_fields_is_an_error() -> None:
    service, _ = echo_service(JSON(), Multipart(a=Text()))
    text = "the result is b, expected a dict of a"
    assert error_of(ask(service, "/echo", json={"b": "x"})) == (500, "model_error", text)


@pytest.mark.parametrize("fields", [{}, {"a": "text"}, {"a": Multipart(b=Text())}])
def test_forms_that_cannot_be_are_errors_at_load(fields: dict[str, Any]) -> None:
    with pytest.raises(StartError):
        Multipart(**fields)
