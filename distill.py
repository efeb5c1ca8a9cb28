"""Distillation (§3.2, §4, §5): train the BiLSTM on a teacher's logits; the paper's whole run.

    python distill.py data/sample.tsv --table1             # offline, with data/sample.logits.tsv
    python distill.py sst2.tsv --vectors word2vec.bin      # downloads, augments, labels, distills
    python distill.py sst2.tsv --logits other.logits.tsv   # only distills, from these logits
    python distill.py sst2.tsv --alpha 1                   # hard labels only: table 1, row 7
    python distill.py sst2.tsv --table2                    # only table 2: size and speed

The loss comes first, then the training loop, the data and the whole run. Supporting code follows:
tables 1 and 2, a faster AdaDelta, the command line. Left out: choosing layer sizes on dev (§4.2).
Shapes: B batch, N rows, V vocabulary, E embedding, C classes.
"""
import os
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from array import array
from typing import Iterable, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import bilstm
import teacher_logits as bert
from augment import (MASK, Row, UserError, dataset_stem, fetch_glue, make_transfer_set,
                     progress, read_columns, read_dev, read_rows, read_train, run, sort_classes,
                     tokenize, use_existing)


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor,
                      alpha: float) -> Tensor:
    """alpha * cross-entropy + (1 - alpha) * distillation, averaged over the batch (§3.2).

    Logits (B, C). Labels (B,); -1 means unlabelled, and the teacher's argmax is used instead. The
    norm of equation 2 sums over classes. The minus before equation 3's second term is a slip.
    """
    labels = torch.where(labels < 0, teacher_logits.argmax(dim=1), labels)            # (B,)
    cross_entropy = F.cross_entropy(student_logits, labels)
    distillation = (student_logits - teacher_logits).square().sum(dim=1).mean()       # equation 2
    return alpha * cross_entropy + (1 - alpha) * distillation                         # equation 3


class Examples(NamedTuple):
    rows: list[bilstm.Ids]
    labels: Tensor  # (N,) class indices, -1 for a row without a label
    logits: Tensor  # (N, C) the teacher's; zeros without a teacher


def train_epoch(model: bilstm.BiLSTM, optimizer: torch.optim.Optimizer, examples: Examples,
                alpha: float, batch_size: int, title: str = "training") -> float:
    """One pass over bilstm.shuffled_batches, padded by bilstm.collate; returns the mean loss."""
    model.train()
    losses = []
    batches = bilstm.shuffled_batches(examples.rows, batch_size)
    for index in progress(batches, f"{title}, batches"):
        inputs = bilstm.collate([examples.rows[i] for i in index])
        teacher_logits = examples.logits[index].to(bilstm.DEVICE)                     # (B, C)
        labels = examples.labels[index].to(bilstm.DEVICE)                             # (B,)
        loss = distillation_loss(model(*inputs), teacher_logits, labels, alpha)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


PATIENCE = 5  # our choice: stop after 5 epochs without a better dev accuracy


def train(student: bilstm.Student, train_set: Examples, dev_sets: dict[str, Examples], output: str,
          alpha: float, batch_size: int, epochs: int, seed: int, resume: bool) -> dict[str, float]:
    """Train, keep the student of the best epoch as OUTPUT.student.pt and return its dev scores.

    dev_sets: {"": dev, "mm-": MNLI's mismatched dev}; their scores are named acc and mm-acc.
    The first dev set picks the best epoch. OUTPUT.training.pt holds the state for `resume`.
    """
    model = student.model
    # On a CPU, sparse gradients of the embedding double the speed (see AdadeltaByRows).
    model.trained.sparse = bilstm.DEVICE.type == "cpu"
    optimizer = AdadeltaByRows(model.parameters(), lr=1.0, rho=0.95)                  # §4.2
    state = {"epoch": 0, "best_epoch": 0, "best": {"acc": -1.0}}
    if resume and os.path.exists(output + ".training.pt"):
        state = bilstm.load(output + ".training.pt")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        print(f"resuming after epoch {state['epoch']}")
    while state["epoch"] < min(epochs, state["best_epoch"] + PATIENCE):
        state["epoch"] += 1
        torch.manual_seed(1000 * seed + state["epoch"])  # so a resumed run draws the same numbers
        start = time.monotonic()
        title = f"epoch {state['epoch']:2}"
        loss = train_epoch(model, optimizer, train_set, alpha, batch_size, title)
        seconds = time.monotonic() - start
        scores = {}
        for prefix, dev_set in dev_sets.items():
            logits = bilstm.predict_logits(model, dev_set.rows)
            for name, score in bilstm.metrics(logits, dev_set.labels).items():
                scores[prefix + name] = score
        best = ""
        if scores["acc"] > state["best"]["acc"]:
            state.update(best=scores, best_epoch=state["epoch"])
            bilstm.save_student(output + ".student.pt", student)
            best = "  best"
        print(f"{title}  loss {loss:8.4f}  dev {format_scores(scores)}  "
              f"{len(train_set.rows) / seconds:,.0f} rows/s{best}")
        state.update(model=model.state_dict(), optimizer=optimizer.state_dict())
        bilstm.save(output + ".training.pt", state)
    print(f"result dev {format_scores(state['best'])} in epoch {state['best_epoch']}, alpha "
          f"{alpha:g}, seed {seed}: {output}.student.pt")
    return state["best"]


def format_scores(scores: dict[str, float]) -> str:
    return "  ".join(f"{name} {score:.4f}" for name, score in scores.items())


# ---- Data and embeddings -------------------------------------------------------------------------
def make_embeddings(words: list[str], other_words: set[str], path: str | None,
                    seed: int) -> tuple[dict[str, int], Tensor]:
    """The vocabulary and the vectors (V, E) that both channels start from.

    The vocabulary holds all of `words`, and those of `other_words` that have a vector. A word
    without a vector starts uniform in +-0.25 (DeepLo 2019, §4.2).
    """
    vectors = {}
    width = 300                                                                       # §4.2
    if path:
        vectors = bilstm.read_vectors(path, other_words.union(words))
        width = len(next(iter(vectors.values())))
        print(f"vectors   for {len(vectors.keys() & words):,} of {len(words):,} words")
    vocabulary = {word: i for i, word in enumerate([*words, *sorted(vectors.keys() - words)])}
    embeddings = torch.empty(len(vocabulary), width)
    embeddings.uniform_(-0.25, 0.25, generator=torch.Generator().manual_seed(seed))
    for word, vector in vectors.items():
        embeddings[vocabulary[word]] = torch.tensor(vector)
    return vocabulary, embeddings


def words_of(rows: Iterable[Row]) -> list[str]:
    """[MASK], then the distinct words of the rows in order of appearance."""
    words = {MASK: None}  # a dict keeps its order
    for row in rows:
        for text in row.texts:
            words.update(dict.fromkeys(tokenize(text)))
    return list(words)


def make_examples(rows: Iterable[Row], path: str, vocabulary: dict[str, int],
                  classes: list[str]) -> Examples:
    """The rows that have a label or logits; `path` is only for error messages."""
    ids = []
    labels = []
    logits = array("f")  # 4 bytes a number; a list would take about 32
    for row in rows:
        if row.label or row.logits:
            ids.append(bilstm.encode_row(row.texts, vocabulary))
            labels.append(row.label)
            logits.extend(row.logits.get(name, 0.0) for name in classes)
    teacher_logits = torch.frombuffer(logits, dtype=torch.float32).view(len(ids), len(classes))
    return Examples(ids, bilstm.class_indices(labels, classes, path), teacher_logits)


# ---- The whole run -------------------------------------------------------------------------------
def make_logits(data: str, n_iter: int | None, teacher: str | None) -> str:
    """STEM.tsv -> STEM.transfer.tsv -> STEM.logits.tsv, unless they exist."""
    transfer_path = dataset_stem(data) + ".transfer.tsv"
    logits_path = dataset_stem(data) + ".logits.tsv"
    if use_existing(logits_path, data, {"--n-iter": n_iter, "--teacher": teacher}):
        return logits_path
    if not use_existing(transfer_path, data, {"--n-iter": n_iter}):
        make_transfer_set(data, transfer_path, n_iter)
    loaded = bert.load_teacher(teacher, data)
    bert.check_teacher(loaded, data, logits_path)
    bert.label_file(loaded, transfer_path, logits_path)
    return logits_path


def train_student(data: str, train_path: str, output: str, vectors_path: str | None, hidden: int,
                  fc: int, alpha: float, seed: int, **options: int) -> dict[str, float]:
    """Train a student on the rows of train_path, save it and return its scores on dev."""
    classes = list(next(read_rows(train_path)).logits)
    if alpha < 1 and not classes:
        raise UserError(f"{train_path}: no columns logit_0, logit_1, ... (--alpha 1 needs none)")
    if not classes:
        classes = sort_classes(row.label for row in read_rows(train_path))
    stem = dataset_stem(data)
    words = words_of(read_train(train_path, data))
    # words of dev (or STEM.tsv's held-out rows) and test; without, 6% of SST-2's dev is unknown
    other_words = set()
    for ending in (".tsv", ".dev.tsv", ".dev-mm.tsv", ".test.tsv", ".test-mm.tsv"):
        if vectors_path and os.path.exists(stem + ending):
            other_words.update(words_of(read_rows(stem + ending)))
    vocabulary, embeddings = make_embeddings(words, other_words, vectors_path, seed)
    train_set = make_examples(read_train(train_path, data), train_path, vocabulary, classes)
    dev_sets = {"": make_examples(read_dev(data), f"dev rows of {data}", vocabulary, classes)}
    mm_path = stem + ".dev-mm.tsv"  # MNLI's mismatched dev set
    if os.path.exists(mm_path):
        dev_sets["mm-"] = make_examples(read_rows(mm_path), mm_path, vocabulary, classes)
    if len(dev_sets[""].rows[0]) != len(train_set.rows[0]):
        raise UserError(f"{data}: training rows and dev rows must both be pairs, or neither")
    torch.manual_seed(seed)
    model = bilstm.BiLSTM(embeddings, len(classes), hidden, fc, pair=len(train_set.rows[0]) == 2)
    print(f"student   {model.num_parameters():,} parameters without embeddings, classes "
          f"{', '.join(classes)}; {len(train_set.rows):,} rows of {train_path}, "
          f"{len(dev_sets[''].rows):,} of dev")
    student = bilstm.Student(model.to(bilstm.DEVICE), vocabulary, classes)
    return train(student, train_set, dev_sets, output, alpha, seed=seed, **options)


# ==== Supporting code: tables 1 and 2 (§5) =======================================================
PAPER = {"sst2": ("93.5", "90.7", "86.7"), "qqp": ("71.2/89.2", "68.2/88.1", "63.7/86.2"),
         "mnli": ("84.6/83.4", "73.0/72.6", "68.7/68.3")}  # table 1, rows 2, 6 and 7


def print_table1(data: str, logits_path: str, distilled: dict, hard: dict) -> None:
    """Dev accuracy (QQP: F1/accuracy; MNLI: matched/mismatched), beside the paper's on test."""
    task = os.path.basename(dataset_stem(data))
    keys = {"qqp": ["f1", "acc"], "mnli": ["acc", "mm-acc"]}.get(task, ["acc"])
    teacher = {}
    dev_path = dataset_stem(logits_path) + ".dev.logits.tsv"
    if os.path.exists(dev_path):
        classes = list(next(read_rows(dev_path)).logits)
        dev_set = make_examples(read_rows(dev_path), dev_path, {}, classes)
        teacher = bilstm.metrics(dev_set.logits, dev_set.labels)
    print(f"\n{'table 1':24}{'dev accuracy':>14}{'paper, test':>14}")
    names = ["teacher", "6 distilled BiLSTM", "7 BiLSTM, hard labels"]
    figures = PAPER.get(task, ("-", "-", "-"))
    for name, scores, figure in zip(names, (teacher, distilled, hard), figures):
        shown = "/".join(f"{100 * scores[key]:.1f}" for key in keys if key in scores)
        print(f"{name:24}{shown or 'not known':>14}{figure:>14}")


def print_table2(data: str, hidden: int, fc: int) -> None:
    """Parameters and inference time of BERT-large and the student, with random weights.

    BERT's rows have 128 tokens, the usual length. The student's batches have 128 rows of similar
    length. The words hardly affect the time, so every word is unknown here.
    """
    rows = [bilstm.encode_row(row.texts, {}) for row in read_rows(data)]
    bert_rows = [([1] * 128, [0] * 128)] * 32  # token ids and segments
    student = bilstm.BiLSTM(torch.rand(1, 300), 2, hidden, fc, len(rows[0]) == 2)
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
             "intermediate_size": 4096, "vocab_size": 30522}
    bert_large = bert.Bert({**bert.DEFAULTS, **sizes}, 2)
    size = sum(p.numel() for p in bert_large.parameters())
    seconds = []
    for model, model_rows, collate in [(bert_large, bert_rows, bert.collate),
                                       (student, rows[:2048], bilstm.collate)]:
        for _ in range(2):  # the first prediction is a warm-up
            start = time.monotonic()
            bilstm.predict_logits(model.to(bilstm.DEVICE), model_rows, collate)
            per_row = (time.monotonic() - start) / len(model_rows)
        seconds.append(per_row * len(rows))
    print(f"\ntable 2: {len(rows):,} rows of {data}, scaled from {len(bert_rows)} (BERT) and "
          f"{len(rows[:2048]):,} (BiLSTM); {bilstm.DEVICE}, {torch.get_num_threads()} threads")
    print(f"{'':12}{'parameters':>14}{'seconds':>12}    paper (one V100)")
    print(f"{'BERT-large':12}{size:14,}{seconds[0]:12,.2f}    335M, 1060 s")
    print(f"{'BiLSTM':12}{student.num_parameters():14,}{seconds[1]:12,.2f}    0.96M, 2.44 s")
    print(f"{'ratio':12}{size / student.num_parameters():14,.0f}"
          f"{seconds[0] / seconds[1]:12,.0f}    349, 434")


# ---- Skip at first: a faster AdaDelta for embeddings, with the same result -----------------------
class AdadeltaByRows(torch.optim.Adadelta):
    """AdaDelta that updates only the batch's words in an embedding with sparse=True.

    torch's Adadelta updates all V rows in each step. A word outside the batch has zero gradient:
    its row stays as it is, and its two averages decay by rho. Here that decay is applied when the
    word is next in a batch.
    """

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None and weight.grad.is_sparse:
                    self.update_rows(weight, group["lr"], group["rho"], group["eps"])
                    weight.grad = None  # so that super().step() skips it
        super().step()  # the other parameters

    def update_rows(self, weight: Tensor, lr: float, rho: float, eps: float) -> None:
        """square_avg: mean squared gradients; acc_delta: mean squared updates (torch's names)."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(1)
            state["last_step"] = torch.zeros(len(weight))  # each row's last step with a gradient
            state["square_avg"] = torch.zeros_like(weight)
            state["acc_delta"] = torch.zeros_like(weight)
        gradient = weight.grad.coalesce()
        rows = gradient.indices()[0]                # (U,) the distinct words of the batch
        g = gradient.values()                                                         # (U, E)
        state["step"] += 1
        # catch up on the steps without a gradient: 3 if a word was in batch 1 and next in batch 5
        missed = state["step"] - state["last_step"][rows] - 1                         # (U,)
        decay = (rho ** missed)[:, None]                                              # (U, 1)
        square_avg = decay * state["square_avg"][rows]                                # (U, E)
        acc_delta = decay * state["acc_delta"][rows]                                  # (U, E)
        # then, as in torch.optim.Adadelta
        square_avg = rho * square_avg + (1 - rho) * g.square()
        delta = ((acc_delta + eps) / (square_avg + eps)).sqrt() * g                   # (U, E)
        acc_delta = rho * acc_delta + (1 - rho) * delta.square()
        weight.index_add_(0, rows, delta, alpha=-lr)
        state["square_avg"][rows] = square_avg
        state["acc_delta"][rows] = acc_delta
        state["last_step"][rows] = state["step"]


# ---- The command line ----------------------------------------------------------------------------
def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", help="STEM.tsv, the training rows; dev rows: STEM.dev.tsv, or a tenth of these")
    add("--logits", metavar="TSV", help="train on this file, which has logits")
    add("--teacher", help="folder, or owner/name on Hugging Face (default: see teacher_logits.py)")
    add("--n-iter", type=int, help="attempts per row (§3.3: 20; 10 for pairs)")
    add("--alpha", type=float, default=0.0, help="weight of the labels; 1: labels only (§3.2: 0)")
    add("--vectors", metavar="FILE", help="word2vec (§4.2), GloVe or fastText (default: random)")
    add("--hidden", type=int, default=150, help="LSTM units (§4.2: 150 or 300; default: 150)")
    add("--fc", type=int, default=200, help="ReLU units (§4.2: 200 or 400; default: 200)")
    add("--batch-size", type=int, help="default: 50, for pairs 256 (§4.2)")
    add("--epochs", type=int, default=30, help="maximum (default: 30, as in the authors' code)")
    add("--seed", type=int, default=0, help="default: 0")
    add("--resume", action="store_true", help="continue interrupted training")
    add("--table1", action="store_true", help="also train on hard labels, and print table 1")
    add("--table2", action="store_true", help="only print table 2")
    add("-o", "--output", help="for OUTPUT.student.pt (default: STEM, or STEM.hard with --alpha 1)")
    args = parser.parse_args()
    if args.data != dataset_stem(args.data) + ".tsv":
        parser.error(f"{args.data}: expected the training rows, a file STEM.tsv")
    if args.table1 and args.alpha == 1:
        parser.error("--table1 trains with and without a teacher: omit --alpha 1")
    if (args.logits or args.alpha == 1) and (args.teacher or args.n_iter is not None):
        parser.error("--teacher and --n-iter have no effect with --logits or --alpha 1")
    return args


def main() -> None:
    args = parse_arguments()
    fetch_glue(args.data)
    if args.table2:
        return print_table2(args.data, args.hidden, args.fc)
    # Check now what would otherwise fail after hours.
    dev_rows = read_dev(args.data)
    num_labels = len({row.label for row in read_rows(args.data)} - {""})
    needs_labels = args.table1 or not args.logits
    if not dev_rows or (needs_labels and num_labels < 2):
        raise UserError(f"{args.data}: expected labelled rows of two classes or more, and labelled "
                        f"dev rows; the columns are {', '.join(read_columns(args.data))}")
    if args.vectors:
        open(args.vectors, "rb").close()
    output = args.output or dataset_stem(args.data) + (".hard" if args.alpha == 1 else "")
    if not os.access(os.path.dirname(output) or ".", os.W_OK):
        raise UserError(f"{output}: its folder is missing or not writable")
    train_path = args.logits or args.data
    if not args.logits and args.alpha < 1:
        train_path = make_logits(args.data, args.n_iter, args.teacher)
    batch_size = args.batch_size or (256 if len(dev_rows[0].texts) == 2 else 50)
    options = {"vectors_path": args.vectors, "hidden": args.hidden, "fc": args.fc,
               "batch_size": batch_size, "epochs": args.epochs, "seed": args.seed,
               "resume": args.resume}
    scores = train_student(args.data, train_path, output, alpha=args.alpha, **options)
    if args.table1:
        hard = train_student(args.data, args.data, output + ".hard", alpha=1.0, **options)
        print_table1(args.data, train_path, scores, hard)


if __name__ == "__main__":
    run(main)
