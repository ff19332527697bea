"""A process that damages files and reads them as users do: what it holds after each is a line for its parent.

    python damage.py FORMAT WHOLE SCRATCH FIRST COUNT

WHOLE is a folder with files that can be read. For each number from FIRST on, a copy of it is made, one file is damaged,
the same for the same number, and the copy is read under limits of memory and time.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import os
import pickletools
import resource
import shutil
import signal
import sqlite3
import sys
import traceback
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastnn import cli, data, training
from fastnn.cli.results import results
from fastnn.data import formats

MEMORY = 1 << 30            # bytes more than the process has when it is ready
SECONDS = 20
LONGEST = 900               # characters of a sentence

EXTREMES = (0, 1, -1, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**63 - 1, -(2**63))
VALUES = (None, True, False, 0, 1, -1, 3, 2.5, -0.5, 10**9, 10**18, -(10**18), 10**39, 1e-300, 1e300, "", "a", "0",
          "cnn", "\ud800", "\x00", "\x1b[31m", "a\nb", "ä" * 200, [], [1], [[]], ["a", 1], {}, {"a": 1}, [None] * 20)
TEXTS = ("NaN", "-Infinity", "1e999", "9" * 5000, "[" * 100_000, '{"a":' * 50_000, "nul", "'a'", "0x10", "01",
         '"\\ud800"')


# --- mutations: functions of a random generator and bytes ---


def at(rng: Any, raw: bytes) -> int:
    """A place, in the header as often as anywhere."""
    return int(rng.integers(min(len(raw), 64) if rng.random() < 0.5 else len(raw))) if raw else 0


def flipped(rng: Any, raw: bytes) -> bytes:
    changed = bytearray(raw)
    for _ in range(int(rng.integers(1, 9)) if raw else 0):
        changed[at(rng, raw)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def truncated(rng: Any, raw: bytes) -> bytes:
    return raw[: at(rng, raw)]


def inserted(rng: Any, raw: bytes) -> bytes:
    place = at(rng, raw)
    return raw[:place] + rng.bytes(int(rng.integers(1, 100))) + raw[place:]


def cut(rng: Any, raw: bytes) -> bytes:
    place = at(rng, raw)
    return raw[:place] + raw[place + int(rng.integers(1, 100)):]


def repeated(rng: Any, raw: bytes) -> bytes:
    place, length = at(rng, raw), int(rng.integers(1, 200))
    return raw[:place] + raw[place : place + length] * int(rng.integers(2, 50)) + raw[place:]


def overwritten(rng: Any, raw: bytes) -> bytes:
    place, length = at(rng, raw), int(rng.integers(1, 64))
    filling = [bytes(length), b"\xff" * length, rng.bytes(length)][rng.integers(3)]
    return raw[:place] + filling + raw[place + length:]


def extreme(rng: Any, raw: bytes) -> bytes:
    """A field of 1 to 8 bytes set to an extreme number."""
    width, order = int(rng.choice([1, 2, 4, 8])), "little" if rng.random() < 0.5 else "big"
    number = int(EXTREMES[rng.integers(len(EXTREMES))]) % (1 << 8 * width)
    place = at(rng, raw)
    return raw[:place] + number.to_bytes(width, order) + raw[place + width:]     # type: ignore[arg-type]


def longer(rng: Any, raw: bytes) -> bytes:
    return raw + [raw, b"\0", b"\n", rng.bytes(1000), bytes(100_000)][rng.integers(5)]


BYTES = (flipped, truncated, inserted, cut, repeated, overwritten, extreme, longer)


def zipped(rng: Any, raw: bytes) -> bytes:
    """What is damaged lies inside the gzip stream or, as often, is the stream."""
    if rng.random() < 0.5:
        return any_of(BYTES)(rng, raw)
    inner = any_of(BYTES)(rng, gzip.decompress(raw))
    return gzip.compress(inner + bytes(20_000_000) if rng.random() < 0.05 else inner, 1)


def any_of(mutations: Any) -> Callable[[Any, bytes], bytes]:
    def mutate(rng: Any, raw: bytes) -> bytes:
        return mutations[rng.integers(len(mutations))](rng, raw)

    return mutate


def line_of_csv(rng: Any, raw: bytes) -> bytes:
    lines = raw.split(b"\n")
    place = int(rng.integers(len(lines)))
    cells = lines[place].split(b",")
    odd = (b"", b"256", b"-1", b"1e2", b'"', b"\xff", b"9" * 10_000, b"\0", b"0x1", b" 1", b",,,", b"1\r1", b"nan")
    cells[int(rng.integers(len(cells)))] = odd[rng.integers(len(odd))]
    lines[place] = b",".join(cells)
    if rng.random() < 0.2:
        lines[place] *= 3000
    return b"\n".join(lines)


def changed_json(rng: Any, raw: bytes) -> bytes:
    """A value of another type, a name that lacks or is there twice, an odd number, deep nesting, another encoding."""
    try:
        whole = json.loads(raw)
    except ValueError:
        return flipped(rng, raw)
    holders: list[Any] = []

    def visit(value: Any) -> None:
        if isinstance(value, dict | list) and value:
            holders.append(value)
            for inner in value.values() if isinstance(value, dict) else value:
                visit(inner)

    visit(whole)
    holder = holders[rng.integers(len(holders))]
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    key = keys[rng.integers(len(keys))]
    how = rng.integers(8)
    if how <= 3:
        holder[key] = VALUES[rng.integers(len(VALUES))]
    elif how == 4:
        del holder[key]
    elif how == 5 and isinstance(holder, dict):
        holder[f"{key}2"] = holder.pop(key)
    elif how == 6:
        text, mark = TEXTS[rng.integers(len(TEXTS))], "MARK"
        holder[key] = mark
        return json.dumps(whole).replace(f'"{mark}"', text, 1).encode("utf-8", "surrogatepass")
    text = json.dumps(whole)
    if how == 7:
        other = (text.encode("utf-16"), b"\xef\xbb\xbf" + text.encode(), text.encode() * 2, f"[{text}]".encode(),
                 text.replace("{", '{"recipe": 1, "recipe": 2, ', 1).encode(), text.replace(",", ",,", 1).encode())
        return other[rng.integers(len(other))]
    return text.encode("utf-8", "surrogatepass")


def lines_of_json(rng: Any, raw: bytes) -> bytes:
    lines = raw.split(b"\n")[:-1]
    place = int(rng.integers(len(lines)))
    lines[place] = changed_json(rng, lines[place])
    return b"\n".join(lines) + b"\n"


def header_of_safetensors(rng: Any, raw: bytes) -> bytes:
    """A damaged header, or damaged metadata in it, with the length that it has then."""
    length = int.from_bytes(raw[:8], "little")
    header, rest = raw[8 : 8 + length], raw[8 + length:]
    if rng.random() < 0.5:
        whole = json.loads(header)
        whole["__metadata__"]["fastnn"] = changed_json(rng, whole["__metadata__"]["fastnn"].encode()).decode(
            errors="replace")
        header = json.dumps(whole).encode()
    else:
        header = changed_json(rng, header)
    if rng.random() < 0.2:
        for kind in ("F32", "I64"):
            header = header.replace(f'"{kind}"'.encode(), rng.choice([b'"F64"', b'"BF16"', b'"I32"', b'"F8_E4M3"']), 1)
    return len(header).to_bytes(8, "little") + header + rest


def tokens_of_pickle(rng: Any, raw: bytes) -> bytes:
    """Opcodes that lack, come twice, come elsewhere, are others; numbers and names that are others."""
    starts = [place for _, _, place in pickletools.genops(raw)] + [len(raw)]
    tokens = [raw[a:b] for a, b in itertools.pairwise(starts)]
    for _ in range(int(rng.integers(1, 3))):
        place, how = int(rng.integers(len(tokens))), rng.integers(7)
        if how == 0:
            del tokens[place]
        elif how == 1:
            tokens.insert(place, tokens[rng.integers(len(tokens))] * int(rng.choice([1, 2, 1000])))
        elif how == 2:
            tokens[place] = bytes([int(rng.choice([ord(op.code) for op in pickletools.opcodes]))]) + tokens[place][1:]
        elif how == 3:
            tokens[place] = b"J" + int(EXTREMES[rng.integers(11)] % 2**32).to_bytes(4, "little")
        elif how == 4:
            tokens[place] = [b"(" * 1000, b"]" * 5000, b"(l" * 5000, b")\x85" + b"\x85" * 100_000, b"2" * 100, b"\x89"][
                rng.integers(6)]
        elif how == 5:
            names = [i for i, token in enumerate(tokens) if token[:1] == b"c"]
            name = [b"cos\nsystem\n", b"cnumpy\nload\n", b"cnumpy.core.multiarray\nscalar\n", b"cnumpy\ndtype\n"]
            tokens[names[rng.integers(len(names))]] = name[rng.integers(4)]
        else:
            code = [b"M8", b"O8", b"V8", b"S1", b"f8", b"i1", b"a,b", b"u2"][rng.integers(8)]
            tokens = [b"U" + bytes([len(code)]) + code if token == b"U\x02u1" else token for token in tokens]
    return b"".join(tokens)


def page_of_database(rng: Any, raw: bytes) -> bytes:
    """A page that is empty, another's, or damaged somewhere."""
    size = 4096
    pages = [raw[i : i + size] for i in range(0, len(raw), size)]
    place, how = int(rng.integers(len(pages))), rng.integers(3)
    pages[place] = [bytes(size), pages[rng.integers(len(pages))], overwritten(rng, pages[place])[:size]][how]
    return b"".join(pages)


def cell_of_database(rng: Any, raw: bytes) -> bytes:
    """A database that is whole, with another value in one cell."""
    connection = sqlite3.connect(":memory:")
    connection.deserialize(raw)
    tables = [name for name, in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    full = [name for name in tables if connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]]
    table = full[rng.integers(len(full))]
    columns = [column for _, column, *_ in connection.execute(f'PRAGMA table_info("{table}")')]
    rows = [row for row, in connection.execute(f'SELECT rowid FROM "{table}"')]
    values = (None, 0, -1, 10**18, 1.5, 1e300, "", "x", b"\xff", "null", "[]", "{}", "NaN", "COMPLETE", "'", "{" * 9)
    with contextlib.suppress(sqlite3.Error):
        column = columns[rng.integers(len(columns))]
        connection.execute(f'UPDATE OR REPLACE "{table}" SET "{column}" = ? WHERE rowid = ?',
                           (values[rng.integers(len(values))], rows[rng.integers(len(rows))]))
    connection.commit()
    return connection.serialize()


def with_checksums(rng: Any, raw: bytes) -> bytes:
    """Damage that the checksums of PNG do not see."""
    damaged = any_of(BYTES)(rng, raw)
    if damaged[:8] != b"\x89PNG\r\n\x1a\n":
        return damaged
    chunks, place = [damaged[:8]], 8
    while place + 12 <= len(damaged):
        length = int.from_bytes(damaged[place : place + 4])
        body = damaged[place + 4 : place + 8 + length]
        chunks += [damaged[place : place + 4], body, zlib.crc32(body).to_bytes(4)]
        place += 12 + length
    return b"".join(chunks) + damaged[place:]


# --- how they are read ---


def call(*arguments: str) -> str:
    """Run the command line; return "" where all went well, else the sentence."""
    sys.argv = ["fastnn", *arguments]
    out, err = io.StringIO(), io.StringIO()
    status: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
        except ReadError:
            return ""
    out.getvalue().encode()
    text = "".join(line for line in err.getvalue().splitlines(True) if not line.startswith("compiling kernels"))
    assert status in (0, 2), (status, text)
    assert status == 2 or not text, text
    if text:
        assert text.startswith("fastnn: "), text
    return text.removesuffix("\n")


class ReadError(RuntimeError):
    """All was read, and what follows is left out."""


def reached(*_: object, **__: object) -> None:
    raise ReadError


def read_set(load: Callable[[Path], data.Dataset]) -> Callable[[Path], str]:
    def read(folder: Path) -> str:
        dataset = load(folder)
        for part in (dataset.train, dataset.test):
            assert (part.images.dtype, part.images.shape[1:]) == (np.uint8, (1, 28, 28))
            assert part.labels.dtype == np.int64
            assert 0 <= part.labels.min() <= part.labels.max() <= 9
        return ""

    return read


def read_batch(folder: Path) -> str:
    images, labels = formats.read_cifar_batch((folder / "batch").read_bytes(), "batch")
    assert (images.dtype, images.shape, labels.dtype) == (np.uint8, (len(labels), 3, 32, 32), np.int64)
    return ""


def read_history(folder: Path) -> str:
    history = training.History.read(folder)
    for name in ("train_loss", "val_accuracy", "seconds") if history else ():
        with contextlib.suppress(KeyError):         # a figure that lacks
            assert history[name].dtype == np.float64
    return ""


def read_image(folder: Path) -> str:
    path = next(path for path in folder.iterdir() if path.is_file())       # the only one, once it is damaged
    return call("predict", str(folder / "run"), str(path))


def read_results(folder: Path) -> str:
    """A damaged run among whole ones is passed over, in a sentence."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        results(folder)
    assert out.getvalue().startswith("| recipe")
    return err.getvalue().removesuffix("\n")


def evaluate(folder: Path) -> str:
    return call("evaluate", str(folder))


def resume(folder: Path) -> str:
    return call("train", "cnn", "--run-dir", str(folder), "--resume")


def evaluate_or_resume(folder: Path) -> str:
    return evaluate(folder) or resume(folder)


def go_on(folder: Path) -> str:
    return call("sweep", "cnn", "--epochs", "2", "--trials", "3", "--study", str(folder / "study.db"))


READERS: dict[str, tuple[Any, Callable[[Path], str], str]] = {
    "idx": (BYTES, read_set(data.mnist), "*"),
    "idx in gzip": ((zipped,), read_set(data.mnist), "*"),
    "csv": ((*BYTES, line_of_csv, line_of_csv), read_set(data.fashion_mnist), "*"),
    "csv in gzip": ((zipped,), read_set(data.fashion_mnist), "*"),
    "cifar": ((*BYTES, *(tokens_of_pickle,) * 8), read_batch, "*"),
    "image": ((*BYTES, with_checksums, with_checksums), read_image, "*.*"),
    "best checkpoint": ((*BYTES, *(header_of_safetensors,) * 8), evaluate, "best.safetensors"),
    "last checkpoint": ((*BYTES, *(header_of_safetensors,) * 8), resume, "last.safetensors"),
    "config": ((*BYTES, *(changed_json,) * 16), evaluate_or_resume, "config.json"),
    "metrics": ((*BYTES, *(lines_of_json,) * 16), read_history, "metrics.jsonl"),
    "results": ((*BYTES, *(changed_json,) * 16), read_results, "damaged/results.json"),
    "study": ((*BYTES, *(page_of_database, cell_of_database) * 6), go_on, "study.db"),
}


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted(folder.rglob("*")) if path.is_file() and "lock" not in path.name}


def attempt(name: str, whole: Path, scratch: Path, number: int) -> str:
    """Damage a file, read it, and return "read" or the sentence that refused it; what is wrong is an AssertionError."""
    mutations, read, pattern = READERS[name]
    rng = np.random.default_rng([zlib.crc32(name.encode()), number])
    folder = scratch / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    paths = sorted(path for path in folder.glob(pattern) if path.is_file())
    path = paths[rng.integers(len(paths))]
    if len(paths) > 1 and name == "image":
        for other in paths:
            if other != path:
                other.unlink()
    path.write_bytes(any_of(mutations)(rng, path.read_bytes()))
    before = contents(folder)
    try:
        sentence = read(folder)
    except (ValueError, OSError) as error:
        sentence = str(error) or repr(error)
    if sentence:
        assert "\n" not in sentence, sentence
        assert len(sentence) < LONGEST, sentence
        assert "Traceback" not in sentence
        after = contents(folder)
        assert before == after, [file for file in {**before, **after} if before.get(file) != after.get(file)]
    return sentence or "read"


def main() -> None:
    name, whole, scratch, first, count = sys.argv[1:]
    warnings.simplefilter("error")
    training.Trainer._train_epoch = reached             # type: ignore[method-assign, assignment]
    if name == "study":
        from fastnn.sweeps import Sweep

        Sweep._work = reached                           # type: ignore[method-assign, assignment]
    folder = Path(scratch, "whole")
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    READERS[name][1](folder)                            # compiles and imports what it needs
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    for number in range(int(first), int(first) + int(count)):
        print(json.dumps({"begins": number}), flush=True)
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + SECONDS, resource.RLIM_INFINITY))
        signal.alarm(10 * SECONDS)
        try:
            outcome, wrong = attempt(name, Path(whole), Path(scratch), number), False
        except BaseException:
            outcome, wrong = traceback.format_exc(limit=-6), True
        print(json.dumps({"number": number, "outcome": outcome, "wrong": wrong}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
