"""Distillation (§3.2): train the BiLSTM on a teacher's logits; and the paper's run, end to end (§4).

    python distill.py sample.tsv                               # offline, from nothing, about a minute
    python distill.py sst2.tsv                                 # fetches SST-2, augments, labels, distils
    python distill.py sst2.tsv --logits sst2.logits.tsv        # a teacher's logits that are at hand
    python distill.py sst2.tsv --alpha 1                       # table 1, row 7: hard labels, no teacher
    python distill.py sst2.tsv --table1                        # rows 6 and 7; --table2: size and speed

In reading order: the loss, AdaDelta, the rows, one training run, the steps before it, the tables.
"""
import argparse
import copy
import csv
import hashlib
import io
import json
import os
import time
from array import array
from collections import defaultdict
from typing import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import augment
import teacher_logits
from bilstm import (UNKNOWN, BadInput, BiLSTM, Encoded, Progress, class_order, command, load,
                    pick_device, predict, read_rows, read_vectors, save, save_student, span, words,
                    writing)


# ---- The loss (§3.2) -----------------------------------------------------------------------------
def loss(student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor,
         alpha: float) -> Tensor:
    """alpha * cross-entropy + (1 - alpha) * distillation; logits (B, C), labels (B,), -1 for none.

    Equation 3 prints a minus before its second term: a slip. The squared norm of equation 2 sums
    over the classes; the batch is averaged.
    """
    if teacher_logits is None:  # alpha = 1 and no teacher at all
        return F.cross_entropy(student_logits, labels)
    labels = torch.where(labels < 0, teacher_logits.argmax(dim=1), labels)            # §3.2
    cross_entropy = F.cross_entropy(student_logits, labels)
    distillation = (student_logits - teacher_logits).square().sum(dim=1).mean()       # equation 2
    return alpha * cross_entropy + (1 - alpha) * distillation                         # equation 3


# ---- AdaDelta (§4.2) -----------------------------------------------------------------------------
class RowAdadelta:
    """torch.optim.Adadelta for an embedding, at the cost of the batch's words, not of all words.

    A word outside the batch has gradient zero: AdaDelta leaves its row alone and decays its two
    averages by rho. That decay is made up for when the word is next met, which is the same.
    (On a GPU the dense update is cheap, and sparse gradients would wait for the CPU.)
    """

    def __init__(self, weight: Tensor, lr: float, rho: float, eps: float = 1e-6):
        self.weight, self.lr, self.rho, self.eps, self.step_count = weight, lr, rho, eps, 0
        self.square, self.delta = torch.zeros_like(weight), torch.zeros_like(weight)  # the averages
        self.met = torch.zeros(len(weight), dtype=torch.long)

    @torch.no_grad()
    def step(self) -> None:
        self.step_count += 1
        grad = self.weight.grad.coalesce()
        rows, g = grad.indices()[0], grad.values()                                    # (U,), (U, E)
        missed = self.rho ** (self.step_count - 1 - self.met[rows]).to(g.dtype)[:, None]
        square = (self.square[rows] * missed).mul_(self.rho).addcmul_(g, g, value=1 - self.rho)
        delta = self.delta[rows] * missed
        change = (delta + self.eps).sqrt_().div_((square + self.eps).sqrt_()).mul_(g)
        self.delta[rows] = delta.mul_(self.rho).addcmul_(change, change, value=1 - self.rho)
        self.square[rows], self.met[rows] = square, self.step_count
        self.weight.index_add_(0, rows, change, alpha=-self.lr)

    def state_dict(self) -> dict:
        return {"square": self.square, "delta": self.delta, "met": self.met, "step": self.step_count}

    def load_state_dict(self, state: dict) -> None:
        self.square, self.delta, self.met = state["square"], state["delta"], state["met"]
        self.step_count = state["step"]


def optimizers(model: BiLSTM, lr: float = 1.0, rho: float = 0.95) -> list:
    """§4.2: AdaDelta, learning rate 1.0, rho 0.95."""
    rows = [model.trained.weight] if model.trained.weight.device.type == "cpu" else []
    model.trained.sparse = bool(rows)
    rest = [p for p in model.parameters() if p.requires_grad and not any(p is r for r in rows)]
    return [torch.optim.Adadelta(rest, lr=lr, rho=rho)] + [RowAdadelta(r, lr, rho) for r in rows]


# ---- The rows ------------------------------------------------------------------------------------
class Data:
    """A TSV in memory: its rows as word numbers, labels (N,), -1 for none, and logits (N, C)."""

    def __init__(self, path: str, number, classes: list[str] | None = None,
                 labelled: bool = False):
        """number: word -> number. classes: None where the labels met here are to name them."""
        self.table = table = read_rows(path)
        self.rows, labels, logits, first = Encoded(table.pair), array("i"), array("f"), {}
        for row in table:
            if row.label or not labelled:
                self.rows.add(row.texts, number)
                logits.extend(row.logits)
                if row.label and row.label not in first:
                    first[row.label] = len(first), row.line
                labels.append(first[row.label][0] if row.label else -1)
        if not len(self.rows):
            raise BadInput(f"{path}: no row left to use "
                           f"({dict(table.dropped) or 'none has a label'})")
        self.classes = classes or name_classes(path, table.logit_names, first)
        for name, (_, line) in first.items():
            if name not in self.classes:
                raise BadInput(f"{path}, line {line}: unknown label {name!r}; expected one of "
                               f"{', '.join(self.classes)}")
        order = torch.tensor([self.classes.index(name) for name in first] + [-1])
        self.labels = order[torch.tensor(np.frombuffer(labels, dtype=np.int32)).long()]
        width = len(table.logits)
        if width and width != len(self.classes):
            raise BadInput(f"{path}, line 1: {width} logits, but the classes are "
                           f"{', '.join(self.classes)}")
        self.logits = torch.tensor(np.frombuffer(logits, dtype=np.float32)).view(-1, width) \
            if width else None

    def to(self, device: torch.device) -> "Data":
        """Ready for batches: all of it on the device, so that no step waits for the CPU."""
        self.rows.freeze(device)
        self.labels = self.labels.to(device)
        self.logits = None if self.logits is None else self.logits.to(device)
        return self

    def take(self, rows: Tensor) -> "Data":
        some, at = copy.copy(self), rows.to(self.labels.device)
        some.rows, some.labels = self.rows.take(rows), self.labels[at]
        some.logits = None if self.logits is None else self.logits[at]
        return some


def name_classes(path: str, logit_names: list[str], first: dict[str, tuple[int, int]]) -> list[str]:
    """The logit columns' names, or the labels' where the columns are only numbered."""
    named = class_order(first)
    numbers = [name for name in named if name.lstrip("-").isdigit()]
    if 0 < len(numbers) < len(named):  # a slip of the pen: name the one met last
        odd = max(first, key=lambda name: first[name])
        raise BadInput(f"{path}, line {first[odd][1]}: unknown label {odd!r} beside "
                       f"{', '.join(n for n in named if n != odd)}")
    if logit_names and (set(named) <= set(logit_names) or len(named) != len(logit_names)):
        named = logit_names
    if len(named) < 2:
        raise BadInput(f"{path}: {len(named)} class(es); expected labels of two at least, or "
                       "logits (--logits)")
    return named


def overlap(train: Data, dev: Data) -> int:
    """How many dev rows stand, word for word, among the labelled training rows."""
    def rows(data: Data, of: Tensor) -> Iterator[tuple[bytes, ...]]:
        ids, sides = data.rows.ids.cpu().numpy(), range(data.rows.sides)
        starts, lengths = data.rows.starts.tolist(), data.rows.lengths.tolist()
        for r in (of * len(sides)).tolist():
            yield tuple(ids[starts[r + s]:starts[r + s] + lengths[r + s]].tobytes() for s in sides)
    known = set(rows(train, (train.labels >= 0).nonzero()[:, 0].cpu()))
    return sum(row in known for row in rows(dev, torch.arange(len(dev.rows))))


def embeddings(vocabulary: dict[str, int], found: dict[str, np.ndarray], seed: int) -> Tensor:
    """(V, E): the words' vectors; uniform in +-0.25 where there is none (DeepLo 2019, §4.2)."""
    width = len(next(iter(found.values()))) if found else 300                         # §4.2
    table = torch.empty(len(vocabulary), width)
    table.uniform_(-0.25, 0.25, generator=torch.Generator().manual_seed(seed))
    for word, vector in found.items():
        table[vocabulary[word]] = torch.from_numpy(vector.copy())
    return table


# ---- One training run (§4.2) ---------------------------------------------------------------------
def batches(rows: Encoded, size: int) -> list[Tensor]:
    """Each row once, in random batches of rows of like length: almost no batch needs packing."""
    length = rows.lengths.view(-1, rows.sides).amax(1)
    order = torch.randperm(len(rows))
    parts = order[torch.argsort(length[order], stable=True)].split(size)
    return [parts[i] for i in torch.randperm(len(parts))]


def train_epoch(model: BiLSTM, data: Data, optimizer: list, size: int, alpha: float,
                title: str) -> float:
    """One pass over the rows; the mean loss. Raises BadInput where a loss is not finite."""
    model.train()
    losses, progress = [], Progress(title, len(data.rows))
    for rows in batches(data.rows, size):
        at = rows.to(data.labels.device, non_blocking=True)
        teacher = None if data.logits is None else data.logits[at]
        step_loss = loss(model(*data.rows.batch(rows)), teacher, data.labels[at], alpha)
        model.zero_grad()
        step_loss.backward()
        for o in optimizer:
            o.step()
        losses.append(step_loss.detach())  # stays on the device: no step waits for it
        progress.add(len(rows))
    losses = torch.stack(losses).cpu()
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        raise BadInput(f"{title}, batch {int(bad[0]) + 1}: the loss is not finite; are the logits "
                       "of a sensible size?")
    return float(losses.mean())


def evaluate(model: BiLSTM, dev: Data) -> dict[str, float]:
    """Accuracy, and for two classes F1 of class 1, as GLUE has it."""
    guess, label = predict(model, dev.rows).argmax(1), dev.labels.cpu()
    guess, label = guess[label >= 0], label[label >= 0]
    scores = {"acc": float((guess == label).double().mean())}
    if len(dev.classes) == 2:
        right = int((guess * label).sum())
        scores["f1"] = 2 * right / max(1, int(guess.sum() + label.sum()))
    return scores


def train(model: BiLSTM, data: Data, devs: dict[str, Data], recipe: dict, args, keep) -> dict:
    """Epochs until dev has not improved for `patience`; `keep` saves the best. The last line's
    figures are returned. State is kept after each epoch: the same command goes on from there."""
    state_path, optimizer = recipe["output"] + ".training.pt", optimizers(model)
    state = {"recipe": recipe, "epoch": 0, "log": [], "best": {"acc": -1.0}, "seconds": 0.0}
    if os.path.exists(state_path):
        old = load(state_path)
        changed = [k for k in recipe if old["recipe"].get(k) != recipe[k]]
        if changed or args.fresh:
            print(f"{state_path}: starting anew ({', '.join(changed) or '--fresh'} changed)")
        else:
            state = old
            model.load_state_dict(state["model"], strict=False)
            for o, s in zip(optimizer, state["optimizer"]):
                o.load_state_dict(s)
            print(f"{state_path}: going on after epoch {state['epoch']}")
    while state["epoch"] < args.epochs and \
            state["epoch"] - state["best"].get("epoch", state["epoch"]) < args.patience:
        state["epoch"] += 1
        torch.manual_seed(args.seed * 100003 + state["epoch"])  # all that is random in an epoch
        start, epoch = time.monotonic(), state["epoch"]
        mean = train_epoch(model, data, optimizer, args.batch_size, recipe["alpha"],
                           f"epoch {epoch}")
        took = time.monotonic() - start
        scores = {name.removeprefix("dev").lstrip("-") + k: v for name, dev in devs.items()
                  for k, v in evaluate(model, dev).items()}
        best = scores["acc"] > state["best"]["acc"]
        state["seconds"] += time.monotonic() - start
        figures = {"epoch": epoch, "loss": round(mean, 5),
                   **{k: round(v, 4) for k, v in scores.items()}, "seconds": round(took, 1)}
        state["log"].append(figures)
        print(f"epoch {epoch:2}  loss {mean:8.4f}  dev " +
              "  ".join(f"{k} {v:.4f}" for k, v in scores.items()) +
              f"  {took:6.1f}s  {len(data.rows) / took:6,.0f} rows/s{'  best' if best else ''}")
        if best:
            state["best"] = {**scores, "epoch": epoch}
            keep()
        with writing(recipe["output"] + ".log.csv") as f:
            text = io.StringIO()
            sheet = csv.DictWriter(text, figures.keys(), lineterminator="\n")
            sheet.writeheader()
            sheet.writerows(state["log"])
            f.write(text.getvalue().encode())
        weights = {k: v for k, v in model.state_dict().items() if k != "frozen.weight"}
        save(state_path, {**state, "model": weights,
                          "optimizer": [o.state_dict() for o in optimizer]})
    os.remove(state_path)
    return {**state["best"], "seconds": state["seconds"]}


def digest(*parts) -> str:
    """A short hash of tensors and text: what tells one set of rows from another."""
    h = hashlib.sha256()
    for part in parts:
        h.update(part.cpu().numpy() if isinstance(part, Tensor) else repr(part).encode())
    return h.hexdigest()[:16]


def read_all(args, source: str, alpha: float) -> tuple[Data, dict[str, Data], dict, Tensor]:
    """Training rows, dev sets by name, vocabulary and embeddings; says what was read."""
    stem = args.data.removesuffix(".tsv")
    beside = {name: stem + name for name in (".dev.tsv", ".dev-mm.tsv", ".test.tsv")}
    beside = {name: path for name, path in beside.items() if os.path.exists(path)}
    beside |= {".dev.tsv": args.dev} if args.dev else {}
    vocabulary: dict[str, int] = defaultdict(lambda: len(vocabulary), {UNKNOWN: 0})
    data = Data(source, vocabulary.__getitem__, labelled=alpha == 1 and not args.logits)
    if alpha < 1 and data.logits is None:
        raise BadInput(f"{source}, line 1: no logits; expected columns logit_0, logit_1, ...; "
                       "teacher_logits.py writes them (--alpha 1 needs none)")
    if data.logits is None and (data.labels < 0).any():
        raise BadInput(f"{source}: some rows have neither a label nor logits")
    read, found = len(vocabulary), {}
    if args.vectors:
        new = {word for path in beside.values() for row in read_rows(path, keep=True)
               for text in row.texts for word in words(text)} - vocabulary.keys()
        found = read_vectors(args.vectors, vocabulary.keys() | new)
        if not found:
            raise BadInput(f"{args.vectors}: no vector for any word of {source}")
        known = len(found.keys() & vocabulary.keys())
        for word in sorted(new & found.keys()):
            vocabulary[word]
    devs = {name[1:-4]: Data(path, lambda word: vocabulary.get(word, 0), data.classes)
            for name, path in beside.items() if "dev" in name}
    for some in [data, *devs.values()]:
        some.to(args.device)
    if "dev" not in devs:
        rows = (data.labels >= 0).nonzero()[:, 0].cpu()
        out = torch.zeros(len(data.rows), dtype=torch.bool)
        out[rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(args.seed))
                 [:max(1, min(len(rows) // 10, 1000))]]] = True
        devs = {"dev": data.take(out.nonzero()[:, 0])} | devs
        data = data.take((~out).nonzero()[:, 0])
        print(f"note     no {stem}.dev.tsv: {len(devs['dev'].rows):,} labelled rows are held out "
              "instead; what was made from them stays, so this dev accuracy flatters")
    dev, same = devs["dev"], overlap(data, devs["dev"])
    if (data.labels.max() if len(data.rows) else -1) < 0 and data.logits is None or \
            (dev.labels < 0).all():
        raise BadInput(f"{args.dev or beside.get('.dev.tsv', source)}: no labelled row for dev")
    top = float(dev.labels[dev.labels >= 0].bincount().max() / (dev.labels >= 0).sum())
    print(f"rows     {len(data.rows):,} for training, {int((data.labels >= 0).sum()):,} of them with "
          f"a label; dev {len(dev.rows):,}, the most frequent class {top:.4f}; {len(data.classes)} "
          f"classes: {', '.join(data.classes)}")
    for some in [data, *devs.values()]:
        for reason, n in some.table.dropped.items():
            print(f"note     {some.table.path}: {n:,} rows left out: {reason}")
    if same:
        print(f"note     {same:,} of {len(dev.rows):,} dev rows stand among the training rows too")
    print(f"words    {read - 1:,} from the training rows" +
          (f", {known / max(1, read - 1):.1%} with a vector; {len(vocabulary) - read:,} more, with a "
           "vector, from dev and test" if found else
           "; vectors at random (the paper starts from word2vec: --vectors FILE)"))
    return data, devs, vocabulary, embeddings(vocabulary, found, args.seed)


def distil(args, source: str, alpha: float, output: str, teacher: str) -> dict:
    """Train one student on the rows of `source`; returns the figures of its best epoch."""
    data, devs, vocabulary, vectors = read_all(args, source, alpha)
    args.batch_size = args.batch_size or (256 if data.table.pair else 50)             # §4.2
    torch.manual_seed(args.seed)
    model = BiLSTM(vectors, len(data.classes), args.hidden, args.fc, data.table.pair, args.dropout)
    total = model.size() + vectors.numel()
    print(f"student  {model.size():,} parameters without embeddings, {total:,} with the trained "
          f"channel; alpha {alpha:g}, {args.device.type}")
    recipe = {"training rows": digest(data.rows.ids, data.rows.lengths, data.labels, data.logits
                                      if data.logits is not None else 0, data.classes),
              "dev rows": digest(*(dev.rows.ids for dev in devs.values())),
              "word vectors": digest(vectors), "alpha": alpha, "output": output,
              **{k: getattr(args, k) for k in ("hidden", "fc", "dropout", "batch_size", "seed")}}
    model.to(args.device)
    best = train(model, data, devs, recipe, args, lambda: save_student(
        output + ".student.pt", model, list(vocabulary), data.classes))
    f1 = f" f1 {best['f1']:.4f}" if "f1" in best else ""
    return {**best, "line": f"result dev acc {best['acc']:.4f}{f1} epoch {best['epoch']} alpha "
            f"{alpha:g} seed {args.seed} seconds {best['seconds']:.0f} teacher {teacher} student "
            f"{output}.student.pt"}


# ---- The steps before it -------------------------------------------------------------------------
# The whole run: teacher, transfer set, logits, student. TODO


def main() -> None:
    parser = argparse.ArgumentParser(description="Distil a teacher into the BiLSTM student.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("data", help="STEM.tsv; STEM.dev.tsv beside it is the dev set")
    add("--logits", help="train on the rows of this TSV, with its logit columns")
    add("--alpha", type=float, default=0.0, help="share of the hard labels in the loss; §4.2: 0")
    add("--dev", help="dev set (default: STEM.dev.tsv, else some rows are held out)")
    add("--vectors", help="word2vec, GloVe or fastText vectors; §4.2: GoogleNews")
    add("--hidden", type=int, default=150, help="LSTM units a direction; §4.2: 150 or 300")
    add("--fc", type=int, default=200, help="ReLU units; §4.2: 200 or 400")
    add("--dropout", type=float, default=0.1, help="ours: the authors' code has it, not the paper")
    add("--batch-size", type=int, help="§4.2: 50, for pairs 256")
    add("--epochs", type=int, default=30, help="at most; ours: as the authors' code has it")
    add("--patience", type=int, default=5, help="epochs without a better dev accuracy; ours")
    add("--seed", type=int, default=0)
    add("--device", help="cuda, mps or cpu")
    add("--fresh", action="store_true", help="make everything anew")
    add("-o", "--output", help="the student's file; its log lies beside it")
    args = parser.parse_args()
    args.device = pick_device(args.device)
    output = (args.output or args.data.removesuffix(".tsv")).removesuffix(".student.pt")
    source = args.logits or args.data
    best = distil(args, source, args.alpha, output, args.logits or "none")
    print(best["line"])


if __name__ == "__main__":
    command(main, kept="finished steps and epochs are kept; the same command goes on from there")
