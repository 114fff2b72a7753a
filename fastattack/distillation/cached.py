"""A query that pays for no image twice, keeps what was answered, and tries again where a call fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..guard import left_as_found
from ..inputs import told
from ..ops import check
from ..training.config import require_number, require_whole
from .answers import as_answers
from .endpoint import EndpointError
from .store import Disk, Memory, form_of, key_of

Query = Callable[[Tensor], Any]
BATCH = 64


class QueryError(RuntimeError):
    """Images that a query gave no answer for.

    Attributes:
        rows: their places in the batch that was asked.
        reason: what went wrong, without the places.
    """

    def __init__(self, rows: Sequence[int], reason: str, what: str | None = None) -> None:
        self.rows, self.reason = tuple(rows), reason
        super().__init__(f"query: {what or 'images ' + ranges(rows)}: {reason}")


class _OtherFormError(ValueError):
    """The very first answers do not go with those of the folder: asking again would not help."""


def ranges(numbers: Iterable[int]) -> str:
    """ "0 to 4, 7, 9 to 10" """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


class Cached:
    """A query with every answer kept, in memory or on disk, by the SHA-256 of the image (its type, shape and bytes).

    An image that has been answered is never asked again, also not by a later process, nor one that comes twice in a
    batch. Images are asked in their order, ``batch`` at a time, and each batch is on the disk before the next is asked:
    a run that was killed loses no more than the batch that was under way. Which answers belong together is for the
    caller to say: one folder for one model (``source`` helps to notice another one).

    Args:
        query: called with images (N, C, H, W); gives a row for each: logits or probabilities (float), labels (int), or
            images. Tensors, arrays and nested lists are taken. An nn.Module runs in eval mode without gradients, and is
            left as found.
        folder: where answers.sqlite is kept; None: in memory.
        batch: images at a time, but never more than the query's own ``batch`` (`Endpoint` has one), which would be sent
            in parts and lost together; None: the query's own, or 64.
        retries: how often a batch is asked again after a call that raised or returned something else (another number of
            rows, another shape or number type than before, NaN or infinity). An `Endpoint` has tried
            again by itself; and first answers of another form than those in the folder are an error at once.
        wait: seconds before the first retry; doubled each time.
        limit: the most images that may be handed to ``query``, those that are handed again after a failure included;
            None: no limit.
        source: what the answers are of, as text; the folder refuses another one. None: the query's own
            ``source``, if any (`Endpoint` has one).

    Attributes:
        queries: images handed to the query so far.
        hits: images answered without it.
        failures: calls that failed.

    Raises:
        TypeError, ValueError: an option that cannot be, or a folder that is another source's or damaged.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        query: Query,
        folder: str | Path | None = None,
        *,
        batch: int | None = None,
        retries: int = 2,
        wait: float = 0.0,
        limit: int | None = None,
        source: str | None = None,
    ) -> None:
        if not callable(query):
            raise TypeError(f"query: wanted something callable with a batch of images, got {type(query).__name__}")
        self.query = query
        own = getattr(query, "batch", None)
        own = own if isinstance(own, int) and own >= 1 else None  # a module may call anything batch
        self.batch = (own or BATCH) if batch is None else batch
        require_whole(self.batch, "batch", 1)
        self.batch = min(self.batch, own or self.batch)
        require_whole(retries, "retries", 0)
        if limit is not None:
            require_whole(limit, "limit", 0)
        self.wait = require_number(wait, "wait")
        if not 0 <= self.wait < float("inf"):
            raise ValueError(f"wait: wanted seconds >= 0, got {wait!r}")
        self.retries, self.limit = retries, limit
        known = getattr(query, "source", None) if source is None else source
        if source is not None and not isinstance(source, str):
            raise TypeError(f"source: wanted a text that names the target, got {type(source).__name__}")
        known = known if isinstance(known, str) else None
        self.store = Memory() if folder is None else Disk(folder, known)
        self.queries = self.hits = self.failures = 0
        self._known = False  # whether this query has given answers of the store's form
        self._reason = ""

    def __call__(self, images: Tensor) -> Tensor:
        """(N, ...) float32 or int64 on the CPU, a row for each image.

        Raises:
            QueryError: images without an answer after all retries, or beyond ``limit``; names them. What was answered
                is kept.
        """
        found = self.ask(images)
        if len(found) < len(images):
            missing = range(len(found), len(images))
            raise QueryError(missing, f"the limit of {self.limit} images is spent{self.trouble}")
        return found

    @property
    def trouble(self) -> str:
        """In words, how often calls failed and why the last one did; "" where none has."""
        return f" ({self.failures} calls failed, the last with {self._reason})" if self.failures else ""

    def ask(self, images: Tensor, watch: Callable[[int], object] | None = None) -> Tensor:
        """As a call, but where ``limit`` is spent, the answers to the images before the first that has none.

        Args:
            images: (N, ...).
            watch: called after each batch with the number of images that have an answer.
        """
        check.require_images(images, "images")
        keys = [key_of(image) for image in images]
        answers = self.store.get(keys)
        places: dict[bytes, int] = {}  # where each image that must be asked comes first
        for row, key in enumerate(keys):
            if key not in answers:
                places.setdefault(key, row)
        self.hits += len(keys) - len(places)
        missing = list(places)
        for first in range(0, len(missing), self.batch):
            part = missing[first : first + self.batch]
            fresh = self._batch(images, [places[key] for key in part])
            answers.update(zip(part, fresh, strict=False))
            if watch is not None:
                watch(len(keys) - len(missing) + first + len(fresh))
            if len(fresh) < len(part):
                break
        known = next((row for row, key in enumerate(keys) if key not in answers), len(keys))
        rows = [answers[key] for key in keys[:known]]
        return torch.stack(rows) if rows else torch.empty(0)

    def _batch(self, images: Tensor, rows: list[int]) -> Tensor:
        """Answers to these rows, kept before they are returned; fewer where the limit is spent."""
        for attempt in range(self.retries + 1):
            if self.limit is not None:
                rows = rows[: self.limit - self.queries]
            if not rows:
                return torch.empty(0)
            try:
                answers = self._call(images[rows])
                break
            except Exception as error:  # a query may raise anything
                self.failures, self._reason = self.failures + 1, told(error)
                if attempt == self.retries or isinstance(error, (EndpointError, _OtherFormError)):
                    raise QueryError(rows, self._lost(attempt + 1)) from error
            if self.wait:
                time.sleep(self.wait * 2**attempt)
        self._known = True
        self.store.put([key_of(images[row]) for row in rows], answers)
        return answers

    def _call(self, images: Tensor) -> Tensor:
        """One call; raises where what comes back is no answer to every image."""
        self.queries += len(images)
        with torch.no_grad(), left_as_found(self.query, images.device, eval_mode=True):
            answers = as_answers(self.query(images), len(images))  # a copy: what the query does to it is its own
        if self.store.form == form_of(answers.float()):  # numbers in JSON may all be whole now and then
            answers = answers.float()
        if self.store.form not in (None, form_of(answers)):
            said = f"wanted answers {self.store.form} as before, got {form_of(answers)}"
            raise ValueError(said) if self._known else _OtherFormError(f"{said}; are those there another target's?")
        return answers

    def _lost(self, tries: int) -> str:
        kept = f"; what was answered is kept in {self.store.place}" if self.store.place else ""
        return f"no answer after {tries} tr{'y' if tries == 1 else 'ies'}: {self._reason}{kept}"
