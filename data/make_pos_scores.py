"""Make data/pos_scores.json, the tables of augment.Tagger, from a treebank in CoNLL-U.

    python -m data.make_pos_scores en_ewt-ud-train.conllu.gz "UD English EWT, CC BY-SA 4.0"

A line of the treebank has ten cells: the second is a word, the fifth its Penn Treebank tag.
{"source": ..., "transition": {"DT": {"NN": -711}}, "scores": {"film": {"NN": 2009}}}
"""
import gzip
import json
import sys
from collections import Counter, defaultdict
from math import log

from augment import EDGE, endings

MIN_RATIO = 0.03  # our choice: ignore tags less than 0.03 times as likely as a word's best one


def count(treebank: str) -> tuple[dict[str, Counter], dict[str, Counter]]:
    """The tags of each word, {"film": {"NN": 5, "VB": 1}}; the tags that follow each tag."""
    words = defaultdict(Counter)
    following = defaultdict(Counter)
    tags = []  # of the sentence
    open_text = gzip.open if treebank.endswith(".gz") else open
    with open_text(treebank, "rt", encoding="utf-8") as f:
        for line in f:
            cells = line.split("\t")
            if len(cells) == 10 and cells[0].isdigit() and cells[4] != "_":  # 1-2: a contraction
                words[cells[1].lower()][cells[4]] += 1
                tags.append(cells[4])
            elif line == "\n" and tags:  # the end of a sentence
                for last, tag in zip([EDGE, *tags], [*tags, EDGE]):
                    following[last][tag] += 1
                tags = []
    # our choice: no words of more than 20 letters, mostly addresses, to keep the file small
    words = {word: words[word] for word in words if len(word) <= 20 and " " not in word}
    return words, following


def estimate(words: dict[str, dict], following: dict[str, dict]) -> dict[str, dict]:
    """Counts -> 1000 log P, rounded, so that all machines find the same tags.

    By Bayes' rule P(word | tag) is proportional to P(tag | word) / P(tag). P(tag | word) is
    smoothed with the tags of words of the same shape and ending, which stand for unknown words.
    """
    totals = Counter({EDGE: 1e-6})   # so small that no word is tagged as an edge
    tags_of = defaultdict(Counter)   # word or ending -> its tags
    for word in sorted(words):
        totals.update(words[word])
        for ending in endings(word)[1:]:
            tags_of[ending].update(words[word].keys())  # an ending counts different words
        tags_of[word].update(words[word])               # a word counts its occurrences
    num_words = sum(totals.values())
    prior = {tag: n / num_words for tag, n in totals.items()}
    transition = {}
    for tag in prior:
        p = smooth(following.get(tag, {}), prior)
        transition[tag] = {after: round(1000 * log(p[after])) for after in p}
    scores = {}
    for word in words:
        p = prior
        for key in [*endings(word), word]:  # each estimate is the prior of the next one
            p = smooth(tags_of[key], p)     # for the ending "" there is only the prior
            least = MIN_RATIO * max(p.values())
            likely = [tag for tag in p if p[tag] >= least]
            scores[key] = {tag: round(1000 * log(p[tag] / prior[tag])) for tag in likely}
    return {"transition": transition, "scores": scores}


def smooth(counts: dict[str, int], prior: dict[str, float]) -> dict[str, float]:
    """Relative frequencies, with the prior added as if it were one more observation."""
    total = sum(counts.values()) + 1
    return {tag: (counts.get(tag, 0) + p) / total for tag, p in prior.items()}


if __name__ == "__main__":
    treebank, source = sys.argv[1:]
    with open("data/pos_scores.json", "w", encoding="utf-8", newline="\n") as f:
        json.dump({"source": source, **estimate(*count(treebank))}, f,
                  ensure_ascii=False, sort_keys=True)
