"""The folder of `fastattack certify`: a row for each image as it comes, then the record, curves and one page."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluate.folder import EvaluationFolder
from ..extras import require
from ..job import Row
from .figures import DASHES, LINES, save_figures
from .html import own_text, page_environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NORMS = {"l1": "ℓ1", "l2": "ℓ2", "linf": "ℓ∞"}


class CertificationFolder(EvaluationFolder):
    """As the folder of an evaluation: it grows as OUT.partial, from which ``resume`` goes on.

    Raises:
        RuntimeError: no jinja2 or no matplotlib; they come with the extra "evaluate".
    """

    kind = "certification"
    record = "certificates.json"
    files = frozenset({"run.json", "report.html"})
    folders = frozenset({"shards", "figures"})
    endings = frozenset({".png", ".svg", ".json"})

    def __init__(self, out: Path, *, resume: bool = False, overwrite: bool = False) -> None:
        for module in ("jinja2", "matplotlib.figure"):
            require(module, what="report", extra="evaluate")
        super().__init__(out, resume=resume, overwrite=overwrite)

    def finish(self, config: dict[str, Any], rows: list[Row], summary: dict[str, Any]) -> None:
        """Write certificates.json, the figure and the page, and put the folder in its place."""
        report = {"config": config, "summary": summary, "images": rows}
        with self.named():
            self.write_record(report)
            figures = save_figures(self.work / "figures", {"curves": partial(_curves, summary)})
            page = _page(report, figures["curves"])
            (self.work / "report.html").write_text(page, encoding="utf-8")
            self.place()


def _curves(summary: dict[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    for k, (norm, points) in enumerate(summary["curves"].items()):
        axes = figure.add_subplot(1, 3, k + 1)
        axes.step([r for r, _ in points], [s for _, s in points], where="pre", color=LINES[k], linestyle=DASHES[k])
        axes.set(xlabel=f"{_NORMS[norm]} radius", ylim=(0, 1.02), title="Certified accuracy" if k == 0 else "")
        axes.margins(x=0)
    return figure


def _page(report: dict[str, Any], figure: str) -> str:
    from markupsafe import Markup

    config, rows, summary = report["config"], report["images"], report["summary"]
    environment = page_environment()
    known = "right" in rows[0]
    titles = ["image", *(["label"] if known else []), "answer", "likeliest", "copies in it", "probability at least"]
    return environment.get_template("certify.html.j2").render(
        version=config["fastattack"], facts=_facts(config, summary, known), figure=Markup(figure), known=known,
        titles=[*titles, *(f"{name} radius" for name in _NORMS.values())], texts=4 if known else 3,
        rows=[_cells(row, known) for row in rows], config=config, style=own_text(environment, "report.css"),
    )  # fmt: skip


def _cells(row: Row, known: bool) -> list[str]:
    words = [row["name"], *([row["label"]] if known else []), row["answer"] or "abstains", row["likeliest"]]
    return [*words, str(row["count"]), f"{row['p']:.4f}", *(f"{row[f'radius_{norm}']:.4f}" for norm in _NORMS)]


def _facts(config: dict[str, Any], summary: dict[str, Any], known: bool) -> list[tuple[str, str]]:
    return [
        ("Images", str(summary["images"])),
        ("Noise", config["noise"]),
        ("Copies", f"{config['n']:,} after {config['n0']:,}".replace(",", " ")),
        ("Right and certified" if known else "Certified", f"{summary['certified']:.1%}"),
        ("Abstains", f"{summary['abstained']:.1%}"),
        (f"Mean {_NORMS[summary['norm']]} radius", f"{summary['average_radius']:.4f}"),
        ("Wrong with probability", f"at most {summary['failure']:g}, {summary['failure_is_of']}"),
    ]
