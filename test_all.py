"""The specification: what each script promises, as tests that read like it.

    python test_all.py          # closes with `N passed, N failed`; pytest runs it too

On the CPU, without a network, with small files that the tests make in a temporary folder.
"""
import argparse
import ast
import contextlib
import csv
import gc
import gzip
import hashlib
import http.server
import importlib
import io
import itertools
import json
import math
import os
import pickle
import random
import re
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import tracemalloc
import weakref
import zipfile
from collections import Counter
from functools import lru_cache
from random import Random
from unittest import mock

import numpy as np
import torch

import augment
import bilstm
import distill
import teacher_logits
from bilstm import (BadInput, BiLSTM, Encoded, UNKNOWN, class_order, command, load_student, predict,
                    read_rows, read_vectors, save_student, split_token, words)


# ---- Helpers -------------------------------------------------------------------------------------
HERE = os.path.dirname(os.path.abspath(bilstm.__file__))
SCRATCH = tempfile.TemporaryDirectory()  # removed when the tests are done
torch.set_num_threads(1)  # these models are tiny: a second thread would only wait for the first
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}


def folder():
    """A new empty folder."""
    return tempfile.mkdtemp(dir=SCRATCH.name)


def put(where, name, content):
    """Write bytes; -> the path."""
    path = os.path.join(where, name)
    with open(path, "wb") as f:
        f.write(content)
    return path


def get(*path):
    """The bytes of a file."""
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def tsv(where, name, lines):
    """Write lines; the columns of each are a list, or a string with tabs. -> the path."""
    lines = [line if isinstance(line, str) else "\t".join(map(str, line)) for line in lines]
    return put(where, name, "".join(line + "\n" for line in lines).encode())


def run(script, *args, cwd=HERE, stdin=b""):
    """A script as a person starts it: -> exit code, stdout, stderr."""
    done = subprocess.run([sys.executable, os.path.join(HERE, script), *map(str, args)], cwd=cwd,
                          input=stdin, capture_output=True, timeout=120, env=ENV)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def call(main, *args, stdin=b""):
    """The same without a new process: -> exit code, stdout, stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = 0
    with mock.patch("sys.argv", ["script.py", *map(str, args)]), mock.patch("sys.stdout", out), \
            mock.patch("sys.stderr", err), \
            mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8")):
        try:
            bilstm.command(main, kept="nothing is lost")
        except SystemExit as stop:
            code = stop.code
    return code, *(s.buffer.getvalue().decode() for s in (out, err))


def refused(result, *says):
    """Exit code 2 and one line on stderr that says all of this."""
    code, _, err = result
    assert code == 2 and err.count("\n") == 1 and err.startswith("error: "), result
    assert all(str(text).lower() in err.lower() for text in says), (err, says)


def raises(do, *says):
    """BadInput, of one line that says all of this."""
    try:
        do()
    except BadInput as error:
        said = str(error).lower()
        assert "\n" not in said and all(str(text).lower() in said for text in says), (said, says)
    else:
        raise AssertionError(f"BadInput expected that says {says}")


def student(classes=2, hidden=5, fc=7, pair=False, vocabulary=40, width=6, seed=0):
    """A small untrained student, both channels of different numbers, ready to predict."""
    torch.manual_seed(seed)
    model = BiLSTM(torch.randn(vocabulary, width), classes, hidden, fc, pair)
    model.trained.weight.data.add_(torch.randn(vocabulary, width))
    return model.eval()


def encoded(sentences, pair=False):
    """Rows of word numbers, [[4, 2], [7]], as Encoded holds them; pairs as two rows on end."""
    rows = Encoded(pair)
    for s in sentences:
        rows.add([" ".join(map(str, s))], int)
    return rows.freeze(torch.device("cpu"))


def numbering():
    """A function word -> number that numbers words as they come, and its dictionary."""
    known = {UNKNOWN: 0}
    return (lambda word: known.setdefault(word, len(known))), known


def reviews(n, seed, unlabelled=0, logits=True):
    """Lines of a TSV: n made-up reviews, the last few without a label, and a teacher's logits."""
    chance = random.Random(seed)
    lines = ["sentence\tlabel" + "\tlogit_0\tlogit_1" * logits]
    for i in range(n):
        good = chance.random() < 0.5
        text = chance.choices(("warm", "fine", "great") if good else ("dull", "cold", "weak"), k=2)
        text += chance.choices("the a film plot it is was , and".split(), k=chance.randrange(7))
        chance.shuffle(text)
        x = chance.uniform(1, 3) * (1 if good else -1)
        lines.append(f"{' '.join(text)}\t{'' if i >= n - unlabelled else int(good)}"
                     + f"\t{-x:.6f}\t{x:.6f}" * logits)
    return lines


SMALL = ("--hidden", 8, "--fc", 8, "--batch-size", 8, "--device", "cpu")


def small(where):
    """x.tsv, x.dev.tsv and x.logits.tsv (64 rows, 24 unlabelled); -> the arguments of a run."""
    tsv(where, "x.dev.tsv", reviews(20, 2, logits=False))
    logits = tsv(where, "x.logits.tsv", reviews(64, 1, unlabelled=24))
    return tsv(where, "x.tsv", reviews(40, 1, logits=False)), "--logits", logits, *SMALL


@lru_cache(maxsize=None)
def trained():
    """A run of distill.py over those rows, made once: -> its folder, its output."""
    where = folder()
    code, out, err = call(distill.main, *small(where), "--epochs", 3, "--seed", 3)
    assert (code, err) == (0, ""), (code, out, err)
    return where, out


# ---- The rows of a TSV ---------------------------------------------------------------------------
def test_rows_forms():
    """Every form of DESIGN.md, as GLUE and SICK ship it: texts, labels, pair or not."""
    mnli = ("index promptID pairID genre sentence1_binary_parse sentence2_binary_parse "
            "sentence1_parse sentence2_parse sentence1 sentence2 label1 gold_label").split()
    forms = {
        "sst2": ([["sentence", "label"], ["a fine film ", 1], ["dull", 0]],
                 [("a fine film ",), ("dull",)], ["1", "0"]),
        "sst2 test": ([["index", "sentence"], [0, "a fine film"]], [("a fine film",)], [""]),
        "mnli": ([mnli, [0, "31193n", "n", "fiction", "(p", "(q", "p", "q", "He sat.", "He stood.",
                         "neutral", "contradiction"]],
                 [("He sat.", "He stood.")], ["contradiction"]),
        "qqp": (["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
                 '7\t1\t2\tWho is "Bo?\t"""Bo""?\t1'], [('Who is "Bo?', '"""Bo""?')], ["1"]),
        "qqp test": ([["id", "question1", "question2"], [0, "Why?", "How?"]],
                     [("Why?", "How?")], [""]),
        "mrpc": (["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", 
                  "0\t1\t2\tShe ran .\tHe ran ."],
                 [("She ran .", "He ran .")], ["0"]),
        "rte": ([["index", "sentence1", "sentence2", "label"], [0, "Rain fell.", "It was wet.",
                 "not_entailment"]], [("Rain fell.", "It was wet.")], ["not_entailment"]),
        "sick": ([["index", "sentence1", "sentence2", "gold_label"], [0, "A", "B", "neutral"]],
                 [("A", "B")], ["neutral"]),
        "qnli": ([["index", "question", "sentence", "label"], [0, "Who?", "Bo.", "entailment"]],
                 [("Who?", "Bo.")], ["entailment"]),
        "snli": ([["premise", "hypothesis", "label"], ["P", "H", "1"]], [("P", "H")], ["1"])}
    for name, (lines, texts, labels) in forms.items():
        table = read_rows(tsv(folder(), "x.tsv", lines))
        rows = list(table)
        assert [row.texts for row in rows] == texts and table.pair == (len(texts[0]) == 2), name
        assert [row.label for row in rows] == labels and not table.dropped, name
        assert [row.line for row in rows] == list(range(2, len(rows) + 2)), name


def test_rows_dropped():
    """Rows without a gold label or with an empty sentence are left out, and counted by reason."""
    path = tsv(folder(), "x.tsv", ["question1\tquestion2\tlabel", "a\tb\t0", "\tb\t0", "a\t \t1",
                                   "a\tb\t-", "c\td\t1", "e\tf\t"])
    table = read_rows(path)
    assert [(row.line, row.label) for row in table] == [(2, "0"), (6, "1"), (7, "")]
    assert sum(table.dropped.values()) == 3 and sorted(table.dropped.values()) == [1, 2]
    assert list(table) == list(table) and sum(table.dropped.values()) == 3  # read afresh each time
    assert [row.line for row in read_rows(path, keep=True)] == [2, 3, 4, 5, 6, 7]


def test_rows_quiet():
    """A byte-order mark, CRLF, a last line without an end and odd bytes in a text are no fault."""
    plain = "sentence\tlabel\nan été\t1\nb\u2028c\x0b\x85 d\t0\n".encode()
    expected = list(read_rows(put(folder(), "x.tsv", plain)))
    assert [row.texts for row in expected] == [("an été",), ("b\u2028c\x0b\x85 d",)]
    for other in (b"\xef\xbb\xbf" + plain, plain.replace(b"\n", b"\r\n"), plain[:-1],
                  (b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n"))[:-2]):
        assert list(read_rows(put(folder(), "x.tsv", other))) == expected, other


def test_rows_bad():
    """Each fault of a TSV is told with the file and, where there is one, the line."""
    head = b"sentence\tlabel\n"
    faults = [(b"", ""), (head, "header"), (b"text\tclass\na\t1\n", "line 1"), (b"\n", "line 1"),
              (b"sentence1\tlabel\na\t1\n", "line 1"), (head + b"a\t1\nb\n", "line 3: 1 columns"),
              (head + b"a\t1\tx\n", "line 2: 3 columns"), (head + b"a\t1\n\n", "line 3"),
              (head + b"a\t1\ncaf\xe9\t0\n", "line 3: not utf-8"), (b"\xff\xfe" + head, "line 1"),
              (head + b"a\t1\n" + b"x" * (1 << 20) + b"\t0\n", "line 3"),
              (os.urandom(1) + bytes(1 << 21), "line 1")]
    for content, says in faults:
        path = put(folder(), "x.tsv", content)
        raises(lambda: list(read_rows(path)), path, says)
    raises(lambda: read_rows("/nowhere/x.tsv"), "/nowhere/x.tsv: no such file")
    raises(lambda: read_rows(SCRATCH.name), SCRATCH.name)


def test_rows_logits():
    """The teacher's logits are read by their columns; what is no finite number is named."""
    lines = ["logit_1\tsentence\tlogit_0\tlabel", "-1.5\ta\t2e-1\t1"]
    table = read_rows(tsv(folder(), "x.tsv", lines))
    row = next(iter(table))
    assert dict(zip(table.logit_names, row.logits)) == {"1": -1.5, "0": 0.2} and row.label == "1"
    for cell in ("", "x", "nan", "inf", "-Infinity", "1e999", "1,5"):
        path = tsv(folder(), "x.tsv", [*lines, f"0\tb\t{cell}\t0"])
        raises(lambda: list(read_rows(path)), path, "line 3", "finite number", repr(cell)[1:-1])


def test_class_order():
    """Numbers by value; GLUE's order for entailment; other names sorted."""
    for labels, order in (("1 0 1", "0 1"), ("10 9 -1", "-1 9 10"), ("b a c", "a b c"),
                          ("contradiction neutral entailment", "entailment neutral contradiction"),
                          ("not_entailment entailment", "entailment not_entailment"),
                          ("2.5 1 3.0", "1 2.5 3.0"), ("pos neg", "neg pos")):
        assert class_order(labels.split()) == order.split(), labels


# ---- The words of a sentence ---------------------------------------------------------------------
def test_words_treebank():
    """Raw text is lower-cased and split as the Penn Treebank splits it."""
    for text, split in (
            ("It's.  Don't [MASK]!", "it 's . do n't [MASK] !"), ("don't,", "do n't ,"),
            ("I'm he'd she'll we've they're", "i 'm he 'd she 'll we 've they 're"),
            ("Won't can't ain't", "wo n't ca n't ai n't"), ("don’t it’s", "do n't it 's"),
            ("Cannot gonna wanna gotta gimme lemme", "can not gon na wan na got ta gim me lem me"),
            ("The dogs' and James' tails", "the dogs ' and james ' tails"),
            ("Mr. Smith, Dr. No and J. R. etc.", "mr. smith , dr. no and j. r. etc."),
            ("He left the U.S. Why?", "he left the u.s. why ?"), ("at 5 p.m.", "at 5 p.m."),
            ("The end. Really.", "the end . really ."), ("(good) [sic]", "( good ) [ sic ]"),
            ('a "quoted" word', 'a " quoted " word'), ("``so'' it", "`` so '' it"),
            ("2,500.50 1:30 3.5", "2,500.50 1:30 3.5"), ("$5, 50%", "$ 5 , 50 %"),
            ("$3.50. See x.com.", "$ 3.50 . see x.com ."), ("a non-U.S. Ph.D.", "a non-u.s. ph.d."),
            ("1, 2,and", "1 , 2 , and"), ("well-made r&b/rap o'clock", "well-made r&b/rap o'clock"),
            ("wow!!! what?! wait...", "wow !!! what ?! wait ..."), ("a--b; c", "a -- b ; c"),
            ("café NAÏVE", "café naïve"), ("e-mail@x.com", "e-mail@x.com"), ("", ""), (" \t ", "")):
        assert words(text) == split.split(), (text, words(text))
    assert split_token("don't,") == ("do", "n't", ",")


def test_words_mask():
    """[MASK] stays whole and as it is, whatever stands beside it; [mask] is no mask."""
    for text, split in (("[MASK]", "[MASK]"), ("[MASK], [MASK].", "[MASK] , [MASK] ."),
                        ("([MASK])", "( [MASK] )"), ("[MASK]'s", "[MASK] 's"),
                        ('"[MASK]"', '" [MASK] "'),
                        ("[MASK][MASK]", "[MASK] [MASK]"), ("the[MASK]x", "the [MASK] x"),
                        ("[MASK]...", "[MASK] ..."), ("[mask]", "[ mask ]")):
        assert words(text) == split.split(), (text, words(text))


def test_words_split_already():
    """Text that is split already, as SST-2 is, comes back as it was."""
    for text in ("it 's a charming and often affecting journey .", "do n't ' re ' it , they 're",
                 "the film 's `` wow '' factor ( ha ! ) -- it is ...", "a $ 5 r&b 1:30 p.m. show",
                 "mr. t 's j. 2,500 well-made can not gon na wo n't dogs ' 'em rock 'n' roll"):
        assert words(text) == text.split(), text


def test_words_idempotent():
    """Words joined by blanks give the same words: student and teacher see one text."""
    chance, odd = random.Random(0), []
    texts = ["shouldn't've", "y'all'd've", "can't've", "a'n't", "end.n't", "DİYARBAKIR", "I'm's"]
    for letters in ("abcno't.-'[MASK]!?, 12:$&\"`’", "aA'.n t", "gonawtlemi .'",
                    "".join(map(chr, range(32, 600)))):
        for _ in range(5000):
            text = "".join(chance.choices(letters, k=chance.randrange(1, 14)))
            texts.append(text[:5] + "[MASK]" + text[5:] if chance.random() < 0.3 else text)
    for text in texts:
        once = words(text)
        if words(" ".join(once)) != once:
            odd.append((text, once, words(" ".join(once))))
    assert not odd, f"{len(odd)} of {len(texts)}, such as {odd[:8]}"


# ---- Word vectors --------------------------------------------------------------------------------
VECTORS = {"the": [0.5, -1.25, 3.0], "Film": [1, 2, 3], "film": [4, 5, 6], "FILM": [7, 8, 9],
           "Paris": [0.125, 0, -8], "PARIS": [9, 9, 9], "été": [-0.5, 0.25, 1e-3]}


def vector_file(kind, table=VECTORS):
    """The bytes of a vectors file of each kind."""
    head = f"{len(table)} 3\n".encode()
    if kind.startswith("binary"):
        end = b"\n" if "newline" in kind else b""
        return head + b"".join(w.encode() + b" " + np.array(v, "<f4").tobytes() + end
                               for w, v in table.items())
    end = " \n" if "fastText" in kind else "\n"
    lines = "".join(f"{w} {' '.join(map(str, v))}{end}" for w, v in table.items()).encode()
    return lines if kind == "GloVe" else head + lines


KINDS = ("binary", "binary, newline", "word2vec text", "fastText .vec", "GloVe")


def test_vectors_formats():
    """word2vec's two binary forms and three text forms, plain and .gz, read alike, by content."""
    for kind in KINDS:
        for pack in (bytes, gzip.compress):
            path = put(folder(), "vectors", pack(vector_file(kind)))
            found = read_vectors(path, ["the", "été", "absent"])
            assert found.keys() == {"the", "été"}, (kind, found)  # the wanted words, no others
            for word, vector in found.items():
                assert vector.dtype == np.float32 and vector.shape == (3,)
                assert np.array_equal(vector, np.float32(VECTORS[word])), (kind, word)


def test_vectors_case():
    """The lower-case vector where there is one; else the first spelling's."""
    back = dict(reversed(VECTORS.items()))
    for kind in KINDS:
        for table, paris in ((VECTORS, "Paris"), (back, "PARIS")):
            found = read_vectors(put(folder(), "v", vector_file(kind, table)), {"film", "paris"})
            assert found["film"].tolist() == [4, 5, 6] and len(found) == 2, kind
            assert found["paris"].tolist() == VECTORS[paris], kind


def test_vectors_cut_short():
    """A file of any kind that ends too early is named, wherever its end was lost."""
    for kind in KINDS:
        whole = vector_file(kind)
        for left in (len(whole) - 12, 25):  # GloVe's has no header: cut in a line it still shows
            path = put(folder(), "v", whole[:left])
            raises(lambda: read_vectors(path, VECTORS), path)
        path = put(folder(), "v.gz", gzip.compress(whole)[:-15])
        raises(lambda: read_vectors(path, VECTORS), path)


def test_vectors_no_vectors():
    """What is no vectors file is refused: empty, a TSV, random bytes, no numbers, not finite."""
    noise = random.Random(0).randbytes(1 << 16)
    for content in (b"", b"\n", b"sentence\tlabel\na\t1\n", noise, b"\x1f\x8b" + noise,
                    b"3 0\nthe\n", b"the 1 2 x\n", b"2 3\nthe 1 2 3\nfilm 1 x 3\n",
                    b"the 1 2 3\nfilm 1 1e999 3\n", vector_file("binary", {"film": [0, math.inf, 0]}),
                    b"{\"the\": [1, 2, 3]}\n", b"PK\x03\x04" + noise):
        path = put(folder(), "v", content)
        raises(lambda: read_vectors(path, VECTORS), path)
    raises(lambda: read_vectors("/nowhere/v.bin", ["the"]), "/nowhere/v.bin")
    raises(lambda: read_vectors(SCRATCH.name, ["the"]), SCRATCH.name)


def test_vectors_absurd_header():
    """A header that promises a billion words is refused at once, and takes no memory."""
    body = vector_file("binary")[4:], vector_file("word2vec text")[4:]
    tracemalloc.start()
    start = time.monotonic()
    for header in (b"1000000000 300\n", b"9999999999 99999\n", b"1000000000 3\n"):
        for content in (*(header + b for b in body), header, gzip.compress(header + body[0])):
            path = put(folder(), "v", content)
            raises(lambda: read_vectors(path, VECTORS), path)
    assert time.monotonic() - start < 3 and tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


# ---- The network ---------------------------------------------------------------------------------
def direction(x, weights, suffix):
    """An LSTM step by step, in PyTorch's order of gates, i, f, g, o: x (T, E) -> h (H,)."""
    w, u, b, c = (weights[f"lstm.{name}_l0{suffix}"] for name in
                  ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = cell = np.zeros(u.shape[1])
    for word in x:
        i, f, g, o = np.split(w @ word + b + u @ h + c, 4)
        i, f, g, o = 1 / (1 + np.exp(-i)), 1 / (1 + np.exp(-f)), np.tanh(g), 1 / (1 + np.exp(-o))
        cell = f * cell + i * g
        h = o * np.tanh(cell)
    return h


def by_hand(model, *sentences):
    """Figures 1 and 2 in numpy, float64: one sentence of word numbers, or two, -> logits (C,)."""
    w = {k: v.double().numpy() for k, v in model.state_dict().items()}
    h = []
    for ids in sentences:
        x = np.concatenate([w["trained.weight"][ids], w["frozen.weight"][ids]], axis=1)
        h.append(np.concatenate([direction(x, w, ""), direction(x[::-1], w, "_reverse")]))
    h = h[0] if len(h) == 1 else np.concatenate([*h, h[0] * h[1], abs(h[0] - h[1])])
    return w["output.weight"] @ np.maximum(0, w["fc.weight"] @ h + w["fc.bias"]) + w["output.bias"]


def near(a, b, by=1e-5):
    """The same shape, and the same numbers to within this."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    return a.shape == b.shape and abs(a - b).max() <= by


def sentences(lengths, seed=0):
    """Random sentences of word numbers of these lengths."""
    chance = random.Random(seed)
    return [[chance.randrange(1, 40) for _ in range(n)] for n in lengths]


def test_network_single():
    """Figure 1 against an LSTM written out step by step: alone, in a batch, and predicted."""
    model, texts = student(classes=3), sentences([1, 4, 2, 9, 3, 3, 1, 7])
    rows = encoded(texts)
    expected = np.array([by_hand(model, text) for text in texts])
    assert abs(expected).max() > 0.1 and np.ptp(expected, axis=0).min() > 0.01
    with torch.no_grad():
        alone = torch.cat([model(*rows.batch(torch.tensor([r]))) for r in range(8)])
        batch = model(*rows.batch(torch.arange(8)))
        same = model(*rows.batch(torch.tensor([4, 5])))  # equal lengths: no packing needed
    assert near(alone, expected) and near(batch, expected) and near(same, expected[4:6])
    assert near(predict(model, rows), expected) and near(predict(model, rows, 3), expected)


def test_network_pair():
    """Figure 2 by hand, over each pair of lengths 1 to 4, alone and padded on both sides."""
    model = student(classes=3, pair=True)
    lengths = [n for a in range(1, 5) for b in range(1, 5) for n in (a, b)]
    texts = sentences(lengths)
    rows = encoded(texts, pair=True)
    expected = np.array([by_hand(model, *texts[2 * r:2 * r + 2]) for r in range(16)])
    with torch.no_grad():
        alone = torch.cat([model(*rows.batch(torch.tensor([r]))) for r in range(16)])
        batch = model(*rows.batch(torch.arange(16)))
    assert near(alone, expected) and near(batch, expected)
    assert near(predict(model, rows, 5), expected)


def test_network_padding():
    """What stands beyond a sentence's end changes nothing, in either direction."""
    for pair in (False, True):
        model = student(pair=pair)
        rows = encoded(sentences([1, 4, 2, 3, 4, 1, 3, 2]), pair)
        ids, lengths = rows.batch(torch.arange(len(rows)))
        beyond = torch.arange(4) >= lengths[:, None]
        assert ids.shape == (8, 4) and ids[beyond].any()  # there is something to be misread
        with torch.no_grad():
            expected = model(ids, lengths)
            for other in (torch.zeros_like(ids), torch.randint_like(ids, 40)):
                assert near(model(torch.where(beyond, other, ids), lengths), expected, 1e-6)
            longer = torch.cat([ids, torch.randint(40, (8, 3))], dim=1)
            assert near(model(longer, lengths), expected)


def test_network_backward_state():
    """The backward direction has read the whole sentence: its last word moves its state."""
    model, hidden = student(), 5
    ids, lengths = torch.tensor([[3, 4, 5], [3, 4, 6], [7, 4, 5]]), torch.tensor([3, 3, 3])
    with torch.no_grad():
        state = model.encode(ids, lengths)
    assert state.shape == (3, 2 * hidden)
    for half in state.split(hidden, dim=1):  # each direction sees the first and the last word
        assert (half[0] - half[1]).abs().max() > 1e-4 and (half[0] - half[2]).abs().max() > 1e-4


def test_network_siamese_swap():
    """Swapping the sentences swaps h1 and h2 and leaves h1*h2 and |h1-h2| as they were."""
    model, seen = student(pair=True), []
    model.fc.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numpy()))
    a, b = sentences([3, 2])
    with torch.no_grad():
        for texts in ((a, b), (b, a)):
            model(*encoded(texts, pair=True).batch(torch.tensor([0])))
        h1, h2 = (model.encode(torch.tensor([s]), torch.tensor([len(s)])).numpy() for s in (a, b))
    assert near(seen[0], np.concatenate([h1, h2, h1 * h2, abs(h1 - h2)], axis=1), 1e-6)
    assert near(seen[1], np.concatenate([h2, h1, h1 * h2, abs(h1 - h2)], axis=1), 1e-6)


def test_network_size():
    """Parameters without embeddings: table 2's 0.96M is 963,002; pairs read four blocks."""
    vectors = torch.zeros(10, 300)
    for size, arguments in ((963_002, (2,)), (2_406_002, (2, 300, 400)),
                            (1_143_002, (2, 150, 200, True)), (1_143_203, (3, 150, 200, True))):
        model = BiLSTM(vectors, *arguments)
        assert model.size() == size, model.size()
        assert sum(p.numel() for p in model.parameters()) == size + 2 * vectors.numel()


def test_network_channels():
    """The trained channel moves, in the batch's words; the frozen one never does (§4.2)."""
    vectors = torch.randn(9, 4)
    for sparse in (True, False):
        model = BiLSTM(vectors.clone(), 2, 3, 5)
        optimizer = distill.optimizers(model) if sparse else \
            [torch.optim.Adadelta([p for p in model.parameters() if p.requires_grad])]
        assert torch.equal(model.trained.weight, vectors)
        for _ in range(3):
            model.zero_grad()
            model(torch.tensor([[1, 2, 3]]), torch.tensor([3])).square().sum().backward()
            for o in optimizer:
                o.step()
        moved = (model.trained.weight != vectors).any(dim=1)
        assert moved.tolist() == [i in (1, 2, 3) for i in range(9)]
        assert torch.equal(model.frozen.weight, vectors)


def test_network_unknown():
    """[MASK] is number 0, which any unknown word is: the two give the same logits."""
    model, number, labels = load_student(os.path.join(trained()[0], "x.student.pt"),
                                         torch.device("cpu"))
    assert number[UNKNOWN] == 0 and UNKNOWN == "[MASK]" and "zyzzyva" not in number
    _, out, _ = call(bilstm.main, os.path.join(trained()[0], "x.student.pt"), "--device", "cpu",
                     stdin=b"a [MASK] film\na zyzzyva film\na dull film\n")
    masked, unknown, known = (line.split("\t")[:2] for line in out.splitlines())
    assert masked == unknown != known


def test_encoded():
    """Rows keep their words, their order and their sides; long ones stop at 512 words."""
    rows = Encoded(True)
    rows.add(["7 8", "9"], int)
    rows.add(["1", "2 3 4"], int)
    assert len(rows) == 2
    rows.freeze(torch.device("cpu"))
    ids, lengths = rows.batch(torch.tensor([1, 0]))
    assert lengths.tolist() == [1, 2, 3, 1]  # the first sentences first
    assert [row[:n] for row, n in zip(ids.tolist(), lengths)] == [[1], [7, 8], [2, 3, 4], [9]]
    ids, lengths = rows.batch(torch.tensor([1]))
    assert lengths.tolist() == [1, 3] and ids[1].tolist() == [2, 3, 4]
    long = encoded([list(range(2000))])
    assert long.batch(torch.tensor([0]))[0].tolist() == [list(range(512))]


# ---- The student's file --------------------------------------------------------------------------
def test_student_round_trip():
    """A saved student comes back whole: the same logits, vocabulary, labels, to the last bit."""
    for pair in (False, True):
        model, path = student(3, pair=pair), os.path.join(folder(), "x.student.pt")
        vocabulary = [UNKNOWN] + [f"w{i}" for i in range(39)]
        save_student(path, model, vocabulary, ["a", "b", "c"])
        again, number, labels = load_student(path, torch.device("cpu"))
        rows = encoded(sentences([3, 1, 2, 4, 4, 2]), pair)
        assert torch.equal(predict(again, rows), predict(model, rows)) and again.pair == pair
        assert number == {w: i for i, w in enumerate(vocabulary)} and labels == ["a", "b", "c"]
        assert not again.frozen.weight.requires_grad and again.size() == model.size()


def test_student_bytes():
    """Equal students are equal files whatever their names; the frozen channel is there once."""
    model, where = student(vocabulary=500), folder()
    vocabulary = [UNKNOWN] + [f"w{i}" for i in range(499)]
    for name in ("a.pt", "another.student.pt"):
        save_student(os.path.join(where, name), model, vocabulary, ["0", "1"])
    content = get(where, "a.pt")
    assert content == get(where, "another.student.pt")
    assert content.count(model.frozen.weight.numpy().tobytes()) == 1
    assert sorted(os.listdir(where)) == ["a.pt", "another.student.pt"]
    torch.load(os.path.join(where, "a.pt"), weights_only=True)


class Evil:
    """A pickle that writes a file when it is loaded carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_student_malicious():
    """A pickle that would run code is refused, and nothing of it is run."""
    where = folder()
    marker = os.path.join(where, "marker")
    for n, protocol in enumerate((0, 2, 4)):
        path = put(where, f"{n}.pt", pickle.dumps(Evil(marker), protocol))
        refused(call(bilstm.main, path, stdin=b"a\n"), path)
    path = os.path.join(where, "zip.pt")
    torch.save({"weights": {}, "vocabulary": Evil(marker), "labels": [], "pair": False}, path)
    refused(call(bilstm.main, path, stdin=b"a\n"), path)
    assert not os.path.exists(marker)
    pickle.loads(get(where, "0.pt")).close()
    assert os.path.exists(marker)  # so these files do bite


def test_student_bad():
    """What is no student, or a damaged one, is refused in one line that names the file."""
    where = folder()
    good, path = os.path.join(trained()[0], "x.student.pt"), os.path.join(where, "s.pt")
    whole, device = get(good), torch.device("cpu")
    for content in (b"", b"sentence\tlabel\na\t1\n", whole[:len(whole) // 2], whole[:-30],
                    os.urandom(5000), b"PK\x03\x04" + bytes(100)):
        raises(lambda: load_student(put(where, "s.pt", content), device), path)
    raises(lambda: load_student(os.path.join(where, "none.pt"), device), "none.pt: no such file")
    raises(lambda: load_student(where, device), where)

    def broken(change):
        s = torch.load(good, weights_only=True)
        s = change(s) or s
        torch.save(s, path)
        raises(lambda: load_student(path, device), path)
    broken(lambda s: [1, 2])
    broken(lambda s: s["weights"])
    for key in ("weights", "vocabulary", "labels", "pair"):
        broken(lambda s: s.pop(key) and None)
        broken(lambda s: s.update({key: 7 if key != "pair" else True}))
    for name in torch.load(good, weights_only=True)["weights"]:
        broken(lambda s: s["weights"].pop(name) is None)
        broken(lambda s: s["weights"].update({name: torch.zeros(3, 2)}))
        broken(lambda s: s["weights"].update({name: torch.zeros(7)}))
        broken(lambda s: s["weights"].update({name: torch.zeros(1).expand(1 << 30)}))
        broken(lambda s: s["weights"].update({name: s["weights"][name].double()}))
    broken(lambda s: s["labels"].append("2"))
    broken(lambda s: s["vocabulary"].append("zyzzyva"))
    broken(lambda s: s["vocabulary"].reverse())
    broken(lambda s: s["vocabulary"].__setitem__(1, ["a list"]))


# ---- Predicting from the command line ------------------------------------------------------------
def test_predict_file():
    """With -o, GLUE's submission: index and prediction, a row for each of the file's, in order."""
    where, path = folder(), os.path.join(trained()[0], "x.student.pt")
    texts = ["dull cold film", "great", "", "a fine , warm film and a very great plot", "weak"]
    test = tsv(where, "x.test.tsv", ["index\tsentence"] + [[i, t] for i, t in enumerate(texts)])
    code, out, err = call(bilstm.main, path, test, "-o", os.path.join(where, "SST-2.tsv"))
    assert (code, out, err) == (0, "", "")
    lines = get(where, "SST-2.tsv").decode().splitlines()
    assert lines[0] == "index\tprediction" and len(lines) == 6
    alone = [call(bilstm.main, path, stdin=t.encode() + b"\n")[1][0] for t in texts]
    assert lines[1:] == [f"{i}\t{label}" for i, label in enumerate(alone)]
    assert [alone[i] for i in (0, 1, 3, 4)] == ["0", "1", "1", "0"]  # and it has learnt something
    assert call(bilstm.main, path, test)[1].splitlines() == lines  # without -o: printed


def test_predict_stdin():
    """The command itself, one sentence a line: label, probability and sentence come back."""
    path = os.path.join(trained()[0], "x.student.pt")
    code, out, err = run("bilstm.py", path, stdin="A great café\r\n\nDull, cold film.".encode())
    assert (code, err) == (0, "")
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[2] for line in lines] == ["A great café", "", "Dull, cold film."]
    assert all(line[0] in "01" and 0.5 <= float(line[1]) <= 1 for line in lines)
    assert lines[0][0] == "1" and lines[2][0] == "0" and re.fullmatch(r"\d\.\d{4}", lines[0][1])


def test_predict_pairs():
    """Pairs from standard input stand with a tab between; the label's name is the answer."""
    where = folder()
    model, path = student(3, pair=True), os.path.join(where, "p.student.pt")
    vocabulary = [UNKNOWN] + [str(i) for i in range(1, 40)]
    save_student(path, model, vocabulary, ["entailment", "neutral", "contradiction"])
    texts = sentences([2, 3, 4, 1], seed=5)
    typed = ["\t".join(" ".join(map(str, s)) for s in texts[r:r + 2]) for r in (0, 2)]
    code, out, err = call(bilstm.main, path, stdin="\n".join(typed).encode())
    assert (code, err) == (0, "")
    for r, line in enumerate(out.splitlines()):
        logits = by_hand(model, *texts[2 * r:2 * r + 2])
        p = np.exp(logits) / np.exp(logits).sum()
        label = ["entailment", "neutral", "contradiction"][p.argmax()]
        assert line == f"{label}\t{p.max():.4f}\t{typed[r]}", line
    refused(call(bilstm.main, path, stdin=b"1 2\t3\n4 5\n"), "standard input", "line 2")
    single = tsv(where, "x.tsv", ["sentence", "1 2"])
    refused(call(bilstm.main, path, single), single, "pairs")


def test_predict_bad():
    """A fault in mid-file: one line, exit code 2, and an older prediction stays as it was."""
    where, path = folder(), os.path.join(trained()[0], "x.student.pt")
    old = put(where, "p.tsv", b"older")
    bad = tsv(where, "x.tsv", ["index\tsentence", *(f"{i}\tfilm" for i in range(20)), "20"])
    refused(call(bilstm.main, path, bad, "-o", old), bad, "line 22")
    assert get(old) == b"older" and sorted(os.listdir(where)) == ["p.tsv", "x.tsv"]
    good = tsv(where, "x.tsv", ["sentence", "film"])
    refused(call(bilstm.main, path, good, "-o", where + "/no/p"), where + "/no/p", "no such file")
    refused(call(bilstm.main, path, good, "--device", "toaster"), "--device toaster")
    refused(call(bilstm.main, path, tsv(where, "x.tsv", ["sentence"])), "x.tsv")
    pairs = tsv(where, "x.tsv", ["question1\tquestion2", "a\tb"])
    refused(call(bilstm.main, path, pairs), pairs, "single")
    refused(call(bilstm.main, path, stdin=b"a\tb\n"), "standard input")
    refused(call(bilstm.main, path, "-o", where + "/q", stdin=b"film\n"), "-o")
    if os.path.exists("/dev/full"):
        rows = tsv(where, "y.tsv", ["sentence", "film"])
        done = subprocess.run(f"{sys.executable} bilstm.py {path} {rows} > /dev/full", shell=True,
                              cwd=HERE, capture_output=True, text=True, env=ENV)
        refused((done.returncode, "", done.stderr), "output: no space left")


def test_predict_bad_command():
    """The command itself: exit code 2, one line on stderr, no traceback."""
    good = os.path.join(trained()[0], "x.student.pt")
    text = put(folder(), "s.pt", b"no student\n")
    refused(run("bilstm.py", text), text)
    refused(call(bilstm.main, good, stdin=b"a fine film\ncaf\xe9\n"), "standard input", "utf-8")


# ---- For people ----------------------------------------------------------------------------------
def test_writing():
    """A file is there whole or not at all; what stood there stays until then."""
    where = folder()
    path = put(where, "x", b"old")
    try:
        with bilstm.writing(path) as f:
            f.write(b"half")
            assert get(path) == b"old"
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert get(path) == b"old" and os.listdir(where) == ["x"]
    with bilstm.writing(path) as f:
        f.write(b"new")
    assert get(path) == b"new" and os.listdir(where) == ["x"]


def test_nothing_is_written_onto_its_input():
    """-o that names the file to be read is refused, and the file stays as it was."""
    where = folder()
    rows, model = tsv(where, "x.tsv", ["sentence\tlabel", "a film\t1"]), os.path.join(where, "m.pt")
    save_student(model, student(vocabulary=2), [UNKNOWN, "film"], ["0", "1"])
    write_teacher(f"{where}/teacher", small_weights())
    before = get(rows)
    for main, *arguments in ((augment.main, rows), (bilstm.main, model, rows),
                             (teacher_logits.main, rows, "--teacher", f"{where}/teacher")):
        for name in (rows, os.path.join(where, ".", "x.tsv")):
            refused(call(main, *arguments, "-o", name), name)
            assert get(rows) == before and sorted(os.listdir(where)) == ["m.pt", "teacher", "x.tsv"]


def test_command():
    """Ctrl-C: 130 and what was kept; a full disk or bad input: 2; each one line, no traceback."""
    def stop(error):
        def main():
            raise error
        return call(main)
    code, _, err = stop(KeyboardInterrupt())
    assert code == 130 and err.strip().count("\n") == 0 and "nothing is lost" in err
    refused(stop(OSError(28, "No space left on device", "x.pt")), "x.pt", "No space left")
    refused(stop(BadInput("x.tsv, line 3: wrong")), "x.tsv, line 3: wrong")


def test_command_broken_pipe():
    """Output that nobody reads any more (`| head -1`) ends a script without a word; its exit code says
    that it is not done."""
    path = os.path.join(trained()[0], "x.student.pt")
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, os.path.join(HERE, "bilstm.py"), path]
    process = subprocess.Popen(command, env=ENV, **pipes)
    process.stdout.close()
    assert process.communicate(b"a film\n" * 9)[1] == b"" and process.returncode == 1


def test_progress():
    """One line with rate and time left on a terminal, cleared at the end; else nothing at all."""
    for terminal in (True, False):
        screen = io.StringIO()
        screen.isatty = lambda: terminal
        clock = iter(range(99)).__next__  # a second passes at each look
        with mock.patch("sys.stderr", screen), mock.patch("time.monotonic", clock):
            progress = bilstm.Progress("epoch 1", 1000)
            progress.add(250)
            middle = screen.getvalue()
            progress.add(750)
        if terminal:
            assert "epoch 1: 250/1,000 rows, 250/s, 3s left" in middle, middle
            assert screen.getvalue().endswith("\r\033[K") and "\n" not in screen.getvalue()
        else:
            assert screen.getvalue() == ""


def test_pick_device():
    """The device asked for; else the best there is; what torch does not know is refused."""
    assert bilstm.pick_device("cpu").type == "cpu"
    assert bilstm.pick_device(None).type in ("cuda", "mps", "cpu")
    raises(lambda: bilstm.pick_device("toaster"), "--device toaster")


# ---- The loss ------------------------------------------------------------------------------------
def test_loss():
    """Equations 2 and 3 by hand, for a row with a label and one without."""
    # Both rows: student (ln 3, 0), so its probabilities are 3/4 and 1/4.
    # Row 1, label 0, teacher (ln 3, 2): cross-entropy ln 4/3, squared distance 0 + 4 = 4. The
    #   teacher prefers class 1, but a row's own label stays.
    # Row 2, no label, teacher (ln 3 - 1, 2): its argmax is 1, so cross-entropy ln 4; 1 + 4 = 5.
    three = math.log(3)
    z = torch.tensor([[three, 0.0], [three, 0.0]])
    teacher = torch.tensor([[three, 2.0], [three - 1, 2.0]])
    labels = torch.tensor([0, -1])
    first, second = math.log(4 / 3), math.log(4)
    for rows, alpha, value in (([0], 0, 4), ([0], 1, first), ([0], 0.5, (first + 4) / 2),
                               ([1], 0, 5), ([1], 1, second), ([1], 0.5, (second + 5) / 2),
                               ([0, 1], 0, 4.5), ([0, 1], 1, math.log(16 / 3) / 2),
                               ([0, 1], 0.25, 0.25 * math.log(16 / 3) / 2 + 0.75 * 4.5)):
        value_here = float(distill.loss(z[rows], teacher[rows], labels[rows], alpha))
        assert abs(value_here - value) < 1e-5, (rows, alpha, value_here, value)
    assert labels.tolist() == [0, -1]  # nobody's labels are overwritten
    assert abs(float(distill.loss(z[:1], None, labels[:1], 1)) - first) < 1e-6


def test_loss_sums_over_classes():
    """The squared norm sums over classes: with three, 1 + 4 + 9 = 14, not its third."""
    z, teacher = torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(1, 3)
    assert float(distill.loss(z, teacher, torch.tensor([-1]), 0)) == 14


def test_loss_gradient():
    """At alpha 0 the gradient is 2 (student - teacher) / rows: the student goes to the teacher."""
    z = torch.tensor([[1.0, -2.0], [0.5, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 1.0], [0.5, -1.0]])
    distill.loss(z, teacher, torch.tensor([1, -1]), 0).backward()
    assert near(z.grad, torch.tensor([[1.0, -3.0], [0.0, 1.0]]), 1e-6)


# ---- AdaDelta ------------------------------------------------------------------------------------
def adadelta(steps, take_up_at=None):
    """300 steps of RowAdadelta and of torch's own on the same random sparse batches."""
    torch.manual_seed(0)
    start, goal = torch.randn(20, 5), torch.randn(20, 5)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    rows, dense = distill.RowAdadelta(ours, 1.0, 0.95), torch.optim.Adadelta([theirs], 1.0, 0.95)
    for step in range(steps):
        if step == take_up_at:
            state, rows = rows.state_dict(), distill.RowAdadelta(ours, 1.0, 0.95)
            rows.load_state_dict(state)
        ids = torch.randint(15 if step < 200 else 20, (4,))  # five rows are first met late; repeats
        for p, sparse in ((ours, True), (theirs, False)):
            p.grad = None
            x = torch.nn.functional.embedding(ids, p, sparse=sparse)
            (x - goal[ids]).square().sum().backward()
        rows.step()
        dense.step()
    return ours.data, theirs.data, start


def test_adadelta_rows():
    """Row by row, with the decay made up for, it is torch.optim.Adadelta: 300 steps to 1e-6."""
    ours, theirs, start = adadelta(300)
    assert (theirs - start).abs().max() > 0.1 and near(ours, theirs, 1e-6)
    assert near(adadelta(200)[0][15:], start[15:], 0)  # a row not met does not move


def test_adadelta_state():
    """Its state, saved and loaded, goes on as if nothing had been."""
    assert torch.equal(adadelta(120, take_up_at=60)[0], adadelta(120)[0])


def test_optimizers():
    """§4.2: AdaDelta, learning rate 1.0, rho 0.95, over every parameter that is trained."""
    ours, theirs = student(), student()
    dense = torch.optim.Adadelta([p for p in theirs.parameters() if p.requires_grad], 1.0, 0.95)
    for model, optimizer in ((ours, distill.optimizers(ours)), (theirs, [dense])):
        for step in range(5):
            model.zero_grad()
            logits = model(torch.tensor([[step, 7], [7, 9]]), torch.tensor([2, 2]))
            logits.square().sum().backward()
            for o in optimizer:
                o.step()
    for (name, a), b, start in zip(ours.named_parameters(), theirs.parameters(),
                                   student().parameters()):
        assert near(a.detach(), b.detach(), 1e-6), name
        assert torch.equal(a, start) == (name == "frozen.weight"), name


# ---- The rows of a run ---------------------------------------------------------------------------
def data(lines, classes=None, labelled=False, number=None, held=None):
    path = tsv(folder(), "x.tsv", lines)
    some = distill.Data(path, number or numbering()[0], classes, labelled, held)
    some.freeze(torch.device("cpu"))
    return some


def test_data():
    """Rows, labels as numbers, -1 for none, and logits stay side by side."""
    number, known = numbering()
    some = data(["sentence\tlabel\tlogit_no\tlogit_yes", "a b\tyes\t0.5\t1", "c\t\t-2\t3",
                 "b\tno\t0\t-1"], number=number)
    assert some.classes == ["no", "yes"] and some.labels.tolist() == [1, -1, 0]
    assert some.logits.tolist() == [[0.5, 1], [-2, 3], [0, -1]]
    assert list(known) == [UNKNOWN, "a", "b", "c"] and some.rows.lengths.tolist() == [2, 1, 1]
    some = data(["sentence\tlabel", "a\t1", "b\t", "c\t0"], labelled=True)
    assert some.labels.tolist() == [1, 0] and some.logits is None  # the labelled rows alone


def test_data_classes():
    """The order of classes: the logit columns' names, or the labels' where those are numbered."""
    for header, labels, classes in (
            ("", "10 9", "9 10"), ("", "neutral entailment", "entailment neutral"),
            ("logit_0 logit_1", "1 0", "0 1"), ("logit_0 logit_1 logit_2", "0 1", "0 1 2"),
            ("logit_0 logit_1", "not_entailment entailment", "entailment not_entailment"),
            ("logit_neutral logit_entailment", "entailment neutral", "neutral entailment"),
            ("logit_b logit_a", "", "b a")):
        columns = header.split()
        lines = [["sentence", "label", *columns]]
        lines += [["x", label, *("0" for _ in columns)] for label in labels.split() or [""]]
        assert data(lines).classes == classes.split(), (header, labels)


def test_data_bad():
    """Labels and logits that do not fit are told with file and line."""
    for lines, classes, says in (
            (["sentence\tlabel", "a\t0", "b\tgood"], ["0", "1"], "line 3: unknown label 'good'"),
            (["sentence\tlabel", "a\t0", "b\t1", "c\t0", "d\tl"], None,
             "line 5: unknown label 'l'"),
            (["sentence\tlabel", "a\t0", "b\t1", "c\t" + "x" * 99999], None,
             f"line 4: unknown label {'x' * 80!r} beside 0, 1"),
            (["sentence\tlabel", "a\tpos", "b\tneg", "c\t0"], None, "line 4: unknown label '0'"),
            (["sentence\tlabel", "a\t-1", "b\t1", "c\tl"], None, "line 4: unknown label 'l'"),
            (["sentence\tlabel", "a\t0", "b\t0"], None, "1 class"),
            (["sentence", "a"], None, "class"),
            (["sentence\tlabel\tlogit_0\tlogit_1", "a\t0\t1\t2", "b\t1\t1\t2", "c\t2\t1\t2"], None,
             "line 4: unknown label '2'"),
            (["sentence\tlabel\tlogit_0\tlogit_1", "a\tx\t1\t2", "b\ty\t1\t2", "c\tz\t1\t2"], None,
             "line"),
            (["sentence\tlabel\tlogit_0", "a\t0\t1", "b\t1\t1"], None, "class"),
            (["sentence\tlabel\tlogit_0\tlogit_1\tlogit_2", "a\t0\t1\t2\t3"], ["0", "1"],
             "line 1: 3 logits"),
            (["sentence\tlabel", "\t0"], None, "no row")):
        path = tsv(folder(), "x.tsv", lines)
        raises(lambda: distill.Data(path, numbering()[0], classes), path, says)
    path = tsv(folder(), "x.tsv", ["sentence\tlabel", "a\t", "b\t"])
    raises(lambda: distill.Data(path, numbering()[0], None, True), path)


def test_embeddings():
    """The words' vectors where there are any; the others uniform in +-0.25, by the seed."""
    vocabulary = {UNKNOWN: 0, **{f"w{i}": i for i in range(1, 2001)}}
    found = {"w7": np.float32([3, -4, 5]), "w2000": np.float32([0, 9, 0])}
    table = distill.embeddings(vocabulary, found, seed=1)
    assert table.shape == (2001, 3)
    assert table[7].tolist() == [3, -4, 5] and table[2000].tolist() == [0, 9, 0]
    table[[7, 2000]] = 0
    assert 0.249 < table.abs().max() <= 0.25 and abs(float(table.mean())) < 0.01
    assert abs(float(table.std()) - 0.5 / math.sqrt(12)) < 0.005
    again, other = (distill.embeddings(vocabulary, {}, seed) for seed in (1, 2))
    assert again.shape == (2001, 300) and not torch.equal(again, other)  # 300: §4.2
    assert torch.equal(again, distill.embeddings(vocabulary, {}, 1))


def test_overlap():
    """Dev rows that stand among the training rows are counted, word for word."""
    number, _ = numbering()
    train = data(["sentence\tlabel", "A bee.\t0", "c\t1", "d e\t"], number=number)
    dev = data(["sentence\tlabel", "a bee .\t1", "a bee\t0", "c\t1", "c\t0", "d e\t1",
                "bee a .\t0"], number=number)
    assert distill.overlap(train, dev) == 4  # "a bee .", "c" twice, "d e"
    number, _ = numbering()
    train = data(["sentence1\tsentence2\tlabel", "a\tb c\t0", "x\ty\t1"], number=number)
    dev = data(["sentence1\tsentence2\tlabel", "a\tb c\t1", "a b\tc\t0", "b c\ta\t0", "x\ty\t1"],
               number=number)
    assert distill.overlap(train, dev) == 2


def test_hold_out():
    """Without a dev file every tenth labelled row is kept from training, by the teacher's script
    and by this one: the teacher has not seen what its student is judged by."""
    lines = ["sentence\tlabel"] + [f"w{i}\t{'' if i % 4 == 3 else i % 2}" for i in range(60)]
    number, known = numbering()
    rest, held = (data(lines, number=number, held=held) for held in (False, True))
    seen = [[list(known)[n] for n in part.rows.ids[:len(part.rows)]] for part in (rest, held)]
    labelled = [f"w{i}" for i in range(60) if i % 4 != 3]
    assert seen[1] == labelled[9::10] and len(seen[1]) == 4 and (held.labels >= 0).all()
    assert sorted(seen[0] + seen[1]) == sorted(f"w{i}" for i in range(60))
    with quiet():
        _, theirs, _ = teacher_logits.labelled(tsv(folder(), "y.tsv", lines))
    assert [row.texts[0] for row in theirs] == seen[1]
    raises(lambda: data(lines[:10], held=True), "fewer than ten")


# ---- Training ------------------------------------------------------------------------------------
def test_batches():
    """Each row once, rows of like length together, in an order that only the seed decides."""
    for pair in (False, True):
        lengths = random.Random(1).choices(range(1, 30), k=2 * 503)
        rows = encoded(sentences(lengths), pair)
        longest = rows.lengths.view(-1, rows.sides).amax(1)
        torch.manual_seed(1)
        first, second = distill.batches(rows, 10), distill.batches(rows, 10)
        for parts in (first, second):
            assert sorted(torch.cat(parts).tolist()) == list(range(len(rows)))
            assert sorted(map(len, parts))[1:] == [10] * (len(parts) - 1)
            # sorted by length, batches could overlap at their ends only
            assert sum(int(longest[b].max() - longest[b].min()) for b in parts) <= 29
            means = [float(longest[b].double().mean()) for b in parts]
            assert means != sorted(means) and means != sorted(means, reverse=True)
        torch.manual_seed(1)
        again = distill.batches(rows, 10)
        assert all(map(torch.equal, first, again)) and len(first) == len(again)
        together = [{frozenset(b.tolist()) for b in parts} for parts in (first, second)]
        assert len(together[0] & together[1]) < 5  # other neighbours in each epoch


class FirstWord(torch.nn.Module):
    """A model that answers with the class that a row's first word names."""

    def __init__(self, classes):
        super().__init__()
        self.classes, self.unused = classes, torch.nn.Parameter(torch.zeros(1))

    def forward(self, ids, lengths):
        return torch.nn.functional.one_hot(ids[:, 0].long(), self.classes).float()


def test_evaluate():
    """Accuracy and the F1 of class 1 by hand; rows without a label do not count."""
    lines = ["sentence\tlabel", "1 0\t1", "1\t1", "1 1 1\t0", "0\t1", "0 1\t0", "1\t", "0\t"]
    scores = distill.evaluate(FirstWord(2), data(lines, ["0", "1"], number=int))
    # guesses 1 1 1 0 0, labels 1 1 0 1 0: 3 of 5 right; of class 1, 2 right of 3 guessed, 3 there
    assert abs(scores["acc"] - 3 / 5) < 1e-9 and abs(scores["f1"] - 2 * 2 / (3 + 3)) < 1e-9
    lines = ["sentence\tlabel", "2\t2", "1\t0", "0\t0"]
    scores = distill.evaluate(FirstWord(3), data(lines, ["0", "1", "2"], number=int))
    assert set(scores) == {"acc"} and abs(scores["acc"] - 2 / 3) < 1e-9
    never = data(["sentence\tlabel", "0\t0"], ["0", "1"], number=int)
    assert distill.evaluate(FirstWord(2), never) == {"acc": 1.0, "f1": 0.0}


def test_overfit():
    """Eight rows are learnt by heart, all labels, logits to 0.1: single, pair, either loss."""
    texts = sentences([3, 1, 4, 2, 5, 2, 3, 4, 2, 2, 1, 4, 3, 3, 2, 5], seed=2)
    for pair in (False, True):
        lines = ["sentence1\tsentence2\tlabel\tlogit_0\tlogit_1" if pair else
                 "sentence\tlabel\tlogit_0\tlogit_1"]
        for r in range(8):
            sides = texts[2 * r:2 * r + 2] if pair else texts[r:r + 1]
            label = (r + r // 4) % 2
            x = (0.5 + r / 8) * (1 - 2 * label)
            lines.append([*(" ".join(map(str, s)) for s in sides), label, x, -x])
        for alpha in (0, 1):
            some = data(lines, number=int)
            torch.manual_seed(0)
            model = BiLSTM(torch.randn(40, 10), 2, 16, 32, pair, dropout=0)
            optimizer = distill.optimizers(model)
            for _ in range(60):
                mean = distill.train_epoch(model, some, optimizer, 8, alpha, "epoch")
            assert mean < 0.02, (pair, alpha, mean)
            assert distill.evaluate(model, some)["acc"] == 1.0
            if alpha == 0:
                assert near(predict(model, some.rows), some.logits, 0.1)


def test_train_epoch_loss():
    """An epoch's figure is the mean of its batches' losses; dropout works in training alone."""
    some = data(["sentence\tlabel\tlogit_0\tlogit_1", "1 2\t0\t3\t0", "3 4\t1\t0\t5"], number=int)
    model = student()
    before = predict(model, some.rows)
    expected = float(distill.loss(before, some.logits, some.labels, 0.5))
    with torch.no_grad():
        model.dropout.p = 0.0
    mean = distill.train_epoch(model, some, [], 2, 0.5, "epoch 1")  # no optimizer: nothing moves
    assert abs(mean - expected) < 1e-4 and torch.equal(predict(model, some.rows), before)
    model.dropout.p = 0.5
    assert abs(distill.train_epoch(model, some, [], 2, 0.5, "epoch 1") - expected) > 1e-4
    assert torch.equal(predict(model, some.rows), before)


def test_loss_not_finite():
    """Logits too large for a squared distance end the run with the epoch and the batch."""
    where = folder()
    arguments = small(where)
    lines = get(arguments[2]).decode().splitlines()
    tsv(where, "x.logits.tsv", [*lines[:5], "huge\t1\t-1e30\t1e30", *lines[5:]])
    refused(call(distill.main, *arguments), "epoch 1", "batch", "not finite")
    assert not os.path.exists(os.path.join(where, "x.student.pt"))


# ---- The run -------------------------------------------------------------------------------------
def test_run_output():
    """What was read, a line an epoch, and a last line that begins with `result`."""
    where, out = trained()
    lines = out.splitlines()
    for says in ("64 for training, 40 of them with a label", "20 rows, the most frequent class",
                 "classes 0, 1", f"{BiLSTM(torch.zeros(1, 300), 2, 8, 8).size():,} parameters",
                 "15 in the training rows", "word2vec"):
        assert says in out, (says, out)
    assert sum(line.startswith("epoch ") for line in lines) == 3
    result = re.match(r"result dev acc ([01]\.\d{4}) .*epoch (\d+) alpha 0 seed 3 seconds \d+",
                      lines[-1])
    assert result, lines[-1]
    log = [line.split(",") for line in get(where, "x.log.csv").decode().splitlines()]
    assert log[0][:3] == ["epoch", "loss", "dev_acc"]
    assert [row[0] for row in log[1:]] == ["1", "2", "3"]
    assert all(len(row) == len(log[0]) for row in log) and float(log[3][1]) < float(log[1][1])
    best = max(log[1:], key=lambda row: float(row[2]))
    assert (best[2], best[0]) == result.groups()
    assert not os.path.exists(os.path.join(where, "x.training.pt"))  # the state goes
    assert os.path.exists(os.path.join(where, "x.student.pt"))


def test_run_repeats():
    """The command itself gives the same student for the same seed, byte for byte, and no other."""
    where = folder()
    arguments = small(where)
    code, out, err = run("distill.py", *arguments, "--epochs", 3, "--seed", 3, cwd=where)
    assert (code, err) == (0, ""), err  # no progress where stderr is no terminal
    expected = get(trained()[0], "x.student.pt")
    assert get(where, "x.student.pt") == expected
    path = os.path.join(where, "other.student.pt")
    code, out, _ = call(distill.main, *arguments, "--epochs", 3, "--seed", 3, "-o", path)
    assert get(path) == expected and out.splitlines()[-1].endswith(path)
    assert os.path.exists(os.path.join(where, "other.log.csv"))
    call(distill.main, *arguments, "--epochs", 3, "--seed", 4, "-o", path)
    assert get(path) != expected


def test_run_keeps_best():
    """The best epoch on dev is what is saved; patience ends a run that gains nothing."""
    def scripted(*more):
        where, accuracies = folder(), iter([0.5, 0.9, 0.7, 0.9, 0.8, 0.8, 0.8, 0.8])
        with mock.patch("distill.evaluate", lambda *_: {"acc": next(accuracies)}):
            _, out, _ = call(distill.main, *small(where), *more)
        return get(where, "x.student.pt"), out
    two, _ = scripted("--epochs", 2)
    three, out = scripted("--epochs", 3)
    assert two == three != scripted("--epochs", 1)[0] and "result dev acc 0.9000 epoch 2" in out
    patient, out = scripted("--patience", 3)
    assert patient == two and "\nepoch  5" in out and "\nepoch  6" not in out


def test_run_alpha_1():
    """--alpha 1 needs no logits: hard labels, the labelled rows alone."""
    where = folder()
    path, *_ = small(where)
    lines = get(path).decode().splitlines()
    tsv(where, "x.tsv", [*lines, "a film without a label\t"])
    code, out, err = call(distill.main, path, "--alpha", 1, *SMALL, "--epochs", 2)
    assert (code, err) == (0, "") and "40 for training, 40 of them" in out
    assert "alpha 1 seed 0" in out.splitlines()[-1]


def test_run_pairs():
    """A pair run: batch 256, names as labels, dropped rows counted, dev-mm reported beside dev."""
    where = folder()
    chance = random.Random(0)
    rows = [[chance.choice("abcd"), chance.choice("a b|a|c d".split("|"))] for _ in range(60)]
    rows = [[*r, "entailment" if r[0] in r[1] else "neutral"] for r in rows]
    head = ["sentence1", "sentence2", "gold_label"]
    path = tsv(where, "m.tsv", [head, *rows, *2 * [["a", "b", "-"]], ["", "b", "neutral"]])
    tsv(where, "m.dev.tsv", [head, *rows[:20], ["x", "y", "-"]])
    tsv(where, "m.dev-mm.tsv", [head, *rows[20:30]])
    code, out, err = call(distill.main, path, "--alpha", 1, "--hidden", 8, "--fc", 8, "--epochs", 1)
    assert (code, err) == (0, ""), err
    assert "batch 256" in out and "classes entailment, neutral" in out and "60 for training" in out
    notes = [line for line in out.splitlines() if line.startswith("note") and path in line]
    assert any(" 2 rows" in n for n in notes) and any(" 1 rows" in n for n in notes), out
    assert "m.dev.tsv: 1 rows left out" in out
    assert re.search(r"epoch  1  .*dev acc \d\.\d+  f1 \d\.\d+  mm-?acc \d\.\d+  mm-?f1", out), out
    assert "20 of the dev rows stand among the training rows" in out
    labels = load_student(os.path.join(where, "m.student.pt"), torch.device("cpu"))[2]
    assert labels == ["entailment", "neutral"]


def test_run_vectors():
    """The vocabulary: words of train, and of dev and test where they have a vector; all counted."""
    where = folder()
    path = tsv(where, "x.tsv", ["sentence\tlabel", "warm film\t1", "cold film\t0", "odd\t0"])
    tsv(where, "x.dev.tsv", ["sentence\tlabel", "mild film\t1", "novel film\t0"])
    tsv(where, "x.test.tsv", ["index\tsentence", "0\tunseen words", "1\t"])
    table = {w: [i, 0.5, -i] for i, w in enumerate("warm cold film mild unseen absent".split(), 1)}
    vectors = put(where, "v.bin", vector_file("binary", table))
    code, out, err = call(distill.main, path, "--alpha", 1, "--vectors", vectors, *SMALL,
                          "--epochs", 1)
    assert (code, err) == (0, ""), err
    assert "4 in the training rows, 75.0% of them with a vector; 2 more" in out, out
    model, number, _ = load_student(os.path.join(where, "x.student.pt"), torch.device("cpu"))
    assert set(number) == {UNKNOWN, "warm", "cold", "film", "odd", "mild", "unseen"}
    for word, i in number.items():
        if word in table:
            assert model.frozen.weight[i].tolist() == table[word], word
        else:
            assert model.frozen.weight[i].abs().max() <= 0.25
    bad = put(where, "cut.bin", vector_file("binary", table)[:-5])
    refused(call(distill.main, path, "--alpha", 1, "--vectors", bad, *SMALL), bad, "cut short")
    none = put(where, "none.bin", vector_file("binary", {"absent": [1, 2, 3]}))
    refused(call(distill.main, path, "--alpha", 1, "--vectors", none, *SMALL), none)


def test_run_hold_out():
    """Without a dev file a part of the labelled rows is held out, and the run says so."""
    where = folder()
    path, *_ = small(where)
    os.remove(os.path.join(where, "x.dev.tsv"))
    code, out, err = call(distill.main, path, "--alpha", 1, *SMALL, "--epochs", 1)
    assert (code, err) == (0, "") and "36 for training" in out and "dev      4 rows" in out
    assert re.search(r"no .*x\.dev\.tsv: 4 labelled rows, each tenth, are", out), out
    dev = tsv(where, "mine.tsv", reviews(7, 5, logits=False))
    _, out, _ = call(distill.main, path, "--alpha", 1, *SMALL, "--epochs", 1, "--dev", dev)
    assert "40 for training" in out and "dev      7 rows" in out


def test_run_dev_unlabelled():
    """Nothing to measure a student by, in the dev file or the rows: said in one line, at once."""
    where = folder()
    arguments = small(where)
    dev = tsv(where, "x.dev.tsv", ["sentence", "a film"])
    refused(call(distill.main, *arguments), dev)
    os.remove(dev)
    tsv(where, "x.logits.tsv", reviews(30, 1, unlabelled=30))
    refused(call(distill.main, *arguments), "x.logits.tsv")


# ---- Taking up -----------------------------------------------------------------------------------
def stopped_after(epoch, arguments):
    """Run distill.py and stop it when the state after this epoch is saved: -> its result."""
    def save(path, state, real=distill.save):
        real(path, state)
        if state.get("epoch") == epoch:
            raise KeyboardInterrupt
    with mock.patch("distill.save", save):
        return call(distill.main, *arguments)


def test_resume():
    """A run that was stopped after any epoch and taken up gives the same student and log."""
    for epoch in (1, 2, 3):
        where = folder()
        arguments = (*small(where), "--epochs", 3, "--seed", 3)
        code, out, err = stopped_after(epoch, arguments)
        assert code == 130 and "nothing is lost" in err
        assert os.path.exists(os.path.join(where, "x.training.pt"))
        code, out, err = call(distill.main, *arguments)
        assert code == 0 and f"going on after epoch {epoch}" in out, (out, err)
        assert sum(line.startswith("epoch") for line in out.splitlines()) == 3 - epoch
        assert get(where, "x.student.pt") == get(trained()[0], "x.student.pt")
        logs = [[line.split(",")[:-1] for line in get(w, "x.log.csv").decode().split()]
                for w in (where, trained()[0])]
        assert logs[0] == logs[1]  # but for the seconds
        assert not os.path.exists(os.path.join(where, "x.training.pt"))


def test_resume_table1():
    """Stopped while the hard-label student trains: the distilled one is not trained again."""
    data = cut_sample(folder())
    arguments = (data, "--epochs", 2, "--patience", 2, "--hidden", 8, "--n-iter", 1, "--table1")

    def save(path, state, real=distill.save):
        real(path, state)
        if path.endswith(".hard.training.pt"):
            raise KeyboardInterrupt
    with mock.patch.multiple(teacher_logits, **QUICK):
        with mock.patch("distill.save", save):
            assert call(distill.main, *arguments)[0] == 130
        code, out, err = call(distill.main, *arguments)
    assert code == 0 and out.count("going on after epoch") == 2, (out, err)
    assert len(re.findall("^epoch", out, re.M)) == 1  # the hard-label student's second
    assert len(re.findall("^result", out, re.M)) == 2 and "7 BiLSTM, hard labels" in out
    assert not [name for name in os.listdir(os.path.dirname(data)) if "training" in name]


def test_resume_killed():
    """A command killed without warning, and taken up: byte for byte the same student."""
    where = folder()
    arguments = (*small(where), "--epochs", 15, "--patience", 15, "--seed", 5)
    command = [sys.executable, os.path.join(HERE, "distill.py"), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env=ENV)
    while process.poll() is None and not os.path.exists(os.path.join(where, "x.training.pt")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, out, err = call(distill.main, *arguments)
    assert code == 0 and "going on after epoch" in out, (out, err)
    expected = folder()
    code, out, err = call(distill.main, *small(expected), *arguments[-6:])
    assert get(where, "x.student.pt") == get(expected, "x.student.pt")


def test_resume_changed():
    """A changed setting or row is noticed and named, and nothing of the old state is used."""
    where = folder()
    arguments = (*small(where), "--epochs", 3)
    for change, says in ((("--seed", 3), "seed"), (("--dropout", 0.3), "dropout"),
                         (("--alpha", 0.5), "alpha"), (("--hidden", 9), "hidden")):
        assert stopped_after(2, (*arguments, "--seed", 1))[0] == 130
        code, out, err = call(distill.main, *arguments, *change)
        assert code == 0 and "x.training.pt" in out and says in out and "anew" in out, out
        assert sum(line.startswith("epoch") for line in out.splitlines()) == 3
        if says == "seed":
            assert get(where, "x.student.pt") == \
                get(trained()[0], "x.student.pt")
    for name in ("x.logits.tsv", "x.dev.tsv"):
        small(where)
        assert stopped_after(2, arguments)[0] == 130
        path = os.path.join(where, name)
        lines = get(path).decode().splitlines()
        tsv(where, name, [lines[0], lines[1].replace("1", "0", 1), *lines[3:]])
        code, out, err = call(distill.main, *arguments)
        assert code == 0 and "x.training.pt" in out and "rows" in out and "anew" in out, out
    stopped_after(2, arguments)
    code, out, err = call(distill.main, *arguments, "--fresh")
    assert code == 0 and "going on" not in out


def test_resume_bad():
    """A state that is damaged, of another kind or malicious: one line, nothing run."""
    where = folder()
    arguments = (*small(where), "--epochs", 3)
    path, marker = os.path.join(where, "x.training.pt"), os.path.join(where, "marker")
    stopped_after(1, arguments)
    whole, state = get(path), bilstm.load(path)
    for content in (b"", b"text", whole[:len(whole) // 2], pickle.dumps(Evil(marker))):
        put(where, "x.training.pt", content)
        refused(call(distill.main, *arguments), path)
    for other in ([1, 2], {**state, "model": {"fc.weight": torch.zeros(2)}}, {**state, "model": 3},
                  {k: v for k, v in state.items() if k != "optimizer"},
                  {k: v for k, v in state.items() if k != "epoch"}):
        torch.save(other, path)
        refused(call(distill.main, *arguments), path)
    assert not os.path.exists(marker)


# ---- Bad input and flags -------------------------------------------------------------------------
def test_run_bad_input():
    """Faults of any file that a run reads: exit code 2, one line with the file and the line."""
    where = folder()
    arguments = small(where)
    good = {name: get(where, name) for name in os.listdir(where)}
    lines = good["x.logits.tsv"].decode().splitlines()
    for name, content, says in (
            ("x.logits.tsv", None, "no such file"), ("x.logits.tsv", b"", "line 1"),
            ("x.logits.tsv", good["x.tsv"], "no logits"),
            ("x.logits.tsv", lines[0].encode() + b"\n", "header"),
            ("x.logits.tsv", good["x.logits.tsv"] + b"a film\t1\t0.5\n", "line 66"),
            ("x.logits.tsv", good["x.logits.tsv"] + b"a film\t1\t0.5\tnan\n", "line 66"),
            ("x.logits.tsv", good["x.logits.tsv"] + b"a film\t1\t0.5\t-inf\n", "line 66"),
            ("x.logits.tsv", good["x.logits.tsv"] + b"a film\t1\t0.5\tx\n", "line 66"),
            ("x.logits.tsv", good["x.logits.tsv"] + b"a film\t2\t0.5\t0\n", "line 66"),
            ("x.logits.tsv", good["x.logits.tsv"] + b"a \xfc film\t1\t0.5\t0\n", "line 66"),
            ("x.dev.tsv", good["x.dev.tsv"] + b"a film\t2\n", "line 22: unknown label '2'"),
            ("x.dev.tsv", good["x.dev.tsv"] + b"a film\n", "line 22"),
            ("x.dev.tsv", good["x.dev.tsv"] + b"a film\t1\t1\n", "line 22"),
            ("x.dev.tsv", b"sentence\tlabel\n", "header"),
            ("x.dev.tsv", b"sentence1\tsentence2\tlabel\na\tb\t1\n", "pair")):
        path = os.path.join(where, name)
        put(where, name, content) if content is not None else os.remove(path)
        refused(call(distill.main, *arguments), path, says)
        put(where, name, good[name])
    for name in ("student.pt", "log.csv", "training.pt"):
        assert not os.path.exists(os.path.join(where, "x." + name))


def test_run_bad_flags():
    """Flags that make no sense are named in one line; nothing is read or written before."""
    where = folder()
    arguments = small(where)
    for flag, value in (("alpha", "1.5"), ("alpha", "-0.1"), ("alpha", "nan"), ("dropout", 1),
                        ("hidden", 0), ("hidden", -5), ("fc", 0), ("fc", 10 ** 9), ("epochs", 0),
                        ("batch-size", 0), ("patience", 0), ("device", "toaster"),
                        ("seed", 10 ** 20), ("n-iter", -1)):
        refused(call(distill.main, *arguments, f"--{flag}", value), f"--{flag}")
    for more in (("--alpha", "half"), ("--epochs", "1.5"), ("--nonsense",)):
        code, out, err = call(distill.main, *arguments, *more)
        assert code == 2 and more[0] in err and "Traceback" not in err
    assert len(os.listdir(where)) == 3


def test_run_bad_command():
    """The command itself: exit code 2, one line on stderr, no traceback."""
    where = folder()
    path = tsv(where, "x.tsv", ["sentence\tlabel", "a film\t1", "a\tfilm\t0"])
    refused(run("distill.py", path, "--alpha", 1, cwd=where), path, "line 3")
    refused(call(distill.main, where + "/none.tsv", "--alpha", 1), "none.tsv: no such file")
    arguments = small(where)
    refused(call(distill.main, *arguments, "-o", where + "/no/x"), where + "/no/x")


# ---- The steps before it, the tables -------------------------------------------------------------
def test_made():
    """A file is made once, taken up while its recipe holds, made anew when that changes."""
    where = folder()
    path, made = os.path.join(where, "x.out"), []

    def make(recipe, fresh=False):
        args = argparse.Namespace(data=os.path.join(where, "x.tsv"), fresh=fresh)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            distill.made(path, recipe, args, lambda: made.append(put(where, "x.out", b"made")))
        return len(made), out.getvalue()
    assert make({"n": 1})[0] == 1
    assert make({"n": 1})[0] == 1 and os.path.exists(os.path.join(where, "x.made.json"))
    times, said = make({"n": 2})
    assert times == 2 and "another n" in said, said
    assert make({"n": 2})[0] == 2 and make({"n": 2}, fresh=True)[0] == 3
    put(where, "x.out", b"edited by hand")  # now it is somebody's own
    times, said = make({"n": 5})
    assert times == 3 and get(path) == b"edited by hand" and "as it is" in said
    os.remove(path)
    assert make({"n": 5})[0] == 4
    for damaged in (b"{", b"[]", b'{"x.out": 3}', b"[" * 100000, b"\xff"):
        put(where, "x.made.json", damaged)
        put(where, "x.out", b"whose?")
        assert make({"n": 5})[0] == 4 and get(path) == b"whose?"


def test_fetch_glue():
    """SST-2 is fetched from GLUE's archive, checked, and unpacked beside; never over a file."""
    where, hub = folder(), folder()
    members = {f"SST-2/{name}.tsv": f"sentence\tlabel\n{name}\t1\n"
               for name in ("train", "dev", "test", "../../evil")}
    with zipfile.ZipFile(os.path.join(where, "SST-2.zip"), "w") as z:
        for name, text in members.items():
            z.writestr(name, text)
    sha256 = hashlib.sha256(get(where, "SST-2.zip")).hexdigest()
    path = os.path.join(where, "sst2.tsv")

    def fetch(sha256, url="file://" + where + "/", path=path):
        with mock.patch.dict(distill.GLUE, sst2=("SST-2.zip", sha256, *distill.GLUE["sst2"][2:])), \
                mock.patch("distill.GLUE_URL", url), mock.patch("torch.hub.get_dir", lambda: hub), \
                contextlib.redirect_stdout(io.StringIO()):
            distill.fetch_glue(path)
    raises(lambda: fetch("0" * 64), path, "SST-2.zip")
    raises(lambda: fetch(sha256, "file:///nowhere/"), path, "SST-2/train.tsv")  # 404: gone
    raises(lambda: fetch(sha256, "http://127.0.0.1:9/", os.path.join(where, "mnli.tsv")),
           "http://127.0.0.1:9/MNLI.zip", "mnli.dev.tsv", "sample.tsv works offline")
    assert sorted(os.listdir(where)) == ["SST-2.zip"]
    whole = get(where, "SST-2.zip")
    method = whole.index(b"PK\x01\x02") + 10  # of train.tsv, in the archive's index
    for damaged in (whole[:60] + b"\xff" + whole[61:], whole[:-30],
                    whole[:method] + b"\x63" + whole[method + 1:]):
        put(where, "SST-2.zip", damaged)
        raises(lambda: fetch(hashlib.sha256(damaged).hexdigest()), path)
        assert "sst2.tsv" not in os.listdir(where)
    put(where, "SST-2.zip", whole)
    fetch(sha256)
    for ending, member in ((".tsv", "train"), (".dev.tsv", "dev"), (".test.tsv", "test")):
        assert get(where, "sst2" + ending).decode() == members[f"SST-2/{member}.tsv"]
    assert sorted(os.listdir(where)) == ["SST-2.zip", "sst2.dev.tsv", "sst2.test.tsv", "sst2.tsv"]
    put(where, "sst2.tsv", b"mine")
    fetch(sha256)
    assert get(path) == b"mine"
    distill.fetch_glue(os.path.join(where, "other.tsv"))  # no GLUE name: not our concern


def test_table1():
    """Rows 6 and 7 side by side; a teacher's figure only where it was measured."""
    where = folder()
    code, out, err = call(distill.main, *small(where), "--epochs", 1, "--table1")
    assert (code, err) == (0, ""), err
    results = re.findall(r"^result dev acc (\S+) .*alpha (\d)", out, re.M)
    assert [alpha for _, alpha in results] == ["0", "1"]
    rows = [line for line in out.splitlines()[-5:] if line.startswith(("6 ", "7 "))]
    assert len(rows) == 2 and "not known" in out
    for row, (acc, _), paper in zip(rows, results, ("90.7", "86.7")):
        assert f"{100 * float(acc):.1f}" in row and row.endswith(paper)
    assert {"x.student.pt", "x.hard.student.pt"} <= set(os.listdir(where))


def test_table1_mnli():
    """MNLI has two dev sets: the matched and the mismatched accuracy stand side by side."""
    where, chance = folder(), random.Random(0)
    head = ["sentence1", "sentence2", "gold_label"]
    rows = [[chance.choice("abcd"), chance.choice("abcd"), chance.choice(
        ("entailment", "neutral", "contradiction"))] for _ in range(60)]
    path = tsv(where, "mnli.tsv", [head, *rows])
    for name, part in (("dev", rows[:20]), ("dev-mm", rows[20:31])):
        tsv(where, f"mnli.{name}.tsv", [head, *part])
    logits = tsv(where, "mnli.logits.tsv", [
        [*head, "logit_entailment", "logit_neutral", "logit_contradiction"],
        *([*row, len(row[2]), 0, row[0].count("a")] for row in rows)])
    code, out, err = call(distill.main, path, "--logits", logits, *SMALL, "--epochs", 1, "--table1")
    assert (code, err) == (0, ""), err
    refused(call(distill.main, path, "--alpha", 1, *SMALL, "--table1"), "--table1")
    row, = [line for line in out.splitlines() if line.startswith("7 ")]
    assert re.search(r" \d+\.\d/\d+\.\d +68\.7/68\.3$", row), row


def test_table2():
    """Sizes without embeddings, seconds and their ratios (BERT-large is kept small here)."""
    def build(start, *more, real=distill.teacher_logits.build):
        little = {"hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 1,
                  "num_attention_heads": 2}
        return real(start._replace(config=start.config | little), *more)
    with mock.patch("teacher_logits.build", build):
        code, out, err = call(distill.main, small(folder())[0], "--table2", "--device", "cpu")
    assert (code, err) == (0, ""), err
    assert "40 rows" in out and "963,002" in out and "0.96M" in out and "335M" in out, out
    figures = [re.search(r"([\d,]+) +(\d+) +(\d+\.\d+) +(\d+)", line).groups()
               for line in out.splitlines() if line.startswith("BERT-large") or "BiLSTM" in line]
    assert len(figures) == 3 and figures[2][1] == figures[2][3] == "1", out
    for size, ratio, *_ in figures:
        assert int(ratio) == round(int(size.replace(",", "")) / 963_002)


# ---- augment.py (§3.3) ---------------------------------------------------------------------------
def _transfer(text, **settings):
    """The lines of the transfer set of a TSV, and what was printed."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = os.path.join(folder, "x.tsv"), os.path.join(folder, "out.tsv")
        with open(source, "w", encoding="utf-8", newline="") as f:
            f.write(text)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            augment.transfer_set(source, output, **settings)
        with open(output, encoding="utf-8", newline="") as f:
            return f.read().split("\n")[:-1], printed.getvalue()


def _tries(sentence, n, mask=0.0, pos=0.0, ng=0.0, corpus=None, seed=0):
    """n tries on a sentence with the tags A, B, C, ... -> lists of words, and a tally."""
    tags, tally, rng = [chr(65 + i) for i in range(len(sentence))], Counter(), Random(seed)
    row, p = [(sentence, tags)], augment.Rates(mask, pos, ng)
    corpus = corpus or {tag: [word.upper()] for word, tag in zip(sentence, tags)}
    return [augment.attempt(row, k, p, corpus, rng, tally)[0].decode().split(" ")
            for k in range(n)], tally


def _command(*arguments):
    """python augment.py ARGUMENTS, without starting another Python: exit code, stdout, stderr."""
    before, code = sys.argv, 0
    with contextlib.redirect_stdout(io.StringIO()) as out, \
            contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            sys.argv = ["augment.py", *arguments]
            command(augment.main, kept="no file was changed")
        except SystemExit as end:
            code = end.code
        finally:
            sys.argv = before
    return code, out.getvalue(), err.getvalue()


def _near(count, n, p):
    """Five standard deviations of a binomial count."""
    return abs(count - n * p) <= 5 * math.sqrt(n * p * (1 - p))


def _refused(call, *fragments):
    try:
        call()
    except BadInput as error:
        assert "\n" not in str(error) and all(f in str(error) for f in fragments), str(error)
    else:
        raise AssertionError("not refused")


ROWS = "a fine film\ta dull plot\ti like the film\tthe plot is dull\tit 's a charming journey .\t" \
       "film\tnobody laughs\tthe actors laugh loudly\tvery good\tplot".split("\t")
SINGLES = "sentence\tlabel\n" + "".join(f"{row}\t{i % 2}\n" for i, row in enumerate(ROWS))
PAIRS = "sentence1\tsentence2\tlabel\n" + "".join(
    f"{a}\t{b}\tneutral\n" for a, b in zip(ROWS, ROWS[3:]))


def test_mask_takes_the_words_whose_draw_is_below_p_mask():
    """X < p_mask, and not X = p_mask."""
    p = augment.Rates(0.1, 0.1, 0.25)
    assert augment.mask("a fine film".split(), [0.5, 0.05, 0.1], p) == ["a", "[MASK]", "film"]


def test_replace_takes_the_words_whose_draw_is_in_the_next_interval():
    """p_mask <= X < p_mask + p_pos; the new word comes from the old one's own tag."""
    p, corpus = augment.Rates(0.25, 0.25, 0), {"DT": ["the"], "JJ": ["dull"], "NN": ["plot"]}
    for x, expected in (((0.5, 0.25, 0.1), "a dull film"), ((0.6, 0.9, 0.49), "a fine plot"),
                        ((0.3, 0.24, 0.5), "the fine film")):
        new = augment.replace("a fine film".split(), ["DT", "JJ", "NN"], x, p, corpus, Random(0))
        assert " ".join(new) == expected


def test_masking_and_replacement_have_their_rates_and_exclude_each_other():
    """One draw decides: p_mask and p_pos, whatever the other is; at 0.5 + 0.5 no word stays."""
    sentence = "zero one two three four five six seven eight nine".split()
    for mask, pos in ((0.1, 0.1), (0.3, 0.05), (0.05, 0.6), (0.5, 0.5), (0, 0.2), (0.2, 0)):
        tries, tally = _tries(sentence, 3000, mask, pos)
        seen = Counter(word for row in tries for word in row)
        replaced = sum(n for word, n in seen.items() if word.isupper()) - seen["[MASK]"]
        assert _near(seen["[MASK]"], 30000, mask) and _near(replaced, 30000, pos)
        assert (mask, pos) != (0.5, 0.5) or seen["[MASK]"] + replaced == 30000
        assert (tally["masked"], tally["replaced"]) == (seen["[MASK]"], replaced)
        for place in range(10):  # every place alike, the first and the last too
            assert _near(sum(row[place] == "[MASK]" for row in tries), 3000, mask)


def test_a_replacement_follows_the_unigram_distribution_of_its_tag():
    """p(w given tag) = count of w tagged so / count of the tag; a draw over types would differ."""
    counts = {"film": 60, "plot": 25, "actor": 10, "score": 5}
    corpus = {"A": [word for word, n in counts.items() for _ in range(n)], "B": ["wrong"]}
    tries, _ = _tries(["film"], 20000, pos=1.0, corpus=corpus)
    drawn = Counter(row[0] for row in tries)
    assert set(drawn) == set(counts)  # the word itself, too
    assert all(_near(drawn[word], 20000, n / 100) for word, n in counts.items())
    assert not any(_near(drawn[word], 20000, 1 / 4) for word in ("film", "actor", "score"))


def test_the_corpus_is_the_input_with_every_occurrence_counted():
    """Equal rows count twice, both sentences of a pair count, [MASK] does not."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.tsv")
        with open(path, "w") as f:
            f.write("sentence1\tsentence2\tlabel\n" + "the Film\tthe plot [MASK]\t0\n" * 2)
        rows, corpus = augment.originals(augment.read_rows(path), io.BytesIO(), set())
    assert Counter(corpus["DT"]) == {"the": 4} and Counter(corpus["NN"]) == {"film": 2, "plot": 2}
    assert sum(map(len, corpus.values())) == 8
    assert rows[0][0] == (["the", "film"], ["DT", "NN"])


def test_n_is_uniform_in_one_to_five_and_so_is_the_start():
    """n in 1..min(5, length); every start where n words fit is as likely as any, the last too."""
    for length in (1, 2, 3, 4, 5, 6, 9):
        rng = Random(length)
        drawn = Counter((part.stop - part.start, part.start) for part in
                        (augment.ngram(length, rng) for _ in range(20000)))
        top = min(5, length)
        assert set(drawn) == {(n, s) for n in range(1, top + 1) for s in range(length - n + 1)}
        for (n, s), count in drawn.items():
            p = 1 / top / (length - n + 1)
            assert count == 20000 if p == 1 else _near(count, 20000, p), (length, n, s)


def test_a_row_is_cut_with_p_ng():
    """With p_ng an n-gram is kept; without it the row keeps its length."""
    sentence = "zero one two three four five six seven".split()
    for ng in (0, 0.25, 1):
        tries, tally = _tries(sentence, 4000, ng=ng)
        cut = [row for row in tries if len(row) < 8]
        assert len(cut) == 4000 * ng if ng in (0, 1) else _near(len(cut), 4000, ng)
        assert tally["cut"] == len(cut) and tally["sentences"] == 4000
        assert all(" ".join(row) in " ".join(sentence) for row in cut)
    assert any(row[-1] == "seven" for row in cut) and any(row[0] == "zero" for row in cut)


def test_short_rows_are_augmented_at_every_try():
    """1 to 4 words: all rules work on them, and every n-gram of them comes up."""
    for length in (1, 2, 3, 4):
        sentence = "zero one two three".split()[:length]
        tries, tally = _tries(sentence, 3000, 0.3, 0.3)
        assert {row[-1] for row in tries} == {sentence[-1], sentence[-1].upper(), "[MASK]"}
        assert tally["words"] == 3000 * length
        tries, _ = _tries(sentence, 3000, ng=1.0)
        assert {tuple(row) for row in tries} == {
            tuple(sentence[a:b]) for a in range(length) for b in range(a + 1, length + 1)}


def test_a_mask_in_the_input_stays():
    """[MASK] is neither replaced nor counted as masked."""
    tries, tally = _tries(["zero", "[MASK]", "two"], 500, 0.1, 0.9)
    assert {row[1] for row in tries} == {"[MASK]"}
    assert {row[0] for row in tries} == {"ZERO", "[MASK]"}
    assert tally["masked"] + tally["replaced"] == 1000


def test_originals_come_first_untouched():
    """Their text as in the file, in order, labelled, equal ones too; then rows without a label."""
    text = "sentence\tlabel\nA  fine Film \t1\nit 's dull\t0\nA  fine Film \t1\na fine film\t0\n"
    lines, _ = _transfer(text)
    assert "\n".join(lines[:5]) + "\n" == text
    assert len(lines) > 15 and all(re.fullmatch(r"[^\t]+\t", line) for line in lines[5:])
    assert all(" ".join(words(line[:-1])) == line[:-1] for line in lines[5:])


def test_no_synthetic_row_equals_another_row():
    """Neither one before it nor an original, not even one that comes later in the file."""
    for text in (SINGLES, PAIRS):
        lines, _ = _transfer(text, n_iter=300, p_ng=0.9)
        n = text.count("\n")
        rows = ["\t".join(line.split("\t")[:-1]) for line in lines[1:]]
        synthetic = rows[n - 1:]
        assert len(synthetic) > 100 and len(set(synthetic)) == len(synthetic)
        assert not set(synthetic) & set(rows[:n - 1])
    lines, _ = _transfer("sentence\tlabel\na b\t1\nb\t1\nA\t1\n", n_iter=99, p_mask=0, p_pos=0,
                         p_ng=1)
    assert lines[4:] == []


def test_n_iter_zero_gives_the_originals_alone():
    """Every row is still there."""
    assert _transfer(SINGLES, n_iter=0)[0] == SINGLES.split("\n")[:-1]
    assert _transfer(PAIRS, n_iter=0)[0] == PAIRS.split("\n")[:-1]


def test_the_counts_add_up():
    """20 tries a row, 10 for pairs; rows in + tries - duplicates = rows out; dropped rows named."""
    for text, n_iter in ((SINGLES, 20), (PAIRS, 10)):
        rows = text.count("\n") - 1
        lines, printed = _transfer(text + ("\tlost\t1\n" if n_iter == 10 else "\t1\n"))
        found = re.search(r"(\d+) rows in, 1 dropped for an empty sentence, (\d+) tries, (\d+) "
                          r"duplicates dropped, (\d+) rows out; [\d.]+% of words masked, "
                          r"[\d.]+% of words replaced, [\d.]+% of sentences cut",
                          printed.splitlines()[-1])
        n_in, tries, dropped, out = map(int, found.groups())
        assert (n_in, tries) == (rows, rows * n_iter)
        assert out == n_in + tries - dropped == len(lines) - 1


def test_pair_tries_alter_the_first_the_second_both():
    """Try k goes by k mod 3; the other sentence stays as it was; the corpus serves both."""
    row = [(["zero", "one"], ["A", "B"]), (["two"], ["A"])]
    p, corpus = augment.Rates(0, 1, 0), {"A": ["NEW"], "B": ["ALSO"]}
    tries = [augment.attempt(row, k, p, corpus, Random(0), Counter())[0] for k in range(7)]
    first, second, both = b"NEW ALSO\ttwo", b"zero one\tNEW", b"NEW ALSO\tNEW"
    assert tries == [first, second, both, first, second, both, first]
    lines, _ = _transfer("sentence1\tsentence2\tlabel\nzero one two\tthree four five\t1\n",
                         n_iter=3, p_mask=1, p_pos=0, p_ng=0)
    assert lines[2:] == ["[MASK] [MASK] [MASK]\tthree four five\t",
                         "zero one two\t[MASK] [MASK] [MASK]\t",
                         "[MASK] [MASK] [MASK]\t[MASK] [MASK] [MASK]\t"]


def test_each_altered_sentence_draws_its_own_n_gram():
    """Of a pair altered on both sides, either is cut without the other, with p_ng each."""
    sentence, rng = ("one two three four five six".split(), list("AAAAAA")), Random(1)
    cut, parts = Counter(), Counter()
    for _ in range(2000):
        line, _ = augment.attempt([sentence, sentence], 2, augment.Rates(0, 0, 0.5), {}, rng,
                                  Counter())
        a, b = line.decode().split("\t")
        cut[a.count(" ") < 5, b.count(" ") < 5] += 1
        parts[a == b] += 1
    assert all(_near(cut[key], 2000, 0.25) for key in itertools.product((True, False), repeat=2))
    assert parts[False] > 1200  # cut at the same place in both only by chance


def _hand_made(folder):
    """Counts for a tagger of four tags: "fish" is a noun after "the", a verb after "they"."""
    path = os.path.join(folder, "counts.tsv")
    with open(path, "w") as f:
        f.write("# by hand\n> EDGE\tD 3 P 5\n> D\tN 6\n> P\tV 5\n> N\tEDGE 4 V 3\n> V\tD 3 EDGE 4\n"
                "the\tD 6\nthey\tP 5\nfish\tN 4 V 4\nbarking\tN 2\nswim\tV 4\n")
    return path


def test_the_tagger_finds_the_best_of_all_tag_sequences():
    """Every sentence of up to four words, against all tag sequences scored one by one."""
    def share(counts, tags, prior):
        total = sum(counts.get(tag, 0) for tag in tags) + 1
        return {tag: (counts.get(tag, 0) + prior[tag]) / total for tag in tags}

    with tempfile.TemporaryDirectory() as folder:
        tagger = augment.Tagger(_hand_made(folder))
    words_ = {"the": {"D": 6}, "they": {"P": 5}, "fish": {"N": 4, "V": 4}, "barking": {"N": 2},
              "swim": {"V": 4}}
    follow = {"EDGE": {"D": 3, "P": 5}, "D": {"N": 6}, "P": {"V": 5}, "N": {"EDGE": 4, "V": 3},
              "V": {"D": 3, "EDGE": 4}}
    base = {"D": 6 / 25, "P": 5 / 25, "N": 6 / 25, "V": 8 / 25, "EDGE": 1e-6 / 25}
    step = {tag: share(follow[tag], base, base) for tag in base}
    given = {}
    for word in [*words_, "xing"]:  # xing: unknown, but it ends as "barking" does
        p = base
        for n in (0, 1, 2, 3):
            types = Counter(tag for w in words_ for tag in words_[w]
                            if w[len(w) - n:] == word[len(word) - n:])
            p = share(types, base, p)
        p = share(words_.get(word, {}), base, p)
        least = 0.03 * max(p.values())
        given[word] = {tag: p[tag] / base[tag] for tag in "DPNV" if p[tag] >= least}
    for sentence in (s for n in (1, 2, 3, 4) for s in itertools.product(given, repeat=n)):
        def score(tags):
            path = ["EDGE", *tags, "EDGE"]
            return sum(math.log(step[a][b]) for a, b in zip(path, path[1:])) + \
                sum(math.log(given[w][t]) for w, t in zip(sentence, tags))
        best = max(map(score, itertools.product(*(given[w] for w in sentence))))
        assert score(tagger.tag(list(sentence))) > best - 0.01  # scores are rounded to 0.001


def test_a_sentence_tagged_by_hand():
    """P(N after D) makes "the fish" a noun, P(V after P) makes "they fish" a verb."""
    with tempfile.TemporaryDirectory() as folder:
        tagger = augment.Tagger(_hand_made(folder))
    assert tagger.tag(["the", "fish", "swim"]) == ["D", "N", "V"]
    assert tagger.tag(["they", "fish"]) == ["P", "V"]
    assert tagger.tag(["the", "xing"]) == ["D", "N"]


def test_the_tagger_knows_penn_tags_and_guesses_unknown_words():
    """By ending and shape; the tags of a sentence do not depend on what was tagged before."""
    tagger = augment.Tagger()
    for text, tags in (("the actors laughed loudly .", "DT NNS VBD RB ."),
                       ("she likes their films", "PRP VBZ PRP$ NNS"),
                       ("the blorks were zumbling slowly", "DT NNS VBD VBG RB"),
                       ("in 1743 , it 's flobbish", "IN CD , PRP VBZ JJ")):
        assert tagger.tag(text.split()) == tags.split(), tagger.tag(text.split())
        assert augment.Tagger().tag(text.split()) == tags.split()


def test_a_taggers_memory_goes_with_it():
    """Its cache of words is its own: no second tagger, no file read in a loop, keeps the first."""
    with tempfile.TemporaryDirectory() as folder:
        tagger = augment.Tagger(_hand_made(folder))
        tagger.tag(["a", "film"])
    gone = weakref.ref(tagger)
    del tagger
    gc.collect()
    assert gone() is None


def test_the_shipped_counts_are_small_and_name_their_source():
    """Counts alone, at most 260 kB; the first line names the treebank and its licence."""
    assert os.path.getsize(augment.COUNTS) <= 260_000
    with open(augment.COUNTS, encoding="utf-8") as f:
        first = f.readline()
    assert first.startswith("# ") and "UD English EWT" in first and "CC BY-SA 4.0" in first


CONLLU = """# text = Don't stop .
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVB\t_\t0\troot\t_\t_
2\tn't\tnot\tPART\tRB\t_\t1\tadvmod\t_\t_
2.1\tunsaid\t_\tVERB\tVB\t_\t_\t_\t_\t_
3\tstop\tstop\tVERB\tVB\t_\t1\tx\t_\t_
4\t.\t.\tPUNCT\t_\t_\t1\tpunct\t_\t_

# text = Stop
1\tStop\tstop\tNOUN\tNN\t_\t0\troot\t_\t_
2\t{}\tx\tX\tADD\t_\t1\tx\t_\t_
""".format("x" * 21)


def test_a_treebank_becomes_a_counts_file():
    """--treebank, plain or .gz: lower-cased; universal tags where Penn's are not given."""
    expected = {"> EDGE": {"VB": 1, "NN": 1}, "> VB": {"RB": 1, "PUNCT": 1}, "> RB": {"VB": 1},
                "> PUNCT": {"EDGE": 1}, "> NN": {"ADD": 1}, "> ADD": {"EDGE": 1}, "do": {"VB": 1},
                "n't": {"RB": 1}, "stop": {"VB": 1, "NN": 1}, ".": {"PUNCT": 1}}
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = os.path.join(folder, "x.conllu"), os.path.join(folder, "x.conllu.gz")
        counts = os.path.join(folder, "counts.tsv")
        with open(plain, "w", encoding="utf-8") as f, gzip.open(packed, "wb") as g:
            f.write(CONLLU)
            g.write(CONLLU.encode())
        code, said, error = _command(packed, "--treebank", "Some treebank, CC0", "-o", counts)
        assert (code, error) == (0, "") and "the tags of 4 words" in said
        assert dict(augment.read_counts(counts)) == expected
        with open(counts, encoding="utf-8") as f:
            from_gz = f.read()
        assert from_gz.startswith("# Counts from Some treebank, CC0\n")
        with contextlib.redirect_stdout(io.StringIO()):
            augment.count_treebank(plain, "Some treebank, CC0", counts)
        with open(counts, encoding="utf-8") as f:
            assert f.read() == from_gz
        assert augment.Tagger(counts).tag(["do", "n't", "stop", "."]) == ["VB", "RB", "VB", "PUNCT"]
        with open(plain, "w") as f:
            f.write("sentence\tlabel\nno treebank\t1\n")
        _refused(lambda: augment.count_treebank(plain, "x", counts), plain, "line 1", "CoNLL-U")
        with open(plain, "w") as f:
            f.write(CONLLU.replace("\n\n", "\n3 cut\n\n", 1))
        _refused(lambda: augment.count_treebank(plain, "x", counts), plain,
                 f"line {CONLLU[:CONLLU.index(chr(10) * 2)].count(chr(10)) + 2}", "CoNLL-U")
        with open(counts, encoding="utf-8") as f:
            assert f.read() == from_gz


def test_a_damaged_counts_file_is_refused_with_its_line():
    """Its form is checked on loading; so is a broken .gz or another encoding."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "counts.tsv")
        for text, line in ((b"# x\nfilm\tNN 5\nplot NN 5\n", 3), (b"film\tNN five\n", 1), (b"", 1),
                           (b"film\tNN 5 VB\n", 1), (b"a\tDT 1\n\nb\tNN 1\n", 2), (b"# x\n", 1),
                           (b"a\tDT -1\n", 1), (b"a\tDT 0\n", 1), (b"> EDGE\tDT 1\n", 1),
                           (b"a\tDT 12345678901\n", 1)):
            with open(path, "wb") as f:
                f.write(text)
            _refused(lambda: augment.read_counts(path), path, f"line {line}:")
        with open(path, "wb") as f:
            f.write(b"film\xff\tNN 5\n")
        _refused(lambda: augment.read_counts(path), path)
        with open(path + ".gz", "wb") as f:
            f.write(gzip.compress(b"film\tNN 5\n" * 1000)[:-12])
        _refused(lambda: augment.read_counts(path + ".gz"), path)
        _refused(lambda: augment.read_counts(path + "no"), path)


def test_bad_settings_are_refused_before_any_work():
    """p outside 0..1, p_mask + p_pos above 1, n_iter below 0: one line, exit code 2, no file."""
    for bad in ({"p_mask": -0.1}, {"p_pos": 1.5}, {"p_ng": 2}, {"p_mask": 0.6, "p_pos": 0.5},
                {"p_ng": math.nan}, {"n_iter": -1}):
        _refused(lambda: augment.transfer_set("no such file", "nowhere", **bad), "expected")
    _transfer(SINGLES, p_mask=0.7, p_pos=0.3)  # 1 in all is allowed
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.tsv")
        with open(path, "w") as f:
            f.write(SINGLES)
        code, _, error = _command(path, "--p-mask", "0.6", "--p-pos", "0.5")
        assert code == 2 and os.listdir(folder) == ["x.tsv"]
        assert error.startswith("error: ") and error.count("\n") == 1


def test_the_same_seed_gives_the_same_bytes():
    """Whatever PYTHONHASHSEED; another seed gives others; STEM.transfer.tsv is the default."""
    made, runs = [], []
    with tempfile.TemporaryDirectory() as folder:
        for hashseed in ("1", "2"):
            path = os.path.join(folder, f"x{hashseed}.tsv")
            with open(path, "w") as f:
                f.write(SINGLES)
            runs.append(subprocess.Popen([sys.executable, "augment.py", path, "--seed", "7"],
                                         env={**os.environ, "PYTHONHASHSEED": hashseed},
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        for hashseed, run in zip(("1", "2"), runs):
            assert run.communicate()[1] == b"" and run.returncode == 0
            with open(os.path.join(folder, f"x{hashseed}.transfer.tsv"), encoding="utf-8") as f:
                made.append(f.read().split("\n")[:-1])
    assert made[0] == made[1] == _transfer(SINGLES, seed=7)[0] != _transfer(SINGLES, seed=8)[0]
    # The same on every machine: these came from one.
    assert made[0][11:14] == ["a [MASK]\t", "fine\t", "[MASK]\t"]


def test_show_tells_what_befell_each_word():
    """--show 1: the first row's tries that were kept, old words and new, and the row written."""
    lines, printed = _transfer("sentence\tlabel\na fine film\t1\nso dull\t0\n", show=1, n_iter=5,
                               p_mask=1, p_pos=0, p_ng=0)
    assert "a>[MASK] fine>[MASK] film>[MASK]  ->  [MASK] [MASK] [MASK]\n" in printed
    assert "dull" not in printed and lines[3:] == ["[MASK] [MASK] [MASK]\t", "[MASK] [MASK]\t"]
    assert "->" not in _transfer(SINGLES)[1]


def test_endless_rows_are_cut_to_what_any_model_reads():
    """No synthetic row is longer than the 512 words that the student takes."""
    lines, _ = _transfer("sentence\tlabel\n" + "! " * 5000 + "\t1\n", n_iter=3, p_ng=0)
    assert len(lines) == 5 and all(len(line.split()) == 512 for line in lines[2:])


CPU = torch.device("cpu")
WORDS = "the film is bad good not a dull ##s ##ly fun , ! ' s".split()
VOCABULARY = teacher_logits.SPECIAL + WORDS
CONFIG = {"model_type": "bert", "vocab_size": len(VOCABULARY), "hidden_size": 8,
          "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
          "max_position_embeddings": 32, "type_vocab_size": 2, "layer_norm_eps": 1e-12}


# ---- Small teachers, and what they must give -----------------------------------------------------
def small_weights(classes=2, seed=0, config=CONFIG):
    """Random weights by their names on the hub; large enough that every one of them matters."""
    torch.manual_seed(seed)
    model = teacher_logits.Bert(config, classes)
    return {k: torch.randn(w.shape) * 0.5 for k, w in model.state_dict().items()}


def write_teacher(folder, weights, form="bin", vocabulary=VOCABULARY, **config):
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/config.json", "w") as f:
        json.dump({**CONFIG, **config}, f)
    with open(f"{folder}/vocab.txt", "w") as f:
        f.write("".join(piece + "\n" for piece in vocabulary))
    if form == "bin":
        torch.save(weights, f"{folder}/pytorch_model.bin")
    else:
        with open(f"{folder}/model.safetensors", "wb") as f:
            f.write(safetensors(weights))
    return folder


def safetensors(weights):
    """Written from the format's description, not with the code under test."""
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, w in weights.items():
        raw = w.numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(w.shape),
                        "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def bert_by_hand(w, ids, first, heads=2):
    """BERT's forward pass over one row in numpy, written from the paper (Devlin et al. 2019)."""
    w = {k: v.double().numpy() for k, v in w.items()}
    def linear(name, x):
        return x @ w[name + ".weight"].T + w[name + ".bias"]
    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * w[name + ".weight"] + w[name + ".bias"]
    e = "bert.embeddings."
    x = w[e + "word_embeddings.weight"][ids] + w[e + "position_embeddings.weight"][:len(ids)]
    x = x + w[e + "token_type_embeddings.weight"][[int(i >= first) for i in range(len(ids))]]
    x = norm(e + "LayerNorm", x)
    for n in range(CONFIG["num_hidden_layers"]):
        p = f"bert.encoder.layer.{n}."
        q, k, v = (linear(p + "attention.self." + part, x) for part in ("query", "key", "value"))
        seen, width = [], x.shape[1] // heads
        for h in range(heads):
            s = slice(h * width, (h + 1) * width)
            scores = np.exp(q[:, s] @ k[:, s].T / math.sqrt(width))
            seen.append(scores / scores.sum(1, keepdims=True) @ v[:, s])
        x = norm(p + "attention.output.LayerNorm",
                 x + linear(p + "attention.output.dense", np.concatenate(seen, 1)))
        y = linear(p + "intermediate.dense", x)
        y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
        x = norm(p + "output.LayerNorm", x + linear(p + "output.dense", y))
    return linear("classifier", np.tanh(linear("bert.pooler.dense", x[0])))


def write_tsv(path, header, rows):
    with open(path, "w") as f:
        f.writelines("\t".join(row) + "\n" for row in [header, *rows])
    return path


def refuses(work, *expected):
    """The line of error, which holds all that is expected."""
    try:
        work()
    except BadInput as error:
        assert all(text in str(error) for text in expected), (str(error), expected)
        assert "\n" not in str(error)
        return error
    raise AssertionError(f"not refused; expected {expected}")


@contextlib.contextmanager
def quiet():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        yield out


@contextlib.contextmanager
def setting(where, **values):
    old = {name: getattr(where, name) for name in values}
    for name, value in values.items():
        setattr(where, name, value)
    try:
        yield
    finally:
        for name, value in old.items():
            setattr(where, name, value)


def content(path):
    with open(path, "rb") as f:
        return f.read()


# ---- WordPiece and BERT --------------------------------------------------------------------------
def test_wordpiece_takes_the_longest_piece_and_keeps_special_ones_whole():
    """films -> film ##s; an unknown tail makes the whole word [UNK]; [MASK] stays one piece."""
    tokens = teacher_logits.WordPiece(VOCABULARY)
    def pieces(text):
        return [VOCABULARY[i] for w in tokens.split(text) for i in tokens.pieces(w)]
    assert tokens.uncased
    assert pieces("The FILMS") == ["the", "film", "##s"]
    assert pieces("filmz good") == ["[UNK]", "good"]
    assert pieces("it's") == ["[UNK]", "'", "s"]
    assert pieces("a[MASK]bad!") == ["a", "[MASK]", "bad", "!"]
    assert pieces("[mask]") == ["[UNK]"] * 3
    assert pieces("b\u00e1d f\u00fan\u200b\x00\u00a0\u3000d\u00fall") == ["bad", "fun", "dull"]
    assert tokens.split("\u4e2d\u6587a $5 \u2026") == ["\u4e2d", "\u6587", "a", "$", "5", "\u2026"]
    assert pieces("s" * 101) == ["[UNK]"]
    assert not teacher_logits.WordPiece(VOCABULARY + ["Paris"]).uncased


def test_rows_are_framed_and_the_longer_of_a_pair_is_shortened_first():
    """[CLS] a [SEP] b [SEP], at most 128 pieces; when both are long each keeps half."""
    tokens = teacher_logits.WordPiece(VOCABULARY)
    cls, sep, bad, good = (VOCABULARY.index(p) for p in ("[CLS]", "[SEP]", "bad", "good"))
    assert tokens.encode(("bad good",)) == ([cls, bad, good, sep], 4)
    assert tokens.encode(("bad", "good good")) == ([cls, bad, sep, good, good, sep], 3)
    assert tokens.encode(("bad " * 200,)) == ([cls] + [bad] * 126 + [sep], 128)
    for a, b, kept in ((10, 200, (10, 115)), (200, 10, (115, 10)), (90, 100, (62, 63)),
                       (100, 90, (63, 62)), (62, 63, (62, 63)), (63, 63, (62, 63))):
        ids, first = tokens.encode(("bad " * a, "good " * b))
        assert (ids.count(bad), ids.count(good)) == kept, (a, b)
        assert len(ids) == sum(kept) + 3 and first == kept[0] + 2
    assert len(teacher_logits.WordPiece(VOCABULARY, 16).encode(("bad " * 99, "good " * 99))[0]) == 16


def test_bert_equals_a_forward_pass_in_numpy():
    """Single rows and pairs, of all lengths, padded in one batch or read alone: equal to 1e-5."""
    tokens, w = teacher_logits.WordPiece(VOCABULARY, 32), small_weights()
    model = teacher_logits.build(teacher_logits.Checkpoint(CONFIG, VOCABULARY, w), 2)
    texts = [("bad",), ("the film is not good, fun!",), ("a dull film", "not fun"),
             ("fun", "the films is [MASK] bad, bad, bad"), ("good " * 99, "bad " * 99)]
    rows = [tokens.encode(t) for t in texts]
    expected = torch.tensor(np.array([bert_by_hand(w, *row) for row in rows])).float()
    assert (teacher_logits.predict(model, rows) - expected).abs().max() < 1e-5
    for cut in (1, 33, 70):
        with setting(teacher_logits, BATCH_PIECES=max(cut, 32)):
            assert (teacher_logits.predict(model, rows) - expected).abs().max() < 1e-5
    wide = model(*teacher_logits.batch(rows, CPU, 32))
    assert (wide - expected).abs().max() < 1e-5


def test_logits_do_not_depend_on_the_number_of_threads():
    """One thread a batch: the same bytes however many cores share the batches."""
    tokens = teacher_logits.WordPiece(VOCABULARY, 32)
    config = {**CONFIG, "hidden_size": 96, "intermediate_size": 384}
    start = teacher_logits.Checkpoint(config, VOCABULARY, small_weights(config=config))
    model, threads = teacher_logits.build(start, 2), torch.get_num_threads()
    rows = [tokens.encode((" ".join(WORDS[:n % 9 + 1]),)) for n in range(300)]
    out = []
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        with setting(teacher_logits, BATCH_PIECES=400):
            out.append(teacher_logits.predict(model, rows))
        assert torch.get_num_threads() == n
    torch.set_num_threads(threads)
    assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])


# ---- Checkpoints ---------------------------------------------------------------------------------
def test_every_form_of_a_checkpoint_gives_the_same_logits():
    """safetensors, pytorch_model.bin, half precision, gamma and beta, position_ids, cls.*, CRLF."""
    w = small_weights()
    old = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias",
                                                                    "LayerNorm.beta"): v
           for k, v in w.items()}
    old |= {"bert.embeddings.position_ids": torch.arange(32)[None], "cls.predictions.bias": w[
        "classifier.bias"]}
    with tempfile.TemporaryDirectory() as tmp:
        folders = [write_teacher(f"{tmp}/a", w), write_teacher(f"{tmp}/b", w, "safetensors"),
                   write_teacher(f"{tmp}/c", old)]
        with open(f"{tmp}/c/vocab.txt", "wb") as f:
            f.write("\r\n".join(VOCABULARY).encode())
        row = [teacher_logits.WordPiece(VOCABULARY).encode(("the film is not bad",))]
        logits = []
        for folder in folders:
            model, tokens, names = teacher_logits.load_teacher(folder, CPU, set(), None)
            assert names == ["0", "1"] and tokens.number["bad"] == VOCABULARY.index("bad")
            logits.append(teacher_logits.predict(model, row))
        assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
        halves = write_teacher(f"{tmp}/d", {k: v.half() for k, v in w.items()})
        model = teacher_logits.load_teacher(halves, CPU, set(), None)[0]
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_what_is_no_bert_is_refused_in_one_line_that_names_the_file():
    """Architectures, activations, sizes, vocabularies and weights that do not fit."""
    w = small_weights()
    with tempfile.TemporaryDirectory() as tmp:
        def load(n):
            return lambda: teacher_logits.load_teacher(f"{tmp}/{n}", CPU, set(), None)
        bad = [{"model_type": "roberta"}, {"hidden_act": "relu"},
               {"position_embedding_type": "relative_key"}, {"num_hidden_layers": 10 ** 6},
               {"hidden_size": -8}, {"hidden_size": 8.0}, {"hidden_size": 1 << 20}, {"vocab_size": "18"},
               {"num_attention_heads": 3}, {"num_attention_heads": 0}, {"type_vocab_size": 1},
               {"intermediate_size": 10 ** 12}, {"max_position_embeddings": None},
               {"layer_norm_eps": "small"}]
        for n, config in enumerate(bad):
            write_teacher(f"{tmp}/{n}", w, **config)
            refuses(load(n), f"{tmp}/{n}/config.json")
        for text in ("", "[]", "{", "[" * 100000, "\x00", "3"):
            with open(f"{tmp}/0/config.json", "w") as f:
                f.write(text)
            refuses(load(0), "config.json")
        write_teacher(f"{tmp}/v", w, vocabulary=VOCABULARY + ["more"])
        refuses(load("v"), "vocab.txt")
        write_teacher(f"{tmp}/v", w, vocabulary=VOCABULARY[1:])
        refuses(load("v"), "vocab.txt")
        with open(f"{tmp}/v/vocab.txt", "wb") as f:
            f.write(b"\xff\xfe")
        refuses(load("v"), "vocab.txt")
        name = "bert.encoder.layer.1.output.dense.weight"
        for change in ({name: w[name][:-1]}, {name: None}, {"bert.encoder.layer.2.x": w[name]},
                       {name: torch.ones(8, 12, dtype=torch.int32)}, {name: "text"},
                       {name: torch.ones(1).expand(8, 12)}):
            weights = {k: v for k, v in {**w, **change}.items() if v is not None}
            write_teacher(f"{tmp}/w", weights)
            refuses(load("w"), "pytorch_model.bin")
        os.remove(f"{tmp}/w/pytorch_model.bin")
        refuses(load("w"), "pytorch_model.bin")
        refuses(load("not-there"), "config.json")


def test_a_bare_encoder_must_be_fine_tuned_before_it_can_label():
    """No `bert.` in front and no classifier: the encoder is read, and labelling says what to do."""
    bare = {k[5:]: v for k, v in small_weights().items() if k.startswith("bert.")}
    with tempfile.TemporaryDirectory() as tmp:
        write_teacher(tmp, bare, "safetensors")
        assert set(teacher_logits.read_checkpoint(tmp).weights) == {"bert." + k for k in bare}
        refuses(lambda: teacher_logits.load_teacher(tmp, CPU, set(), None), "--fine-tune")


def test_damaged_safetensors_are_refused_before_memory_is_taken():
    """Cut short, a header of a terabyte, offsets outside the file, shapes that do not fit."""
    whole = safetensors({"a": torch.ones(4)})
    def with_header(text):
        return struct.pack("<Q", len(text)) + text + bytes(16)
    entry = '{"a": {"dtype": "F32", "shape": %s, "data_offsets": %s}}'
    bad = [b"", whole[:4], whole[:-1], struct.pack("<Q", 1 << 40) + whole[8:], with_header(b"{"),
           with_header(b"[1]"), with_header(b"[" * 99999), with_header(b'{"a": 1}')]
    bad += [with_header((entry % values).encode()) for values in (
        ("[4]", "[0, 17]"), ("[4]", "[-1, 15]"), ("[4]", "[16, 0]"), ("[5]", "[0, 16]"),
        ("[-4]", "[0, 16]"), ("[1000000000000]", "[0, 16]"), ("[4]", "[0]"))]
    with tempfile.TemporaryDirectory() as tmp:
        for raw in bad:
            with open(f"{tmp}/x", "wb") as f:
                f.write(raw)
            def read():
                with teacher_logits.reading(f"{tmp}/x"):
                    teacher_logits.read_safetensors(f"{tmp}/x")
            refuses(read, f"{tmp}/x")


def test_a_pickle_that_would_run_code_does_not_run():
    """As the weights and as the state of a fine-tuning that goes on."""
    with tempfile.TemporaryDirectory() as tmp:
        write_teacher(f"{tmp}/x", {})
        for write in (lambda f: torch.save({"a": Evil(f"{tmp}/ran")}, f),
                      lambda f: pickle.dump(Evil(f"{tmp}/ran"), f)):
            with open(f"{tmp}/x/pytorch_model.bin", "wb") as f:
                write(f)
            refuses(lambda: teacher_logits.load_teacher(f"{tmp}/x", CPU, set(), None), "bin")
            the_sentences(f"{tmp}/s.tsv")
            os.replace(f"{tmp}/x/pytorch_model.bin", f"{tmp}/s.teacher.state")
            with quiet():
                refuses(lambda: teacher_logits.prepare("scratch", f"{tmp}/s.tsv", CPU), "s.teacher")
        assert not os.path.exists(f"{tmp}/ran")


# ---- The hub -------------------------------------------------------------------------------------
@contextlib.contextmanager
def hub(files):
    """A server on the loopback address, a cache of its own; path -> bytes, or a path to go to."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = files.get(self.path)
            if isinstance(body, str):
                self.send_response(302)
                self.send_header("Location", body)
            else:
                self.send_response(200 if body is not None else 404)
            size = len(body or b"") if not isinstance(body, str) else 0
            self.send_header("Content-Length", str(size))
            self.end_headers()
            if self.command == "GET" and isinstance(body, bytes):
                self.wfile.write(body[:-5] if "truncated" in self.path else body)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as cache:
        old = {k: os.environ.get(k) for k in ("HF_ENDPOINT", "TORCH_HOME", "no_proxy")}
        os.environ |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                       "TORCH_HOME": cache, "no_proxy": "127.0.0.1"}
        try:
            with quiet():
                yield asked, cache
        finally:
            server.shutdown()
            server.server_close()
            for name, value in old.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def hub_files(name, weights, form="bin"):
    with tempfile.TemporaryDirectory() as tmp:
        write_teacher(tmp, weights, form)
        return {f"/{name}/resolve/main/{file}": content(f"{tmp}/{file}") for file in os.listdir(tmp)}


def test_the_hub_is_asked_once_and_two_models_do_not_collide():
    """Both forms of weights, a redirect, a folder a model; the second time without a request."""
    first, second = small_weights(seed=1), small_weights(seed=2)
    files = hub_files("some/one", first) | hub_files("some/two", second) | \
        hub_files("some.body/three", first, "safetensors")
    files["/elsewhere"] = files.pop(path := "/some/two/resolve/main/pytorch_model.bin")
    files[path] = "/elsewhere"
    with hub(files) as (asked, cache):
        for name, weights in (("some/one", first), ("some/two", second), ("some-1/two", None)):
            if weights:
                folder = teacher_logits.prepare(name, "x.tsv", CPU)
                assert folder == f"{cache}/hub/teachers/{name}"
                got = teacher_logits.read_checkpoint(folder).weights
                assert all(torch.equal(got[k], w) for k, w in weights.items())
            else:
                refuses(lambda: teacher_logits.prepare(name, "x.tsv", CPU), "config.json", name)
        assert "/elsewhere" in asked
        asked.clear()
        teacher_logits.prepare("some/one", "x.tsv", CPU)
        assert asked == []


def test_bad_downloads_are_noticed_removed_and_named():
    """Cut short; a page for weights; a pickle that would run code; no such model; no server."""
    files = hub_files("truncated/one", small_weights()) | hub_files("wrong/two", small_weights())
    files |= hub_files("evil/three", small_weights())
    ran = os.path.join(folder(), "ran")
    files["/evil/three/resolve/main/pytorch_model.bin"] = pickle.dumps(Evil(ran))
    files["/wrong/two/resolve/main/pytorch_model.bin"] = b"<html>quota exceeded</html>"
    with hub(files) as (asked, cache):
        def get(name):
            return lambda: teacher_logits.prepare(name, "x.tsv", CPU)
        refuses(get("truncated/one"), "config.json", "cut short")
        refuses(get("wrong/two"), "pytorch_model.bin", "removed")
        refuses(get("evil/three"), "pytorch_model.bin", "removed")
        assert not os.path.exists(ran)
        error = refuses(get("no/such"), "no/such")
        assert not isinstance(error, teacher_logits.Unreachable)
        assert not [f for _, _, found in os.walk(cache) for f in found if f != "config.json"]
        os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
        error = refuses(get("some/one"), "127.0.0.1:9", "scratch")
        assert isinstance(error, teacher_logits.Unreachable)


def test_names_cannot_leave_the_cache():
    """A hub name is owner/name; anything else is refused before a request or a folder is made."""
    with hub({}) as (asked, cache):
        for name in ("../../x", "a/..", "../x", "/etc/x", "a/b/c", "a", "a/.b", ".a/b", "a/b\n",
                     "a\\..\\b/c", "http://x/y", "a/b?c", "\u00e4/b", ""):
            refuses(lambda: teacher_logits.fetch(name), "--teacher")
        assert asked == [] and os.listdir(cache) == []


# ---- Training a teacher --------------------------------------------------------------------------
def tiny():
    """A `scratch` that trains in a second."""
    return setting(teacher_logits, SCRATCH_RATE=4e-3, SCRATCH={
        **teacher_logits.SCRATCH, "hidden_size": 32, "intermediate_size": 64})


def the_sentences(path, n=60):
    """good and bad, turned round by `not`."""
    rows = [(f"{'the' if i % 3 else 'a'} film is {'not ' * (i % 2)}{'good' if i % 4 < 2 else 'bad'}",
             str(int((i % 4 < 2) != (i % 2)))) for i in range(n)]
    write_tsv(path, ("sentence", "label"), rows)
    return write_tsv(path.replace(".tsv", ".dev.tsv"), ("sentence", "label"), rows[:12])


def test_scratch_learns_is_kept_and_taken_up():
    """The vocabulary covers every character; the same rows train once, other rows anew."""
    with tempfile.TemporaryDirectory() as tmp:
        dev = the_sentences(f"{tmp}/s.tsv")
        with quiet() as out, tiny():
            folder = teacher_logits.prepare(None, f"{tmp}/s.tsv", CPU)
            assert teacher_logits.accuracy(folder, dev, None, CPU) == 1.0
            before = content(f"{folder}/pytorch_model.bin")
            teacher_logits.prepare("scratch", f"{tmp}/s.tsv", CPU)
        assert "lies there" in out.getvalue()
        assert sorted(os.listdir(tmp)) == ["s.dev.tsv", "s.teacher", "s.tsv"]
        vocabulary = content(f"{folder}/vocab.txt").decode().split("\n")
        assert vocabulary[:5] == teacher_logits.SPECIAL and {"good", "##g", "g"} <= set(vocabulary)
        config = json.loads(content(f"{folder}/config.json"))
        assert config["id2label"] == {"0": "0", "1": "1"}
        with tiny(), setting(teacher_logits, SCRATCH_RATE=1e-4), quiet() as out:
            teacher_logits.prepare("scratch", f"{tmp}/s.tsv", CPU)
        assert "trained anew" in out.getvalue()
        assert content(f"{folder}/pytorch_model.bin") != before


def test_fine_tuning_goes_on_where_it_was_killed_and_ends_with_the_same_bytes():
    """Each rate from the checkpoint, the best on dev kept; only scratch is replaced by scratch."""
    class Killed(Exception):
        pass

    def run(tmp, stop):
        real, calls = teacher_logits.save, []
        def save(path, state):
            real(path, state)
            if "adam" in state:
                steps[state["done"]] = int(state["adam"]["state"][0]["step"])
            calls.append(path)
            if len(calls) == stop:
                raise Killed
        with setting(teacher_logits, save=save), quiet() as out, contextlib.suppress(Killed):
            teacher_logits.fine_tune(f"{tmp}/s.tsv", f"{tmp}/start", CPU, [1e-3, 3e-3], 2, 8)
        return out.getvalue().splitlines()

    bare = {k[5:]: v * 0.1 for k, v in small_weights().items() if k.startswith("bert.encoder")
            or k.startswith("bert.embeddings")}
    results, steps = [], {}
    for stops in ([0], [1, 1, 1, 0], [3, 0]):
        with tempfile.TemporaryDirectory() as tmp:
            the_sentences(f"{tmp}/s.tsv")
            write_teacher(f"{tmp}/start", bare)
            lines = [line.rsplit("  ", 1)[0] for stop in stops for line in run(tmp, stop)]
            lines = [line for line in lines if "dev " in line]
            results.append((sorted(os.listdir(tmp)), content(f"{tmp}/s.teacher/pytorch_model.bin")))
            assert not os.path.exists(f"{tmp}/s.teacher.state")
            assert steps == {1: 8, 2: 16, 3: 8, 4: 16}  # Adam's averages go on, within one rate
            refuses(lambda: teacher_logits.prepare("scratch", f"{tmp}/s.tsv", CPU), "move it away")
    assert results[0] == results[1] == results[2]
    assert len(lines) >= 3 and lines[0].startswith("lr 0.001  epoch  1/2")


def test_the_best_epoch_on_dev_is_kept():
    """Dev accuracies 0.5, 0.9, 0.7: the weights after the second epoch."""
    seen, scores, real = {}, iter([0.5, 0.9, 0.7]), teacher_logits.save

    def save(path, state):
        real(path, state)
        if "done" in state:
            seen[state["done"]] = state["weights"]["classifier.weight"].clone()
    with tempfile.TemporaryDirectory() as tmp, quiet(), tiny(), \
            setting(teacher_logits, save=save, right=lambda *args: next(scores)):
        the_sentences(f"{tmp}/s.tsv")
        folder = teacher_logits.fine_tune(f"{tmp}/s.tsv", "scratch", CPU, [1e-3], 3)
        kept = teacher_logits.read_checkpoint(folder).weights["classifier.weight"]
    assert [n for n, w in seen.items() if torch.equal(w, kept)] == [2]


def test_the_learning_rate_rises_over_a_tenth_and_falls_to_zero():
    """20 steps: up over the first two, then down in a line; gradients are cut to norm 1."""
    rows = [([2, 5 + i % 9, 3], 3) for i in range(20)]
    start = teacher_logits.Checkpoint(CONFIG, VOCABULARY, small_weights())
    model, rates = teacher_logits.build(start, 2), []

    class Adam(torch.optim.Adam):
        def step(self):
            rates.append(self.param_groups[0]["lr"])
            norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters())))
    norms, adam = [], Adam(model.parameters())
    for epoch in (0, 1):
        teacher_logits.train(model, adam, [(r, i % 2) for i, r in enumerate(rows)], 2, 1.0, epoch,
                             2, np.random.default_rng(0))
    expected = [min(10 * step / 20, (21 - step) / 18) for step in range(1, 21)]
    assert np.allclose(rates, expected) and max(norms) < 1 + 1e-4


def test_a_teachers_assistant_learns_logits():
    """Where the TSV has logit columns they are the goal, by squared error, labels or not (§3.2)."""
    with tempfile.TemporaryDirectory() as tmp:
        the_sentences(f"{tmp}/s.tsv")
        rows = [line.split("\t") for line in content(f"{tmp}/s.tsv").decode().split("\n")[1:-1]]
        write_tsv(f"{tmp}/s.tsv", ("sentence", "label", "logit_0", "logit_1"),
                  [(text, "", "-2.5" if label == "1" else "2.5", "0.5") for text, label in rows])
        with quiet(), tiny():
            folder = teacher_logits.prepare("scratch", f"{tmp}/s.tsv", CPU)
        assert teacher_logits.accuracy(folder, f"{tmp}/s.dev.tsv", None, CPU) > 0.6
    model = teacher_logits.build(teacher_logits.Checkpoint(CONFIG, VOCABULARY, small_weights()), 2)
    adam, rows = torch.optim.Adam(model.parameters()), [([2, 5, 3], 3), ([2, 6, 3], 3)] * 20
    goals = [[-2.5, 0.5], [2.5, 0.5]] * 20
    with setting(teacher_logits, DROPOUT=0.0):
        losses = [teacher_logits.train(model, adam, list(zip(rows, goals)), 4, 2e-2, epoch, 20,
                                       np.random.default_rng(epoch)) for epoch in range(20)]
    got = teacher_logits.predict(model, rows[:2])
    assert losses[0] > 1 and (got - torch.tensor(goals[:2])).abs().max() < 0.3


def test_labels_that_cannot_be_learnt_are_refused():
    """One class; a dev set with others; no labels at all."""
    with tempfile.TemporaryDirectory() as tmp:
        for rows, dev in (([("a", "1")] * 20, "1"), ([("a", "1"), ("b", "0")] * 9, "2"),
                          ([("a", "")] * 9, "1")):
            write_tsv(f"{tmp}/s.tsv", ("sentence", "label"), rows)
            write_tsv(f"{tmp}/s.dev.tsv", ("sentence", "label"), [("a", dev)])
            refuses(lambda: teacher_logits.prepare("scratch", f"{tmp}/s.tsv", CPU), "s.tsv")
    for flag, value in (("--epochs", 0), ("--batch-size", 0), ("--lr", 0), ("--seed", -1)):
        refused(call(teacher_logits.main, "s.tsv", "--fine-tune", flag, value), flag)


# ---- Labelling -----------------------------------------------------------------------------------
PAIR_ROWS = [("the film is good", "fun", "neutral"), ("a dull film", "not fun", "entailment"),
         ("bad [MASK] bad", "good", "contradiction")]


def test_the_teacher_is_judged_by_rows_from_all_of_the_file():
    """Labels in order, 1,000 of each: the first thousand rows would say nothing about it."""
    with tempfile.TemporaryDirectory() as tmp:
        the_sentences(f"{tmp}/s.tsv")
        rows = [(f"the film is {x}", y) for x, y in (("bad", "0"), ("good", "1"))
                for _ in range(1000)]
        write_tsv(f"{tmp}/long.tsv", ("sentence", "label"), rows)
        with quiet() as out, tiny():
            folder = teacher_logits.prepare("scratch", f"{tmp}/s.tsv", CPU)
            teacher_logits.label(f"{tmp}/long.tsv", f"{tmp}/o.tsv", folder, None, CPU)
    assert "accuracy 1.0000 on 1,000 labelled rows; always the most frequent label: 0.5000" \
        in out.getvalue()


def test_every_tenth_labelled_row_is_held_out():
    """Rows without a label but with logits, a transfer set's, train and are never held out."""
    with tempfile.TemporaryDirectory() as tmp:
        path = tsv(tmp, "x.logits.tsv", ["sentence\tlabel\tlogit_0\tlogit_1"] + [
            f"film {i}\t{'' if i % 3 else i % 2}\t1\t-1" for i in range(90)])
        with quiet():
            rows, held, classes = teacher_logits.labelled(path)
    assert [row.texts[0] for row in held] == ["film 27", "film 57", "film 87"]
    assert len(rows) == 87 and not {row.line for row in rows} & {row.line for row in held}


def test_text_and_logits_stay_on_one_line_in_class_order():
    """Outputs are put into the classes' order, by --label-order or by config.json's id2label."""
    w, order = small_weights(3), ["contradiction", "entailment", "neutral"]
    with tempfile.TemporaryDirectory() as tmp:
        write_tsv(f"{tmp}/p.transfer.tsv", ("sentence1", "sentence2", "label"),
                  PAIR_ROWS * 3 + [("film", "a", "")])
        plain = write_teacher(f"{tmp}/plain", w)
        own = write_teacher(f"{tmp}/own", w, id2label=dict(enumerate(order)))
        outputs = []
        for folder, wish in ((plain, order), (own, None)):
            with quiet(), setting(teacher_logits, CHUNK=4, check=lambda *a: None):
                teacher_logits.label(f"{tmp}/p.transfer.tsv", f"{tmp}/o.tsv", folder, wish, CPU)
            outputs.append(content(f"{tmp}/o.tsv"))
        assert outputs[0] == outputs[1]
        header, *lines = outputs[0].decode().rstrip("\n").split("\n")
        assert header == ("sentence1\tsentence2\tlabel\t"
                          "logit_entailment\tlogit_neutral\tlogit_contradiction")
        tokens = teacher_logits.WordPiece(VOCABULARY, 32)
        for line, row in zip(lines, PAIR_ROWS * 3 + [("film", "a", "")], strict=True):
            a, b, label, *logits = line.split("\t")
            assert (a, b, label) == row
            expected = bert_by_hand(w, *tokens.encode((a, b)))[[1, 2, 0]]
            assert np.allclose(expected, list(map(float, logits)), atol=1e-5)
            assert all(len(x.split(".")[1]) == 6 for x in logits)
        assert sorted(os.listdir(tmp)) == ["o.tsv", "own", "p.transfer.tsv", "plain"]
        refuses(lambda: teacher_logits.label(f"{tmp}/p.transfer.tsv", f"{tmp}/o.tsv", plain,
                                             order[:2], CPU), "3 outputs", "--label-order")
        refuses(lambda: teacher_logits.label(f"{tmp}/p.transfer.tsv", tmp, plain, order, CPU),
                tmp, "folder")


def test_outputs_are_named_by_wish_config_table_or_order():
    """The first of these that covers the labels found."""
    with tempfile.TemporaryDirectory() as tmp:
        w = small_weights(3)
        mnli = f"{tmp}/{teacher_logits.TEACHERS['mnli'].hub}"
        write_teacher(mnli, w, id2label={"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"})
        write_teacher(f"{tmp}/x", w, id2label=["no", "mapping"])
        def names(folder, found, wish=None):
            return teacher_logits.load_teacher(folder, CPU, set(found), wish)[2]
        glue = ["entailment", "neutral", "contradiction"]
        assert names(mnli, glue) == ["contradiction", "entailment", "neutral"]
        assert names(mnli, glue[:2]) == ["contradiction", "entailment", "neutral"]
        assert names(mnli, glue, glue[::-1]) == glue[::-1]
        assert names(f"{tmp}/x", glue) == glue
        assert names(f"{tmp}/x", "02") == names(f"{tmp}/x", "") == ["0", "1", "2"]
        refuses(lambda: names(f"{tmp}/x", ["yes", "no"]), "3 outputs", "no, yes")


def test_labelling_goes_on_where_it_was_killed_with_any_number_of_processes():
    """Chunks that lie there are not done again; the joined file is the same byte for byte."""
    with tempfile.TemporaryDirectory() as tmp:
        write_teacher(f"{tmp}/t", small_weights())
        write_tsv(f"{tmp}/s.transfer.tsv", ("sentence", "label"),
                  [(" ".join(WORDS[i % 5:i % 11 + 6]), "") for i in range(50)])
        real, done = teacher_logits.write_chunk, []

        def label(dies=99, teacher="t", **world):
            def write(path, *rest):
                if len(done) == dies:
                    raise KeyboardInterrupt
                done.append(os.path.basename(path))
                real(path, *rest)
            done.clear()
            with setting(teacher_logits, CHUNK=8, write_chunk=write, **world), quiet() as out, \
                    contextlib.suppress(KeyboardInterrupt):
                teacher_logits.label(f"{tmp}/s.transfer.tsv", f"{tmp}/o.tsv", f"{tmp}/{teacher}",
                                     None, CPU)
            return out.getvalue()
        label()
        whole = content(f"{tmp}/o.tsv")
        assert len(done) == 7 and sorted(os.listdir(tmp)) == ["o.tsv", "s.transfer.tsv", "t"]
        os.remove(f"{tmp}/o.tsv")
        label(dies=2)
        assert done == ["000000.tsv", "000001.tsv"] and not os.path.exists(f"{tmp}/o.tsv")
        label(dies=2, RANK=2, WORLD=3)
        assert done == ["000002.tsv", "000005.tsv"]
        label()
        assert done == ["000003.tsv", "000004.tsv", "000006.tsv"]
        assert content(f"{tmp}/o.tsv") == whole
        label(dies=3)
        write_teacher(f"{tmp}/t", small_weights(seed=1))
        assert "starting anew" in label() and len(done) == 7
        assert content(f"{tmp}/o.tsv") != whole


def test_two_processes_share_the_work():
    """As torchrun starts them, RANK and WORLD_SIZE: one file, the same as one process writes."""
    with tempfile.TemporaryDirectory() as tmp:
        write_teacher(f"{tmp}/t", small_weights())
        write_tsv(f"{tmp}/s.transfer.tsv", ("sentence", "label"),
                  [(" ".join(WORDS[i % 5:i % 11 + 6]), "") for i in range(4200)])
        command = [sys.executable, "teacher_logits.py", f"{tmp}/s.transfer.tsv", "--teacher",
                   f"{tmp}/t", "--device", "cpu", "-o"]
        both = [subprocess.Popen([*command, f"{tmp}/two.tsv"], stdout=subprocess.PIPE, env={
            **os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x",
            "OMP_NUM_THREADS": "1"}) for rank in (0, 1)]
        assert [p.wait(60) or p.stdout.close() for p in both] == [None, None]
        with quiet():
            teacher_logits.label(f"{tmp}/s.transfer.tsv", f"{tmp}/one.tsv", f"{tmp}/t", None, CPU)
        assert content(f"{tmp}/one.tsv") == content(f"{tmp}/two.tsv")
        assert sorted(os.listdir(tmp)) == ["one.tsv", "s.transfer.tsv", "t", "two.tsv"]


def test_a_teacher_worse_than_the_most_frequent_label_is_stopped():
    """Its labels turned round: one line of error, exit code 2, nothing written."""
    with tempfile.TemporaryDirectory() as tmp:
        the_sentences(f"{tmp}/s.tsv")
        with quiet() as out, tiny():
            folder = teacher_logits.prepare("scratch", f"{tmp}/s.tsv", CPU)
            teacher_logits.label(f"{tmp}/s.tsv", f"{tmp}/o.tsv", folder, None, CPU)
        assert "accuracy 1.0000 on 72 labelled rows" in out.getvalue()
        done = subprocess.run([sys.executable, "teacher_logits.py", f"{tmp}/s.tsv", "--teacher",
                               folder, "--label-order", "1,0"], capture_output=True, text=True)
        assert done.returncode == 2 and "--label-order" in done.stderr
        assert done.stderr.count("\n") == 1 and "accuracy 0.0000" in done.stdout
        assert not os.path.exists(f"{tmp}/s.logits.tsv")


# ---- The whole run: distill.py from nothing ------------------------------------------------------
def cut_sample(where, name="tiny.tsv", rows=60, dev=20):
    """A cut of the sample, with a dev set beside it. -> the path"""
    for source, target, n in (("sample.tsv", name, rows),
                              ("sample.dev.tsv", name.replace(".tsv", ".dev.tsv"), dev)):
        lines = get(os.path.join(HERE, source)).decode().splitlines()
        tsv(where, target, lines[:n + 1])
    return os.path.join(where, name)


QUICK = dict(SCRATCH=teacher_logits.SCRATCH | {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1})


def whole(data, *args):
    """distill.py on `data` with a teacher that is made in a second. -> its output"""
    with mock.patch.multiple(teacher_logits, **QUICK):
        code, out, err = call(distill.main, data, "--epochs", "1", "--hidden", "8", *args)
    assert code == 0, (out, err)
    return out


def test_whole_run_from_nothing():
    """Every step is named with the command that does it alone; the result names the teacher."""
    data = cut_sample(folder())
    out = whole(data, "--n-iter", "2", "--table1")
    stem = data[:-4]
    for text in (f"python augment.py {data} --n-iter 2\n",
                 f"python teacher_logits.py {stem}.transfer.tsv --teacher {stem}.teacher\n",
                 f"python distill.py {data} --logits {stem}.logits.tsv --epochs 1 --hidden 8\n",
                 f"python distill.py {data} --alpha 1 --output {stem}.hard --hidden 8 --epochs 1\n",
                 "teacher  scratch: dev acc",
                 "table 1", "6 distilled BiLSTM", "7 BiLSTM, hard labels"):
        assert text in out, (text, out)
    results = [line for line in out.splitlines() if line.startswith("result")]
    assert len(results) == 2 and " teacher scratch " in results[0] and " teacher none " in results[1]
    transfer, logits = (get(stem + end).decode().splitlines()
                        for end in (".transfer.tsv", ".logits.tsv"))
    assert [line.rsplit("\t", 2)[0] for line in logits] == transfer
    assert transfer[:61] == get(data).decode().splitlines() and len(transfer) > 61


def test_rows_that_are_left_out_are_told_once():
    """By whichever script leaves them out."""
    where = folder()
    lines = ["sentence\tlabel"] + [f"{x} film\t{y}" for x, y in 15 * [("good", 1), ("bad", 0)]]
    path = tsv(where, "x.tsv", [*lines, " \t1", "odd film\t-"])
    with mock.patch.multiple(teacher_logits, **QUICK):
        for main, *flags in ((teacher_logits.main, "--fine-tune", "--teacher", "scratch"),
                             (teacher_logits.main, "--teacher", where + "/x.teacher"),
                             (distill.main, "--alpha", 1, "--epochs", 1)):
            code, out, err = call(main, path, *flags)
            assert code == 0, err
            for reason in ("an empty sentence", "no gold label"):
                assert out.count(f"note     {path}: 1 rows left out: {reason}\n") == 1, out


def test_whole_run_takes_up_what_lies_there():
    """Made from the same: kept. From something else: anew. By somebody else: as it is."""
    data = cut_sample(folder())
    logits, transfer = data[:-4] + ".logits.tsv", data[:-4] + ".transfer.tsv"
    whole(data, "--n-iter", "1")
    first = get(logits)
    out = whole(data, "--n-iter", "1")
    assert out.count("taken up") == 3 and get(logits) == first, out
    out = whole(data, "--n-iter", "2")
    assert "made from another n_iter" in out and "made from another rows" in out
    assert get(logits) != first
    put(*os.path.split(logits), first)  # as brought from another machine
    out = whole(data, "--n-iter", "2")
    assert f"{logits} is not of this run" in out and get(logits) == first
    assert "taken as it is" not in whole(data, "--n-iter", "2", "--fresh")
    assert get(logits) != first and len(get(transfer)) > len(get(data))


def test_whole_run_needs_no_network():
    """A default teacher that cannot be had gives way, loudly; a teacher that was asked for, not."""
    where = folder()
    data = cut_sample(where, "sst2.tsv")
    with mock.patch.dict(os.environ, HF_ENDPOINT="http://127.0.0.1:9", TORCH_HOME=where):
        out = whole(data, "--n-iter", "1")
        assert "!!!!!!!!" in out and "scratch" in out and " teacher scratch " in out
        refused(call(distill.main, data, "--teacher", "somebody/some-bert"), "127.0.0.1:9")


# ---- The repository ------------------------------------------------------------------------------
SCRIPTS = ("bilstm", "augment", "teacher_logits", "distill")


def test_readme_names_exist():
    """Each name of the README's table "Paper -> code" is there."""
    readme = get(os.path.join(HERE, "README.md")).decode()
    table = readme.split("## Paper -> code")[1].split("##")[0]
    names = re.findall(r"`(\w+)\.([\w.]+)`", table)
    assert len(names) >= 15
    for module, name in names:
        thing = importlib.import_module(module)
        for part in name.split("."):
            thing = getattr(thing, part)
        assert callable(thing)


def test_readme_commands_exist():
    """Each command of the README names scripts and flags that are there, or a file it made."""
    readme = get(os.path.join(HERE, "README.md")).decode() + "".join(
        get(os.path.join(HERE, f"{s}.py")).decode().split('"""')[1] for s in SCRIPTS)
    commands = re.findall(r"(?:python|torchrun [-=\w ]+?) ((?:\w+)\.py[^\n`#&|]*)", readme)
    assert len(commands) > 20
    flags = {script + ".py": set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", call(
        importlib.import_module(script).main, "--help")[1])) for script in SCRIPTS}
    for command in commands:
        script, *rest = command.split()
        if script != "test_all.py":
            used = {word for word in rest if word.startswith("-")}
            assert used <= flags[script], (command, used - flags[script])


def test_readme_results():
    """Every figure of SST-2's table is the mean of its runs' best epochs in results.csv."""
    best = {}
    for row in csv.DictReader(get(HERE, "results.csv").decode().splitlines()):
        seeds, accuracy = best.setdefault(row["run"], {}), 100 * float(row["dev_acc"])
        seeds[row["seed"]] = max(accuracy, seeds.get(row["seed"], 0))
    table = re.findall(r"^\| ([a-z]) \|.*\| ([\d.]+(?: \+- [\d.]+)?) \|.*\|$",
                       get(HERE, "README.md").decode(), re.M)
    assert [run for run, _ in table] == [run for run in best if len(run) == 1] and len(table) > 3
    for run, said in table:
        seeds = list(best[run].values())
        spread = f" +- {statistics.stdev(seeds):.1f}" if len(seeds) > 1 else ""
        assert said == f"{statistics.mean(seeds):.1f}{spread}", run
    assert len(get(HERE, "results.svg")) <= 20000


def test_shape_of_the_code():
    """numpy, torch, the standard library; arrows one way; functions of 40 lines, 100 columns; no
    script longer than README.md says."""
    readme = get(os.path.join(HERE, "README.md")).decode()
    for k, script in enumerate(SCRIPTS):
        text = get(os.path.join(HERE, script + ".py")).decode()
        assert text.count("\n") <= int(re.search(rf"\| {script}\.py \| (\d+) \|", readme)[1])
        assert max(map(len, text.splitlines())) <= 100, script
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) \
                    else [node.module]
                for name in {n.split(".")[0] for n in names}:
                    allowed = {"numpy", "torch", *sys.stdlib_module_names, *SCRIPTS[:k]}
                    assert name in allowed, (script, name)
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 40, (script, node.name)


def test_sample():
    """The demo's rows: two classes in balance, no row twice, no near-copy across train and dev."""
    train, dev = (list(read_rows(os.path.join(HERE, f))) for f in ("sample.tsv", "sample.dev.tsv"))
    assert 1000 <= len(train) <= 2000 and 200 <= len(dev) <= 400
    assert len({row.texts for row in train + dev}) == len(train) + len(dev)
    for rows in (train, dev):
        assert 0.45 < sum(row.label == "1" for row in rows) / len(rows) < 0.55
    bags = [set(words(row.texts[0])) for row in train]
    for row in dev:
        bag = set(words(row.texts[0]))
        assert max(len(bag & b) / len(bag | b) for b in bags) < 0.6, row
    assert all(" ".join(words(row.texts[0])) == row.texts[0] for row in train + dev)


if __name__ == "__main__":
    passed = failed = 0
    for name, test in [item for item in globals().items() if item[0].startswith("test_")]:
        try:
            test()
            passed += 1
        except Exception:
            failed += 1
            print(f"FAILED {name}")
            traceback.print_exc()
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)
