"""Data augmentation (§3.3): make the transfer set, the rows that the teacher will label.

    python augment.py sst2.tsv              # -> sst2.transfer.tsv
    python augment.py sst2.tsv --n-iter 5   # fewer synthetic rows

The three rules and the transfer set come first. Supporting code follows, some of it shared with the
other scripts. Only the standard library is used.
STEM is the common start of a task's file names: sst2 in sst2.tsv, sst2.dev.tsv, sst2.transfer.tsv.
"""
import hashlib
import io
import json
import os
import re
import sys
import time
import zipfile
import zlib
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import defaultdict
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from http.client import HTTPException
from itertools import chain, islice
from math import isfinite
from random import Random
from typing import Callable, Iterable, Iterator, NamedTuple, Sequence, TextIO
from urllib.request import urlopen

MASK = "[MASK]"                     # BERT's mask token, and the student's unknown word (§3.3)
MAX_NGRAM = 5                       # §3.3: an n-gram has 1 to 5 words
PAIR_CYCLE = [(0,), (1,), (0, 1)]   # §3.3: alter the first sentence, then the second, then both

Tagged = list[tuple[str, str]]      # a sentence: [("a", "DT"), ("fine", "JJ"), ("film", "NN")]
Corpus = dict[str, list[str]]       # tag -> every word with this tag, once for each occurrence


class Rates(NamedTuple):  # §3.3
    p_mask: float = 0.1
    p_pos: float = 0.1
    p_ng: float = 0.25


def mask_or_replace(sentence: Tagged, rates: Rates, corpus: Corpus, rng: Random) -> list[str]:
    """Masking and POS-guided word replacement: "a fine film" -> ["a", "[MASK]", "plot"]"""
    words = []
    for word, tag in sentence:
        x = rng.random()  # §3.3: one uniform draw X per word
        if x < rates.p_mask:
            words.append(MASK)
        elif x < rates.p_mask + rates.p_pos:
            words.append(same_tag_word(tag, corpus, rng))
        else:
            words.append(word)
    return words


def same_tag_word(tag: str, corpus: Corpus, rng: Random) -> str:
    """Draw from the unigram distribution within one tag: p = count(word, tag) / count(tag)."""
    # not rng.choice: only random() gives the same numbers in all versions of Python
    return corpus[tag][int(rng.random() * len(corpus[tag]))]


def sample_ngram(words: list[str], rng: Random) -> list[str]:
    """n-gram sampling: ["a", "fine", "film"] -> ["fine", "film"]

    n is uniform in 1..min(5, number of words). The start is uniform over all positions that leave
    room for n words.
    """
    n = 1 + int(rng.random() * min(MAX_NGRAM, len(words)))
    start = int(rng.random() * (len(words) - n + 1))
    return words[start:start + n]


def augment_row(row: list[Tagged], attempt: int, rates: Rates, corpus: Corpus,
                rng: Random) -> list[list[str]]:
    """A synthetic version of a row. For a pair, PAIR_CYCLE[attempt % 3] says what to alter."""
    altered = (0,) if len(row) == 1 else PAIR_CYCLE[attempt % 3]
    new_row = [[word for word, _ in sentence] for sentence in row]
    for i in altered:
        new_row[i] = mask_or_replace(row[i], rates, corpus, rng)
        if rng.random() < rates.p_ng:
            new_row[i] = sample_ngram(new_row[i], rng)
    return new_row


# ---- The transfer set ----------------------------------------------------------------------------
def make_transfer_set(source: str, output: str, n_iter: int | None = None, rates: Rates = Rates(),
                      seed: int = 0) -> None:
    """Write the rows of `source` with their labels, then synthetic rows with an empty label.

    n_iter is the number of attempts for each row. Rows held out for dev are not augmented.
    """
    rows = list(read_rows(source))
    is_pair = len(rows[0].texts) == 2
    if n_iter is None:
        n_iter = 10 if is_pair else 20  # §3.3: 10 for QQP and MNLI, 20 for SST-2
    tagger = Tagger()
    tagged_rows = []
    for row in progress(list(read_train(source, source)), "tagging"):
        tagged_rows.append([tagger.tag(text) for text in row.texts])
    corpus = defaultdict(list)
    for row in tagged_rows:
        for word, tag in chain(*row):
            corpus[tag].append(word)
    # a row as one string: spaces between words, a tab between the sentences of a pair
    seen = {"\t".join(" ".join(tokenize(text)) for text in row.texts) for row in rows}
    num_distinct = len(seen)
    rng = Random(seed)
    with atomic_write(output) as f:
        write_header(f, is_pair)
        for row in rows:
            print(*row.texts, row.label, sep="\t", file=f)
        for row in progress(tagged_rows, "augmenting"):
            for attempt in range(n_iter):
                new_row = augment_row(row, attempt, rates, corpus, rng)
                text = "\t".join(map(" ".join, new_row))
                if text not in seen:
                    seen.add(text)
                    f.write(text + "\t\n")
    print(f"wrote {output}: {len(rows):,} rows (columns {', '.join(read_columns(source))}) and "
          f"{len(seen) - num_distinct:,} synthetic rows (n_iter {n_iter})")


# ==== Supporting code: the part-of-speech tagger ==================================================
SCORES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "pos_scores.json")
EDGE = "EDGE"  # the tag before the first word and after the last


class Tagger:
    """A hidden Markov model: the tags maximize the product of P(tag | previous) P(word | tag).

    data/make_pos_scores.py made the tables from a treebank: 1000 log P(tag | previous) and
    1000 log (P(tag | word) / P(tag)). By Bayes' rule, the ratio is P(word | tag) / P(word), and
    P(word) is the same for all tags.
    """

    def __init__(self, path: str = SCORES):
        with open(path, encoding="utf-8") as f:
            tables = json.load(f)
        self.transition = tables["transition"]  # {"DT": {"NN": -711}}: a noun after a determiner
        self.scores = tables["scores"]          # {"film": {"NN": 2009}}; see also `endings`

    def scores_of(self, word: str) -> dict[str, int]:
        """A word's likely tags; for an unknown word, those of its longest known ending."""
        if word in self.scores:
            return self.scores[word]
        return next(self.scores[key] for key in reversed(endings(word)) if key in self.scores)

    def tag(self, text: str) -> Tagged:
        """Viterbi's algorithm: "a fine film" -> [("a", "DT"), ("fine", "JJ"), ("film", "NN")]"""
        words = tokenize(text)
        best = {EDGE: (0, [])}  # last tag -> score and path of the best tagging that ends in it
        for scores in [*map(self.scores_of, words), {EDGE: 0}]:  # EDGE ends the sentence
            new_best = {}
            for tag, emission in scores.items():
                candidates = []
                for last, (score, path) in best.items():
                    candidates.append((score + self.transition[last][tag], path))
                score, path = max(candidates)
                new_best[tag] = (score + emission, [*path, tag])
            best = new_best
        _, path = best[EDGE]
        return list(zip(words, path))  # zip drops the last tag, EDGE


def endings(word: str) -> list[str]:
    """Keys "SHAPE LETTERS" of `scores`: "film" -> ["", "a ", "a m", "a lm", "a ilm"]"""
    shape = "-"
    if word.isalpha():
        shape = "a"  # only letters
    elif word[0].isdigit():
        shape = "0"  # starts with a digit
    return ["", *(f"{shape} {word[len(word) - n:]}" for n in range(min(3, len(word)) + 1))]


# ---- Words ---------------------------------------------------------------------------------------
MAX_WORDS = 512  # our choice: later words are dropped; BERT reads only 128 subwords
LEADING = re.compile(r"[^\w'\[-]*")     # punctuation; a word may start with ' [ or - as in 's
TRAILING = re.compile(r"[^\w'\]-]*$")   # punctuation; a word may end with ' ] or - as in dogs'
REPEATED = re.compile(r"[?!]+|(.)\1*")                            # "),..." -> ")" "," "..."
CLITIC = re.compile(r"(?<=.)(n't|'(s|m|d|re|ve|ll))(?=n't|'|$)")  # "don't've" -> "do" "n't" "'ve"
# These words keep their period, as do single letters (j. r.) and initials (u.s.).
ABBREVIATION = re.compile("mr|mrs|ms|dr|st|jr|sr|vs|etc|inc|ltd|co|corp|no|al|bros|sept|wash|pa"
                          r"|[^\W\d]|.*\.[^\W\d]{1,2}")


def tokenize(text: str) -> list[str]:
    """Penn Treebank words, in lower case: "It's [MASK], I" -> ["it", "'s", "[MASK]", ",", "i"]"""
    words = []
    for token in text.replace("’", "'").lower().replace("[mask]", MASK).split():
        words += split_token(token)
    return words[:MAX_WORDS]


@lru_cache(maxsize=1 << 18)
def split_token(token: str) -> list[str]:
    """Split a token without spaces: "(don't," -> ["(", "do", "n't", ","]"""
    before = LEADING.match(token)[0]
    word = token.removeprefix(before)
    after = TRAILING.search(word)[0]
    word = word.removesuffix(after)
    if after.startswith(".") and ABBREVIATION.fullmatch(word):
        word += "."
        after = after[1:]
    before = REPEATED.sub(r"\g<0> ", before)
    word = CLITIC.sub(r" \g<0>", word)
    after = REPEATED.sub(r" \g<0>", after)
    return f"{before}{word}{after}".split()


# ---- TSV files -----------------------------------------------------------------------------------
TEXT_COLUMNS = [("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence"),
                ("premise", "hypothesis"), ("#1 string", "#2 string"), ("sentence",)]
LABEL_COLUMNS = ["label", "gold_label", "is_duplicate", "quality"]


class Row(NamedTuple):
    texts: tuple[str, ...]      # one sentence, or the two of a pair
    label: str                  # "" for none
    logits: dict[str, float]    # the teacher's, by class: {"0": -0.65, "1": 0.71}; {} for none


def read_columns(path: str) -> list[str]:
    _, names = next(read_lines(path), (1, [""]))
    return names


def read_rows(path: str) -> Iterator[Row]:
    """Yield the rows of a TSV. Columns are found by their names; the label `-` means no label.

    A line with more or fewer cells than the header is skipped, counted and reported. QQP has a few:
    questions that contain a line break. More than 1% of such lines is an error.
    """
    columns = read_columns(path)
    names = [name.lower() for name in columns]
    text_names = next((group for group in TEXT_COLUMNS if set(group) <= set(names)), None)
    if text_names is None:
        raise UserError(f"{path}, line 1: expected tab-separated column names, with `sentence` or "
                        f"`sentence1` and `sentence2`; found {' | '.join(names)[:80]}")
    label_name = next((name for name in LABEL_COLUMNS if name in names), None)
    classes = sort_classes(name[6:] for name in columns if name.lower().startswith("logit_"))
    logit_names = {name: f"logit_{name.lower()}" for name in classes}
    num_rows = 0
    broken = []  # line numbers
    for n, cells in islice(read_lines(path), 1, None):
        if len(cells) != len(names):
            if cells != [""]:  # not an empty line
                broken.append(n)
            continue
        cell = dict(zip(names, cells))
        try:
            logits = {name: float(cell[column]) for name, column in logit_names.items()}
            is_finite = all(map(isfinite, logits.values()))
        except ValueError:
            is_finite = False
        if not is_finite:
            raise UserError(f"{path}, line {n}: expected a finite number in each logit column")
        label = cell.get(label_name, "").strip()
        if label == "-":
            label = ""
        num_rows += 1
        yield Row(tuple(cell[name] for name in text_names), label, logits)
    if broken or not num_rows:
        report = (f"{path}, line {min(broken, default=2)}: expected {len(names)} tab-separated "
                  f"cells; bad lines: {len(broken):,}, good lines: {num_rows:,}")
        if len(broken) > num_rows / 100 or not num_rows:
            raise UserError(report)
        print(f"skipped: {report}", file=sys.stderr)


def read_lines(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line, in UTF-8 and without quoting."""
    with open(path, "rb") as f:
        for n, line in enumerate(f, start=1):
            try:
                yield n, line.decode("utf-8-sig").rstrip("\r\n").split("\t")
            except UnicodeDecodeError:
                raise UserError(f"{path}, line {n}: expected text in UTF-8") from None


def write_header(f: TextIO, is_pair: bool, classes: Sequence[str] = ()) -> None:
    texts = ["sentence1", "sentence2"] if is_pair else ["sentence"]
    print(*texts, "label", *(f"logit_{name}" for name in classes), sep="\t", file=f)


def dataset_stem(path: str) -> str:
    """data/sst2.tsv, data/sst2.transfer.tsv, data/sst2.dev.tsv -> data/sst2"""
    return re.sub(r"(\.(transfer|logits|dev|test)(-mm)?)*\.tsv$", "", path)


def is_held_out(row: Row) -> bool:
    """Whether a labelled row belongs to the tenth that replaces a missing dev file."""
    return row.label != "" and zlib.crc32("\t".join(row.texts).encode()) % 10 == 0


def read_train(path: str, data: str) -> Iterator[Row]:
    """The rows of `path`; if `data` has no dev file, only those that are not held out."""
    has_dev = os.path.exists(dataset_stem(data) + ".dev.tsv")
    return (row for row in read_rows(path) if has_dev or not is_held_out(row))


def read_dev(data: str) -> list[Row]:
    """The labelled rows of STEM.dev.tsv or, without that file, the held-out rows of `data`."""
    dev_path = dataset_stem(data) + ".dev.tsv"
    if os.path.exists(dev_path):
        return [row for row in read_rows(dev_path) if row.label]
    return [row for row in read_rows(data) if is_held_out(row)]


def sort_classes(labels: Iterable[str]) -> list[str]:
    """The classes in a fixed order: numbers by value, else alphabetical."""
    names = set(labels) - {""}
    return sorted(names, key=int if all(map(str.isdecimal, names)) else None)


# ---- GLUE's archives -----------------------------------------------------------------------------
GLUE = {  # task: archive, its sha256
    "sst2": ("SST-2.zip", "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa"),
    "qqp": ("QQP-clean.zip", "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0"),
    "mnli": ("MNLI.zip", "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633")}


def fetch_glue(path: str) -> None:
    """Download sst2.tsv, qqp.tsv or mnli.tsv if it is missing, with its dev and test sets."""
    stem = path.removesuffix(".tsv")
    if os.path.exists(path) or os.path.basename(stem) not in GLUE:
        return
    archive, sha256 = GLUE[os.path.basename(stem)]
    url = f"https://dl.fbaipublicfiles.com/glue/data/{archive}"
    print(f"downloading {url} (without a network, put {path} in place)")
    data = urlopen(url, timeout=30).read()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{url}: its sha256 is not the expected one; try again")
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        for member in sorted(z.namelist()):  # train.tsv is last: if it exists, so do the others
            name = os.path.basename(member).replace("_matched", "").replace("_mismatched", "-mm")
            target = f"{stem}.{name}".replace(".train.tsv", ".tsv")
            if re.match("(train|dev|test).*tsv$", name) and not os.path.exists(target):
                with atomic_write(target) as f:
                    f.buffer.write(z.read(member))


# ---- Helpers for all scripts ---------------------------------------------------------------------
class UserError(Exception):
    """A mistake that the user can correct. The message names the file and what is expected."""


def run(main: Callable[[], None]) -> None:
    """Run a script. A user error prints one line; a bug, a traceback."""
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
    try:
        main()
    except BrokenPipeError:  # the program that reads our output, such as `head`, has ended
        os._exit(1)
    except (UserError, OSError, HTTPException) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")


@contextmanager
def atomic_write(path: str) -> Iterator[TextIO]:
    """A text file that is moved to `path` when the block ends: complete, or not at all."""
    part = path + ".part"
    if os.path.exists(path) and not os.path.isfile(path):
        part = path  # a device or a pipe is written to directly
    with open(part, "w", encoding="utf-8", newline="\n") as f:
        yield f
    os.replace(part, path)


def use_existing(path: str, data: str, options: dict[str, object]) -> bool:
    """Whether `path` exists. If so, its labelled rows must be `data`'s, with no option given."""
    if not os.path.exists(path):
        return False
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UserError(f"{path} exists, so omit {' and '.join(given)}, or delete {path}")
    rows = [(row.texts, row.label) for row in read_rows(data) if row.label]
    if rows != [(row.texts, row.label) for row in read_rows(path) if row.label]:
        raise UserError(f"{path}: its labelled rows differ from those of {data}; delete it to "
                        "rebuild it")
    print(f"using {path} (delete it to rebuild it)")
    return True


def check_output(output: str | None, sources: list[str]) -> None:
    for source in sources:
        if output and os.path.exists(output) and os.path.samefile(output, source):
            raise UserError(f"-o {output} would overwrite an input")


def progress(items: Sequence, title: str) -> Iterator:
    """Pass the items on; on a terminal, show how many are done, the rate and the time left."""
    start = time.perf_counter()
    for done, item in enumerate(items, start=1):
        yield item
        if sys.stderr.isatty():
            rate = done / (time.perf_counter() - start)
            left = timedelta(seconds=round((len(items) - done) / rate))
            line = f"{title}: {done:,} of {len(items):,}, {rate:,.2f} per second, {left} left"
            print(f"{line}\033[K", end="\r", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\033[K", end="", file=sys.stderr, flush=True)


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a TSV in GLUE's format: sentences, or pairs of sentences")
    parser.add_argument("-o", "--output", help="default: STEM.transfer.tsv")
    parser.add_argument("--n-iter", type=int, help="attempts per row (§3.3: 20; 10 for pairs)")
    parser.add_argument("--p-mask", type=float, default=0.1, help="P(mask) (§3.3: %(default)s)")
    parser.add_argument("--p-pos", type=float, default=0.1, help="P(replace) (§3.3: %(default)s)")
    parser.add_argument("--p-ng", type=float, default=0.25, help="P(n-gram) (§3.3: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    args = parser.parse_args()
    fetch_glue(args.data)
    output = args.output or dataset_stem(args.data) + ".transfer.tsv"
    check_output(output, [args.data])
    rates = Rates(args.p_mask, args.p_pos, args.p_ng)
    make_transfer_set(args.data, output, args.n_iter, rates, args.seed)


if __name__ == "__main__":
    run(main)
