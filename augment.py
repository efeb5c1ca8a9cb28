"""The transfer set: words masked, words swapped for others of their tag, rows cut short (§3.3).

    python augment.py sst2.tsv              # -> sst2.transfer.tsv
    python augment.py sst2.tsv --show 3     # and what happened to each word of the first three
    python augment.py en.conllu.gz --treebank "UD English EWT, CC BY-SA 4.0"  # -> pos_counts.tsv

In reading order: the rules, the tagger, its counts, the transfer set. The synthetic rows get their
labels from the teacher (teacher_logits.py). All chance comes from `random.Random.random`, whose
sequence Python promises to keep: one seed, one file, on every machine.
"""
import argparse
import gzip
import os
import re
from collections import Counter, defaultdict, namedtuple
from functools import lru_cache
from math import inf, log
from random import Random
from typing import BinaryIO

from bilstm import (LONGEST_SENTENCE, UNKNOWN, BadInput, Progress, Rows, command, read_rows,
                    reading, words, writing)

Words = list[str]          # the words of a sentence; or their tags
Corpus = dict[str, Words]  # for each tag the words so tagged, each as often as it occurs
Rates = namedtuple("Rates", "mask pos ng")  # §3.3's p_mask, p_pos and p_ng


# ---- The three rules -----------------------------------------------------------------------------
# x holds one uniform draw a word, §3.3's X: it decides between the first rule, the second, neither.
def mask(sentence: Words, x: list[float], p: Rates) -> Words:
    """Masking, where X < p_mask: "a fine film" -> "a [MASK] film"."""
    return [UNKNOWN if u < p.mask else word for word, u in zip(sentence, x)]


def replace(sentence: Words, tags: Words, x: list, p: Rates, corpus: Corpus, rng: Random) -> Words:
    """POS-guided replacement, where p_mask <= X < p_mask + p_pos: "a fine film" -> "a fine plot".

    A uniform draw from corpus[tag] has p(w given tag) = count of w tagged so / count of the tag:
    the unigram distribution, renormalised within the tag. It may give the word itself.
    """
    return [corpus[tag][int(rng.random() * len(corpus[tag]))]
            if p.mask <= u < p.mask + p.pos else word for word, tag, u in zip(sentence, tags, x)]


def ngram(length: int, rng: Random) -> slice:
    """n-gram sampling, the words to keep: "a fine film" -> "fine film".

    n is uniform in 1..min(5, length), its start over every place where n words fit, the last too.
    """
    n = 1 + int(rng.random() * min(5, length))
    start = int(rng.random() * (length - n + 1))
    return slice(start, start + n)


def attempt(row: list, k: int, p: Rates, corpus: Corpus, rng: Random, tally: Counter) -> tuple:
    """Try k of a row (the words and tags of each sentence), the three rules as §3.3 combines them.

    Returns the new row as a line of the file, and for --show what befell each word of the old one:
    "a film", "a fine>[MASK] film".
    """
    new, told = [sentence for sentence, _ in row], []
    # Pairs: the first sentence only, the second only, both, and so on (§3.3).
    for side in ((0,), (1,), (0, 1))[k % 3] if len(row) == 2 else (0,):
        x = [inf if word == UNKNOWN else rng.random() for word in new[side]]  # [MASK] stays
        altered = replace(mask(new[side], x, p), row[side][1], x, p, corpus, rng)
        cut = rng.random() < p.ng
        told += [w if u >= p.mask + p.pos else f"{w}>{v}" for w, v, u in zip(new[side], altered, x)]
        new[side] = altered[ngram(len(altered), rng)] if cut else altered
        tally.update(words=len(x), masked=sum(u < p.mask for u in x), sentences=1, cut=cut,
                     replaced=sum(p.mask <= u < p.mask + p.pos for u in x))
    return "\t".join(map(" ".join, new)).encode(), " ".join(told)


# ---- The tagger ----------------------------------------------------------------------------------
EDGE = "EDGE"  # stands before a sentence's first tag and after its last
COUNTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pos_counts.tsv")


def hints(word: str) -> list[str]:
    """What tells a word's tag: "film" -> "a ", "a m", "a lm", "a ilm" (a: its shape), "film"."""
    shape = "a" if word.isalpha() else "0" if word[0].isdigit() else "-"
    return [f"{shape} {word[len(word) - n:]}" for n in range(min(3, len(word)) + 1)] + [word]


def backoff(counts: Counter, prior: dict[str, float]) -> dict[str, float]:
    """Shares, with one observation more that is spread like the prior.

    {"NN": 1}, {"NN": 0.5, "VB": 0.5} -> {"NN": 0.75, "VB": 0.25}
    """
    total = sum(counts.values()) + 1
    return {tag: (counts[tag] + share) / total for tag, share in prior.items()}


class Tagger:
    """A bigram hidden Markov model: lower-case words -> Penn tags.

    It maximises the product of P(tag given the tag before) and P(word given tag), which is
    P(tag given word) / P(tag) but for a factor that is the same for all tags. P(tag given word)
    backs off to the word's ending, its shape and all words, so that unknown words have one.
    Scores are whole thousandths of a log, whose last bit differs between machines.
    """

    def __init__(self, path: str = COUNTS):
        # A share so small that no word is ever taken for an edge.
        self.counts, totals = read_counts(path), Counter({EDGE: 1e-6})
        for word in [key for key in self.counts if " " not in key]:
            totals.update(self.counts[word])
            for hint in hints(word)[:-1]:
                self.counts[hint].update(self.counts[word].keys())  # once, however frequent
        self.options = lru_cache(maxsize=1 << 18)(self.options)
        self.share = {tag: n / totals.total() for tag, n in totals.items()}
        after = {tag: backoff(self.counts[f"> {tag}"], self.share) for tag in self.share}
        self.step = {t: {tag: round(1000 * log(after[t][tag])) for tag in after} for t in after}

    def options(self, word: str) -> list[tuple[str, int]]:
        """The tags that a word may have, with the score of P(word given tag).

        ours: none that is less than 0.03 as probable as its likeliest. 1.9 a word are left, not
        the 6.3 at 0.0001: five times as fast, and 0.0006 less accurate on EWT's dev part.
        """
        p = self.share
        for hint in hints(word):
            p = backoff(self.counts.get(hint, Counter()), p)
        least = 0.03 * max(p.values())
        return [(t, round(1000 * log(p[t] / self.share[t]))) for t in p if p[t] >= least]

    def tag(self, sentence: Words) -> Words:
        """Viterbi's algorithm: ["a", "fine", "film"] -> ["DT", "JJ", "NN"]."""
        best = [(0, [EDGE])]  # of all paths to one last tag, the best, with its score
        for options in [*map(self.options, sentence), [(EDGE, 0)]]:
            best = [max((score + self.step[path[-1]][tag] + emission, [*path, tag])
                        for score, path in best) for tag, emission in options]
        return best[0][1][1:-1]


# ---- The tagger's counts -------------------------------------------------------------------------
# "film<TAB>NN 5 VB 1": how often a word has each tag; "> DT<TAB>JJ 3 NN 8": what follows a tag.
# ours: words of more than 20 letters, mostly addresses, are left out, to keep the file small.
LINE = re.compile(r"(> [^\t ]+|[^\t ]{1,20})\t([^\t ]+ [1-9]\d{0,8}(?: [^\t ]+ [1-9]\d{0,8})*)")
# CoNLL-U: a word and its two tags, or a sentence's end; no contraction (1-2), no unsaid word (1.1).
TOKEN = re.compile(r"^(?:\d+\t([^\t\n]+)\t[^\t\n]*\t([^\t\n]+)\t([^\t\n]+)\t.*)?$", re.M)
ODD = re.compile(r"^(?!$|#|[\d.-]+\t[^\t\n]+\t[^\t\n]*\t[^\t\n]+\t[^\t\n]+\t)", re.M)  # none of it


def read_text(path: str) -> str:
    """A UTF-8 file, plain or .gz, of less than 256 million letters."""
    with reading(path), (gzip.open if path.endswith(".gz") else open)(
            path, "rt", encoding="utf-8-sig") as f:
        text = f.read(1 << 28)  # ours: bounds what a .gz unpacks to
        if len(text) == 1 << 28:
            raise ValueError("too large; expected less than 256 million letters")
        return text.rstrip("\n")


def read_counts(path: str) -> dict[str, Counter]:
    """The counts by word and by "> tag". Raises BadInput."""
    counts, lines = defaultdict(Counter), read_text(path).split("\n")
    for n, line in enumerate(lines, start=1):
        if form := LINE.fullmatch(line):
            counts[form[1]].update({t: int(n) for t, n in re.findall("([^ ]+) ([^ ]+)", form[2])})
        if not form and line[:2] != "# " or n == len(lines) and line[:2] in ("# ", "> "):
            raise BadInput(f"{path}, line {n}: expected word<TAB>tag count tag count ...")
    return counts


def count_treebank(path: str, source: str, output: str) -> None:
    """Make such a file from CoNLL-U, lower-cased: Penn tags (column 5), or universal ones (4)."""
    counts, before, text = defaultdict(Counter), EDGE, read_text(path) + "\n"
    if odd := ODD.search(text):
        raise BadInput(f"{path}, line {text[:odd.start()].count(chr(10)) + 1}: expected CoNLL-U, "
                       "ten columns with tabs between")
    for word, universal, penn in (t.groups("") for t in TOKEN.finditer(text)):
        tag = (universal if penn == "_" else penn) or EDGE
        counts[f"> {before}"][tag] += 1
        counts[word.lower()][tag] += 1
        before = tag
    if len(counts) < 3:
        raise BadInput(f"{path}: no tagged word in it; expected a treebank in CoNLL-U")
    lines = [f"{key}\t" + " ".join(f"{tag} {n}" for tag, n in sorted(counts[key].items()))
             for key in sorted(counts)]
    lines = list(filter(LINE.fullmatch, lines))
    with writing(output, path) as f:
        f.write("\n".join([f"# Counts from {source}", *lines, ""]).encode())
    print(f"{output}: the tags of {sum(line[:2] != '> ' for line in lines):,} words")


# ---- The transfer set ----------------------------------------------------------------------------
def originals(table: Rows, f: BinaryIO, seen: set[bytes]) -> tuple[list, Corpus]:
    """Write the rows as they are -> the words and tags of each sentence of each; the corpus."""
    tagger, rows, corpus = Tagger(), [], defaultdict(list)
    progress = Progress("reading and tagging", sum(1 for _ in table))
    for row in table:
        f.write("\t".join([*row.texts, f"{row.label}\n"]).encode())
        sentences = [words(text)[:LONGEST_SENTENCE] for text in row.texts]
        seen.add("\t".join(map(" ".join, sentences)).encode())
        rows.append([(sentence, tagger.tag(sentence)) for sentence in sentences])
        for word, tag in [pair for sentence in rows[-1] for pair in zip(*sentence)]:
            corpus[tag] += [word] if word != UNKNOWN else []
        progress.add(1)
    return rows, corpus


def transfer_set(source: str, output: str, n_iter: int | None = None, p_mask: float = 0.1,
                 p_pos: float = 0.1, p_ng: float = 0.25, seed: int = 0, show: int = 0) -> None:
    """Write the rows of `source` with their labels, then those of n_iter tries a row that are new.

    All defaults: §3.3; n_iter is 20, for pairs 10. What befell each word is printed for the first
    `show` rows. Raises BadInput.
    """
    p, rng, seen, tally = Rates(p_mask, p_pos, p_ng), Random(seed), set(), Counter()
    if not all(0 <= rate <= 1 for rate in p) or p_mask + p_pos > 1 + 1e-9 or (n_iter or 0) < 0:
        raise BadInput(f"{p}, n_iter {n_iter}: expected p's in 0..1, mask + pos too, n_iter >= 0")
    table = read_rows(source)
    n_iter = (10 if table.pair else 20) if n_iter is None else n_iter
    print(f"reading and tagging {source}", flush=True)
    with writing(output, source) as f:
        f.write(b"sentence1\tsentence2\tlabel\n" if table.pair else b"sentence\tlabel\n")
        rows, corpus = originals(table, f, seen)
        print(f"augmenting {len(rows):,} rows, {n_iter} tries each", flush=True)
        progress, known = Progress("augmenting", len(rows)), len(seen)
        for i, row in enumerate(rows):
            for k in range(n_iter):
                line, told = attempt(row, k, p, corpus, rng, tally)
                if line not in seen:
                    seen.add(line)
                    f.write(line + b"\t\n")
                    if i < show:
                        print(f"{told}  ->  {line.decode()}")
            progress.add(1)
    tries, new = n_iter * len(rows), len(seen) - known
    dropped = "".join(f", {n:,} dropped for {reason}" for reason, n in table.dropped.items())
    print(f"{output}: {len(rows):,} rows in{dropped}, {tries:,} tries, {tries - new:,} duplicates "
          f"dropped, {len(rows) + new:,} rows out; "
          + ", ".join(f"{tally[part] / max(1, tally[whole]):.1%} of {whole} {part}" for part, whole
                      in (("masked", "words"), ("replaced", "words"), ("cut", "sentences"))))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the transfer set of a TSV (§3.3).")
    parser.add_argument("data", help="a TSV as GLUE ships it: single sentences, or pairs")
    parser.add_argument("-o", "--output", help="default: STEM.transfer.tsv, or pos_counts.tsv")
    parser.add_argument("--treebank", metavar="SOURCE", help="count the tags of data, in CoNLL-U")
    parser.add_argument("--n-iter", type=int, help="tries a row (default: 20; pairs: 10)")
    for rule, p in ("mask", 0.1), ("pos", 0.1), ("ng", 0.25):
        parser.add_argument(f"--p-{rule}", type=float, default=p, help=f"§3.3 (default: {p})")
    parser.add_argument("--seed", type=int, default=0, help="another one, another file (default 0)")
    parser.add_argument("--show", type=int, default=0, help="print what is new of so many rows")
    data, output, treebank, *numbers = vars(parser.parse_args()).values()  # in the order above
    if treebank:
        return count_treebank(data, treebank, output or COUNTS)
    transfer_set(data, output or f"{os.path.splitext(data)[0]}.transfer.tsv", *numbers)


if __name__ == "__main__":
    command(main, kept="no file was changed")
