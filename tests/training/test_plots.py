import io
import itertools

import numpy as np
import pytest

from fastnn import data, training
from fastnn.training import plots

PIL_Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")

RECORDS = [
    {"epoch": i + 1, "train_loss": 2 / (i + 1), "val_loss": 2.2 / (i + 1), "train_accuracy": 0.5 + 0.05 * i,
     "val_accuracy": 0.45 + 0.05 * i} for i in range(8)]


def pixels(figure):
    with PIL_Image.open(io.BytesIO(plots.png(figure))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_curves_draw_what_was_measured():
    figure = plots.curves(training.History(RECORDS))
    loss, accuracy = figure.axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy (%)")
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [record["train_loss"] for record in RECORDS])
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [100 * record["val_accuracy"] for record in RECORDS])
    assert [text.get_text() for text in loss.get_legend().texts] == ["training", "validation"]
    assert pixels(figure).std() > 5


def test_curves_of_a_regression_without_validation_have_one_line():
    records = [{"epoch": 1, "train_loss": 1.0, "train_accuracy": None, "val_loss": None}]
    (axes,) = plots.curves(training.History(records)).axes
    assert len(axes.lines) == 1


def test_the_same_figure_is_the_same_file():
    assert plots.png(plots.curves(training.History(RECORDS))) == plots.png(plots.curves(training.History(RECORDS)))


def test_a_comparison_has_a_line_a_run():
    figure = plots.comparison({"lr 0.01": training.History(RECORDS), "lr 0.1": training.History(RECORDS[:3])}, log=True)
    (axes,) = figure.axes
    assert [len(line.get_xdata()) for line in axes.lines] == [8, 3]
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "training loss"
    with pytest.raises(KeyError, match="expected one of"):
        plots.comparison({"a": training.History(RECORDS)}, "no_such")


def test_the_history_of_a_sweep_knows_the_best_of_complete_trials():
    figure = plots.optimization_history([0, 1, 2, 4], [90, 95, np.nan, 92], [True, False, False, True], "accuracy (%)")
    (axes,) = figure.axes
    assert axes.lines[0].get_ydata().tolist() == [90, 90, 90, 92]
    complete, given_up = (dots.get_offsets().tolist() for dots in axes.collections)
    assert complete == [[0, 90], [4, 92]]
    assert given_up[0] == [1, 95]
    assert pixels(figure).std() > 5


def test_importances_are_bars_the_longest_on_top():
    (axes,) = plots.importances({"lr": 0.7, "hidden": 0.0, "init": 0.3}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["hidden", "init", "lr"]
    assert [bar.get_width() for bar in axes.patches] == [0, 0.3, 0.7]


def test_slices_draw_numbers_choices_and_flags():
    figure = plots.slices({"lr": [1e-4, 1e-2, 1e-1], "hidden": ["(8)", "()", "(8)"], "norm": [True, False, None],
                           "batch_size": [64, 32, 64]}, [90, 95, 92], "accuracy (%)", log=["lr", "batch_size"])
    lr, hidden, norm, batch_size = figure.axes[:4]
    assert [axes.get_xlabel() for axes in figure.axes[:4]] == ["lr", "hidden", "norm", "batch_size"]
    assert [axes.get_xscale() for axes in (lr, hidden, norm, batch_size)] == ["log", "linear", "linear", "log"]
    assert lr.collections[0].get_offsets().tolist() == [[1e-4, 90], [1e-2, 95], [1e-1, 92]]
    assert hidden.collections[0].get_offsets().tolist() == [[1, 90], [0, 95], [1, 92]]
    assert [label.get_text() for label in hidden.get_xticklabels()] == ["()", "(8)"]
    assert [label.get_text() for label in norm.get_xticklabels()] == ["False", "None", "True"]
    assert [label.get_text() for label in batch_size.get_xticklabels()] == ["32", "64"]
    assert pixels(figure).std() > 5


def test_confusions_stand_out_in_red_and_right_ones_in_blue():
    matrix = np.array([[95, 5, 0], [0, 100, 0], [30, 0, 70]])
    figure = plots.confusion(matrix, ["cat", "dog", "fox"])
    (axes,) = figure.axes
    colors = axes.images[0].get_array()
    assert colors[0, 0, 2] > colors[0, 0, 0] + 0.2, "right: blue"
    assert colors[2, 0, 0] > colors[2, 0, 2] + 0.2, "wrong: red"
    assert colors[0, 1, 0] > colors[0, 1, 2], "5 % can be seen"
    np.testing.assert_array_equal(colors[1, 0], 1)
    assert {text.get_text() for text in axes.texts} == {"95", "5", "100", "30", "70"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "fox"]
    pixels(figure)


def test_a_confusion_matrix_of_many_classes_and_of_none_seen():
    assert not plots.confusion(np.eye(100, dtype=int)).axes[0].texts
    pixels(plots.confusion(np.zeros((2, 2), int)))


@pytest.mark.parametrize(("wrong", "shown_wrong"), [(0, 0), (3, 3), (100, 8), (359, 11)])
def test_samples_show_wrong_ones_first_and_some_right_ones(wrong, shown_wrong):
    test = data.digits().test
    predictions = test.labels.copy()
    predictions[:wrong] = (predictions[:wrong] + 1) % 10
    figure = plots.samples(test.images, test.labels, predictions, most=12)
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert len(titles) == 12
    assert ["not" in title for title in titles] == [True] * shown_wrong + [False] * (12 - shown_wrong)
    if wrong:
        assert titles[0] == f"{predictions[0]}, not {test.labels[0]}"
        np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), test.images[0, 0])


def test_samples_of_few_colour_images():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 5, 5), np.uint8)
    figure = plots.samples(images, np.array([0, 1, 0]), np.array([0, 0, 0]), ["cat", "dog"])
    assert [axes.get_title() for axes in figure.axes] == ["cat, not dog", "cat", "cat"]
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), images[0].transpose(1, 2, 0))
    pixels(figure)


# --- names as people give them ---

NAMES = (r"$\frac{$", "_hidden", "$a$", r"a\$b", "", "two\nlines", "x" * 300, "שלום", "猫", "👩‍👧", "\x00\x1b[31m",
         "\udcff", "<b>&", "%s {0}")
SHOWN = (r"$\frac{$", "_hidden", "$a$", r"a\$b", "", "two lines", "x" * 14 + "…", "שלום", r"\u732b", r"\x00\x1b[31m",
         r"\udcff", "<b>&", "%s {0}")
COUNT = len(NAMES)
SHARES = np.random.default_rng(0).random((COUNT, COUNT))
IMAGES = np.zeros((COUNT, 1, 4, 4), np.uint8)


def histograms():
    found = training.WeightHistograms(bins=3)
    found.names, found.counts, found.ranges = list(NAMES[:6]), [np.ones((6, 3), int)], [np.tile([-1.0, 1.0], (6, 1))]
    return found


@pytest.mark.parametrize(("figure", "shown"), [
    (lambda: plots.confusion((100 * SHARES).astype(int), NAMES), SHOWN),
    (lambda: plots.class_accuracies((100 * SHARES).astype(int), NAMES), SHOWN),
    (lambda: plots.samples(IMAGES, np.arange(COUNT), np.arange(COUNT), NAMES), SHOWN),
    (lambda: plots.images(IMAGES, NAMES, columns=7), SHOWN),
    (lambda: plots.filters(IMAGES, NAMES), SHOWN),
    (lambda: plots.comparison({name: training.History(RECORDS) for name in NAMES}, log=True), SHOWN),
    (lambda: plots.lines({name: ([1, 2], [1, i + 1]) for i, name in enumerate(NAMES)}, *NAMES[:2], log_x=True), SHOWN),
    (lambda: plots.table(NAMES, NAMES, SHARES, *NAMES[:2]), SHOWN),
    (lambda: plots.importances({name: 1 / COUNT for name in NAMES}), SHOWN),
    (lambda: plots.slices({NAMES[0]: NAMES, NAMES[1]: NAMES}, SHARES[0], NAMES[2]), SHOWN),
    (lambda: plots.optimization_history([0, 1], [1, 2], [True, False], NAMES[0]), SHOWN[:1]),
    (lambda: plots.weights(histograms()), SHOWN[:6]),
], ids=["confusion", "class_accuracies", "samples", "images", "filters", "comparison", "lines", "table", "importances",
        "slices", "optimization_history", "weights"])
def test_names_are_drawn_as_they_are(figure, shown):
    figure = figure()
    pixels(figure)                          # warns of no character that the font lacks, nor of axes without room
    texts = [text for text in figure.findobj(lambda artist: hasattr(artist, "get_parse_math")) if text.get_visible()]
    for name in shown:
        assert any(text.get_text().startswith(name.removesuffix("…")) for text in texts), name
    for text in texts:
        assert not (text.get_parse_math() and any(name in text.get_text() for name in SHOWN if name)), text


def test_pictures_of_hundreds_of_classes_and_lines():
    names = [f"a long name of class {i}" for i in range(300)]
    matrix = np.eye(300, dtype=int)
    for figure in (plots.confusion(matrix, names), plots.class_accuracies(matrix, names),
                   plots.comparison({name: training.History(RECORDS) for name in names})):
        pixels(figure)


@pytest.mark.parametrize("shares", [(0.97, 0.985), (0.0, 0.02), (1.0, 1.0), (0.0, 1.0)])
def test_numbers_of_classes_keep_clear_of_bars_line_and_legend(shares):
    right = np.rint(np.linspace(*shares, 10) * 1000).astype(int)
    matrix = np.diag(right)
    matrix[np.arange(10), (np.arange(10) + 1) % 10] = 1000 - right
    figure = plots.class_accuracies(matrix)
    pixels(figure)
    (axes,) = figure.axes
    drawn = [axes.lines[0].get_window_extent(), *(bar.get_window_extent() for bar in axes.patches),
             axes.get_legend().get_window_extent()]
    numbers = [text.get_window_extent() for text in axes.texts]
    assert len(numbers) == 10
    assert not any(number.overlaps(other) for number in numbers for other in drawn)


@pytest.mark.parametrize("most", [2, 60, 50_000, 1e9])
def test_logarithmic_axes_have_numbers_beside_each_other(most):
    x = np.geomspace(1, most, 5)
    names = [f"machine {i} with a long name" for i in range(3)]
    figure = plots.lines({name: (x, x) for name in names}, "x", "y", log_x=True, log_y=True)
    pixels(figure)
    (axes,) = figure.axes
    for axis in axes.xaxis, axes.yaxis:
        low, high = sorted(axis.get_view_interval())
        labels = [label.get_window_extent() for place, label in zip(axis.get_majorticklocs(), axis.get_ticklabels())
                  if low <= place <= high]
        assert len(labels) >= 2
        assert not any(left.overlaps(right) for left, right in itertools.pairwise(labels))


def test_legends_lie_where_nothing_is_drawn():
    history = training.History(RECORDS)
    for figure in (plots.curves(history), plots.comparison({"a": history, "b": history}),
                   plots.comparison({f"learning rate 0.{i}, some momentum": history for i in range(9)}),
                   plots.lines({"a": ([1, 2], [1, 2])}, "x", "y")):
        pixels(figure)
        for axes in figure.axes:
            legend, inside = axes.get_legend().get_window_extent(), axes.get_window_extent()
            assert not (legend.overlaps(inside) and inside.x0 + 1 < legend.x1 and legend.x0 < inside.x1 - 1
                        and inside.y0 + 1 < legend.y1 and legend.y0 < inside.y1 - 1)
            assert not any(legend.overlaps(other.get_window_extent()) for other in figure.axes if other is not axes)


def test_drawing_keeps_no_figure_open():
    import subprocess
    import sys

    script = """
import sys
from fastnn import training
before = training.plots.png(training.plots.curves(training.History([{"epoch": 1, "train_loss": 1.0}])))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_rows_of_images_have_names():
    figure = plots.images(data.digits().test.images[:6] * 15, ["digit"] * 6, columns=3, row_names=["before", "after"])
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [["before"], [], [], ["after"], [], []]
    pixels(figure)
    box = figure.axes[0].texts[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 < figure.axes[0].get_window_extent().x0


def test_whole_numbers_have_whole_ticks():
    (axes,) = plots.lines({"loss": (range(4), [1, 2, 3, 4])}, "step", "loss").axes
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_images_are_tiled_with_lines_between():
    colours = np.arange(3 * 3 * 2 * 2, dtype=np.uint8).reshape(3, 3, 2, 2)
    whole = plots.tile(colours, 2)
    assert whole.shape == (5, 5, 3)
    np.testing.assert_array_equal(whole[3:, :2], colours[2].transpose(1, 2, 0))
    assert (whole[2] == 128).all()
    assert (whole[3:, 3:] == 128).all()         # where there is none
    np.testing.assert_array_equal(plots.tile(np.array([[[[-1, 0.5, 2.0]]]])), [[0, 128, 255]])
    assert len(plots.grid(colours).axes) == 1


def test_no_image_is_stretched_by_itself() -> None:
    for pixels, most in ((np.full((2, 1, 4, 4), 100, np.uint8), 255), (np.full((2, 1, 4, 4), 0.4), 1)):
        assert [axes.images[0].get_clim() for axes in plots.images(pixels).axes] == [(0, most)] * 2
