"""report.html and its figures: structure, escaping, missing numbers, and a real browser."""

from __future__ import annotations

import base64
import copy
import html
import io
import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastattack.report import figures
from fastattack.report.conclusions import conclude, warnings
from fastattack.report.defended import defended_findings, defended_rows
from fastattack.report.html import _examples, write_report
from fastattack.report.study import MEASURES, Measure, eps_label, grid, number, short_labels
from tests.chromium import load, needs_chromium, with_script
from tests.report_cases import build

HOSTILE = ("<script>alert(1)</script>", "a\"b&c'd", "--></style><img src=x onerror=alert(1)>")
LONG = tuple(f"denoiser_trained_by_somebody_with_lr_1e-4_and_patches_of_64_run_{k}" for k in (1, 2))
VOID = {"meta", "link", "img", "input", "br", "path", "circle"}


class Page(HTMLParser):
    """Elements with their attributes and the text in each, as a browser would find them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def text(self) -> str:
        return " ".join(data for tag, data in self.words if tag not in ("script", "style"))


def written(out: Path, results: dict[str, Any]) -> tuple[str, Page]:
    write_report(out, results)
    text = (out / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str, Page]:
    """Eight models, two failed, with names that would break out of HTML, attributes, CSS, comments and mathtext."""
    out = tmp_path_factory.mktemp("hostile")
    results = build(
        out,
        sources=("dncnn_50", *HOSTILE, *LONG),
        others=("$x_1$", "_hidden"),
        eps=(3 / 255, 5 / 255),
        failed={"dncnn_50": "RuntimeError: <b>size</b> mismatch", "_hidden": "ImportError: no bm3d"},
        skipped=(("/data/<img src=y>.png", "truncated & <i>bad</i>"), ("/data/" + "n" * 300, "w" * 300)),
    )
    results["config"]["data"] = ["/data/</script><script>alert(2)</script>"]
    results["models"][LONG[0]]["defense"] = {
        "model": HOSTILE[1], "label": "x", "spec": "purifier:<b>t</b>", "sha256": None, "random": True,
        "how": "through <b>it</b>",
    }  # fmt: skip
    return out, results, *written(out, results)


def test_nothing_is_loaded_from_elsewhere(hostile: tuple[Path, dict[str, Any], str, Page]) -> None:
    _, results, text, page = hostile
    assert not re.search(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", re.sub(r"data:image/png;base64,[^\"]+", "", text))
    for tag, attrs in page.elements:
        for name in ("href", "src", "srcset", "xlink:href", "action", "data", "poster"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
    assert page.open == [], "every element is closed"
    sources = [attrs["src"] for attrs in page.all("img") if "src" in attrs]
    assert len(sources) == 6 * len(results["examples"]) == 6 * 2 * 5
    for source in sources:
        assert source is not None
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data, validate=True))).size == (56, 40)


def test_names_and_messages_are_text(hostile: tuple[Path, dict[str, Any], str, Page]) -> None:
    _, results, text, page = hostile
    assert len(page.all("script")) == 1
    assert len(page.all("style")) == 1
    assert not page.all("i") or all(attrs == {} for attrs in page.all("i"))
    assert "onerror=alert(1)>" not in re.sub(r"&lt;img src=x onerror=alert\(1\)&gt;", "", text)
    shown = page.text()
    for name in results["models"]:
        assert name in shown, name
    for message in ("RuntimeError: <b>size</b> mismatch", "ImportError: no bm3d", "truncated & <i>bad</i>"):
        assert message in shown, message
    assert "/data/<img src=y>.png" in shown
    assert "/data/</script><script>alert(2)</script>" in shown
    assert HOSTILE[1] in [attrs.get("title") for attrs in page.all("th")]


def test_defended_models_have_a_section(hostile: tuple[Path, dict[str, Any], str, Page]) -> None:
    """Blind: crafted on the model alone; adaptive: crafted on the defended one; the lower one in bold."""
    _, results, text, page = hostile
    section = text[text.index('<section id="defences">') : text.index('<section id="transfer">')]
    assert section.count("<tr>") == 1 + len(results["matrices"])
    for matrix in results["matrices"]:
        here, alone = matrix["targets"].index(LONG[0]), matrix["sources"].index(HOSTILE[1])
        after = matrix["psnr_after"]["mean"]
        figures = [after[alone][alone], matrix["psnr_before"]["mean"][here], after[alone][here], after[here][here]]
        low = min(figures[2:])
        want = "".join(f"<td><b>{f:.2f}</b>" if f == low else f"<td>{f:.2f}" for f in figures)
        assert want in re.sub(r"<small>[^<]*</small></td>", "", section)
    assert "through <b>it</b>" in page.text(), "escaped"
    assert "known to the attack" in section
    assert {"href": "#defences"} in page.all("a")


def test_ids_are_unique(hostile: tuple[Path, dict[str, Any], str, Page]) -> None:
    page = hostile[3]
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = [v[1:] for _, a in page.elements for k in ("xlink:href", "href") if (v := a.get(k)) and v[0] == "#"]
    assert set(used) <= set(ids)


def test_cells_hold_the_numbers(hostile: tuple[Path, dict[str, Any], str, Page]) -> None:
    """Every number of the four matrices is in the page, and every null says why."""
    _, results, text, page = hostile
    titles = [attrs.get("title") for attrs in page.all("td")]
    matrix = results["matrices"][1]
    for i, source in enumerate(matrix["sources"]):
        for j, target in enumerate(matrix["targets"]):
            mean, low, high = (matrix["drop"][part][i][j] for part in ("mean", "low", "high"))
            where = f"{source} → {target}: "
            if mean is not None:
                want = f"{where}{mean:.2f}\u00a0dB (95\u00a0% interval {low:.2f} to {high:.2f})"
                assert want in titles
            else:
                broken = next(name for name in (source, target) if results["models"][name]["failed"])
                assert f"{where}{broken} failed: {results['models'][broken]['failed']}" in titles
    assert text.count("<b>failed</b>") > 0
    assert text.count("<b>–</b>") > 0, "no own attack, no normalised transfer: not defined, not failed"


def test_every_figure_is_png_and_svg_and_not_blank(hostile: tuple[Path, dict[str, Any], str, Page]) -> None:
    out, _, text, _ = hostile
    names = {path.stem for path in (out / "figures").iterdir()}
    kinds = [*(measure.key for measure in MEASURES), "spectrum"]
    assert names == {*(f"{kind}_eps_{k}-255" for kind in kinds for k in (3, 5)), "robustness", "typicality"}
    for name in names:
        pixels = np.asarray(Image.open(out / "figures" / f"{name}.png").convert("L"))
        assert pixels.std() > 10, name
        svg = (out / "figures" / f"{name}.svg").read_text()
        assert svg.count("<path") > 20, name
        assert "<script" not in svg
        assert f'id="{name}-figure_1"' in text


def test_one_choice_for_every_eps(hostile: tuple[Path, dict[str, Any], str, Page]) -> None:
    _, _, text, page = hostile
    assert [attrs.get("data-pick") for attrs in page.all("button") if "data-pick" in attrs] == ["0", "1"]
    for k in (0, 1):
        assert text.count(f'class="one" data-eps="{k}"') == 4 + 2, "four measures, PSNR and SSIM"


def test_one_model(tmp_path: Path) -> None:
    results = build(tmp_path, sources=("embedded",), others=(), eps=(5 / 255,))
    text, page = written(tmp_path, results)
    assert "data-pick" not in re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL), "nothing to choose from"
    own = results["matrices"][0]
    drop, before, after = own["drop"]["mean"][0][0], own["psnr_before"]["mean"][0], own["psnr_after"]["mean"][0][0]
    want = f"At ε = 5/255 the attack costs embedded {drop:.2f}\u00a0dB ({before:.2f} → {after:.2f}\u00a0dB)."
    assert conclude(results)[0] == want
    assert want in page.text()


def test_nothing_worked(tmp_path: Path) -> None:
    """All models failed: no number at all, and the report still says so."""
    results = build(tmp_path, sources=("a", "b"), others=(), eps=(5 / 255,), failed={"a": "no", "b": "no"})
    _, page = written(tmp_path, results)
    assert "No model gave a number." in page.text()
    assert warnings(results) == ["2 of 2 models failed: a, b."]
    results["matrices"] = []
    assert conclude(results) == ["Nothing was measured."]
    written(tmp_path, results)


def test_findings_are_computed() -> None:
    """Two models and a target with numbers that can be worked out by hand."""

    def same(value: Any) -> dict[str, Any]:
        return {"mean": value, "low": value, "high": value}

    matrix = {
        "eps": 5 / 255, "sources": ["a", "b"], "targets": ["a", "b", "t"], "images": 3,
        "psnr_before": same([30.0, 31.0, 29.0]), "psnr_after": same([[26.0, 30.0, 28.5], [28.0, 29.0, 28.0]]),
        "drop": same([[4.0, 1.0, 0.5], [2.0, 2.0, 1.0]]), "normalised": same([[1.0, 0.5, None], [0.5, 1.0, None]]),
        "similitude": same([[1.0, 0.5], [0.5, 1.0]]), "shared": same([[1.0, 0.25], [0.75, 1.0]]),
    }  # fmt: skip
    row = {
        "eps": 5 / 255, "source": "a", "typicality_after": same(0.07), "spread": 0.01, "gain": same(1.05),
        "spectrum": [100.0, 2.0, 0.5],
    }  # fmt: skip
    results = {
        "config": {"confidence": 0.9, "shared_db": 1.0},
        "models": {name: {"failed": None} for name in "abt"},
        "summary": {"complete": True},
        "skipped": [],
        "matrices": [{**matrix, "eps": 3 / 255, "drop": same([[9.0] * 3] * 2)}, matrix],
        "statistics": [row, {**row, "eps": 3 / 255, "gain": same(7.0)}],
    }
    assert [text.replace("\u00a0", " ") for text in conclude(results)] == [
        "At ε = 5/255, each model under the attack crafted on itself: b loses least, 2.00 dB (31.00 → 29.00 "
        "dB); a loses most, 4.00 dB (30.00 → 26.00 dB). Their 90 % intervals are apart.",
        "An attack costs another model 50 % of what that model's own attack costs it, on average: from 50 % (a → b) to "
        "50 % (a → b).",
        "Under attacks crafted on other models t loses least, 0.75 dB on average, and a most, 2.00 dB.",
        "Two models share an adversarial sample (at least 1 dB lost on both) on 50 % of the images.",
        "The attacked noise leaves the typical shell for 1 of 1 sources; furthest for a: 0.0700 nats per pixel against "
        "±0.0200.",
        "The perturbations are low-frequency: 100 times the power of white noise in the lowest radial band, 0.5 times "
        "in the highest.",
        "Of the perturbation, 1.05 times its norm comes out of the denoiser.",
    ]


def test_defended_models_by_hand() -> None:
    """Behind p: 28 dB where nothing is attacked, 27 under the blind attack, 24 under the one through it."""

    def same(value: Any) -> dict[str, Any]:
        return {"mean": value, "low": value, "high": value}

    told = {"model": "a", "label": "p", "spec": "purifier:t_star=6", "sha256": None, "random": True, "how": "full"}
    results = {
        "config": {"eot": 4},
        "models": {"a": {"failed": None}, "a+p": {"failed": None, "defense": told}, "t": {}, "t+p": {"defense": told}},
        "summary": {"complete": True},
        "skipped": [],
        "matrices": [{
            "eps": 0.02, "sources": ["a", "a+p"], "targets": ["a", "a+p", "t", "t+p"],
            "psnr_before": same([30.0, 28.0, 31.0, 29.0]),
            "psnr_after": same([[20.0, 27.0, 30.0, 28.5], [25.0, 24.0, 30.5, 28.7]]),
        }],
    }  # fmt: skip
    (row,) = defended_rows(results)
    figures = [row.alone, row.clean, row.blind, row.adaptive]
    assert [f.mean for f in figures if f is not None] == [20.0, 28.0, 27.0, 24.0]
    assert row.counts is row.adaptive
    assert (row.how, row.noise, row.defense) == ("full", "unknown, 4 draws averaged", "purifier:t_star=6")
    (sentence,) = defended_findings(results, 0.02)
    assert sentence.replace("\u00a0", " ") == (
        "a+p has 27.00 dB under the attack that does not know the defence, where a alone is left with 20.00 dB, and "
        "24.00 dB under the one through it (not attacked: 28.00 dB): it saves 4.00 dB under attack."
    )
    assert warnings(results) == []
    assert defended_findings(results, 0.03) == []
    results["matrices"][0]["psnr_after"] = same([[20.0, 23.0, 30.0, 28.5], [25.0, 24.0, 30.5, 28.7]])
    (row,) = defended_rows(results)
    assert row.counts is row.blind
    results["matrices"][0]["psnr_after"]["mean"][0][0] = 25.5
    assert "it costs 2.50\u00a0dB under attack" in defended_findings(results, 0.02)[0]
    assert len(warnings(results)) == 1
    assert "less than the blind one for a+p: its gradients mislead" in warnings(results)[0]
    results["models"]["a+p"]["defense"]["random"] = False
    assert defended_rows(results)[0].noise == ""


def test_a_purified_picture_stands_between_attacked_and_restored(tmp_path: Path) -> None:
    results = build(tmp_path, sources=("a", "a+p"), others=(), eps=(5 / 255,))
    for example in results["examples"]:
        if example["source"] == "a+p":
            example["files"]["purified"] = example["files"]["attacked"]
            example["psnr"]["purified"] = 22.5
    shown = _examples(tmp_path, results)
    assert [[p.key for p in example["pictures"]] for example in shown["a"]] == [
        ["clean", "noisy", "attacked", "restored", "restored_attacked", "perturbation"]
    ] * 2
    for example in shown["a+p"]:
        keys = [p.key for p in example["pictures"]]
        assert keys == ["clean", "noisy", "attacked", "purified", "restored", "restored_attacked", "perturbation"]
        assert example["pictures"][3].detail == "22.50\u00a0dB"


def test_cell_shades_and_signs() -> None:
    """The scale ends at the largest magnitude; a negative drop (the attack helps) has the other colour."""
    results = {"config": {"confidence": 0.95}, "models": {}}
    block = {"mean": [[4.0, -1.0]], "low": [[None, -2.0]], "high": [[None, math.inf]]}
    matrix = {"eps": 0.02, "sources": ["a"], "targets": ["a", "b"], "drop": block}
    (first, second), *_ = grid(results, matrix, MEASURES[0]).cells
    assert (first.shade, first.text, first.interval) == (1.0, "4.00", "")
    assert (second.shade, second.text, second.interval) == (-0.25, "−1.00", "−2.00 to ?")
    assert figures.cell_colours(first)[1] == "#ffffff"
    assert figures.cell_colours(second)[1] == "#000000"


@pytest.mark.parametrize(
    ("eps", "label"), [(5 / 255, "5/255"), (0.5 / 255, "0.5/255"), (0.3, "76.5/255"), (0.1234, "0.1234")]
)
def test_eps_label(eps: float, label: str) -> None:
    assert eps_label(eps) == label


def test_small_texts() -> None:
    assert [number(v, 2) for v in (-0.001, -1.5, 0.0)] == ["0.00", "−1.50", "0.00"]
    labels = short_labels([*LONG, "b", "x" * 25 + "1" + "x" * 25, "x" * 25 + "2" + "x" * 25])
    assert len(set(labels.values())) == 5
    assert max(map(len, labels.values())) <= 24
    assert Measure("k", "t", "a", digits=0, factor=100.0).text(0.256) == "26"


def test_same_results_same_bytes(tmp_path: Path) -> None:
    """And in-memory NaN reads as the null of results.json."""
    results = build(tmp_path / "a", sources=("a", "b"), others=(), eps=(5 / 255,), failed={"b": "why"})
    build(tmp_path / "b", sources=("a", "b"), others=(), eps=(5 / 255,), failed={"b": "why"})
    nan = copy.deepcopy(results)
    nan["matrices"][0]["drop"]["mean"][0][1] = math.nan
    write_report(tmp_path / "a", json.loads(json.dumps(results)))
    write_report(tmp_path / "b", nan)
    for path in sorted((tmp_path / "a").rglob("*.[hsp]*")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path


def test_a_bad_example_leaves_the_old_report(tmp_path: Path) -> None:
    results = build(tmp_path, sources=("a",), others=(), eps=(5 / 255,))
    (tmp_path / "report.html").write_text("old")
    file = tmp_path / results["examples"][0]["files"]["noisy"]
    file.write_text("secret words, and no picture at all")
    with pytest.raises(ValueError, match=f"wanted a PNG image as example, got {re.escape(str(file))}"):
        write_report(tmp_path, results)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"noisy\.png"):
        write_report(tmp_path, results)
    assert (tmp_path / "report.html").read_text() == "old"
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    results = build(tmp_path, sources=("a",), others=(), eps=(5 / 255,))
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RuntimeError, match=rf"report: wanted {package}.*pip install 'fastattack\[evaluate\]'"):
        write_report(tmp_path, results)


PROBE = (Path(__file__).parent / "report_probe.js").read_text(encoding="utf-8")
OUTER = """<!doctype html><html><meta name="color-scheme" content="light dark"><body style="margin:0">
<script>addEventListener("message", (event) => {{ document.documentElement.dataset.seen = event.data; }});</script>
<iframe src="page.html" style="border:0;width:{width}px;height:800px"></iframe></body></html>"""


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(375, False), (1280, True)])
def test_in_chromium(hostile: tuple[Path, dict[str, Any], str, Page], tmp_path: Path, width: int, dark: bool) -> None:
    """The scripts run without a message, nothing is wider than the window, and slider, zoom and switches work."""
    with_script(hostile[0] / "report.html", tmp_path / "page.html", PROBE)
    outer = tmp_path / "outer.html"  # a window has a least width, a frame has none
    outer.write_text(OUTER.format(width=width), encoding="utf-8")
    seen = _seen(load(outer, tmp_path / "profile", width=max(width, 800), dark=dark))
    assert seen["ready"] == "true"
    assert seen["hidden"] == 0
    assert seen["viewport"] == width
    assert seen["page"] == width, "nothing but the boxes scrolls sideways"
    assert seen["splits"] == ["50%", "20%", "75%", "100%", "100%", "40%"]
    assert seen["focus"] is True
    assert seen["clip"] == "inset(0px 0px 0px 40%)"
    assert seen["shown"] == [[3, 4], [0, 4]]
    assert seen["tags"] == ["Clean", "Restored, attacked"]
    assert seen["zoom"] == "4×"
    assert seen["panned"] is True
    assert seen["together"] == 1
    assert seen["eps"] == ["1", "0"]
    light_then_dark = ["rgb(247, 247, 245)", "rgb(17, 20, 23)"]
    assert [seen["background"], seen["toggled"]] == (light_then_dark[::-1] if dark else light_then_dark)
    assert seen["back"] == seen["background"]
    assert seen["contrast"] >= 4.5
    assert seen["dialog"] is True
    assert seen["widths"][0] == pytest.approx(round(seen["widths"][0]))
    assert seen["widths"][1] == pytest.approx(2)
    assert seen["pixels"] == "pixelated"
    assert seen["closed"] is True


def _seen(dom: str) -> dict[str, Any]:
    found = re.search(r'<html[^>]* data-seen="([^"]*)"', dom)
    assert found, "the probe did not finish"
    return dict(json.loads(html.unescape(found[1])))


@needs_chromium
def test_screenshots_differ_by_theme(hostile: tuple[Path, dict[str, Any], str, Page], tmp_path: Path) -> None:
    """What is seen: the page is painted, light and dark."""
    means = []
    for dark in (False, True):
        shot = tmp_path / f"{dark}.png"
        load(hostile[0] / "report.html", tmp_path / "profile", width=900, height=1400, dark=dark, shot=shot)
        pixels = np.asarray(Image.open(shot).convert("L"), dtype=float)
        assert pixels.std() > 10
        means.append(pixels.mean())
    assert means[0] > 200
    assert means[1] < 70
