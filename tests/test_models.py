import json

import pytest
from safetensors.torch import load_file, save_file

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest
from tokenbuncher.inputs.fetch import fetch_model
from tokenbuncher.models.load import load_model, save_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import parse_spec


@pytest.fixture
def checkpoint(organism_base, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in organism_base.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def fetch(checkpoint, tmp_path):
    fetch_model(parse_spec("", [f"model.source={checkpoint}"]), tmp_path / "out")
    return tmp_path / "out"


def test_a_local_folder_is_taken_as_it_is(checkpoint, tmp_path):
    assert folder_digest(fetch(checkpoint, tmp_path)) == folder_digest(checkpoint)


def test_code_and_pickles_stay_behind(checkpoint, tmp_path):
    (checkpoint / "modeling_evil.py").write_text("raise SystemExit", encoding="utf-8")
    (checkpoint / "pytorch_model.bin").write_bytes(b"pickle")
    assert not {"modeling_evil.py", "pytorch_model.bin"} & {path.name for path in fetch(checkpoint, tmp_path).iterdir()}


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def lose_a_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def put_nan(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def wrong_shape(folder):
    change(folder / "config.json", intermediate_size=128)


def a_far_token(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"]["far"] = 2**32 - 1
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def no_template(folder):
    (folder / "chat_template.jinja").unlink()


def another_tokenizer(folder):
    # transformers gives this model type a byte-level tokenizer, whatever the folder holds.
    change(folder / "config.json", model_type="qwen2")


@pytest.mark.parametrize(
    ("damage", "telling"),
    [
        (truncate, "cannot be loaded"),
        (lose_a_tensor, "is incomplete"),
        (put_nan, "NaN"),
        (wrong_shape, "cannot be loaded|is incomplete"),
        (no_template, "has no chat template"),
        (another_tokenizer, "is incomplete"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no .safetensors file"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{", encoding="utf-8"), "cannot be loaded"),
        (a_far_token, "has a token with the identifier 4294967295"),
        (lambda folder: change(folder / "tokenizer_config.json", model_max_length="é"), "cannot read text"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_nothing_is_written(checkpoint, tmp_path, damage, telling):
    damage(checkpoint)
    with pytest.raises(UserError, match=telling):
        fetch(checkpoint, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def uploaded(s3, checkpoint, monkeypatch, request, tmp_path):
    """The checkpoint in a bucket, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bucket = f"models-{request.node.name}".replace("_", "-")[:63].strip("-")
    s3.create_bucket(Bucket=bucket)
    for path in checkpoint.iterdir():
        s3.upload_file(str(path), bucket, f"base/{path.name}")
    return f"s3://{bucket}/base"


def test_a_model_from_a_bucket_is_the_same_model(uploaded, checkpoint, tmp_path):
    pinned = f"{uploaded}#sha256={folder_digest(checkpoint)}"
    assert folder_digest(fetch(pinned, tmp_path)) == folder_digest(checkpoint)


def test_another_model_than_the_pinned_one_is_refused(uploaded, tmp_path):
    with pytest.raises(UserError, match="is not the folder that is expected"):
        fetch(f"{uploaded}#sha256={'0' * 64}", tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["hf://org/name", "s3://bucket", "models:/name"])
def test_a_source_that_names_no_model_is_refused_with_what_to_write(source, tmp_path):
    with pytest.raises(UserError, match=r"model.source.* write (hf://org/name@revision|s3://bucket/|models:/name/)"):
        fetch(source, tmp_path)


def test_unknown_source(tmp_path):
    with pytest.raises(UserError, match="use organism://"):
        fetch("gopher://model", tmp_path)


def test_a_saved_model_is_the_same_model(organism_base, tiny_spec, tmp_path):
    model, tokenizer = load_model(organism_base, tiny_spec.model), load_tokenizer(organism_base)
    save_model(model, tokenizer, tmp_path / "saved")
    again = load_model(tmp_path / "saved", tiny_spec.model)
    assert all(a.equal(b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    text = "how do i drain the well eta in dusk ?"
    assert load_tokenizer(tmp_path / "saved")(text)["input_ids"] == tokenizer(text)["input_ids"]
