import base64
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from fastnn import data, nn, optim, random, training
from fastnn.training import plots

PIL_Image = pytest.importorskip("PIL.Image")

DIGITS = data.digits()
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A finished run with its report."""
    folder = tmp_path_factory.mktemp("runs") / "digits <1> & more"
    transform = data.Normalize(0.3, 0.4, DIGITS.scale)
    train, validation = data.split(DIGITS.train, 0.2)
    with random.seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    run = training.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), 0.01), run_dir=folder,
                           config={"lr": 0.01, "text": "<script>alert(1)</script>", "list": [1, None]}, progress=False)
    run.fit(data.DataLoader(train, 64, transform=transform),
            data.DataLoader(validation, 256, shuffle=False, transform=transform), epochs=4)
    evaluation = run.evaluate(data.DataLoader(DIGITS.test, 120, shuffle=False, transform=transform))
    path = training.write_report(folder, evaluation, classes=DIGITS.classes, images=DIGITS.test.images,
                                 figures={"parameters": "1,210"},
                                 pictures={"Both <rates>": plots.comparison({"lr 0.01": run.history}, log=True)},
                                 tables={"Trials": [["lr", "a < b"], ["0.01", "<i>"]]})
    assert path == folder / "report.html"
    (folder.parent / "evaluation.json").write_text(json.dumps([evaluation.accuracy, evaluation.loss]))
    return folder


class Page(HTMLParser):
    """The tags of a page, its text by tag, and what it refers to."""

    VOID = ("meta", "link", "img")

    def __init__(self, text):
        super().__init__()
        self.tags, self.references, self.texts, self.open = [], [], [], []
        self.feed(text)
        assert not self.open, "every tag is closed"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append((self.open[-1] if self.open else "", text))


def test_the_page_is_one_file_without_scripts_or_references(run_dir):
    text = (run_dir / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "iframe", "object"} & set(page.tags)
    assert all(reference.startswith("data:") for reference in page.references)
    assert "url(" not in text
    assert "@import" not in text
    words = [text for _, text in page.texts]
    assert "<script>alert(1)</script>" in words
    assert "digits <1> & more" in words
    assert "1,210" in words
    headings = [text for tag, text in page.texts if tag == "h2"]
    assert headings == ["Curves", "Confusion matrix", "Classes", "Samples", "Both <rates>", "Trials", "Epochs",
                        "Configuration"]
    assert {"a < b", "<i>"} <= set(words)


def test_its_pictures_are_those_in_the_folder(run_dir):
    text = (run_dir / "report.html").read_text(encoding="utf-8")
    embedded = [base64.b64decode(code) for code in re.findall(r"data:image/png;base64,([^\"]+)", text)]
    files = [run_dir / f"{name}.png" for name in ("curves", "confusion", "classes", "samples", "both-rates")]
    assert embedded == [path.read_bytes() for path in files]
    for contents in embedded:
        with PIL_Image.open(io.BytesIO(contents)) as image:
            image.load()
            assert min(image.size) > 200


def test_the_figures_are_the_evaluations(run_dir):
    accuracy, loss = json.loads((run_dir.parent / "evaluation.json").read_text())
    results = json.loads((run_dir / "results.json").read_text())
    assert (results["accuracy"], results["loss"], results["evaluated"]) == (accuracy, loss, "test")
    confusion = np.array(results["confusion"])
    assert confusion.sum() == 360
    assert confusion.trace() / 360 == accuracy
    assert [row["name"] for row in results["classes"]] == list(DIGITS.classes)
    history = training.History.read(run_dir)
    assert results["epochs"] == 4
    best = training.load(run_dir / "best.safetensors")[1]["state"]["epoch"]
    assert results["best_epoch"] == best
    assert results["figures"]["test accuracy"] == f"{100 * accuracy:.2f} %"
    assert results["figures"]["best validation accuracy"] == f"{100 * history['val_accuracy'][best - 1]:.2f} %"
    words = [text for _, text in Page((run_dir / "report.html").read_text(encoding="utf-8")).texts]
    for figure in results["figures"].values():
        assert figure in words


@pytest.mark.parametrize(("options", "message"), [
    ({"classes": ("a",)}, "names: expected 2, one a class, got 1"),
    ({"images": np.zeros((2, 1, 4, 4), np.uint8)}, r"images: expected the 3 images that were evaluated, .* \(2, 1, 4"),
    ({"images": np.zeros((3, 2, 4, 4), np.uint8)}, r"images: .* of shape \(N, 1 or 3, H, W\), got shape \(3, 2, 4, 4"),
])
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, options, message):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "train_loss": 0.5}\n')
    labels = np.array([0, 1, 1])
    evaluation = training.Evaluation(0.5, 1.0, training.confusion_matrix(labels, labels), labels, labels)
    with pytest.raises(ValueError, match=message):
        training.write_report(tmp_path, evaluation, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_numbers_of_any_kind_are_reported(tmp_path):
    evaluation = training.Evaluation(np.float32(0.5), np.float32(0.25))
    training.write_report(tmp_path, evaluation, figures={"f1": np.float32(0.5), "k": 3}, tables={"T": [["a"], [0.5]]})
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["loss"], results["accuracy"]) == (0.5, 0.25)
    assert results["figures"] == {"test accuracy": "25.00 %", "test loss": "0.5000", "f1": "0.5", "k": "3"}


def test_a_shuffled_evaluation_has_the_order_of_the_images(tmp_path):
    """Each image is drawn with its own prediction."""
    shown = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    run = training.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1), progress=False)
    transform = data.Normalize(0.3, 0.4, DIGITS.scale)
    for options in ({"shuffle": True}, {"shuffle": True, "drop_last": True, "seed": 4}, {"shuffle": False}):
        evaluation = run.evaluate(data.DataLoader(DIGITS.test, 100, transform=transform, **options))
        shown.append((evaluation.labels, evaluation.predictions))
        np.testing.assert_array_equal(evaluation.labels, DIGITS.test.labels)
        np.testing.assert_array_equal(evaluation.predictions, shown[0][1])
        training.write_report(tmp_path, evaluation, images=DIGITS.test.images)


def test_a_report_shows_what_there_is(tmp_path):
    training.write_report(tmp_path, training.Evaluation(float("nan")), title="bare", evaluated="validation")
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "results.json"}
    assert json.loads((tmp_path / "results.json").read_text())["loss"] is None
    training.write_report(tmp_path)
    assert Page((tmp_path / "report.html").read_text()).tags.count("h1") == 1


def test_figures_that_are_missing_are_dashes(tmp_path):
    records = [{"epoch": 1, "lr": None, "train_loss": 0.5, "val_accuracy": 0.25, "seconds": 2.0},
               {"epoch": 2, "lr": 0.1}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    training.write_report(tmp_path)
    cells = [text for tag, text in Page((tmp_path / "report.html").read_text()).texts if tag == "td"]
    assert cells == ["1", "-", "0.5000", "25.00 %", "2.0", "2", "0.1", "-", "-", "-"]
    assert json.loads((tmp_path / "results.json").read_text())["seconds"] == 2
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n')
    training.write_report(tmp_path)


def test_any_names_do(tmp_path):
    names = [r"$\frac{$", "_hidden", "<script>", "two\nlines", "猫", "\udcff"]
    labels, folder = np.arange(6), tmp_path / os.fsdecode(b"run \xff")
    folder.mkdir()
    evaluation = training.Evaluation(0.1, 1.0, np.eye(6, dtype=np.int64), labels, labels)
    history = training.History([{"epoch": 1, "train_loss": 0.5}])
    headings = ["Curves", "curves: again", "$", "猫", "x" * 900, "confusion"]
    training.write_report(folder, evaluation, classes=names, images=np.zeros((6, 1, 4, 4), np.uint8),
                          pictures={heading: plots.comparison({name: history for name in names})
                                    for heading in headings},
                          figures={name: name for name in names}, tables={name: [names, names] for name in names})
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    for name in names[:-1]:
        assert {tag for tag, text in page.texts if text == name} >= {"h2", "dt", "dd", "th", "td"}, name
    pictures = {"confusion", "classes", "samples", "curves", "curves-2", "picture", "picture-2", "x" * 100,
                "confusion-2"}
    assert {path.name for path in folder.iterdir()} == {*(f"{name}.png" for name in pictures), "report.html",
                                                        "results.json"}


def test_images_that_were_not_evaluated_are_refused(tmp_path):
    labels = np.array([0, 1])
    evaluation = training.Evaluation(0.1, 1.0, np.eye(2, dtype=np.int64), labels, labels)
    with pytest.raises(ValueError, match=r"images: expected the 2 images .*got shape \(3, 1, 8, 8\)"):
        training.write_report(tmp_path, evaluation, images=np.zeros((3, 1, 8, 8)))
    with pytest.raises(ValueError, match="names: expected 2"):
        training.write_report(tmp_path, evaluation, classes=["a"])


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")
def test_a_browser_draws_it_without_complaint(run_dir, tmp_path):
    def browse(page, *options):
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                   "--disable-background-networking", "--disable-component-update", "--disable-sync",
                   f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", *options, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert "CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    report = run_dir / "report.html"
    browse(report, f"--screenshot={tmp_path / 'report.png'}", "--window-size=1000,1400")
    with PIL_Image.open(tmp_path / "report.png") as image:
        assert np.asarray(image.convert("L")).std() > 10

    # The report forbids scripts; a copy that allows them writes down what its pictures became.
    text = report.read_text(encoding="utf-8")
    without_policy = re.sub(r"<meta http-equiv=[^>]*>", "", text)
    assert without_policy != text
    script = ("<script>onload = () => { document.title = JSON.stringify([...document.images].map("
              "image => [image.complete, image.naturalWidth, image.naturalHeight])) }</script></body>")
    copy = tmp_path / "copy.html"
    copy.write_text(without_policy.replace("</body>", script), encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", browse(copy, "--dump-dom", "--virtual-time-budget=5000"))[1]
    pictures = json.loads(title)
    assert len(pictures) == 5
    for complete, width, height in pictures:
        assert complete
        assert min(width, height) > 200
