"""The teacher: BERT, fetched by torch.hub or trained here, its logits for all rows (§3.1, §4).

    python teacher_logits.py sst2.transfer.tsv                        # -> sst2.logits.tsv
    python teacher_logits.py sst2.transfer.tsv --teacher scratch      # no network: a small BERT
    python teacher_logits.py --fine-tune sst2.tsv --teacher google-bert/bert-large-uncased  # §4
    torchrun --nproc-per-node=8 teacher_logits.py sst2.transfer.tsv   # several GPUs or machines

In reading order: WordPiece, BERT, a checkpoint's three files, the hub, training (§4), labelling.
Left out on purpose: models that are not BERT, half precision, gradient accumulation.

Letters: B rows, T pieces, D width, C classes.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import time
import unicodedata
from collections import Counter, namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from glob import escape, glob
from itertools import islice
from typing import Callable
from urllib.request import Request, urlopen

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bilstm import (BadInput, Progress, Row, class_order, command, hold_out, load, pick_device,
                    read_rows, reading, save, span, writing)


# By the data's stem: a name on the hub, and what its outputs stand for. ours: bert-base, which a
# laptop can bear; the paper's size is yoshitomo-matsubara/bert-large-uncased-sst2, -qqp, -mnli.
Known = namedtuple("Known", "hub labels")
TEACHERS = {"sst2": Known("textattack/bert-base-uncased-SST-2", ["0", "1"]),
            "qqp": Known("textattack/bert-base-uncased-QQP", ["0", "1"]),
            "mnli": Known("textattack/bert-base-uncased-MNLI",
                          ["contradiction", "entailment", "neutral"])}
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # torchrun's

# ---- WordPiece -----------------------------------------------------------------------------------
LONGEST = 128  # pieces a row. ours: as GLUE's own scripts; few rows of QQP and MNLI are longer
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df"
                       "\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f]")
Pieces = tuple[list[int], int]  # ids, and how many of them make up [CLS] a [SEP]


@lru_cache(maxsize=None)
def character(c: str, uncased: bool) -> str:
    """What becomes of a character; words are then what stands between blanks."""
    kind = unicodedata.category(c)
    if kind in ("Zs", "Zl", "Zp") or c in "\t\n\r":
        return " "
    if kind in ("Cc", "Cf", "Co") or c == "\ufffd" or uncased and kind == "Mn":
        return ""        # control characters; accents, which NFD split from their letters
    if kind[0] == "P" or c.isascii() and not c.isalnum() or IDEOGRAPH.match(c):
        return f" {c} "  # $ + < = > ^ ` | ~ are punctuation here
    return c.lower() if uncased else c


class WordPiece:
    """BERT's tokenizer; uncased where no piece of its vocabulary holds a capital letter."""

    def __init__(self, vocabulary: list[str], longest: int = LONGEST):
        self.number = {piece: i for i, piece in enumerate(vocabulary)}
        self.uncased = not re.search("[A-Z]", re.sub(r"\[\w+\]", "", " ".join(vocabulary)))
        self.longest = min(LONGEST, longest)
        self.pieces = lru_cache(maxsize=1 << 18)(self.pieces)

    def split(self, text: str) -> list[str]:
        """Words and single punctuation marks: "Café's [MASK]" -> cafe ' s [MASK]"""
        out: list[str] = []
        for part in re.split(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])", text):
            if part not in SPECIAL:
                part = unicodedata.normalize("NFD", part) if self.uncased else part
                part = "".join(character(c, self.uncased) for c in part)
            out += part.split()
        return out

    def pieces(self, word: str) -> list[int]:
        """The longest piece that fits, again and again: unaffable -> un ##aff ##able"""
        found, at, end = [], 0, len(word) if len(word) <= 100 else 0  # 100: BERT's own limit
        while at < end:
            piece = self.number.get(("##" if at else "") + word[at:end])
            if piece is None:
                end -= 1
            else:
                found, at, end = found + [piece], end, len(word)
        return found if at == len(word) else [self.number["[UNK]"]]

    def encode(self, texts: tuple[str, ...]) -> Pieces:
        """[CLS] a [SEP], or [CLS] a [SEP] b [SEP]; of a pair the longer is shortened first."""
        sides = [[i for word in self.split(text) for i in self.pieces(word)] for text in texts]
        shorter_first = sorted(sides, key=len)
        while sum(map(len, sides)) > self.longest - 1 - len(sides):
            max(shorter_first, key=len).pop()  # once they are of one length: in turns
        sep = self.number["[SEP]"]
        return ([self.number["[CLS]"]] + [i for side in sides for i in [*side, sep]],
                len(sides[0]) + 2)


# ---- BERT ----------------------------------------------------------------------------------------
DROPOUT = 0.1  # while it trains; BERT's own


def named(**modules: nn.Module) -> nn.ModuleDict:
    """Nested, these give the parameters the names that the hub's checkpoints have."""
    return nn.ModuleDict(modules)


class Layer(nn.Module):
    """Attention, then two linear maps of each piece; each is added to its input and normalised."""

    def __init__(self, config: dict):
        super().__init__()
        d, inner, eps = (config[k] for k in ("hidden_size", "intermediate_size", "layer_norm_eps"))
        self.heads = config["num_attention_heads"]
        self.attention = named(
            self=named(query=nn.Linear(d, d), key=nn.Linear(d, d), value=nn.Linear(d, d)),
            output=named(dense=nn.Linear(d, d), LayerNorm=nn.LayerNorm(d, eps)))
        self.intermediate = named(dense=nn.Linear(d, inner))
        self.output = named(dense=nn.Linear(inner, d), LayerNorm=nn.LayerNorm(d, eps))

    def forward(self, x: Tensor, mask: Tensor | None, read: int) -> Tensor:
        """x (B, T, D) -> the new states of the first `read` pieces (B, read, D)."""
        own, after, p = self.attention.self, self.attention.output, DROPOUT * self.training
        q, k, v = (linear(y).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, ..)
                   for linear, y in ((own.query, x[:, :read]), (own.key, x), (own.value, x)))
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
        h = after.dense(h.transpose(1, 2).flatten(2))                        # (B, read, D)
        x = after.LayerNorm(x[:, :read] + F.dropout(h, p))
        h = self.output.dense(F.gelu(self.intermediate.dense(x)))
        return self.output.LayerNorm(x + F.dropout(h, p))


class Bert(nn.Module):
    """BERT for sequence classification: the last state of [CLS] -> tanh -> linear -> logits."""

    def __init__(self, config: dict, classes: int):
        super().__init__()
        d, layers = config["hidden_size"], range(config["num_hidden_layers"])
        self.bert = named(
            embeddings=named(
                word_embeddings=nn.Embedding(config["vocab_size"], d),
                position_embeddings=nn.Embedding(config["max_position_embeddings"], d),
                token_type_embeddings=nn.Embedding(config["type_vocab_size"], d),
                LayerNorm=nn.LayerNorm(d, config["layer_norm_eps"])),
            encoder=named(layer=nn.ModuleList(Layer(config) for _ in layers)),
            pooler=named(dense=nn.Linear(d, d)))
        self.classifier = nn.Linear(d, classes)

    def forward(self, ids: Tensor, types: Tensor, mask: Tensor | None) -> Tensor:
        """ids, types (B, T), mask (B, 1, 1, T) or None -> logits (B, C)."""
        e, p = self.bert.embeddings, DROPOUT * self.training
        x = e.word_embeddings(ids) + e.token_type_embeddings(types)          # (B, T, D)
        x = F.dropout(e.LayerNorm(x + e.position_embeddings.weight[:ids.shape[1]]), p)
        *lower, last = self.bert.encoder.layer
        for layer in lower:
            x = layer(x, mask, x.shape[1])
        x = last(x, mask, 1)[:, 0]        # (B, D): only [CLS] is read, so only [CLS] is worked out
        return self.classifier(F.dropout(torch.tanh(self.bert.pooler.dense(x)), p))


def batch(rows: list[Pieces], device: torch.device, width: int = 0) -> tuple:
    """ids, types (B, T), and the mask (B, 1, 1, T), False on padding; None where there is none."""
    lengths = np.array([len(ids) for ids, _ in rows])
    ids, types = np.zeros((2, len(rows), max(width, lengths.max())), dtype=np.int64)
    for i, (row, first) in enumerate(rows):
        ids[i, :len(row)] = row
        types[i, first:] = 1
    mask = np.arange(ids.shape[1]) < lengths[:, None]
    mask = None if mask.all() else torch.from_numpy(mask)[:, None, None].to(device)
    return torch.from_numpy(ids).to(device), torch.from_numpy(types).to(device), mask


# ours: so many pieces a batch, padding counted, are full speed on two cores and on a GPU. One rule
# everywhere: a logit's last digits depend on how batches are cut, and on the threads that share one
# product; so on a CPU each batch has one thread, and the cores work on several batches at a time.
BATCH_PIECES = 4096


def predict(model: Bert, rows: list[Pieces], seen: Callable = lambda n: None) -> Tensor:
    """Logits (B, C) on the CPU, in the rows' order; batches are made of rows of like length."""
    device, threads = model.classifier.weight.device, torch.get_num_threads()
    order, parts = sorted(range(len(rows)), key=lambda i: -len(rows[i][0])), []
    while at := order[sum(map(len, parts)):]:
        parts.append(at[:BATCH_PIECES // len(rows[at[0]][0])])

    @torch.inference_mode()
    def run(part: list[int]) -> Tensor:
        seen(len(part))
        return model(*batch([rows[i] for i in part], device))

    model.eval()
    torch.set_num_threads(1 if device.type == "cpu" else threads)
    with ThreadPoolExecutor(threads if device.type == "cpu" else 1) as pool:
        logits = torch.cat(list(pool.map(run, parts))).cpu()
    torch.set_num_threads(threads)
    return torch.empty_like(logits).index_copy_(0, torch.tensor(order), logits)


# ---- A checkpoint: config.json, vocab.txt, weights -----------------------------------------------
FIXED = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
SIZES = {"vocab_size": 1 << 20, "hidden_size": 1 << 13, "num_hidden_layers": 100,  # at most
         "num_attention_heads": 1 << 8, "intermediate_size": 1 << 16,
         "max_position_embeddings": 1 << 16, "type_vocab_size": 100}
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
Checkpoint = namedtuple("Checkpoint", "config vocabulary weights")  # dict, list, name -> Tensor


def files(folder: str) -> list[str]:
    """A checkpoint's three files; of the weights' two forms the one that is there."""
    safe = os.path.exists(os.path.join(folder, "model.safetensors"))
    return [os.path.join(folder, name) for name in
            ("config.json", "vocab.txt", "model.safetensors" if safe else "pytorch_model.bin")]


def digest(paths: list[str]) -> str:
    """The sha256 of these files, one after the other."""
    total = hashlib.sha256()
    for path in paths:
        with reading(path):
            total.update(np.memmap(path, np.uint8, "r"))
    return total.hexdigest()


def read_checkpoint(folder: str) -> Checkpoint:
    """Its files, checked before memory is taken for what they claim. Raises BadInput."""
    config, vocabulary, weights = files(folder)
    with reading(config), open(config, encoding="utf-8") as f:
        c = {"layer_norm_eps": 1e-12} | json.loads(f.read(1 << 20))
        bad = [k for k, only in FIXED.items() if c.get(k, only) != only]
        bad += [k for k, n in SIZES.items() if type(c.get(k)) is not int or not 0 < c[k] <= n]
        bad += ["layer_norm_eps"] * (type(c["layer_norm_eps"]) is not float)
        if bad or c["hidden_size"] % c["num_attention_heads"] or c["type_vocab_size"] < 2:
            raise ValueError(f"no BERT that can be read here: {', '.join(bad) or 'heads, types'}")
    with reading(vocabulary), open(vocabulary, encoding="utf-8", newline="\n") as f:
        pieces = [line.rstrip("\r") for line in f.read(1 << 25).removesuffix("\n").split("\n")]
        if len(pieces) > c["vocab_size"] or not set(SPECIAL) <= set(pieces):
            raise ValueError(f"{len(pieces)} pieces; expected {c['vocab_size']}, as config.json "
                             f"has it, and {' '.join(SPECIAL)} among them")
    with reading(weights):
        old = (load if weights.endswith(".bin") else read_safetensors)(weights)
        return Checkpoint(c, pieces, modern(old))


def read_safetensors(path: str) -> dict[str, Tensor]:
    """8 bytes: the header's length; the header, JSON: name -> dtype, shape, offsets; numbers."""
    with open(path, "rb") as f:
        start = 8 + int.from_bytes(f.read(8), "little")
        if start >= os.path.getsize(path):
            raise ValueError("cut short, or not in the safetensors format")
        header, state = json.loads(f.read(start - 8)), {}
    raw = torch.from_numpy(np.memmap(path, np.uint8, "c", offset=start))
    for name in header.keys() - {"__metadata__"}:
        (begin, end), shape = header[name]["data_offsets"], header[name]["shape"]
        if not 0 <= begin <= end <= len(raw):
            raise ValueError(f"{name} does not lie within the file; is it cut short?")
        state[name] = raw[begin:end].clone().view(DTYPES[header[name]["dtype"]]).view(shape)
    return state


def modern(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of old checkpoints and of bare encoders made today's; what is no part left out."""
    if not all(w.dtype in DTYPES.values() and w.is_contiguous() for w in weights.values()):
        raise ValueError("its weights are not plain numbers")
    new = {name.replace(".gamma", ".weight").replace(".beta", ".bias"): w for name, w in
           weights.items() if not name.startswith("cls.") and not name.endswith("position_ids")}
    return {re.sub(r"^(?!bert\.|classifier\.)", "bert.", name): w for name, w in new.items()}


def build(start: Checkpoint, classes: int, fresh: tuple[str, ...] = ()) -> Bert:
    """A model with these weights, copied; those whose names begin as in `fresh` may lack."""
    with torch.device("meta"):  # takes no memory
        model = Bert(start.config, classes)
    weights = {name: w.to(torch.float32, copy=True) for name, w in start.weights.items()}
    for name, like in model.state_dict().items():
        if name not in weights and name.startswith(fresh):  # begun as BERT was begun
            weights[name] = torch.randn(like.shape) * 0.02 if like.dim() > 1 else \
                torch.full(like.shape, float(name.endswith("LayerNorm.weight")))
    model.load_state_dict(weights, strict=True, assign=True)
    return model


def load_teacher(folder: str, device: torch.device, found: set[str],
                 wish: list[str] | None) -> tuple[Bert, WordPiece, list[str]]:
    """A model that can label, its tokenizer, and what its outputs stand for, in their order:
    the wish, else what config.json says, else our table, else the numbers, else the labels found
    as they are sorted; the first of them that covers the labels found. Raises BadInput."""
    start = read_checkpoint(folder)
    if "classifier.weight" not in start.weights:
        raise BadInput(f"{folder}: a bare encoder, without a classifier; fine-tune it first: "
                       f"python teacher_logits.py --fine-tune DATA.tsv --teacher {folder}")
    classes = len(start.weights["classifier.weight"])
    with reading(files(folder)[2]):
        model = build(start, classes).to(device)
    own, numbers = start.config.get("id2label"), [str(i) for i in range(classes)]
    own = [str(own.get(i)) for i in numbers] if isinstance(own, dict) else []
    table = [t.labels for t in TEACHERS.values() if folder.endswith(os.path.normpath(t.hub))]
    for names in [wish] if wish else [own, *table, numbers, class_order(found)]:
        if len(names) == len(set(names)) == classes and set(found or numbers) <= set(names):
            tokens = WordPiece(start.vocabulary, start.config["max_position_embeddings"])
            return model, tokens, names
    raise BadInput(f"{folder}: it has {classes} outputs, and the classes are "
                   f"{', '.join(wish or class_order(found))[:200]!r}; --label-order a,b,... says "
                   "what each output stands for")


# ---- The hub -------------------------------------------------------------------------------------
class Unreachable(BadInput):
    """The hub cannot be reached, and the cache does not hold what was asked for."""


def fetch(name: str) -> str:
    """owner/name -> its folder in torch.hub's cache, downloaded if need be. Raises BadInput."""
    if not re.fullmatch(r"\w[\w-]*/\w[\w.-]*", name, re.ASCII):
        raise BadInput(f"--teacher {name!r}: expected a folder, owner/name on the hub, or scratch")
    folder = os.path.join(torch.hub.get_dir(), "teachers", *name.split("/"))
    while int(os.environ.get("LOCAL_RANK", 0)) and not os.path.isdir(folder):
        time.sleep(0.5)  # a machine's first process fetches; if it fails, torchrun ends us all
    if not os.path.isdir(folder):
        print(f"fetching {name} into {folder}", flush=True)
        url = f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/{name}/resolve/main/"
        part = os.path.join(folder + ".part", "")
        os.makedirs(part, exist_ok=True)
        for forms in (["config.json"], ["vocab.txt"], ["model.safetensors", "pytorch_model.bin"]):
            if not any(os.path.exists(part + f) or download(url + f, part + f) for f in forms):
                raise BadInput(f"{url}{forms[-1]}: not there; is {name} a BERT on the hub?")
        try:
            read_checkpoint(part)
        except BadInput as error:
            shutil.rmtree(part)
            raise BadInput(f"{error}; the download was removed") from None
        os.rename(part, folder)
    return folder


def download(url: str, path: str, sha256: str | None = None) -> bool:
    """False where there is no such file. torch.hub takes half a file for a whole one: we do not."""
    socket.setdefaulttimeout(30)  # seconds without a byte. ours: torch.hub would wait for ever
    try:
        with urlopen(Request(url, method="HEAD")) as answer:
            size = answer.headers["Content-Length"]
        torch.hub.download_url_to_file(url, path + ".new", sha256, sys.stderr.isatty())
        if size and os.path.getsize(path + ".new") != int(size):
            os.remove(path + ".new")
            raise RuntimeError(f"cut short, {size} bytes expected")
    except RuntimeError as error:  # or torch.hub's own, where the sha256 is another
        raise BadInput(f"{url}: {error}; the download was removed, try again") from None
    except Exception as error:
        if getattr(error, "code", 0) == 404 or "No such file" in str(error):
            return False
        raise Unreachable(f"{url}: {error}; without a network --teacher takes a folder that holds "
                          "one, or scratch") from None
    os.replace(path + ".new", path)
    return True


# ---- Training a teacher (§4) ---------------------------------------------------------------------
RATES = [2e-5, 3e-5, 4e-5, 5e-5]  # §4
# What starts at random in a checkpoint that is fine-tuned: the classifier, and a missing pooler.
FRESH = ("classifier.weight", "classifier.bias", "bert.pooler.")
# ours: what two cores train from nothing in a minute or two
SCRATCH = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
           "intermediate_size": 512, "max_position_embeddings": 128, "type_vocab_size": 2}
SCRATCH_RATE = 5e-4


def stem(path: str) -> str:
    """data/sst2.transfer.tsv, data/sst2.tsv -> data/sst2"""
    return re.sub(r"(\.transfer|\.logits)?\.tsv$", "", path)


def prepare(teacher: str | None, data: str, device: torch.device, seed: int = 0) -> str:
    """--teacher -> a folder that holds it: fetched, trained, or as it is. Raises BadInput."""
    known = TEACHERS.get(os.path.basename(stem(data)))
    teacher = teacher or (known.hub if known else "scratch")
    if teacher == "scratch":
        return fine_tune(data, teacher, device, seed=seed)
    return teacher if os.path.isdir(teacher) else fetch(teacher)


def scratch(rows: list[Row]) -> Checkpoint:
    """A BERT without weights yet. Its pieces: words seen twice, and characters for all others."""
    split = WordPiece(SPECIAL).split
    count = Counter(word for row in rows for text in row.texts for word in split(text))
    letters = sorted({c for word in count for c in word})
    common = [word for word, n in count.most_common(20000) if n > 1]
    pieces = list(dict.fromkeys(SPECIAL + letters + ["##" + c for c in letters] + common))
    return Checkpoint(SCRATCH | {"vocab_size": len(pieces), "layer_norm_eps": 1e-12}, pieces, {})


def right(model: Bert, tokens: WordPiece, names: list[str], rows: list[Row]) -> float:
    """The share of the rows whose label the model gives."""
    progress, pieces = Progress("judging", len(rows)), [tokens.encode(row.texts) for row in rows]
    answers = predict(model, pieces, progress.add).argmax(1).tolist()
    return sum(names[i] == row.label for i, row in zip(answers, rows)) / len(rows)


def accuracy(folder: str, tsv: str, order: list[str] | None, device: torch.device) -> float:
    rows = [row for row in read_rows(tsv) if row.label]
    if not rows:
        raise BadInput(f"{tsv}: no row has a label; expected some, to judge the teacher by")
    return right(*load_teacher(folder, device, {row.label for row in rows}, order), rows)


def labelled(data: str) -> tuple[list[Row], list[Row], list[str]]:
    """The rows with labels (or logits), the dev rows or each tenth labelled one, the classes."""
    table, dev = read_rows(data), stem(data) + ".dev.tsv"
    rows = [row for row in table if row.label or row.logits]
    table.tell()
    if os.path.exists(dev):
        held = [row for row in read_rows(dev) if row.label]
    else:
        print(f"{dev}: not there; every tenth labelled row of {data} is held out")
        marked = list(hold_out(rows))
        held, rows = ([row for row, out in marked if out == side] for side in (True, False))
    classes = table.logit_names or class_order(row.label for row in rows)
    if len(classes) < 2 or not held or not {row.label for row in held} <= set(classes):
        raise BadInput(f"{data}: its labels are {', '.join(classes)[:100]!r}; expected two or more "
                       "classes, and a dev set that has no others")
    return rows, held, classes


def fine_tune(data: str, start: str, device: torch.device, rates: list[float] | None = None,
              epochs: int | None = None, batch_size: int = 32, seed: int = 0) -> str:
    """Train the checkpoint in folder `start`, or "scratch"; the best on dev -> STEM.teacher.

    Each epoch begins with the state that the one before it left in `run`, which is also what the
    file holds, and draws from (seed, epoch): killed and taken up, it ends with the same bytes.
    """
    rows, dev, classes = labelled(data)
    folder, new = stem(data) + ".teacher", start == "scratch"
    rates = rates or ([SCRATCH_RATE] if new else RATES)
    epochs = epochs or (min(60, max(10, 20000 // len(rows))) if new else 3)  # ours; 3: BERT's own
    made = {"start": start if new else digest(files(start)), "rates": rates, "epochs": epochs,
            "batch_size": batch_size, "seed": seed, "model": new and SCRATCH,
            "rows": hashlib.sha256(repr([r[1:] for r in rows + dev]).encode()).hexdigest()}
    if there(folder, made, start):
        return folder
    origin = scratch(rows) if new else read_checkpoint(start)
    for name in FRESH[:2]:
        origin.weights.pop(name, None)  # its classes may be others; a new one is trained
    run, state = resume(folder + ".state", made), folder + ".state"
    tokens = WordPiece(origin.vocabulary, origin.config["max_position_embeddings"])
    examples = [(tokens.encode(r.texts), r.logits or classes.index(r.label)) for r in rows]
    for n in range(run["done"], len(rates) * epochs):
        rate, epoch, chance = rates[n // epochs], n % epochs, np.random.default_rng([seed, n])
        torch.manual_seed(int(chance.integers(1 << 60)))
        begin = origin._replace(weights=run["weights"]) if epoch else origin
        with reading(state if epoch else files(start)[2]):
            model = build(begin, len(classes), ("",) if new else FRESH).to(device)
            adam = torch.optim.Adam(model.parameters(), rate, fused=True)                # §4
            adam.load_state_dict(run["adam"] if epoch else adam.state_dict())
        began = time.monotonic()
        loss = train(model, adam, examples, batch_size, rate, epoch, epochs, chance)
        score = right(model, tokens, classes, dev)
        run |= {"done": n + 1, "weights": model.state_dict(), "adam": adam.state_dict()}
        if score > run["best"]:
            run |= {"best": score, "kept": run["weights"]}
        save(state, run)
        print(f"lr {rate:g}  epoch {epoch + 1:2}/{epochs}  loss {loss:.4f}  dev {score:.4f}",
              f" {span(time.monotonic() - began)}", flush=True)
    return keep(folder, origin, classes, run)


def train(model: Bert, adam: torch.optim.Adam, examples: list, size: int, rate: float, epoch: int,
          epochs: int, chance: np.random.Generator) -> float:
    """One epoch in batches of like length; the mean loss."""
    model.train()
    order = [examples[i] for i in chance.permutation(len(examples))]
    pools = (sorted(order[i:i + 50 * size], key=lambda example: len(example[0][0]))
             for i in range(0, len(order), 50 * size))
    batches = [pool[i:i + size] for pool in pools for i in range(0, len(pool), size)]
    chance.shuffle(batches)
    total, losses, progress = epochs * len(batches), 0.0, Progress("training", len(order))
    for step, part in enumerate(batches, start=epoch * len(batches) + 1):
        # Up over the first tenth of all steps, then down to zero. ours: BERT's own way
        adam.param_groups[0]["lr"] = rate * min(10 * step / total, (1 - (step - 1) / total) / 0.9)
        rows, goals = zip(*part)
        logits = model(*batch(rows, model.classifier.weight.device))
        goals = torch.tensor(goals, device=logits.device)
        loss = F.cross_entropy(logits, goals) if goals.dim() == 1 else \
            (logits - goals).square().sum(1).mean()  # a TSV with logits: a teacher's assistant
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # ours: BERT's own way
        adam.step()
        losses += loss.detach() * len(part)
        progress.add(len(part))
    if not torch.isfinite(losses):
        raise BadInput(f"epoch {epoch + 1}: the loss is not finite; --lr {rate:g} may be too high")
    return float(losses) / len(order)


def resume(state: str, made: dict) -> dict:
    """What an interrupted training on the same rows, in the same way, has left; or a beginning."""
    with reading(state):
        run = load(state) if os.path.exists(state) else {}
        if run and run["made"] == made:
            return run
    if run:
        print(f"teacher  {state} is of other rows or another way of training: starting anew")
    return {"made": made, "done": 0, "best": -1.0}


def made_from(folder: str) -> dict:
    """What a teacher that was trained here keeps of its making; {} of any other, and of none."""
    with suppress(BadInput):
        return read_checkpoint(folder).config.get("made", {})
    return {}


def there(folder: str, made: dict, start: str) -> bool:
    """Does the teacher lie there that these rows and settings make? Nobody else's is replaced."""
    while (old := made_from(folder)) != made and RANK:
        time.sleep(0.5)  # torchrun's first process trains; if it fails, torchrun ends us all
    if old == made:
        print(f"teacher  {folder} lies there, trained on these rows in this way: taken up")
    elif not os.access(os.path.dirname(folder) or ".", os.W_OK):
        raise BadInput(f"{folder}: nothing can be written there")
    elif os.path.isdir(folder) and (not old or os.path.realpath(start) == os.path.realpath(folder)
                                    or start == "scratch" and old.get("start") != "scratch"):
        raise BadInput(f"{folder} lies there and is not replaced; say --teacher {folder}, or move "
                       "it away")
    elif old:
        print(f"teacher  {folder} was trained on other rows or in another way: trained anew")
    return old == made


def keep(folder: str, origin: Checkpoint, classes: list[str], run: dict) -> str:
    """The folder, as --teacher and the transformers library load it, moved into place whole."""
    names = {str(i): name for i, name in enumerate(classes)}
    config = origin.config | {"architectures": ["BertForSequenceClassification"],
                              "id2label": names, "label2id": {v: int(k) for k, v in names.items()},
                              "made": run["made"]}
    shutil.rmtree(folder + ".part", ignore_errors=True)
    os.makedirs(folder + ".part")
    paths = files(folder + ".part")
    for path, text in zip(paths, (json.dumps(config, indent=1), "\n".join(origin.vocabulary))):
        with writing(path) as f:
            f.write((text + "\n").encode())
    save(paths[2], {name: w.cpu() for name, w in run["kept"].items()})
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(folder + ".part", folder)
    os.remove(folder + ".state")
    return folder


# ---- Labelling (§3.1) ----------------------------------------------------------------------------
CHUNK = 4096  # rows sorted and kept together. ours: a minute's work of bert-base on two cores


def label(data: str, output: str, folder: str, label_order: list[str] | None,
          device: torch.device) -> None:
    """The rows as they are, in their order, with the teacher's logits -> output. Raises BadInput.

    Each chunk of rows is a file, in a folder whose name holds a hash of all that the logits depend
    on; what is there is not done again. torchrun's processes work through it side by side.
    """
    if os.path.realpath(output) == os.path.realpath(data) or os.path.isdir(output):
        raise BadInput(f"{output}: the input itself, or a folder; -o names another file")
    table, dev = read_rows(data), stem(data) + ".dev.tsv"
    count = Counter(row.label for row in table)
    total, count[""] = count.total(), 0
    known = (row for path in [data] + [dev] * os.path.exists(dev) for row in read_rows(path))
    every = max(1, -(-count.total() // 1000))  # from all of it: a TSV may lie sorted by its labels
    sample = list(islice((row for row in known if row.label), 0, max(1000, count.total()), every))
    count = +count or Counter(row.label for row in sample)
    model, tokens, names = teacher = load_teacher(folder, device, set(count), label_order)
    made = digest([data, *files(folder)]) + ",".join(names)
    parts = f"{output}.parts-{hashlib.sha256(made.encode()).hexdigest()[:12]}"
    checked = os.path.join(parts, "checked")
    if RANK == 0 and not os.path.exists(checked):
        for stale in set(glob(escape(output) + ".parts-*")) - {parts}:
            print(f"{stale}: begun with other rows, another teacher or label order; starting anew")
            shutil.rmtree(stale, ignore_errors=True)
        table.tell()
        if sample:
            check(teacher, sample, total)
    os.makedirs(parts, exist_ok=True)
    if RANK == 0:
        open(checked, "w").close()
    chunks = [os.path.join(parts, f"{k:06}.tsv") for k in range(-(-total // CHUNK))]
    done = CHUNK * sum(map(os.path.exists, chunks))
    progress = Progress("labelling", max(0, total - done) // WORLD)
    for own in (True, False):  # first one's own share, then whatever is still missing
        rows = iter(table)
        for k, path in enumerate(chunks):
            part = list(islice(rows, CHUNK))
            if not os.path.exists(path) and (k % WORLD == RANK or not own):
                write_chunk(path, part, teacher, progress)
    join(parts, chunks, output, table.pair, class_order(names))


def check(teacher: tuple, sample: list[Row], total: int) -> None:
    """Before hours of work: is it worth them, and how many are they? Raises BadInput."""
    right(*teacher, sample[:100])  # warm-up
    began, score = time.monotonic(), right(*teacher, sample)
    rate = len(sample) / (time.monotonic() - began)
    common = Counter(row.label for row in sample).most_common(1)[0][1] / len(sample)
    print(f"teacher  accuracy {score:.4f} on {len(sample):,} labelled rows; always the most "
          f"frequent label: {common:.4f}\n         {total:,} rows to label at {rate:,.0f} rows/s: "
          f"about {span(total / rate / WORLD)}", flush=True)
    if score < common:
        raise BadInput("the teacher does worse than the most frequent label; do its outputs stand "
                       f"for {', '.join(teacher[2])}? --label-order gives another order")
    if total / rate / WORLD > 600:
        print("         two ways out: fewer rows, by augment.py's --n-iter; or label on a machine "
              "with a GPU\n         and bring its STEM.logits.tsv back")


def write_chunk(path: str, rows: list[Row], teacher: tuple, progress: Progress) -> None:
    model, tokens, names = teacher
    logits = predict(model, [tokens.encode(row.texts) for row in rows], progress.add)
    if not logits.isfinite().all():
        raise BadInput("the teacher's logits are not finite: are its weights damaged?")
    logits = logits[:, [names.index(name) for name in class_order(names)]].tolist()
    with writing(path) as f:
        for row, numbers in zip(rows, logits):
            cells = [*row.texts, row.label, *(f"{x:.6f}" for x in numbers)]
            f.write("\t".join(cells).encode() + b"\n")


def join(parts: str, chunks: list[str], output: str, pair: bool, classes: list[str]) -> None:
    """torchrun's first process joins, when no other is at work in the folder or yet to start."""
    marks = [os.path.join(parts, f"{rank}.done") for rank in range(WORLD)]
    open(marks[RANK], "w").close()
    while RANK == 0 and "TORCHELASTIC_RUN_ID" in os.environ and not all(map(os.path.exists, marks)):
        time.sleep(0.2)  # should one die, torchrun ends us all, and the next run joins
    if RANK == 0:
        header = [*(["sentence1", "sentence2"] if pair else ["sentence"]), "label"]
        with writing(output) as f:
            f.write("\t".join(header + ["logit_" + name for name in classes]).encode() + b"\n")
            for path in chunks:
                with open(path, "rb") as chunk:
                    shutil.copyfileobj(chunk, f)
        shutil.rmtree(parts)
        print(f"wrote    {output}")


# ---- The command line ----------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description="Label rows with a BERT, or fine-tune one.")
    add = parser.add_argument
    add("tsv", help="rows to label, STEM.transfer.tsv; to fine-tune on, STEM.tsv")
    add("--teacher", help="owner/name on the hub, a folder, or scratch (default: by the stem)")
    add("--label-order", help="what the teacher's outputs stand for: contradiction,entailment,...")
    add("--fine-tune", action="store_true", help="train --teacher on the rows: STEM.teacher")
    add("--lr", type=float, nargs="+", help="default, §4: 2e-5 3e-5 4e-5 5e-5, each in turn")
    add("--epochs", type=int, help="default, ours: 3, as BERT itself; the best on dev is kept")
    add("--batch-size", type=int, default=32, help="ours, 32: BERT's own")
    add("--seed", type=int, default=0)
    add("--device", help="cuda, mps or cpu (default: the first that is there)")
    add("-o", "--output", help="the labelled rows (default: STEM.logits.tsv)")
    args = parser.parse_args()
    counts = [n for n in (args.epochs, args.batch_size, *(args.lr or [])) if n is not None]
    if min(counts) <= 0 or args.seed < 0:
        raise BadInput("--epochs, --batch-size, --lr: expected numbers above zero; --seed: from 0")
    device = pick_device(args.device)
    if device.type == "cuda" and WORLD > 1:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if args.fine_tune:
        start = args.teacher or "google-bert/bert-base-uncased"  # ours: see TEACHERS; §4: large
        if start != "scratch" and not os.path.isdir(start):
            start = fetch(start)
        fine_tune(args.tsv, start, device, args.lr, args.epochs, args.batch_size, args.seed)
    else:
        folder = prepare(args.teacher, args.tsv, device, args.seed)
        output = args.output or stem(args.tsv) + ".logits.tsv"
        label(args.tsv, output, folder, args.label_order and args.label_order.split(","), device)


if __name__ == "__main__":
    command(main, kept="finished epochs and chunks are kept; the same command takes them up")
