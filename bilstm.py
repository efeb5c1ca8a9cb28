"""The student: a one-layer BiLSTM over two channels of word embeddings (§3.1, figures 1 and 2).

    python bilstm.py sst2.student.pt sst2.test.tsv -o SST-2.tsv    # a GLUE submission
    echo "it 's a charming journey ." | python bilstm.py sst2.student.pt

In reading order: the rows of a TSV, the words of a sentence, word vectors, the network, its file,
predicting. It trains nothing: distill.py does. A small last section, "for people", holds what all
scripts share: progress, files moved into place, one-line errors.

Letters, here and elsewhere: B rows, T words, E embedding, H hidden, C classes; S = 1 sentence a
row, or 2 for pairs.
"""
import argparse
import gzip
import io
import math
import os
import re
import sys
import time
import warnings
from array import array
from collections import Counter
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from itertools import islice
from typing import BinaryIO, Callable, Iterable, Iterator, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

# ---- The rows of a TSV ---------------------------------------------------------------------------
TEXT_COLUMNS = [("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence"),
                ("premise", "hypothesis"), ("#1 String", "#2 String"), ("sentence",)]
LABEL_COLUMNS = ("label", "gold_label", "is_duplicate", "Quality")
LONGEST_LINE = 1 << 20  # bytes. ours: a longer "line" is no sentence but some other kind of file


class Row(NamedTuple):
    line: int                # its line in the file, the header being line 1
    texts: tuple[str, ...]   # one sentence, or two
    label: str               # "" where there is none
    logits: list[float]      # the teacher's, C numbers; empty where the file has none


class Rows:
    """The rows of a TSV in GLUE's form (no quoting, a header), its columns found by their names.

    Each iteration reads the file afresh and holds one line at a time. Rows with an empty sentence
    (QQP has some) or without a gold label (MNLI's `-`) are left out and counted in `dropped`,
    unless `keep` is set: a submission needs an answer to every row. Raises BadInput.
    """

    def __init__(self, path: str, keep: bool = False):
        self.path, self.keep, self.dropped = path, keep, Counter()
        self.names = names = next(self._lines(), (1, []))[1]
        found = next((c for c in TEXT_COLUMNS if set(c) <= set(names)), None)
        if not found:
            raise BadInput(f"{path}, line 1: expected a header with sentence, or sentence1 and "
                           f"sentence2 (README), found {' '.join(names)[:80] or 'nothing'}")
        self.columns, self.pair = [names.index(c) for c in found], len(found) == 2
        self.label = next((names.index(c) for c in LABEL_COLUMNS if c in names), None)
        self.logits = [i for i, name in enumerate(names) if name.startswith("logit_")]
        self.logit_names = [names[i].removeprefix("logit_") for i in self.logits]
        if len(set(self.logit_names)) < len(self.logits):
            raise BadInput(f"{path}, line 1: two columns {' '.join(self.logit_names)[:80]!r} alike")

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """(line number, cells); quietly takes a byte-order mark, CRLF, a last line without end."""
        try:
            with open(self.path, "rb") as f:
                for n, raw in enumerate(iter(lambda: f.readline(LONGEST_LINE), b""), start=1):
                    if len(raw) == LONGEST_LINE:
                        raise BadInput(f"{self.path}, line {n}: longer than a mebibyte; is this a "
                                       "TSV?")
                    text = raw.decode("utf-8-sig" if n == 1 else "utf-8")
                    yield n, text.rstrip("\r\n").split("\t")
        except UnicodeDecodeError as error:
            raise BadInput(f"{self.path}, line {n}: not UTF-8 ({error.reason}); save it as UTF-8") \
                from None
        except OSError as error:
            raise BadInput(f"{self.path}: {error.strerror}") from None

    def __iter__(self) -> Iterator[Row]:
        self.dropped.clear()
        n = 1
        for n, cells in islice(self._lines(), 1, None):
            if len(cells) != len(self.names):
                raise BadInput(f"{self.path}, line {n}: {len(cells)} columns where the header has "
                               f"{len(self.names)}; expected tabs between them, and no quoting")
            texts = tuple(cells[i] for i in self.columns)
            label = "" if self.label is None else cells[self.label].strip()
            if not self.keep and not all(map(str.strip, texts)):
                self.dropped["an empty sentence"] += 1
            elif not self.keep and label == "-":
                self.dropped["no gold label"] += 1
            else:
                yield Row(n, texts, label, self._logits(n, cells))
        if n == 1:
            raise BadInput(f"{self.path}, line 2: expected rows after the header, found none")

    def tell(self) -> None:
        """Say how many rows were left out, and why."""
        for reason, n in self.dropped.items():
            print(f"note     {self.path}: {n:,} rows left out: {reason}")

    def _logits(self, n: int, cells: list[str]) -> list[float]:
        cells = [cells[i] for i in self.logits]
        try:
            if all(map(math.isfinite, logits := list(map(float, cells)))):
                return logits
        except ValueError:
            pass
        raise BadInput(f"{self.path}, line {n}: expected a finite number for each logit, found "
                       f"{', '.join(cells)[:80]!r}")


def read_rows(path: str, keep: bool = False) -> Rows:
    """Open a TSV and check its header; iterating over the result gives a Row each."""
    return Rows(path, keep)


def hold_out(rows: Iterable[Row]) -> Iterator[tuple[Row, bool]]:
    """Each row, and whether it is held out where there is no dev file: each tenth labelled one."""
    labelled = 0
    for row in rows:
        labelled += bool(row.label)
        yield row, bool(row.label) and labelled % 10 == 0


def class_order(labels: Iterable[str]) -> list[str]:
    """The classes, in order: numbers by value; entailment first, as GLUE has it; else sorted.

    {"1", "0"} -> ["0", "1"];  {"neutral", "entailment"} -> ["entailment", "neutral"]
    """
    first = {"entailment": 0, "neutral": 1, "contradiction": 2, "not_entailment": 3}

    def key(name: str) -> tuple:
        number = float(name) if re.fullmatch(r"[-+]?\d+(\.\d*)?", name) else math.inf
        return number, first.get(name, 4), name
    return sorted(set(labels), key=key)


# ---- The words of a sentence ---------------------------------------------------------------------
# [MASK] is the student's unknown word (§3.3), so the two are one entry of the vocabulary, number 0.
UNKNOWN = "[MASK]"
LONGEST_SENTENCE = 512  # words. ours: bounds memory; the teacher reads 128 pieces at most
ABBREVIATIONS = set("mr mrs ms dr st jr sr vs etc inc ltd co corp no al bros sept wash pa".split())
PIECE = re.compile(r"""
    \[MASK\] | \.\.+ | --+ | [?!]+ | \*+ | `` | ''               # these stay whole
  | '?\w+ (?: (?: [-./&@] | -?' | '- ) \w+ | (?<=\d)[,:]\d+ )*  # well-made, u.s, r&b, 2,500
          (?: [-.'] $ )?                                         # a final period: see split_token
  | . """, re.X)
INITIALS = re.compile(r"(.*-)?[^\W\d]{1,2}(\.[^\W\d]{1,2})+")  # u.s  p.m  ph.d
CLITIC = re.compile(r"(.*\w)(n't|'(?:s|m|d|re|ve|ll))"
                    r"|(can)(not)|(gon|wan)(na)|(got)(ta)|(gim|lem)(me)")


@lru_cache(maxsize=1 << 18)
def split_token(token: str) -> tuple[str, ...]:
    """One blank-free token, split as the Penn Treebank does: "don't," -> ("do", "n't", ",").

    Unlike the Treebank's own rules it splits every final period but an abbreviation's, not only
    the text's last: real questions hold several sentences.
    """
    out: list[str] = []
    lower = UNKNOWN.join(part.lower() for part in token.replace("’", "'").split(UNKNOWN))
    for piece in PIECE.findall(lower):
        tail: list[str] = []
        if piece[-1] == "." and piece.strip("."):
            short = piece[:-1] in ABBREVIATIONS or INITIALS.fullmatch(piece[:-1])
            if not short and not (len(piece) == 2 and piece[0].isalpha()):  # mr.  u.s.  j.
                piece, tail = piece[:-1], ["."]
        elif piece[-1] == "'" and piece.strip("'") and piece not in ("ol'", "'n'"):
            piece, tail = piece[:-1], ["'"]
        while clitic := CLITIC.fullmatch(piece):  # shouldn't've: two of them
            piece, end = [part for part in clitic.groups() if part]
            tail = [end, *tail]
        out += [piece, *tail]
    return tuple(out)


def words(text: str) -> list[str]:
    """Lower-cased Treebank words; text that is split so already (SST-2 is) comes back as it was.

    "It's.  Don't [MASK]!" -> ["it", "'s", ".", "do", "n't", "[MASK]", "!"]
    """
    return [word for token in text.split() for word in split_token(token)]


class Encoded:
    """Rows as word numbers, laid end to end in one array: 4 bytes a word, whatever the lengths.

    Sentence s of row r is sequence r * S + s.
    """

    def __init__(self, pair: bool):
        self.sides = 2 if pair else 1
        self.ids, self.lengths = array("i"), array("i")

    def add(self, texts: Iterable[str], number: Callable[[str], int]) -> None:
        for text in texts:
            before = len(self.ids)
            self.ids.extend(map(number, words(text)[:LONGEST_SENTENCE] or [UNKNOWN]))
            self.lengths.append(len(self.ids) - before)

    def __len__(self) -> int:
        return len(self.lengths) // self.sides

    def freeze(self, device: torch.device) -> "Encoded":
        """From growing arrays to tensors; lengths stay on the CPU, where batches are planned."""
        lengths = np.frombuffer(self.lengths, dtype=np.int32).astype(np.int64)
        self.starts = torch.from_numpy(np.cumsum(lengths) - lengths).to(device)
        tail = array("i", bytes(4 * LONGEST_SENTENCE))  # so that a batch may reach past the end
        self.ids.extend(tail)
        self.ids = torch.from_numpy(np.frombuffer(self.ids, dtype=np.int32)).to(device)
        self.lengths = torch.from_numpy(lengths)
        return self

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (B,) -> ids (S*B, T) on the device, all first sentences first, lengths (S*B,)."""
        at = torch.cat([rows * self.sides + s for s in range(self.sides)])
        lengths = self.lengths[at]
        steps = torch.arange(int(lengths.max()), device=self.ids.device)
        at = self.starts[at.to(self.starts.device, non_blocking=True)]
        return self.ids[at[:, None] + steps], lengths  # beyond its length a row shows the next's


# ---- Word vectors --------------------------------------------------------------------------------
def read_vectors(path: str, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """The vectors (E,) of the wanted words, from word2vec's binary or word2vec/GloVe/fastText text.

    Plain or .gz, told apart by content; only the wanted rows are kept. Our words are lower-case:
    where a file (GoogleNews) has `Paris` alone, its first spelling serves. Raises BadInput.
    """
    wanted, found = set(wanted), {}
    with reading(path), open(path, "rb") as raw:
        zipped = raw.peek(2)[:2] == b"\x1f\x8b"
        for word, vector in _vectors(gzip.open(raw) if zipped else raw, wanted):
            if word in wanted or word.lower() not in found:
                found[word if word in wanted else word.lower()] = vector
        if not all(np.isfinite(vector).all() for vector in found.values()):
            raise ValueError("a number in it is not finite")
    return found


def _vectors(f: BinaryIO, wanted: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The first two lines tell the form."""
    line = f.readline(LONGEST_LINE)
    header = re.fullmatch(rb"(\d{1,10}) (\d{1,5})\s*", line)
    count, width = map(int, header.groups()) if header else (0, line.rstrip().count(b" "))
    start = f.tell() if header else 0
    second = f.readline(LONGEST_LINE) if header else line
    f.seek(start)
    if re.fullmatch(rb"\S+( [-+.\deE]+)+\s*", second):
        yield from _text(f, count, width, wanted)
    elif header:
        yield from _binary(f, count, width, wanted)
    else:
        raise ValueError("expected word2vec's binary form, or lines of a word and its numbers")


def _text(f: BinaryIO, count: int, width: int,
          wanted: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    n = 0
    for n, line in enumerate(iter(lambda: f.readline(LONGEST_LINE), b""), start=1):
        word, line = line[:line.find(b" ")].decode("utf-8", "replace"), line.rstrip()
        if line.count(b" ") < width:
            raise ValueError(f"vector {n}: fewer than {width} numbers, cut short?")
        if word.lower() in wanted:
            first, *numbers = line.rsplit(b" ", width)
            if b" " not in first:  # GloVe has a few "words" with a blank in them
                with np.errstate(over="ignore"):
                    yield word, np.array(numbers, dtype=np.float32)
    if n < count:
        raise ValueError(f"cut short: {n} vectors where line 1 promises {count}")


def _binary(f: BinaryIO, count: int, width: int,
            wanted: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    """word2vec's: for each word its name, a blank and `width` floats, perhaps a line's end."""
    buffer, at = b"", 0
    for n in range(count):
        end = buffer.find(b" ", at)
        if end < 0 or end + 1 + 4 * width > len(buffer):
            buffer, at = buffer[at:] + f.read(1 << 22), 0
            end = buffer.find(b" ")
            if end < 0 or end + 1 + 4 * width > len(buffer):
                raise ValueError(f"cut short: {n} vectors where line 1 promises {count}")
        word = buffer[at:end].lstrip(b"\n").decode("utf-8", "replace")
        at = end + 1 + 4 * width
        if word.lower() in wanted:
            yield word, np.frombuffer(buffer, "<f4", width, end + 1).copy()


# ---- The network ---------------------------------------------------------------------------------
class BiLSTM(nn.Module):
    """Figure 1 for single sentences; figure 2, siamese, for pairs.

    vectors (V, E): the start of both channels (§4.2, "multichannel"): one copy is trained, one
    frozen; side by side they make 2E inputs a word.
    """

    def __init__(self, vectors: Tensor, classes: int, hidden: int = 150, fc: int = 200,
                 pair: bool = False, dropout: float = 0.1):
        super().__init__()
        self.pair = pair
        self.trained = nn.Embedding.from_pretrained(vectors.clone(), freeze=False)
        self.frozen = nn.Embedding.from_pretrained(vectors, freeze=True)
        self.lstm = nn.LSTM(2 * vectors.shape[1], hidden, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * hidden * (4 if pair else 1), fc)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(fc, classes)

    def encode(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Ids (B, T), lengths (B,) on the CPU -> the last state of each direction (B, 2H).

        The backward direction's last state is the one after the first word, with the whole
        sentence read. Packing keeps what stands beyond a row's length (`Encoded.batch` leaves the
        next row's words there) out of both; rows of one length need none, and are faster so.
        """
        x = torch.cat([self.trained(ids), self.frozen(ids)], dim=2)  # (B, T, 2E)
        if int(lengths.min()) < ids.shape[1]:
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(x)                                     # (2, B, H)
        return torch.cat([h[0], h[1]], dim=1)                        # (B, 2H)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Ids (S*B, T), lengths (S*B,) -> logits (B, C); a pair's first sentences come first."""
        h = self.encode(ids, lengths)
        if self.pair:
            h1, h2 = h.chunk(2)                                      # (B, 2H) each
            h = torch.cat([h1, h2, h1 * h2, (h1 - h2).abs()], dim=1)  # (B, 8H), figure 2
        return self.output(self.dropout(torch.relu(self.fc(h))))

    def size(self) -> int:
        """The number of parameters without embeddings, as table 2 counts them: 963,002."""
        parts = self.lstm, self.fc, self.output
        return sum(p.numel() for part in parts for p in part.parameters())


BATCH_WORDS = 1 << 14  # ours: bounds memory, and is full speed


@torch.no_grad()
def predict(model: BiLSTM, rows: Encoded, batch_words: int = BATCH_WORDS) -> Tensor:
    """Logits (B, C) on the CPU, in the rows' order; batches are made of rows of like length."""
    model.eval()
    longest = rows.lengths.view(-1, rows.sides).amax(1)
    order, parts, at = torch.argsort(longest, descending=True, stable=True), [], 0
    while at < len(order):
        parts.append(order[at:at + max(1, batch_words // int(longest[order[at]]))])
        at += len(parts[-1])
    logits = torch.cat([model(*rows.batch(part)) for part in parts]).cpu()
    return torch.empty_like(logits).index_copy_(0, order, logits)


# ---- Its file ------------------------------------------------------------------------------------
def save_student(path: str, model: BiLSTM, vocabulary: list[str], labels: list[str]) -> None:
    """Weights, vocabulary, label names and settings: all that predicting needs, in one file."""
    save(path, {"weights": {k: v.cpu() for k, v in model.state_dict().items()},
                "vocabulary": vocabulary, "labels": labels, "pair": model.pair})


def load_student(path: str, device: torch.device) -> tuple[BiLSTM, dict[str, int], list[str]]:
    """The model, word -> number, and the label names. Raises BadInput."""
    with reading(path, "a student that distill.py saved"):
        state = load(path)
        weights, vocabulary, labels = state["weights"], state["vocabulary"], state["labels"]
        if len(vocabulary) != len(weights["frozen.weight"]) or vocabulary[0] != UNKNOWN:
            raise ValueError("vocabulary and embeddings do not fit")
        if not all(w.is_contiguous() and w.dtype == torch.float32 for w in weights.values()):
            raise ValueError("weights are not plain float32")
        with torch.device("meta"):  # takes no memory for what a file claims
            model = BiLSTM(weights["frozen.weight"].to("meta"), len(labels),
                           weights["lstm.weight_hh_l0"].shape[1], len(weights["fc.weight"]),
                           bool(state["pair"]))
        model.load_state_dict(weights, strict=True, assign=True)
        return model.to(device), {word: i for i, word in enumerate(vocabulary)}, labels


# ---- For people: what all scripts share ----------------------------------------------------------
class BadInput(Exception):
    """Something that a person can mend; its text names the file, the line and what was expected."""


def command(main: Callable[[], None], kept: str) -> None:
    """Run a script; what stops it is told in one line on stderr, with exit code 2 (Ctrl-C: 130;
    where nobody reads our output any more: 1, without a word)."""
    try:
        main()
        sys.stdout.flush()
        return
    except BrokenPipeError:  # the reader of our output (`| head`) has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)  # as Python itself does
    except KeyboardInterrupt:
        code, line = 130, f"\nstopped: {kept}"
    except BadInput as error:
        code, line = 2, f"error: {error}"
    except OSError as error:  # a full disk, no permission
        code, line = 2, f"error: {error.filename or 'output'}: {error.strerror}; {kept}"
    print(line, file=sys.stderr)
    sys.exit(code)


@contextmanager
def reading(path: str, expected: str = "") -> Iterator[None]:
    """Whatever goes wrong with what comes from other hands becomes one line that names it."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # hostile bytes raise a dozen kinds
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BadInput(f"{path}: {'no ' * isinstance(error, KeyError)}"
                       f"{' '.join(reason.split())[:200]}" +
                       f"; expected {expected}" * bool(expected)) from None


class Progress:
    """One line on stderr with rate and time left, rewritten in place; nothing if no terminal."""

    def __init__(self, title: str, total: int):
        self.title, self.total, self.done = title, total, 0
        self.start = self.shown = time.monotonic()

    def add(self, n: int) -> None:
        self.done, now = self.done + n, time.monotonic()
        if sys.stderr.isatty() and (now - self.shown > 0.2 or self.done >= self.total):
            self.shown, rate = now, self.done / max(now - self.start, 1e-9)
            left = "" if self.done >= self.total else \
                f"{self.title}: {self.done:,}/{self.total:,} rows, {rate:,.0f}/s, " \
                f"{span((self.total - self.done) / max(rate, 1e-9))} left"
            print(f"\r\033[K{left}", end="", file=sys.stderr, flush=True)


def span(seconds: float) -> str:
    """75 -> "1m15s"; 7500 -> "2h05m"."""
    s = round(seconds)
    return f"{s}s" if s < 60 else f"{s // 60}m{s % 60:02}s" if s < 3600 else \
        f"{s // 3600}h{s % 3600 // 60:02}m"


@contextmanager
def writing(path: str, source: str = "") -> Iterator[BinaryIO]:
    """A binary file beside `path`, moved into place when the block is done: whole, or not there.

    Raises BadInput where a folder, a device, or the file `source` itself would be replaced.
    """
    part = f"{path}.part{os.environ.get('RANK', '')}"  # one a process under torchrun
    if os.path.realpath(path) == os.path.realpath(source) or \
            os.path.exists(path) and not os.path.isfile(path):
        raise BadInput(f"{path}: the input, or no plain file; nothing is moved onto it")
    try:
        with open(part, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except BaseException as error:
        if os.path.exists(part):
            os.remove(part)
        if isinstance(error, OSError):
            error.filename = path
        raise


def save(path: str, state: dict) -> None:
    """torch.save by way of memory: equal states give equal bytes, and a full disk an OSError."""
    memory = io.BytesIO()
    torch.save(state, memory)
    with writing(path) as f:
        f.write(memory.getbuffer())


def load(path: str) -> dict:
    """torch.load with weights_only: nothing in the file can run code. Raises BadInput."""
    with reading(path), open(path, "rb") as f, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old pickles, which are refused below
        try:
            return torch.load(f, map_location="cpu", weights_only=True)
        except Exception:  # its own words are for programmers, and long
            raise ValueError("not a file that these scripts saved, or damaged") from None


def pick_device(name: str | None) -> torch.device:
    """The one asked for, else cuda or mps where there is one, else cpu. Raises BadInput."""
    name = name or ("cuda" if torch.cuda.is_available() else
                    "mps" if torch.backends.mps.is_available() else "cpu")
    with reading(f"--device {name}"):
        return torch.ones(1, device=name).cpu() and torch.device(name)


# ---- The command line ----------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description="Predict with a student that distill.py saved.")
    parser.add_argument("student", help="STEM.student.pt")
    parser.add_argument("tsv", nargs="?", help="rows to predict; without it, one sentence a line "
                        "from standard input (a pair: two, with a tab between)")
    parser.add_argument("-o", "--output", help="write GLUE's index<TAB>prediction here")
    parser.add_argument("--device", help="cuda, mps or cpu (default: the first that is there)")
    args = parser.parse_args()
    if args.output and not args.tsv:
        raise BadInput("-o: expected a TSV too; what is typed is answered on the screen")
    model, number, labels = load_student(args.student, pick_device(args.device))
    if args.tsv:
        table = read_rows(args.tsv, keep=True)
        if table.pair != model.pair:
            raise BadInput(f"{args.tsv}: {'pairs' if table.pair else 'single sentences'}, but the "
                           f"student reads {'pairs' if model.pair else 'single sentences'}")
        answers = _answers(model, number, (row.texts for row in table))
        with writing(args.output, args.tsv) if args.output else nullcontext(sys.stdout.buffer) as f:
            f.write(b"index\tprediction\n")
            f.writelines(f"{i}\t{labels[int(p.argmax())]}\n".encode()
                         for i, (p, _) in enumerate(answers))
        return
    for p, texts in _answers(model, number, _typed(2 if model.pair else 1),
                             1 if sys.stdin.isatty() else WINDOW):
        print(f"{labels[int(p.argmax())]}\t{p.max():.4f}\t" + "\t".join(texts), flush=True)


def _typed(sides: int) -> Iterator[tuple[str, ...]]:
    for n, line in enumerate(sys.stdin.buffer, start=1):
        with reading(f"standard input, line {n}"):
            texts = tuple(line.decode("utf-8").rstrip("\r\n").split("\t"))
            if len(texts) != sides:
                raise ValueError(f"{len(texts)} cells, expected {sides}, with a tab between")
        yield texts


WINDOW = 1 << 14  # rows in memory at a time


def _answers(model: BiLSTM, number: dict[str, int], rows: Iterable[tuple[str, ...]],
             window: int = WINDOW) -> Iterator[tuple[Tensor, tuple[str, ...]]]:
    """Probabilities (C,) and the texts of each row, a window of rows at a time."""
    rows = iter(rows)
    while part := list(islice(rows, window)):
        encoded = Encoded(model.pair)
        for texts in part:
            encoded.add(texts, lambda word: number.get(word, 0))
        encoded.freeze(next(model.parameters()).device)
        yield from zip(predict(model, encoded).softmax(1), part)


if __name__ == "__main__":
    command(main, kept="no file was changed")
