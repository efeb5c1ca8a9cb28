"""The specification: each test's name is the sentence that it proves.

    python test_all.py              # all tests; closes with `N passed, N failed`
    python test_all.py mask loss    # the tests whose names hold one of these words
    python -m pytest test_all.py    # the same tests

On the CPU, without a network, in a temporary folder. The order is that of the scripts: augment.py,
bilstm.py, teacher_logits.py, distill.py; then bad input, interruptions, the repository itself.
"""
import ast
import contextlib
import gzip
import hashlib
import http.server
import io
import itertools
import json
import math
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import zipfile
from collections import Counter
from functools import lru_cache, partial
from random import Random
from unittest import mock
from urllib.error import HTTPError

import numpy as np
import torch

import augment
import bilstm
import distill
import teacher_logits
from augment import MASK, Rates, UserError, read_rows, tokenize
from bilstm import BiLSTM, encode_texts

# ---- Helpers -------------------------------------------------------------------------------------
HERE = os.path.dirname(os.path.abspath(augment.__file__))
TEMPORARY = tempfile.TemporaryDirectory()  # removed when the tests have ended
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "PYTHONPATH": HERE}
CPU = torch.device("cpu")
torch.set_num_threads(1)


def new_folder():
    return tempfile.mkdtemp(dir=TEMPORARY.name)


def write(folder, name, content):
    """Write text, bytes or a list of lines; -> the path."""
    if isinstance(content, list):
        content = "".join(line + "\n" for line in content)
    if isinstance(content, str):
        content = content.encode()
    path = os.path.join(folder, name)
    with open(path, "wb") as f:
        f.write(content)
    return path


def read(*path):
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def call(module, *args, stdin=b""):
    """Run a script: call(distill, "x.tsv", "--alpha", 1) -> exit code, stdout, stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = 0
    augment.note.cache_clear()  # a new process would note everything once more
    argv, stdin = [module.__name__, *map(str, args)], io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    with mock.patch.multiple(sys, argv=argv, stdin=stdin, stdout=out, stderr=err):
        try:
            augment.run(module.main, kept="what is finished is kept")
        except SystemExit as stop:
            code = stop.code
    return code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()


def expect_error(result, *parts):
    """Exit code 2 and one line on stderr that has all of these parts."""
    code, _, err = result
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, result
    for part in parts:
        assert part in err, (part, err)


@contextlib.contextmanager
def raises(kind, *parts):
    try:
        yield
    except kind as error:
        for part in parts:
            assert part in str(error), (part, str(error))
    else:
        raise AssertionError(f"expected {kind.__name__}")


def is_near(a, b, tolerance=1e-5):
    return float((torch.as_tensor(a) - torch.as_tensor(b)).detach().abs().max()) < tolerance


def reviews(n, seed, unlabelled=0, logits=True):
    """Lines of a TSV: n made-up reviews that a student can learn, the last ones without a label."""
    rng = Random(seed)
    lines = ["sentence\tlabel" + ("\tlogit_0\tlogit_1" if logits else "")]
    for i in range(n):
        positive = rng.random() < 0.5
        words = rng.choices(("warm fine great" if positive else "dull cold weak").split(), k=2)
        words += rng.choices("the a film plot it is was , and".split(), k=rng.randrange(7))
        rng.shuffle(words)
        cells = [" ".join(words), "" if i >= n - unlabelled else str(int(positive))]
        x = rng.uniform(1, 3) * (1 if positive else -1)
        cells += [f"{-x:.6f}", f"{x:.6f}"] if logits else []
        lines.append("\t".join(cells))
    return lines


SMALL = ["--hidden", 8, "--fc", 8, "--batch-size", 8, "--device", "cpu"]  # a student to train fast


def reviews_with_dev(folder, rows=40):
    """Write x.tsv and x.dev.tsv -> the path of the first."""
    write(folder, "x.dev.tsv", reviews(20, 2, logits=False))
    return write(folder, "x.tsv", reviews(rows, 1, logits=False))


def small_run(folder):
    """The same with p.tsv and x.logits.tsv (64 rows, 24 unlabelled) -> distill.py's arguments."""
    write(folder, "p.tsv", ["sentence1\tsentence2\tlabel"] + [f"a\tb\t{i % 2}" for i in range(40)])
    logits = write(folder, "x.logits.tsv", reviews(64, 1, unlabelled=24))
    return [reviews_with_dev(folder), "--logits", logits, *SMALL]


def tiny_student(classes=2, hidden=5, fc=7, pair=False, vocabulary=40, width=6, seed=0):
    """An untrained student whose two channels differ, ready to predict."""
    torch.manual_seed(seed)
    model = BiLSTM(torch.randn(vocabulary, width), classes, hidden, fc, pair)
    model.trained.weight.data.add_(torch.randn(vocabulary, width))
    return model.eval()


TINY_VOCABULARY = [*teacher_logits.SPECIAL, *"warm fine great dull cold weak the a film plot it is "
                   "was , and un ##aff ##able cafe ' s . -".split()]
TINY_CONFIG = {"model_type": "bert", "hidden_act": "gelu", "hidden_size": 8, "num_hidden_layers": 2,
               "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64,
               "type_vocab_size": 2, "layer_norm_eps": 1e-12, "vocab_size": len(TINY_VOCABULARY)}


def tiny_teacher(folder, classes=2, **config):
    """Write a random BERT's three files to `folder`, without a classifier if classes is 0."""
    config = {**TINY_CONFIG, **config}
    torch.manual_seed(0)
    model = teacher_logits.Bert(config, classes or 1)
    weights = {name: torch.randn_like(w) * 0.3 for name, w in model.state_dict().items()
               if classes or not name.startswith("classifier.")}
    os.makedirs(folder, exist_ok=True)
    write(folder, "config.json", json.dumps(config))
    write(folder, "vocab.txt", TINY_VOCABULARY)
    torch.save(weights, os.path.join(folder, "pytorch_model.bin"))
    return folder


def safetensors(weights):
    """The bytes of a file in the safetensors format."""
    header, data = {}, b""
    for name, w in weights.items():
        offsets = [len(data), len(data) + 4 * w.numel()]
        header[name] = {"dtype": "F32", "shape": list(w.shape), "data_offsets": offsets}
        data += w.numpy().tobytes()
    return struct.pack("<Q", len(json.dumps(header))) + json.dumps(header).encode() + data


class Malicious:
    """A pickle of it runs a command when it is loaded without weights_only."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


# ---- augment.py: the three rules (§3.3) ----------------------------------------------------------
TEN = "zero one two three four five six seven eight nine".split()
TAGS = list("ABCDEFGHIJ")
UPPER = {tag: [word.upper()] for tag, word in zip(TAGS, TEN)}  # one replacement for each tag


def attempts(sentences, n, rates):
    """n attempts at a row: one sentence or two, whose words have the tags A, B, C, ..."""
    row = augment.TaggedRow(sentences, [TAGS[:len(words)] for words in sentences])
    rng = Random(0)
    return [augment.augment_row(row, attempt, rates, UPPER, rng) for attempt in range(n)]


def has_shares(counts, n, expected):
    """Is nothing else drawn than expected, and each about as often as expected of n draws?"""
    return counts.keys() <= expected.keys() and all(  # within four standard errors
        abs(counts[x] - n * p) <= 4 * math.sqrt(n * p * (1 - p)) + 1e-9
        for x, p in expected.items())


def test_a_word_is_masked_with_p_mask_and_replaced_with_p_pos():
    for mask, pos in [(0.1, 0.1), (0.3, 0.05), (0.5, 0.5), (0, 0.2), (0.2, 0)]:
        rows = attempts([TEN], 2000, Rates(mask, pos, 0))
        for i, word in enumerate(TEN):
            expected = {MASK: mask, word.upper(): pos, word: 1 - mask - pos}
            assert has_shares(Counter(row[0][i] for row in rows), 2000, expected)


def test_a_replacement_is_drawn_by_its_frequency_within_the_tag():
    nouns = ["film"] * 60 + ["plot"] * 25 + ["actor"] * 10 + ["score"] * 5
    corpus = augment.index_by_tag([augment.TaggedRow([["see"], nouns], [["VB"], ["NN"] * 100])])
    rng = Random(0)
    drawn = Counter(augment.same_tag_word("NN", corpus, rng) for _ in range(10000))
    assert has_shares(drawn, 10000, {"film": 0.6, "plot": 0.25, "actor": 0.1, "score": 0.05})


def test_the_n_of_an_n_gram_is_uniform_from_1_to_5_and_each_start_is_as_likely():
    for length in (1, 2, 3, 5, 6, 9):
        rng = Random(length)
        drawn = Counter(tuple(augment.sample_ngram(TEN[:length], rng)) for _ in range(10000))
        expected = {}
        for n in range(1, min(5, length) + 1):
            for start in range(length - n + 1):
                expected[tuple(TEN[start:start + n])] = 1 / min(5, length) / (length - n + 1)
        assert has_shares(drawn, 10000, expected)


def test_a_sentence_is_cut_to_an_n_gram_with_p_ng():
    for p in (0, 0.25, 1):
        rows = attempts([TEN], 4000, Rates(0, 0, p))
        assert has_shares(Counter(row != [TEN] for row in rows), 4000, {True: p, False: 1 - p})
    for row in attempts([TEN], 50, Rates(1, 0, 1)):  # after the other rules, not in their place
        assert set(row[0]) == {MASK} and len(row[0]) <= 5


def test_a_pair_is_altered_in_its_first_sentence_then_second_then_both_each_with_its_n_gram():
    cycle = [[["ZERO"], ["zero"]], [["zero"], ["ZERO"]], [["ZERO"], ["ZERO"]]]
    assert attempts([["zero"], ["zero"]], 9, Rates(0, 1, 0)) == cycle * 3
    row = augment.TaggedRow([["a"], ["b"]], [["A"], ["B"]])  # each sentence has its own tags
    new_row = augment.augment_row(row, 2, Rates(0, 1, 0), {"A": ["x"], "B": ["y"]}, Random(0))
    assert new_row == [["x"], ["y"]]
    rows = attempts([TEN, TEN], 9000, Rates(0, 0, 0.5))[2::3]
    seen = Counter((first != TEN, second != TEN) for first, second in rows)
    assert has_shares(seen, 3000, dict.fromkeys(itertools.product([True, False], repeat=2), 0.25))


# ---- augment.py: the transfer set ----------------------------------------------------------------
TEXTS = ["A  fine Film ", "a dull plot", "i like the film", "the plot is dull", "a dull plot",
         "it 's a charming journey .", "film", "nobody laughs", "the actors laugh loudly"]
SINGLES = ["sentence\tlabel", *[f"{text}\t1" for text in TEXTS]]
PAIRS = ["sentence1\tsentence2\tlabel", *map("\t".join, zip(TEXTS, TEXTS[3:], "abcdef"))]


def transfer_set(lines, **settings):
    source = write(new_folder(), "x.tsv", lines)
    with contextlib.redirect_stdout(io.StringIO()):
        augment.make_transfer_set(source, source + ".out", **settings)
    return read(source + ".out").decode().split("\n")[:-1]


def test_the_rows_come_first_as_they_are_then_new_rows_without_a_label():
    for lines in (SINGLES, PAIRS):
        made = transfer_set(lines, n_iter=100)
        new = made[len(lines):]
        assert made[:len(lines)] == lines == transfer_set(lines, n_iter=0)
        assert len(new) > 100 and len(set(new)) == len(new)  # no row twice
        originals = [line.lower().split("\t")[:-1] for line in lines]
        for *texts, label in [line.split("\t") for line in new]:
            assert label == "" and len(texts) == len(originals[0]) and texts not in originals
            assert [" ".join(tokenize(text)) for text in texts] == texts != ["a fine film"]


def test_defaults_are_the_papers_with_20_attempts_or_10_for_pairs_and_a_seed_gives_one_set():
    for lines, n_iter in [(SINGLES, 20), (PAIRS, 10)]:
        path = write(new_folder(), "x.tsv", lines)
        flags = "--p-mask 0.3 --p-pos 0.2 --p-ng 0.4 --n-iter 7 --seed 8".split()
        for arguments, n, rates, seed in [([], n_iter, (0.1, 0.1, 0.25), 0),
                                          (flags, 7, (0.3, 0.2, 0.4), 8)]:
            command = [sys.executable, os.path.join(HERE, "augment.py"), path, *arguments]
            subprocess.check_output(command, env=ENV)  # its sets have another order than ours
            made = read(path.replace(".tsv", ".transfer.tsv")).decode().splitlines()
            assert made == transfer_set(lines, n_iter=n, rates=Rates(*rates), seed=seed)
        assert transfer_set(lines, seed=7) != transfer_set(lines, seed=8)


def test_augment_sentence_gives_the_variants_of_one_sentence():
    found = augment.augment_sentence("A fine film", ["the dull plot"], 99, Rates(0, 0.5, 0))
    original, *variants = itertools.product(["a", "the"], ["fine", "dull"], ["film", "plot"])
    assert sorted(found) == sorted(map(" ".join, variants))
    assert "film" in augment.augment_sentence("a fine film", [], 99, Rates(0, 0, 1))
    with raises(TypeError, "corpus", "list of sentences"):
        augment.augment_sentence("a fine film", "the dull plot")


# ---- augment.py: rows and words of a TSV ---------------------------------------------------------
def test_the_columns_of_every_task_are_found_by_their_names_and_classes_are_sorted():
    for header, line, texts, label, logits in [
            ("sentence|label", "a|1 ", "a", "1", ()), ("hypothesis|premise", "b|a", "a|b", "", ()),
            ("sentence1|sentence2|label1|gold_label", "a|b|no|yes", "a|b", "yes", ()),
            ("qid1|question1|question2|is_duplicate", '7|"""Bo|"Bo"?|1', '"""Bo|"Bo"?', "1", ()),
            ("Quality|#1 ID|#2 ID|#1 String|#2 String", "0|1|2|a|b", "a|b", "0", ()),
            ("index|question|sentence|label", "0|a|b|entailment", "a|b", "entailment", ()),
            ("logit_1|sentence|logit_0|label", "-1.5|a|2e-1|1", "a", "1", (-1.5, 0.2))]:
        path = write(new_folder(), "x.tsv", f"{header}\n{line}\n".replace("|", "\t"))
        assert list(read_rows(path)) == [(tuple(texts.split("|")), label, logits)]
        assert augment.read_columns(path).is_pair == ("|" in texts)
    assert augment.read_columns(path).classes == ["1", "0"]
    for ending in ("", ".dev", ".test-mm", ".transfer", ".dev.logits", ".x.transfer.logits"):
        assert augment.dataset_stem(f"a.b/c{ending}.tsv") == "a.b/c" + ".x" * (".x" in ending)
    for labels in ["2 9 10", "neg pos", "10 2nd 9"]:
        assert augment.sort_classes(reversed(labels.split() * 2)) == labels.split()


def test_a_byte_order_mark_crlf_and_a_missing_last_newline_change_nothing():
    plain = "sentence\tlabel\nan été\t1\nb\u2028c\x0b\x85 d\t0\n".encode()
    crlf = plain.replace(b"\n", b"\r\n")
    for content in (plain, b"\xef\xbb\xbf" + plain, crlf, plain[:-1], b"\xef\xbb\xbf" + crlf[:-2]):
        rows = list(read_rows(write(new_folder(), "x.tsv", content)))
        assert rows == [(("an été",), "1", ()), (("b\u2028c\x0b\x85 d",), "0", ())]


def test_rows_with_an_empty_sentence_or_the_label_dash_are_skipped_and_counted():
    lines = ["question1\tquestion2\tlabel", "a\tb\t0", "\tb\t0", "a\t \t1", "a\tb\t-", "e\tf\t"]
    path = write(new_folder(), "x.tsv", lines)
    with contextlib.redirect_stderr(io.StringIO()) as out:
        assert [row.texts[0] for row in read_rows(path)] == ["a", "e"]
    assert f"{path}: 3 rows skipped" in out.getvalue()
    assert len(list(read_rows(path, include_invalid=True))) == 5


def test_one_of_every_ten_labelled_rows_is_held_out_unless_there_is_a_dev_file():
    lines = [f"w{i}\t{i % 2}" for i in range(60)]
    path = write(new_folder(), "x.tsv", ["sentence\tlabel", *lines, "new\t", "new\t"])
    rows = list(read_rows(path))
    held_out = list(augment.read_dev(path, None))
    for start in range(0, 60, 10):
        assert len(set(held_out) & set(rows[start:start + 10])) == 1
    assert {row.label for row in held_out} == {"0", "1"}  # although the classes alternate
    assert list(augment.read_train(path, None)) == [row for row in rows if row not in held_out]
    dev = write(new_folder(), "y.tsv", ["sentence\tlabel", "d\t1", "not labelled\t"])
    assert list(augment.read_dev(path, dev)) == list(read_rows(dev))[:1]
    assert list(augment.read_train(path, dev)) == rows


def test_text_is_split_into_lower_case_words_as_in_the_penn_treebank():
    for text, words in [
            ("It's.  Don't [MASK]! don’t've", "it 's . do n't [MASK] ! do n't 've"), (" \t ", ""),
            ("I'm he'd she'll we've they're", "i 'm he 'd she 'll we 've they 're"),
            ("Mr. Smith, J. R. etc. (good)", "mr. smith , j. r. etc. ( good )"),
            ("the U.S. Why? The end. Really.", "the u.s. why ? the end . really ."),
            ("\"quoted\" ``so, dogs' -- ol' '60s", "\" quoted \" `` so , dogs' -- ol' '60s"),
            ("2,500.50 1:30 $5, 50% a/b c-d- r&b", "2,500.50 1:30 $ 5 , 50 % a/b c-d- r&b"),
            ("wow!!! what?! wait... .. '' `", "wow !!! what ?! wait ... .. '' `"),
            ("[mask]'s ([MASK]).", "[MASK] 's ( [MASK] ) ."),
            ("so, " * 400, "so , " * 256)]:  # MAX_WORDS
        assert tokenize(text) == tokenize(words) == words.split()


# ---- augment.py: the part-of-speech tagger -------------------------------------------------------
def test_the_tagger_scores_the_features_of_words_and_finds_the_best_of_all_tag_sequences():
    assert augment.features("2,5") == ["0 ", "0 5", "0 ,5", "0 2,5", "2,5"]
    assert augment.features("'s") == ["- ", "- s", "- 's", "'s"]
    counts = {"words": {"the": {"D": 6}, "they": {"P": 5}, "fish": {"N": 4, "V": 4},
                        "barking": {"N": 2}, "swim": {"V": 4}},
              "following": {"EDGE": {"D": 3, "P": 5}, "D": {"N": 6}, "P": {"V": 5},
                            "N": {"EDGE": 4, "V": 3}, "V": {"D": 3, "EDGE": 4}}}
    tagger = augment.Tagger(write(new_folder(), "counts.json", json.dumps(counts)))
    prior = {"D": 6 / 25, "P": 5 / 25, "N": 6 / 25, "V": 8 / 25}
    assert abs(tagger.transition["D"]["N"] - 1000 * math.log((6 + prior["N"]) / 7)) < 0.6
    p = prior  # of "fish": its shape, its last 1, 2 and 3 letters, the word
    for tags in ["DPNNVV", "NV", "NV", "NV", "NNNNVVVV"]:
        p = {tag: (tags.count(tag) + p[tag]) / (len(tags) + 1) for tag in p}
    for tag, score in tagger.tag_scores("fish"):
        assert p[tag] > 0.1 and abs(score - 1000 * math.log(p[tag] / prior[tag])) < 0.6
    for words in itertools.product(["the", "they", "fish", "swim", "xing"], repeat=4):
        scores = {}
        for choice in itertools.product(*map(tagger.tag_scores, words)):
            path = ["EDGE", *[tag for tag, _ in choice], "EDGE"]
            steps = [tagger.transition[last][tag] for last, tag in zip(path, path[1:])]
            scores[tuple(path[1:-1])] = sum(steps) + sum(score for _, score in choice)
        assert scores[tuple(tagger.tag(list(words)))] == max(scores.values())
    assert tagger.tag(["they", "fish"]) == ["P", "V"] and tagger.tag(["the", "fish"]) == ["D", "N"]


def test_the_shipped_counts_tag_english_and_words_that_they_lack():
    for text, tags in [("the film was made by a director", "DT NN VBD VBN IN DT NN"), ("", ""),
                       ("the blorks were zumbling slowly", "DT NNS VBD VBG RB")]:
        assert augment.Tagger().tag(text.split()) == tags.split()


def test_a_treebank_becomes_the_taggers_counts():
    lines = ["# text = Don't stop", "1-2|Don't|_|_|_", "1|Do|do|AUX|VB", "2|n't|not|PART|RB",
             "2.1|unsaid|_|VERB|VBN", "3|stop|stop|VERB|VB", "", "1|Stop|stop|NOUN|NN",
             f"2|{'x' * 21}|x|X|ADD", ""]  # a word too long to be kept
    lines = [line.replace("|", "\t") + "\t_" * 5 * ("|" in line) for line in lines]
    plain = write(new_folder(), "x.conllu", lines)
    for path in (plain, write(new_folder(), "x.conllu.gz", gzip.compress(read(plain)))):
        assert call(augment, path, "--treebank", "a treebank", "-o", path + ".json")[0] == 0
        assert json.loads(read(path + ".json")) == {
            "source": "a treebank",
            "words": {"do": {"VB": 1}, "n't": {"RB": 1}, "stop": {"NN": 1, "VB": 1}},
            "following": {"EDGE": {"NN": 1, "VB": 1}, "NN": {"ADD": 1}, "ADD": {"EDGE": 1},
                          "RB": {"VB": 1}, "VB": {"EDGE": 1, "RB": 1}}}


# ---- bilstm.py: the network (figures 1 and 2) ----------------------------------------------------
NUMBERS = {MASK: 0, **{str(i): i for i in range(1, 40)}}  # the vocabulary of tiny_student


def some_rows(pair):
    """Nine rows of one text or two, each of 1 to 8 numbers, and their sides as token ids."""
    rng = Random(0)
    texts = [" ".join(rng.choices(list(NUMBERS)[1:], k=rng.randrange(1, 9))) for _ in range(18)]
    rows = list(zip(texts[:9], texts[9:])) if pair else [(text,) for text in texts[:9]]
    return rows, [encode_texts(side, NUMBERS) for side in zip(*rows)]


def lstm_by_hand(x, lstm):
    """An LSTM step by step, gates in PyTorch's order i, f, g, o: x (T, E) -> h (H,)"""
    w, u, b, c = lstm.parameters()
    h = cell = torch.zeros(lstm.hidden_size)
    for word in x:
        i, f, g, o = (w @ word + b + u @ h + c).chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        h = o.sigmoid() * cell.tanh()
    return h


@torch.no_grad()
def logits_by_hand(model, row):
    """Figures 1 and 2: a row of one text or two -> logits (C,)"""
    embeddings = torch.cat([model.trained.weight, model.frozen.weight], dim=1)
    h = []
    for text in row:
        x = embeddings[[NUMBERS[word] for word in text.split()]]
        backward = lstm_by_hand(x.flip(0), model.backward_lstm)  # reads the first word last
        h.append(torch.cat([lstm_by_hand(x, model.forward_lstm), backward]))
    if len(h) == 2:
        h += [h[0] * h[1], abs(h[0] - h[1])]
    h = model.fc.weight @ torch.cat(h) + model.fc.bias
    return model.output.weight @ h.clamp(min=0) + model.output.bias


def test_a_students_logits_are_those_of_figures_1_and_2_by_hand_whatever_the_padding():
    for pair in (False, True):  # one encoder for both sentences
        model = tiny_student(classes=3, pair=pair)
        rows, sides = some_rows(pair)
        expected = torch.stack([logits_by_hand(model, row) for row in rows])
        batch = bilstm.make_batch(sides, torch.arange(9), CPU)
        assert is_near(model(*batch).detach(), expected) and expected.std(dim=0).min() > 0.01
        assert not torch.equal(model.train()(*batch), model(*batch))  # dropout
        with mock.patch("bilstm.PREDICTION_BATCH", 4):
            assert is_near(bilstm.predict_logits(model, sides), expected)  # in the rows' order


# ---- bilstm.py: batches, word vectors ------------------------------------------------------------
def test_a_word_that_the_vocabulary_lacks_is_read_as_the_mask():
    texts = ["A zyzzyva film", "a [MASK] film", "", "film"]
    sentences = encode_texts(texts, {MASK: 0, "a": 1, "film": 2})
    (ids, lengths), = bilstm.make_batch([sentences], torch.tensor([3, 0, 2, 1]), CPU)
    assert ids.tolist() == [[2, 0, 0], [1, 0, 2], [0, 0, 0], [1, 0, 2]]
    assert lengths.tolist() == [1, 3, 1, 3]


def test_batches_of_training_are_random_and_each_is_of_similar_length():
    lengths = torch.tensor(Random(1).choices(range(1, 30), k=503))
    epochs = [bilstm.shuffled_batches(lengths, 10) for _ in range(2)]
    for batches in epochs:
        assert sorted(torch.cat(batches).tolist()) == list(range(503)) and len(batches) == 51
        assert sum(int(lengths[batch].max() - lengths[batch].min()) for batch in batches) <= 28
        longest = [int(lengths[batch].max()) for batch in batches]
        assert longest not in (sorted(longest), sorted(longest, reverse=True))
    first, second = ({frozenset(batch.tolist()) for batch in batches} for batches in epochs)
    assert len(first & second) < 5  # other neighbours in each epoch


def vector_files(order):
    head, text, binary = b"6 3\n", b"", []
    for word, v in order([("the", [0.5, -1.25, 3]), ("Film", [1, 2, 3]), ("film", [4, 5, 6]),
                          ("FILM", [7, 8, 9]), ("Paris", [0, 0, 8]), ("été", [-1, 2, 0.25])]):
        binary.append(word.encode() + b" " + np.array(v, "<f4").tobytes())
        text += f"{word} {' '.join(map(str, v))}\n".encode()
    files = [("glove.txt", text + b"film x.com 1 2 3\n"), ("word2vec.txt", head + text),
             ("fasttext.vec", (head + text).replace(b"\n", b" \n")),
             ("word2vec.bin", head + b"".join(binary)), ("lines.bin", head + b"\n".join(binary))]
    return files + [(name + ".gz", gzip.compress(content)) for name, content in files]


def test_vectors_are_read_from_every_format_and_refused_when_the_file_is_cut_short():
    expected = {"the": [0.5, -1.25, 3], "été": [-1, 2, 0.25], "film": [4, 5, 6], "paris": [0, 0, 8]}
    for name, content in vector_files(list) + vector_files(reversed):
        found = bilstm.read_vectors(write(new_folder(), name, content), {*expected, "absent"})
        assert {word: vector.tolist() for word, vector in found.items()} == expected, name
        with raises(UserError, name, "expected word vectors"):
            bilstm.read_vectors(write(new_folder(), name, content[:-8]), {*expected})


# ---- bilstm.py: the student's file, prediction ---------------------------------------------------
def saved_student(pair=False):
    student = bilstm.Student(tiny_student(pair=pair, seed=45), NUMBERS, ["no", "yes"])
    path = os.path.join(new_folder(), "x.student.pt")
    bilstm.save_student(path, student)
    return path, student


def test_a_malicious_pickle_in_place_of_a_student_executes_nothing():
    marker = os.path.join(new_folder(), "marker")
    plain = write(new_folder(), "plain.pt", pickle.dumps(Malicious(marker)))
    torch.save({"weights": {}, "vocabulary": Malicious(marker)}, plain + ".zip")
    for path in (plain, plain + ".zip"):
        expect_error(call(bilstm, path, stdin=b"a\n"), path)
    assert not os.path.exists(marker)
    pickle.loads(read(plain))
    assert os.path.exists(marker)  # so it is indeed malicious


def test_a_saved_student_reads_tsv_or_standard_input_and_prints_what_is_right_by_hand():
    for pair in (False, True):
        path, student = saved_student(pair)
        rows, _ = some_rows(pair)
        lines = []
        for row in rows:
            p, best = logits_by_hand(student.model, row).softmax(dim=0).max(dim=0)
            lines.append((student.classes[best], f"{p:.4f}", *row))
        found = bilstm.classify(student, rows if pair else [text for text, in rows])
        assert [(label, f"{p:.4f}") for label, p in found] == [line[:2] for line in lines]
        printed = "".join("\t".join(line) + "\n" for line in lines)
        typed = ["\t".join(row) for row in rows]
        tsv = write(new_folder(), "x.tsv", ["premise\thypothesis" if pair else "sentence", *typed])
        assert call(bilstm, path, tsv) == (0, printed, "")
        assert call(bilstm, path, stdin="\r\n".join(typed).encode()) == (0, printed, "")
        assert bilstm.classify(student, []) == []
        with raises(TypeError, "texts", "list of sentences"):
            bilstm.classify(student, "a fine film")
    with raises(TypeError, "a list of pairs"):
        bilstm.classify(student, [("one", "two", "three")])


def test_a_submission_answers_every_row_and_a_labelled_tsv_is_scored():
    path, student = saved_student()
    texts = ["", *[text for text, in some_rows(False)[0]]]
    labels = [label for label, _ in bilstm.classify(student, texts)]
    assert set(labels) == {"no", "yes"}
    gold = [labels[0], "-", "", *labels[3:-1], "neither"]  # the first two rows are invalid
    tsv = write(new_folder(), "x.tsv", ["sentence\tlabel", *map("\t".join, zip(texts, gold))])
    for arguments in ([], ["-o", tsv + ".out"]):
        assert "accuracy 0.8750 on 8 labelled rows\n" in call(bilstm, path, tsv, *arguments)[2]
    expected = [f"{i}\t{label}" for i, label in enumerate(labels)]
    assert read(tsv + ".out").decode().splitlines() == ["index\tprediction", *expected]


# ---- teacher_logits.py: BERT (§3.1) --------------------------------------------------------------
def teacher_says(folder, *rows):
    """The logits that the teacher in a folder gives to rows of one or two texts."""
    data = write(new_folder(), "x.tsv", ["sentence", "a film"])
    checkpoint = teacher_logits.read_checkpoint(folder)
    teacher = teacher_logits.load_teacher(checkpoint, data, ["0", "1"], CPU)
    rows = [augment.Row(texts, "", ()) for texts in rows]
    return teacher_logits.label_rows(teacher, rows)


def weights_of(folder):
    return torch.load(os.path.join(folder, "pytorch_model.bin"))


def with_weights(weights):
    folder = tiny_teacher(new_folder())
    torch.save(weights, os.path.join(folder, "pytorch_model.bin"))
    return folder


def token_ids(tokens):
    return [TINY_VOCABULARY.index(token) for token in tokens.split()]


def bert_by_hand(weights, ids, segments):
    """BERT's forward pass over one row in numpy, from its definition (Devlin et al. 2019)."""
    w = {name: weight.double().numpy() for name, weight in weights.items()}

    def linear(name, x):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * w[name + ".LayerNorm.weight"] + w[name + ".LayerNorm.bias"]

    e = "bert.embeddings."
    x = w[e + "word_embeddings.weight"][ids] + w[e + "token_type_embeddings.weight"][segments]
    x = norm("bert.embeddings", x + w[e + "position_embeddings.weight"][:len(ids)])
    for p in ("bert.encoder.layer.0.", "bert.encoder.layer.1."):
        q, k, v = (linear(p + "attention.self." + part, x) for part in ("query", "key", "value"))
        seen = []
        for head in (slice(0, 4), slice(4, 8)):
            scores = np.exp(q[:, head] @ k[:, head].T / math.sqrt(4))
            seen.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, head])
        attention = linear(p + "attention.output.dense", np.concatenate(seen, axis=1))
        x = norm(p + "attention.output", x + attention)
        inner = linear(p + "intermediate.dense", x)
        inner = inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2))) / 2
        x = norm(p + "output", x + linear(p + "output.dense", inner))
    return linear("classifier", np.tanh(linear("bert.pooler.dense", x[0])))


def test_bert_equals_a_forward_pass_in_numpy_whatever_the_padding():
    weights = {name: 2 * w for name, w in weights_of(tiny_teacher(new_folder())).items()}
    rows = {("a film",): ("[CLS] a film [SEP]", [0] * 4),
            ("fine , it is warm .",): ("[CLS] fine , it is warm . [SEP]", [0] * 8),
            ("a [MASK]", "cold"): ("[CLS] a [MASK] [SEP] cold [SEP]", [0, 0, 0, 0, 1, 1])}
    expected = [bert_by_hand(weights, token_ids(ids), segments) for ids, segments in rows.values()]
    for batch_size in (1, 3):  # each row alone; all in one batch, with padding
        with mock.patch("bilstm.PREDICTION_BATCH", batch_size):
            assert is_near(teacher_says(with_weights(weights), *rows), np.array(expected))


def test_wordpiece_cuts_text_as_worked_by_hand():
    vocabulary = [*TINY_VOCABULARY, "u", "##a", "中", *"$+<=>^`|~!…"]
    tokenizer = teacher_logits.WordPiece(vocabulary)
    for text, expected in [
            ("unaffable una", "un ##aff ##able un ##a"),  # the longest that fits, again and again
            ("unaffabl zebra film", "[UNK] [UNK] film"),  # the last letter fits nowhere
            ("The FILM's", "the film ' s"), ("Café cafe\u0301", "cafe cafe"),
            ("a中film", "a 中 film"), ("fi\x00l\u200bm\ufffd", "film"),
            ("a\u00a0film\u3000is\u2028fine", "a film is fine"),
            ("a$+<=>^`|~!…a", "a $ + < = > ^ ` | ~ ! … a"),
            ("a[MASK]film [CLS] [SEP] [PAD]", "a [MASK] film [CLS] [SEP] [PAD]"),
            ("a" * 100, "a" + " ##a" * 99), ("a" * 101, "[UNK]")]:
        ids = tokenizer.encode((text,))[0][1:-1]
        assert " ".join(vocabulary[i] for i in ids) == expected, text
    cased = teacher_logits.WordPiece([*TINY_VOCABULARY, "Paris"])
    assert cased.split_text("Café [MASK] PARIS") == ["Café", "[MASK]", "PARIS"]


def test_a_long_row_loses_tokens_of_its_longer_sentence_then_in_turns():
    tokenizer = teacher_logits.WordPiece(TINY_VOCABULARY, 512)
    warm, cold = token_ids("warm cold")
    for a, b, kept in [(10, 200, (10, 115)), (200, 10, (115, 10)), (90, 100, (62, 63)),
                       (100, 90, (63, 62)), (62, 63, (62, 63)), (200, 0, (125, 0))]:
        ids, segments = tokenizer.encode(("warm " * a, "cold " * b))
        assert (ids.count(warm), ids.count(cold), len(ids), len(segments)) == (*kept, 128, 128)
    ids, _ = teacher_logits.WordPiece(TINY_VOCABULARY, 64).encode(("cold " + "warm " * 99,))
    assert len(ids) == 64 and ids[1] == cold  # the end is cut off


def test_a_missing_extra_misshapen_or_malicious_weight_is_an_error_and_executes_nothing():
    weights = weights_of(tiny_teacher(new_folder()))
    missing = {name: w for name, w in weights.items() if name != "bert.pooler.dense.bias"}
    marker = os.path.join(new_folder(), "marker")
    for changes in ({}, {"bert.pooler.dense.bias": torch.zeros(3)}, {"x": Malicious(marker)},
                    {"bert.extra": torch.zeros(1), **weights}):
        with raises(UserError, "pytorch_model.bin"):
            teacher_says(with_weights({**missing, **changes}), ("a film",))
    assert not os.path.exists(marker)


# ---- teacher_logits.py: labelling ----------------------------------------------------------------
NLI = ["contradiction", "entailment", "neutral"]  # in our order; the outputs below have another
OUTPUTS = ["entailment", "neutral", "contradiction"]


def succeed(module, *arguments):
    """Run a script that must succeed -> stdout."""
    code, out, err = call(module, *arguments)
    assert code == 0, err
    return out


def test_text_label_and_logits_share_a_line_in_our_order_of_the_classes():
    folder = new_folder()
    rows = ["a film\tit is fine\tneutral", "cold\t[MASK] plot\tentailment", "it\twas\t"]
    data = write(folder, "p.transfer.tsv", ["sentence1\tsentence2\tlabel", *rows])
    teacher = tiny_teacher(new_folder(), classes=3)
    with mock.patch("teacher_logits.CHUNK", 2):
        succeed(teacher_logits, data, "--teacher", teacher, "--label-order", ",".join(OUTPUTS))
    header, *lines = read(folder, "p.logits.tsv").decode().splitlines()
    assert header.split("\t")[3:] == ["logit_" + name for name in NLI]
    for line, row, labelled in zip(lines, rows, read_rows(folder + "/p.logits.tsv"), strict=True):
        assert line.startswith(row + "\t") and "\t".join([*labelled.texts, labelled.label]) == row
        ids = teacher_logits.WordPiece(TINY_VOCABULARY).encode(labelled.texts)
        expected = bert_by_hand(weights_of(teacher), *ids)[[2, 0, 1]]
        assert is_near(labelled.logits, expected, 1e-4)


def test_outputs_are_named_by_config_or_the_labels():
    folder = new_folder()
    data = write(folder, "x.tsv", ["sentence\tlabel", "a\tneutral"])
    write(folder, "x.dev.tsv", ["sentence\tlabel", *(f"a\t{name}" for name in NLI)])
    for place, names, expected in [("/a", OUTPUTS, OUTPUTS),
                                   ("/b", ["LABEL_0", "LABEL_1", "LABEL_2"], NLI)]:
        teacher = tiny_teacher(folder + place, 3, id2label=dict(enumerate(names)))
        checkpoint = teacher_logits.read_checkpoint(teacher)
        loaded = teacher_logits.load_teacher(checkpoint, data, None, CPU)
        order = [expected.index(name) for name in NLI]
        weight = weights_of(teacher)["classifier.weight"][order]
        assert loaded.classes == NLI and is_near(loaded.model.classifier.weight.detach(), weight)


def test_a_teacher_no_better_than_the_most_frequent_class_is_refused_and_no_file_changes():
    folder = new_folder()
    data = write(folder, "x.tsv", ["sentence\tlabel", "warm\t1", "dull\t0"])
    labels = ["sentence\tlabel", "warm\t1", "fine\t1", "great\t1", "dull\t0", "cold\t0"]
    write(folder, "x.dev.tsv", labels)
    weights = weights_of(tiny_teacher(new_folder()))
    weights["classifier.weight"].zero_()
    weights["classifier.bias"] = torch.tensor([2.0, -1.0])  # all rows are of the first class
    command = [data, "--teacher", with_weights(weights), "--fresh"]
    write(folder, "x.logits.tsv", "of another teacher")
    write(folder, "x.dev.logits.tsv", "of another teacher")
    files = snapshot(folder)
    for module, accuracy, *order in [(teacher_logits, 0.6, "--label-order", "1, 0"),
                                     (teacher_logits, 0.4), (distill, 0.4)]:
        result = call(module, *command, *order)
        expect_error(result, "no better than the majority-class baseline", "--label-order")
        assert f"accuracy {accuracy}000 on 5 dev rows" in result[1]
        assert "baseline 0.6000" in result[1] and snapshot(folder) == files


# ---- teacher_logits.py: fine-tuning (§4) ---------------------------------------------------------
ENCODER = tiny_teacher(new_folder(), classes=0, hidden_size=64, num_hidden_layers=1)


@lru_cache
def good_teacher():
    """A teacher that was fine-tuned on made-up reviews."""
    data = reviews_with_dev(new_folder(), rows=300)
    succeed(teacher_logits, data, "--fine-tune", "--teacher", ENCODER, "--lr", 0.01,
            "--epochs", 6, "--device", "cpu")
    return data.replace("x.tsv", "x.teacher")


def test_an_encoder_is_fine_tuned_at_each_rate_without_the_held_out_rows_and_its_best_epoch_kept():
    lines = [f"film\t{'' if i % 3 == 2 else i % 2}\t{i}\t0" for i in range(30)]
    data = write(new_folder(), "x.tsv", ["sentence\tlabel\tlogit_0\tlogit_1", *lines])
    held_out = [12, 25]  # of the labelled rows 0, 1, 3, 4, 6, 7, ...
    seen = []

    def train_epoch(model, optimizer, sides, targets, lr, epoch, epochs):
        assert targets[:, 0].tolist() == [i for i in range(30) if i not in held_out]
        seen.append((type(optimizer), lr, float(model.classifier.bias[0])))
        model.classifier.bias.data += 1
        return 0.0

    scores = [0.5, 0.6, 0.7, 0.6, 0.9, 0.8, 0.9] + [0.5] * 5
    evaluate = mock.Mock(side_effect=[{"acc": score} for score in scores])
    with mock.patch.multiple(teacher_logits, train_epoch=train_epoch, evaluate=evaluate,
                             check_teacher=mock.Mock()), \
            mock.patch("teacher_logits.label_rows", wraps=teacher_logits.label_rows) as dev:
        succeed(teacher_logits, data, "--teacher", ENCODER)
    rates = [2e-5, 3e-5, 4e-5, 5e-5]
    assert seen == [(torch.optim.Adam, lr, epoch) for lr in rates for epoch in range(3)]
    assert weights_of(data[:-4] + ".teacher")["classifier.bias"].tolist() == [2, 2]
    assert [row.logits[0] for row in dev.call_args_list[0].args[1]] == held_out


def test_fine_tuning_on_logits_takes_their_squared_distance_at_a_rate_that_rises_and_falls():
    folder = tiny_teacher(new_folder())
    model = teacher_logits.build(teacher_logits.read_checkpoint(folder), 2)
    rates, norms = [], []

    class Recorder(torch.optim.Adam):
        def step(self):
            rates.append(self.param_groups[0]["lr"])
            norms.append(sum(float(p.grad.square().sum()) for p in model.parameters()))

    sides = [[token_ids("[CLS] warm [SEP]")] * 20, [[0, 0, 0]] * 20]
    targets, optimizer = torch.tensor([[50.0, -9.0]] * 20), Recorder(model.parameters())
    expected = float((teacher_says(folder, ("warm",)) - targets[:1]).square().sum())
    with mock.patch.multiple(teacher_logits, DROPOUT=0.0, FINE_TUNING_BATCH=2):
        for epoch in (0, 1):
            loss = teacher_logits.train_epoch(model, optimizer, sides, targets, 0.9, epoch, 2)
            assert abs(loss / expected - 1) < 1e-5
    assert is_near(rates, [0.45, 0.9, *np.linspace(0.9, 0.05, 18)], 1e-6)  # 2 steps up, 18 down
    assert is_near(norms, [1.0] * 20, 1e-3)  # clipped


# ---- teacher_logits.py: downloads ----------------------------------------------------------------
@contextlib.contextmanager
def web_server(folder):
    """Serve a folder as the hub and as GLUE; -> torch.hub's cache, empty at first."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, cache = f"http://127.0.0.1:{server.server_port}", new_folder()
        with mock.patch("torch.hub.get_dir", lambda: cache), mock.patch("builtins.print"), \
                mock.patch.object(handler.func, "log_message"), \
                mock.patch.dict(os.environ, HF_ENDPOINT=url, no_proxy="127.0.0.1"), \
                mock.patch("distill.GLUE_URL", url + "/"):
            yield cache
        server.shutdown()


def test_a_teacher_is_fetched_once_whole_into_the_cache_in_either_form_with_old_or_new_names():
    hub, rest = new_folder(), "/resolve/main"
    weights = weights_of(tiny_teacher(hub + "/some/old" + rest))
    new = tiny_teacher(hub + "/some/new" + rest)
    os.remove(new + "/pytorch_model.bin")
    write(new, "model.safetensors", safetensors(weights))
    old = {"cls.predictions.bias": torch.zeros(3), "embeddings.position_ids": torch.arange(64)}
    for name, weight in weights.items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").removeprefix("bert.")
        old[name.replace("LayerNorm.bias", "LayerNorm.beta")] = weight
    torch.save(old, hub + "/some/old" + rest + "/pytorch_model.bin")
    cut = tiny_teacher(hub + "/cut/one" + rest)
    write(cut, "pytorch_model.bin", read(cut, "pytorch_model.bin")[:-40])
    with web_server(hub) as cache:
        for name in ("../../x", "a/..", "../x", "/etc/x", "a/b/c", "a", ".a/b", "a/b\n", "ä/b", ""):
            with raises(UserError, "no such folder; expected one, or owner/name on the hub"):
                teacher_logits.fetch_teacher(name)
        for name in ("no/such", "cut/one"):
            with raises(UserError, name):
                teacher_logits.fetch_teacher(name)
        assert snapshot(cache) == {}
        error = HTTPError("", 503, "busy", {}, None)
        busy = mock.patch("torch.hub.download_url_to_file", side_effect=error)
        with busy, raises(UserError, "503"):
            teacher_logits.fetch_teacher("some/new")
        folders = [teacher_logits.fetch_teacher(name).folder for name in ("some/old", "some/new")]
        os.rename(hub + "/some", hub + "/gone")
        assert teacher_logits.fetch_teacher("some/new").folder == folders[1]
    for folder in folders:
        expected = teacher_says(with_weights(weights), ("a fine film",))
        assert torch.equal(teacher_says(folder, ("a fine film",)), expected)


def fetch_sst2(folder, damage=(b"", b"")):
    """Fetch sst2.tsv with its dev and test set, a row each, from an archive as GLUE has it."""
    served = new_folder()
    with zipfile.ZipFile(served + "/SST-2.zip", "w") as z:
        for part in ("train", "dev", "test"):
            z.writestr(f"SST-2/{part}.tsv", f"sentence\tlabel\n{part}\t1\n")
    archive = read(served, "SST-2.zip")
    write(served, "SST-2.zip", archive.replace(*damage))
    entry = ("SST-2.zip", hashlib.sha256(archive).hexdigest(), distill.GLUE["sst2"][2])
    with mock.patch.dict(distill.GLUE, sst2=entry), web_server(served):
        distill.fetch_glue(folder + "/sst2.tsv")


def test_glue_is_fetched_whole_after_an_interruption_too_and_never_over_a_file():
    folder = new_folder()
    with raises(UserError, "SST-2.zip"):
        fetch_sst2(folder, damage=(b"train", b"tram!"))
    assert snapshot(folder) == {}
    with stop_after(1), raises(KeyboardInterrupt):
        fetch_sst2(folder)
    fetch_sst2(folder)
    for ending, part in ((".tsv", "train"), (".dev.tsv", "dev"), (".test.tsv", "test")):
        assert read(folder, "sst2" + ending).decode() == f"sentence\tlabel\n{part}\t1\n"
    for mine, absent in (("sst2.tsv", "sst2.dev.tsv"), ("sst2.dev.tsv", "sst2.tsv")):
        write(folder, mine, "mine")
        os.remove(os.path.join(folder, absent))
        fetch_sst2(folder)
        assert read(folder, mine) == b"mine"


# ---- distill.py: loss, optimizer, embeddings (§3.2, §4.2) ----------------------------------------
def test_the_loss_is_equation_3_worked_by_hand():
    # The student's probabilities are 3/4 and 1/4. Row 1 keeps its label 0 although its teacher
    # prefers 1: cross-entropy ln 4/3, squared distance 0 + 4. Row 2 has no label, and its teacher's
    # argmax is 1: cross-entropy ln 4, squared distance 1 + 4.
    ln3 = math.log(3)
    student = torch.tensor([[ln3, 0.0], [ln3, 0.0]], requires_grad=True)
    teacher = torch.tensor([[ln3, 2.0], [ln3 - 1, 2.0]])
    labels = torch.tensor([0, -1])
    hard = (math.log(4 / 3) + math.log(4)) / 2
    for alpha, expected in ((0, 4.5), (1, hard), (0.3, 0.3 * hard + 0.7 * 4.5)):
        assert is_near(distill.distillation_loss(student, teacher, labels, alpha), expected)
    distill.distillation_loss(student, teacher, labels, 0).backward()
    assert is_near(student.grad, 2 * (student.detach() - teacher) / 2)  # 2 (s - t) / B
    assert is_near(distill.distillation_loss(student[:1], None, labels[:1], 1), math.log(4 / 3))
    for row, alpha in ((slice(0, 1), 0.3), (slice(1, 2), 1)):
        with raises(ValueError):
            distill.distillation_loss(student[row], None, labels[row], alpha)


def test_the_optimizer_is_adadelta_with_rate_1_and_rho_095_also_for_words_absent_for_long():
    ours, theirs, start = tiny_student(), tiny_student(), tiny_student()
    dense = torch.optim.Adadelta([p for p in theirs.parameters() if p.requires_grad], 1.0, 0.95)
    pairs = [(ours, distill.make_optimizer(ours)), (theirs, dense)]
    for step in range(200):
        ids = torch.randint(40 if step % 60 == 0 or step > 170 else 20, (4, 3))
        for model, optimizer in pairs:
            optimizer.zero_grad()
            (model((ids, torch.tensor([3, 3, 2, 1]))) - 1).square().mean().backward()
            optimizer.step()
    for name, weight in ours.state_dict().items():
        assert is_near(weight, theirs.state_dict()[name], 1e-5), name
        assert torch.equal(weight, start.state_dict()[name]) == (name == "frozen.weight"), name


def test_words_of_dev_and_test_need_a_vector_and_words_without_one_are_within_a_quarter():
    folder = new_folder()
    path = write(folder, "v.txt", ["film 1 2", "mild 3 4", "unused 5 6"])
    write(folder, "x.test.tsv", ["sentence", "mild novel"])
    other_words = distill.words_of_stem(write(folder, "x.tsv", ["sentence", "a film"]))
    assert other_words == {"a", "film", "mild", "novel"}
    vocabulary = {MASK: 0, "warm": 1, "film": 2, "a": 3}
    with mock.patch("builtins.print"):
        vectors = distill.add_vectors(path, vocabulary, other_words)
    assert vocabulary == {MASK: 0, "warm": 1, "film": 2, "a": 3, "mild": 4}
    embeddings = distill.make_embeddings(vocabulary, vectors, seed=0)
    assert embeddings[[2, 4]].tolist() == [[1, 2], [3, 4]] and embeddings[3].abs().max() <= 0.25
    embeddings = distill.make_embeddings({str(i): i for i in range(2000)}, {}, seed=1)
    assert embeddings.shape == (2000, 300) and 0.2499 < embeddings.abs().max() <= 0.25
    assert is_near(embeddings.std(), 0.5 / math.sqrt(12), 1e-3)  # uniform


def test_accuracy_and_f1_of_class_1_are_those_worked_by_hand():
    for guesses, labels, expected in [  # of class 1 two are right, three guessed, three there
            ([1, 1, 1, 0, 0], [1, 1, 0, 1, 0], {"acc": 3 / 5, "f1": 2 * 2 / (3 + 3)}),
            ([2, 1, 0], [2, 0, 0], {"acc": 2 / 3}), ([0, 1], [0, 0], {"acc": 1 / 2, "f1": 0})]:
        scores = bilstm.evaluate(torch.eye(max(guesses) + 1)[guesses], torch.tensor(labels))
        assert scores.keys() == expected.keys()
        assert is_near(list(scores.values()), list(expected.values()))


# ---- distill.py: training and the whole run ------------------------------------------------------
def train_with(accuracies, *arguments):
    """Train a student whose dev accuracies are these -> its bytes, the accuracies it prints."""
    folder = new_folder()
    with mock.patch("distill.evaluate", side_effect=[{"acc": acc} for acc in accuracies]):
        out = succeed(distill, *small_run(folder), *arguments)
    return read(folder, "x.student.pt"), re.findall(r"^epoch.* acc (\S+) .*", out, re.M)


def test_the_best_epoch_is_saved_patience_ends_the_run_and_a_seed_gives_the_same_bytes():
    best, _ = train_with([0.5, 0.9], "--epochs", 2)
    saved, log = train_with([0.5, 0.9, 0.7, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8])
    assert saved == best and log == ["0.5000", "0.9000", "0.7000", "0.9000", *["0.8000"] * 3]
    assert best != train_with([0.5, 0.9], "--epochs", 2, "--seed", 1)[0]
    with mock.patch("distill.shuffled_batches", wraps=bilstm.shuffled_batches) as batches, \
            mock.patch("torch.manual_seed", wraps=torch.manual_seed) as manual_seed:
        train_with([0.5, 0.9], "--epochs", 2)
    assert batches.call_count == 2 and len(set(map(str, manual_seed.call_args_list))) == 3


def test_a_run_resumes_with_its_best_student_unless_rows_or_settings_have_changed():
    folder = new_folder()
    student = [*small_run(folder), "--epochs", 2]
    teacher = [student[0], "--fine-tune", "--teacher", ENCODER, "--lr", 0.01, "--epochs", 2]
    for module, command in ((distill, student), (teacher_logits, teacher)):
        for changed in (None, "seed", "rows"):
            with mock.patch(module.__name__ + ".evaluate") as evaluate:
                evaluate.side_effect = [{"acc": 0.9}, KeyboardInterrupt]
                assert call(module, *command)[0] == 130
                best = snapshot(folder)
                if changed == "rows":
                    for name in ("x.tsv", "x.logits.tsv"):
                        write(folder, name, reviews(70, len(module.__name__)))
                evaluate.side_effect = [{"acc": 0.5}] * 2
                out = succeed(module, *command, *(["--seed", 1] if changed == "seed" else []))
            is_resumed = "resuming from" in out and not re.search("epoch +1 .*loss", out)
            assert is_resumed == (not changed), out
            if is_resumed and module == distill:
                assert snapshot(folder)["x.student.pt"] == best["x.student.pt"]
            shutil.rmtree(folder + "/x.teacher", ignore_errors=True)


def test_the_defaults_are_the_papers_with_963_002_parameters_and_two_channels_alike_at_first():
    folder = new_folder()
    with mock.patch("distill.train", return_value=(1, {"acc": 0.5})) as train, \
            mock.patch("os.remove"):
        succeed(distill, *small_run(folder)[:3])
        succeed(distill, folder + "/p.tsv", "--alpha", 1)
    single, pair = (called.args for called in train.call_args_list)
    model = single[0].model
    assert model.dropout.p == 0.1 and torch.equal(model.trained.weight, model.frozen.weight)
    assert model.num_parameters() == 963_002
    assert BiLSTM(torch.zeros(10, 300), 2, 300, 400).num_parameters() == 2_406_002
    assert single[3:5] == ((0.0, 150, 200, 50, 30, 5, 0), folder + "/x")
    assert pair[3:5] == ((1.0, 150, 200, 256, 30, 5, 0), folder + "/p.hard")
    assert len(pair[1].labels) == 36 and len(pair[2][""].labels) == 4  # a tenth is held out


def test_the_loss_gets_alpha_and_each_rows_own_label_and_logits():
    seen = []

    def loss(logits, teacher_logits, labels, alpha):
        seen.extend((alpha, int(y), float(t[1])) for y, t in zip(labels, teacher_logits))
        return logits.sum()

    arguments = small_run(new_folder())
    with mock.patch("distill.distillation_loss", loss):
        succeed(distill, *arguments, "--epochs", 1, "--alpha", 0.25)
    rows = [(0.25, int(row.label or -1), row.logits[1]) for row in read_rows(arguments[2])]
    assert is_near(sorted(seen), sorted(rows)) and len(seen) == 64


def test_pairs_run_on_hard_labels_and_report_the_mismatched_dev_set():
    folder, header = new_folder(), "sentence1\tsentence2\tgold_label"
    rows = ["a\ta\tneutral", "a\tb\tentailment", "b\tb\tneutral", "b\ta\tentailment"] * 5
    data = write(folder, "m.tsv", [header, *rows, "a\tdash\t-", "a\tunlabelled\t"])
    write(folder, "m.dev.tsv", [header, *rows])
    write(folder, "m.dev-mm.tsv", [header, rows[0]])
    out = succeed(distill, data, "--alpha", 1, *SMALL, "--epochs", 1)
    assert re.search(r"epoch  1 .* dev acc \d\.\d+  f1 \d\.\d+  mm-acc [01]\.0000  mm-f1", out)
    student = bilstm.load_student(folder + "/m.hard.student.pt", "cpu")
    assert student.classes == NLI[1:] and student.vocabulary.keys() == {MASK, "a", "b"}


def test_the_whole_run_augments_labels_distills_and_then_uses_the_files_that_exist():
    folder = new_folder()
    again = [reviews_with_dev(folder), *SMALL, "--epochs", 1, "--table1"]
    first = [*again, "--n-iter", 2, "--teacher", good_teacher()]
    out = succeed(distill, *first)
    files = snapshot(folder)
    assert len(files) == 7 and "x.student.pt" in files and "x.hard.student.pt" in files
    transfer = files["x.transfer.tsv"].decode()
    assert transfer.startswith(files["x.tsv"].decode()) and 60 < transfer.count("\n") <= 121
    assert files["x.logits.tsv"].count(b"\n") == transfer.count("\n")
    dev = list(read_rows(folder + "/x.dev.logits.tsv"))
    accuracy = np.mean([int(row.label) == np.argmax(row.logits) for row in dev])
    assert accuracy > 0.9  # fine-tuning has learned the rule
    expected = teacher_says(good_teacher(), *(row.texts for row in dev))
    assert is_near([row.logits for row in dev], expected, 1e-4)
    assert re.search(rf"\nteacher +{100 * accuracy:.1f}\n6 .* \d+\.\d\n7 .* \d+\.\d\n", out)
    succeed(distill, *again[:-1], "--alpha", 1)  # row 7 by itself: the same student
    assert read(folder, "x.hard.student.pt") == files["x.hard.student.pt"]
    mine = write(folder, "x.logits.tsv", reviews(64, 1, unlabelled=24))
    assert f"using existing {mine}" in succeed(distill, *again, "--n-iter", 3, "--teacher", "other")
    succeed(distill, *first, "--fresh")
    assert files.items() <= snapshot(folder).items()
    write(folder, "x.dev.tsv", reviews(30, 2, logits=False))  # other dev rows
    assert re.search(r"\nteacher +not known", succeed(distill, *again))
    for rows in (reviews(30, 2, logits=False), reviews(40, 1, logits=False)[:-1]):
        write(folder, "x.tsv", rows)  # other rows; a row less
        expect_error(call(distill, *again), "x.logits.tsv", "its original rows are not those of")


def test_table_1_has_the_papers_column_for_its_own_tasks_only():
    scores = {"acc": 0.7, "f1": 0.6, "mm-acc": 0.5}
    for task, expected in [("sst2", "70.0 90.7"), ("qqp", "60.0/70.0 68.2/88.1"),
                           ("mnli", "70.0/50.0 73.0/72.6"), ("other", "70.0")]:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            distill.print_table1(f"no/{task}.tsv", f"no/{task}.logits.tsv", scores, scores)
        _, _, teacher, distilled, _ = out.getvalue().splitlines()
        assert "not known" in teacher and ("93.5" in teacher) == (task == "sst2")
        assert distilled.split() == ["6", "distilled", "BiLSTM", *expected.split()]


def test_table_2_compares_bert_large_with_a_student_of_963_002_parameters():
    def small_bert(config, classes):
        assert (config["hidden_size"], config["num_hidden_layers"]) == (1024, 24)
        sizes = {"max_position_embeddings": 128, "vocab_size": config["vocab_size"]}
        return teacher_logits.Bert({**TINY_CONFIG, **sizes}, classes)

    with mock.patch("distill.Bert", small_bert):
        out = succeed(distill, reviews_with_dev(new_folder()), "--table2", "--device", "cpu")
    bert, student, ratio = (line.split() for line in out.splitlines()[-3:])
    assert student[1] == "963,002" and "0.96M," in student and "335M," in bert
    assert int(ratio[1]) == round(int(bert[1].replace(",", "")) / 963_002)


# ---- Bad input -----------------------------------------------------------------------------------
def snapshot(folder):
    """name -> bytes of all files in a folder."""
    files = {}
    for where, _, names in os.walk(folder):
        for path in [os.path.join(where, name) for name in names]:
            files[os.path.relpath(path, folder)] = read(path)
    return files


HEADER, LOGITS = "sentence\tlabel\n", "sentence\tlabel\tlogit_0\tlogit_1\n"
MISFIT = read(tiny_teacher(new_folder(), hidden_size=16), "pytorch_model.bin")
ROBERTA = json.dumps({**TINY_CONFIG, "model_type": "roberta"})
ONE_CLASS = HEADER + "a\t1\n" * 20
HARD, TUNE = "x.tsv --alpha 1", "x.tsv --fine-tune --teacher bert"
BERT = "x.tsv -o y.tsv --teacher bert"
A, B, T, D = augment, bilstm, teacher_logits, distill
BAD_INPUT = [  # script, arguments, a file: its bad contents (or arguments), what the error says
    (A, "x.tsv", "x.tsv", {
        "": "line 1: expected the names of columns", HEADER: "no usable rows",
        "text\n": "found 1: text", "sentence,label\n": "found 1: sentence,label",
        HEADER + "a\tb\t1\n": "line 2",
        HEADER.encode() + b"\xfc\t1\n": "line 2: expected text in UTF-8", None: "No such file"}),
    (T, BERT, "bert/config.json", {None: "No such file", "{": "", ROBERTA: "model_type roberta"}),
    (T, BERT, "bert/vocab.txt", {None: "No such file", "a\n": "1 tokens", b"\xff": ""}),
    (T, BERT, "bert/pytorch_model.bin", {None: "No such file", "text": "damaged", MISFIT: ""}),
    (T, BERT, "bert/model.safetensors", {"": "", "text": ""}),
    (T, TUNE, "x.tsv", {ONE_CLASS: "two classes"}),
    (T, TUNE, "x.dev.tsv", {"sentence\na\n": "labelled dev rows"}),
    (D, HARD, "x.tsv", {ONE_CLASS: "two classes", "sentence\na\n": "no label column"}),
    (D, HARD, "x.dev.tsv", {"sentence\na\n": "no labelled rows", ONE_CLASS.replace("1", "2"): "'2'",
                            "sentence1\tsentence2\tlabel\na\tb\t1\n": ""}),
    (D, "x.tsv --logits x.logits.tsv", "x.training.pt", {"": "damaged", "text": "damaged"}),
    (D, "p.tsv --alpha 1", "p.dev.tsv", {ONE_CLASS: ""}),
    (D, "y.tsv --alpha 1", "y.tsv", {HEADER + "a\t1\nb\t0\n": "or ten in y.tsv"}),
    (D, "x.tsv --logits y.tsv", "y.tsv", {
        None: "No such file", HEADER + "a\t1\n": "expected columns logit_0, logit_1",
        LOGITS + "a\t1\t0\tnan\n": "line 2: expected a finite", LOGITS + "a\t2\t0\t1\n": "'2'",
        LOGITS + "a\t1\t0\tinf\n": "a finite", LOGITS + "a\t1\t0\thigh\n": "a finite",
        LOGITS.replace("_1", "_2") + "a\t2\t0\t1\n": "unknown label '1'"}),
    (D, HARD + " --vectors v.txt", "v.txt", {None: "No such file", "z 1 2\n": "no vectors",
                                            "film 1 b\n": "", "film 1 2\nplot 3\n": "truncated"}),
    (D, HARD + " --vectors v.bin", "v.bin", {b"1 2\nfilm " + bytes(7): "truncated"}),
    (A, "", "", {"bert": "bert: Is a directory", "x.tsv --p-ng 2": "--p-ng", "x.tsv -o x.tsv": "-o",
                 "x.tsv --p-mask 0.6 --p-pos 0.6": "--p-mask", "x.tsv --treebank W -o y": "x.tsv"}),
    (B, "", "", {"none.pt x.tsv": "none.pt: No such file", "x.tsv": "x.tsv: damaged",
                 "bert/pytorch_model.bin": "a student that distill.py saved",
                 "x.student.pt p.tsv": "this student expects single", "x.student.pt -o y": "-o",
                 "x.student.pt x.tsv -o x.tsv": "-o"}),
    (T, "", "", {"x.tsv -o y.tsv --teacher none": "--teacher none: no such folder",
                 TUNE + " --lr x": "--lr", TUNE + " --fresh": "--fine-tune",
                 "x.tsv --teacher bert -o none/y.tsv": "none: no such folder",
                 BERT + " --label-order 1": "2 outputs", BERT + " --label-order 0,b": "0, b"}),
    (D, "", "", {"x.csv": "save a .csv", "x.dev.tsv": "STEM.tsv", "p.tsv --teacher z": "z: no such",
                 **{f"{HARD} --{flag}": "--" + flag.split()[0] for flag in [
        "alpha 1.5", "alpha nan", "alpha x", "n-iter 2", "teacher bert", "hidden 0", "fc 1.5",
        "batch-size 0", "epochs 0", "seed -1", "device toaster", "nonsense"]}})]


def test_bad_input_is_one_line_that_names_it_and_no_file_changes():
    base, before = new_folder(), os.getcwd()
    succeed(distill, *small_run(base), "--epochs", 1)
    tiny_teacher(base + "/bert")
    for module, arguments, file, faults in BAD_INPUT:
        for fault, expected in faults.items():
            folder = shutil.copytree(base, os.path.join(new_folder(), "copy"))
            if file:
                write(folder, file, fault or "")
            if fault is None:
                os.remove(os.path.join(folder, file))
            files = snapshot(folder)
            os.chdir(folder)
            try:
                result = call(module, *(arguments or fault).split())
            finally:
                os.chdir(before)
            expect_error(result, file, expected)
            assert snapshot(folder) == files, (arguments, fault)


# ---- Interruptions -------------------------------------------------------------------------------
def stop_after(step):
    """Stop, as Ctrl-C does, when file number `step` has been moved into place."""
    steps = itertools.count(1)

    def replace(source, target, real=os.replace):
        real(source, target)
        if next(steps) == step:
            raise KeyboardInterrupt

    return mock.patch("os.replace", replace)


def test_a_file_changes_only_when_the_new_one_is_complete():
    path = write(new_folder(), "x", "old")
    with raises(KeyboardInterrupt), augment.atomic_write(path) as f:
        f.write("half")
        raise KeyboardInterrupt
    assert read(path) == b"old" and os.listdir(os.path.dirname(path)) == ["x"]
    with augment.atomic_write(path) as f:
        f.write("new" * 9999)
        assert read(path) == b"old"
    assert read(path) == b"new" * 9999 and os.listdir(os.path.dirname(path)) == ["x"]


def test_a_run_stopped_with_ctrl_c_after_any_step_and_started_again_ends_with_the_same_bytes():
    rising = mock.Mock(side_effect=({"acc": n} for n in itertools.count()))  # the last is the best
    for module, *arguments in [
            (teacher_logits, "--fine-tune", "--teacher", ENCODER, "--lr", 1e-3, 0.01, "--epochs", 2,
             "--device", "cpu"), (distill, "--alpha", 1, "--epochs", 3, *SMALL),
            (distill, "--n-iter", 1, "--teacher", good_teacher(), "--table1", *SMALL, "--epochs", 1)
    ]:
        for step in itertools.count():  # step 0 is not interrupted, nor is a step beyond the last
            folder = new_folder()
            command = [reviews_with_dev(folder), *arguments]
            with mock.patch.multiple(teacher_logits, CHUNK=16, evaluate=rising):
                with stop_after(step):
                    code, _, err = call(module, *command)
                if code != 0:
                    assert code == 130 and err.endswith("\nstopped: what is finished is kept\n")
                    succeed(module, *command)
            if step == 0:
                expected = snapshot(folder)
            assert snapshot(folder) == expected, (arguments, step)
            if step > 0 and code == 0:
                break
        assert step > 5


TORCHRUN = """
import os, teacher_logits
def atomic_write(path, real=teacher_logits.atomic_write):
    if "KILLED" in os.environ and path.endswith("-000003.tsv"):
        os._exit(9)
    print(f"process {os.environ['RANK']} {path[-10:]}\\n", end="", flush=True)
    return real(path)
teacher_logits.CHUNK, teacher_logits.atomic_write = 8, atomic_write
teacher_logits.main()
"""


def test_finished_chunks_are_used_again_but_not_those_of_another_teacher():
    folder = new_folder()
    data = write(folder, "x.tsv", reviews(30, 1, unlabelled=30, logits=False))
    one = tiny_teacher(folder + "/one", id2label={"0": "0", "1": "1"})
    other = tiny_teacher(folder + "/other", hidden_size=16, id2label={"0": "0", "1": "1"})
    with mock.patch("teacher_logits.CHUNK", 8):
        with stop_after(2):
            assert call(teacher_logits, data, "--teacher", one)[0] == 130
        succeed(teacher_logits, data, "--teacher", other)
        succeed(teacher_logits, data, "--teacher", other, "-o", folder + "/again.tsv")
    assert read(folder, "x.logits.tsv") == read(folder, "again.tsv")


def test_two_processes_share_a_labelling_and_one_of_them_may_be_killed():
    folder = new_folder()
    data = write(folder, "x.transfer.tsv", reviews(50, 1, unlabelled=50, logits=False))
    teacher = tiny_teacher(folder + "/bert", id2label={"0": "0", "1": "1"})
    arguments = [data, "--teacher", teacher, "--device", "cpu", "-o"]
    with mock.patch("teacher_logits.CHUNK", 8):
        succeed(teacher_logits, *arguments, folder + "/one.tsv")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               write(folder, "script.py", TORCHRUN), *arguments, folder + "/two.tsv"]
    killed = subprocess.run(command, env={**ENV, "KILLED": ""}, capture_output=True)
    assert killed.returncode == 1 and b"process 1 000001.tsv" in killed.stdout
    assert not os.path.exists(folder + "/two.tsv")
    done = subprocess.run(command, env=ENV, capture_output=True)
    assert done.returncode == 0 and b"000001.tsv" not in done.stdout, done.stderr
    assert read(folder, "one.tsv") == read(folder, "two.tsv")


# ---- The repository ------------------------------------------------------------------------------
SCRIPTS = ["augment", "bilstm", "teacher_logits", "distill"]


def test_imports_go_one_way_and_beyond_the_standard_library_to_numpy_and_torch_only():
    for i, script in enumerate(SCRIPTS):
        allowed = {*sys.stdlib_module_names, *SCRIPTS[:i], *(["numpy", "torch"] if i else [])}
        for node in ast.walk(ast.parse(read(HERE, script + ".py"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                _, name, *_ = ast.unparse(node).split()
                assert name.split(".")[0] in allowed, (script, name)
    assert re.findall(r"^\w+", read(HERE, "requirements.txt").decode(), re.M) == ["numpy", "torch"]


def test_the_commands_in_the_readme_name_files_and_flags_that_exist():
    text = read(HERE, "README.md").decode()
    flags = {"test_all.py": set()}
    for script in SCRIPTS:
        text += sys.modules[script].__doc__
        help_text = succeed(sys.modules[script], "--help")
        flags[script + ".py"] = set(re.findall(r"(?<!\S)--?[a-z][\w-]*", help_text))
    for script, arguments in re.findall(r"(?:python|torchrun .*?) (\w+\.py)([^\n`#&|]*)", text):
        assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", arguments)) <= flags[script], arguments
    for name in re.findall(r"\]\(([\w.]+)\)", text):
        assert os.path.exists(os.path.join(HERE, name)), name


def readme_section(heading):
    return read(HERE, "README.md").decode().split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_each_function_of_the_coursework_fails_its_tests_when_it_is_blank():
    rows = re.findall(r"\| \d \| [\d.]+ h \| (.+) \| (.+) \|", readme_section("Coursework"))
    assert len(rows) == 5
    blank = NotImplementedError
    for functions, words in rows:
        for name in re.findall(r"`(.+?)`", functions):
            for word in re.findall(r"`(.+?)`", words):
                tests = [test for test in globals() if test.startswith("test_") and word in test]
                with mock.patch(name, side_effect=blank), raises(blank):
                    for test in tests:
                        globals()[test]()
                if name not in ("augment.augment_row", "augment.sample_ngram"):
                    break


def test_the_python_example_of_the_readme_runs_as_printed():
    folder = new_folder()
    succeed(distill, *small_run(folder), "--epochs", 1, "-o", os.path.join(folder, "sample"))
    code = re.search(r"```python\n(.+?)```", readme_section("Try it"), re.S)[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, env=ENV)
    assert done.returncode == 0, done.stderr
    assert re.match(rb"\[\('[01]', 0\.\d+\), \('[01]', 0\.\d+\)\]\n\['", done.stdout), done.stdout


# ---- The runner ----------------------------------------------------------------------------------
def main():
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return
    tests = {name: test for name, test in globals().items() if name.startswith("test_")}
    chosen = [name for name in tests if not words or any(word in name for word in words)]
    failed = 0
    for name in chosen:
        sentence = name.removeprefix("test_").replace("_", " ")
        try:
            tests[name]()
            print(f"passed {sentence}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {sentence}\n{traceback.format_exc()}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    sys.exit(failed > 0 or not chosen)


if __name__ == "__main__":
    main()
