"""The white-box half of docs/results/ducd.md: `python scripts/certify_results.py --markdown docs/results/ducd.md`.

Digits: a convolutional classifier trained with Gaussian noise, smoothed by Gaussian, Laplace and uniform noise of the
same standard deviation; certified accuracy by radius, and accuracy under PGD through the smoothed model. Photographs,
where ../shared is: how far the output of a denoiser can move, by median and centre smoothing, beside how far an attack
moves it. Writes every figure to the JSON file, and a section of the Markdown file; what stands outside of it stays.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from miga.data import Digits, load_digits, shifted
from miga.networks import CLASSIFIERS
from torch import Tensor, nn
from torch.nn import functional

import fastattack as fa
from fastattack import models
from fastattack.bench.machine import describe
from fastattack.certify import Gaussian, Laplace, Noise, Uniform, centre_smoothing, median_smoothing
from fastattack.files import write_atomic
from fastattack.images import central, find_images, read_image
from fastattack.job import add_noise

SHARED = Path(__file__).resolve().parents[2] / "shared"
SIGMA, ALPHA = 0.25, 0.001
NOISES: tuple[Noise, ...] = (Gaussian(SIGMA), Laplace(0.1768), Uniform(0.433))  # of one standard deviation
RADII = {
    "l2": (0.0, 0.1, 0.25, 0.5, 0.75),
    "l1": (0.0, 0.1, 0.25, 0.5, 0.75),
    "linf": (0.0, 0.004, 0.008, 0.016, 0.024),
}
ATTACKED = (0.25, 0.5, 1.0)
LEVEL, ADDED, CROP = 25.0, 10.0, 48  # of the photographs' noise and of the smoothing's, 0-255 scale; pixels
BEGIN, END = "<!-- certify_results.py -->\n", "<!-- /certify_results.py -->\n"
Row = dict[str, Any]


def classifier(digits: Digits, *, epochs: int, seed: int = 0) -> nn.Module:
    """Adam on shifted digits with N(0, 0.25^2) added, batches of 32, the rate falling to 0 by a cosine."""
    model = CLASSIFIERS["cnn"](seed)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        optimiser.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * epoch / epochs))
        for rows in torch.randperm(len(digits.train), generator=generator).split(32):
            x = shifted(digits.train[rows], generator)
            x = x + SIGMA * torch.randn(x.shape, generator=generator)
            optimiser.zero_grad()
            functional.cross_entropy(model(x), digits.train_labels[rows]).backward()
            optimiser.step()
    return model.eval().requires_grad_(False)


def certified(model: nn.Module, x: Tensor, y: Tensor, n: int) -> list[Row]:
    """A row for each noise."""
    rows = []
    for noise in NOISES:
        start = time.process_time()
        found = fa.Smoothed(model, noise=noise, n=n, n0=100, alpha=ALPHA).certify(x)
        row = {"noise": str(noise), "abstains": float(found.abstained.double().mean())}
        for norm, radii in RADII.items():
            row[norm] = {"radii": radii, "accuracy": found.accuracy(y, radii, norm).tolist()}
            row[f"average_{norm}"] = found.average_radius(y, norm)
        if isinstance(noise, Laplace):
            table_of = fa.certify.numeric_radius(noise, found.p, norm="linf", dim=x[0].numel(), samples=20_000)
            radius, right = torch.where(found.abstained, 0.0, table_of.proven), found.label == y
            shares = fa.certify.certified_accuracy(radius, right, RADII["linf"]).tolist()
            row["linf_by_table"] = {"accuracy": shares, "average": float(torch.where(right, radius, 0.0).mean())}
        rows.append(row | {"seconds": time.process_time() - start})
        print(rows[-1], flush=True)
    return rows


def attacked(model: nn.Module, x: Tensor, y: Tensor, n: int) -> list[Row]:
    """Accuracy of the smoothed model under PGD through it, certified and found, for l2 radii."""
    smoothed = fa.Smoothed(model, noise=Gaussian(SIGMA), n=n, alpha=ALPHA, copies=8)
    certificate = smoothed.certify(x)
    rows = []
    for eps in ATTACKED:
        start = time.process_time()
        attack = fa.PGD(smoothed, norm="l2", eps=eps, steps=10, eot=2, objective=fa.objectives.cw_margin())
        bare = fa.PGD(model, norm="l2", eps=eps, steps=10, objective=fa.objectives.cw_margin())
        answer = smoothed.predict(attack(x, y))
        inside = (certificate.radius() >= eps) & (certificate.label == y)
        rows.append(
            {
                "eps": eps,
                "certified": float(inside.double().mean()),
                "smoothed": float((answer == y).double().mean()),
                "wrong_inside": int(((answer != y) & inside).sum()),
                "abstains": float((answer == fa.certify.ABSTAIN).double().mean()),
                "bare": float((model(bare(x, y)).argmax(1) == y).double().mean()),
                "seconds": time.process_time() - start,
            }
        )
        print(rows[-1], flush=True)
    return rows


def denoisers() -> dict[str, Callable[[Tensor], Tensor]]:
    total = math.hypot(LEVEL, ADDED)
    return {
        "embedded DnCNN": models.load("embedded", sigma=LEVEL),
        "FFDNet": models.load("ffdnet", sigma=total, weights=SHARED / "weights" / "ffdnet_gray.safetensors"),
    }


def photographs(count: int, n: int) -> list[Row]:
    """A row for each denoiser and eps: means over the crops."""
    files = find_images([SHARED / "data" / "bsd68"])[:count]
    clean = torch.stack([central(read_image(file, 1), CROP) for file in files])
    noisy = torch.stack([add_noise(x, LEVEL, 0, k) for k, x in enumerate(clean)])
    sigma = ADDED / 255
    radii, rows = [0.25 * sigma, 0.5 * sigma, sigma], []
    for name, model in denoisers().items():
        start = time.process_time()
        median = median_smoothing(model, noisy, sigma=sigma, eps=radii, n=n, alpha=ALPHA)
        centre = centre_smoothing(model, noisy, sigma=sigma, eps=radii, m=100, n=n, alpha=ALPHA)
        with torch.no_grad():
            plain = model(noisy)
        for k, eps in enumerate(radii):
            moved = fa.PGD(model, norm="l2", eps=eps, steps=10)(noisy, plain)
            with torch.no_grad():
                by_attack = rms(model(moved) - plain)
            there = median_smoothing(model, moved, sigma=sigma, eps=eps, n=n, alpha=ALPHA).median
            rows.append(
                {
                    "denoiser": name,
                    "eps": eps,
                    "psnr_plain": psnr(plain, clean),
                    "psnr_median": psnr(median.median, clean),
                    "psnr_worst": float(median.worst_psnr(clean)[k].mean()),
                    "median_rms": float(median.rms[k].mean()),
                    "centre_rms": float(centre.deviation[k].mean()) / CROP,
                    "attack_rms": float(by_attack.mean()),
                    "attack_median_rms": float(rms(there - median.median).mean()),
                    "outside": int(((there < median.low[k]) | (there > median.high[k])).sum()),
                }
            )
            print(rows[-1], flush=True)
        rows[-1]["seconds"] = time.process_time() - start
    return rows


def rms(x: Tensor) -> Tensor:
    return x.flatten(1).double().square().mean(1).sqrt()


def psnr(x: Tensor, clean: Tensor) -> float:
    return float((-20 * rms(x - clean).log10()).mean())


def table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def markdown(results: Row) -> str:
    digits, setup = results["digits"], results["setup"]
    most = float(Gaussian(SIGMA).radius(torch.tensor([ALPHA ** (1 / setup["n"])]).double(), "l2", 1))
    parts = [
        "## Certified accuracy of the white-box target\n",
        f"{setup['digits']} test digits (1x32x32); the classifier was trained with Gaussian noise of {SIGMA} and is "
        f"right on {results['clean']:.1%} of them without noise. n = {setup['n']} copies after 100, alpha = {ALPHA} "
        "for each image; all three noises have the standard deviation 0.25. A cell: the share that is right and "
        "certified to the radius at its head. linf is by conversion from the noise's own norm, and in the row that "
        f"says so by the table of likelihood ratios. With so many copies no Gaussian l2 radius exceeds {most:.2f}.\n",
    ]
    for norm, radii in RADII.items():
        rows = [
            [row["noise"], *(f"{a:.1%}" for a in row[norm]["accuracy"]), f"{row[f'average_{norm}']:.4f}"]
            for row in digits
        ]
        for row in digits if norm == "linf" else ():
            if extra := row.get("linf_by_table"):
                shares = [f"{a:.1%}" for a in extra["accuracy"]]
                rows.append([f"{row['noise']}, by the table", *shares, f"{extra['average']:.4f}"])
        parts.append(table([f"{norm} radius", *map(str, radii), "mean radius"], rows))
    head = ["l2 eps", "certified", "smoothed, under PGD through it", "abstains there", "wrong although certified",
            "bare model, under PGD"]  # fmt: skip
    rows = [
        [f"{r['eps']:g}", f"{r['certified']:.1%}", f"{r['smoothed']:.1%}", f"{r['abstains']:.1%}",
         str(r["wrong_inside"]), f"{r['bare']:.1%}"] for r in results["attacked"]
    ]  # fmt: skip
    parts += [
        f"The first {setup['attacked']} of them under PGD (10 steps, EOT of 2 draws of 8 copies), without bounds:\n"
    ]
    parts += [table(head, rows)]
    if "photographs" in results:
        parts += [
            "## Certified output deviation\n",
            f"{setup['crops']} central crops ({CROP} x {CROP}) of bsd68 with noise of {LEVEL:g}; smoothing adds "
            f"{ADDED:g} (both of 255), n = {setup['copies']}, alpha = {ALPHA} for all pixels of a crop. eps is the l2 "
            "length of the perturbation of a whole crop; the four columns before the last are root mean squares of a "
            "crop's pixels, on the 0-255 scale: what no perturbation exceeds (median: the true median; centre: any "
            "output that is the centre), and how far PGD on the bare denoiser moves that one and, with the same "
            "copies, the sample median. Outside: pixels of that median beyond their bounds.\n",
        ]
        head = ["denoiser", "eps", "plain dB", "median dB", "certified at least dB", "median moves at most",
                "centre at most", "PGD moves the bare one", "and the median", "pixels outside"]  # fmt: skip
        rows = [
            [r["denoiser"], f"{r['eps']:.4f}", f"{r['psnr_plain']:.2f}", f"{r['psnr_median']:.2f}",
             f"{r['psnr_worst']:.2f}", *(f"{255 * r[k]:.3f}" for k in ("median_rms", "centre_rms", "attack_rms",
             "attack_median_rms")), str(r["outside"])] for r in results["photographs"]
        ]  # fmt: skip
        parts.append(table(head, rows))
    return "\n".join(parts)


def put(path: Path, text: str) -> None:
    """Between the marks, or at the end."""
    old = path.read_text() if path.is_file() else "# A black box, distilled and smoothed (DUCD)\n\n"
    above, _, rest = old.partition(BEGIN)
    write_atomic(path, f"{above}{BEGIN}{text}{END}{rest.partition(END)[2]}".encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=int, default=120, help="test digits")
    parser.add_argument("--attacked", type=int, default=40)
    parser.add_argument("--n", type=int, default=1_000, help="copies of a digit")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--crops", type=int, default=6)
    parser.add_argument("--copies", type=int, default=300, help="of a crop")
    parser.add_argument("--json", type=Path, default=Path("docs/results/ducd_certify.json"))
    parser.add_argument("--markdown", type=Path, help="put the section there; default: print it")
    parser.add_argument("--from-json", action="store_true", help="measure nothing: the section again, of --json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(options.json.read_text()) if options.from_json else measured(options)
    text = markdown(results)
    if options.markdown:
        put(options.markdown, text)
    else:
        print(text)


def measured(options: argparse.Namespace) -> Row:
    """All of it, written to the JSON file."""
    start, digits = time.process_time(), load_digits()
    model = classifier(digits, epochs=options.epochs)
    x, y = digits.test[: options.digits], digits.test_labels[: options.digits]
    results: Row = {
        "machine": describe("cpu"),
        "setup": {k: getattr(options, k) for k in ("digits", "attacked", "n", "epochs", "crops", "copies")},
        "clean": float((model(x).argmax(1) == y).double().mean()),
        "digits": certified(model, x, y, options.n),
        "attacked": attacked(model, x[: options.attacked], y[: options.attacked], options.n),
    }
    if (SHARED / "data" / "bsd68").is_dir() and options.crops:
        results["photographs"] = photographs(options.crops, options.copies)
    results["seconds"] = time.process_time() - start
    write_atomic(options.json, (json.dumps(results, indent=1) + "\n").encode())
    return results


if __name__ == "__main__":
    main()
