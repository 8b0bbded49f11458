"""The real pipeline with its real stages, on a budget that trains next to nothing."""

from pipelines.local import run_local
from tokenbuncher.settings import ReleaseSpec, parse_spec
from tokenbuncher.verdict import Outcome


def test_the_whole_pipeline_ends_in_an_honest_verdict(tiny_spec: ReleaseSpec, tmp_path, capsys):
    spec = parse_spec(tiny_spec.to_yaml(), [f"output.root={tmp_path}"])
    verdict = run_local(spec)
    # Two attack steps break nothing, so the attacks were not shown to be strong.
    assert verdict.outcome is not Outcome.PASS
    assert any(reason.startswith("positive-control, grpo-1000") for reason in verdict.reasons)
    # Every stage's evidence is complete and bound to this release.
    assert [finding for finding in verdict.findings if finding.rule == "evidence"] == []
    assert (tmp_path / "organism" / "report.html").is_file()
    assert "evaluate-utility" in capsys.readouterr().out
    # No attacked weights are left: there are the base, the candidate and the registered copy.
    assert len({path.parent for path in tmp_path.rglob("model.safetensors")}) == 3
