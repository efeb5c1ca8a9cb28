"""Distillation (§3.2, §4, §5): train the BiLSTM on a teacher's logits; the paper's whole run.

    python distill.py sample.tsv --table1                  # offline, with sample.logits.tsv
    python distill.py sst2.tsv                             # downloads, augments, labels, distills
    python distill.py sst2.tsv --logits sst2.logits.tsv    # only distills, from these logits
    python distill.py sst2.tsv --alpha 1                   # hard labels only: table 1, row 7
    python distill.py sst2.tsv --table2                    # only table 2: size and speed

In reading order: the loss, the training loop, evaluation, data and embeddings, the whole run. After
the line "Supporting code": reading the rows, tables 1 and 2, a faster AdaDelta, the command line.

Left out: the choice of sizes on dev (§4.2) and half precision. Without --vectors the embeddings
start at random. Shapes: B batch, N rows, E embedding, V vocabulary, C classes.
"""
import argparse
import os
import tempfile
import time
import zipfile
from array import array
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Callable, Iterable, NamedTuple
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from augment import (MASK, Parser, Row, UserError, atomic_write, check_folder, checksum, count_rows,
                     dataset_stem, errors_in, find_classes, find_dev, make_transfer_set, note,
                     number_in, progress, read_columns, read_dev, read_rows, read_train, run,
                     set_aside, tokenize, use_existing)
from bilstm import (BiLSTM, Sentences, Student, class_indices, encode_texts, evaluate,
                    load_training_state, make_batch, pick_device, predict_logits, read_vectors,
                    row_lengths, save, save_student, shuffled_batches, token_ids)
from teacher_logits import (Bert, check_teacher, dev_logits, download, label_file, load_teacher,
                            prepare_teacher, torchrun_rank)


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor,
                      alpha: float) -> Tensor:
    """alpha * cross-entropy + (1 - alpha) * distillation, a scalar (§3.2).

    Logits (B, C); labels (B,), -1 for a row without a label, whose label is then the teacher's
    argmax. The norm of equation 2 sums over classes; the loss is averaged over the batch. Equation
    3 prints a minus before its second term, a misprint. Raises ValueError if the teacher's logits
    are needed and absent.
    """
    if teacher_logits is None:
        if alpha != 1 or (labels < 0).any():
            raise ValueError("teacher_logits is None: expected alpha 1 and a label for every row")
        return F.cross_entropy(student_logits, labels)
    labels = torch.where(labels < 0, teacher_logits.argmax(dim=1), labels)            # (B,)
    cross_entropy = F.cross_entropy(student_logits, labels)
    distillation = (student_logits - teacher_logits).square().sum(dim=1).mean()       # equation 2
    return alpha * cross_entropy + (1 - alpha) * distillation                         # equation 3


class Settings(NamedTuple):
    """The hyperparameters of a student and of its training."""
    alpha: float = 0.0     # §4.2: weight of the hard labels in the loss
    hidden: int = 150      # §4.2: LSTM units in each direction, 150 or 300
    fc: int = 200          # §4.2: ReLU units, 200 or 400
    batch_size: int = 50   # §4.2: 50 for SST-2, 256 for QQP and MNLI
    epochs: int = 30       # our choice, as in the authors' code; an upper limit
    patience: int = 5      # our choice: stop after 5 epochs without a better dev accuracy
    seed: int = 0


class Dataset(NamedTuple):
    sides: list[Sentences]  # one; for pairs two, the first and the second sentences
    labels: Tensor          # (N,) class indices, -1 for a row without a label
    logits: Tensor | None   # (N, C) the teacher's

    def batch(self, index: Tensor, device: torch.device) -> tuple[list, Tensor | None, Tensor]:
        """Row numbers (B,) -> the model's input, the teacher's logits (B, C), the labels (B,)."""
        inputs = make_batch(self.sides, index, device)
        logits = None if self.logits is None else self.logits[index].to(device)
        return inputs, logits, self.labels[index].to(device)


def train(student: Student, train_set: Dataset, dev_sets: dict[str, Dataset], settings: Settings,
          output: str, key: dict) -> tuple[int, dict[str, float]]:
    """Train for settings.epochs, or until dev accuracy has not improved for settings.patience.

    Returns the number and the scores of the best epoch, whose student is saved to
    OUTPUT.student.pt. The state after each epoch is saved too, so that an interrupted run with the
    same key (settings and files) resumes and, on a CPU, ends with the same student. A run that has
    ended leaves no state (`whole_run`): the same command trains again. The dev set named "" chooses
    the best epoch; the others are only reported.
    """
    optimizer = make_optimizer(student.model)
    student_path = output + ".student.pt"
    state_path = output + ".training.pt"
    state = {"epochs_done": 0, "best_epoch": 0, "best_scores": {"acc": -1.0}}
    if os.path.exists(student_path):  # without it, the best epoch is lost
        state = load_training_state(state_path, key) or state
    if state["epochs_done"]:
        student.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    best_epoch = state["best_epoch"]
    best_scores = state["best_scores"]
    for epoch in range(state["epochs_done"] + 1, settings.epochs + 1):
        if epoch > best_epoch + settings.patience:
            print(f"stopping: dev accuracy has not improved for {settings.patience} epochs")
            break
        start = time.monotonic()
        # each epoch has a seed of its own, so that a resumed run draws the same numbers
        torch.manual_seed(settings.seed * 100003 + epoch)  # more than there are epochs
        loss = train_epoch(student.model, optimizer, train_set, settings, f"epoch {epoch}, batches")
        seconds = time.monotonic() - start
        scores = dev_scores(student.model, dev_sets)
        mark = ""
        if scores["acc"] > best_scores["acc"]:
            best_epoch = epoch
            best_scores = scores
            save_student(student_path, student)
            mark = "  best"
        rate = len(train_set.labels) / seconds
        print(f"epoch {epoch:2}  loss {loss:8.4f}  dev {format_scores(scores)}  {seconds:6.1f}s  "
              f"{rate:6,.0f} rows/s{mark}")
        save(state_path, {"key": key, "epochs_done": epoch, "best_epoch": best_epoch,
                          "best_scores": best_scores, "model": student.model.state_dict(),
                          "optimizer": optimizer.state_dict()})
    return best_epoch, best_scores


def train_epoch(model: BiLSTM, optimizer: torch.optim.Optimizer, train_set: Dataset,
                settings: Settings, title: str) -> float:
    """One pass, in random batches of rows of similar length; returns the mean batch loss."""
    model.train()
    device = model.output.weight.device
    losses = []
    batches = shuffled_batches(row_lengths(train_set.sides), settings.batch_size)
    for index in progress(batches, title):
        inputs, teacher_logits, labels = train_set.batch(index, device)
        loss = distillation_loss(model(*inputs), teacher_logits, labels, settings.alpha)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())  # stays on the device, so that no step waits for it
    mean_loss = float(torch.stack(losses).mean())
    if not isfinite(mean_loss):
        raise UserError("the loss is not finite; are the logits very large?")
    return mean_loss


def make_optimizer(model: BiLSTM) -> torch.optim.Optimizer:
    """AdaDelta, learning rate 1.0, rho 0.95 (§4.2).

    torch's Adadelta takes only dense gradients, and updates all V embeddings in each step. On a CPU
    the gradient of the trained channel is made sparse here, so that SparseAdadelta (below) updates
    only the batch's words: the same result up to rounding, and twice as fast for SST-2's 15,000
    words and batches of 50. With dense gradients it is torch's Adadelta.
    """
    if model.trained.weight.device.type == "cpu":
        model.trained.sparse = True  # its gradient will be sparse
    return SparseAdadelta(model.parameters(), lr=1.0, rho=0.95)


def dev_scores(model: BiLSTM, dev_sets: dict[str, Dataset]) -> dict[str, float]:
    """The scores of all dev sets: {"acc": ..., "f1": ..., "mm-acc": ...}; mm: mismatched MNLI."""
    scores = {}
    for prefix, dev_set in dev_sets.items():
        logits = predict_logits(model, dev_set.sides)
        for name, score in evaluate(logits, dev_set.labels).items():
            scores[prefix + name] = score
    return scores


def format_scores(scores: dict[str, float]) -> str:
    return "  ".join(f"{name} {score:.4f}" for name, score in scores.items())


# ---- Data and embeddings -------------------------------------------------------------------------
def make_dataset(path: str, rows: Iterable[Row], vocabulary: dict[str, int], classes: list[str],
                 add_words: bool = False) -> Dataset:
    """The rows of the file `path` as token ids, class indices and logits. Raises UserError.

    add_words: a word that is not in the vocabulary is added to it; otherwise it becomes [MASK].
    """
    sides = [[], []] if read_columns(path).is_pair else [[]]
    labels = []
    logits = array("f")  # 4 bytes a number; in a list it would take about 32
    skipped = 0
    for row in rows:
        if not row.label and not row.logits:
            skipped += 1
            continue
        for side, text in zip(sides, row.texts):
            words = tokenize(text)
            if add_words:
                for word in words:
                    vocabulary.setdefault(word, len(vocabulary))
            side.append(token_ids(words, vocabulary))
        labels.append(row.label)
        logits.extend(row.logits)
    if skipped:
        note(f"{path}: {skipped:,} rows with neither a label nor logits are left out")
    teacher_logits = None
    if logits:
        teacher_logits = torch.frombuffer(logits, dtype=torch.float32)
        teacher_logits = teacher_logits.view(len(labels), -1)                         # (N, C)
    return Dataset(sides, class_indices(labels, classes, path), teacher_logits)


def add_vectors(path: str, vocabulary: dict[str, int],
                other_words: set[str]) -> dict[str, np.ndarray]:
    """Read the vectors (E,) of the words; other words that have one join the vocabulary.

    Our choice: the other words are those of dev and test sentences (no label is read), else 6% of
    SST-2's dev words would be unknown. Raises UserError.
    """
    train_words = len(vocabulary)
    vectors = read_vectors(path, vocabulary.keys() | other_words)
    if not vectors:
        raise UserError(f"{path}: no vectors for the words of these rows")
    share = len(vocabulary.keys() & vectors.keys()) / train_words
    for word in sorted(vectors.keys() - vocabulary.keys()):
        vocabulary[word] = len(vocabulary)
    print(f"vectors   for {share:.1%} of the {train_words:,} words in the training rows, and for "
          f"{len(vocabulary) - train_words:,} more in dev and test")
    return vectors


def make_embeddings(vocabulary: dict[str, int], vectors: dict[str, np.ndarray],
                    seed: int) -> Tensor:
    """(V, E): a word's vector, or uniform in +-0.25 if it has none (DeepLo 2019, §4.2)."""
    width = len(next(iter(vectors.values()))) if vectors else 300                     # §4.2
    # a generator of their own, so that the model's weights do not depend on the number of words
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.empty(len(vocabulary), width).uniform_(-0.25, 0.25, generator=generator)
    for word, vector in vectors.items():
        embeddings[vocabulary[word]] = torch.from_numpy(vector.copy())
    return embeddings


# ---- The whole run -------------------------------------------------------------------------------
# What exists is used again, and the run says so:
#   STEM.transfer.tsv, STEM.logits.tsv      always; an error if STEM.tsv has other rows since
#   STEM.logits.tsv.parts                   after a stop, for the same rows and the same teacher
#   STEM.teacher                            unless --teacher is another, fine-tuned one
#   STEM.teacher.training.pt                after a stop, for the same rows and settings
#   OUTPUT.student.pt, OUTPUT.training.pt   after a stop, for the same files and settings
# --fresh makes all of them again but the teacher and what --logits names.
def whole_run(args: argparse.Namespace, settings: Settings, output: str,
              device: torch.device) -> None:
    """Augment and label, unless there are logits; distill; with --table1 also train on hard labels.

    output: a stem -> OUTPUT.student.pt.
    """
    if args.logits:
        train_path = args.logits
    elif settings.alpha == 1:
        train_path = args.data
    else:
        train_path = label_transfer_set(args, device)
    print("\n== train the student")
    scores = train_student(args, train_path, output, settings, device)
    if args.table1:
        print("\n== hard labels")
        hard_settings = settings._replace(alpha=1.0)
        hard = train_student(args, args.data, output + ".hard", hard_settings, device)
        print_table1(args.data, train_path, scores, hard)
        Path(output + ".hard.training.pt").unlink(missing_ok=True)
    # at the end, so that a stopped --table1 resumes
    Path(output + ".training.pt").unlink(missing_ok=True)


def label_transfer_set(args: argparse.Namespace, device: torch.device) -> str:
    """Augment and label the rows: STEM.tsv -> STEM.transfer.tsv -> STEM.logits.tsv."""
    stem = dataset_stem(args.data)
    transfer_path = stem + ".transfer.tsv"
    logits_path = stem + ".logits.tsv"
    if args.fresh:
        # nothing is set aside before there is a teacher that can label
        checkpoint = prepare_teacher(args.teacher, args.data, device)
        teacher = load_teacher(checkpoint, args.data, None, device)
        check_teacher(teacher, args.data, dev_logits(logits_path))
        set_aside(transfer_path)
        set_aside(logits_path)
    if os.path.exists(logits_path):
        check_same_rows(args.data, logits_path)
    elif use_existing(transfer_path):
        check_same_rows(args.data, transfer_path)
    else:
        prepare_teacher(args.teacher, args.data, device)  # without one, this stops here
        make_transfer_set(args.data, transfer_path, args.n_iter)
    # it returns at once if the logits exist
    label_file(transfer_path, logits_path, args.teacher, None, device)
    return logits_path


def train_student(args: argparse.Namespace, train_path: str, output: str, settings: Settings,
                  device: torch.device) -> dict[str, float]:
    """Read the data, train a student and save it; returns its scores on dev.

    train_path: the training rows, STEM.logits.tsv or for hard labels STEM.tsv. Raises UserError.
    """
    columns = read_columns(train_path)
    dev_path = find_dev(args.data)
    if settings.alpha < 1 and not columns.logits:
        raise UserError(f"{train_path}, line 1: expected columns logit_0, logit_1, ... as "
                        "teacher_logits.py writes them (--alpha 1 needs none)")
    classes = find_classes(train_path)
    # the words of the training rows; then add_vectors adds those of dev and test that have a vector
    vocabulary = {MASK: 0}
    rows = read_train(train_path, dev_path)
    train_set = make_dataset(train_path, rows, vocabulary, classes, add_words=True)
    print_counts(train_path, train_set.labels, classes)
    vectors = {}
    if args.vectors:
        vectors = add_vectors(args.vectors, vocabulary, words_of_stem(args.data))
    else:
        print(f"words     {len(vocabulary):,}, with random vectors (--vectors FILE reads word2vec)")
    dev_sets = load_dev_sets(train_path, args.data, vocabulary, classes)
    torch.manual_seed(settings.seed)
    embeddings = make_embeddings(vocabulary, vectors, settings.seed)
    model = BiLSTM(embeddings, len(classes), settings.hidden, settings.fc, columns.is_pair)
    print(f"student   {model.num_parameters():,} parameters without embeddings; alpha "
          f"{settings.alpha:g}, batch {settings.batch_size}, {device}")
    files = {"rows": train_path, "dev": dev_path, "vectors": args.vectors}
    key = training_key(settings, device, vocabulary, files)
    student = Student(model.to(device), vocabulary, classes)
    if args.fresh:
        Path(output + ".training.pt").unlink(missing_ok=True)
    epoch, scores = train(student, train_set, dev_sets, settings, output, key)
    print(f"result dev {format_scores(scores)} epoch {epoch} alpha {settings.alpha:g} seed "
          f"{settings.seed} rows {train_path} student {output}.student.pt")
    return scores


def training_key(settings: Settings, device: torch.device, vocabulary: dict[str, int],
                 files: dict[str, str | None]) -> dict:
    """All that a run must share with an interrupted one to resume it: settings, checksums."""
    key = {**settings._asdict(), "device": device.type}
    key["vocabulary"] = crc32(" ".join(vocabulary).encode())  # with words of dev and test
    for name, path in files.items():
        key[name] = checksum(path) if path else None
    return key


# ==== Supporting code: the rows of a run ==========================================================
def check_same_rows(data: str, path: str) -> None:
    """Reject a file that was made before the rows of `data` were changed. Raises UserError."""
    rows_of_path = read_rows(path)
    # row[:2]: its texts and label
    is_same = all(row[:2] == next(rows_of_path, ())[:2] for row in read_rows(data))
    after = next(rows_of_path, None)  # with a label it is not synthetic, but was removed from data
    if not is_same or (after and after.label):
        raise UserError(f"{path}: its original rows are not those of {data}; recompute it with "
                        "--fresh, or train on logits as they are with --logits")


def print_counts(path: str, labels: Tensor, classes: list[str]) -> None:
    """How many rows each class has in training."""
    # labels are -1 (none), 0, 1, ...; bincount takes no negative numbers
    unlabelled, *counts = torch.bincount(labels + 1, minlength=len(classes) + 1).tolist()
    shown = ", ".join(f"{count:,} of class {name}" for name, count in zip(classes, counts))
    print(f"rows      {len(labels):,} in {path}: {unlabelled:,} without a label, {shown}")
    for name, count in zip(classes, counts):
        if count < 5:
            note(f"class {name} has few training rows, {count}; is a label misspelt?")


def load_dev_sets(train_path: str, data: str, vocabulary: dict[str, int],
                  classes: list[str]) -> dict[str, Dataset]:
    """The dev set, and for MNLI its mismatched one as "mm-". Raises UserError."""
    stem = dataset_stem(data)
    paths = {"": find_dev(data)}
    if os.path.exists(stem + ".dev-mm.tsv"):
        paths["mm-"] = stem + ".dev-mm.tsv"
    is_pair = read_columns(train_path).is_pair
    dev_sets = {}
    for prefix, path in paths.items():
        if path and read_columns(path).is_pair != is_pair:
            raise UserError(f"{path}: expected single sentences or pairs, as the training rows are")
        rows = read_dev(train_path, path)
        dev_sets[prefix] = make_dataset(path or train_path, rows, vocabulary, classes)
        if not len(dev_sets[prefix].labels):
            raise UserError(f"{path or train_path}: no labelled rows to measure accuracy")
    labelled = len(dev_sets[""].labels)
    print(f"dev       {labelled:,} labelled rows of {paths[''] or train_path}")
    if not paths[""]:
        note(f"there is no {stem}.dev.tsv, so one of every ten labelled rows is held out")
    if labelled < 20:
        note("so few dev rows do not tell which epoch is best")
    return dev_sets


def words_of_stem(data: str) -> set[str]:
    """The words of STEM.tsv (its held-out rows too), of dev and of test."""
    words = set()
    for ending in (".tsv", ".dev.tsv", ".dev-mm.tsv", ".test.tsv", ".test-mm.tsv"):
        path = dataset_stem(data) + ending
        if os.path.exists(path):
            for row in read_rows(path):
                words.update(*map(tokenize, row.texts))
    return words


# ---- GLUE's rows of sst2, qqp and mnli -----------------------------------------------------------
GLUE_URL = "https://dl.fbaipublicfiles.com/glue/data/"
# task: archive, its sha256, our ending -> member; the training rows come last, so that they are
# there only if the others are
GLUE = {
    "sst2": ("SST-2.zip", "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa",
             {".dev": "SST-2/dev", ".test": "SST-2/test", "": "SST-2/train"}),
    "qqp": ("QQP-clean.zip", "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0",
            {".dev": "QQP/dev", ".test": "QQP/test", "": "QQP/train"}),
    "mnli": ("MNLI.zip", "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633",
             {".dev": "MNLI/dev_matched", ".test": "MNLI/test_matched",
              ".dev-mm": "MNLI/dev_mismatched", ".test-mm": "MNLI/test_mismatched",
              "": "MNLI/train"})}


def fetch_glue(path: str) -> None:
    """Download an absent sst2.tsv, qqp.tsv or mnli.tsv with its dev and test sets."""
    stem = path.removesuffix(".tsv")
    if os.path.exists(path) or os.path.basename(stem) not in GLUE:
        return
    archive, sha256, members = GLUE[os.path.basename(stem)]
    with errors_in(path, f"{GLUE_URL}{archive}"), tempfile.TemporaryDirectory() as folder:
        download(GLUE_URL + archive, folder, f"put {path} and {stem}.dev.tsv in place", sha256)
        with zipfile.ZipFile(os.path.join(folder, archive)) as z:
            for ending, member in members.items():
                if not os.path.exists(f"{stem}{ending}.tsv"):
                    with atomic_write(f"{stem}{ending}.tsv") as f:
                        f.write(z.read(member + ".tsv").decode())


# ---- Tables 1 and 2 (§5) -------------------------------------------------------------------------
PAPER = {"sst2": ("93.5", "90.7", "86.7"), "qqp": ("71.2/89.2", "68.2/88.1", "63.7/86.2"),
         "mnli": ("84.6/83.4", "73.0/72.6", "68.7/68.3")}  # table 1, rows 2, 6 and 7


def print_table1(data: str, logits_path: str, distilled: dict, hard: dict) -> None:
    """Dev accuracy (QQP: F1/accuracy; MNLI: matched/mismatched), alongside the paper's on test."""
    task = os.path.basename(dataset_stem(data))
    paper = PAPER.get(task, ("", "", ""))
    keys = {"qqp": ["f1", "acc"], "mnli": ["acc", "mm-acc"]}.get(task, ["acc"])
    teacher = {}
    dev_path = dev_logits(logits_path)
    if os.path.exists(dev_path):
        rows = list(read_dev(dev_path, dev_path))  # of MNLI the matched rows only
        dev_rows = read_dev(logits_path, find_dev(data))
        classes = read_columns(dev_path).classes
        # the same texts and labels; else the file is of another dev set
        if classes and [row[:2] for row in rows] == [row[:2] for row in dev_rows]:
            labels = class_indices([row.label for row in rows], classes, dev_path)
            teacher = evaluate(torch.tensor([row.logits for row in rows]), labels)
    names = ["teacher", "6 distilled BiLSTM", "7 BiLSTM, hard labels"]
    heading = ""
    if task in PAPER:
        heading = "paper, test"
        names[0] = "teacher (2 BERT-base)"
    print(f"\n{'table 1':26}{'dev accuracy':>14}{heading:>16}".rstrip())
    for name, scores, figure in zip(names, (teacher, distilled, hard), paper):
        shown = "/".join(f"{100 * scores[key]:.1f}" for key in keys if key in scores)
        print(f"{name:26}{shown or 'not known':>14}{figure:>16}".rstrip())


def print_table2(data: str, hidden: int, fc: int, device: torch.device) -> None:
    """Parameters and inference time of a BERT-large and the student, with random weights.

    As usual for BERT, its rows are padded to 128 tokens, in batches of 32; the student's batches
    are 128 rows of similar lengths. (The paper's are 512 rows.) Which words a sentence has hardly
    changes the time, so all are unknown here.
    """
    total = count_rows(data)
    texts = [row.texts for row in islice(read_rows(data), 2048)]
    sides = [encode_texts(side, {}) for side in zip(*texts)]
    student = BiLSTM(torch.rand(1, 300), 2, hidden, fc, len(sides) == 2).to(device)
    bert = Bert({"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
                 "intermediate_size": 4096, "max_position_embeddings": 512, "vocab_size": 30522,
                 "type_vocab_size": 2, "layer_norm_eps": 1e-12}, 2).to(device).eval()
    ids = torch.randint(30522, (32, 128), device=device)  # 128 tokens a row, padding included
    lengths = torch.full((32,), 128, device=device)
    batch = [(ids, lengths), (torch.zeros_like(ids), lengths)]  # the tokens and their segments
    with torch.inference_mode():
        bert_seconds = measure(lambda: bert(*batch)) * total / len(ids)
    student_seconds = measure(lambda: predict_logits(student, sides)) * total / len(texts)
    bert_size = sum(p.numel() for p in bert.parameters())
    print(f"\ntable 2: seconds for the {total:,} rows of {data}, scaled from {len(ids)} rows of "
          f"128 tokens and {len(texts):,} rows; {device}, {torch.get_num_threads()} threads")
    print(f"{'':12}{'parameters':>14}{'seconds':>12}    paper (one V100)")
    print(f"{'BERT-large':12}{bert_size:14,}{bert_seconds:12,.2f}    335M, 1060 s")
    print(f"{'BiLSTM':12}{student.num_parameters():14,}{student_seconds:12,.2f}    0.96M, 2.44 s")
    print(f"{'ratio':12}{bert_size / student.num_parameters():14,.0f}"
          f"{bert_seconds / student_seconds:12,.0f}    349, 434")


def measure(work: Callable[[], Tensor]) -> float:
    """Seconds for the second run; the first is to warm up."""
    work().cpu()
    start = time.monotonic()
    work().cpu()
    return time.monotonic() - start


# ---- A faster AdaDelta for embeddings, with the same result --------------------------------------
class SparseAdadelta(torch.optim.Adadelta):
    """AdaDelta that for an embedding with sparse=True visits only the rows of the batch's words.

    For a word outside the batch the gradient is zero: AdaDelta leaves its row as it is and decays
    its two averages by rho. Here that decay is applied when the word is next in a batch.
    """

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None and weight.grad.is_sparse:
                    self.update_rows(weight, group["lr"], group["rho"], group["eps"])
                    weight.grad = None  # done: the next line skips it
        super().step()  # the other parameters

    def update_rows(self, weight: Tensor, lr: float, rho: float, eps: float) -> None:
        """In torch's names: square_avg averages squared gradients, acc_delta squared updates."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(1)
            state["last_step"] = torch.zeros(len(weight))  # of each row
            state["square_avg"] = torch.zeros_like(weight)
            state["acc_delta"] = torch.zeros_like(weight)
        gradient = weight.grad.coalesce()
        rows, g = gradient.indices()[0], gradient.values()                            # (U,), (U, E)
        state["step"] += 1
        # (U,) the steps without a gradient: 3 for a word that was last in batch 3, now in batch 7
        missed = state["step"] - state["last_step"][rows] - 1
        decay = (rho ** missed)[:, None]                                              # (U, 1)
        square_avg = state["square_avg"][rows] * decay                                # (U, E)
        acc_delta = state["acc_delta"][rows] * decay                                  # (U, E)
        # from here on as in torch.optim.Adadelta
        square_avg = rho * square_avg + (1 - rho) * g.square()
        delta = ((acc_delta + eps) / (square_avg + eps)).sqrt() * g
        acc_delta = rho * acc_delta + (1 - rho) * delta.square()
        weight.index_add_(0, rows, delta, alpha=-lr)
        state["square_avg"][rows] = square_avg
        state["acc_delta"][rows] = acc_delta
        state["last_step"][rows] = state["step"]


# ---- The command line ----------------------------------------------------------------------------
def main() -> None:
    parser = Parser(__doc__)
    default = Settings()
    count = number_in(int, 1, 10000)
    parser.add_argument("data", help="STEM.tsv; STEM.dev.tsv beside it is the dev set")
    parser.add_argument("--logits", metavar="TSV", help="train on these rows, which have logits")
    parser.add_argument("--alpha", type=number_in(float, 0, 1), default=default.alpha,
                        help="0: only logits (default; §4.2), 1: only hard labels, or between")
    parser.add_argument("--teacher", help="a folder, or owner/name on the hub "
                        "(default: STEM.teacher, else a BERT-base)")
    parser.add_argument("--n-iter", type=number_in(int, 0, 10000),
                        help="augmentation attempts for each row (default: 20, pairs 10; §3.3)")
    parser.add_argument("--table1", action="store_true", help="also train on hard labels only")
    parser.add_argument("--table2", action="store_true", help="only measure size and speed")
    parser.add_argument("--vectors", metavar="FILE", help="word2vec (§4.2), GloVe or fastText")
    parser.add_argument("--hidden", type=count, default=default.hidden,
                        help="LSTM units in each direction (default: 150; §4.2 also has 300)")
    parser.add_argument("--fc", type=count, default=default.fc,
                        help="ReLU units (default: 200; §4.2 also has 400)")
    parser.add_argument("--batch-size", type=count, help="default: 50, for pairs 256; §4.2")
    parser.add_argument("--epochs", type=count, default=default.epochs,
                        help="at most (default: 30); it stops when dev has not improved for "
                        f"{default.patience}")
    parser.add_argument("--seed", type=number_in(int, 0, 1 << 31), default=0, help="default: 0")
    parser.add_argument("--device", help="default: cuda or mps if there is one, else cpu")
    parser.add_argument("--fresh", action="store_true",
                        help="start again: transfer set and logits (kept as *.old), student")
    parser.add_argument("-o", "--output", metavar="STEM",
                        help="default: the stem of the data, with --alpha 1 STEM.hard")
    args = parser.parse_args()
    device = pick_device(args.device)
    stem = dataset_stem(args.data)
    check_command(args, stem)
    fetch_glue(args.data)
    columns = read_columns(args.data)
    if args.table2:
        return print_table2(args.data, args.hidden, args.fc, device)
    check_data(args, stem)
    batch_size = args.batch_size or (256 if columns.is_pair else default.batch_size)  # §4.2
    settings = Settings(alpha=args.alpha, hidden=args.hidden, fc=args.fc, batch_size=batch_size,
                        epochs=args.epochs, seed=args.seed)
    output = args.output or (stem + ".hard" if args.alpha == 1 else stem)
    whole_run(args, settings, output, device)


def check_command(args: argparse.Namespace, stem: str) -> None:
    """Reject unusable options before long work starts. Raises UserError."""
    if torchrun_rank()[1] > 1:
        raise UserError("distill.py is a single process; torchrun is for teacher_logits.py")
    if args.data != stem + ".tsv":
        raise UserError(f"{args.data}: expected the training rows, a file STEM.tsv with tabs "
                        "between its columns (not STEM.dev.tsv or STEM.transfer.tsv; save a .csv "
                        "as tab-separated text)")
    if (args.logits or args.alpha == 1) and (args.teacher or args.n_iter is not None):
        raise UserError("--teacher and --n-iter cannot be combined with --logits or --alpha 1")
    if args.table1 and args.alpha == 1:
        raise UserError("--table1 trains both students; leave --alpha 1 out")
    if not os.path.basename(args.output or stem):
        raise UserError(f"-o {args.output}: expected a stem, such as {args.output}run1")
    check_folder(args.output or stem)
    if args.vectors and not os.path.isfile(args.vectors):
        raise UserError(f"{args.vectors}: No such file")


def check_data(args: argparse.Namespace, stem: str) -> None:
    """Reject data without the labels that are needed. Raises UserError."""
    columns = read_columns(args.data)
    if columns.label is None and (args.table1 or not args.logits):
        raise UserError(f"{args.data}, line 1: no label column; expected `label`, `gold_label`, "
                        f"`is_duplicate` or `Quality`, found: {' '.join(columns.names)[:80]}")
    if args.logits and read_columns(args.logits).logits:  # are they for these labels?
        labels = [row.label for row in read_rows(args.data)]
        class_indices(labels, find_classes(args.logits), f"{args.data} with {args.logits}")
    if args.table1 or not args.logits:
        find_classes(args.data)
    if next(read_dev(args.logits or args.data, find_dev(args.data)), None) is None:
        raise UserError(f"{args.data}: no labelled rows to measure accuracy; expected some in "
                        f"{stem}.dev.tsv, or ten in {args.logits or args.data} to hold one out")


if __name__ == "__main__":
    run(main, kept="finished files, chunks and epochs are kept; the same command without "
              "--fresh resumes")
