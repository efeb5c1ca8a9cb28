"""The specification: each test's name is the sentence that it proves.

    python test_all.py mask loss    # without words all tests, else those whose names have one
"""
import contextlib
import gzip
import hashlib
import http.server
import io
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
import unittest
import zipfile
import zlib
from functools import partial
from pathlib import Path
from random import Random
from unittest import mock

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for bilstm.DEVICE: the tests run on the CPU
import numpy as np
import torch

import augment
import bilstm
import distill
import teacher_logits
from augment import MASK, Rates, Row, UserError, read_rows, tokenize
from bilstm import BiLSTM, encode_row
from data import make_pos_scores
from teacher_logits import SPECIAL, WordPiece

HERE = os.path.dirname(os.path.abspath(augment.__file__))
TEMPORARY = tempfile.TemporaryDirectory()  # removed when the tests have ended
torch.set_num_threads(1)
raises = unittest.TestCase().assertRaisesRegex  # with raises(UserError, "what it says"):


def new_folder():
    return tempfile.mkdtemp(dir=TEMPORARY.name)


def write(path, content):
    if isinstance(content, list):
        content = "\n".join(content) + "\n"
    Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(*path):
    return Path(*path).read_bytes()


def snapshot(folder):
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def call(module, *args, stdin="", error=None):
    """Run a script; returns what it prints. With `error`, its last words must contain this."""
    argv = [module.__name__ + ".py", *map(str, args)]
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    message = None
    lines = io.TextIOWrapper(io.BytesIO(stdin.encode()))
    with mock.patch.multiple(sys, argv=argv, stdin=lines, stdout=out, stderr=out):
        try:
            augment.run(module.main)
        except SystemExit as stop:
            message = stop.code  # what sys.exit prints, or 2 after argparse has printed the usage
    printed = out.buffer.getvalue().decode()
    if error is None:
        assert not message, message
    else:
        assert re.fullmatch("error: .*|stopped|2", str(message)), message
        assert error in (printed if message == 2 else message), (message, error)
    return printed


def assert_near(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def stop_after(step):
    def replace(source, target, real=os.replace, steps=itertools.count(1)):
        real(source, target)
        if next(steps) == step:
            raise KeyboardInterrupt
    return mock.patch("os.replace", replace)


def reviews(n, seed, columns=2, labelled=1000):
    """Lines of a TSV: n made-up reviews that can be learned. With four columns it has logits."""
    rng = Random(seed)
    lines = ["\t".join(["sentence", "label", "logit_0", "logit_1"][:columns])]
    for i in range(n):
        label = rng.randrange(2)
        words = rng.choices([["dull", "cold", "weak"], ["warm", "fine", "great"]][label], k=2)
        words += rng.choices("the a film plot it is was , and".split(), k=rng.randrange(7))
        x = rng.uniform(1, 3) * (2 * label - 1)
        cells = [" ".join(words), str(label) if i < labelled else "", f"{-x:.4f}", f"{x:.4f}"]
        lines.append("\t".join(cells[:columns]))
    return lines


def small_run(rows=40):
    """Write x.tsv, x.dev.tsv, x.logits.tsv (24 more rows) -> folder, arguments of distill.py."""
    folder = new_folder()
    write(f"{folder}/x.dev.tsv", reviews(20, 2))
    write(f"{folder}/x.logits.tsv", reviews(rows + 24, 1, columns=4, labelled=rows))
    return folder, [write(f"{folder}/x.tsv", reviews(rows, 1)), *SMALL]


SMALL = ["--hidden", 8, "--fc", 8, "--batch-size", 8]  # a student that is trained fast
WORDS = {MASK: 0, **{str(i): i for i in range(1, 40)}}  # the vocabulary of tiny_student
TOKENS = [*SPECIAL, *"warm fine great dull cold weak the a film plot it is was , and un ##aff "
          "##able cafe ' s . Paris".split()]
CONFIG = {"vocab_size": len(TOKENS), "hidden_size": 8, "num_hidden_layers": 2,
          "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 128}


def tiny_teacher(folder=None, classes=2, **config):
    folder = folder or new_folder()
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(0)
    model = teacher_logits.Bert({**teacher_logits.DEFAULTS, **CONFIG, **config}, classes)
    weights = {name: torch.randn_like(weight) * 0.3 for name, weight in model.state_dict().items()}
    torch.save(weights, f"{folder}/pytorch_model.bin")
    write(f"{folder}/config.json", json.dumps({**CONFIG, **config}))
    write(f"{folder}/vocab.txt", TOKENS)
    return folder


def teacher_says(folder, *rows):
    """The logits that the teacher in a folder gives to rows, each a tuple of one or two texts."""
    teacher = teacher_logits.load_checkpoint(folder)
    return teacher_logits.label_rows(teacher, [Row(texts, "", {}) for texts in rows])


TEN = "zero one two three four five six seven eight nine".split()
TAGGED = list(zip(TEN, "ABCDEFGHIJ"))
UPPER = {tag: [word.upper()] for word, tag in TAGGED}  # one replacement for each tag
TEXTS = ["A  fine Film ", "a dull plot", "i like the film", "the plot is dull", "a dull plot",
         "it 's a charming journey .", "film", "nobody laughs", "the actors laugh loudly"]
SINGLES = ["sentence\tlabel", *(f"{text}\t1" for text in TEXTS)]
PAIRS = ["sentence1\tsentence2\tlabel", *map("\t".join, zip(TEXTS, TEXTS[3:], "abcdef"))]
WORD_TAGS = {"the": {"D": 6}, "they": {"P": 5}, "fish": {"N": 4, "V": 4}, "barking": {"N": 2},
             "swim": {"V": 4}}
NEXT_TAGS = {"EDGE": {"D": 3, "P": 5}, "D": {"N": 6}, "P": {"V": 5}, "N": {"EDGE": 4, "V": 3},
             "V": {"D": 3, "EDGE": 4}}


def assert_shares(draws, expected):
    """Each outcome is drawn about as often as expected, within four standard errors."""
    assert set(draws) <= expected.keys()
    for outcome, p in expected.items():
        assert abs(draws.count(outcome) / len(draws) - p) <= 4 * math.sqrt(p * (1 - p) / len(draws))


def test_a_word_is_masked_with_p_mask_and_replaced_with_p_pos_by_frequency_within_its_tag():
    rng = Random(0)
    for p_mask, p_pos in [(0.1, 0.1), (0.3, 0.05), (0.5, 0.5), (0, 0.2), (0.2, 0)]:
        rates = Rates(p_mask, p_pos, 0)
        rows = [augment.mask_or_replace(TAGGED, rates, UPPER, rng) for _ in range(2000)]
        for word, drawn in zip(TEN, zip(*rows)):
            assert_shares(drawn, {MASK: p_mask, word.upper(): p_pos, word: 1 - p_mask - p_pos})
    corpus = {"NN": ["film"] * 60 + ["plot"] * 25 + ["actor"] * 10 + ["score"] * 5, "VB": ["see"]}
    drawn = [augment.same_tag_word("NN", corpus, rng) for _ in range(10000)]
    assert_shares(drawn, {"film": 0.6, "plot": 0.25, "actor": 0.1, "score": 0.05})


def test_the_n_of_an_n_gram_is_uniform_from_1_to_5_and_each_start_is_as_likely():
    for length in (1, 2, 3, 5, 6, 9):  # in a short sentence n is uniform up to its length
        rng = Random(length)
        drawn = [tuple(augment.sample_ngram(TEN[:length], rng)) for _ in range(10000)]
        expected = {}
        for n in range(1, min(5, length) + 1):
            for start in range(length - n + 1):  # the last word is within reach
                expected[tuple(TEN[start:start + n])] = 1 / min(5, length) / (length - n + 1)
        assert_shares(drawn, expected)


def test_an_n_gram_is_kept_with_p_ng_and_a_pair_is_altered_first_second_then_both():
    rng = Random(0)
    rows = [augment.augment_row([TAGGED], 0, Rates(1, 0, 0.25), {}, rng) for _ in range(4000)]
    assert_shares([row != [[MASK] * 10] for row in rows], {True: 0.25, False: 0.75})
    assert {len(words) for words, in rows} == {1, 2, 3, 4, 5, 10}
    row = [[("a", "A")], [("b", "B")]]
    corpus = {"A": ["x"], "B": ["y"]}
    found = [augment.augment_row(row, i, Rates(0, 1, 0), corpus, rng) for i in range(6)]
    assert found == [[["x"], ["b"]], [["a"], ["y"]], [["x"], ["y"]]] * 2
    both = [augment.augment_row([TAGGED] * 2, 2, Rates(0, 0, 0.5), {}, rng) for _ in range(99)]
    assert len({(first == TEN, second == TEN) for first, second in both}) == 4


def transfer_set(lines, *args):
    folder = new_folder()
    write(f"{folder}/x.dev.tsv", lines)
    call(augment, write(f"{folder}/x.tsv", lines), *args)
    return read(f"{folder}/x.transfer.tsv").decode().removesuffix("\n").split("\n")


def test_the_rows_come_first_as_they_are_then_new_rows_without_a_label_and_no_row_twice():
    for lines in (SINGLES, PAIRS):
        made = transfer_set(lines, "--n-iter", 100)
        new = made[len(lines):]
        assert made[:len(lines)] == lines == transfer_set(lines, "--n-iter", 0)
        assert len(set(new)) == len(new) > 100
        originals = [line.lower().split("\t")[:-1] for line in [*lines, "a fine film\t"]]
        for line in new:
            *texts, label = line.split("\t")
            assert label == "" and len(texts) == len(originals[0]) and texts not in originals


def test_the_defaults_are_the_papers_rates_and_n_iter_20_or_10_for_pairs_and_a_seed_gives_one_set():
    rates = "--p-mask 0.1 --p-pos 0.1 --p-ng 0.25 --seed 0".split()
    for lines, n_iter in [(SINGLES, 20), (PAIRS, 10)]:
        made = transfer_set(lines)
        assert made == transfer_set(lines, *rates, "--n-iter", n_iter)
        for option in ("--p-mask", "--p-pos", "--p-ng", "--seed", "--n-iter"):
            assert made != transfer_set(lines, option, 1)
    made = transfer_set(SINGLES, "--p-mask", 0, "--p-pos", 1, "--p-ng", 0)
    assert set(" ".join(made).lower().split()) == set(" ".join(SINGLES).lower().split())


def test_columns_are_found_by_names_in_any_case_whatever_the_line_ends_and_a_dash_is_no_label():
    for header, line, texts, label, logits in [
            ("Sentence|LABEL", "A b|1 ", "A b", "1", {}), ("sentence|label", "a|-", "a", "", {}),
            ("sentence|label", "a|-1", "a", "-1", {}), ("hypothesis|premise", "b|a", "a|b", "", {}),
            ("sentence1|sentence2|label1|gold_label", "a|b|no|yes", "a|b", "yes", {}),
            ("id|question1|question2|is_duplicate", '7|"""Bo|"Bo"?|1', '"""Bo|"Bo"?', "1", {}),
            ("Quality|#1 ID|#1 String|#2 String", "0|1|a|b", "a|b", "0", {}),
            ("index|question|sentence|label", "0|a|b|entailment", "a|b", "entailment", {}),
            ("logit_10|sentence|Logit_9", "-1|\u2028é|2e-1", "\u2028é", "", {"9": 0.2, "10": -1})]:
        plain = f"{header}\n{line}\n".replace("|", "\t").encode()
        crlf = b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n")  # with a byte order mark
        for content in (plain, plain[:-1], crlf, crlf[:-2]):
            rows = list(read_rows(write(f"{new_folder()}/x.tsv", content)))
            assert rows == [(tuple(texts.split("|")), label, logits)], header


def test_a_few_broken_lines_are_skipped_and_counted_but_more_than_one_in_a_hundred_is_an_error():
    lines = ["question1\tquestion2\tlabel", "a\tb\t1", "a", "c\t1", *["a\tb\t1"] * 298]
    path = write(f"{new_folder()}/x.tsv", lines)
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert len(list(read_rows(path))) == 299
    assert re.search(r"x.tsv, line 3: .*\b3 .*\b2,.*\b299\b", err.getvalue())
    with raises(UserError, r"x.tsv, line 3: .*\b4,.*\b299\b"):
        list(read_rows(write(path, [*lines, "d", "e"])))


def test_a_tenth_of_the_labelled_rows_is_held_out_neither_augmented_nor_trained_on():
    folder = new_folder()
    lines = [f"w{i} x y z\t{i % 2}" for i in range(60)]
    data = write(f"{folder}/x.tsv", ["sentence\tlabel", *lines])
    dev = [row.texts[0] for row in augment.read_dev(data)]
    assert dev == [line[:-2] for line in lines if zlib.crc32(line[:-2].encode()) % 10 == 0] != []
    call(augment, data)
    synthetic = read(f"{folder}/x.transfer.tsv").decode().split("\n", 61)[61].split()
    call(distill, data, "--alpha", 1, *SMALL, "--epochs", 1)
    vocabulary = bilstm.load_student(f"{folder}/x.hard.student.pt").vocabulary
    for i in range(60):
        assert (f"w{i}" in synthetic) == (f"w{i}" in vocabulary) == (f"w{i} x y z" not in dev)


def test_text_is_split_into_lower_case_words_as_in_the_penn_treebank():
    for text, words in [
            ("It's.  Don't [MASK]! don’t've", "it 's . do n't [MASK] ! do n't 've"), (" \t ", ""),
            ("Mr. Smith, J. R. etc. (good)", "mr. smith , j. r. etc. ( good )"),
            ("the U.S. Why? \"quoted\" ``so, dogs'", "the u.s. why ? \" quoted \" `` so , dogs'"),
            ("2,500.50 1:30 $5, 50% a/b c-d- r&b", "2,500.50 1:30 $ 5 , 50 % a/b c-d- r&b"),
            ("wow!!! what?! wait... .. '' -- '60s", "wow !!! what ?! wait ... .. '' -- '60s"),
            ("[mask]'s ([MASK]).", "[MASK] 's ( [MASK] ) ."), ("so, " * 400, "so , " * 256)]:
        assert tokenize(text) == tokenize(words) == words.split()


def test_the_tagger_smooths_its_counts_as_by_hand_and_finds_the_best_of_all_tag_sequences():
    tables = make_pos_scores.estimate(WORD_TAGS, NEXT_TAGS)
    tagger = augment.Tagger(write(f"{new_folder()}/scores.json", json.dumps(tables)))
    prior = {"D": 6 / 25, "P": 5 / 25, "N": 6 / 25, "V": 8 / 25}
    assert abs(tagger.transition["D"]["N"] - 1000 * math.log((6 + prior["N"]) / 7)) < 0.6
    p = prior
    for tags in ["DPNNVV", "NV", "NV", "NV", "NNNNVVVV"]:  # shape, 1, 2, 3 letters, "fish" itself
        p = {tag: (tags.count(tag) + p[tag]) / (len(tags) + 1) for tag in p}
    expected = {tag: round(1000 * math.log(p[tag] / prior[tag])) for tag in "NV"}
    assert tagger.scores_of("fish") == expected  # without D and P, which are below MIN_RATIO
    for words in itertools.product(["the", "they", "fish", "swim", "xing"], repeat=3):
        totals = {}
        for choice in itertools.product(*(tagger.scores_of(word).items() for word in words)):
            tags = ["EDGE", *(tag for tag, _ in choice), "EDGE"]
            steps = [tagger.transition[last][tag] for last, tag in zip(tags, tags[1:])]
            totals[tuple(tags[1:-1])] = sum(steps) + sum(score for _, score in choice)
        _, found = zip(*tagger.tag(" ".join(words)))
        assert totals[found] == max(totals.values())
    _, tags = zip(*augment.Tagger().tag("the blorks were zumbling slowly"))  # the shipped tables
    assert tags == ("DT", "NNS", "VBD", "VBG", "RB")


def tiny_student(classes=2, pair=False):
    torch.manual_seed(45)
    model = BiLSTM(torch.randn(40, 6), classes, hidden=5, fc=7, pair=pair)
    model.trained.weight.data.add_(torch.randn(40, 6))
    return model.eval()


def some_texts(pair):
    rng = Random(0)
    texts = [" ".join(rng.choices(list(WORDS)[1:], k=rng.randrange(1, 9))) for _ in range(16)]
    texts = ["", "1 zyzzyva 2", *texts]
    return list(zip(texts[:9], texts[9:]) if pair else zip(texts[:9]))


def lstm_by_hand(x, lstm):
    """An LSTM step by step, with gates in the order i, f, g, o: x (T, E) -> h (H,)"""
    w, u, b, c = lstm.parameters()
    h = cell = torch.zeros(lstm.hidden_size)
    for word in x:
        i, f, g, o = (w @ word + b + u @ h + c).chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        h = o.sigmoid() * cell.tanh()
    return h


@torch.no_grad()
def logits_by_hand(model, row):
    embeddings = torch.cat([model.trained.weight, model.frozen.weight], dim=1)
    h = []
    for text in row:
        x = embeddings[[WORDS.get(word, 0) for word in text.split() or [MASK]]]
        backward = lstm_by_hand(x.flip(0), model.backward_lstm)  # reads the first word last
        h.append(torch.cat([lstm_by_hand(x, model.forward_lstm), backward]))
    if len(h) == 2:
        h += [h[0] * h[1], abs(h[0] - h[1])]
    h = model.fc.weight @ torch.cat(h) + model.fc.bias
    return model.output.weight @ h.clamp(min=0) + model.output.bias


def test_logits_are_those_of_figures_1_and_2_by_hand_and_no_or_an_unknown_word_is_the_mask():
    for pair in (False, True):  # one encoder for both sentences
        model = tiny_student(classes=3, pair=pair)
        expected = torch.stack([logits_by_hand(model, texts) for texts in some_texts(pair)])
        rows = [encode_row(texts, WORDS) for texts in some_texts(pair)]
        batch = bilstm.collate(rows)  # with padding
        assert_near(model(*batch).data, expected)
        with mock.patch("bilstm.PREDICTION_BATCH", 4):
            assert_near(bilstm.predict_logits(model, rows), expected)  # in the rows' order
        model.train()
        assert not torch.equal(model(*batch), model(*batch))  # dropout, in training only


def test_vectors_are_read_from_every_format_and_a_truncated_file_is_refused():
    vectors = [("the", [0.5, -1.25, 3]), ("Film", [1, 2, 3]), ("film", [4, 5, 6]),
               ("FILM", [7, 8, 9]), ("Paris", [0, 0, 8]), ("été", [-1, 2, 0.25])]
    text = "".join(f"{word} {' '.join(map(str, v))}\n" for word, v in vectors).encode()
    binary = [word.encode() + b" " + np.array(v, "<f4").tobytes() for word, v in vectors]
    files = {"glove.txt": text + b"film x.com 1 2 3\n", "word2vec.txt": b"6 3\n" + text,
             "fasttext.vec": b"6 3 \n" + text.replace(b"\n", b" \n"),
             "a.bin": b"6 3\n" + b"".join(binary), "b.bin": b"6 3\n" + b"\n".join(binary)}
    files |= {name + ".gz": gzip.compress(content) for name, content in files.items()}
    for name, content in files.items():
        path = write(f"{new_folder()}/{name}", content)
        found = bilstm.read_vectors(path, {"the", "film", "paris", "été", "absent"})
        assert {word: vector.tolist() for word, vector in found.items()} == {
            "the": [0.5, -1.25, 3], "film": [4, 5, 6], "paris": [0, 0, 8], "été": [-1, 2, 0.25]}
        with raises(UserError, f"{name}.*; expected word vectors"):
            bilstm.read_vectors(write(path, content[:-8]), {"the", "film", "paris", "été"})


def saved_student(pair=False):
    student = bilstm.Student(tiny_student(pair=pair), WORDS, ["no", "yes"])
    path = f"{new_folder()}/x.student.pt"
    bilstm.save_student(path, student)
    return path, student


def test_a_saved_student_classifies_from_python_a_tsv_and_standard_input():
    for pair, header in [(False, "sentence"), (True, "premise\thypothesis")]:
        path, student = saved_student(pair)
        printed = ""
        for row in some_texts(pair):
            p, best = logits_by_hand(student.model, row).softmax(dim=0).max(dim=0)
            printed += "\t".join([student.classes[best], f"{p:.4f}", *row]) + "\n"
        typed = ["\t".join(row) for row in some_texts(pair)]
        assert call(bilstm, path, write(f"{new_folder()}/x.tsv", [header, *typed])) == printed
        assert call(bilstm, path, stdin="\r\n".join(typed)) == printed
        label, p = bilstm.classify(bilstm.load_student(path), some_texts(pair))[0]
        assert printed.startswith(f"{label}\t{p:.4f}\t")


def test_a_submission_answers_every_row_and_labelled_rows_are_scored():
    path, student = saved_student()
    labels = [label for label, _ in bilstm.classify(student, some_texts(False))]
    lines = [f"{text}\t{label}" for (text,), label in zip(some_texts(False), ["-", *labels[1:]])]
    tsv = write(f"{new_folder()}/x.tsv", ["sentence\tlabel", *lines, "a\tneither"])
    assert call(bilstm, path, tsv, "-o", tsv + ".out") == "accuracy 0.8889 on 9 labelled rows\n"
    header, *answers = read(tsv + ".out").decode().splitlines()
    assert header == "index\tprediction" and len(answers) == 10
    assert answers[:9] == [f"{i}\t{label}" for i, label in enumerate(labels)]


def bert_by_hand(folder, tokens, segments):
    """BERT's forward pass over one row in numpy, from its definition (Devlin et al. 2019)."""
    w = bilstm.load(f"{folder}/pytorch_model.bin")
    w = {name.removeprefix("bert."): weight.double().numpy() for name, weight in w.items()}

    def linear(name, x):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * w[name + ".LayerNorm.weight"] + w[name + ".LayerNorm.bias"]

    ids = [TOKENS.index(token) for token in tokens.split()]
    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][:len(ids)]
    x = norm("embeddings", x + w["embeddings.token_type_embeddings.weight"][segments])
    for p in ("encoder.layer.0.", "encoder.layer.1."):
        q, k, v = (linear(p + "attention.self." + part, x) for part in ("query", "key", "value"))
        heads = []
        for head in (slice(0, 4), slice(4, 8)):
            scores = np.exp(q[:, head] @ k[:, head].T / math.sqrt(4))
            heads.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, head])
        h = linear(p + "attention.output.dense", np.concatenate(heads, axis=1))
        x = norm(p + "attention.output", x + h)
        h = linear(p + "intermediate.dense", x)
        h = h * (1 + np.vectorize(math.erf)(h / math.sqrt(2))) / 2
        x = norm(p + "output", x + linear(p + "output.dense", h))
    return linear("classifier", np.tanh(linear("pooler.dense", x[0])))


def test_bert_equals_a_forward_pass_in_numpy_whatever_the_padding():
    folder = tiny_teacher()
    rows = [(("a film",), "[CLS] a film [SEP]", [0] * 4),  # texts, tokens, segments
            (("fine, it is warm.",), "[CLS] fine , it is warm . [SEP]", [0] * 8),
            (("a [MASK]", "cold"), "[CLS] a [MASK] [SEP] cold [SEP]", [0, 0, 0, 0, 1, 1])]
    expected = np.array([bert_by_hand(folder, *row[1:]) for row in rows])
    for batch_size in (1, 3):  # each row alone; all in one batch, with padding
        with mock.patch("bilstm.PREDICTION_BATCH", batch_size):
            assert_near(teacher_says(folder, *(row[0] for row in rows)), expected)


def test_wordpiece_cuts_text_as_worked_by_hand_and_a_long_row_loses_the_end_of_its_longer_text():
    vocabulary = [*TOKENS, "u", "##a", "中", *"$+<=>^`|~!…"]
    for text, expected in [
            ("unaffable una", "un ##aff ##able un ##a"),  # the longest that fits, again and again
            ("unaffabl zebra film", "[UNK] [UNK] film"),  # the last letter fits nowhere
            ("The FILM's Café cafe\u0301", "the film ' s cafe cafe"),
            ("a\u00a0film\u3000is\u2028fine a中fi\x00l\u200bm\ufffd", "a film is fine a 中 film"),
            ("a$+<=>^`|~!…a", "a $ + < = > ^ ` | ~ ! … a"),
            ("a[MASK]film [CLS] [SEP] [PAD]", "a [MASK] film [CLS] [SEP] [PAD]"),
            ("a" * 100 + " " + "a" * 101, "a" + " ##a" * 99 + " [UNK]")]:
        ids, _ = WordPiece(vocabulary, True, 512).encode((text,))
        assert " ".join(vocabulary[i] for i in ids[1:-1]) == expected, text
    assert WordPiece(vocabulary, False, 512).split_text("Café PARIS") == ["Café", "PARIS"]  # cased
    for a, b, kept in [(10, 200, [10]), (200, 10, [115]), (90, 100, [62, 63]), (62, 63, [62])]:
        ids, segments = WordPiece(TOKENS, True, 512).encode(("warm " * a, "cold " * b))
        assert len(ids) == len(segments) == 128 and ids.count(TOKENS.index("warm")) in kept


def test_tokenizer_config_decides_about_case_and_without_it_the_vocabulary():
    folder = tiny_teacher()
    for token, settings, uncased in [
            ("paris", "{}", True), ("paris", '{"do_lower_case": false}', False),
            ("Paris", "{}", False), ("<URL>", '{"do_lower_case": true}', True)]:
        write(f"{folder}/vocab.txt", [*TOKENS[:-1], token])
        write(f"{folder}/tokenizer_config.json", settings)
        assert teacher_logits.load_checkpoint(folder).tokenizer.uncased == uncased


def safetensors(weights):
    header = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, w in weights.items():
        dtype = {torch.float32: "F32", torch.bfloat16: "BF16"}[w.dtype]
        content = w.contiguous().view(torch.uint8).numpy().tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": list(w.shape), "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_a_teacher_in_any_form_new_or_of_2019_or_saved_again_gives_the_same_logits():
    folder = tiny_teacher()
    row = ("a fine Paris film",)
    expected = teacher_says(folder, row)
    teacher = teacher_logits.load_checkpoint(folder)._replace(classes=["no", "yes"])
    teacher_logits.save_teacher(f"{folder}/saved", teacher)
    assert torch.equal(teacher_says(f"{folder}/saved", row), expected)
    old = {"cls.predictions.bias": torch.zeros(3), "embeddings.position_ids": torch.ones(1, 64)}
    for name, weight in bilstm.load(f"{folder}/pytorch_model.bin").items():
        name = name.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma")
        old[name.replace("LayerNorm.bias", "LayerNorm.beta")] = weight
    torch.save(old, f"{folder}/pytorch_model.bin")
    assert torch.equal(teacher_says(folder, row), expected)
    os.remove(f"{folder}/vocab.txt")
    vocabulary = {token: i for i, token in reversed(list(enumerate(TOKENS)))}
    write(f"{folder}/tokenizer.json", json.dumps({"model": {"vocab": vocabulary}}))
    write(f"{folder}/model.safetensors", safetensors(old))
    assert torch.equal(teacher_says(folder, row), expected)
    small = {"w": torch.tensor([1.5, -2], dtype=torch.bfloat16)}
    path = write(f"{folder}/small", safetensors(small))
    assert torch.equal(teacher_logits.read_safetensors(path)["w"], small["w"])


def test_text_and_logits_share_a_line_also_if_labelling_was_stopped_after_any_chunk():
    folder = tiny_teacher()
    data = write(f"{folder}/x.tsv", reviews(30, 1, labelled=0))
    with mock.patch("teacher_logits.CHUNK", 8):
        call(teacher_logits, data, "--teacher", folder)
        rows = list(read_rows(f"{folder}/x.logits.tsv"))
        assert [row.texts for row in rows] == [row.texts for row in read_rows(data)]
        expected = teacher_says(folder, *(row.texts for row in rows))
        assert_near([list(row.logits.values()) for row in rows], expected, 1e-4)
        files = snapshot(folder)
        for step in range(1, 5):
            os.remove(f"{folder}/x.logits.tsv")
            with stop_after(step):
                call(teacher_logits, data, "--teacher", folder, error="stopped")
            with mock.patch("teacher_logits.label_rows", wraps=teacher_logits.label_rows) as label:
                assert f"using {step} of 4" in call(teacher_logits, data, "--teacher", folder)
            assert label.call_count == 4 - step and snapshot(folder) == files
        again = [data, "-o", f"{folder}/y", "--teacher"]
        with stop_after(2):
            call(teacher_logits, *again, tiny_teacher(hidden_size=16), error="stopped")
        call(teacher_logits, *again, folder)  # does not use the other's chunks
        assert read(f"{folder}/y") == files[f"{folder}/x.logits.tsv"]


def test_the_outputs_stand_for_id2labels_names_or_the_labels_of_the_rows_or_numbers():
    for names, labels, expected in [
            (["pos", "neg"], ["neg", "pos"], "pos neg"), (["neg", "pos"], ["1", "0"], "0 1"),
            (["neg", "pos"], ["a", "b", "c"], "neg pos"), (["LABEL_0", "LABEL_1"], [], "0 1"),
            (["LABEL_0", "LABEL_1"], ["b", "a"], "a b"), ([], [], "0 1"), ([0, 1], [], "0 1")]:
        config = {"id2label": {str(i): names[i] for i in reversed(range(len(names)))}}
        assert teacher_logits.class_names(config, set(labels), 2) == expected.split()


TORCHRUN = """
import os, teacher_logits
def label_rows(teacher, rows, real=teacher_logits.label_rows):
    return os._exit(9) if rows[0].texts[0] == os.getenv("KILLED") else real(teacher, rows)
teacher_logits.CHUNK, teacher_logits.label_rows = 8, label_rows
teacher_logits.main()
"""


def test_two_processes_share_a_labelling_and_one_of_them_may_be_killed():
    folder = tiny_teacher()
    data = write(f"{folder}/x.transfer.tsv", ["sentence", *map(str, range(50))])
    with mock.patch("teacher_logits.CHUNK", 8):
        call(teacher_logits, data, "--teacher", folder, "-o", f"{folder}/one.tsv")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               write(f"{folder}/script.py", TORCHRUN), data, "--teacher", folder,
               "-o", f"{folder}/two.tsv"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": HERE}
    killed = subprocess.run(command, env={**env, "KILLED": "24"}, capture_output=True)
    assert killed.returncode == 1 and list(Path(folder).rglob("000001.tsv")), killed.stderr
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    assert read(f"{folder}/one.tsv") == read(f"{folder}/two.tsv")


@contextlib.contextmanager
def web_server(folder):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        glue = mock.patch("augment.urlopen", lambda address, real=augment.urlopen, **options:
                          real(f"{url}/{os.path.basename(address)}", **options))
        quiet = mock.patch.object(http.server.SimpleHTTPRequestHandler, "log_message")
        with glue, quiet, mock.patch.dict(os.environ, HF_ENDPOINT=url, no_proxy="127.0.0.1"):
            yield
        server.shutdown()


def test_a_teacher_is_fetched_from_the_hub_once_into_the_cache():
    hub = new_folder()
    expected = teacher_says(tiny_teacher(f"{hub}/some/bert/resolve/main"), ("a fine film",))
    with mock.patch("torch.hub.get_dir", return_value=new_folder()):
        with web_server(hub):
            folder = teacher_logits.fetch("some/bert")
        assert teacher_logits.fetch("some/bert") == folder  # there is no server now
        assert torch.equal(teacher_says(folder, ("a fine film",)), expected)


def test_glue_is_fetched_whole_its_sha256_is_checked_and_nothing_is_overwritten():
    served = new_folder()
    with zipfile.ZipFile(f"{served}/MNLI.zip", "w") as z:
        for part in ("train", "dev_matched", "dev_mismatched", "test_matched"):
            z.writestr(f"MNLI/{part}.tsv", f"sentence\tlabel\n{part}\t1\n")
    sha256 = hashlib.sha256(read(f"{served}/MNLI.zip")).hexdigest()
    data = f"{new_folder()}/mnli.tsv"
    with web_server(served):
        call(augment, data, error="MNLI.zip: its sha256")
        with mock.patch.dict(augment.GLUE, mnli=("MNLI.zip", sha256)):
            with stop_after(1):
                call(augment, data, error="stopped")
            test_path = write(data.replace(".tsv", ".test.tsv"), "mine")
            call(augment, data)
    for ending, part in [("", "train"), (".dev", "dev_matched"), (".dev-mm", "dev_mismatched")]:
        assert part in read(data.replace(".tsv", f"{ending}.tsv")).decode()
    assert read(test_path) == b"mine"


def test_the_loss_is_equation_3_worked_by_hand():
    # The student's probabilities are 3/4 and 1/4. Row 1 has label 0: cross-entropy ln 4/3, squared
    # distance 0 + 4. Row 2 has none, and its teacher's argmax is 1: ln 4 and 1 + 4.
    ln3 = math.log(3)
    student = torch.tensor([[ln3, 0.0], [ln3, 0.0]])
    teacher = torch.tensor([[ln3, 2.0], [ln3 - 1, 2.0]])
    hard = (math.log(4 / 3) + math.log(4)) / 2
    for alpha, expected in [(0, 4.5), (1, hard), (0.3, 0.3 * hard + 0.7 * 4.5)]:
        loss = distill.distillation_loss(student, teacher, torch.tensor([0, -1]), alpha)
        assert_near(loss, expected)


def test_adadelta_by_rows_equals_torchs_adadelta_for_words_absent_for_long_too():
    ours, theirs = tiny_student(), tiny_student()
    ours.trained.sparse = True
    by_rows = distill.AdadeltaByRows(ours.parameters(), lr=1.0, rho=0.95)
    dense = torch.optim.Adadelta(theirs.parameters(), lr=1.0, rho=0.95)
    for step in range(100):
        words = 40 if step % 40 == 0 or step > 80 else 20
        rows = [(torch.randint(words, (length,)).tolist(),) for length in (3, 3, 2, 1)]
        for model, optimizer in [(ours, by_rows), (theirs, dense)]:
            optimizer.zero_grad()
            (model(*bilstm.collate(rows)) - 1).square().mean().backward()
            optimizer.step()
    for name, weight in ours.state_dict().items():
        assert_near(weight, theirs.state_dict()[name])
    assert torch.equal(ours.frozen.weight, tiny_student().frozen.weight)


def test_words_of_dev_and_test_need_a_vector_and_other_words_start_uniform_within_a_quarter():
    folder, args = small_run()
    write(f"{folder}/x.test.tsv", ["sentence", "a mild novel"])
    vectors = write(f"{folder}/v.txt", ["film 1 2", "mild 3 4", "unused 5 6"])
    call(distill, *args, "--vectors", vectors, "--epochs", 1)
    model, vocabulary, _ = bilstm.load_student(f"{folder}/x.student.pt")
    assert vocabulary.keys() & {"mild", "warm", "novel", "unused"} == {"mild", "warm"}
    assert vocabulary[MASK] == 0 and model.frozen.weight[vocabulary["mild"]].tolist() == [3, 4]
    _, embeddings = distill.make_embeddings([*map(str, range(2000))], set(), None, 1)
    assert embeddings.shape == (2000, 300) and 0.2499 < embeddings.abs().max() <= 0.25
    assert_near(embeddings.std(), 0.5 / math.sqrt(12), 1e-3)
    _, others = distill.make_embeddings([*map(str, range(2000))], set(), None, 2)
    assert not torch.equal(embeddings, others)


def test_the_best_epoch_is_saved_and_5_without_a_better_one_end_the_training_resumed_or_not():
    folder, args = small_run()
    out = call(distill, *args)
    accuracies = re.findall(r"^epoch +\d+ .* acc (\S+) ", out, re.M)
    best = accuracies.index(max(accuracies)) + 1
    assert len(accuracies) == min(30, best + 5)
    assert f"result dev acc {max(accuracies)}" in out and f"in epoch {best}," in out
    student = read(f"{folder}/x.student.pt")
    for step in (2, 3, 5):  # after the first epoch, within the second, later
        with stop_after(step):
            call(distill, *args, error="stopped")
        resumed = call(distill, *args, "--resume")
        assert read(f"{folder}/x.student.pt") == student and len(resumed) < len(out)
        assert resumed.splitlines()[-1] == out.splitlines()[-1]
    for seed in (0, 1):
        call(distill, *args, "--epochs", best, "--seed", seed)
        assert (read(f"{folder}/x.student.pt") == student) == (seed == 0)
    with mock.patch("torch.manual_seed", wraps=torch.manual_seed) as seeds:
        call(distill, *args, "--epochs", 2, "--seed", 3)
    assert [seed.args for seed in seeds.call_args_list] == [(3,), (3001,), (3002,)]
    adadelta = bilstm.load(f"{folder}/x.training.pt")["optimizer"]["param_groups"][0]
    assert (adadelta["lr"], adadelta["rho"]) == (1.0, 0.95)


def test_the_defaults_are_the_papers_with_963_002_parameters():
    model = BiLSTM(torch.rand(9, 300), 2)
    assert model.num_parameters() == 963_002
    assert torch.equal(model.trained.weight, model.frozen.weight)
    folder, _ = small_run()
    pairs = [f"a b{i}\tc\t{i % 2}" for i in range(40)]
    write(f"{folder}/p.tsv", ["sentence1\tsentence2\tlabel", *pairs])
    for name, args, *expected in [("p", ["--alpha", 1], 1, 256), ("x", [], 0, 50)]:
        with mock.patch("distill.train_student", return_value={"acc": 0.5}) as train:
            call(distill, f"{folder}/{name}.tsv", *args)
        names = ("alpha", "batch_size", "hidden", "fc", "epochs", "seed")
        assert [train.call_args.kwargs[name] for name in names] == [*expected, 150, 200, 30, 0]


def test_an_epoch_descends_the_loss_of_each_rows_own_label_and_logits():
    rows = [([i, 2 * i],) for i in range(1, 8)]
    labels = torch.tensor([0, 1, -1, 0, 1, -1, 0])
    logits = torch.randn(7, 2)
    ours, theirs = tiny_student(), tiny_student()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    torch.manual_seed(1)
    distill.train_epoch(ours, optimizer, distill.Examples(rows, labels, logits), 0.25, 3)
    torch.manual_seed(1)
    weights = [weight for weight in theirs.train().parameters() if weight.requires_grad]
    for index in bilstm.shuffled_batches(rows, 3):
        student_logits = theirs(*bilstm.collate([rows[i] for i in index]))
        loss = distill.distillation_loss(student_logits, logits[index], labels[index], 0.25)
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights)):
            weight.data -= 0.1 * gradient
    assert_near(ours.fc.weight.data, theirs.fc.weight.data)
    assert_near(ours.trained.weight.data, theirs.trained.weight.data)


def test_pairs_run_on_hard_labels_and_report_the_mismatched_dev_set():
    folder = new_folder()
    rows = ["a\ta\tneutral", "a\tb\tentailment", "b\tb\tneutral", "b\ta\tentailment"] * 5
    header = "sentence1\tsentence2\tgold_label"
    data = write(f"{folder}/m.tsv", [header, *rows, "a\tdash\t-", "a\tunlabelled\t"])
    write(f"{folder}/m.dev.tsv", [header, *rows])
    write(f"{folder}/m.dev-mm.tsv", [header, rows[0], "a\tb\t-"])
    out = call(distill, data, "--alpha", 1, *SMALL, "--epochs", 1)
    assert re.search(r"epoch  1 .* dev acc \d\.\d+  f1 \d\.\d+  mm-acc [01]\.0000  mm-f1", out)
    assert bilstm.load_student(f"{folder}/m.hard.student.pt").classes == ["entailment", "neutral"]


def test_the_whole_run_fine_tunes_augments_labels_distills_and_prints_table_1():
    folder, args = small_run(rows=320)
    os.remove(f"{folder}/x.logits.tsv")
    bert = tiny_teacher(classes=0, hidden_size=64, num_hidden_layers=1)
    args += ["--epochs", 1, "--table1"]
    assert teacher_logits.LEARNING_RATES == [2e-5, 3e-5, 4e-5, 5e-5]
    scheduler = torch.optim.lr_scheduler.LambdaLR
    with mock.patch.multiple(teacher_logits, LEARNING_RATES=[0.01, 1e-4], EPOCHS=4), \
            mock.patch("torch.optim.lr_scheduler.LambdaLR", wraps=scheduler) as made, \
            mock.patch("teacher_logits.Bert.train", autospec=True,
                       side_effect=torch.nn.Module.train) as train:
        out = call(distill, *args, "--teacher", bert, "--n-iter", 2)
    assert [mode.args[1:] for mode in train.call_args_list].count(()) == 8  # for dropout
    schedule = [made.call_args.args[1](step) for step in range(40)]  # 4 epochs of 10 batches
    assert_near(schedule, [*np.linspace(1 / 4, 1, 4), *np.linspace(1, 1 / 36, 36)])
    epochs = re.findall(r"fine-tuning, lr (\S+), epoch (\d) of 4: dev acc (\S+)", out)
    assert [(lr, n) for lr, n, _ in epochs] == list(itertools.product(["0.01", "0.0001"], "1234"))
    accuracies = [float(accuracy) for _, _, accuracy in epochs]
    best = max(accuracies)  # of all epochs: this teacher is kept
    assert best > 0.9 > accuracies[-1] and f"x.teacher: dev acc {best:.4f}" in out
    transfer = [row[:2] for row in read_rows(f"{folder}/x.transfer.tsv")]  # texts and labels
    labelled = [row[:2] for row in read_rows(f"{folder}/x.logits.tsv")]
    assert transfer == labelled and len(labelled) > 400
    table = rf"\nteacher.* {100 * best:.1f} .*\n6 .* \d+\.\d .*\n7 .* \d+\.\d "
    assert re.search(table, out) and os.path.exists(f"{folder}/x.hard.student.pt")
    again = call(distill, *args)
    assert f"using {folder}/x.logits.tsv" in again and re.search(table, again)


def test_table_1_has_accuracy_and_f1_of_class_1_beside_the_papers():
    # of class 1 two rows are right, three guessed, three there: F1 is 2 * 2 / (3 + 3)
    scores = bilstm.metrics(torch.eye(2)[[1, 1, 1, 0, 0]], torch.tensor([1, 1, 0, 1, 0]))
    scores["mm-acc"] = 0.5
    for task, expected in [("sst2", "60.0 90.7"), ("qqp", "66.7/60.0 68.2/88.1"),
                           ("mnli", "60.0/50.0 73.0/72.6"), ("other", "60.0 -")]:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            distill.print_table1(f"no/{task}.tsv", f"no/{task}.logits.tsv", scores, scores)
        assert out.getvalue().splitlines()[3].split()[-2:] == expected.split()


def test_table_2_scales_the_times_of_bert_large_and_the_student_to_all_rows():
    config = {}
    small = teacher_logits.Bert({**teacher_logits.DEFAULTS, **CONFIG}, 2)
    data = write(f"{new_folder()}/x.tsv", reviews(64, 1))
    with mock.patch("teacher_logits.Bert", lambda c, _: config.update(c) or small), \
            mock.patch("time.monotonic", side_effect=[0, 9, 0, 2, 0, 9, 0, 5]):
        out = call(distill, data, "--table2")
    assert (config["hidden_size"], config["intermediate_size"]) == (1024, 4096)
    assert re.search(r"BERT-large +[\d,]+ +4.00 .*\nBiLSTM +963,002 +5.00 ", out)


HEADER = "sentence\tlabel\n"
MALICIOUS = b"cos\nsystem\n(S'touch executed'\ntR."  # a pickle that runs a command
WEIGHTS = bilstm.load(f"{tiny_teacher()}/pytorch_model.bin")
PARALLEL = safetensors({f"module.{name}": weight for name, weight in WEIGHTS.items()})
CONSTANT = safetensors({**WEIGHTS, "classifier.weight": torch.zeros(2, 8)})
BERT = "teacher_logits x.tsv -o y.tsv --teacher bert"
TRAIN = "distill x.tsv --logits y.tsv"
BAD_INPUT = [  # a command, a file, its contents, what the error says
    ("augment x.tsv", "x.tsv", "sentence,label\na,1\n", "found sentence,label"),
    ("augment x.tsv", "x.tsv", HEADER + "a\tb\t1\n", "x.tsv, line 2: expected 2"),
    ("augment x.tsv", "x.tsv", HEADER.encode() + b"\xfc\t1\n", "line 2: expected text in UTF-8"),
    ("augment x.tsv -o ./x.tsv", "", "", "-o ./x.tsv"),
    (BERT, "bert/config.json", '{"model_type": "roberta"}', "model_type roberta; expected bert"),
    (BERT, "bert/pytorch_model.bin", MALICIOUS, "pytorch_model.bin: damaged"),
    (BERT, "bert/model.safetensors", safetensors(WEIGHTS)[:-4], "model.safetensors: damaged"),
    (BERT, "bert/model.safetensors", PARALLEL, "Unexpected key(s) in state_dict: \"module.bert"),
    (BERT, "bert/model.safetensors", CONSTANT, "bert is no better than the majority class"),
    ("distill x.tsv --n-iter 2", "", "", "x.logits.tsv exists, so omit --n-iter"),
    ("distill x.tsv", "x.tsv", reviews(40, 9), "x.logits.tsv: its labelled rows differ"),
    ("teacher_logits x.tsv", "x.tsv", reviews(40, 9), "x.logits.tsv: its labelled rows differ"),
    ("distill x.tsv --resume", "x.training.pt", MALICIOUS, "x.training.pt: damaged"),
    ("distill x.tsv", "x.tsv", "sentence\tlabels\na\t1\n", "the columns are sentence, labels"),
    ("distill x.tsv", "x.dev.tsv", HEADER + "a\t2\n", "dev rows of x.tsv: label '2'; expected one"),
    (TRAIN, "y.tsv", "sentence\tlogit_0\tlogit_1\na\t0\tnan\n", "line 2: expected a finite number"),
    ("bilstm x.student.pt x.tsv", "x.student.pt", MALICIOUS, "x.student.pt: damaged")]


def test_bad_input_is_one_line_that_names_it_and_no_file_changes_nor_is_a_pickle_executed():
    base, args = small_run()
    call(distill, *args, "--epochs", 1)
    tiny_teacher(f"{base}/bert")
    before = os.getcwd()
    for command, file, content, expected in BAD_INPUT:
        os.chdir(shutil.copytree(base, f"{new_folder()}/copy"))
        if file:
            write(file, content)
        files = snapshot(".")
        script, *args = command.split()
        call(sys.modules[script], *args, error=expected)
        assert snapshot(".") == files, command
    os.chdir(before)


def test_a_file_changes_only_when_the_new_one_is_complete_but_a_pipe_is_written_to_as_it_is():
    path = write(f"{new_folder()}/x", "old")
    with raises(KeyboardInterrupt, ""), augment.atomic_write(path) as f:
        f.write("half" * 9999)
        raise KeyboardInterrupt
    assert read(path) == b"old"
    pipe = path + ".pipe"
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDWR | os.O_NONBLOCK), "rb", buffering=0) as reader:
        with augment.atomic_write(pipe) as f:
            f.write("new")
        assert reader.read(9) == b"new"


SCRIPTS = ["augment", "bilstm", "teacher_logits", "distill"]
README = read(HERE, "README.md").decode()


def test_the_commands_in_the_readme_name_scripts_and_flags_that_exist():
    text = README
    flags = {}
    for script in SCRIPTS:
        text += sys.modules[script].__doc__
        help_text = call(sys.modules[script], "--help")
        flags[script + ".py"] = set(re.findall(r"(?<!\S)--?[a-z][\w-]*", help_text))
    for script, args in re.findall(r"(?:python3?|torchrun .*?) ([\w/]+\.py)([^\n`#&|;]*)", text):
        assert os.path.exists(f"{HERE}/{script}"), script
        for word in args.split():
            if script in flags and re.match("--?[a-z]", word):
                assert word.split("=")[0] in flags[script], (script, word)


def test_the_python_example_of_the_readme_runs():
    code = re.search(r"```python\n(.+?)```", README, re.S)[1]
    with mock.patch("bilstm.load_student", return_value=saved_student()[1]):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, {})
    assert out.getvalue().count("('") == 2


def fails(test, function):
    blank = mock.patch(function, side_effect=NotImplementedError)
    with blank, contextlib.suppress(NotImplementedError):
        test()
        return False
    return True


def test_a_blank_function_of_the_coursework_fails_its_tests():
    section = README.split("\n## Coursework\n")[1]
    rows = re.findall(r"^\| *\d+ *\|[^|]*\|([^|]*)\|([^|]*)\|", section, re.M)
    assert rows
    for cells in rows:
        functions, words = [re.findall(r"`(.+?)`", cell) for cell in cells]
        tests = tests_named(words)
        assert all(any(fails(test, function) for test in tests) for function in functions), cells
        assert all(any(fails(test, function) for function in functions) for test in tests), cells


def tests_named(words):
    tests = [value for name, value in globals().items() if name.startswith("test_")]
    return [test for test in tests if any(word in test.__name__ for word in words)]


def main():
    failed = 0
    tests = tests_named(sys.argv[1:] or ["test_"])
    for test in tests:
        sentence = test.__name__.removeprefix("test_").replace("_", " ")
        try:
            test()
            print(f"passed {sentence}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {sentence}\n{traceback.format_exc()}", flush=True)
    print(f"{len(tests) - failed} passed, {failed} failed")
    sys.exit(failed > 0 or not tests)


if __name__ == "__main__":
    main()
