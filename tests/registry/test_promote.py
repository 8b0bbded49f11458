"""Promotion: only a PASS that holds moves the alias."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.evidence_factory import CANDIDATE, Release, broken_arm, changed, release_spec
from tests.registry.conftest import Registered
from tokenbuncher.attestation import FILE_NAME, REFUSED_TAG, TAG, generate_key, load_private_key
from tokenbuncher.core.errors import UserError
from tokenbuncher.evidence import AttackEvidence
from tokenbuncher.registry import Refused, verify_version
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict import Outcome, read_verdict

Enter = Callable[..., Registered]


def broken(release: Release) -> Release:
    return release.with_piece("grpo-1000", candidate_arm=broken_arm(release.spec, model=CANDIDATE))


def incomplete(release: Release) -> Release:
    return release.with_evidence([piece for piece in release.evidence if not isinstance(piece, AttackEvidence)])


def assert_refused(registered: Registered, outcome: Outcome, says: str, champion: str | None = None) -> None:
    with pytest.raises(Refused, match=says) as refused:
        registered.promote()
    assert refused.value.outcome is outcome
    assert registered.champion == champion
    assert registered.version.tags["tokenbuncher.status"] == "refused"
    assert registered.version.tags["tokenbuncher.verdict"] == outcome


def test_pass_moves_the_alias(enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    registered.promote()

    assert registered.champion == registered.release.registration.version
    tags = registered.version.tags
    assert (tags["tokenbuncher.verdict"], tags["tokenbuncher.status"]) == ("PASS", "promoted")
    judged = read_verdict(registered.verdict)
    assert (tags["tokenbuncher.base"], tags["tokenbuncher.data"]) == (judged.base, judged.data)


def test_verdict_and_report_are_kept_with_the_version(reported: Enter, spec: ReleaseSpec) -> None:
    registered = reported(spec)
    registered.promote()

    kept = registered.artifacts()
    assert kept["verdict.json"] == (registered.verdict / "verdict.json").read_bytes()
    assert kept["report.html"] == (registered.verdict / "report.html").read_bytes()


def test_files_may_be_given_instead_of_folders(reported: Enter, spec: ReleaseSpec) -> None:
    registered = reported(spec)
    registered.evidence = [stage / "evidence.json" for stage in registered.evidence]
    registered.registration /= "registration.json"
    registered.verdict /= "verdict.json"
    registered.promote()

    assert registered.champion == "1"
    assert "report.html" in registered.artifacts()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda release: release, "would move champion from no version to version 1 of "),
        (broken, "BLOCK: champion would not be moved to "),
        (incomplete, "INCONCLUSIVE: champion would not be moved to "),
    ],
    ids=["pass", "block", "inconclusive"],
)
def test_a_dry_run_comes_to_the_same_and_writes_nothing(
    enter: Enter, spec: ReleaseSpec, spoil: Callable, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    registered = enter(spec, spoil)
    before = registered.version, registered.artifacts()

    def outcome(**options: bool) -> Outcome:
        try:
            registered.promote(**options)
        except Refused as refused:
            print(refused)
            return refused.outcome
        return Outcome.PASS

    dry = outcome(dry_run=True)
    assert says in capsys.readouterr().out
    assert registered.champion is None
    assert (registered.version.tags, registered.version.description) == (before[0].tags, before[0].description)
    assert registered.artifacts() == before[1]
    assert outcome() is dry


def test_next_release_takes_the_alias_over(enter: Enter, spec: ReleaseSpec) -> None:
    enter(spec).promote()
    second = enter(spec)
    second.promote()

    assert second.champion == "2"


@pytest.mark.parametrize(
    ("spoil", "outcome"), [(broken, Outcome.BLOCK), (incomplete, Outcome.INCONCLUSIVE)], ids=["block", "inconclusive"]
)
def test_without_pass_the_alias_stays(enter: Enter, spec: ReleaseSpec, spoil: Callable, outcome: Outcome) -> None:
    enter(spec).promote()
    second = enter(spec, spoil)

    assert_refused(second, outcome, "champion was not moved to .* version 2", champion="1")
    assert second.artifacts()["verdict.json"] == (second.verdict / "verdict.json").read_bytes()


def test_forged_pass_is_refused(enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec, broken)
    findings = [f.model_copy(update={"outcome": Outcome.PASS}) for f in read_verdict(registered.verdict).findings]
    forged = changed(read_verdict(registered.verdict), outcome=Outcome.PASS, reasons=[], findings=findings)
    (registered.verdict / "verdict.json").write_text(forged.model_dump_json(), encoding="utf-8")

    assert_refused(registered, Outcome.BLOCK, "not the verdict on this release")
    assert "verdict.json" not in registered.artifacts()


@pytest.mark.parametrize("text", ["", "{}", '{"outcome": "PASS"}'], ids=["empty", "no-field", "bare-pass"])
def test_unreadable_verdict_is_refused(enter: Enter, spec: ReleaseSpec, text: str) -> None:
    registered = enter(spec)
    (registered.verdict / "verdict.json").write_text(text, encoding="utf-8")

    assert_refused(registered, Outcome.INCONCLUSIVE, "run gate")


def test_missing_verdict_is_refused(enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    (registered.verdict / "verdict.json").unlink()

    assert_refused(registered, Outcome.INCONCLUSIVE, "cannot be read")


def test_verdict_on_another_version_is_refused(enter: Enter, spec: ReleaseSpec) -> None:
    first, second = enter(spec), enter(spec)
    second.verdict = first.verdict

    assert_refused(second, Outcome.INCONCLUSIVE, "differs in version")


def test_verdict_by_another_policy_is_refused(enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    laxer = registered.release.with_policy(max_harm_after_attack=0.5).spec

    with pytest.raises(Refused, match="differs in policy"):
        registered.promote(laxer)
    assert registered.champion is None


def test_evidence_changed_after_the_verdict_is_refused(enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    registered.evidence[0].joinpath("evidence.json").write_text("{", encoding="utf-8")

    assert_refused(registered, Outcome.INCONCLUSIVE, "not the verdict on this release")


def test_left_out_evidence_is_refused(enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    registered.evidence.pop()

    assert_refused(registered, Outcome.INCONCLUSIVE, "not the verdict on this release")


def test_changed_registered_file_is_refused(enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    run = registered.version.run_id
    weights = spec.output.root / "mlartifacts" / run / "artifacts" / "model" / "model.safetensors"
    weights.write_bytes(b"other weights")

    assert_refused(registered, Outcome.INCONCLUSIVE, "they were changed")


def test_added_registered_file_is_refused(enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    run = registered.version.run_id
    (spec.output.root / "mlartifacts" / run / "artifacts" / "model" / "modeling.py").write_text("", encoding="utf-8")

    assert_refused(registered, Outcome.INCONCLUSIVE, "they were changed")


def test_registration_with_another_registry_is_an_error(enter: Enter, spec: ReleaseSpec, tmp_path: Path) -> None:
    registered = enter(spec)
    elsewhere = release_spec(tracking={"model_name": spec.tracking.model_name}, output={"root": str(tmp_path)})

    with pytest.raises(UserError, match="promote with the spec it was registered with"):
        registered.promote(elsewhere)
    assert registered.champion is None


def test_impossible_alias_is_an_error_and_not_marked_promoted(enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    tracking = spec.tracking.model_copy(update={"alias": "not an alias!"})

    with pytest.raises(UserError, match="not an alias!"):
        registered.promote(spec.model_copy(update={"tracking": tracking}))
    assert registered.version.tags["tokenbuncher.status"] == "pending"


@pytest.mark.parametrize("spoil", [broken, incomplete], ids=["block", "inconclusive"])
@pytest.mark.parametrize("signs", [True, False], ids=["signed", "unsigned"])
def test_a_refusal_ends_the_older_pass_of_a_version(
    enter: Enter, judge_again: Enter, spec: ReleaseSpec, spoil: Callable, signs: bool, tmp_path: Path
) -> None:
    generate_key(tmp_path / "key.pem")
    key = load_private_key(tmp_path / "key.pem")
    passed = enter(spec, signer=key)
    passed.promote()
    attestation = passed.version.tags[TAG]
    refused = judge_again(passed, spoil, key if signs else None)
    outcome = read_verdict(refused.verdict).outcome

    assert_refused(refused, outcome, "It still has champion: go back with `tokenbuncher rollback`", champion="1")
    tags = refused.version.tags
    assert tags[REFUSED_TAG] == read_verdict(refused.verdict).created.isoformat()
    assert tags.get(TAG) == ((refused.verdict / FILE_NAME).read_text(encoding="utf-8") if signs else None)

    with pytest.raises(Refused, match="has refused the version; run gate again"):
        passed.promote()
    assert passed.version.tags.get(TAG) != attestation
    with pytest.raises(Refused, match="would not be moved"):
        passed.promote(dry_run=True)

    passed.client.set_model_version_tag(spec.tracking.model_name, "1", TAG, attestation)  # as any client can
    _, problems = verify_version(f"models:/{spec.tracking.model_name}/1", [key.public_key], spec.tracking_uri())
    assert len(problems) == 1
    assert "refused the version, or it was renamed; what was signed before counts no longer" in problems[0]

    judge_again(passed, lambda release: release, key).promote()
    assert passed.version.tags["tokenbuncher.status"] == "promoted"
    assert verify_version(f"models:/{spec.tracking.model_name}/1", [key.public_key], spec.tracking_uri())[1] == []


def test_an_older_refusal_does_not_bring_the_record_back(
    enter: Enter, judge_again: Enter, spec: ReleaseSpec, tmp_path: Path
) -> None:
    registered = enter(spec)
    earlier, later = judge_again(registered, broken), judge_again(registered, broken)
    for refused in (later, earlier):
        with pytest.raises(Refused):
            refused.promote()
    assert registered.version.tags[REFUSED_TAG] == read_verdict(later.verdict).created.isoformat()


def test_evidence_that_is_missing_here_and_now_refuses_nothing_for_good(enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    registered.promote()
    left_out = registered.evidence.pop()
    assert_refused(registered, Outcome.INCONCLUSIVE, "not the verdict on this release", champion="1")
    assert REFUSED_TAG not in registered.version.tags
    registered.evidence.append(left_out)
    registered.promote()
    assert registered.version.tags["tokenbuncher.status"] == "promoted"


@pytest.mark.parametrize("record", ["never", "", "2026-11-29T12:00:00"])
def test_a_record_that_cannot_be_read_refuses(record: str, enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    registered.client.set_model_version_tag(spec.tracking.model_name, "1", REFUSED_TAG, record)
    assert_refused(registered, Outcome.INCONCLUSIVE, "has refused the version")


def test_over_http(enter: Enter, mlflow_server: str) -> None:
    spec = release_spec(tracking={"uri": mlflow_server, "model_name": "promoted-over-http"})
    enter(spec).promote()
    blocked = enter(spec, broken)

    assert_refused(blocked, Outcome.BLOCK, "was not moved", champion="1")
    assert "verdict.json" in blocked.artifacts()


@pytest.mark.parametrize("spoil", [lambda release: release, broken], ids=["pass", "block"])
def test_card_is_kept_and_describes_the_version(reported: Enter, spec: ReleaseSpec, spoil: Callable) -> None:
    registered = reported(spec, spoil)
    with suppress(Refused):
        registered.promote()

    description = registered.version.description
    assert registered.artifacts()["card.md"] == (registered.verdict / "card.md").read_bytes()
    assert f"\n**{read_verdict(registered.verdict).outcome}**: " in description
    assert "\n### Limits\n" in description
    assert description.endswith("\n\nMore in card.md, among the artifacts of the run.\n")
    assert len(description) <= 5_000


def test_a_forged_card_does_not_describe_the_version(reported: Enter, spec: ReleaseSpec) -> None:
    registered = reported(spec)
    (registered.verdict / "card.md").write_text("It cannot be broken.", encoding="utf-8")
    registered.promote()

    assert "cannot be broken" not in registered.version.description
