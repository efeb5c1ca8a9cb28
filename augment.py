"""Data augmentation (§3.3): make the transfer set, the rows that the teacher will label.

    python augment.py sst2.tsv              # -> sst2.transfer.tsv
    python augment.py sst2.tsv --n-iter 5   # fewer synthetic rows
    python augment.py en_ewt.conllu.gz --treebank "UD English EWT"    # -> pos_counts.json

In reading order: the three rules, the transfer set. After the line "Supporting code": the rows and
words of a TSV, the part-of-speech tagger, what all scripts share. Standard library only.

A task's files share a stem, such as sst2 in sst2.tsv, sst2.dev.tsv and sst2.transfer.tsv; in the
help texts it is STEM.
"""
import argparse
import gzip
import json
import os
import re
import shutil
import sys
import time
import zlib
from collections import Counter, defaultdict
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from math import isfinite, log
from random import Random
from typing import Callable, Iterable, Iterator, NamedTuple, TextIO

MASK = "[MASK]"                     # BERT's mask token, and the student's unknown word (§3.3)
MAX_NGRAM = 5                       # §3.3: an n-gram has 1 to 5 words
PAIR_CYCLE = [(0,), (1,), (0, 1)]   # §3.3: alter the first sentence only, the second only, both


class Rates(NamedTuple):
    """The probabilities of the three rules, with the values of §3.3."""
    p_mask: float = 0.1
    p_pos: float = 0.1
    p_ng: float = 0.25


def mask_or_replace(words: list[str], tags: list[str], rates: Rates,
                    words_by_tag: dict[str, list[str]], rng: Random) -> list[str]:
    """Masking and POS-guided word replacement: for each word one uniform draw X decides.

    ["a", "fine", "film"] -> ["a", "[MASK]", "film"] or ["a", "fine", "plot"]
    """
    new_words = []
    for word, tag in zip(words, tags):
        x = rng.random()
        if x < rates.p_mask:
            new_words.append(MASK)
        elif x < rates.p_mask + rates.p_pos:
            new_words.append(same_tag_word(tag, words_by_tag, rng))
        else:
            new_words.append(word)
    return new_words


def draw(n: int, rng: Random) -> int:
    """Uniform in 0..n-1. Only Random.random() gives the same numbers in all versions of Python."""
    return int(rng.random() * n)


def same_tag_word(tag: str, words_by_tag: dict[str, list[str]], rng: Random) -> str:
    """A word from the corpus' unigram distribution, renormalized within one tag.

    words_by_tag[tag] lists a word as often as the corpus has it with this tag, so a uniform draw
    gives p(word | tag) = count(word, tag) / count(tag). It may be the word that it replaces.
    """
    candidates = words_by_tag[tag]
    return candidates[draw(len(candidates), rng)]


def sample_ngram(words: list[str], rng: Random) -> list[str]:
    """n-gram sampling: ["a", "fine", "film"] -> ["fine", "film"].

    n is uniform in 1..5, or up to the length of a shorter sentence; the start is uniform over all
    positions where n words fit.
    """
    n = 1 + draw(min(MAX_NGRAM, len(words)), rng)
    start = draw(len(words) - n + 1, rng)
    return words[start:start + n]


class TaggedRow(NamedTuple):
    """One sentence, or the two of a pair, as words with their part-of-speech tags."""
    sentences: list[list[str]]
    tags: list[list[str]]


def augment_row(row: TaggedRow, attempt: int, rates: Rates, words_by_tag: dict[str, list[str]],
                rng: Random) -> list[list[str]]:
    """One attempt at a synthetic row; attempt counts from 0. Returns its sentences as words."""
    altered = (0,)
    if len(row.sentences) == 2:
        altered = PAIR_CYCLE[attempt % len(PAIR_CYCLE)]
    sentences = list(row.sentences)
    for i in altered:
        words = mask_or_replace(row.sentences[i], row.tags[i], rates, words_by_tag, rng)
        if rng.random() < rates.p_ng:
            words = sample_ngram(words, rng)
        sentences[i] = words
    return sentences


def join_words(sentences: list[list[str]]) -> str:
    """[["a", "film"], ["it", "works"]] -> "a film<TAB>it works", the text cells of a TSV."""
    return "\t".join(" ".join(words) for words in sentences)


def synthetic_texts(row: TaggedRow, seen: set[str], n_iter: int, rates: Rates,
                    words_by_tag: dict[str, list[str]], rng: Random) -> Iterator[str]:
    """The new rows that n_iter attempts at one row give (§3.3), as the text cells of a TSV.

    `seen` has the texts of all rows so far, original and synthetic, and grows here: one that it
    has is dropped.
    """
    for attempt in range(n_iter):
        sentences = augment_row(row, attempt, rates, words_by_tag, rng)
        text = join_words(sentences)
        if text not in seen:
            seen.add(text)
            yield text


# ---- The transfer set ----------------------------------------------------------------------------
def tag_row(texts: Iterable[str], tagger: "Tagger") -> TaggedRow:
    """Split the texts into words and tag them."""
    sentences = [tokenize(text) for text in texts]
    return TaggedRow(sentences, [tagger.tag(words) for words in sentences])


def index_by_tag(rows: Iterable[TaggedRow]) -> dict[str, list[str]]:
    """tag -> all words of the rows with this tag, with repetitions: {"NN": ["film", "film"]}."""
    words_by_tag = defaultdict(list)
    for row in rows:
        for words, tags in zip(row.sentences, row.tags):
            for word, tag in zip(words, tags):
                words_by_tag[tag].append(word)
    return words_by_tag


def make_transfer_set(source: str, output: str, n_iter: int | None = None, rates: Rates = Rates(),
                      seed: int = 0) -> None:
    """Write the rows of `source` with their labels, then the synthetic rows without a label.

    n_iter: attempts for each row; the default is that of §3.3. Without a dev set one of every ten
    labelled rows is held out: it is written too, but has no synthetic rows, and whoever trains on
    the file leaves it out again (`read_train`). Raises UserError.
    """
    is_pair = read_columns(source).is_pair
    if n_iter is None:
        n_iter = 10 if is_pair else 20  # MNLI, QQP; SST-2
    tagger = Tagger()
    rng = Random(seed)
    train_rows = []
    seen = set()
    num_rows = 0
    num_synthetic = 0
    with atomic_write(output) as f:
        f.write("sentence1\tsentence2\tlabel\n" if is_pair else "sentence\tlabel\n")
        source_rows = split_rows(source, find_dev(source))
        for row, is_held_out in progress(source_rows, "tagging", count_rows(source)):
            f.write("\t".join([*row.texts, row.label]) + "\n")  # the text as it is
            num_rows += 1
            tagged_row = tag_row(row.texts, tagger)
            seen.add(join_words(tagged_row.sentences))
            if not is_held_out:
                train_rows.append(tagged_row)
        words_by_tag = index_by_tag(train_rows)
        for row in progress(train_rows, "augmenting"):
            for text in synthetic_texts(row, seen, n_iter, rates, words_by_tag, rng):
                f.write(text + "\t\n")  # an empty label
                num_synthetic += 1
    duplicates = n_iter * len(train_rows) - num_synthetic
    print(f"wrote {output}: {num_rows:,} original rows and {num_synthetic:,} synthetic rows "
          f"(n_iter {n_iter}, {duplicates:,} duplicates dropped)")


def augment_sentence(sentence: str, corpus: list[str], n_iter: int = 20, rates: Rates = Rates(),
                     seed: int = 0) -> list[str]:
    """The synthetic variants of one sentence; its words and the corpus' are those for replacement.

    augment_sentence("a fine film", ["a dull plot"]) -> ["a fine plot", "a [MASK] film", ...]
    """
    check_is_list("corpus", corpus)
    tagger = Tagger()
    rows = [tag_row([text], tagger) for text in [sentence, *corpus]]
    seen = {join_words(rows[0].sentences)}
    words_by_tag = index_by_tag(rows)
    return list(synthetic_texts(rows[0], seen, n_iter, rates, words_by_tag, Random(seed)))


# ==== Supporting code: rows of a TSV ==============================================================
TEXT_COLUMNS = [("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence"),
                ("premise", "hypothesis"), ("#1 String", "#2 String"), ("sentence",)]
LABEL_COLUMNS = ["label", "gold_label", "is_duplicate", "Quality"]


class Row(NamedTuple):
    texts: tuple[str, ...]      # one sentence, or the two of a pair
    label: str                  # "" if it has none
    logits: tuple[float, ...]   # the teacher's, one per class; () without a teacher


class Columns(NamedTuple):
    """The names in the header, and where the cells of a row are found."""
    names: list[str]
    text: list[int]
    label: int | None
    logits: list[int]

    @property
    def is_pair(self) -> bool:
        return len(self.text) == 2

    @property
    def classes(self) -> list[str]:
        return [self.names[i].removeprefix("logit_") for i in self.logits]


def dataset_stem(path: str) -> str:
    """data/sst2.tsv, data/sst2.transfer.tsv, data/sst2.dev.tsv -> data/sst2"""
    return re.sub(r"(\.(transfer|logits|dev|test)(-mm)?)*\.tsv$", "", path)


def read_lines(path: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of a TSV in UTF-8, which has no quoting. Raises UserError."""
    with errors_in(path), open(path, "rb") as f:
        for n, line in enumerate(f, start=1):
            try:
                text = line.decode("utf-8-sig" if n == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UserError(f"{path}, line {n}: expected text in UTF-8") from None
            yield n, text.rstrip("\r\n").split("\t")


def read_columns(path: str) -> Columns:
    """Find the columns by their names, which differ between GLUE's tasks. Raises UserError."""
    _, names = next(read_lines(path), (1, [""]))
    text = next((columns for columns in TEXT_COLUMNS if set(columns) <= set(names)), None)
    if text is None:
        raise UserError(f"{path}, line 1: expected the names of columns with tabs between, "
                        "`sentence` or `sentence1` and `sentence2` among them; "
                        f"found {len(names)}: {' | '.join(names)[:80]}")
    label = next((names.index(name) for name in LABEL_COLUMNS if name in names), None)
    logits = [i for i, name in enumerate(names) if name.startswith("logit_")]
    return Columns(names, [names.index(name) for name in text], label, logits)


def read_rows(path: str, include_invalid: bool = False) -> Iterator[Row]:
    """The rows of a TSV, one at a time. Raises UserError with the line.

    Rows with an empty sentence (QQP has some) or with the label `-` (MNLI: no gold label) are
    skipped and counted in a note, unless include_invalid: a GLUE submission answers every row.
    """
    columns = read_columns(path)
    rows = skipped = quoted = 0
    for n, cells in read_lines(path):
        if n == 1 or (cells == [""] and len(columns.names) > 1):  # the header, or an empty line
            continue
        if len(cells) != len(columns.names):
            raise UserError(f"{path}, line {n}: {len(cells)} cells, but the header has "
                            f"{len(columns.names)}; expected tabs between cells, and no quoting")
        texts = tuple(cells[i] for i in columns.text)
        label = "" if columns.label is None else cells[columns.label].strip()
        is_valid = label != "-" and all(text.strip() for text in texts)
        if not is_valid and not include_invalid:
            skipped += 1
            continue
        try:
            logits = tuple(float(cells[i]) for i in columns.logits)
            is_finite = all(map(isfinite, logits))
        except ValueError:
            is_finite = False
        if not is_finite:
            raise UserError(f"{path}, line {n}: expected a finite number in each logit column")
        rows += 1
        if texts[0].startswith('"') and texts[0].endswith('"'):
            quoted += 1
        yield Row(texts, label, logits)
    if not rows:
        raise UserError(f"{path}: no usable rows")
    if skipped:
        note(f"{path}: {skipped:,} rows skipped (an empty sentence, or the label -)")
    if quoted > rows / 2:
        note(f"{path}: {quoted:,} rows begin and end with a double quote, which is read as part of "
             "the text; expected no quoting")


def read_dev(path: str, dev_path: str | None) -> Iterator[Row]:
    """The labelled rows of dev_path; if it is None, the held-out rows of `path`."""
    if dev_path:
        return (row for row in read_rows(dev_path) if row.label)
    return (row for row, is_held_out in split_rows(path, dev_path) if is_held_out)


def read_train(path: str, dev_path: str | None) -> Iterator[Row]:
    """The rows of `path` that are not held out, with or without a label."""
    return (row for row, is_held_out in split_rows(path, dev_path) if not is_held_out)


def split_rows(path: str, dev_path: str | None) -> Iterator[tuple[Row, bool]]:
    """Each row, and whether it is held out: without a dev set, one of every ten labelled rows is.

    Synthetic rows have no label, so the same rows are held out of STEM.tsv and STEM.logits.tsv.
    """
    rng = Random(0)
    num_labelled = 0
    for row in read_rows(path):
        is_held_out = False
        if row.label and not dev_path:
            if num_labelled % 10 == 0:
                # at random: where classes alternate, every tenth row would be of the same one
                chosen = num_labelled + draw(10, rng)
            is_held_out = num_labelled == chosen
            num_labelled += 1
        yield row, is_held_out


def count_rows(path: str) -> int:
    """The number of lines after the header, for progress."""
    with errors_in(path), open(path, "rb") as f:
        return sum(1 for _ in f) - 1


def use_existing(path: str) -> bool:
    """True if `path` exists. Which options made it is not known, and not checked."""
    if not os.path.exists(path):
        return False
    print(f"using existing {path}, whatever options made it (--fresh recomputes it)")
    return True


def set_aside(path: str) -> None:
    """For --fresh: rename the file to PATH.old, and delete the chunks of a stopped labelling."""
    shutil.rmtree(path + ".parts", ignore_errors=True)
    if os.path.exists(path):
        os.replace(path, path + ".old")
        print(f"moved {path} to {path}.old")


def check_folder(path: str) -> None:
    """Raise UserError if no file can be written beside `path`."""
    folder = os.path.dirname(path) or "."
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: no such folder, or it cannot be written")


def checksum(path: str) -> int:
    """A checksum of a file, so that a run resumes only if its files are the same."""
    value = 0
    with errors_in(path), open(path, "rb") as f:
        while block := f.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def find_dev(path: str) -> str | None:
    """data/sst2.tsv -> data/sst2.dev.tsv, if it exists"""
    dev = dataset_stem(path) + ".dev.tsv"
    return dev if os.path.exists(dev) else None


def find_classes(path: str) -> list[str]:
    """The classes, named by the logit columns or, without these, by the labels."""
    classes = read_columns(path).classes or sort_classes({row.label for row in read_rows(path)})
    if len(classes) < 2:
        raise UserError(f"{path}: expected labels of at least two classes, found {classes}")
    return classes


def sort_classes(labels: Iterable[str]) -> list[str]:
    """The classes in a fixed order: numbers by value, else alphabetical."""
    names = set(labels) - {""}
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))  # 01 before 1
    return sorted(names)


# ---- Words ---------------------------------------------------------------------------------------
MAX_WORDS = 512  # our choice: words read of a sentence; BERT reads at most 128 subwords
# punctuation, the word, punctuation; ' [ - before it and ' ] - after it belong to it: 's [MASK] --
AFFIXES = re.compile(r"([^\w'\[-]*)(.*?)([^\w'\]-]*)")               # (|well-made|),
REPEATED = re.compile(r"[?!]+|(.)\1*")                               # )|,|...
CLITIC = re.compile(r"(.+)(n't|'(?:s|m|d|re|ve|ll))")                # do|n't  it|'s
# before a period: one of these; one letter, as in j. r.; one or two after a period, as in u.s.
ABBREVIATION = re.compile("mr|mrs|ms|dr|st|jr|sr|vs|etc|inc|ltd|co|corp|no|al|bros|sept|wash|pa"
                          r"|[^\W\d]|.*\.[^\W\d]{1,2}")


def tokenize(text: str) -> list[str]:
    """Lower-case words, nearly as in the Penn Treebank; SST-2's are so already, and do not change.

    "It's [MASK], don't worry!" -> ["it", "'s", "[MASK]", ",", "do", "n't", "worry", "!"]
    """
    words = []
    for token in text.replace("’", "'").lower().replace("[mask]", MASK).split():
        words += split_token(token)
    return words[:MAX_WORDS]


@lru_cache(maxsize=1 << 18)
def split_token(token: str) -> list[str]:
    """One token without spaces: "(don't," -> ["(", "do", "n't", ","]. Keeps the period of "mr."."""
    before, word, after = AFFIXES.fullmatch(token).groups()
    if after.startswith(".") and ABBREVIATION.fullmatch(word):
        word += "."
        after = after[1:]
    endings = split_runs(after)
    while match := CLITIC.fullmatch(word):  # twice in shouldn't've
        word, clitic = match.groups()
        endings = [clitic, *endings]
    words = [*split_runs(before), word, *endings]
    return [word for word in words if word]  # a token of punctuation has no word


def split_runs(punctuation: str) -> list[str]:
    """Runs of one character: "),..." -> [")", ",", "..."]"""
    return [match[0] for match in REPEATED.finditer(punctuation)]


# ---- The part-of-speech tagger -------------------------------------------------------------------
COUNTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pos_counts.json")
EDGE = "EDGE"      # the tag before the first word and after the last
MIN_RATIO = 0.03   # our choice: a word's tags below 0.03 times its best tag's probability are not
#                    tried; 5 times as fast as 0.0001, and EWT dev accuracy is lower by only 0.0006


def features(word: str) -> list[str]:
    """The word's shape with its 0 to 3 last letters, then the word.

    "film" -> ["a ", "a m", "a lm", "a ilm", "film"]
    """
    shape = "-"
    if word.isalpha():
        shape = "a"
    elif word[0].isdigit():
        shape = "0"
    found = [f"{shape} "]
    for n in range(1, min(3, len(word)) + 1):
        found.append(f"{shape} {word[-n:]}")
    return [*found, word]


def smooth(counts: Counter, prior: dict[str, float]) -> dict[str, float]:
    """Relative frequencies, with the prior added as if it were one more observation.

    {"NN": 1}, {"NN": 0.5, "VB": 0.5} -> {"NN": 0.75, "VB": 0.25}
    """
    total = sum(counts.values()) + 1
    return {tag: (counts[tag] + p) / total for tag, p in prior.items()}


def integer_log(p: float) -> int:
    """1000 * log(p), rounded: the last bits of a logarithm differ between machines."""
    return round(1000 * log(p))


class Tagger:
    """A bigram hidden Markov model: lower-case words -> Penn Treebank tags.

    It maximizes the product of P(tag | previous tag) P(word | tag). By Bayes' rule P(word | tag) is
    proportional to P(tag | word) / P(tag), which is used instead. P(tag | word) is smoothed with
    the tags of words of the same ending and shape, so unknown words have it too.
    """

    def __init__(self, path: str = COUNTS):
        with errors_in(path, "the counts that --treebank writes"), open(path, "rb") as f:
            counts = json.load(f)
            words = counts["words"]
            following = counts["following"]
        totals = Counter({EDGE: 1e-6})  # so small that no word is tagged as an edge
        # word, or feature of words -> its tags; a feature contains a space and a word does not
        self.tags_of = defaultdict(Counter)
        for word, tags in words.items():
            self.tags_of[word].update(tags)
            totals.update(tags)
            for feature in features(word)[:-1]:
                # each word counts once, since unknown words resemble rare ones
                self.tags_of[feature].update(tags.keys())
        all_words = sum(totals.values())
        self.prior = {tag: n / all_words for tag, n in totals.items()}
        self.transition = {}  # tag -> the tag that follows -> 1000 log P
        for last in self.prior:
            p = smooth(Counter(following.get(last)), self.prior)
            self.transition[last] = {tag: integer_log(p[tag]) for tag in p}
        self.scores_of = {}

    def tag_scores(self, word: str) -> list[tuple[str, int]]:
        """The likely tags of a word, each with the logarithm of P(tag | word) / P(tag)."""
        if word not in self.scores_of:
            # all words, "a ", "a m", "a lm", "a ilm", "film": each is the prior of the next
            p = self.prior
            for feature in features(word):
                p = smooth(self.tags_of.get(feature, Counter()), p)
            least = MIN_RATIO * max(p.values())
            scores = []
            for tag in p:
                if p[tag] >= least:
                    scores.append((tag, integer_log(p[tag] / self.prior[tag])))
            self.scores_of[word] = scores
        return self.scores_of[word]

    def tag(self, words: list[str]) -> list[str]:
        """Viterbi's algorithm: ["a", "fine", "film"] -> ["DT", "JJ", "NN"]"""
        best = {EDGE: (0, [])}  # last tag -> the score and path of the best tagging that ends in it
        steps = [self.tag_scores(word) for word in words]
        steps.append([(EDGE, 0)])  # one more step, which has no word
        for tags in steps:
            new_best = {}
            for tag, emission in tags:
                candidates = []
                for last, (score, path) in best.items():
                    candidates.append((score + self.transition[last][tag], path))
                score, path = max(candidates)  # equal scores: max compares the paths
                new_best[tag] = (score + emission, [*path, tag])
            best = new_best
        _, path = best[EDGE]
        return path[:-1]


def count_treebank(path: str, source: str, output: str) -> None:
    """Write pos_counts.json from a treebank in CoNLL-U: words in column 2, Penn tags in column 5.

    {"source": ..., "words": {"film": {"NN": 5, "VB": 1}}, "following": {"DT": {"JJ": 3, "NN": 8}}}
    """
    words = defaultdict(Counter)      # word -> its tags
    following = defaultdict(Counter)  # tag -> the tags that follow it
    tags = []  # of the sentence
    open_text = gzip.open if path.endswith(".gz") else open
    with errors_in(path), open_text(path, "rt", encoding="utf-8") as f:
        for line in f:
            cells = line.split("\t")
            # 1-2 is a contraction; _ is no tag
            if len(cells) == 10 and cells[0].isdigit() and cells[4] != "_":
                words[cells[1].lower()][cells[4]] += 1
                tags.append(cells[4])
            elif line == "\n" and tags:  # the end of a sentence
                for last, tag in zip([EDGE, *tags], [*tags, EDGE]):
                    following[last][tag] += 1
                tags = []
    if not words:
        raise UserError(f"{path}: no tagged words; expected a treebank in CoNLL-U")
    # our choice: no words of more than 20 letters, mostly addresses, to keep the file small
    words = {word: words[word] for word in words if len(word) <= 20 and " " not in word}
    counts = {"source": source, "words": words, "following": following}
    with atomic_write(output) as f:
        json.dump(counts, f, ensure_ascii=False, indent=0, sort_keys=True)
    print(f"wrote {output}: {len(words):,} words")


# ---- What all scripts share ----------------------------------------------------------------------
class UserError(Exception):
    """A mistake that the user can correct; it names the file, the line and what was expected."""


@contextmanager
def errors_in(what: str, expected: str = "") -> Iterator[None]:
    """Turn whatever goes wrong in the block into a UserError that names the file, or `what`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        message = f"{what}: {' '.join(reason.split())[:200]}"
        if expected:
            message += f"; expected {expected}"
        raise UserError(message) from error


@contextmanager
def atomic_write(path: str) -> Iterator[TextIO]:
    """A text file that is moved to `path` when the block ends: complete, or not there at all.

    Bytes are written to its `buffer`.
    """
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "w", encoding="utf-8", newline="\n") as f:
            yield f
        os.replace(part, path)
    except BaseException as error:
        if os.path.exists(part):
            os.remove(part)
        if isinstance(error, OSError):
            error.filename = path  # for the message, which would otherwise name `part`
        raise


def progress(items: Iterable, title: str, total: int | None = None) -> Iterator:
    """Pass the items on; on a terminal, show how many are done, the rate and the time left."""
    if not sys.stderr.isatty():
        yield from items
        return
    if total is None:
        total = len(items)
    start = time.monotonic()
    shown = start
    try:
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - shown > 0.2:
                shown = now
                rate = done / (now - start)
                left = timedelta(seconds=round(max(0, total - done) / rate))
                line = f"{title}: {done:,} of {total:,}, {rate:,.1f} per second, {left} left"
                print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


@lru_cache(maxsize=None)
def note(message: str) -> None:
    """Print a note once: the cache answers a second call with the same message."""
    print(f"note: {message}", file=sys.stderr, flush=True)


def check_is_list(name: str, texts: list) -> None:
    """Raise TypeError for a single string, whose letters would else be taken for sentences."""
    if not isinstance(texts, (list, tuple)):
        raise TypeError(f"{name}: expected a list of sentences, got {type(texts).__name__}")


class Parser(argparse.ArgumentParser):
    """--help opens with the first line of a script's docstring and closes with the rest of it."""

    def __init__(self, docstring: str):
        summary, _, examples = docstring.partition("\n")
        super().__init__(description=summary, epilog=examples,
                         formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> None:
        raise UserError(f"{message} (--help lists the options)")


def number_in(kind: type, low: float, high: float) -> Callable[[str], float]:
    """An argparse type: a number of this kind from low to high."""
    def number(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low} to {high}: {text}")
        return value
    return number


def run(main: Callable[[], None], kept: str) -> None:
    """Run a script. A UserError is one line on stderr and exit code 2; Ctrl-C is exit code 130.

    kept: what the user is told about files when the script is stopped.
    """
    # UTF-8 as in files; by lines, so that notes and errors stand in their place
    sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
    try:
        main()
    except BrokenPipeError:  # the program that reads our output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"\nstopped: {kept}", file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that cannot be written
        reason = error.strerror or error
        print(f"error: {error.filename or 'output'}: {reason}; {kept}", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    parser = Parser(__doc__)
    rate = number_in(float, 0, 1)
    parser.add_argument("data", help="a TSV in GLUE's format: sentences, or pairs of sentences")
    parser.add_argument("-o", "--output", help="default: STEM.transfer.tsv")
    parser.add_argument("--n-iter", type=number_in(int, 0, 10000),
                        help="attempts for each row (default: 20, and 10 for pairs; §3.3)")
    parser.add_argument("--p-mask", type=rate, default=Rates().p_mask,
                        help="probability that a word is masked (default: 0.1; §3.3)")
    parser.add_argument("--p-pos", type=rate, default=Rates().p_pos,
                        help="probability that a word is replaced (default: 0.1; §3.3)")
    parser.add_argument("--p-ng", type=rate, default=Rates().p_ng,
                        help="probability that only an n-gram is kept (default: 0.25; §3.3)")
    parser.add_argument("--seed", type=number_in(int, 0, 1 << 31), default=0, help="default: 0")
    parser.add_argument("--treebank", metavar="SOURCE",
                        help="make the tagger's pos_counts.json from DATA, a treebank in CoNLL-U; "
                        "SOURCE is its name, which the file keeps")
    args = parser.parse_args()
    if args.treebank:
        return count_treebank(args.data, args.treebank, args.output or COUNTS)
    if args.p_mask + args.p_pos > 1:
        raise UserError("--p-mask and --p-pos: expected a sum of at most 1")
    output = args.output or args.data.removesuffix(".tsv") + ".transfer.tsv"
    if output == args.data:
        raise UserError(f"-o {output}: expected another file than the data")
    rates = Rates(args.p_mask, args.p_pos, args.p_ng)
    make_transfer_set(args.data, output, args.n_iter, rates, args.seed)


if __name__ == "__main__":
    run(main, kept="no file was changed")
