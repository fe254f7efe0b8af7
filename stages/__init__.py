"""The stages of the pipeline: thin scripts around lmlib, run as `python -m stages.NAME`.

stages of dvc.yaml   download, train_tokenizer, encode, train, evaluate, export
run by hand          sample, serve, score, harness, plan, study, import_hf, sync_tracking
run by make          install, compile_kernels, dvc_utf8, repro, report, ui, vega, verify
pages and pictures   parameters, pipeline_picture
helpers              artefacts, cli, cluster, cores, curves, fingerprint, parent, paths, pictures,
                     stage_run, streams, trained, uncaught, watching, windows
"""

import sys

from stages.cores import share_cores
from stages.parent import terminate_with_parent
from stages.streams import secure_streams
from stages.uncaught import explain

if sys.argv[0] == "-m":  # Python is about to run one of the modules
    secure_streams()
    terminate_with_parent()
sys.excepthook = explain
share_cores()  # here, because it must come before any stage imports PyTorch
