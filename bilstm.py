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
import copy
import gzip
import io
import math
import os
import re
import sys
import time
from array import array
from collections import Counter
from contextlib import contextmanager
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
        header = next(self._lines(), None)
        if header is None:
            raise BadInput(f"{path}: the file is empty; expected a header line such as "
                           "sentence<TAB>label")
        names = self.names = header[1]
        found = [c for c in TEXT_COLUMNS if set(c) <= set(names)]
        if not found:
            raise BadInput(f"{path}, line 1: no known column among {', '.join(names)[:200]!r}; "
                           "expected sentence, or sentence1 and sentence2 (README: files)")
        self.columns, self.pair = [names.index(c) for c in found[0]], len(found[0]) == 2
        self.label = next((names.index(c) for c in LABEL_COLUMNS if c in names), None)
        self.logits = [i for i, name in enumerate(names) if name.startswith("logit_")]
        self.logit_names = [names[i][len("logit_"):] for i in self.logits]

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """(line number, cells); quietly takes a byte-order mark, CRLF, a last line without end."""
        try:
            with open(self.path, "rb") as f:
                for n, raw in enumerate(iter(lambda: f.readline(LONGEST_LINE + 1), b""), start=1):
                    if len(raw) > LONGEST_LINE:
                        raise BadInput(f"{self.path}, line {n}: longer than a mebibyte; "
                                       "is this a TSV?")
                    text = raw.decode("utf-8-sig" if n == 1 else "utf-8")
                    yield n, text.rstrip("\r\n").split("\t")
        except UnicodeDecodeError as error:
            raise BadInput(f"{self.path}, line {n}: not UTF-8 ({error.reason}); save the file as "
                           "UTF-8") from None
        except FileNotFoundError:
            raise BadInput(f"{self.path}: no such file") from None
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be read ({error.strerror})") from None

    def __iter__(self) -> Iterator[Row]:
        self.dropped.clear()
        lines, n = self._lines(), 1
        next(lines)
        for n, cells in lines:
            if len(cells) != len(self.names):
                raise BadInput(f"{self.path}, line {n}: {len(cells)} columns where the header has "
                               f"{len(self.names)}; GLUE's form has no quoting")
            texts = tuple(cells[i] for i in self.columns)
            label = "" if self.label is None else cells[self.label].strip()
            reason = "no gold label" if label == "-" else None
            reason = reason or ("an empty sentence" if not all(map(str.strip, texts)) else None)
            if reason and not self.keep:
                self.dropped[reason] += 1
            else:
                yield Row(n, texts, label, self._logits(n, cells))
        if n == 1:
            raise BadInput(f"{self.path}: nothing after the header; expected one row a line")

    def _logits(self, n: int, cells: list[str]) -> list[float]:
        try:
            logits = [float(cells[i]) for i in self.logits]
        except ValueError:
            logits = [math.nan]
        if not all(map(math.isfinite, logits)):
            bad = ", ".join(cells[i] for i in self.logits)[:80]
            raise BadInput(f"{self.path}, line {n}: expected a finite number for each logit, "
                           f"found {bad!r}")
        return logits


def read_rows(path: str, keep: bool = False) -> Rows:
    """Open a TSV and check its header; iterating over the result gives a Row each."""
    return Rows(path, keep)


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
CLITIC = re.compile(r"(.+)(n't|'(?:s|m|d|re|ve|ll))$"
                    r"|(can)(not)$|(gon|wan)(na)$|(got)(ta)$|(gim|lem)(me)$")


@lru_cache(maxsize=1 << 18)
def split_token(token: str) -> tuple[str, ...]:
    """One blank-free token, split as the Penn Treebank does: "don't," -> ("do", "n't", ",").

    Unlike the Treebank's own rules it splits every final period but an abbreviation's, not only
    the text's last: real questions hold several sentences.
    """
    out: list[str] = []
    for piece in PIECE.findall(token.replace("’", "'")):
        end = ""
        piece = piece if piece == UNKNOWN else piece.lower()
        if piece[-1] == "." and piece.strip("."):
            short = piece[:-1] in ABBREVIATIONS or "." in piece[:-1]
            if not short and not (len(piece) == 2 and piece[0].isalpha()):  # mr.  u.s.  j.
                piece, end = piece[:-1], "."
        elif piece[-1] == "'" and piece.strip("'") and piece not in ("ol'", "'n'"):
            piece, end = piece[:-1], "'"
        clitic = CLITIC.match(piece)
        out += [part for part in clitic.groups() if part] if clitic else [piece]
        out += [end] if end else []
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

    def take(self, rows: Tensor) -> "Encoded":
        """Some of the rows, sharing the words' memory."""
        some, at = copy.copy(self), rows[:, None] * self.sides + torch.arange(self.sides)
        some.starts, some.lengths = self.starts[at.flatten()], self.lengths[at.flatten()]
        return some

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
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            f = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if zipped else raw
            size = None if zipped else os.fstat(raw.fileno()).st_size
            for word, vector in _vectors(path, f, size, wanted):
                if word in wanted or word.lower() not in found:
                    found[word.lower() if word not in wanted else word] = vector
    except (EOFError, OSError, gzip.zlib.error) as error:
        raise BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") \
            from None
    if not all(np.isfinite(v).all() for v in found.values()):
        raise BadInput(f"{path}: a vector holds a number that is not finite")
    return found


def _vectors(path: str, f: BinaryIO, size: int | None, wanted: set[str]) -> Iterator:
    """Look at the first two lines, and choose the reader."""
    first = f.readline(LONGEST_LINE)
    header = re.fullmatch(rb"(\d{1,10}) (\d{1,5})\s*", first)
    after = f.tell()
    second = f.readline(LONGEST_LINE) if header else first
    count, width = map(int, header.groups()) if header else (None, len(second.split()) - 1)
    try:
        text = width > 1 and len([float(x) for x in second.rstrip().split(b" ")[-width:]]) == width
    except ValueError:
        text = False
    if not text and not header or header and (not width or not count):
        raise BadInput(f"{path}, line 1: neither word2vec's binary form nor lines of a word and "
                       "its numbers (fastText: take the .vec file)")
    f.seek(after if header else 0)
    return (_text if text else _binary)(path, f, size, count, width, wanted)


def _text(path: str, f: BinaryIO, size: int | None, count: int | None, width: int,
          wanted: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    n, header = 0, count is not None
    for n, line in enumerate(iter(lambda: f.readline(LONGEST_LINE), b""), start=1):
        line = line.rstrip()
        if line.count(b" ") < width:
            raise BadInput(f"{path}, line {n + header}: fewer than a word and {width} numbers; "
                           "is the file cut short?")
        word = line[:line.find(b" ")].decode("utf-8", "replace")
        if word in wanted or word.lower() in wanted:
            cells = line.rsplit(b" ", width)  # GloVe has a few words with a blank in them
            try:
                if b" " not in cells[0]:
                    yield word, np.array(cells[1:], dtype=np.float32)
            except ValueError:
                raise BadInput(f"{path}, line {n + header}: {width} numbers expected after "
                               f"{word!r}") from None
    if header and n < count:
        raise BadInput(f"{path}: cut short, {n} of {count} vectors")


def _binary(path: str, f: BinaryIO, size: int | None, count: int, width: int,
            wanted: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    """word2vec's: "count width\\n", then for each word its name, a blank and width floats."""
    short = BadInput(f"{path}: cut short, or no word vectors: its first line promises {count} "
                     f"vectors of {width} numbers")
    if size is not None and size < count * (4 * width + 2):
        raise short
    buffer, at = b"", 0
    for _ in range(count):
        end = buffer.find(b" ", at)
        if end < 0 or end + 1 + 4 * width > len(buffer):
            buffer, at = buffer[at:] + f.read(1 << 22), 0
            end = buffer.find(b" ", at)
            if end < 0 or end + 1 + 4 * width > len(buffer):
                raise short
        word = buffer[at:end].lstrip(b"\n").decode("utf-8", "replace")
        at = end + 1 + 4 * width
        if word in wanted or word.lower() in wanted:
            yield word, np.frombuffer(buffer, "<f4", width, end + 1)


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
        sentence read. Packing keeps whatever stands beyond a row's length out of both; rows of
        one length need none, and the plain call is faster.
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
        return sum(p.numel() for n, p in self.named_parameters() if n.split(".")[0] not in ("trained", "frozen"))


@torch.no_grad()
def predict(model: BiLSTM, rows: Encoded, batch_size: int = 512) -> Tensor:
    """Logits (B, C) on the CPU, in the rows' order; batches are made of rows of like length."""
    model.eval()
    longest = rows.lengths.view(-1, rows.sides).amax(1)
    order = torch.argsort(longest, stable=True)
    logits = torch.cat([model(*rows.batch(part)) for part in order.split(batch_size)]).cpu()
    return torch.empty_like(logits).index_copy_(0, order, logits)


# ---- Its file ------------------------------------------------------------------------------------
def save_student(path: str, model: BiLSTM, vocabulary: list[str], labels: list[str]) -> None:
    """Weights, vocabulary, label names and settings: all that predicting needs, in one file."""
    save(path, {"weights": {k: v.cpu() for k, v in model.state_dict().items()},
                "vocabulary": vocabulary, "labels": labels, "pair": model.pair})


def load_student(path: str, device: torch.device) -> tuple[BiLSTM, dict[str, int], list[str]]:
    """The model, word -> number, and the label names. Raises BadInput."""
    try:
        s = load(path)
        w, vocabulary, labels = s["weights"], s["vocabulary"], [str(name) for name in s["labels"]]
        shapes = w["lstm.weight_hh_l0"].shape, w["fc.weight"].shape
        if not all(t.is_contiguous() and t.dtype == torch.float32 for t in w.values()):
            raise ValueError("its weights are not plain float32")
        if len(vocabulary) != len(w["frozen.weight"]) or vocabulary[0] != UNKNOWN:
            raise ValueError("vocabulary and weights do not fit")
        with torch.device("meta"):  # takes no memory for what a file claims
            model = BiLSTM(w["frozen.weight"].to("meta"), len(labels), shapes[0][1], shapes[1][0],
                           bool(s["pair"]))
        model.load_state_dict(w, strict=True, assign=True)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{path}: not a student that distill.py saved "
                       f"({str(error).splitlines()[0][:120]})") from None
    return model.to(device), {word: i for i, word in enumerate(vocabulary)}, labels


# ---- For people: what all scripts share ----------------------------------------------------------
class BadInput(Exception):
    """Something that a person can mend; its text names the file, the line and what was expected."""


def command(main: Callable[[], None], kept: str) -> None:
    """Run a script; what stops it is told in one line on stderr, with exit code 2 (Ctrl-C: 130)."""
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output (`| head`) has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except KeyboardInterrupt:
        print(f"\nstopped: {kept}", file=sys.stderr)
        sys.exit(130)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, no permission
        print(f"error: {error.filename or 'writing'}: {error.strerror or error}; {kept}",
              file=sys.stderr)
        sys.exit(2)


class Progress:
    """One line on stderr with rate and time left, rewritten in place; nothing if no terminal."""

    def __init__(self, title: str, total: int, unit: str = "rows"):
        self.title, self.total, self.unit, self.done = title, total, unit, 0
        self.start = self.shown = time.monotonic()

    def add(self, n: int) -> None:
        self.done, now = self.done + n, time.monotonic()
        if sys.stderr.isatty() and (now - self.shown > 0.2 or self.done >= self.total):
            self.shown, rate = now, self.done / max(now - self.start, 1e-9)
            left = "" if self.done >= self.total else \
                f"{self.title}: {self.done:,}/{self.total:,} {self.unit}, {rate:,.0f}/s, " \
                f"{span((self.total - self.done) / max(rate, 1e-9))} left"
            print(f"\r\033[K{left}", end="", file=sys.stderr, flush=True)


def span(seconds: float) -> str:
    """75 -> "1m15s"; 7500 -> "2h05m"."""
    s = round(seconds)
    return f"{s}s" if s < 60 else f"{s // 60}m{s % 60:02}s" if s < 3600 else \
        f"{s // 3600}h{s % 3600 // 60:02}m"


@contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """A binary file beside `path`, moved into place when the block is done: whole, or not there."""
    part = f"{path}.part{os.environ.get('RANK', '')}"  # one a process under torchrun
    try:
        with open(part, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.remove(part)
        raise


def save(path: str, state: dict) -> None:
    """torch.save by way of memory: equal states give equal bytes, and a full disk an OSError."""
    memory = io.BytesIO()
    torch.save(state, memory)
    with writing(path) as f:
        f.write(memory.getbuffer())


def load(path: str) -> dict:
    """torch.load with weights_only: nothing in the file can run code. Raises BadInput."""
    try:
        with open(path, "rb") as f:
            return torch.load(f, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except Exception:  # torch.load's own errors are of a dozen kinds
        raise BadInput(f"{path}: not a file that these scripts saved, or damaged") from None


def pick_device(name: str | None) -> torch.device:
    """The one asked for, else cuda or mps where there is one, else cpu. Raises BadInput."""
    try:
        best = "cuda" if torch.cuda.is_available() else \
            "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.empty(0, device=name or best).device
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"--device {name}: {str(error).splitlines()[0]}") from None


# ---- The command line ----------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description="Predict with a student that distill.py saved.")
    parser.add_argument("student", help="STEM.student.pt")
    parser.add_argument("tsv", nargs="?", help="rows to predict; without it, one sentence a line "
                        "from standard input (a pair: two, with a tab between)")
    parser.add_argument("-o", "--output", help="write GLUE's index<TAB>prediction here")
    parser.add_argument("--device", help="cuda, mps or cpu (default: the first that is there)")
    args = parser.parse_args()
    model, number, labels = load_student(args.student, pick_device(args.device))
    if args.tsv:
        table = read_rows(args.tsv, keep=True)
        if table.pair != model.pair:
            raise BadInput(f"{args.tsv}: {'pairs' if table.pair else 'single sentences'}, but the "
                           f"student reads {'pairs' if model.pair else 'single sentences'}")
        answers = _answers(model, number, (row.texts for row in table))
        lines = (f"{i}\t{labels[int(p.argmax())]}\n" for i, (p, _) in enumerate(answers))
        if args.output:
            with writing(args.output) as f:
                f.write(b"index\tprediction\n")
                f.writelines(line.encode() for line in lines)
        else:
            print("index\tprediction")
            sys.stdout.writelines(lines)
        return
    typed = (tuple(line.rstrip("\r\n").split("\t")) for line in sys.stdin)
    for p, texts in _answers(model, number, typed, 1 if sys.stdin.isatty() else 4096):
        print(f"{labels[int(p.argmax())]}\t{p.max():.4f}\t" + "\t".join(texts), flush=True)


def _answers(model: BiLSTM, number: dict[str, int], rows: Iterable[tuple[str, ...]],
             window: int = 16384) -> Iterator[tuple[Tensor, tuple[str, ...]]]:
    """Probabilities (C,) and the texts of each row; a window of rows at a time in memory."""
    rows = iter(rows)
    while part := list(islice(rows, window)):
        encoded = Encoded(model.pair)
        for texts in part:
            if len(texts) != encoded.sides:
                raise BadInput(f"standard input: {encoded.sides} sentence(s) a line expected, "
                               f"with a tab between; found {len(texts)}")
            encoded.add(texts, lambda word: number.get(word, 0))
        encoded.freeze(next(model.parameters()).device)
        yield from zip(predict(model, encoded).softmax(1), part)


if __name__ == "__main__":
    command(main, kept="no file was changed")
