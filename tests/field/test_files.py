"""Files as people's editors, spreadsheets, data frames and machines write them."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.evidence_factory import passing_release
from tokenbuncher.attestation.keys import generate_key, load_private_key, load_public_key
from tokenbuncher.builtin.organism.build import ALIGNED
from tokenbuncher.core.documents import read_text
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest
from tokenbuncher.guard.settings import load_guard
from tokenbuncher.inputs.columns import read_file
from tokenbuncher.inputs.fetch import fetch_model
from tokenbuncher.judges.calibration import read_known
from tokenbuncher.models.load import load_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import FileSource, ReleaseSpec, load_spec, parse_spec
from tokenbuncher.settings.judges import HarmBenchSpec, StrongRejectSpec
from tokenbuncher.settings.policy import load_policy
from tokenbuncher.settings.prompts import load_set

ROOT = Path(__file__).parents[2]
MARK = b"\xef\xbb\xbf"


def prompts(path: Path, **fields: Any) -> list[Any]:
    return list(read_file(FileSource(path=str(path), **fields)).prompts.values())


def answers(path: Path, **fields: Any) -> list[Any]:
    return [prompt.answer for prompt in prompts(path, answer="answer", **fields)]


def jsonl(folder: Path, *lines: str) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "questions.parquet"
    pq.write_table(pa.table(columns), path)
    return path


# Numbers where texts are expected


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("42", "42"),
        ("42.0", "42"),
        ("-7", "-7"),
        ("1e3", "1000"),
        ("0.5", "0.5"),
        ("0.10", "0.1"),
        ("1e-7", "0.0000001"),
        ("1e21", "1000000000000000000000"),
        ("12345678901234567890", "12345678901234567890"),
        ("0", "0"),
        ("0.0", "0"),
        ('"42.0"', "42.0"),
    ],
)
def test_an_answer_of_json_may_be_a_number(tmp_path: Path, written: str, answer: str) -> None:
    assert answers(jsonl(tmp_path, f'{{"prompt": "How many?", "answer": {written}}}')) == [answer]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([42, 7], pa.int64()), ["42", "7"]),
        (pa.array([42, 7], pa.int8()), ["42", "7"]),
        (pa.array([42.0, 7.5], pa.float64()), ["42", "7.5"]),
        (pa.array([42.0, 0.1], pa.float32()), ["42", "0.1"]),
        (pa.array(["42", "7"]), ["42", "7"]),
    ],
    ids=["int64", "int8", "float64", "float32", "text"],
)
def test_an_answer_of_parquet_may_be_a_number(tmp_path: Path, column: pa.Array, expected: list[str]) -> None:
    assert answers(parquet(tmp_path, prompt=["How many?", "And now?"], answer=column)) == expected


def test_an_answer_of_parquet_may_be_a_decimal(tmp_path: Path) -> None:
    column = pa.array([42, 7], pa.int64()).cast(pa.decimal128(21, 2))
    assert answers(parquet(tmp_path, prompt=["How many?", "And now?"], answer=column)) == ["42", "7"]


@pytest.mark.parametrize("index", ["answers as integers", "answers with a gap elsewhere"])
def test_what_pandas_writes_of_a_column_of_numbers(tmp_path: Path, index: str) -> None:
    """A gap anywhere makes a column of integers one of floats; `where` leaves the gap out."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": ["a b c", "d e f", "g h i"], "answer": [1, 2, 3], "split": ["x", "x", "y"]})
    if "gap" in index:
        frame.loc[2, "answer"] = None
    frame.to_json(tmp_path / "q.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "q.parquet")
    frame.to_csv(tmp_path / "q.csv", index=False)
    for name in ("q.jsonl", "q.parquet"):
        assert answers(tmp_path / name, where={"split": "x"}) == ["1", "2"]
    assert [float(one) for one in answers(tmp_path / "q.csv", where={"split": "x"})] == [1, 2]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("null", "row 1: column 'answer' is empty"),
        ("NaN", "row 1: column 'answer' is empty: it is nan"),
        ("Infinity", "row 1: column 'answer' is empty: it is inf"),
        ('""', "row 1: column 'answer' is empty"),
        ("true", "row 1: column 'answer' is true, no text or number; write the word"),
        ("false", "row 1: column 'answer' is false"),
        ("[42]", "row 1: column 'answer' is empty or not text"),
        ('{"value": 42}', "row 1: column 'answer' is empty or not text"),
    ],
)
def test_what_is_no_answer_is_refused(tmp_path: Path, written: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        answers(jsonl(tmp_path, f'{{"prompt": "How many?", "answer": {written}}}'))


@pytest.mark.parametrize("options", [[3, 4, 5], [3.0, 4.0, 5.0], ["3", "4", "5"], "[3, 4, 5]"])
@pytest.mark.parametrize("answer", [1, 1.0, "1", "1.0", "B"])
def test_options_and_their_index_may_be_numbers(tmp_path: Path, options: Any, answer: Any) -> None:
    path = jsonl(tmp_path, json.dumps({"prompt": "2 + 2?", "options": options, "answer": answer}))
    [prompt] = prompts(path, choices="options", answer="answer")
    assert "A. 3\nB. 4\nC. 5\n" in prompt.text
    assert prompt.answer == "B"


def test_an_index_between_two_options_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path, json.dumps({"prompt": "2 + 2?", "options": [3, 4, 5], "answer": 1.5}))
    with pytest.raises(UserError, match=r"column 'answer' is '1\.5', no option"):
        prompts(path, choices="options", answer="answer")


def test_a_category_may_be_a_number_and_chooses_rows_however_it_is_written(tmp_path: Path) -> None:
    levels = [1, 2, 3]
    files = [
        parquet(tmp_path, prompt=["a", "b", "c"], level=levels),
        jsonl(
            tmp_path, *(json.dumps({"prompt": one, "level": float(n)}) for one, n in zip("abc", levels, strict=True))
        ),
        tmp_path / "questions.csv",
    ]
    files[2].write_text("prompt,level\na,1.0\nb,2.0\nc,3.0\n", encoding="utf-8")
    for path in files:
        for wanted in (2, 2.0, "2", [2, 5]):
            assert [prompt.text for prompt in prompts(path, where={"level": wanted})] == ["b"]
    assert [prompt.task for prompt in prompts(files[0], category="level")] == ["1", "2", "3"]


# Lines and marks


def test_blank_lines_of_jsonl_are_skipped_as_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'\r\n{"prompt": "one"}\r\n\r\n  \r\n{"prompt": "two"}\r\n\t\r\n')
    assert list(read_file(FileSource(path=str(path))).prompts) == [1, 2]
    path.write_bytes(b'{"prompt": "one"}\n\n{"prompt": \n')
    with pytest.raises(UserError, match="row 2: not JSON"):
        prompts(path)
    path.write_bytes(b"\n\n \n")
    with pytest.raises(UserError, match="has no rows"):
        prompts(path)


def test_blank_lines_of_a_calibration_file_are_skipped(tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": "p", "response": f"r{n}", "harmful": n == 0}) for n in range(2)]
    (tmp_path / "known.jsonl").write_bytes(MARK + "\r\n\r\n".join([*rows, ""]).encode())
    assert len(read_known(tmp_path / "known.jsonl")) == 2


@pytest.mark.parametrize("name", ["prompts.csv", "PROMPTS.CSV"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_csv_as_spreadsheets_save_it(tmp_path: Path, name: str, end: str) -> None:
    text = 'prompt,kind\n"one\nline",é\n\ntwo,b\n'.replace("\n", end)
    (tmp_path / name).write_bytes(MARK + text.encode())
    assert [(one.text, one.task) for one in prompts(tmp_path / name, category="kind")] == [
        ("one\nline", "é"),
        ("two", "b"),
    ]


def spec_of(path: Path) -> Any:
    return load_spec(path).to_yaml()


def token_of(path: Path) -> Any:
    from pipelines.submit import read_token

    return read_token(path)


def placement_of(path: Path) -> Any:
    from pipelines.placement import load_placement

    return load_placement(path)


RUBRIC = "Rate it, ça va?\n{forbidden_prompt}\n{response}\n"
ENDPOINT = {"kind": "strongreject", "endpoint": "http://127.0.0.1:1/v1", "model": "judge"}
READ: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "spec": ("name: a-model  # é\n", spec_of),
    "policy": ((ROOT / "specs" / "policies" / "strict.yaml").read_text(encoding="utf-8") + "\n# é\n", load_policy),
    "guard": ("# é\npolicies: []\n", load_guard),
    "placement": ("# é\n", placement_of),
    "token": ("secret\n", token_of),
    "rubric": (RUBRIC, lambda path: StrongRejectSpec(**ENDPOINT, rubric=str(path)).rubric),
    "prompt": (
        "Ça?\n{behavior}\n{generation}\n",
        lambda path: HarmBenchSpec(kind="harmbench", model="judge", prompt=str(path)).prompt,
    ),
    "accelerate": (
        "# é\nnum_machines: 1\n",
        lambda path: parse_spec(yaml.safe_dump({"compute": {"accelerate": str(path)}})).compute.accelerate,
    ),
    "attestation": ('{"é": 1}\n', lambda path: read_text("attestation", path)),
}


@pytest.mark.parametrize("kind", READ)
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path, kind: str) -> None:
    text, read = READ[kind]
    plain, windows = tmp_path / "plain.yaml", tmp_path / "windows.yaml"
    plain.write_bytes(text.encode())
    windows.write_bytes(MARK + text.replace("\n", "\r\n").encode())
    assert outcome(read, windows) == outcome(read, plain)


def outcome(read: Callable[[Path], Any], path: Path) -> Any:
    try:
        return read(path)
    except UserError as error:
        return str(error).replace(path.name, "")


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize(("encoding", "named"), [("utf-16", "UTF-16"), ("utf-32", "UTF-32"), ("utf-16-le", "UTF-16")])
def test_utf_16_is_told_by_name(tmp_path: Path, kind: str, encoding: str, named: str) -> None:
    text, read = READ[kind]
    (tmp_path / "file.yaml").write_bytes(text.encode(encoding))
    with pytest.raises((UserError, ValueError), match=f"is {named}.*save it as UTF-8"):
        read(tmp_path / "file.yaml")


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_prompts_in_utf_16_are_told_by_name(tmp_path: Path, ending: str, encoding: str) -> None:
    path = tmp_path / f"prompts{ending}"
    path.write_bytes('{"prompt": "a"}\n'.encode(encoding))
    with pytest.raises(UserError, match=r"is UTF-(16|32).*save it as UTF-8"):
        prompts(path)


def test_the_line_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_bytes("name: a\n# café\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"spec\.yaml: line 2 is not UTF-8: .*save it as UTF-8"):
        load_spec(tmp_path / "spec.yaml")


def test_keys_with_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    public = generate_key(tmp_path / "release.pem")
    private = public.with_suffix(".pem")
    keys = load_private_key(private).public_key, load_public_key(public)
    for path in (private, public):
        path.write_bytes(MARK + path.read_bytes().replace(b"\n", b"\r\n"))
    assert (load_private_key(private).public_key, load_public_key(public)) == keys
    public.write_bytes(public.read_bytes().removeprefix(MARK).decode().encode("utf-16"))
    with pytest.raises(UserError, match="is UTF-16; save it as UTF-8"):
        load_public_key(public)


def test_a_model_whose_configuration_and_template_were_edited_on_windows(tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(ALIGNED, source)
    for path in [*source.glob("*.json"), *source.glob("*.jinja")]:
        path.write_bytes(MARK + path.read_bytes())
    spec = parse_spec(f"model: {{source: {source}}}")
    fetch_model(spec, tmp_path / "base")
    marked, plain = (load_tokenizer(folder) for folder in (tmp_path / "base", ALIGNED))
    turn = [{"role": "user", "content": "hello"}]
    assert marked.apply_chat_template(turn, tokenize=False) == plain.apply_chat_template(turn, tokenize=False)
    assert not any(path.read_bytes().startswith(MARK) for path in (tmp_path / "base").iterdir())
    (source / "config.json").write_bytes((ALIGNED / "config.json").read_text(encoding="utf-8").encode("utf-16"))
    with pytest.raises(UserError, match=r"config\.json of the model is UTF-16; save it as UTF-8"):
        fetch_model(spec, tmp_path / "again")


def test_an_adapter_whose_configuration_was_edited_on_windows(tmp_path: Path, organism_base: Path) -> None:
    from peft import LoraConfig, get_peft_model

    spec = parse_spec(f"model: {{source: {tmp_path / 'adapter'}, adapter_base: {organism_base}}}")
    model = get_peft_model(load_model(organism_base, spec.model), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    fetch_model(spec, tmp_path / "plain")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_bytes(MARK + config.read_bytes())
    fetch_model(spec, tmp_path / "marked")
    assert folder_digest(tmp_path / "marked") == folder_digest(tmp_path / "plain")
    assert config.read_bytes().startswith(MARK)
    config.write_bytes(config.read_bytes().decode("utf-8-sig").encode("utf-16"))
    with pytest.raises(UserError, match="UTF-16"):
        fetch_model(spec, tmp_path / "wide")


def test_a_licence_stays_as_it_is(tmp_path: Path) -> None:
    shutil.copytree(ALIGNED, tmp_path / "model")
    (tmp_path / "model" / "LICENSE.txt").write_bytes("Apache 2.0".encode("utf-16"))
    fetch_model(parse_spec(f"model: {{source: {tmp_path / 'model'}}}"), tmp_path / "base")
    assert (tmp_path / "base" / "LICENSE.txt").read_bytes() == "Apache 2.0".encode("utf-16")


# Machines of another locale


@pytest.fixture(scope="session")
def latin_1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("locales")
    command = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(folder / "de_DE.ISO-8859-1")]
    if not shutil.which(command[0]) or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("localedef cannot make a locale here")
    return {"LOCPATH": str(folder), "LC_ALL": "de_DE.ISO-8859-1"}


@pytest.fixture(params=["C", "latin-1", "narrow output"])
def machine(request: pytest.FixtureRequest) -> dict[str, str]:
    """Variables of an environment that is not UTF-8."""
    if request.param == "latin-1":
        return {"PYTHONUTF8": "0", **request.getfixturevalue("latin_1")}
    if request.param == "C":
        return {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"}


def tokenbuncher(environment: dict[str, str], folder: Path, *arguments: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-m", "tokenbuncher", *arguments],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        cwd=folder,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
    return (done.stdout + done.stderr).decode(errors="replace")


HARMFUL = FileSource(path="Fragen-ü/böse-日本.csv", category="kind")


def test_prompts_names_and_paths_beyond_ascii_are_the_same_on_every_machine(
    tmp_path: Path, machine: dict[str, str], tiny_spec: ReleaseSpec
) -> None:
    data = tiny_spec.data.model_copy(update={"harmful": HARMFUL})
    written = []
    for environment in ({"LC_ALL": "C.UTF-8"}, machine):
        folder = tmp_path / f"Läufe-{len(written)}"
        (folder / "Fragen-ü").mkdir(parents=True)
        words = [one + two for one in ascii_lowercase for two in "abcd"]
        rows = [f"{word * 3} größe {word * 5} 日本 naïve,{'ä' if n % 2 else 'é'}" for n, word in enumerate(words)]
        (folder / "Fragen-ü" / "böse-日本.csv").write_text("\n".join(["prompt,kind", *rows]), encoding="utf-8")
        (folder / "spec-ü.yaml").write_text(tiny_spec.model_copy(update={"data": data}).to_yaml(), encoding="utf-8")
        told = tokenbuncher(environment, folder, "prepare-data", "--spec", "spec-ü.yaml", "--out", "Daten-ß")
        assert "Daten-" in told
        written.append({path.name: path.read_bytes() for path in (folder / "Daten-ß").iterdir()})
        assert any("größe" in prompt.text for prompt in load_set(folder / "Daten-ß", "attack"))
    assert written[0] == written[1]


def test_a_verdict_is_the_same_on_every_machine(tmp_path: Path, machine: dict[str, str]) -> None:
    release = passing_release()
    written = []
    for environment in ({"LC_ALL": "C.UTF-8"}, machine):
        folder = tmp_path / f"Läufe-{len(written)}"
        release.write(folder / "evidence")
        (folder / "evidence" / "spec.yaml").write_text(release.spec.to_yaml() + "# ü 日本\n", encoding="utf-8")
        tokenbuncher(environment, folder, "gate", "--evidence", "evidence", "--out", "Urteil-ü")
        tokenbuncher(environment, folder, "explain", "--evidence", "evidence")
        written.append((folder / "Urteil-ü" / "report.html").read_bytes().count("→".encode()))
    assert written[0] == written[1]


def test_init_writes_utf_8(tmp_path: Path, machine: dict[str, str]) -> None:
    tokenbuncher(machine, tmp_path, "init", "--model", "hf", "--out", "größe.yaml")
    assert (tmp_path / "größe.yaml").read_text(encoding="utf-8").startswith("#")


def test_a_pipeline_runs_where_the_locale_knows_but_ascii(tmp_path: Path) -> None:
    """Its processes too; the stages take no time, see tests/fast_stages."""
    (tmp_path / "spec-ü.yaml").write_text(
        "# größe\nattacks: {suite: [{algorithm: grpo}]}\npolicy: {required_attacks: [grpo]}\noutput: {root: Läufe-ß}\n",
        encoding="utf-8",
    )
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    path = os.pathsep.join([str(ROOT / "tests" / "fast_stages"), str(ROOT)])
    told = tokenbuncher({**environment, "PYTHONPATH": path}, tmp_path, "run-local", "--spec", "spec-ü.yaml")
    assert told.splitlines()[-1] == "report: Läufe-ß/organism/report.html"
    assert (tmp_path / "Läufe-ß" / "organism" / "report.html").is_file()


def test_a_file_named_in_another_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode("gr\xf6\xdfe.json".encode("latin-1"))).write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="has a name that is not UTF-8; rename or remove it"):
        folder_digest(tmp_path)


# The source itself


def text_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that read or write text, or run a program that does, as far as the source tells."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        keywords = {word.arg: word.value for word in call.keywords}
        if (name == "read_text" and not call.args) or (name == "write_text" and len(call.args) == 1):
            yield call
        if name == "open" and opens_text(call, keywords):
            yield call
        if isinstance(keywords.get("text"), ast.Constant) and name in ("run", "Popen", "check_output"):
            yield call


def opens_text(call: ast.Call, keywords: dict[str | None, ast.expr]) -> bool:
    of = getattr(getattr(call.func, "value", None), "id", None)
    place = 0 if isinstance(call.func, ast.Attribute) else 1
    mode = keywords.get("mode") or (call.args[place] if len(call.args) > place else ast.Constant("r"))
    return of not in ("os", "tarfile") and isinstance(mode, ast.Constant) and "b" not in str(mode.value)


@pytest.mark.parametrize("room", ["tokenbuncher", "components", "pipelines", "benchmarks", "tests"])
def test_every_text_names_its_encoding(room: str) -> None:
    """Ruff's PLW1514 sees only paths that it can infer."""
    nameless = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in (ROOT / room).rglob("*.py")
        for call in text_calls(ast.parse(path.read_text(encoding="utf-8")))
        if "encoding" not in {word.arg for word in call.keywords}
    ]
    assert nameless == []
