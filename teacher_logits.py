"""The teacher (§3.1, §4): a BERT, downloaded by torch.hub or fine-tuned here, labels the rows.

    python teacher_logits.py sst2.transfer.tsv                        # -> sst2.logits.tsv
    python teacher_logits.py sst2.transfer.tsv --teacher FOLDER       # a checkpoint of your own
    python teacher_logits.py --fine-tune sst2.tsv --teacher google-bert/bert-large-uncased     # §4
    torchrun --nproc-per-node=8 teacher_logits.py sst2.transfer.tsv   # several GPUs

In reading order: BERT, its tokenizer, labelling, fine-tuning. After the line "Supporting code":
the files of a checkpoint, downloads, the command line. Left out: other models, half precision.

Shapes: B batch, T tokens of the longest row, D hidden size, C classes.
"""
import glob
import json
import os
import re
import shutil
import socket
import sys
import unicodedata
import zlib
from collections import Counter
from datetime import timedelta
from functools import lru_cache
from itertools import islice
from math import ceil
from typing import Iterable, Iterator, NamedTuple, TextIO
from urllib.error import HTTPError

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from augment import (Parser, Row, UserError, atomic_write, check_folder, checksum, count_rows,
                     dataset_stem, errors_in, find_classes, find_dev, note, number_in, progress,
                     read_columns, read_dev, read_rows, read_train, run, set_aside, sort_classes,
                     use_existing)
from bilstm import (Sentences, class_indices, evaluate, load, load_training_state, make_batch,
                    pick_device, predict_logits, row_lengths, save, shuffled_batches)

DROPOUT = 0.1  # BERT's own; in training only


class Layer(nn.Module):
    """One encoder layer: self-attention, then a feed-forward network; after each the residual sum
    and LayerNorm.

    The parameters have the names that they have in published checkpoints, such as
    bert.encoder.layer.0.attention.self.query.weight; each ModuleDict supplies one part of such a
    name.
    """

    def __init__(self, config: dict):
        super().__init__()
        d, inner = config["hidden_size"], config["intermediate_size"]
        eps = config["layer_norm_eps"]
        self.heads = config["num_attention_heads"]
        self.attention = nn.ModuleDict({
            "self": nn.ModuleDict({"query": nn.Linear(d, d), "key": nn.Linear(d, d),
                                   "value": nn.Linear(d, d)}),
            "output": nn.ModuleDict({"dense": nn.Linear(d, d), "LayerNorm": nn.LayerNorm(d, eps)})})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(d, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, d),
                                     "LayerNorm": nn.LayerNorm(d, eps)})

    def forward(self, x: Tensor, mask: Tensor, n: int) -> Tensor:
        """The states of the tokens, (B, T, D) -> the new states of the first n, (B, n, D).

        n is T, but 1 in the last layer: of its states only that of [CLS] is needed.
        """
        attention = self.attention["self"]
        q = self.split_heads(attention["query"](x[:, :n]))           # (B, heads, n, D/heads)
        k = self.split_heads(attention["key"](x))                    # (B, heads, T, D/heads)
        v = self.split_heads(attention["value"](x))                  # (B, heads, T, D/heads)
        # softmax(q k^T / sqrt(D/heads)) v, without the padding
        p = DROPOUT * self.training  # 0 when it predicts
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
        attended = self.attention["output"]["dense"](context.transpose(1, 2).flatten(2))
        h = self.attention["output"]["LayerNorm"](x[:, :n] + F.dropout(attended, p))
        expanded = F.gelu(self.intermediate["dense"](h))             # (B, n, 4D)
        projected = self.output["dense"](expanded)                   # (B, n, D)
        return self.output["LayerNorm"](h + F.dropout(projected, p))

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)      # (B, heads, T or n, D/heads)


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
        self.classifier = nn.Linear(d, num_classes)

    def forward(self, tokens: tuple[Tensor, Tensor], segments: tuple[Tensor, Tensor]) -> Tensor:
        """Both are (ids, lengths), (B, T) and (B,), as bilstm.pad makes them -> logits (B, C)."""
        ids, lengths = tokens
        segment_ids, _ = segments
        positions = torch.arange(ids.shape[1], device=ids.device)                       # (T,)
        mask = (positions < lengths[:, None])[:, None, None]    # (B, 1, 1, T), False on padding
        p = DROPOUT * self.training
        embed = self.bert["embeddings"]
        x = embed["word_embeddings"](ids) + embed["position_embeddings"](positions)     # (B, T, D)
        x = x + embed["token_type_embeddings"](segment_ids)
        x = F.dropout(embed["LayerNorm"](x), p)                                         # (B, T, D)
        *layers, last_layer = self.bert["encoder"]["layer"]
        for layer in layers:
            x = layer(x, mask, n=ids.shape[1])                                          # (B, T, D)
        cls = last_layer(x, mask, n=1)[:, 0]                                            # (B, D)
        pooled = torch.tanh(self.bert["pooler"]["dense"](cls))                          # (B, D)
        return self.classifier(F.dropout(pooled, p))                                    # (B, C)


# ---- WordPiece, BERT's tokenizer -----------------------------------------------------------------
MAX_LENGTH = 128  # our choice: tokens of a row, as in GLUE's scripts; few rows are longer
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SPECIAL_TOKEN = re.compile(f"({'|'.join(map(re.escape, SPECIAL))})")
IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df"
                       "\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f]")


class WordPiece:
    """BERT's tokenizer; uncased if no token of its vocabulary has a capital letter."""

    def __init__(self, vocabulary: list[str], max_length: int = MAX_LENGTH):
        self.vocabulary = {token: i for i, token in enumerate(vocabulary)}
        words = [token for token in vocabulary if not token.startswith("[")]
        self.uncased = not re.search("[A-Z]", " ".join(words))
        self.max_length = min(MAX_LENGTH, max_length)
        self.cached_split_word = lru_cache(maxsize=1 << 18)(self.split_word)

    def encode_rows(self, rows: Iterable[Row]) -> list[Sentences]:
        """The token ids of all rows, and their segments.

        They are two sides, as of the student's pairs, so `make_batch` and `predict_logits` serve
        both models.
        """
        ids, segments = zip(*[self.encode(row.texts) for row in rows])
        return [ids, segments]

    def encode(self, texts: tuple[str, ...]) -> tuple[list[int], list[int]]:
        """`[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`: its token ids and its segments, 0 or 1.

        If there are more than max_length tokens, the last ones of the longer text are removed.
        """
        sides = []
        for text in texts:
            ids = []
            for word in self.split_text(text):
                ids += self.cached_split_word(word)
            sides.append(ids)
        # by_length holds the same lists, so pop() shortens a side; of equally long ones max() takes
        # the first, which was shorter at the start, as in transformers
        by_length = sorted(sides, key=len)
        room = self.max_length - 1 - len(sides)  # without [CLS] and a [SEP] for each side
        while sum(map(len, sides)) > room:
            max(by_length, key=len).pop()
        ids = [self.vocabulary["[CLS]"]]
        segments = [0]
        for segment, side in enumerate(sides):
            ids += [*side, self.vocabulary["[SEP]"]]
            segments += [segment] * (len(side) + 1)
        return ids, segments

    def split_text(self, text: str) -> list[str]:
        """Words and single punctuation marks: "Café's [MASK]" -> ["cafe", "'", "s", "[MASK]"]"""
        words = []
        for part in SPECIAL_TOKEN.split(text):  # with the special tokens themselves
            if part not in SPECIAL:
                if self.uncased:
                    part = unicodedata.normalize("NFD", part)  # splits accents from their letters
                part = "".join(normalize_char(c, self.uncased) for c in part)
            words += part.split()
        return words

    def split_word(self, word: str) -> list[int]:
        """Greedily the longest subword that fits: unaffable -> un ##aff ##able"""
        if len(word) > 100:  # BERT's own limit
            return [self.vocabulary["[UNK]"]]
        ids = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self.vocabulary), None)
            if end is None:
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


# ---- Labelling (§3.1) ----------------------------------------------------------------------------
CHUNK = 4096  # our choice: rows that are saved together, a minute of BERT-base on two cores


class Checkpoint(NamedTuple):
    folder: str
    config: dict                # config.json
    tokenizer: WordPiece        # vocab.txt
    weights: dict[str, Tensor]  # model.safetensors or pytorch_model.bin


class Teacher(NamedTuple):
    model: Bert
    tokenizer: WordPiece
    classes: list[str]  # the labels that the model's outputs stand for, in their order


def label_rows(teacher: Teacher, rows: list[Row]) -> Tensor:
    """Logits (N, C) on the CPU, in the order of the rows."""
    logits = predict_logits(teacher.model, teacher.tokenizer.encode_rows(rows))
    if not logits.isfinite().all():
        raise UserError("the teacher's logits are not finite; are its weights damaged?")
    return logits


def write_header(f: TextIO, is_pair: bool, classes: list[str]) -> None:
    text = ["sentence1", "sentence2"] if is_pair else ["sentence"]
    print(*text, "label", *(f"logit_{name}" for name in classes), sep="\t", file=f)


def write_rows(f: TextIO, rows: list[Row], logits: Tensor) -> None:
    """The rows with one more column per class, so text and logits share a line."""
    for row, numbers in zip(rows, logits.tolist(), strict=True):
        print(*row.texts, row.label, *(f"{x:.4f}" for x in numbers), sep="\t", file=f)


def read_chunks(data: str) -> Iterator[list[Row]]:
    """The rows of `data`, CHUNK at a time."""
    rows = read_rows(data)
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


def finished_chunks(prefix: str) -> list[str]:
    return sorted(glob.glob(glob.escape(prefix) + "*.tsv"))


def label_chunks(data: str, output: str, teacher: Teacher, prefix: str) -> None:
    """Write the rows of `data` with the teacher's logits. Raises UserError.

    Each chunk is a file of its own, which an interrupted run leaves to the next. Of W processes
    (torchrun) the first labels chunks 0, W, 2W, ..., the second 1, W + 1, ...; when all have
    finished, the first joins the chunks.
    """
    rank, world_size = torchrun_rank()
    total = ceil(count_rows(data) / CHUNK)
    for number, rows in enumerate(progress(read_chunks(data), "labelling, chunks", total)):
        path = f"{prefix}{number:06}.tsv"
        if number % world_size == rank and not os.path.exists(path):
            with atomic_write(path) as f:
                write_rows(f, rows, label_rows(teacher, rows))
    barrier()  # all chunks are finished
    if rank == 0:
        with atomic_write(output) as f:
            write_header(f, read_columns(data).is_pair, teacher.classes)
            for path in finished_chunks(prefix):
                with open(path, encoding="utf-8", newline="\n") as chunk:
                    shutil.copyfileobj(chunk, f)
        shutil.rmtree(os.path.dirname(prefix))
        print(f"wrote {output}")


def check_teacher(teacher: Teacher, data: str, dev_output: str) -> None:
    """Before hours of labelling: label the dev rows; refuse a teacher no better than the baseline.

    The dev rows' logits are kept: table 1 shows the teacher's accuracy from them.
    """
    dev = find_dev(data)
    rows = list(read_dev(data, dev))
    if not rows:
        note("there are no labelled rows, so the teacher's accuracy is not known")
        return
    logits = label_rows(teacher, rows)
    labels = [row.label for row in rows]
    accuracy = evaluate(logits, class_indices(labels, teacher.classes, dev or data))["acc"]
    majority = max(Counter(labels).values()) / len(rows)
    print(f"teacher   accuracy {accuracy:.4f} on {len(rows):,} dev rows of {dev or data}; "
          f"majority-class baseline {majority:.4f}")
    answers = set(logits.argmax(dim=1).tolist())
    if accuracy < majority or len(answers) == 1 < len(set(labels)):  # it has learned nothing
        raise UserError("the teacher is no better than the majority-class baseline: if it was "
                        f"fine-tuned here, remove the folder {dataset_stem(data)}.teacher and "
                        "train one with teacher_logits.py --fine-tune and more --epochs; else its "
                        "outputs may be in another order, which teacher_logits.py --label-order "
                        "names")
    with atomic_write(dev_output) as f:
        write_header(f, len(rows[0].texts) == 2, teacher.classes)
        write_rows(f, rows, logits)


def dev_logits(logits: str) -> str:
    """sst2.logits.tsv -> sst2.dev.logits.tsv, the dev rows with the same teacher's logits"""
    return logits.removesuffix(".tsv").removesuffix(".logits") + ".dev.logits.tsv"


def label_file(data: str, output: str, name: str | None, label_order: list[str] | None,
               device: torch.device, fresh: bool = False) -> None:
    """Prepare the teacher and label the rows of `data`, unless `output` exists. Raises UserError.

    A chunk's file, such as sst2.logits.tsv.parts/1a2b3c4d-000007.tsv, is named by a key of the rows
    and the teacher, so that only a run with the same ones resumes from it.
    """
    parts = output + ".parts"  # the folder of the chunks, until the output is complete
    if not fresh and use_existing(output):
        shutil.rmtree(parts, ignore_errors=True)  # there if a run was stopped before its last step
        return
    rank, _ = torchrun_rank()
    if rank > 0:
        barrier()  # wait until the first process has downloaded or fine-tuned the teacher
    checkpoint = prepare_teacher(name, data, device)
    if rank == 0:
        barrier()
    teacher = load_teacher(checkpoint, data, label_order, device)
    key = [checksum(data), checksum(weights_file(checkpoint.folder)), checkpoint.config,
           label_order, CHUNK]
    prefix = os.path.join(parts, f"{zlib.crc32(repr(key).encode()):08x}-")
    if rank == 0:
        print(f"teacher   {checkpoint.folder}")
        finished = len(finished_chunks(prefix))
        if finished and not fresh:
            print(f"resuming with {finished} finished chunks of {CHUNK:,} rows")
        if data != find_dev(data):  # else `output` itself will hold the dev rows' logits
            check_teacher(teacher, data, dev_logits(output))
        if fresh:
            set_aside(output)  # not before there is a teacher that can label
    barrier()  # the others wait until the teacher has passed
    os.makedirs(parts, exist_ok=True)
    label_chunks(data, output, teacher, prefix)


# ---- Fine-tuning (§4) ----------------------------------------------------------------------------
LEARNING_RATES = [2e-5, 3e-5, 4e-5, 5e-5]  # §4; the best on dev is kept
FINE_TUNING_BATCH = 32                     # our choice, as in BERT; likewise three epochs


def fine_tune(data: str, checkpoint: Checkpoint, device: torch.device, learning_rates: list[float],
              epochs: int = 3, seed: int = 0) -> None:
    """Train a BERT from a checkpoint; the best epoch on dev of all learning rates -> STEM.teacher.

    The state after each epoch is saved, so an interrupted run resumes and, on a CPU, ends with the
    same teacher.
    """
    folder = dataset_stem(data) + ".teacher"
    best_folder = folder + ".part"  # the best teacher so far
    state_path = folder + ".training.pt"
    dev_path = find_dev(data)
    classes = find_classes(data)
    train_rows = [row for row in read_train(data, dev_path) if row.label or row.logits]
    dev_rows = list(read_dev(data, dev_path))
    if data == dev_path:
        raise UserError(f"{data}: this is the dev set; expected training rows")
    if not dev_rows:
        raise UserError(f"{data}: expected labelled dev rows in {dataset_stem(data)}.dev.tsv")
    sides = checkpoint.tokenizer.encode_rows(train_rows)
    targets = make_targets(train_rows, classes, data)
    dev_labels = class_indices([row.label for row in dev_rows], classes, dev_path or data)
    key = {"rows": checksum(data), "dev": checksum(dev_path or data), "seed": seed,
           "start": [checkpoint.folder, checksum(weights_file(checkpoint.folder))],
           "learning rates": learning_rates, "epochs": epochs}
    state = {"epochs_done": 0, "best": -1.0}
    if os.path.isdir(best_folder):  # else the best epoch would be lost
        state = load_training_state(state_path, key) or state
    best = state["best"]
    for lr_index, lr in enumerate(learning_rates):
        finished = max(0, state["epochs_done"] - lr_index * epochs)  # epochs at this rate
        if finished >= epochs:
            continue
        torch.manual_seed(seed)  # for the new classifier
        model = build(checkpoint, len(classes), new_classifier=True).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr, fused=True)  # §4; fused: faster
        teacher = Teacher(model, checkpoint.tokenizer, classes)
        if finished:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        for epoch in range(finished, epochs):
            epochs_done = lr_index * epochs + epoch + 1  # this one included, over all rates
            # each epoch has a seed of its own, so that a resumed run draws the same numbers
            torch.manual_seed(seed * 100003 + epochs_done)  # more than there are epochs
            loss = train_epoch(model, optimizer, sides, targets, lr, epoch, epochs)
            accuracy = evaluate(label_rows(teacher, dev_rows), dev_labels)["acc"]
            print(f"lr {lr:g}  epoch {epoch + 1} of {epochs}  loss {loss:.4f}  "
                  f"dev acc {accuracy:.4f}")
            if accuracy > best:
                best = accuracy
                save_teacher(best_folder, checkpoint, teacher)
            save(state_path, {"key": key, "epochs_done": epochs_done, "best": best,
                              "model": model.state_dict(), "optimizer": optimizer.state_dict()})
    os.rename(best_folder, folder)
    os.remove(state_path)
    print(f"wrote {folder}: dev acc {best:.4f}")


def make_targets(rows: list[Row], classes: list[str], path: str) -> Tensor:
    """The rows' labels (N,), or their logits (N, C) if they have any.

    So `--fine-tune X.logits.tsv` teaches a smaller BERT what a larger one knows (not in the paper).
    """
    if rows[0].logits:
        return torch.tensor([row.logits for row in rows])
    return class_indices([row.label for row in rows], classes, path)


def train_epoch(model: Bert, optimizer: torch.optim.Optimizer, sides: list[Sentences],
                targets: Tensor, lr: float, epoch: int, epochs: int) -> float:
    """One pass over the rows; targets are classes (N,) or logits (N, C). Returns the mean loss."""
    model.train()
    device = model.classifier.weight.device
    batches = shuffled_batches(row_lengths(sides), FINE_TUNING_BATCH)
    total_loss = 0.0
    for step, index in enumerate(progress(batches, f"fine-tuning, epoch {epoch + 1}, batches")):
        steps_done = epoch * len(batches) + step
        optimizer.param_groups[0]["lr"] = lr * warmup_decay(steps_done, epochs * len(batches))
        logits = model(*make_batch(sides, index, device))
        target = targets[index].to(device)
        if target.dim() == 1:
            loss = F.cross_entropy(logits, target)
        else:  # logits: equation 2
            loss = (logits - target).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # our choice, as in BERT
        optimizer.step()
        total_loss += loss.detach() * len(index)
    mean_loss = float(total_loss) / len(targets)
    if not np.isfinite(mean_loss):
        raise UserError(f"the loss is not finite; try a smaller --lr than {lr:g}")
    return mean_loss


def warmup_decay(done: int, steps: int) -> float:
    """Up to 1 over a tenth of the steps, then down nearly to 0; our choice, as in BERT."""
    return min(1.0, (done + 1) / (0.1 * steps), (1 - done / steps) / 0.9)


# ==== Supporting code: the files of a checkpoint ==================================================
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


def weights_file(folder: str) -> str:
    safetensors = os.path.join(folder, "model.safetensors")
    return safetensors if os.path.exists(safetensors) else os.path.join(folder, "pytorch_model.bin")


def read_checkpoint(folder: str) -> Checkpoint:
    """config.json, vocab.txt and the weights of a folder. Raises UserError."""
    path = os.path.join(folder, "config.json")
    with errors_in(path, "the config.json of a BERT"), open(path, encoding="utf-8") as f:
        config = {"layer_norm_eps": 1e-12, **json.load(f)}
        if config["model_type"] != "bert" or config["hidden_act"] != "gelu":
            raise ValueError(f"model_type {config['model_type']}, {config['hidden_act']}")
    path = os.path.join(folder, "vocab.txt")
    with errors_in(path, f"one token per line, {' '.join(SPECIAL)} among them"):
        with open(path, encoding="utf-8", newline="\n") as f:
            vocabulary = [line.rstrip("\r\n") for line in f]
        if not set(SPECIAL) <= set(vocabulary) or len(vocabulary) > config["vocab_size"]:
            raise ValueError(f"{len(vocabulary)} tokens; vocab_size {config['vocab_size']}")
        tokenizer = WordPiece(vocabulary, config["max_position_embeddings"])
    path = weights_file(folder)
    with errors_in(path, "the weights of a BERT"):
        weights = load(path) if path.endswith(".bin") else read_safetensors(path)
        return Checkpoint(folder, config, tokenizer, rename_old_keys(weights))


def read_safetensors(path: str) -> dict[str, Tensor]:
    """The format: the header's length in 8 bytes; the header in JSON, name -> dtype, shape and
    offsets; the data."""
    with open(path, "rb") as f:
        length = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(length))
        data = torch.from_numpy(np.memmap(f, np.uint8, "c", offset=f.tell()))  # c: copy-on-write
    header.pop("__metadata__", None)
    weights = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        weights[name] = data[start:end].clone().view(DTYPES[entry["dtype"]]).view(entry["shape"])
    return weights


def rename_old_keys(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Today's names for the weights of old checkpoints and of encoders without a classifier."""
    renamed = {}
    for name, weight in weights.items():
        if name.startswith("cls.") or name.endswith("position_ids"):
            continue  # BERT's pre-training tasks, and a constant
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
        if not name.startswith(("bert.", "classifier.")):
            name = "bert." + name
        renamed[name] = weight
    return renamed


def build(checkpoint: Checkpoint, num_classes: int, new_classifier: bool = False) -> Bert:
    """A model with these weights. Raises UserError if one is missing, left over or misshapen."""
    weights = dict(checkpoint.weights)
    with errors_in(weights_file(checkpoint.folder), "the weights that config.json describes"):
        model = Bert(checkpoint.config, num_classes)
        if new_classifier:
            nn.init.normal_(model.classifier.weight, std=0.02)  # BERT's own initialization
            nn.init.zeros_(model.classifier.bias)
            weights["classifier.weight"] = model.classifier.weight
            weights["classifier.bias"] = model.classifier.bias
        model.load_state_dict(weights, strict=True)
    return model


def save_teacher(folder: str, checkpoint: Checkpoint, teacher: Teacher) -> None:
    """The three files, as --teacher and the transformers library read them."""
    config = {**checkpoint.config, "architectures": ["BertForSequenceClassification"],
              "id2label": dict(enumerate(teacher.classes)),
              "label2id": {name: i for i, name in enumerate(teacher.classes)},
              "_name_or_path": checkpoint.folder}
    os.makedirs(folder, exist_ok=True)
    with atomic_write(os.path.join(folder, "config.json")) as f:
        json.dump(config, f, indent=1)
    shutil.copy(os.path.join(checkpoint.folder, "vocab.txt"), folder)
    save(os.path.join(folder, "pytorch_model.bin"), dict(teacher.model.state_dict()))


# ---- Which teacher -------------------------------------------------------------------------------
BASE = "google-bert/bert-base-uncased"  # our choice: fits a laptop; the paper's is BERT-large
DEFAULT_TEACHERS = {"sst2": "textattack/bert-base-uncased-SST-2",  # BERT-base, fine-tuned
                    "qqp": "textattack/bert-base-uncased-QQP",
                    "mnli": "textattack/bert-base-uncased-MNLI"}


def prepare_teacher(name: str | None, data: str, device: torch.device) -> Checkpoint:
    """A teacher that can label. Raises UserError.

    name: a folder, or owner/name on the hub. Default: STEM.teacher if it exists, else textattack's
    model for the stem, else BERT-base. If it has no classifier it is fine-tuned on STEM.tsv (§4)
    and kept as STEM.teacher; one that is there is used, if it was fine-tuned from the same start.
    """
    stem = dataset_stem(data)
    own = stem + ".teacher"
    if name is None and os.path.isdir(own):
        name = own
    checkpoint = fetch_teacher(name or DEFAULT_TEACHERS.get(os.path.basename(stem), BASE))
    if "classifier.weight" in checkpoint.weights:
        return checkpoint
    if not os.path.isdir(own):
        print(f"{checkpoint.folder} has no classifier, so it is fine-tuned on {stem}.tsv")
        fine_tune(stem + ".tsv", checkpoint, device, LEARNING_RATES)
    fine_tuned = read_checkpoint(own)
    start = fine_tuned.config.get("_name_or_path")
    if start != checkpoint.folder:
        raise UserError(f"{own} exists, fine-tuned from {start}; leave --teacher out to use it, or "
                        "remove it first")
    return fine_tuned


def load_teacher(checkpoint: Checkpoint, data: str, label_order: list[str] | None,
                 device: torch.device) -> Teacher:
    """The model, with its outputs in our order of the classes. Raises UserError."""
    labels = set()
    for path in {data, find_dev(data) or data}:
        labels |= {row.label for row in read_rows(path)}
    labels.discard("")
    num_classes = len(checkpoint.weights["classifier.weight"])
    classes = label_order or name_outputs(checkpoint, labels)
    if len(set(classes)) != num_classes or not labels <= set(classes):
        found = ", ".join(sort_classes(labels))
        raise UserError(f"{checkpoint.folder}: {num_classes} outputs, for the classes "
                        f"{', '.join(classes)}; the rows' labels are {found}. Is a label misspelt? "
                        "teacher_logits.py --label-order A,B,... names the outputs")
    model = build(checkpoint, num_classes).to(device)
    order = [classes.index(name) for name in sort_classes(classes)]
    model.classifier.weight.data = model.classifier.weight.data[order]
    model.classifier.bias.data = model.classifier.bias.data[order]
    return Teacher(model, checkpoint.tokenizer, sort_classes(classes))


def name_outputs(checkpoint: Checkpoint, labels: set[str]) -> list[str]:
    """The classes that the outputs stand for, by config.json or, if it does not say, by the labels.

    config.json often says LABEL_0, LABEL_1, ...; then the outputs are in our order of the labels,
    as those of textattack's MNLI model are: contradiction, entailment, neutral.
    """
    id2label = checkpoint.config.get("id2label", {})
    names = [id2label[key] for key in sorted(id2label, key=int)]
    if names and names[0] != "LABEL_0" and labels <= set(names):
        return names
    return sort_classes(labels)


# ---- Downloads -----------------------------------------------------------------------------------
def fetch_teacher(name: str) -> Checkpoint:
    """Read a folder, or owner/name on the hub, which is downloaded once into torch.hub's cache."""
    if os.path.isdir(name):
        return read_checkpoint(os.path.abspath(name))
    if not re.fullmatch(r"\w[\w-]*/\w[\w.-]*", name, re.ASCII):
        raise UserError(f"--teacher {name}: no such folder; expected one, or owner/name on the hub")
    folder = os.path.join(torch.hub.get_dir(), "teachers", *name.split("/"))
    if os.path.isdir(folder):
        return read_checkpoint(folder)
    part = folder + ".part"
    os.makedirs(part, exist_ok=True)
    url = os.environ.get("HF_ENDPOINT", "https://huggingface.co") + f"/{name}/resolve/main/"
    download(url + "config.json", part)
    download(url + "vocab.txt", part)
    if not download(url + "model.safetensors", part):
        download(url + "pytorch_model.bin", part)
    try:
        checkpoint = read_checkpoint(part)
    except UserError as error:
        shutil.rmtree(part)
        raise UserError(f"{url}: {error}; the download was removed") from None
    os.rename(part, folder)
    return checkpoint._replace(folder=folder)


def download(url: str, folder: str, offline: str = "use --teacher FOLDER or distill.py's --logits "
             "FILE or --alpha 1", sha256: str | None = None) -> bool:
    """A file into a folder, by torch.hub; False if there is no such file. Raises UserError.

    offline: what the user can do without a network.
    """
    path = os.path.join(folder, os.path.basename(url))
    if os.path.exists(path):
        return True
    print(f"downloading {url}")
    socket.setdefaulttimeout(30)  # seconds; torch.hub has none, and would wait for ever
    try:
        torch.hub.download_url_to_file(url, path, sha256, progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:
        # of an unknown name the hub says 401
        if isinstance(error, HTTPError) and error.code in (401, 404):
            return False
        raise UserError(f"{url}: {error}; without a network, {offline}") from None
    return True


# ---- Several processes ---------------------------------------------------------------------------
def torchrun_rank() -> tuple[int, int]:
    """The process's number and the number of processes; 0, 1 without torchrun."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def barrier() -> None:
    """Wait for all processes of torchrun."""
    _, world_size = torchrun_rank()
    if world_size > 1:
        if not torch.distributed.is_initialized():
            # a process may wait as long as another one labels
            torch.distributed.init_process_group("gloo", timeout=timedelta(days=30))
        torch.distributed.barrier()


# ---- The command line ----------------------------------------------------------------------------
def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("tsv", help="rows to label, or with --fine-tune labelled rows")
    parser.add_argument("--teacher", help="a folder, or owner/name on the hub "
                        "(default: STEM.teacher, else a BERT-base)")
    parser.add_argument("--label-order", metavar="A,B,...",
                        type=lambda text: [name.strip() for name in text.split(",")],
                        help="what the teacher's outputs stand for (default: as config.json says)")
    parser.add_argument("--fine-tune", action="store_true", help="only train STEM.teacher")
    parser.add_argument("--lr", type=number_in(float, 0, 1), nargs="+", default=LEARNING_RATES,
                        help="with --fine-tune: each in turn (default: 2e-5 3e-5 4e-5 5e-5; §4)")
    parser.add_argument("--epochs", type=number_in(int, 1, 1000), default=3,
                        help="with --fine-tune: at each rate (our choice, as in BERT: 3)")
    parser.add_argument("--seed", type=number_in(int, 0, 1 << 31), default=0,
                        help="with --fine-tune (default: 0)")
    parser.add_argument("--device", help="default: cuda or mps if there is one, else cpu")
    parser.add_argument("--fresh", action="store_true",
                        help="label all rows again; an old output is kept as *.old")
    parser.add_argument("-o", "--output", help="default: STEM.logits.tsv")
    args = parser.parse_args()
    device = pick_device(args.device)
    read_columns(args.tsv)  # before long work: is it a TSV?
    if not args.fine_tune:
        stem = args.tsv.removesuffix(".tsv").removesuffix(".transfer")
        output = args.output or stem + ".logits.tsv"
        check_folder(output)
        return label_file(args.tsv, output, args.teacher, args.label_order, device, args.fresh)
    if args.output or args.label_order or args.fresh:
        raise UserError("-o, --label-order and --fresh cannot be combined with --fine-tune")
    own = dataset_stem(args.tsv) + ".teacher"
    if os.path.isdir(own):
        raise UserError(f"{own} exists; remove it to train another")
    if torchrun_rank()[1] > 1:
        raise UserError("--fine-tune: expected a single process; torchrun is for labelling")
    checkpoint = fetch_teacher(args.teacher or BASE)
    fine_tune(args.tsv, checkpoint, device, args.lr, args.epochs, args.seed)


if __name__ == "__main__":
    run(main, kept="finished chunks and epochs are kept; the same command without --fresh resumes")
