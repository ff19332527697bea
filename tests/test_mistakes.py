"""Wrong command lines: each ends in a sentence and status 2, with nothing written; streams that cannot be written."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastnn import cli, recipes

RECIPE = """\
from dataclasses import dataclass
from fastnn import data, models, recipes

@dataclass
class Mine(recipes.CNN):
    name = "mine"
    width: int = 3

    def check(self):
        super().check()
        if self.width < 1:
            raise ValueError(f"width: expected at least 1, got {self.width}")

class Unnamed(recipes.ImageClassifier):
    pass

@dataclass
class Idle(recipes.Recipe):
    name = "idle"

    def experiment(self):
        pass
"""

# What is wrong, and what is said of it.
LINES = """\
trian: did you mean train?
predct run x.png: did you mean predict?
zzz: Unrecognized options: zzz; Available subcommands: list, train,
--epochs 3: Unrecognized options: --epochs
list --all: Unrecognized options: --all
train resnet: Available subcommands: cnn, cnn-mnist
train cnm --epochs 3: Unrecognized options: cnm; Available subcommands: cnn,
train cnm --epochs 3: did you mean cnn?
train cnn --epoch 3: Perhaps you meant: --epochs INT
train cnn --batchsize 3: Perhaps you meant: --batch-size INT
train cnn --epochs: Missing value for argument '--epochs'
train fc-net --no-batch-nrom: Perhaps you meant: --no-batch-norm
train fc-net --data-dri x --dropuot 3: Perhaps you meant: --data-dir PATH, --dropout FLOAT
train cnn --epochs many: Error parsing --epochs
train cnn --epochs 1.5: Error parsing --epochs
train cnn --epochs -1: epochs: expected at least 1, got -1
train cnn --batch-size 0: batch_size: expected at least 1, got 0
train cnn --seed -1: seed: expected at least 0, got -1
train cnn --lr nan: lr: expected a number above 0, got nan
train cnn --lr 0: lr: expected a number above 0
train cnn --weight-decay -1: weight_decay: expected at least 0
train cnn --dataset minst: did you mean mnist?
train cnn --data-dir folder: data_dir: expected none with the digits
train cnn --dataset mnist --data-dir folder: mnist: expected its files in
train cnn --dataset mnist --data-dir text: data_dir: expected a folder, but there is none at text
train cnn --dataset mnist --data-dir nowhere: data_dir: expected a folder
train cnn --run-dir: Missing value for argument '--run-dir'
train cnn --run-dir run: run_dir: run holds a run already
train cnn --run-dir text: run_dir: the folder text cannot be made
train cnn --run-dir text/sub: run_dir: the folder text/sub cannot be made
train cnn --run-dir run --resume --lr 0.5: lr: expected 0.01, with which the run in run was begun
train cnn --run-dir nowhere --resume: nowhere: expected the folder of a run
train cnn --run-dir own --resume: run_dir: expected a run of cnn, but own holds one of
train cnn-mnist --run-dir run --resume: run_dir: expected a run of cnn-mnist, but run holds one of cnn
train cnn --resume: resume: expected a run of cnn under
train cnn --track mlflow: invalid choice 'mlflow'
train cnn --device tpu: invalid choice 'tpu'
train cnn extra: Unrecognized options: extra
train fc-net --hidden: batch_norm: expected False where there is no hidden layer
train fc-net --hidden --no-batch-norm --dropout 0.5: dropout: expected 0.0 where there is no hidden layer
train fc-net --hidden --no-batch-norm --activation tanh: activation: expected relu where there is no hidden layer
train fc-net --hidden -3 2: hidden: expected at least 1 unit a layer
train fc-net --dropout nan: dropout: expected from 0 to below 1
train fc-net --optimizer sdg: did you mean sgd?
train knn-cifar10 --ks: ks: expected rising numbers
train knn-cifar10 --folds 1: folds: expected from 2
train svm-cifar10 --factors 1 1: factors: expected numbers above 0, each once
train overfit-check --lrs 0.1 0.1: lrs: expected learning rates above 0, each once
train overfit-check --images 0: images: expected from 1 to 49,999
train ffn-comparison --inits: inits: expected some of
train gabor-svm-mnist --sizes 5: sizes: expected numbers from 10
train gabor-svm-mnist --frequencies nan: frequencies: expected numbers above 0
train embedding-net-mnist --updates 10 --every 3: updates: expected a multiple of every
train regression --points 1: points: expected at least 2
train regression --data-dir folder: data_dir: expected none, since regression reads no data set
train transformer-lm --text nowhere: nowhere: expected a text, but there is no such file
train transformer-lm --text folder: folder: expected a text, but it is a folder
train transformer-lm --text text --data-dir folder: data_dir: expected none with texts of your own
train transformer-lm --text text --updates 150: updates: expected a multiple of every = 100, got 150
train transformer-lm --text empty: empty: expected a text, got an empty file
train transformer-lm --text latin: latin: expected a text in UTF-8, but byte 4, in line 1, is 0xe9
train transformer-lm --text text: text: expected a text of 20 words or more
train vae-mnist --latent 0: latent: expected at least 1, got 0
train vae-mnist --data-dir folder: mnist: expected its files in
train ddpm-mnist --schedule square: invalid choice 'square'
train ddpm-mnist --ema 1: ema: expected from 0 to below 1, got 1.0
train ddpm-mnist --width 12: width: expected a multiple of groups = 8, got 12
train ddpm-mnist --classifier nowhere: classifier: expected the folder of a run, such as runs/cnn-mnist-1, but there
train ddpm-mnist --classifier figures: classifier: expected the run of a classifier of digits
train ddpm-mnist --classifier run: classifier: expected one of images of shape (1, 28, 28)
train nowhere:Mine: recipe: nowhere:Mine cannot be imported: ModuleNotFoundError
train folder/nowhere.py:Mine: recipe: folder/nowhere.py:Mine cannot be imported
train mistakes_broken.py:Mine: recipe: mistakes_broken.py:Mine cannot be imported: ZeroDivisionError
train mistakes_mine:Nothing: has no attribute 'Nothing'
train mistakes_mine:data: recipe: expected a class that derives from fastnn.recipes.Recipe
train mistakes_mine.py:Unnamed: recipe: expected a class that derives from fastnn.recipes.Recipe, has a name
train folder/mistakes_mine.py:Mine: mistakes_mine is another module's name
train mistakes_mine:Mine --width 0: width: expected at least 1, got 0
train mistakes_mine:Mine --widht 4: Perhaps you meant: --width INT
train mistakes_mine:Idle: experiment: expected that of idle to leave a results.json
train adversarial --init-from own: whose code is not imported unasked; if you trust it, import it in Python and run
sweep: Expected one of cnn, cnn-mnist
sweep cnm --trials 3: did you mean cnn?
sweep cnn --trails 3: Perhaps you meant: --trials INT
sweep cnn --trials x: Error parsing --trials
evaluate: Missing from fastnn evaluate: PATH
evaluate nowhere: nowhere: expected the folder of a run
evaluate text: text: expected the folder of a run
evaluate folder: folder: expected the folder of a run
evaluate run extra: Unrecognized options: extra
evaluate no-best: no-best/best.safetensors
evaluate junk-best: junk-best/best.safetensors
evaluate figures: figures: expected the run of a recipe that keeps a trained classifier or language model, got one of
evaluate own: own: expected a run of one of fastnn's recipes, got one of /elsewhere/theirs.py:Theirs, whose code is not
evaluate own --recipe cnn: run_dir: expected a run of cnn, but own holds one of /elsewhere/theirs.py:Theirs
evaluate own --recipe thiers: recipe: expected one of cnn, cnn-mnist,
evaluate own --recipe cn: did you mean cnn?
evaluate run --recipe mistakes_mine:Mine: but run holds one of cnn
evaluate run --data-dir nowhere: data_dir: expected a folder
evaluate run --data-dir folder: data_dir: expected none with the digits
predict: Missing from fastnn predict: PATH
predict run: files: expected at least one image file
predict nowhere x.png: nowhere: expected the folder of a run
predict run nowhere.png: nowhere.png: expected an image file, but there is no such file
predict run folder: folder: expected an image file, but it is a folder
predict run text: text: expected an image file, but it cannot be read as one
predict run text --top 0: top: expected at least 1, got 0
predict run text --tops 2: Perhaps you meant: --top INT
predict no-best text: no-best/best.safetensors
predict own text: own: expected a run of one of fastnn's recipes
generate: Missing from fastnn generate: PATH
generate nowhere: nowhere: expected the folder of a run
generate run: run: expected the run of a recipe that keeps a language model, got one of cnn
generate run --promt x: Perhaps you meant: --prompt STR
generate run --length many: Error parsing --length
sample: Missing from fastnn sample: PATH
sample nowhere: nowhere: expected the folder of a run
sample run: run: expected the run of a recipe that trains a model which draws images, got one of cnn
sample run --n many: Error parsing --n
compress: Missing from fastnn compress: PATH
compress nowhere: nowhere: expected the folder of a run
compress figures: figures: expected the run of a recipe that trains a classifier, got one of regression
compress own: own: expected a run of one of fastnn's recipes, got one of /elsewhere/theirs.py:Theirs, whose code is not
compress run --recipe mistakes_mine:Mine: but run holds one of cnn
compress no-best: no-best/best.safetensors
compress run --sparsity 1: sparsity: expected a number from 0 to below 1, got 1.0
compress run --sparsities 0.5 -1: sparsities: expected a number from 0 to below 1, got -1.0
compress run --sparsty 0.5: Perhaps you meant: --sparsity FLOAT
compress run --epochs 0: epochs: expected at least 1
compress run --lr-factor 0: lr_factor: expected a number above 0
compress run --run-dir run: run_dir: run holds a run already
compress run --run-dir run --resume: run_dir: expected a run of fastnn.recipes.compression:Compression, but run holds
compress run --resume: resume: expected a run of compress under
summary: Missing from fastnn summary: STR
summary resnet19: model: expected one of cnn, vae, allcnn,
summary resnet19: or the folder of a run, got 'resnet19'; did you mean resnet18?
summary folder: or the folder of a run, got 'folder'
summary cnn --input-shape 0 8 8: input_shape: expected at least 1, got 0
summary cnn --input-shape 1 1 1: input_shape: samples of shape (1, 1, 1) do not fit this CNN
summary cnn --recipe cnn: recipe: expected none for one of fastnn.models
summary figures: figures: expected the run of a recipe that keeps a trained network, got one of regression
summary own: own: expected a run of one of fastnn's recipes
summary no-best: no-best/best.safetensors
results nowhere: nowhere: expected finished runs in it
results text: text: expected finished runs in it
results a b: Unrecognized options: b
results . --write nowhere/x.md: write: expected a file in a folder, but there is no folder nowhere
results . --write folder: write: expected a file in a folder, but folder is one
bench -k conv3d: kernel: expected a part of one of conv2d
bench --repeats 0: repeats: expected at least 1
bench conv2d: Unrecognized options: conv2d
gradcheck -k Conv3d: module: expected a part of one of Linear
gradcheck --seed -1: seed: expected at least 0
warmup -k conv3d: kernel: expected a part of one of conv2d
warmup --dtypes float16: invalid choice 'float16'
doctor extra: Unrecognized options: extra
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs, files and recipes, good and bad."""
    folder = tmp_path_factory.mktemp("mistakes")
    recipes.CNN(epochs=1, run_dir=folder / "run").fit(progress=False)
    for name in ("no-best", "junk-best", "own"):
        shutil.copytree(folder / "run", folder / name)
    (folder / "no-best/best.safetensors").unlink()
    (folder / "junk-best/best.safetensors").write_bytes(b"junk")
    config = json.loads((folder / "run/config.json").read_text())
    (folder / "own/config.json").write_text(json.dumps(
        config | {"recipe": "theirs", "class": "/elsewhere/theirs.py:Theirs"}))
    for name in ("figures", "folder"):
        (folder / name).mkdir()
    (folder / "figures/config.json").write_text(json.dumps({"recipe": "regression", "data_dir": None}))
    (folder / "text").write_text("a text")
    (folder / "empty").write_text("")
    (folder / "latin").write_bytes("caf\u00e9".encode("latin-1"))
    for name in ("mistakes_mine.py", "folder/mistakes_mine.py"):
        (folder / name).write_text(RECIPE)
    (folder / "mistakes_broken.py").write_text("1 / 0")
    return folder


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("COLUMNS", "20")


@pytest.mark.parametrize("line", LINES.splitlines())
def test_a_wrong_command_line_ends_in_a_sentence(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    command, message = line.split(": ", 1)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["fastnn", *shlex.split(command)])
    before = set(folder.rglob("*"))
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert err.startswith("fastnn: ")
    assert message in err
    assert "Traceback" not in err
    assert set(folder.rglob("*")) == before


SHELL = [
    ("fastnn list | head -n 1", 0, "recipe "),
    ("fastnn list >&-", 0, ""),
    ("fastnn evaluate nothing >&- 2>&-", 2, ""),
    ("fastnn list > /dev/full", 2, "fastnn: [Errno 28] No space left on device"),
    ("PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 LC_ALL=C fastnn evaluate ü", 2, "fastnn: \\udcc3\\udcbc: expected the folder"),
    ("PYTHONIOENCODING=ascii fastnn train cnn --help", 0, "usage: fastnn train cnn"),
    ("COLUMNS=1 fastnn predict --help", 0, "usage: fastnn predict"),
    ("env -u HOME -u FASTNN_CACHE_DIR fastnn results nothing", 2, "fastnn: nothing: expected finished runs in it"),
]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a shell and /dev/full")
@pytest.mark.parametrize(("command", "status", "said"), SHELL, ids=[command for command, *_ in SHELL])
def test_streams_and_terminals_of_all_kinds(command: str, status: int, said: str, tmp_path: Path) -> None:
    program = command.replace("fastnn ", f"{shlex.quote(sys.executable)} -m fastnn ", 1)
    path = os.pathsep.join([str(Path(cli.__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(["bash", "-o", "pipefail", "-c", program], capture_output=True, text=True, cwd=tmp_path,
                          check=False, timeout=300, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode in (status, 1 if "|" in command else status), done.stderr    # as the pipe breaks, or not
    assert (done.stdout + done.stderr).startswith(said)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_without_tyros_hook_tyro_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                                    ) -> None:
    from fastnn.cli import parsing

    monkeypatch.setattr(parsing, "_errors", None)
    assert cli._run(["list"]) in (0, None)
    with pytest.raises(SystemExit) as ended:
        cli._run(["trian"])
    assert ended.value.code == 2
