"""What stands between a measured suite and its reader: table, page, figures, folder, comparison."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fastattack.bench import figures, folder, summary, table, view
from fastattack.bench.compare import compare
from fastattack.bench.compared import conclusion, print_comparison
from fastattack.bench.figures import write_figures
from fastattack.bench.result import Ceiling, Measured, Result, Row, read
from tests.chromium import load, needs_chromium
from tests.test_report_html import Page

HOSTILE = '<script>alert(1)</script> [bold red]x[/] a"b'
REASON = "wrong: off by 0.5, <b>wanted</b> [link=http://x.example]1e-6[/link]"
FLOOR = (0.001, 0.002, 0.0015, 0.001, 0.003)


def times_of(factor: float) -> tuple[float, ...]:
    return tuple(factor * one for one in FLOOR)


def small() -> Result:
    """Two rows; ours takes 2 floors (a share of 50 %), the best plain 3 (1.5 times ours), the peer 1.8 (0.9)."""
    ours = Measured("auto", "ours", times_of(2), off=1.25e-7)
    plain = Measured("eager", "plain", times_of(4), off=0.0)
    compiled = Measured("compiled", "plain", times_of(3), off=2e-7, first=12.5)
    peer = Measured(HOSTILE, "peer", times_of(1.8), off=1e-7)
    wrong = Measured("rocket", "peer", refused=REASON)
    absent = Measured("art", "peer", refused="not installed: No module named 'art'")
    op = Row(
        "ops", "pgd_step_ linf", "float32", (4, 3, 16, 16), "contiguous", (ours, plain, compiled, peer, wrong, absent),
        FLOOR, "triad", bytes=6_000_000, operations=1.2e7,
    )  # fmt: skip
    fast = Measured("auto", "ours", times_of(1.05), off=0.0)
    attack = Row(
        "attacks", "PGD", "bfloat16", (1, 1, 8, 8), "channels_last", (plain, fast, absent), FLOOR, "passes"
    )  # fmt: skip
    growth = [{"what": "pixels", "x": [1, 2, 4], "seconds": [0.5, 1.0, 2.0], "exponent": 1.0, "low": 0.9, "high": 1.1}]
    return Result(
        {"cpu": "a CPU", "cores": 2, "versions": {"fastattack": "7.8.9"}}, {"suite": "all", "threads": 2},
        (Ceiling("triad", 12.5, "GB/s", "256 MB"), Ceiling("arithmetic", 90.0, "Gflop/s")), (op, attack),
        (f"ops: {HOSTILE}: no such size",), 61.0, {"growth": growth},
    )  # fmt: skip


def shown(result: Result, width: int) -> str:
    return table.text(result, width=width)


def line_of(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return re.split(r"\s{2,}", line)


@pytest.mark.parametrize("width", [80, 120, 160])
def test_the_figures_of_each_way(width: int) -> None:
    """The floor's rounds in order are 1, 1, 1.5, 2, 3 ms. Places 0.2 * 4 = 0.8 and 0.8 * 4 = 3.2 are at 1 and 2.2 ms,
    the median is 1.5; ours takes twice that, so 6 MB in 3 ms are 2 GB/s."""
    text = shown(small(), width)
    head = text[text.index("pgd_step_ linf float32 4x3x16x16") :].split("\n\n")[0]
    must = "6.00 MB must move, 12.0 M operations must be done, at the ceiling (triad) 1.50 ms"
    assert must in " ".join(head.split())
    assert line_of(head, "ours ") == [
        "ours", "auto", "3.00 ms", "2.00 ms .. 4.40 ms", "2.00", "50 %", "1.50", "0.90", "-", "1.2e-07",
    ]  # fmt: skip
    (compiled,) = [line for line in head.splitlines() if line.startswith("plain  compiled")]
    assert re.split(r"\s{2,}", compiled)[2:] == [
        "4.50 ms", "3.00 ms .. 6.60 ms", "1.33", "33 %", "1.00", "0.60", "12.5 s", "2.0e-07",
    ]  # fmt: skip
    assert max(map(len, text.splitlines())) <= max(width, table.LEAST)


def test_refused_ways_have_reasons_and_no_figures() -> None:
    text = shown(small(), 160)
    assert f"rocket: no time, {REASON}" in text
    assert not [line for line in text.splitlines() if "rocket" in line and re.search(r"\d (us|ms|s)\b", line)]
    (peer,) = [line for line in text.splitlines() if line.startswith("peer ")]
    assert HOSTILE in peer, "no markup is read in names"
    assert text.count("art (peer) not installed: No module named 'art'") == 1, "once in the summary, not once a row"
    assert "\x1b" not in shown(replace(small(), errors=("a\x1b[31mb\nc",)), 120)


def test_the_end_says_where_ours_is_behind() -> None:
    result = small()
    assert summary.behind(result) == [
        ("pgd_step_ linf float32 4x3x16x16", f"50.0 % of triad, 0.900 x best peer ({HOSTILE})")
    ], "1/1.05 = 0.95 of the ceiling and 4/1.05 = 3.8 x plain are good"
    text = shown(result, 160)
    assert line_of(text, "ops ")[-3:] == ["1.50 (1.50 .. 1.50)", "0.90 (0.90 .. 0.90)", "50 % (50 % .. 50 %)"]
    assert line_of(text, "attacks ")[-3:] == ["3.81 (3.81 .. 3.81)", "-", "95 % (95 % .. 95 %)"]
    twice = replace(result.rows[1], shape=(2, 1, 8, 8), ways=(replace(result.rows[1].ways[0], seconds=times_of(4.2)),
                                                            *result.rows[1].ways[1:]))  # fmt: skip
    (*_, attacks) = summary.cases(replace(result, rows=(*result.rows, twice)))
    assert attacks.plain is not None
    assert attacks.plain.mean == pytest.approx(math.sqrt(4.2 * 4) / 1.05)
    none = replace(result.rows[0], ways=tuple(way for way in result.rows[0].ways if way.side != "ours"))
    assert summary.behind(replace(result, rows=(none,)))[0][1] == "ours has no time"


def test_nothing_measured() -> None:
    assert shown(Result({}, {}), 120).strip() == "Nothing was measured"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3.2e-7, "0.320 us"),
        (8.12e-6, "8.12 us"),
        (9.996e-4, "1.00 ms"),
        (0.0505, "50.5 ms"),
        (0.8, "800 ms"),
        (75.4, "75.4 s"),
    ],
)
def test_seconds(value: float, words: str) -> None:
    assert view.seconds(value) == words


def test_other_units() -> None:
    assert [view.scaled(v, "B") for v in (0, 512, 65536, 999_600, 805_306_368)] == [
        "0 B", "512 B", "65.5 kB", "1.00 MB", "805 MB",
    ]  # fmt: skip
    assert view.scaled(1.2e9, "operations") == "1.20 G operations"
    assert [view.percent(v) for v in (0.004, 0.0994, 0.0996, 1.2)] == ["0.4 %", "9.9 %", "10 %", "120 %"]
    assert [view.times(v) for v in (None, 0.996, 12.345, 250.2)] == ["-", "1.00", "12.35", "250"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "out"
    assert folder.check(out, figures=True) is None
    assert not list(out.parent.iterdir()), "a check leaves nothing"
    folder.write(out, small())
    return out


def test_round_trip(written: Path) -> None:
    assert folder.result_of(written) == folder.result_of(written / "bench.json") == small()
    assert json.loads((written / "bench.json").read_text())["config"] == {"fastattack": "7.8.9"}
    assert (written / "table.txt").read_text() == shown(small(), table.FILE)
    unknown = replace(small().rows[1], ways=(Measured("auto", "ours", FLOOR, off=math.inf),))
    assert '"off": null' in replace(small(), rows=(unknown,)).as_json()


def test_the_page(written: Path) -> None:
    text = (written / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert not page.all("script")
    for tag, attributes in page.elements:
        for name in ("href", "src", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    assert not re.search(r"https?://(?!x\.example)", text), "but the one in the reason, which is text"
    words = page.text()
    assert HOSTILE in words
    assert f"no time: {REASON}" in words
    for figure in (
        "3.00 ms",
        "2.00 ms .. 4.40 ms",
        "1.2e-07",
        "12.5 s",
        "12.5 GB/s",
        "1.00 (0.90 to 1.10)",
        "a CPU",
        "fastattack 7.8.9",
    ):
        assert figure in words, figure
    (line,) = re.findall(r"<tr><td></td><td>rocket</td>.*?</tr>", text, flags=re.DOTALL)
    assert line.count("<td") == 3, "a name and the reason"
    assert "Not measured" not in words


def test_figures(written: Path) -> None:
    names = {path.stem for path in (written / "figures").iterdir()}
    assert names == {"roofline", "ratios", "attacks", "growth"}
    for name in names:
        assert np.asarray(Image.open(written / "figures" / f"{name}.png").convert("L")).std() > 10, name
        svg = (written / "figures" / f"{name}.svg").read_text()
        assert svg.count("<path") > 10, name
        assert "mathdefault" not in svg


def test_growth_says_what_grows_below_and_cuts_nothing() -> None:
    what = "a name of an op that is longer than its axes are wide " * 2
    one = {
        "what": f"{what}against pixels (batch 1, 3 channels)",
        "x": [1, 2, 4],
        "seconds": [0.5, 1.0, 2.0],
        "exponent": 1.0,
    }
    (axes,) = figures.growth([one]).axes
    assert axes.get_title().replace("\n", " ") == f"{what}exponent 1.00"
    assert axes.get_xlabel() == "pixels (batch 1, 3 channels)"
    assert max(map(len, axes.get_title().split("\n"))) <= 44


def test_what_is_not_there_is_not_measured(tmp_path: Path) -> None:
    empty = Result({"cpu": "x"}, {})
    assert write_figures(tmp_path / "figures", empty) == {}
    folder.write(tmp_path / "out", empty)
    words = Page((tmp_path / "out" / "report.html").read_text()).text()
    assert words.count("Not measured.") == 4 + 2, "four figures, the ratios and the ceilings"
    refused = replace(small().rows[0], ways=(Measured("auto", "ours", refused="wrong: 1"),))
    folder.write(tmp_path / "refused", replace(small(), rows=(refused,), extra={}))
    assert not (tmp_path / "refused" / "figures").exists()


def test_an_old_run_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    folder.write(out, small(), figures=False)
    assert {path.name for path in out.iterdir()} == {"bench.json", "table.txt"}
    with pytest.raises(FileExistsError, match="holds a fastattack bench already"):
        folder.check(out, figures=False)
    folder.check(out, figures=False, overwrite=True)
    before = (out / "bench.json").read_bytes()
    monkeypatch.setattr(table, "text", lambda result: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        folder.write(out, Result({}, {}), overwrite=True)
    assert (out / "bench.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "bench.json").write_text("{}")
    with pytest.raises(FileExistsError, match="holds more than a fastattack bench"):
        folder.check(tmp_path / "mine", figures=False, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"out: .*file"):
        folder.check(tmp_path / "file" / "deeper", figures=False)
    assert folder.check(None, figures=True) is None


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_without_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    words = folder.check(tmp_path / "out", figures=True)
    assert words is not None
    assert re.search(rf"wanted {package}.*pip install 'fastattack\[evaluate\]'", words)
    folder.write(tmp_path / "out", small())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"bench.json", "table.txt"}


def changed(**parts: Any) -> str:
    return json.dumps(json.loads(small().as_json()) | parts)


def row_with(**parts: Any) -> str:
    row = json.loads(small().as_json())["rows"][0]
    return changed(rows=[row | parts])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (small().as_json()[:-200], "is not JSON"),
        ("\udcff", "is not JSON"),
        ("[1, 2]", "wanted format 'fastattack bench', got None"),
        (json.dumps({"config": {}, "images": []}), "wanted format 'fastattack bench', got None"),
        (changed(format="other"), "got 'other'"),
        (changed(version=99), "wanted version 1 of the format, got 99"),
        (changed(rows=[{"case": "x"}]), "lacks a part.*'ways'"),
        (changed(rows=7), "lacks a part"),
        (changed(machine=None), "lacks a part"),
        (row_with(floor=[]), "wanted a time of every round"),
        (row_with(floor=[1.0]), "wanted a time of every round"),
        (row_with(floor=[1.0, 0.0, 1.0, 1.0, 1.0]), "floor: wanted positive numbers"),
        (row_with(floor=[1.0, math.nan, 1.0, 1.0, 1.0]), "floor: wanted positive numbers"),
        (row_with(ways=[{"name": "a", "side": "ours", "seconds": "abcde"}]), "seconds: wanted positive numbers"),
        (row_with(ways=[{"name": "a", "side": "ours", "seconds": [], "more": 1}]), "lacks a part.*more"),
    ],
)
def test_what_is_no_result_is_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "old.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=rf"(?s)compare: {re.escape(str(path))}.*{words}"):
        read(path)


def run(seed: int, *, drift: float = 1.0, slow: float = 1.0, rounds: int = 11, peers: bool = True) -> Result:
    """A made-up run: noise of 1 % a round, a state of the machine that wanders by 2 % and is common to all, ``drift``
    common to all, 1 % of a way's own from run to run; ours of case 3 takes ``slow`` times as long."""
    random, rows = np.random.default_rng(seed), []
    for case in range(8):
        state = drift * 1e-3 * (case + 1) * np.exp(0.02 * np.cumsum(random.normal(size=rounds)) / math.sqrt(rounds))

        def taken(factor: float, state: Any = state) -> tuple[float, ...]:
            own = factor * math.exp(0.01 * random.normal())
            return tuple((own * state * np.exp(0.01 * random.normal(size=rounds))).tolist())

        ways = [Measured("auto", "ours", taken(1.2 * (slow if case == 3 else 1)))]
        if peers:
            ways += [Measured("eager", "plain", taken(3)), Measured("compiled", "plain", taken(1.3))]
        rows.append(Row("ops", f"case {case}", "float32", (1, 1, 8, 8), "contiguous", tuple(ways), taken(1), "triad"))
    return Result({"cpu": "a CPU", "torch": "2.6.0"}, {"threads": 2, "quick": False}, rows=tuple(rows))


def test_the_same_code_is_not_flagged() -> None:
    """A drift of 5 % up and down that the floor shares, five times 24 ways."""
    flags = []
    for seed in range(5):
        found = compare(run(2 * seed), run(2 * seed + 1, drift=1.05 if seed % 2 else 0.95))
        assert len(found.changes) == 24
        flags += found.of("slower") + found.of("faster")
    assert flags == []


@pytest.mark.parametrize(("slow", "verdict"), [(1.15, "slower"), (1 / 1.15, "faster")])
def test_a_real_change_is_flagged_and_nothing_else(slow: float, verdict: Any) -> None:
    for seed in range(3):
        found = compare(run(2 * seed), run(2 * seed + 1, slow=slow))
        (one,) = found.of("slower") + found.of("faster")
        assert (one.row, one.way, one.verdict) == ("case 3 float32 1x1x8x8", "auto", verdict)
        assert one.to_floor.low < one.to_floor.value < one.to_floor.high
        assert one.to_floor.value == pytest.approx(slow, rel=0.06)
        assert one.new / one.old == pytest.approx(one.ratio.value)
    assert f"1 {verdict}" in conclusion(found)


def test_a_ratio_that_can_be_worked_out() -> None:
    """No noise at all: the interval is a point, and the way took twice as long against a floor that took 1.25."""
    row = small().rows[0]
    ways = tuple(replace(way, seconds=tuple(2 * s for s in way.seconds)) for way in row.ways[:1])
    slower = replace(row, ways=ways, floor=times_of(1.25))
    found = compare(replace(small(), rows=(replace(row, ways=row.ways[:1]),)), replace(small(), rows=(slower,)))
    (one,) = found.changes
    assert (one.old, one.new) == (0.003, 0.006)
    assert one.to_floor.value == one.to_floor.low == one.to_floor.high == pytest.approx(1.6)
    assert one.ratio.value == pytest.approx(2)
    assert found.noise is None


def test_another_machine_rests_on_the_floor_alone() -> None:
    old, new = run(0), run(1, drift=3.0)
    assert not compare(old, new).of("slower"), "three times as slow, and so is the floor"
    other = replace(new, machine={**new.machine, "cpu": "another"})
    assert not compare(old, other).same_machine
    assert not compare(old, other).of("slower")
    half = replace(run(1, drift=0.5, slow=1.15), machine=other.machine)
    (one,) = compare(old, half).of("slower")
    assert one.ratio.value < 1 < one.to_floor.value
    console = Console(file=io.StringIO(), width=160)
    print_comparison(console, compare(old, half))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Not the same machine or threads" in text
    assert "machine cpu: a CPU before, another now" in text
    assert one.way in text
    assert "case 3" in text


def test_differences_in_words() -> None:
    old = run(0)
    versions = replace(old, machine={**old.machine, "torch": "2.7.0"}, settings={**old.settings, "quick": True})
    found = compare(old, versions)
    assert found.same_machine, "versions are what a comparison is for"
    assert found.differences == ("machine torch: 2.6.0 before, 2.7.0 now", "settings quick: False before, True now")
    assert not compare(old, replace(old, settings={**old.settings, "threads": 1})).same_machine
    shapes = replace(old, settings={**old.settings, "shapes": ((1, 1, 8, 8),)})
    assert compare(replace(old, settings=json.loads(shapes.as_json())["settings"]), shapes).differences == ()
    nested = replace(old, machine={**old.machine, "versions": {"triton": "3"}, "gpu": {"name": "a"}})
    assert compare(old, nested).differences == (
        "machine versions.triton: nothing before, 3 now", "machine gpu.name: nothing before, a now",
    )  # fmt: skip
    assert not compare(old, nested).same_machine


def test_what_only_one_run_has() -> None:
    old = small()
    op, attack = old.rows
    peer = replace(op.ways[3], seconds=(), refused=REASON)
    rocket = replace(op.ways[4], seconds=times_of(9), refused=None)
    new_op = replace(op, ways=(*op.ways[:2], peer, rocket, Measured("new [x]", "ours", times_of(1))))
    found = compare(old, replace(old, rows=(new_op, replace(attack, dtype="float16"))))
    name = "pgd_step_ linf float32 4x3x16x16"
    assert found.only_old == ("PGD bfloat16 1x1x8x8 channels_last", f"{name}: compiled", f"{name}: art")
    assert found.only_new == ("PGD float16 1x1x8x8 channels_last", f"{name}: new [x]")
    assert found.lost == (f"{name}: {HOSTILE} {REASON}",)
    assert found.found == (f"{name}: rocket was {REASON}",)
    assert {one.verdict for one in found.changes} == {"same"}
    console = Console(file=io.StringIO(), width=200)
    print_comparison(console, found)
    assert f"{HOSTILE} {REASON}" in console.file.getvalue()  # type: ignore[attr-defined]
    other = compare(old, replace(old, rows=(replace(op, bytes=7), replace(attack, floor_name="copy"))))
    assert other.changes == ()
    assert other.other_work == (
        f"{name}: bytes was 6000000, is 7", "PGD bfloat16 1x1x8x8 channels_last: floor was passes, is copy",
    )  # fmt: skip


def test_few_rounds_give_no_verdict() -> None:
    """Of 4 and 4 rounds, full separation has probability 2/70 by chance; of 5 and 5, 2/252."""
    assert {one.verdict for one in compare(run(0, rounds=4), run(1, rounds=4, slow=3)).changes} == {"unknown"}
    assert compare(run(0, rounds=5), run(1, rounds=5, slow=3)).of("slower")
    words = conclusion(compare(run(0, rounds=4, peers=False), run(1, rounds=4, peers=False)))
    assert "8 have too few rounds for a verdict" in words or "8 ways compared" in words


def test_bad_arguments_of_compare() -> None:
    old = small()
    with pytest.raises(ValueError, match="confidence: wanted a share"):
        compare(old, old, confidence=1.0)
    with pytest.raises(ValueError, match="least: wanted a share"):
        compare(old, old, least=-0.1)
    with pytest.raises(ValueError, match="new: wanted one row for each name, got two of PGD bfloat16"):
        compare(old, replace(old, rows=(*old.rows, old.rows[1])))


@needs_chromium
def test_in_chromium(written: Path, tmp_path: Path) -> None:
    """No message in the console: nothing in the page breaks its own content security policy."""
    seen = load(written / "report.html", tmp_path / "profile", width=800, dark=True)
    assert "PGD bfloat16 1x1x8x8 channels_last" in seen
