"""MIGA tampers a word: what is read in the restored image is another word, and the image looks clean.

    python scripts/miga_text.py --out OUT --docs docs/results

trains a recogniser (CTC) and a denoiser (DnCNN of seven layers, sigma 25) on words rendered with Pillow, unless OUT
holds them, attacks forty words, prints the tables of docs/results/miga_text.md, and writes miga_text.json and
miga_text.png. All on one thread and from seeds. See scripts/words.py for images and recogniser.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from safetensors.torch import save as serialise
from torch import Tensor, nn
from words import HEIGHT, WIDTH, Recogniser, accuracy, decode, encode, font, rendered, strings, train_recogniser

import fastattack as fa
from fastattack import training
from fastattack.files import write_atomic
from fastattack.models.weights import read_weights

SIGMA = 25 / 255
PAIRS = (
    "cat car, sun son, left lift, stop shop, exit exam, east easy, gate game, open oven, fire five, road read, "
    "bank bark, cash case, date dare, door poor, down town, fast last, food foot, free tree, gold cold, hand sand, "
    "high sigh, home hope, king ring, lake like, land lend, life line, love live, milk mild, moon noon, name fame, "
    "north forth, paid raid, price prize, right night, salt sale, seven eleven, ten hen, west vest, wine wind, yes yet"
)
WORDS, WANTED = zip(*(pair.split() for pair in PAIRS.split(", ")), strict=True)
CAP = 8.0  # nats
BEGIN, END = "<!-- table of scripts/miga_text.py: begin -->", "<!-- end -->"


def surprise(output: Tensor, texts: Tensor) -> Tensor:
    """CTC up to 8 nats: a word of probability 1 / 3000 is gone, and what is left of the attack may clean up."""
    return fa.objectives.ctc()(output, texts).clamp(max=CAP)


def network() -> fa.models.DnCNN:
    return fa.models.DnCNN(1, depth=7, features=24, sigma=25)


def train_denoiser(args: argparse.Namespace, out: Path) -> None:
    net = network()
    fa.models.initialise(net, args.seed)
    images = rendered(strings(args.images, [args.seed, 1]), [args.seed, 2])
    patches = training.Patches(images, size=HEIGHT, batch=16, seed=args.seed, steps_per_epoch=100)
    config = training.TrainConfig(
        steps=args.denoiser_steps, lr=2e-3, warmup=args.denoiser_steps // 10, channels_last=True
    )
    training.train(net, patches, training.plain(sigma=SIGMA, seed=args.seed), config, out=out, resume=True)


def models(args: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """Denoiser and recogniser, from the folder, or trained into it before."""
    began = time.process_time()
    first, second = args.out / "denoiser" / "model.safetensors", args.out / "recogniser.safetensors"
    if not first.is_file():
        train_denoiser(args, first.parent)
    if not second.is_file():
        trained = train_recogniser(steps=args.recogniser_steps, seed=args.seed, images=3 * args.images)
        write_atomic(second, serialise({k: v.contiguous() for k, v in trained.state_dict().items()}))
    denoiser, recogniser = network(), Recogniser()
    denoiser.load_state_dict(read_weights(first)[0])
    recogniser.load_state_dict(read_weights(second)[0])
    print(f"models: {time.process_time() - began:.0f} s of processor time", flush=True)
    return denoiser.eval(), recogniser.eval()


Craft = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # noisy, clean, texts, wanted texts


def attacks(denoiser: nn.Module, recogniser: nn.Module, eps: float, args: argparse.Namespace) -> dict[str, Craft]:
    """MIGA to a word, MIGA away from the word, and denoising-PGD, all in the same ball with the same steps."""
    ball = {"eps": eps, "steps": args.steps, "seed": args.seed, "max_batch": 8}
    miga = {**ball, "lambda_mi": 1.0, "lambda_rec": args.lambda_rec, "lambda_com": args.lambda_com}

    def towards(noisy: Tensor, _clean: Tensor, _texts: Tensor, wanted: Tensor) -> Tensor:
        return fa.MIGA(denoiser, recogniser, task_loss=fa.objectives.ctc(), target=wanted, **miga)(noisy)

    def away(noisy: Tensor, _clean: Tensor, texts: Tensor, _wanted: Tensor) -> Tensor:
        return fa.MIGA(denoiser, recogniser, task_loss=surprise, **miga)(noisy, texts)

    def plain(noisy: Tensor, clean: Tensor, _texts: Tensor, _wanted: Tensor) -> Tensor:
        return fa.DenoisingPGD(denoiser, preserve_noise=False, **ball)(noisy, clean)

    return {"MIGA to a word": towards, "MIGA away": away, "denoising-PGD": plain}


def measured(
    denoiser: nn.Module, recogniser: nn.Module, noisy: Tensor, moved: Tensor, words: list[str], wanted: list[str]
) -> dict[str, Any]:
    """`fa.semantic_change` in the mean, what is read after, and how often and how nearly that is the wanted word."""
    change = fa.semantic_change(denoiser, recogniser, noisy, moved, labels=words, read=decode)
    with torch.no_grad():
        reads = decode(recogniser(denoiser(moved)))
    hits = sum(a == b for a, b in zip(reads, wanted, strict=True))
    near = fa.metrics.text_similarity(reads, wanted).mean().item()
    for name in ("input_psnr", "output_psnr"):  # an input that is not moved has infinitely many dB
        change = replace(change, **{name: getattr(change, name).clamp(max=60)})
    figures = {k: None if math.isnan(v) else v for k, v in change.summary().items()}  # success, where none was right
    return {**figures, "wanted_after": hits / len(wanted), "text_wanted": near, "reads": reads}


COLUMNS = {
    "right before": "right_before", "after": "right_after", "success": "success", "wanted word": "wanted_after",
    "ROUGE-L before": "text_before", "ROUGE-L after": "text_after", "to the wanted": "text_wanted",
    "output PSNR": "output_psnr", "output MS-SSIM": "output_ms_ssim",
    "input PSNR": "input_psnr", "input MS-SSIM": "input_ms_ssim",
}  # fmt: skip


def table(results: dict[str, dict[str, Any]]) -> str:
    digits = [1 if "psnr" in k else 3 if "ssim" in k else 2 for k in COLUMNS.values()]
    rows = [["eps x 255, attack", *COLUMNS], ["---"] * (len(COLUMNS) + 1)]
    for name, found in results.items():
        figures = [found[k] for k in COLUMNS.values()]
        rows.append([name, *("" if v is None else f"{v:.{d}f}" for v, d in zip(figures, digits, strict=True))])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def summary(about: dict[str, float], results: dict[str, dict[str, Any]]) -> str:
    strings, words, noisy, psnr = about.values()
    return (
        f"Read right without an attack: {strings:.0%} of unseen random strings, {words:.0%} of the words clean and "
        f"{noisy:.0%} of them noisy; the denoiser brings them to {psnr:.1f} dB.\n\n{table(results)}"
    )


def put(page: Path, text: str) -> None:
    """The table between the marks of the page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{page}: wanted the lines {BEGIN} and {END}")
    write_atomic(page, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}".encode())


def picture(columns: dict[str, Tensor], texts: dict[str, list[str]], rows: list[int]) -> bytes:
    """A grid, twice enlarged: one row for each word; below an image what is read in it."""
    cell, line = (2 * WIDTH + 8, 2 * HEIGHT + 22), 20
    canvas = Image.new("L", (cell[0] * len(columns), line + cell[1] * len(rows)), 255)
    draw, label = ImageDraw.Draw(canvas), font("DejaVuSans", 13)
    for i, (name, images) in enumerate(columns.items()):
        draw.text((i * cell[0] + 4, 2), name, fill=0, font=label)
        for j, row in enumerate(rows):
            pixels = (images[row, 0].clamp(0, 1) * 255).round().byte().numpy()
            corner = i * cell[0] + 4, line + j * cell[1]
            canvas.paste(Image.fromarray(pixels).resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.NEAREST), corner)
            if name in texts:
                draw.text((corner[0], corner[1] + 2 * HEIGHT + 1), f'"{texts[name][row]}"', fill=0, font=label)
    file = io.BytesIO()
    canvas.quantize(64).save(file, format="PNG", optimize=True)
    return file.getvalue()


def grid(
    denoiser: nn.Module, recogniser: nn.Module, clean: Tensor, noisy: Tensor, moved: dict[str, Tensor], count: int
) -> bytes:
    columns = {"clean": clean, "noisy": noisy, "denoised": denoiser(noisy)}
    for name, y in moved.items():
        columns |= {f"{name}: input": y, f"{name}: output": denoiser(y)}
    texts = {k: decode(recogniser(v)) for k, v in columns.items() if k not in ("noisy",) and not k.endswith("input")}
    spread = [round(i * (len(clean) - 1) / max(count - 1, 1)) for i in range(count)]
    return picture(columns, texts, spread)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True, help="folder of the trained networks")
    p.add_argument(
        "--docs", type=Path, help="folder of miga_text.md, for its table, .json and .png; default: OUT, no page"
    )
    p.add_argument("--seed", type=int, default=0)
    p.add_argument(
        "--eps", type=float, nargs="+", default=[8.0, 16.0], help="radii, of 255; the picture shows the last"
    )
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--lambda-rec", type=float, default=5.0)
    p.add_argument("--lambda-com", type=float, default=1.0)
    p.add_argument("--count", type=int, default=len(WORDS), help="words to attack")
    p.add_argument(
        "--images", type=int, default=2000, help="to train the denoiser on; thrice as many for the recogniser"
    )
    p.add_argument("--denoiser-steps", type=int, default=500)
    p.add_argument("--recogniser-steps", type=int, default=1000)
    args = p.parse_args()
    torch.set_num_threads(1)
    denoiser, recogniser = models(args)
    words, wanted = list(WORDS[: args.count]), list(WANTED[: args.count])
    clean = rendered(words, [args.seed, 3])
    noisy = clean + SIGMA * torch.randn(clean.shape, generator=torch.Generator().manual_seed(args.seed + 4))
    with torch.no_grad():
        unseen = strings(10 * args.count, [args.seed, 5])
        about = {
            "accuracy_clean_strings": accuracy(recogniser, rendered(unseen, [args.seed, 6]), unseen),
            "accuracy_clean_words": accuracy(recogniser, clean, words),
            "accuracy_noisy_words": accuracy(recogniser, noisy, words),
            "denoised_psnr": fa.metrics.psnr(denoiser(noisy), clean).mean().item(),
        }
    print(json.dumps(about, indent=1), flush=True)
    results: dict[str, dict[str, Any]] = {}
    for eps in args.eps:
        moved = {
            name: craft(noisy, clean, encode(words), encode(wanted))
            for name, craft in attacks(denoiser, recogniser, eps / 255, args).items()
        }
        for name, y in moved.items():
            results[f"{eps:g}, {name}"] = measured(denoiser, recogniser, noisy, y, words, wanted)
    folder = args.docs or args.out
    print(table(results))
    options = {k: v for k, v in vars(args).items() if k not in ("out", "docs")}
    report = {"options": options, "models": about, "words": words, "wanted": wanted, "results": results}
    write_atomic(folder / "miga_text.json", json.dumps(report, indent=1).encode())
    with torch.no_grad():
        write_atomic(folder / "miga_text.png", grid(denoiser, recogniser, clean, noisy, moved, min(6, args.count)))
    if args.docs:
        put(folder / "miga_text.md", summary(about, results))


if __name__ == "__main__":
    main()
