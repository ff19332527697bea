"""A language model: a transformer that learns books token by token, and goes on with what somebody wrote."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fastnn import data, models, nn, optim, training
from fastnn._checks import as_float, as_int
from fastnn._files import as_path
from fastnn.data.tokenizer import Tokenizer, check_texts
from fastnn.recipes.base import Recipe, check_above_0, check_at_least_0, read_config
from fastnn.training.checkpoint import replace_file
from fastnn.training.metrics import Record
from fastnn.training.run_folder import BEST, CONFIG

_TOKENIZER = "tokenizer.json"
_SHARES = 20                # parts of a text, of which one is held out and validated on
_IN_A_ROW = 20              # paragraphs that are held out together
_LEAST = 10                 # contexts that all texts together must have
_GIVEN = 6                  # held out words of each text that are gone on with in the report
_SHOWN = 24                 # tokens whose attention is drawn
_TAIL = 32                  # tokens at most that finish the last word of what is generated


@dataclass
class TransformerLM(Recipe):
    """A transformer that tells each token of three books from those before it.

    The Hound of the Baskervilles, plays of Shakespeare and War and Peace, or texts of your own, are cut into tokens by
    a byte-pair encoding that is learned from them first. Paragraphs are put together to passages of up to a context,
    passages of one length to batches. A twentieth of each text is held out for validation; the model that writes is
    that with the lowest loss on it. "fastnn generate RUN" goes on with a text.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.TransformerLM(num_layers=2).config()["context"]
    128
    """

    name: ClassVar[str] = "transformer-lm"
    needs: ClassVar[str] = "three books (5 MB)"
    takes: ClassVar[str] = "~11 min"
    headline: ClassVar[tuple[str, ...]] = ("validation loss", "validation perplexity")
    reported: ClassVar[str] = "samples in fragments of words"
    changeable: ClassVar[tuple[str, ...]] = (*Recipe.changeable, "updates")

    updates: int = 1500
    """Steps, each on a batch."""

    every: int = 100
    """Updates between two validations, each followed by a checkpoint: what is called an epoch here."""

    resume: bool = False
    """Go on with the run in run_dir, by default the newest of this recipe, to the same end as if it had never
    stopped. Its options are those that it was begun with; --updates may be another number, --device another device."""

    text: tuple[Path, ...] = ()
    """Text files in UTF-8 that are learned in the place of the books."""

    vocab_size: int = 2048
    """Tokens that there are at most; a short text gives fewer."""

    context: int = 128
    """The most tokens that are seen at once."""

    num_layers: int = 4
    """Blocks of attention and two linear layers."""

    embed_dim: int = 256
    """Elements that a token is made to."""

    num_heads: int = 2
    """Heads of the attention of a block."""

    head_dim: int = 32
    """Elements of a query, a key and a value in a head."""

    hidden: int = 512
    """Elements between the two linear layers of a block."""

    dropout: float = 0.0
    """The share of the embeddings, and of what each branch adds, that is dropped in training."""

    tied: bool = False
    """Score tokens by the table of their embeddings, instead of a weight of its own."""

    batch_size: int = 64
    """Passages in an update."""

    lr: float = 3e-4
    """Learning rate."""

    weight_decay: float = 0.01
    """How strongly weights are drawn to 0."""

    clip_norm: float = 1.0
    """The largest norm that all gradients together may have."""

    track: training.Track | None = None
    """Hand the configuration and the figures of each validation to Weights & Biases or TensorBoard too. Without a login
    to Weights & Biases, what would be sent is kept in the run's folder."""

    def check(self) -> None:
        paths = (self.text,) if isinstance(self.text, str | os.PathLike) else self.text
        self.text = tuple(as_path("text", path).expanduser().absolute() for path in paths)  # resumed from elsewhere
        super().check()
        for name, least in (("vocab_size", 32), ("context", 2), ("every", 1)):
            as_int(name, getattr(self, name), least)
        if as_int("updates", self.updates, 1) % self.every:
            raise ValueError(f"updates: expected a multiple of every = {self.every}, got {self.updates}; give another "
                             "number of updates, or of those after which the model is measured")
        check_above_0("lr", self.lr)
        check_above_0("clip_norm", self.clip_norm)
        check_at_least_0("weight_decay", self.weight_decay)
        if not 0 <= as_float("dropout", self.dropout) < 1:
            raise ValueError(f"dropout: expected from 0 to below 1, got {self.dropout}")
        self.model_config(self.vocab_size)          # says what is wrong with the sizes

    def model_config(self, vocab_size: int) -> models.DecoderTransformerConfig:
        """Return the sizes of the model."""
        return models.DecoderTransformerConfig(
            vocab_size, self.context, self.embed_dim, self.num_heads, self.head_dim, self.num_layers, self.hidden,
            self.dropout, self.tied, Tokenizer.PAD)

    def load_texts(self) -> dict[str, str]:
        """Return the texts by name."""
        if not self.text:
            return data.books(self.data_dir)
        if self.data_dir is not None:
            raise ValueError(f"data_dir: expected none with texts of your own, got {self.data_dir}; leave one out")
        return {str(path): data.read_text(path) for path in self.text}

    def learned_tokenizer(self, texts: Mapping[str, str]) -> Tokenizer:
        """Return a tokenizer of what is trained on of the texts."""
        return Tokenizer.train((paragraph for name, text in texts.items() for paragraph in _divided(name, text)[0]),
                               self.vocab_size)

    def make_optimizer(self, model: nn.Module) -> optim.Optimizer:
        """Return what makes the updates."""
        return optim.AdamW(optim.parameter_groups(model, self.weight_decay), self.lr, betas=(0.9, 0.95))

    def loaders(self, texts: Mapping[str, str], tokenizer: Tokenizer) -> tuple[data.SequenceLoader,
                                                                              data.SequenceLoader]:
        """Return the batches that are trained on, and those that validate."""
        parts = []
        for part in zip(*(_divided(name, text) for name, text in texts.items())):
            paragraphs = tokenizer.encode_all([paragraph for paragraphs in part for paragraph in paragraphs])
            parts.append(data.passages(paragraphs, self.context + 1, begin=tokenizer.CLS, end=tokenizer.SEP))
        train, validation = (
            data.SequenceLoader(passages, self.batch_size, padding=tokenizer.PAD, shuffle=not i, seed=self.seed)
            for i, passages in enumerate(parts))
        if train.tokens < _LEAST * self.context:
            raise ValueError(f"text: expected at least {_LEAST * self.context:,} tokens to train on, {_LEAST} times "
                             f"the context, got {train.tokens:,}; give longer texts, or a smaller context")
        return train, validation

    def experiment(self) -> None:
        trainer, tokenizer, validation = self.fit()
        assert self.run_dir is not None
        model = trainer.model
        training.load_model(self.run_dir / BEST, model)
        evaluation = trainer.evaluate(validation)
        history = trainer.history
        perplexity = {part: (history["step"].astype(int), history[f"{name}_perplexity"])
                      for part, name in (("training", "train"), ("validation", "val"))}
        rows = [[beginning, "".join(self._drawn(model, tokenizer, beginning, 100, seed=self.seed))]
                for beginning in ("", *(" ".join(_divided(name, text)[1][0].split()[:_GIVEN])
                                        for name, text in self.load_texts().items()))]
        report = training.write_report(
            self.run_dir, evaluation, title=f"{self.name}: {self.updates:,} updates",
            evaluated="validation",
            figures={"validation perplexity": f"{math.exp(evaluation.loss):.2f}",
                     "tokens a second": f"{np.median(history['tokens_per_second']):,.0f}"},
            pictures={"Perplexity against updates": training.plots.lines(perplexity, "updates", "perplexity",
                                                                         log_y=True),
                      "Attention: how each token, a row, looks at those before it": self._attention(
                          model, tokenizer, validation)},
            tables={"Samples": [["given", "what the model goes on with"], *rows]})
        print(f"report: {report}")
        print(f"validation loss: {evaluation.loss:.4f}, perplexity {math.exp(evaluation.loss):.2f}")

    def fit(self, *, progress: bool = True) -> tuple[training.Trainer, Tokenizer, data.SequenceLoader]:
        """Train in the run folder.

        Parameters
        ----------
        progress : bool, default True
            Print what is trained, and how it goes.

        Returns
        -------
        trainer : Trainer
            Its model has the weights of the last update.
        tokenizer : Tokenizer
        validation : SequenceLoader
            The held out batches.
        """
        self.check()
        if self.resumes:
            tokenizer, inputs = self._tokenizer()
            texts = self._same_texts(inputs)
        else:
            texts = self.load_texts()
            tokenizer = self.learned_tokenizer(texts)
            inputs = {"texts": _digests(texts), "tokenizer": tokenizer.sha256}
        train, validation = self.loaders(texts, tokenizer)
        model = models.DecoderTransformer(self.model_config(len(tokenizer)), seed=self.seed)
        run_dir = self.open_run_dir()
        if not self.resumes:
            replace_file(run_dir / _TOKENIZER, tokenizer.json.encode())
        trainer = training.Trainer(
            model, nn.TokenCrossEntropyLoss(), self.make_optimizer(model), run_dir=run_dir, seed=self.seed,
            device=self.device, clip_norm=self.clip_norm, config={**self.config(), "inputs": inputs}, progress=progress,
            callbacks=[Perplexity(), *([training.tracker(self.track)] if self.track else [])])
        if progress:
            self.announce(model, f"{train.tokens:,} tokens of {len(tokenizer):,}, in {len(train.sequences):,} passages "
                                 f"of {len(texts)} texts; {validation.tokens:,} for validation")
        trainer.fit(data.Rounds(train, self.every), validation, epochs=self.updates // self.every, resume=self.resume)
        return trainer, tokenizer, validation

    # --- the trained model ---

    def trained(self) -> tuple[models.DecoderTransformer, Tokenizer]:
        """Return the best model of the run in run_dir, on the recipe's device, and its tokenizer."""
        self.check_device()
        assert self.run_dir is not None
        path = self.run_dir / BEST
        saved = self.check_saved(path)
        tokenizer, inputs = self._tokenizer()
        if saved.get("inputs") != inputs:
            raise ValueError(f"{self.run_dir / CONFIG}: expected under inputs what {path.name} was trained with, "
                             f"{saved.get('inputs')!r:.200}, got {inputs!r:.200}")
        model = models.DecoderTransformer(self.model_config(len(tokenizer)))
        training.load_model(path, model)
        return model.to(self.device), tokenizer

    def evaluate(self) -> None:
        """Measure the best model of the run in run_dir on the held out texts, and print loss and perplexity."""
        model, tokenizer = self.trained()
        trainer = training.Trainer(model, nn.TokenCrossEntropyLoss(), self.make_optimizer(model), device=self.device)
        _, validation = self.loaders(self._same_texts(self._tokenizer()[1]), tokenizer)
        loss = trainer.evaluate(validation).loss
        print(f"validation loss: {loss:.4f}, perplexity {math.exp(loss):.2f}, on {validation.tokens:,} tokens")

    def generate(self, prompt: str = "", length: int = 200, *, temperature: float = 0.9, top_k: int | None = 40,
                 top_p: float | None = None, seed: int = 0) -> Iterator[str]:
        """Go on with a text, by the best model of the run in run_dir.

        Parameters
        ----------
        prompt : str, default ""
            The text; without one, the model begins. It is said on stderr which of its characters the tokenizer does not
            know, and how much of it the model sees, where it has more tokens than the context.
        length : int, default 200
            How many tokens are drawn; then those that finish the last word, some few.
        temperature, top_k, top_p
            How they are drawn; see `fastnn.models.sampling_probabilities`.
        seed : int, default 0
            What they are drawn from.

        Returns
        -------
        iterator of str
            Words, each with the space before it, as soon as the next one begins.

        Examples
        --------
        >>> from fastnn import recipes
        >>> recipe = recipes.load("runs/transformer-lm-1")  # doctest: +SKIP
        >>> print("".join(recipe.generate("Well, Holmes")))  # doctest: +SKIP
        """
        check_texts("prompt", [prompt])
        model, tokenizer = self.trained()
        words = self._drawn(model, tokenizer, prompt, length, temperature=temperature, top_k=top_k, top_p=top_p,
                            seed=seed)
        if unknown := tokenizer.unknown(prompt):
            print(f"the tokenizer does not know {' '.join(unknown)}, which no text had in training: the model sees "
                  f"[UNK] there", file=sys.stderr, flush=True)
        seen = len(_tokens(tokenizer, prompt))
        if seen > model.config.context:
            print(f"the prompt has {seen:,} tokens, the context is {model.config.context}: the model sees the last "
                  f"{model.config.context}", file=sys.stderr, flush=True)
        return words

    def _drawn(self, model: Any, tokenizer: Tokenizer, prompt: str, length: int, *, temperature: float = 0.9,
               top_k: int | None = 40, top_p: float | None = None, seed: int = 0) -> Iterator[str]:
        length = as_int("length", length, 0)
        tokens = model.generate(
            _tokens(tokenizer, prompt), length + _TAIL * (length > 0), temperature=temperature, top_k=top_k,
            top_p=top_p, seed=seed, never=(tokenizer.PAD, tokenizer.UNK, tokenizer.CLS, tokenizer.MASK))
        return tokenizer.words(_to_the_end_of_a_word(tokenizer, tokens, length), begins=not prompt.strip())

    def _same_texts(self, inputs: Mapping[str, Any]) -> dict[str, str]:
        """Return the texts, which are those of the run in run_dir: in others, what it has learned may be held out."""
        texts = self.load_texts()
        if _digests(texts) != inputs["texts"]:
            raise ValueError(f"text: expected the texts with which the run in {self.run_dir} was begun, got others "
                             f"under the names {', '.join(texts)}; take them from a copy, or begin a new run")
        return texts

    def _tokenizer(self) -> tuple[Tokenizer, dict[str, Any]]:
        """Return the tokenizer of the run in run_dir, and what config.json says of its inputs."""
        assert self.run_dir is not None
        inputs, path = read_config(self.run_dir).get("inputs"), self.run_dir / _TOKENIZER
        if not (isinstance(inputs, dict) and isinstance(inputs.get("texts"), dict)
                and isinstance(inputs.get("tokenizer"), str)):
            raise ValueError(f"{self.run_dir / CONFIG}: expected under inputs the texts and the tokenizer that the run "
                             f"was begun with, got {inputs!r:.200}")
        try:
            tokenizer = Tokenizer.load(path)
        except (OSError, ValueError) as error:
            raise type(error)(f"{error}; take the run's {_TOKENIZER} from a copy of the run") from error
        if tokenizer.sha256 != inputs["tokenizer"]:
            raise ValueError(f"{path}: expected the tokenizer that the run was begun with, whose SHA-256 is "
                             f"{inputs['tokenizer']:.64}, got another one, {tokenizer.sha256}; take it from a copy of "
                             "the run")
        return tokenizer, inputs

    def _attention(self, model: Any, tokenizer: Tokenizer, validation: data.SequenceLoader) -> Any:
        passage = max(validation.sequences, key=len)[:_SHOWN]
        return training.plots.attention([weights[0] for weights in model.attention_weights(passage[None])],
                                        tokenizer.pieces(passage))


def _digests(texts: Mapping[str, str]) -> dict[str, str]:
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


class Perplexity(training.Callback):
    """Adds to each record what the losses of training and validation are as perplexities: their exponentials.

    A model that is as unsure as among k equally likely tokens has perplexity k.
    """

    def on_epoch_end(self, trainer: training.Trainer, record: Record) -> None:
        for part in ("train", "val"):
            loss = record[f"{part}_loss"]
            record[f"{part}_perplexity"] = None if loss is None else math.exp(min(loss, 700.0))


def _divided(name: str, text: str) -> tuple[list[str], list[str]]:
    """Return the paragraphs that are trained on, and those that are held out, which come from all parts of the text.

    Some in a row are held out, so that they make passages of a context.
    """
    parts = data.paragraphs(text)
    if len(parts) < _SHARES:
        parts = [line for line in text.splitlines() if line.strip()]
    if len(parts) < _SHARES:
        words = text.split()
        size = len(words) // _SHARES
        if not size:
            raise ValueError(f"{name}: expected a text of {_SHARES} words or more, a part of which can be held out, "
                             f"got {len(words)}; give a longer one")
        parts = [" ".join(words[i : i + size]) for i in range(0, len(words), size)]
    row = min(_IN_A_ROW, len(parts) // _SHARES)
    held_out = [i // row % _SHARES == _SHARES // 2 for i in range(len(parts))]
    return ([part for part, held in zip(parts, held_out) if not held],
            [part for part, held in zip(parts, held_out) if held])


def _tokens(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return the tokens of a prompt, as passages are made of them, but that its last paragraph goes on."""
    tokens = [tokenizer.CLS]
    for i, paragraph in enumerate(data.paragraphs(prompt)):
        tokens += [tokenizer.SEP] * (i > 0) + tokenizer.encode(paragraph).tolist()
    return tokens


def _to_the_end_of_a_word(tokenizer: Tokenizer, tokens: Iterable[int], length: int) -> Iterator[int]:
    """Pass on so many tokens, and then those that go on with the last word."""
    for place, token in enumerate(tokens):
        if place >= length and (token == tokenizer.SEP or tokenizer.pieces([token])[0].startswith(" ")):
            return
        yield token
