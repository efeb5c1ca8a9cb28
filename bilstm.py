"""The student (§3.1, figures 1 and 2): a BiLSTM over two channels of word embeddings.

    python bilstm.py sst2.student.pt sst2.test.tsv                  # label, probability, sentence
    python bilstm.py sst2.student.pt sst2.test.tsv -o SST-2.tsv     # a file for GLUE's server
    echo "a charming film" | python bilstm.py sst2.student.pt       # one sentence per line

In reading order: the network, batches, prediction. After the line "Supporting code": word
vectors, the student's file, the command line. distill.py trains the student.

Shapes: N rows, B batch, T words of the longest sentence, V vocabulary, E embedding, H hidden units,
C classes.
"""
import gzip
import io
import os
import sys
import warnings
from typing import BinaryIO, Iterable, Iterator, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from augment import (MASK, Parser, UserError, atomic_write, check_is_list, errors_in,
                     read_columns, read_rows, run, tokenize)


class BiLSTM(nn.Module):
    """Figure 1 for single sentences; figure 2 for pairs, which share one encoder (siamese).

    vectors (V, E): both channels start from these; one is trained, one stays as it is (§4.2).
    The dropout, before the output layer, is our choice.
    """

    def __init__(self, vectors: Tensor, num_classes: int, hidden: int = 150, fc: int = 200,
                 pair: bool = False, dropout: float = 0.1):
        super().__init__()
        self.pair = pair
        self.trained = nn.Embedding.from_pretrained(vectors.clone(), freeze=False)
        self.frozen = nn.Embedding.from_pretrained(vectors, freeze=True)
        input_size = 2 * vectors.shape[1]
        # A BiLSTM is two LSTMs, the second of which reads the words in reverse. nn.LSTM's
        # bidirectional=True over packed sentences gives the same, a tenth slower on two cores.
        self.forward_lstm = nn.LSTM(input_size, hidden, batch_first=True)
        self.backward_lstm = nn.LSTM(input_size, hidden, batch_first=True)
        width = 8 * hidden if pair else 2 * hidden  # a pair: four vectors of 2H
        self.fc = nn.Linear(width, fc)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(fc, num_classes)

    def encode(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The last state of each direction: ids (B, T), lengths (B,) -> (B, 2H).

        In both LSTMs what lies beyond the length comes after the words, so the state at lengths - 1
        has not seen it. In the backward LSTM this is the state after the sentence's first word.
        """
        x = torch.cat([self.trained(ids), self.frozen(ids)], dim=2)       # (B, T, 2E)
        h_forward, _ = self.forward_lstm(x)                               # (B, T, H)
        h_backward, _ = self.backward_lstm(reverse(x, lengths))           # (B, T, H)
        rows = torch.arange(len(ids), device=ids.device)
        last = lengths - 1                                                # (B,)
        # h[rows, last] is h[b, last[b]] for each row b: (B, H)
        return torch.cat([h_forward[rows, last], h_backward[rows, last]], dim=1)  # (B, 2H)

    def forward(self, *inputs: tuple[Tensor, Tensor]) -> Tensor:
        """One (ids, lengths) for single sentences, two for pairs -> logits (B, C)."""
        if self.pair:
            first, second = inputs
            h1 = self.encode(*first)                                      # (B, 2H)
            h2 = self.encode(*second)                                     # (B, 2H)
            h = torch.cat([h1, h2, h1 * h2, (h1 - h2).abs()], dim=1)      # (B, 8H), figure 2
        else:
            h = self.encode(*inputs[0])                                   # (B, 2H), figure 1
        return self.output(self.dropout(torch.relu(self.fc(h))))          # (B, C)

    def num_parameters(self) -> int:
        """Without embeddings, as table 2 counts them: 963,002 for E 300, H 150, fc 200, C 2."""
        embeddings = self.trained.weight.numel() + self.frozen.weight.numel()
        return sum(p.numel() for p in self.parameters()) - embeddings


def reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Each sentence's words in reverse, (B, T, 2E) -> (B, T, 2E): [a, b, PAD] -> [b, a, a]

    Beyond a sentence's length its first word is repeated; the states there are not used.
    """
    steps = torch.arange(x.shape[1], device=x.device)
    positions = (lengths[:, None] - 1 - steps).clamp(min=0)               # (B, T), [1, 0, 0]
    # out[b, t] = x[b, positions[b, t]]
    return x.gather(1, positions[:, :, None].expand_as(x))


# ---- Batches and prediction ----------------------------------------------------------------------
Sentences = list[list[int]]  # the token ids of N sentences
# `sides` is a list of one Sentences or, for pairs, of two: the first sentences and the second ones.
# Of two pairs: sides = [[[5, 7], [5]], [[8], [9, 2]]]; pair 0 is [5, 7] and [8].


def token_ids(words: list[str], vocabulary: dict[str, int]) -> list[int]:
    """["a", "zyzzyva", "film"] -> [5, 0, 7]

    Id 0 is [MASK], the unknown word. Padding also has id 0, but no state that is used has read it.
    """
    words = words or [MASK]  # an empty sentence
    return [vocabulary.get(word, 0) for word in words]


def encode_texts(texts: Iterable[str], vocabulary: dict[str, int]) -> Sentences:
    return [token_ids(tokenize(text), vocabulary) for text in texts]


def pad(sentences: Sentences, device: torch.device) -> tuple[Tensor, Tensor]:
    """B sentences -> ids (B, T), 0 beyond a sentence's length; lengths (B,)."""
    lengths = [len(ids) for ids in sentences]
    longest = max(lengths)
    padded = [ids + [0] * (longest - len(ids)) for ids in sentences]
    return torch.tensor(padded, device=device), torch.tensor(lengths, device=device)


def make_batch(sides: list[Sentences], index: Tensor,
               device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """The model's input for these row numbers (B,): one (ids, lengths) for each side."""
    rows = index.tolist()
    return [pad([side[i] for i in rows], device) for side in sides]


def row_lengths(sides: list[Sentences]) -> Tensor:
    """(N,) the number of words of each row; of a pair, of its longer sentence."""
    return torch.tensor([max(map(len, row)) for row in zip(*sides)])


def shuffled_batches(lengths: Tensor, batch_size: int) -> list[Tensor]:
    """Length bucketing: each row once, in random batches of rows of similar length.

    Our choice: less padding, so faster. Rows of equal length are grouped anew in each epoch.
    """
    order = torch.randperm(len(lengths))
    by_length = order[torch.argsort(lengths[order], stable=True)]  # equal lengths stay shuffled
    batches = by_length.split(batch_size)
    return [batches[i] for i in torch.randperm(len(batches))]


PREDICTION_BATCH = 128  # our choice: fast on two cores and on a GPU, for the teacher too


@torch.inference_mode()
def predict_logits(model: nn.Module, sides: list[Sentences]) -> Tensor:
    """Logits (N, C) on the CPU, in the order of the rows. The model: a BiLSTM or a BERT."""
    model.eval()
    device = next(model.parameters()).device
    # similar lengths need little padding; the longest first, which need the most memory
    order = torch.argsort(row_lengths(sides), descending=True, stable=True)
    logits = []
    for index in order.split(PREDICTION_BATCH):
        logits.append(model(*make_batch(sides, index, device)).cpu())
    inverse = torch.argsort(order)  # back to the order of the rows
    return torch.cat(logits)[inverse]


def evaluate(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Logits (N, C), labels (N,) -> accuracy; for two classes also F1 of class 1, as for QQP."""
    predictions = logits.argmax(dim=1)
    scores = {"acc": float((predictions == labels).double().mean())}
    if logits.shape[1] == 2:
        true_positives = int((predictions * labels).sum())  # 1 where both are 1
        scores["f1"] = 2 * true_positives / max(1, int(predictions.sum() + labels.sum()))
    return scores


def class_indices(labels: list[str], classes: list[str], path: str) -> Tensor:
    """(N,) the position of each label in classes; -1 for "". Raises UserError for another label."""
    index = {"": -1} | {name: i for i, name in enumerate(classes)}
    unknown = set(labels) - index.keys()
    if unknown:
        raise UserError(f"{path}: unknown label {min(unknown)[:80]!r}; expected one of "
                        f"{', '.join(classes)[:200]}")
    return torch.tensor([index[label] for label in labels])


class Student(NamedTuple):
    model: BiLSTM
    vocabulary: dict[str, int]
    classes: list[str]


def classify(student: Student, texts: list) -> list[tuple[str, float]]:
    """The label of each text and its probability: ["a fine film"] -> [("1", 0.97)].

    For pairs, `texts` is a list of (first, second).
    """
    check_is_list("texts", texts)
    if student.model.pair:
        if any(isinstance(pair, str) or len(pair) != 2 for pair in texts):
            raise TypeError("texts: expected a list of pairs, (first, second)")
        return classify_rows(student, texts)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("texts: expected a list of sentences, each a string")
    return classify_rows(student, [(text,) for text in texts])


def classify_rows(student: Student, rows: list[tuple[str, ...]]) -> list[tuple[str, float]]:
    """The same for rows that are tuples of one text, ("a fine film",), or of two."""
    if not rows:
        return []
    sides = [encode_texts(texts, student.vocabulary) for texts in zip(*rows)]
    probabilities, best = predict_logits(student.model, sides).softmax(dim=1).max(dim=1)
    labels = [student.classes[i] for i in best]
    return list(zip(labels, probabilities.tolist()))


# ==== Supporting code: word vectors ===============================================================
def read_vectors(path: str, wanted: set[str]) -> dict[str, np.ndarray]:
    """The vectors (E,) of the wanted words, from word2vec's binary format (.bin) or from text.

    Text (GloVe, fastText, word2vec) has one word per line, then its numbers; both may be compressed
    (.gz). If a file has "Paris" but not "paris", as GoogleNews does, "paris" gets that vector.
    Raises UserError.
    """
    read = read_binary if path.removesuffix(".gz").endswith(".bin") else read_text
    open_file = gzip.open if path.endswith(".gz") else open
    found = {}
    with errors_in(path, "word vectors: word2vec's .bin, or text with one word per line"):
        with open_file(path, "rb") as f:
            for word, vector in read(io.BufferedReader(f), wanted):
                if word in wanted:
                    found[word] = vector
                else:  # "Film" does not replace the vector of "film"
                    found.setdefault(word.lower(), vector)
    return found


def read_text(f: BinaryIO, wanted: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    first = f.readline().split()
    if len(first) == 2:        # word2vec and fastText open with the count and the width
        width = int(first[1])
    else:                      # GloVe does not
        width = len(first) - 1
        f.seek(0)
    for line in f:
        name, _, rest = line.rstrip().partition(b" ")
        word = name.decode("utf-8", "replace")
        if word.lower() in wanted:
            numbers = rest.split(b" ")
            if len(numbers) < width:
                raise ValueError(f"{len(numbers)} numbers for {word!r}; is the file truncated?")
            if len(numbers) == width:  # else the "word" contains a space, as some of GloVe do
                yield word, np.array(numbers, dtype=np.float32)


def read_binary(f: BinaryIO, wanted: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    """A line with count and width; then for each word its name, a space, `width` float32."""
    count, width = map(int, f.readline(100).split())
    for _ in range(count):
        name = b""
        while (byte := f.read(1)) not in (b" ", b""):
            name += byte
        vector = f.read(4 * width)
        if len(vector) < 4 * width:
            raise ValueError("the file is truncated")
        word = name.lstrip(b"\n").decode("utf-8", "replace")
        if word.lower() in wanted:
            yield word, np.frombuffer(vector, dtype="<f4")


# ---- Files of weights ----------------------------------------------------------------------------
def save(path: str, state: dict) -> None:
    """torch.save, moved into place when it is complete."""
    with atomic_write(path) as f:
        try:
            torch.save(state, f.buffer)
        except RuntimeError as error:  # torch raises it for Ctrl-C and for a full disk, too
            raise error.__context__ or error


def load(path: str) -> dict:
    """torch.load with weights_only: no code of the file is executed. Raises UserError."""
    warnings.filterwarnings("ignore", "Detected pickle protocol")  # such a file is refused below
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except Exception:  # torch's own messages are long, and recommend weights_only=False
        raise UserError(f"{path}: damaged, or not a file of weights and plain data") from None


def load_training_state(path: str, key: dict) -> dict | None:
    """What an interrupted run with the same key (settings, checksums of files) saved, if any."""
    if not os.path.exists(path):
        return None
    state = load(path)
    if state.get("key") == key:
        print(f"resuming from {path}")
        return state
    print(f"{path} is from a run with other settings or files: starting again")
    return None


def save_student(path: str, student: Student) -> None:
    model = student.model
    settings = {"hidden": model.forward_lstm.hidden_size, "fc": model.fc.out_features,
                "pair": model.pair, "dropout": model.dropout.p}
    save(path, {"weights": dict(model.state_dict()), "vocabulary": list(student.vocabulary),
                "classes": student.classes, "settings": settings})


def load_student(path: str, device: str | None = None) -> Student:
    """A student that distill.py saved; device: as in pick_device. Raises UserError."""
    state = load(path)
    with errors_in(path, "a student that distill.py saved"):
        weights = state["weights"]
        model = BiLSTM(weights["frozen.weight"], len(state["classes"]), **state["settings"])
        model.load_state_dict(weights)
        vocabulary = {word: i for i, word in enumerate(state["vocabulary"])}
    return Student(model.to(pick_device(device)), vocabulary, state["classes"])


def pick_device(name: str | None = None) -> torch.device:
    """The device of this name, else CUDA or Apple's GPU if there is one, else the CPU.

    Under torchrun both "cuda" and no name mean the GPU of this process.
    """
    if name in (None, "cuda") and torch.cuda.is_available():
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    elif name is None and torch.backends.mps.is_available():
        name = "mps"
    with errors_in(f"--device {name}", "a device that torch has here: cuda, mps or cpu"):
        device = torch.device(name or "cpu")
        torch.zeros(1, device=device)  # fails here if there is no such device
        return device


# ---- The command line ----------------------------------------------------------------------------
def stdin_rows(pair: bool) -> Iterator[tuple[str, ...]]:
    """The lines of standard input; a pair has a tab between its sentences."""
    count = 2 if pair else 1
    expected = "two sentences with a tab between" if pair else "one sentence"
    if sys.stdin.isatty():
        print(f"type {expected} per line (Ctrl-D to finish)", file=sys.stderr)
    for n, line in enumerate(sys.stdin.buffer, start=1):
        with errors_in(f"standard input, line {n}", expected):
            texts = tuple(line.decode().rstrip("\r\n").split("\t"))
            if len(texts) != count:
                raise ValueError(f"found {len(texts)}")
        yield texts


def print_answers(rows: Iterable[tuple[str, ...]], answers: list[tuple[str, float]]) -> None:
    for texts, (label, probability) in zip(rows, answers):
        print(label, f"{probability:.4f}", *texts, sep="\t")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("student", help="STEM.student.pt, as distill.py saves it")
    parser.add_argument("tsv", nargs="?", help="rows to classify; default: standard input")
    parser.add_argument("-o", "--output", help="write GLUE's `index` and `prediction` here instead")
    parser.add_argument("--device", help="default: cuda or mps if there is one, else cpu")
    args = parser.parse_args()
    if args.output and args.tsv in (None, args.output):
        raise UserError("-o: expected a TSV to classify, and another file to write")
    student = load_student(args.student, args.device)
    if not args.tsv:
        lines = stdin_rows(student.model.pair)
        if not sys.stdin.isatty():
            rows = list(lines)
            return print_answers(rows, classify_rows(student, rows))
        for texts in lines:  # what is typed is answered line by line
            print_answers([texts], classify_rows(student, [texts]))
        return
    if read_columns(args.tsv).is_pair != student.model.pair:
        expected = "pairs" if student.model.pair else "single sentences"
        raise UserError(f"{args.tsv}: this student expects {expected}")
    rows = list(read_rows(args.tsv, include_invalid=True))
    texts = [row.texts for row in rows]
    answers = classify_rows(student, texts)
    if args.output:
        with atomic_write(args.output) as f:
            f.write("index\tprediction\n")
            for i, (label, _) in enumerate(answers):
                f.write(f"{i}\t{label}\n")
        print(f"wrote {args.output}: {len(rows):,} predictions", file=sys.stderr)
    else:
        print_answers(texts, answers)
    is_correct = [row.label == label for row, (label, _) in zip(rows, answers)
                  if row.label not in ("", "-")]
    if is_correct:
        accuracy = sum(is_correct) / len(is_correct)
        print(f"accuracy {accuracy:.4f} on {len(is_correct):,} labelled rows", file=sys.stderr)


if __name__ == "__main__":
    run(main, kept="no file was changed")
