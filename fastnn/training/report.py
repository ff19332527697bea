"""The report of a run: one HTML file with its pictures in it, and the figures as JSON."""

from __future__ import annotations

import base64
import itertools
import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import fastnn
from fastnn._files import read_json
from fastnn.training import plots
from fastnn.training.checkpoint import replace_file
from fastnn.training.metrics import Evaluation, History, class_names, commonest_confusions, per_class, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: #26303a;
       background: #fff; max-width: 58rem; margin: 2.5rem auto 4rem; padding: 0 1.25rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid #d9dee3; }
p.lead { color: #66717c; margin: .35rem 0 1.75rem; }
dl.figures { display: flex; flex-wrap: wrap; gap: .75rem; margin: 0; }
dl.figures div { flex: 1 0 9rem; background: #f4f6f8; border-radius: .5rem; padding: .7rem 1rem; }
dl.figures dt { font-size: .85rem; color: #66717c; }
dl.figures dd { font-size: 1.45rem; font-weight: 600; margin: 0; font-variant-numeric: tabular-nums; }
figure { margin: 0; }
img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
.scroll { overflow-x: auto; }
h1, h2, dd, td, th { overflow-wrap: anywhere; unicode-bidi: plaintext; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: #66717c; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e8ebee; vertical-align: top; }
.number { text-align: right; }
meter { width: 7rem; height: .8rem; vertical-align: middle; }
"""

# A browser that obeys it loads nothing but what the file holds, wherever the file lies.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(
    run_dir: str | os.PathLike[str],
    evaluation: Evaluation | None = None,
    *,
    classes: Sequence[str] | None = None,
    images: NDArray[Any] | None = None,
    title: str | None = None,
    evaluated: str = "test",
    figures: Mapping[str, str | float] | None = None,
    pictures: Mapping[str, Figure] | None = None,
    tables: Mapping[str, Sequence[Sequence[str]]] | None = None,
) -> Path:
    """Write results.json, report.html and, for a classifier, confusion.png, classes.png and samples.png to a run.

    The report shows what there is: the run's final figures, its curves, the confusion matrix with a table of the
    classes, images with their predictions, further pictures and tables, every epoch, and the configuration. It is one
    file without scripts or references to others.

    Parameters
    ----------
    run_dir : str or path-like
        The folder; its config.json and metrics.jsonl are read if they are there.
    evaluation : Evaluation, optional
        Of the trained model, as from `Trainer.evaluate`, whose predictions have the order of the data.
    classes : sequence of str, optional
        The names of the classes, their numbers where not given.
    images : ndarray, shape (N, C, H, W), optional
        The images that were evaluated, in the same order, with 1 or 3 channels.
    title : str, optional
        The heading; the folder's name where not given.
    evaluated : str, default "test"
        What was evaluated, as in "test accuracy".
    figures : mapping of str to str or number, optional
        Further final figures.
    pictures : mapping of str to matplotlib figure, optional
        Further pictures by their headings. Each is also written as a PNG file named after the letters a to z and digits
        of its heading, up to a colon; numbered, where another picture has that name.
    tables : mapping of str to rows, optional
        Further tables by their headings; the cells are text, and those of the first row name the columns.

    Returns
    -------
    Path
        The report's.

    Raises
    ------
    CheckpointError
        If a file cannot be written.
    ValueError
        If the number of classes or images is not the evaluation's, or the images do not have 1 or 3 channels; then
        nothing has been written.

    Examples
    --------
    >>> import tempfile
    >>> from fastnn import training
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     training.write_report(folder, training.Evaluation(0.25), title="regression").name
    'report.html'
    """
    folder = Path(run_dir)
    history = History.read(folder)
    config_path = folder / "config.json"
    config = read_json(config_path, "the configuration of a run") if config_path.exists() else {}

    if evaluation is not None and evaluation.confusion is not None:
        classes = class_names(evaluation.confusion, classes)
        if images is not None:
            _check_images(images, evaluation)
    sections: list[str] = []
    files: set[str] = set()

    def show(heading: str, name: str, figure: Figure) -> None:
        contents = plots.png(figure)
        numbered = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
        name = next(free for free in numbered if free not in files)
        files.add(name)
        replace_file(folder / f"{name}.png", contents)
        source = f"data:image/png;base64,{base64.b64encode(contents).decode()}"
        # A width in CSS pixels, so that a letter in a picture is as large as one beside it.
        image = f'<img src="{source}" width="{figure.get_figwidth() * 96:.0f}" alt="{escape(heading)}">'
        sections.append(f"<h2>{escape(heading)}</h2>\n<figure>{image}</figure>")

    if any(record.get(name) is not None for record in history.records for name in ("train_loss", "train_accuracy")):
        show("Curves", "curves", plots.curves(history))
    if evaluation is not None and evaluation.confusion is not None:
        assert classes is not None
        show("Confusion matrix", "confusion", plots.confusion(evaluation.confusion, classes))
        show("Classes", "classes", plots.class_accuracies(evaluation.confusion, classes))
        sections.append(_class_table(evaluation.confusion, classes))
        if images is not None:
            show("Samples", "samples", _samples(images, evaluation, classes))
    for heading, figure in (pictures or {}).items():
        name = re.sub(r"[^a-z0-9]+", "-", heading.partition(":")[0].lower())[:100].strip("-")
        show(heading, name or "picture", figure)
    for heading, (heads, *rows) in (tables or {}).items():
        cells = [[escape(str(cell)) for cell in row] for row in rows]
        sections.append(f"<h2>{escape(heading)}</h2>\n" + _table([escape(head) for head in heads], cells))
    if history:
        sections.append("<h2>Epochs</h2>\n" + _epoch_table(history))
    if config:
        rows = [[escape(name), escape(value if isinstance(value, str) else json.dumps(value))]
                for name, value in config.items()]
        sections.append("<h2>Configuration</h2>\n" + _table(["option", "value"], rows))

    final = _final_figures(evaluation, evaluated, history)
    final |= {name: str(figure) for name, figure in (figures or {}).items()}
    results = {"evaluated": evaluated, "version": fastnn.__version__, **_results(evaluation, classes, history),
               "figures": final}
    replace_file(folder / "results.json", (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())
    page = _page(title or folder.resolve().name, final, sections)
    replace_file(folder / "report.html", page.encode(errors="backslashreplace"))    # names of files may be no text
    return folder / "report.html"


def _page(title: str, final: Mapping[str, str], sections: Sequence[str]) -> str:
    cards = "\n".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in final.items())
    body = "\n".join(sections)
    versions = {"fastnn": fastnn.__version__, "NumPy": np.__version__, "Python": platform.python_version()}
    made = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="lead">{escape(made)}</p>
<dl class="figures">
{cards}
</dl>
{body}
</body>
</html>
"""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return an HTML table of cells that are HTML already; `numbers` are the columns that are set flush right."""
    def line(tag: str, cells: Sequence[str]) -> str:
        marked = (f'<{tag} class="number">' if i in numbers else f"<{tag}>" for i in range(len(cells)))
        return "<tr>" + "".join(f"{mark}{cell}</{tag}>" for mark, cell in zip(marked, cells)) + "</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table>\n<thead>{line("th", heads)}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _class_table(confusion: NDArray[np.int64], classes: Sequence[str]) -> str:
    rows = []
    for row in per_class(confusion, classes):
        bar = f'<meter value="{row.accuracy}"></meter>' if row.accuracy is not None else ""
        others = ", ".join(f"{escape(name)} ({count})" for name, count in row.confusions[:4])
        rows.append([escape(row.name), str(row.count), str(row.correct), percent(row.accuracy), bar, others])
    table = _table(["class", "images", "right", "accuracy", "", "read as"], rows, numbers=(1, 2, 3))
    confusions = commonest_confusions(confusion, classes)
    return table + (f"\n<p>Commonest confusions: {escape('; '.join(confusions))}.</p>" if confusions else "")


def _check_images(images: NDArray[Any], evaluation: Evaluation) -> None:
    assert evaluation.labels is not None
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) != len(evaluation.labels):
        raise ValueError(f"images: expected the {len(evaluation.labels)} images that were evaluated, of shape "
                         f"(N, 1 or 3, H, W), got shape {images.shape}")


def _samples(images: NDArray[Any], evaluation: Evaluation, classes: Sequence[str]) -> Figure:
    assert evaluation.labels is not None
    assert evaluation.predictions is not None
    return plots.samples(images, evaluation.labels, evaluation.predictions, classes)


def _epoch_table(history: History) -> str:
    columns = {"epoch": "d", "lr": ".3g", "train_loss": ".4f", "train_accuracy": "%", "val_loss": ".4f",
               "val_accuracy": "%", "seconds": ".1f", "images_per_second": ",.0f", "tokens_per_second": ",.0f"}
    shown = {name: form for name, form in columns.items()
             if any(record.get(name) is not None for record in history.records)}
    names = [name.replace("train_", "training ").replace("val_", "validation ").replace("_", " ") for name in shown]
    rows = [[_cell(record.get(name), form) for name, form in shown.items()] for record in history.records]
    return _table(names, rows, numbers=range(len(names)))


def _cell(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return percent(value) if form == "%" else format(value, form)


def _final_figures(evaluation: Evaluation | None, evaluated: str, history: History) -> dict[str, str]:
    final = {}
    if evaluation is not None:
        if evaluation.accuracy is not None:
            final[f"{evaluated} accuracy"] = percent(evaluation.accuracy)
        if not math.isnan(evaluation.loss):
            final[f"{evaluated} loss"] = f"{evaluation.loss:.4f}"
    if history:
        best = _best(history)
        if best.get("val_accuracy") is not None:
            final["best validation accuracy"] = percent(best["val_accuracy"])
        final["epochs"] = str(len(history))
        final["training time"] = _duration(_seconds(history))
    return final


def _best(history: History) -> dict[str, Any]:
    """The record that best.safetensors was saved after, or the last one of a run without validation."""
    validated = [record for record in history.records if record.get("val_loss") is not None]
    return max(validated, key=lambda record: (record.get("val_accuracy") or 0.0, -record["val_loss"]),
               default=history.records[-1])


def _results(evaluation: Evaluation | None, classes: Sequence[str] | None, history: History) -> dict[str, Any]:
    results: dict[str, Any] = {}
    if evaluation is not None:
        results["loss"] = float(evaluation.loss) if math.isfinite(evaluation.loss) else None
        results["accuracy"] = None if evaluation.accuracy is None else float(evaluation.accuracy)
        if evaluation.confusion is not None:
            results["classes"] = [{"name": row.name, "images": row.count, "right": row.correct,
                                   "accuracy": row.accuracy} for row in per_class(evaluation.confusion, classes)]
            results["confusion"] = evaluation.confusion.tolist()
    if history:
        results["epochs"] = len(history)
        results["best_epoch"] = _best(history).get("epoch")
        results["seconds"] = _seconds(history)
    return results


def _seconds(history: History) -> float:
    return float(sum(record.get("seconds") or 0.0 for record in history.records))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
