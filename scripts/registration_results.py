"""The figures of docs/results/registration.md: `python scripts/registration_results.py LANGUAGE`.

LANGUAGE is the folder that scripts/train_language.py makes. Trains the nets (each is kept in --folder, a run that was
cut off goes on), then measures them and the classical methods as they are, under attack, and what attacks carry over.
Every row is written to the JSON file as soon as it is made, and made again only where its settings or the net's weights
have changed. The tables go below the heading "## Tables" of the Markdown file, whose text above stays. One thread.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from miga_results import put_tables
from purification.store import Store
from registration import cost, data, nets, rows, tables, volume
from torch import Tensor

from fastattack.bench.machine import describe
from fastattack.files import write_atomic

SECTIONS = ("train", "clean", "attacks", "transfer", "universal", "queries", "cost", "volume")


class Bench:
    """The nets, trained when they are first asked for, and where rows go."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.effort = nets.Effort(steps=options.steps)
        self.nets: dict[str, Any] = {}
        self.took: dict[str, Any] = {}

    def store(self, section: str) -> Store:
        return Store(self.options.json, section, {}, "")

    def net(self, name: str) -> Any:
        if name not in self.nets:
            folder, language = self.options.folder, self.options.language
            self.nets[name], self.took[name] = nets.trained(name, language, folder, self.effort)
            print(f"net {name}: {self.took[name]}", flush=True)
        return self.nets[name]

    def train(self) -> None:
        for name in (*self.options.nets, *self.options.again):
            self.net(name)

    def clean(self) -> None:
        count = self.options.count
        sets = {"held out": data.held_out(count), "learnt": data.learnt(count), "other head": data.second(count // 2)}
        store = self.store("clean")
        for name, model in {nets.NONE: nets.Still(), **self.classical()}.items():
            kept = {k: v for k, v in sets.items() if k != "learnt"} if name != nets.NONE else sets
            rows.keep(store, name, lambda m=model, s=kept: rows.clean(m, s, {}), count=count, model=repr(model))
        for name in (*self.options.nets, *self.options.again):
            model = self.net(name)
            make = lambda m=model, n=name: rows.clean(m, sets, self.took[n])  # noqa: E731
            rows.keep(store, name, make, count=count, model=rows.identity(model))

    def classical(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {k: v for k, v in nets.classical().items() if nets.CLASSICAL[k] in self.options.classical}

    def attacks(self) -> None:
        some, store = data.held_out(self.options.count), self.store("attacks")
        plan = rows.attacks()
        for name in self.options.nets:
            model = self.net(name)
            for kind, how in plan.items():
                make = lambda m=model, h=how: rows.attacked(m, some, **h)  # noqa: E731
                settings = {"count": len(some.pair), "steps": rows.STEPS, "model": rows.identity(model)}
                rows.keep(store, f"{name}: {kind}", make, **settings)
        for name, model in self.classical().items():
            for kind, how in plan.items():
                if how["objective"] is None and how["side"] == "both":
                    few = some.first(self.options.slow)
                    make = lambda m=model, h=how, s=few: rows.attacked(m, s, **h)  # noqa: E731
                    rows.keep(store, f"{name}: {kind}", make, count=len(few.pair), model=repr(model))

    def transfer(self) -> None:
        some = data.held_out(self.options.count).first(self.options.slow)
        sources = {name: self.net(name) for name in self.options.nets}
        known = {name: rows.identity(model) for name, model in sources.items()}
        others = self.classical()
        for eps in self.options.transfer_eps:
            make = lambda e=eps: rows.carried(sources, others, some, e)  # noqa: E731
            settings = {"count": len(some.pair), "steps": rows.STEPS, "models": known, "others": list(others)}
            rows.keep(self.store("transfer"), f"both, {eps}", make, **settings)

    def universal(self) -> None:
        count = self.options.count
        train, held, store = data.learnt(2 * count), data.held_out(count), self.store("universal")
        for name in self.options.nets:
            model = self.net(name)
            make = lambda m=model: rows.for_all(m, train, held, eps=8, steps=rows.STEPS)  # noqa: E731
            rows.keep(store, name, make, count=count, eps=8, steps=rows.STEPS, model=rows.identity(model))

    def queries(self) -> None:
        some, store = data.held_out(self.options.few), self.store("queries")
        everyone = {
            **dict(list(self.classical().items())[:1]),
            **{name: self.net(name) for name in self.options.nets[:1]},
        }
        for name, model in everyone.items():
            make = lambda m=model: rows.queried(m, some, eps=8, queries=self.options.queries)  # noqa: E731
            settings = {"count": len(some.pair), "eps": 8, "queries": self.options.queries}
            rows.keep(store, name, make, **settings, model=rows.identity(model))

    def cost(self) -> None:
        some, store = data.held_out(self.options.count), self.store("cost")
        for name in self.options.nets[:2]:
            model = self.net(name)
            rows.keep(store, name, lambda m=model: cost.of_warp(m, some), count=len(some.pair))

    def volume(self) -> None:
        some, store, steps = volume.held_out(8), self.store("volume"), self.options.volume_steps
        rows.keep(store, nets.NONE, lambda: rows.clean(nets.Still(), {"held out": some}, {}), count=8)
        for name, language in {nets.PLAIN: None, nets.LORA: self.options.language}.items():

            def make(name: str = name, language: Path | None = language) -> dict[str, Any]:
                model, took = volume.trained(language, self.options.folder / f"3d {name}".replace(" ", "-"), steps)
                return rows.clean(volume.one_by_one(model), {"held out": some}, took)

            rows.keep(store, name, make, count=8, steps=steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language", type=Path, help="folder of the tiny language model")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--nets", nargs="+", choices=nets.NETS, default=list(nets.NETS), metavar="NET")
    parser.add_argument("--again", nargs="*", choices=nets.AGAIN, default=list(nets.AGAIN), metavar="NET")
    parser.add_argument("--classical", nargs="*", default=list(nets.CLASSICAL.values()), metavar="METHOD")
    parser.add_argument("--steps", type=int, default=nets.Effort.steps, help="of each net's training")
    parser.add_argument("--count", type=int, default=24, help="held-out pairs; half as many of the other head")
    parser.add_argument("--slow", type=int, default=12, help="pairs of what classical methods take part in")
    parser.add_argument("--few", type=int, default=6, help="pairs for attacks without gradients")
    parser.add_argument("--queries", type=int, default=100, help="of an attack without gradients")
    parser.add_argument("--transfer-eps", type=int, nargs="+", default=[4], metavar="EPS")
    parser.add_argument("--volume-steps", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path("out/registration"), help="where trained nets are kept")
    parser.add_argument("--json", type=Path, default=Path("docs/results/registration.json"))
    parser.add_argument("--markdown", type=Path, default=Path("docs/results/registration.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options)
    for section in options.only:
        getattr(bench, section)()
    results = json.loads(options.json.read_text()) if options.json.is_file() else {}
    said = json.loads((options.language / "language.json").read_text())
    results |= {"machine": describe("cpu"), "data": data.describe(), "language": said, "steps": bench.effort.steps}
    write_atomic(options.json, (json.dumps(results, indent=1) + "\n").encode())
    put_tables(options.markdown, tables.markdown(results))


if __name__ == "__main__":
    main()
