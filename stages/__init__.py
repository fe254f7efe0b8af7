"""The stages of the pipeline: thin scripts around lmlib, run as `python -m stages.NAME`."""
