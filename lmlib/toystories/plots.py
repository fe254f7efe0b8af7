"""All story schemas; a story takes each with equal chance."""

from lmlib.toystories.plots_animals import ANIMAL_PLOTS
from lmlib.toystories.plots_home import HOME_PLOTS
from lmlib.toystories.plots_outdoors import OUTDOOR_PLOTS
from lmlib.toystories.plots_people import PEOPLE_PLOTS
from lmlib.toystories.plots_short import SHORT_PLOTS
from lmlib.toystories.plots_wonder import WONDER_PLOTS

PLOTS = HOME_PLOTS + OUTDOOR_PLOTS + PEOPLE_PLOTS + SHORT_PLOTS + WONDER_PLOTS + ANIMAL_PLOTS
