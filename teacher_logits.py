"""The teacher (§3.1, §4): a BERT, downloaded or fine-tuned here, labels the rows.

    python teacher_logits.py sst2.transfer.tsv                        # -> sst2.logits.tsv
    python teacher_logits.py sst2.transfer.tsv --teacher google-bert/bert-large-uncased     # §4
    torchrun --nproc-per-node=8 teacher_logits.py sst2.transfer.tsv   # several GPUs

Labelling comes first, then fine-tuning, BERT and its tokenizer. Supporting code follows: the
teacher and its files, the command line. Left out: models other than BERT, half precision.
Shapes: B batch, T tokens of the longest row, N rows, D hidden size, C classes.
"""
import copy
import json
import math
import os
import re
import shutil
import socket
import unicodedata
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from datetime import timedelta
from functools import lru_cache
from itertools import chain, islice
from typing import NamedTuple, TextIO
from urllib.error import HTTPError

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from augment import (Row, UserError, atomic_write, check_output, dataset_stem, progress, read_dev,
                     read_rows, read_train, run, sort_classes, use_existing, write_header)
from bilstm import (DEVICE, Ids, class_indices, load, metrics, predict_logits, save,
                    shuffled_batches)

CHUNK = 4096  # our choice: rows saved together, about a minute of BERT-base on two cores


class Teacher(NamedTuple):
    folder: str
    config: dict            # config.json
    tokenizer: "WordPiece"
    model: "Bert"
    classes: list[str]      # in the order of the logits


def label_rows(teacher: Teacher, rows: list[Row]) -> Tensor:
    """The teacher's logits (N, C), in the order of the rows."""
    inputs = [teacher.tokenizer.encode(row.texts) for row in rows]
    return predict_logits(teacher.model, inputs, collate)


def write_rows(f: TextIO, rows: list[Row], logits: Tensor) -> None:
    """One line per row: text, label, logits."""
    for row, numbers in zip(rows, logits.tolist()):
        print(*row.texts, row.label, *(f"{x:.4f}" for x in numbers), sep="\t", file=f)


def label_file(teacher: Teacher, data: str, output: str, rank: int = 0, processes: int = 1) -> None:
    """Write the rows of `data`, text and label, with a column `logit_NAME` for each class.

    Each chunk gets its own file in the folder OUTPUT.TEACHER.ROWS.parts, so an interrupted run can
    be resumed: a chunk that has a file is not labelled again. With W processes, process r labels
    chunks r, r + W, r + 2W, ...; process 0 joins all chunks at the end.
    """
    num_rows = sum(1 for _ in read_rows(data))  # fails early on a broken file
    parts = f"{output}.{os.path.basename(teacher.folder)}.{num_rows}.parts"
    os.makedirs(parts, exist_ok=True)
    paths = [f"{parts}/{number:06}.tsv" for number in range(math.ceil(num_rows / CHUNK))]
    finished = sum(map(os.path.exists, paths))
    if finished and rank == 0:
        print(f"using {finished} of {len(paths)} chunks in {parts} (delete it to label all rows)")
    rows = read_rows(data)
    for number, path in enumerate(progress(paths, "labelling, chunks")):
        chunk = list(islice(rows, CHUNK))
        if number % processes == rank and not os.path.exists(path):
            with atomic_write(path) as f:
                write_rows(f, chunk, label_rows(teacher, chunk))
    if processes > 1:
        torch.distributed.barrier()
    if rank == 0:
        with atomic_write(output) as f:
            write_header(f, len(chunk[0].texts) == 2, teacher.classes)
            for path in paths:
                with open(path, encoding="utf-8", newline="\n") as part:
                    shutil.copyfileobj(part, f)
        shutil.rmtree(parts)
        print(f"wrote {output}")


def check_teacher(teacher: Teacher, data: str, output: str) -> None:
    """Before hours of labelling, refuse a teacher that is no better on dev than the majority class.

    The dev rows' logits are saved beside `output`, for the teacher's accuracy in table 1.
    """
    rows = read_dev(data)
    if not rows:
        print("no labelled dev rows: the teacher's accuracy is unknown")
        return
    logits = label_rows(teacher, rows)
    labels = class_indices([row.label for row in rows], teacher.classes,
                           f"{data} with teacher {teacher.folder}")
    accuracy = metrics(logits, labels)["acc"]
    majority = labels.bincount().max() / len(rows)
    print(f"teacher   {teacher.folder}: dev acc {accuracy:.4f}, majority class {majority:.4f}")
    if accuracy <= majority:
        raise UserError(f"{teacher.folder} is no better than the majority class. Are its outputs "
                        f"{', '.join(teacher.classes)}, in this order (id2label in config.json)? "
                        "If it was fine-tuned here, delete it and run teacher_logits.py --lr LR")
    with atomic_write(dataset_stem(output) + ".dev.logits.tsv") as f:
        write_header(f, len(rows[0].texts) == 2, teacher.classes)
        write_rows(f, rows, logits)


# ---- Fine-tuning (§4) ----------------------------------------------------------------------------
LEARNING_RATES = [2e-5, 3e-5, 4e-5, 5e-5]  # §4
EPOCHS = 3                                 # our choice, as in BERT
BATCH = 32                                 # our choice, as in BERT


def fine_tune(encoder: Teacher, data: str, learning_rates: list[float], epochs: int) -> None:
    """Train an encoder on STEM.tsv with a new classifier; the best epoch on dev -> STEM.teacher."""
    output = dataset_stem(data) + ".teacher"
    path = dataset_stem(data) + ".tsv"
    rows = [row for row in read_train(path, path) if row.label]
    dev_rows = read_dev(path)
    classes = sort_classes(row.label for row in rows)
    if len(classes) < 2 or not dev_rows:
        raise UserError(f"{path}: fine-tuning {encoder.folder} needs labels of at least two "
                        "classes, and labelled dev rows")
    labels = class_indices([row.label for row in rows], classes, path)
    dev_labels = class_indices([row.label for row in dev_rows], classes, f"dev rows of {path}")
    inputs = [encoder.tokenizer.encode(row.texts) for row in rows]
    steps = epochs * math.ceil(len(rows) / BATCH)
    warmup = 0.1 * steps
    best = -1.0
    for lr in learning_rates:
        torch.manual_seed(0)
        model = copy.deepcopy(encoder.model)
        model.classifier = nn.Linear(encoder.config["hidden_size"], len(classes)).to(DEVICE)
        nn.init.normal_(model.classifier.weight, std=0.02)  # as in BERT
        nn.init.zeros_(model.classifier.bias)
        teacher = encoder._replace(model=model, classes=classes)
        optimizer = torch.optim.Adam(model.parameters(), lr)  # §4
        # our choice, as in BERT: warm up over a tenth of the steps, then decay linearly to 0
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, (steps - step) / (steps - warmup), 1))
        for epoch in range(1, epochs + 1):
            title = f"fine-tuning, lr {lr:g}, epoch {epoch} of {epochs}"
            model.train()
            for index in progress(shuffled_batches(inputs, BATCH), f"{title}, batches"):
                logits = model(*collate([inputs[i] for i in index]))                    # (B, C)
                loss = F.cross_entropy(logits, labels[index].to(DEVICE))
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # our choice, as in BERT
                optimizer.step()
                scheduler.step()
            accuracy = metrics(label_rows(teacher, dev_rows), dev_labels)["acc"]
            print(f"{title}: dev acc {accuracy:.4f}")
            if accuracy > best:
                best = accuracy
                save_teacher(output + ".part", teacher)
    os.rename(output + ".part", output)


# ---- BERT (§3.1) ---------------------------------------------------------------------------------
class Layer(nn.Module):
    """Self-attention, then a feed-forward net, each with a residual connection and LayerNorm.

    Parameters are named as in published checkpoints, for example
    bert.encoder.layer.0.attention.self.query.weight; each ModuleDict is one part of such a name.
    """

    def __init__(self, config: dict):
        super().__init__()
        d = config["hidden_size"]
        inner = config["intermediate_size"]
        eps = config["layer_norm_eps"]
        self.heads = config["num_attention_heads"]
        self.attention = nn.ModuleDict({
            "self": nn.ModuleDict({name: nn.Linear(d, d) for name in ("query", "key", "value")}),
            "output": nn.ModuleDict({"dense": nn.Linear(d, d), "LayerNorm": nn.LayerNorm(d, eps)})})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(d, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, d),
                                     "LayerNorm": nn.LayerNorm(d, eps)})
        self.dropout = nn.Dropout(0.1)  # as in BERT

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Tokens x (B, n, D), all (n = T) or only [CLS] (n = 1), attend to context (B, T, D)."""
        projections = self.attention["self"]
        q = self.split_heads(projections["query"](x))                       # (B, heads, n, D/heads)
        k = self.split_heads(projections["key"](context))                   # (B, heads, T, D/heads)
        v = self.split_heads(projections["value"](context))                 # (B, heads, T, D/heads)
        p = self.dropout.p if self.training else 0.0
        # softmax(q k^T / sqrt(D/heads)) v, attending only where the mask is True
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
        h = self.attention["output"]["dense"](h.transpose(1, 2).flatten(2))             # (B, n, D)
        x = self.attention["output"]["LayerNorm"](x + self.dropout(h))                  # (B, n, D)
        h = F.gelu(self.intermediate["dense"](x))                                       # (B, n, 4D)
        h = self.output["dense"](h)                                                     # (B, n, D)
        return self.output["LayerNorm"](x + self.dropout(h))

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, heads, T, D/heads)"""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Bert(nn.Module):
    """BERT for classification: the last state of [CLS] -> linear, tanh -> linear -> logits."""

    def __init__(self, config: dict, num_classes: int):
        super().__init__()
        d = config["hidden_size"]
        layers = [Layer(config) for _ in range(config["num_hidden_layers"])]
        self.bert = nn.ModuleDict({
            "embeddings": nn.ModuleDict({
                "word_embeddings": nn.Embedding(config["vocab_size"], d),
                "position_embeddings": nn.Embedding(config["max_position_embeddings"], d),
                "token_type_embeddings": nn.Embedding(config["type_vocab_size"], d),
                "LayerNorm": nn.LayerNorm(d, config["layer_norm_eps"])}),
            "encoder": nn.ModuleDict({"layer": nn.ModuleList(layers)}),
            "pooler": nn.ModuleDict({"dense": nn.Linear(d, d)})})
        self.dropout = nn.Dropout(0.1)
        # an encoder has no classifier; fine_tune adds it
        self.classifier = nn.Linear(d, num_classes) if num_classes else nn.Identity()

    def forward(self, ids: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
        """Three tensors (B, T) from `collate` -> logits (B, C)."""
        embed = self.bert["embeddings"]
        positions = torch.arange(ids.shape[1], device=ids.device)                       # (T,)
        x = embed["word_embeddings"](ids) + embed["position_embeddings"](positions)     # (B, T, D)
        x = x + embed["token_type_embeddings"](segments)
        x = self.dropout(embed["LayerNorm"](x))                                         # (B, T, D)
        mask = mask[:, None, None]                                                  # (B, 1, 1, T)
        *layers, last_layer = self.bert["encoder"]["layer"]
        for layer in layers:
            x = layer(x, x, mask)                                                       # (B, T, D)
        # only the state of [CLS] is needed from the last layer
        cls = last_layer(x[:, :1], x, mask)[:, 0]                                       # (B, D)
        pooled = torch.tanh(self.bert["pooler"]["dense"](cls))                          # (B, D)
        return self.classifier(self.dropout(pooled))                                    # (B, C)


def collate(rows: list[Ids]) -> list[Tensor]:
    """Pad B rows of (ids, segments): both (B, T), and a mask (B, T) that is False on padding."""
    ids = pad_sequence([torch.tensor(ids) for ids, _ in rows], batch_first=True)
    segments = pad_sequence([torch.tensor(segments) for _, segments in rows], batch_first=True)
    lengths = torch.tensor([len(ids) for ids, _ in rows])                               # (B,)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]                                # (B, T)
    return [ids.to(DEVICE), segments.to(DEVICE), mask.to(DEVICE)]


# ---- WordPiece, BERT's tokenizer -----------------------------------------------------------------
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SPECIAL_TOKEN = re.compile(f"({'|'.join(map(re.escape, SPECIAL))})")
IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df"
                       "\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f]")


class WordPiece:
    def __init__(self, vocabulary: list[str], uncased: bool, max_length: int):
        self.vocabulary = {token: i for i, token in enumerate(vocabulary)}
        self.uncased = uncased
        self.max_length = min(128, max_length)  # our choice: 128, as in GLUE's scripts
        self.split_word = lru_cache(maxsize=1 << 18)(self.split_word)

    def encode(self, texts: tuple[str, ...]) -> Ids:
        """The token ids of `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, and their segments, 0 or 1.

        With more than max_length tokens, the longer text loses its last ones.
        """
        sides = []
        for text in texts:
            sides.append([i for word in self.split_text(text) for i in self.split_word(word)])
        while sum(map(len, sides)) > self.max_length - 1 - len(sides):
            max(sides, key=len).pop()
        ids = [self.vocabulary["[CLS]"]]
        segments = [0]
        for segment, side in enumerate(sides):
            ids += [*side, self.vocabulary["[SEP]"]]
            segments += [segment] * (len(side) + 1)
        return ids, segments

    def split_text(self, text: str) -> list[str]:
        """Words and single punctuation marks: "Café's [MASK]" -> ["cafe", "'", "s", "[MASK]"]"""
        words = []
        for part in SPECIAL_TOKEN.split(text):  # the regex's group keeps the special tokens
            if part not in SPECIAL:
                if self.uncased:
                    part = unicodedata.normalize("NFD", part)  # splits accents from their letters
                part = "".join(normalize_char(c, self.uncased) for c in part)
            words += part.split()
        return words

    def split_word(self, word: str) -> list[int]:
        """Greedy, the longest subword first: unaffable -> un ##aff ##able"""
        ids = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            end = len(word)
            while end > start and prefix + word[start:end] not in self.vocabulary:
                end -= 1
            if end == start or len(word) > 100:  # 100: the limit in transformers
                return [self.vocabulary["[UNK]"]]
            ids.append(self.vocabulary[prefix + word[start:end]])
            start = end
        return ids


@lru_cache(maxsize=None)
def normalize_char(c: str, uncased: bool) -> str:
    """A character as BERT reads it: removed, lower-cased, or (punctuation) between spaces."""
    category = unicodedata.category(c)
    if category in ("Zs", "Zl", "Zp") or c in "\t\n\r":
        return " "
    if category in ("Cc", "Cf", "Co") or c == "\ufffd" or (uncased and category == "Mn"):
        return ""        # control characters, and accents
    if category[0] == "P" or (c.isascii() and not c.isalnum()) or IDEOGRAPH.match(c):
        return f" {c} "  # $ + < = > ^ ` | ~ are punctuation here
    return c.lower() if uncased else c


# ==== Supporting code: the teacher and its files ==================================================
BASE = "google-bert/bert-base-uncased"  # our choice: fits a laptop; the paper's is BERT-large
DEFAULT_TEACHERS = {"sst2": "textattack/bert-base-uncased-SST-2",  # BERT-base, fine-tuned
                    "qqp": "textattack/bert-base-uncased-QQP",
                    "mnli": "textattack/bert-base-uncased-MNLI"}
FILES = ["config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json",
         "model.safetensors", "pytorch_model.bin"]  # one of the last two is enough
DEFAULTS = {"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12,
            "type_vocab_size": 2, "max_position_embeddings": 512}  # where config.json is silent
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


def load_teacher(name: str | None, data: str, lr: list[float] | None = None,
                 epochs: int | None = None) -> Teacher:
    """The teacher that labels `data`; `name` is a folder, or owner/name on Hugging Face.

    Default: STEM.teacher if it exists, else textattack's model for sst2, qqp or mnli, else
    BERT-base. A model without a classifier is fine-tuned and kept as STEM.teacher.
    """
    labels = {row.label for row in chain(read_rows(data), read_dev(data)) if row.label}
    stem = dataset_stem(data)
    own = stem + ".teacher"
    if name is None:
        name = DEFAULT_TEACHERS.get(os.path.basename(stem), BASE)
        if os.path.isdir(own):
            name = own
    teacher = load_checkpoint(fetch(name))
    has_classifier = isinstance(teacher.model.classifier, nn.Linear)
    if has_classifier and (lr or epochs):
        raise UserError(f"--lr and --epochs have no effect: {teacher.folder} is fine-tuned already")
    if not has_classifier:
        if os.path.exists(own):
            raise UserError(f"{own} exists, so omit --teacher, --lr and --epochs, or delete {own}")
        fine_tune(teacher, data, lr or LEARNING_RATES, epochs or EPOCHS)
        teacher = load_checkpoint(own)
    num_classes = teacher.model.classifier.out_features
    return teacher._replace(classes=class_names(teacher.config, labels, num_classes))


def class_names(config: dict, labels: set[str], num_classes: int) -> list[str]:
    """The classes in output order: id2label's names or, without it, 0, 1, ...

    If the rows have C labels, and one of them is not there, the sorted labels are used.
    """
    id2label = config.get("id2label", {})  # LABEL_0, LABEL_1, ... if the classes have no names
    names = [str(id2label.get(str(i), i)).removeprefix("LABEL_") for i in range(num_classes)]
    names_fit = labels <= set(names)
    if len(labels) == num_classes and not names_fit:
        names = sort_classes(labels)  # alphabetical, as in textattack's MNLI model
    return names


def fetch(name: str) -> str:
    """A teacher's folder. owner/name is downloaded once, into torch.hub's cache."""
    if os.path.isdir(name):
        return os.path.abspath(name)
    if not re.fullmatch(r"[\w-]+/\w[\w.-]*", name):
        raise UserError(f"--teacher {name}: expected a folder, or owner/name on Hugging Face")
    folder = os.path.join(torch.hub.get_dir(), "teachers", name)
    os.makedirs(folder, exist_ok=True)
    url = os.environ.get("HF_ENDPOINT", "https://huggingface.co") + f"/{name}/resolve/main/"
    socket.setdefaulttimeout(30)  # in seconds; torch.hub sets no timeout
    for file in FILES:  # the weights come last: if they exist, everything does
        if any(os.path.exists(f"{folder}/{weights}") for weights in FILES[-2:]):
            break
        try:
            torch.hub.download_url_to_file(url + file, f"{folder}/{file}", progress=False)
        except OSError as error:
            is_absent = isinstance(error, HTTPError) and error.code == 404
            if file == "config.json" or not is_absent:
                raise UserError(f"{url}{file}: {error} (without a network: --teacher FOLDER)")
    return folder


def load_checkpoint(folder: str) -> Teacher:
    """Read a BERT, with or without a classifier."""
    config = {**DEFAULTS, **read_json(f"{folder}/config.json")}
    for key in ("model_type", "hidden_act"):
        if config[key] != DEFAULTS[key]:
            raise UserError(f"{folder}/config.json: {key} {config[key]}; expected {DEFAULTS[key]}")
    if os.path.exists(f"{folder}/vocab.txt"):
        with open(f"{folder}/vocab.txt", encoding="utf-8", newline="\n") as f:
            vocabulary = [line.rstrip("\r\n") for line in f]
    else:
        token_ids = read_json(f"{folder}/tokenizer.json")["model"]["vocab"]
        vocabulary = sorted(token_ids, key=token_ids.get)
    if not set(SPECIAL) <= set(vocabulary) or len(vocabulary) > config["vocab_size"]:
        raise UserError(f"{folder}: a vocabulary of {len(vocabulary)} tokens; expected at most "
                        f"{config['vocab_size']}, including {' '.join(SPECIAL)}")
    # uncased if tokenizer_config.json says so or, without it, if no token has a capital letter
    uncased = not re.search("[A-Z]", " ".join(set(vocabulary) - set(SPECIAL)))
    if os.path.exists(f"{folder}/tokenizer_config.json"):
        uncased = read_json(f"{folder}/tokenizer_config.json").get("do_lower_case", uncased)
    tokenizer = WordPiece(vocabulary, uncased, config["max_position_embeddings"])
    weights = read_weights(folder)
    model = Bert(config, len(weights.get("classifier.weight", [])))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # a key is missing or unexpected, or a shape is wrong
        lines = [line.strip()[:100] for line in str(error).splitlines()]
        raise UserError(f"{folder}: {' '.join(lines[:4])}") from None
    return Teacher(folder, config, tokenizer, model.to(DEVICE), [])


def read_json(path: str) -> dict:
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except ValueError as error:
        raise UserError(f"{path}: {error}; expected JSON") from None


def read_weights(folder: str) -> dict[str, Tensor]:
    """The weights of model.safetensors or pytorch_model.bin, under `Bert`'s parameter names."""
    path = f"{folder}/model.safetensors"
    if not os.path.exists(path):
        path = f"{folder}/pytorch_model.bin"
    saved = load(path) if path.endswith(".bin") else read_safetensors(path)
    weights = {}
    for name, weight in saved.items():
        # old checkpoints say gamma and beta; bare encoders lack the prefix `bert.`
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
        if name.startswith(("embeddings.", "encoder.", "pooler.")):
            name = "bert." + name
        # names with cls. belong to the heads of BERT's pre-training tasks
        if not name.startswith("cls.") and not name.endswith("position_ids"):
            weights[name] = weight
    return weights


def read_safetensors(path: str) -> dict[str, Tensor]:
    """Format: header length (8 bytes), JSON header (name -> dtype, shape, offsets), data."""
    weights = {}
    try:
        with open(path, "rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
            data = bytearray(f.read())
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            values = torch.frombuffer(data[start:end], dtype=DTYPES[entry["dtype"]])
            weights[name] = values.view(entry["shape"])
    except (ValueError, KeyError, RuntimeError, OverflowError, MemoryError):
        raise UserError(f"{path}: damaged, or not a file of weights") from None
    return weights


def save_teacher(folder: str, teacher: Teacher) -> None:
    """Write a checkpoint that --teacher and the transformers library can read."""
    os.makedirs(folder, exist_ok=True)
    config = {**teacher.config, "id2label": dict(enumerate(teacher.classes))}
    with open(f"{folder}/config.json", "w") as f:
        json.dump(config, f, indent=1)
    with open(f"{folder}/tokenizer_config.json", "w") as f:
        json.dump({"do_lower_case": teacher.tokenizer.uncased}, f)
    with open(f"{folder}/vocab.txt", "w", encoding="utf-8", newline="\n") as f:
        f.writelines(token + "\n" for token in teacher.tokenizer.vocabulary)
    save(f"{folder}/pytorch_model.bin", dict(teacher.model.state_dict()))


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("tsv", help="rows to label: STEM.transfer.tsv, or any other file")
    add("--teacher", help="a folder, or owner/name on Hugging Face (default: STEM.teacher if it "
        "exists, else textattack's for sst2, qqp and mnli, else BERT-base)")
    add("--lr", type=float, nargs="+", help="learning rates to try (§4: 2e-5 3e-5 4e-5 5e-5)")
    add("--epochs", type=int, help="fine-tuning epochs for each rate (as in BERT: 3)")
    add("-o", "--output", help="default: X.logits.tsv for X.tsv and X.transfer.tsv")
    args = parser.parse_args()
    output = args.output or args.tsv.removesuffix(".tsv").removesuffix(".transfer") + ".logits.tsv"
    check_output(output, [args.tsv])
    options = {"--teacher": args.teacher, "--lr": args.lr, "--epochs": args.epochs}
    if use_existing(output, args.tsv, options):
        return
    rank = int(os.environ.get("RANK", 0))  # set by torchrun
    processes = int(os.environ.get("WORLD_SIZE", 1))
    folder = [args.teacher]  # a list, which broadcast_object_list fills in
    if rank == 0:
        teacher = load_teacher(args.teacher, args.tsv, args.lr, args.epochs)
        check_teacher(teacher, args.tsv, output)
        folder = [teacher.folder]
    if processes > 1:
        # 30 days: the others wait while process 0 fine-tunes; at the end, all wait for the slowest
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=30))
        torch.distributed.broadcast_object_list(folder)
    if rank > 0:
        teacher = load_teacher(folder[0], args.tsv)
    label_file(teacher, args.tsv, output, rank, processes)


if __name__ == "__main__":
    run(main)
