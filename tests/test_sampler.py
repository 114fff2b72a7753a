"""TypicalSetSampler: what it draws, that nothing but (seed, epoch, id) decides it, and that it can go on anywhere."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fastattack import ops
from fastattack.ops.spectrum import Spectrum
from fastattack.sampler import NoisyDataset, TypicalSetSampler

SIGMA = 25 / 255


class Stack:
    """A map-style dataset; module-level, so that spawned workers can load it."""

    def __init__(self, images: Tensor, labels: bool = False) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, int]:
        return (self.images[index], index) if self.labels else self.images[index]


def images(count: int, *shape: int) -> Tensor:
    return torch.rand(count, *(shape or (1, 12, 10)), generator=torch.Generator().manual_seed(3))


def sampler(**options) -> TypicalSetSampler:
    return TypicalSetSampler(**{"sigma": SIGMA, "typicality": (0.02, 0.08), "mean": (0.0, 0.01), "seed": 5, **options})


def gaps(noise: Tensor, sigma: float = SIGMA) -> np.ndarray:
    """About each sample's own mean, in NumPy's float64."""
    rows = noise.double().flatten(1).numpy()
    return 0.5 * (rows.var(1) / sigma**2 - 1)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(np.corrcoef(a.double().flatten().numpy(), b.double().flatten().numpy())[0, 1])


def test_typical_samples_lie_where_they_should():
    clean = images(200, 1, 16, 16)
    noise = sampler(plain_share=0.0)(clean.double()) - clean.double()
    found, means = gaps(noise), noise.flatten(1).mean(1).numpy()
    assert found.min() > 0.02 - 1e-4
    assert found.max() < 0.08 + 1e-4
    assert found.min() < 0.024  # 200 uniform draws miss a fifteenth of the interval once in a million
    assert found.max() > 0.076
    assert means.min() > -1e-6
    assert means.max() < 0.01 + 1e-6
    assert means.max() - means.min() > 0.009


def test_plain_share_is_a_share():
    """Shell samples have their gap to 1e-4; a plain one comes so close to it once in hundreds."""
    count, share = 2000, 0.3
    clean = images(count, 1, 8, 8).double()
    noise = sampler(typicality=0.5, mean=0.02, plain_share=share, spectrum=(8, 2, 1, 0.5))(clean) - clean
    on_shell = (np.abs(gaps(noise) - 0.5) < 1e-4) & (np.abs(noise.flatten(1).mean(1).numpy() - 0.02) < 1e-6)
    plain = noise[torch.from_numpy(~on_shell)]
    assert abs(len(plain) - share * count) < 4 * math.sqrt(share * (1 - share) * count)
    values = plain.numpy()
    assert abs(values.mean()) < 4 * SIGMA / math.sqrt(values.size)  # no mean shift
    assert abs(values.var() / SIGMA**2 - 1) < 4 * math.sqrt(2 / values.size)  # no gap
    neighbours = correlation(plain[..., 1:], plain[..., :-1])
    assert abs(neighbours) < 4 / math.sqrt(values.size)  # no colour
    assert correlation(noise[torch.from_numpy(on_shell)][..., 1:], noise[torch.from_numpy(on_shell)][..., :-1]) > 0.1


def test_all_plain_is_plain_noise_of_the_op():
    clean = images(4)
    plain = sampler(plain_share=1.0)
    seed, ids = plain.key(4)
    want = ops.typical_noise(clean, sigma=SIGMA, typicality=None, seed=seed, sample_ids=ids, clean=clean)
    assert torch.equal(plain(clean), want)
    assert np.ptp(gaps(want - clean)) > 0.01


def test_the_same_samples_are_drawn_beside_plain_ones():
    """The share decides which samples are plain; it changes nothing about the others."""
    clean = images(40)
    all_typical, some = (sampler(plain_share=share)(clean) for share in (0.0, 0.5))
    same = (all_typical - some).flatten(1).abs().amax(1) < 1e-6
    assert 8 < int(same.sum()) < 32


def test_ids_decide_not_places():
    clean = images(10)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    whole = sampler()(clean, sample_ids=range(10))
    assert torch.equal(sampler()(clean[order], sample_ids=order)[order.argsort()], whole)
    assert torch.equal(sampler()(clean[7:8], sample_ids=[7]), whole[7:8])


def test_counters_move_only_without_ids():
    clean, s = images(3), sampler()
    first, second = s(clean), s(clean)
    assert s.step == 2
    s(clean, sample_ids=[0, 1, 2])
    _, ids = s.key(3)
    assert s.step == 2
    assert ids.tolist() == [2 * 2**32, 2 * 2**32 + 1, 2 * 2**32 + 2]
    assert torch.equal(s(clean), sampler()(clean, sample_ids=ids))
    assert not torch.equal(first, second)


def test_epochs_seeds_and_ids_are_independent():
    zero = torch.zeros(1, 1, 64, 64)
    kinds = [(seed, epoch, name) for seed in (0, 1, 2**64 - 1) for epoch in (0, 1, 2**40) for name in (0, 1, 2**33)]
    drawn = [sampler(seed=s, plain_share=1.0)(zero, sample_ids=[i], epoch=e) for s, e, i in kinds]
    rows = torch.cat(drawn).flatten(1).double().numpy()
    assert np.abs(np.corrcoef(rows) - np.eye(len(kinds))).max() < 5 / 64


def test_set_epoch_is_the_epoch_of_a_call():
    clean, s = images(2), sampler()
    s.set_epoch(4, step=9)
    assert (s.epoch, s.step) == (4, 9)
    assert torch.equal(s(clean, sample_ids=[0, 1]), sampler()(clean, sample_ids=[0, 1], epoch=4))
    assert not torch.equal(s(clean, sample_ids=[0, 1]), sampler()(clean, sample_ids=[0, 1]))


@pytest.mark.parametrize("way", ["state", "pickle", "deepcopy"])
def test_exact_resume(way):
    clean, s = images(4), sampler(spectrum="adversarial")
    s.set_epoch(2)
    s(clean)
    if way == "state":
        other = sampler(spectrum="adversarial")
        other.load_state_dict(dict(s.state_dict()))
    else:
        other = pickle.loads(pickle.dumps(s)) if way == "pickle" else copy.deepcopy(s)
    want = [s(clean), s(clean)]
    assert torch.equal(other(clean), want[0])
    assert torch.equal(other(clean), want[1])
    s.set_epoch(3)
    assert other.epoch == 2  # a copy, not the same numbers under two names


def test_a_state_of_another_sampler():
    s = sampler()
    with pytest.raises(ValueError, match="state: wanted that of a sampler with seed 5, got seed 6"):
        s.load_state_dict(sampler(seed=6).state_dict())
    with pytest.raises(ValueError, match="without epoch"):
        s.load_state_dict({"seed": 5, "step": 0})
    with pytest.raises(ValueError, match="step: wanted a whole number"):
        s.load_state_dict({"seed": 5, "epoch": 0, "step": -1})


def loaded(dataset: NoisyDataset, workers: int, order: list[int] | None = None, context: str | None = None) -> Tensor:
    """What a DataLoader gives, (noisy, clean) stacked, in the order of the dataset."""
    order = order or list(range(len(dataset)))
    loader = DataLoader(dataset, batch_size=3, sampler=order, num_workers=workers, multiprocessing_context=context)
    pairs = torch.cat([torch.stack([noisy, clean], 1) for noisy, clean in loader])
    return pairs[torch.tensor(order).argsort()]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_neither_workers_nor_order_change_a_number():
    data = NoisyDataset(Stack(images(11)), sampler())
    want = loaded(data, 0)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1)).tolist()
    assert torch.equal(want[:, 1], images(11))
    for workers, kind in ((0, order), (1, None), (3, order)):
        assert torch.equal(loaded(data, workers, kind), want), workers
    assert torch.equal(want[:, 0], sampler()(images(11), sample_ids=torch.arange(11)))


def test_spawned_workers():
    data = NoisyDataset(Stack(images(4), labels=True), sampler())
    data.set_epoch(1)
    assert torch.equal(loaded(data, 1, context="spawn"), loaded(data, 0))


@pytest.mark.parametrize("copied", [False, True])
def test_set_epoch_reaches_workers_that_stay(copied):
    data = NoisyDataset(Stack(images(6)), sampler())
    data = pickle.loads(pickle.dumps(data)) if copied else data
    loader = DataLoader(data, batch_size=2, num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 7):
        data.set_epoch(epoch)
        got = torch.cat([noisy for noisy, _ in loader])
        assert torch.equal(got, sampler()(images(6), sample_ids=torch.arange(6), epoch=epoch)), epoch


def test_items_of_a_dataset():
    data = NoisyDataset(Stack(images(3), labels=True), sampler())
    assert (len(data), len(data[1])) == (3, 2)
    assert torch.equal(data[-1][0], data[2][0])
    with pytest.raises(TypeError, match=r"images\[0\]: wanted a tensor"):
        NoisyDataset(["a"], sampler())[0]  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        data["a"]  # type: ignore[index]


def test_transform_knows_the_image_alone():
    clean, s = images(3, 3, 9, 9), sampler(plain_share=0.0)
    s.set_epoch(1)
    noisy = [s.transform(image) for image in clean]
    copied = pickle.loads(pickle.dumps(s.transform))
    assert all(torch.equal(copied(clean[k]), noisy[k]) for k in (2, 0, 1))
    assert noisy[0].shape == (3, 9, 9)
    assert abs(correlation(noisy[0] - clean[0], noisy[1] - clean[1])) < 5 / math.sqrt(clean[0].numel())
    s.set_epoch(2)
    assert not torch.equal(s.transform(clean[0]), noisy[0])
    assert s.step == 0
    with pytest.raises(ValueError, match=r"image: wanted a float tensor \(C, H, W\), got \(3, 3, 9, 9\)"):
        s.transform(clean)


def test_shapes_types_and_formats():
    clean = images(4, 3, 8, 8)
    assert sampler()(clean[:0]).shape == (0, 3, 8, 8)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert sampler()(clean.to(dtype)).dtype is dtype
    last = clean.to(memory_format=torch.channels_last)
    noisy = sampler()(last)
    assert noisy.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(noisy, sampler()(clean))
    assert not sampler()(clean.requires_grad_()).requires_grad


def test_the_spectrum_has_its_share():
    """Coloured energy lies in the lowest band; with share 0 there is no more of it than in white noise."""
    clean = torch.zeros(64, 1, 16, 16)
    low = {}
    for share in (0.0, 0.5, 1.0):
        noise = sampler(spectrum=Spectrum((1.0, 0.0), share=share), plain_share=0.0, mean=0.0)(clean)
        power = np.abs(np.fft.fft2(noise.double().numpy())) ** 2
        f = np.fft.fftfreq(16)
        inside = np.hypot(f[:, None], f[None, :]) < math.sqrt(0.5) / 2
        low[share] = power[..., inside].sum() / power.sum()
    part = (inside.sum() - 1) / 255
    for share, found in low.items():
        assert found == pytest.approx(share + (1 - share) * part, abs=0.03)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"sigma": 0.0}, ValueError, "sigma"),
        ({"sigma": (0.2, 0.1)}, ValueError, "sigma: wanted an interval .* low <= high"),
        ({"sigma": "25"}, TypeError, "sigma"),
        ({"sigma": torch.ones(3)}, TypeError, "sigma: wanted a number or an interval"),
        ({"typicality": (0.08, 0.02)}, ValueError, "typicality: wanted an interval .* low <= high"),
        ({"typicality": -0.5}, ValueError, "typicality"),
        ({"typicality": float("nan")}, ValueError, "typicality"),
        ({"typicality": (0.0, 0.1, 0.2)}, TypeError, "typicality"),
        ({"mean": (0.0, float("inf"))}, ValueError, "mean"),
        ({"mean": 1.0}, ValueError, "mean"),
        ({"plain_share": 1.5}, ValueError, "plain_share: wanted a number from 0 to 1"),
        ({"plain_share": float("nan")}, ValueError, "plain_share"),
        ({"plain_share": (0.1, 0.2)}, TypeError, "plain_share"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 0.5}, TypeError, "seed"),
        ({"spectrum": "pink"}, ValueError, "spectrum"),
        ({"spectrum": Spectrum((1.0,), share=torch.ones(3))}, TypeError, "spectrum: wanted one share"),
    ],
)
def test_options_that_cannot_be(options, error, words):
    with pytest.raises(error, match=words):
        sampler(**options)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_clean_that_is_not_finite(value):
    clean, s = images(3), sampler()
    clean[1, 0, 2, 2] = value
    with pytest.raises(ValueError, match=r"clean: wanted finite numbers, got NaN or infinity in sample 1 \(id 8\)"):
        s(clean, sample_ids=[7, 8, 9])
    assert s.step == 0


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda s, x: s([1.0]), TypeError, "clean: wanted a tensor"),
        (lambda s, x: s((255 * x).to(torch.uint8)), TypeError, r"clean: .*divide integer images by 255"),
        (lambda s, x: s(x, sample_ids=[1]), ValueError, "sample_ids: wanted 2 integers"),
        (lambda s, x: s(x, epoch=-1), ValueError, "epoch: wanted a whole number"),
        (lambda s, x: s.set_epoch(1.5), ValueError, "epoch: wanted a whole number"),
        (lambda s, x: sampler(spectrum=torch.ones(5, 5))(x), ValueError, r"spectrum: .* for images 12x10"),
    ],
)
def test_calls_that_cannot_be(call, error, words):
    with pytest.raises(error, match=words):
        call(sampler(), images(2))
