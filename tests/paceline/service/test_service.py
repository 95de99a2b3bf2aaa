"""A service as a whole: names, routes, mounts, middleware, hooks, documentation."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import subprocess
import sys
from typing import Any

import pydantic
import pytest
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import paceline
from paceline.io import JSON, File, Image, Multipart, NumpyNdarray, Text
from paceline.protocol.errors import StartError
from paceline.protocol.service_app import ServiceApp, ServicePlan
from paceline.service import Service
from tests.paceline.service.asking import ask, error_of


async def ping() -> int:
    """Says one.

    And no more than that.
    """
    return 1


def service_of(*routes: str) -> Service:
    service = Service(name="s")
    for number, route in enumerate(routes):
        service.api(route=route, name=f"api_{number}")(ping)
    return service


def test_a_service_is_what_servers_expect() -> None:
    service: ServiceApp = Service(name="test_service")
    assert service.plan() == ServicePlan("test_service", (), ("/docs", "/docs.json"))
    assert paceline.Service is Service


def test_the_plan_lists_every_route() -> None:
    service = service_of("/a", "b/c")
    service.mount_asgi_app(Starlette(), path="/web")
    assert service.plan().routes == ("/a", "/b/c", "/web", "/docs", "/docs.json")


def test_an_api_answers_at_its_functions_name_or_its_route() -> None:
    service = Service(name="s")
    assert service.api(ping) is ping
    service.api(route="v1/ping", name="other")(ping)
    assert ask(service, "/ping").json() == ask(service, "/v1/ping/").json() == 1
    assert set(service.apis) == {"ping", "other"}


@pytest.mark.parametrize("route", ["/v2", "/v2/models/x", "/metrics", "/docs", "/docs.json", "metrics/", "/a"])
def test_a_route_that_is_taken_is_an_error_at_load(route: str) -> None:
    service = service_of("/a")
    with pytest.raises(StartError, match=re.escape(f"/{route.strip('/')}")):
        service.api(route=route, name="new")(ping)
    with pytest.raises(StartError, match=re.escape(f"/{route.strip('/')}")):
        service.mount_asgi_app(Starlette(), path=route)


def test_an_api_at_the_path_of_a_mount_is_an_error_at_load() -> None:
    service = Service(name="s")
    service.mount_asgi_app(Starlette(), path="/ping")
    with pytest.raises(StartError, match="/ping"):
        service.api(ping)


def test_routes_that_only_look_reserved_are_free() -> None:
    service = service_of("/v2x", "/metrics2", "/docs2", "/api/v2")
    assert ask(service, "/v2x").json() == 1


@pytest.mark.parametrize("route", ["/a b", "/{id}", "/a?b", "/ü", "/../x", "//"])
def test_a_route_that_is_no_path_is_an_error_at_load(route: str) -> None:
    if route == "//":
        assert ask(service_of(route), "/").json() == 1
        return
    with pytest.raises(StartError, match="is no path"):
        service_of(route)


def test_two_apis_of_one_name_are_an_error_at_load() -> None:
    service = Service(name="s")
    service.api(ping)
    with pytest.raises(StartError, match="two APIs named 'ping'"):
        service.api(route="/other")(ping)


@pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 129, None])
def test_a_service_without_a_usable_name_is_an_error(name: Any) -> None:
    with pytest.raises(StartError, match="service name"):
        Service(name=name)


def test_no_threads_are_an_error() -> None:
    with pytest.raises(StartError, match="threads"):
        Service(name="s", threads=0)


def test_a_path_that_is_not_there_names_the_nearest() -> None:
    service = service_of("/predict")
    response = ask(service, "/predikt", headers={"x-request-id": "r"})
    assert error_of(response) == (404, "path_not_found", 'no such path: /predikt. Did you mean "/predict"?')
    assert response.json()["request_id"] == "r"
    assert error_of(ask(service, "/zzz", headers={"x-request-id": "a b"}))[:2] == (400, "invalid_parameter")


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("GET", "/a", "POST"), ("PUT", "/a", "POST"), ("POST", "/docs", "GET, HEAD")]
)
def test_another_method_is_405_and_says_which(method: str, path: str, allow: str) -> None:
    response = ask(service_of("/a"), path, method=method)
    assert error_of(response)[:2] == (405, "method_not_allowed")
    assert response.headers["allow"] == allow


def test_a_mounted_application_gets_what_no_api_takes() -> None:
    async def show(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{request.method} {request.scope['root_path']} {request.url.path}")

    inner = Starlette(routes=[Route("/x", show, methods=["GET", "POST"])])
    service = service_of("/web/a")
    service.mount_asgi_app(inner, path="/web")
    service.mount_asgi_app(Starlette(routes=[Route("/y", show)]))
    assert ask(service, "/web/x").text == "POST /web /web/x"
    assert ask(service, "/y", method="GET").text == "GET  /y"
    assert ask(service, "/web/a").json() == 1
    assert ask(service, "/docs.json", method="GET").status_code == 200


def test_middleware_goes_around_every_route_the_first_one_outermost() -> None:
    order = []

    class Noting:
        def __init__(self, app: Any, name: str) -> None:
            self._app, self._name = app, name

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            order.append(self._name)
            await self._app(scope, receive, send)

    service = service_of("/a")
    service.add_asgi_middleware(Noting, name="outer")
    service.add_asgi_middleware(Noting, name="inner")
    for path in ("/a", "/nowhere"):
        ask(service, path)
    assert order == ["outer", "inner"] * 2


def test_middleware_that_changes_headers_does_so_once_per_request() -> None:
    service = service_of("/a")
    service.add_asgi_middleware(CORSMiddleware, allow_origins=["http://x"])
    for path, method in (("/docs.json", "GET"), ("/docs", "GET"), ("/a", "POST")) * 2:
        response = ask(service, path, method=method, headers={"origin": "http://x"})
        assert response.headers.get_list("access-control-allow-origin") == ["http://x"]


def test_hooks_run_in_order_and_share_the_state_with_the_apis() -> None:
    service = Service(name="s")
    order = []

    @service.on_startup
    async def first(ctx: paceline.Context) -> None:
        ctx.state["count"] = 1
        order.append("first")

    @service.on_startup
    def second() -> None:
        order.append("second")

    @service.on_shutdown
    def failing() -> None:
        order.append("failing")
        raise ValueError

    @service.on_shutdown
    async def last(ctx: paceline.Context) -> None:
        order.append(f"last {ctx.state['count']}")

    @service.api
    async def count(ctx: paceline.Context) -> int:
        ctx.state["count"] += 1
        return int(ctx.state["count"])

    asyncio.run(service.startup())
    assert ask(service, "/count").json() == 2
    asyncio.run(service.shutdown())
    assert order == ["first", "second", "last 2", "failing"]


def test_a_startup_hook_that_raises_ends_the_start() -> None:
    service = Service(name="s")

    @service.on_startup
    async def broken() -> None:
        raise ValueError("no database")

    with pytest.raises(ValueError, match="no database"):
        asyncio.run(service.startup())


def test_a_hook_has_no_request() -> None:
    with pytest.raises(RuntimeError, match="no request"):
        _ = paceline.Context({}).request


class Inner(pydantic.BaseModel):
    width: float


class Outer(pydantic.BaseModel):
    inner: Inner


def described_service() -> Service:
    service = Service(name="described")
    service.api(ping)

    @service.api(input=NumpyNdarray.from_sample([[1.0, 2.0]]), output=JSON(model=Outer), doc="Short.\n\nLong.")
    async def predict(x: Any) -> Any: ...

    @service.api(
        input=Multipart(image=Image(), outer=JSON(model=Outer), note=Text()), output=File(mime_types=["audio/wav"])
    )
    async def detect(image: Any, outer: Any, note: str) -> Any: ...

    @service.api
    async def scale(x: list[float], factor: float = 1.0) -> str:
        return str(x)

    return service


def references(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(references, node))
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
    return own.union(*map(references, node.values()))


def test_openapi_says_what_every_api_takes_and_gives() -> None:
    response = ask(described_service(), "/docs.json", method="GET")
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert (document["openapi"], document["info"]["title"]) == ("3.1.0", "described")
    posts = {path: item["post"] for path, item in document["paths"].items()}
    assert list(posts) == ["/ping", "/predict", "/detect", "/scale"]
    assert (posts["/ping"]["summary"], posts["/ping"]["description"]) == ("Says one.", "And no more than that.")
    assert "requestBody" not in posts["/ping"]
    assert posts["/predict"]["requestBody"]["content"]["application/json"]["example"] == [[1.0, 2.0]]
    assert "application/x-npy" in posts["/predict"]["requestBody"]["content"]
    form = posts["/detect"]["requestBody"]["content"]["multipart/form-data"]
    assert form["schema"]["required"] == ["image", "outer", "note"]
    assert form["encoding"]["image"]["contentType"].startswith("image/jpeg, image/png")
    assert list(posts["/detect"]["responses"]["200"]["content"]) == ["audio/wav"]
    assert posts["/scale"]["requestBody"]["content"]["application/json"]["schema"]["required"] == ["x"]
    assert set(posts["/scale"]["responses"]) == {"200", "400", "413", "415", "422", "429", "500", "503", "504"}


def test_every_reference_in_openapi_leads_somewhere() -> None:
    document = described_service().openapi()
    found = references(document)
    assert found == {"#/components/schemas/Error", "#/components/schemas/Inner"}
    for reference in found:
        assert reference.rpartition("/")[2] in document["components"]["schemas"]


def test_two_models_of_one_name_stay_two() -> None:
    def model(field: str) -> Any:
        inner = pydantic.create_model("Inner", **{field: (int, ...)})  # type: ignore[call-overload]
        return pydantic.create_model("Holder", inner=(inner, ...))

    service = Service(name="s")
    for name in ("a", "b", "a"):
        service.api(input=JSON(model=model(name)), output=JSON(), name=f"api_{len(service.apis)}")(lambda value: value)
    document = service.openapi()
    schemas = document["components"]["schemas"]
    assert {name: list(schemas[name]["properties"]) for name in ("Inner", "Inner_2")} == {
        "Inner": ["a"],
        "Inner_2": ["b"],
    }
    used = [references(item["post"]["requestBody"]) for item in document["paths"].values()]
    prefix = "#/components/schemas/"
    assert used == [{prefix + "Inner"}, {prefix + "Inner_2"}, {prefix + "Inner"}]


def test_the_docs_page_needs_nothing_from_elsewhere_and_its_policy_admits_it() -> None:
    response = ask(service_of("/a"), "/docs", method="GET")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    page, policy = response.text, response.headers["content-security-policy"]
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", page)
    assert "default-src 'none'" in policy
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert not re.search(r"\son\w+=|\sstyle=|javascript:|innerHTML|document\.write", page)
    assert "unsafe" not in policy


def test_the_document_is_plain_json_even_with_arrays_as_examples() -> None:
    assert json.loads(json.dumps(described_service().openapi()))


def test_importing_paceline_loads_nothing_of_services_and_a_service_no_torch() -> None:
    code = (
        "import sys, paceline; assert not {'starlette', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "svc = paceline.Service(name='s'); paceline.io.JSON; paceline.Context\n"
        "@svc.api\n"
        "async def f(x: dict) -> dict: return x\n"
        "svc.plan(); svc.asgi()\n"
        "assert not {'torch', 'PIL', 'pandas', 'pydantic'} & set(sys.modules), sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
