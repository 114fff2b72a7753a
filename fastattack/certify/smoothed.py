"""A classifier behind noise: the likeliest class, with a radius that no perturbation shorter than it changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.naming import names_now
from ..guard import left_as_found
from ..ops import check
from ..ops.dispatch import known_backend
from .batches import class_counts
from .bounds import ABSTAIN, count, even_odds, least_n, least_n_of_test, require_n, share
from .certificate import Certificate, certificate_of
from .copies import ANSWER, ESTIMATE, SELECT, Copies, Noisy, checked, image_ids, seed_of_stage
from .noise import Noise, noise_of

SCORES = ("logits", "probabilities")


class Smoothed(nn.Module):
    """g(x) = the class that ``model`` gives most often to x + noise (Cohen et al., arXiv 1902.02918).

    Everything is decided by counts of classes, so the model may be anything that gives scores (B, K) or, with
    ``classes``, class numbers (B,). It is called in eval mode, without gradients, and left as found; only `forward` is
    differentiable. Every copy's noise is Philox of (seed, image id, copy): the same certificate in every batch split,
    up to what the model's own rounding does with other batches. A model with noise of its own by name (a purified one)
    draws it for each copy and stage too, so that copies are independent; noise of another kind must be.

    Args:
        model: images (B, ...) -> scores or class numbers.
        noise: `fa.certify.Gaussian(sigma)`, `Laplace(b)`, `Uniform(half_width)` or `LogConcave(phi)`, on the scale of
            the inputs, whatever it is: for images in [0, 1] sigma = 25 / 255, not 25, which is not refused here because
            features on other scales may be smoothed too. The model should have been trained with it.
        n: copies that the probability is estimated from; those of `predict` too.
        n0: copies that the class is chosen from, which are others.
        alpha: failure probability of an image's answer or certificate.
        seed: 0 <= seed < 2**64.
        copies: for one gradient, see `forward`.
        scores: what the model gives, "logits" or "probabilities"; only `forward` asks.
        classes: their number, for a model that gives class numbers.
        max_batch: copies at a time; None: as suits the memory, see `fastattack.certify.batches.outputs`.
        backend: of the kernels that draw.

    Raises:
        TypeError, ValueError: an option that does not fit; n too small for alpha, with the least n that is not.
        RuntimeError: no scipy; it comes with the extra "certify".
    """

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        *,
        noise: Noise,
        n: int = 10_000,
        n0: int = 100,
        alpha: float = 0.001,
        seed: int = 0,
        copies: int = 8,
        scores: str = "logits",
        classes: int | None = None,
        max_batch: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if not callable(model):
            raise TypeError(f"model: wanted something callable as model(x), got {type(model).__name__}")
        if scores not in SCORES:
            raise ValueError(f"scores: wanted 'logits' or 'probabilities', got {scores!r}")
        self.model, self.noise = model, noise_of(noise)
        self.n, self.n0, self.copies = count(n, "n"), count(n0, "n0"), count(copies, "copies")
        self.alpha, self.seed = share(alpha, "alpha"), check.seed_of(seed)
        known_backend(backend)
        self.scores, self.backend = scores, backend
        self.classes = None if classes is None else count(classes, "classes", 2)
        self.max_batch = None if max_batch is None else count(max_batch, "max_batch")
        require_n(self.n, self.alpha, least_n(self.alpha))
        self.training = getattr(model, "training", False)

    # -- counts --------------------------------------------------------------------------------------------------------

    def counts(
        self, x: Tensor, n: int | None = None, *, stage: int = ESTIMATE, sample_ids: Tensor | None = None
    ) -> Tensor:
        """(B, K) on the device of x: how many of n noisy copies of each image go into each class.

        Args:
            x: (B, ...), finite.
            n: copies; None: those of the estimation.
            stage: which numbers, `fastattack.certify.copies`.
            sample_ids: (B,) whole numbers below 2**31 that name the images; 0 .. B-1 by default.

        Raises:
            TypeError, ValueError: images or outputs that do not fit.
            NonFiniteError: the model gives NaN or infinity.
        """
        x = checked(x)
        seed = seed_of_stage(self.seed, stage)
        n = self.n if n is None else count(n, "n")
        drawn = Copies(self.noise, x, image_ids(sample_ids, x), n, seed, self.backend)
        with left_as_found(self.model, x.device, eval_mode=True):
            return class_counts(self.model, drawn, classes=self.classes, max_batch=self.max_batch)

    def predict(self, x: Tensor, *, n: int | None = None, sample_ids: Tensor | None = None) -> Tensor:
        """(B,) the likeliest class, or -1 where n copies do not tell it from the second one.

        It abstains where the two-sided binomial test of the two highest counts has a p-value above alpha: an answer
        is another class than the truly likeliest with probability alpha at most (Cohen et al., proposition 1).

        Raises:
            ValueError: n is too small for that ever to answer; and as `counts`.
        """
        n = self.n if n is None else count(n, "n")
        require_n(n, self.alpha, least_n_of_test(self.alpha), why=" of the test")
        found, label = self.counts(x, n, sample_ids=sample_ids).topk(2, 1)
        sure = even_odds(found[:, 0], found[:, 1]) <= self.alpha
        return torch.where(sure, label[:, 0], ABSTAIN)

    def certify(self, x: Tensor, *, sample_ids: Tensor | None = None, family: int = 1) -> Certificate:
        """The class of each image and the radius within which it cannot change (Cohen et al., CERTIFY).

        n0 copies choose the class; of n others those in it are counted; the exact one-sided bound of their probability
        gives the radius. Where the bound is not above 1/2 it abstains. With probability 1 - alpha for each image (with
        `LogConcave` noise 1 - alpha - doubt, whose table of radii may be wrong too: `Certificate.failure`) no
        perturbation shorter than the radius changes what the truly smoothed classifier says (`predict` estimates it).
        Real numbers are meant: the rounding of floats is not accounted for.

        Args:
            x: (B, ...), finite.
            sample_ids: as for `counts`; an image has one certificate under one id.
            family: images of a whole report; each bound is then made for alpha / family (Bonferroni), and alpha is the
                probability that any of them is wrong; a ``doubt`` is added once.

        Raises:
            ValueError: n is too small for alpha / family, with the least n that is not; and as `counts`.
        """
        each = self.alpha / count(family, "family")
        require_n(self.n, each, least_n(each), why=f" ({self.alpha:g} over {family} images)" if family > 1 else "")
        x = checked(x)
        first = self.counts(x, self.n0, stage=SELECT, sample_ids=sample_ids)
        selected, classes = first.argmax(1), first.shape[1]
        of_class = self.counts(x, stage=ESTIMATE, sample_ids=sample_ids).gather(1, selected[:, None])[:, 0]
        return certificate_of(selected, of_class, self.n, self.alpha, family, self.noise, x[0].numel(), classes)

    # -- to be attacked ------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, sample_ids: Tensor | None = None, draw: int | None = None) -> Tensor:
        """(B, K): the logarithm of the mean probability over ``copies`` noisy copies of each image; differentiable.

        Its cross-entropy is the loss of Salman et al. (arXiv 1906.04584, equation 6). Attacks name images and draws
        (`fastattack.engine.naming`): with ``eot`` each gradient sees fresh copies, and points are compared by the same.

        Raises:
            ValueError: the model gives class numbers, or scores of another form.
        """
        if sample_ids is None and draw is None:
            sample_ids, draw = names_now()
        seed = seed_of_stage(self.seed, ANSWER, draw or 0)
        drawn = Copies(self.noise, x.detach().contiguous(), image_ids(sample_ids, x), self.copies, seed, self.backend)
        scores = drawn.through(self.model, Noisy.apply(x, drawn))  # type: ignore[no-untyped-call]
        if not isinstance(scores, Tensor) or scores.dim() != 2 or not scores.is_floating_point():
            raise ValueError(f"model: wanted {self.scores} (B, classes) for a gradient, got another output")
        logs = scores.log_softmax(1) if self.scores == "logits" else scores.clamp_min(1e-30).log()
        logs = logs.reshape(len(x), self.copies, -1)
        return torch.logsumexp(logs, 1) - torch.log(logs.new_tensor(float(self.copies)))

    def for_samples(self, sample_ids: Tensor | None, draw: int) -> Callable[[Tensor], Any]:
        """This model for samples of these names and a draw; attacks call it so (`fastattack.engine.Single`)."""
        return lambda x: self(x, sample_ids, draw)

    @property
    def how(self) -> str:
        """How gradients are made, in words (`AttackResult.how`)."""
        return f"fp32, through {self.copies} noisy copies"
