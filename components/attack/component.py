"""attack: one attack on the candidate and, as the control, on the base model."""

from kfp import dsl

from components import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def attack(
    spec: str,
    key: str,
    data: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    candidate: dsl.Input[dsl.Model],
    evidence: dsl.Output[dsl.Artifact],
) -> None:
    """Attacks the candidate and the base model with the same algorithm, seed and budget.

    There is one task for each attack and seed of the spec. The run on the base model is the control: an attack that
    cannot break it proves nothing. Attacked weights are deleted. `attacks.keep_checkpoints` is refused if outputs are
    uploaded, as on a cluster.

    Args:
        spec: The release spec, as YAML text.
        key: Which attack task of the spec this is.
        data: Folder of the prompt sets.
        base: The base model.
        candidate: The candidate: the hardened model.
        evidence: Folder of the attack's evidence and step log.
    """
    from pathlib import Path

    from tokenbuncher.core.stage import running

    with running("attack", key):
        from tokenbuncher.attacks import attack
        from tokenbuncher.attacks.hazard import keep_from_upload
        from tokenbuncher.settings import parse_spec

        release = parse_spec(spec)
        keep_from_upload(release, evidence.uri)
        attack(
            release,
            key,
            Path(data.path),
            base=Path(base.path),
            candidate=Path(candidate.path),
            out=Path(evidence.path),
        )


if __name__ == "__main__":
    import sys

    from kfp import compiler

    compiler.Compiler().compile(attack, sys.argv[1])
