"""How good a model is: its scores on a text, and how new its samples are."""

from lmlib.evaluation.names import NamesKept, names_kept
from lmlib.evaluation.novelty import CopiedSpan, copied_spans, distinct_n
from lmlib.evaluation.samples import (
    Comparison,
    compare_with_training,
    continuation_ids,
    copying,
    first_documents,
    quoted,
)
from lmlib.evaluation.scoring import (
    Evaluation,
    EvaluationParams,
    LanguageModel,
    evaluate,
    position_curve,
)

__all__ = [
    "Comparison",
    "CopiedSpan",
    "Evaluation",
    "EvaluationParams",
    "LanguageModel",
    "NamesKept",
    "compare_with_training",
    "continuation_ids",
    "copied_spans",
    "copying",
    "distinct_n",
    "evaluate",
    "first_documents",
    "names_kept",
    "position_curve",
    "quoted",
]
