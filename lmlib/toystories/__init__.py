"""Toystories: the embedded corpus, short children's stories made by rule from a seed.

`generate_stories` is an endless stream of stories and `write_corpus` writes the two files of a
corpus. A story is told from a plot: a cast of tables and a text with alternatives. One row of each
table and one of each alternative is drawn once per story, so hero, pronouns, places and things
agree from the first sentence to the last.

    words.txt     who and what: children, animals, toys, food
    phrases.txt   wordings that many plots share
    plots/*.txt   the plots, by theme
    reader.py     reads these files, and says how they are written
    grammar.py    the template language, and the editor's touches (a/an, capitals, pronouns)
    generate.py   the stream and the files

To add a story, write a plot in the file of its theme; `python -m pytest tests/toystories` tries
every alternative with every row, and so finds a slot that no row fills. It also pins the first
megabyte of the stream, which every new plot changes.

Random numbers come from `random.Random(int).random` alone, whose sequence is the same in every
version of Python, and no order depends on a hash: the stories are the same on every machine.
"""

from lmlib.toystories.generate import generate_stories, write_corpus

__all__ = ["generate_stories", "write_corpus"]
