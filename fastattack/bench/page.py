"""report.html of a run of the suite: one file that needs no network."""

from __future__ import annotations

from typing import Any

from ..report.html import own_text, page_environment
from . import summary, view
from .figures import ALL, exponent
from .result import Result, Row
from .table import span


def page(result: Result, figures: dict[str, str]) -> str:
    """The HTML; ``figures``: of `figures.write_figures`.

    Raises:
        ImportError: no jinja2; it comes with the extra "evaluate".
    """
    from markupsafe import Markup

    environment = page_environment()
    failed, missing = summary.without_time(result)
    return environment.get_template("bench.html.j2").render(
        version=result.fastattack,
        facts=_facts(result),
        ceilings=[(view.one_line(one.name), view.ceiling(one), one.detail) for one in result.ceilings],
        cases=[
            (one.suite, one.case, one.dtype, one.rows, span(one.plain), span(one.peer), span(one.share, view.percent))
            for one in summary.cases(result)
        ],
        behind=summary.behind(result),
        close=summary.CLOSE,
        failed=failed,
        missing=missing,
        errors=result.errors,
        plots=[(name, about, Markup(figures[name]) if name in figures else None) for name, about in ALL.items()],
        growth=[(one["what"], exponent(one)) for one in result.extra.get("growth", ())],
        suites=_suites(result),
        titles=view.TITLES.figures,
        machine=result.machine,
        settings=result.settings,
        style=own_text(environment, "report.css"),
    )


def _facts(result: Result) -> list[tuple[str, str]]:
    ways = [way for row in result.rows for way in row.ways]
    return [
        ("Rows", str(len(result.rows))),
        ("Ways", f"{sum(bool(way.seconds) for way in ways)} timed, {sum(not way.seconds for way in ways)} not"),
        ("Rows behind", str(len(summary.behind(result)))),
        ("Time", view.seconds(result.seconds) if result.seconds else "–"),
    ]


def _suites(result: Result) -> dict[str, list[dict[str, Any]]]:
    """Suite -> its rows."""
    suites: dict[str, list[dict[str, Any]]] = {}
    for row in result.rows:
        suites.setdefault(row.suite, []).append(_row(row))
    return suites


def _row(row: Row) -> dict[str, Any]:
    return {
        "title": view.title(row),
        "must": view.must(row),
        "lines": [view.line(row, way) for way in row.timed()],
        "refused": view.refused(row),
    }
