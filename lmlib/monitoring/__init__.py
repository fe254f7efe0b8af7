"""Watching a run: its progress, speed, profile and record in MLflow.

Nothing here can change an out, so no stage of dvc.yaml depends on it: an edit retrains nothing.
(This file imports nothing, so that stages that do not need PyTorch do not load it.)
"""
