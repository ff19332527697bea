"""Byte-pair encoding: words as few tokens out of a small vocabulary, learned from texts."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnn._checks import as_int
from fastnn._extras import require
from fastnn._files import as_path, one_line, read_file

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SPACE = "▁"                # before each word: how a token that begins one is told from one that goes on
_LIMIT = 1 << 26            # bytes of a tokenizer's file


class Tokenizer:
    """Turns text into tokens, and tokens into text in whole words.

    Text is brought to lower case, its accents are stripped, curly quotation marks made straight, and white space made
    single spaces. Words are then cut at punctuation, and each part is put together of the longest tokens that byte-pair
    encoding has learned: Sennrich, Haddow and Birch, "Neural machine translation of rare words with subword units"
    (arXiv:1508.07909), section 3.2. `train` makes one, `load` reads one.

    Parameters
    ----------
    json : str
        A tokenizer as `json` has it, in the format of the library tokenizers, which must be installed (extra
        ``[text]``).

    Attributes
    ----------
    json : str
        All of the tokenizer as text.
    PAD, UNK, CLS, SEP, MASK : int
        Tokens that stand for no text: padding, a character that no text had in training, the beginning, the end of a
        paragraph, something hidden.

    Raises
    ------
    ValueError
        If the text is none of a tokenizer that `train` made.

    Examples
    --------
    >>> from fastnn import data
    >>> tokenizer = data.Tokenizer.train(["The cat sat. The cat ate.", "A rat sat on the mat."], vocab_size=40)
    >>> len(tokenizer)
    34
    >>> tokens = tokenizer.encode("The rat, the cat!")
    >>> tokenizer.decode(tokens)
    'the rat� the cat�'
    >>> tokenizer.unknown("The rat, the cat!")
    '!,'
    """

    PAD, UNK, CLS, SEP, MASK = range(len(_SPECIAL))

    def __init__(self, json: str) -> None:
        tokenizers = require("tokenizers", "a tokenizer", "text")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json)
        except Exception as error:          # of no class of its own
            raise ValueError("json: expected a tokenizer that fastnn trained, got something else: "
                             f"{one_line(error)}") from error
        self._pieces = [self._tokenizer.id_to_token(i) for i in range(self._tokenizer.get_vocab_size())]
        if tuple(self._pieces[: len(_SPECIAL)]) != _SPECIAL:
            raise ValueError(f"json: expected a tokenizer that fastnn trained, whose first tokens are "
                             f"{', '.join(_SPECIAL)}, got one with {self._pieces[: len(_SPECIAL)]!r:.100}")
        self._tokenizer.encode_special_tokens = True        # a text that says [SEP] says it in letters
        self.json = json

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 2048) -> Tokenizer:
        """Learn a tokenizer: the same texts give the same one.

        Parameters
        ----------
        texts : iterable of str
            What to learn from, such as the paragraphs of a book.
        vocab_size : int, default 2048
            How many tokens there are at most, the five special ones among them; few texts give fewer. Half of
            them at most are single characters, the commonest, of equally rare ones those that come first.

        Returns
        -------
        Tokenizer

        Raises
        ------
        ModuleNotFoundError
            If the library tokenizers is not installed.
        ValueError
            If there is no word in the texts, or `vocab_size` is below 32.
        """
        vocab_size = as_int("vocab_size", vocab_size, 32)
        tokenizers = require("tokenizers", "training a tokenizer", "text")
        normalizers, pre = tokenizers.normalizers, tokenizers.pre_tokenizers
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=_SPECIAL[cls.UNK]))
        tokenizer.normalizer = normalizers.Sequence([
            normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(),
            normalizers.Replace(tokenizers.Regex(r"[\u2018-\u201a]"), "'"),
            normalizers.Replace(tokenizers.Regex(r"[\u201c-\u201e]"), '"'),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip()])
        tokenizer.pre_tokenizer = pre.Sequence([pre.Metaspace(_SPACE, prepend_scheme="always"),
                                                pre.Punctuation("isolated")])
        if not isinstance(texts, str):
            texts = list(texts)
        check_texts("texts", texts)
        counts = Counter(itertools.chain.from_iterable(map(tokenizer.normalizer.normalize_str, texts)))
        del counts[" "]
        if not counts:
            raise ValueError("texts: expected words to learn from, got none")
        # The library would leave out any of the characters that are equally rare, others in each run.
        alphabet = [_SPACE, *(character for character, _ in counts.most_common(vocab_size // 2 - 1))]
        tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=list(_SPECIAL), initial_alphabet=alphabet,
            limit_alphabet=len(alphabet), show_progress=False))
        return cls(tokenizer.to_str())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read a tokenizer that `save` wrote.

        Raises
        ------
        OSError
            If there is no such file, or it cannot be read.
        ValueError
            If it holds something else.
        """
        try:
            return cls(read_file(path, "a tokenizer", _LIMIT).decode())
        except ValueError as error:
            raise ValueError(f"{as_path('path', path)}: {str(error).removeprefix('json: ')}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokenizer to a file."""
        as_path("path", path).write_bytes(self.json.encode())

    @property
    def sha256(self) -> str:
        """The SHA-256 of `json`, which tells tokenizers apart."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    def __len__(self) -> int:
        """Return the number of tokens in the vocabulary."""
        return len(self._pieces)

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the tokens of a text, shape (T,)."""
        check_texts("text", [text])
        return self.encode_all([text])[0]

    def encode_all(self, texts: Iterable[str]) -> list[NDArray[np.int64]]:
        """Return the tokens of each of many texts, which are encoded at once."""
        texts = texts if isinstance(texts, str) else list(texts)
        check_texts("texts", texts)
        return [np.array(encoded.ids, np.int64) for encoded in self._tokenizer.encode_batch(texts)]

    def unknown(self, text: str) -> str:
        """Return the characters of a text that the tokenizer does not know, each once: `encode` makes them UNK."""
        self.encode(text)                   # says what is wrong with it
        encoded = self._tokenizer.encode(text)
        return "".join(sorted({text[start:end] for token, (start, end) in zip(encoded.ids, encoded.offsets)
                               if token == self.UNK}))

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """Return what each token is by itself: its letters, after a space where it begins a word, or its name.

        Examples
        --------
        >>> from fastnn import data
        >>> tokenizer = data.Tokenizer.train(["The cat sat on the mat."], vocab_size=32)
        >>> tokenizer.pieces([tokenizer.CLS, *tokenizer.encode("a cat")])
        ['[CLS]', ' ', 'a', ' cat']
        """
        return [self._pieces[self._checked(token)].replace(_SPACE, " ") for token in tokens]

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens: that of `words`, put together."""
        return "".join(self.words(tokens))

    def words(self, tokens: Iterable[int], *, begins: bool = True) -> Iterator[str]:
        """Return an iterator over the text of tokens in whole words, each as soon as the next one begins.

        Parameters
        ----------
        tokens : iterable of int
            Tokens, such as a model draws them one by one.
        begins : bool, default True
            Whether they begin a text. If False, they follow one, so that there is a space before a first whole word,
            and none before a token that goes on with the last one.

        Yields
        ------
        str
            A word with the punctuation at it and the space before it, or the blank line that SEP stands for. UNK is
            the replacement character; padding and the other special tokens are left out.

        Raises
        ------
        ValueError
            If a token is none of the vocabulary.

        Examples
        --------
        >>> from fastnn import data
        >>> tokenizer = data.Tokenizer.train(["We are such stuff as dreams are made on."], vocab_size=60)
        >>> tokens = [tokenizer.CLS, *tokenizer.encode("such dreams."), tokenizer.SEP, *tokenizer.encode("we are")]
        >>> list(tokenizer.words(tokens))
        ['such', ' dreams.', '\\n\\n', 'we', ' are']
        """
        word = ""
        for token in tokens:
            token = self._checked(token)
            if token == self.SEP:
                yield from (part for part in (word, "\n\n") if part)
                word, begins = "", True
            elif token in (self.PAD, self.CLS, self.MASK):
                continue
            else:
                piece = "�" if token == self.UNK else self._pieces[token]
                if piece.startswith(_SPACE):
                    if word:
                        yield word
                    word, piece = "", " " * (not begins) + piece.removeprefix(_SPACE)
                word, begins = word + piece, False
        if word:
            yield word

    def _checked(self, token: Any) -> int:
        token = as_int("tokens", token)
        if not 0 <= token < len(self._pieces):
            raise ValueError(f"tokens: expected numbers from 0 to {len(self._pieces) - 1}, got {token}")
        return token

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} tokens, SHA-256 {self.sha256[:12]}...)"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Tokenizer) and self.json == other.json

    def __hash__(self) -> int:
        return hash(self.json)


def check_texts(name: str, texts: Sequence[Any]) -> None:
    """Raise an error unless these are several str, each of them what UTF-8 can hold."""
    if isinstance(texts, str):
        raise TypeError(f"{name}: expected several texts, got one, {texts!r:.100}")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{name}: expected str, got {text!r:.100}")
        try:
            text.encode()
        except UnicodeEncodeError as error:         # what Python makes of bytes on a command line that are not UTF-8
            raise ValueError(f"{name}: expected what UTF-8 can hold, got {text[error.start]!r} as character "
                             f"{error.start + 1:,}") from error
