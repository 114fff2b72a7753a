"""What a task model says of images: classes by name or number, dense outputs, texts, and what is no such model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastattack.tasks import Task

LOGITS = torch.tensor([[0.0, 2.0, 1.0], [5.0, -1.0, 4.0]])
DENSE = torch.zeros(2, 3, 2, 2)
DENSE[0, 2, 0, :], DENSE[0, 1, 1, 0], DENSE[1, 1] = 1, 1, 1  # (2, 2; 1, 0) and all 1


class Model(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def test_classes_by_number_and_by_name() -> None:
    plain, named = Task(Model()), Task(Model(classes=("ant", "bee", "cat")))
    assert plain.words(LOGITS) == plain.answers(LOGITS) == ["1", "0"]
    assert named.words(LOGITS) == ["bee", "ant"]
    assert plain.loss is None
    assert plain.labels(["2", "0"], LOGITS).tolist() == named.labels(["cat", "ant"], LOGITS).tolist() == [2, 0]
    assert named.said(LOGITS).tolist() == [1, 0]
    for label in (2, "2", "cat"):
        assert named.answer(label, LOGITS, "target") == "cat"
    twisted = Task(Model(classes=["1", "0", "2"]))  # a name comes before a number
    assert twisted.labels(["0"], LOGITS).tolist() == [1]


def test_dense_outputs() -> None:
    task = Task(Model(classes=["sky", "sea", "land"]))
    assert task.answers(DENSE) == ["land", "sea"]
    assert task.words(DENSE) == ["land (50%)", "sea (100%)"]
    assert task.said(DENSE).tolist() == [[[2, 2], [1, 0]], [[1, 1], [1, 1]]]
    assert task.labels(["sky", "land"], DENSE).tolist() == [[[0, 0]] * 2, [[2, 2]] * 2]


def test_a_recogniser_has_texts_for_labels() -> None:
    seen = []

    def loss(verdict: Tensor, labels: list[str]) -> Tensor:
        seen.append(labels)
        return verdict.sum(1)

    task = Task(Model(says=lambda verdict: ["cab", ""][: len(verdict)], task_loss=loss))
    assert task.words(LOGITS) == ["cab", ""]
    assert task.answer(7, LOGITS, "target") == "7"
    first, rows = task.labels(["xy"], LOGITS), task.labels(["cab", "xy", "cab"], LOGITS)
    assert rows.shape == (3, 1)
    assert task.loss is not None
    task.loss(LOGITS, first)
    task.loss(LOGITS, rows[1:])  # what is cut out of a batch is cut out here
    task.loss(LOGITS, task.said(LOGITS))
    assert seen == [["xy"], ["xy", "cab"], ["cab", ""]]


def test_a_loss_of_its_own_takes_numbers() -> None:
    def loss(verdict: Tensor, labels: Tensor) -> Tensor:
        return -verdict.gather(1, labels[:, None])[:, 0]

    task = Task(Model(task_loss=loss))
    assert task.loss is loss
    assert task.loss(LOGITS, task.said(LOGITS)).tolist() == [-2, -5]


def test_the_model_is_left_as_found() -> None:
    model = Model()
    model.norm = nn.BatchNorm1d(4)
    task = Task(model.train())
    assert not task.verdict(torch.rand(2, 1, 2, 2, requires_grad=True)).requires_grad
    assert model.training
    assert model.norm.training


@pytest.mark.parametrize(
    ("attributes", "error", "words"),
    [
        ({"differentiable": False}, ValueError, "task: wanted a differentiable model"),
        ({"classes": "abc"}, TypeError, "list of names as classes"),
        ({"classes": [1, 2, 3]}, TypeError, "list of names as classes"),
        ({"classes": ["a", "b", "a"]}, ValueError, "a name of its own"),
        ({"says": 3, "task_loss": len}, TypeError, "function as says"),
        ({"task_loss": "ctc"}, TypeError, "function as task_loss"),
        ({"says": len}, ValueError, "wanted task_loss"),
    ],
)
def test_models_that_say_wrong_things_of_themselves(attributes: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Task(Model(**attributes))


@pytest.mark.parametrize(
    "verdict", [LOGITS[:, :1], LOGITS[0], torch.zeros(2, 3, 4), {"logits": LOGITS}, "cat"], ids=str
)
def test_outputs_that_say_nothing(verdict: Any) -> None:
    for ask in (Task(Model()).answers, Task(Model()).words, Task(Model()).said):
        with pytest.raises(ValueError, match="task: wanted logits of two classes"):
            ask(verdict)


def test_labels_that_are_no_classes() -> None:
    task = Task(Model(classes=["ant", "bee", "cat"]))
    for label in (3, -1, "dog", "1.0"):
        with pytest.raises(ValueError, match=r"target: wanted a class from 0 to 2, or a name such as 'ant', got"):
            task.answer(label, LOGITS, "target")
    with pytest.raises(ValueError, match="as many names in classes as it has logits, 2, got 3"):
        task.answers(LOGITS[:, :2])
    silent = Task(Model(says=lambda verdict: "cab", task_loss=lambda verdict, labels: verdict.sum(1)))
    with pytest.raises(TypeError, match="list of texts from says"):
        silent.answers(LOGITS)
