import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnn import training

CONFUSION = np.array([[5, 0, 0, 0], [0, 3, 2, 1], [0, 4, 7, 0], [0, 0, 0, 0]])
NAMES = ["cat", "dog", "fox", "owl"]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1), st.sampled_from([np.uint8, np.int64]))
def test_a_confusion_matrix_counts_pairs(pairs, dtype):
    labels, predictions = np.array(pairs, dtype).T
    expected = np.zeros((7, 7), np.int64)
    for label, prediction in pairs:
        expected[label, prediction] += 1
    matrix = training.confusion_matrix(labels, predictions, 7)
    np.testing.assert_array_equal(matrix, expected, strict=True)
    size = 1 + max(map(max, pairs))
    np.testing.assert_array_equal(training.confusion_matrix(labels, predictions), expected[:size, :size])
    assert training.accuracy(predictions, labels) == pytest.approx(expected.trace() / len(pairs))


def test_uint8_labels_of_many_classes_do_not_wrap():
    labels = np.array([250, 3], np.uint8)
    assert training.confusion_matrix(labels, labels, 251)[250, 250] == 1


@pytest.mark.peers
def test_the_confusion_matrix_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 5, (2, 100))
    np.testing.assert_array_equal(training.confusion_matrix(labels, predictions),
                                  metrics.confusion_matrix(labels, predictions))


@pytest.mark.parametrize(("labels", "predictions", "message"), [
    ([0, 1], [0], "shapes"),
    ([], [], "at least one"),
    ([[0]], [[0]], "shapes"),
    ([0, 4], [0, 1], "expected classes from 0 to 3, got 0 to 4"),
    ([0, 1], [0, -1], "got -1 to 1"),
])
def test_wrong_pairs_are_refused(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        training.confusion_matrix(np.array(labels, np.int64), np.array(predictions, np.int64), 4)


def test_accuracy_of_scores():
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert training.accuracy(scores, np.array([1, 0, 0])) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="shapes"):
        training.accuracy(scores, np.array([1, 0]))


def test_rows_of_classes():
    rows = training.per_class(CONFUSION, NAMES)
    assert [(row.name, row.count, row.correct) for row in rows] == [
        ("cat", 5, 5), ("dog", 6, 3), ("fox", 11, 7), ("owl", 0, 0)]
    assert [row.accuracy for row in rows] == [1.0, 0.5, pytest.approx(7 / 11), None]
    assert rows[1].confusions == (("fox", 2), ("owl", 1))
    with pytest.raises(ValueError, match="names: expected 4, one a class, got 3"):
        training.per_class(CONFUSION, NAMES[:3])


def test_confusions_in_words():
    assert training.commonest_confusions(CONFUSION, NAMES, most=2) == [
        "fox read as dog: 4 times", "dog read as fox: 2 times"]
    assert training.commonest_confusions(CONFUSION)[-1] == "1 read as 3: once"
    assert training.commonest_confusions(np.eye(3, dtype=int)) == []


def test_tables_are_aligned():
    lines = training.per_class_table(CONFUSION, NAMES).splitlines()
    assert lines[0].split() == ["class", "images", "right", "accuracy", "read", "as"]
    assert lines[2].split() == ["dog", "6", "3", "50.00", "%", "fox", "(2),", "owl", "(1)"]
    assert lines[4].split() == ["owl", "0", "0", "-"]
    assert len({line.index("%") for line in lines[1:4]}) == 1
    matrix = training.confusion_table(CONFUSION, NAMES).splitlines()
    assert matrix[2].split() == ["dog", ".", "3", "2", "1"]
    assert len({len(line) for line in matrix}) == 1


def test_a_history_is_columns():
    history = training.History([{"epoch": 1, "val_loss": None}, {"epoch": 2, "val_loss": 0.5}])
    assert len(history) == 2
    np.testing.assert_array_equal(history["epoch"], [1, 2])
    np.testing.assert_array_equal(history["val_loss"], [np.nan, 0.5])
    with pytest.raises(KeyError, match="expected one of epoch, val_loss"):
        history["valloss"]
    assert training.History()["val_loss"].shape == (0,)


def test_the_history_of_a_folder_without_one_is_empty(tmp_path):
    assert len(training.History.read(tmp_path)) == 0
