"""What a task model says of images, in words, and the labels that its loss takes.

A task model is what a restored image is for: called as task(images), differentiable. Three attributes, all optional,
tell more of it:

    classes                       names of the classes, in their order
    says(verdict)                 a list of B texts, what the model reads in each image (a recogniser)
    task_loss(verdict, labels)    (B,), how far the verdict is from the labels; without it a margin, as in `fa.MIGA`

With ``says`` there must be a ``task_loss``, and its labels are a list of B such texts. Without, the verdict is logits
(B, K), or dense ones (B, K, H, W), the labels are class numbers, (B,) or (B, H, W), and the model says the likeliest
class: its name, or else its number; of dense logits the most frequent one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .attacks.pipeline import judge
from .guard import left_as_found
from .objectives import Objective


class Task:
    """A task model with its words.

    Args:
        model: called as model(images), with the attributes above.

    Attributes:
        loss: for `fastattack.MIGA`; None means its default, `cw_margin(kappa=1)`.

    Raises:
        TypeError, ValueError: an attribute that is something else, or a model that says it has no gradient.
    """

    def __init__(self, model: Callable[[Tensor], Any]) -> None:
        self.model = model
        if getattr(model, "differentiable", True) is False:
            raise ValueError("task: wanted a differentiable model, got one that says it is not")
        self.classes = _names(getattr(model, "classes", None))
        self._says = _function(model, "says")
        own = _function(model, "task_loss")
        if self._says is not None and own is None:
            raise ValueError("task: wanted task_loss(verdict, labels) in a model with says(verdict), got none")
        self.reads = self._says is not None
        self._texts = None if own is None or not self.reads else _OfTexts(own)
        self.loss: Objective | None = self._texts or own

    def verdict(self, images: Tensor) -> Any:
        """What the model gives for images (B, C, H, W), without gradients; it is left as found."""
        with torch.no_grad(), left_as_found(self.model, images.device, eval_mode=True):
            return judge(self.model, images.detach())

    def answers(self, verdict: Any) -> list[str]:
        """What the model says of each image: a text, or a class by name or number.

        Raises:
            TypeError, ValueError: a verdict of another form.
        """
        if self._says is not None:
            found = self._says(verdict)
            if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(t, str) for t in found):
                raise TypeError(f"task: wanted a list of texts from says(verdict), got {found!r:.80}")
            return list(found)
        return [self._name(number) for number, _ in _likeliest(self._logits(verdict))]

    def words(self, verdict: Any) -> list[str]:
        """The answers for a reader: of dense logits with the share of the image that the class has."""
        if self.reads or self._logits(verdict).dim() == 2:
            return self.answers(verdict)
        return [f"{self._name(number)} ({share:.0%})" for number, share in _likeliest(self._logits(verdict))]

    def answer(self, label: int | str, verdict: Any, name: str) -> str:
        """A label of the user's (a number, or a text) as `answers` gives it.

        Args:
            verdict: any of the model's, for the number of its classes.
            name: of the argument, for the error.

        Raises:
            ValueError: no class of the model.
        """
        return str(label) if self.reads else self._name(self._number(label, verdict, name))

    def labels(self, answers: Sequence[str], verdict: Any) -> Tensor:
        """What ``loss`` takes for B answers, on the verdict's device: of dense logits that class everywhere."""
        if self._texts is not None:
            return self._texts.rows(answers)
        numbers = torch.tensor([self._number(a, verdict, "labels") for a in answers], device=verdict.device)
        if verdict.dim() == 2:
            return numbers
        return numbers[:, None, None].expand(-1, *verdict.shape[2:]).contiguous()

    def said(self, verdict: Any) -> Tensor:
        """What ``loss`` takes for the model's own answers."""
        return self.labels(self.answers(verdict), verdict) if self.reads else self._logits(verdict).argmax(1)

    def _logits(self, verdict: Any) -> Tensor:
        if isinstance(verdict, Tensor) and verdict.dim() in (2, 4) and verdict.shape[1] >= 2:
            if self.classes is not None and len(self.classes) != verdict.shape[1]:
                raise ValueError(
                    f"task: wanted as many names in classes as it has logits, {verdict.shape[1]}, got "
                    f"{len(self.classes)}"
                )
            return verdict
        got = tuple(verdict.shape) if isinstance(verdict, Tensor) else type(verdict).__name__
        raise ValueError(
            "task: wanted logits of two classes at least, (B, classes) or (B, classes, H, W), or a model with "
            f"says(verdict) and task_loss(verdict, labels), got {got}"
        )

    def _name(self, number: int) -> str:
        return str(number) if self.classes is None else self.classes[number]

    def _number(self, label: int | str, verdict: Any, name: str) -> int:
        count = self._logits(verdict).shape[1]
        if self.classes is not None and label in self.classes:
            return self.classes.index(str(label))
        try:
            number = int(label)
        except ValueError:
            number = -1
        if not 0 <= number < count:
            names = "" if self.classes is None else f", or a name such as {self.classes[0]!r}"
            raise ValueError(f"{name}: wanted a class from 0 to {count - 1}{names}, got {label!r}")
        return number


class _OfTexts:
    """A loss of texts, called with their rows (B, 1) in a list: whatever cuts a batch cuts tensors."""

    def __init__(self, loss: Callable[[Any, list[str]], Tensor]) -> None:
        self.loss = loss
        self.known: list[str] = []

    def rows(self, texts: Sequence[str]) -> Tensor:
        self.known += [text for text in dict.fromkeys(texts) if text not in self.known]
        return torch.tensor([[self.known.index(text)] for text in texts])

    def __call__(self, verdict: Any, rows: Tensor) -> Tensor:
        return self.loss(verdict, [self.known[row] for row in rows.flatten().tolist()])


def _likeliest(logits: Tensor) -> list[tuple[int, float]]:
    """(class, its share of the positions) for each sample; of several as frequent the first."""
    found = []
    for row in logits.argmax(1).flatten(1) if logits.dim() > 2 else logits.argmax(1)[:, None]:
        counts = torch.bincount(row, minlength=logits.shape[1])
        number = int(counts.argmax())
        found.append((number, int(counts[number]) / len(row)))
    return found


def _names(classes: Any) -> list[str] | None:
    if classes is None:
        return None
    if isinstance(classes, str) or not isinstance(classes, Sequence) or not all(isinstance(c, str) for c in classes):
        raise TypeError(f"task: wanted a list of names as classes, got {classes!r:.80}")
    if len(set(classes)) != len(classes):
        raise ValueError("task: wanted a name of its own for each of its classes, got one twice")
    return list(classes)


def _function(model: Any, name: str) -> Callable[..., Any] | None:
    found = getattr(model, name, None)
    if found is not None and not callable(found):
        raise TypeError(f"task: wanted a function as {name}, got {type(found).__name__}")
    return found
