"""Texts, the tokenizer, and batches of sequences."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn import data
from fastnn.data import download, texts

pytest.importorskip("tokenizers")

BOOK = ["It was the best of times, it was the worst of times.", "It was the age of wisdom!", "Don't panic: it's café."]


@pytest.fixture(scope="module")
def tokenizer() -> data.Tokenizer:
    return data.Tokenizer.train(BOOK, 80)


# --- texts ---


def test_a_text_is_read_as_it_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffZoë\r\n\r\nand\rI\n".encode())
    assert data.read_text(path) == "Zoë\n\nand\nI\n"
    assert data.paragraphs("a\nb\n\n \n\nc\n\n") == ["a\nb", "c"]


@pytest.mark.parametrize(("contents", "message"), [
    (b"", "expected a text, got an empty file"),
    (b" \n\n\t", "expected a text, got 4 bytes of white space"),
    ("one\ntwo\ncaf\u00e9\n".encode("latin-1"), "expected a text in UTF-8, but byte 12, in line 3, is 0xe9"),
])
def test_what_is_no_text(tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "text.txt").write_bytes(contents)
    with pytest.raises(ValueError, match=f"text.txt: {message}"):
        data.read_text(tmp_path / "text.txt")


def test_books_are_found_in_a_folder_or_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"lacks hound-of-the-baskervilles\.txt, tinyshakespeare\.txt, war-and"):
        data.books(tmp_path)
    (tmp_path / "text").mkdir()
    for name in download.BOOKS:
        (tmp_path / "text" / f"{name}.txt").write_text(f"{name}.\n")
    assert data.books(tmp_path)["war-and-peace"] == "war-and-peace.\n"
    monkeypatch.delenv("FASTNN_DATA", raising=False)
    monkeypatch.setattr(texts, "fetch_book", lambda name: tmp_path / "text" / f"{name}.txt")
    with pytest.raises(ValueError, match=r"hound-of-the-baskervilles\.txt: expected SHA-256 c924565"):
        data.books()
    digest = {name: hashlib.sha256(f"{name}.\n".encode()).hexdigest() for name in download.BOOKS}
    monkeypatch.setattr(texts, "BOOKS", {name: download.Source("", {"": digest[name]}) for name in digest})
    with open(tmp_path / "text" / "war-and-peace.txt", "a") as file:
        file.write("\n\nEnd of the Project Gutenberg EBook of War and Peace\n\n*** END\n")
    assert data.books()["war-and-peace"] == "war-and-peace.\n"


@pytest.mark.real_data
def test_the_books_are_the_originals(data_dir: Path) -> None:
    for name, text in data.books(data_dir).items():
        assert hashlib.sha256(text.encode()).hexdigest() in download.BOOKS[name].sha256.values()


# --- the tokenizer ---


def test_text_comes_back_in_lower_case_without_accents(tokenizer: data.Tokenizer) -> None:
    text = "  Don\u2019t panic: it\u2019s the AGE of caf\u00e9\nwisdom! "
    assert tokenizer.decode(tokenizer.encode(text)) == "don't panic: it's the age of cafe wisdom!"
    assert tokenizer.decode(tokenizer.encode("")) == ""
    assert len(tokenizer.encode("times")) < 5               # more than one letter a token
    assert len(tokenizer) <= 80


def test_special_tokens_are_not_what_a_text_can_say(tokenizer: data.Tokenizer) -> None:
    assert not {tokenizer.SEP, tokenizer.PAD, tokenizer.CLS} & set(tokenizer.encode("[SEP] [PAD] [CLS]").tolist())
    assert tokenizer.UNK in tokenizer.encode("\u6f22")
    assert tokenizer.unknown("a \u6f22 b \u20ac") == "\u20ac\u6f22"
    assert tokenizer.decode(tokenizer.encode("\u6f22")) == "\ufffd"
    with pytest.raises(ValueError, match=r"text: expected what UTF-8 can hold, got '\\udcff' as character 3"):
        tokenizer.encode("ab\udcff")


def test_words_come_as_soon_as_the_next_one_begins(tokenizer: data.Tokenizer) -> None:
    tokens = tokenizer.encode("the worst, panic").tolist()
    taken: list[int] = []

    def watched() -> object:
        for token in tokens:
            taken.append(token)
            yield token

    words = tokenizer.words(watched())
    assert next(words) == "the"
    assert taken == tokens[: len(tokenizer.encode("the")) + 1]
    assert list(words) == [" worst,", " panic"]
    assert list(tokenizer.words(tokens, begins=False)) == [" the", " worst,", " panic"]
    marked = [tokenizer.CLS, *tokens, tokenizer.PAD, tokenizer.SEP, tokenizer.MASK, *tokens[:1]]
    assert "".join(tokenizer.words(marked)).startswith("the worst, panic\n\nth")
    with pytest.raises(ValueError, match=f"tokens: expected numbers from 0 to {len(tokenizer) - 1}, got 5000"):
        tokenizer.decode([5000])


def test_the_same_texts_give_the_same_tokenizer_in_any_process(tokenizer: data.Tokenizer) -> None:
    code = ("import json, sys; from fastnn import data; "
            "print(data.Tokenizer.train(json.load(sys.stdin), 80).sha256)")
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(BOOK), capture_output=True, text=True,
                          check=True)
    assert done.stdout.strip() == tokenizer.sha256
    assert data.Tokenizer.train(BOOK[:2], 80) != tokenizer


def test_which_rare_characters_are_left_out_is_decided() -> None:
    rare = "".join(chr(ord("\u4e00") + i) for i in range(60))
    learned = [data.Tokenizer.train(["we are we", rare], 40) for _ in range(3)]
    assert len({tokenizer.sha256 for tokenizer in learned}) == 1
    assert learned[0].unknown("we are") == ""
    assert learned[0].unknown(rare) == rare[15:]    # 20 are known: the space's, w, e, a, r, and 15
    assert learned[0].decode(learned[0].encode("we are")) == "we are"


@pytest.mark.parametrize(("given", "error", "message"), [
    ("a text", TypeError, "texts: expected several texts, got one, 'a text'"),
    ([b"bytes"], TypeError, "texts: expected str, got b'bytes'"),
    (["ab\udcff"], ValueError, r"texts: expected what UTF-8 can hold, got '\\udcff' as character 3"),
    ([" ", "\n"], ValueError, "texts: expected words to learn from, got none"),
])
def test_what_no_tokenizer_is_learned_from(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        data.Tokenizer.train(given)


def test_a_tokenizer_is_saved_and_read(tokenizer: data.Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    again = data.Tokenizer.load(tmp_path / "tokenizer.json")
    assert again == tokenizer
    assert again.sha256 == hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()
    np.testing.assert_array_equal(again.encode("[SEP] the age"), tokenizer.encode("[SEP] the age"))
    for contents, what in (("{", "expected a tokenizer that fastnn trained, got something else"),
                           (tokenizer.json.replace("[CLS]", "[BOS]"), "whose first tokens are .* got one with")):
        (tmp_path / "other.json").write_text(contents)
        with pytest.raises(ValueError, match=f"other.json: .*{what}"):
            data.Tokenizer.load(tmp_path / "other.json")


# --- sequences ---


def test_each_token_of_a_text_is_told_once() -> None:
    rng = np.random.default_rng(0)
    paragraphs = [rng.integers(5, 99, n) for n in (3, 1, 40, 9, 8, 0, 20, 2)]
    passages = data.passages(paragraphs, 10, begin=2, end=3)
    told = np.concatenate([passage[1:] for passage in passages])
    np.testing.assert_array_equal(told, np.concatenate([[*paragraph, 3] for paragraph in paragraphs]))
    assert max(map(len, passages)) == 10
    assert min(map(len, passages)) >= 2
    for before, passage in itertools.pairwise(passages):
        assert passage[0] in (2, before[-1])


def test_batches_have_sequences_of_about_one_length() -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(5, 99, n) for n in rng.integers(2, 60, 203)]
    loader = data.SequenceLoader(sequences, 10, padding=0, seed=1)
    batches = list(loader.epoch(2))
    assert len(batches) == len(loader) == 21
    assert sum(len(tokens) for tokens, _ in batches) == 203
    assert sum(int((targets != -100).sum()) for _, targets in batches) == loader.tokens
    assert np.mean([(targets != -100).mean() for _, targets in batches]) > 0.9
    rows = sorted(tuple(tokens[tokens > 0]) for batch, _ in batches for tokens in batch)
    assert rows == sorted(tuple(sequence[:-1]) for sequence in sequences)
    for tokens, targets in batches:
        np.testing.assert_array_equal(targets[:, :-1][targets[:, 1:] != -100], tokens[:, 1:][tokens[:, 1:] != 0])
    for (tokens, targets), (again, others) in zip(batches[5:], loader.epoch(2, 5), strict=True):
        np.testing.assert_array_equal(tokens, again)
        np.testing.assert_array_equal(targets, others)
    assert [len(t[0]) for t, _ in loader.epoch(0)] != [len(t[0]) for t, _ in loader.epoch(1)]
    lengths = [tokens.shape[1] for tokens, _ in loader.in_order()]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize(("sequences", "options", "message"), [
    ([], {}, "sequences: expected at least one, got none"),
    ([np.array([1])], {}, r"sequences: expected integers of shape \(T,\), two or more, got int64 of shape \(1,\)"),
    ([np.array([1.0, 2.0])], {}, "sequences: expected integers .* got float64"),
    ([np.array([1, 2])], {"batch_size": 0}, "batch_size: expected at least 1, got 0"),
])
def test_sequences_that_make_no_batch(sequences: list[np.ndarray], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.SequenceLoader(sequences, **{"batch_size": 2, **options})


def test_rounds_go_on_where_the_last_one_ended() -> None:
    rounds = data.Rounds(data.DataLoader((np.arange(7),), 2, seed=3), 3)
    whole = [x.tolist() for i in range(4) for x, in rounds.epoch(i)]
    assert whole == [x.tolist() for i in range(3) for x, in data.DataLoader((np.arange(7),), 2, seed=3).epoch(i)]
    assert [x.tolist() for x, in rounds.epoch(2, 1)] == whole[7:9]


def test_tokens_that_are_none_are_named() -> None:
    tokenizer = data.Tokenizer.train(["The cat sat on the mat."], vocab_size=32)
    for use in (tokenizer.pieces, tokenizer.decode):
        for token, error in ((-1, ValueError), (999, ValueError), (1.5, TypeError)):
            with pytest.raises(error, match="tokens: expected"):
                use([token])
    ours = tokenizer.encode_all(text for text in ("the cat", "a mat"))
    assert [len(tokens) > 0 for tokens in ours] == [True, True]


def test_a_text_in_utf_16_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("All is well.", encoding="utf-16")
    with pytest.raises(ValueError, match="if it is a text in UTF-16, convert it by iconv -f UTF-16 -t UTF-8"):
        data.read_text(tmp_path / "text.txt")
