"""A tiny language model that has learnt English, where no hub is reachable: `python scripts/train_language.py OUT`.

A causal Llama of bytes (4 layers, width 128, context 256, 0.8 million parameters), trained from scratch in about ten
minutes of one core on the prose in the docstrings of installed packages and in Python's own topics of `help()`, and
saved as any Hugging Face model, so that `LLMMorph(language=OUT)` opens it. Its use is to have a language model with
something learnt beside a random one of the same shape; it is no good language model.

The text: of the packages in ``PACKAGES`` what stands between triple quotes in every .py file, in the order of the
sorted paths, tests left out; of it the paragraphs that read as sentences, each once. One file of 20, by the hash of its
path, is held out. SHA-256 of the text, versions and bits per byte of the held-out part, beside those of gzip, xz and an
n-gram model, go to OUT/language.json.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import lzma
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data import topics

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from fastattack.bench.machine import describe
from fastattack.files import write_atomic

PACKAGES = (
    "dipy", "matplotlib", "monai", "networkx", "nibabel", "nilearn", "numpy", "pandas", "scipy", "skimage", "sklearn",
    "sympy", "torch", "transformers",
)  # fmt: skip
VERSIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
WORDS = re.compile(r"[A-Z][A-Za-z0-9 ,.;:()'\"/?!%-]*[.!?:]")
QUOTED = re.compile(r'"""(.*?)"""', re.DOTALL)
EVERY = 20  # one file of so many is held out
CONTEXT, BEGIN, VOCABULARY = 256, 256, 264  # bytes, and one token that begins a text


def prose(text: str) -> Iterator[str]:
    """The paragraphs that are sentences and nothing else, each on one line."""
    for paragraph in re.split(r"\n\s*\n", text):
        line = " ".join(paragraph.replace("`", "").split())
        if (
            80 <= len(line) <= 2000
            and WORDS.fullmatch(line)
            and sum(c.isalpha() or c == " " for c in line) > 0.9 * len(line)
        ):
            yield line


def docstrings(path: Path) -> list[str]:
    """What stands between triple double quotes (ten times as fast as to parse the file)."""
    return QUOTED.findall(path.read_text(errors="replace"))


def sources() -> Iterator[tuple[str, list[str]]]:
    """(name of the file, its texts), in an order that depends on nothing but the files."""
    yield "pydoc_data/topics.py", [topics.topics[name] for name in sorted(topics.topics)]
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise SystemExit(f"{package}: not installed, and its docstrings are part of the text")
        root = Path(found.submodule_search_locations[0])
        for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
            name = path.relative_to(root.parent).as_posix()
            if "/tests/" not in name and "/testing/" not in name:
                yield name, docstrings(path)


def corpus() -> tuple[bytes, bytes]:
    """The text to learn and the held-out text; no paragraph is in both."""
    seen: set[str] = set()
    parts: tuple[list[str], list[str]] = ([], [])
    for name, texts in sources():
        held = int(hashlib.sha256(name.encode()).hexdigest(), 16) % EVERY == 0
        for line in (line for text in texts for line in prose(text)):
            if line not in seen:
                seen.add(line)
                parts[held].append(line)
    return "\n".join(parts[0]).encode(), "\n".join(parts[1]).encode()


def after(compress: Callable[[bytes], bytes], train: bytes, held: bytes) -> float:
    """Bits per byte of the held-out text, packed behind the text to learn."""
    return 8 * (len(compress(train + held)) - len(compress(train))) / len(held)


def ngram(train: bytes, held: bytes, longest: int = 6) -> float:
    """Bits per byte of n-grams up to ``longest`` bytes, interpolated by Witten and Bell's weights."""
    counts: list[Counter[bytes]] = [Counter() for _ in range(longest + 1)]
    for n in range(1, longest + 1):
        counts[n].update(train[i : i + n] for i in range(len(train) - n + 1))
    kinds: Counter[bytes] = Counter()  # how many different bytes follow a context
    totals: Counter[bytes] = Counter()
    for n in range(1, longest + 1):
        for gram, count in counts[n].items():
            kinds[gram[:-1]] += 1
            totals[gram[:-1]] += count
    bits = 0.0
    for i in range(len(held)):
        p = 1 / 256
        for n in range(1, min(longest, i + 1) + 1):
            gram = held[i - n + 1 : i + 1]
            many = totals[gram[:-1]]
            if many == 0:
                break
            p = (counts[n][gram] + kinds[gram[:-1]] * p) / (many + kinds[gram[:-1]])
        bits -= math.log2(p)
    return bits / len(held)


def windows(text: Tensor, batch: int, seed: int, step: int) -> Tensor:
    """(batch, CONTEXT) tokens: places drawn by seed and step alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    starts = torch.randint(len(text) - CONTEXT, (batch, 1), generator=generator)
    return text[starts + torch.arange(CONTEXT)]


@torch.no_grad()
def bits_per_byte(model: LlamaForCausalLM, text: Tensor, most: int = 100_000) -> float:
    """Over windows that do not overlap; the first byte of each is told by the token that begins a text."""
    used = text[: min(len(text), most) // (CONTEXT - 1) * (CONTEXT - 1)].view(-1, CONTEXT - 1)
    total = 0.0
    for rows in used.split(32):
        tokens = torch.cat([torch.full((len(rows), 1), BEGIN), rows], 1)
        total += float(model(tokens, labels=tokens).loss) * rows.numel()
    return total / used.numel() / math.log(2)


def learn(
    text: Tensor, held: Tensor, *, steps: int, batch: int, rate: float, seed: int
) -> tuple[LlamaForCausalLM, list[float]]:
    """The trained model and its bits per byte on held-out text, ten times on the way."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=344, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=CONTEXT, bos_token_id=BEGIN, eos_token_id=BEGIN,
        pad_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    seen = []
    for step in range(steps):
        warm, done = min(1.0, (step + 1) / 100), step / steps
        for group in optimiser.param_groups:
            group["lr"] = rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
        tokens = windows(text, batch, seed, step)
        tokens[:, 0] = BEGIN
        loss = model(tokens, labels=tokens).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % max(1, steps // 10) == 0 and step + 1 >= 10:
            seen.append(round(bits_per_byte(model, held, 30_000), 4))
            print(f"step {step + 1}: held out {seen[-1]:.3f} bits per byte, {time.process_time():.0f} s", flush=True)
    return model.eval(), seen


def sample(model: LlamaForCausalLM, begin: str, *, length: int = 200, seed: int = 0) -> str:
    """What it writes on, drawn at temperature 0.7."""
    generator = torch.Generator().manual_seed(seed)
    tokens = [BEGIN, *begin.encode()]
    with torch.no_grad():
        for _ in range(length):
            logits = model(torch.tensor([tokens[-CONTEXT:]])).logits[0, -1, :256]
            tokens.append(int(torch.multinomial((logits / 0.7).softmax(0), 1, generator=generator)))
    return bytes(tokens[1:]).decode(errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder, as save_pretrained writes it")
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, held = corpus()
    print(f"text: {len(train)} bytes to learn, {len(held)} held out, {time.process_time():.0f} s", flush=True)
    effort = {name: getattr(options, name) for name in ("steps", "batch", "rate", "seed")}
    found = {
        "text": {
            "bytes": len(train), "held_out_bytes": len(held),
            "sha256": hashlib.sha256(train + b"\0" + held).hexdigest(),
            "versions": {name: importlib.metadata.version(VERSIONS.get(name, name)) for name in PACKAGES},
            "begins": train[:300].decode(),
        },
        "gzip": after(gzip.compress, train, held), "xz": after(lzma.compress, train, held),
    }  # fmt: skip
    began = time.process_time()
    text, kept = (torch.frombuffer(bytearray(part), dtype=torch.uint8).long() for part in (train, held))
    model, seen = learn(text, kept, **effort)
    model.save_pretrained(options.out)
    found |= {
        "training": effort | {"context": CONTEXT, "on_the_way": seen},
        "parameters": sum(p.numel() for p in model.parameters()), "cpu_seconds": round(time.process_time() - began),
        "bits_per_byte": bits_per_byte(model, kept), "ngram": ngram(train[:2_000_000], held[:100_000]),
        "ngram_on": min(len(train), 2_000_000),
        "sample": sample(model, "The image is"), "machine": describe("cpu"),
    }  # fmt: skip
    write_atomic(options.out / "language.json", (json.dumps(found, indent=1) + "\n").encode())
    print(
        json.dumps({k: found[k] for k in ("bits_per_byte", "gzip", "xz", "ngram", "cpu_seconds", "sample")}, indent=1)
    )


if __name__ == "__main__":
    main()
