"""The process environment that every stage runs in."""

import os


def quiet_libraries() -> None:
    """One thread, no hub, no telemetry, no noise; to be called before torch and transformers are imported.

    Several threads on a busy machine make small models many times slower; OMP_NUM_THREADS overrules.
    """
    os.environ.update(
        {
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "TQDM_DISABLE": "1",
            "TRL_EXPERIMENTAL_SILENCE": "1",
            "DISABLE_MLFLOW_INTEGRATION": "TRUE",
            "TOKENIZERS_PARALLELISM": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
    )
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # hf:// sources need it to be 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
