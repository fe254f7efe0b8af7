"""A plugin for pytest: Hypothesis takes the same examples each time, and shrinks none of them.

To find a bug is enough here; to find its smallest example takes minutes.
"""

from hypothesis import Phase, settings

settings.register_profile(
    "planted", derandomize=True, database=None, phases=(Phase.explicit, Phase.generate)
)
settings.load_profile("planted")
