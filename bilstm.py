"""The student (§3.1, figures 1 and 2): a BiLSTM over two channels of word embeddings.

    python bilstm.py sst2.student.pt sst2.test.tsv                  # label, probability, sentence
    python bilstm.py sst2.student.pt sst2.test.tsv -o SST-2.tsv     # a file for GLUE's server
    echo "a charming film" | python bilstm.py sst2.student.pt       # one sentence per line

The network comes first, then batches, prediction and the saved student. Supporting code follows:
word vectors and the command line. distill.py trains the student.
Shapes: B batch, T longest sentence, N rows, V vocabulary, E embedding, H hidden, C classes.
"""
import gzip
import io
import os
import sys
import zlib
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import BinaryIO, Callable, Iterable, Iterator, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from augment import MASK, UserError, atomic_write, check_output, read_rows, run, tokenize


DEVICE = torch.device("cpu")
if torch.cuda.is_available():
    DEVICE = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))  # set by torchrun


class BiLSTM(nn.Module):
    """Figure 1 for single sentences; figure 2 for pairs, whose sentences share one encoder."""

    def __init__(self, vectors: Tensor, num_classes: int, hidden: int = 150, fc: int = 200,
                 pair: bool = False):
        """vectors (V, E): both channels start from these; only the first is trained (§4.2)."""
        super().__init__()
        self.pair = pair
        self.sizes = {"hidden": hidden, "fc": fc, "pair": pair}  # saved with the weights
        self.trained = nn.Embedding.from_pretrained(vectors.clone(), freeze=False)
        self.frozen = nn.Embedding.from_pretrained(vectors, freeze=True)
        self.forward_lstm = nn.LSTM(2 * vectors.shape[1], hidden, batch_first=True)
        self.backward_lstm = nn.LSTM(2 * vectors.shape[1], hidden, batch_first=True)
        self.fc = nn.Linear(8 * hidden if pair else 2 * hidden, fc)
        self.dropout = nn.Dropout(0.1)  # our choice, as in the authors' code
        self.output = nn.Linear(fc, num_classes)

    def encode(self, ids: Tensor, reversed_ids: Tensor, lengths: Tensor) -> Tensor:
        """The last hidden state of each direction: ids (B, T), lengths (B,) -> (B, 2H).

        A BiLSTM is two LSTMs, and the second reads the words in reverse. In both, padding follows
        the words, so the state after `lengths` steps has not seen it. This is up to twice as fast
        as one nn.LSTM with bidirectional=True on packed sequences.
        """
        states = []
        for lstm, words in [(self.forward_lstm, ids), (self.backward_lstm, reversed_ids)]:
            x = torch.cat([self.trained(words), self.frozen(words)], dim=2)        # (B, T, 2E)
            h, _ = lstm(x)                                                         # (B, T, H)
            states.append(h[torch.arange(len(words)), lengths - 1])                # (B, H)
        return torch.cat(states, dim=1)                                            # (B, 2H)

    def forward(self, first: list[Tensor], second: list[Tensor] | None = None) -> Tensor:
        """first, second: [ids, reversed ids, lengths] of the sentences -> logits (B, C)."""
        h = self.encode(*first)                                                    # (B, 2H)
        if self.pair:
            h2 = self.encode(*second)                                              # (B, 2H)
            h = torch.cat([h, h2, h * h2, (h - h2).abs()], dim=1)                  # (B, 8H)
        return self.output(self.dropout(torch.relu(self.fc(h))))                   # (B, C)

    def num_parameters(self) -> int:
        """Embeddings not counted, as in table 2: 963,002 for E 300, H 150, fc 200, C 2."""
        embeddings = self.trained.weight.numel() + self.frozen.weight.numel()
        return sum(p.numel() for p in self.parameters()) - embeddings


# ---- Batches and prediction ----------------------------------------------------------------------
# one row: for the student, the token ids of each sentence; for BERT, see WordPiece.encode
Ids = tuple[list[int], ...]


def encode_row(texts: tuple[str, ...], vocabulary: dict[str, int]) -> Ids:
    """("a zyzzyva film",) -> ([5, 0, 7],); 0 stands for [MASK] and for unknown words."""
    sentences = [tokenize(text) or [MASK] for text in texts]
    return tuple([vocabulary.get(word, 0) for word in words] for words in sentences)


def collate(rows: list[Ids]) -> list[list[Tensor]]:
    """Pad B rows -> [[ids, reversed ids, lengths]], with a second such list for pairs."""
    batch = []
    for sentences in zip(*rows):  # all first sentences, then all second ones
        ids = pad_sequence([torch.tensor(ids) for ids in sentences], batch_first=True)
        backward = pad_sequence([torch.tensor(ids[::-1]) for ids in sentences], batch_first=True)
        lengths = torch.tensor([len(ids) for ids in sentences])
        batch.append([ids.to(DEVICE), backward.to(DEVICE), lengths.to(DEVICE)])
    return batch


def shuffled_batches(rows: list[Ids], batch_size: int) -> list[list[int]]:
    """Random batches of row numbers; rows of similar length are together (our choice)."""
    order = torch.randperm(len(rows)).tolist()
    order.sort(key=lambda i: max(map(len, rows[i])))  # rows of equal length stay shuffled
    batches = [order[i:i + batch_size] for i in range(0, len(order), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches))]


PREDICTION_BATCH = 128  # our choice: fast on two cores and on a GPU, for the teacher too


@torch.inference_mode()
def predict_logits(model: nn.Module, rows: list[Ids], make_batch: Callable = collate) -> Tensor:
    """Logits (N, C) on the CPU, in the order of the rows. The model is a BiLSTM or a BERT."""
    model.eval()
    # Sort by length to limit padding. Longest first, so a lack of memory shows up at once.
    order = sorted(range(len(rows)), key=lambda i: max(map(len, rows[i])), reverse=True)
    logits = []
    for start in range(0, len(order), PREDICTION_BATCH):
        batch = [rows[i] for i in order[start:start + PREDICTION_BATCH]]
        logits.append(model(*make_batch(batch)).cpu())
    return torch.cat(logits)[torch.tensor(order).argsort()]  # back to the order of the rows


def metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Logits (N, C), labels (N,) -> accuracy; for two classes also F1 of class 1, as for QQP."""
    predictions = logits.argmax(dim=1)
    scores = {"acc": float((predictions == labels).double().mean())}
    if logits.shape[1] == 2:
        true_positives = int((predictions * labels).sum())  # 1 where both are 1
        scores["f1"] = 2 * true_positives / max(1, int(predictions.sum() + labels.sum()))
    return scores


def class_indices(labels: list[str], classes: list[str], path: str) -> Tensor:
    """(N,) the position of each label in classes, -1 for none."""
    index = {"": -1} | {name: i for i, name in enumerate(classes)}
    unknown = set(labels) - index.keys()
    if unknown:
        raise UserError(f"{path}: label {min(unknown)!r}; expected one of {', '.join(classes)}")
    return torch.tensor([index[label] for label in labels])


# ---- The saved student ---------------------------------------------------------------------------
class Student(NamedTuple):
    model: BiLSTM
    vocabulary: dict[str, int]
    classes: list[str]


def classify(student: Student, texts: Iterable) -> list[tuple[str, float]]:
    """["a fine film"] or, for pairs, [("a", "b")] -> [("1", 0.97)]: labels and probabilities"""
    rows = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
    expected = 2 if student.model.pair else 1
    for row in rows:
        if len(row) != expected:
            raise UserError(f"{row}: expected {expected} sentence(s), found {len(row)}")
    rows = [encode_row(row, student.vocabulary) for row in rows]
    probabilities, best = predict_logits(student.model, rows).softmax(dim=1).max(dim=1)
    labels = [student.classes[i] for i in best.tolist()]
    return list(zip(labels, probabilities.tolist()))


def save_student(path: str, student: Student) -> None:
    save(path, {"weights": student.model.state_dict(), "vocabulary": student.vocabulary,
                "classes": student.classes, "sizes": student.model.sizes})


def load_student(path: str) -> Student:
    state = load(path)
    if "vocabulary" not in state:
        raise UserError(f"{path}: expected a student saved by distill.py")
    model = BiLSTM(state["weights"]["frozen.weight"], len(state["classes"]), **state["sizes"])
    model.load_state_dict(state["weights"])
    return Student(model.to(DEVICE), state["vocabulary"], state["classes"])


def save(path: str, state: dict) -> None:
    """torch.save, but it writes a complete file or none."""
    data = io.BytesIO()  # torch.save(path) turns a full disk or Ctrl-C into a RuntimeError
    torch.save(state, data)
    with atomic_write(path) as f:
        f.buffer.write(data.getbuffer())


def load(path: str) -> dict:
    """torch.load, without executing code from the file."""
    with open(path, "rb") as f:
        try:
            return torch.load(f, map_location="cpu", weights_only=True)
        except Exception:  # torch raises many kinds; some messages recommend weights_only=False
            raise UserError(f"{path}: damaged, or not a file of weights") from None


# ==== Supporting code: word vectors ===============================================================
def read_vectors(path: str, wanted: set[str]) -> dict[str, np.ndarray]:
    """The vectors (E,) of lower-case words, from a word2vec .bin or a text file, gzipped or not.

    If the file has only Film or FILM, film gets that vector.
    """
    open_file = gzip.open if path.endswith(".gz") else open
    read_words = read_binary if path.removesuffix(".gz").endswith(".bin") else read_text
    vectors = {}
    try:
        with open_file(path, "rb") as f:
            for name, numbers in read_words(io.BufferedReader(f)):
                word = name.decode("utf-8", "replace")
                if word in wanted:
                    vectors[word] = np.asarray(numbers, dtype=np.float32)
                elif word.lower() in wanted and word.lower() not in vectors:
                    vectors[word.lower()] = np.asarray(numbers, dtype=np.float32)
    except (ValueError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: {error}; expected word vectors, as .bin or text") from None
    if not vectors:
        raise UserError(f"{path}: none of the words in the rows has a vector")
    return vectors


def read_text(f: BinaryIO) -> Iterator[tuple[bytes, list[bytes]]]:
    """One word per line with its numbers; word2vec and fastText have a first line `count width`."""
    first = f.readline().split()
    width = len(first) - 1
    if len(first) == 2:
        width = int(first[1])
    else:
        f.seek(0)
    for line in f:
        name, *numbers = line.rstrip().rsplit(b" ", width)  # some words of GloVe contain a space
        if len(numbers) < width:
            raise ValueError(f"{len(numbers)} numbers for {name!r}, expected {width}")
        yield name, numbers


def read_binary(f: BinaryIO) -> Iterator[tuple[bytes, np.ndarray]]:
    """A line with count and width; then for each word its name, a space, `width` float32."""
    count, width = map(int, f.readline(100).split())
    for _ in range(count):
        name = b""
        while (byte := f.read(1)) not in (b" ", b""):
            name += byte
        numbers = f.read(4 * width)
        if len(numbers) < 4 * width:
            raise ValueError("the file is truncated")
        yield name.lstrip(b"\n"), np.frombuffer(numbers, dtype="<f4")


# ---- The command line ----------------------------------------------------------------------------
def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("student", help="STEM.student.pt, saved by distill.py")
    parser.add_argument("tsv", nargs="?", help="rows to classify; default: standard input, where a "
                        "pair has a tab between its sentences")
    parser.add_argument("-o", "--output", help="with a TSV: write GLUE's index and predictions")
    args = parser.parse_args()
    student = load_student(args.student)
    if not args.tsv:
        if args.output:
            parser.error("-o needs a TSV")
        for line in sys.stdin:
            texts = line.rstrip("\r\n").split("\t")
            label, probability = classify(student, [texts])[0]
            print(label, f"{probability:.4f}", *texts, sep="\t")
        return
    check_output(args.output, [args.student, args.tsv])
    rows = list(read_rows(args.tsv))
    answers = classify(student, [row.texts for row in rows])
    if args.output:
        with atomic_write(args.output) as f:
            f.write("index\tprediction\n")
            for i, (label, _) in enumerate(answers):
                f.write(f"{i}\t{label}\n")
    else:
        for row, (label, probability) in zip(rows, answers):
            print(label, f"{probability:.4f}", *row.texts, sep="\t")
    is_correct = [row.label == label for row, (label, _) in zip(rows, answers) if row.label]
    if is_correct:
        accuracy = sum(is_correct) / len(is_correct)
        print(f"accuracy {accuracy:.4f} on {len(is_correct):,} labelled rows", file=sys.stderr)


if __name__ == "__main__":
    run(main)
