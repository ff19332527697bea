"""The command line, as real processes: what it prints, how it ends, what it leaves."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastnn
from fastnn import cli, data, models, nn, recipes, training
from fastnn._extras import install
from fastnn.cli import doctor
from fastnn.cli.gradients import _cases
from fastnn.cli.summary import summary
from fastnn.recipes import RECIPES
from fastnn.training import run_folder

COMMANDS = ("list", "train", "sweep", "evaluate", "predict", "generate", "sample", "compress", "summary", "results",
            "bench", "gradcheck", "warmup", "doctor")
NETWORKS = {name for name in models.__all__
            if isinstance(kind := getattr(models, name), type) and issubclass(kind, nn.Module)}
PYTHON = (sys.executable, "-m", "fastnn")


def fastnn_command(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PYTHON, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False,
                          env={**os.environ, "COLUMNS": "100", **environment})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder with a run of two epochs in it, and what training printed."""
    folder = tmp_path_factory.mktemp("cli")
    return folder, fastnn_command("train", "cnn", "--epochs", 2, cwd=folder)


# --- help and mistakes ---


def test_help_names_every_command(tmp_path: Path) -> None:
    done = fastnn_command("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(re.search(rf"• {command} +[A-Z]", done.stdout) for command in COMMANDS)
    assert fastnn_command(cwd=tmp_path).stdout == done.stdout


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_every_option_is_explained(command: str, tmp_path: Path) -> None:
    arguments = (command, "cnn") if command in ("train", "sweep") else (command,)
    done = fastnn_command(*arguments, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    frame = [line.strip("│ ") for line in done.stdout.splitlines() if line.startswith("│")]
    for at, line in enumerate(frame):
        if line.startswith(("-", "PATH", "[")):       # an option: words stand on its line or the next
            assert re.search("[a-z]{2,} [a-z(]", line + " " + " ".join(frame[at + 1 : at + 2])), line


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_option_of_a_recipe_is_one_of_the_sweep(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli._run(["sweep", recipe, "--help"])
    assert (end.value.code, capsys.readouterr().out.count("--trials INT")) == (0, 1)


def test_list_has_a_line_a_recipe(tmp_path: Path) -> None:
    done = fastnn_command("list", cwd=tmp_path)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["recipe", *RECIPES]
    assert all(recipe.needs in done.stdout and recipe.takes in done.stdout for recipe in RECIPES.values())


def test_version(tmp_path: Path) -> None:
    assert fastnn_command("--version", cwd=tmp_path).stdout == f"fastnn {fastnn.__version__}\n"


@pytest.mark.parametrize(("arguments", "message"), [
    ("trian", "Unrecognized options: trian; Available subcommands: list, train, "),
    ("train resnet", "Unrecognized options: resnet; Available subcommands: cnn, cnn-mnist, "),
    ("train cnn --epoch 3", "Unrecognized options: --epoch, 3; Perhaps you meant: --epochs INT"),
    ("train cnn --epochs many", "Error parsing --epochs: invalid literal for int() with base 10: 'many'"),
    ("train cnn --dataset cifar", "invalid choice 'cifar' for argument '--dataset'. Expected one of ('digits', "),
    ("train cnn --epochs 0", "epochs: expected at least 1, got 0"),
    ("train cnn --lr -1", "lr: expected a number above 0, got -1.0"),
    ("train cnn --data-dir nowhere", "data_dir: expected a folder, but there is none at nowhere; give the folder in"),
    ("train cnn --resume", "resume: expected a run of cnn under "),
    ("train cnn --init-from nowhere", "init_from: expected the folder of a trained run, such as runs/cnn-1, but there"),
    ("train cnn --freeze 9 *", "freeze: expected patterns of names of parameters or layers, which this CNN calls 0.we"),
    ("train cnn-mnist --data-dir .", "mnist: expected its files in "),
    ("evaluate", "Missing from fastnn evaluate: PATH"),
    ("evaluate nothing", "nothing: expected the folder of a run, but there is no config.json in it"),
    ("predict nothing x.png", "nothing: expected the folder of a run, but there is no config.json in it"),
    ("train fc-net --hidden 0", "hidden: expected at least 1 unit a layer, got (0,)"),
    ("train knn-cifar10 --ks 5 1", "ks: expected rising numbers from 1 to 10,000, got (5, 1)"),
    ("summary resnet19", "model: expected one of cnn, vae, allcnn, "),
    ("summary cnn --input-shape 3", "input_shape: samples of shape (3,) do not fit this CNN: x: expected 4 dimensions"),
    ("results nowhere", "nowhere: expected finished runs in it, folders with a results.json, but there is none; "),
    ("bench -k conv3d", "kernel: expected a part of one of conv2d, "),
    ("bench --repeats 0", "repeats: expected at least 1, got 0"),
    ("gradcheck -k Conv3d", "module: expected a part of one of Linear, "),
    ("gradcheck --seed -1", "seed: expected at least 0, got -1"),
    ("warmup -k relu --dtypes uint8", "dtypes: expected some of those that the chosen kernels take, uint8 being"),
    ("warmup cn", "recipe: expected one of cnn"),
    ("warmup --dtypes float16", "invalid choice 'float16' for argument '--dtypes'. "),
])
def test_a_mistake_ends_in_a_sentence_and_status_2(arguments: str, message: str, tmp_path: Path) -> None:
    done = fastnn_command(*arguments.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"fastnn: {message}")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_in_development_mode_a_mistake_ends_in_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-X", "dev", "-W", "ignore", "-m", "fastnn", "evaluate", "nothing"],
                          capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_the_notes_of_an_error_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(arguments: object) -> int:
        error = ValueError("x: expected 2 channels, got 3")
        error.add_note("in layer 0 of Sequential")
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "fastnn: x: expected 2 channels, got 3; in layer 0 of Sequential\n"


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['tyro'] = sys.modules['PIL'] = None; from fastnn.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "list"], capture_output=True, text=True, cwd=tmp_path,
                          check=False)
    assert done.returncode == 2
    assert done.stderr == f"fastnn: the commands need tyro, pillow: run {install('train')}\n"


def test_asking_for_cuda_where_there_is_none_says_what_to_install(tmp_path: Path) -> None:
    for command in ("train cnn", "train knn-cifar10", "sweep cnn", "bench"):
        done = fastnn_command(*command.split(), "--device", "cuda", cwd=tmp_path, CUDA_VISIBLE_DEVICES="",
                              NUMBA_ENABLE_CUDASIM="0")
        assert done.returncode == 2
        assert re.fullmatch(r"fastnn: CUDA cannot be used here \(.+\); it needs an NVIDIA GPU with its driver and pip "
                            r'install "fastnn-kernels\[cuda13\]" .*, or \[cuda12\] instead, as the driver says\n',
                            done.stderr)
        assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_early_is_no_mistake(tmp_path: Path) -> None:
    with subprocess.Popen([*PYTHON, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


# --- training, and what comes of it ---


def test_train_ends_with_the_test_accuracy(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = trained
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("cnn: CNN with 30,762 parameters, on 1,293 images of digits")
    assert lines[1] == "run folder: runs/cnn-1"
    assert [line[:10] for line in lines if line.startswith("epoch")] == ["epoch 1/2 ", "epoch 2/2 "]
    accuracy = json.loads((folder / "runs/cnn-1/results.json").read_text())["accuracy"]
    assert lines[-1] == f"test accuracy: {100 * accuracy:.2f} %"
    assert "epoch 2/2: 100%" in done.stderr                           # the bar
    assert "Traceback" not in done.stderr


def test_evaluate_prints_the_same_figures(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = trained
    again = fastnn_command("evaluate", "runs/cnn-1", cwd=folder)
    assert again.returncode == 0
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    table = again.stdout[again.stdout.index("Confusion matrix") :].splitlines()
    assert set(table) <= set(done.stdout.splitlines())
    missing = fastnn_command("evaluate", "runs/cnn-1", "--data-dir", "nowhere", cwd=folder)
    assert (missing.returncode, missing.stdout) == (2, "")


def test_predict_names_the_digit_in_a_file(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    image = pytest.importorskip("PIL.Image")
    folder, _ = trained
    digits = data.digits().test
    for i in range(10):
        pixels = 255 - np.rint(digits.images[i, 0] * (255 / 16)).astype(np.uint8)
        image.fromarray(pixels).resize((160, 160), image.Resampling.NEAREST).save(folder / f"{i}.png")
    done = fastnn_command("predict", "runs/cnn-1", *(f"{i}.png" for i in range(10)), cwd=folder)
    assert done.returncode == 0
    lines = [re.fullmatch(r"(\d).png: (\d) [\d.]+ %, \d [\d.]+ %, \d [\d.]+ %  \(brought from 160x160 to 8x8 pixels; "
                          r"inverted, since its background is light\)", line) for line in done.stdout.splitlines()]
    right = sum(match is not None and int(match[2]) == digits.labels[int(match[1])] for match in lines)
    assert len(lines) == 10
    assert right >= 6                       # after two epochs
    for arguments, message in [(["x.png"], "x.png: expected an image file, but there is no such file"),
                               (["0.png", "--top", "0"], "top: expected at least 1, got 0"),
                               ([], "files: expected at least one image file")]:
        wrong = fastnn_command("predict", "runs/cnn-1", *arguments, cwd=folder)
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert message in wrong.stderr


def test_summary_of_a_run_is_that_of_its_model(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    done = fastnn_command("summary", "runs/cnn-1", cwd=trained[0])
    assert done.returncode == 0
    assert done.stdout == f"CNN, samples of shape 1 x 8 x 8\n\n{fastnn.summary(models.CNN(), (1, 8, 8))}\n"
    larger = fastnn_command("summary", "runs/cnn-1", "--input-shape", 1, 16, 16, cwd=trained[0]).stdout
    assert larger == f"CNN, samples of shape 1 x 16 x 16\n\n{fastnn.summary(models.CNN(), (1, 16, 16))}\n"


def test_a_run_is_neither_overwritten_nor_taken_for_another(
        trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = trained
    for arguments, message in [
        ("cnn --run-dir runs/cnn-1", "run_dir: runs/cnn-1 holds a run already; give another folder, or resume"),
        ("cnn-mnist --run-dir runs/cnn-1 --resume", "run_dir: expected a run of cnn-mnist, but runs/cnn-1 holds one"),
        ("cnn --run-dir runs/cnn-1 --resume --seed 4", "seed: expected 0, with which the run in runs/cnn-1 was begun"),
    ]:
        done = fastnn_command("train", *arguments.split(), cwd=folder)
        assert done.returncode == 2
        assert message in done.stderr


def test_a_run_is_resumed_with_the_arguments_that_were_given(
        trained: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[recipes.CNN] = []
    monkeypatch.setattr(recipes.CNN, "run", lambda recipe: run.append(recipe))
    monkeypatch.setattr(sys, "argv", ["another program"])
    folder = trained[0] / "runs" / "cnn-1"
    assert cli._run(["train", "cnn", "--run-dir", str(folder), "--epochs", "7", "--resume"]) == 0
    assert cli._run(["train", "cnn", "--run-dir", str(folder), "--lr=0.01", "--resume"]) == 0
    assert cli._run(["train", "cnn", "--resume", "--run_dir", str(folder), "--seed", "4"]) == 0
    assert run == [recipes.CNN(run_dir=folder, resume=True, **options)
                   for options in ({"epochs": 7}, {"epochs": 2}, {"epochs": 2, "seed": 4})]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.usefixtures("signals_heard")
def test_ctrl_c_saves_the_run_and_says_how_to_go_on(tmp_path: Path) -> None:
    options = ["--seed", "5", "--epochs", "4", "--batch-size", "128"]
    process = subprocess.Popen([*PYTHON, "train", "cnn", *options, "--run-dir", "my run"], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    metrics = tmp_path / "my run" / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    command = errors.splitlines()[-1].strip()
    assert command == "fastnn train cnn --run-dir 'my run' --resume"
    done_before = metrics.read_text()
    assert 0 < len(done_before.splitlines()) < 4

    resumed = fastnn_command(*shlex.split(command)[1:], cwd=tmp_path)
    whole = fastnn_command("train", "cnn", *options, "--run-dir", "whole", cwd=tmp_path)
    assert resumed.returncode == whole.returncode == 0
    assert metrics.read_text().startswith(done_before)
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("my run", "whole")]
    assert results[0]["loss"] == results[1]["loss"]
    assert results[0]["confusion"] == results[1]["confusion"]


@pytest.mark.skipif(os.name != "posix", reason="signals to oneself")
@pytest.mark.usefixtures("signals_heard")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_before_anything_is_saved(tmp_path: Path, name: str) -> None:
    code = ("import os, signal, threading; from fastnn.data import datasets; "
            f"datasets.np.load = lambda *a, **k: os.kill(os.getpid(), signal.{name}) or threading.Event().wait(60); "
            "from fastnn.cli import main; main()")
    done = subprocess.run([sys.executable, "-c", code, "train", "cnn"], capture_output=True, text=True, cwd=tmp_path,
                          check=False)
    assert (done.returncode, done.stderr) == (128 + getattr(signal, name), "\nfastnn: stopped\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="signals to oneself")
@pytest.mark.usefixtures("signals_heard")
def test_sigterm_ends_a_recipe_that_keeps_no_checkpoints(tmp_path: Path) -> None:
    code = ("import os, signal, threading; from fastnn.training import plots; "
            "plots.png = lambda *a: os.kill(os.getpid(), signal.SIGTERM) or threading.Event().wait(60); "
            "from fastnn.cli import main; main()")
    options = ("--points", "2", "--repeats", "1", "--updates", "1", "--run-dir", "run")
    done = subprocess.run([sys.executable, "-c", code, "train", "regression", *options], capture_output=True, text=True,
                          cwd=tmp_path, check=False)
    assert done.returncode == 143
    assert done.stderr.endswith("\nfastnn: stopped\n")
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="takes a terminal away")
@pytest.mark.usefixtures("signals_heard")
def test_a_terminal_that_closes_saves_the_run(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    code = ("import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from fastnn.cli import main; main()")
    with subprocess.Popen([sys.executable, "-c", code, "train", "cnn", "--epochs", "500", "--run-dir", "run"],
                          cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        shown = b""
        while b"epoch   1/500  " not in shown:
            shown += os.read(ours, 1000)
        os.close(ours)
        assert process.wait(600) == 128 + signal.SIGHUP
    assert training.load(tmp_path / "run" / "last.safetensors")[1]["state"]["updates"] > 0
    assert not list((tmp_path / "run").glob(".*"))


def test_a_second_process_on_a_run_is_told_who_holds_it(trained: tuple[Path, str], tmp_path: Path) -> None:
    folder = shutil.copytree(trained[0] / "runs" / "cnn-1", tmp_path / "run")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with run_folder.hold(folder):
        for options in (["--resume", "--epochs", "9"], []):
            done = fastnn_command("train", "cnn", "--run-dir", "run", *options, cwd=tmp_path)
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr.startswith(f"fastnn: run: another run writes in this folder: process {os.getpid()} on ")
            assert done.stderr.count("\n") == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_ends_in_a_sentence_and_the_run_can_go_on(tmp_path: Path) -> None:
    code = ("import resource, sys; from fastnn.cli import main; "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); main()")
    done = subprocess.run([sys.executable, "-c", code, "train", "cnn", "--epochs", "1"], capture_output=True, text=True,
                          cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert re.search(r"\nfastnn: .*safetensors: could not be written \(File too large\); .*resume the run", done.stderr)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.part"))
    resumed = fastnn_command("train", "cnn", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0
    assert resumed.stdout.splitlines()[-1].startswith("test accuracy: ")


def test_a_run_that_diverges_ends_in_a_sentence(tmp_path: Path) -> None:
    done = fastnn_command("train", "cnn", "--lr", "1e9", cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(r"\nfastnn: the .* is (nan|inf|not finite) in epoch 1 .*: try a lower learning rate", done.stderr)
    assert "Traceback" not in done.stderr


# --- kernels, gradients, the machine ---


def test_gradcheck_knows_every_layer_loss_and_model() -> None:
    checked = {name.partition(":")[0] for name, *_ in _cases(0)}
    classes = {name: value for name in nn.__all__ if isinstance(value := getattr(nn, name), type)}
    without_forward = {"Module", "Composed", "ModuleList"}
    layers = {name for name, value in classes.items() if issubclass(value, nn.Module)} - without_forward
    assert checked == layers | NETWORKS


@pytest.mark.parametrize("name", sorted(NETWORKS - {"DDPM", "MultiCrop"}))
def test_summary_knows_every_model(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    summary(name.lower())
    assert re.search(r"^total ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(("name", "shape", "said"), [
    ("resnet-18", (), "11,689,512"), ("ResNet18", (3, 32, 32), "512 x 4 x 4"), ("all_cnn", (1, 28, 28), "96 x 28 x 28"),
    ("linearsvm", (3, 4, 4), "490"), ("three-layer-convnet", (1, 16, 16), "64 x 16 x 16")])
def test_summary_makes_the_model_for_the_samples(
        name: str, shape: tuple[int, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    summary(name, input_shape=shape)
    assert said in capsys.readouterr().out


def test_summary_of_a_model_takes_no_recipe() -> None:
    with pytest.raises(ValueError, match=r"recipe: expected none for one of fastnn\.models, got x\.py:X"):
        summary("cnn", recipe="x.py:X")


def test_gradcheck_passes_and_prints_a_table(tmp_path: Path) -> None:
    done = fastnn_command("gradcheck", "-k", "conv", cwd=tmp_path)
    assert done.returncode == 0
    rows = [re.fullmatch(r"([\w:, ]+?) +(\d\.\d\de-\d\d) +1e-07 +\d+  pass", line)
            for line in done.stdout.splitlines()[1:-2]]
    assert len(rows) >= 5
    assert all(row is not None and float(row[2]) <= 1e-7 for row in rows)
    assert done.stdout.splitlines()[-1] == f"{len(rows)} of {len(rows)} pass"


def test_gradcheck_fails_with_status_1(tmp_path: Path) -> None:
    code = ("from fastnn import kernels; right = kernels.sigmoid_backward; "
            "kernels.sigmoid_backward = lambda *a, **k: right(*a, **k) * (1 + 1e-5); "
            "from fastnn.cli import main; main()")
    done = subprocess.run([sys.executable, "-c", code, "gradcheck", "-k", "sigmoid"], capture_output=True, text=True,
                          cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert re.search(r"Sigmoid +5.0\de-06 +1e-07 +0  FAIL at x\n\n0 of 1 pass", done.stdout)


def test_bench_times_the_naive_version_on_a_part(tmp_path: Path) -> None:
    done = fastnn_command("bench", "-k", "adaptive_avg_pool2d", "--repeats", 3, cwd=tmp_path)
    assert done.returncode == 0
    said, _, peaks, _, head, *rows = done.stdout.splitlines()
    assert "timed once on a part of the batch, and scaled to all of it" in said
    assert re.search(r"peaks: [\d,]+ GFLOP/s of products in registers, [\d,]+ Gop/s of those of bytes, [\d.]+ GB/s "
                     "read and written", peaks)
    assert head.split()[:2] == ["kernel", "call"]
    assert [row.split()[0] for row in rows] == ["adaptive_avg_pool2d", "adaptive_avg_pool2d_backward"]
    assert all(re.search(r" s +[\d.]+ ms +[\d,]+ +[\d.]+ GB/s +\d+ %$", row.rstrip()) for row in rows)


def test_cache_clear_deletes_compiled_kernels_and_nothing_else(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    code = "import numpy as np, fastnn; fastnn.relu(np.ones(3))"
    environment = {"FASTNN_CACHE_DIR": str(cache)}
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **environment})
    (cache / "notes.txt").touch()
    count = len(list(cache.iterdir())) - 1
    assert count > 0
    done = fastnn_command("cache", "clear", cwd=tmp_path, **environment)
    assert re.fullmatch(rf"deleted {count} files, [\d.]+ MB, in {re.escape(str(cache))}\n", done.stdout)
    assert [path.name for path in cache.iterdir()] == ["notes.txt"]
    cache.chmod(0o777)
    done = fastnn_command("cache", "clear", cwd=tmp_path, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f"fastnn: there is no cache to clear: {cache}: others may write to it\n")


def test_warmup_compiles_what_is_needed_later(tmp_path: Path) -> None:
    cache = {"FASTNN_CACHE_DIR": str(tmp_path / "cache")}
    done = fastnn_command("warmup", "-k", "mse_loss", "--dtypes", "float32", cwd=tmp_path, **cache)
    assert done.returncode == 0
    compiled, before = map(int, re.findall(r"(\d+) (?:functions|were)", done.stdout))
    files = set((tmp_path / "cache").rglob("*.kernel"))
    assert (compiled, before) == (len(files), 0)
    assert f"{compiled}/{compiled}" in done.stderr          # the bar
    code = ("import numpy as np; from fastnn import kernels; x = np.ones((300, 300), np.float32); "
            "kernels.mse_loss(x, x); kernels.mse_loss_backward(1.0, x, x); kernels.mse_loss(x[:2], x[:2])")
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **cache})
    assert set((tmp_path / "cache").rglob("*.kernel")) == files
    again = fastnn_command("warmup", "-k", "mse_loss", "--dtypes", "float32", cwd=tmp_path, **cache)
    assert again.stdout.startswith("0 functions compiled in ")
    assert f"{compiled} were there before" in again.stdout


def test_nothing_compiles_after_the_warmup_of_a_recipe(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    cache = {"FASTNN_CACHE_DIR": str(tmp_path / "cache")}
    assert fastnn_command("warmup", "cnn", cwd=tmp_path, **cache).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    files = set((tmp_path / "cache").rglob("*.kernel"))
    image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "image.png")
    for command in ("train cnn --epochs 1 --run-dir run", "evaluate run", "predict run image.png"):
        assert fastnn_command(*command.split(), cwd=tmp_path, **cache).returncode == 0
    assert set((tmp_path / "cache").rglob("*.kernel")) == files


def test_warmup_without_a_compiler(tmp_path: Path) -> None:
    done = fastnn_command("warmup", cwd=tmp_path, NUMBA_DISABLE_JIT="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fastnn: NUMBA_DISABLE_JIT is set")


def test_doctor_lists_what_there_is(tmp_path: Path) -> None:
    done = fastnn_command("doctor", cwd=tmp_path, FASTNN_DATA=str(tmp_path), OMP_NUM_THREADS="1")
    assert done.returncode == 0
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines())
    assert lines["fastnn"].startswith(fastnn.__version__)
    assert lines["threads"].startswith("1 ")
    assert f"numpy {np.__version__}" in lines["packages"]
    assert re.search(r"\d+ files, [\d.]+ MB in ", lines["compiled kernels"])
    assert "mnist: expected its files in" in lines["data: mnist"]
    assert "float32" in lines["register tile"]


def test_doctor_says_what_of_cuda_there_is(tmp_path: Path) -> None:
    none = fastnn_command("doctor", cwd=tmp_path, CUDA_VISIBLE_DEVICES="", NUMBA_ENABLE_CUDASIM="0").stdout
    assert re.search(r"^CUDA +none: .+ \(found: .+\)$", none, re.MULTILINE)
    simulator = fastnn_command("doctor", cwd=tmp_path, NUMBA_ENABLE_CUDASIM="1").stdout
    assert re.search(r"^CUDA +Numba's simulator, since NUMBA_ENABLE_CUDASIM is set$", simulator, re.MULTILINE)


def test_doctor_says_which_cuda_package_cannot_be_imported(tmp_path: Path) -> None:
    """All else goes on without it."""
    (tmp_path / "numba_cuda_mlir.py").write_text("raise ImportError('a library is missing')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = fastnn_command("doctor", cwd=tmp_path, PYTHONPATH=path, NUMBA_ENABLE_CUDASIM="0")
    assert found.returncode == 0
    assert re.search(r"^CUDA +none: numba-cuda-mlir could not be imported: a library is missing ", found.stdout,
                     re.MULTILINE)


@pytest.mark.gpu
def test_doctor_names_the_gpu(tmp_path: Path) -> None:
    found = fastnn_command("doctor", cwd=tmp_path).stdout
    assert re.search(r"^CUDA +.*cupy.* a driver for CUDA \d+\.\d+$", found, re.MULTILINE)
    assert re.search(r"^GPU 0 +\S.*, compute capability \d+\.\d, \d+ GiB$", found, re.MULTILINE)


def test_doctor_knows_packages_with_extras_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [
        'numba-cuda-mlir[cu12]; extra == "cuda12"', 'cupy-cuda12x; extra == "cuda12"'])
    monkeypatch.setattr(doctor, "_version", {"fastnn-kernels": "0.1", "numba-cuda-mlir": "0.6"}.get)
    assert list(doctor._extras()) == [
        ("extra [cuda12]", f"numba-cuda-mlir 0.6; missing cupy-cuda12x: {install('cuda12')}")]


@pytest.mark.real_data
def test_doctor_finds_the_data(data_dir: Path, tmp_path: Path) -> None:
    done = fastnn_command("doctor", "--data-dir", data_dir, cwd=tmp_path)
    lines = [line for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert [line.split()[1] for line in lines] == ["mnist", "fashion_mnist", "cifar10", "cifar100"]
    assert all(f"images in {data_dir}" in line for line in lines[:3])       # CIFAR-100 may not be there
