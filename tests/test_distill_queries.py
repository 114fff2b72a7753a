"""How a target is asked: the cache, an HTTP endpoint on this machine, and the images that are made to be asked."""

from __future__ import annotations

import base64
import io
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kstest
from torch import Tensor

import fastattack as fa
from fastattack.distillation import Augment, Cached, Endpoint, EndpointError, Generate, QueryError, as_png, from_json
from fastattack.distillation import endpoint as endpoint_module
from fastattack.distillation.cached import ranges
from fastattack.distillation.queries import Plan, plan_queries
from fastattack.distillation.store import NAME
from tests.test_distill import Counting, images


def means(x: Tensor) -> Tensor:
    return torch.stack([x.mean((1, 2, 3)), x.amax((1, 2, 3))], 1)


# -- the cache ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [means, lambda x: means(x).argmax(1), lambda x: 2 * x])
def test_answers_come_back_to_the_bit_in_another_process_and_order(answer: Callable[[Tensor], Tensor], tmp_path: Path):
    x = images(30)
    first, second = Counting(answer), Counting(answer)
    whole = Cached(first, tmp_path, batch=7)(x)
    assert torch.equal(whole, answer(x))
    again = Cached(second, tmp_path)
    order = torch.tensor([4, 4, 29, 0])
    assert torch.equal(again(x[order]), whole[order])
    assert (second.calls, again.queries, again.hits) == (0, 0, 4)


def test_an_image_that_comes_twice_is_asked_once() -> None:
    query = Counting(means)
    asked = Cached(query, batch=3)
    x = images(5)[[0, 1, 0, 2, 1, 3, 4, 0]]
    assert torch.equal(asked(x), means(x))
    assert (len(query.asked), query.calls, asked.queries, asked.hits) == (5, 2, 5, 3)


def test_type_and_shape_are_part_of_an_image() -> None:
    query = Counting(means)
    asked = Cached(query)
    asked(torch.zeros(1, 1, 2, 2))
    asked(torch.zeros(1, 1, 4, 1))
    asked(torch.zeros(1, 1, 1, 2, dtype=torch.float64))
    assert len(query.asked) == 3


BROKEN: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "raises": (lambda x: 1 / 0, "ZeroDivisionError: division by zero"),
    "rows": (lambda x: means(x)[:-1], r"ValueError: wanted an answer for each of 4 images, got shape \(3, 2\)"),
    "shape": (
        lambda x: torch.zeros(len(x), 5),
        r"ValueError: wanted answers float32 \(2,\) as before, got float32 \(5,\)",
    ),
    "type": (lambda x: torch.zeros(len(x), 3).long(), r"got int64 \(3,\)"),
    "nan": (lambda x: means(x) / 0 * 0, "ValueError: wanted finite numbers, got NaN or infinity"),
    "none": (lambda x: None, "TypeError: wanted a tensor, an array or nested lists of numbers, got NoneType"),
    "flags": (lambda x: x.mean((1, 2, 3)) > 0, "TypeError: wanted real numbers, got bool"),
    "ragged": (lambda x: [[1.0], [1.0, 2.0]], "TypeError: wanted a tensor, an array or nested lists"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_call_that_fails_now_and_then_is_tried_again(name: str, tmp_path: Path) -> None:
    wrong, message = BROKEN[name]
    flaky = Counting(lambda x: wrong(x) if flaky.calls in (2, 3) else means(x))
    asked = Cached(flaky, batch=4, retries=2)
    assert torch.equal(asked(images(10)), means(images(10)))
    assert (asked.failures, asked.queries, flaky.calls) == (2, 18, 5)

    broken = Counting(lambda x: wrong(x) if broken.calls > 1 else means(x))
    asked = Cached(broken, tmp_path, batch=4, retries=1)
    with pytest.raises(QueryError, match="query: images 4 to 7: no answer after 2 tries: .*" + message) as error:
        asked(images(10))
    assert error.value.rows == (4, 5, 6, 7)
    rest = Counting(means)
    assert torch.equal(Cached(rest, tmp_path)(images(10)), means(images(10)))
    assert len(rest.asked) == 6


def test_pauses_double(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("fastattack.distillation.cached.time.sleep", slept.append)
    with pytest.raises(QueryError, match="after 4 tries"):
        Cached(Counting(means, fails=lambda call: True), retries=3, wait=0.5)(images(2))
    assert slept == [0.5, 1.0, 2.0]


def test_a_limit() -> None:
    query = Counting(means)
    asked = Cached(query, batch=4, limit=6)
    assert torch.equal(asked.ask(images(10)), means(images(6)))
    assert len(asked.ask(images(10))) == 6
    with pytest.raises(QueryError, match="query: images 6 to 9: the limit of 6 images is spent"):
        asked(images(10))
    assert len(query.asked) == 6


def test_a_folder_belongs_to_one_source(tmp_path: Path) -> None:
    Cached(means, tmp_path, source="a model")(images(2))
    assert Cached(means, tmp_path)(images(2)).shape == (2, 2)
    with pytest.raises(ValueError, match=r"cache: .* holds the answers of a model, wanted those of another"):
        Cached(means, tmp_path, source="another")
    with pytest.raises(QueryError, match=r"wanted answers float32 \(2,\) as before, got float32 \(1, 3, 3\)"):
        Cached(lambda x: x, tmp_path)(images(4))


def test_whole_numbers_among_others_are_numbers(tmp_path: Path) -> None:
    query = Counting(lambda x: [[1, 0]] * len(x) if query.calls == 2 else means(x).tolist())
    found = Cached(query, tmp_path, batch=4, retries=0)(images(10))
    assert found.dtype == torch.float32
    assert found[4:8].tolist() == [[1.0, 0.0]] * 4
    assert torch.equal(Cached(means, tmp_path, limit=0)(images(10)), found)


def test_an_endpoint_is_known_by_address_and_encoding(tmp_path: Path) -> None:
    Cached(Endpoint("http://b/"), tmp_path)
    with pytest.raises(ValueError, match=r"holds the answers of http://b/ by as_lists, wanted those of .* by as_png"):
        Cached(Endpoint("http://b/", encode=as_png), tmp_path)


def test_damage_is_noticed(tmp_path: Path) -> None:
    Cached(means, tmp_path)(images(1))
    with sqlite3.connect(tmp_path / NAME) as file:
        (blob,) = file.execute("SELECT answer FROM answers").fetchone()
        file.execute("UPDATE answers SET answer = ?", (bytes([blob[0] ^ 1]) + blob[1:],))
    file.close()
    with pytest.raises(ValueError, match=r"cache: .* is damaged; remove it to ask again"):
        Cached(means, tmp_path)(images(1))
    (tmp_path / NAME).write_bytes(b"something else" * 100)
    with pytest.raises(ValueError, match="is damaged, or no cache of fastattack"):
        Cached(means, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cache: .*file cannot be made"):
        Cached(means, tmp_path / "file")


def test_ranges_read_well() -> None:
    assert ranges([7, 0, 1, 2, 9, 10]) == "0 to 2, 7, 9 to 10"


# -- the endpoint ------------------------------------------------------------------------------------------------------


class Server(HTTPServer):
    """Answers with the means of "instances"; ``script`` says of each request what to do instead."""

    def __init__(self) -> None:
        self.script: Callable[[int], tuple[int, dict[str, str], bytes] | None] = lambda number: None
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/predict"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.headers.append(dict(self.headers))
        status, headers, content = self.server.script(len(self.server.bodies)) or (200, {}, b"")
        if status == 0:
            self.close_connection = True
            return  # hangs up without an answer
        if status == 200 and not content:
            content = json.dumps({"predictions": means(torch.tensor(body["instances"])).tolist()}).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None: ...


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that an endpoint would have made."""
    found: list[float] = []
    monkeypatch.setattr(endpoint_module.time, "sleep", found.append)
    return found


def test_batches_over_http() -> None:
    with serving() as server:
        query = Endpoint(server.url, batch=4, headers={"Authorization": "Bearer x"})
        torch.testing.assert_close(query(images(10)), means(images(10)))
        assert [len(body["instances"]) for body in server.bodies] == [4, 4, 2]
        assert {h["Authorization"] for h in server.headers} == {"Bearer x"}
        assert {h["Content-Type"] for h in server.headers} == {"application/json"}
        assert query.requests == 3


def test_a_server_in_trouble_is_asked_again(slept: list[float]) -> None:
    answers = {1: (503, {}, b""), 2: (0, {}, b""), 4: (429, {"Retry-After": "7"}, b""), 5: (500, {}, b"x")}
    with serving() as server:
        server.script = answers.get
        query = Endpoint(server.url, batch=5)
        torch.testing.assert_close(query(images(10)), means(images(10)))
    assert query.requests == 6
    assert slept == [0.5, 1.0, 7.0, 1.0]


def test_a_server_that_refuses_is_not_asked_again(slept: list[float]) -> None:
    with serving() as server:
        server.script = lambda number: (403, {}, b"no such key\nand more")
        with pytest.raises(EndpointError, match=r"predict: HTTP 403 Forbidden \(no such key\), after 1 request$"):
            Endpoint(server.url)(images(2))
        server.script = lambda number: (302, {"Location": server.url}, b"")
        with pytest.raises(EndpointError, match=r"HTTP 302 Found, after 1 request$"):
            Endpoint(server.url)(images(2))
        server.script = lambda number: (500, {"Retry-After": "3600"}, b"")
        with pytest.raises(EndpointError, match=r"HTTP 500 Internal Server Error, after 3 requests$"):
            Endpoint(server.url, retries=2)(images(2))
    assert slept == [60.0, 60.0]
    with pytest.raises(EndpointError, match=r"refused.*, after 2 requests"):
        Endpoint(server.url, retries=1)(images(2))


def test_no_answer_in_time(slept: list[float]) -> None:
    gate = threading.Event()
    with serving() as server:
        server.script = lambda number: gate.wait(20) and None
        try:
            with pytest.raises(EndpointError, match=r"timed out, after 1 request$"):
                Endpoint(server.url, retries=0, timeout=0.05)(images(2))
        finally:
            gate.set()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "wanted JSON, got b'<html>'"),
        (b'{"error": 3}', "wanted one of predictions, .* in the answer, got error"),
        (b"[[1, 2]]", r"wanted 3 answers, got shape \(1, 2\)"),
    ],
)
def test_answers_that_cannot_be_read(content: bytes, message: str) -> None:
    with serving() as server:
        server.script = lambda number: (200, {}, content)
        with pytest.raises(ValueError, match=message):
            Endpoint(server.url)(images(3))


def test_a_rate_spaces_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(endpoint_module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(endpoint_module.time, "sleep", sleep)
    with serving() as server:
        Endpoint(server.url, batch=2, rate=4.0)(images(8))
    assert slept == pytest.approx([0.25, 0.25, 0.25])


def test_an_endpoint_is_distilled_and_paid_once(tmp_path: Path, slept: list[float]) -> None:
    x = images(40)
    with serving() as server:
        server.script = lambda number: (503, {}, b"") if number % 3 == 0 else None
        student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 2))
        found = fa.distill(Endpoint(server.url, batch=8), student, x, budget=40, steps=2, cache=tmp_path)
        assert (found.kind, found.queries) == ("logits", 40)
        before = len(server.bodies)
        fa.distill(Endpoint(server.url, batch=8), student, x, budget=40, steps=2, cache=tmp_path)
        assert len(server.bodies) == before
    with pytest.raises(
        ValueError, match=r"holds the answers of http://127.0.0.1:\d+/predict by as_lists, wanted those of http://b/"
    ):
        Cached(Endpoint("http://b/"), tmp_path)
    with pytest.raises(QueryError, match=r"images 0 to 7: no answer after 1 try: EndpointError: .*refused"):
        Cached(Endpoint(server.url, batch=8, retries=1), retries=5)(x)


def test_answered_requests_are_kept_when_a_later_one_fails(tmp_path: Path, slept: list[float]) -> None:
    x = images(40)
    with serving() as server:
        server.script = lambda number: (403, {}, b"") if number == 4 else None
        with pytest.raises(QueryError, match=r"images 24 to 31: .*HTTP 403"):
            Cached(Endpoint(server.url, batch=8), tmp_path, batch=40)(x)
        assert len(Cached(means, tmp_path, limit=0).ask(x)) == 24
        Cached(Endpoint(server.url, batch=8), tmp_path, batch=40)(x)
        assert [len(body["instances"]) for body in server.bodies] == [8] * 6  # the refused one again, and the last
        with pytest.raises(ValueError, match="batch: wanted"):
            Cached(Endpoint(server.url), batch=0)


def test_png_is_read_back() -> None:
    levels = torch.randint(0, 256, (2, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    for x in (levels / 255, levels[:, :1] / 255):
        body, kind = as_png(x.float())
        assert kind == "application/json"
        files = [Image.open(io.BytesIO(base64.b64decode(text))) for text in json.loads(body)["images"]]
        back = torch.stack([torch.from_numpy(np.array(file)).reshape(4, 5, -1).permute(2, 0, 1) for file in files])
        assert torch.equal(back.long(), (x * 255).round().long())
    with pytest.raises(ValueError, match="for PNG, got"):
        as_png(torch.zeros(1, 2, 3, 3))
    assert from_json(b'{"logits": [1]}') == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "file:///etc/passwd"}, "url: wanted http"),
        ({"url": "http:///x"}, "url: wanted http"),
        ({"batch": 0}, "batch: wanted"),
        ({"rate": 0}, "rate: wanted a finite number above 0"),
        ({"timeout": -1}, "timeout: wanted a finite number above 0"),
        ({"retries": -1}, "retries: wanted"),
    ],
)
def test_endpoints_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Endpoint(**{"url": "http://x/", **options})


# -- which images ------------------------------------------------------------------------------------------------------


def planned(inputs: Tensor, **options: Any) -> Plan:
    defaults: dict[str, Any] = {
        "budget": 100, "held_out": 0.0, "augment": None, "generated": None, "bounds": None, "seed": 0
    }  # fmt: skip
    return plan_queries(inputs, None, **{**defaults, **options})


def test_inputs_come_first_each_once() -> None:
    x = images(30)
    plan = planned(x, held_out=0.1, budget=100)
    assert (plan.held, len(plan.images)) == (3, 30)
    order = [int(name.removeprefix("input ")) for name in plan.names]
    assert sorted(order) == list(range(30)) != order
    assert torch.equal(plan.images, x[order])


def test_a_larger_plan_begins_with_the_smaller() -> None:
    options: dict[str, Any] = {
        "held_out": (images(4, seed=2), None), "augment": Augment(shift=1, noise=0.1), "generated": Generate(mixup=True)
    }  # fmt: skip
    small, large = (planned(images(30), budget=budget, **options) for budget in (50, 120))
    assert torch.equal(large.images[:50], small.images)
    assert large.names[:50] == small.names
    assert len({x.numpy().tobytes() for x in large.images}) == 120
    assert not torch.equal(planned(images(30), budget=120, seed=1, **options).images[60:], large.images[60:])


def test_mirrored_and_moved_images_are_numpys() -> None:
    """Every made image is one of the 4 x 25 that NumPy makes of its input, and nearly all of these come."""
    x = torch.arange(20.0).reshape(1, 1, 4, 5)
    made = planned(x, budget=1001, augment=Augment(hflip=True, vflip=True, shift=2)).images[1:]
    possible = set()
    for mirrored in (x[0, 0], x[0, 0].flip(0), x[0, 0].flip(1), x[0, 0].flip(0, 1)):
        wide = np.pad(mirrored.numpy(), 2, mode="edge")
        possible |= {wide[i : i + 4, j : j + 5].tobytes() for i in range(5) for j in range(5)}
    came = {image[0].numpy().tobytes() for image in made}
    assert came <= possible
    assert len(came) == len(possible) == 100


def test_mixtures_lie_between_two_inputs() -> None:
    """On the line between two different ones, at a uniform place: inputs 0 and 1 give uniform numbers."""
    x = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    made = planned(x, budget=4002, generated=Generate(mixup=True)).images[2:]
    assert torch.equal(made, made[:, :, :1, :1].expand_as(made))
    share = made[:, 0, 0, 0]
    assert kstest(share, "uniform").pvalue > 0.01


def test_typical_noise_has_the_inputs_statistics() -> None:
    x = (
        0.3 * torch.randn(40, 2, 8, 8, generator=torch.Generator().manual_seed(0))
        + torch.tensor([0.2, 0.7])[:, None, None]
    )
    made = planned(x, budget=60, generated=Generate(typical=True)).images[40:]
    centre = x.mean((0, 2, 3))
    noise = made - centre[:, None, None]
    spread = float((x - centre[:, None, None]).square().mean().sqrt())
    np.testing.assert_allclose(noise.square().mean((1, 2, 3)).sqrt(), spread, rtol=1e-4)
    assert len({image.numpy().tobytes() for image in made}) == 20


def test_noise_of_a_sampler_and_bounds() -> None:
    sampler = fa.TypicalSetSampler(sigma=0.2, typicality=0.1, plain_share=0.0, seed=5)
    x = torch.full((1, 1, 8, 8), 0.5)
    made = planned(x, budget=20, augment=Augment(noise=sampler)).images[1:]
    wanted = 0.2 * (1 + 2 * 0.1) ** 0.5
    np.testing.assert_allclose((made - 0.5).square().mean((1, 2, 3)).sqrt(), wanted, rtol=1e-4)
    cut = planned(x, budget=20, augment=Augment(noise=sampler), bounds=(0.4, 0.6)).images[1:]
    assert torch.equal(cut, made.clamp(0.4, 0.6))


def test_sources_take_turns() -> None:
    x = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    made = planned(x, budget=302, augment=Augment(vflip=True), generated=Generate(mixup=True, typical=True)).images[2:]
    flat = (made.flatten(1).amax(1) == made.flatten(1).amin(1)).tolist()
    assert flat == [True, True, False] * 100
    assert bool(((made[1::3] > 0) & (made[1::3] < 1)).all())
    assert bool(((made[0::3] == 0) | (made[0::3] == 1)).all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Augment(), "augment: wanted hflip, vflip, shift or noise, got none"),
        (lambda: Augment(shift=-1), "augment: shift: wanted a whole number >= 0"),
        (lambda: Augment(noise=-0.1), "augment: noise: wanted a standard deviation >= 0"),
        (lambda: Augment(noise=25), r"augment: noise: wanted a noise level from 0 to 1.* did you mean 25 / 255\?"),
        (lambda: Generate(), "generated: wanted mixup or typical, got neither"),
        (lambda: Generate(mixup=True, spectrum="adversarial"), "wanted no spectrum without typical=True"),
        (lambda: planned(torch.ones(1, 1, 4, 4), generated=Generate(mixup=True)), "wanted two inputs .* for mixup"),
        (lambda: planned(torch.ones(3, 1, 4, 4), generated=Generate(typical=True)), "not all of one colour"),
    ],
)
def test_made_images_that_cannot_be(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
