"""The stages of the pipeline: thin scripts around lmlib, run as `python -m stages.NAME`."""

from stages.cores import share_cores

share_cores()  # here, because it must come before any stage imports PyTorch
