# SPDX-License-Identifier: Apache-2.0
"""Every word of the miniature world, the classes they fall in, the facts.

Text is lower-case words and punctuation marks separated by single spaces, so
a word is a token. `WORDS` is the whole vocabulary; ids are made elsewhere
(`rlhf.data.vocabularies`), and a shipped checkpoint depends on its order, so
adding a word means pretraining a new base.
"""

from collections.abc import Iterable
from typing import NamedTuple

ANIMALS = tuple(
    'dog cat fox owl bear frog crow mouse goat hen wolf seal hare duck'.split())
FOODS = tuple(
    'bread soup rice cake apple plum cheese stew honey nuts pie pear corn'
    ' beans'.split())
PLACES = tuple(
    'river hill forest market bridge garden harbor mill tower cave meadow'
    ' station'.split())
THINGS = tuple(
    'lamp rope drum kite boat clock hat coin bell book ladder basket cup map'
    .split())
COLORS = tuple('red blue green yellow black white brown grey'.split())
JOBS = tuple(
    'baker miller doctor sailor teacher farmer painter guard weaver smith'
    .split())
NAMES = tuple(
    'mira tobin selka orrin vesna dalko junel pavo rika sorn talia ugo wena'
    ' yarl zeli brisa'.split())
CITIES = tuple('tolva brenik osmar quillon varsk hadry lumeth petra'.split())

ADJECTIVES = tuple('old small brave quiet tired clever young lonely'.split())
PAST_VERBS = tuple('found lost saw carried wanted hid broke fixed'.split())
GOOD_WORDS = tuple('wonderful lovely great excellent delightful'.split())
BAD_WORDS = tuple('terrible awful dull broken poor'.split())
GOOD_FEELINGS = tuple('happy proud calm'.split())
BAD_FEELINGS = tuple('sad angry worried'.split())
FEELINGS = GOOD_FEELINGS + BAD_FEELINGS

RUDE_ADJECTIVES = ('stupid', 'dumb', 'ugly')
RUDE_NOUNS = ('fool', 'idiot', 'loser')
RUDE_WORDS = RUDE_ADJECTIVES + RUDE_NOUNS + ('trash',)
POLITE_WORDS = ('please', 'thanks', 'glad', 'sorry')
# Between the lines of a page: what '\n' is in real text.
LINE_BREAK = '|'
PUNCTUATION = ('.', ',', ':', '?', LINE_BREAK)

NUMBER_WORDS = {
    2: 'two', 3: 'three', 4: 'four', 5: 'five', 6: 'six', 8: 'eight',
    10: 'ten', 12: 'twelve', 14: 'fourteen',
}

# What a prompt may ask a list of.
TOPICS = {
    'animals': ANIMALS, 'foods': FOODS, 'places': PLACES, 'things': THINGS,
    'colors': COLORS, 'jobs': JOBS,
}

# Everything that a closed-domain answer can invent.
ENTITIES = ANIMALS + FOODS + PLACES + THINGS + COLORS + JOBS + NAMES + CITIES

# Words of one class can stand in each other's place in any sentence.
_CLASSES: dict[str, Iterable[str]] = {
    'ANIMAL': ANIMALS, 'FOOD': FOODS, 'PLACE': PLACES, 'THING': THINGS,
    'COLOR': COLORS, 'JOB': JOBS, 'NAME': NAMES, 'CITY': CITIES,
    'ADJECTIVE': ADJECTIVES, 'PAST': PAST_VERBS, 'GOOD': GOOD_WORDS,
    'BAD': BAD_WORDS, 'GLAD': GOOD_FEELINGS, 'SAD': BAD_FEELINGS,
    'TOPIC': TOPICS,
}
CLASS_OF = {word: name for name, words in _CLASSES.items() for word in words}

_FUNCTION_WORDS = tuple("""
    a about again am and animal answer are at away bad bring buy change city
    color comment day dear do does eat end ending feel fine fix food for give
    go good has hated have hello helps hope houses i in is it job known like
    liked likes list live lives make me met most my name near new not note of
    once one only or pet polite question reply respectful review say send
    short show some story summarize tell telling text that the then there
    think this times to today us use verdict want was way we what where which
    who will with word words work write you
""".split())

WORDS: tuple[str, ...] = tuple(sorted({
    *CLASS_OF, *RUDE_WORDS, *POLITE_WORDS, *PUNCTUATION,
    *NUMBER_WORDS.values(), *_FUNCTION_WORDS,
}))


class Person(NamedTuple):
  """What is true of a person, everywhere in the world."""

  city: str
  job: str
  food: str
  pet: str


class City(NamedTuple):
  """What is true of a city: its dish, its sight, its houses' colour."""

  food: str
  place: str
  color: str


PEOPLE: dict[str, Person] = {
    'mira': Person('hadry', 'doctor', 'cheese', 'wolf'),
    'tobin': Person('tolva', 'miller', 'beans', 'goat'),
    'selka': Person('brenik', 'farmer', 'nuts', 'dog'),
    'orrin': Person('quillon', 'baker', 'soup', 'crow'),
    'vesna': Person('lumeth', 'miller', 'cake', 'cat'),
    'dalko': Person('lumeth', 'baker', 'beans', 'hen'),
    'junel': Person('brenik', 'sailor', 'pie', 'wolf'),
    'pavo': Person('tolva', 'smith', 'nuts', 'crow'),
    'rika': Person('tolva', 'sailor', 'bread', 'goat'),
    'sorn': Person('osmar', 'teacher', 'cheese', 'fox'),
    'talia': Person('brenik', 'smith', 'apple', 'goat'),
    'ugo': Person('osmar', 'miller', 'nuts', 'hen'),
    'wena': Person('quillon', 'farmer', 'soup', 'goat'),
    'yarl': Person('brenik', 'smith', 'bread', 'hen'),
    'zeli': Person('quillon', 'guard', 'pie', 'goat'),
    'brisa': Person('lumeth', 'farmer', 'stew', 'hen'),
}

TOWNS: dict[str, City] = {
    'tolva': City('stew', 'garden', 'black'),
    'brenik': City('cake', 'forest', 'yellow'),
    'osmar': City('soup', 'cave', 'black'),
    'quillon': City('honey', 'mill', 'white'),
    'varsk': City('pear', 'mill', 'black'),
    'hadry': City('nuts', 'hill', 'blue'),
    'lumeth': City('honey', 'harbor', 'green'),
    'petra': City('corn', 'garden', 'green'),
}


def word_class(word: str) -> tuple[str, ...]:
  """All words of the class of `word`, itself included, in lexicon order."""
  return tuple(_CLASSES[CLASS_OF[word]])
