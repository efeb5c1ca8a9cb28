"""Distillation (§3.2): train the BiLSTM on a teacher's logits; and the paper's whole run (§4).

    python distill.py sample.tsv                           # offline, from nothing, about a minute
    python distill.py sst2.tsv                             # fetches, augments, labels, distils
    python distill.py sst2.tsv --logits sst2.logits.tsv    # a teacher's logits that are at hand
    python distill.py sst2.tsv --alpha 1                   # table 1, row 7: hard labels alone
    python distill.py sst2.tsv --table1                    # rows 6 and 7; --table2: size and speed

In reading order: the loss, AdaDelta, the rows, one training run, the steps before it, the tables.
"""
import argparse
import hashlib
import json
import os
import shutil
import time
import zipfile
from array import array
from collections import Counter, defaultdict
from contextlib import suppress
from itertools import islice
from typing import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import augment
import teacher_logits
from bilstm import (UNKNOWN, BadInput, BiLSTM, Encoded, Progress, class_order, command, hold_out,
                    load, pick_device, predict, read_rows, read_vectors, reading, save,
                    save_student, words, writing)


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
class RowAdadelta(torch.optim.Optimizer):
    """torch.optim.Adadelta for an embedding, at the cost of the batch's words, not of all words.

    A word outside the batch has gradient zero: AdaDelta leaves its row alone and decays its two
    averages by rho. That decay is made up for when the word is next met, which is the same.
    (On a GPU the dense update is cheap, and sparse gradients would wait for the CPU.)
    """

    def __init__(self, weight: Tensor, lr: float, rho: float, eps: float = 1e-6):
        super().__init__([weight], {"lr": lr, "rho": rho, "eps": eps})
        self.state[weight] = {"square": torch.zeros_like(weight), "steps": torch.zeros(1),
                              "delta": torch.zeros_like(weight), "met": torch.zeros(len(weight))}

    @torch.no_grad()
    def step(self) -> None:
        (group,), (weight,) = self.param_groups, self.param_groups[0]["params"]
        rho, eps, state = group["rho"], group["eps"], self.state[weight]
        grad = weight.grad.coalesce()
        state["steps"] += 1
        rows, g = grad.indices()[0], grad.values()                                    # (U,), (U, E)
        missed = rho ** (state["steps"] - 1 - state["met"][rows])[:, None]            # (U, 1)
        square = (state["square"][rows] * missed).mul_(rho).addcmul_(g, g, value=1 - rho)
        delta = state["delta"][rows] * missed
        change = (delta + eps).sqrt_().div_((square + eps).sqrt_()).mul_(g)
        state["delta"][rows] = delta.mul_(rho).addcmul_(change, change, value=1 - rho)
        state["square"][rows], state["met"][rows] = square, state["steps"]
        weight.index_add_(0, rows, change, alpha=-group["lr"])


def optimizers(model: BiLSTM, lr: float = 1.0, rho: float = 0.95) -> list:
    """§4.2: AdaDelta, learning rate 1.0, rho 0.95."""
    rows = [model.trained.weight] if model.trained.weight.device.type == "cpu" else []
    model.trained.sparse = bool(rows)
    rest = [p for p in model.parameters() if p.requires_grad and not any(p is r for r in rows)]
    return [torch.optim.Adadelta(rest, lr=lr, rho=rho)] + [RowAdadelta(r, lr, rho) for r in rows]


# ---- The rows ------------------------------------------------------------------------------------
class Data:
    """A TSV in memory: its rows as word numbers, labels (N,), -1 for none, and logits (N, C)."""

    def __init__(self, path: str, number: Callable[[str], int], classes: list[str] | None = None,
                 labelled: bool = False, held: bool | None = None):
        """number: word -> number. classes: None where the labels met here are to name them.

        labelled: only the labelled rows. held: every tenth of those (True), all but them (False).
        """
        self.table = table = read_rows(path)
        self.rows, labels, logits, first = Encoded(table.pair), array("i"), array("f"), {}
        for row, out in hold_out(table):
            if (row.label or not labelled) and held in (None, out):
                self.rows.add(row.texts, number)
                logits.extend(row.logits)
                if row.label and row.label not in first:
                    first[row.label] = len(first), row.line
                labels.append(first[row.label][0] if row.label else -1)
        if not len(self.rows):
            reason = dict(table.dropped) or f"{'fewer than ten' if held else 'none'} with a label"
            raise BadInput(f"{path}: no row left to use ({reason})")
        self.classes = classes or name_classes(path, table.logit_names, first)
        for name, (_, line) in first.items():
            if name not in self.classes:
                raise BadInput(f"{path}, line {line}: unknown label {name[:80]!r}; expected one of "
                               f"{', '.join(self.classes)[:200]}")
        order = torch.tensor([self.classes.index(name) for name in first] + [-1])
        self.labels = order[torch.tensor(np.frombuffer(labels, dtype=np.int32)).long()]
        width = len(table.logits)
        if width and width != len(self.classes):
            raise BadInput(f"{path}, line 1: {width} logits, but the classes are "
                           f"{', '.join(self.classes)[:200]}")
        self.logits = torch.tensor(np.frombuffer(logits, dtype=np.float32)).view(-1, width) \
            if width else None

    def freeze(self, device: torch.device) -> None:
        """Ready for batches: all of it on the device, so that no step waits for the CPU."""
        self.rows.freeze(device)
        self.labels = self.labels.to(device)
        self.logits = None if self.logits is None else self.logits.to(device)


def name_classes(path: str, logit_names: list[str], first: dict[str, tuple[int, int]]) -> list[str]:
    """The logit columns' names, or the labels' where the columns are only numbered."""
    named = class_order(first)  # numbers come first: a name among them is a slip of the pen
    numbers = sum(name.lstrip("-").isdigit() for name in named)
    if 0 < numbers < len(named):
        odd = named.pop(-1 if 2 * numbers >= len(named) else 0)
        raise BadInput(f"{path}, line {first[odd][1]}: unknown label {odd[:80]!r} beside "
                       f"{', '.join(named)[:80]}")
    if logit_names and (set(named) <= set(logit_names) or len(named) != len(logit_names)):
        named = logit_names
    if len(named) < 2:
        raise BadInput(f"{path}: {len(named)} class(es); expected labels of two at least, or "
                       "logits (--logits)")
    return named


def overlap(train: Data, dev: Data) -> int:
    """How many dev rows, of known words all, stand word for word among the training rows."""
    def rows(data: Data) -> Iterator[tuple[bytes, ...]]:
        ids, sides = data.rows.ids.cpu().numpy(), data.rows.sides
        cuts = [ids[a:a + n] for a, n in zip(data.rows.starts.tolist(), data.rows.lengths.tolist())]
        for row in zip(*(cuts[s::sides] for s in range(sides))):
            yield tuple(part.tobytes() for part in row if part.all())
    counts = Counter(row for row in rows(dev) if len(row) == dev.rows.sides)
    return sum(counts[row] for row in {row for row in rows(train) if row in counts})


def embeddings(vocabulary: dict[str, int], found: dict[str, np.ndarray], seed: int) -> Tensor:
    """(V, E): the words' vectors; uniform in +-0.25 where there is none (DeepLo 2019, §4.2)."""
    width = len(next(iter(found.values()))) if found else 300                         # §4.2
    table = torch.empty(len(vocabulary), width)
    table.uniform_(-0.25, 0.25, generator=torch.Generator().manual_seed(seed))
    for word, vector in found.items():
        table[vocabulary[word]] = torch.from_numpy(vector)
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


def train(model: BiLSTM, data: Data, devs: dict[str, Data], recipe: dict, args, base: str,
          keep: Callable[[], None]) -> dict:
    """Epochs until dev has not improved for `patience`; `keep` saves the best so far.

    Returns the best epoch's figures. The state is kept after each epoch, and all that is random
    in one is drawn from (seed, epoch): a run that was killed ends as one that was not.
    """
    optimizer = optimizers(model)
    state = resume(base + ".training.pt", recipe, args.fresh, model, optimizer)
    best = state["best"]
    while state["epoch"] < args.epochs and state["epoch"] - best["epoch"] < args.patience:
        epoch = state["epoch"] = state["epoch"] + 1
        torch.manual_seed(args.seed * 100003 + epoch)
        start = time.monotonic()
        mean = train_epoch(model, data, optimizer, args.batch_size, recipe["alpha"],
                           f"epoch {epoch}")
        took = time.monotonic() - start
        scores = {("" if name == "dev" else "mm-") + k: v for name, dev in devs.items()
                  for k, v in evaluate(model, dev).items()}
        better = scores["acc"] > best["acc"]
        print(f"epoch {epoch:2}  loss {mean:8.4f}  dev " +
              "  ".join(f"{k} {v:.4f}" for k, v in scores.items()) + f"  {took:6.1f}s  "
              f"{len(data.rows) / took:6,.0f} rows/s{'  best' if better else ''}", flush=True)
        if better:
            best.update(scores, epoch=epoch)
            keep()
        state["seconds"] += took
        state["log"].append([epoch, f"{mean:.5f}", *(f"{v:.4f}" for v in scores.values()),
                             f"{took:.1f}"])
        log = [["epoch", "loss", *("dev_" + k for k in scores), "seconds"], *state["log"]]
        with writing(base + ".log.csv") as f:
            f.writelines(",".join(map(str, line)).encode() + b"\n" for line in log)
        weights = {k: v for k, v in model.state_dict().items() if k != "frozen.weight"}
        save(base + ".training.pt",
             {**state, "model": weights, "optimizer": [o.state_dict() for o in optimizer]})
    return {**best, "seconds": state["seconds"]}


def resume(path: str, recipe: dict, fresh: bool, model: BiLSTM, optimizer: list) -> dict:
    """The state that an interrupted run of the same recipe left in `path`, else a new one."""
    state = {"recipe": recipe, "epoch": 0, "log": [], "best": {"acc": -1.0, "epoch": 0},
             "seconds": 0.0}
    if fresh or not os.path.exists(path):
        return state
    with reading(path, "the state of an interrupted run; remove it, or use --fresh"):
        old = load(path)
        changed = [k for k in recipe if old["recipe"].get(k) != recipe[k]]
        if changed:
            print(f"note     {path} is from other settings ({', '.join(changed)}): starting anew")
            return state
        model.load_state_dict(old["model"], strict=False)
        for o, saved in zip(optimizer, old["optimizer"]):
            o.load_state_dict(saved)
        print(f"note     {path}: going on after epoch {old['epoch']}")
        return {key: old[key] for key in state}


def read_all(args, source: str, alpha: float) -> tuple[Data, dict[str, Data], dict, Tensor]:
    """Training rows, dev sets by name, vocabulary and embeddings."""
    stem = args.data.removesuffix(".tsv")
    beside = {name: f"{stem}.{name}.tsv" for name in ("dev", "dev-mm", "test")
              if os.path.exists(f"{stem}.{name}.tsv")} | ({"dev": args.dev} if args.dev else {})
    vocabulary: dict[str, int] = defaultdict(lambda: len(vocabulary), {UNKNOWN: 0})
    data = Data(source, vocabulary.__getitem__, None, alpha == 1 and not args.logits,
                None if "dev" in beside else False)
    if data.logits is None and (alpha < 1 or (data.labels < 0).any()):
        raise BadInput(f"{source}, line 1: no logits; expected columns logit_0, logit_1, ... as "
                       "teacher_logits.py writes them (--alpha 1 needs none)")
    read, found = len(vocabulary), {}
    if args.vectors:
        others = [*beside.values(), *[source] * ("dev" not in beside)]  # or what is held out
        new = {word for path in others for row in read_rows(path, keep=True)
               for text in row.texts for word in words(text)} - vocabulary.keys()
        found = read_vectors(args.vectors, vocabulary.keys() | new)
        if not found:
            raise BadInput(f"{args.vectors}: no vector for any word of {source}")
        for word in sorted(new & found.keys()):
            vocabulary[word] = len(vocabulary)
    new = len(vocabulary) - read
    print(f"words    {read - 1:,} in the training rows" +
          (f", {(len(found) - new) / (read - 1):.1%} of them with a vector; {new:,} more, with a "
           "vector, from dev and test" if found else
           "; their vectors start at random (the paper's are word2vec: --vectors FILE)"))
    devs = {name: Data(beside.get(name, source), lambda word: vocabulary.get(word, 0),
                       data.classes, held=None if name in beside else True)
            for name in ["dev"] + ["dev-mm"] * ("dev-mm" in beside)}
    for some in [data, *devs.values()]:
        if some.table.pair != data.table.pair:
            raise BadInput(f"{some.table.path}: pairs beside single sentences, or {source} is")
        if some is not data and (some.labels < 0).all():
            raise BadInput(f"{some.table.path}: no row has a label, and dev needs some")
        some.freeze(args.device)
    if "dev" not in beside:
        print(f"note     no {stem}.dev.tsv: {len(devs['dev'].rows):,} labelled rows, each tenth, "
              "are held out instead;\n         what is like them stays in training, so this dev "
              "accuracy flatters")
    return data, devs, vocabulary, embeddings(vocabulary, found, args.seed)


def report(data: Data, devs: dict[str, Data]) -> None:
    """What was read; and a dev set that says little is named."""
    dev = devs["dev"]
    counts = dev.labels[dev.labels >= 0].bincount()
    print(f"rows     {len(data.rows):,} for training, {int((data.labels >= 0).sum()):,} of them "
          f"with a label; classes {', '.join(data.classes)}\ndev      {len(dev.rows):,} rows, the "
          f"most frequent class {float(counts.max() / counts.sum()):.4f}")
    for table in {some.table.path: some.table for some in [data, *devs.values()]}.values():
        table.tell()
    same = overlap(data, dev)
    if same:
        print(f"note     {same:,} of the dev rows stand among the training rows too")


def distil(args, source: str, alpha: float, output: str, teacher: str) -> dict:
    """Train one student on the rows of `source`; returns the figures of its best epoch."""
    data, devs, vocabulary, vectors = read_all(args, source, alpha)
    report(data, devs)
    args.batch_size = args.batch_size or (256 if data.table.pair else 50)             # §4.2
    torch.manual_seed(args.seed)
    model = BiLSTM(vectors, len(data.classes), args.hidden, args.fc, data.table.pair, args.dropout)
    print(f"student  {model.size():,} parameters without embeddings; alpha {alpha:g}, batch "
          f"{args.batch_size}, {args.device.type}", flush=True)
    recipe = {"training rows": teacher_logits.digest([source]),
              "dev rows": teacher_logits.digest([dev.table.path for dev in devs.values()]),
              "word vectors": hashlib.sha256(vectors.numpy()).hexdigest(), "alpha": alpha,
              "device": args.device.type, "threads": torch.get_num_threads(),
              **{k: getattr(args, k) for k in ("hidden", "fc", "dropout", "batch_size", "seed")}}
    best = train(model.to(args.device), data, devs, recipe, args, output, lambda: save_student(
        output + ".student.pt", model, list(vocabulary), data.classes))
    f1 = f" f1 {best['f1']:.4f}" if "f1" in best else ""
    print(f"result dev acc {best['acc']:.4f}{f1} epoch {best['epoch']} alpha {alpha:g} seed "
          f"{args.seed} seconds {best['seconds']:.0f} teacher {teacher} student "
          f"{output}.student.pt", flush=True)
    return best


# ---- The steps before it -------------------------------------------------------------------------
SCRATCH_N_ITER, SCRATCH_EPOCHS = 4, 6  # ours: a quick look, in about a minute on the sample
GLUE_URL = "https://dl.fbaipublicfiles.com/glue/data/"
GLUE = {  # archive, sha256, its folder, our ending -> its file
    "sst2": ("SST-2.zip", "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa",
             "SST-2", {".dev": "dev", ".test": "test", "": "train"}),
    "qqp": ("QQP-clean.zip", "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0",
            "QQP", {".dev": "dev", ".test": "test", "": "train"}),
    "mnli": ("MNLI.zip", "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633",
             "MNLI", {".dev": "dev_matched", ".test": "test_matched", ".dev-mm": "dev_mismatched",
                      ".test-mm": "test_mismatched", "": "train"})}


def fetch_glue(path: str) -> None:
    """sst2.tsv, qqp.tsv, mnli.tsv and their dev and test sets from GLUE's own archives."""
    stem = path.removesuffix(".tsv")
    if os.path.exists(path) or os.path.basename(stem) not in GLUE:
        return
    name, sha256, folder, files = GLUE[os.path.basename(stem)]
    archive = os.path.join(torch.hub.get_dir(), "glue-" + name)
    try:
        if not os.path.exists(archive) or teacher_logits.digest([archive]) != sha256:
            print(f"fetching {GLUE_URL}{name}")
            os.makedirs(torch.hub.get_dir(), exist_ok=True)
            if not teacher_logits.download(GLUE_URL + name, archive, sha256):
                raise BadInput("it is no longer there")
        with zipfile.ZipFile(archive) as z:
            for ending, member in files.items():  # the training rows last: all or nothing
                if not os.path.exists(stem + ending + ".tsv"):
                    with z.open(f"{folder}/{member}.tsv") as rows, \
                            writing(stem + ending + ".tsv") as f:
                        shutil.copyfileobj(rows, f)
    except Exception as error:  # of a damaged archive: a dozen kinds
        raise BadInput(f"{path}: no such file, and it cannot be fetched ({str(error)[:200]}); "
                       f"bring {GLUE_URL}{name} here and unpack {folder}/train.tsv as {path}, "
                       f"dev.tsv as {stem}.dev.tsv. sample.tsv works offline") from None


def notes(data: str) -> dict[str, dict]:
    """STEM.made.json: for each file what it was made from, and the sha256 it then had."""
    with suppress(Exception):  # none yet, or not ours
        with open(data.removesuffix(".tsv") + ".made.json", encoding="utf-8") as f:
            return {name: {"recipe": dict(note["recipe"]), "sha256": note["sha256"]}
                    for name, note in json.load(f).items()}
    return {}


def origin(path: str, args) -> dict | None:
    """What the file was made from; {} where somebody else made it, None where nobody has yet."""
    if args.fresh or not os.path.exists(path):
        return None
    note = notes(args.data).get(os.path.basename(path))
    if note and note["sha256"] == teacher_logits.digest([path]):
        return note["recipe"]
    print(f"         {path} is not of this run's making: taken as it is (--fresh makes anew)")
    return {}


def made(path: str, recipe: dict, args, make: Callable[[], None]) -> None:
    """Make the file, unless it lies there and the same recipe made it, or somebody else did."""
    old = origin(path, args)
    if old == {}:
        return
    if old == recipe:
        print(f"         {path} lies there, made from the same: taken up")
        return
    if old:
        changed = [k for k in recipe if old.get(k) != recipe[k]]
        print(f"         {path} was made from another {', '.join(changed)}: made anew")
    make()
    new = {os.path.basename(path): {"recipe": recipe, "sha256": teacher_logits.digest([path])}}
    with writing(args.data.removesuffix(".tsv") + ".made.json") as f:
        f.write(json.dumps(notes(args.data) | new, indent=1).encode())


def choose_teacher(args, logits: str) -> tuple[str, str]:
    """The teacher's name and folder. A default may give way to `scratch`, loudly; a wish not."""
    known = teacher_logits.TEACHERS.get(os.path.basename(args.data.removesuffix(".tsv")))
    name = args.teacher or (known.hub if known else "scratch")
    step("teacher", f"python teacher_logits.py --fine-tune {args.data} --teacher scratch"
         if name == "scratch" else f"{name}, a folder here, or from the hub")
    try:
        return name, teacher_logits.prepare(name, args.data, args.device)
    except teacher_logits.Unreachable as error:
        if args.teacher:
            raise
        if os.path.exists(logits) and not args.fresh:  # hours of work, perhaps: never replaced
            raise BadInput(f"{error}; {logits} lies there: --logits {logits} trains on it") \
                from None
        print(f"\n!!!!!!!! {error}\n!!!!!!!! Going on with --teacher scratch, a small BERT that is "
              "trained here: its figures are not BERT's.\n")
        return "scratch", teacher_logits.prepare("scratch", args.data, args.device)


def whole_run(args) -> tuple[str, str, dict | None]:
    """Teacher, transfer set, logits, where they are missing -> logits, teacher, its dev score.

    The transfer set and the teacher do not depend on --seed: labelling takes hours.
    """
    stem, order = args.data.removesuffix(".tsv"), args.label_order and args.label_order.split(",")
    transfer, logits, dev = (stem + end for end in (".transfer.tsv", ".logits.tsv", ".dev.tsv"))
    old = origin(logits, args)
    if old == {}:
        return logits, logits, None
    name, folder = choose_teacher(args, logits)
    score, tries, dev = None, args.n_iter, args.dev or dev
    if os.path.exists(dev) and (args.table1 or old is None):
        score = {"acc": teacher_logits.accuracy(folder, dev, order, args.device)}
        print(f"teacher  {name}: dev acc {score['acc']:.4f}")
    if name == "scratch":
        tries = SCRATCH_N_ITER if tries is None else tries
        args.epochs = args.epochs or SCRATCH_EPOCHS
        print(f"note     for a teacher from scratch: n_iter {tries}, at most {args.epochs} epochs")
    step("augment", f"python augment.py {args.data}" +
         ("" if tries is None else f" --n-iter {tries}"))
    counted = teacher_logits.digest([args.data, augment.COUNTS])
    made(transfer, {"rows": counted, "n_iter": tries}, args,
         lambda: augment.transfer_set(args.data, transfer, tries))
    step("label", f"python teacher_logits.py {transfer} --teacher {folder}" +
         f" --label-order {args.label_order}" * bool(order))
    made(logits, {"rows": teacher_logits.digest([transfer]), "label order": order,
                  "teacher": teacher_logits.digest(teacher_logits.files(folder))}, args,
         lambda: teacher_logits.label(transfer, logits, folder, order, args.device))
    return logits, name, score


def step(name: str, alone: str) -> None:
    """Name a step, with the command that does it alone."""
    print(f"\n== {name}: {alone}", flush=True)


def student_alone(args, **own) -> str:
    """The command that trains one student, with the flags that were given for it, and its own."""
    flags = (own | args.given | own).items()
    return f"python distill.py {args.data}" + "".join(
        f" --{name.replace('_', '-')} {value}" for name, value in flags if value is not None)


# ---- The tables (§5) -----------------------------------------------------------------------------
PAPER = {"sst2": ("94.9", "90.7", "86.7"), "qqp": ("72.1/89.3", "68.2/88.1", "63.7/86.2"),
         "mnli": ("86.7/85.9", "73.0/72.6", "68.7/68.3")}  # table 1, rows 1, 6 and 7


def table1(args, teacher: str, pair: bool, figures: list[dict | None]) -> None:
    """Rows 6 and 7 on these rows' dev set, the paper's figures (GLUE's test sets) beside them."""
    name = os.path.basename(args.data).removesuffix(".tsv")
    task, paper = (name, PAPER[name]) if name in PAPER else ("SST-2", PAPER["sst2"])
    print(f"\n{'table 1':32}{'here, dev':>16}{'paper, ' + task + ' test':>24}")
    rows = (f"teacher, {teacher}"[:31], "6 distilled BiLSTM", "7 BiLSTM, hard labels")
    for row, scores, reported in zip(rows, figures, paper):
        shown = "not known" if scores is None else "/".join(
            f"{100 * scores[k]:.1f}" for k in ("f1", "acc", "mm-acc")
            if k in scores and (pair or k == "acc"))
        print(f"{row:32}{shown:>16}{reported:>24}")
    if figures[0] and figures[0]["acc"] <= figures[2]["acc"]:
        print("note     this teacher is no better than the hard-label student: there is little to "
              "distil, and\n         what row 6 gains over row 7 is what augmentation gives")


def table2(args) -> None:
    """Size and speed here, of a BERT-large and the student with random weights, on real rows."""
    table = read_rows(args.data)
    some, total = list(islice(table, 2000)), sum(1 for _ in table)
    vocabulary: dict[str, int] = defaultdict(lambda: len(vocabulary))
    rows = Encoded(table.pair)
    for row in some:
        rows.add(row.texts, vocabulary.__getitem__)
    rows.freeze(args.device)
    student = BiLSTM(torch.rand(len(vocabulary), 300), 2, args.hidden, args.fc, table.pair)
    small = teacher_logits.scratch(some)  # its pieces; the shape is BERT-large's, 335M parameters
    large = small._replace(config=small.config | {
        "vocab_size": 30522, "hidden_size": 1024, "num_hidden_layers": 24,
        "num_attention_heads": 16, "intermediate_size": 4096, "max_position_embeddings": 512})
    bert = teacher_logits.build(large, 2, ("",)).to(args.device)
    pieces = [teacher_logits.WordPiece(small.vocabulary).encode(row.texts) for row in some[:200]]
    student = student.to(args.device)
    padded = teacher_logits.batch(pieces[:32], args.device, teacher_logits.LONGEST)

    @torch.inference_mode()
    def seconds(work: Callable[[], Tensor], n: int) -> float:
        work().cpu()  # a first time, to warm up
        start = time.monotonic()
        work().cpu()
        return (time.monotonic() - start) * total / n
    lines = [("BERT-large, padded to 128", bert.eval(), "335M   1060 s",
              seconds(lambda: bert(*padded), len(padded[0]))),
             ("BERT-large, rows by length", bert, "",
              seconds(lambda: teacher_logits.predict(bert, pieces), len(pieces))),
             ("BiLSTM, without embeddings", student, "0.96M  2.44 s",
              seconds(lambda: predict(student, rows), len(rows)))]
    print(f"table 2: seconds for the {total:,} rows of {args.data}, scaled from {len(padded[0])}, "
          f"{len(pieces)} and {len(rows):,}\n{args.device.type}, {torch.get_num_threads()} "
          f"threads {'parameters':>21}{'x':>6}{'seconds':>12}{'x':>6}    paper: one V100")
    for name, model, paper, took in lines:
        size = student.size() if model is student else sum(p.numel() for p in bert.parameters())
        print(f"{name:29}{size:12,}{size / student.size():6.0f}{took:12.2f}"
              f"{took / lines[2][3]:6.0f}    {paper}")


# ---- The command line ----------------------------------------------------------------------------
def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Distil a teacher into the BiLSTM student.")
    add = parser.add_argument
    add("data", help="STEM.tsv; STEM.dev.tsv beside it is the dev set")
    add("--logits", help="train on the rows of this TSV, with its logit columns")
    add("--alpha", type=float, default=0.0, help="share of the hard labels in the loss (§4.2: 0)")
    add("--teacher", help="a hub name, a folder or scratch (default: by the stem)")
    add("--label-order", help="the teacher's outputs, in order: contradiction,entailment,neutral")
    add("--n-iter", type=int, help="tries a row of augment.py (§4: 20, for pairs 10)")
    add("--table1", action="store_true", help="the hard-label student too, and both in a table")
    add("--table2", action="store_true", help="size and speed, and nothing else")
    add("--dev", help="dev set (default: STEM.dev.tsv, else some rows are held out)")
    add("--vectors", help="word2vec, GloVe or fastText vectors (§4.2: GoogleNews')")
    add("--hidden", type=int, default=150, help="LSTM units a direction (§4.2: 150 or 300)")
    add("--fc", type=int, default=200, help="ReLU units (§4.2: 200 or 400)")
    add("--dropout", type=float, default=0.1, help="ours, 0.1: the authors' code, not the paper")
    add("--batch-size", type=int, help="§4.2: 50, for pairs 256")
    add("--epochs", type=int, help="at most (ours, 30: the authors' code; scratch: see its note)")
    add("--patience", type=int, default=5,
        help="epochs without a better dev accuracy (ours, 5: 3 lost 0.6 points in one run)")
    add("--seed", type=int, default=0)
    add("--device", help="cuda, mps or cpu")
    add("--fresh", action="store_true",
        help="make all anew but a teacher trained alike; to go on after a stop, leave it out")
    add("-o", "--output", help="OUTPUT.student.pt and OUTPUT.log.csv (default: the stem)")
    args = parser.parse_args()
    limits = {"alpha": 1, "dropout": 0.99, "hidden": 1 << 14, "fc": 1 << 14, "epochs": 1 << 20,
              "patience": 1 << 20, "batch_size": 1 << 20, "seed": 1 << 32, "n_iter": 1 << 20}
    for name, high in limits.items():
        value, low = getattr(args, name), int(name not in ("alpha", "dropout", "seed", "n_iter"))
        if value is not None and not low <= value <= high:
            raise BadInput(f"--{name.replace('_', '-')} {value}: expected {low} to {high}")
    steps = "data", "logits", "teacher", "label_order", "n_iter", "table1", "table2", "fresh"
    args.given = {k: v for k, v in vars(args).items()
                  if k not in steps and v != parser.get_default(k)}
    return args


def main() -> None:
    args = arguments()
    args.device, source, teacher, score = pick_device(args.device), args.data, "none", None
    output = (args.output or args.data).removesuffix(".tsv").removesuffix(".student.pt")
    if not os.access(os.path.dirname(output) or ".", os.W_OK):
        raise BadInput(f"{output}: there is no such folder, or nothing can be written in it")
    asked = args.epochs
    if not args.data.endswith(".tsv") or args.table1 and args.alpha == 1:
        raise BadInput("expected a file that ends in .tsv, and with --table1 an --alpha below 1")
    for path in filter(None, (args.dev, args.vectors)):  # before hours of labelling
        if not os.path.isfile(path):
            raise BadInput(f"{path}: no such file")
    if not args.logits:
        fetch_glue(args.data)
    table = read_rows(args.data) if args.table1 or not args.logits else None
    if args.table2:
        return table2(args)
    if args.logits:
        source = teacher = args.logits
    elif args.alpha < 1:
        source, teacher, score = whole_run(args)
        step("distil", student_alone(args, logits=source, epochs=args.epochs))
    args.epochs = args.epochs or 30
    student = distil(args, source, args.alpha, output, teacher)
    if args.table1:
        step("hard labels", student_alone(args, alpha=1, output=output + ".hard"))
        args.logits, args.epochs = None, asked or 30
        hard = distil(args, args.data, 1, output + ".hard", "none")
        table1(args, teacher, table.pair, [score, student, hard])
    for base in [output, output + ".hard"][:1 + args.table1]:  # until here a stop costs no epoch
        with suppress(FileNotFoundError):
            os.remove(base + ".training.pt")


if __name__ == "__main__":
    command(main, kept="finished steps and epochs are kept; the same command goes on from there")
