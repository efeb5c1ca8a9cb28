"""Make pos_counts.json, the counts of augment.Tagger, from a treebank in CoNLL-U.

    python make_pos_counts.py en_ewt-ud-train.conllu.gz "UD English EWT, CC BY-SA 4.0"

A line of the treebank has ten cells: the second is a word, the fifth its Penn Treebank tag.
{"source": ..., "words": {"film": {"NN": 5, "VB": 1}}, "following": {"DT": {"JJ": 3, "NN": 8}}}
"""
import gzip
import json
import sys
from collections import Counter, defaultdict

treebank, source = sys.argv[1:]
words = defaultdict(Counter)      # word -> its tags
following = defaultdict(Counter)  # tag -> the tags that follow it
tags = []                         # of the sentence
open_text = gzip.open if treebank.endswith(".gz") else open
with open_text(treebank, "rt", encoding="utf-8") as f:
    for line in f:
        cells = line.split("\t")
        if len(cells) == 10 and cells[0].isdigit() and cells[4] != "_":  # 1-2 is a contraction
            words[cells[1].lower()][cells[4]] += 1
            tags.append(cells[4])
        elif line == "\n" and tags:  # the end of a sentence; EDGE stands before and after it
            for last, tag in zip(["EDGE", *tags], [*tags, "EDGE"]):
                following[last][tag] += 1
            tags = []
# our choice: no words of more than 20 letters, mostly addresses, to keep the file small
words = {word: words[word] for word in words if len(word) <= 20 and " " not in word}
with open("pos_counts.json", "w", encoding="utf-8", newline="\n") as f:
    json.dump({"source": source, "words": words, "following": following}, f,
              ensure_ascii=False, indent=0, sort_keys=True)
