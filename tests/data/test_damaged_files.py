"""Damaged files of every format that is read: a sentence each, no crash, little memory, nothing changed on the disk."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from fastnn import cli, data, recipes, training

damage = Path(__file__).with_name("damage.py")
FORMATS = ("idx", "idx in gzip", "csv", "csv in gzip", "cifar", "image", "best checkpoint", "last checkpoint", "config",
           "metrics", "results", "study")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory, and /proc")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    recipes.CNN(epochs=2, run_dir=folder).run()
    for path in folder.glob("*.png"):
        path.unlink()
    (folder / "report.html").unlink()
    return folder


def csv(count, seed):
    rng = np.random.default_rng(seed)
    rows = np.column_stack([rng.integers(0, 10, count), rng.integers(0, 256, (count, 784))])
    header = ",".join(["label", *(f"pixel{n}" for n in range(1, 785))])
    return "\n".join([header, *(",".join(map(str, row)) for row in rows), ""]).encode()


def write_images(folder):
    from PIL import Image, features

    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8))
    gray, alpha = colours.convert("L"), colours.convert("RGBA")
    alpha.putalpha(gray)
    deep = Image.fromarray(rng.integers(0, 65536, (24, 20), np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = {"colours.png": (colours, {"exif": exif}), "gray.png": (gray, {}), "alpha.png": (alpha, {}),
             "deep.png": (deep, {}), "palette.png": (colours.convert("P"), {"transparency": 3}),
             "bits.png": (gray.convert("1"), {}), "plain.jpg": (colours, {"exif": exif}),
             "progressive.jpg": (colours, {"progressive": True}), "cmyk.jpg": (colours.convert("CMYK"), {}),
             "two.gif": (colours, {"save_all": True, "append_images": [gray]}), "plain.bmp": (colours, {}),
             "plain.tif": (colours, {}), "deep.tif": (deep, {}), "lzw.tif": (colours, {"compression": "tiff_lzw"}),
             "jpeg.tif": (colours, {"compression": "jpeg"}), "zip.tif": (gray, {"compression": "tiff_adobe_deflate"}),
             "plain.ppm": (colours, {}), "plain.pcx": (colours, {}), "plain.sgi": (colours, {}),
             "plain.webp": (colours, {}), "alpha.webp": (alpha, {"lossless": True}), "plain.avif": (colours, {}),
             "plain.jp2": (colours, {})}
    lacking = [name for name, feature in (("webp", "webp"), ("avif", "avif"), ("jp2", "jpg_2000"))
               if not features.check(feature)]
    for name, (image, options) in whole.items():
        if name.partition(".")[2] not in lacking:
            image.save(folder / name, **options)


def write_study(file):
    optuna = pytest.importorskip("optuna")
    from fastnn.sweeps import Sweep, options
    from fastnn.sweeps import study as studies

    sweep = Sweep(recipes.CNN(epochs=2), 3, study=file)
    with studies.quiet():
        study = studies.open_study(file, 2)
        study.set_user_attr("sweep", sweep._options())
        for number in range(3):
            study.add_trial(optuna.trial.FrozenTrial(
                number, optuna.trial.TrialState.COMPLETE, 0.5 + number / 10, datetime(2026, 1, 1), datetime(2026, 1, 2),
                {"batch_size": 64, "lr": 0.01}, {name: options.distribution(c) for name, c in sweep.space.items()}, {},
                {}, {1: 0.4, 2: 0.5 + number / 10}, number))
        study._storage._backend.engine.dispose()


@pytest.fixture
def whole(request, tmp_path, write_idx_set, cifar_bytes):
    """A function: a folder with files of a format that can be read."""
    def write(name):
        folder = tmp_path / "files"
        folder.mkdir()
        if name.startswith("idx"):
            write_idx_set(folder, ".gz" * (name != "idx"))
        elif name.startswith("csv"):
            for seed, file in enumerate(("fashion-mnist_train.csv", "fashion-mnist_test.csv")):
                raw = csv(12, seed)
                (folder / (file + ".gz" * (name != "csv"))).write_bytes(raw if name == "csv" else gzip.compress(raw))
        elif name == "cifar":
            rng = np.random.default_rng(0)
            images, labels = rng.integers(0, 256, (20, 3072), dtype=np.uint8), rng.integers(0, 10, 20)
            (folder / "batch").write_bytes(cifar_bytes(images, labels.tolist()))
        elif name == "study":
            write_study(folder / "study.db")
        elif name == "results":
            shutil.copytree(request.getfixturevalue("run_dir"), folder / "damaged")
            shutil.copytree(request.getfixturevalue("run_dir"), folder / "whole")
        elif name == "image":
            write_images(folder)
            shutil.copytree(request.getfixturevalue("run_dir"), folder / "run")
        else:
            shutil.copytree(request.getfixturevalue("run_dir"), folder, dirs_exist_ok=True)
        return folder

    return write


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name, whole, tmp_path, request):
    folder, number, count = whole(name), 0, request.config.getoption("--mutations")
    refused, read, wrong = 0, 0, []
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "COLUMNS": "100"}
    environment.pop("FASTNN_DATA", None)
    while number < count:
        scratch = tmp_path / f"from-{number}"
        scratch.mkdir()
        begun = None
        with subprocess.Popen([sys.executable, damage, name, folder, scratch, str(number), str(count - number)],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
            lines = [json.loads(line) for line in process.stdout if line.startswith("{")]
            error = process.stderr.read()
        for line in lines:
            begun = line.get("begins", begun)
            if line.get("wrong"):
                wrong.append(f"{name} {line['number']}: {line['outcome']}")
            elif "outcome" in line:
                read += line["outcome"] == "read"
                refused += line["outcome"] != "read"
        assert begun is not None, error
        if process.returncode:
            how = signal.Signals(-process.returncode).name if process.returncode < 0 else f"status {process.returncode}"
            wrong.append(f"{name} {begun}: the process ended with {how}: {error[-500:]}")
        elif error and name != "image":             # libtiff says things by itself
            wrong.append(f"{name}: said {error[:500]}")
        number = begun + 1
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong[:20])
    assert refused > count // 10
    print(f"{name}: {refused} refused in a sentence, {read} read")


# --- what lies in place of a file ---


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def loop(path):
    path.symlink_to(path)


def unreadable(path):
    path.write_bytes(b"secret")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("everything can be read here")


INSTEAD = (pipe, endless, loop, unreadable, Path.mkdir, lambda path: path.write_bytes(b""))


@pytest.mark.parametrize("instead", INSTEAD)
@pytest.mark.parametrize("read", [
    data.read_idx, data.read_csv, lambda path: recipes.read_image(path, 1, 8, 8), training.load])
def test_what_is_no_file_is_said_at_once(read, instead, tmp_path):
    instead(tmp_path / "file")
    with pytest.raises((ValueError, OSError, training.CheckpointError), match=r"file: expected [^\n]*$"):
        read(tmp_path / "file")


@pytest.mark.parametrize("instead", INSTEAD)
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "results.json", "best.safetensors"])
def test_what_is_no_file_in_a_run(name, instead, run_dir, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(run_dir, tmp_path / "runs/cnn-1")
    (folder / name).unlink()
    instead(folder / name)
    if name == "metrics.jsonl":
        if (folder / name).is_file() and not (folder / name).stat().st_size:
            assert not training.History.read(folder)
            return
        with pytest.raises(OSError, match=r"metrics\.jsonl: expected"):
            training.History.read(folder)
        return
    arguments = ["results", str(folder.parent)] if name == "results.json" else ["evaluate", str(folder)]
    monkeypatch.setattr(sys, "argv", ["fastnn", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    *passed_over, sentence = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"fastnn: {tmp_path}")
    assert len(passed_over) == (name == "results.json" and instead is not loop)     # which counts as no file
