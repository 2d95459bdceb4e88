"""Hyperparameters of methods and probes on the nano family: models of 1 M parameters."""

from collections.abc import Mapping

#: Of the GPT-2 shape. Chosen on facts of nano's retain authors (models/README.md), where the
#: published values, made for models a thousand times larger, do nothing.
METHOD_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "grad-ascent": {"learning_rate": 2e-4},
    "grad-diff": {"learning_rate": 4e-4},
    "kl-min": {"learning_rate": 4e-4},
    "npo": {"learning_rate": 3e-4},
    "simnpo": {"learning_rate": 2e-3},
    "idk": {"learning_rate": 6e-4},
    "dpo": {"learning_rate": 3e-4},
    "altpo": {"learning_rate": 6e-4},
    "rmu": {"learning_rate": 1e-2},
    "undial": {"learning_rate": 5e-4},
    "wga": {"learning_rate": 2e-3},
    "satimp": {"learning_rate": 4e-3},
    "ce-u": {"learning_rate": 1.5e-4},
    "pdu": {"learning_rate": 1e-3},
    "task-vector": {"learning_rate": 2e-3},
    "rome": {"clamp": 4.0, "contexts": 6},
    "memit": {"cov_weight": 200.0},
    "alphaedit": {"l2": 10.0},
    "grace": {"layer": 1},
}

#: Of the Llama shape. Chosen by forgetting two of nano-wmdp's general subjects (models/README.md).
LLAMA_METHOD_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "grad-ascent": {"learning_rate": 6e-4},
    "grad-diff": {"learning_rate": 2e-3},
    "kl-min": {"learning_rate": 2e-3},
    "npo": {"learning_rate": 1.7e-3},
    "simnpo": {"learning_rate": 3e-3},
    "idk": {"learning_rate": 3e-3},
    "dpo": {"learning_rate": 3e-3},
    "altpo": {"learning_rate": 2e-3},
    "rmu": {"learning_rate": 2e-2},
    "undial": {"learning_rate": 2.5e-3},
    "wga": {"learning_rate": 4e-3},
    "satimp": {"learning_rate": 3e-3},
    "ce-u": {"learning_rate": 1e-3},
    "pdu": {"learning_rate": 2e-3},
    "task-vector": {"learning_rate": 4e-3},
    "rome": {"clamp": 0.3, "contexts": 6},
    "memit": {"cov_weight": 600.0},
    "alphaedit": {"l2": 100.0},
    "ft-l": {"norm_constraint": 1e-2},
}


def _fine_tuning(learning_rate: float) -> Mapping[str, Mapping[str, object]]:
    """Both probes that fine-tune are the same attacker: one rate, and steps of few rows."""
    settings = {"learning_rate": learning_rate, "batch_size": 4}
    return {"relearn": settings, "benign-finetune": settings}


#: Of the GPT-2 shape. By what the model before unlearning keeps of its retain authors when it is
#: taught authors that no model saw (models/README.md).
PROBE_DEFAULTS = _fine_tuning(3e-4)

#: Of the Llama shape. By what the model before unlearning keeps of the general subjects when it is
#: taught facts of another world (models/README.md).
LLAMA_PROBE_DEFAULTS = _fine_tuning(1e-3)
