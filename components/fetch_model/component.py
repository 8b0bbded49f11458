"""fetch-model: the base model, in a local folder."""

from kfp import dsl

from components import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def fetch_model(spec: str, model: dsl.Output[dsl.Model]) -> None:
    """Fetches the base model and checks that it loads.

    Code in a checkpoint is never run.

    Args:
        spec: The release spec, as YAML text.
        model: The model folder: configuration, safetensors weights, tokenizer.
    """
    from pathlib import Path

    from tokenbuncher.core.stage import running

    with running("fetch-model"):
        from tokenbuncher.inputs.fetch import fetch_model
        from tokenbuncher.settings import parse_spec

        fetch_model(parse_spec(spec), Path(model.path))


if __name__ == "__main__":
    import sys

    from kfp import compiler

    compiler.Compiler().compile(fetch_model, sys.argv[1])
