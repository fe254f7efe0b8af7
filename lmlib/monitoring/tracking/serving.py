"""The trained model as MLflow serves it: a column of prompts in, their continuations out.

    mlflow models serve -m models:/lm@best --env-manager local

MLflow copies this file into the registered model ("models from code"), together with lmlib, and
runs it both when it stores the model and when it loads it.
"""

from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from pandas import DataFrame

# What a call may change. Their default is None: what the model was loaded with.
PARAMS = {
    "max_tokens": "long",
    "temperature": "double",
    "top_k": "long",
    "top_p": "double",
    "min_p": "double",
    "repetition_penalty": "double",
    "seed": "long",
}
# Written out, because MLflow infers no params from type hints.
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string")]),
    outputs=Schema([ColSpec("string")]),
    params=ParamSchema([ParamSpec(name, kind, None) for name, kind in PARAMS.items()]),
)


class TextGenerator(PythonModel):
    """`predict(["Once upon a time"])` returns one continuation for each prompt.

    The `model_config` stored with the model says how to sample: the section `sampling` of
    params.yaml. Change it on loading, `load_model(uri, model_config={"temperature": 0.0})`, or for
    one call: `predict(prompts, params={"temperature": 0.0})`.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load model and tokenizer from the artifacts of the registered model."""
        # here, not above: storing the model needs none of these, and torch takes 3 s to import
        from lmlib.checkpoint import load_model
        from lmlib.params import from_dict
        from lmlib.sampling import SamplingParams
        from lmlib.tokenizer import Tokenizer

        config: dict[str, Any] = {"prompts": (), **(context.model_config or {})}
        self.config = config | {"num_samples": 1}  # the first sample is the same
        from_dict(SamplingParams, self.config, where="model_config")
        self.model = load_model(context.artifacts["model"], device="cpu")
        self.tokenizer = Tokenizer.load(context.artifacts["tokenizer"])

    def predict(  # type: ignore[override]  # the base class is annotated as returning None
        self,
        context: PythonModelContext,
        model_input: DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """Return the text that continues each prompt, without the prompt, up to its end.

        model_input:  a column of prompts, which MLflow makes of a list, too
        params:       some of PARAMS; None for what the model was loaded with

        Raises MlflowException, which a server answers with status 400, for a param out of range.
        """
        from lmlib.params import from_dict
        from lmlib.sampling import SamplingParams, generate_text

        prompts = model_input.iloc[:, 0].tolist()
        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            sampling = from_dict(SamplingParams, self.config | given, where="params")
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        texts = generate_text(self.model, self.tokenizer, prompts, sampling)
        return [of_prompt[0] for of_prompt in texts]


set_model(TextGenerator())
