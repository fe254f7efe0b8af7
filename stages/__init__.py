"""The stages of the pipeline: thin scripts around lmlib, run as `python -m stages.NAME`.

stages of dvc.yaml   download, train_tokenizer, encode, train, evaluate, export
run by hand          sample, score, report, study, ui, sync_tracking, import_hf, vega
run by make          install, repro, dvc_utf8
helpers              cli, cores, fingerprint, paths, stage_run, trained, uncaught
"""

import sys

from stages.cores import share_cores
from stages.uncaught import explain

sys.excepthook = explain
share_cores()  # here, because it must come before any stage imports PyTorch
