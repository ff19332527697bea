import contextvars
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnn import data, random


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def arrays(count):
    return np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((2, 3, 3), np.uint8), np.arange(count)


def noise(images, rng):
    return images + rng.random(images.shape, np.float32)


def equal(some, others):
    return len(some) == len(others) and all(
        len(a) == len(b) and all((x == y).all() and x.dtype == y.dtype for x, y in zip(a, b, strict=True))
        for a, b in zip(some, others, strict=True)
    )


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 45),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    prefetch=st.booleans(),
)
def test_an_epoch_holds_every_sample_once(count, batch_size, shuffle, drop_last, prefetch):
    if drop_last and batch_size > count:
        drop_last = False
    loader = data.DataLoader(arrays(count), batch_size, shuffle=shuffle, drop_last=drop_last, prefetch=prefetch, seed=5)
    batches = list(loader.epoch(2))
    assert len(batches) == len(loader)
    sizes = [len(labels) for _, labels in batches]
    assert set(sizes[:-1]) <= {batch_size}
    labels = np.concatenate([labels for _, labels in batches])
    for images, batch_labels in batches:
        assert (images == batch_labels.reshape(-1, 1, 1, 1)).all()
    assert len(set(labels)) == len(labels) == (count // batch_size * batch_size if drop_last else count)
    if not shuffle:
        assert (np.diff(labels) == 1).all()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_its_order_and_all_samples_in_the_order_of_the_arrays(shuffle, drop_last):
    loader = data.DataLoader(arrays(11), 4, shuffle=shuffle, drop_last=drop_last, transform=noise, seed=3)
    for epoch in range(2):
        labels = np.concatenate([labels for _, labels in loader.epoch(epoch)])
        np.testing.assert_array_equal(loader.order(epoch), labels)
        np.testing.assert_array_equal(
            np.concatenate([labels for _, labels in loader.in_order().epoch(epoch)]), np.arange(11))
    assert (loader.shuffle, loader.drop_last) == (shuffle, drop_last)


def test_the_order_is_the_generators():
    order = random.generator(7, "shuffle", 3).permutation(20)
    loader = data.DataLoader(arrays(20), 20, seed=7)
    ((_, labels),) = loader.epoch(3)
    np.testing.assert_array_equal(labels, order)


@pytest.mark.parametrize("shuffle", [False, True])
def test_prefetch_changes_nothing(shuffle):
    def loader(prefetch):
        return data.DataLoader(arrays(50), 8, shuffle=shuffle, transform=noise, seed=1, prefetch=prefetch)

    for epoch in range(2):
        assert equal(list(loader(True).epoch(epoch)), list(loader(False).epoch(epoch)))


@pytest.mark.parametrize("prefetch", [False, True])
def test_resume_in_the_middle_of_an_epoch(prefetch):
    loader = data.DataLoader(arrays(50), 8, transform=noise, prefetch=prefetch)
    whole = list(loader.epoch(4))
    for step in range(len(loader) + 1):
        assert equal(list(loader.epoch(4, start_step=step)), whole[step:])


@pytest.mark.parametrize("prefetch", [False, True])
def test_iter_goes_through_the_epochs(prefetch):
    loader = data.DataLoader(arrays(30), 8, transform=noise, prefetch=prefetch)
    for epoch in range(3):
        assert equal(list(loader), list(loader.epoch(epoch)))
    assert not equal(list(loader.epoch(0)), list(loader.epoch(1)))


def test_seeds_and_augmentation_differ():
    (first,), (second,) = (data.DataLoader(arrays(30), 30, seed=seed).epoch(0) for seed in (0, 1))
    assert (first[1] != second[1]).any()
    batches = list(data.DataLoader((np.zeros((20, 1, 2, 2)),), 10, transform=noise).epoch(0))
    assert (batches[0][0] != batches[1][0]).all()


def test_takes_a_split_or_any_arrays():
    digits = data.digits()
    images, labels = next(data.DataLoader(digits.train, 32).epoch(0))
    assert (images.shape, images.dtype, labels.dtype) == ((32, 1, 8, 8), np.uint8, np.int64)
    x, y, weight = np.arange(6.0), np.arange(12).reshape(6, 2), np.ones((6, 0))
    batch = next(data.DataLoader([x, y, weight], 4, shuffle=False).epoch(0))
    assert [array.shape for array in batch] == [(4,), (4, 2), (4, 0)]
    (only,) = next(data.DataLoader((x,), 4, shuffle=False).epoch(0))
    np.testing.assert_array_equal(only, x[:4])


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_are_copies(shuffle):
    images, labels = arrays(10)
    for batch in data.DataLoader((images, labels), 5, shuffle=shuffle):
        for array in batch:
            array[:] = 99
    np.testing.assert_array_equal(labels, np.arange(10))
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(10))


@pytest.mark.parametrize("prefetch", [False, True])
def test_errors_reach_the_caller_at_their_batch(prefetch):
    calls = []

    def fail_third(images, rng):
        calls.append(len(calls))
        if len(calls) == 3:
            raise RuntimeError("third")
        return images

    batches = data.DataLoader(arrays(50), 5, transform=fail_third, prefetch=prefetch).epoch(0)
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(RuntimeError, match="third") as caught:
        next(batches)
    assert any(entry.name == "fail_third" for entry in caught.traceback)
    with pytest.raises(StopIteration):
        next(batches)


def test_at_most_three_batches_are_under_way():
    made = []

    def count(images, rng):
        made.append(1)
        return images

    batches = data.DataLoader(arrays(50), 1, transform=count).epoch(0)
    assert made == []
    for taken in range(1, 20):
        next(batches)
        time.sleep(0.002)
        assert taken <= len(made) <= taken + 2
    batches.close()


def test_the_next_batch_is_prepared_while_the_caller_works():
    second_is_ready = threading.Event()
    made = []

    def note(images, rng):
        made.append(1)
        if len(made) == 2:
            second_is_ready.set()
        return images

    for _ in data.DataLoader(arrays(10), 5, transform=note):
        assert second_is_ready.wait(10)


def test_abandoned_iterations_end_their_thread():
    before = threading.active_count()
    loader = data.DataLoader(arrays(50), 1)
    for _ in loader:
        break
    assert threading.active_count() == before

    def leave():
        for _ in loader:
            raise KeyError

    with pytest.raises(KeyError):
        leave()
    batches = loader.epoch(0)
    next(batches)
    assert threading.active_count() == before + 1
    del batches
    assert threading.active_count() == before
    never_started = loader.epoch(0)
    del never_started


def test_two_iterations_at_once_do_not_disturb_each_other():
    loader = data.DataLoader(arrays(50), 8, transform=noise)
    alone = list(loader.epoch(0))
    pairs = list(zip(loader.epoch(0), loader.epoch(1), strict=True))
    assert equal([first for first, _ in pairs], alone)


@pytest.mark.parametrize("prefetch", [False, True])
def test_transforms_see_the_callers_context(prefetch):
    variable = contextvars.ContextVar("variable", default="default")
    seen = []

    def look(images, rng):
        seen.append(variable.get())
        return images

    loader = data.DataLoader(arrays(10), 5, transform=look, prefetch=prefetch)
    token = variable.set("callers")
    list(loader)
    variable.reset(token)
    assert seen == ["callers", "callers"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrays": arrays(0)}, r"arrays: expected one length .* at least 1, got shapes \[\(0, 2, 3, 3\), \(0,\)\]"),
        ({"arrays": ()}, r"got shapes \[\]"),
        ({"arrays": (np.ones(()),)}, r"got shapes \[\(\)\]"),
        ({"arrays": (np.ones(3), np.ones(4))}, r"got shapes \[\(3,\), \(4,\)\]"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"batch_size": -3}, "batch_size: expected at least 1, got -3"),
        ({"batch_size": 11, "drop_last": True}, "expected at most the 10 samples with drop_last, got 11"),
    ],
)
def test_refused_values(changes, message):
    with pytest.raises(ValueError, match=message):
        data.DataLoader(**{"arrays": arrays(10), "batch_size": 2, **changes})


@pytest.mark.parametrize("given", [np.ones(3), ([1, 2], [3, 4]), (np.ones(2), [3, 4]), data.digits(), None, 3])
def test_refused_types(given):
    with pytest.raises(TypeError, match="arrays: expected a Split or a tuple of NumPy arrays, got "):
        data.DataLoader(given, 2)


@pytest.mark.parametrize("size", [2.5, "64", None, True])
def test_a_batch_size_is_an_integer(size):
    with pytest.raises(TypeError, match=f"batch_size: expected an integer, got {size!r}"):
        data.DataLoader(arrays(3), size)
    assert len(data.DataLoader(arrays(3), np.int64(2))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1,), "epoch: expected at least 0"), ((0, -1), "start_step: expected 0 to 4"), ((0, 5), "start_step")],
)
def test_refused_epochs(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.DataLoader(arrays(10), 3).epoch(*arguments)
