"""The trained model as MLflow serves it: texts in, their continuations out.

MLflow copies this file into the registered model ("models from code"), together with lmlib, and
runs it both when it stores the model and when it loads it.
"""

from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class TextGenerator(PythonModel):
    """`predict(["Once upon a time"])` returns one continuation for each prompt.

    The `model_config` stored with the model says how to sample: the section `sampling` of
    params.yaml. Change it on loading: `load_model(uri, model_config={"temperature": 0.0})`.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load model and tokenizer from the artifacts of the registered model."""
        # here, not above: storing the model needs none of these, and torch takes 3 s to import
        from lmlib.checkpoint import load_model
        from lmlib.params import from_dict
        from lmlib.sampling import SamplingParams
        from lmlib.tokenizer import Tokenizer

        config: dict[str, Any] = {"prompts": (), **(context.model_config or {})}
        config["num_samples"] = 1  # the first sample is the same
        self.sampling = from_dict(SamplingParams, config, where="model_config")
        self.model = load_model(context.artifacts["model"], device="cpu")
        self.tokenizer = Tokenizer.load(context.artifacts["tokenizer"])

    def predict(  # type: ignore[override]  # the base class is annotated as returning None
        self,
        context: PythonModelContext,
        model_input: list[str],
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """Return the text that continues each prompt, without the prompt, up to its end."""
        from lmlib.sampling import generate_text

        texts = generate_text(self.model, self.tokenizer, model_input, self.sampling)
        return [of_prompt[0] for of_prompt in texts]


set_model(TextGenerator())
