"""Toystories: the embedded corpus, short children's stories made by rule from a seed.

`generate_stories` is an endless stream of stories and `write_corpus` the two files of a corpus.
A story is a `Plot` (a cast of tables and a text with alternatives, see grammar.py), told with one
row of each table and one of each alternative: who and what a story is about is drawn once, so
hero, pronouns, places and things agree from its first sentence to its last.

    grammar.py     the template language and the editor's touches (a/an, capitals, pronouns)
    words.py       who and what: children, animals, toys, food;   phrases.py  shared wordings
    plots_*.py     the story schemas, by theme;                   plots.py    the list of them all
    generate.py    the stream and the files

To add a story, write a `Plot` in the file of its theme and name it in the tuple at that file's
end. The tests try every alternative with every row, so a slot that no row fills is found there;
they also pin the first megabyte of the stream, which every new plot changes.

Random numbers come from `random.Random(int).random` alone, whose sequence is the same in every
version of Python, and no order depends on a hash: the stories are the same on every machine.
"""

from lmlib.toystories.generate import generate_stories, write_corpus

__all__ = ["generate_stories", "write_corpus"]
