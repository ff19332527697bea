"""transformer-lm on a small text: what a run leaves, resuming it, and the text that it goes on with."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn import cli, data, recipes, training
from fastnn.cli import runs
from fastnn.cli.summary import summary
from fastnn.recipes.transformer_lm import _divided

pytest.importorskip("tokenizers")

SMALL: dict[str, Any] = {"updates": 6, "every": 3, "num_layers": 1, "embed_dim": 16, "head_dim": 8, "hidden": 16,
                         "context": 16, "vocab_size": 80, "batch_size": 8, "lr": 0.01}
FILES = {"config.json", "tokenizer.json", "metrics.jsonl", "last.safetensors", "best.safetensors", "results.json",
         "report.html", "curves.png", "perplexity-against-updates.png", "attention.png"}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("text") / "text.txt"
    nouns, verbs = ("the cat", "a dog", "the old mouse"), ("sees", "hunts", "likes")
    path.write_text("\n\n".join(
        " ".join(f"{rng.choice(nouns)} {rng.choice(verbs)} {rng.choice(nouns)}." for _ in range(n))
        for n in rng.integers(1, 4, 100)))
    return path


@pytest.fixture(scope="module")
def run_dir(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("run") / "lm"
    recipes.TransformerLM(text=(text,), run_dir=folder, **SMALL).run()
    return folder


def test_summary_of_a_run(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary(str(run_dir))
    assert capsys.readouterr().out.startswith("DecoderTransformer, samples of shape 16\n")


def test_what_a_run_leaves(run_dir: Path) -> None:
    assert {path.name for path in run_dir.iterdir()} == FILES
    results = json.loads((run_dir / "results.json").read_text())
    history = training.History.read(run_dir)
    np.testing.assert_allclose(history["val_perplexity"], np.exp(history["val_loss"]))
    assert history["step"].tolist() == [3, 6]
    assert history["val_loss"][1] < history["val_loss"][0] < np.log(80) + 0.5
    assert results["figures"]["validation loss"] == f"{results['loss']:.4f}"
    assert results["loss"] == pytest.approx(history["val_loss"].min(), rel=1e-6)
    assert "--updates 6 --every 3" in results["command"]
    assert "[PAD]" not in (run_dir / "report.html").read_text()


def test_a_killed_run_ends_with_the_same_bits(run_dir: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(training.Callback):
        def on_step_end(self, trainer: training.Trainer, loss: float) -> None:
            if trainer._state.updates == 4:
                trainer._interrupts.requested = signal.SIGINT

    with monkeypatch.context() as patch:
        patch.setattr("fastnn.recipes.transformer_lm.Perplexity.on_step_end", Stop.on_step_end)
        with pytest.raises(KeyboardInterrupt):
            recipes.TransformerLM(text=(text,), **SMALL).run()
    folder = Path("runs/transformer-lm-1")
    assert not (folder / "results.json").exists()
    saved = recipes.TransformerLM(text=(text,), resume=True, **SMALL)
    with pytest.raises(ValueError, match=r"context: expected 16, with which the run in .* was begun, got 8"):
        replace(saved, context=8).run()
    kept = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(kept + b"\n")
    with pytest.raises(ValueError, match=r"tokenizer\.json: expected the tokenizer that the run was begun with"):
        saved.run()
    (folder / "tokenizer.json").write_bytes(kept)
    saved.run()
    for name in ("last.safetensors", "best.safetensors"):
        ours, theirs = training.load(folder / name)[0], training.load(run_dir / name)[0]
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs), name
    assert (folder / "tokenizer.json").read_bytes() == (run_dir / "tokenizer.json").read_bytes()
    replace(saved, updates=9).run()
    assert training.History.read(folder)["step"].tolist() == [3, 6, 9]


def test_a_run_is_not_resumed_on_another_text(run_dir: Path, text: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "lm")
    mine = tmp_path / "text.txt"
    config = json.loads((tmp_path / "lm" / "config.json").read_text())
    (tmp_path / "lm" / "config.json").write_text(json.dumps(config).replace(str(text), str(mine)))
    for name in ("last.safetensors", "best.safetensors"):
        tensors, metadata = training.load(tmp_path / "lm" / name)
        training.save(tmp_path / "lm" / name, tensors, json.loads(json.dumps(metadata).replace(str(text), str(mine))))
    mine.write_text(text.read_text() + " One more.")
    # Nor is it measured there, where what it has learned may be held out.
    for use in (recipes.TransformerLM(text=(mine,), run_dir=tmp_path / "lm", resume=True, **SMALL).run,
                recipes.load(tmp_path / "lm").evaluate):
        with pytest.raises(ValueError, match=r"text: expected the texts with which the run in .* was begun, got other"):
            use()


def test_a_run_is_resumed_on_a_path_as_it_was_given(run_dir: Path, text: Path, monkeypatch: pytest.MonkeyPatch,
                                                    tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "lm")
    monkeypatch.chdir(text.parent)
    again = recipes.TransformerLM(text=(Path(text.name),), run_dir=tmp_path / "lm", resume=True, **SMALL)
    again.check()
    with pytest.raises(ValueError, match=rf"^text: expected {text}, with which .* got {text.parent}/other; leave it"):
        replace(again, text=(Path("other"),)).check()


def test_a_run_that_was_stopped_before_it_trained_is_passed_over(text: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"text": (text,), "resume": True, **SMALL}
    Path("runs/transformer-lm-2").mkdir(parents=True)
    Path("runs/transformer-lm-2/tokenizer.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"resume: expected a run of transformer-lm .*, but there is none"):
        recipes.TransformerLM(**options).check()
    with pytest.raises(FileNotFoundError, match=r"resume: expected a run in .*, but nothing was trained there yet"):
        recipes.TransformerLM(run_dir=Path("runs/transformer-lm-2"), **options).check()
    recipes.TransformerLM(run_dir=Path("runs/transformer-lm-1"), **(options | {"resume": False})).run()
    saved = recipes.TransformerLM(**options)
    saved.check()
    assert saved.run_dir == Path("runs/transformer-lm-1")


def test_it_goes_on_with_a_text_in_whole_words(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipes.load(run_dir)
    words = list(recipe.generate("The cat", 40, seed=1))
    assert words == list(recipe.generate("The cat", 40, seed=1))
    assert words != list(recipe.generate("The cat", 40, seed=2))
    assert not any(mark in word for word in words for mark in "[]\ufffd\u2581")
    assert capsys.readouterr() == ("", "")
    runs.generate(run_dir, prompt="The cat \u6f22 sees ", length=40, seed=1, top_k=0, top_p=0.5)
    out, err = capsys.readouterr()
    assert out.startswith("The cat \u6f22 sees")
    assert out.endswith("\n")
    assert err == "the tokenizer does not know \u6f22, which no text had in training: the model sees [UNK] there\n"
    texts = []
    for seed in (1, 2):
        runs.generate(run_dir, prompt="the old mouse " * 20, length=9, seed=seed, temperature=0)
        out, err = capsys.readouterr()
        assert "tokens, the context is 16: the model sees the last 16" in err
        texts.append(out)
    assert texts[0] == texts[1]             # of greed, the seed decides nothing
    runs.generate(run_dir, length=3)
    assert not capsys.readouterr().out.startswith(" ")


def test_the_last_word_is_whole(run_dir: Path) -> None:
    recipe = recipes.load(run_dir)
    words = list(recipe.generate("The cat", 40, seed=1))
    counts = []
    for length in range(1, 12):
        fewer = list(recipe.generate("The cat", length, seed=1))
        assert fewer == words[: len(fewer)]
        counts.append(len(fewer))
    assert 1 <= counts[0] < counts[-1]
    assert list(recipe.generate("The cat", 0)) == []


@pytest.mark.parametrize(("options", "message"), [
    (["--temperature", "-0.5"], "temperature: expected a number from 0 to inf, got -0.5"),
    (["--temperature", "nan"], "temperature: expected a number from 0 to inf, got nan"),
    (["--temperature", "inf"], "temperature: expected a finite number, got inf"),
    (["--top-p", "0"], "top_p: expected a number above 0 and at most 1, got 0.0"),
    (["--top-p", "1.5"], "top_p: expected a number above 0 and at most 1, got 1.5"),
    (["--top-k", "-1"], "top_k: expected at least 1, got -1"),
    (["--length", "-1"], "length: expected at least 0, got -1"),
    (["--seed", "-1"], "seed: expected at least 0, got -1"),
    (["--prompt", "caf\udce9"], "prompt: expected what UTF-8 can hold, got '\\udce9' as character 4"),
])
def test_wrong_options_end_in_a_sentence(run_dir: Path, options: list[str], message: str,
                                         monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fastnn", "generate", str(run_dir), *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert err == f"fastnn: {message}\n"


def test_the_tokenizer_of_another_run_is_refused(run_dir: Path, text: Path, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run_dir, tmp_path / "lm")
    data.Tokenizer.train([text.read_text()], 70).save(tmp_path / "lm" / "tokenizer.json")
    monkeypatch.setattr(sys, "argv", ["fastnn", "generate", "lm"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(
        "fastnn: lm/tokenizer.json: expected the tokenizer that the run was begun with, whose SHA-256 is ")


def test_evaluating_a_run_gives_its_results_again(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.evaluate(run_dir)
    loss = json.loads((run_dir / "results.json").read_text())["loss"]
    assert capsys.readouterr().out.startswith(f"validation loss: {loss:.4f}, perplexity {np.exp(loss):.2f}, on ")
    with pytest.raises(ValueError, match="data_dir: expected none with texts of your own"):
        runs.evaluate(run_dir, data_dir=run_dir)


@pytest.mark.parametrize(("file", "change", "message"), [
    ("tokenizer.json", lambda text: "{", r"tokenizer\.json: expected a tokenizer that fastnn trained"),
    ("config.json", lambda text: text.replace('"tokenizer"', '"token"'), "expected under inputs the texts and the"),
    ("config.json", lambda text: text.replace('"num_layers": 1', '"num_layers": 2'), "expected num_layers 1, with"),
])
def test_a_run_that_was_changed_is_refused(run_dir: Path, tmp_path: Path, file: str, change: Any, message: str) -> None:
    shutil.copytree(run_dir, tmp_path / "lm")
    (tmp_path / "lm" / file).write_text(change((tmp_path / "lm" / file).read_text()))
    with pytest.raises(ValueError, match=message):
        runs.generate(tmp_path / "lm")


def test_the_run_of_a_classifier_writes_no_text(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(recipes.CNN().config()))
    with pytest.raises(ValueError, match="expected the run of a recipe that keeps a language model, got one of cnn"):
        runs.generate(tmp_path)


@pytest.mark.parametrize("text", ["\n\n".join(f"p{i}" for i in range(1000)), "\n".join(f"p{i}" for i in range(30)),
                                  " ".join(f"p{i}" for i in range(65))])
def test_a_twentieth_of_a_text_is_held_out(text: str) -> None:
    trained, held_out = _divided("text", text)
    assert sorted(" ".join(trained + held_out).split()) == sorted(text.split())
    assert 0.01 < len(" ".join(held_out)) / len(text) < 0.08
    assert "p0" in trained[0].split()


@pytest.mark.parametrize(("options", "message"), [
    ({"updates": 150}, "updates: expected a multiple of every = 100, got 150"),
    ({"vocab_size": 8}, "vocab_size: expected at least 32, got 8"),
    ({"embed_dim": 15}, "embed_dim: expected an even number"),
    ({"dropout": 1.0}, "dropout: expected from 0 to below 1, got 1.0"),
    ({"num_heads": 0}, "num_heads: expected at least 1, got 0"),
    ({"clip_norm": 0.0}, "clip_norm: expected a number above 0, got 0.0"),
    ({"text": ("short.txt",), "data_dir": Path()}, "data_dir: expected none with texts of your own"),
    ({"text": "short.txt"}, "text: expected at least 1,280 tokens to train on, 10 times the context, got"),
    ({"text": ("word.txt",)}, r"word\.txt: expected a text of 20 words or more, a part of which .* got 1"),
    ({"text": ("latin.txt",)}, r"latin\.txt: expected a text in UTF-8, but byte 4, in line 1, is 0xe9"),
    ({"text": ("empty.txt",)}, r"empty\.txt: expected a text, got an empty file"),
])
def test_options_and_texts_that_cannot_be_obeyed(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    for name, contents in (("short.txt", b"All is well. " * 9), ("word.txt", b"word"),
                           ("latin.txt", b"caf\xe9"), ("empty.txt", b"")):
        (tmp_path / name).write_bytes(contents)
    before = set(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        recipes.TransformerLM(**options).run()
    assert set(tmp_path.iterdir()) == before
