"""A model behind HTTP as a query: batched, rate-limited, tried again with longer and longer pauses."""

from __future__ import annotations

import base64
import io
import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..training.config import require_number, require_whole

Encode = Callable[[Tensor], tuple[bytes, str]]
Decode = Callable[[bytes], Any]

_AGAIN = (408, 425, 429)  # and every 5xx
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_NAMES = ("predictions", "outputs", "answers", "logits", "probabilities", "labels")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would go on with GET, without the images, and show the headers to whoever is there."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


class EndpointError(OSError):
    """A request that was not answered; says the address, what came, and how often it was tried."""


def as_lists(images: Tensor) -> tuple[bytes, str]:
    """{"instances": nested lists of numbers (B, C, H, W)} in JSON, as TensorFlow Serving and KServe take it."""
    return json.dumps({"instances": images.detach().cpu().tolist()}).encode(), "application/json"


def as_png(images: Tensor) -> tuple[bytes, str]:
    """{"images": [PNG files in base64]} in JSON: clipped to [0, 1] and rounded to 8 bits, gray or RGB.

    What is asked is then not quite the image: round inputs to 8 bits before, or the student learns a wrong pair.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images: wanted (B, 1 or 3, H, W) for PNG, got {tuple(images.shape)}")
    levels = (images.detach().double().clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1)
    files = []
    for image in levels:
        file = io.BytesIO()
        Image.fromarray(image.squeeze(-1).numpy()).save(file, format="PNG")
        files.append(base64.b64encode(file.getvalue()).decode())
    return json.dumps({"images": files}).encode(), "application/json"


def from_json(body: bytes) -> Any:
    """Nested lists: the whole document, or its entry "predictions", "outputs", "answers", "logits", ... "labels".

    Raises:
        ValueError: no JSON, or an object with none of these entries.
    """
    try:
        found = json.loads(body)
    except ValueError as error:
        raise ValueError(f"wanted JSON, got {body[:80]!r}") from error
    if not isinstance(found, dict):
        return found
    for name in _NAMES:
        if name in found:
            return found[name]
    raise ValueError(f"wanted one of {', '.join(_NAMES)} in the answer, got {', '.join(map(str, found)) or 'nothing'}")


class Endpoint:
    """query(images) for `distill`: POSTs batches to an address and reads the answers.

    A request that fails on the way, times out, or is answered with 408, 425, 429 or 5xx is sent again after 0.5, 1, 2,
    ... seconds (60 at most; after ``Retry-After`` seconds where the server says so). Any other status, a redirect
    too, is an error at once. What is sent again counts once in a budget.

    Args:
        url: http or https.
        encode: images (N, C, H, W) -> (body, content type): `as_lists`, `as_png`, or your own.
        decode: body of the answer -> a row for each image, as a tensor, an array or nested lists.
        batch: images in one request.
        rate: requests a second at most; None: no limit.
        retries: how often a request is sent again.
        timeout: seconds to wait for an answer.
        headers: of every request, an Authorization say; never written anywhere.

    Attributes:
        source: address and the name of ``encode``, of which a cache takes note.

    Raises:
        TypeError, ValueError: an option that cannot be.
    """

    def __init__(
        self,
        url: str,
        *,
        encode: Encode = as_lists,
        decode: Decode = from_json,
        batch: int = 32,
        rate: float | None = None,
        retries: int = 4,
        timeout: float = 30.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"url: wanted http://HOST/... or https://HOST/..., got {url!r}")
        require_whole(batch, "batch", 1)
        require_whole(retries, "retries", 0)
        for name, value in (("rate", rate), ("timeout", timeout)):
            if value is not None and not 0 < require_number(value, name) < float("inf"):
                raise ValueError(f"{name}: wanted a finite number above 0, got {value!r}")
        self.url, self.encode, self.decode = url, encode, decode
        self.batch, self.rate, self.retries, self.timeout = batch, rate, retries, timeout
        self.headers = dict(headers or {})
        self.source = f"{url} by {getattr(encode, '__qualname__', type(encode).__name__)}"
        self.requests = 0
        self._next = 0.0  # when the next request may go

    def __call__(self, images: Tensor) -> Tensor:
        """Answers (N, ...), a row for each image.

        Raises:
            EndpointError: a request that was not answered after all retries.
            TypeError, ValueError: an answer that cannot be read, or has another number of rows.
        """
        return torch.cat([self._batch(part) for part in torch.split(images, self.batch)])

    def _batch(self, images: Tensor) -> Tensor:
        answers = torch.as_tensor(self.decode(self._send(*self.encode(images))))
        if answers.dim() < 1 or len(answers) != len(images):
            raise ValueError(f"{self.url}: wanted {len(images)} answers, got shape {tuple(answers.shape)}")
        return answers

    def _send(self, body: bytes, kind: str) -> bytes:
        request = urllib.request.Request(self.url, body, {"Content-Type": kind, **self.headers}, method="POST")
        for attempt in range(self.retries + 1):
            self._wait_for_turn()
            self.requests += 1
            pause: float | None = None
            try:
                with _opener.open(request, timeout=self.timeout) as answer:
                    content: bytes = answer.read()
                    return content
            except urllib.error.HTTPError as error:
                with error:
                    reason, again, pause = _said(error), _worth_again(error.code), _pause(error)
            except (OSError, HTTPException) as error:  # not reached, cut off, timed out
                reason, again = str(getattr(error, "reason", error)) or type(error).__name__, True
            if not again or attempt == self.retries:
                raise EndpointError(f"{self.url}: {reason}, after {attempt + 1} request{'s' if attempt else ''}")
            time.sleep(min(_FIRST_PAUSE * 2**attempt if pause is None else pause, _LONGEST_PAUSE))
        raise AssertionError("the last attempt returns or raises")

    def _wait_for_turn(self) -> None:
        if self.rate is None:
            return
        now = time.monotonic()
        if now < self._next:
            time.sleep(self._next - now)
        self._next = max(now, self._next) + 1 / self.rate


def _worth_again(status: int) -> bool:
    return status in _AGAIN or status >= 500


def _said(error: urllib.error.HTTPError) -> str:
    """The status, and the first line of what came with it."""
    try:
        body = error.read(2000).decode("utf-8", "replace").strip()
    except (OSError, HTTPException):
        body = ""
    return f"HTTP {error.code} {error.reason}" + (f" ({body.splitlines()[0][:200]})" if body else "")


def _pause(error: urllib.error.HTTPError) -> float | None:
    """Seconds of Retry-After; a date there is left alone."""
    try:
        seconds = float(error.headers.get("Retry-After", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
